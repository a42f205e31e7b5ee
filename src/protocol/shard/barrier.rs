//! A new view: ownership that did not survive is dropped, copies go where the view wants them, and when every
//! member says that its copies are in place, the barrier is complete.

use std::sync::Arc;

use super::super::defect::Defect;
use super::super::placement::Placement;
use super::super::types::{Key, NodeId};
use super::super::view::View;
use super::{Effect, Healing, Msg, Rec, Shard, Slot};

/// Most views whose homes are remembered until a barrier completes; beyond, authority waits for the barrier.
const LINEAGE_MAX: usize = 32;

/// How far the barrier of an epoch is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Progress {
    /// This node's copies are in place, and it told the others.
    Sent,
    /// Every member's copies are in place: authority is whole, and surplus records are gone.
    Complete,
}

/// How a key fits a view that was just installed.
enum Fit {
    /// As it was before.
    Settled,
    /// It has to go somewhere.
    Open,
    /// Also something else is to be done at once.
    Urgent,
    /// It is to be dropped: a deliberate defect only.
    Surplus,
}

impl Shard {
    /// Installs a view of a later epoch, or of another cluster; views in between may be skipped.
    pub(super) fn install(&mut self, leased: bool, view: View, out: &mut Vec<Effect>) {
        if view.cluster == self.view.cluster && view.epoch <= self.view.epoch
            || !view.contains(&self.me)
        {
            return;
        }
        if view.cluster != self.view.cluster || self.lineage.len() >= LINEAGE_MAX {
            // What this node knew of another cluster says nothing about who owns what in this one.
            self.lineage.clear();
        }
        if view.cluster != self.view.cluster {
            // Numbers of the old line mean nothing in the new one.
            self.unpark();
        }
        if self.planted.has(Defect::CarryWithoutComplete) && view.cluster == self.view.cluster {
            self.lineage = vec![self.placement.clone()];
        }
        self.ids = view.ids().cloned().map(Arc::new).collect();
        self.view = view;
        self.placement = Placement::of(&self.view);
        if !self.lineage.is_empty() && self.lineage.last() != Some(&self.placement) {
            self.lineage.push(self.placement.clone());
        }
        self.done_sent = false;
        self.done_from.clear();
        self.complete = false;
        self.healing = Healing::default();
        self.inquiries.clear();

        // Most keys stay as they are, and the rest of the part waits meanwhile: they are looked at where they lie.
        let mut slots = std::mem::take(&mut self.slots);
        let (mut healing, mut urgent) = (Healing::default(), Vec::new());
        slots.retain(|key, slot| {
            let fit = self.adapt(key, slot);
            match fit {
                Fit::Settled => {}
                Fit::Open => healing.open.push(key.clone()),
                Fit::Urgent => urgent.push(key.clone()),
                Fit::Surplus => return false,
            }
            healing.unsettled += usize::from(slot.is_unsettled());
            true
        });
        self.slots = slots;
        self.healing = healing;
        for key in urgent {
            self.attend_to(key, out);
        }
        self.heal(out);

        // Messages of the old view are void: whatever waited for one asks again.
        self.forwarded_as.clear();
        for mut forwarded in std::mem::take(&mut self.forwarded).into_values() {
            forwarded.pending.request.again = true;
            self.retry(forwarded.key, forwarded.pending, out);
        }
        self.drop_requests_of_peers();
        let keys: Vec<_> = self.wanted.keys().cloned().collect();
        for key in keys {
            self.kick(&key, out);
        }
        let asked: Vec<u64> = self.locating.keys().copied().collect();
        for token in asked {
            self.ask_home(token, out);
        }
        for (from, epoch, msg) in self.unpark() {
            if epoch >= self.view.epoch {
                self.message(leased, from, epoch, msg, out);
            }
        }
    }

