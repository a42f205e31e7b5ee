//! What the network layer counts: refusals by reason, bad frames, strangers, sessions.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// A reading of everything that is counted, since the start of the process.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)+ }

        impl Counters {
            /// Each count with its name.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }

        /// The running counts.
        #[derive(Debug, Default)]
        pub(crate) struct Tally { $($(#[$doc])* pub(crate) $name: AtomicU64,)+ }

        impl Tally {
            /// Reads all counts, one after the other.
            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Connections that our listener accepted.
    accepted,
    /// Connections closed in their handshake, because too many newer ones came.
    crowded,
    /// Connections that ended or stayed silent before their handshake was complete.
    unfinished,
    /// Connections that do not speak this protocol.
    not_a_node,
    /// Handshakes refused, by either side: other cookie.
    refused_cookie,
    /// Handshakes refused, by either side: no protocol version in common.
    refused_version,
    /// Handshakes refused, by either side: not the expected name, the node itself, or a name that is in use.
    refused_name,
    /// Handshakes refused, by either side: a life of the node that is over.
    refused_stale,
    /// Handshakes given up because the two are already connected, or one is not ready.
    refused_duplicate,
    /// Links that came up.
    links_up,
    /// Links that went down.
    links_down,
    /// Frames longer than the limit; each ended its session.
    oversized,
    /// Frames that are empty or cannot be decoded; each ended its session, or was dropped from the defect on.
    malformed,
    /// Messages that could be read, but break a rule of the protocol, so that no node of ours sends them; each was
    /// dropped.
    implausible,
    /// Frames of no link that exists (any more).
    unknown_link,
    /// Sessions that did not come through our handshake: somebody connected to ractor's own port.
    strangers,
    /// Links ended because the peer does not read what waits for it.
    congested,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Lets a log line through at most once a second, so that a hostile peer cannot fill the log.
#[derive(Debug)]
pub(crate) struct Throttle {
    start: Instant,
    /// Milliseconds since `start` at which the next line may pass.
    next_ms: AtomicU64,
    suppressed: AtomicU64,
}

/// One throttle for each kind of refusal, so that one kind cannot hide another.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Other cookie.
    pub(crate) cookie: Throttle,
    /// No version in common.
    pub(crate) version: Throttle,
    /// Wrong, own or used name.
    pub(crate) name: Throttle,
    /// A life that is over.
    pub(crate) stale: Throttle,
    /// Everything that is no node, and the rest.
    pub(crate) strangers: Throttle,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            next_ms: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }
}

impl Throttle {
    /// `Some(n)` if a line may be logged now, after `n` that were suppressed.
    pub(crate) fn pass(&self) -> Option<u64> {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = self.next_ms.load(Relaxed);
        let interval = u64::try_from(Duration::from_secs(1).as_millis()).unwrap_or(1_000);
        if now < next
            || self
                .next_ms
                .compare_exchange(next, now + interval, Relaxed, Relaxed)
                .is_err()
        {
            count(&self.suppressed);
            return None;
        }
        Some(self.suppressed.swap(0, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_line_within_a_second_is_suppressed() {
        let throttle = Throttle::default();
        assert_eq!(throttle.pass(), Some(0));
        assert_eq!(throttle.pass(), None);
        throttle.next_ms.store(0, Relaxed);
        assert_eq!(throttle.pass(), Some(1));
    }

    #[test]
    fn counts_are_read_back() {
        let tally = Tally::default();
        count(&tally.strangers);
        assert_eq!(
            tally.read(),
            Counters {
                strangers: 1,
                ..Counters::default()
            }
        );
    }
}
