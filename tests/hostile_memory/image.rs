//! Images of segments: what mutations start from
//!
//! Made by the crate itself, once in a process, with all that a segment can have in it: objects of all sorts of types, boxed, shared,
//! leaked, named and pinned, attachments that live and such that have died. Their segment ids are the same in all
//! processes, and so is all else but who is who, so that an input means the same each time.

use shmem_bind::allocator::{BlockState, Extent, MIN_BLOCK_LEN};
use shmem_bind::{
    Arena, Builder, Bump, Handle, OwnedFd, RegionAllocator, ShmemBox, ShmemConf, Slab, Tlsf, UnlinkPolicy,
    shareable,
};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Bytes of the payload at first, and at most.
pub const SIZE: usize = 32 << 10;
pub const MOST: usize = 44 << 10;
/// Words before the payload, and before the slots; words of a slot.
pub const HEAP_START: usize = 512;
pub const SLOTS: usize = 64;
pub const SLOT_LEN: usize = 8;
/// Words of the export bitmap at the end.
pub const EXPORT_WORDS: usize = (MOST / 8).div_ceil(129);
/// Words of the heap, whose length is a multiple of nothing in particular.
pub const HEAP_WORDS: usize = MOST / 8 - EXPORT_WORDS;
/// Both words of the segment id.
pub const ID: u64 = 0x5e5e_5e5e_5e5e_5e5e;
/// Number of the word of the payload, and of the words of locks.
pub const PAYLOAD: usize = 9;
pub const HEAP_LOCK: usize = 16;
pub const DIRECTORY_LOCK: usize = 24;
/// The incarnation in a tenancy word, and a tenant that is known to be dead.
const INCARNATION: u64 = 1 << 43;
const NAMESPACE: u64 = 1 << 22;
const DECEASED: u64 = 1 << 42;

shareable! {
    /// As aligned as can be.
    #[derive(Clone, Copy, Debug)]
    #[repr(C, align(4096))]
    pub struct Page {
        pub word: u64,
    }
}

shareable! {
    #[derive(Clone, Copy, Debug)]
    #[repr(C, align(64))]
    pub struct Line {
        pub words: [u32; 3],
    }
}

/// Names of objects in all images of arenas: shared, pinned, of a mutex, and one that there is not.
pub const NAMES: [&str; 9] =
    ["counter", "nobody's", "text", "numbers", "bytes", "motd", "words", "mutex", "there is none"];

/// A segment, as words.
#[derive(Clone, Debug)]
pub struct Image {
    pub words: Vec<u64>,
    /// The words that are not zero.
    pub occupied: Vec<usize>,
    /// Offsets of blocks in the heap; also of some that only look like that.
    pub blocks: Vec<u64>,
    /// Of leaked objects, of the types of [`with_each_type`].
    pub handles: Vec<u128>,
    /// The tenancy word of this process.
    pub own: u64,
    pub sort: Sort,
}

/// What is in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Tlsf,
    Slab,
    Bump,
    /// A single value, or nothing as yet.
    Value,
}

impl Image {
    fn of(fd: &OwnedFd, handles: Vec<u128>, sort: Sort) -> Self {
        let file = File::from(fd.try_clone().unwrap());
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let words: Vec<u64> =
            bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
        let own = words[SLOTS];
        let mut image = Self { words, occupied: Vec::new(), blocks: Vec::new(), handles, own, sort };
        image.occupied = (0..image.words.len()).filter(|word| image.words[*word] != 0).collect();
        image.blocks = (1..HEAP_WORDS - 4)
            .step_by(2)
            .filter(|word| image.is_block(*word))
            .map(|word| word as u64 * 8)
            .collect();
        image
    }

    fn is_block(&self, word: usize) -> bool {
        let at = HEAP_START + word;
        let (state, extent) = (BlockState::from_bits(self.words[at]), Extent::from_bits(self.words[at + 2]));
        let end = word as u64 * 8 + extent.len();
        state.is_valid() && extent.len() >= MIN_BLOCK_LEN && end <= HEAP_WORDS as u64 * 8
    }

    /// The same with the tenants of these slots dead.
    fn with_dead(mut self, slots: &[usize]) -> Self {
        for slot in slots {
            self.words[SLOTS + slot * SLOT_LEN] = self.dead();
        }
        self
    }

    /// The same with the lock at this word held by the tenant of the slot.
    fn with_lock(mut self, word: usize, slot: u64) -> Self {
        self.words[word] = self.holder(slot);
        self
    }

