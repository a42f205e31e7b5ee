//! Owned keys that some keeper lags behind, or whose answers only the lease holds back. Most of them are acknowledged within
//! a tick, but thousands come with every tick, and to look at one of them again is to wait for its memory. So they are listed
//! by the tick that they were put in, and of each list it is known how many of its keys still lag: a list of which none
//! does is dropped unread.

use std::collections::VecDeque;

use super::super::types::Key;
use super::Own;

/// The keys that lag, and names of some that no longer do.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Lagging {
    /// From the oldest to the latest.
    lists: VecDeque<List>,
    /// How many there have been: one in a tick, so that there are never too many.
    count: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct List {
    number: u32,
    /// When its keys were put.
    tick: u64,
    names: Vec<Key>,
    /// How many of them lag since then; those that are not owned any more are counted on.
    open: usize,
}

/// Where an owned key is listed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Listed {
    /// The list that has its name; 0 if none has.
    number: u32,
    /// Whether it lags, and is counted there.
    pub(super) lags: bool,
}

impl Lagging {
    /// Lists a key that lags, as of this tick.
    pub(super) fn add(&mut self, tick: u64, key: &Key, own: &mut Own) {
        if self.lists.back().is_none_or(|list| list.tick != tick) {
            self.count += 1;
            self.lists.push_back(List {
                number: self.count,
                tick,
                names: Vec::new(),
                open: 0,
            });
        }
        let has_name = own.listed.number == self.count;
        if own.listed.lags {
            if has_name {
                return;
            }
            self.leave(own);
        }
        own.listed = Listed {
            number: self.count,
            lags: true,
        };
        if let Some(list) = self.lists.back_mut() {
            list.open += 1;
            if !has_name {
                list.names.push(key.clone());
            }
        }
    }

    /// A key lags no longer.
    pub(super) fn leave(&mut self, own: &mut Own) {
        own.listed.lags = false;
        let mut lists = self.lists.iter_mut().rev();
        // None while it is gone through.
        if let Some(list) = lists.find(|list| list.number == own.listed.number) {
            list.open -= 1;
        }
    }

    /// Takes the names of all that lag as of that tick or before, and of some that do not.
    pub(super) fn take(&mut self, by: u64) -> Vec<Key> {
        let mut names = Vec::new();
        while let Some(list) = self.lists.pop_front_if(|list| list.tick <= by) {
            if list.open > 0 {
                names.extend(list.names);
            }
        }
        names
    }

    /// The names of all that lag, and of some that do not.
    pub(super) fn names(&self) -> Vec<Key> {
        let open = self.lists.iter().filter(|list| list.open > 0);
        open.flat_map(|list| &list.names).cloned().collect()
    }

    /// Whether that key is where it says.
    pub(super) fn has(&self, key: &Key, listed: Listed) -> bool {
        let mut lists = self.lists.iter();
        lists.any(|list| list.number == listed.number && list.open > 0 && list.names.contains(key))
    }
}
