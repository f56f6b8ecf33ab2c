//! What the processes share besides the arena: what each is to do and has done, handles on their way, and ledgers of what
//! may happen once
//!
//! It is no part of what is tested, and none of it is lost with a process: each word is written by one who may be killed
//! after it, and whoever held a mailbox stands in its state, so that the driver can give it back.

use super::objects::Kind;
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::{panic, ptr};

/// Worker processes at a time.
pub const WORKERS: usize = 8;
/// Seats for them, and for those that were killed and are not buried yet.
pub const SEATS: usize = 32;
/// The seat of the auditor.
pub const AUDITOR: usize = SEATS;
/// Attachments that a worker may have at a time.
pub const HOMES: usize = 2;
/// Most references that a worker has by one attachment.
pub const MOST_SHARED: usize = 60;

const MAILBOXES: usize = 16;
const STALE: usize = 64;
/// So many objects, claims or processes a ledger looks back.
const LEDGER: usize = 1 << 18;

/// What the workers are to do.
pub const RUN: u32 = 0;
/// Say what they hold, and keep it.
pub const PARK: u32 = 1;
/// Give all back, and end.
pub const LEAVE: u32 = 2;

/// How a process is to the [guarded](super::guarded) numbers.
pub const NO_LOCK: u32 = 0;
/// It may have the lock, and does not say so beside it.
pub const WANTS_LOCK: u32 = 1;
pub const HAS_LOCK: u32 = 2;

#[repr(C)]
pub struct Shared {
    pub phase: AtomicU32,
    pub seats: [Seat; SEATS + 1],
    /// Blocks and bytes of an arena that holds nothing but the table of its names.
    pub empty: [AtomicU64; 2],
    /// How often what was done, by [`Deed`].
    deeds: [AtomicU64; Deed::NAMES.len()],
    mailboxes: [Mailbox; MAILBOXES],
    stale: [Parcel; STALE],
    objects: AtomicU64,
    destroyed: [AtomicU64; LEDGER],
    claimed: [AtomicU64; LEDGER],
    doomed: [AtomicU64; LEDGER],
    /// How many have been buried who may have had the lock.
    buried: AtomicU64,
}

/// What is known of one process.
#[repr(C)]
pub struct Seat {
    /// Grows with everything that it does.
    pub progress: AtomicU64,
    pub seed: AtomicU64,
    /// No other process has it.
    pub number: AtomicU64,
    /// How it is to the lock.
    pub lock: AtomicU32,
    /// What it is at.
    pub operation: AtomicU32,
    /// It has said what it holds.
    pub is_parked: AtomicU32,
    /// For the auditor: what it is to do; 0 when it has done that.
    pub command: AtomicU32,
    pub tallies: [Tally; HOMES],
    /// What went wrong: 0 nothing, else by [`Complaint`].
    complaint: AtomicU32,
    text: [AtomicU8; 800],
}

/// What a worker holds by one attachment.
#[repr(C)]
pub struct Tally {
    /// Number of the segment; 0 for no attachment.
    pub segment: AtomicU64,
    pub exclusive: AtomicU64,
    pub len: AtomicU64,
    /// The numbers of the objects that it has references to, each once.
    pub shared: [AtomicU64; MOST_SHARED],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Complaint {
    Corrupt = 1,
    Lost,
}

/// What is counted, so that it shows that it happens at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Operation,
    Came,
    Allocated,
    /// There was no memory.
    Short,
    Claimed,
    RefusedStale,
    Published,
    Found,
    MadeExclusive,
    Pinned,
    Grown,
    FoundPinned,
    Locked,
    FoundOrphan,
    Initialized,
    Left,
    Audited,
}

impl Deed {
    pub const NAMES: [&str; 17] = [
        "operations",
        "attached",
        "allocated",
        "without memory",
        "claimed",
        "stale refused",
        "published",
        "found",
        "made exclusive",
        "pinned",
        "grown",
        "found pinned",
        "locked",
        "found orphaned",
        "initialised",
        "left",
        "audited",
    ];
}

/// A handle as words, which are not written at once.
#[repr(C)]
struct Parcel {
    kind: AtomicU32,
    words: [AtomicU64; 2],
}

#[repr(C)]
struct Mailbox {
    /// 0 empty, 1 full, else two more than the seat of the one who is at it.
    state: AtomicU32,
    parcel: Parcel,
}

