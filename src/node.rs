//! One node: what a program starts, and asks.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{OnceCell, oneshot};
use tokio::time::timeout;
use tracing::{error, warn};

use crate::actors::calls::{Refused, Waiting};
use crate::actors::driver;
use crate::actors::inbox::Wake;
use crate::actors::listing::Local;
use crate::actors::members::{self, MembersActor};
use crate::actors::part::Part;
use crate::actors::player::{Hosted, ServerType};
use crate::actors::shard::ShardActor;
use crate::actors::shared::{CONTROL_LANE, Shared};
use crate::config::Config;
use crate::error::{CallError, ConnectError, StartError};
use crate::gen_server::GenServer;
use crate::guardian::Guardian;
use crate::info::{LocalServer, ViewInfo, Whereis};
use crate::net::cookie::Cookie;
use crate::net::names::PeerSpec;
use crate::net::registry::{Claim, Registry};
use crate::net::{Counters, DialError, Net, NetConfig};
use crate::protocol::SHARDS;
use crate::protocol::defect::Planted;
use crate::protocol::members::{Failure, Members, Status};
use crate::protocol::ring::Snapshot;
use crate::protocol::shard::{Answer, Request};
use crate::protocol::types::{ClusterId, Key, KeyRef, Kind, Member, NodeId, NodeName, RequestId};
use crate::wire::{self, CallFailure};

/// How long a node that leaves waits for its pending writes, and then again for the view without it.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// Starts a node: its configuration, and the server types that it can host.
pub struct NodeBuilder {
    config: Config,
    types: Vec<(Kind, Arc<dyn ServerType>)>,
    planted: Planted,
}

impl NodeBuilder {
    /// Makes a server type known; each of its actors is a ractor actor, supervised by itself. Register the same types on
    /// every node.
    ///
    /// An actor that is not at work handles the call of a client of the same node in the client's task, up to the handler's
    /// first wait (as a thread pool's *caller runs* policy does): nobody else has to be woken. Calls of other nodes are
    /// handled likewise, many of them by one task. The actor's own task handles those that found it at work, and a handler
    /// that waits goes on as a task of its own. So a handler should not compute long or block its thread, as nothing in
    /// tokio should: it holds up the task that called, timeouts included, or calls of other nodes that came with it, and
    /// tokio may leave the network unread meanwhile. [`tokio::task::spawn_blocking`] is for such work, and holds up nobody.
    /// Up to its first wait a handler sees the task-locals and the tracing span of who called.
    #[must_use]
    pub fn register<G: GenServer>(self, server: G) -> Self {
        self.host(Hosted::new(server, false))
    }

    /// Like [`register`](Self::register), but the actors of this type are no ractor actors each: the mode for very many
    /// of them. A few ractor actors that all share handle the calls that found an actor at work.
    ///
    /// All promises are the same: calls of one key are handled one after the other, a panic ends one actor and no other,
    /// and while one waits in its handler the others go on. An actor costs a tenth of the memory (README has the figures).
    /// What is given up is an actor that ractor shows and supervises, and some isolation of time: a handler that computes
    /// long, for a call that found its actor at work, holds up what was left to the shared one as well. Nodes of one cluster
    /// may host the same type in different ways.
    #[must_use]
    pub fn register_shared<G: GenServer>(self, server: G) -> Self {
        self.host(Hosted::new(server, true))
    }

    fn host<G: GenServer>(mut self, hosted: Hosted<G>) -> Self {
        self.types.push((Kind::of(G::NAME), Arc::new(hosted)));
        self
    }

    /// Breaks a rule of the protocol on purpose, for tests that must find it.
    #[cfg(debug_assertions)]
    #[doc(hidden)]
    #[must_use]
    pub fn plant(mut self, defect: crate::protocol::defect::Defect) -> Self {
        warn!(
            ?defect,
            "A DEFECT IS PLANTED: this node breaks its promises on purpose"
        );
        self.planted = defect.into();
        self
    }

