//! Any bytes as a segment's header: an answer and never a panic, and what is accepted means the same when it
//! is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shmem_bind::{HEADER_LEN, Header, MAX_ATTACHMENTS, Payload};

/// Bytes of a header that `parse` gives a meaning; counters and tables come after.
const MEANINGFUL: usize = 80;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse(bytes) else { return };
    let encoded = header.encode();
    assert_eq!(Header::parse(&encoded), Ok(header));
    assert_eq!(encoded[..MEANINGFUL], bytes[..MEANINGFUL]);

    assert_eq!(header.total_len(), header.payload_len() + HEADER_LEN as u64);
    assert!(header.payload_len() > 0 && isize::try_from(header.total_len()).is_ok());
    assert!(header.attachments() <= MAX_ATTACHMENTS);
    if let Payload::Value { size, align } = header.payload() {
        assert!(size <= header.payload_len() && align.is_power_of_two() && align <= HEADER_LEN as u64);
    }
});
