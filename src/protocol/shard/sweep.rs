//! A new view, key by key. There may be millions, most of which stay as they are; so they are looked at a few at a time,
//! and a key that is touched meanwhile is looked at before. To everybody outside it is as if all had been at the install:
//! what becomes of a key depends on the view and on the key alone, nothing else happens to it before it is looked at, and
//! the barrier waits until all have been.
//!
//! If nobody has left since a barrier was complete, most slots are as the new view wants them, and the ranking of their key
//! alone tells it: an owner none of whose keepers is new, and a record that belongs here and has a confirmed owner. Those
//! are passed over without a look at their memory, which is what costs.

use smallvec::SmallVec;

use super::super::defect::Defect;
use super::super::placement::Placement;
use super::super::types::{ClusterId, Key, KeyRef, NodeId};
use super::prefetch::prefetch;
use super::table::{Role, Table};
use super::{Effects, PREFETCHED, Rec, Shard, Slot};

/// How many places are looked at at once.
const SWEPT_AT_ONCE: usize = 512;

/// Which of the installs a slot was looked at after; they are counted, and the numbers come round.
pub(super) type Stamp = u16;

/// How far it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Sweep {
    /// The latest install.
    pub(super) stamp: Stamp,
    /// The next place to look at; none when all were.
    pub(super) next: Option<usize>,
    /// [`Table::moves`] when the first place was looked at.
    pub(super) moves: u32,
    /// Who came, if nobody left; otherwise every slot is to be looked at.
    pub(super) growth: Option<Growth>,
    /// How many places to look at at once.
    pub(super) at_once: usize,
    /// Records that do not belong here any more: dropped when the barrier is complete.
    pub(super) surplus: Vec<Key>,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            stamp: 0,
            next: None,
            moves: 0,
            growth: None,
            at_once: SWEPT_AT_ONCE,
            surplus: Vec::new(),
        }
    }
}

