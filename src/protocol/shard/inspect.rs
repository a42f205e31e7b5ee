//! What the checks look at and nothing else calls: the model checker in `tests/` sees through these what decides
//! the next step of a part.

use super::super::types::{Key, NodeId};
use super::{Shard, Slot};

impl Shard {
    /// Whether this node may speak for `key` as its home.
    #[doc(hidden)]
    pub fn speaks_for(&self, key: &Key) -> bool {
        self.has_authority(key)
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

    /// Who acknowledged the Hold of a key, while its copies of this epoch are not in place.
    #[doc(hidden)]
    pub fn held_by(&self, key: &Key) -> Option<&[NodeId]> {
        self.unsettled.get(key).map(Vec::as_slice)
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
        let settled = !self.unsettled.contains_key(key);
        self.lagging.clear();
        if let Some(Slot::Own(own)) = self.slots.get_mut(key) {
            if settled {
                own.sync_ver = 0;
            }
            if own.listed {
                self.lagging.push(key.clone());
            }
        }
    }
}
