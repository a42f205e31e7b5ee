//! Heartbeats and what follows from them: the lease, suspicion, who cannot hear whom, links and dialling.

use std::collections::BTreeSet;

use super::{Effect, Health, LINKS_MAX, Lost, Members, Msg, send};
use crate::protocol::defect::Defect;
use crate::protocol::types::{Epoch, Member, Millis, NodeId, NodeName};

impl Members {
    pub(super) fn on_tick(&mut self, out: &mut Vec<Effect>) {
        self.retry_deferred(out);
        if self.now < self.next_beat {
            return;
        }
        self.next_beat = self.now + self.timings.heartbeat;
        self.beats += 1;
        self.ping_all(out);
        self.hang_up_silent(out);
        self.dial_missing(out);
        self.beat_entry(out);
        self.beat_forget(out);
        self.beat_outvoted(out);
    }

    pub(super) fn on_link_up(&mut self, peer: Member, out: &mut Vec<Effect>) {
        let id = peer.id.clone();
        if id == self.me.id || (self.links.len() >= LINKS_MAX && !self.links.contains_key(&id)) {
            return out.push(Effect::Hangup(id));
        }
        let stale = self
            .links
            .keys()
            .filter(|l| l.name == id.name && l.incarnation < id.incarnation);
        out.extend(stale.cloned().map(Effect::Hangup));
        self.links.insert(id.clone(), peer.clone());
        self.hear(&id);
        if let Some(health) = self.health.get_mut(&id) {
            health.unlinked_since = None;
            return self.ping(&id, out);
        }
        self.supersede(&peer, out);
        match self.lost.get(&id.name) {
            // An evicted one that does not know it yet.
            Some(lost) if lost.member.id == id && self.established() => {
                out.push(send(&id, Msg::ViewIs(self.view.clone())));
            }
            Some(lost) if lost.member.id < id && self.established() => {
                out.push(send(&id, Msg::Invite))
            }
            Some(_) | None => {}
        }
        self.ask_to_join(out);
    }

    pub(super) fn on_link_down(&mut self, peer: &NodeId, refused: bool, out: &mut Vec<Effect>) {
        self.links.remove(peer);
        self.inviters.remove(peer);
        self.queue.retain(|c| c.member.id != *peer);
        if self.planted.has(Defect::WrongDead) {
            self.mark_dead(peer.clone(), out);
        }
        let now = self.now;
        if let Some(health) = self.health.get_mut(peer) {
            health.refused |= refused;
            health.unlinked_since.get_or_insert(now);
            if !refused {
                self.dial_missing(out);
            }
        }
    }

    /// Any sign of life counts.
    pub(super) fn hear(&mut self, from: &NodeId) {
        if let Some(health) = self.health.get_mut(from) {
            health.heard = self.now;
            health.refused = false;
        }
    }

    pub(super) fn on_ping(
        &mut self,
        from: &NodeId,
        epoch: Epoch,
        sent: Millis,
        unheard: Vec<NodeId>,
        out: &mut Vec<Effect>,
    ) {
        if epoch > self.view.epoch || (!self.established() && !self.view.contains(from)) {
            return out.push(send(from, Msg::ViewWanted));
        }
        let known = self.health.contains_key(from);
        if epoch < self.view.epoch || !known {
            // The sender is behind, evicted, or takes this node for a member of another line than its own.
            return out.push(send(from, Msg::ViewIs(self.view.clone())));
        }
        let unheard = unheard
            .into_iter()
            .filter(|id| id != from && self.view.contains(id))
            .collect::<BTreeSet<_>>();
        let ponged = self.lease.ponged(self.now, from);
        if ponged {
            out.push(send(from, Msg::Pong { epoch, sent }));
        }
        if let Some(health) = self.health.get_mut(from) {
            health.unheard = unheard.into_iter().collect();
            // It installed the view after this node, whose first ping it did not pong: do not wait for the next beat.
            if ponged && !health.greeted {
                health.greeted = true;
                self.ping(from, out);
            }
        }
    }

    /// Whether `id`, a member, has been silent for too long or refuses connections.
    pub(super) fn suspected(&self, id: &NodeId) -> bool {
        self.health
            .get(id)
            .is_some_and(|h| h.refused || self.now - h.heard >= self.timings.suspicion)
    }

    /// Nobody listens where a member that is not linked should be: its process is gone.
    pub(super) fn on_refused_dial(&mut self, name: &NodeName, addr: &str) {
        let member = self.view.named(name).map(|m| m.id.clone());
        let health = member.and_then(|id| self.health.get_mut(&id));
        if let Some(health) = health.filter(|h| *h.addr == *addr && h.unlinked_since.is_some()) {
            health.refused = true;
        }
    }

    /// The members that this node does not hear.
    pub(super) fn unheard(&self) -> Vec<NodeId> {
        self.health
            .keys()
            .filter(|id| self.suspected(id))
            .cloned()
            .collect()
    }

