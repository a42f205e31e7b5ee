//! The owner's side: requests are given to the actor one after the other, what changes goes to the keepers,
//! and an answer leaves when every keeper has the version that it was computed from.
//!
//! The actor goes on while a version is on its way: later requests are handled in memory, and their answers
//! wait for the acknowledgement of their own version.

use std::collections::BTreeMap;

use super::super::blob::Blob;
use super::super::defect::{Defect, Planted};
use super::super::types::{Epoch, Key, NodeId};
use super::{
    Actor, Answer, Books, Effect, Effects, Forwarded, Handled, KEY_MIN, KEY_SHARE, Lagging, Listed,
    Msg, Origin, Own, Pending, Ran, Request, Shard, Slot, Wanted,
};

impl Own {
    /// The version that every current keeper has; none while one has none, or while there is no keeper.
    pub(super) fn acked(&self) -> Option<u64> {
        // `None` sorts first, so that one keeper without a copy makes the minimum `None`.
        self.keepers.iter().map(|(_, ver)| *ver).min().flatten()
    }

    /// Whether some keeper does not have the latest version.
    pub(super) fn lags(&self) -> bool {
        self.acked() != Some(self.ver)
    }

    /// Sends the state to every keeper that lacks it.
    pub(super) fn send_puts(&mut self, key: &Key, tick: u64, out: &mut dyn Effects) {
        self.put_at = tick;
        for (to, acked) in &self.keepers {
            if *acked != Some(self.ver) {
                out.copy(to, key, !self.waiting.is_empty());
            }
        }
    }

    /// Answers what every keeper has, if the node may: see [`Shard::may_answer`].
    fn settle(
        &mut self,
        (key, tick): (&Key, u64),
        may_answer: Option<bool>,
        books: &mut Books,
        lagging: &mut Lagging,
        out: &mut dyn Effects,
    ) {
        let Some(before_ack) = may_answer else {
            // It is looked at again when the node may.
            if !self.waiting.is_empty() {
                lagging.add(tick, key, self);
            }
            return;
        };
        let acked = if before_ack {
            Some(self.ver)
        } else {
            self.acked()
        };
        let is_acked = |handled: &Handled| acked.is_some_and(|acked| acked >= handled.ver);
        while let Some(handled) = self.waiting.pop_front_if(is_acked) {
            books.held -= handled.reply.len();
            books.release(&handled.pending);
            finish(handled.pending.origin, Answer::Reply(handled.reply), out);
        }
        if self.listed.lags && self.waiting.is_empty() && !self.lags() {
            lagging.leave(self);
        }
    }

    /// Hands a request to the actor.
    fn run(&mut self, key: &Key, pending: Pending, planted: Planted, out: &mut dyn Effects) {
        let (gen_, request) = (self.gen_, pending.for_actor(planted));
        self.running.push_back(pending);
        match self.actor {
            Actor::Up => {}
            Actor::Restarting => return,
            Actor::Down => {
                self.actor = Actor::Up;
                out.push(Effect::Start {
                    key: key.clone(),
                    gen_,
                    data: self.data.clone(),
                });
            }
        }
        out.push(Effect::Run {
            key: key.clone(),
            gen_,
            request,
        });
    }

    /// Whether this epoch's sync need not wait for this key: the keepers have all that could have been
    /// answered before it. Where nobody can keep a copy, there is nothing to wait for, and no answer either.
    pub(super) fn is_synced(&self) -> bool {
        self.keepers.is_empty() || self.acked().is_some_and(|ver| ver >= self.sync_ver)
    }
}

/// The most requests that may wait for one key, where so many may wait for all.
pub fn key_max(pending_max: usize) -> usize {
    (pending_max / KEY_SHARE).max(KEY_MIN)
}

/// The end of one request.
pub(super) fn finish(origin: Origin, answer: Answer, out: &mut dyn Effects) {
    match origin {
        Origin::Local(token) => out.answer(token, answer),
        Origin::Peer(to, token) => {
            let msg = Msg::Reply { token, answer };
            out.push(Effect::Send { to, msg });
        }
    }
}

