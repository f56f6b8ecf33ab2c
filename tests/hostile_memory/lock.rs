//! Lock words of any bits, with any words behind them that say who is alive: an answer at once, a living holder is never
//! taken for dead, and whoever has got the lock gives it back
//!
//! What must come out is worked out here from the words alone. The oracle knows of this process and of what it was before; of
//! other processes it says nothing.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | which lock: the heap's, the directory's, or that of a mutex |
//! | 1 | how the word, the tenancy and the generation are made; how the lock is asked for |
//! | 2, 3 | the holder, and what is done with an orphan |
//! | 4..8 | bits of the word and the generation |
//! | 8..16 | bits of the tenancy, and of the second word of a mutex |

use super::image::{self, DIRECTORY_LOCK, HEAP_LOCK, Image, SLOT_LEN, SLOTS};
use super::stage::{self, Stage};
use arbitrary::{Arbitrary, Unstructured};
use shmem_bind::sync::{LockError, Mutex};
use shmem_bind::{Arena, ArenaError, DirectoryError, LockFailure, MAX_ATTACHMENTS, ShmemArc, ShmemBox, Tlsf};
use std::cell::RefCell;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

const WAITERS: u32 = 1 << 31;
const GENERATION: u32 = (1 << 24) - 1;
const NOT_RECOVERABLE: u32 = 127 << 24;
/// Slots of the creator, of this one, of another one that lives, and of one that is dead in half of the inputs.
const LIVING: [u64; 3] = [0, 1, 2];
/// The word of the own tenancy.
const OWN: usize = SLOTS + SLOT_LEN;

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Input {
    lock: u8,
    how: u8,
    holder: u8,
    orphan: u8,
    bits: u32,
    word: u64,
}

/// Who has a lock, by the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Free,
    Alive,
    Dead,
    NotRecoverable,
    Damaged,
    Unknown,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Three attachments of one process, which stay.
struct World {
    me: Arena<Tlsf>,
    _others: [Arena<Tlsf>; 2],
    mutex: ShmemArc<Mutex<u64>>,
    /// The word of the mutex.
    mutex_lock: usize,
    image: Image,
}

impl World {
    fn new(stage: &Stage) -> Self {
        stage.write(&image::images()[7]);
        let attach = || image::attach::<Tlsf>(&stage.fd);
        let (me, other, third) = (attach(), attach(), attach());
        let mutex = me.alloc(Mutex::new(0x5ca1_ab1e_u64)).unwrap();
        let mutex = ShmemBox::into_arc(mutex);
        me.publish("mutex", &mutex).unwrap();
        me.publish("counter", &ShmemBox::into_arc(me.alloc(AtomicU64::new(1)).unwrap())).unwrap();
        let bytes = stage.read();
        let words: Vec<u64> =
            bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
        let value = words.iter().position(|word| *word == 0x5ca1_ab1e).unwrap();
        let image = Image { words, ..image::images()[7].clone() };
        Self { me, _others: [other, third], mutex, mutex_lock: value - 2, image }
    }
}

pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    stage::with(|stage| {
        WORLD.with_borrow_mut(|world| {
            let world = world.get_or_insert_with(|| World::new(stage));
            // One after the other, each in a segment as it was.
            for _ in 0..16 {
                let Ok(input) = input.arbitrary::<Input>() else { break };
                input.run(stage, world);
            }
            stage.write(&world.image);
        });
    });
}

impl Input {
    /// The lock word, and what the slot that it names says.
    fn words(self, image: &Image) -> (u32, Option<(usize, u64, u64)>) {
        let slot = match self.holder >> 6 {
            0 => LIVING[usize::from(self.holder) % LIVING.len()],
            _ => u64::from(self.holder) % u64::from(MAX_ATTACHMENTS),
        };
        let at = SLOTS + slot as usize * SLOT_LEN;
        let tenancy = match self.how & 7 {
            0 | 1 => image.words[at],
            2 => image.own,
            3 => image.dead(),
            4 => image.tenancy(self.word),
            5 => image.own ^ 1 << (self.word % 64),
            6 => image.own ^ self.word,
            _ => self.word,
        };
        let generation = match self.how >> 3 & 3 {
            0 => image.words[at + 1],
            1 => image.words[at + 1].wrapping_add(u64::from(self.bits & 3)),
            2 => u64::from(self.bits) << 8,
            _ => self.word.rotate_left(32),
        };
        let waiters = self.bits & WAITERS;
        let named = (slot as u32 + 1) << 24 | generation as u32 & GENERATION | waiters;
        let word = match self.how >> 5 & 3 {
            0 | 1 => named,
            2 => named ^ 1 << (self.bits % 24),
            _ => match self.holder % 4 {
                0 => waiters,
                1 => NOT_RECOVERABLE | waiters,
                2 => (57 + self.bits % 70) << 24 | self.bits & GENERATION | waiters,
                _ => self.bits,
            },
        };
        // A word may name any slot: what that one says stands in the segment already.
        (word, (word >> 24 & 127 == slot as u32 + 1).then_some((at, tenancy, generation)))
    }

