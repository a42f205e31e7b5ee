//! A node gets to know all members of a cluster before it asks to be admitted. What members send to one that was just
//! admitted waits until they are linked with it, and so do their clients; a link takes several times as long as all that
//! is left to do then. So a member shows its view to whoever is linked with it and is none, before it says anything else,
//! and a node that is alone links itself to all members of that view first. Who is alone has no view to show, and asks for
//! the other's: then there is nobody to meet.
//!
//! ```text
//!   LinkUp ──▶ ViewIs ──▶ dials ──┬──▶ met
//!     └──────▶ ViewWanted ────────┘     │
//!                   connect, Invite ──▶ held ──▶ the machine
//!                                         └─ time over ─▶
//! ```
//! This changes when a node asks and nothing else. A member that is out of reach holds it up for a bounded time.

use std::collections::BTreeMap;

use crate::protocol::types::{Millis, NodeId};

/// How many heartbeats something waits at most: far fewer than whoever wants this node to join waits for that.
const PATIENCE_HEARTBEATS: u64 = 5;

/// What comes beyond that many does not wait.
const HELD_MAX: usize = 64;

/// Whom a node that is alone got to know, and what waits for that.
#[derive(Debug)]
pub(super) struct Acquaintance<T> {
    /// Linked peers that have shown their view, or have none, and whether its members were dialled.
    peers: BTreeMap<NodeId, bool>,
    held: Vec<Held<T>>,
    patience: Millis,
}

#[derive(Debug)]
struct Held<T> {
    peer: NodeId,
    until: Millis,
    item: T,
}

impl<T> Acquaintance<T> {
    /// Nobody is known yet.
    pub(super) fn new(heartbeat: Millis) -> Self {
        Self {
            peers: BTreeMap::new(),
            held: Vec::new(),
            patience: Millis(heartbeat.0.saturating_mul(PATIENCE_HEARTBEATS)),
        }
    }

    /// A linked peer shows its view, or that it has none: whether that is news.
    pub(super) fn begin(&mut self, peer: &NodeId) -> bool {
        let is_new = !self.peers.contains_key(peer);
        if is_new {
            self.peers.insert(peer.clone(), false);
        }
        is_new
    }

    /// The members of that peer's view were dialled, whatever came of it.
    pub(super) fn met(&mut self, peer: &NodeId) {
        if let Some(met) = self.peers.get_mut(peer) {
            *met = true;
        }
    }

    /// That link has ended.
    pub(super) fn forget(&mut self, peer: &NodeId) {
        self.peers.remove(peer);
    }

    /// Keeps what would have this node ask `peer`, or gives it back: it need not wait.
    pub(super) fn hold(&mut self, now: Millis, peer: &NodeId, item: T) -> Option<T> {
        if has_met(&self.peers, peer) || self.held.len() >= HELD_MAX {
            return Some(item);
        }
        let until = now + self.patience;
        let peer = peer.clone();
        self.held.push(Held { peer, until, item });
        None
    }

    /// What has waited long enough, in order.
    pub(super) fn due(&mut self, now: Millis) -> Vec<T> {
        let peers = &self.peers;
        let due = |held: &mut Held<T>| held.until <= now || has_met(peers, &held.peer);
        let due = self.held.extract_if(.., due);
        due.map(|held| held.item).collect()
    }
}

fn has_met(peers: &BTreeMap<NodeId, bool>, peer: &NodeId) -> bool {
    peers.get(peer).is_some_and(|met| *met)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Millis = Millis(20);

    fn id(name: &str) -> NodeId {
        NodeId::new(name, 1)
    }

    #[test]
    fn what_asks_a_cluster_waits_until_its_members_were_dialled() {
        let mut acquaintance = Acquaintance::new(HEARTBEAT);
        assert_eq!(acquaintance.hold(Millis(0), &id("a@h"), 1), None);
        assert_eq!(acquaintance.hold(Millis(0), &id("b@h"), 2), None);
        assert!(acquaintance.begin(&id("a@h")));
        assert!(!acquaintance.begin(&id("a@h")), "once is enough");
        assert_eq!(acquaintance.due(Millis(1)), []);
        acquaintance.met(&id("a@h"));
        assert_eq!(acquaintance.due(Millis(1)), [1]);
        assert_eq!(acquaintance.hold(Millis(1), &id("a@h"), 3), Some(3));
    }

    #[test]
    fn a_member_out_of_reach_holds_nobody_up_for_ever() {
        let mut acquaintance = Acquaintance::new(HEARTBEAT);
        assert_eq!(acquaintance.hold(Millis(5), &id("a@h"), 1), None);
        assert!(acquaintance.begin(&id("a@h")));
        assert_eq!(acquaintance.due(Millis(104)), []);
        assert_eq!(acquaintance.due(Millis(105)), [1]);
    }

    #[test]
    fn who_was_linked_before_is_met_again() {
        let mut acquaintance = Acquaintance::new(HEARTBEAT);
        assert!(acquaintance.begin(&id("a@h")));
        acquaintance.forget(&id("a@h"));
        acquaintance.met(&id("a@h"));
        assert_eq!(acquaintance.hold(Millis(0), &id("a@h"), 1), None);
        assert!(acquaintance.begin(&id("a@h")));
    }
}
