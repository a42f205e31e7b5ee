//! How fast copies go out that nobody waits for: so that the cluster heals soon, and clients do not stop for that. They share
//! frames with what clients wait for, as many of them as there is of that; so clients keep about half of a busy machine,
//! however many they are and wherever the copies go, and no node heals the slower for having much to do. The next ones wait
//! until this frame was taken in.

use crate::wire::FRAME_BYTES;

/// How many more of them go beside what clients wait for: there may be little of that.
const BESIDE: usize = 12;

/// How many go in a frame of a part that no client waits for.
const ALONE: usize = 32;

/// So many bytes of them go in any frame.
const BYTES_MIN: usize = 32 * 1024;

/// With so many keys waiting for one peer that nobody waits for, a frame of them, no further ones are looked for: what was
/// looked at is to be in the cache still when it is sent.
pub(super) const AHEAD_MAX: usize = ALONE;

/// How much of them goes in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pace {
    /// So many.
    pub(super) count: usize,
    /// None after so many bytes of them.
    pub(super) bytes: usize,
}

impl Pace {
    /// Beside so many messages that clients wait for, and so many bytes of them. `is_asked`: clients wait for the part, if not
    /// for anything in this frame.
    pub(super) fn beside(awaited: usize, bytes: usize, is_asked: bool) -> Self {
        let count = if is_asked || awaited > 0 {
            awaited + BESIDE
        } else {
            ALONE
        };
        Self {
            count,
            bytes: bytes.clamp(BYTES_MIN, FRAME_BYTES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(awaited: usize, bytes: usize, is_asked: bool) -> (usize, usize) {
        let Pace { count, bytes } = Pace::beside(awaited, bytes, is_asked);
        (count, bytes)
    }

    #[test]
    fn clients_get_no_less_than_what_heals_and_it_goes_on_whatever_they_ask() {
        let few = pace(2, 60, true);
        assert_eq!(few, (2 + BESIDE, BYTES_MIN));
        let many = pace(1_000, 100_000, true);
        assert_eq!(many, (1_000 + BESIDE, 100_000));
        let long = pace(1, 4 * 1024 * 1024, true);
        assert_eq!(long, (1 + BESIDE, FRAME_BYTES));
    }

    #[test]
    fn a_frame_without_clients_is_not_one_of_a_part_without() {
        assert_eq!(pace(0, 0, true).0, BESIDE);
        assert_eq!(pace(0, 0, false).0, ALONE);
    }
}