    /// What was this process before it was another one.
    pub const fn dead(&self) -> u64 {
        self.own ^ INCARNATION
    }

    /// The word of a lock that the tenant of a slot holds.
    pub fn holder(&self, slot: u64) -> u64 {
        let slot = slot % 8;
        let generation = self.words[SLOTS + slot as usize * SLOT_LEN + 1];
        (slot + 1) << 24 | generation & 0xff_ffff
    }

    /// Tenants of all sorts.
    pub const fn tenancy(&self, which: u64) -> u64 {
        match which % 6 {
            0 => 0,
            1 => DECEASED,
            2 => self.own,
            3 => self.dead(),
            // Of another namespace.
            4 => self.own ^ NAMESPACE,
            _ => self.own ^ which >> 3,
        }
    }

    /// Lengths that mean something to the segment.
    pub const fn lengths(&self) -> [u64; 8] {
        let heap = HEAP_WORDS as u64 * 8;
        [SIZE as u64, MOST as u64, heap, SIZE as u64 - 256, MOST as u64 + 4096, 4096, heap / 16, 1 << 44]
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: words are bytes, eight each.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.words.len() * 8) }
    }

    /// Whether the payload is an arena that this allocator has formatted, by its word.
    pub fn is_arena_of<A: RegionAllocator>(&self) -> bool {
        let word = self.words[PAYLOAD];
        word & 0xff == 2 && Some(word >> 8) == image_of::<A>().map(|image| image.words[PAYLOAD] >> 8)
    }
}

fn image_of<A: RegionAllocator>() -> Option<&'static Image> {
    let index = [Tlsf::ID, Slab::ID, Bump::ID].into_iter().position(|id| id == A::ID)?;
    images().get(index)
}

/// All images: an arena of each allocator, first as its users left it; then with locks held by the dead; a value, nothing, and half an arena.
pub fn images() -> &'static [Image] {
    static IMAGES: OnceLock<Vec<Image>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let arenas = [arena::<Tlsf>(Sort::Tlsf), arena::<Slab>(Sort::Slab), arena::<Bump>(Sort::Bump)];
        let mut images: Vec<Image> = arenas.iter().map(|image| image.clone().with_dead(&[2, 3])).collect();
        images.extend(arenas.iter().map(|image| {
            let image = image.clone().with_dead(&[0, 1, 2, 3]);
            image.with_lock(HEAP_LOCK, 2).with_lock(DIRECTORY_LOCK, 3)
        }));
        images.push(value());
        images.push(nothing());
        let [mut half, ..] = arenas;
        half.words[PAYLOAD] |= 1;
        images.push(half.with_dead(&[2]).with_lock(DIRECTORY_LOCK, 2));
        images
    })
}

/// A new segment, with the id that all of them have, and its descriptor.
pub fn create() -> (ShmemConf, OwnedFd) {
    let builder = Builder::memfd().unlink_policy(UnlinkPolicy::LastDetach).max_size(MOST);
    let (conf, fd) = builder.create(SIZE).unwrap();
    let file = File::from(fd.try_clone().unwrap());
    file.write_all_at(&[ID.to_ne_bytes(), ID.to_ne_bytes()].concat(), 40).unwrap();
    (conf, fd)
}

/// One more attachment. (The creator's own has another segment id in mind.)
pub fn attach<A: RegionAllocator>(fd: &OwnedFd) -> Arena<A> {
    Builder::memfd().timeout(Duration::ZERO).attach(fd).unwrap().arena().unwrap()
}

