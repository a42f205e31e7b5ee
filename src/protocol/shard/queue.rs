//! A queue whose first item is in the queue itself: most actors wait for nothing most of the time, or for one thing for a
//! moment. That one has no memory of its own to ask for and to wait for, and there are many actors, so that further ones
//! take memory only while there are any.

use std::collections::{VecDeque, vec_deque};
use std::iter::Chain;
use std::option;

/// The queue.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Queue<T> {
    /// None if there is nothing.
    first: Option<T>,
    /// Those behind it; none if there is nothing.
    #[expect(clippy::box_collection, reason = "mostly it is not there")]
    rest: Option<Box<VecDeque<T>>>,
}

impl<T> Queue<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub(super) fn push_back(&mut self, item: T) {
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.rest.get_or_insert_default().push_back(item);
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        let item = self.first.take()?;
        self.first = self.of_rest(VecDeque::pop_front);
        Some(item)
    }

    pub(super) fn pop_front_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        if self.front().is_some_and(wanted) {
            return self.pop_front();
        }
        None
    }

    pub(super) fn pop_back(&mut self) -> Option<T> {
        self.of_rest(VecDeque::pop_back)
            .or_else(|| self.first.take())
    }

    pub(super) fn remove(&mut self, at: usize) -> Option<T> {
        match at.checked_sub(1) {
            None => self.pop_front(),
            Some(at) => self.of_rest(|rest| rest.remove(at)),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        self.first.iter().chain(rest)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let rest = self.rest.iter_mut().flat_map(|rest| rest.iter_mut());
        self.first.iter_mut().chain(rest)
    }

    /// Takes one out of those behind the first, if there are any.
    fn of_rest(&mut self, take: impl FnOnce(&mut VecDeque<T>) -> Option<T>) -> Option<T> {
        let rest = self.rest.as_mut()?;
        let item = take(rest);
        if rest.is_empty() {
            self.rest = None;
        }
        item
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            first: None,
            rest: None,
        }
    }
}

impl<T> IntoIterator for Queue<T> {
    type Item = T;
    type IntoIter = Chain<option::IntoIter<T>, vec_deque::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        let rest = self.rest.map(|rest| *rest).unwrap_or_default();
        self.first.into_iter().chain(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_in_order_whatever_is_taken_out() {
        let mut queue = Queue::default();
        assert_eq!((queue.pop_front(), queue.pop_back()), (None, None::<i32>));
        (1..=6).for_each(|n| queue.push_back(n));
        assert_eq!(queue.pop_front_if(|n| *n == 2), None);
        assert_eq!(queue.pop_front_if(|n| *n == 1), Some(1));
        assert_eq!((queue.front(), queue.len()), (Some(&2), 5));
        assert_eq!((queue.remove(2), queue.remove(4)), (Some(4), None));
        assert_eq!((queue.remove(0), queue.pop_back()), (Some(2), Some(6)));
        queue.iter_mut().for_each(|n| *n *= 10);
        assert!(queue.iter().eq(&[30, 50]));
        assert!(queue.clone().into_iter().eq([30, 50]));
        assert_eq!((queue.pop_back(), queue.pop_back()), (Some(50), Some(30)));
        assert!(queue.is_empty());
        assert_eq!(queue, Queue::default());
    }

    #[test]
    fn it_takes_memory_only_while_several_wait() {
        let mut queue = Queue::default();
        queue.push_back(1);
        assert!(queue.rest.is_none());
        queue.push_back(2);
        assert!(queue.rest.is_some());
        queue.pop_front();
        assert!(queue.rest.is_none());
        queue.push_back(3);
        assert_eq!((queue.pop_back(), queue.rest.is_none()), (Some(3), true));
    }
}
