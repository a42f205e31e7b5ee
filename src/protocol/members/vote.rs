//! Which view this node wishes for, whose turn it is to propose, the agreement itself, and the install.

use std::collections::VecDeque;

use super::{
    DEAD_MAX, Deferred, Effect, Failure, INCARNATION_MAX, Members, Msg, Rejoining, VIEW_MAX,
    refused, send,
};
use crate::protocol::agreement::{self, Agreement, is_quorum};
use crate::protocol::defect::Defect;
use crate::protocol::lease::Lease;
use crate::protocol::types::{ClusterId, Epoch, Member, Millis, NodeId};
use crate::protocol::view::View;

/// Epochs beyond this are nonsense.
const EPOCH_MAX: u64 = 1 << 48;

/// A view that this node would propose.
struct Wish {
    view: View,
    /// How many others go first.
    rank: usize,
}

impl Members {
    pub(super) fn on_agree(
        &mut self,
        from: &NodeId,
        epoch: Epoch,
        dead: Vec<NodeId>,
        step: agreement::Msg,
        out: &mut Vec<Effect>,
    ) {
        if !self.view.contains(from) && epoch <= self.view.epoch {
            return; // an outsider has no part in this; its pings get answered
        }
        if epoch > self.view.epoch {
            return out.push(send(from, Msg::ViewWanted));
        }
        if epoch < self.view.epoch {
            return out.push(send(from, Msg::ViewIs(self.view.clone())));
        }
        for id in dead.into_iter().take(DEAD_MAX) {
            self.mark_dead(id, out);
        }
        // Learning of a death can complete an own proposal.
        if epoch != self.view.epoch {
            return;
        }
        if !self.sound(&step) {
            return out.push(refused(from, "the next view follows the installed one"));
        }
        match step {
            agreement::Msg::Prepare { .. } | agreement::Msg::Accept { .. } => {
                self.bustle = Some(self.now)
            }
            agreement::Msg::Promise { .. } | agreement::Msg::Accepted { .. } => {}
        }
        self.step(from.clone(), step, self.now, out);
    }

    pub(super) fn on_view_is(&mut self, from: &NodeId, view: View, out: &mut Vec<Effect>) {
        if !is_sound(&view) {
            return out.push(refused(from, "a view has members, sorted, one per name"));
        }
        let mine = view.contains(&self.me.id);
        if view.cluster != self.view.cluster {
            if mine && self.is_virgin() {
                self.install(view, out);
            } else if mine {
                self.bound = true; // for ever means for ever
                let member = self.me.id.clone();
                out.push(send(
                    from,
                    Msg::Declined {
                        cluster: view.cluster,
                        epoch: view.epoch,
                        member,
                    },
                ));
            } else if view.contains(from) && self.view.contains(from) && view.epoch > Epoch(1) {
                // It went to another line, and never installs a view of this one again.
                self.mark_dead(from.clone(), out);
            } else if self.rejoining && view.contains(from) {
                self.inviters.insert(from.clone());
            }
            return;
        }
        if view.epoch < self.view.epoch {
            out.push(send(from, Msg::ViewIs(self.view.clone())));
        } else if view.epoch > self.view.epoch {
            self.adopt(view, out);
        }
    }

    pub(super) fn on_view_wanted(&self, from: &NodeId, out: &mut Vec<Effect>) {
        if self.established() {
            out.push(send(from, Msg::ViewIs(self.view.clone())));
        }
    }

    /// That life is over, for certain: it will never vote again.
    pub(super) fn mark_dead(&mut self, id: NodeId, out: &mut Vec<Effect>) {
        if id == self.me.id || self.dead.contains(&id) {
            return;
        }
        self.dead.push(id);
        if self.dead.len() > DEAD_MAX {
            let first = self.dead.iter().position(|d| !self.view.contains(d));
            first.map(|first| self.dead.remove(first));
        }
        let mut effects = Vec::new();
        self.agreement.reconsider(&self.dead, &mut effects);
        self.perform(effects, out);
        // What waited for its lease need not any more.
        self.retry_deferred(out);
    }

