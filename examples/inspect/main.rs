//! Shows an administrator what is going on in a segment, and cleans up what the dead have left.
//!
//! ```text
//! cargo run --example inspect                        # a line for each segment of this crate on the machine
//! cargo run --example inspect -- NAME                # all about one
//! cargo run --example inspect -- NAME --json         # the same, for a machine: one line
//! cargo run --example inspect -- NAME --svg map.svg  # the same, and a map of its memory
//! cargo run --example inspect -- NAME --watch        # the same each second, until it is gone
//! cargo run --example inspect -- NAME --sweep        # gives back what processes held that died
//! cargo run --example inspect -- NAME --unlink       # takes its name away
//! ```
//!
//! It only reads, and takes no slot and no lock, unless told to clean up: then it says what it is about to do, and does it after
//! a `y` on the terminal, or at once with `--yes`. With neither a terminal nor `--yes` it does nothing.
//!
//! A segment is copied, and the copy is read. Holes cost nothing; of a segment that has more than 1 GiB of memory, only the header and the
//! attachments are read. `--limit BYTES` says otherwise.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | sound, as far as that could be seen |
//! | 1 | damaged, or no segment at all |
//! | 2 | the arguments make no sense |
//! | 3 | there is none, or it cannot be read, or cleaned up; the message says why |
//!
//! # The fields of `--json`
//! Of all segments: an array of these. Lengths and offsets are in bytes; what is not known is `null`.
//!
//! | field | |
//! |---|---|
//! | `name`, `time` | seconds since 1970 |
//! | `verdict` | `state` (`sound`, `damaged`, `changing`, `forming`, `unchecked`), `message`; if damaged `part`, and `at`, an offset in the file |
//! | `phase` | `forming`, `live`, `retired` |
//! | `file` | `length`, `user`, `mode` (octal), `named`: whether the name leads to it still |
//! | `header` | `id`, `total_length`, `payload_length`, `initial_length`, `unlink_policy`, `orphan_policy`, `memfd` |
//! | `payload` | `sort` (`unset`, `value`, `arena`); `size`, `align`; `allocator`, `formatted` |
//! | `owner` | `state` (`attached`, `orphan`, `none`), `slot`, `pid` |
//! | `statistics` | `swept`, `adopted`, `unlink_failures` |
//! | `attachments` | of each: `slot`, `generation`, `pid`, `command`, `life` (`alive`, `dead`, `unknown`), `attached`, `owner`, `objects`, `bytes`, `references` |
//! | `arena` | `allocator`, `heap_length`, `heap_capacity`, `locks`, `usage`, `fragmentation_percent`, `complete`, `sums`, `names`, `reclaimed` |
//! | `arena.locks` | `allocator`, `directory`; of each `state` (`free`, `held`, `given up`, `damaged`), `slot` |
//! | `arena.usage` | `used`, `free`, `largest_free`, `blocks`, `free_blocks`, `high_water` |
//! | `arena.sums` | of each: `kind` (`exclusive`, `leaked`, `shared`, `condemned`, `internal`, `free`, `damaged`), `slot`, `blocks`, `bytes` |
//! | `arena.names` | of each: `name`, `size`, `align`, `version`, `fingerprint` (its low 40 bits), `holders` (slots), `pinned`, `offset` of the block in the payload |
//! | `estate` | what a sweep would give back: `attachments`, `objects`, `bytes`, `references`, `locks` |

mod arguments;
mod clean;
mod facts;
mod json;
mod svg;
mod text;

use arguments::Arguments;
use facts::Facts;
use shmem_bind::{Errno, ShmemError};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// How it ends, the better first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Sound = 0,
    Damaged = 1,
    Usage = 2,
    Unreadable = 3,
}

fn main() -> ExitCode {
    let end = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) if arguments.help => say(&format!("{}\n", arguments::USAGE)).map(|()| End::Sound),
        Ok(arguments) => run(&arguments),
        Err(problem) => {
            eprintln!("inspect: {problem}\n{}", arguments::USAGE);
            Ok(End::Usage)
        }
    };
    // Whoever reads has had enough, as `head` has.
    ExitCode::from(end.unwrap_or(End::Sound) as u8)
}

