//! Actors at rest: nobody has asked one for long, so it ends, and what stays is a record without an owner on each of
//! the first `backups + 1` nodes of its ranking. The next request, on any node, claims it from there.
//!
//! ```text
//!   owner                 home             the others of the first b + 1
//!     │ ends the actor, becomes a record without an owner, version + 1
//!     │── Hold ────────────▶│                        │
//!     │── Hold ─────────────┼───────────────────────▶│
//!     │◀─ HoldAck ──────────┴────────────────────────┤
//!     │ drops its record if it is not one of them
//! ```
//!
//! So two nodes can own one key in one epoch, one after the other, and messages of the first may still be under way
//! when the second owns it. Why that is safe:
//!
//! - *Nothing is lost.* The owner goes to rest when its keepers have its version and it owes no answer. It keeps its
//!   record until all that belong to the first `b + 1` have acknowledged the Hold, so at any time `b + 1` nodes have the
//!   state. Keepers are always among those, so no other record can be left over.
//! - *The home knows.* It names the owner until the Hold arrives: who claims is sent to the owner, which does not own
//!   the key any more, wants it as any other node does, and claims; the home ignores that, and the claim is sent again.
//!   The Hold is sent again too, each tick. When it has arrived, and not before, the home grants anew, and then it names
//!   *that* owner until it goes to rest: at any time, the owner is whom the home names. A view that comes in between
//!   makes the record one of those without an owner, which its barrier passes on.
//! - *Versions tell the order.* The record at rest has the version after the last that the owner put, and the next
//!   owner begins with it. So whatever is late of the owner before is older: its puts change nothing and are not
//!   acknowledged, its Holds change nothing, and acknowledgements for it count for no version of the next owner.
//! - *An old grant is void.* The owner may have dropped its record, so nothing of the key is left to compare a late
//!   grant with, and a memory of every actor that ever rested would grow for ever. Instead a part counts how many
//!   actors it has put to rest. A claim carries that number as of when the node began to want the key, and the grant
//!   repeats it. A grant is taken only if no actor has gone to rest here between that claim and now, or the claim is not
//!   older than the request that waits: requests do not wait where the actor lives, so it has not gone to rest since
//!   they began to. Who is refused claims again.
//! - *Late 'owner is' messages* send requests to a node that may not own the key: it claims, or passes them on. Each
//!   such message does that once, so requests do not go in circles for long; ids keep them from being applied twice.
//!
//! Only when the barrier is complete does an actor go to rest. Then every member is in this epoch and done with its sync,
//! no copy of an earlier epoch is under way, and `healing` is free for the Holds. Whoever is about to leave hands over
//! what it owns by the barrier anyway.

use super::super::defect::Defect;
use super::super::types::{Epoch, Key};
use super::{Actor, Effect, Effects, Rec, Shard, Slot};

/// Most actors of a part whose copies at rest are under way; further ones stay awake for now.
const RESTING_MAX: usize = 1_024;

impl Shard {
    /// Whether the actor of `key` can go to rest now: it has nothing to do, and its keepers have its state.
    #[doc(hidden)]
    pub fn may_rest(&self, key: &Key, gen_: Epoch) -> bool {
        let idle = self.own(key).is_some_and(|own| {
            own.gen_ == gen_
                && own.running.is_empty()
                && own.waiting.is_empty()
                && own.actor != Actor::Restarting
                && !own.lags()
        });
        idle && self.complete && !self.quiescing && self.healing.unsettled < RESTING_MAX
    }

    /// Nobody has asked the actor for long.
    pub(super) fn rest(&mut self, key: &Key, gen_: Epoch, out: &mut dyn Effects) {
        if !self.may_rest(key, gen_) {
            return;
        }
        let Some(Slot::Own(own)) = self.take_slot(key) else {
            return;
        };
        out.push(Effect::Stop {
            key: key.clone(),
            gen_,
        });
        self.rests += 1;
        let step = u64::from(!self.planted.has(Defect::RestSameVersion));
        let rec = Rec::without_owner(gen_, own.ver + step, &own.data);
        self.put_slot(key.clone(), Slot::Rec(rec));
        if self.send_holds(key, out) {
            self.healing.sent.push_back(key.clone());
        }
        if self.planted.has(Defect::RestWithoutAcks) {
            self.settle_record(key);
        }
    }

    /// All copies of a record without an owner are in place: this one is surplus if it is not among them. While the
    /// barrier goes on nothing is.
    pub(super) fn rested(&mut self, key: &Key) {
        if self.complete && !self.placement.is_top(key, self.backups, &self.me) {
            self.take_slot(key);
        }
    }

    /// Whether a grant of `key` answers a claim from after this node last put that actor to rest; `rests` is the number
    /// of that claim.
    pub(super) fn is_since_rest(&self, key: &Key, rests: u64) -> bool {
        let wanted = self.wanted.get(key);
        rests >= wanted.map_or(self.rests, |wanted| wanted.rests)
            || self.planted.has(Defect::GrantBeforeRest)
    }
}