    fn run(self, stage: &Stage, world: &World) {
        let (word, slot) = self.words(&world.image);
        let mut image = world.image.clone();
        if let Some((at, tenancy, generation)) = slot {
            image.words[at] = tenancy;
            image.words[at + 1] = generation;
        }
        let mark = match self.orphan >> 6 {
            0 => self.word,
            1 => u64::from(word & !WAITERS) << 32 | u64::from(std::process::id()),
            _ => 0,
        };
        let at = [HEAP_LOCK, DIRECTORY_LOCK, world.mutex_lock][usize::from(self.lock) % 3];
        image.words[at] = u64::from(word);
        if at == world.mutex_lock {
            image.words[at + 1] = mark;
        }
        stage.write(&image);
        let verdict = judge(word, &image);
        // Who is not listed any more is told so, rather than why something could not be had.
        let is_damaged = slot.is_some_and(|(at, ..)| at == OWN);
        match self.lock % 3 {
            0 => self.heap(world, verdict, is_damaged),
            1 => self.directory(world, verdict, is_damaged),
            _ => self.mutex(world, verdict, mark != 0, is_damaged),
        }
        // The word as it is afterwards, which has no upper half.
        let after = stage.read_word(at) as u32;
        match verdict {
            Verdict::Free | Verdict::Dead if at != world.mutex_lock => {
                assert_eq!(after, 0, "{word:#x} was {verdict:?}");
            }
            // Whoever has died while he waited may have left WAITERS; here nobody sleeps long enough.
            Verdict::Alive | Verdict::NotRecoverable | Verdict::Damaged => {
                assert_eq!(after & !WAITERS, word & !WAITERS, "{word:#x} was {verdict:?}");
            }
            _ => {}
        }
    }

    fn heap(self, world: &World, verdict: Verdict, is_damaged: bool) {
        let before = world.me.reclaimed().locks;
        let result = match self.orphan % 3 {
            0 => world.me.usage().map(|_| ()),
            1 => world.me.check(),
            _ => world.me.alloc(7_u64).map(drop).map_err(|rejected| match rejected.error {
                shmem_bind::AllocError::Busy => ArenaError::Busy,
                shmem_bind::AllocError::NotRecoverable => ArenaError::NotRecoverable,
                shmem_bind::AllocError::Damaged { at } => ArenaError::Damaged { at },
                error => panic!("{error:?}"),
            }),
        };
        match verdict {
            _ if is_damaged && matches!(result, Err(ArenaError::Damaged { .. })) => {}
            Verdict::Free => assert_eq!(result, Ok(())),
            Verdict::Dead => {
                assert_eq!(result, Ok(()));
                assert_eq!(world.me.reclaimed().locks, before + 1);
            }
            Verdict::Alive => assert_eq!(result, Err(ArenaError::Busy)),
            Verdict::NotRecoverable => assert_eq!(result, Err(ArenaError::NotRecoverable)),
            Verdict::Damaged => assert!(matches!(result, Err(ArenaError::Damaged { .. })), "{result:?}"),
            Verdict::Unknown => assert!(matches!(result, Ok(()) | Err(ArenaError::Busy)), "{result:?}"),
        }
    }

