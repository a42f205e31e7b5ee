//! The lease of a node as all its actors see it: of which view it is, and until when.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use crate::protocol::types::{ClusterId, Epoch, Millis};
use crate::protocol::view::View;

/// The node's clock and lease. Written by the membership alone.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The node's monotonic clock counts from here.
    start: Instant,
    until: AtomicU64,
    cluster: AtomicU64,
    epoch: AtomicU64,
}

impl Lease {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            until: AtomicU64::new(0),
            cluster: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
        }
    }

    /// The node's clock.
    pub(crate) fn now(&self) -> Millis {
        Millis(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Whether this node may answer as a member of the view of that epoch: of no other, since whoever asks may still be
    /// at work in an earlier life of the node, or in a view whose actors others own in the next.
    pub(crate) fn is_valid(&self, cluster: ClusterId, epoch: Epoch) -> bool {
        // Asked twice: between the two the time is this view's. (While the name changes the time is 0, and no view
        // comes back.)
        self.is_of(cluster, epoch)
            && self.now().0 < self.until.load(SeqCst)
            && self.is_of(cluster, epoch)
    }

    /// Whether this node may answer as a member of that view.
    pub(crate) fn is_valid_in(&self, view: &View) -> bool {
        self.is_valid(view.cluster, view.epoch)
    }

    pub(crate) fn set(&self, view: &View, until: Millis) {
        if !self.is_of(view.cluster, view.epoch) {
            // Never the new view's name with the old one's time.
            self.until.store(0, SeqCst);
            self.cluster.store(view.cluster.0, SeqCst);
            self.epoch.store(view.epoch.0, SeqCst);
        }
        self.until.store(until.0, SeqCst);
    }

    fn is_of(&self, cluster: ClusterId, epoch: Epoch) -> bool {
        self.cluster.load(SeqCst) == cluster.0 && self.epoch.load(SeqCst) == epoch.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::types::{Member, NodeId};

    #[test]
    fn a_lease_is_of_one_view() {
        let member = Member {
            id: NodeId::new("a@h", 1),
            addr: Arc::from("h:1"),
        };
        let lease = Lease::new();
        let before = View::alone(ClusterId(7), member);
        let after = before.next(&[], None, &[]);
        let far = Millis(u64::MAX);
        lease.set(&before, far);
        assert!(lease.is_valid_in(&before) && !lease.is_valid_in(&after));
        lease.set(&after, far);
        assert!(!lease.is_valid_in(&before) && lease.is_valid_in(&after));
        lease.set(&after, Millis(0));
        assert!(!lease.is_valid_in(&after));
    }
}
