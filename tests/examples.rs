//! The examples do what they say
//!
//! `cargo test` builds the examples beside the tests; each is run as a user would, and its whole output
//! compared.

use std::process::{Command, Output};

/// Runs an example; a child of it that it killed is part of its job, its own end must be a success.
fn run(example: &str, arguments: &[&str]) -> String {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.extend(["examples", example]);
    let Output { status, stdout, stderr } = Command::new(path).args(arguments).output().unwrap();
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    assert!(stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn message_passing() {
    assert_eq!(
        run("message-passing", &[]),
        "parent: the value is 1\n\
         child: the value is 1, and becomes 5\n\
         parent: the value is 5\n\
         parent: the message is dropped, its value is 5\n"
    );
}

#[test]
fn message_passing_survives_a_crash() {
    assert_eq!(
        run("message-passing", &["--crash"]),
        "child: the value is 42, and this process is killed\n\
         parent: the owner ended by signal: 9 (SIGKILL)\n\
         parent: the value is 42\n\
         parent: owner true, attached 1\n\
         parent: the message is dropped, its value is 42\n"
    );
}

#[test]
fn arena_daemon() {
    // Names come in any order.
    let sorted = |output: &str| {
        let mut lines: Vec<_> = output.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let begin = "daemon: 3 objects, 496 bytes in use\n\
         client: Config { limit: 100, interval_ms: 250 }, greeting of 5 bytes\n\
         client: as another type: the value is not of the type asked for: its size is 5 bytes and not 2, its \
         alignment is 1 and not 2; use the same definition of the type in all processes\n";
    let crash = "client: holds a slice and a reference, and is killed\n\
         daemon: the client ended by signal: 9 (SIGKILL)\n\
         daemon: given back: 1 object (8032 bytes), 1 reference and 0 locks of 1 dead attachment\n";
    let end = "observer: limit 100, requests [34, 33, 33]\n\
         daemon: 100 requests, 10 errors\n\
         daemon: config has 8 bytes and 1 holders\n\
         daemon: counters has 48 bytes and 1 holders\n\
         daemon: greeting has 5 bytes and 1 holders\n";
    assert_eq!(sorted(&run("arena-daemon", &[])), sorted(&[begin, end].concat()));
    assert_eq!(sorted(&run("arena-daemon", &["--crash"])), sorted(&[begin, crash, end].concat()));
}

#[test]
fn custom_allocator() {
    assert_eq!(
        run("custom-allocator", &[]),
        "formatted: 6 cells free\n\
         allocated: 40 bytes at 8\n\
         too large: no free block is large enough; free some objects first\n\
         freed: 2 cells in use, 4 free\n\
         swept: 128 bytes of the dead, 1 cell in use\n\
         grown: 14 cells free\n\
         in a segment: 7, \"a name for it\", 2 cells in use\n\
         too large: no room for 41 bytes: 7936 are free, and at most 40 in one piece; drop some objects, or grow \
         the arena\n\
         another allocator: the arena is managed by the allocator 15f86f4fc574fb and not by 297ddbe01b2e93; use \
         the same in all processes\n"
    );
}

#[test]
fn survive_truncation() {
    assert_eq!(
        run("survive-truncation", &[]),
        "survivor: the sum is 10000\n\
         peer: has cut the segment short\n\
         survivor: the sum is less, severed: true\n\
         survivor: memory of the segment has gone away: its file was cut short, or there was none left for a page; drop \
         what belongs to it, and open the segment again\n\
         survivor: the segment is cut short: it has 16384 bytes and needs 266240; remove the file and create the segment \
         again\n\
         survivor: in a new segment the sum is 20000\n"
    );
}

#[test]
fn work_queue() {
    assert_eq!(
        run("work-queue", &[]),
        "supervisor: 8 jobs\n\
         worker: is at job 2\n\
         supervisor: all but one are done\n\
         supervisor: one worker ended by signal: 9 (SIGKILL)\n\
         worker: takes job 2 over from one that died\n\
         supervisor: job 0 was begun once, and gives 500500\n\
         supervisor: job 1 was begun once, and gives 2001000\n\
         supervisor: job 2 was begun twice, and gives 4501500\n\
         supervisor: job 3 was begun once, and gives 8002000\n\
         supervisor: job 4 was begun once, and gives 12502500\n\
         supervisor: job 5 was begun once, and gives 18003000\n\
         supervisor: job 6 was begun once, and gives 24503500\n\
         supervisor: job 7 was begun once, and gives 32004000\n\
         supervisor: 8 of 8 jobs are done\n"
    );
}
