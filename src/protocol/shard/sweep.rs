//! A new view, key by key. There may be millions, most of which stay as they are; so they are looked at a few at a time,
//! and a key that is touched meanwhile is looked at before. To everybody outside it is as if all had been at the install:
//! what becomes of a key depends on the view and on the key alone, nothing else happens to it before it is looked at, and
//! the barrier waits until all have been.

use super::super::defect::Defect;
use super::super::types::{Key, KeyRef, NodeId};
use super::prefetch::prefetch;
use super::{Effect, PREFETCHED, Rec, Shard, Slot};

/// How many places are looked at at once.
const SWEPT_AT_ONCE: usize = 512;

/// Which of the installs a slot was looked at after; they are counted, and the numbers come round.
pub(super) type Stamp = u16;

/// How far it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Sweep {
    /// The latest install.
    pub(super) stamp: Stamp,
    /// How many slots have not been looked at after it.
    pub(super) stale: usize,
    /// The next place to look at.
    pub(super) next: usize,
    /// How many places to look at at once.
    pub(super) at_once: usize,
    /// Records that do not belong here any more: dropped when the barrier is complete.
    pub(super) surplus: Vec<Key>,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            stamp: 0,
            stale: 0,
            next: 0,
            at_once: SWEPT_AT_ONCE,
            surplus: Vec::new(),
        }
    }
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

impl Slot {
    pub(super) fn stamp(&self) -> Stamp {
        match self {
            Self::Own(own) => own.stamp,
            Self::Rec(rec) => rec.stamp,
        }
    }

    pub(super) fn set_stamp(&mut self, stamp: Stamp) {
        match self {
            Self::Own(own) => own.stamp = stamp,
            Self::Rec(rec) => rec.stamp = stamp,
        }
    }
}

impl Shard {
    /// A view was installed: all slots are to be looked at.
    pub(super) fn begin_sweep(&mut self, out: &mut Vec<Effect>) {
        if self.sweep.stale > 0 && self.sweep.stamp == Stamp::MAX {
            // No slot may be so old that the numbers have come round to its own.
            self.end_sweep(out);
        }
        self.sweep = Sweep {
            stamp: self.sweep.stamp.wrapping_add(1),
            stale: self.slots.len(),
            at_once: self.sweep.at_once,
            ..Sweep::default()
        };
    }

    /// Looks at all slots.
    pub(super) fn end_sweep(&mut self, out: &mut Vec<Effect>) {
        while self.sweep.stale > 0 {
            self.sweep(out);
        }
    }

    /// Looks at some slots.
    pub(super) fn sweep(&mut self, out: &mut Vec<Effect>) {
        if self.sweep.stale == 0 {
            return;
        }
        let mut slots = std::mem::take(&mut self.slots);
        let mut rest = Vec::new();
        for ahead in 0..self.sweep.at_once {
            if self.sweep.stale == 0 {
                break;
            }
            if ahead % PREFETCHED == 0 {
                let next = self.sweep.next..self.sweep.next + PREFETCHED;
                prefetch(next.filter_map(|place| slots.at(place)));
            }
            if self.sweep.next >= slots.places() {
                // Some have moved meanwhile.
                self.sweep.next = 0;
            }
            if let Some((hash, key, slot)) = slots.at_mut(self.sweep.next)
                && slot.stamp() != self.sweep.stamp
            {
                let fit = self.look_at(hash, key, slot);
                rest.extend(fit.map(|fit| (key.clone(), fit)));
            }
            self.sweep.next += 1;
        }
        self.slots = slots;
        for (key, fit) in rest {
            self.attend_to(key, fit, out);
        }
    }

    /// Looks at the slot of a key that something is about to happen to.
    pub(super) fn touch(&mut self, key: &Key, out: &mut Vec<Effect>) {
        if self.sweep.stale > 0 {
            self.touch_ref(key.borrowed(), out);
        }
    }

    /// The same.
    pub(super) fn touch_ref(&mut self, key: KeyRef<'_>, out: &mut Vec<Effect>) {
        if self.sweep.stale == 0 {
            return;
        }
        let mut slots = std::mem::take(&mut self.slots);
        let mut rest = None;
        let hash = key.hash();
        if let Some((key, slot)) = slots.find_mut(key)
            && slot.stamp() != self.sweep.stamp
        {
            let fit = self.look_at(hash, key, slot);
            rest = fit.map(|fit| (key.clone(), fit));
        }
        self.slots = slots;
        if let Some((key, fit)) = rest {
            self.attend_to(key, fit, out);
        }
    }

    /// Looks at the slot of a key with that hash; what is to be done beside, if anything is.
    fn look_at(&mut self, hash: u64, key: &Key, slot: &mut Slot) -> Option<Fit> {
        let first = self.placement.first(hash, self.backups + 1);
        let fit = self.adapt(&first, key, slot);
        slot.set_stamp(self.sweep.stamp);
        self.sweep.stale -= 1;
        self.healing.unsettled += usize::from(slot.is_unsettled());
        if matches!(slot, Slot::Rec(_)) && !first.contains(&&self.me) {
            self.sweep.surplus.push(key.clone());
        }
        match fit {
            Fit::Settled => None,
            Fit::Open => {
                self.healing.open.push(key.clone());
                None
            }
            Fit::Urgent | Fit::Surplus => Some(fit),
        }
    }

    /// Makes what this node has of a key what it is under the view just installed; `first`: where it belongs.
    fn adapt(&self, first: &[&NodeId], key: &Key, slot: &mut Slot) -> Fit {
        match slot {
            Slot::Own(own) if !self.placement.is_active(&self.me) => {
                own.unsettled = false;
                Fit::Urgent
            }
            Slot::Own(own) => {
                let others = || first.iter().copied().filter(|id| **id != self.me);
                let keepers = || others().take(self.backups);
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
                if self.planted.has(Defect::DropAtInstall) && !first.contains(&&self.me) {
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
    fn attend_to(&mut self, key: Key, fit: Fit, out: &mut Vec<Effect>) {
        if matches!(fit, Fit::Surplus) {
            self.take_slot(&key);
            return;
        }
        let is_active = self.placement.is_active(&self.me);
        let Some(Slot::Own(own)) = self.slots.get_mut(&key) else {
            return;
        };
        if is_active {
            own.send_puts(&key, self.tick, out);
            own.list(&key, &mut self.lagging);
            return;
        }
        let rec = Rec::without_owner(own.gen_, own.ver, &own.data);
        self.healing.open.push(key.clone());
        self.sweep.surplus.push(key.clone());
        if let Some(Slot::Own(own)) = self.put_slot(key.clone(), Slot::Rec(rec)) {
            self.disown(&key, *own, out);
        }
    }
}