    /// A step that had to wait for the lease is tried again, as long as its proposer may still be interested.
    pub(super) fn retry_deferred(&mut self, out: &mut Vec<Effect>) {
        let Some(Deferred { at, from, step }) = self.deferred.take() else {
            return;
        };
        if self.now - at < self.timings.suspicion {
            self.step(from, step, at, out);
        }
    }

    /// Proposes what this node wishes for when its turn has come, and goes on with what it proposed.
    pub(super) fn drive_proposal(&mut self, out: &mut Vec<Effect>) {
        let stay = self.survivors();
        let heard = |id: &&NodeId| !self.dead.contains(id) && !self.suspected(id);
        if !self.is_quorum(&self.view.ids().filter(heard).cloned().collect::<Vec<_>>()) {
            self.cornered = Some(self.now);
        }
        let Some(wish) = self.wish(&stay) else {
            self.wish_since = None;
            if !self.agreement.voted() {
                self.agreement.abandon();
            }
            return;
        };
        let since = *self.wish_since.get_or_insert(self.now);
        let retry = self.timings.retry;
        let mut effects = Vec::new();
        if self.agreement.proposing() {
            if self.now < self.next_try {
                return;
            }
            if self.agreement.outbid() || self.agreement.wish() != Some(&wish.view) {
                self.agreement.propose(wish.view, &mut effects);
            } else {
                self.agreement.resend(&mut effects);
            }
        } else {
            // Whoever is at it gets its time; then the others follow by rank, so that somebody always does.
            let start = self.bustle.map_or(since, |seen| since.max(seen + retry));
            let turn = start + Millis(retry.0.saturating_mul(wish.rank as u64));
            if self.now < turn {
                return;
            }
            self.agreement.propose(wish.view, &mut effects);
        }
        self.next_try = self.now + retry + Millis(self.roll(retry.0 * 2 / 3 + 1));
        self.perform(effects, out);
    }

    /// Whether this node could get something decided if it only had the wish.
    pub(super) fn can_decide(&self) -> bool {
        self.is_quorum(&self.survivors())
    }

    /// Takes over a later view of this line.
    pub(super) fn adopt(&mut self, view: View, out: &mut Vec<Effect>) {
        if view.contains(&self.me.id) {
            self.install(view, out)
        } else {
            self.evicted(&view, out)
        }
    }

    pub(super) fn install(&mut self, view: View, out: &mut Vec<Effect>) {
        let same_line = view.cluster == self.view.cluster;
        self.outvoted = None;
        let before = std::mem::replace(&mut self.view, view);
        let gone: Vec<Member> = before
            .members
            .into_iter()
            .filter(|m| !self.view.contains(&m.id))
            .collect();
        let vanished: Vec<NodeId> = if same_line {
            gone.iter()
                .map(|m| &m.id)
                .filter(|id| !self.left_well(id, &before.leaving))
                .cloned()
                .collect()
        } else {
            Vec::new() // a cluster of this node alone, given up for another
        };
        if same_line {
            // Who left well had handed over to those who stay.
            self.basis.retain(|id| {
                self.view.contains(id) || self.vanished.contains(id) || vanished.contains(id)
            });
        } else {
            // One joins at a time, and only when the copies of those before it are in place.
            let others = self.view.ids().filter(|id| **id != self.me.id);
            self.basis = others.cloned().collect();
        }
        for member in gone {
            let for_ms = if vanished.contains(&member.id) {
                self.timings.redial
            } else {
                Millis(0)
            };
            self.remember_lost(member, self.now + for_ms, true);
        }
        for id in self.view.ids() {
            self.lost.remove(&id.name);
        }
        self.reset_epoch(same_line);
        out.push(Effect::Install(self.view.clone()));
        self.count_loss(vanished, false, out);
        self.finish_commands(out);
        // Joiners know of their luck only from who is linked to them.
        for candidate in std::mem::take(&mut self.queue) {
            if self.view.contains(&candidate.member.id) {
                out.push(send(&candidate.member.id, Msg::ViewIs(self.view.clone())));
            } else {
                self.queue.push(candidate);
            }
        }
        self.ping_all(out);
        self.dial_missing(out);
    }