    /// Starts the node: it listens, is alone, and waits to be connected. One process runs one node.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(self) -> Result<Node, StartError> {
        let Self {
            config,
            types,
            planted,
        } = self;
        config.check()?;
        let mut known: HashMap<Kind, Arc<dyn ServerType>> = HashMap::new();
        for (kind, server) in types {
            let name = server.name();
            if known.insert(kind, server).is_some() {
                return Err(StartError::Registered(name));
            }
        }
        Node::start(config, known, planted).await
    }
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<&str> = self.types.iter().map(|(_, t)| t.name()).collect();
        f.debug_struct("NodeBuilder")
            .field("config", &self.config)
            .field("types", &types)
            .finish()
    }
}

/// A running node; clones are handles to the same one.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
    root: ActorRef<Wake>,
    addr: SocketAddr,
    registry: Registry,
    /// The name is ours as long as a handle to the node lives.
    _claim: Arc<Claim>,
    left: Arc<OnceCell<Result<(), Failure>>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", self.name())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// A node to be started.
    pub fn builder(config: Config) -> NodeBuilder {
        NodeBuilder {
            config,
            types: Vec::new(),
            planted: Planted::NONE,
        }
    }

    async fn start(
        config: Config,
        types: HashMap<Kind, Arc<dyn ServerType>>,
        planted: Planted,
    ) -> Result<Self, StartError> {
        let spec = PeerSpec::parse(&config.name)
            .and_then(|spec| {
                if spec.port.is_none() {
                    Ok(spec)
                } else {
                    Err("the port belongs to --listen")
                }
            })
            .map_err(|reason| StartError::Name {
                name: config.name.clone(),
                reason,
            })?;
        let name = spec.node_name();
        let registry = Registry::open()?;
        let mut claim = registry.claim(&name)?;
        let before = claim.before();
        let cookie = Cookie::load(config.cookie_file.as_deref())?;
        let net_config = NetConfig {
            listen: config.listen,
            before: before.map(|record| record.addr),
            avoid: registry.ports_of_others(&name),
            ..NetConfig::new(cookie)
        };
        let id = NodeId {
            name,
            incarnation: NodeId::next_incarnation(
                clock(),
                before.map(|record| record.incarnation),
                planted,
            ),
        };
        let cluster = ClusterId(rand::random());
        let other = |e: &dyn fmt::Display| StartError::Other(e.to_string());

        let shared = Arc::new(Shared::new(id.clone(), cluster, config, types, planted));
        let events = shared.clone();
        let member = |addr: SocketAddr| Member {
            id: id.clone(),
            addr: advertised(&id.name, addr).into(),
        };
        let net = Net::start(
            net_config,
            member,
            CONTROL_LANE + 1,
            Arc::new(move |e| events.event(e)),
        )
        .await?;
        let addr = net.local_addr();
        claim.record(addr, id.incarnation)?;
        shared.attach(net);
        if let Some(command) = &shared.config.guardian {
            match Guardian::start(command) {
                Ok(guardian) => shared.guard(guardian),
                Err(error) => {
                    warn!(node = %shared.name, %error, "no guardian: should this process crash, the others wait until its lease has run out")
                }
            }
        }

        let config = &shared.config;
        let mut machine = Members::new(
            member(addr),
            cluster,
            config.timings,
            config.backups,
            rand::random(),
        )
        .with_on_possible_loss(config.on_possible_loss);
        machine.plant(planted);
        let view = machine.view().clone();
        let (root, _) = Actor::spawn(
            None,
            Root {
                shared: shared.clone(),
            },
            (),
        )
        .await
        .map_err(|e| other(&e))?;
        for index in 0..SHARDS {
            let part = ShardActor {
                index,
                shared: shared.clone(),
            };
            let (actor, _) = Actor::spawn_linked(None, part, view.clone(), root.get_cell())
                .await
                .map_err(|e| other(&e))?;
            shared.parts[index].inbox.bind(actor);
        }
        let members = MembersActor {
            shared: shared.clone(),
        };
        let (actor, _) = Actor::spawn_linked(None, members, machine, root.get_cell())
            .await
            .map_err(|e| other(&e))?;
        shared.members.bind(actor);
        Ok(Self {
            shared,
            root,
            addr,
            registry,
            _claim: Arc::new(claim),
            left: Arc::new(OnceCell::new()),
        })
    }

    /// This node's name.
    pub fn name(&self) -> &NodeName {
        &self.shared.name
    }

    /// Where this node listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Joins this node and `peer` (`NAME[@HOST[:PORT]]`) into one cluster. Nodes of the same user on this
    /// machine are found by name, others at port 21500 unless another is given.
    ///
    /// # Errors
    /// See [`ConnectError`]; within 5 s if nobody answers.
    pub async fn connect(&self, peer: &str) -> Result<(), ConnectError> {
        let net = self.shared.net().ok_or(ConnectError::Stopped)?;
        if self.is_leaving() {
            return Err(ConnectError::Stopped);
        }
        let spec = PeerSpec::parse(peer)
            .map_err(|reason| ConnectError::Address(format!("'{peer}' is not a node: {reason}")))?;
        let place = spec
            .resolve(&self.registry)
            .map_err(ConnectError::Address)?;
        let dialled = net.dial(Some(&place.expect), &place.addr).await;
        let peer = dialled.map_err(|error| connect_error(peer, error))?;
        let (port, answer) = oneshot::channel();
        self.shared.members.push(members::Item::Connect {
            peer: peer.id,
            port,
        });
        Ok(answer.await.map_err(|_| ConnectError::Stopped)??)
    }

    /// The other members of the cluster, sorted.
    pub fn nodes(&self) -> Vec<NodeName> {
        let mut nodes = self.shared.info.borrow().members.clone();
        nodes.retain(|name| name != self.name());
        nodes
    }

    /// Other running nodes of this user on this machine.
    pub fn neighbours(&self) -> Vec<NodeName> {
        let running = self.registry.running().into_iter().map(|(name, _)| name);
        running.filter(|name| name != self.name()).collect()
    }

    /// The cluster as this node sees it.
    pub fn view(&self) -> ViewInfo {
        let mut info = self.shared.info.borrow().clone();
        if self.is_leaving() {
            info.status = Status::Leaving;
        }
        info
    }

    /// What this node's network refused, dropped and linked so far.
    pub fn counters(&self) -> Counters {
        self.shared.net().map(Net::counters).unwrap_or_default()
    }

    /// How many bytes of requests, replies and messages wait on this node; see [`Config::waiting_bytes_max`].
    pub fn waiting_bytes(&self) -> usize {
        self.shared.parts.iter().map(|part| part.load.bytes()).sum()
    }

    /// Waits until `condition` holds for this node's view of the cluster.
    pub async fn wait_for(&self, mut condition: impl FnMut(&ViewInfo) -> bool) -> ViewInfo {
        let mut info = self.shared.info.subscribe();
        match info.wait_for(|info| condition(info)).await {
            Ok(info) => info.clone(),
            // The sender lives in `self.shared`.
            Err(_) => self.view(),
        }
    }

    /// Calls the actor `key` of the kind `G`, wherever it is; creates it here if nobody has it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<G: GenServer>(
        &self,
        key: &str,
        call: G::Call,
    ) -> Result<G::Reply, CallError> {
        self.request::<G>(None, key, call).await
    }

    /// Like [`call`](Self::call), but a retry with the same id, on any node, is not carried out twice: it gets
    /// the reply of the first. This holds as long as the id is among the last 32 that the actor was called with; calls
    /// that another node forwards have ids, too, until their answers are heard.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call_once<G: GenServer>(
        &self,
        id: RequestId,
        key: &str,
        call: G::Call,
    ) -> Result<G::Reply, CallError> {
        self.request::<G>(Some(id), key, call).await
    }

    async fn request<G: GenServer>(
        &self,
        id: Option<RequestId>,
        key: &str,
        call: G::Call,
    ) -> Result<G::Reply, CallError> {
        let key = key_of::<G>(key)?;
        let payload = wire::encode(&call).map_err(CallError::Codec)?;
        // Only its encoding waits for the reply.
        drop(call);
        let request = Request {
            id,
            payload,
            again: false,
            span: 0,
        };
        let part = self.part_that_serves(key)?;
        let answer = match part.call(key, request).map_err(refused)? {
            Some(Waiting::Answered(answer)) => {
                // Who asks in a loop, and never waits, must let others have the thread.
                tokio::task::coop::consume_budget().await;
                Some(answer)
            }
            Some(Waiting::Later(answer)) => answer.await.ok(),
            None => None,
        };
        match answer {
            Some(Answer::Reply(bytes)) => wire::decode(&bytes).map_err(CallError::Codec),
            Some(other) => Err(self.refusal(other)),
            None => Err(self.unknown()),
        }
    }

    /// The part of the key space that `key` belongs to, if this node serves.
    fn part_that_serves(&self, key: KeyRef<'_>) -> Result<&Arc<Part>, CallError> {
        if self.is_leaving() {
            return Err(CallError::Leaving);
        }
        if self.shared.refuses.load(Ordering::Acquire) {
            return Err(self.not_serving());
        }
        Ok(&self.shared.parts[part_of(key)])
    }

    /// Nobody answered in time.
    fn unknown(&self) -> CallError {
        let timeout_ms = self.shared.config.call_timeout.as_millis();
        let timeout_ms = u64::try_from(timeout_ms).unwrap_or(u64::MAX);
        CallError::Unknown { timeout_ms }
    }

    fn refusal(&self, answer: Answer) -> CallError {
        match answer {
            Answer::Failed(reason) => match wire::decode::<CallFailure>(&reason) {
                Ok(CallFailure::Crashed(crash)) => CallError::Crashed(crash),
                Ok(CallFailure::NoSuchType(node)) => CallError::NoSuchType(NodeName::new(node)),
                Ok(CallFailure::Codec(reason)) | Err(reason) => CallError::Codec(reason),
            },
            Answer::Overloaded => CallError::Overloaded,
            Answer::Leaving => CallError::Leaving,
            Answer::NotServing => self.not_serving(),
            Answer::Unknown | Answer::Reply(_) => CallError::Lost,
        }
    }

    fn not_serving(&self) -> CallError {
        let info = self.shared.info.borrow();
        // Left behind by the others, it joins them again in a moment.
        if info.status == Status::Joining {
            return CallError::Suspended(Vec::new());
        }
        if info.members.len() <= 1 {
            return CallError::Alone;
        }
        if info.status == Status::Refusing {
            let lost = info.possible_loss.last().map(|(_, nodes)| nodes.clone());
            return CallError::PossibleLoss(lost.unwrap_or_default());
        }
        CallError::Suspended(info.waiting_for.clone())
    }

    /// The actors of kind `G` that live on this node, sorted by key. The list is made while they work: it has every one that
    /// lives here all the time, once, each as it is when the list comes to it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn local<G: GenServer>(&self) -> Result<Vec<LocalServer<G::State>>, CallError> {
        let _turn = self.shared.listing.lock().await;
        let mut local = Vec::new();
        for part in &self.shared.parts {
            let (port, answer) = oneshot::channel();
            part.inbox.push(driver::Item::Local {
                kind: Kind::of(G::NAME),
                port,
            });
            local.extend(answer.await.map_err(|_| CallError::Leaving)?);
        }
        // There may be millions of them, for which no thread of the runtime is to be held up.
        match tokio::task::spawn_blocking(|| read_local::<G>(local)).await {
            Ok(found) => found,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(CallError::Leaving),
            },
        }
    }

    /// Where the actor `key` of kind `G` is; none if nobody ever called it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn whereis<G: GenServer>(&self, key: &str) -> Result<Option<Whereis>, CallError> {
        let key = key_of::<G>(key)?;
        let part = self.part_that_serves(key)?;
        let (port, answer) = oneshot::channel();
        part.locate(key, port).map_err(refused)?;
        let found = answer.await.map_err(|_| self.unknown())?;
        let found = found.map_err(|answer| self.refusal(answer))?;
        Ok(found.map(|at| Whereis {
            node: at.owner.map(|id| id.name),
            keepers: at.keepers.into_iter().map(|id| id.name).collect(),
            version: at.version,
        }))
    }

    /// Kills the actor `key` of kind `G` if it lives on this node, as a crash would; false if it does not. Its
    /// supervisor starts it again, and does not wait for a handler at work: until its next wait that may go on, but what it
    /// does to the state counts for nothing.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn kill<G: GenServer>(&self, key: &str) -> Result<bool, CallError> {
        let key = key_of::<G>(key)?;
        let (port, answer) = oneshot::channel();
        self.shared.parts[part_of(key)]
            .inbox
            .push(driver::Item::Kill {
                key: key.to_key(),
                port,
            });
        answer.await.map_err(|_| CallError::Leaving)
    }

    /// Vouches that the process of `name` (the short or the whole name of a member) is gone for good, so that
    /// the others may go on without it. `force` goes on even without a majority, under a new cluster id.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn forget(&self, name: &str, force: bool) -> Result<(), Failure> {
        let members = self.shared.info.borrow().members.clone();
        let unknown = || NodeName::new(name);
        let whole = members.iter().find(|m| m.as_str() == name);
        let name = whole
            .or_else(|| members.iter().find(|m| m.short() == name))
            .cloned();
        let name = name.ok_or_else(|| Failure::Unknown(unknown()))?;
        let (port, answer) = oneshot::channel();
        self.shared
            .members
            .push(members::Item::Forget { name, force, port });
        answer.await.unwrap_or(Err(Failure::NotMember))
    }

    /// Accepts that what only the vanished nodes held is lost, where nodes
    /// [refuse](crate::config::OnPossibleLoss::Refuse) to go on without that: this node and those that it reaches answer
    /// again.
    ///
    /// # Errors
    /// [`Failure::NoLoss`].
    pub async fn accept_loss(&self) -> Result<(), Failure> {
        let (port, answer) = oneshot::channel();
        self.shared.members.push(members::Item::AcceptLoss { port });
        answer.await.unwrap_or(Err(Failure::NotMember))
    }

    /// Hands everything over and leaves the cluster, then stops; waits until that is done, at most some 10 s.
    /// A second call waits for the first.
    ///
    /// # Errors
    /// See [`Failure`]; the node has stopped all the same.
    pub async fn leave(&self) -> Result<(), Failure> {
        self.left.get_or_init(|| self.hand_over()).await.clone()
    }

    async fn hand_over(&self) -> Result<(), Failure> {
        let shared = &self.shared;
        let status = self.shared.info.borrow().status;
        shared.leaving.store(true, Ordering::Release);
        let result = match status {
            Status::Alone => Ok(()),
            // Nobody can agree to it, and what waits is not acknowledged: the others learn that it is gone.
            Status::Suspended => Err(Failure::NotHandedOver),
            Status::Joining
            | Status::Serving
            | Status::Syncing
            | Status::Refusing
            | Status::Leaving => {
                let mut quiet = Vec::new();
                shared.for_all_parts(|| {
                    let (port, answer) = oneshot::channel();
                    quiet.push(answer);
                    driver::Item::Quiesce(port)
                });
                let all = async {
                    for part in quiet {
                        let _ = part.await;
                    }
                };
                if timeout(LEAVE_WAIT, all).await.is_err() {
                    warn!(node = %shared.name, "some requests were still open after {LEAVE_WAIT:?}");
                }
                let (port, answer) = oneshot::channel();
                shared.members.push(members::Item::Leave { port });
                match timeout(LEAVE_WAIT, answer).await {
                    Ok(answer) => answer.unwrap_or(Err(Failure::NotHandedOver)),
                    Err(_) => Err(Failure::NotHandedOver),
                }
            }
        };
        if result.is_err() {
            let (port, said) = oneshot::channel();
            shared.members.push(members::Item::Farewell { port });
            let _ = said.await;
        }
        if let Some(net) = shared.net() {
            net.stop().await;
        }
        shared.dismiss_guardian().await;
        self.root.stop(None);
        result
    }

    fn is_leaving(&self) -> bool {
        self.shared.leaving.load(Ordering::Acquire)
    }
}

