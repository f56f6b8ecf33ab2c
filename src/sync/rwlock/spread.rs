//! Which place a thread looks at first
//!
//! Threads that came one after the other have numbers one after the other. So many of them as there are places have different ones to look
//! at, and those of neighbours are in different cache lines, if there are enough.

/// The first one to look at, of so many places for readers.
#[inline]
pub(super) fn first_place<const PLACES: usize>(thread: u32) -> usize {
    (thread as usize).wrapping_mul(const { stride(PLACES) }).checked_rem(PLACES).unwrap_or(0)
}

/// The least number from 9 on that has no divisor in common with `places`: its multiples come to all of them before they repeat.
const fn stride(places: usize) -> usize {
    let mut stride = 9_usize;
    // Of no places all numbers are divisors.
    while places != 0 && common_divisor(stride, places) != 1 {
        stride = stride.wrapping_add(1);
    }
    stride
}

const fn common_divisor(mut one: usize, mut other: usize) -> usize {
    while let Some(rest) = one.checked_rem(other) {
        (one, other) = (other, rest);
    }
    one
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    extern crate std;
    use std::collections::BTreeSet;

    fn are_spread<const PLACES: usize>() {
        for thread in [1, 9, 1000, (1 << 22) - PLACES as u32] {
            let places = (thread..).take(PLACES).map(first_place::<PLACES>);
            assert_eq!(places.collect::<BTreeSet<_>>().len(), PLACES, "{PLACES} from {thread}");
            let apart = first_place::<PLACES>(thread).abs_diff(first_place::<PLACES>(thread + 1));
            let are_enough = PLACES >= 2 * stride(PLACES);
            assert!(!are_enough || apart > 8, "{PLACES} from {thread}: {apart}");
        }
    }

    #[test]
    fn as_many_threads_as_places_have_different_ones() {
        are_spread::<1>();
        are_spread::<2>();
        are_spread::<3>();
        are_spread::<8>();
        are_spread::<9>();
        are_spread::<10>();
        are_spread::<30>();
        are_spread::<32>();
        are_spread::<210>();
        are_spread::<2310>();
    }
}