    /// This life was evicted. A leaver has what it wanted; any other begins a new life and looks for its peers.
    fn evicted(&mut self, view: &View, out: &mut Vec<Effect>) {
        if let Some(token) = self.leave {
            return self.finish_leave(token, out);
        }
        let known = view.named(&self.me.id.name).map_or(0, |m| m.id.incarnation);
        let peers: Vec<Member> = view
            .members
            .iter()
            .chain(&self.view.members)
            .cloned()
            .collect();
        let lasted = self.now - self.joined;
        let streak = if lasted < self.beats_long(300) {
            (self.rejoin.streak + 1).min(6)
        } else {
            0
        };
        self.begin_anew(known, out);
        let wait = Millis(self.timings.suspicion.0 << streak);
        self.rejoin = Rejoining {
            streak,
            at: self.now + wait,
            tries: 0,
        };
        for peer in peers {
            self.remember_lost(peer, self.now + self.timings.redial, false);
        }
        self.lost.remove(&self.me.id.name);
        self.rejoining = true;
        self.dial_missing(out);
    }

    /// A new identity above `known`, alone; connections and state are the driver's to drop.
    pub(super) fn begin_anew(&mut self, known: u64, out: &mut Vec<Effect>) {
        self.fail_commands(&Failure::Overtaken, out);
        let mut me = self.me.clone();
        if !self.planted.has(Defect::Readmit) {
            me.id.incarnation = me.id.incarnation.max(known) + 1;
        }
        let cluster = ClusterId(self.next_dice());
        let fresh = Self::new(me.clone(), cluster, self.timings, self.backups, self.dice);
        let old = std::mem::replace(self, fresh);
        self.plant(old.planted);
        self.now = old.now;
        self.next_beat = old.next_beat;
        self.beats = old.beats;
        self.connects = old.connects;
        self.losses = old.losses;
        self.on_possible_loss = old.on_possible_loss;
        out.push(Effect::Rejoin(me));
    }

    /// One step of the agreement, and all own ones that follow from it. It first came at the time `at`.
    fn step(&mut self, from: NodeId, step: agreement::Msg, at: Millis, out: &mut Vec<Effect>) {
        let mut local = VecDeque::from([(from, step)]);
        while let Some((from, step)) = local.pop_front() {
            self.withhold_for(&step);
            if self.is_against_me(&step) {
                continue;
            }
            let (lease, dead, now) = (&self.lease, &self.dead, self.now);
            let may_evict = |ids: &[NodeId]| lease.may_evict(now, ids, dead);
            let mut effects = Vec::new();
            self.agreement
                .receive(&from, step.clone(), dead, may_evict, &mut effects);
            if self.agreement.voted() {
                self.lease.vote();
                self.bound = true;
            }
            for effect in effects {
                match effect {
                    agreement::Effect::Wait => self.defer(at, &from, &step),
                    agreement::Effect::Decided(view) => return self.decided(view, out),
                    agreement::Effect::Send { to, msg } => self.pass(&to, msg, &mut local, out),
                    agreement::Effect::Broadcast(msg) => self.pass_all(&msg, &mut local, out),
                }
            }
        }
    }

    /// Whether a proposer wants this node out, which has no say in that: those that stay are a quorum. If they are not,
    /// since one of them has just died and the proposer has not noticed, this node must not help to lose two for one.
    /// (What may be decided already it must accept like any other.)
    fn is_against_me(&self, step: &agreement::Msg) -> bool {
        match step {
            agreement::Msg::Prepare { out, .. } => {
                out.contains(&self.me.id) && !self.view.leaving.contains(&self.me.id)
            }
            agreement::Msg::Promise { .. }
            | agreement::Msg::Accept { .. }
            | agreement::Msg::Accepted { .. } => false,
        }
    }

