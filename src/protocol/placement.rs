//! Where the copies of a key live: rendezvous (highest random weight) hashing over the names of the active
//! members (Thaler and Ravishankar, 1998). A join or a loss moves only the keys whose ranks it touches,
//! about 1/n of them.

use smallvec::SmallVec;

use super::types::{Key, NodeId, NodeName};
use super::view::View;

/// As many of a ranking are found without an allocation.
const FIRST_INLINE: usize = 4;

/// The ranks of all keys under one view.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Placement {
    /// With the seed of each, in the order of the view.
    active: Vec<(u64, NodeId)>,
}

impl Placement {
    /// The placement that `view` prescribes.
    pub fn of(view: &View) -> Self {
        let seed = |name: &NodeName| xxhash_rust::xxh3::xxh3_64(name.as_str().as_bytes());
        Self {
            active: view
                .active()
                .map(|id| (seed(&id.name), id.clone()))
                .collect(),
        }
    }

    /// How many members hold copies.
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// Whether nobody can hold a copy.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Whether `id` is among those that own and hold.
    pub fn is_active(&self, id: &NodeId) -> bool {
        self.position(id).is_some()
    }

    /// The active members from the best rank for `key` to the worst.
    pub fn ranked(&self, key: &Key) -> impl Iterator<Item = &NodeId> {
        self.first(key.hash(), self.len()).into_iter()
    }

    /// The first `count` of those for the key with that hash. Found in one go, without an allocation: mostly few are wanted,
    /// and of every key when the view changes.
    pub fn first(&self, hash: u64, count: usize) -> SmallVec<[&NodeId; FIRST_INLINE]> {
        let mut first = SmallVec::<[Score; FIRST_INLINE]>::new();
        for mut score in self.scores(hash) {
            for better in &mut first {
                // Without a branch: it would be guessed wrong half of the time.
                (*better, score) = (score.max(*better), score.min(*better));
            }
            if first.len() < count {
                first.push(score);
            }
        }
        let ids = first.into_iter().map(|score| self.of_score(score));
        ids.collect()
    }

    /// The active members, in the order of the view.
    pub fn active(&self) -> impl Iterator<Item = &NodeId> {
        self.active.iter().map(|(_, id)| id)
    }

    /// Where it is among those.
    pub fn position(&self, id: &NodeId) -> Option<usize> {
        self.active().position(|a| a == id)
    }

    /// The rank of the member in that position, for a key with that hash.
    pub fn rank(&self, hash: u64, position: usize) -> usize {
        let it = score(self.active[position].0, hash, position);
        self.scores(hash).filter(|other| *other > it).count()
    }

    /// The score of every member.
    fn scores(&self, hash: u64) -> impl Iterator<Item = Score> {
        let members = self.active.iter().enumerate();
        members.map(move |(position, (seed, _))| score(*seed, hash, position))
    }

    /// Whose score that is.
    fn of_score(&self, score: Score) -> &NodeId {
        &self.active[(score & POSITION) as usize].1
    }

    /// The member of rank 0: the directory entry of `key`.
    pub fn home(&self, key: &Key) -> Option<&NodeId> {
        Some(self.of_score(self.scores(key.hash()).max()?))
    }

    /// The first `backups` members that are not `owner`: who holds a copy beside it. The home is either the
    /// owner or the first of them, so that its record doubles as the directory entry.
    pub fn keepers(
        &self,
        key: &Key,
        owner: &NodeId,
        backups: usize,
    ) -> impl Iterator<Item = &NodeId> {
        self.top(key, backups)
            .filter(move |id| *id != owner)
            .take(backups)
    }

    /// The first `backups + 1` members: where a record without an owner lives.
    pub fn top(&self, key: &Key, backups: usize) -> impl Iterator<Item = &NodeId> {
        self.first(key.hash(), backups + 1).into_iter()
    }

    /// Whether the member in that position is one of the [`keepers`](Self::keepers) of a key with that hash. `owner`: the
    /// position of its owner.
    pub fn is_keeper(&self, hash: u64, owner: usize, backups: usize, position: usize) -> bool {
        let rank = self.rank(hash, position);
        let after_owner = usize::from(self.rank(hash, owner) < rank);
        position != owner && rank - after_owner < backups
    }

    /// Whether `id` is one of the [`top`](Self::top).
    pub fn is_top(&self, key: &Key, backups: usize, id: &NodeId) -> bool {
        let position = self.position(id);
        position.is_some_and(|position| self.rank(key.hash(), position) <= backups)
    }
}

/// How a key ranks a member, with its position in the [lowest bits](POSITION): no two are equal, and no names are compared.
type Score = u64;

/// There are fewer members than that.
const POSITION: Score = 0xffff;

