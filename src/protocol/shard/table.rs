//! What a part has of each key. Every request looks its key up several times, and a node at rest is little else than
//! its records: a hash table of boxes, by the hash that a key brings along (an entry costs its own size and some ten
//! bytes). Whoever walks it does so in the order of the keys, so that equal parts take equal steps.

use std::fmt;
use std::hash::{Hash, Hasher};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::super::types::{Key, KeyRef};
use super::Slot;

/// The slots of a part, by key.
#[derive(Clone, Default)]
pub(super) struct Table {
    entries: HashTable<Box<(Key, Slot)>>,
}

impl Table {
    pub(super) fn get(&self, key: &Key) -> Option<&Slot> {
        self.find(key.borrowed())
    }

    pub(super) fn find(&self, key: KeyRef<'_>) -> Option<&Slot> {
        let found = self.entries.find(key.hash(), |entry| key.is(&entry.0));
        found.map(|entry| &entry.1)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Slot> {
        self.find_mut(key.borrowed()).map(|(_, slot)| slot)
    }

    pub(super) fn find_mut(&mut self, key: KeyRef<'_>) -> Option<(&Key, &mut Slot)> {
        let found = self.entries.find_mut(key.hash(), |entry| key.is(&entry.0));
        found.map(|entry| (&entry.0, &mut entry.1))
    }

    /// Puts a slot in place; what was there before.
    pub(super) fn insert(&mut self, key: Key, slot: Slot) -> Option<Slot> {
        match self
            .entries
            .entry(key.hash(), |entry| entry.0 == key, |entry| entry.0.hash())
        {
            Entry::Occupied(mut entry) => Some(std::mem::replace(&mut entry.get_mut().1, slot)),
            Entry::Vacant(entry) => {
                entry.insert(Box::new((key, slot)));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Slot> {
        let found = self.entries.find_entry(key.hash(), |entry| entry.0 == *key);
        found.ok().map(|entry| entry.remove().0.1)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many places there are for them.
    pub(super) fn places(&self) -> usize {
        self.entries.num_buckets()
    }

    /// What is in one of these places, if anything is.
    pub(super) fn at(&self, place: usize) -> Option<&Slot> {
        self.entries.get_bucket(place).map(|entry| &entry.1)
    }

    /// The same, with its key. Only when the table grows, or is cleaned up, does it move.
    pub(super) fn at_mut(&mut self, place: usize) -> Option<(&Key, &mut Slot)> {
        let (key, slot) = &mut **self.entries.get_bucket_mut(place)?;
        Some((key, slot))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Everything, in the order of the keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Slot)> {
        let mut sorted: Vec<_> = self.entries.iter().collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        sorted.into_iter().map(|entry| (&entry.0, &entry.1))
    }

    /// Everything, in no order.
    pub(super) fn unsorted(&self) -> impl Iterator<Item = (&Key, &Slot)> {
        self.entries.iter().map(|entry| (&entry.0, &entry.1))
    }

    /// The same, without the keys.
    pub(super) fn values(&self) -> impl Iterator<Item = &Slot> {
        self.unsorted().map(|(_, slot)| slot)
    }

    /// Takes it apart, in no order.
    pub(super) fn into_values(self) -> impl Iterator<Item = Slot> {
        self.entries.into_iter().map(|entry| entry.1)
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self
                .entries
                .iter()
                .all(|entry| other.get(&entry.0) == Some(&entry.1))
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
    use super::*;

    #[test]
    fn an_entry_takes_a_block_of_96_bytes() {
        // mimalloc has blocks of 80, 96 and 112 bytes, and adds 7 for the alignment where a size is no power of two.
        assert_eq!(size_of::<(Key, Slot)>(), 88);
    }
}
