//! Requests by their numbers: a hash table, since every request of another node is looked up in one. Whoever walks it does
//! so in the order of the numbers, so that equal parts take equal steps. The next one is where the last one was that went:
//! that memory is near, and nobody has to be asked for it.

use std::fmt;
use std::hash::{Hash, Hasher};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use slab::Slab;

use super::super::placement::mix;

/// What there is for each number, which is mixed: parts count their numbers up.
#[derive(Clone)]
pub(super) struct Index<V> {
    /// By number, the place of what there is for it.
    places: HashTable<(u64, usize)>,
    values: Slab<V>,
}

impl<V> Index<V> {
    pub(super) fn get(&self, number: u64) -> Option<&V> {
        let found = self.places.find(mix(number), |entry| entry.0 == number);
        found.map(|entry| &self.values[entry.1])
    }

    /// Puts it in place of what there was.
    pub(super) fn insert(&mut self, number: u64, value: V) {
        let is_it = |entry: &(u64, usize)| entry.0 == number;
        let hash = |entry: &(u64, usize)| mix(entry.0);
        match self.places.entry(mix(number), is_it, hash) {
            Entry::Occupied(entry) => self.values[entry.get().1] = value,
            Entry::Vacant(entry) => {
                entry.insert((number, self.values.insert(value)));
            }
        }
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<V> {
        self.remove_if(number, |_| true)
    }

    pub(super) fn remove_if(
        &mut self,
        number: u64,
        is_meant: impl FnOnce(&V) -> bool,
    ) -> Option<V> {
        let is_it = |entry: &(u64, usize)| entry.0 == number;
        let entry = self.places.find_entry(mix(number), is_it).ok()?;
        let place = entry.get().1;
        is_meant(&self.values[place]).then(|| {
            entry.remove();
            self.values.remove(place)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Everything, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        let sorted = self.sorted().into_iter();
        sorted.map(|(number, place)| (number, &self.values[place]))
    }

    /// Changes everything, in order.
    pub(super) fn for_each_mut(&mut self, mut change: impl FnMut(u64, &mut V)) {
        for (number, place) in self.sorted() {
            change(number, &mut self.values[place]);
        }
    }

    /// Takes it apart, in order.
    pub(super) fn into_values(mut self) -> impl Iterator<Item = V> {
        let sorted = self.sorted().into_iter();
        sorted.map(move |(_, place)| self.values.remove(place))
    }

    fn sorted(&self) -> Vec<(u64, usize)> {
        let mut sorted: Vec<_> = self.places.iter().copied().collect();
        sorted.sort_unstable();
        sorted
    }
}

impl<V> Default for Index<V> {
    fn default() -> Self {
        Self {
            places: HashTable::new(),
            values: Slab::new(),
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
        let is_there =
            |(number, place): &(u64, usize)| other.get(*number) == self.values.get(*place);
        self.places.len() == other.places.len() && self.places.iter().all(is_there)
    }
}

impl<V: Eq> Eq for Index<V> {}

impl<V: Hash> Hash for Index<V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.places.len());
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

    #[test]
    fn what_goes_makes_room_for_the_next_one() {
        let mut index: Index<char> = [(1, 'a'), (2, 'b')].into_iter().collect();
        assert_eq!(index.remove_if(1, |value| *value == 'b'), None);
        assert_eq!(index.remove_if(1, |value| *value == 'a'), Some('a'));
        assert_eq!(index.get(1), None);
        assert_eq!(index.remove(1), None);
        let room = index.values.capacity();
        for number in 3..100 {
            index.insert(number, 'c');
            assert_eq!(index.get(number), Some(&'c'));
            assert_eq!(index.remove(number), Some('c'));
        }
        assert_eq!(index.values.capacity(), room);
        assert_eq!(index, [(2, 'b')].into_iter().collect());
    }
}