    /// Makes what this node has of a key what it is under the view just installed.
    fn adapt(&self, key: &Key, slot: &mut Slot) -> Fit {
        match slot {
            Slot::Own(own) if !self.placement.is_active(&self.me) => {
                own.unsettled = false;
                Fit::Urgent
            }
            Slot::Own(own) => {
                let keepers = || self.placement.keepers(key, &self.me, self.backups);
                let same = keepers().eq(own.keepers.iter().map(|(id, _)| id));
                if self.planted.has(Defect::PushByDiff) {
                    let unseen = same.then_some(own.ver);
                    own.keepers = keepers().map(|id| (id.clone(), unseen)).collect();
                } else if !same {
                    let acked = std::mem::take(&mut own.keepers);
                    let ver = |id| {
                        acked
                            .iter()
                            .find(|(a, _)| a == id)
                            .and_then(|(_, ver)| *ver)
                    };
                    own.keepers = keepers().map(|id| (id.clone(), ver(id))).collect();
                }
                own.sync_ver = own.ver;
                own.put_at = self.tick;
                own.unsettled = !own.is_synced();
                if !own.waiting.is_empty() {
                    Fit::Urgent
                } else if own.unsettled {
                    Fit::Open
                } else {
                    Fit::Settled
                }
            }
            Slot::Rec(rec) => {
                let owner = rec.owner.as_deref();
                let live = owner.is_some_and(|owner| self.placement.is_active(owner));
                let only_dead = self.planted.has(Defect::OnlyDeadOwnersPushed);
                if !live || !(rec.confirmed || only_dead || self.was_home_throughout(key)) {
                    rec.owner = None;
                }
                if self.planted.has(Defect::DropAtInstall)
                    && !self.placement.is_top(key, self.backups, &self.me)
                {
                    return Fit::Surplus;
                }
                rec.acks = (!self.is_settled(rec)).then_some(0);
                if rec.acks.is_some() {
                    Fit::Open
                } else {
                    Fit::Settled
                }
            }
        }
    }

    /// Clients wait for the copies of a key, or have to look for it elsewhere.
    fn attend_to(&mut self, key: Key, out: &mut Vec<Effect>) {
        let is_active = self.placement.is_active(&self.me);
        let Some(Slot::Own(own)) = self.slots.get_mut(&key) else {
            return;
        };
        if is_active {
            own.send_puts(&key, self.tick, out);
            own.list(&key, &mut self.lagging);
            return;
        }
        let rec = Rec {
            gen_: own.gen_,
            ver: own.ver,
            data: own.data[..].into(),
            owner: None,
            confirmed: true,
            acks: Some(0),
        };
        self.healing.open.push(key.clone());
        if let Some(Slot::Own(own)) = self.put_slot(key.clone(), Slot::Rec(rec)) {
            self.disown(&key, *own, out);
        }
    }

    /// Peers forward again under the new view what was not handled under the old one.
    fn drop_requests_of_peers(&mut self) {
        let mut dropped = Vec::new();
        self.wanted.retain(|_, wanted| {
            let (locals, peers) = std::mem::take(&mut wanted.pending)
                .into_iter()
                .partition(|p| matches!(p.origin, super::Origin::Local(_)));
            wanted.pending = locals;
            dropped.extend::<std::collections::VecDeque<_>>(peers);
            !wanted.pending.is_empty()
        });
        for pending in dropped {
            self.books.release(&pending);
        }
    }

    /// Tells everybody when all copies that this node answers for are in place.
    pub(super) fn try_done(&mut self, out: &mut Vec<Effect>) {
        let settled = self.healing.unsettled == 0 || self.planted.has(Defect::DoneWithoutAcks);
        if self.done_sent || !settled {
            return;
        }
        self.done_sent = true;
        if self.healing.unsettled == 0 {
            self.healing = Healing::default();
        }
        self.done_from.insert(self.me.clone());
        self.send_done(out);
        out.push(Effect::Progress(self.view.epoch, Progress::Sent));
        self.try_complete(out);
    }

    /// Tells those who have not told this node. Whoever has, and missed this, asks by its own resend.
    pub(super) fn send_done(&self, out: &mut Vec<Effect>) {
        for to in self.view.ids().filter(|id| **id != self.me) {
            let heard = self.done_from.contains(to);
            out.push(Effect::Send {
                to: to.clone(),
                msg: Msg::Done { heard },
            });
        }
    }

    /// A member's copies are in place.
    pub(super) fn done(&mut self, from: NodeId, heard: bool, out: &mut Vec<Effect>) {
        if !heard && self.done_sent {
            out.push(Effect::Send {
                to: from.clone(),
                msg: Msg::Done { heard: true },
            });
        }
        self.done_from.insert(from);
        self.try_complete(out);
    }

    fn try_complete(&mut self, out: &mut Vec<Effect>) {
        if self.complete || !self.view.ids().all(|id| self.done_from.contains(id)) {
            return;
        }
        self.complete = true;
        self.lineage = vec![self.placement.clone()];
        let (placement, backups, me) = (&self.placement, self.backups, &self.me);
        let unsettled = &mut self.healing.unsettled;
        self.slots.retain(|key, slot| {
            let keep = matches!(slot, Slot::Own(_)) || placement.is_top(key, backups, me);
            *unsettled -= usize::from(!keep && slot.is_unsettled());
            keep
        });
        out.push(Effect::Progress(self.view.epoch, Progress::Complete));
        self.end_inquiries(out);
        let keys: Vec<_> = self.wanted.keys().cloned().collect();
        for key in keys {
            self.kick(&key, out);
        }
        let asked: Vec<u64> = self.locating.keys().copied().collect();
        for token in asked {
            self.ask_home(token, out);
        }
    }
}
