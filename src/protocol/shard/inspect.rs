//! What the checks look at and nothing else calls: the model checker in `tests/` sees through these what decides
//! the next step of a part.

use std::collections::BTreeSet;

use super::super::types::{Key, NodeId, RequestId};
use super::index::Index;
use super::{Lagging, Origin, PARKED_MAX, Pending, REQUEST_BYTES, Rec, Shard, Slot};

impl Shard {
    /// How many places to look at at once after an install.
    #[doc(hidden)]
    pub fn sweep_at_once(&mut self, places: usize) {
        self.sweep.at_once = places;
    }

    /// Whether the barrier of the installed epoch is complete.
    #[doc(hidden)]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// What each keeper of an owned key acknowledged.
    #[doc(hidden)]
    pub fn acked_by(&self, key: &Key) -> &[(NodeId, Option<u64>)] {
        self.own(key).map_or(&[], |own| own.keepers.as_slice())
    }

    /// Whether nothing comes of it that `id` acknowledges the Hold of `key`.
    #[doc(hidden)]
    pub fn is_held_by(&self, key: &Key, id: &NodeId) -> bool {
        let Some(Slot::Rec(Rec {
            acks: Some(acks), ..
        })) = self.slots.get(key)
        else {
            return true;
        };
        let mut ranked = self.placement.top(key, self.backups);
        let rank = ranked.position(|ranked| ranked == id);
        rank.is_none_or(|rank| acks & 1 << rank != 0)
    }

    /// How many actors were put to rest here.
    #[doc(hidden)]
    pub fn rests(&self) -> u64 {
        self.rests
    }

    /// Counts again what waits here, and compares that with the books that are kept of it.
    ///
    /// # Errors
    /// Which of them is wrong, or what has outgrown its limit.
    #[doc(hidden)]
    pub fn audit(&self) -> Result<(), String> {
        let mut all: Vec<&Pending> = Vec::new();
        let mut bytes = self.locating.len() * REQUEST_BYTES;
        for slot in self.slots.values() {
            if let Slot::Own(own) = slot {
                all.extend(own.running.iter());
                all.extend(own.waiting.iter().map(|h| &h.pending));
                bytes += own.waiting.iter().map(|h| h.reply.len()).sum::<usize>();
            }
        }
        all.extend(self.wanted.values().flat_map(|w| &w.pending));
        all.extend(self.forwarded.iter().map(|(_, f)| &f.pending));
        bytes += all.iter().map(|p| p.request.weight()).sum::<usize>();
        let in_hand: BTreeSet<(u64, NodeId)> = all
            .iter()
            .filter_map(|p| match &p.origin {
                Origin::Peer(from, token) => Some((*token, from.clone())),
                Origin::Local(_) => None,
            })
            .collect();
        let forwarded_as: Index<u64> = self
            .forwarded
            .iter()
            .filter_map(|(token, f)| match f.pending.origin {
                Origin::Local(local) => Some((local, token)),
                Origin::Peer(..) => None,
            })
            .collect();
        let locals = all.iter().filter(|p| matches!(p.origin, Origin::Local(_)));
        let ids: BTreeSet<RequestId> = locals.filter_map(|p| p.request.id).collect();
        let fresh = || {
            let slots = self.slots.values();
            slots.filter(|slot| slot.stamp() == self.sweep.stamp)
        };
        let parked: usize = self.parked.iter().map(|(_, _, msg)| msg.weight()).sum();
        for (what, holds) in [
            ("the number of requests", self.books.pending == all.len()),
            ("what the table knows of slots", self.slots.is_tagged()),
            ("the slots that were looked at", self.fits()),
            (
                "the number of unsettled keys",
                self.healing.unsettled == fresh().filter(|slot| slot.is_unsettled()).count(),
            ),
            ("their bytes", self.books.held == bytes),
            ("the requests of peers", self.books.in_hand() == in_hand),
            ("the forwarded requests", self.forwarded_as == forwarded_as),
            (
                "the ids that may be asked for again",
                self.books.issuer.open().all(|id| ids.contains(&id)),
            ),
            ("the bytes of parked messages", self.parked_bytes == parked),
            (
                "the last of the lineage",
                self.lineage.last().is_none_or(|p| *p == self.placement),
            ),
            (
                "the limit of requests",
                self.books.pending <= self.pending_max,
            ),
            ("the limit of bytes", self.held_bytes() <= self.bytes_max),
            (
                "the limit of parked messages",
                self.parked.len() <= PARKED_MAX,
            ),
            ("the limit of inquiries", self.inquiries.len() <= PARKED_MAX),
            (
                "the limit of questions",
                self.locating.len() <= self.pending_max,
            ),
        ] {
            if !holds {
                return Err(what.to_owned());
            }
        }
        Ok(())
    }

    /// Whether every slot is as the view wants it, but for those that are still to be looked at.
    fn fits(&self) -> bool {
        let fits = |key: &Key, slot: &Slot| match slot {
            Slot::Own(own) => {
                let keepers = self.placement.keepers(key, &self.me, self.backups);
                let is_listed = own.listed.lags && self.lagging.has(key, own.listed);
                // Copies that heal are sent again without being listed; where nobody can keep one, none is.
                let is_elsewhere = own.unsettled || own.keepers.is_empty();
                keepers.eq(own.keepers.iter().map(|(id, _)| id))
                    && (is_listed || is_elsewhere || own.waiting.is_empty() && !own.lags())
            }
            Slot::Rec(rec) => {
                let owner = rec.owner.as_deref();
                owner.is_none_or(|owner| self.placement.is_active(owner))
            }
        };
        self.slots.unsorted().all(|(key, slot)| {
            let place = self.slots.place_of(key.borrowed());
            place.is_some_and(|place| self.is_stale(place)) || fits(&key, slot)
        })
    }

    /// Wipes what no later step depends on, as long as `key` is the only key: two parts that are equal
    /// afterwards behave alike.
    #[doc(hidden)]
    pub fn forget_history(&mut self, key: &Key) {
        // Authority is lost by any view in which another node is the home, and only a barrier gives it back.
        let authority = self.was_home_throughout(key);
        self.lineage.clear();
        if authority {
            self.lineage.push(self.placement.clone());
        }
        if self.complete {
            self.done_from.clear();
        }
        if self.forwarded.is_empty() {
            // Replies to earlier tokens belong to earlier epochs, or have arrived.
            self.next_token = 0;
        }
        self.lagging = Lagging::default();
        self.healing.sent.clear();
        self.sweep.surplus.clear();
        let has_swept = !self.is_sweeping();
        if has_swept {
            (self.sweep.stamp, self.sweep.moves, self.sweep.growth) = (0, 0, None);
        }
        if let Some(slot) = self.slots.get_mut(key) {
            if has_swept {
                slot.set_stamp(0);
            }
            let is_rec = matches!(slot, Slot::Rec(_));
            if is_rec && !self.placement.is_top(key, self.backups, &self.me) {
                self.sweep.surplus.push(key.clone());
            }
            if slot.is_unsettled() && self.healing.open.is_empty() {
                self.healing.sent.push_back(key.clone());
            }
            if let Slot::Own(own) = slot {
                if !own.unsettled {
                    own.sync_ver = 0;
                }
                if std::mem::take(&mut own.listed).lags {
                    self.lagging.add(self.tick, key, own);
                }
            }
        }
    }
}
