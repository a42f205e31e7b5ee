//! What a part has of each key. Every request looks its key up several times, and a node at rest is little else than
//! its records: a hash table of boxes, by the hash that a key brings along. The hash is in the table as well, so that who
//! looks for something else, or makes the table larger, touches no box; and so is what a view has to know of most keys,
//! to find that it changes nothing for them. Whoever walks it does so in the order of the keys, so that equal parts take
//! equal steps.

use std::fmt;
use std::hash::{Hash, Hasher};

use hashbrown::{HashTable, hash_table};

use super::super::types::{Key, KeyRef, Unhashed};
use super::Slot;

/// The slots of a part, by key.
#[derive(Clone, Default)]
pub(super) struct Table {
    entries: HashTable<Entry>,
    /// How often slots have gone to other places.
    moves: u32,
}

/// What a slot is, as the table knows without a look at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// The key is owned here.
    Owned,
    /// A record of an owner that has confirmed it.
    Kept,
    /// Any other record.
    Loose,
}

/// The lowest of the bits that hashes leave free.
const ROLE_BIT: u32 = (!Key::HASH_BITS).trailing_zeros();

impl Role {
    fn of(slot: &Slot) -> Self {
        match slot {
            Slot::Own(_) => Self::Owned,
            Slot::Rec(rec) if rec.confirmed && rec.owner.is_some() => Self::Kept,
            Slot::Rec(_) => Self::Loose,
        }
    }
}

/// What is in a box of the table.
pub(super) type Content = (Unhashed, Slot);

#[derive(Clone)]
struct Entry {
    /// The key's hash, and the role of its slot.
    tagged: u64,
    content: Box<Content>,
}

impl Entry {
    fn new(key: Key, slot: Slot) -> Self {
        let mut entry = Self {
            tagged: key.hash(),
            content: Box::new((key.into_unhashed(), slot)),
        };
        entry.tag();
        entry
    }

    fn hash(&self) -> u64 {
        self.tagged & Key::HASH_BITS
    }

    fn role(&self) -> Role {
        match (self.tagged & !Key::HASH_BITS) >> ROLE_BIT {
            0 => Role::Owned,
            1 => Role::Kept,
            _ => Role::Loose,
        }
    }

    /// Notes the role of its slot.
    fn tag(&mut self) {
        self.tagged = self.hash() | (Role::of(&self.content.1) as u64) << ROLE_BIT;
    }

    fn is_of(&self, key: KeyRef<'_>) -> bool {
        self.hash() == key.hash() && self.content.0.is(key)
    }

    fn key(&self) -> Key {
        self.content.0.with(self.hash())
    }

    fn parts(&self) -> (Key, &Slot) {
        (self.key(), &self.content.1)
    }
}

impl Table {
    pub(super) fn get(&self, key: &Key) -> Option<&Slot> {
        self.find(key.borrowed())
    }

    pub(super) fn find(&self, key: KeyRef<'_>) -> Option<&Slot> {
        let found = self.entries.find(key.hash(), |entry| entry.is_of(key));
        found.map(|entry| &entry.content.1)
    }

