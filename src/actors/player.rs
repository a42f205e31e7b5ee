//! One player: a key of a [`GenServer`], its living state, and how it handles one request after the other. Every
//! outcome goes to its part of the key space, which backs it up before anybody hears of it.
//!
//! A player has a ractor actor of its own, or shares one with others ([`host`](super::host)). A panic ends it: the
//! report goes to the caller, the state is gone, and the supervisor starts it again from the last backup.

use std::pin::pin;
use std::sync::{Arc, OnceLock};

use ractor::ActorCell;
use tracing::warn;

use crate::error::Crash;
use crate::gen_server::GenServer;
use crate::protocol::SHARDS;
use crate::protocol::blob::Blob;
use crate::protocol::defect::Planted;
use crate::protocol::ring::{Known, Raw, Ring, Snapshot, SnapshotRef};
use crate::protocol::shard::{Ran, Request};
use crate::protocol::types::NodeName;
use crate::supervisor::Restart;
use crate::wire::{self, CallFailure};

use super::contain::contained;
use super::host::Host;
use super::resident::{Gate, Resident};

/// A server type, whatever its state and calls are.
pub(crate) trait ServerType: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// When its players are restarted.
    fn restart(&self) -> Restart;
    /// Starts a player.
    fn start(self: Arc<Self>, start: Start, supervisor: ActorCell) -> Arc<dyn Resident>;
}

/// What a player is started with.
pub(crate) struct Start {
    /// What it shares with its part: the key, where outcomes go, and who waits for them.
    pub(crate) gate: Gate,
    /// Its state; empty for a new one.
    pub(crate) data: Blob,
    /// The version of that.
    pub(crate) ver: u64,
    /// This node, for reports.
    pub(crate) node: NodeName,
}

/// A registered [`GenServer`].
pub(crate) struct Hosted<G: GenServer> {
    server: G,
    /// Asked for once: user code has no business in the supervisor.
    restart: Restart,
    /// The actor of each part that its players share; none if each has its own.
    hosts: Option<[OnceLock<Arc<Host<G>>>; SHARDS]>,
}

impl<G: GenServer> Hosted<G> {
    pub(crate) fn new(server: G, shared: bool) -> Self {
        Self {
            restart: server.restart(),
            server,
            hosts: shared.then(Default::default),
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

    fn start(self: Arc<Self>, start: Start, supervisor: ActorCell) -> Arc<dyn Resident> {
        let part = Arc::clone(&start.gate.part);
        let player = Player {
            server: Arc::clone(&self),
            node: start.node,
            life: Life::Unborn(start.data, start.ver),
        };
        let host = match &self.hosts {
            None => Host::start(part, supervisor, true),
            Some(hosts) => {
                let place = &hosts[part.index];
                Arc::clone(place.get_or_init(|| Host::start(part, supervisor, false)))
            }
        };
        host.seat(start.gate, player)
    }
}

/// One player.
pub(super) struct Player<G: GenServer> {
    server: Arc<Hosted<G>>,
    node: NodeName,
    life: Life<G::State>,
}

enum Life<S> {
    /// Nobody has asked yet, so that a panic in `init` will have a caller to report to: the backup and its version.
    Unborn(Blob, u64),
    Live(Live<S>),
}

/// The living state.
struct Live<S> {
    ring: Ring,
    state: S,
    /// The encoding of `state` as last handed over.
    last: Blob,
    /// The version of that, as the part will count it.
    ver: u64,
}

/// What came of a request.
pub(super) struct Served {
    /// The outcome.
    pub(super) ran: Ran,
    /// The version of the state now, as the part will count it; none if the player did not live to have one.
    pub(super) ver: Option<u64>,
    /// Whether a panic ended the player.
    pub(super) crashed: bool,
}

impl<G: GenServer> Player<G> {
    /// Handles one request, as the player of that name.
    pub(super) async fn serve(&mut self, name: &str, request: &Request) -> Served {
        let ran = contained(pin!(self.run(name, request))).await;
        match ran {
            Ok(ran) => {
                let ver = match &self.life {
                    Life::Live(live) => Some(live.ver),
                    Life::Unborn(..) => None,
                };
                Served {
                    ran,
                    ver,
                    crashed: false,
                }
            }
            Err(reason) => {
                let node = &self.node;
                let crash = Crash {
                    kind: G::NAME.to_owned(),
                    key: name.to_owned(),
                    node: node.to_string(),
                    reason,
                };
                warn!(target: "statekeeper::crash", node = %node, key = crash.key, "{crash}");
                Served {
                    ran: failed(&CallFailure::Crashed(crash)),
                    ver: None,
                    crashed: true,
                }
            }
        }
    }

    /// Handles one request. What it returns is not yet backed up; where it panics, nothing happened.
    async fn run(&mut self, name: &str, request: &Request) -> Ran {
        let server = &self.server.server;
        if let Life::Unborn(data, ver) = &mut self.life {
            let data = std::mem::take(data);
            self.life = Life::Live(revive(server, name, &data, *ver));
        }
        let Life::Live(live) = &mut self.life else {
            unreachable!("it was just born");
        };
        match live.ring.judge(request.id, request.again, Planted::NONE) {
            Known::New => {}
            Known::Replied(reply) => {
                return Ran::Done {
                    reply: Blob::from(reply),
                    data: None,
                };
            }
            Known::Forgotten => return Ran::Unknown,
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
        let state = wire::encode_if_changed(&live.state, &live.last);
        match carried("state", state) {
            Some(state) => live.last = state,
            None if request.id.is_none() => return Ran::Done { reply, data: None },
            None => {}
        }
        if let Some(id) = request.id {
            live.ring.remember(id, request.span, &reply);
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
}

/// The state that a player starts with.
fn revive<G: GenServer>(server: &G, name: &str, data: &[u8], ver: u64) -> Live<G::State> {
    if data.is_empty() {
        // Nothing is backed up yet, so that the first call writes whatever it leaves behind.
        return Live {
            ring: Ring::default(),
            state: server.init(name),
            last: Blob::EMPTY,
            ver,
        };
    }
    let restored = wire::decode::<Snapshot>(data)
        .and_then(|snapshot| Ok((wire::decode(&snapshot.state)?, snapshot)));
    match restored {
        Ok((state, snapshot)) => Live {
            ring: snapshot.ring,
            state,
            last: snapshot.state,
            ver,
        },
        Err(reason) => panic!("the backup of '{name}' cannot be read: {reason}"),
    }
}

/// Encodes what must have an encoding.
fn encoded<T: serde::Serialize>(value: &T, what: &str) -> Blob {
    carried(what, wire::encode(value))
}

/// An actor whose state or reply cannot be carried crashes, and loses nothing.
fn carried<T>(what: &str, result: Result<T, String>) -> T {
    result.unwrap_or_else(|reason| panic!("the {what} cannot be carried: {reason}"))
}

fn failed(failure: &CallFailure) -> Ran {
    Ran::Failed(reason(failure))
}

/// What the client of a request that failed gets.
pub(super) fn reason(failure: &CallFailure) -> Blob {
    // Strings only; should that ever fail, the empty reason decodes to an error at the caller.
    wire::encode(failure).unwrap_or_default()
}
