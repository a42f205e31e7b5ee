//! Copies that are not where the view wants them: they heal without traffic. A view can make millions of them, so they
//! are counted and named, and sent a few at a time, as the driver has room; clients come first.
//!
//! ```text
//!   install ──▶ open ──Heal──▶ sent ──acknowledged by all──▶ settled; the last one: this node is done
//!                 ▲             │ ▲
//!                 └── Linked ───┘ └─ Tick: some of those that are not acknowledged are sent again
//! ```
//!
//! Whether a key is settled stands in its slot; the lists may name keys that are.

use std::collections::VecDeque;

use super::super::defect::Defect;
use super::super::types::{Epoch, Key, NodeId};
use super::{Effects, Msg, PREFETCHED, Shard, Slot};

/// How many keys are sent at once.
const HEAL_AT_ONCE: usize = 256;

/// How many keys whose copies are not in place yet are looked at in a tick: to send them again is for the few that got
/// lost.
pub(super) const RESENT_AT_A_TICK: usize = 1_024;

/// Who of the first of a ranking has a copy, by their rank.
pub(super) type Acks = u16;

/// The copies of this epoch that are not in place.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Healing {
    /// Of so many keys.
    pub(super) unsettled: usize,
    /// Those that were not sent.
    pub(super) open: Vec<Key>,
    /// Those that were.
    pub(super) sent: VecDeque<Key>,
}

/// What a member is to keep of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copied<'a> {
    /// Whether it has no owner: then it goes as a Hold, else as a Put.
    pub is_hold: bool,
    /// The generation.
    pub gen_: Epoch,
    /// The version.
    pub ver: u64,
    /// The state.
    pub data: &'a [u8],
}

impl Copied<'_> {
    /// As a message of its own.
    pub fn to_msg(self, key: Key) -> Msg {
        let Self {
            is_hold,
            gen_,
            ver,
            data,
        } = self;
        let data = data.into();
        if is_hold {
            Msg::Hold {
                key,
                gen_,
                ver,
                data,
            }
        } else {
            Msg::Put {
                key,
                gen_,
                ver,
                data,
            }
        }
    }
}

impl Slot {
    /// Whether its copies are not in place.
    pub(super) fn is_unsettled(&self) -> bool {
        match self {
            Self::Own(own) => own.unsettled,
            Self::Rec(rec) => rec.acks.is_some(),
        }
    }
}

impl Shard {
    /// Whether [`Input::Heal`](super::Input::Heal) has something to do: keys to look at after an install, or copies to
    /// send for the first time.
    pub fn is_healing(&self) -> bool {
        self.is_sweeping() || !self.healing.open.is_empty()
    }