impl Pending {
    /// What the actor gets: with the id, by which it recognises a retry.
    fn for_actor(&self, planted: Planted) -> Request {
        let mut request = self.request.clone();
        if planted.has(Defect::NoDedup) {
            request.id = None;
        }
        request
    }
}

impl Shard {
    /// Takes in a request of a client of this node, unless the node is about to leave.
    pub(super) fn admit(
        &mut self,
        key: Key,
        pending: Pending,
        hint: Option<NodeId>,
        out: &mut dyn Effects,
    ) {
        if self.quiescing {
            finish(pending.origin, Answer::Leaving, out);
        } else {
            self.accept(key, pending, hint, out);
        }
    }

    /// Takes a request in, wherever it came from.
    pub(super) fn accept(
        &mut self,
        key: Key,
        pending: Pending,
        hint: Option<NodeId>,
        out: &mut dyn Effects,
    ) {
        if self.books.is_in_hand(&pending.origin) {
            return;
        }
        let takes_over = pending.request.again && !self.planted.has(Defect::DedupReplyAtOnce);
        if takes_over && self.take_over(&key, &pending) {
            return;
        }
        let has_room = self.has_room(pending.request.weight());
        let parked = self.parks(&pending);
        let own = match self.slots.get_mut(&key) {
            Some(Slot::Own(own)) => Some(own),
            Some(Slot::Rec(_)) | None => None,
        };
        let running = own.as_ref().map_or(0, |own| own.running.len());
        let of_key = running + Self::wants(&self.wanted, &key).map_or(0, |w| w.pending.len());
        if self.books.pending >= self.pending_max
            || of_key >= key_max(self.pending_max)
            || !has_room
        {
            return finish(pending.origin, Answer::Overloaded, out);
        }
        self.books.take_in(&pending);
        match own {
            Some(own) if !parked => own.run(&key, pending, self.planted, out),
            Some(_) | None => self.want(key, pending, hint, out),
        }
    }

