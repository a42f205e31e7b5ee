//! What a part has of each key. Every request looks its key up several times, and a node at rest is little else than
//! its records: a hash table of boxes, by the hash that a key brings along. The hash is in the table as well, so that who
//! looks for something else, or makes the table larger, touches no box. Whoever walks it does so in the order of the keys,
//! so that equal parts take equal steps.

use std::fmt;
use std::hash::{Hash, Hasher};

use hashbrown::{HashTable, hash_table};

use super::super::types::{Key, KeyRef};
use super::Slot;

/// The slots of a part, by key.
#[derive(Clone, Default)]
pub(super) struct Table {
    entries: HashTable<Entry>,
}

#[derive(Clone)]
struct Entry {
    hash: u64,
    content: Box<(Key, Slot)>,
}

impl Entry {
    fn is_of(&self, key: KeyRef<'_>) -> bool {
        self.hash == key.hash() && key.is(&self.content.0)
    }

    fn parts(&self) -> (&Key, &Slot) {
        (&self.content.0, &self.content.1)
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

    /// What is most likely the slot of that key: names are not compared, so that little is to be done before the next one is
    /// looked for.
    pub(super) fn guess(&self, key: KeyRef<'_>) -> Option<&Slot> {
        let hash = key.hash();
        let found = self.entries.find(hash, |entry| entry.hash == hash);
        found.map(|entry| &entry.content.1)
    }

    pub(super) fn get_mut(&mut self, key: &Key) -> Option<&mut Slot> {
        self.find_mut(key.borrowed()).map(|(_, slot)| slot)
    }

    pub(super) fn find_mut(&mut self, key: KeyRef<'_>) -> Option<(&Key, &mut Slot)> {
        let found = self.entries.find_mut(key.hash(), |entry| entry.is_of(key));
        found.map(|entry| (&entry.content.0, &mut entry.content.1))
    }

    /// Puts a slot in place; what was there before.
    pub(super) fn insert(&mut self, key: Key, slot: Slot) -> Option<Slot> {
        let hash = key.hash();
        let is_it = |entry: &Entry| entry.is_of(key.borrowed());
        match self.entries.entry(hash, is_it, |entry| entry.hash) {
            hash_table::Entry::Occupied(mut entry) => {
                Some(std::mem::replace(&mut entry.get_mut().content.1, slot))
            }
            hash_table::Entry::Vacant(entry) => {
                let content = Box::new((key, slot));
                entry.insert(Entry { hash, content });
                None
            }
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Slot> {
        let is_it = |entry: &Entry| entry.is_of(key.borrowed());
        let found = self.entries.find_entry(key.hash(), is_it);
        found.ok().map(|entry| entry.remove().0.content.1)
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
        self.entries.get_bucket(place).map(|entry| &entry.content.1)
    }

    /// The same, with its key and the hash of that. Only when the table grows, or is cleaned up, does it move.
    pub(super) fn at_mut(&mut self, place: usize) -> Option<(u64, &Key, &mut Slot)> {
        let Entry { hash, content } = self.entries.get_bucket_mut(place)?;
        let (key, slot) = &mut **content;
        Some((*hash, key, slot))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Everything, in the order of the keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Slot)> {
        let mut sorted: Vec<_> = self.unsorted().collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(b.0));
        sorted.into_iter()
    }

    /// Everything, in no order.
    pub(super) fn unsorted(&self) -> impl Iterator<Item = (&Key, &Slot)> {
        self.entries.iter().map(Entry::parts)
    }

    /// The same, without the keys.
    pub(super) fn values(&self) -> impl Iterator<Item = &Slot> {
        self.unsorted().map(|(_, slot)| slot)
    }

    /// Takes it apart, in no order.
    pub(super) fn into_values(self) -> impl Iterator<Item = Slot> {
        self.entries.into_iter().map(|entry| entry.content.1)
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self
                .unsorted()
                .all(|(key, slot)| other.get(key) == Some(slot))
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
