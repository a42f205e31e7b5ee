//! Ways into a cluster: connect, join, invite, refuse, replace an earlier life, rejoin after an eviction.
//!
//! ```text
//! alone   ── Join ──▶ alone or established      ViewIs, when admitted; asked again until then
//! established ── Invite ──▶ alone ── Join ──▶   the operator typed `connect` on the other side, or a lost name is back
//! ```

use super::{
    COMMANDS_MAX, Candidate, Connect, Effect, Failure, Members, Msg, PATIENCE_HEARTBEATS,
    QUEUE_MAX, Refusal, Terms,
};
use super::{INCARNATION_MAX, VIEW_MAX, refused, send};
use crate::protocol::defect::Defect;
use crate::protocol::types::{Epoch, Member, Millis, NodeId, NodeName};

impl Members {
    pub(super) fn on_connect(&mut self, peer: NodeId, token: u64, out: &mut Vec<Effect>) {
        if self.view.contains(&peer) {
            return out.push(Effect::Answer {
                token,
                result: Ok(()),
            });
        }
        if !self.links.contains_key(&peer) || self.connects.len() >= COMMANDS_MAX {
            return out.push(Effect::Answer {
                token,
                result: Err(Failure::NoAnswer),
            });
        }
        if self.established() {
            out.push(send(&peer, Msg::Invite));
        }
        let until = self.now + self.beats_long(PATIENCE_HEARTBEATS);
        self.connects.push(Connect { peer, token, until });
        self.ask_to_join(out);
    }

    pub(super) fn on_join(
        &mut self,
        from: &NodeId,
        member: Member,
        terms: Terms,
        out: &mut Vec<Effect>,
    ) {
        if terms != self.terms() {
            // Whoever wanted it here wants to know as well.
            self.answer_connects(|c| c.peer == *from, &Err(Failure::Different), out);
            return out.push(send(from, Msg::Refused(Refusal::Different)));
        }
        if member.id != *from || from.incarnation > INCARNATION_MAX {
            return out.push(refused(
                from,
                "a node asks for its own life, which can be exceeded",
            ));
        }
        if self.view.contains(from) {
            return out.push(send(from, Msg::ViewIs(self.view.clone()))); // the decision got lost
        }
        self.supersede(&member, out);
        let refusal = self.refusal(&member);
        if let Some(refusal) = refusal {
            return out.push(send(from, Msg::Refused(refusal)));
        }
        self.queue
            .retain(|c| c.member.id.name != from.name || c.member.id > *from);
        if self.queue.len() < QUEUE_MAX && self.queue.iter().all(|c| c.member.id.name != from.name)
        {
            self.queue.push(Candidate {
                member,
                asked: self.now,
            });
        }
    }

    pub(super) fn on_invite(&mut self, from: &NodeId, out: &mut Vec<Effect>) {
        if self.view.contains(from) {
            out.push(send(from, Msg::ViewIs(self.view.clone())));
        } else if self.established() {
            out.push(send(from, Msg::Refused(Refusal::Established)));
        } else if self.rejoining {
            if self.links.contains_key(from) {
                self.inviters.insert(from.clone());
            }
        } else if self.join_target().is_none_or(|target| target == *from) {
            self.invited = Some((
                from.clone(),
                self.now + self.beats_long(PATIENCE_HEARTBEATS),
            ));
            self.ask_to_join(out);
        }
    }

    pub(super) fn on_refused(&mut self, from: &NodeId, refusal: &Refusal, out: &mut Vec<Effect>) {
        let failure = match refusal {
            Refusal::Established => Failure::Established,
            Refusal::NameInUse => Failure::NameInUse,
            Refusal::Different => Failure::Different,
            Refusal::Evicted { known } => return self.on_stale(*known, out),
        };
        if self.invited.as_ref().is_some_and(|(peer, _)| peer == from) {
            self.invited = None;
        }
        if self
            .lost
            .get(&from.name)
            .is_some_and(|l| l.member.id < *from)
        {
            self.lost.remove(&from.name); // that life went another way: no more invitations
        }
        self.answer_connects(|c| c.peer == *from, &Err(failure), out);
    }

