//! The directory: the home of a key knows its owner, because it is the owner or its first keeper. 'Nobody owns
//! it' and every grant need authority, which only a complete barrier gives.

use super::super::blob::Blob;
use super::super::defect::Defect;
use super::super::types::{Epoch, Key, NodeId};
use super::{Answer, Effect, Effects, Located, Msg, REQUEST_BYTES, Rec, Shard, Slot, State};

impl Shard {
    /// Whether this node may speak for `key`: it was its home in every view installed since the last barrier
    /// that it completed, and in that one, which makes failover immediate for keys whose home did not change; or it has
    /// heard of every member what that has.
    pub fn speaks_for(&self, key: &Key) -> bool {
        let authority = || self.was_home_before(key) || self.has_inquired(key);
        self.is_home(key) && (authority() || self.presumes_authority(key))
    }

    /// Whether this node is the home of `key` in this view.
    pub(super) fn is_home(&self, key: &Key) -> bool {
        self.placement.home(key) == Some(&self.me)
    }

    pub(super) fn was_home_throughout(&self, key: &Key) -> bool {
        self.is_home(key) && self.was_home_before(key)
    }

    /// The same of the views since the last barrier but this one.
    fn was_home_before(&self, key: &Key) -> bool {
        let before = self.lineage.split_last().map(|(_, before)| before);
        before.is_some_and(|before| before.iter().all(|p| p.home(key) == Some(&self.me)))
    }

    /// Deliberate defects only.
    fn presumes_authority(&self, key: &Key) -> bool {
        let known = || matches!(self.slots.get(key), Some(Slot::Rec(_)));
        self.planted.has(Defect::NoBarrier)
            || self.planted.has(Defect::KnownRecordsAtOnce) && known()
    }

    /// Tries to get the waiting requests of `key` on their way.
    pub(super) fn kick(&mut self, key: &Key, out: &mut dyn Effects) {
        self.touch(key, out);
        let tick = self.tick;
        let me = self.me.clone();
        // A node that is about to leave keeps requests of peers waiting for what it owns: a claim of that would have the
        // home grant anew what it has not heard of yet, in a generation that the owner's copies are then behind.
        if !self.can_serve(&me) || self.own(key).is_some() {
            return;
        }
        let Some(wanted) = self.wanted.get_mut(key) else {
            return;
        };
        wanted.claimed_at = tick;
        let rests = wanted.rests;
        let Some(home) = self.placement.home(key).cloned() else {
            return;
        };
        if home != me {
            return out.push(Effect::Send {
                to: home,
                msg: Msg::Claim {
                    key: key.clone(),
                    rests,
                },
            });
        }
        if !self.speaks_for(key) {
            return self.inquire(key, None, out);
        }
        match self.live_owner(key) {
            Some(owner) if owner != me => self.forward(key, &owner, out),
            Some(_) | None => {
                let (ver, data) = self.state_to_grant(key);
                self.own_it(key, self.view.epoch, ver, data, out);
            }
        }
    }

    /// A member wants to own `key`; its home answers, and asks all others first where it has no authority.
    pub(super) fn claim(&mut self, from: NodeId, key: Key, rests: u64, out: &mut dyn Effects) {
        if !self.is_home(&key) || !self.can_serve(&from) {
            return;
        }
        if self.own(&key).is_some() {
            let msg = Msg::OwnerIs {
                key,
                owner: self.me.clone(),
            };
            return out.push(Effect::Send { to: from, msg });
        }
        if !self.speaks_for(&key) {
            return self.inquire(&key, Some((from, rests)), out);
        }
        match self.slots.get(&key) {
            // Also while unconfirmed: the grant may have arrived.
            Some(Slot::Rec(Rec {
                owner: Some(owner),
                confirmed,
                ..
            })) if **owner != from && self.placement.is_active(owner) && self.binds(*confirmed) => {
                let msg = Msg::OwnerIs {
                    key,
                    owner: NodeId::clone(owner),
                };
                return out.push(Effect::Send { to: from, msg });
            }
            // It owns the key already, or has put the actor to rest: then its copy is on the way, and it claims again.
            Some(Slot::Rec(Rec {
                owner: Some(owner),
                confirmed: true,
                ..
            })) if **owner == from => return,
            Some(Slot::Rec(_) | Slot::Own(_)) | None => {}
        }
        let (ver, data) = self.state_to_grant(&key);
        let gen_ = self.view.epoch;
        let rec = Rec {
            gen_,
            ver,
            data: State::from_slice(&data),
            owner: Some(self.shared(&from)),
            confirmed: false,
            acks: None,
            stamp: 0,
        };
        self.store(&key, rec, None, out);
        out.push(Effect::Send {
            to: from,
            msg: Msg::Grant {
                key,
                gen_,
                ver,
                data,
                rests,
            },
        });
    }