impl Parcel {
    fn put(&self, kind: Kind, bits: u128) {
        self.kind.store(kind as u32, SeqCst);
        self.words[0].store(bits as u64, SeqCst);
        self.words[1].store((bits >> 64) as u64, SeqCst);
    }

    fn get(&self) -> (Kind, u128) {
        let [low, high] = self.words.each_ref().map(|word| word.load(SeqCst));
        (Kind::ALL[self.kind.load(SeqCst) as usize], u128::from(low) | u128::from(high) << 64)
    }
}

impl Mailbox {
    fn turn(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, SeqCst, SeqCst).is_ok()
    }
}

static BOARD: AtomicPtr<Shared> = AtomicPtr::new(ptr::null_mut());
static SEAT: AtomicU32 = AtomicU32::new(0);
/// What a failure of this process means.
static MEANING: AtomicU32 = AtomicU32::new(Complaint::Corrupt as u32);

/// The board, in a process that has [taken a seat](Shared::sit_down).
pub fn board() -> &'static Shared {
    unsafe { &*BOARD.load(SeqCst) }
}

/// Fails unless the condition holds; what does not add up has been lost, or given back twice.
macro_rules! assert_kept {
    ($condition:expr, $($what:tt)*) => {
        if !$condition {
            $crate::torture::board::complain_of_loss();
            panic!($($what)*);
        }
    };
}
pub(crate) use assert_kept;

pub fn complain_of_loss() {
    MEANING.store(Complaint::Lost as u32, SeqCst);
}

impl Shared {
    /// In a new process: from now on this is its board, and its failures stand there. One that fails ends at once, without
    /// unwinding, which would give back what the others are to find as it was.
    pub fn sit_down(&self, seat: usize) {
        BOARD.store(ptr::from_ref(self).cast_mut(), SeqCst);
        SEAT.store(seat as u32, SeqCst);
        panic::set_hook(Box::new(|info| {
            board().own_seat().complain(&info.to_string());
            unsafe { nix::libc::_exit(101) }
        }));
    }

    pub fn own_seat(&self) -> &Seat {
        &self.seats[SEAT.load(SeqCst) as usize]
    }

    pub fn count(&self, deed: Deed) {
        self.deeds[deed as usize].fetch_add(1, SeqCst);
    }

    pub fn operations(&self) -> u64 {
        self.deeds[Deed::Operation as usize].load(SeqCst)
    }

    /// How often what was done, in words.
    pub fn deeds(&self) -> String {
        let counts = Deed::NAMES.iter().zip(&self.deeds);
        let words: Vec<_> = counts.map(|(name, count)| format!("{name} {}", count.load(SeqCst))).collect();
        words.join(", ")
    }