    /// A peer knows a later life of this name. One that has nothing to lose takes the next.
    pub(super) fn on_stale(&mut self, known: u64, out: &mut Vec<Effect>) {
        let later = (self.me.id.incarnation..=INCARNATION_MAX).contains(&known);
        if later && !self.established() {
            self.take_next_life(known, out);
        }
    }

    /// What is due with each heartbeat: repeat what may have been lost, and give up what takes too long.
    pub(super) fn beat_entry(&mut self, out: &mut Vec<Effect>) {
        let now = self.now;
        self.answer_connects(|c| c.until <= now, &Err(Failure::NoAnswer), out);
        let stale = self.beats_long(5);
        self.queue.retain(|c| now - c.asked < stale);
        if self
            .invited
            .as_ref()
            .is_some_and(|(_, until)| *until <= now)
        {
            self.invited = None;
        }
        self.rejoining &= self.lost.values().any(|l| now < l.until);
        if self.rejoining && self.beats.is_multiple_of(PATIENCE_HEARTBEATS) {
            self.rejoin.tries += 1; // whoever was asked so far cannot admit: ask the next one
        }
        if !self.established() {
            if self.beats.is_multiple_of(2) {
                self.ask_to_join(out);
            }
            return;
        }
        if self.beats.is_multiple_of(2) {
            out.extend(self.connects.iter().map(|c| send(&c.peer, Msg::Invite)));
        }
        if self.beats.is_multiple_of(5) {
            let back = |id: &&NodeId| self.lost.get(&id.name).is_some_and(|l| l.member.id < **id);
            out.extend(
                self.links
                    .keys()
                    .filter(back)
                    .map(|id| send(id, Msg::Invite)),
            );
            // A later life of a member may be in a later view, without this node: then nobody else may be left who
            // knows that this node is to be told.
            let later = |id: &&NodeId| self.view.named(&id.name).is_some_and(|m| m.id < **id);
            out.extend(
                self.links
                    .keys()
                    .filter(later)
                    .map(|id| send(id, Msg::ViewWanted)),
            );
        }
    }

    /// Asks to be admitted, if this node is alone and has somebody to ask. One at a time: who asked several could be
    /// admitted by several.
    pub(super) fn ask_to_join(&self, out: &mut Vec<Effect>) {
        if let Some(target) = self.join_target() {
            out.push(send(
                &target,
                Msg::Join {
                    member: self.me.clone(),
                    terms: self.terms(),
                },
            ));
        } else if self.rejoining {
            // Only who belongs to a cluster has a view to show.
            let peers = self
                .links
                .keys()
                .filter(|id| self.lost.contains_key(&id.name));
            out.extend(peers.map(|id| send(id, Msg::ViewWanted)));
        }
    }

    /// Whether this node waits to be admitted somewhere.
    pub(super) fn join_pending(&self) -> bool {
        !self.established()
            && (!self.connects.is_empty() || self.invited.is_some() || self.rejoining)
    }

    /// A cluster of itself that nobody else can have a part in or miss: the only state that may be given up for
    /// another cluster.
    pub(super) fn is_virgin(&self) -> bool {
        self.view.members.len() == 1 && self.view.epoch == Epoch(1) && !self.bound && !self.has_data
    }

    pub(super) fn established(&self) -> bool {
        !self.is_virgin()
    }

    /// The joiner to admit next: one per view, and only when all copies of the view are in place. Where there is only
    /// one active member none can be, and none is missed.
    pub(super) fn next_joiner(&self) -> Option<&Member> {
        let settled = self.synced || self.view.active().count() <= 1;
        // A newcomer knows of no loss that is to be accepted, and would answer.
        if !settled
            || self.refusing.is_some()
            || self.rejoining
            || self.view.members.len() >= VIEW_MAX
        {
            return None;
        }
        // Crossed connects, also in circles: exactly one of the virgins does not wait for the one before it.
        let asking = self.join_target().is_some();
        let admissible = |m: &&Member| {
            let free = self
                .view
                .named(&m.id.name)
                .is_none_or(|old| self.dead.contains(&old.id));
            free && self.links.contains_key(&m.id) && (!asking || m.id > self.me.id)
        };
        self.queue.iter().map(|c| &c.member).find(admissible)
    }