    fn directory(self, world: &World, verdict: Verdict, is_damaged: bool) {
        let result = match self.orphan % 3 {
            0 => world.me.find::<AtomicU64>("counter").map(drop),
            1 => world.me.names().next().unwrap().map(|_| ()),
            _ => match world.me.find::<AtomicU64>("there is none") {
                Err(DirectoryError::NotFound) => Ok(()),
                result => result.map(drop),
            },
        };
        match verdict {
            _ if is_damaged && matches!(result, Err(DirectoryError::Damaged { .. })) => {}
            Verdict::Free | Verdict::Dead => assert_eq!(result, Ok(())),
            Verdict::Alive => assert_eq!(result, Err(DirectoryError::Busy)),
            Verdict::NotRecoverable => assert_eq!(result, Err(DirectoryError::NotRecoverable)),
            Verdict::Damaged => assert!(matches!(result, Err(DirectoryError::Damaged { .. })), "{result:?}"),
            Verdict::Unknown => assert!(matches!(result, Ok(()) | Err(DirectoryError::Busy)), "{result:?}"),
        }
    }

    fn mutex(self, world: &World, verdict: Verdict, is_marked: bool, is_damaged: bool) {
        let mutex = &world.mutex;
        let result = match self.orphan >> 3 & 7 {
            // Who waits is woken by nobody.
            0 => mutex.lock_for(Duration::from_micros(50)),
            _ => mutex.try_lock(),
        };
        let found = match result {
            Ok(guard) => {
                assert_eq!(*guard, 0x5ca1_ab1e);
                Verdict::Free
            }
            Err(LockError::Orphaned(orphaned)) => {
                match self.orphan % 4 {
                    0 => assert_eq!(*orphaned.replace(0x5ca1_ab1e), 0x5ca1_ab1e),
                    1 => orphaned.give_up(),
                    2 => drop(orphaned.recover()),
                    _ => drop(orphaned),
                }
                let next = mutex.try_lock().map(drop);
                match self.orphan % 4 {
                    0 | 2 => assert!(next.is_ok(), "{next:?}"),
                    1 => assert!(matches!(next, Err(LockError::Failed(LockFailure::NotRecoverable)))),
                    // Who is told apart from the former tenant of its slot by damaged words may be taken for it.
                    _ if is_damaged => {}
                    // What is not put right is the next one's.
                    _ => assert!(matches!(next, Err(LockError::Orphaned(_))), "{next:?}"),
                }
                Verdict::Dead
            }
            Err(LockError::Failed(LockFailure::Busy)) => Verdict::Alive,
            Err(LockError::Failed(LockFailure::Deadlock)) => {
                assert!(is_marked, "nobody has said that it is this thread's");
                Verdict::Alive
            }
            Err(LockError::Failed(LockFailure::NotRecoverable)) => Verdict::NotRecoverable,
            Err(LockError::Failed(LockFailure::Damaged)) => Verdict::Damaged,
            Err(error) => panic!("{error:?}"),
        };
        match verdict {
            Verdict::Unknown => assert!(matches!(found, Verdict::Alive | Verdict::Dead)),
            _ => assert_eq!(found, verdict),
        }
    }
}

/// Who has the lock.
fn judge(word: u32, image: &Image) -> Verdict {
    let holder = word & !WAITERS;
    match holder {
        0 => return Verdict::Free,
        NOT_RECOVERABLE => return Verdict::NotRecoverable,
        _ => {}
    }
    let Some(slot) = (holder >> 24).checked_sub(1).filter(|slot| *slot < MAX_ATTACHMENTS) else {
        return Verdict::Damaged;
    };
    let at = SLOTS + slot as usize * SLOT_LEN;
    let (tenancy, generation) = (image.words[at], image.words[at + 1] as u32 & GENERATION);
    let (own, field) = (image.own, |word: u64, shift: u32, bits: u32| word >> shift & !(!0 << bits));
    let namespace = field(tenancy, 22, 20);
    if holder & GENERATION != generation || tenancy == 0 || tenancy == 1 << 42 {
        Verdict::Dead
    } else if tenancy == own || namespace == 0 || namespace != field(own, 22, 20) {
        Verdict::Alive
    } else if field(tenancy, 0, 22) != field(own, 0, 22) || field(tenancy, 42, 1) != field(own, 42, 1) {
        // Of another process, or told apart from it by other means.
        Verdict::Unknown
    } else if field(tenancy, 43, 21) == 0 || field(own, 43, 21) == 0 {
        Verdict::Alive
    } else {
        Verdict::Dead
    }
}
