//! How large a heap must be

use super::lists::SEARCH;
use super::{MAX_HEAP, chain};
use crate::heap::Demand;
use crate::object::{BLOCK_HEADER_LEN, MIN_BLOCK_LEN};

/// Bytes that a list is coarser than the blocks in it: blocks of one list differ by less than this part of their size.
const COARSENESS: u64 = 16;

/// Blocks are cut from the front of what is left at the end, or lie in the gaps before others; so that is what a row of
/// them takes.
///
/// What is left is found by the list that it stands in only if it is a little larger than the request. A search finds it
/// in any case, if there are not too many gaps that it may look at first.
pub(super) fn required_len(demand: &Demand<'_>) -> Option<u64> {
    let row = demand.row()?;
    let reserve = if row.aligned.saturating_add(TABLES) < SEARCH {
        0
    } else {
        row.longest.saturating_add(row.largest_gap).div_ceil(COARSENESS).saturating_add(row.largest_gap)
    };
    let blocks = row.bytes.saturating_add(reserve.next_multiple_of(MIN_BLOCK_LEN)).max(MIN_BLOCK_LEN);
    let mut len = 0;
    // The words before the first block take more, the longer the heap is: up to the length that fits both.
    loop {
        let needed = chain::first_of(len).saturating_add(blocks).saturating_add(BLOCK_HEADER_LEN);
        if needed > MAX_HEAP {
            return None;
        }
        if needed <= len {
            return Some(len);
        }
        len = needed;
    }
}

/// Gaps that tables of the directory leave which were replaced by larger ones: one for each doubling.
const TABLES: u64 = 33;
