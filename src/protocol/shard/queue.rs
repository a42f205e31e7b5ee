//! A queue that takes memory only while something is in it: most actors wait for nothing most of the time, and there are
//! many of them.

use std::collections::{VecDeque, vec_deque};
use std::ops::Deref;

/// The queue.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Queue<T>(VecDeque<T>);

impl<T> Queue<T> {
    pub(super) fn push_back(&mut self, item: T) {
        if self.0.capacity() == 0 {
            // Mostly it stays alone, where the first growth of a `VecDeque` would make room for four.
            self.0.reserve_exact(1);
        }
        self.0.push_back(item);
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        self.pop(VecDeque::pop_front)
    }

    pub(super) fn pop_front_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        self.pop(|items| items.pop_front_if(|item| wanted(item)))
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
        let mut queue = Queue::default();
        assert_eq!(queue.capacity(), 0);
        queue.push_back(1);
        assert_eq!(queue.capacity(), 1);
        (2..=5).for_each(|n| queue.push_back(n));
        assert_eq!(queue.pop_front_if(|n| *n == 2), None);
        assert_eq!(queue.pop_front_if(|n| *n == 1), Some(1));
        assert_eq!(queue.pop_back(), Some(5));
        assert_eq!([queue.pop_front(), queue.pop_front()], [Some(2), Some(3)]);
        assert!(queue.capacity() > 0);
        assert_eq!(queue.pop_front(), Some(4));
        assert_eq!((queue.pop_front(), queue.capacity()), (None, 0));
    }
}
