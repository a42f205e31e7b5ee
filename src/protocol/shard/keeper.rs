//! The keeper's side: it stores what owners put, and passes copies without an owner to where they belong.

use bytes::Bytes;

use super::super::defect::Defect;
use super::super::types::{Epoch, Key, NodeId};
use super::{Effect, Msg, Rec, Shard, Slot};

impl Shard {
    /// An owner's state arrives.
    pub(super) fn put(
        &mut self,
        from: NodeId,
        key: Key,
        gen_: Epoch,
        ver: u64,
        data: Bytes,
        out: &mut Vec<Effect>,
    ) {
        match self.slots.get(&key) {
            // Late, of an owner that has put the actor to rest since: no acknowledgement is waited for.
            Some(Slot::Own(own)) if (gen_, ver) < (own.gen_, own.ver) => return,
            Some(Slot::Rec(rec)) if rec.gen_ > gen_ && rec.ver > ver => return,
            Some(Slot::Own(_)) => {
                let rule = "I1': at most one node owns a key at a time";
                return out.push(Effect::Refused { from, rule });
            }
            Some(Slot::Rec(rec)) if rec.gen_ > gen_ => {
                let rule = "an owner's generation is never behind its keeper's";
                return out.push(Effect::Refused { from, rule });
            }
            // A newer version of the same owner is here already; its acknowledgement covers this one.
            Some(Slot::Rec(rec)) if rec.gen_ == gen_ && rec.ver > ver => return,
            Some(Slot::Rec(_)) | None => {}
        }
        let rec = Rec {
            gen_,
            ver,
            data,
            owner: Some(from.clone()),
            confirmed: true,
        };
        self.store(&key, rec, out);
        out.push(Effect::Send {
            to: from,
            msg: Msg::PutAck { key, gen_, ver },
        });
    }

    /// A copy without an owner arrives.
    pub(super) fn hold(
        &mut self,
        from: NodeId,
        key: Key,
        gen_: Epoch,
        ver: u64,
        data: Bytes,
        out: &mut Vec<Effect>,
    ) {
        let newer = match self.slots.get(&key) {
            Some(Slot::Own(own)) => {
                if (gen_, ver) > (own.gen_, own.ver) {
                    let rule = "an owner has the newest state there is";
                    return out.push(Effect::Refused { from, rule });
                }
                false
            }
            Some(Slot::Rec(rec)) => (gen_, ver) > (rec.gen_, rec.ver),
            None => true,
        };
        if newer {
            self.store(
                &key,
                Rec {
                    gen_,
                    ver,
                    data,
                    owner: None,
                    confirmed: true,
                },
                out,
            );
        }
        out.push(Effect::Send {
            to: from,
            msg: Msg::HoldAck { key, gen_, ver },
        });
    }

    /// A copy that this node passed on is in place there.
    pub(super) fn hold_ack(&mut self, from: NodeId, key: &Key, gen_: Epoch, ver: u64) {
        let Some(Slot::Rec(rec)) = self.slots.get(key) else {
            return;
        };
        if (rec.gen_, rec.ver) != (gen_, ver) {
            return;
        }
        let targets = self.hold_targets(key);
        let Some(acks) = self.unsettled.get_mut(key) else {
            return;
        };
        if targets.contains(&from) && !acks.contains(&from) {
            acks.push(from);
        }
        if targets.iter().all(|t| acks.contains(t)) {
            self.unsettled.remove(key);
            self.rested(key);
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

    fn hold_targets(&self, key: &Key) -> Vec<NodeId> {
        let backups = if self.planted.has(Defect::NoOrphanCopy) {
            0
        } else {
            self.backups
        };
        let mut top = self.placement.top(key, backups);
        top.retain(|id| *id != self.me);
        top
    }

    /// Passes an unsettled record on to those that have not acknowledged it, or an unsettled owner's state.
    pub(super) fn send_holds(&mut self, key: &Key, out: &mut Vec<Effect>) {
        let targets = self.hold_targets(key);
        let Some(Slot::Rec(rec)) = self.slots.get(key) else {
            return;
        };
        let Some(acks) = self.unsettled.get(key) else {
            return;
        };
        let missing: Vec<NodeId> = targets.into_iter().filter(|t| !acks.contains(t)).collect();
        if missing.is_empty() {
            self.unsettled.remove(key);
            return;
        }
        for to in missing {
            let msg = Msg::Hold {
                key: key.clone(),
                gen_: rec.gen_,
                ver: rec.ver,
                data: rec.data.clone(),
            };
            out.push(Effect::Send { to, msg });
        }
    }
}
