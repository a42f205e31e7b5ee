//! Requests by their numbers: a hash table, since every request of another node is looked up in one. Whoever walks it does
//! so in the order of the numbers, so that equal parts take equal steps.

use std::fmt;
use std::hash::{Hash, Hasher};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::super::placement::mix;

/// What there is for each number, which is mixed: parts count their numbers up.
#[derive(Clone)]
pub(super) struct Index<V> {
    entries: HashTable<(u64, V)>,
}

impl<V> Index<V> {
    pub(super) fn get(&self, number: u64) -> Option<&V> {
        let found = self.entries.find(mix(number), |entry| entry.0 == number);
        found.map(|entry| &entry.1)
    }

    /// Puts it in place of what there was.
    pub(super) fn insert(&mut self, number: u64, value: V) {
        let (is_it, hash) = (
            |entry: &(u64, V)| entry.0 == number,
            |entry: &(u64, V)| mix(entry.0),
        );
        match self.entries.entry(mix(number), is_it, hash) {
            Entry::Occupied(mut entry) => entry.get_mut().1 = value,
            Entry::Vacant(entry) => drop(entry.insert((number, value))),
        }
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<V> {
        let found = self
            .entries
            .find_entry(mix(number), |entry| entry.0 == number);
        found.ok().map(|entry| entry.remove().0.1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Everything, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        let mut sorted: Vec<_> = self.entries.iter().collect();
        sorted.sort_unstable_by_key(|entry| entry.0);
        sorted.into_iter().map(|entry| (entry.0, &entry.1))
    }

    /// Everything, in order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut V)> {
        let mut sorted: Vec<_> = self.entries.iter_mut().collect();
        sorted.sort_unstable_by_key(|entry| entry.0);
        sorted.into_iter().map(|entry| (entry.0, &mut entry.1))
    }

    /// Takes it apart, in order.
    pub(super) fn into_values(self) -> impl Iterator<Item = V> {
        let mut sorted: Vec<_> = self.entries.into_iter().collect();
        sorted.sort_unstable_by_key(|entry| entry.0);
        sorted.into_iter().map(|entry| entry.1)
    }
}

impl<V> Default for Index<V> {
    fn default() -> Self {
        Self {
            entries: HashTable::new(),
        }
    }
}

impl<V> FromIterator<(u64, V)> for Index<V> {
    fn from_iter<I: IntoIterator<Item = (u64, V)>>(all: I) -> Self {
        let mut index = Self::default();
        for (number, value) in all {
            index.insert(number, value);
        }
        index
    }
}

impl<V: PartialEq> PartialEq for Index<V> {
    fn eq(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len()
            && self
                .entries
                .iter()
                .all(|entry| other.get(entry.0) == Some(&entry.1))
    }
}

impl<V: Eq> Eq for Index<V> {}

impl<V: Hash> Hash for Index<V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.entries.len());
        self.iter().for_each(|entry| entry.hash(state));
    }
}

impl<V: fmt::Debug> fmt::Debug for Index<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_walked_in_order_however_it_was_filled() {
        let one: Index<char> = [(9, 'c'), (1, 'a'), (5, 'b')].into_iter().collect();
        let mut other: Index<char> = [(1, 'a'), (5, 'b')].into_iter().collect();
        assert_ne!(one, other);
        other.insert(9, 'x');
        assert_ne!(one, other);
        other.insert(9, 'c');
        assert_eq!(one, other);
        assert_eq!(one.iter().map(|(n, _)| n).collect::<Vec<_>>(), [1, 5, 9]);
        assert_eq!(one.into_values().collect::<String>(), "abc");
    }
}