/// The top of a node's tree. Its children are the machines of the protocol: should one of them fail, that is a
/// defect of ours, and a node that goes on with half of its promises is worse than none.
struct Root {
    shared: Arc<Shared>,
}

impl Actor for Root {
    type Msg = Wake;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Wake>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Wake>,
        event: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(actor, reason) = event {
            error!(node = %self.shared.name, actor = %actor.get_id(), "this node stops, its own machine failed: {reason}");
            self.shared.leaving.store(true, Ordering::Release);
            if let Some(net) = self.shared.net() {
                net.stop().await;
            }
            myself.stop(None);
        }
        Ok(())
    }
}

fn connect_error(peer: &str, error: DialError) -> ConnectError {
    match error {
        DialError::Cookie { .. } => ConnectError::Cookie {
            peer: peer.to_owned(),
        },
        DialError::Myself(name) => ConnectError::Myself(name),
        DialError::Stopped => ConnectError::Stopped,
        other => ConnectError::Unreachable {
            peer: peer.to_owned(),
            reason: other.to_string(),
        },
    }
}

/// The address that the others dial: where this node listens, by its host if it listens everywhere.
fn advertised(name: &NodeName, addr: SocketAddr) -> String {
    match name.as_str().split_once('@') {
        Some((_, host)) if addr.ip().is_unspecified() => format!("{host}:{}", addr.port()),
        Some(_) | None => addr.to_string(),
    }
}

