//! What is noted after every step, and what is dropped, since it can never again have an effect.

use std::sync::Arc;

use super::net::*;
use super::world::*;

impl Cfg {
    /// The losses if `m` is lost too; none if that is more than must be survived.
    pub(super) fn may_lose(&self, w: &World, m: u8) -> Option<Set> {
        let lost = w.lost | bit(m) & w.views[usize::from(w.last)].members;
        let stands = !self.constrained || lost == w.lost || lost.count_ones() <= u32::from(w.limit);
        stands.then_some(lost)
    }

    /// What holds after every action, and what is dropped.
    pub fn finish(&self, w: &mut World) {
        for node in w.nodes.iter_mut().flatten().filter(|node| node.dirty) {
            Arc::make_mut(node).seal();
        }
        for epoch in 1..=w.last {
            let owners = w
                .living()
                .filter(|(_, n)| n.epoch() == epoch && n.own().is_some())
                .count();
            if owners > 1 {
                w.flags |= flags::TWO_OWNERS;
            }
        }
        let view = w.views[usize::from(w.last)];
        let synced = iter(view.members).all(|n| {
            w.node(n)
                .is_some_and(|node| node.epoch() == w.last && node.shard.done_sent())
        });
        if w.lost & view.members == 0 && synced {
            w.lost = 0;
            w.limit = self.backups.min(view.active().count_ones() - 1) as u8;
        }
        self.tidy(w);
    }

    pub(super) fn tidy(&self, w: &mut World) {
        let packets = std::mem::take(&mut w.net);
        w.net = packets
            .into_iter()
            .filter(|p| self.may_matter(w, p))
            .collect();
        for epoch in 1..=w.last {
            let members = w.views[usize::from(epoch)].members;
            let of_use = iter(members).filter_map(|n| w.node(n)).any(|node| {
                node.epoch() < epoch || node.epoch() == epoch && !node.shard.is_complete()
            });
            if !of_use {
                w.done[usize::from(epoch)] = 0;
            }
        }
    }

    /// Whether the packet can still change anything.
    pub(super) fn may_matter(&self, w: &World, p: &Packet) -> bool {
        let Some(to) = w.node(p.to) else { return false };
        let now = to.epoch() == p.epoch;
        // Where actors go to rest, an owner of this epoch can become its owner again.
        let rests = self.rests > 0;
        let may_rest = w.rests > 0;
        if to.epoch() > p.epoch && !self.takes_stale(&p.content) {
            return false;
        }
        let from = w.node(p.from);
        match p.content {
            Content::PutAck { at } => {
                to.own().is_some_and(|(own, _)| own.gen_ == at.gen_)
                    && acked(to, p.from) < Some(at.ver)
                    || rests && (may_rest || to.own().is_none())
            }
            Content::Grant { .. } => may_rest || to.own().is_none(),
            Content::Claim { .. } => may_rest || from.is_none_or(|from| from.own().is_none()),
            Content::Put { at, .. } => {
                let Some((rec, _, owner, confirmed)) = to.rec() else {
                    return true;
                };
                let stale =
                    (rec.gen_ == at.gen_ || rests && rec.gen_ > at.gen_) && rec.ver > at.ver;
                let kept = rec == at && owner == Some(p.from) && confirmed;
                let counted = from.is_some_and(|from| {
                    from.own().is_some_and(|(own, _)| own.gen_ == at.gen_)
                        && acked(from, p.to) >= Some(at.ver)
                });
                !(now && (stale || kept && counted && !may_rest))
            }
            Content::Hold { at, .. } => {
                let merged = to.own().is_some_and(|(own, _)| own >= at)
                    || to.rec().is_some_and(|(rec, ..)| rec >= at);
                let counts = from.is_some_and(|from| {
                    from.epoch() <= p.epoch
                        && from.rec().is_some_and(|(rec, ..)| rec == at)
                        && !from.shard.is_held_by(&KEY, &id(p.to))
                });
                !(now && merged && !counts)
            }
            // Acknowledged is a version of its own: no later Hold has it again.
            Content::HoldAck { at } if rests && now => {
                to.rec().is_some_and(|(rec, ..)| rec == at)
                    && !to.shard.is_held_by(&KEY, &id(p.from))
            }
            // The home that has authority asks no more, and hears no more. It keeps it until the next view.
            Content::Inquire => from.is_some_and(|from| from.epoch() == p.epoch && !knows(from)),
            Content::Report { .. } => !knows(to),
            Content::OwnerIs { .. }
            | Content::HoldAck { .. }
            | Content::Forward { .. }
            | Content::Reply { .. } => true,
        }
    }
}

/// Whether a home knows who has the key, without asking.
fn knows(home: &Node) -> bool {
    home.own().is_some() || home.shard.speaks_for(&KEY)
}

/// The version that `keeper` acknowledged to the owner `node`.
fn acked(node: &Node, keeper: u8) -> Option<u8> {
    let keeper = id(keeper);
    let found = node
        .shard
        .acked_by(&KEY)
        .iter()
        .find(|(id, _)| *id == keeper);
    match found {
        Some((_, ver)) => ver.map(|ver| ver as u8),
        // Its acknowledgement counts for nothing.
        None => Some(u8::MAX),
    }
}