    /// What the agreement wants done outside of a received step.
    fn perform(&mut self, effects: Vec<agreement::Effect>, out: &mut Vec<Effect>) {
        let mut local = VecDeque::new();
        for effect in effects {
            match effect {
                agreement::Effect::Wait => {} // only a received step waits
                agreement::Effect::Decided(view) => return self.decided(view, out),
                agreement::Effect::Send { to, msg } => self.pass(&to, msg, &mut local, out),
                agreement::Effect::Broadcast(msg) => self.pass_all(&msg, &mut local, out),
            }
        }
        let epoch = (self.view.cluster, self.view.epoch);
        for (from, step) in local {
            if epoch == (self.view.cluster, self.view.epoch) {
                self.step(from, step, self.now, out);
            }
        }
    }

    fn pass(
        &self,
        to: &NodeId,
        step: agreement::Msg,
        local: &mut VecDeque<(NodeId, agreement::Msg)>,
        out: &mut Vec<Effect>,
    ) {
        if *to == self.me.id {
            local.push_back((to.clone(), step));
        } else {
            let dead = self
                .dead
                .iter()
                .filter(|id| self.view.contains(id))
                .cloned()
                .collect();
            out.push(send(
                to,
                Msg::Agree {
                    epoch: self.view.epoch,
                    dead,
                    step,
                },
            ));
        }
    }

    fn pass_all(
        &self,
        step: &agreement::Msg,
        local: &mut VecDeque<(NodeId, agreement::Msg)>,
        out: &mut Vec<Effect>,
    ) {
        for to in self.view.ids() {
            self.pass(to, step.clone(), local, out);
        }
    }

    fn decided(&mut self, view: View, out: &mut Vec<Effect>) {
        let joined = view.ids().filter(|id| !self.view.contains(id));
        let to = self
            .view
            .ids()
            .chain(joined)
            .filter(|id| **id != self.me.id);
        out.extend(to.map(|id| send(id, Msg::ViewIs(view.clone()))));
        if view.contains(&self.me.id) || self.leave.is_some() {
            return self.adopt(view, out);
        }
        // Those who stay may need this node's word, and its links end with its life: it goes when one of them shows
        // it that view.
        self.outvoted = Some(view);
    }

    /// Says again what was decided without this node, until a member of that view says so too.
    pub(super) fn beat_outvoted(&self, out: &mut Vec<Effect>) {
        let Some(view) = &self.outvoted else { return };
        let linked = view.ids().filter(|id| self.links.contains_key(id));
        out.extend(linked.map(|id| send(id, Msg::ViewIs(view.clone()))));
    }

    /// Of the steps that wait for the lease only the highest ballot is worth keeping.
    fn defer(&mut self, at: Millis, from: &NodeId, step: &agreement::Msg) {
        let ballot = |step: &agreement::Msg| match step {
            agreement::Msg::Prepare { ballot, .. }
            | agreement::Msg::Promise { ballot, .. }
            | agreement::Msg::Accept { ballot, .. }
            | agreement::Msg::Accepted { ballot } => ballot.clone(),
        };
        if self
            .deferred
            .as_ref()
            .is_none_or(|d| ballot(&d.step) <= ballot(step))
        {
            self.deferred = Some(Deferred {
                at,
                from: from.clone(),
                step: step.clone(),
            });
        }
    }

    /// Whom a proposal wants out gets no more pongs for a while, so that the promises to it run out.
    fn withhold_for(&mut self, step: &agreement::Msg) {
        let until = self.now + self.timings.suspicion;
        match step {
            agreement::Msg::Prepare { out, .. } => self.lease.withhold(out, until),
            agreement::Msg::Accept { view, .. } => {
                self.lease.withhold(&self.agreement.evicted(view), until)
            }
            agreement::Msg::Promise { .. } | agreement::Msg::Accepted { .. } => {}
        }
    }