    /// The members that can stay: those not known dead, without the worst connected, until everybody left hears
    /// everybody. The worst connected misses the most others; among equals it is the one admitted last, then
    /// one that this node itself does not hear, then the last by identity. A lost link counts before the suspicion if
    /// another member does not hear that one either: who notices a death late must not evict who noticed it early.
    pub(super) fn survivors(&self) -> Vec<NodeId> {
        let mut stay: Vec<&NodeId> = self
            .view
            .ids()
            .filter(|id| !self.dead.contains(id))
            .collect();
        let mut broken: BTreeSet<(&NodeId, &NodeId)> = BTreeSet::new();
        for (id, health) in self.health.iter().filter(|(id, _)| !self.dead.contains(id)) {
            let reported = self.health.values().any(|other| other.unheard.contains(id));
            if self.suspected(id) || health.unlinked_since.is_some() && reported {
                broken.insert(pair(&self.me.id, id));
            } else {
                // Whom this node hears is believed about whom it does not hear.
                broken.extend(
                    health
                        .unheard
                        .iter()
                        .filter(|u| !self.dead.contains(u))
                        .map(|u| pair(id, u)),
                );
            }
        }
        while !broken.is_empty() {
            let missing = |id: &NodeId| broken.iter().filter(|(a, b)| *a == id || *b == id).count();
            let worst = stay
                .iter()
                .max_by_key(|id| (missing(id), self.admitted(id), self.suspected(id), **id));
            let Some(worst) = worst.copied() else { break };
            stay.retain(|id| *id != worst);
            broken.retain(|(a, b)| *a != worst && *b != worst);
        }
        stay.into_iter().cloned().collect()
    }

    /// Others count on hearing of a broken link at once, not with the next heartbeat.
    pub(super) fn tell_unheard(&mut self, out: &mut Vec<Effect>) {
        if self.unheard() != self.unheard_told {
            self.ping_all(out);
        }
    }

    pub(super) fn ping_all(&mut self, out: &mut Vec<Effect>) {
        self.unheard_told = self.unheard();
        let linked: Vec<NodeId> = self
            .health
            .keys()
            .filter(|id| self.links.contains_key(id))
            .cloned()
            .collect();
        for id in linked {
            self.ping(&id, out);
        }
    }

    /// Dials members that are not linked. The lower name dials at once, the higher one only after two heartbeats, so
    /// that as a rule only one side does. Lost names are dialled by everybody.
    pub(super) fn dial_missing(&mut self, out: &mut Vec<Effect>) {
        let patience = self.beats_long(2);
        for (id, health) in &self.health {
            let Some(since) = health.unlinked_since else {
                continue;
            };
            if self.me.id.name < id.name || self.now - since >= patience {
                out.push(Effect::Dial {
                    name: id.name.clone(),
                    addr: health.addr.clone(),
                });
            }
        }
        for (name, lost) in &self.lost {
            if self.now < lost.until && !self.links.keys().any(|l| l.name == *name) {
                out.push(Effect::Dial {
                    name: name.clone(),
                    addr: lost.member.addr.clone(),
                });
            }
        }
    }

    /// Remembers a life that is out of reach, or even `over`, and dials its name until `until`.
    pub(super) fn remember_lost(&mut self, member: Member, until: Millis, over: bool) {
        let name = member.id.name.clone();
        if self
            .lost
            .get(&name)
            .is_some_and(|known| known.member.id > member.id)
        {
            return;
        }
        self.lost.insert(
            name,
            Lost {
                member,
                until,
                over,
            },
        );
        if self.lost.len() > super::LOST_MAX {
            let first = self
                .lost
                .iter()
                .min_by_key(|(_, l)| l.until)
                .map(|(name, _)| name.clone());
            first.and_then(|name| self.lost.remove(&name));
        }
    }

    /// Starts to watch the members of a view just installed. A newcomer gets the full time until it is suspected.
    pub(super) fn watch_members(&mut self, was_member: bool) {
        let (now, epoch) = (self.now, self.view.epoch);
        let mut before = std::mem::take(&mut self.health);
        if !was_member {
            self.since = epoch;
        }
        let since = if was_member { epoch } else { Epoch(0) };
        for member in self.view.members.iter().filter(|m| m.id != self.me.id) {
            let linked = self.links.contains_key(&member.id);
            let known = before.remove(&member.id);
            let fresh = || Health {
                addr: member.addr.clone(),
                heard: now,
                refused: false,
                unheard: Vec::new(),
                since,
                unlinked_since: None,
                hung_up: Millis(0),
                greeted: false,
            };
            let mut health = known.unwrap_or_else(fresh);
            health.greeted = false;
            health.unheard.clear();
            health.unlinked_since = if linked {
                None
            } else {
                health.unlinked_since.or(Some(now))
            };
            self.health.insert(member.id.clone(), health);
        }
    }

    fn ping(&self, to: &NodeId, out: &mut Vec<Effect>) {
        let unheard = self.unheard_told.clone();
        out.push(send(
            to,
            Msg::Ping {
                epoch: self.view.epoch,
                sent: self.now,
                unheard,
            },
        ));
    }

    fn hang_up_silent(&mut self, out: &mut Vec<Effect>) {
        for (id, health) in &mut self.health {
            let last = health.heard.max(health.hung_up);
            if self.links.contains_key(id) && self.now - last >= self.timings.suspicion {
                health.hung_up = self.now;
                out.push(Effect::Hangup(id.clone()));
            }
        }
        let dead = self
            .links
            .keys()
            .filter(|id| self.dead.contains(id) && !self.view.contains(id));
        out.extend(dead.cloned().map(Effect::Hangup));
    }

    fn admitted(&self, id: &NodeId) -> Epoch {
        self.health.get(id).map_or(self.since, |h| h.since)
    }
}

fn pair<'a>(a: &'a NodeId, b: &'a NodeId) -> (&'a NodeId, &'a NodeId) {
    if a < b { (a, b) } else { (b, a) }
}
