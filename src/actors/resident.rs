//! A player that lives here, as its part and its clients see it, whatever its server type is.

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use ractor::ActorId;

use crate::net::lock;
use crate::protocol::blob::Blob;
use crate::protocol::shard::{Answer, Ran, Request};
use crate::protocol::types::{ClusterId, Epoch, Key, NodeName};
use crate::protocol::view::View;
use crate::wire::CallFailure;

use super::calls::{Refused, Waiting};
use super::driver::Item;
use super::idle::Turn;
use super::part::Part;
use super::player::reason;
use super::seats::Place;

/// The player, in its place.
pub(crate) trait Resident: Send + Sync {
    /// What it shares with its part and its clients.
    fn gate(&self) -> &Gate;
    /// Reads some of every line of its memory that is about to be used, all at once (see
    /// [`Shard::prefetch`](crate::protocol::shard::Shard::prefetch)).
    fn prefetch(&self) {
        self.gate().prefetch();
    }
    /// Has the request of a client handled, by the task of the client if that is possible; what there is for it, none if
    /// nobody will answer.
    fn ask(self: Arc<Self>, request: Request) -> Result<Option<Waiting>, Refused>;
    /// Takes a request that its part gives it, after those before: the part knows the outcomes by their order. What is to be
    /// done for it now, unless the player is at work; the part is to be woken afterwards. If it has just ended, its end is
    /// reported, and its successor gets the request.
    fn give(self: Arc<Self>, request: Request) -> Option<Work>;
    /// The player waits in its handler: that goes on as a task, unless it was ended meanwhile.
    fn go_on(&self, handling: Handling);
    /// Ends it; nobody waits for it any more.
    fn stop(&self);
    /// Ends it as a crash would; false if there is no player.
    fn kill(self: Arc<Self>) -> bool;
    /// The actor that ends with it; none if it shares one, and its part hears of its end instead.
    fn actor(&self) -> Option<ActorId>;
}

/// A player handles a request, and its outcome is told.
pub(crate) type Handling = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request that is to be handled.
pub(crate) struct Work {
    pub(super) seat: Arc<dyn Resident>,
    pub(super) handling: Handling,
}

impl Work {
    /// Handles it as far as it goes without waiting; the rest is a task of its own.
    pub(super) fn begin(mut self) {
        if self.handling.as_mut().now_or_never().is_none() {
            self.seat.go_on(self.handling);
        }
    }
}

/// Whose outcome something is.
pub(crate) struct Whose {
    pub(crate) key: Key,
    pub(crate) place: Place,
}

/// What one player, its part and its clients share.
pub(crate) struct Gate {
    pub(crate) key: Key,
    /// The owner's generation.
    pub(crate) gen_: Epoch,
    /// Where the driver of its part has it.
    pub(super) place: Place,
    pub(crate) part: Arc<Part>,
    /// Requests of clients that wait for it.
    waiting: AtomicUsize,
    /// When it was started, or handled a request last.
    used: AtomicU64,
    /// In which view the keepers have which version.
    backed_up: Mutex<Option<(ClusterId, Epoch, u64)>>,
}

impl Gate {
    pub(crate) fn new(key: Key, gen_: Epoch, place: Place, part: Arc<Part>) -> Self {
        Self {
            key,
            gen_,
            place,
            part,
            waiting: AtomicUsize::new(0),
            used: AtomicU64::new(0),
            backed_up: Mutex::new(None),
        }
    }

    /// Reads some of its memory.
    pub(super) fn prefetch(&self) {
        black_box((self.gen_, self.used.load(Relaxed)));
    }

    /// The player is used now.
    pub(crate) fn set_used(&self) {
        self.used.store(self.part.turn.load(Relaxed), Relaxed);
    }

    /// When it was used last.
    pub(crate) fn used(&self) -> Turn {
        self.used.load(Relaxed)
    }

    /// One more request of a client waits for the player, if it may.
    pub(super) fn enter(&self) -> Result<(), Refused> {
        if self.waiting.fetch_add(1, Relaxed) >= self.part.key_max {
            self.leave();
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// The same for one that the player has begun to handle.
    pub(super) fn enter_begun(&self) {
        self.waiting.fetch_add(1, Relaxed);
    }

    /// One of them does not any more.
    pub(super) fn leave(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Whether clients wait for it, of whose requests the part has not heard. (One that is handled without waiting is not
    /// counted: should the player go to rest by then, the request goes to the part.)
    pub(crate) fn is_busy(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// The player, to whom its part gives what it did.
    pub(super) fn whose(&self) -> Whose {
        Whose {
            key: self.key.clone(),
            place: self.place,
        }
    }

    /// The answer to a request that changed nothing, if what it was computed from is backed up; else its outcome, which the
    /// part is to hear of.
    pub(super) fn reply_of(&self, ran: Ran, ver: Option<u64>) -> Result<Answer, Ran> {
        match ran {
            Ran::Done { reply, data: None } if ver.is_some_and(|ver| self.may_answer(ver)) => {
                Ok(Answer::Reply(reply))
            }
            ran => Err(ran),
        }
    }

    /// The part has given up the player. Before anybody else hears of it, so that it does not answer any more by then.
    pub(super) fn close(&self) {
        *lock(&self.backed_up) = None;
    }

    /// All keepers in this view have this version.
    pub(crate) fn set_backed_up(&self, view: &View, ver: u64) {
        *lock(&self.backed_up) = Some((view.cluster, view.epoch, ver));
    }

    /// Whether the player may answer from its state of this version by itself: all keepers have it, and the node has
    /// the lease of the view in which they are the keepers. That is so at one moment while the request waits, at which
    /// the answer is true, whatever happens before it arrives.
    pub(crate) fn may_answer(&self, ver: u64) -> bool {
        // Not locked while the lease is looked at.
        let backed_up = *lock(&self.backed_up);
        backed_up.is_some_and(|(cluster, epoch, known)| {
            known == ver && self.part.lease.is_valid(cluster, epoch)
        })
    }
}

/// Stands for a player whose server type is not registered here: whoever asks it hears that.
pub(super) struct Stranger {
    gate: Gate,
    node: NodeName,
}

impl Stranger {
    pub(super) fn new(gate: Gate, node: NodeName) -> Self {
        Self { gate, node }
    }

    fn refusal(&self) -> Blob {
        reason(&CallFailure::NoSuchType(self.node.to_string()))
    }
}

impl Resident for Stranger {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn ask(self: Arc<Self>, request: Request) -> Result<Option<Waiting>, Refused> {
        self.gate.part.load.answered(request.weight());
        Ok(Some(Waiting::Answered(Answer::Failed(self.refusal()))))
    }

    fn give(self: Arc<Self>, _: Request) -> Option<Work> {
        let ran = Ran::Failed(self.refusal());
        let part = Arc::clone(&self.gate.part);
        part.load.outcome(ran.weight());
        let whose = self.gate.whose();
        part.inbox.put(Item::Ran { whose, ran });
        None
    }

    fn go_on(&self, _: Handling) {}

    fn stop(&self) {}

    fn kill(self: Arc<Self>) -> bool {
        false
    }

    fn actor(&self) -> Option<ActorId> {
        None
    }
}
