//! One player: the ractor actor that hosts one key of a [`GenServer`]. It handles one request after the other
//! and hands every outcome to its part of the key space, which backs it up before anybody hears of it.
//!
//! A panic ends the actor. The report goes to the caller, the state dies with the actor, and the supervisor
//! starts a new one from the last backup.

use std::any::Any;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::sync::{Arc, Once};

use bytes::Bytes;
use futures_util::FutureExt;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tracing::warn;

use crate::error::Crash;
use crate::gen_server::GenServer;
use crate::protocol::ring::{Ring, Snapshot};
use crate::protocol::shard::{Ran, Request};
use crate::protocol::types::{Epoch, Key, NodeName};
use crate::supervisor::Restart;
use crate::wire::{self, CallFailure};

use super::load::Load;
use super::shard::{Inbox, Item};

/// A request for the actor; local to the node, so that actors are not advertised to peers.
#[derive(RactorMessage, Debug)]
pub(crate) struct Run(pub(crate) Request);

/// A server type, whatever its state and calls are.
pub(crate) trait ServerType: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// When its actors are restarted.
    fn restart(&self) -> Restart;
    /// Starts an actor.
    fn start(self: Arc<Self>, start: Start, supervisor: ActorCell) -> Option<ActorRef<Run>>;
}

/// What an actor is started with.
pub(crate) struct Start {
    /// Its key.
    pub(crate) key: Key,
    /// The owner's generation.
    pub(crate) gen_: Epoch,
    /// Which actor of that generation it is.
    pub(crate) instance: u64,
    /// Its state; empty for a new one.
    pub(crate) data: Bytes,
    /// Where outcomes go.
    pub(crate) inbox: Arc<Inbox>,
    /// How much waits in this part: what the player does counts until the part has seen it.
    pub(crate) load: Arc<Load>,
    /// This node, for reports.
    pub(crate) node: NodeName,
}

/// A registered [`GenServer`].
pub(crate) struct Hosted<G> {
    server: G,
    /// Asked for once: user code has no business in the supervisor.
    restart: Restart,
}

impl<G: GenServer> Hosted<G> {
    pub(crate) fn new(server: G) -> Self {
        Self {
            restart: server.restart(),
            server,
        }
    }
}

impl<G: GenServer> ServerType for Hosted<G> {
    fn name(&self) -> &'static str {
        G::NAME
    }

    fn restart(&self) -> Restart {
        self.restart
    }

    fn start(self: Arc<Self>, start: Start, supervisor: ActorCell) -> Option<ActorRef<Run>> {
        let player = Player {
            server: self,
            start,
        };
        ractor::ActorRuntime::spawn_linked_instant(None, player, (), supervisor)
            .ok()
            .map(|(actor, _)| actor)
    }
}

struct Player<G> {
    server: Arc<Hosted<G>>,
    start: Start,
}

/// The living state; none until the first request, so that a panic in `init` has a caller to report to.
struct Live<S> {
    ring: Ring,
    state: S,
    /// The encoding of `state` as last backed up.
    last: Bytes,
}

impl<G: GenServer> Actor for Player<G> {
    type Msg = Run;
    type State = Option<Live<G::State>>;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Run>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok(None)
    }

    async fn handle(
        &self,
        _: ActorRef<Run>,
        Run(request): Run,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        self.start.load.room().await;
        match contained(self.run(request, state)).await {
            Ok(ran) => {
                self.tell(ran);
                Ok(())
            }
            Err(reason) => {
                let crash = Crash {
                    kind: G::NAME.to_owned(),
                    key: self.start.key.name().to_owned(),
                    node: self.start.node.to_string(),
                    reason,
                };
                warn!(target: "statekeeper::crash", node = %self.start.node, key = self.start.key.name(), "{crash}");
                let text = crash.to_string();
                self.tell(failed(&CallFailure::Crashed(crash)));
                Err(text.into())
            }
        }
    }
}

impl<G: GenServer> Player<G> {
    fn tell(&self, ran: Ran) {
        let Start {
            key,
            gen_,
            instance,
            inbox,
            load,
            ..
        } = &self.start;
        load.outcome(ran.weight());
        inbox.push(Item::Ran {
            key: key.clone(),
            gen_: *gen_,
            instance: *instance,
            ran,
        });
    }