    /// A newer life that answers at the same address proves the earlier one dead.
    pub(super) fn supersede(&mut self, newer: &Member, out: &mut Vec<Effect>) {
        let Some(old) = self.view.named(&newer.id.name) else {
            return;
        };
        if old.id < newer.id && old.addr == newer.addr {
            self.mark_dead(old.id.clone(), out);
        }
    }

    /// Ends the connects that match.
    pub(super) fn answer_connects(
        &mut self,
        matches: impl Fn(&Connect) -> bool,
        result: &Result<(), Failure>,
        out: &mut Vec<Effect>,
    ) {
        let done = self.connects.extract_if(.., |c| matches(c));
        out.extend(done.map(|c| Effect::Answer {
            token: c.token,
            result: result.clone(),
        }));
    }

    fn refusal(&self, joiner: &Member) -> Option<Refusal> {
        let name: &NodeName = &joiner.id.name;
        let living = |m: &&Member| !self.dead.contains(&m.id) && !self.suspected(&m.id);
        let old = self.view.named(name);
        if old
            .filter(living)
            .is_some_and(|old| old.addr != joiner.addr)
        {
            return Some(Refusal::NameInUse);
        }
        let in_view = old.map(|m| m.id.incarnation);
        let over = self
            .lost
            .get(name)
            .filter(|l| l.over)
            .map(|l| l.member.id.incarnation);
        let known = in_view.max(over)?;
        let over = joiner.id.incarnation <= known && !self.planted.has(Defect::Readmit);
        over.then_some(Refusal::Evicted { known })
    }

    /// Whom to ask, if this node is alone and linked to somebody worth asking.
    fn join_target(&self) -> Option<NodeId> {
        if self.established() {
            return None;
        }
        let linked = |id: &&NodeId| self.links.contains_key(*id);
        let wanted = self.connects.iter().map(|c| &c.peer).find(linked);
        let invited = self.invited.as_ref().map(|(peer, _)| peer).filter(linked);
        if let Some(target) = wanted.or(invited) {
            return Some(target.clone());
        }
        let linked = |name: &NodeName| self.links.keys().any(|id| id.name == *name);
        let in_reach = || {
            self.lost
                .iter()
                .all(|(name, l)| self.now >= l.until || linked(name))
        };
        if !self.rejoining || (self.now < self.rejoin.at && !in_reach()) {
            return None;
        }
        // A former peer that restarted may be as alone as this node, while others keep the old cluster: the two would
        // found a second one. So this node asks only who has said that it belongs to a cluster.
        let peers: Vec<&NodeId> = self
            .links
            .keys()
            .filter(|id| self.inviters.contains(*id))
            .collect();
        let pick = usize::try_from(self.rejoin.tries)
            .unwrap_or(0)
            .checked_rem(peers.len())?;
        peers.get(pick).map(|id| (*id).clone())
    }

    /// This life cannot be admitted; the next one, after `known`, asks the same peers.
    fn take_next_life(&mut self, known: u64, out: &mut Vec<Effect>) {
        let asked = self
            .join_target()
            .and_then(|id| self.links.get(&id).cloned());
        let lost = std::mem::take(&mut self.lost);
        let (invited, rejoining, rejoin) = (self.invited.take(), self.rejoining, self.rejoin);
        self.begin_anew(known, out);
        self.lost = lost;
        self.invited = invited;
        self.rejoining = rejoining;
        self.rejoin = rejoin;
        if let Some(peer) = asked {
            // Only to dial it: that life is not over.
            let until = self.now + self.beats_long(PATIENCE_HEARTBEATS);
            self.remember_lost(peer, until.max(Millis(1)), false);
            self.dial_missing(out);
        }
    }
}
