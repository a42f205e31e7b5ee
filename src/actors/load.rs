//! How much waits in one part of the key space, in all its queues: what decides whether one more request may.
//!
//! ```text
//!   client ── admit ──▶ inbox ──▶ machine (held) ──▶ player ── room ──▶ inbox (outcome)
//! ```
//! The machine refuses by itself what goes beyond the limit, whoever asked; this keeps what its clients and players
//! offer from piling up before it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

use super::calls::Refused;

/// The share of the limit that outcomes may have until players wait before they handle more.
const OUTCOMES_SHARE: usize = 4;

/// What waits in one part.
#[derive(Debug)]
pub(crate) struct Load {
    max: usize,
    /// Looked at before a request is handled, and kept where one that begins to wait can still be refused.
    calls_max: usize,
    /// How many clients wait.
    calls: AtomicUsize,
    /// Of requests that the machine has not seen yet.
    queued: AtomicUsize,
    /// What the machine holds.
    held: AtomicUsize,
    /// Of states and replies that the machine has not seen yet.
    outcomes: AtomicUsize,
    /// Outcomes were taken.
    room: Notify,
}

impl Load {
    /// At most `max` bytes, and `calls_max` clients.
    pub(crate) fn new(max: usize, calls_max: usize) -> Self {
        Self {
            max,
            calls_max,
            calls: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
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
        self.queued.load(Relaxed) + self.held.load(Relaxed) + self.outcomes.load(Relaxed)
    }

    /// Counts a request of a client on its way to the machine; false if there is no room for it.
    pub(crate) fn admit(&self, bytes: usize) -> bool {
        let before = self.queued.fetch_add(bytes, Relaxed);
        let fits = before + self.held.load(Relaxed) + bytes <= self.max
            && self.calls.load(Relaxed) < self.calls_max;
        if !fits {
            self.queued.fetch_sub(bytes, Relaxed);
        }
        fits
    }

    /// The machine has seen it, or it was answered without it.
    pub(crate) fn taken(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Relaxed);
    }

    /// Whether a request was admitted that the machine has not seen.
    pub(crate) fn is_queued(&self) -> bool {
        self.queued.load(Relaxed) > 0
    }

    /// A client waits from now on, if it may.
    pub(crate) fn wait(&self) -> Result<(), Refused> {
        if self.calls.fetch_add(1, Relaxed) >= self.calls_max {
            self.wait_over(1);
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// The same for one whose request was handled already, or is being handled, so that it must not be refused: whoever
    /// handles it has seen that there was room, so that there are never more beyond the limit than there are threads.
    pub(crate) fn wait_begun(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    /// So many clients do not wait any more.
    pub(crate) fn wait_over(&self, calls: usize) {
        self.calls.fetch_sub(calls, Relaxed);
    }

    /// How many clients wait.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Relaxed)
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn what_does_not_fit_is_not_counted() {
        let load = Load::new(100, 1);
        assert!(load.admit(60));
        assert!(!load.admit(60));
        load.set_held(50);
        load.taken(60);
        assert!(load.admit(50));
        assert!(!load.admit(1));
        assert_eq!(load.bytes(), 100);
        load.taken(50);
        assert_eq!(load.wait(), Ok(()));
        assert!(!load.admit(1));
        assert_eq!(load.wait(), Err(Refused::Full));
        load.wait_over(1);
        assert!(load.admit(1));
        load.wait_begun();
        assert_eq!(load.calls(), 1);
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
