//! How much waits in one part of the key space, in all its queues: what decides whether one more request may.
//!
//! ```text
//!   client ── admit ──▶ inbox ──▶ machine (held) ──▶ player ── room ──▶ inbox (outcome)
//! ```
//! The machine refuses by itself what goes beyond the limit, whoever asked; this keeps what its clients and players
//! offer from piling up before it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

/// The share of the limit that outcomes may have until players wait before they handle more.
const OUTCOMES_SHARE: usize = 4;

/// One client among those that wait, in the same number as the bytes of their requests: whoever counts takes a line of memory
/// from core to core, and waits for it.
const CALL: u64 = 1 << 40;

/// The most bytes that may wait in one part: in the bits below [`CALL`], with room for what is refused.
const BYTES_MAX: u64 = CALL / 2;

/// The most clients that may: in the bits above.
const CALLS_MAX: u64 = u64::MAX / CALL / 2;

/// What waits in one part.
#[derive(Debug)]
pub(crate) struct Load {
    max: usize,
    calls_max: usize,
    /// How many clients wait, and the bytes of those of their requests that the machine has not seen.
    asked: AtomicU64,
    /// What the machine holds.
    held: AtomicUsize,
    /// Of states and replies that the machine has not seen yet.
    outcomes: AtomicUsize,
    /// Outcomes were taken.
    room: Notify,
}

impl Load {
    /// At most `max` bytes, and `calls_max` clients; and never more than half a tebibyte, and eight million.
    pub(crate) fn new(max: usize, calls_max: usize) -> Self {
        Self {
            max: (max as u64).min(BYTES_MAX) as usize,
            calls_max: (calls_max as u64).min(CALLS_MAX) as usize,
            asked: AtomicU64::new(0),
            held: AtomicUsize::new(0),
            outcomes: AtomicUsize::new(0),
            room: Notify::new(),
        }
    }

    /// The most bytes that the machine may hold.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// All bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.queued() + self.held.load(Relaxed) + self.outcomes.load(Relaxed)
    }

    /// Counts a client that waits from now on, with a request on its way to the machine; false if there is no room for it.
    pub(crate) fn admit(&self, bytes: usize) -> bool {
        let before = self.asked.fetch_add(CALL + bytes as u64, Relaxed);
        let fits = bytes_of(before) + self.held.load(Relaxed) + bytes <= self.max
            && calls_of(before) < self.calls_max;
        if !fits {
            self.answered(bytes);
        }
        fits
    }

    /// A client does not wait any more whose request the machine has not seen, and will not see.
    pub(crate) fn answered(&self, bytes: usize) {
        self.asked.fetch_sub(CALL + bytes as u64, Relaxed);
    }

    /// The machine has seen a request, or nobody waits for it any more.
    pub(crate) fn taken(&self, bytes: usize) {
        self.asked.fetch_sub(bytes as u64, Relaxed);
    }

    /// So many clients do not wait any more.
    pub(crate) fn wait_over(&self, calls: usize) {
        self.asked.fetch_sub(CALL * calls as u64, Relaxed);
    }

    /// Whether a request was admitted that the machine has not seen.
    pub(crate) fn is_queued(&self) -> bool {
        self.queued() > 0
    }

    fn queued(&self) -> usize {
        bytes_of(self.asked.load(Relaxed))
    }

    /// How many clients wait.
    pub(crate) fn calls(&self) -> usize {
        calls_of(self.asked.load(Relaxed))
    }

    /// What the machine holds now.
    pub(crate) fn set_held(&self, bytes: usize) {
        self.held.store(bytes, Relaxed);
    }

    /// A player waits here until what the players have done is taken, before it does more.
    pub(crate) async fn room(&self) {
        while !self.has_room() {
            let taken = self.room.notified();
            // It may have been taken meanwhile.
            if self.has_room() {
                return;
            }
            taken.await;
        }
    }

    /// Whether players may do more.
    pub(crate) fn has_room(&self) -> bool {
        self.outcomes.load(Relaxed) < self.max / OUTCOMES_SHARE
    }

    /// Counts what a player has done.
    pub(crate) fn outcome(&self, bytes: usize) {
        self.outcomes.fetch_add(bytes, Relaxed);
    }

    /// The machine has seen so much of that.
    pub(crate) fn outcomes_taken(&self, bytes: usize) {
        if bytes > 0 {
            self.outcomes.fetch_sub(bytes, Relaxed);
            self.room.notify_waiters();
        }
    }
}

fn bytes_of(asked: u64) -> usize {
    (asked % CALL) as usize
}

fn calls_of(asked: u64) -> usize {
    (asked / CALL) as usize
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_does_not_fit_is_not_counted() {
        let load = Load::new(100, 2);
        assert!(load.admit(60));
        assert!(!load.admit(60));
        load.set_held(50);
        load.taken(60);
        assert!(load.admit(50));
        assert_eq!((load.bytes(), load.calls()), (100, 2));
        load.set_held(0);
        // It fits, but too many wait.
        assert!(!load.admit(1));
        load.wait_over(1);
        assert!(load.admit(1));
        load.answered(1);
        assert_eq!((load.bytes(), load.calls()), (50, 1));
        load.set_held(51);
        assert!(!load.admit(0));
        assert_eq!((load.bytes(), load.calls()), (101, 1));
    }

    #[test]
    fn no_limit_is_too_large_to_be_counted() {
        let load = Load::new(usize::MAX, usize::MAX);
        assert!(load.admit(load.max()));
        assert!(!load.admit(load.max()));
        assert_eq!((load.bytes() as u64, load.calls()), (BYTES_MAX, 1));
        load.answered(load.max());
        assert_eq!((load.bytes(), load.calls()), (0, 0));
    }

    #[test]
    fn a_player_waits_until_outcomes_are_taken() {
        let load = Load::new(100, 1);
        assert!(load.room().now_or_never().is_some());
        load.outcome(30);
        let mut waiting = Box::pin(load.room());
        assert!((&mut waiting).now_or_never().is_none());
        load.outcomes_taken(30);
        assert!(waiting.now_or_never().is_some());
        assert_eq!(load.bytes(), 0);
    }
}