fn run(arguments: &Arguments) -> io::Result<End> {
    match &arguments.name {
        None => list(arguments),
        Some(name) if arguments.watch => watch(name, arguments),
        Some(name) => inspect(name, arguments),
    }
}

/// Says something, all at once.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Says why a segment cannot be read.
fn complain(name: &str, error: &ShmemError) -> End {
    let reason = match error {
        ShmemError::NotFound => "nothing has this name; without one, all segments are listed".to_owned(),
        ShmemError::Os { call: "open", errno: Errno::ACCESS | Errno::PERM } => {
            "no permission to read it; run as its user, or as root".to_owned()
        }
        error => error.to_string(),
    };
    eprintln!("inspect: {}: {reason}", text::quoted(name));
    if matches!(error, ShmemError::Name(_)) { End::Usage } else { End::Unreadable }
}

/// A line for each segment.
fn list(arguments: &Arguments) -> io::Result<End> {
    let names = match shmem_bind::segments() {
        Ok(names) => names,
        Err(error) => return Ok(complain("/dev/shm", &error)),
    };
    let mut end = End::Sound;
    let mut all = Vec::new();
    for name in names {
        match Facts::gather(&name, arguments.limit) {
            Ok(facts) => {
                end = end.max(facts.end());
                all.push(facts);
            }
            // It has gone since.
            Err(ShmemError::NotFound) => {}
            Err(error) => end = end.max(complain(&name, &error)),
        }
    }
    if arguments.json {
        let all: Vec<String> = all.iter().map(json::report).collect();
        say(&format!("[{}]\n", all.join(",")))?;
    } else if all.is_empty() {
        say("there are no segments of this crate that you may read\n")?;
    } else {
        say(&text::list(&all))?;
    }
    Ok(end)
}

fn report(facts: &Facts, arguments: &Arguments) -> String {
    if arguments.json { json::report(facts) + "\n" } else { text::report(facts) }
}

/// All about one segment, and what is to be cleaned up.
fn inspect(name: &str, arguments: &Arguments) -> io::Result<End> {
    let facts = match Facts::gather(name, arguments.limit) {
        Ok(facts) => facts,
        Err(error) => return Ok(complain(name, &error)),
    };
    say(&report(&facts, arguments))?;
    let mut end = facts.end();
    if let Some(file) = &arguments.svg {
        if let Err(error) = std::fs::write(file, svg::map(&facts)) {
            eprintln!("inspect: {}: {error}", text::quoted(&file.to_string_lossy()));
            end = End::Unreadable;
        }
    }
    if arguments.sweep {
        end = end.max(clean::sweep(&facts, arguments)?);
    }
    if arguments.unlink {
        end = end.max(clean::unlink(&facts, arguments)?);
    }
    Ok(end)
}

/// A report each second, until the segment is gone.
fn watch(name: &str, arguments: &Arguments) -> io::Result<End> {
    let mut last: Option<Facts> = None;
    loop {
        let facts = match Facts::gather(name, arguments.limit) {
            Ok(facts) => facts,
            Err(ShmemError::NotFound) if last.is_some() => return gone(last.as_ref(), arguments),
            Err(error) => return Ok(complain(name, &error)),
        };
        if last.as_ref().is_some_and(|last| !last.is_same_segment(&facts)) {
            return gone(last.as_ref(), arguments);
        }
        let mut page = report(&facts, arguments);
        if !arguments.json {
            page += &text::changes(last.as_ref(), &facts);
            if io::stdout().is_terminal() {
                // From the top, on an empty screen.
                page.insert_str(0, "\x1b[H\x1b[2J");
            }
        }
        say(&page)?;
        last = Some(facts);
        thread::sleep(Duration::from_secs(1));
    }
}

fn gone(last: Option<&Facts>, arguments: &Arguments) -> io::Result<End> {
    if !arguments.json {
        say("the segment is gone\n")?;
    }
    Ok(last.map_or(End::Sound, Facts::end))
}
