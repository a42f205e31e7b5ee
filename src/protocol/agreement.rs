//! One single-decree Paxos instance (Lamport, "Paxos made simple", 2001): the members of the installed view
//! decide the view that follows it. What was promised and accepted lives in memory only; that is sound, since
//! a restarted process is another identity, which has no vote here.
//!
//! ```text
//! proposer        Prepare{b, out}      Accept{b, view}        decided
//!     │  ─────────────▶  │  ─────────────▶  │  ─────────────▶  (ViewIs, see members)
//! acceptors       Promise{b, accepted}   Accepted{b}
//! ```
//!
//! Where the lease guards the votes (see [`super::lease`]): *safety* needs it only at `Accept`, the vote
//! that counts for a view: no acceptor accepts a view while a promise of its own to somebody that this view evicts
//! runs. `Prepare` says whom its proposer wants out as well, for *liveness* and for quiet: an acceptor stops
//! ponging those at once, and promises the ballot only after its promises to them ran out. So it does not sit
//! wedged, ponging nobody, for that time, and when phase 1 is over phase 2 needs no further waiting, unless the
//! value rule brought in another view.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::defect::{Defect, Planted};
use super::types::NodeId;
use super::view::View;

/// Rounds beyond this are nonsense, and ignored: no honest node gets there, and a greater one could not be outbid.
const ROUND_MAX: u64 = 1 << 48;

/// Numbers a proposal; no two proposers ever share one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Ballot {
    /// Greater than every round that the proposer has seen.
    pub round: u64,
    /// The proposer.
    pub node: NodeId,
}

/// A step of the agreement, from member to member.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Msg {
    /// Phase 1: the proposer asks for the right to propose.
    Prepare {
        /// Its ballot.
        ballot: Ballot,
        /// Whom it intends to evict: they get no more pongs, so that the promises to them run out.
        out: Vec<NodeId>,
    },
    /// The sender votes for no lower ballot any more. To the proposer of a lower ballot it is a refusal, which
    /// tells it what to outbid.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The last view that the sender accepted, which may be decided already.
        accepted: Option<(Ballot, View)>,
    },
    /// Phase 2: the proposer asks for votes.
    Accept {
        /// Its ballot.
        ballot: Ballot,
        /// The view: its own wish, or the accepted one of the highest ballot among the promises.
        view: View,
    },
    /// The sender voted for the view of that ballot.
    Accepted {
        /// The ballot.
        ballot: Ballot,
    },
}

/// What the agreement wants done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Send to one member, which can be this node itself.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        msg: Msg,
    },
    /// Send to every member, this node included: its own vote is nothing special.
    Broadcast(Msg),
    /// The step just received asks for a vote that the lease does not allow yet; give it in again later.
    Wait,
    /// This view is decided.
    Decided(View),
}

/// One node's part in the decision on one epoch: acceptor and, at times, proposer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Agreement {
    me: NodeId,
    acceptors: Vec<NodeId>,
    /// The highest round seen, own ones included.
    round: u64,
    promised: Option<Ballot>,
    accepted: Option<(Ballot, View)>,
    proposal: Option<Proposal>,
    planted: Planted,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Proposal {
    ballot: Ballot,
    wish: View,
    outbid: bool,
    phase: Phase,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Phase {
    Promises(BTreeMap<NodeId, Option<(Ballot, View)>>),
    Votes { view: View, votes: BTreeSet<NodeId> },
}

/// Whether `votes` may decide for `members` when `me` counts them: more than half, or exactly half when all the
/// others are known dead. Only members count, and the counter must be among them: it lives, so that nobody can
/// know it dead and complete the other half. An outsider could still complete a half whose last node is gone.
pub fn is_quorum<'a>(
    me: &NodeId,
    members: &[NodeId],
    votes: impl Iterator<Item = &'a NodeId>,
    dead: &[NodeId],
    planted: Planted,
) -> bool {
    let votes: BTreeSet<&NodeId> = votes.filter(|v| members.contains(v)).collect();
    if !votes.contains(me) && !planted.has(Defect::Outsider) {
        return false;
    }
    let twice = 2 * votes.len();
    let others_dead = || {
        members
            .iter()
            .filter(|m| !votes.contains(m))
            .all(|m| dead.contains(m))
    };
    let half = twice == members.len() || planted.has(Defect::UnboundedDead) && twice > 0;
    twice > members.len() || (half && (others_dead() || planted.has(Defect::Half)))
}