    /// Where the slot of that key most likely is: nothing is read but some bits of hashes, so that little is to be awaited
    /// before the next one is looked for.
    pub(super) fn guess(&self, key: KeyRef<'_>) -> Option<usize> {
        self.entries.find_bucket_index(key.hash(), |_| true)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Slot> {
        self.find_mut(key.borrowed())
    }

    /// The slot of that key; whoever changes its role changes it [by its place](Self::change).
    pub(super) fn find_mut(&mut self, key: KeyRef<'_>) -> Option<&mut Slot> {
        let found = self.entries.find_mut(key.hash(), |entry| entry.is_of(key));
        found.map(|entry| &mut entry.content.1)
    }

    /// Puts a slot in place; what was there before.
    pub(super) fn insert(&mut self, key: Key, slot: Slot) -> Option<Slot> {
        let is_full = self.entries.len() == self.entries.capacity();
        let is_it = |entry: &Entry| entry.is_of(key.borrowed());
        match self.entries.entry(key.hash(), is_it, Entry::hash) {
            hash_table::Entry::Occupied(mut entry) => {
                let before = std::mem::replace(&mut entry.get_mut().content.1, slot);
                entry.get_mut().tag();
                Some(before)
            }
            hash_table::Entry::Vacant(entry) => {
                entry.insert(Entry::new(key, slot));
                // It was made larger, or cleaned up.
                self.moves = self.moves.wrapping_add(is_full.into());
                None
            }
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Slot> {
        let is_it = |entry: &Entry| entry.is_of(key.borrowed());
        let found = self.entries.find_entry(key.hash(), is_it);
        found.ok().map(|entry| entry.remove().0.content.1)
    }

    /// How many places there are for slots. A slot stays in its place as long as [`moves`](Self::moves) is what it is.
    pub(super) fn places(&self) -> usize {
        self.entries.num_buckets()
    }

    /// A count that changes when slots go to other places.
    pub(super) fn moves(&self) -> u32 {
        self.moves
    }

    /// Where the slot of that key is.
    pub(super) fn place_of(&self, key: KeyRef<'_>) -> Option<usize> {
        let is_it = |entry: &Entry| entry.is_of(key);
        self.entries.find_bucket_index(key.hash(), is_it)
    }

    /// The hash and the role of what is in one of these places, if anything is.
    pub(super) fn role_at(&self, place: usize) -> Option<(u64, Role)> {
        let entry = self.entries.get_bucket(place)?;
        Some((entry.hash(), entry.role()))
    }

    /// That itself.
    pub(super) fn at(&self, place: usize) -> Option<&Slot> {
        self.content_at(place).map(|(_, slot)| slot)
    }

    /// The same, with its key.
    pub(super) fn content_at(&self, place: usize) -> Option<&Content> {
        self.entries.get_bucket(place).map(|entry| &*entry.content)
    }

    /// Changes it, and with it its role perhaps.
    pub(super) fn change<T>(
        &mut self,
        place: usize,
        change: impl FnOnce(&Key, &mut Slot) -> T,
    ) -> Option<T> {
        let entry = self.entries.get_bucket_mut(place)?;
        let changed = change(&entry.key(), &mut entry.content.1);
        entry.tag();
        Some(changed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Everything, in the order of the keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Slot)> {
        let mut sorted: Vec<_> = self.unsorted().collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        sorted.into_iter()
    }

    /// Everything, in no order.
    pub(super) fn unsorted(&self) -> impl Iterator<Item = (Key, &Slot)> {
        self.entries.iter().map(Entry::parts)
    }

    /// The same, without the keys.
    pub(super) fn values(&self) -> impl Iterator<Item = &Slot> {
        self.entries.iter().map(|entry| &entry.content.1)
    }

    /// Takes it apart, in no order.
    pub(super) fn into_values(self) -> impl Iterator<Item = Slot> {
        self.entries.into_iter().map(|entry| entry.content.1)
    }

    /// Whether every entry says what its slot is.
    pub(super) fn is_tagged(&self) -> bool {
        let is_true = |entry: &Entry| {
            let key = entry.key();
            key == Key::new(key.kind(), key.name()) && entry.role() == Role::of(&entry.content.1)
        };
        self.entries.iter().all(is_true)
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self
                .unsorted()
                .all(|(key, slot)| other.get(&key) == Some(slot))
    }
}

impl Eq for Table {}

impl Hash for Table {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.entries.len());
        for entry in self.iter() {
            entry.hash(state);
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::types::{Epoch, Kind, NodeId};
    use super::super::Rec;
    use super::*;

    #[test]
    fn the_role_is_that_of_the_slot_after_every_change() {
        let key = Key::new(Kind(1), "k");
        let mut table = Table::default();
        let loose = || Rec::without_owner(Epoch(1), 1, b"1");
        let kept = || {
            let owner = Some(Arc::new(NodeId::new("a@h", 1)));
            Slot::Rec(Rec { owner, ..loose() })
        };
        let role = |table: &Table| {
            let place = table.place_of(key.borrowed());
            place.and_then(|place| table.role_at(place))
        };
        assert_eq!(role(&table), None);
        table.insert(key.clone(), Slot::Rec(loose()));
        assert_eq!(role(&table), Some((key.hash(), Role::Loose)));
        table.insert(key.clone(), kept());
        assert_eq!(role(&table), Some((key.hash(), Role::Kept)));
        let place = table.place_of(key.borrowed());
        let place = place.expect("it is there");
        table.change(place, |_, slot| *slot = Slot::Rec(loose()));
        assert_eq!(role(&table), Some((key.hash(), Role::Loose)));
        assert!(table.is_tagged());
    }

    #[test]
    fn an_entry_takes_a_block_of_96_bytes() {
        // mimalloc has blocks of 80, 96 and 112 bytes, and adds 7 for the alignment where a size is no power of two.
        assert_eq!(size_of::<Content>(), 88);
    }
}
