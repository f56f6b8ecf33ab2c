//! What is cleaned up, and what it takes

use crate::common::TestName;
use crate::stage::{Said, bytes, holder, inspect, open, program};
use nix::pty::openpty;
use shmem_bind::{Bump, Slab, Tlsf};
use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn the_name_goes_only_with_a_yes() {
    let name = TestName::new("unlink");
    let arena = open::<Slab>(&name, "");
    let own = std::process::id();
    let plan =
        ["1 of those who may live goes on with the unnamed segment", &format!("slot 0, process {own} ")];
    inspect(&[&name, "--unlink"]).ends(0).says(&plan).says(&["nothing is done: there is no terminal"]);
    assert!(name.exists() && arena.conf().is_linked());
    inspect(&[&name, "--unlink", "--yes"]).ends(0).says(&plan).says(&["unlink: done\n"]);
    assert!(!name.exists() && !arena.conf().is_linked());
    drop(arena.alloc(5_u64).unwrap());
    inspect(&[&name]).ends(3);
}

/// Asks at a terminal, and gives this answer.
fn answer(name: &str, option: &str, answer: &str) -> Said {
    let pty = openpty(None, None).unwrap();
    let child = Command::new(program())
        .args([name, option])
        .stdin(Stdio::from(pty.slave))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    File::from(pty.master.try_clone().unwrap()).write_all(answer.as_bytes()).unwrap();
    Said::of(child.wait_with_output().unwrap())
}

#[test]
fn at_a_terminal_one_is_asked() {
    let name = TestName::new("asked");
    let arena = open::<Tlsf>(&name, "");
    holder::<Tlsf>(&name, "").kill();
    for no in ["n\n", "\n", "yess\n", "\u{4}"] {
        answer(&name, "--sweep", no).ends(0).says(&["do it? [y/N] ", "nothing is done\n"]);
        answer(&name, "--unlink", no).ends(0).says(&["do it? [y/N] ", "nothing is done\n"]);
        assert_eq!((arena.conf().attachment_count(), name.exists()), (2, true), "{no:?}");
    }
    answer(&name, "--sweep", "y\n").ends(0).says(&["do it? [y/N] ", "given back: 3 objects"]);
    assert_eq!(arena.conf().attachment_count(), 1);
    answer(&name, "--unlink", "y\n").ends(0).says(&["unlink: done"]);
    assert!(!name.exists());
}

#[test]
fn a_plan_says_what_the_policies_make_of_it() {
    // The last one out takes the name along.
    let name = TestName::new("last");
    holder::<Tlsf>(&name, "last").kill();
    inspect(&[&name, "--sweep", "--yes"])
        .ends(0)
        .says(&["the name goes: nobody else", "given back: 3 objects"]);
    assert!(!name.exists());
    // With somebody else there it stays.
    let one = open::<Tlsf>(&name, "last");
    holder::<Tlsf>(&name, "last").kill();
    inspect(&[&name, "--sweep", "--yes"]).ends(0).says(&["the name stays", "given back: 3 objects"]);
    assert!(name.exists());
    drop(one);
    // Of an orphan that nobody may have, or that is made anew, nothing is swept.
    for (policy, words) in [("refuse", "by its policy nobody may attach"), ("recreate", "makes it anew")] {
        let name = TestName::new(policy);
        holder::<Bump>(&name, policy).kill();
        let before = bytes(&name);
        inspect(&[&name, "--sweep", "--yes"]).ends(0).says(&["nothing is done", words]);
        assert!(bytes(&name) == before);
        inspect(&[&name, "--unlink", "--yes"]).ends(0).says(&["the name goes, and all that", "unlink: done"]);
        assert!(!name.exists());
    }
}
