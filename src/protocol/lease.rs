//! Who may answer clients, and who may vote whom out: pongs held, and promises given.
//!
//! ```text
//! pinger   ping sent ├───────── L ─────────┤ the pong counts
//! ponger      pong sent ├──────────── G > L ────────────┤ no vote that evicts the pinger
//! ```
//!
//! A node serves while a strict majority of its view counts for it. A decision needs votes of a quorum, none of
//! which counts any more for a node that the decided view evicts: so *a serving node is in every decided view* (L1).
//! Only the rates of the clocks matter, not what they show: each node measures its own spans.

use std::collections::BTreeMap;

use super::defect::{Defect, Planted};
use super::types::{Millis, NodeId};
use super::view::View;

/// The lease of one node in the view that it has installed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Lease {
    me: NodeId,
    lease: Millis,
    promise: Millis,
    voted: bool,
    /// Per other member: until when its last pong counts, until when it must not be voted out, and until when it gets
    /// no pongs.
    peers: BTreeMap<NodeId, Peer>,
    planted: Planted,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Peer {
    held_until: Millis,
    granted_until: Millis,
    withheld_until: Millis,
}

impl Lease {
    /// The lease of `me`, not in any view yet. `lease` is L, `promise` is G.
    pub fn new(me: NodeId, lease: Millis, promise: Millis) -> Self {
        Self {
            me,
            lease,
            promise,
            voted: false,
            peers: BTreeMap::new(),
            planted: Planted::NONE,
        }
    }

    /// Breaks a rule on purpose; only builds with debug assertions have something to plant.
    #[doc(hidden)]
    pub fn plant(&mut self, planted: impl Into<Planted>) {
        self.planted = planted.into();
    }

    /// A view is installed: pongs of the old one count no more, and every member gets a fresh promise. Without
    /// that promise a member that is still in the view before, served by pongs that others gave it there, could
    /// be voted out of the next one at once.
    pub fn install(&mut self, now: Millis, view: &View) {
        self.voted = false;
        let grace = if self.planted.has(Defect::NoGrace) {
            Millis(0)
        } else {
            self.promise
        };
        let fresh = Peer {
            granted_until: now + grace,
            ..Peer::default()
        };
        self.peers = view
            .ids()
            .filter(|id| **id != self.me)
            .map(|id| (id.clone(), fresh))
            .collect();
    }

    /// This node voted on the next view: it pongs nobody and does not count itself, until the next install.
    pub fn vote(&mut self) {
        self.voted = !self.planted.has(Defect::NoWedge);
    }

