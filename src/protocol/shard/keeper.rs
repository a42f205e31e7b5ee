//! The keeper's side: it stores what owners put, and passes copies without an owner to where they belong.

use bytes::Bytes;

use super::super::defect::Defect;
use super::super::types::{Epoch, Key, KeyRef, NodeId};
use super::{Effect, Msg, Rec, Shard, Slot};

impl Shard {
    /// An owner's state arrives; whether it is kept, and its owner may count on it.
    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn put(
        &mut self,
        from: &NodeId,
        key: KeyRef<'_>,
        gen_: Epoch,
        ver: u64,
        data: &[u8],
        same_epoch: bool,
        out: &mut Vec<Effect>,
    ) -> bool {
        let mut refuse = |rule| {
            let from = from.clone();
            out.push(Effect::Refused { from, rule });
            false
        };
        let is_active = self.placement.is_active(from);
        match self.slots.find_mut(key) {
            // Late, of an owner that has put the actor to rest since: no acknowledgement is waited for.
            Some((_, Slot::Own(own))) if (gen_, ver) < (own.gen_, own.ver) => return false,
            Some((_, Slot::Rec(rec))) if rec.gen_ > gen_ && rec.ver > ver => return false,
            Some((_, Slot::Own(_))) => {
                return refuse("I1': at most one node owns a key at a time");
            }
            Some((_, Slot::Rec(rec))) if rec.gen_ > gen_ => {
                return refuse("an owner's generation is never behind its keeper's");
            }
            // A newer version of the same owner is here already; its acknowledgement covers this one.
            Some((_, Slot::Rec(rec))) if rec.gen_ == gen_ && rec.ver > ver => return false,
            // The usual case: the next version from the owner that is known.
            Some((key, Slot::Rec(rec)))
                if rec.gen_ == gen_
                    && rec.confirmed
                    && rec.owner.as_deref() == Some(from)
                    && is_active =>
            {
                rec.ver = ver;
                if rec.data.len() == data.len() {
                    rec.data.copy_from_slice(data);
                } else {
                    rec.data = data.into();
                }
                if !self.unsettled.is_empty() {
                    self.unsettled.remove(key);
                }
                return true;
            }
            Some((_, Slot::Rec(_))) | None => {}
        }
        let key = key.to_key();
        // A defect lets messages of other epochs pass, in which other nodes were keepers.
        let is_keeper = || {
            let mut keepers = self.placement.keepers(&key, from, self.backups);
            keepers.any(|id| *id == self.me)
        };
        if same_epoch && !(is_active && is_keeper()) {
            return refuse("an owner puts its state to its keepers alone");
        }
        let rec = Rec {
            gen_,
            ver,
            data: data.into(),
            owner: Some(self.shared(from)),
            confirmed: true,
        };
        self.store(&key, rec, out);
        true
    }

    /// A copy without an owner arrives, to be kept here.
    pub(super) fn hold(
        &mut self,
        from: NodeId,
        key: Key,
        gen_: Epoch,
        ver: u64,
        data: Bytes,
        out: &mut Vec<Effect>,
    ) {
        if self.merge(&from, &key, gen_, ver, &data, out) {
            out.push(Effect::Send {
                to: from,
                msg: Msg::HoldAck { key, gen_, ver },
            });
        }
    }

    /// Keeps the newer of two states, this one and that which is here; false if there can be no such state.
    pub(super) fn merge(
        &mut self,
        from: &NodeId,
        key: &Key,
        gen_: Epoch,
        ver: u64,
        data: &[u8],
        out: &mut Vec<Effect>,
    ) -> bool {
        let newer = match self.slots.get(key) {
            Some(Slot::Own(own)) => {
                if (gen_, ver) > (own.gen_, own.ver) {
                    let from = from.clone();
                    let rule = "an owner has the newest state there is";
                    out.push(Effect::Refused { from, rule });
                    return false;
                }
                false
            }
            Some(Slot::Rec(rec)) => (gen_, ver) > (rec.gen_, rec.ver),
            None => true,
        };
        if newer {
            let rec = Rec {
                gen_,
                ver,
                data: data.into(),
                owner: None,
                confirmed: true,
            };
            self.store(key, rec, out);
        }
        true
    }

    /// A copy that this node passed on is in place there.
    pub(super) fn hold_ack(&mut self, from: NodeId, key: &Key, gen_: Epoch, ver: u64) {
        let Some(Slot::Rec(rec)) = self.slots.get(key) else {
            return;
        };
        if (rec.gen_, rec.ver) != (gen_, ver) {
            return;
        }
        let Some(mut acks) = self.unsettled.get_mut(key).map(std::mem::take) else {
            return;
        };
        if self.hold_targets(key).any(|id| *id == from) && !acks.contains(&from) {
            acks.push(from);
        }
        if self.hold_targets(key).all(|id| acks.contains(id)) {
            self.unsettled.remove(key);
            self.rested(key);
        } else {
            self.unsettled.insert(key.clone(), acks);
        }
    }

    /// Puts a record in place, and on the way to where it belongs if this epoch's sync is not over.
    pub(super) fn store(&mut self, key: &Key, rec: Rec, out: &mut Vec<Effect>) {
        let same = matches!(self.slots.get(key), Some(Slot::Rec(old)) if *old == rec);
        if same {
            return;
        }
        let settled = self.is_settled(&rec);
        self.slots.insert(key.clone(), Slot::Rec(rec));
        if settled || self.done_sent {
            self.unsettled.remove(key);
        } else {
            self.unsettled.insert(key.clone(), Vec::new());
            self.send_holds(key, out);
        }
    }

    /// Whether the owner of this record is there and cares for the copies itself.
    pub(super) fn is_settled(&self, rec: &Rec) -> bool {
        (rec.confirmed || self.planted.has(Defect::OnlyDeadOwnersPushed))
            && rec
                .owner
                .as_ref()
                .is_some_and(|owner| self.placement.is_active(owner))
    }

    /// Where a record without an owner goes.
    fn hold_targets(&self, key: &Key) -> impl Iterator<Item = &NodeId> {
        let backups = if self.planted.has(Defect::NoOrphanCopy) {
            0
        } else {
            self.backups
        };
        let top = self.placement.top(key, backups);
        top.filter(|id| **id != self.me)
    }

    /// Passes an unsettled record on to those that have not acknowledged it, or an unsettled owner's state.
    pub(super) fn send_holds(&mut self, key: &Key, out: &mut Vec<Effect>) {
        let Some(Slot::Rec(rec)) = self.slots.get(key) else {
            return;
        };
        let Some(acks) = self.unsettled.get(key) else {
            return;
        };
        let mut missing = false;
        for to in self.hold_targets(key).filter(|id| !acks.contains(id)) {
            missing = true;
            let msg = Msg::Hold {
                key: key.clone(),
                gen_: rec.gen_,
                ver: rec.ver,
                data: Bytes::copy_from_slice(&rec.data),
            };
            let to = to.clone();
            out.push(Effect::Send { to, msg });
        }
        if !missing {
            self.unsettled.remove(key);
        }
    }
}
