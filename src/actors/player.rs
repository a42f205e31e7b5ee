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
use crate::protocol::ring::{Raw, Ring, Snapshot, SnapshotRef};
use crate::protocol::shard::{Answer, Ran, Request};
use crate::protocol::types::{Epoch, NodeName};
use crate::supervisor::Restart;
use crate::wire::{self, CallFailure};

use super::part::{Direct, Gate};
use super::shard::Item;

/// A request for the actor; local to the node, so that actors are not advertised to peers.
#[derive(RactorMessage, Debug)]
pub(crate) enum Run {
    /// From its part.
    Given(Request),
    /// From a client, past the part.
    Direct(Direct),
}

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
    /// What it shares with its part: the key, where outcomes go, and who waits for them.
    pub(crate) gate: Arc<Gate>,
    /// The owner's generation.
    pub(crate) gen_: Epoch,
    /// Which actor of that generation it is.
    pub(crate) instance: u64,
    /// Its state; empty for a new one.
    pub(crate) data: Bytes,
    /// The version of that.
    pub(crate) ver: u64,
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
    /// The encoding of `state` as last handed over.
    last: Vec<u8>,
    /// The version of that, as the part will count it.
    ver: u64,
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
        run: Run,
        live: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        self.start.gate.part.load.room().await;
        let request = match &run {
            Run::Given(request) => request,
            Run::Direct(direct) => direct.request(),
        };
        match contained(self.run(request, live)).await {
            Ok(ran) => {
                let ver = live.as_ref().map_or(0, |live| live.ver);
                self.tell(run, ran, Some(ver));
                Ok(())
            }
            Err(reason) => {
                let gate = &self.start.gate;
                let crash = Crash {
                    kind: G::NAME.to_owned(),
                    key: gate.key.name().to_owned(),
                    node: self.start.node.to_string(),
                    reason,
                };
                warn!(target: "statekeeper::crash", node = %self.start.node, key = gate.key.name(), "{crash}");
                let text = crash.to_string();
                self.tell(run, failed(&CallFailure::Crashed(crash)), None);
                Err(text.into())
            }
        }
    }
}

impl<G: GenServer> Player<G> {
    /// Hands over what came of a request. Answers it at once if nothing changed, and what it was computed from is
    /// backed up.
    fn tell(&self, run: Run, ran: Ran, ver: Option<u64>) {
        let Start {
            gate,
            gen_,
            instance,
            ..
        } = &self.start;
        let part = &gate.part;
        gate.set_used();
        let item = match (run, ran) {
            (Run::Given(_), ran) => {
                part.load.outcome(ran.weight());
                Item::Ran {
                    key: gate.key.clone(),
                    gen_: *gen_,
                    instance: *instance,
                    ran,
                }
            }
            (Run::Direct(direct), Ran::Done { reply, data: None })
                if ver.is_some_and(|ver| gate.may_answer(ver)) =>
            {
                let token = direct.token;
                part.load.taken(direct.finish().weight());
                return part.calls.answer(token, Answer::Reply(reply));
            }
            (Run::Direct(direct), ran) => {
                part.load.outcome(ran.weight());
                Item::Served {
                    gate: Arc::clone(gate),
                    gen_: *gen_,
                    token: direct.token,
                    request: direct.finish(),
                    ran,
                }
            }
        };
        part.inbox.push(item);
    }

    /// Handles one request. What it returns is not yet backed up; where it panics, nothing happened.
    async fn run(&self, request: &Request, live: &mut Option<Live<G::State>>) -> Ran {
        let server = &self.server.server;
        let name = self.start.gate.key.name();
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
        let last = &mut live.last;
        let changed = carried(
            "state",
            wire::with_encoded(&live.state, |state| {
                let changed = state != last;
                if changed {
                    last.clear();
                    last.extend_from_slice(state);
                }
                changed
            }),
        );
        if !changed && request.id.is_none() {
            return Ran::Done { reply, data: None };
        }
        if let Some(id) = request.id {
            live.ring.remember(id, reply.clone());
        }
        live.ver += 1;
        let snapshot = SnapshotRef {
            ring: &live.ring,
            state: Raw(&live.last),
        };
        let data = encoded(&snapshot, "state");
        Ran::Done {
            reply,
            data: Some(data),
        }
    }

    /// The state that the actor starts with.
    fn revive(&self) -> Live<G::State> {
        let Start {
            gate, data, ver, ..
        } = &self.start;
        let name = gate.key.name();
        if data.is_empty() {
            // Nothing is backed up yet, so that the first call writes whatever it leaves behind.
            return Live {
                ring: Ring::default(),
                state: self.server.server.init(name),
                last: Vec::new(),
                ver: *ver,
            };
        }
        let restored = wire::decode::<Snapshot>(data)
            .and_then(|snapshot| Ok((wire::decode(&snapshot.state)?, snapshot)));
        match restored {
            Ok((state, snapshot)) => Live {
                ring: snapshot.ring,
                state,
                last: snapshot.state.to_vec(),
                ver: *ver,
            },
            Err(reason) => panic!("the backup of '{name}' cannot be read: {reason}"),
        }
    }
}

/// Encodes what must have an encoding.
fn encoded<T: serde::Serialize>(value: &T, what: &str) -> Bytes {
    carried(what, wire::encode(value))
}

/// An actor whose state or reply cannot be carried crashes, and loses nothing.
fn carried<T>(what: &str, result: Result<T, String>) -> T {
    result.unwrap_or_else(|reason| panic!("the {what} cannot be carried: {reason}"))
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
