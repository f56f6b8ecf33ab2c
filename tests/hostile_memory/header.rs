//! Any bytes as a segment's header: an answer, and what is accepted means the same when it is written again
//!
//! The first 128 bytes are the header. The next eight, if there are any, are the length of the file.

use shmem_bind::{HEADER_LEN, Header, HeaderError, MAX_ATTACHMENTS, Payload};

/// Bytes of a header that `parse` gives a meaning; counters and tables come after.
const MEANINGFUL: usize = 80;
/// Bytes of the part that is parsed.
const PREFIX: usize = 128;

pub fn run(bytes: &[u8]) {
    let (prefix, len) = bytes.split_at(bytes.len().min(PREFIX));
    let header = match Header::parse(prefix) {
        Ok(header) => header,
        Err(error) => return refused(prefix, error),
    };
    let word = |offset: usize| u64::from_ne_bytes(prefix[offset..][..8].try_into().unwrap());
    let encoded = header.encode();
    assert_eq!(Header::parse(&encoded), Ok(header));
    assert_eq!(encoded[..MEANINGFUL], prefix[..MEANINGFUL]);

    // Lengths, as they are used to map the segment.
    let (payload, total) = (header.payload_len(), header.total_len());
    assert_eq!((payload, total), (word(24), word(16)));
    assert_eq!(total, payload + HEADER_LEN as u64);
    assert!(payload > 0 && isize::try_from(total).is_ok());
    assert!((1..=payload).contains(&header.initial_len()));
    if let Some(len) = len.first_chunk().map(|len| u64::from_ne_bytes(*len)) {
        let needed = Err(HeaderError::Truncated { len, needed: total });
        assert_eq!(header.check_len(len), if len < total { needed } else { Ok(()) });
    }

    // The membership word, bit by bit.
    let membership = word(64);
    let attached = (0..MAX_ATTACHMENTS).filter(|slot| membership >> slot & 1 != 0).count();
    assert_eq!(header.attachments(), attached as u32);
    assert_eq!(header.is_live(), membership >> 62 == 1);
    assert_ne!(membership >> 62, 3);

    // What the payload is.
    match header.payload() {
        Payload::Value { size, align } => {
            assert!(size <= payload && align.is_power_of_two() && align <= HEADER_LEN as u64);
            assert_eq!(word(72), 1 | u64::from(align.trailing_zeros()) << 3 | size << 8);
        }
        Payload::Arena { is_formed, .. } => assert_eq!(word(72) & 0xff, if is_formed { 2 } else { 3 }),
        _ => assert_eq!(word(72), 0),
    }
}

/// The error says what is there.
fn refused(prefix: &[u8], error: HeaderError) {
    let word = |offset: usize| prefix.get(offset..)?.first_chunk().map(|word| u64::from_ne_bytes(*word));
    match error {
        HeaderError::Truncated { len, .. } => assert!(len == prefix.len() as u64 && prefix.len() < PREFIX),
        HeaderError::Length { total, payload } => {
            assert_eq!((Some(total), Some(payload)), (word(16), word(24)));
        }
        HeaderError::Flags { found } => assert_eq!(Some(found), word(32)),
        HeaderError::Membership { found } => assert_eq!(Some(found), word(64)),
        HeaderError::Payload { found } => assert_eq!(Some(found), word(72)),
        HeaderError::InitialLength { initial, .. } => assert_eq!(Some(initial), word(56)),
        _ => {}
    }
}
