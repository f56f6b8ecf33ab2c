//! What is not a segment, planted under its name or handed over as its descriptor, is told for what it is,
//! and left alone
#![allow(missing_docs, clippy::undocumented_unsafe_blocks)]

mod alone;
mod common;

use alone::{LONG, SHORT, Unchanged, Way, each_way, refused};
use common::TestName;
use nix::fcntl::{FcntlArg, Flock, FlockArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use shmem_bind::{Builder, FileKind, HEADER_LEN, HeaderError, ShmemConf, ShmemError, UnlinkPolicy};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

alone::tests! {
    a_file_that_is_no_segment_is_refused_and_left_alone
    damage_is_seen_also_while_somebody_has_it_locked
    an_abandoned_file_becomes_a_segment
    an_abandoned_file_is_left_to_its_creator
    a_dangling_symlink_is_not_followed
    a_symlink_to_a_segment_is_not_followed
    a_directory_is_no_segment
    a_fifo_is_no_segment_and_nobody_waits_for_its_other_end
    a_socket_is_no_segment
    a_descriptor_that_is_not_sealed_is_refused
    a_sealed_memfd_that_is_no_segment_is_refused
    a_memfd_under_a_name_is_of_the_wrong_sort
    a_memfd_is_gone_with_its_owner
    ;
}

const PAYLOAD: usize = 8192;

/// The words of a header, by their offsets.
const MAGIC: usize = 0;
const FORMAT: usize = 8;
const TOTAL_LEN: usize = 16;
const PAYLOAD_LEN: usize = 24;
const FLAGS: usize = 32;
const INITIAL_LEN: usize = 56;
const MEMBERSHIP: usize = 64;
const VALUE: usize = 72;

/// The bytes of a segment in use.
fn image() -> Vec<u8> {
    let name = TestName::new("image");
    let boxed = unsafe { Builder::new(&name).with_size(PAYLOAD).create().unwrap().boxed::<[u8; PAYLOAD]>() };
    let image = fs::read(name.path()).unwrap();
    drop(boxed);
    assert_eq!(image.len(), HEADER_LEN + PAYLOAD);
    image
}

fn word(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// The image with another word at this offset.
fn with(image: &[u8], offset: usize, word: u64) -> Vec<u8> {
    let mut bytes = image.to_vec();
    bytes[offset..offset + 8].copy_from_slice(&word.to_ne_bytes());
    bytes
}

fn plant(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// A file's bytes, the error that they are, and what its message must tell.
struct Planted {
    bytes: Vec<u8>,
    error: ShmemError,
    keywords: Vec<String>,
}

fn planted() -> Vec<Planted> {
    let image = image();
    let total = image.len() as u64;
    let mut planted = Vec::new();
    let mut add = |bytes: Vec<u8>, error: ShmemError, keywords: &[&dyn ToString]| {
        let keywords = keywords.iter().map(|keyword| keyword.to_string()).collect();
        planted.push(Planted { bytes, error, keywords });
    };

    let text = b"# This is a list of things to do\n".repeat(300);
    let found = word(&text, 0);
    add(text, HeaderError::Magic { found }.into(), &[&"not a segment", &format!("{found:#x}")]);
    add(vec![0; 10_000], HeaderError::Magic { found: 0 }.into(), &[&"not a segment"]);
    let magic = word(&image, MAGIC);
    add(with(&image, MAGIC, magic.swap_bytes()), HeaderError::Endianness.into(), &[&"byte order"]);
    add(with(&image, MAGIC, magic ^ 1), HeaderError::Magic { found: magic ^ 1 }.into(), &[]);

    let format = word(&image, FORMAT);
    for found in [0, 2, u16::MAX] {
        let error = HeaderError::Version { found, supported: format as u16 };
        let other = format >> 16 << 16 | u64::from(found);
        add(with(&image, FORMAT, other), error.into(), &[&found, &(format as u16), &"version"]);
    }
    let layout = (format ^ 1 << 20) >> 16 << 16;
    let error = HeaderError::Layout { found: layout };
    add(with(&image, FORMAT, format ^ 1 << 20), error.into(), &[&format!("{layout:#x}")]);

    for (len, needed) in [(5, 128), (100, 128), (127, 128), (128, total), (HEADER_LEN, total)]
        .into_iter()
        .chain([(HEADER_LEN + PAYLOAD / 2, total), (HEADER_LEN + PAYLOAD - 1, total)])
    {
        let error = HeaderError::Truncated { len: len as u64, needed };
        add(image[..len].to_vec(), error.into(), &[&"cut short", &len, &needed]);
    }
    for (offset, bad) in [
        (TOTAL_LEN, 0),
        (TOTAL_LEN, total + 1),
        (PAYLOAD_LEN, 0),
        (PAYLOAD_LEN, PAYLOAD as u64 - 1),
        (PAYLOAD_LEN, u64::MAX),
        (PAYLOAD_LEN, u64::MAX - HEADER_LEN as u64 + 1),
    ] {
        let bytes = with(&image, offset, bad);
        let (total, payload) = (word(&bytes, TOTAL_LEN), word(&bytes, PAYLOAD_LEN));
        add(bytes, HeaderError::Length { total, payload }.into(), &[&"damaged", &total, &payload]);
    }
    // Lengths that fit each other, but neither this file nor any machine.
    let (huge, total_of_huge) = (1_u64 << 62, (1_u64 << 62) + HEADER_LEN as u64);
    let bytes = with(&with(&image, PAYLOAD_LEN, huge), TOTAL_LEN, total_of_huge);
    add(bytes, HeaderError::Truncated { len: total, needed: total_of_huge }.into(), &[&total_of_huge]);

    // Unknown; two unlink policies; two orphan policies.
    for found in [1 << 6, 1 << 63, 0b0011, 0b1100] {
        let error = HeaderError::Flags { found };
        add(with(&image, FLAGS, found), error.into(), &[&"flags", &format!("{found:#x}")]);
    }
    add(with(&image, FLAGS, 1 << 4), ShmemError::WrongSort, &[&"memfd"]);
    let error = HeaderError::InitialLength { initial: !0, payload: PAYLOAD as u64 };
    add(with(&image, INITIAL_LEN, !0), error.into(), &[&"damaged", &PAYLOAD]);
    // No such phase; attached while forming; no such owner; an owner and an unlinker who (is not) attached.
    for found in [!0, 1, 1 << 62 | 60 << 56, 1 << 62 | 1 << 56 | 1, 2 << 62 | 1] {
        let error = HeaderError::Membership { found };
        add(with(&image, MEMBERSHIP, found), error.into(), &[&"membership", &format!("{found:#018x}")]);
    }
    // An arena with an alignment; an alignment beyond every payload's; nothing, but with a size; larger than the payload.
    for found in [2 | 1 << 3, 1 | 13 << 3 | 8 << 8, 8 << 8, 1 | (PAYLOAD as u64 + 1) << 8] {
        let error = HeaderError::Payload { found };
        add(with(&image, VALUE, found), error.into(), &[&"payload word", &format!("{found:#018x}")]);
    }
    planted
}

/// Plants each file and asks for it in every way.
fn ask_for_each(prepare: impl Fn(&Path) -> Option<Flock<File>>) {
    for Planted { bytes, error, keywords } in planted() {
        let name = TestName::new("planted");
        plant(&name.path(), &bytes);
        let keywords: Vec<&str> = keywords.iter().map(String::as_str).collect();
        let _lock = prepare(&name.path());
        let unchanged = Unchanged::snapshot();
        let start = Instant::now();
        for (way, result) in each_way(&Builder::new(&name).timeout(LONG), 8) {
            refused(result, error, &keywords, &format!("{way:?} of {error:?}"));
        }
        refused(shmem_bind::unlink(&name), error, &[], &format!("unlink of {error:?}"));
        assert!(start.elapsed() < LONG / 2, "{error:?} came only after waiting");
        unchanged.check(&format!("{error:?}"));
    }
}

fn a_file_that_is_no_segment_is_refused_and_left_alone() {
    ask_for_each(|_| None);
}

fn damage_is_seen_also_while_somebody_has_it_locked() {
    // The lock is of the open file and not of the process: it keeps this process out as well.
    ask_for_each(|path| Some(Flock::lock(File::open(path).unwrap(), FlockArg::LockShared).unwrap()));
}

/// What creators leave that die before they are done: an empty file, or one that is still forming.
fn abandoned() -> [Vec<u8>; 4] {
    let mut forming = with(&with(&image(), MEMBERSHIP, 0), VALUE, 0);
    forming[HEADER_LEN..].fill(0xAA);
    [Vec::new(), forming[..128].to_vec(), forming[..HEADER_LEN + 1].to_vec(), forming]
}

fn an_abandoned_file_becomes_a_segment() {
    for bytes in abandoned() {
        for (way, size) in [(Way::Open, 8), (Way::Create, 8), (Way::Open, 100_000)] {
            let name = TestName::new("abandoned");
            plant(&name.path(), &bytes);
            let unchanged = Unchanged::snapshot();
            for way in [Way::Attach, Way::AttachReadOnly] {
                refused(way.go(Builder::new(&name), 8), ShmemError::NotFound, &[], &format!("{way:?}"));
            }
            unchanged.check("abandoned");
            let segment = way.go(Builder::new(&name).mode(0o640), size).unwrap();
            assert_eq!(segment.payload_size() as u64, size);
            assert!(segment.is_owner());
            let file = fs::read(name.path()).unwrap();
            assert_eq!(file.len() as u64, HEADER_LEN as u64 + size);
            assert!(file[HEADER_LEN..].iter().all(|byte| *byte == 0), "of the old payload nothing is left");
            assert_eq!(Builder::new(&name).mode(0o640).attach().unwrap().attachment_count(), 2);
        }
    }
}

fn an_abandoned_file_is_left_to_its_creator() {
    for bytes in abandoned() {
        let name = TestName::new("creator");
        plant(&name.path(), &bytes);
        let creator = Flock::lock(File::open(name.path()).unwrap(), FlockArg::LockExclusive).unwrap();
        let unchanged = Unchanged::snapshot();
        for (way, result) in each_way(&Builder::new(&name).timeout(SHORT), 8) {
            let error = if way == Way::AttachReadOnly { ShmemError::NotFound } else { ShmemError::Busy };
            refused(result, error, &[], &format!("{way:?}"));
        }
        unchanged.check("creator");
        drop(creator);
        // An empty file cannot be shown to be ours.
        if bytes.is_empty() {
            let unchanged = Unchanged::snapshot();
            let error = HeaderError::Truncated { len: 0, needed: 128 };
            refused(shmem_bind::unlink(&name), error.into(), &["0 bytes", "128"], "empty");
            unchanged.check("empty");
        } else {
            shmem_bind::unlink(&name).unwrap();
            assert!(!name.exists());
        }
    }
}

/// Asks in every way for what is of another kind.
#[track_caller]
fn irregular(name: &str, found: FileKind, keyword: &str) {
    let unchanged = Unchanged::snapshot();
    for (way, result) in each_way(&Builder::new(name).timeout(LONG), 8) {
        refused(result, ShmemError::NotRegular { found }, &[keyword, "remove"], &format!("{way:?}"));
    }
    refused(shmem_bind::unlink(name), ShmemError::NotRegular { found }, &[], "unlink");
    unchanged.check(keyword);
}

fn a_dangling_symlink_is_not_followed() {
    let (name, target) = (TestName::new("dangling"), TestName::new("target"));
    for target in [target.path(), name.path(), "nowhere/at/all".into()] {
        symlink(&target, name.path()).unwrap();
        irregular(&name, FileKind::Symlink, "symbolic link");
        fs::remove_file(name.path()).unwrap();
    }
}

fn a_symlink_to_a_segment_is_not_followed() {
    let (name, target) = (TestName::new("symlink"), TestName::new("target"));
    let segment = Builder::new(&target).with_size(8).create().unwrap();
    for target in [target.path(), (*target).into()] {
        symlink(target, name.path()).unwrap();
        irregular(&name, FileKind::Symlink, "symbolic link");
        fs::remove_file(name.path()).unwrap();
    }
    assert_eq!((segment.attachment_count(), segment.is_linked()), (1, true));
}

fn a_directory_is_no_segment() {
    let name = TestName::new("directory");
    fs::create_dir(name.path()).unwrap();
    irregular(&name, FileKind::Directory, "a directory");
}

fn a_fifo_is_no_segment_and_nobody_waits_for_its_other_end() {
    let name = TestName::new("fifo");
    nix::unistd::mkfifo(&name.path(), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    irregular(&name, FileKind::Fifo, "FIFO");
}

fn a_socket_is_no_segment() {
    let name = TestName::new("socket");
    let listener = UnixListener::bind(name.path()).unwrap();
    irregular(&name, FileKind::Other, "socket");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody has connected");
}

const ALL_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// A memfd that is sealed, but mapped in other units than it is asked for.
fn huge_pages() -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB;
    // Where there are none, an ordinary file is as good as unsealed.
    let Ok(fd) = memfd_create(c"planted", flags) else { return File::open("/dev/null").unwrap().into() };
    let all = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(all)).unwrap();
    fd
}

/// A memfd with these bytes and seals.
fn memfd(bytes: &[u8], seals: SealFlag) -> OwnedFd {
    let fd = memfd_create(c"planted", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file.into()
}

/// The segment behind the descriptor, attached in both ways.
fn attach(fd: &OwnedFd) -> [Result<ShmemConf, ShmemError>; 2] {
    [Builder::memfd().attach(fd), Builder::memfd().attach_read_only(fd)]
}

#[track_caller]
fn memfd_refused(fd: &OwnedFd, error: ShmemError, keywords: &[&str], context: &str) {
    let unchanged = Unchanged::snapshot();
    for result in attach(fd) {
        refused(result, error, keywords, context);
    }
    unchanged.check(context);
}

/// The bytes of a segment without a name, in use.
fn memfd_image() -> Vec<u8> {
    let (segment, fd) = Builder::memfd().create(PAYLOAD).unwrap();
    let mut image = vec![0; HEADER_LEN + PAYLOAD];
    std::os::unix::fs::FileExt::read_exact_at(&File::from(fd), &mut image, 0).unwrap();
    drop(segment);
    image
}

fn a_descriptor_that_is_not_sealed_is_refused() {
    let name = TestName::new("unsealed");
    let named = Builder::new(&name).with_size(PAYLOAD).create().unwrap();
    let file = File::options().read(true).write(true).open(name.path()).unwrap();
    let image = memfd_image();
    let (shrink, grow) = (SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW);
    for (fd, context) in [
        (memfd(&image, SealFlag::empty()), "no seals"),
        (memfd(&image, shrink), "may grow"),
        (memfd(&image, grow | SealFlag::F_SEAL_SEAL), "may shrink"),
        (memfd(&image, shrink | grow), "may be sealed on"),
        (memfd_create(c"planted", MFdFlags::MFD_CLOEXEC).unwrap(), "not sealable"),
        (huge_pages(), "huge pages"),
        (nix::unistd::pipe().unwrap().0, "pipe"),
        (file.into(), "named segment"),
        (File::open("/dev/null").unwrap().into(), "device"),
        (File::open("/").unwrap().into(), "directory"),
    ] {
        memfd_refused(&fd, ShmemError::Unsealed, &["sealed", "Builder::memfd"], context);
    }
    assert_eq!(named.attachment_count(), 1);
}

fn a_sealed_memfd_that_is_no_segment_is_refused() {
    let image = memfd_image();
    let total = image.len() as u64;
    let refused = |bytes: &[u8], error: ShmemError, keywords: &[&str]| {
        memfd_refused(&memfd(bytes, ALL_SEALS), error, keywords, &format!("{error:?}"));
    };
    let garbage = b"garbage ".repeat(1000);
    let found = word(&garbage, 0);
    refused(&garbage, HeaderError::Magic { found }.into(), &["not a segment"]);
    refused(&self::image(), ShmemError::WrongSort, &["memfd"]);
    refused(&image[..100], HeaderError::Truncated { len: 100, needed: 128 }.into(), &["100", "128"]);
    let half = HEADER_LEN + PAYLOAD / 2;
    refused(&image[..half], HeaderError::Truncated { len: half as u64, needed: total }.into(), &[]);
    refused(&with(&image, MEMBERSHIP, !0), HeaderError::Membership { found: !0 }.into(), &[]);
    let error = HeaderError::InitialLength { initial: !0, payload: PAYLOAD as u64 };
    refused(&with(&image, INITIAL_LEN, !0), error.into(), &[]);
    // Nobody ever finishes these.
    refused(&[], ShmemError::NotFound, &[]);
    refused(&with(&with(&image, MEMBERSHIP, 0), VALUE, 0), ShmemError::NotFound, &[]);
}

fn a_memfd_under_a_name_is_of_the_wrong_sort() {
    let name = TestName::new("wrong-sort");
    plant(&name.path(), &memfd_image());
    let unchanged = Unchanged::snapshot();
    for (way, result) in each_way(&Builder::new(&name), 8) {
        refused(result, ShmemError::WrongSort, &["memfd", "descriptor"], &format!("{way:?}"));
    }
    refused(shmem_bind::unlink(&name), ShmemError::WrongSort, &[], "unlink");
    unchanged.check("wrong sort");
}

fn a_memfd_is_gone_with_its_owner() {
    for policy in [UnlinkPolicy::OwnerDrop, UnlinkPolicy::LastDetach] {
        let (owner, fd) = Builder::memfd().unlink_policy(policy).create(PAYLOAD).unwrap();
        let [other, observer] = attach(&fd).map(Result::unwrap);
        assert_eq!((owner.attachment_count(), other.name(), other.is_owner()), (2, None, false));
        drop((other, observer));
        assert_eq!(owner.attachment_count(), 1);
        drop(owner);
        memfd_refused(&fd, ShmemError::NotFound, &[], "gone");
    }
}