impl Agreement {
    /// The instance in which the members of `view` decide what follows it.
    pub fn new(me: NodeId, view: &View) -> Self {
        let acceptors = view.ids().cloned().collect();
        Self {
            me,
            acceptors,
            round: 0,
            promised: None,
            accepted: None,
            proposal: None,
            planted: Planted::NONE,
        }
    }

    /// Breaks a rule on purpose; only builds with debug assertions have something to plant.
    #[doc(hidden)]
    pub fn plant(&mut self, planted: impl Into<Planted>) {
        self.planted = planted.into();
    }

    /// Whether this node gave any vote: then it pongs nobody and does not count itself until the decision.
    pub fn voted(&self) -> bool {
        self.promised.is_some()
    }

    /// Whether an own proposal is under way.
    pub fn proposing(&self) -> bool {
        self.proposal.is_some()
    }

    /// What the own proposal wished for, which need not be what gets decided.
    pub fn wish(&self) -> Option<&View> {
        self.proposal.as_ref().map(|p| &p.wish)
    }

    /// Whether somebody prepared a higher ballot than that of the own proposal.
    pub fn outbid(&self) -> bool {
        self.proposal.as_ref().is_some_and(|p| p.outbid)
    }

    /// Whom `view` evicts.
    pub fn evicted(&self, view: &View) -> Vec<NodeId> {
        self.acceptors
            .iter()
            .filter(|id| !view.contains(id))
            .cloned()
            .collect()
    }

    /// Starts a proposal under a new ballot, in place of any earlier one of this node.
    pub fn propose(&mut self, wish: View, effects: &mut Vec<Effect>) {
        if !self.has_part(&self.me) {
            return;
        }
        self.round += 1;
        let ballot = Ballot {
            round: self.round,
            node: self.me.clone(),
        };
        let out = self.evicted(&wish);
        let phase = Phase::Promises(BTreeMap::new());
        self.proposal = Some(Proposal {
            ballot: ballot.clone(),
            wish,
            outbid: false,
            phase,
        });
        effects.push(Effect::Broadcast(Msg::Prepare { ballot, out }));
    }

    /// Asks again those that did not answer the current step.
    pub fn resend(&self, effects: &mut Vec<Effect>) {
        let Some(Proposal {
            ballot,
            wish,
            phase,
            ..
        }) = &self.proposal
        else {
            return;
        };
        let (msg, answered): (Msg, BTreeSet<&NodeId>) = match phase {
            Phase::Promises(promises) => (
                Msg::Prepare {
                    ballot: ballot.clone(),
                    out: self.evicted(wish),
                },
                promises.keys().collect(),
            ),
            Phase::Votes { view, votes } => (
                Msg::Accept {
                    ballot: ballot.clone(),
                    view: view.clone(),
                },
                votes.iter().collect(),
            ),
        };
        let silent = self.acceptors.iter().filter(|id| !answered.contains(id));
        effects.extend(silent.map(|to| Effect::Send {
            to: to.clone(),
            msg: msg.clone(),
        }));
    }

    /// Gives the own proposal up. Votes already given stay given.
    pub fn abandon(&mut self) {
        self.proposal = None;
    }

    /// A step arrived. `dead` are the known dead; `may_evict` says whether the lease allows a vote that evicts
    /// these.
    pub fn receive(
        &mut self,
        from: &NodeId,
        msg: Msg,
        dead: &[NodeId],
        may_evict: impl Fn(&[NodeId]) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        if !self.has_part(from) || !self.has_part(&self.me) {
            return;
        }
        match msg {
            Msg::Prepare { ballot, out } => self.on_prepare(from, ballot, &out, may_evict, effects),
            Msg::Promise { ballot, accepted } => {
                self.on_promise(from, ballot, accepted, dead, effects)
            }
            Msg::Accept { ballot, view } => self.on_accept(from, ballot, view, may_evict, effects),
            Msg::Accepted { ballot } => self.on_accepted(from, &ballot, dead, effects),
        }
    }

    /// Only members propose, vote and count votes.
    fn has_part(&self, id: &NodeId) -> bool {
        self.acceptors.contains(id) || self.planted.has(Defect::Outsider)
    }