/// Which part of the key space a key belongs to.
fn part_of(key: KeyRef<'_>) -> usize {
    // The high bits: the low ones place the keys in the tables of a part.
    (key.hash() >> 32) as usize % SHARDS
}

fn key_of<G: GenServer>(name: &str) -> Result<KeyRef<'_>, CallError> {
    Key::check(name).map_err(CallError::Key)?;
    Ok(KeyRef::new(Kind::of(G::NAME), name))
}

/// What the parts say of their actors, as others see it.
fn read_local<G: GenServer>(local: Vec<Local>) -> Result<Vec<LocalServer<G::State>>, CallError> {
    let mut found = Vec::with_capacity(local.len());
    for (key, data, version, keepers) in local {
        // An actor that has not answered its first call has no state yet.
        if data.is_empty() {
            continue;
        }
        let snapshot: Snapshot = wire::decode(&data).map_err(CallError::Codec)?;
        let state = wire::decode(&snapshot.state).map_err(CallError::Codec)?;
        let keepers = keepers.into_iter().map(|id| id.name).collect();
        found.push(LocalServer {
            key: key.name().to_owned(),
            state,
            keepers,
            version,
        });
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

fn refused(reason: Refused) -> CallError {
    match reason {
        Refused::Full => CallError::Overloaded,
        Refused::Closed => CallError::Leaving,
    }
}

/// The microseconds of the wall clock, a guess at an incarnation that is greater than any before. Should the clock have
/// gone back, the others tell the known value, and the node takes the next.
fn clock() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 2)
}