    /// What should have been done, and never was.
    pub fn omitted(&self) -> Vec<&'static str> {
        let counts = Deed::NAMES.iter().zip(&self.deeds);
        counts.filter(|(_, count)| count.load(SeqCst) == 0).map(|(name, _)| *name).collect()
    }

    /// Counts a step of this process.
    pub fn advance(&self) {
        self.own_seat().progress.fetch_add(1, SeqCst);
    }

    /// A number for an object, which no other has.
    pub fn next_object(&self) -> u64 {
        self.objects.fetch_add(1, SeqCst) + 1
    }

    fn is_destroyed(&self, id: u64) -> bool {
        self.destroyed[id as usize % LEDGER].load(SeqCst) == id
    }

    pub fn assert_living(&self, id: u64) {
        assert_kept!(!self.is_destroyed(id), "object {id} has been destroyed");
    }

    pub fn destroy(&self, id: u64) {
        let before = self.destroyed[id as usize % LEDGER].swap(id, SeqCst);
        assert_kept!(before != id, "object {id} was destroyed twice");
    }

    /// Notes that this handle has been claimed, and offers it to whoever wants to claim it once more.
    pub fn note_claim(&self, kind: Kind, bits: u128, place: usize) {
        let serial = (bits >> 64) as u64;
        // Segments count their serials from one each, so their numbers go in as well.
        let key = (serial ^ (bits as u64 >> 40).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let before = self.claimed[serial as usize % LEDGER].swap(key, SeqCst);
        assert_kept!(before != key, "handle {bits:#034x} was claimed twice");
        self.stale[place % STALE].put(kind, bits);
    }

    /// In the driver: this process is about to be killed.
    pub fn doom(&self, seat: usize) {
        let number = self.seats[seat].number.load(SeqCst);
        self.doomed[number as usize % LEDGER].store(number, SeqCst);
    }

    fn is_doomed(&self, number: u64) -> bool {
        self.doomed[number as usize % LEDGER].load(SeqCst) == number
    }

    /// How many have been buried up to now who may have had the lock.
    pub fn buried(&self) -> u64 {
        self.buried.load(SeqCst)
    }

    /// A lock has been left by a dead one: by the holder, if it has said that it had the lock, or by one that was
    /// killed before it could say so, and either is still unburied or was buried later than so many others.
    pub fn judge_orphan(&self, holder: u64, buried: u64) {
        self.count(Deed::FoundOrphan);
        if holder != 0 {
            assert!(self.is_doomed(holder), "process {holder} was robbed of its lock");
            return;
        }
        let may_have_it =
            |seat: &Seat| seat.lock.load(SeqCst) == WANTS_LOCK && self.is_doomed(seat.number.load(SeqCst));
        // Who is buried meanwhile is counted first, and then leaves its seat.
        let has_left_it = self.seats.iter().any(may_have_it) || self.buried() > buried;
        assert!(has_left_it, "orphaned, and nobody has died who wanted the lock");
    }

    /// A handle that has been claimed, or a mixture of two that have been.
    pub fn stale(&self, place: usize) -> (Kind, u128) {
        self.stale[place % STALE].get()
    }

    /// Puts a handle into a mailbox; `false` if that is not empty.
    pub fn send(&self, place: usize, kind: Kind, bits: u128) -> bool {
        let (mailbox, me) = (&self.mailboxes[place % MAILBOXES], SEAT.load(SeqCst) + 2);
        if !mailbox.turn(0, me) {
            return false;
        }
        mailbox.parcel.put(kind, bits);
        mailbox.turn(me, 1)
    }

    /// Takes a handle out of a mailbox.
    pub fn receive(&self, place: usize) -> Option<(Kind, u128)> {
        let (mailbox, me) = (&self.mailboxes[place % MAILBOXES], SEAT.load(SeqCst) + 2);
        if !mailbox.turn(1, me) {
            return None;
        }
        let parcel = mailbox.parcel.get();
        mailbox.turn(me, 0);
        Some(parcel)
    }

    /// In the driver: nobody has this seat any more.
    pub fn clear_seat(&self, index: usize) {
        for mailbox in &self.mailboxes {
            mailbox.turn(index as u32 + 2, 0);
        }
        let seat = &self.seats[index];
        seat.forget_tallies();
        if seat.lock.load(SeqCst) == WANTS_LOCK {
            self.buried.fetch_add(1, SeqCst);
        }
        for word in [&seat.operation, &seat.command, &seat.complaint, &seat.lock] {
            word.store(0, SeqCst);
        }
        seat.progress.store(0, SeqCst);
    }
}

impl Seat {
    /// In the driver: the process is dead, so it holds nothing.
    pub fn forget_tallies(&self) {
        self.is_parked.store(0, SeqCst);
        self.tallies.iter().for_each(|tally| tally.segment.store(0, SeqCst));
    }

    fn complain(&self, what: &str) {
        for (place, byte) in self.text.iter().zip(what.bytes().chain([0])) {
            place.store(byte, SeqCst);
        }
        self.complaint.store(MEANING.load(SeqCst), SeqCst);
    }

    /// What went wrong, and where: the same seed and the same answers of the others lead there again.
    pub fn complaint(&self, who: &str, pid: Pid) -> Option<(Complaint, String)> {
        let complaint = match self.complaint.load(SeqCst) {
            0 => return None,
            1 => Complaint::Corrupt,
            _ => Complaint::Lost,
        };
        let mut text = self.place(who, pid);
        let bytes: Vec<u8> =
            self.text.iter().map(|byte| byte.load(SeqCst)).take_while(|byte| *byte != 0).collect();
        write!(text, ": {}", String::from_utf8_lossy(&bytes)).unwrap();
        Some((complaint, text))
    }

    /// Where the process is.
    pub fn place(&self, who: &str, pid: Pid) -> String {
        let (seed, step) = (self.seed.load(SeqCst), self.progress.load(SeqCst));
        format!("{who} {pid}, seed {seed:#x}, step {step}, operation {}", self.operation.load(SeqCst))
    }
}