    /// Counts again, since more members are known dead.
    pub fn reconsider(&mut self, dead: &[NodeId], effects: &mut Vec<Effect>) {
        let Some(Proposal {
            ballot,
            wish,
            phase,
            ..
        }) = &mut self.proposal
        else {
            return;
        };
        match phase {
            Phase::Promises(promises) => {
                let quorum = is_quorum(
                    &self.me,
                    &self.acceptors,
                    promises.keys(),
                    dead,
                    self.planted,
                );
                if !quorum && !self.planted.has(Defect::NoPhase1) {
                    return;
                }
                // The value rule: what might be decided already must be proposed again.
                let highest = promises.values().flatten().max_by(|a, b| a.0.cmp(&b.0));
                let view = highest.map_or_else(|| wish.clone(), |(_, view)| view.clone());
                effects.push(Effect::Broadcast(Msg::Accept {
                    ballot: ballot.clone(),
                    view: view.clone(),
                }));
                *phase = Phase::Votes {
                    view,
                    votes: BTreeSet::new(),
                };
            }
            Phase::Votes { view, votes } => {
                if is_quorum(&self.me, &self.acceptors, votes.iter(), dead, self.planted) {
                    effects.push(Effect::Decided(view.clone()));
                    self.proposal = None;
                }
            }
        }
    }

    fn on_prepare(
        &mut self,
        from: &NodeId,
        ballot: Ballot,
        out: &[NodeId],
        may_evict: impl Fn(&[NodeId]) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        if ballot.node != *from || !self.admissible(&ballot, from, effects) {
            return;
        }
        if self
            .accepted
            .as_ref()
            .is_some_and(|(accepted, _)| *accepted == ballot)
        {
            return; // a late duplicate: the proposer is in phase 2 already
        }
        if !may_evict(out) {
            return effects.push(Effect::Wait);
        }
        self.promised = Some(ballot.clone());
        let msg = Msg::Promise {
            ballot,
            accepted: self.accepted.clone(),
        };
        effects.push(Effect::Send {
            to: from.clone(),
            msg,
        });
    }

    fn on_promise(
        &mut self,
        from: &NodeId,
        ballot: Ballot,
        accepted: Option<(Ballot, View)>,
        dead: &[NodeId],
        effects: &mut Vec<Effect>,
    ) {
        self.see(&ballot);
        match &mut self.proposal {
            Some(Proposal {
                ballot: mine,
                phase: Phase::Promises(promises),
                ..
            }) if *mine == ballot => {
                promises.entry(from.clone()).or_insert(accepted);
                self.reconsider(dead, effects);
            }
            Some(_) | None => {} // late, or only to tell what to outbid
        }
    }

    fn on_accept(
        &mut self,
        from: &NodeId,
        ballot: Ballot,
        view: View,
        may_evict: impl Fn(&[NodeId]) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        if ballot.node != *from || !self.admissible(&ballot, from, effects) {
            return;
        }
        if self
            .accepted
            .as_ref()
            .is_some_and(|(accepted, other)| *accepted == ballot && *other != view)
        {
            return; // one ballot, two views: no honest proposer does that
        }
        if !may_evict(&self.evicted(&view)) {
            return effects.push(Effect::Wait);
        }
        self.promised = Some(ballot.clone());
        self.accepted = Some((ballot.clone(), view));
        effects.push(Effect::Send {
            to: from.clone(),
            msg: Msg::Accepted { ballot },
        });
    }

    fn on_accepted(
        &mut self,
        from: &NodeId,
        ballot: &Ballot,
        dead: &[NodeId],
        effects: &mut Vec<Effect>,
    ) {
        match &mut self.proposal {
            Some(Proposal {
                ballot: mine,
                phase: Phase::Votes { votes, .. },
                ..
            }) if mine == ballot => {
                votes.insert(from.clone());
                self.reconsider(dead, effects);
            }
            Some(_) | None => {}
        }
    }

