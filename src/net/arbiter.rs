//! Which of several links between two nodes stays: pure rules, the same at both ends.
//!
//! The initiator decides, since only it can know that a link which the acceptor still has is dead at its own end.
//! Where both decide at once, the link that the lower name initiates stays.

use std::collections::{HashMap, VecDeque};

use super::handshake::{Face, Refusal, Verdict};
use crate::protocol::types::NodeName;

/// The most names whose incarnations are remembered; the one heard of longest ago goes first.
const KNOWN_MAX: usize = 1024;

/// A link that one end has with the name in question, ready or in the making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Existing {
    /// The link's name.
    pub(super) id: u64,
    /// Whether it is ready.
    pub(super) up: bool,
    /// Whether this end initiated it.
    pub(super) outbound: bool,
    /// Whether it was registered after the attempt in question began, so that the other end may not have known it.
    pub(super) newer: bool,
}

/// What comes of a new link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// It replaces the existing one.
    Take,
    /// The existing one stays.
    Keep,
}

/// The acceptor's first answer. An existing link to an older life must not be passed in: it never stays.
pub(super) fn verdict(me: &NodeName, peer: &NodeName, existing: Option<Existing>) -> Verdict {
    match existing {
        Some(existing) if existing.outbound && !existing.up && me < peer => {
            Verdict::Refuse(Refusal::AlreadyConnected)
        }
        existing => Verdict::Accept {
            have: existing.map(|existing| existing.id),
        },
    }
}

/// The initiator's decision, knowing which link the acceptor has.
pub(super) fn commit(
    me: &NodeName,
    peer: &NodeName,
    existing: Option<Existing>,
    have: Option<u64>,
) -> Choice {
    let Some(existing) = existing else {
        return Choice::Take;
    };
    if have == Some(existing.id) {
        return Choice::Keep;
    }
    match (existing.up, existing.outbound) {
        // It was ready here before we asked, so the acceptor had it, and lost it.
        (true, _) if !existing.newer => Choice::Take,
        (true, _) => Choice::Keep,
        // Another dial of ours is as good.
        (false, true) => Choice::Keep,
        (false, false) => by_name(me < peer),
    }
}

/// The acceptor's decision when the initiator has committed itself, knowing what the acceptor had (`have`).
pub(super) fn accept(
    me: &NodeName,
    peer: &NodeName,
    existing: Option<Existing>,
    have: Option<u64>,
) -> Choice {
    match existing {
        None => Choice::Take,
        // The initiator knew of it and does not have it.
        Some(existing) if have == Some(existing.id) => Choice::Take,
        // The initiator's newer one.
        Some(existing) if !existing.outbound => Choice::Take,
        Some(_) => by_name(peer < me),
    }
}

fn by_name(initiator_is_lower: bool) -> Choice {
    if initiator_is_lower {
        Choice::Take
    } else {
        Choice::Keep
    }
}

/// The latest life heard of, per name.
#[derive(Debug, Default)]
pub(super) struct Known {
    lives: HashMap<NodeName, (u64, u64)>,
    order: VecDeque<NodeName>,
}

impl Known {
    /// Remembers that life.
    ///
    /// # Errors
    /// The known incarnation, if this one is lower, or the same but of another process.
    pub(super) fn admit(&mut self, face: &Face) -> Result<(), u64> {
        let id = &face.member.id;
        if let Some((incarnation, boot)) = self.lives.get_mut(&id.name) {
            if id.incarnation < *incarnation
                || (id.incarnation == *incarnation && face.boot != *boot)
            {
                return Err(*incarnation);
            }
            (*incarnation, *boot) = (id.incarnation, face.boot);
            return Ok(());
        }
        if self.order.len() == KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.lives.remove(&oldest);
        }
        self.order.push_back(id.name.clone());
        self.lives
            .insert(id.name.clone(), (id.incarnation, face.boot));
        Ok(())
    }
}

#[cfg(test)]
#[path = "arbiter_tests.rs"]
mod tests;