    /// A ping of the installed epoch came from `from`: whether to pong it. If so, the promise is given.
    pub fn ponged(&mut self, now: Millis, from: &NodeId) -> bool {
        match self.peers.get_mut(from) {
            Some(peer) if !self.voted && peer.withheld_until <= now => {
                peer.granted_until = now + self.promise;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A pong of the installed epoch came, to the ping sent at `sent`.
    pub fn pong(&mut self, now: Millis, from: &NodeId, sent: Millis) {
        if sent > now {
            return; // not an echo of this node's clock
        }
        if let Some(peer) = self.peers.get_mut(from) {
            peer.held_until = peer.held_until.max(sent + self.lease);
        }
    }

    /// Somebody wants `out` evicted: until `until` they get no pongs, so that the promises to them run out.
    pub fn withhold(&mut self, out: &[NodeId], until: Millis) {
        for id in out {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.withheld_until = until;
            }
        }
    }

    /// Whether this node may vote for a view without `out`. It may vote itself out: having voted, it does not
    /// count itself.
    pub fn may_evict(&self, now: Millis, out: &[NodeId], known_dead: &[NodeId]) -> bool {
        let short = self.planted.has(Defect::ShortWait);
        let now = now + Millis(if short { self.promise.0 / 2 } else { 0 });
        let over = |id: &NodeId| self.granted_until(id) <= now;
        self.planted.has(Defect::NoWait)
            || out
                .iter()
                .all(|id| *id == self.me || known_dead.contains(id) || over(id))
    }

    /// Until when this node may answer, as far as the pongs that it holds tell: the time until which a strict
    /// majority of the view counts, itself included unless it voted. `now` or earlier means not at all.
    pub fn leased_until(&self, now: Millis) -> Millis {
        let members = self.peers.len() + 1;
        let without_me = self.voted && !self.planted.has(Defect::WedgeButSelf);
        let others_needed = members / 2 + usize::from(without_me);
        if others_needed == 0 {
            return now + self.lease; // alone: nobody can vote it out
        }
        let mut held: Vec<Millis> = self.peers.values().map(|p| p.held_until).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        held.get(others_needed - 1).copied().unwrap_or_default()
    }

    /// Until when the last pong of `id` counts.
    pub fn held_until(&self, id: &NodeId) -> Millis {
        self.peers.get(id).map_or(Millis(0), |p| p.held_until)
    }

    /// Until when this node promised not to vote `id` out.
    pub fn granted_until(&self, id: &NodeId) -> Millis {
        self.peers.get(id).map_or(Millis(0), |p| p.granted_until)
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{ClusterId, Member};
    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::new(name, 1)
    }

    fn lease(names: &str) -> Lease {
        let member = |c: char| Member {
            id: id(&c.to_string()),
            addr: "h:1".into(),
        };
        let view = View {
            members: names.chars().map(member).collect(),
            ..View::alone(ClusterId(1), member('a'))
        };
        let mut lease = Lease::new(id("a"), Millis(1_000), Millis(1_250));
        lease.install(Millis(0), &view);
        lease
    }

    #[test]
    fn the_lease_lasts_as_long_as_a_strict_majority_counts() {
        let mut a = lease("abcd");
        a.pong(Millis(300), &id("b"), Millis(200));
        assert_eq!(
            a.leased_until(Millis(300)),
            Millis(0),
            "two of four are no majority"
        );
        a.pong(Millis(300), &id("c"), Millis(100));
        assert_eq!(a.leased_until(Millis(300)), Millis(1_100));
        a.pong(Millis(300), &id("d"), Millis(300));
        assert_eq!(a.leased_until(Millis(300)), Millis(1_200));
    }

    #[test]
    fn a_pong_counts_from_when_its_ping_was_sent_and_never_shortens() {
        let mut a = lease("ab");
        a.pong(Millis(900), &id("b"), Millis(500));
        a.pong(Millis(901), &id("b"), Millis(100));
        a.pong(Millis(902), &id("b"), Millis(7_000));
        assert_eq!(a.leased_until(Millis(902)), Millis(1_500));
    }

    #[test]
    fn who_voted_neither_counts_itself_nor_pongs() {
        let mut a = lease("abc");
        a.pong(Millis(0), &id("b"), Millis(0));
        assert_eq!(a.leased_until(Millis(0)), Millis(1_000));
        assert!(a.ponged(Millis(0), &id("b")));
        a.vote();
        assert_eq!(a.leased_until(Millis(0)), Millis(0));
        assert!(!a.ponged(Millis(0), &id("b")));
    }

    #[test]
    fn nobody_is_voted_out_while_a_promise_to_it_runs() {
        let mut a = lease("abc");
        assert!(a.ponged(Millis(100), &id("b")));
        assert!(!a.may_evict(Millis(1_349), &[id("b")], &[]));
        assert!(a.may_evict(Millis(1_350), &[id("b")], &[]));
        assert!(
            a.may_evict(Millis(100), &[id("b")], &[id("b")]),
            "the dead answer nobody"
        );
        assert!(
            a.may_evict(Millis(100), &[id("a")], &[]),
            "a voter counts itself no more"
        );
    }

    #[test]
    fn an_install_gives_every_member_a_fresh_promise() {
        let a = lease("ab");
        assert!(!a.may_evict(Millis(1_249), &[id("b")], &[]));
        assert!(a.may_evict(Millis(1_250), &[id("b")], &[]));
    }

    #[test]
    fn who_is_to_be_evicted_gets_no_pongs_so_that_its_promise_runs_out() {
        let mut a = lease("abc");
        a.withhold(&[id("b")], Millis(500));
        assert!(!a.ponged(Millis(499), &id("b")));
        assert!(a.ponged(Millis(499), &id("c")));
        assert!(
            a.ponged(Millis(500), &id("b")),
            "the proposal came to nothing"
        );
    }

    #[test]
    fn strangers_get_no_pong_and_count_nothing() {
        let mut a = lease("ab");
        assert!(!a.ponged(Millis(0), &id("x")));
        a.pong(Millis(0), &id("x"), Millis(0));
        assert_eq!(a.leased_until(Millis(0)), Millis(0));
    }

    #[test]
    fn a_node_alone_is_leased_until_it_votes() {
        let mut a = lease("a");
        assert_eq!(a.leased_until(Millis(5)), Millis(1_005));
        a.vote();
        assert_eq!(a.leased_until(Millis(5)), Millis(0));
    }
}
