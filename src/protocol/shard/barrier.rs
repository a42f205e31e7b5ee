//! A new view: ownership that did not survive is dropped, copies go where the view wants them, and when every
//! member says that its copies are in place, the barrier is complete.

use std::sync::Arc;

use super::super::defect::Defect;
use super::super::placement::Placement;
use super::super::types::{Key, NodeId};
use super::super::view::View;
use super::{Effect, Effects, Forwarded, Healing, Msg, PREFETCHED, Shard, Slot};

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

impl Shard {
    /// Installs a view of a later epoch, or of another cluster; views in between may be skipped.
    pub(super) fn install(&mut self, leased: bool, view: View, out: &mut dyn Effects) {
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
        let placement = Placement::of(&view);
        let growth = self.growth_to(view.cluster, &placement);
        self.ids = view.ids().cloned().map(Arc::new).collect();
        self.view = view;
        self.placement = placement;
        if !self.lineage.is_empty() && self.lineage.last() != Some(&self.placement) {
            self.lineage.push(self.placement.clone());
        }
        self.done_sent = false;
        self.done_from.clear();
        self.complete = false;
        self.inquiries.clear();

        self.begin_sweep(growth, out);
        self.healing = Healing::default();
        if !self.placement.is_active(&self.me) {
            // Others own by now what this node did, and no client waits for it.
            self.end_sweep(out);
        }
        for names in self.lagging.names().chunks(PREFETCHED) {
            self.prefetch(names.iter().map(Key::borrowed));
            // Clients wait for some of these, and what was put of the others is void.
            names.iter().for_each(|key| self.look_closely(key, out));
        }
        self.heal(out);

        // Messages of the old view are void: whatever waited for one asks again.
        self.forwarded_as.clear();
        for mut forwarded in std::mem::take(&mut self.forwarded).into_values() {
            forwarded.pending.request.again = true;
            let Forwarded {
                to, key, pending, ..
            } = forwarded;
            self.retry(key, pending, Some(to), out);
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
                self.message(leased, &from, epoch, msg, out);
            }
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
    pub(super) fn try_done(&mut self, out: &mut dyn Effects) {
        let settled = self.healing.unsettled == 0 || self.planted.has(Defect::DoneWithoutAcks);
        if self.done_sent || self.is_sweeping() || !settled {
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
    pub(super) fn send_done(&self, out: &mut dyn Effects) {
        for to in self.view.ids().filter(|id| **id != self.me) {
            let heard = self.done_from.contains(to);
            out.push(Effect::Send {
                to: to.clone(),
                msg: Msg::Done { heard },
            });
        }
    }

    /// A member's copies are in place.
    pub(super) fn done(&mut self, from: NodeId, heard: bool, out: &mut dyn Effects) {
        if !heard && self.done_sent {
            out.push(Effect::Send {
                to: from.clone(),
                msg: Msg::Done { heard: true },
            });
        }
        self.done_from.insert(from);
        self.try_complete(out);
    }

    fn try_complete(&mut self, out: &mut dyn Effects) {
        if self.complete || !self.view.ids().all(|id| self.done_from.contains(id)) {
            return;
        }
        self.complete = true;
        self.lineage = vec![self.placement.clone()];
        for key in std::mem::take(&mut self.sweep.surplus) {
            if matches!(self.slots.get(&key), Some(Slot::Rec(_))) {
                self.take_slot(&key);
            }
        }
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
