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
fn custom_allocator() {
    assert_eq!(
        run("custom-allocator", &[]),
        "formatted: 6 cells free\n\
         allocated: 40 bytes at 8\n\
         too large: no free block is large enough; free some objects first\n\
         freed: 2 cells in use, 4 free\n\
         swept: 128 bytes of the dead, 1 cell in use\n\
         grown: 14 cells free\n"
    );
}