    /// What should change, most urgent first; only what a quorum of those that are heard can decide.
    fn wish(&self, stay: &[NodeId]) -> Option<Wish> {
        let rank = stay.iter().position(|id| *id == self.me.id)?;
        if !self.is_quorum(stay) {
            return None;
        }
        let out: Vec<NodeId> = self
            .view
            .ids()
            .filter(|id| !stay.contains(id))
            .cloned()
            .collect();
        if !out.is_empty() {
            // After a partition the links come back one by one: who is not back yet is not therefore lost.
            let healing = self
                .cornered
                .is_some_and(|last| self.now - last < self.timings.suspicion);
            if healing && !out.iter().all(|id| self.dead.contains(id)) {
                return None;
            }
            let replaces = |j: &&Member| {
                out.iter()
                    .any(|o| o.name == j.id.name && self.dead.contains(o))
            };
            let join = self.next_joiner().filter(replaces);
            return Some(Wish {
                view: self.view.next(&out, join, &[]),
                rank,
            });
        }
        if self.synced && !self.view.leaving.is_empty() {
            return Some(Wish {
                view: self.view.next(&self.view.leaving, None, &[]),
                rank,
            });
        }
        if let Some(joiner) = self.next_joiner() {
            return Some(Wish {
                view: self.view.next(&[], Some(joiner), &[]),
                rank: 0,
            });
        }
        if self.wants_to_be_leaving() {
            let me = std::slice::from_ref(&self.me.id);
            return Some(Wish {
                view: self.view.next(&[], None, me),
                rank: 0,
            });
        }
        // Wedged by a vote: without a decision this node can neither pong nor serve, so it forces one.
        self.agreement.voted().then(|| Wish {
            view: self.view.next(&[], None, &[]),
            rank,
        })
    }

    fn is_quorum(&self, votes: &[NodeId]) -> bool {
        let ids: Vec<NodeId> = self.view.ids().cloned().collect();
        is_quorum(&self.me.id, &ids, votes.iter(), &self.dead, self.planted)
    }

    /// Fresh machines for the view just installed.
    fn reset_epoch(&mut self, same_line: bool) {
        let me = self.me.id.clone();
        self.agreement = Agreement::new(me.clone(), &self.view);
        self.lease = Lease::new(me, self.timings.lease, self.timings.promise);
        self.plant(self.planted);
        self.lease.install(self.now, &self.view);
        self.installed = self.now;
        self.deferred = None;
        self.cornered = None;
        self.wish_since = None;
        self.bustle = None;
        self.synced = false;
        self.invited = None;
        self.rejoining = false;
        if !same_line {
            self.joined = self.now;
        }
        self.watch_members(same_line);
    }

    /// Whether the view in `step`, if any, can follow the installed one.
    fn sound(&self, step: &agreement::Msg) -> bool {
        let view = match step {
            agreement::Msg::Accept { view, .. } => view,
            agreement::Msg::Promise {
                accepted: Some((_, view)),
                ..
            } => view,
            agreement::Msg::Prepare { out, .. } => return out.len() <= VIEW_MAX,
            agreement::Msg::Promise { accepted: None, .. } | agreement::Msg::Accepted { .. } => {
                return true;
            }
        };
        view.cluster == self.view.cluster && view.epoch == self.view.epoch.next() && is_sound(view)
    }
}

/// Whether a view from outside is one at all: members sorted, one per name, the leaving among them.
fn is_sound(view: &View) -> bool {
    let (n, epoch) = (view.members.len(), view.epoch.0);
    (1..=VIEW_MAX).contains(&n)
        && (1..EPOCH_MAX).contains(&epoch)
        && view.members.is_sorted_by(|a, b| a.id.name < b.id.name)
        && view
            .members
            .iter()
            .all(|m| m.id.incarnation <= INCARNATION_MAX)
        && view.leaving.is_sorted_by(|a, b| a < b)
        && view.leaving.iter().all(|id| view.contains(id))
}