    /// Whether a vote in that ballot would break no promise; if it would, its proposer is told.
    fn admissible(&mut self, ballot: &Ballot, from: &NodeId, effects: &mut Vec<Effect>) -> bool {
        if ballot.round > ROUND_MAX {
            return false;
        }
        self.see(ballot);
        match &self.promised {
            Some(promised) if promised > ballot => {
                let msg = Msg::Promise {
                    ballot: promised.clone(),
                    accepted: None,
                };
                effects.push(Effect::Send {
                    to: from.clone(),
                    msg,
                });
                false
            }
            Some(_) | None => true,
        }
    }

    fn see(&mut self, ballot: &Ballot) {
        if ballot.round > ROUND_MAX {
            return;
        }
        self.round = self.round.max(ballot.round);
        if let Some(proposal) = &mut self.proposal {
            proposal.outbid |= *ballot > proposal.ballot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{ClusterId, Member};
    use super::*;

    fn is_quorum<'a>(
        me: &NodeId,
        members: &[NodeId],
        votes: impl Iterator<Item = &'a NodeId>,
        dead: &[NodeId],
    ) -> bool {
        super::is_quorum(me, members, votes, dead, Planted::NONE)
    }

    fn id(name: &str) -> NodeId {
        NodeId::new(name, 1)
    }

    fn view(names: &str) -> View {
        let member = |c: char| Member {
            id: id(&c.to_string()),
            addr: "h:1".into(),
        };
        View {
            members: names.chars().map(member).collect(),
            ..View::alone(ClusterId(1), member('a'))
        }
    }

    /// All machines of `names`, of which the first `up` run; every message arrives, in order.
    struct Net {
        nodes: Vec<Agreement>,
        up: usize,
        dead: Vec<NodeId>,
        decided: Vec<View>,
    }

    impl Net {
        fn new(names: &str, up: usize) -> Self {
            let v = view(names);
            let nodes = v.ids().map(|i| Agreement::new(i.clone(), &v)).collect();
            Self {
                nodes,
                up,
                dead: Vec::new(),
                decided: Vec::new(),
            }
        }

        fn propose(&mut self, node: usize, wish: &View) {
            let mut effects = Vec::new();
            self.nodes[node].propose(wish.clone(), &mut effects);
            self.settle(node, effects);
        }

        fn settle(&mut self, node: usize, effects: Vec<Effect>) {
            let from = self.nodes[node].me.clone();
            for effect in effects {
                match effect {
                    Effect::Broadcast(msg) => {
                        (0..self.up).for_each(|to| self.deliver(&from, to, &msg))
                    }
                    Effect::Send { to, msg } => {
                        let to = (0..self.up).find(|n| self.nodes[*n].me == to);
                        to.into_iter().for_each(|to| self.deliver(&from, to, &msg));
                    }
                    Effect::Decided(view) => self.decided.push(view),
                    Effect::Wait => {}
                }
            }
        }

        fn deliver(&mut self, from: &NodeId, to: usize, msg: &Msg) {
            let mut effects = Vec::new();
            self.nodes[to].receive(from, msg.clone(), &self.dead, |_| true, &mut effects);
            self.settle(to, effects);
        }
    }

    #[test]
    fn a_majority_decides() {
        let mut net = Net::new("abc", 2);
        net.propose(0, &view("ab"));
        assert_eq!(net.decided, [view("ab")]);
    }

    #[test]
    fn a_minority_decides_nothing_and_stays_wedged() {
        let mut net = Net::new("abc", 1);
        net.propose(0, &view("ab"));
        assert_eq!(net.decided, []);
        assert!(net.nodes[0].voted());
    }

    #[test]
    fn half_the_members_decide_only_if_the_others_are_known_dead() {
        let mut net = Net::new("abcd", 2);
        net.dead = vec![id("c")];
        net.propose(0, &view("ab"));
        assert_eq!(net.decided, []);
        net.dead.push(id("d"));
        let mut effects = Vec::new();
        net.nodes[0].reconsider(&net.dead.clone(), &mut effects);
        net.settle(0, effects);
        assert_eq!(net.decided, [view("ab")]);
    }

    #[test]
    fn less_than_half_never_decides_however_many_are_dead() {
        let mut net = Net::new("abc", 1);
        net.dead = vec![id("b"), id("c")];
        net.propose(0, &view("a"));
        assert_eq!(net.decided, []);
    }

    #[test]
    fn only_members_count_and_the_counter_is_one_of_the_votes() {
        let members = [id("a"), id("b")];
        let dead = [id("b")];
        assert!(is_quorum(&id("a"), &members, [id("a")].iter(), &dead));
        assert!(!is_quorum(&id("b"), &members, [id("a")].iter(), &dead));
        assert!(!is_quorum(
            &id("a"),
            &members,
            [id("a"), id("x")].iter(),
            &[]
        ));
        assert!(!is_quorum(
            &id("x"),
            &members,
            [id("a"), id("x")].iter(),
            &dead
        ));
    }

    #[test]
    fn a_view_that_may_be_decided_is_proposed_again() {
        let mut net = Net::new("abc", 3);
        let ballot = Ballot {
            round: 1,
            node: id("c"),
        };
        // c's proposal reached b, and c died.
        net.deliver(
            &id("c"),
            1,
            &Msg::Prepare {
                ballot: ballot.clone(),
                out: vec![id("a")],
            },
        );
        net.deliver(
            &id("c"),
            1,
            &Msg::Accept {
                ballot,
                view: view("bc"),
            },
        );
        net.up = 2;
        net.propose(0, &view("ab"));
        assert_eq!(
            net.decided,
            [],
            "the first ballot of a is lower than that of c"
        );
        assert!(net.nodes[0].outbid(), "and a was told so");
        net.propose(0, &view("ab"));
        assert_eq!(net.decided, [view("bc")]);
    }

    #[test]
    fn a_promise_keeps_lower_ballots_out() {
        let mut net = Net::new("abc", 3);
        let low = Ballot {
            round: 1,
            node: id("a"),
        };
        net.deliver(
            &id("c"),
            1,
            &Msg::Prepare {
                ballot: Ballot {
                    round: 2,
                    node: id("c"),
                },
                out: vec![],
            },
        );
        net.deliver(
            &id("a"),
            1,
            &Msg::Accept {
                ballot: low,
                view: view("ab"),
            },
        );
        assert_eq!(net.nodes[1].accepted, None);
    }

    #[test]
    fn a_vote_waits_for_the_promises_to_those_it_evicts() {
        let mut b = Agreement::new(id("b"), &view("abc"));
        let ballot = Ballot {
            round: 1,
            node: id("a"),
        };
        let guard = |out: &[NodeId]| !out.contains(&id("c"));
        for step in [
            Msg::Prepare {
                ballot: ballot.clone(),
                out: vec![id("c")],
            },
            Msg::Accept {
                ballot: ballot.clone(),
                view: view("ab"),
            },
        ] {
            let mut effects = Vec::new();
            b.receive(&id("a"), step, &[], guard, &mut effects);
            assert_eq!(effects, [Effect::Wait]);
            assert!(!b.voted());
        }
        let mut effects = Vec::new();
        b.receive(
            &id("a"),
            Msg::Accept {
                ballot,
                view: view("abc"),
            },
            &[],
            guard,
            &mut effects,
        );
        assert!(b.voted());
    }

    #[test]
    fn strangers_impostors_and_absurd_rounds_are_ignored() {
        let mut b = Agreement::new(id("b"), &view("abc"));
        let fresh = b.clone();
        let mut effects = Vec::new();
        let ballot = |round, node| Ballot {
            round,
            node: id(node),
        };
        for (from, ballot) in [
            ("x", ballot(1, "x")),
            ("a", ballot(1, "c")),
            ("a", ballot(u64::MAX, "a")),
        ] {
            let prepare = Msg::Prepare {
                ballot: ballot.clone(),
                out: vec![],
            };
            b.receive(&id(from), prepare, &[], |_| true, &mut effects);
            b.receive(
                &id(from),
                Msg::Accept {
                    ballot,
                    view: view("b"),
                },
                &[],
                |_| true,
                &mut effects,
            );
        }
        assert_eq!((b, effects), (fresh, vec![]));
    }

    #[test]
    fn a_proposal_is_sent_again_to_those_that_did_not_answer() {
        let mut net = Net::new("abcd", 2);
        net.propose(0, &view("ab"));
        let mut effects = Vec::new();
        net.nodes[0].resend(&mut effects);
        let to: Vec<_> = effects
            .iter()
            .map(|e| matches!(e, Effect::Send { to, .. } if *to > id("b")))
            .collect();
        assert_eq!(to, [true, true]);
    }
}
