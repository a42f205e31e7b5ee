//! A short locked buffer with a wake-up flag: many senders, one actor that takes everything at once. An actor's
//! own mailbox costs an allocation and a wake-up per message; this costs one wake-up per batch.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use ractor::ActorRef;
use ractor_cluster::RactorMessage;

use crate::net::lock;

use super::contain::discard;

/// Tells an actor that its inbox is not empty.
#[derive(RactorMessage, Debug)]
pub(crate) struct Wake;

/// The buffer of one actor.
pub(crate) struct Inbox<T> {
    /// None when nobody will ever take any.
    items: Mutex<Option<Vec<T>>>,
    /// Whether a wake-up is on its way, or the actor is at work.
    awake: AtomicBool,
    actor: OnceLock<ActorRef<Wake>>,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Self {
        Self {
            items: Mutex::new(Some(Vec::new())),
            awake: AtomicBool::new(false),
            actor: OnceLock::new(),
        }
    }

    /// Names the actor; what was pushed before is taken at once.
    pub(crate) fn bind(&self, actor: ActorRef<Wake>) {
        let _ = self.actor.set(actor);
        // Mostly it is new, and there is nothing.
        if self.has_items() {
            self.wake();
        }
    }

    /// The actor; none before it is known.
    pub(crate) fn actor(&self) -> Option<&ActorRef<Wake>> {
        self.actor.get()
    }

    /// Adds an item. Its senders are bounded: clients by the limit of waiting requests, peers by their credits,
    /// players by what they were given.
    pub(crate) fn push(&self, item: T) {
        self.put(item);
        self.wake();
    }

    /// Adds an item that is taken when somebody is woken, or has [claimed](Self::claim) the inbox. False if that is
    /// [closed](Self::close), and the item was dropped.
    pub(crate) fn put(&self, item: T) -> bool {
        let mut items = lock(&self.items);
        let Some(items) = &mut *items else {
            return false;
        };
        items.push(item);
        true
    }

    /// Wakes the actor, unless somebody takes what there is anyway.
    pub(crate) fn wake(&self) {
        if self.claim() {
            self.hand_over();
        }
    }

    /// Nobody will ever take anything from it: whoever waits for an answer hears of that when the item is dropped.
    pub(crate) fn close(&self) {
        let unread = lock(&self.items).take();
        // With it a player, perhaps, and the user's state.
        discard(unread);
    }

    /// If the actor is neither at work nor about to be, the inbox is the caller's: until [`take`](Self::take) has found
    /// nothing, or the actor is to [go on](Self::hand_over).
    pub(crate) fn claim(&self) -> bool {
        // Mostly the actor is, and then its flag is left alone: a write would take it from core to core. (Who pushes after
        // the last look of `take` sees, by the lock, what was stored before that.)
        self.actor.get().is_some()
            && !self.awake.load(Ordering::Relaxed)
            && !self.awake.swap(true, Ordering::AcqRel)
    }

    /// The actor goes on in place of whoever has claimed the inbox.
    pub(crate) fn hand_over(&self) {
        if let Some(actor) = self.actor.get() {
            // It fails only when the actor has ended, and then nobody is left to read.
            let _ = actor.cast(Wake);
        }
    }

    /// Takes what is there, in order, into `items`, which must be empty; the next push wakes again if nothing is.
    pub(crate) fn take(&self, items: &mut Vec<T>) -> bool {
        debug_assert!(items.is_empty(), "what was taken before is handled");
        if let Some(put) = &mut *lock(&self.items) {
            std::mem::swap(put, items);
        }
        if !items.is_empty() {
            return true;
        }
        self.awake.store(false, Ordering::Release);
        // A push between the swap and the store saw the flag set, and did not wake anybody.
        if self.has_items() {
            self.wake();
        }
        false
    }

    fn has_items(&self) -> bool {
        lock(&self.items)
            .as_ref()
            .is_some_and(|items| !items.is_empty())
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_nobody_will_ever_take_is_dropped() {
        let (inbox, item) = (Inbox::new(), Arc::new(()));
        assert!(inbox.put(Arc::clone(&item)));
        inbox.close();
        assert_eq!(Arc::strong_count(&item), 1);
        assert!(!inbox.put(Arc::clone(&item)));
        inbox.push(Arc::clone(&item));
        assert_eq!(Arc::strong_count(&item), 1);
        assert!(!inbox.take(&mut Vec::new()));
    }
}