fn score(seed: u64, hash: u64, position: usize) -> Score {
    mix(seed ^ hash) & !POSITION | position as u64 & POSITION
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every input bit reaches every output bit.
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::types::{ClusterId, Epoch, Kind, Member};
    use super::*;

    const KEYS: usize = 2_000;

    fn placement(nodes: std::ops::Range<usize>, incarnation: u64) -> Placement {
        let mut members: Vec<Member> = nodes
            .map(|n| Member {
                id: NodeId::new(format!("n{n}@host"), incarnation),
                addr: Arc::from(""),
            })
            .collect();
        members.sort();
        Placement::of(&View {
            cluster: ClusterId(1),
            epoch: Epoch(1),
            members,
            leaving: Vec::new(),
        })
    }

    fn keys() -> impl Iterator<Item = Key> {
        (0..KEYS).map(|n| Key::new(Kind(7), format!("player{n}")))
    }

    /// How many keys have another home under `b` than under `a`.
    fn moved(a: &Placement, b: &Placement) -> usize {
        keys()
            .filter(|key| a.home(key).map(|id| &id.name) != b.home(key).map(|id| &id.name))
            .count()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn owner_and_keeper_never_share_a_node(nodes in 1..9_usize, backups in 1..4_usize, name in "[a-z]{1,8}") {
            let (placement, key) = (placement(0..nodes, 1), Key::new(Kind(7), name));
            for owner in placement.ranked(&key) {
                let keepers: Vec<_> = placement.keepers(&key, owner, backups).collect();
                prop_assert!(!keepers.contains(&owner));
                prop_assert_eq!(keepers.len(), backups.min(nodes - 1));
            }
        }

        #[test]
        fn the_home_is_the_owner_or_its_first_keeper(nodes in 2..9_usize, backups in 1..4_usize, name in "[a-z]{1,8}") {
            let (placement, key) = (placement(0..nodes, 1), Key::new(Kind(7), name));
            let home = placement.home(&key);
            for owner in placement.ranked(&key) {
                let first = placement.keepers(&key, owner, backups).next();
                prop_assert!(home == Some(owner) || home == first);
            }
        }

        #[test]
        fn keepers_are_among_those_that_hold_what_nobody_owns(
            nodes in 1..9_usize,
            backups in 1..4_usize,
            name in "[a-z]{1,8}",
        ) {
            let (placement, key) = (placement(0..nodes, 1), Key::new(Kind(7), name));
            let top: Vec<_> = placement.top(&key, backups).collect();
            prop_assert_eq!(top.len(), (backups + 1).min(nodes));
            prop_assert_eq!(top.first().copied(), placement.home(&key));
            let mut scores: Vec<_> = placement.scores(key.hash()).collect();
            scores.sort_unstable_by(|a, b| b.cmp(a));
            let ranked = scores.iter().map(|score| placement.of_score(*score));
            prop_assert!(placement.ranked(&key).eq(ranked));
            prop_assert_eq!(placement.first(key.hash(), backups + 1).to_vec(), top.clone());
            for (rank, id) in placement.ranked(&key).enumerate() {
                prop_assert_eq!(placement.position(id).map(|at| placement.rank(key.hash(), at)), Some(rank));
                prop_assert_eq!(placement.is_top(&key, backups, id), top.contains(&id));
            }
            for (at, owner) in placement.active().enumerate() {
                let keepers: Vec<_> = placement.keepers(&key, owner, backups).collect();
                prop_assert!(keepers.iter().all(|id| top.contains(id)));
                for (position, id) in placement.active().enumerate() {
                    let is_keeper = placement.is_keeper(key.hash(), at, backups, position);
                    prop_assert_eq!(is_keeper, keepers.contains(&id));
                }
            }
        }

        #[test]
        fn a_new_life_of_a_node_has_the_rank_of_the_old_one(nodes in 1..9_usize, name in "[a-z]{1,8}") {
            let (old, new, key) = (placement(0..nodes, 1), placement(0..nodes, 2), Key::new(Kind(7), name));
            let names = |p: &Placement| p.ranked(&key).map(|id| id.name.clone()).collect::<Vec<_>>();
            prop_assert_eq!(names(&old), names(&new));
        }

        #[test]
        fn a_loss_does_not_reorder_the_others(nodes in 2..9_usize, lost in 0..8_usize, name in "[a-z]{1,8}") {
            let (whole, key) = (placement(0..nodes, 1), Key::new(Kind(7), name));
            let lost = NodeId::new(format!("n{}@host", lost % nodes), 1);
            let mut rest = whole.clone();
            rest.active.retain(|(_, id)| *id != lost);
            let ranked: Vec<&NodeId> = whole.ranked(&key).filter(|id| **id != lost).collect();
            prop_assert_eq!(rest.ranked(&key).collect::<Vec<_>>(), ranked);
        }
    }

    #[test]
    fn a_join_moves_about_its_share_of_the_keys() {
        for nodes in 2..8 {
            let moved = moved(&placement(0..nodes, 1), &placement(0..nodes + 1, 1));
            let share = KEYS / (nodes + 1);
            assert!(
                (share / 2..share * 2).contains(&moved),
                "{moved} of {KEYS} keys move to node {nodes}"
            );
        }
    }

    #[test]
    fn every_node_is_the_home_of_its_share_of_the_keys() {
        let placement = placement(0..5, 1);
        for (_, id) in &placement.active {
            let homes = keys().filter(|key| placement.home(key) == Some(id)).count();
            let share = KEYS / 5;
            assert!(
                (share / 2..share * 2).contains(&homes),
                "{id} is the home of {homes} of {KEYS} keys"
            );
        }
    }

    #[test]
    fn nobody_keeps_anything_where_nobody_is() {
        let (placement, key) = (placement(0..0, 1), Key::new(Kind(7), "x"));
        assert!(placement.is_empty());
        assert_eq!(placement.home(&key), None);
        assert_eq!(placement.top(&key, 1).count(), 0);
    }
}