    /// What `to` is to keep of `key` now; none if that has changed, and it is to keep nothing, or has it.
    pub fn copy_of(&self, key: &Key, to: &NodeId) -> Option<Copied<'_>> {
        let place = self.slots.place_of(key.borrowed())?;
        if self.is_stale(place) {
            // Whoever queued it did so under an earlier view.
            return None;
        }
        match self.slots.at(place)? {
            Slot::Own(own) => {
                let (_, acked) = own.keepers.iter().find(|(id, _)| id == to)?;
                (*acked != Some(own.ver)).then_some(Copied {
                    is_hold: false,
                    gen_: own.gen_,
                    ver: own.ver,
                    data: &own.data,
                })
            }
            Slot::Rec(rec) => {
                let acks = rec.acks?;
                let mut missing = self.missing(key, acks);
                missing.any(|id| id == to).then_some(Copied {
                    is_hold: true,
                    gen_: rec.gen_,
                    ver: rec.ver,
                    data: &rec.data,
                })
            }
        }
    }

    /// Puts a slot in place; what was there before.
    pub(super) fn put_slot(&mut self, key: Key, mut slot: Slot) -> Option<Slot> {
        slot.set_stamp(self.sweep.stamp);
        self.healing.unsettled += usize::from(slot.is_unsettled());
        let before = self.slots.insert(key, slot);
        if before.as_ref().is_some_and(Slot::is_unsettled) {
            self.healing.unsettled -= 1;
        }
        before
    }

    /// Takes a slot out.
    pub(super) fn take_slot(&mut self, key: &Key) -> Option<Slot> {
        let slot = self.slots.remove(key)?;
        self.healing.unsettled -= usize::from(slot.is_unsettled());
        Some(slot)
    }

    /// Sends the next copies.
    pub(super) fn heal(&mut self, out: &mut dyn Effects) {
        self.sweep(out);
        for _ in 0..HEAL_AT_ONCE {
            let Some(key) = self.healing.open.pop() else {
                return;
            };
            if self.send_copies(&key, None, out) {
                self.healing.sent.push_back(key);
            }
        }
    }

    /// All that was sent may be lost.
    pub(super) fn heal_again(&mut self) {
        let Healing { open, sent, .. } = &mut self.healing;
        open.extend(sent.drain(..));
    }

    /// Sends some copies again that are not acknowledged; those of an owner only if they were put as early as that.
    pub(super) fn resend_copies(&mut self, put_by: Option<u64>, out: &mut dyn Effects) {
        let count = self.healing.sent.len().min(RESENT_AT_A_TICK);
        let sent: Vec<Key> = self.healing.sent.drain(..count).collect();
        for keys in sent.chunks(PREFETCHED) {
            self.prefetch(keys.iter().map(Key::borrowed));
            for key in keys {
                if self.send_copies(key, Some(put_by), out) {
                    self.healing.sent.push_back(key.clone());
                }
            }
        }
    }

    /// Sends the copies of a key that are not in place; false if all are. `again`: only what was put as early as that.
    fn send_copies(
        &mut self,
        key: &Key,
        again: Option<Option<u64>>,
        out: &mut dyn Effects,
    ) -> bool {
        match self.slots.get_mut(key) {
            Some(Slot::Own(own)) => {
                // Those that are listed as lagging are looked at there.
                let due = again
                    .is_none_or(|by| !own.listed.lags && by.is_some_and(|by| own.put_at <= by));
                if own.unsettled && due {
                    own.send_puts(key, self.tick, out);
                }
                own.unsettled
            }
            Some(Slot::Rec(_)) => self.send_holds(key, out),
            None => false,
        }
    }

    /// Passes an unsettled record on to those that have not acknowledged it; false if all have.
    pub(super) fn send_holds(&mut self, key: &Key, out: &mut dyn Effects) -> bool {
        let Some(Slot::Rec(rec)) = self.slots.get(key) else {
            return false;
        };
        let Some(acks) = rec.acks else {
            return false;
        };
        let mut any = false;
        for to in self.missing(key, acks) {
            out.copy(to, key, false);
            any = true;
        }
        if !any {
            self.settle_record(key);
        }
        any
    }

    /// A copy that this node passed on is in place there.
    pub(super) fn hold_ack(&mut self, from: &NodeId, key: &Key, gen_: Epoch, ver: u64) {
        let targets = self.hold_backups();
        let (placement, me) = (&self.placement, &self.me);
        let Some(Slot::Rec(rec)) = self.slots.get_mut(key) else {
            return;
        };
        if (rec.gen_, rec.ver) != (gen_, ver) {
            return;
        }
        let Some(acks) = &mut rec.acks else {
            return;
        };
        let mut all = true;
        for (rank, id) in placement.top(key, targets).enumerate() {
            if id == from {
                *acks |= 1 << rank;
            }
            all &= id == me || *acks & 1 << rank != 0;
        }
        if all {
            self.settle_record(key);
        }
    }

    /// All copies of a record are in place.
    pub(super) fn settle_record(&mut self, key: &Key) {
        if let Some(Slot::Rec(rec)) = self.slots.get_mut(key)
            && rec.acks.take().is_some()
        {
            self.healing.unsettled -= 1;
            self.rested(key);
        }
    }

    /// Who of those that a record belongs to has not acknowledged it.
    fn missing(&self, key: &Key, acks: Acks) -> impl Iterator<Item = &NodeId> {
        let ranked = self.placement.top(key, self.hold_backups()).enumerate();
        let missing = ranked.filter(move |(rank, id)| **id != self.me && acks & 1 << rank == 0);
        missing.map(|(_, id)| id)
    }

    fn hold_backups(&self) -> usize {
        if self.planted.has(Defect::NoOrphanCopy) {
            0
        } else {
            self.backups
        }
    }
}
