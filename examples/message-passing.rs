//! A parent and a child process pass a message through shared memory.
//!
//! ```text
//! cargo run --example message-passing             # the child changes the message, the parent sees it
//! cargo run --example message-passing -- --crash  # the owner is killed, the next opener takes over
//! ```
//! This is the simplest use, a segment that is one value, and the interface of shmem-bind 0.1. It takes `unsafe`, since the
//! compiler does not see the other processes. Several objects in one segment, without it: `arena-daemon`.

use shmem_bind::{self as shmem, ShmemBox};
use std::env;
use std::error::Error;
use std::process::{Child, Command};

/// What lies in shared memory: a fixed layout, and no pointers.
#[derive(Debug)]
#[repr(C)]
struct Message {
    value: i32,
}

impl Drop for Message {
    fn drop(&mut self) {
        println!("{}: the message is dropped, its value is {}", role(), self.value);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => pass_message(),
        ["--crash"] => survive_crash(),
        ["child", name, value] => change_message(name, value.parse()?),
        ["doomed", name] => own_and_die(name),
        _ => Err("usage: message-passing [--crash]".into()),
    }
}

/// Opens the segment called `name`, creating it if need be, as a message.
fn open(name: &str) -> Result<ShmemBox<Message>, shmem::ShmemError> {
    let segment = shmem::Builder::new(name).with_size(size_of::<Message>() as i64).open()?;
    // SAFETY: a new segment is zeros, which are a valid message. Parent and child use it in turn: the parent
    // waits for the child to end.
    Ok(unsafe { segment.boxed::<Message>() })
}

/// The parent: creates the segment, lets a child change the message, and sees the change.
fn pass_message() -> Result<(), Box<dyn Error>> {
    let name = format!("message-passing-{}", std::process::id());
    let mut message = open(&name)?;
    message.value = 1;
    println!("parent: the value is {}", message.value);

    spawn(&["child", &name, "5"])?.wait()?;

    println!("parent: the value is {}", message.value);
    // Dropped here, by its owner, who is alone: the destructor runs, and the segment is gone.
    Ok(())
}

/// The child: attaches, writes, leaves. It does not own the segment, so it destroys nothing.
fn change_message(name: &str, value: i32) -> Result<(), Box<dyn Error>> {
    let mut message = open(name)?;
    println!("child: the value is {}, and becomes {value}", message.value);
    message.value = value;
    Ok(())
}

/// The parent: a child that owns the segment is killed, and the parent takes the segment over.
fn survive_crash() -> Result<(), Box<dyn Error>> {
    let name = format!("message-passing-crash-{}", std::process::id());
    let status = spawn(&["doomed", &name])?.wait()?;
    println!("parent: the owner ended by {status}");

    let message = open(&name)?;
    let segment = ShmemBox::conf(&message);
    println!("parent: the value is {}", message.value);
    println!("parent: owner {}, attached {}", segment.is_owner(), segment.attachment_count());
    Ok(())
}

/// The child that never gets to clean up.
fn own_and_die(name: &str) -> Result<(), Box<dyn Error>> {
    let mut message = open(name)?;
    message.value = 42;
    println!("child: the value is {}, and this process is killed", message.value);
    Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status()?;
    unreachable!("nobody survives SIGKILL");
}

fn spawn(arguments: &[&str]) -> std::io::Result<Child> {
    Command::new(env::current_exe()?).args(arguments).spawn()
}

fn role() -> &'static str {
    if env::args().nth(1).is_some_and(|argument| argument == "child") { "child" } else { "parent" }
}