    /// Handles one request. What it returns is not yet backed up; where it panics, nothing happened.
    async fn run(&self, request: Request, live: &mut Option<Live<G::State>>) -> Ran {
        let server = &self.server.server;
        let name = self.start.key.name();
        let live = match live {
            Some(live) => live,
            None => live.insert(self.revive()),
        };
        if let Some(reply) = request.id.as_ref().and_then(|id| live.ring.lookup(id)) {
            return Ran::Done {
                reply: reply.clone(),
                data: None,
            };
        }
        if request.again && live.ring.has_rolled() {
            return Ran::Unknown;
        }
        let call = match wire::decode::<G::Call>(&request.payload) {
            Ok(call) => call,
            Err(reason) => {
                return failed(&CallFailure::Codec(format!(
                    "the call of '{name}': {reason}"
                )));
            }
        };
        let reply = server.handle_call(name, call, &mut live.state).await;
        let reply = encoded(&reply, "reply");
        let state = encoded(&live.state, "state");
        if state == live.last && request.id.is_none() {
            return Ran::Done { reply, data: None };
        }
        if let Some(id) = request.id {
            live.ring.remember(id, reply.clone());
        }
        live.last = state.clone();
        let snapshot = Snapshot {
            ring: live.ring.clone(),
            state,
        };
        Ran::Done {
            reply,
            data: Some(encoded(&snapshot, "state")),
        }
    }

    /// The state that the actor starts with.
    fn revive(&self) -> Live<G::State> {
        let name = self.start.key.name();
        let data = &self.start.data;
        if data.is_empty() {
            let state = self.server.server.init(name);
            // Nothing is backed up yet, so that the first call writes whatever it leaves behind.
            return Live {
                ring: Ring::default(),
                state,
                last: Bytes::new(),
            };
        }
        let restored = wire::decode::<Snapshot>(data)
            .and_then(|snapshot| Ok((wire::decode(&snapshot.state)?, snapshot)));
        match restored {
            Ok((state, snapshot)) => Live {
                ring: snapshot.ring,
                state,
                last: snapshot.state,
            },
            Err(reason) => panic!("the backup of '{name}' cannot be read: {reason}"),
        }
    }
}

/// Encodes what must have an encoding: an actor whose state cannot be backed up crashes, and loses nothing.
fn encoded<T: serde::Serialize>(value: &T, what: &str) -> Bytes {
    match wire::encode(value) {
        Ok(bytes) => bytes,
        Err(reason) => panic!("the {what} cannot be carried: {reason}"),
    }
}

pub(super) fn failed(failure: &CallFailure) -> Ran {
    // Strings only; should that ever fail, the empty reason decodes to an error at the caller.
    Ran::Failed(wire::encode(failure).unwrap_or_default())
}

thread_local! {
    /// The report of a panic inside [`contained`]; the outer option says that we are inside one.
    static PANIC: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Runs a future, and turns its panic into a report with the place in the source.
async fn contained<T>(future: impl Future<Output = T>) -> Result<T, String> {
    install_hook();
    let mut future = pin!(AssertUnwindSafe(future).catch_unwind());
    poll_fn(|cx| {
        PANIC.set(Some(None));
        let polled = future.as_mut().poll(cx);
        let report = PANIC.take().flatten();
        polled.map(|done| done.map_err(|_| report.unwrap_or_else(|| "it panicked".to_owned())))
    })
    .await
}

/// Panics of actors are reported by their supervisor; all others go on to the hook that was there before.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let inside = PANIC.try_with(|report| match &mut *report.borrow_mut() {
                Some(report) => {
                    let place = info
                        .location()
                        .map(|l| format!(" ({}:{})", l.file(), l.line()));
                    *report = Some(message(info.payload()) + &place.unwrap_or_default());
                    true
                }
                None => false,
            });
            if !inside.unwrap_or(false) {
                previous(info);
            }
        }));
    });
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_a_report_with_its_place() {
        let report = contained(async { panic!("bad argument: {}", 7) }).await;
        let report: String = report
            .err()
            .unwrap_or_else(|| unreachable!("it panics"))
            .to_string();
        assert!(report.starts_with("bad argument: 7 (src"), "{report}");
        assert_eq!(contained(async { 5 }).await, Ok(5));
    }
}
