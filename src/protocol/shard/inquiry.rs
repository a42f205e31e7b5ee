//! A home without authority that is asked for a key need not wait for the barrier, which waits for all keys: it asks all
//! members what they have of this one. A player that was lost is back after two round trips, however many there are.
//!
//! ```text
//!   claimant          home (no authority)                 every other member
//!      │── Claim ──────────▶│── Inquire ────────────────────────▶│
//!      │                    │◀─ Report: owner, a copy, nothing ──┤   in this epoch
//!      │◀─ Grant, OwnerIs ──│
//! ```
//!
//! It is the barrier for one key; the same idea as restoring on demand what a database lost, before all of it is back
//! (Graefe et al., *Instant recovery with write-ahead logging*). Why that is safe:
//!
//! - *The newest state is among what is reported.* A member reports in the epoch of the question, and takes no message
//!   of an earlier one any more. What was acknowledged before is at its owner or at all of its keepers, and as long as
//!   one of them is a member, it reports that. Who has a copy with a live, confirmed owner leaves the report to that
//!   owner, as it leaves the copies to it at an install.
//! - *Nobody becomes the owner meanwhile.* In this epoch only this home grants, and it does not before all have
//!   reported. An owner stays one until the next view, or until it goes to rest, which it does after the barrier only; then
//!   this home has everything by the barrier. So a report is as good later as it was at first, and it does not matter
//!   which of two questions it answers.
//! - *The grant is remembered.* Its record has this epoch for its generation, which no other record has that this node
//!   has not granted: from then on the home has authority over this key.
//!
//! The barrier goes on beside, since copies must be in place before the next loss, and surplus ones be dropped.

use std::collections::{BTreeMap, BTreeSet};

use super::super::blob::Blob;
use super::super::defect::Defect;
use super::super::types::{Key, NodeId};
use super::{Effect, Effects, Msg, PARKED_MAX, Report, Shard, Slot};

/// What a home waits for that asks who has a key.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Inquiry {
    /// Who claims it meanwhile, and the number in the claim.
    claims: BTreeMap<NodeId, u64>,
    /// Who has reported. What they have is in the slot.
    heard: BTreeSet<NodeId>,
}

impl Shard {
    /// Asks those members what they have of `key` that have not reported yet; `claim` waits for that. Whoever waits asks
    /// again by and by, so that a lost message is made up for.
    pub(super) fn inquire(
        &mut self,
        key: &Key,
        claim: Option<(NodeId, u64)>,
        out: &mut dyn Effects,
    ) {
        if self.inquiries.len() >= PARKED_MAX && !self.inquiries.contains_key(key) {
            return;
        }
        let inquiry = self.inquiries.entry(key.clone()).or_default();
        inquiry.claims.extend(claim);
        for to in self.view.ids() {
            if *to != self.me && !inquiry.heard.contains(to) {
                out.push(Effect::Send {
                    to: to.clone(),
                    msg: Msg::Inquire { key: key.clone() },
                });
            }
        }
    }

    /// A peer was connected: questions that it missed would wait until somebody claims the key again.
    pub(super) fn inquire_again(&mut self, out: &mut dyn Effects) {
        let keys: Vec<Key> = self.inquiries.keys().cloned().collect();
        for key in keys {
            self.inquire(&key, None, out);
        }
    }

    /// The home asks what this node has of `key`.
    pub(super) fn inquired(&self, home: NodeId, key: Key, out: &mut dyn Effects) {
        let report = match self.slots.get(&key) {
            Some(Slot::Own(_)) => Report::Owner,
            Some(Slot::Rec(rec)) if !self.is_settled(rec) => Report::Copy {
                gen_: rec.gen_,
                ver: rec.ver,
                data: Blob::from(&*rec.data),
            },
            Some(Slot::Rec(_)) | None => Report::Nothing,
        };
        let msg = Msg::Report { key, report };
        out.push(Effect::Send { to: home, msg });
    }

    /// A member says what it has of `key`.
    pub(super) fn report(&mut self, from: NodeId, key: Key, report: Report, out: &mut dyn Effects) {
        if !self.inquiries.contains_key(&key) {
            return;
        }
        match report {
            Report::Owner => return self.found(key, &from, out),
            Report::Copy { gen_, ver, data } => {
                if !self.merge(&from, &key, gen_, ver, &data, out) {
                    return;
                }
            }
            Report::Nothing => {}
        }
        let Some(inquiry) = self.inquiries.get_mut(&key) else {
            return;
        };
        inquiry.heard.insert(from);
        if self.has_inquired(&key)
            && let Some(inquiry) = self.inquiries.get_mut(&key)
        {
            // It stays until they are answered: that all have reported is what this home answers by.
            let claims = std::mem::take(&mut inquiry.claims);
            self.claims(&key, claims, out);
            self.kick(&key, out);
            self.inquiries.remove(&key);
        }
    }

    /// A member owns `key`: whoever waits goes there.
    fn found(&mut self, key: Key, owner: &NodeId, out: &mut dyn Effects) {
        let Some(Inquiry { claims, .. }) = self.inquiries.remove(&key) else {
            return;
        };
        for to in claims.into_keys().filter(|to| to != owner) {
            let msg = Msg::OwnerIs {
                key: key.clone(),
                owner: owner.clone(),
            };
            out.push(Effect::Send { to, msg });
        }
        self.owner_is(&key, owner, out);
    }

    /// This home has authority over all keys now: what waited for reports is answered.
    pub(super) fn end_inquiries(&mut self, out: &mut dyn Effects) {
        for (key, inquiry) in std::mem::take(&mut self.inquiries) {
            self.claims(&key, inquiry.claims, out);
        }
    }

    fn claims(&mut self, key: &Key, claims: BTreeMap<NodeId, u64>, out: &mut dyn Effects) {
        for (from, rests) in claims {
            self.claim(from, key.clone(), rests, out);
        }
    }

    /// Whether every member has reported what it has of `key`, or had in this epoch, and a grant came of it.
    pub(super) fn has_inquired(&self, key: &Key) -> bool {
        let granted = match self.slots.get(key) {
            Some(Slot::Rec(rec)) => rec.gen_ == self.view.epoch,
            Some(Slot::Own(_)) | None => false,
        };
        let heard = |inquiry: &Inquiry| {
            let reported = |id: &NodeId| *id == self.me || inquiry.heard.contains(id);
            self.view.ids().all(reported)
                || self.planted.has(Defect::PartialInquiry) && !inquiry.heard.is_empty()
        };
        granted || self.inquiries.get(key).is_some_and(heard)
    }
}