fn arena<A: RegionAllocator>(sort: Sort) -> Image {
    let (_creator, fd) = create();
    let [one, two, three] = [attach::<A>(&fd), attach::<A>(&fd), attach::<A>(&fd)];
    let mut handles = Vec::new();
    let mut leak = |handle: u128| handles.push(handle);
    // In the order of `with_each_type`.
    leak(ShmemBox::leak(one.alloc(7_u8).unwrap()).to_bits());
    leak(ShmemBox::leak(two.alloc(7_u64).unwrap()).to_bits());
    leak(ShmemBox::leak(two.alloc([7_u32; 5]).unwrap()).to_bits());
    leak(ShmemBox::leak(one.alloc_slice(100, 7_u8).unwrap()).to_bits());
    leak(ShmemBox::leak(three.alloc_str("seven").unwrap()).to_bits());
    leak(ShmemBox::leak(two.alloc(()).unwrap()).to_bits());
    leak(ShmemBox::leak(one.alloc_slice(3, ()).unwrap()).to_bits());
    leak(ShmemBox::leak(one.alloc(Page { word: 7 }).unwrap()).to_bits());
    leak(ShmemBox::leak(two.alloc_slice(2, Line { words: [7; 3] }).unwrap()).to_bits());
    leak(ShmemBox::leak(two.alloc(AtomicU64::new(7)).unwrap()).to_bits());

    let counter = ShmemBox::into_arc(one.alloc(AtomicU64::new(1)).unwrap());
    one.publish("counter", &counter).unwrap();
    let found = two.find::<AtomicU64>("counter").unwrap();
    two.publish("nobody's", &ShmemBox::into_arc(two.alloc(AtomicU64::new(2)).unwrap())).unwrap();
    let text = ShmemBox::into_arc(three.alloc_str("three holds this text").unwrap());
    three.publish("text", &text).unwrap();
    one.publish_pinned("numbers", &ShmemBox::into_arc(one.alloc([1_u32, 2, 3, 4, 5]).unwrap())).unwrap();
    two.publish("bytes", &ShmemBox::into_arc(two.alloc_slice(300, 3_u8).unwrap())).unwrap();
    two.publish_pinned("motd", &ShmemBox::into_arc(one_str(&two))).unwrap();
    one.publish_pinned("words", &ShmemBox::into_arc(one.alloc(AtomicU64::new(3)).unwrap())).unwrap();
    let mutex = shmem_bind::sync::Mutex::new(4_u64);
    one.publish("mutex", &ShmemBox::into_arc(one.alloc(mutex).unwrap())).unwrap();
    let long = "n".repeat(255);
    one.publish(&long, &ShmemBox::into_arc(one.alloc(5_u64).unwrap())).unwrap();

    let boxes: Vec<ShmemBox<[u8]>> =
        (0..24).map(|index| [&one, &two, &three][index % 3].alloc_slice(index * 9, 1).unwrap()).collect();
    // Some are freed, in no order.
    let boxes: Vec<_> = boxes.into_iter().enumerate().filter(|(index, _)| index * 7 % 5 != 0).collect();
    let image = Image::of(&fd, handles, sort);
    drop((counter, found, text, boxes));
    image
}

fn one_str<A: RegionAllocator>(arena: &Arena<A>) -> ShmemBox<str> {
    arena.alloc_str("good morning").unwrap()
}

fn value() -> Image {
    let (_creator, fd) = create();
    let conf = Builder::memfd().attach(&fd).unwrap();
    // SAFETY: zeros are a `u64`, and nobody else uses it.
    let mut boxed = unsafe { conf.boxed::<u64>() };
    *boxed = 7;
    Image::of(&fd, Vec::new(), Sort::Value)
}

fn nothing() -> Image {
    let (_creator, fd) = create();
    Image::of(&fd, Vec::new(), Sort::Value)
}

/// The bits of a handle of the block at `offset`.
pub const fn handle(offset: u64, serial: u64) -> u128 {
    let place = (offset.wrapping_add(24) / 16) & ((1 << 40) - 1) | ID << 40;
    let serial = serial & ((1 << 50) - 1) | ID >> 24 << 50;
    (serial as u128) << 64 | place as u128
}

/// The offset of the block that a handle leads to, and its serial.
pub const fn block_of(bits: u128) -> (u64, u64) {
    let (place, serial) = (bits as u64, (bits >> 64) as u64);
    ((place & ((1 << 40) - 1)).wrapping_mul(16).wrapping_sub(24), serial & ((1 << 50) - 1))
}

/// Calls a generic function for the type of this number; those of the leaked objects of each image.
macro_rules! with_each_type {
    ($number:expr, $call:ident($($argument:expr),*)) => {
        match $number % 10 {
            0 => $call::<A, u8>($($argument),*),
            1 => $call::<A, u64>($($argument),*),
            2 => $call::<A, [u32; 5]>($($argument),*),
            3 => $call::<A, [u8]>($($argument),*),
            4 => $call::<A, str>($($argument),*),
            5 => $call::<A, ()>($($argument),*),
            6 => $call::<A, [()]>($($argument),*),
            7 => $call::<A, $crate::hostile::image::Page>($($argument),*),
            8 => $call::<A, [$crate::hostile::image::Line]>($($argument),*),
            _ => $call::<A, std::sync::atomic::AtomicU64>($($argument),*),
        }
    };
}
pub(crate) use with_each_type;

/// A handle of any bits.
pub const fn any_handle<T: ?Sized>(bits: u128) -> Handle<T> {
    Handle::from_bits(bits)
}