    /// The home names the owner: the waiting requests go there.
    pub(super) fn owner_is(&mut self, key: &Key, owner: &NodeId, out: &mut dyn Effects) {
        if self.own(key).is_none() && *owner != self.me && self.placement.is_active(owner) {
            self.forward(key, owner, out);
        }
    }

    /// The home makes this node the owner.
    pub(super) fn grant(
        &mut self,
        key: Key,
        gen_: Epoch,
        ver: u64,
        data: Blob,
        rests: u64,
        out: &mut dyn Effects,
    ) {
        let me = self.me.clone();
        let timely = (gen_ == self.view.epoch || self.planted.has(Defect::LateGrant))
            && self.is_since_rest(&key, rests);
        if self.own(&key).is_none() && self.can_serve(&me) && timely {
            self.own_it(&key, gen_, ver, data, out);
        }
    }

    /// The other node that owns `key`, if this one is its home, and may say so.
    pub(super) fn other_owner(&self, key: &Key) -> Option<NodeId> {
        let owner = self.live_owner(key)?;
        (owner != self.me && self.speaks_for(key)).then_some(owner)
    }

    fn live_owner(&self, key: &Key) -> Option<NodeId> {
        match self.slots.get(key) {
            Some(Slot::Rec(rec)) => rec
                .owner
                .as_deref()
                .cloned()
                .filter(|owner| self.placement.is_active(owner) && self.binds(rec.confirmed)),
            Some(Slot::Own(_)) | None => None,
        }
    }

    /// Whether the home keeps to an owner that it named: also before that owner confirmed it.
    fn binds(&self, confirmed: bool) -> bool {
        confirmed || !self.planted.has(Defect::RegrantUnconfirmed)
    }

    fn state_to_grant(&self, key: &Key) -> (u64, Blob) {
        match self.slots.get(key) {
            Some(Slot::Rec(rec)) => (rec.ver, Blob::from(&*rec.data)),
            Some(Slot::Own(_)) | None => (0, Blob::EMPTY),
        }
    }

    /// A client asks where an actor is.
    pub(super) fn locate(&mut self, token: u64, key: Key, out: &mut dyn Effects) {
        if self.locating.len() >= self.pending_max || !self.has_room(REQUEST_BYTES) {
            let answer = Answer::Overloaded;
            return out.answer(token, answer);
        }
        self.locating.insert(token, key);
        self.books.held += REQUEST_BYTES;
        self.ask_home(token, out);
    }

    /// Asks the home of the key of one question, or answers it here.
    pub(super) fn ask_home(&mut self, token: u64, out: &mut dyn Effects) {
        let Some(key) = self.locating.get(&token) else {
            return;
        };
        match self.placement.home(key) {
            Some(home) if *home != self.me => {
                out.push(Effect::Send {
                    to: home.clone(),
                    msg: Msg::Locate {
                        key: key.clone(),
                        token,
                    },
                });
            }
            Some(_) | None => {
                let key = &key.clone();
                self.touch(key, out);
                if let Some(found) = self.located(key) {
                    self.stop_locating(token);
                    out.push(Effect::Found { token, found });
                }
            }
        }
    }

    /// What the home knows of `key`; none if this node may not say.
    pub(super) fn located(&self, key: &Key) -> Option<Option<Located>> {
        if !self.speaks_for(key) || self.placement.len() < 2 {
            return None;
        }
        Some(self.slots.get(key).map(|slot| match slot {
            Slot::Own(own) => Located {
                owner: Some(self.me.clone()),
                keepers: own.keepers.iter().map(|(id, _)| id.clone()).collect(),
                version: own.ver,
            },
            Slot::Rec(rec) => Located {
                keepers: match &rec.owner {
                    Some(owner) => {
                        let keepers = self.placement.keepers(key, owner, self.backups);
                        keepers.cloned().collect()
                    }
                    None => self.placement.top(key, self.backups).cloned().collect(),
                },
                owner: rec.owner.as_deref().cloned(),
                version: rec.ver,
            },
        }))
    }
}
