//! How long a message takes to another process, and how many come through
//!
//! `cargo bench --manifest-path benches/Cargo.toml [--features iceoryx2] --bench messages [-- ROUNDS FILTER]`
//!
//! **One way, awake.** A number goes to a forked process, and comes back; the figure is half of that. Both ask again and again
//! whether there is one, so each of them needs a processor of its own.
//!
//! | contestant | what it does |
//! |---|---|
//! | a cache line | one atomic for each direction in a shared mapping, which a message overwrites; nothing is faster |
//! | Spsc, Mpmc | a queue of this crate for each direction, in an arena, found by its name |
//! | iceoryx2 | publish and subscribe, a service for each direction: a sample is loaned, written, sent, and received |
//!
//! iceoryx2's library is large, so it takes part only by its feature.
//!
//! **One way, asleep.** The same with receivers that sleep until there is a message. The bare futex is a word that is counted up, and one
//! wake.
//!
//! **A stream.** A process sends numbers without an end, and another one receives them; the figure is for one of them. The queues of
//! `crossbeam` and `rtrb`, which are for the threads of one process, have the same done by two threads: they show what it costs where
//! nobody has to survive anybody.

mod messages {
    pub mod asleep;
    pub mod awake;
    pub mod queues;
    pub mod stream;
}

use messages::{asleep, awake, stream};
use shmem_bind_benches::Report;

fn main() {
    let mut report = Report::new("messages", 51);
    awake::compare(&mut report);
    asleep::compare(&mut report);
    stream::compare(&mut report);
    report.finish();
}
