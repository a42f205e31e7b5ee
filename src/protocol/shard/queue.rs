//! A queue that takes memory only while something is in it: most actors wait for nothing most of the time, and there are
//! many of them.

use std::collections::{VecDeque, vec_deque};
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// How many buffers are kept for the next queues.
const SPARE_MAX: usize = 1_024;

/// The most items that there is room for in one of them.
const SPARE_ROOM: usize = 4;

/// The queue.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Queue<T>(VecDeque<T>);

/// The buffers of queues that have become empty: most queues have one item for a moment, and to ask the allocator for room
/// each time costs more than what is done with the item. It says nothing about a part: all are equal.
#[derive(Debug)]
pub(super) struct Spare<T> {
    /// Buffers, and in the places of those that were taken, nothing: what never moves need not be dropped.
    buffers: Vec<VecDeque<T>>,
    /// How many buffers there are, before the others.
    count: usize,
}

impl<T> Spare<T> {
    fn take(&mut self, queue: &mut VecDeque<T>) {
        if let Some(last) = self.count.checked_sub(1) {
            std::mem::swap(queue, &mut self.buffers[last]);
            self.count = last;
        } else {
            // Mostly an item stays alone, where the first growth of a `VecDeque` would make room for four.
            queue.reserve_exact(1);
        }
    }

    fn give(&mut self, queue: &mut VecDeque<T>) {
        if let Some(place) = self.buffers.get_mut(self.count) {
            std::mem::swap(queue, place);
        } else {
            self.buffers.push(std::mem::take(queue));
        }
        self.count += 1;
    }
}

impl<T> Queue<T> {
    pub(super) fn push_back(&mut self, item: T, spare: &mut Spare<T>) {
        if self.0.capacity() == 0 {
            spare.take(&mut self.0);
        }
        self.0.push_back(item);
    }

    pub(super) fn pop_front(&mut self, spare: &mut Spare<T>) -> Option<T> {
        self.pop_front_if(spare, |_| true)
    }

    pub(super) fn pop_front_if(
        &mut self,
        spare: &mut Spare<T>,
        wanted: impl FnOnce(&T) -> bool,
    ) -> Option<T> {
        if !self.0.front().is_some_and(wanted) {
            return None;
        }
        let item = self.0.pop_front();
        if self.0.is_empty() {
            if self.0.capacity() <= SPARE_ROOM && spare.count < SPARE_MAX {
                spare.give(&mut self.0);
            } else {
                self.0 = VecDeque::new();
            }
        }
        item
    }

    pub(super) fn pop_back(&mut self) -> Option<T> {
        self.pop(VecDeque::pop_back)
    }

    pub(super) fn remove(&mut self, at: usize) -> Option<T> {
        self.pop(|items| items.remove(at))
    }

    pub(super) fn iter_mut(&mut self) -> vec_deque::IterMut<'_, T> {
        self.0.iter_mut()
    }

    fn pop(&mut self, pop: impl FnOnce(&mut VecDeque<T>) -> Option<T>) -> Option<T> {
        let item = pop(&mut self.0)?;
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
        Some(item)
    }
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self {
            buffers: Vec::new(),
            count: 0,
        }
    }
}

impl<T> Clone for Spare<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T> PartialEq for Spare<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Spare<T> {}

impl<T> Hash for Spare<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Deref for Queue<T> {
    type Target = VecDeque<T>;

    fn deref(&self) -> &VecDeque<T> {
        &self.0
    }
}

impl<T> IntoIterator for Queue<T> {
    type Item = T;
    type IntoIter = vec_deque::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_memory_only_while_something_is_in_it() {
        let (mut queue, mut spare) = (Queue::default(), Spare::default());
        assert_eq!(queue.capacity(), 0);
        queue.push_back(1, &mut spare);
        assert_eq!(queue.capacity(), 1);
        (2..=5).for_each(|n| queue.push_back(n, &mut spare));
        assert_eq!(queue.pop_front_if(&mut spare, |n| *n == 2), None);
        assert_eq!(queue.pop_front_if(&mut spare, |n| *n == 1), Some(1));
        assert_eq!(queue.pop_back(), Some(5));
        assert_eq!(queue.pop_front(&mut spare), Some(2));
        assert_eq!((queue.remove(0), queue.len()), (Some(3), 1));
        assert!(queue.capacity() > 0);
        assert_eq!(queue.remove(0), Some(4));
        assert_eq!((queue.pop_front(&mut spare), queue.capacity()), (None, 0));
        queue.push_back(6, &mut spare);
        assert_eq!((queue.pop_back(), queue.capacity()), (Some(6), 0));
    }

    #[test]
    fn the_next_queue_has_the_buffer_of_the_one_before() {
        let mut spare = Spare::default();
        let (mut one, mut other) = (Queue::default(), Queue::default());
        (1..=3).for_each(|n| one.push_back(n, &mut spare));
        let room = one.capacity();
        while one.pop_front(&mut spare).is_some() {}
        other.push_back(1, &mut spare);
        assert_eq!((one.capacity(), other.capacity()), (0, room));
        // A large one goes back to the allocator.
        (2..=100).for_each(|n| other.push_back(n, &mut spare));
        while other.pop_front(&mut spare).is_some() {}
        assert_eq!(spare.count, 0);
    }

    #[test]
    fn so_many_buffers_are_kept_and_no_more() {
        let mut spare = Spare::default();
        let mut queues = vec![Queue::default(); SPARE_MAX + 1];
        for queue in &mut queues {
            queue.push_back(1, &mut spare);
        }
        for queue in &mut queues {
            queue.pop_front(&mut spare);
        }
        assert_eq!((spare.count, spare.buffers.len()), (SPARE_MAX, SPARE_MAX));
    }
}
