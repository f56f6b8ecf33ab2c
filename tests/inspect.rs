//! The inspector, as an administrator has it: the example's program over segments in all states
#![allow(missing_docs, clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)]
#![allow(clippy::unwrap_used, clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block)]

#[macro_use]
mod common;
#[path = "hostile/words.rs"]
mod words;
#[path = "inspect/cleaning.rs"]
mod cleaning;
#[path = "inspect/stage.rs"]
mod stage;

use common::arena::{Allocator, Random};
use common::{Child, TestName};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, mkfifo};
use serde_json::Value;
use shmem_bind::inspect::{Snapshot, Verdict};
use shmem_bind::{Builder, Bump, ReservePolicy, ShmemBox, ShmemError, Slab, Tlsf};
use stage::{Held, SIZE, Said, bytes, holder, inspect, open, program, put, state};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
#[ignore = "the entry point of child processes"]
fn child() {
    common::run_child(&[("hold", stage::hold), ("churn", stage::churn), ("reborn", stage::reborn)]);
}

with_each_allocator! {
    all_is_told,
    the_map_is_to_scale,
    what_the_dead_hold_is_told_and_given_back,
    what_changes_all_the_time_is_not_called_damaged,
    damaged_words_are_answered,
}

/// A file that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &TestName, what: &str) -> Self {
        Self(std::env::temp_dir().join(format!("{}-{what}", &**name)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn all_is_told<A: Allocator>() {
    let name = TestName::new("told");
    let arena = open::<A>(&name, "");
    let held = Held::hold(&arena);
    let child = holder::<A>(&name, "");
    ShmemBox::leak(arena.alloc([0_u32; 5]).unwrap());
    let before = bytes(&name);
    let report = inspect(&[&name, "--json"]).ends(0).json();
    let text = inspect(&[&format!("/{}", &*name)]).ends(0);
    assert!(bytes(&name) == before, "it has written");

    assert_eq!((state(&report), &report["phase"]), ("sound", &Value::from("live")));
    assert_eq!(report["name"], *name);
    assert_eq!(report["file"]["length"], SIZE + 4096);
    assert_eq!(report["file"]["mode"], "0600");
    assert_eq!(report["file"]["named"], true);
    assert_eq!(report["header"]["id"], arena.conf().segment_id().to_string());
    assert_eq!(report["header"]["unlink_policy"], "owner drop");
    assert_eq!(report["payload"]["sort"], "arena");
    assert_eq!(report["owner"]["pid"], std::process::id());
    let attachments = report["attachments"].as_array().unwrap();
    let pids: Vec<_> = attachments.iter().map(|one| one["pid"].as_u64().unwrap() as u32).collect();
    assert_eq!(pids, [std::process::id(), child.pid()]);
    let command = fs::read_to_string("/proc/self/comm").unwrap();
    for attachment in attachments {
        assert_eq!(attachment["life"], "alive");
        assert_eq!(attachment["objects"], 2);
        // One with a name, one without.
        assert_eq!(attachment["references"], 2);
        assert_eq!(attachment["owner"], attachment["slot"] == 0);
    }
    // This is a thread's name of the test, or the program's.
    assert!(attachments[0]["command"].is_string() && !command.is_empty());

    let inside = &report["arena"];
    let usage = arena.usage().unwrap();
    assert_eq!(inside["usage"]["used"], usage.used);
    assert_eq!(inside["usage"]["largest_free"], usage.largest_free);
    assert_eq!(inside["complete"], true);
    let sums: BTreeMap<(String, Option<u64>), u64> = inside["sums"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sum| {
            (
                (sum["kind"].as_str().unwrap().to_owned(), sum["slot"].as_u64()),
                sum["blocks"].as_u64().unwrap(),
            )
        })
        .collect();
    for (kind, slot, blocks) in
        [("exclusive", Some(0), 2), ("exclusive", Some(1), 2), ("leaked", None, 1), ("shared", None, 4)]
    {
        assert_eq!(sums.get(&(kind.to_owned(), slot)), Some(&blocks), "{kind}: {sums:?}");
    }
    let names = inside["names"].as_array().unwrap();
    let [motd, shared] = &names[..] else { panic!("{names:?}") };
    assert_eq!((&motd["name"], &motd["pinned"], &motd["size"]), (&"motd".into(), &true.into(), &12.into()));
    assert_eq!(shared["name"], "shared <&> \"\u{1b}[31m");
    assert_eq!(shared["holders"], Value::from(vec![0, 1]));
    assert_eq!(shared["size"], 8);

    assert!(!text.out.contains('\u{1b}'), "a name does something to the terminal");
    text.says(&[
        &format!("segment {:?}: sound\n", &*name),
        &format!("payload of {SIZE} bytes: an arena of "),
        &format!("slot  1: process {} ", child.pid()),
        "alive, owner, 2 objects (",
        "\"motd\": 12 bytes, aligned to 1, version 0,",
        ", held by nobody, for ever\n",
        ", held by slots 0, 1\n",
    ]);
    // In the list it has a line.
    let list = inspect(&[]);
    let line = format!("{:?}: {SIZE} bytes, an arena of {}, 2 attached, sound", &*name, A::ID);
    assert!(list.out.lines().any(|one| one == line), "{list:?}");
    child.finish();
    drop(held);
}

fn the_map_is_to_scale<A: Allocator>() {
    let name = TestName::new("map");
    let arena = open::<A>(&name, "");
    let _held = Held::hold(&arena);
    let many: Vec<_> = (0..200).map(|len| arena.alloc_slice(len, 1_u8).unwrap()).collect();
    let file = Scratch::new(&name, "map.svg");
    inspect(&[&name, "--svg", file.0.to_str().unwrap()]).ends(0).says(&["sound"]);
    let svg = fs::read_to_string(&file.0).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "svg");
    let of_name = |name| root.descendants().filter(move |node| node.tag_name().name() == name);
    let title = of_name("title").next().unwrap().text().unwrap();
    assert!(title.contains(&*name) && title.contains("65536 bytes") && title.contains(" UTC"), "{title}");
    let number = |node: &roxmltree::Node, what| node.attribute(what).unwrap().parse::<u64>().unwrap();
    // Those with a word of what they are make up the map: a cell is 8 pixels wide, and 16 bytes.
    let parts: Vec<_> = of_name("rect").filter(|part| part.has_children()).collect();
    let width: u64 = parts.iter().map(|part| number(part, "width")).sum();
    let heap = inspect(&[&name, "--json"]).json()["arena"]["heap_length"].as_u64().unwrap();
    assert_eq!(width / 8, heap.div_ceil(16));
    let right = number(&root, "width");
    assert!(parts.iter().all(|part| number(part, "x") + number(part, "width") <= right));
    // What the legend counts is what there is, to the byte.
    let legend: Vec<_> = of_name("text").filter_map(|line| line.text()).collect();
    let own = format!("slot 0's own (process {}, ", std::process::id());
    let line = legend.iter().find(|line| line.starts_with(&own)).unwrap_or_else(|| panic!("{legend:?}"));
    assert!(line.ends_with(&format!(" in {} pieces", many.len() + 2)), "{line}");
    assert!(legend.iter().any(|line| line.starts_with("shared: ")), "{legend:?}");
    let drawn = parts.iter().filter(|part| {
        part.children().filter_map(|tip| tip.text()).any(|tip| tip.starts_with("slot 0's own"))
    });
    let pixels: u64 = drawn.map(|part| number(part, "width")).sum();
    let bytes: u64 = line.split(": ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    // Blocks begin and end in the middle of a cell.
    assert!((pixels / 8 * 16).abs_diff(bytes) <= 16 * (many.len() as u64 + 2), "{pixels} {bytes}");
}

fn what_the_dead_hold_is_told_and_given_back<A: Allocator>() {
    let name = TestName::new("dead");
    let arena = open::<A>(&name, "");
    drop(Held::hold(&arena));
    let used = arena.usage().unwrap().used;
    let mut child = holder::<A>(&name, "");
    child.kill();
    let report = inspect(&[&name, "--json"]).ends(0).json();
    let dead = &report["attachments"][1];
    assert_eq!((&dead["life"], &dead["pid"]), (&"dead".into(), &child.pid().into()));
    assert!(dead["command"].is_null());
    let estate = &report["estate"];
    // Both boxes, and the object that only it had; it held the named one, too.
    assert_eq!(
        [&estate["attachments"], &estate["objects"], &estate["references"]].map(|number| number.as_u64()),
        [Some(1), Some(3), Some(1)]
    );
    let before = bytes(&name);
    let words =
        format!("3 objects ({} bytes), 1 reference and 0 locks of 1 dead attachment", estate["bytes"]);
    let plan = [&*format!("slot 1, of process {}, dead\n", child.pid()), &words, "the name stays\n"];
    inspect(&[&name, "--sweep"]).ends(0).says(&plan).says(&["nothing is done: there is no terminal"]);
    assert!(bytes(&name) == before, "it has written");
    inspect(&[&name, "--sweep", "--yes"]).ends(0).says(&plan).says(&[&format!("given back: {words}\n")]);
    assert_eq!(arena.usage().unwrap().used, used);
    inspect(&[&name, "--sweep", "--yes"]).ends(0).says(&["nothing is done: nobody who is attached is dead"]);
    let report = inspect(&[&name, "--json"]).ends(0).json();
    assert_eq!(report["attachments"].as_array().unwrap().len(), 1);
    assert_eq!(report["arena"]["reclaimed"]["objects"], 3);
    arena.check().unwrap();
}

fn what_changes_all_the_time_is_not_called_damaged<A: Allocator>() {
    let name = TestName::new("churn");
    // Where holes are not used, one alone makes the segment anew each time when it is full.
    let (first, children) = if A::HOLES_ARE_USED { (Some(open::<A>(&name, "")), 2) } else { (None, 1) };
    let mut children: Vec<_> = (0..children)
        .map(|_| {
            let child = Child::spawn("churn", &[&name, A::NAME, ""]);
            child.expect("churns");
            child
        })
        .collect();
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..12 {
        let said = inspect(&[&name, "--json"]);
        let state = if said.code == 3 { "gone".to_owned() } else { state(&said.ends(0).json()).to_owned() };
        *seen.entry(state).or_default() += 1;
    }
    let (mut looks, mut gone) = (0, 0);
    while looks < 200 {
        let state = match Snapshot::take(&name).map(|snapshot| snapshot.verdict()) {
            Ok(Verdict::Damaged(damage)) => panic!("{damage:?}"),
            Ok(verdict) => verdict.to_string(),
            Err(error) => {
                assert_eq!((error, A::HOLES_ARE_USED), (ShmemError::NotFound, false));
                gone += 1;
                assert!(gone < 100_000, "it is not made anew");
                std::thread::sleep(Duration::from_micros(100));
                continue;
            }
        };
        looks += 1;
        *seen.entry(state).or_default() += 1;
    }
    println!("{}: {seen:?}", A::NAME);
    assert!(seen.contains_key("sound"), "{seen:?}");
    children.iter_mut().for_each(Child::kill);
    // Killed anywhere, it is sound: what is half done the next one puts right.
    if let Some(first) = first {
        inspect(&[&name]).ends(0).says(&[": sound\n", " dead attachment"]);
        first.sweep().unwrap();
        first.check().unwrap();
    }
}

/// A segment with something in it, saved, and the name under which it is put back with damage.
fn saved<A: Allocator>(name: &TestName) -> Vec<u8> {
    let arena = open::<A>(name, "");
    let _held = Held::hold(&arena);
    ShmemBox::leak(arena.alloc(5_u64).unwrap());
    for number in 0..8 {
        arena.publish(&format!("name {number}"), &ShmemBox::into_arc(arena.alloc(number).unwrap())).unwrap();
    }
    bytes(name)
}

fn damaged_words_are_answered<A: Allocator>() {
    let name = TestName::new("words");
    let sound = saved::<A>(&name);
    let mut random = Random::seeded(A::ID.bits());
    let occupied: Vec<usize> =
        (0..sound.len()).step_by(8).filter(|at| sound[*at..*at + 8] != [0; 8]).collect();
    let (mut damaged, rounds) = (0, 60);
    for round in 0..rounds {
        let mut bytes = sound.clone();
        for _ in 0..1 + random.below(3) {
            let word = |at: usize| u64::from_ne_bytes(sound[at..at + 8].try_into().unwrap());
            let [at, other] = [0, 1].map(|_| occupied[random.index(occupied.len())]);
            let place = words::Place {
                at: at as u64,
                old: word(at),
                len: sound.len() as u64,
                other: other as u64,
                other_value: word(other),
            };
            let sort = random.below(words::SORTS);
            put(&mut bytes, at, words::hostile(sort, &place, &mut random));
        }
        fs::write(name.path(), &bytes).unwrap();
        let said = inspect(&[&name, "--json"]);
        assert!(said.err.is_empty() && [0, 1].contains(&said.code), "round {round}: {said:?}");
        let report = said.json();
        let is_damaged = state(&report) == "damaged";
        assert!(is_damaged == (said.code == 1) && state(&report) != "changing", "round {round}: {report}");
        damaged += u32::from(is_damaged);
        if round % 8 == 0 {
            let file = Scratch::new(&name, "words.svg");
            let said = inspect(&[&name, "--svg", file.0.to_str().unwrap()]);
            assert!(said.err.is_empty() && [0, 1].contains(&said.code), "round {round}: {said:?}");
            roxmltree::Document::parse(&fs::read_to_string(&file.0).unwrap()).unwrap();
        }
        assert!(fs::read(name.path()).unwrap() == bytes, "it has written");
    }
    println!("{}: {damaged} of {rounds} damaged", A::NAME);
    assert!(damaged > rounds / 3, "{damaged} of {rounds}");
}

#[test]
fn damage_is_told_with_its_place() {
    let name = TestName::new("place");
    let sound = saved::<Tlsf>(&name);
    for (at, word, part, words) in [
        (0, 7, "header", "this is not a segment of shmem-bind"),
        (8, 9, "header", "format version 9"),
        (16, 9, "header", "bytes"),
        (64, 3 << 62, "header", "header: "),
        (72, 7, "header", "header: "),
        (128, 100 << 24, "allocator", "the word of the lock"),
        (192, 127 << 24, "directory", "could not be put right"),
        (200, 24, "directory", "the words at byte"),
        (4096 + 8, 1, "allocator", "the words at byte 4104 of the segment"),
    ] {
        let mut bytes = sound.clone();
        put(&mut bytes, at, word);
        fs::write(name.path(), bytes).unwrap();
        let report = inspect(&[&name, "--json"]).ends(1).json();
        assert_eq!(report["verdict"]["part"], part, "{at}: {report}");
        inspect(&[&name]).ends(1).says(&["damaged: ", words]);
    }
}

#[test]
fn what_is_no_segment_is_said_to_be_none() {
    let name = TestName::new("garbage");
    let sound = saved::<Tlsf>(&name);
    let mut random = Random::seeded(3);
    let noise: Vec<u8> = (0..100_000).map(|_| random.next() as u8).collect();
    let cases: [(&[u8], &str); 9] = [
        (b"#!/bin/sh\nexit 0\n", "this is not a segment"),
        (b"x", "this is not a segment"),
        (&noise, "this is not a segment"),
        (&[0; 8192], "this is not a segment"),
        (&sound[..4], "cut short"),
        (&sound[..100], "cut short"),
        (&sound[..4096], "cut short"),
        (&sound[..5000], "cut short"),
        (&sound[..sound.len() - 1], "cut short"),
    ];
    for (bytes, words) in cases {
        fs::write(name.path(), bytes).unwrap();
        let rm = format!("rm -- /dev/shm/{}\n", &*name);
        inspect(&[&name]).ends(1).says(&["damaged: header: ", words, &rm]);
        let report = inspect(&[&name, "--json"]).ends(1).json();
        assert_eq!(state(&report), "damaged");
        // Neither can be done by the crate, and the inspector says what can.
        inspect(&[&name, "--sweep", "--yes"]).ends(1).says(&["sweep: nothing is done: ", &rm]);
        inspect(&[&name, "--unlink", "--yes"]).ends(3).says(&["unlink: nothing is done: ", &rm]);
        assert_eq!(fs::read(name.path()).unwrap(), bytes);
    }
    // A creator may be about to write to it.
    fs::write(name.path(), b"").unwrap();
    inspect(&[&name]).ends(0).says(&["being created, or left by a creator that died"]);
    inspect(&[&name, "--unlink", "--yes"]).ends(3).says(&["nothing is done"]);
    let mut forming = sound;
    put(&mut forming, 64, 0);
    fs::write(name.path(), &forming[..4096]).unwrap();
    inspect(&[&name]).ends(0).says(&["being created, or left by a creator that died"]);
    inspect(&[&name, "--unlink", "--yes"]).ends(0).says(&["unlink: done"]);
    assert!(!name.exists());
}

#[test]
fn what_is_not_there_or_no_file_is_an_error() {
    let name = TestName::new("none");
    let is_refused = |words: &str| {
        let said = inspect(&[&name]).ends(3);
        assert!(said.out.is_empty() && said.err.contains(words), "{said:?}");
        // No wish changes that.
        inspect(&[&name, "--sweep", "--unlink", "--yes"]).ends(3);
        inspect(&[&name, "--watch"]).ends(3);
    };
    is_refused("nothing has this name");
    fs::create_dir(name.path()).unwrap();
    is_refused("a directory");
    fs::remove_dir(name.path()).unwrap();
    mkfifo(&name.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    is_refused("a FIFO");
    fs::remove_file(name.path()).unwrap();
    symlink("/etc/passwd", name.path()).unwrap();
    is_refused("a symbolic link");
}

#[test]
fn what_may_not_be_read_is_said_to_be_so() {
    let name = TestName::new("private");
    let _owner = Builder::new(&name).with_size(8).create().unwrap();
    fs::set_permissions(name.path(), fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything, so somebody else is asked, with a copy that is not in a private folder.
    let copy = Scratch::new(&name, "program");
    fs::copy(program(), &copy.0).unwrap();
    fs::set_permissions(&copy.0, fs::Permissions::from_mode(0o755)).unwrap();
    for options in [&[][..], &["--json"], &["--sweep", "--yes"], &["--unlink", "--yes"], &["--watch"]] {
        let mut command = Command::new(&copy.0);
        if Uid::effective().is_root() {
            command.uid(65534).gid(65534);
        }
        command.arg(&*name).args(options).current_dir("/");
        // While another test forks, its child has the copy open for a moment, as the one who wrote it had.
        let said = loop {
            match command.output() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                output => break Said::of(output.unwrap()),
            }
        };
        assert_eq!((said.code, &*said.out), (3, ""), "{said:?}");
        assert!(said.err.contains("no permission to read it"), "{said:?}");
    }
}

#[test]
fn a_segment_that_comes_and_goes_is_never_damaged() {
    let name = TestName::new("reborn");
    let child = Child::spawn("reborn", &[&name]);
    child.expect("begins");
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut look = |what: &str| *seen.entry(what.to_owned()).or_default() += 1;
    for _ in 0..25 {
        let said = inspect(&[&name, "--json"]);
        match said.code {
            0 => look(state(&said.json())),
            3 => {
                assert!(said.err.contains("nothing has this name"), "{said:?}");
                look("gone");
            }
            _ => panic!("{said:?}"),
        }
    }
    for _ in 0..3000 {
        match Snapshot::take(&name).map(|snapshot| snapshot.verdict()) {
            Ok(Verdict::Damaged(damage)) => panic!("{damage:?}"),
            Ok(Verdict::Sound) => look("sound"),
            Ok(Verdict::Forming) => look("forming"),
            Ok(Verdict::Changing) => look("changing"),
            Ok(Verdict::Unchecked(_)) => look("unchecked"),
            Err(error) => {
                assert_eq!(error, ShmemError::NotFound);
                look("gone");
            }
            Ok(verdict) => panic!("{verdict:?}"),
        }
    }
    println!("{seen:?}");
    assert!(seen.contains_key("sound") && seen.len() > 1, "{seen:?}");
    drop(child);
}

#[test]
fn a_value_is_looked_at_too() {
    let name = TestName::new("value");
    let segment = Builder::new(&name).mode(0o640).with_size(100).create().unwrap();
    inspect(&[&name]).ends(0).says(&["payload of 100 bytes: nothing yet", "mode 0640"]);
    let value = unsafe { segment.boxed::<u64>() };
    let report = inspect(&[&name, "--json"]).ends(0).json();
    assert_eq!(
        report["payload"],
        serde_json::json!({"sort": "value", "size": 8, "align": align_of::<u64>()})
    );
    assert!(report["arena"].is_null());
    let file = Scratch::new(&name, "value.svg");
    inspect(&[&name, "--svg", file.0.to_str().unwrap()]).ends(0);
    let svg = fs::read_to_string(&file.0).unwrap();
    roxmltree::Document::parse(&svg).unwrap();
    assert!(svg.contains("the value: 8 bytes"));
    ShmemBox::leak(value);
    inspect(&[&name]).ends(0).says(&["owner: nobody\n", "attachments: 0\n"]);
}

#[test]
fn a_huge_segment_takes_no_more_than_it_has() {
    let name = TestName::new("huge");
    let max = if cfg!(target_pointer_width = "64") { 256_u64 << 30 } else { 256 << 20 };
    let builder = Builder::new(&name).reserve_policy(ReservePolicy::Lazy).with_size(1 << 20);
    let arena = builder.max_size(max).create().unwrap().arena::<Tlsf>().unwrap();
    let _held = Held::hold(&arena);
    inspect(&[&name]).ends(0).says(&[": sound\n", &format!("payload of {max} bytes, 1048576 at first")]);
    let said = inspect(&[&name, "--limit", "4096"]).ends(0);
    said.says(&["sound as far as it was checked", "more than 4096 bytes", "slot  0: process "]);
}

#[test]
fn watching_ends_with_the_segment() {
    let name = TestName::new("watch");
    let arena = open::<Tlsf>(&name, "");
    let mut child = Command::new(program())
        .args([&*name, "--watch"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = format!("segment {:?}: sound", &*name);
    assert_eq!(lines.next().as_deref(), Some(&*first));
    let object = arena.alloc_slice(1000, 1_u8).unwrap();
    let change =
        lines.by_ref().find(|line| line.contains("since the last look: blocks in use +1, ")).unwrap();
    assert!(change.contains("bytes in use +1024"), "{change}");
    drop((object, arena));
    assert_eq!(lines.last().as_deref(), Some("the segment is gone"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn whoever_has_heard_enough_is_no_reason_to_panic() {
    let name = TestName::new("enough");
    let _arena = open::<Tlsf>(&name, "");
    let mut child = Command::new(program())
        .args([&*name, "--watch", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let report: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(state(&report), "sound");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for arguments in [
        &["--sweep"][..],
        &["--watch"],
        &["--svg", "x"],
        &["a", "--svg"],
        &["a", "b"],
        &["--what"],
        &["a", "--yes"],
        &["a", "--watch", "--sweep"],
        &["a", "--json", "--sweep"],
        &["a", "--limit", "-1"],
        &["a/b"],
        &[""],
        &["x\0"[..1].trim(), "--limit", "many"],
    ] {
        let said = inspect(arguments).ends(2);
        assert!(said.out.is_empty() && said.err.starts_with("inspect: "), "{arguments:?}: {said:?}");
    }
    inspect(&["--help"]).ends(0).says(&["usage: inspect [NAME]"]);
    // After this, all that comes is a name.
    inspect(&["--", "--json"]).ends(3);
}

#[test]
fn a_stopped_process_that_holds_a_lock_is_no_damage() {
    let name = TestName::new("stopped");
    let _first = open::<Tlsf>(&name, "");
    let child = Child::spawn("churn", &[&name, Tlsf::NAME, ""]);
    child.expect("churns");
    // Now and then it holds a lock then.
    for _ in 0..15 {
        child.signal(Signal::SIGSTOP);
        inspect(&[&name]).ends(0).says(&[": sound\n"]);
        child.signal(Signal::SIGCONT);
        std::thread::yield_now();
    }
}
