//! The keeper's side: it stores what owners put, and passes copies without an owner to where they belong.

use super::super::blob::Blob;
use super::super::defect::Defect;
use super::super::types::{Epoch, Key, KeyRef, NodeId};
use super::{Effect, Effects, Msg, Rec, Shard, Slot, State};

impl Rec {
    /// A copy that no owner cares for; nobody else is known to have it.
    pub(super) fn without_owner(gen_: Epoch, ver: u64, data: &[u8]) -> Self {
        Self {
            gen_,
            ver,
            data: State::from_slice(data),
            owner: None,
            confirmed: true,
            acks: Some(0),
            stamp: 0,
        }
    }

    /// Whether they are the same, wherever copies of them are.
    fn is(&self, other: &Self) -> bool {
        (self.gen_, self.ver, &self.owner, self.confirmed)
            == (other.gen_, other.ver, &other.owner, other.confirmed)
            && self.data == other.data
    }
}

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
        out: &mut dyn Effects,
    ) -> bool {
        let mut refuse = |rule| {
            let from = from.clone();
            out.push(Effect::Refused { from, rule });
            false
        };
        let is_active = self.placement.is_active(from);
        match self.slots.find_mut(key) {
            // Late, of an owner that has put the actor to rest since: no acknowledgement is waited for.
            Some(Slot::Own(own)) if (gen_, ver) < (own.gen_, own.ver) => return false,
            Some(Slot::Rec(rec)) if rec.gen_ > gen_ && rec.ver > ver => return false,
            Some(Slot::Own(_)) => {
                return refuse("I1': at most one node owns a key at a time");
            }
            Some(Slot::Rec(rec)) if rec.gen_ > gen_ => {
                return refuse("an owner's generation is never behind its keeper's");
            }
            // A newer version of the same owner is here already; its acknowledgement covers this one.
            Some(Slot::Rec(rec)) if rec.gen_ == gen_ && rec.ver > ver => return false,
            // The usual case: the next version from the owner that is known.
            Some(Slot::Rec(rec))
                if rec.gen_ == gen_
                    && rec.confirmed
                    && rec.owner.as_deref() == Some(from)
                    && is_active =>
            {
                rec.ver = ver;
                if rec.data.len() == data.len() {
                    rec.data.copy_from_slice(data);
                } else {
                    rec.data = State::from_slice(data);
                }
                if rec.acks.take().is_some() {
                    self.healing.unsettled -= 1;
                }
                return true;
            }
            Some(Slot::Rec(_)) | None => {}
        }
        // A defect lets messages of other epochs pass, in which other nodes were keepers.
        let is_keeper = || {
            let placement = &self.placement;
            let positions = placement.position(from).zip(placement.position(&self.me));
            positions
                .is_some_and(|(owner, me)| placement.is_keeper(key.hash(), owner, self.backups, me))
        };
        if same_epoch && !is_keeper() {
            return refuse("an owner puts its state to its keepers alone");
        }
        let rec = Rec {
            gen_,
            ver,
            data: State::from_slice(data),
            owner: Some(self.shared(from)),
            confirmed: true,
            acks: None,
            stamp: 0,
        };
        self.store(&key.to_key(), rec, None, out);
        true
    }

    /// A copy without an owner arrives, to be kept here.
    pub(super) fn hold(
        &mut self,
        from: NodeId,
        key: Key,
        gen_: Epoch,
        ver: u64,
        data: Blob,
        out: &mut dyn Effects,
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
        out: &mut dyn Effects,
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
            let rec = Rec::without_owner(gen_, ver, data);
            self.store(key, rec, Some(from), out);
        } else {
            // Who sends it, has it: nobody needs to send it back.
            self.hold_ack(from, key, gen_, ver);
        }
        true
    }

    /// Puts a record in place, and on the way to where it belongs if this epoch's sync is not over. `from` has it.
    pub(super) fn store(
        &mut self,
        key: &Key,
        mut rec: Rec,
        from: Option<&NodeId>,
        out: &mut dyn Effects,
    ) {
        if let Some(Slot::Rec(old)) = self.slots.get(key)
            && old.is(&rec)
        {
            return;
        }
        let (gen_, ver) = (rec.gen_, rec.ver);
        rec.acks = (!self.done_sent && !self.is_settled(&rec)).then_some(0);
        let is_unsettled = rec.acks.is_some();
        self.put_slot(key.clone(), Slot::Rec(rec));
        if is_unsettled {
            if let Some(from) = from {
                self.hold_ack(from, key, gen_, ver);
            }
            if self.send_holds(key, out) {
                self.healing.sent.push_back(key.clone());
            }
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
}