/// What is new of a placement that has all members of the one before.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Growth {
    /// Where this node is among its members.
    me: usize,
    /// Where the new ones are.
    new: Vec<usize>,
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
    /// What is new of that placement, of a view of that cluster, if all slots fit the one before and nobody of that has left.
    pub(super) fn growth_to(&self, cluster: ClusterId, after: &Placement) -> Option<Growth> {
        // Whatever else is on its way then is listed as lagging, or has no owner.
        let fits = self.complete && !self.planted.has(Defect::DoneWithoutAcks);
        // All slots get the last number, so that none has one from before when the numbers come round.
        let is_last = self.sweep.stamp == Stamp::MAX - 1;
        if !fits || is_last || cluster != self.view.cluster {
            return None;
        }
        let before = &self.placement;
        if !before.is_active(&self.me) || !before.active().all(|id| after.is_active(id)) {
            return None;
        }
        Some(Growth {
            me: after.position(&self.me)?,
            new: {
                let active = after.active().enumerate();
                let new = active.filter(|(_, id)| !before.is_active(id));
                new.map(|(position, _)| position).collect()
            },
        })
    }

    /// A view was installed: all slots are to be looked at, but for those that fit it anyway.
    pub(super) fn begin_sweep(&mut self, growth: Option<Growth>, out: &mut dyn Effects) {
        if self.is_sweeping() && self.sweep.stamp == Stamp::MAX {
            // No slot may be so old that the numbers have come round to its own.
            self.end_sweep(out);
        }
        self.sweep = Sweep {
            stamp: self.sweep.stamp.wrapping_add(1),
            next: (!self.slots.is_empty()).then_some(0),
            moves: self.slots.moves(),
            growth,
            at_once: self.sweep.at_once,
            ..Sweep::default()
        };
    }

    /// Whether there may be slots that were not looked at after the latest install.
    pub(super) fn is_sweeping(&self) -> bool {
        self.sweep.next.is_some()
    }

    /// Looks at all slots.
    pub(super) fn end_sweep(&mut self, out: &mut dyn Effects) {
        while self.is_sweeping() {
            self.sweep(out);
        }
    }

    /// Looks at some slots.
    pub(super) fn sweep(&mut self, out: &mut dyn Effects) {
        let Some(mut next) = self.sweep.next else {
            return;
        };
        let mut slots = std::mem::take(&mut self.slots);
        if self.sweep.moves != slots.moves() {
            // Some may be in places that have been passed.
            (next, self.sweep.moves) = (0, slots.moves());
        }
        let end = slots.places().min(next + self.sweep.at_once);
        let mut rest = Vec::new();
        while next < end {
            let to = end.min(next + PREFETCHED);
            let concerned = (next..to).filter(|place| self.is_concerned(&slots, *place));
            let concerned: SmallVec<[usize; PREFETCHED]> = concerned.collect();
            prefetch(&slots, &concerned);
            let looks = concerned.into_iter();
            rest.extend(looks.filter_map(|place| self.look_at(&mut slots, place)));
            next = to;
        }
        self.sweep.next = (next < slots.places()).then_some(next);
        self.slots = slots;
        for (key, fit) in rest {
            self.attend_to(key, fit, out);
        }
    }

    /// Looks at the slot of a key that something is about to happen to.
    pub(super) fn touch(&mut self, key: &Key, out: &mut dyn Effects) {
        if self.is_sweeping() {
            self.touch_ref(key.borrowed(), out);
        }
    }

    /// The same.
    pub(super) fn touch_ref(&mut self, key: KeyRef<'_>, out: &mut dyn Effects) {
        if self.is_sweeping()
            && let Some(place) = self.slots.place_of(key)
            && self.is_concerned(&self.slots, place)
        {
            self.look_now(place, out);
        }
    }

    /// Looks at the slot of a key that has more to do after an install than its ranking tells.
    pub(super) fn look_closely(&mut self, key: &Key, out: &mut dyn Effects) {
        if let Some(place) = self.slots.place_of(key.borrowed()) {
            self.look_now(place, out);
        }
    }

    fn look_now(&mut self, place: usize, out: &mut dyn Effects) {
        let mut slots = std::mem::take(&mut self.slots);
        let rest = self.look_at(&mut slots, place);
        self.slots = slots;
        if let Some((key, fit)) = rest {
            self.attend_to(key, fit, out);
        }
    }

    /// Whether what is in that place may not fit the view.
    fn is_concerned(&self, slots: &Table, place: usize) -> bool {
        let Some((hash, role)) = slots.role_at(place) else {
            return false;
        };
        let Some(Growth { me, new }) = &self.sweep.growth else {
            return true;
        };
        let (placement, backups) = (&self.placement, self.backups);
        let keeps = |new: &usize| placement.is_keeper(hash, *me, backups, *new);
        match role {
            Role::Owned => new.iter().any(keeps),
            Role::Kept => placement.rank(hash, *me) > backups,
            Role::Loose => true,
        }
    }

    /// Whether what is in that place, and may not fit the view, was not looked at.
    pub(super) fn is_stale(&self, place: usize) -> bool {
        let stamp = self.slots.at(place).map(Slot::stamp);
        self.is_sweeping()
            && stamp.is_some_and(|stamp| stamp != self.sweep.stamp)
            && self.is_concerned(&self.slots, place)
    }

    /// Looks at the slot in that place, unless it was looked at; what is to be done beside, if anything is.
    fn look_at(&mut self, slots: &mut Table, place: usize) -> Option<(Key, Fit)> {
        let (hash, _) = slots.role_at(place)?;
        let stamp = self.sweep.stamp;
        let (key, fit, is_unsettled, is_surplus) = slots.change(place, |key, slot| {
            if slot.stamp() == stamp {
                return None;
            }
            let first = self.placement.first(hash, self.backups + 1);
            let fit = self.adapt(&first, key, slot);
            slot.set_stamp(stamp);
            let is_surplus = matches!(slot, Slot::Rec(_)) && !first.contains(&&self.me);
            Some((key.clone(), fit, slot.is_unsettled(), is_surplus))
        })??;
        self.healing.unsettled += usize::from(is_unsettled);
        if is_surplus {
            self.sweep.surplus.push(key.clone());
        }
        match fit {
            Fit::Settled => None,
            Fit::Open => {
                self.healing.open.push(key);
                None
            }
            Fit::Urgent | Fit::Surplus => Some((key, fit)),
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
    fn attend_to(&mut self, key: Key, fit: Fit, out: &mut dyn Effects) {
        if matches!(fit, Fit::Surplus) {
            self.take_slot(&key);
            return;
        }
        if self.placement.is_active(&self.me) {
            return self.send_puts(&key, out);
        }
        let Some(own) = self.own(&key) else {
            return;
        };
        let rec = Rec::without_owner(own.gen_, own.ver, &own.data);
        self.healing.open.push(key.clone());
        self.sweep.surplus.push(key.clone());
        if let Some(Slot::Own(own)) = self.put_slot(key.clone(), Slot::Rec(rec)) {
            self.disown(&key, *own, out);
        }
    }
}