    /// What waits for a key; mostly nothing does for any.
    fn wants<'a>(wanted: &'a BTreeMap<Key, Wanted>, key: &Key) -> Option<&'a Wanted> {
        if wanted.is_empty() {
            return None;
        }
        wanted.get(key)
    }

    /// A leaving node starts nothing for others: they try again under the next view.
    fn parks(&self, pending: &Pending) -> bool {
        self.quiescing && matches!(pending.origin, Origin::Peer(..))
    }

    /// A request that is tried again while its first try is still in hand: there is one answer, for the latest.
    fn take_over(&mut self, key: &Key, pending: &Pending) -> bool {
        let Some(own) = self.own_mut(key) else {
            return false;
        };
        let handled = own.waiting.iter_mut().map(|h| &mut h.pending);
        let Some(first) = own
            .running
            .iter_mut()
            .chain(handled)
            .find(|p| p.request.id == pending.request.id)
        else {
            return false;
        };
        let before = std::mem::replace(&mut first.origin, pending.origin.clone());
        self.books.let_go(&before, pending.request.id);
        self.books.take_in_hand(&pending.origin);
        true
    }

    /// The request is for another node, or waits for this one to own the key.
    fn want(&mut self, key: Key, pending: Pending, hint: Option<NodeId>, out: &mut dyn Effects) {
        let parked = self.parks(&pending);
        let is_first = Self::wants(&self.wanted, &key).is_none();
        if is_first && !parked && self.can_serve(&self.me) {
            let hint = hint.filter(|owner| *owner != self.me && self.can_serve(owner));
            if let Some(owner) = hint.or_else(|| self.other_owner(&key)) {
                return self.forward_one(key, owner, pending, out);
            }
        }
        let rests = self.rests;
        let wanted = self.wanted.entry(key.clone()).or_insert_with(|| Wanted {
            rests,
            ..Wanted::default()
        });
        wanted.pending.push_back(pending);
        if is_first && !parked {
            self.kick(&key, out);
        }
    }

    /// Hands a request to the actor of an owned key; back it comes if the key is not owned.
    fn run(&mut self, key: &Key, pending: Pending, out: &mut dyn Effects) -> Option<Pending> {
        let Some(Slot::Own(own)) = self.slots.get_mut(key) else {
            return Some(pending);
        };
        own.run(key, pending, self.planted, out);
        None
    }

    /// Becomes the owner: with the home's authority, by being the home or by its grant.
    pub(super) fn own_it(
        &mut self,
        key: &Key,
        gen_: Epoch,
        ver: u64,
        data: Blob,
        out: &mut dyn Effects,
    ) {
        let keepers = self.placement.keepers(key, &self.me, self.backups);
        let granted = !self.is_home(key);
        let acked = (granted && self.planted.has(Defect::GrantIsAck)).then_some(ver);
        let own = Own {
            gen_,
            ver,
            data: data.clone(),
            keepers: keepers.map(|id| (id.clone(), acked)).collect(),
            sync_ver: 0,
            running: Default::default(),
            waiting: Default::default(),
            actor: Actor::Up,
            put_at: 0,
            listed: Listed::default(),
            unsettled: !self.done_sent,
            stamp: 0,
        };
        self.put_slot(key.clone(), Slot::Own(Box::new(own)));
        out.push(Effect::Start {
            key: key.clone(),
            gen_,
            data,
        });
        self.send_puts(key, out);
        self.run_wanted(key, out);
    }

    /// Gives the requests that waited for ownership to the actor.
    fn run_wanted(&mut self, key: &Key, out: &mut dyn Effects) {
        let Some(mut wanted) = self.wanted.remove(key) else {
            return;
        };
        for pending in std::mem::take(&mut wanted.pending) {
            if self.quiescing && matches!(pending.origin, Origin::Peer(..)) {
                wanted.pending.push_back(pending);
            } else {
                self.run(key, pending, out);
            }
        }
        if !wanted.pending.is_empty() {
            self.wanted.insert(key.clone(), wanted);
        }
    }

    /// The actor handled a request, `served` or the oldest that it was given: what that changed goes to the keepers, and
    /// its answer waits for them. `served` comes back if there is no such actor.
    pub(super) fn handled(
        &mut self,
        leased: bool,
        key: &Key,
        gen_: Epoch,
        served: Option<Pending>,
        ran: Ran,
        out: &mut dyn Effects,
    ) -> Option<Pending> {
        let own = match self.slots.get_mut(key) {
            Some(Slot::Own(own)) if own.gen_ == gen_ => own,
            Some(_) | None => return served,
        };
        let pending = match served {
            Some(pending) => {
                self.books.take_in(&pending);
                pending
            }
            None => match own.running.pop_front() {
                Some(pending) => pending,
                None => {
                    out.push(Effect::Broken("an actor handles only what it was given"));
                    return None;
                }
            },
        };
        let answer = match ran {
            Ran::Done { reply, data } => {
                let changed = data.is_some();
                let retried = pending.request.again && !changed;
                if !(retried && self.planted.has(Defect::DedupReplyAtOnce)) {
                    self.books.held += reply.len();
                    if let Some(data) = data {
                        own.ver += 1;
                        own.data = data;
                    }
                    let handled = Handled {
                        ver: own.ver,
                        pending,
                        reply,
                    };
                    own.waiting.push_back(handled);
                    if changed {
                        own.send_puts(key, self.tick, out);
                        self.lagging.add(self.tick, key, own);
                    }
                    if !changed || self.planted.has(Defect::ReplyBeforeAck) {
                        self.settle(leased, key, out);
                    }
                    self.shed(key, out);
                    return None;
                }
                Answer::Reply(reply)
            }
            Ran::Failed(reason) => Answer::Failed(reason),
            Ran::Unknown => Answer::Unknown,
        };
        self.books.release(&pending);
        finish(pending.origin, answer, out);
        None
    }

    /// Sends the state to every keeper that lacks it.
    pub(super) fn send_puts(&mut self, key: &Key, out: &mut dyn Effects) {
        if let Some(Slot::Own(own)) = self.slots.get_mut(key) {
            own.send_puts(key, self.tick, out);
            self.lagging.add(self.tick, key, own);
        }
    }

    /// A keeper has a version of this key.
    pub(super) fn put_ack(
        &mut self,
        leased: bool,
        from: &NodeId,
        key: &Key,
        gen_: Epoch,
        ver: u64,
        out: &mut dyn Effects,
    ) {
        let may_answer = self.may_answer(leased);
        let own = match self.slots.get_mut(key) {
            Some(Slot::Own(own)) if own.gen_ == gen_ => own,
            Some(_) | None => return,
        };
        if ver > own.ver {
            return out.push(Effect::Refused {
                from: from.clone(),
                rule: "a keeper has only what its owner put",
            });
        }
        let Some((_, acked)) = own.keepers.iter_mut().find(|(id, _)| id == from) else {
            return;
        };
        *acked = (*acked).max(Some(ver));
        if own.unsettled && own.is_synced() {
            own.unsettled = false;
            self.healing.unsettled -= 1;
        }
        let at = (key, self.tick);
        own.settle(at, may_answer, &mut self.books, &mut self.lagging, out);
    }

    /// Answers what every keeper has, if this node may.
    pub(super) fn settle(&mut self, leased: bool, key: &Key, out: &mut dyn Effects) {
        let may_answer = self.may_answer(leased);
        if let Some(Slot::Own(own)) = self.slots.get_mut(key) {
            let at = (key, self.tick);
            own.settle(at, may_answer, &mut self.books, &mut self.lagging, out);
        }
    }

    /// Whether this node may answer, and then whether before the keepers have what the answer tells: a defect.
    fn may_answer(&self, leased: bool) -> Option<bool> {
        (leased && self.can_serve(&self.me)).then(|| self.planted.has(Defect::ReplyBeforeAck))
    }

    /// The actor ended. What it was given and did not handle is given to its successor.
    pub(super) fn exited(&mut self, key: &Key, gen_: Epoch, again: bool, out: &mut dyn Effects) {
        let Some(own) = self.own_mut(key).filter(|own| own.gen_ == gen_) else {
            return;
        };
        own.actor = if again {
            Actor::Restarting
        } else {
            Actor::Down
        };
        if !again && !own.running.is_empty() {
            self.restart(key, gen_, out);
        }
    }

    /// Starts the actor from the state that its keepers have or are being sent.
    pub(super) fn restart(&mut self, key: &Key, gen_: Epoch, out: &mut dyn Effects) {
        let planted = self.planted;
        let Some(own) = self
            .own_mut(key)
            .filter(|own| own.gen_ == gen_ && own.actor != Actor::Up)
        else {
            return;
        };
        own.actor = Actor::Up;
        out.push(Effect::Start {
            key: key.clone(),
            gen_,
            data: own.data.clone(),
        });
        for pending in own.running.iter() {
            out.push(Effect::Run {
                key: key.clone(),
                gen_,
                request: pending.for_actor(planted),
            });
        }
    }

    /// Sends the waiting requests of a key to the node that owns it.
    pub(super) fn forward(&mut self, key: &Key, owner: &NodeId, out: &mut dyn Effects) {
        let Some(wanted) = self.wanted.remove(key) else {
            return;
        };
        for pending in wanted.pending {
            self.forward_one(key.clone(), owner.clone(), pending, out);
        }
    }

    fn forward_one(&mut self, key: Key, to: NodeId, mut pending: Pending, out: &mut dyn Effects) {
        self.next_token += 1;
        let issuer = &mut self.books.issuer;
        let id = *pending.request.id.get_or_insert_with(|| issuer.issue());
        if let Origin::Local(token) = pending.origin {
            self.forwarded_as.insert(token, self.next_token);
            pending.request.span = issuer.span(id, self.planted);
        }
        let forwarded = Forwarded {
            to,
            key,
            pending,
            sent_at: self.tick,
        };
        out.push(forwarded.message(self.next_token));
        self.forwarded.insert(self.next_token, forwarded);
    }

    /// The node that a request was forwarded to has answered.
    pub(super) fn reply(
        &mut self,
        from: &NodeId,
        token: u64,
        answer: Answer,
        out: &mut dyn Effects,
    ) {
        let Some(Forwarded { pending, .. }) = self.forwarded.remove_if(token, |f| f.to == *from)
        else {
            return;
        };
        if let Origin::Local(token) = pending.origin {
            self.forwarded_as.remove(token);
        }
        let answer = match answer {
            // That holds for this try only.
            Answer::Overloaded | Answer::Leaving | Answer::NotServing if pending.request.again => {
                Answer::Unknown
            }
            Answer::Reply(_)
            | Answer::Failed(_)
            | Answer::Overloaded
            | Answer::Leaving
            | Answer::NotServing
            | Answer::Unknown => answer,
        };
        self.books.release(&pending);
        finish(pending.origin, answer, out);
    }

    /// The client gave up; what has not started never will.
    pub(super) fn cancel(&mut self, key: &Key, token: u64) {
        self.stop_locating(token);
        if let Some(pending) = self.withdraw(key, token) {
            self.books.release(&pending);
        }
    }

    /// Takes out a request of a client of this node, unless an actor has it.
    fn withdraw(&mut self, key: &Key, token: u64) -> Option<Pending> {
        if let Some(forwarded) = self.forwarded_as.remove(token) {
            return self.forwarded.remove(forwarded).map(|f| f.pending);
        }
        let is_it = |pending: &Pending| pending.origin == Origin::Local(token);
        if let Some(wanted) = self.wanted.get_mut(key)
            && let Some(at) = wanted.pending.iter().position(is_it)
        {
            let pending = wanted.pending.remove(at);
            if wanted.pending.is_empty() {
                self.wanted.remove(key);
            }
            return pending;
        }
        // Nobody has what an actor that is down was to be given.
        let own = self.own_mut(key).filter(|own| own.actor != Actor::Up)?;
        let at = own.running.iter().position(is_it)?;
        own.running.remove(at)
    }

    /// This node does not serve: requests that have not started go back to their clients; those of peers are
    /// dropped, since the peers try again by themselves.
    pub(super) fn refuse(&mut self, out: &mut dyn Effects) {
        for pending in std::mem::take(&mut self.wanted)
            .into_values()
            .flat_map(|w| w.pending)
        {
            self.books.release(&pending);
            if let Origin::Local(token) = pending.origin {
                let answer = if pending.request.again {
                    Answer::Unknown
                } else {
                    Answer::NotServing
                };
                out.answer(token, answer);
            }
        }
        let asked: Vec<u64> = self.locating.keys().copied().collect();
        for token in asked {
            self.stop_locating(token);
            out.answer(token, Answer::NotServing);
        }
    }

    /// Takes a request back in under a new view; `hint`: who was to handle it under the old one.
    pub(super) fn retry(
        &mut self,
        key: Key,
        pending: Pending,
        hint: Option<NodeId>,
        out: &mut dyn Effects,
    ) {
        match pending.origin {
            // Its node forwards it again, under the same id.
            Origin::Peer(..) => self.books.release(&pending),
            Origin::Local(_) => {
                self.touch(&key, out);
                if let Some(pending) = self.run(&key, pending, out) {
                    self.want(key, pending, hint, out);
                }
            }
        }
    }

    /// Gives up a key, because this node leaves. The state stays as a record without an owner.
    pub(super) fn disown(&mut self, key: &Key, own: Own, out: &mut dyn Effects) {
        out.push(Effect::Stop {
            key: key.clone(),
            gen_: own.gen_,
        });
        for Handled {
            mut pending, reply, ..
        } in own.waiting
        {
            self.books.held -= reply.len();
            pending.request.again = true;
            // Applied, and not known to be backed up: only an id makes another try safe.
            if pending.request.id.is_some() {
                self.retry(key.clone(), pending, None, out);
            } else {
                self.books.release(&pending);
                finish(pending.origin, Answer::Unknown, out);
            }
        }
        // Not applied: `data` is the state before them.
        for pending in own.running {
            self.retry(key.clone(), pending, None, out);
        }
    }
}
