//! Everything between TCP and the protocol: who is linked with us, and frames to and from them.
//!
//! ```text
//!   names, registry ── where a node is          cookie ── whom we trust
//!          │                                       │
//!   dial ──┴──▶ handshake ◀── accept (our listener)      arbiter: which of two links stays
//!                   │
//!                  hub ── links by name, label and tag ── link: one link's phases
//!                   │ handover
//!                stream ──ractor's frames──▶ ractor_cluster's session ──▶ gateway ──▶ Event::Frame, control lane
//!                   │ ▲
//!                   │ └── outgoing ◀── frames of ractor's and of the parts, in the order in which they are written
//!                   └──frames of the parts──▶ Event::Frame, the other lanes
//! ```
//! Membership and control go through ractor_cluster. The frames of the parts, which every reward waits for, go in the
//! same connection between ractor's: on the way through ractor they would pass five actors (75 us there and back
//! against 28 us beside them). So both have one handshake, one link, and one end.
//!
//! ractor's registries are process-wide, so one process has one [`Net`].

mod accept;
mod arbiter;
pub(crate) mod cookie;
mod counters;
mod dial;
mod frames;
mod gateway;
mod groups;
mod handover;
mod handshake;
mod hub;
mod link;
pub(crate) mod names;
mod outgoing;
pub(crate) mod registry;
mod stream;

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ractor::ActorRef;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use self::cookie::Cookie;
use self::hub::Hub;
use self::link::Stage;
use crate::config::PORTS;
use crate::error::StartError;
use crate::protocol::types::{Member, NodeId};

pub use self::counters::Counters;
pub(crate) use self::dial::DialError;
pub(crate) use self::frames::Ties;
pub(crate) use self::link::{Arrival, lock};

/// How long a stop waits until what was sent is written, and as long again until the peers have closed.
const FLUSH_MAX: Duration = Duration::from_millis(500);
/// How often a stop looks whether all is written.
const FLUSH_LOOK: Duration = Duration::from_millis(2);

/// The longest frame that can be sent and is read; with ractor's envelope it stays within ractor's 16 MiB.
pub(crate) const PAYLOAD_MAX: usize = 16 * 1024 * 1024 - 1024;

/// Whether this process has a [`Net`].
static RUNNING: AtomicBool = AtomicBool::new(false);

/// What the network layer is told at its start.
#[derive(Clone, Debug)]
pub(crate) struct NetConfig {
    /// Where to listen; loopback and a port of `ports` if not given.
    pub(crate) listen: Option<SocketAddr>,
    /// The ports to choose from.
    pub(crate) ports: RangeInclusive<u16>,
    /// The address that this name had before, which is taken again if it is free: see [`registry::Claim::before`].
    pub(crate) before: Option<SocketAddr>,
    /// The ports to leave to others: see [`registry::Registry::ports_of_others`].
    pub(crate) avoid: Vec<u16>,
    /// The shared secret.
    pub(crate) cookie: Cookie,
    /// How long a dial may take until its link is up.
    pub(crate) dial_timeout: Duration,
}

impl NetConfig {
    /// The defaults.
    pub(crate) fn new(cookie: Cookie) -> Self {
        let dial_timeout = Duration::from_secs(5);
        Self {
            listen: None,
            ports: PORTS,
            before: None,
            avoid: Vec::new(),
            cookie,
            dial_timeout,
        }
    }
}

/// What happens on the network.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An authenticated link to that very life of a node is ready.
    LinkUp(Member),
    /// It ended; exactly once per [`Event::LinkUp`].
    LinkDown {
        /// Who was linked.
        peer: NodeId,
        /// Whether nobody listens at the peer's address any more: its process is gone.
        refused: bool,
    },
    /// A frame of a linked peer. In order per lane, after its `LinkUp`, never after its `LinkDown`. Those of parts are to be
    /// handled when they are [due](Self::Due).
    Frame {
        /// Who sent it, as the handshake proved.
        from: NodeId,
        /// On which lane.
        lane: usize,
        /// What it says.
        bytes: Arrival,
    },
    /// A part that waits with what it has to ask a peer need wait no longer.
    MayAsk {
        /// Whose lane it is.
        lane: usize,
    },
    /// What the events before said of these parts is to be handled now.
    Due {
        /// Their lanes, a bit each.
        lanes: u64,
        /// Whether it is so little that it can be handled here, before others are woken; then it is told under no lock.
        here: bool,
    },
    /// Its guardian says that the process of that life has ended.
    Died(NodeId),
    /// A proven peer knows a later life of our name, and refuses this one: go on with a greater incarnation.
    Stale {
        /// The latest incarnation that it knows.
        known: u64,
    },
    /// The network layer is broken, by a bug: end the node, loudly.
    Failed(String),
}

/// Takes the events. Called from tasks and actors, sometimes under a lock of the link: it must not block, nor call
/// back into the [`Net`], but for [`Event::Due`] that is to be handled here.
pub(crate) type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// The network layer of this process; clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Net {
    hub: Arc<Hub>,
    addr: SocketAddr,
    root: ActorRef<gateway::Nothing>,
    listener: Arc<std::sync::Mutex<Option<JoinHandle<()>>>>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl Net {
    /// Listens, and is ready to dial. `me` says who we are, knowing where we listen. The last lane is the one of
    /// control messages.
    ///
    /// # Errors
    /// [`StartError::Listen`] if the address is not free; [`StartError::Other`] if this process has a `Net` already.
    pub(crate) async fn start(
        config: NetConfig,
        me: impl FnOnce(SocketAddr) -> Member,
        lanes: usize,
        events: Events,
    ) -> Result<Self, StartError> {
        if lanes == 0 || lanes > frames::LANES_MAX {
            return Err(StartError::Other(format!(
                "{lanes} lanes; take 1 to {}",
                frames::LANES_MAX
            )));
        }
        let listener = accept::bind(&config).await?;
        let other = |what: &str, e: &dyn fmt::Display| StartError::Other(format!("{what}: {e}"));
        let addr = listener
            .local_addr()
            .map_err(|e| other("the listener has no address", &e))?;
        if RUNNING.swap(true, Ordering::SeqCst) {
            return Err(StartError::Other(
                "this process runs a node already; start another process".to_owned(),
            ));
        }
        let hub = Arc::new(Hub::new(config, me(addr), lanes, events));
        let root = match gateway::start(Arc::clone(&hub)).await {
            Ok(root) => root,
            Err(e) => {
                RUNNING.store(false, Ordering::SeqCst);
                return Err(other("the actors cannot be started", &e));
            }
        };
        let task = tokio::spawn(accept::run(Arc::clone(&hub), listener));
        tracing::info!(node = %hub.me().id, %addr, "listening");
        Ok(Self {
            hub,
            addr,
            root,
            listener: Arc::new(std::sync::Mutex::new(Some(task))),
        })
    }

    /// Where we listen.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// A new life of this process: drops all links, and later handshakes are this life's.
    ///
    /// From now on no frame of the old links is delivered; their `LinkDown` events follow.
    pub(crate) fn set_identity(&self, me: Member) {
        self.hub.set_identity(me);
    }

    /// Makes a link to the node at `addr`, and returns when it is up (then `LinkUp` was delivered), or why not.
    ///
    /// `expect` is a full name, or only the part before its `@`. A link that is up already is the answer at once, and
    /// dials to the same place join each other.
    ///
    /// # Errors
    /// See [`DialError`].
    pub(crate) async fn dial(&self, expect: Option<&str>, addr: &str) -> Result<Member, DialError> {
        dial::dial(&self.hub, expect, addr).await
    }

    /// What this node's guardian shall tell the members when this process has ended.
    pub(crate) fn obituary(&self, me: &NodeId) -> Option<Vec<u8>> {
        handshake::obituary(&self.hub.config.cookie, me).ok()
    }

    /// Ends the link to that life of a peer. Its frames are dropped from now on; `LinkDown` follows.
    pub(crate) fn hangup(&self, peer: &NodeId) {
        self.hub.hang_up(peer);
    }

    /// Sends a frame to a linked peer: in order per lane, and lost if the link ends. False if there is no link.
    ///
    /// A frame longer than [`PAYLOAD_MAX`] is not sent. A peer for which too much waits (200,000 frames or 64 MiB) loses
    /// its link; see [`has_room`](Self::has_room).
    pub(crate) fn send(&self, to: &NodeId, lane: usize, ties: Ties, bytes: Vec<u8>) -> bool {
        if bytes.len() > PAYLOAD_MAX {
            tracing::error!(peer = %to, length = bytes.len(), "the frame is too long to be sent");
            return false;
        }
        self.hub.send(to, lane, ties, bytes)
    }

    /// Whether little enough waits to be written to that peer for more to be sent.
    pub(crate) fn has_room(&self, to: &NodeId) -> bool {
        self.hub.has_room(to)
    }

    /// Whether a part may send a frame that [asks](Ties::asks) to that peer now; else [`Event::MayAsk`] says when it may.
    pub(crate) fn may_ask(&self, to: &NodeId, lane: usize) -> bool {
        self.hub.may_ask(to, lane)
    }

    /// A part waits no longer for that peer to answer it: nobody need wait for that.
    pub(crate) fn give_up(&self, to: &NodeId, lane: usize) {
        self.hub.give_up(to, lane);
    }

    /// A part has nothing to send to that peer, which has answered it: nobody need wait for it.
    pub(crate) fn pass(&self, to: &NodeId, lane: usize) {
        self.hub.pass(to, lane);
    }

    /// A frame arrived whole, but what it carries cannot be decoded; returns how many did so far.
    pub(crate) fn count_malformed(&self) -> u64 {
        counters::count(&self.hub.tally.malformed);
        self.counters().malformed
    }

    /// A message could be read, but no peer of ours sends it; returns how many there were so far.
    pub(crate) fn count_implausible(&self) -> u64 {
        counters::count(&self.hub.tally.implausible);
        self.counters().implausible
    }

    /// What was counted so far.
    pub(crate) fn counters(&self) -> Counters {
        self.hub.tally.read()
    }

    /// Stops listening, lets what was sent be written (for 500 ms at most), and ends all links and actors.
    ///
    /// The peers read all that was written, then the end, and find nobody listening.
    pub(crate) async fn stop(&self) {
        let listener = lock(&self.listener).take();
        let Some(listener) = listener else { return };
        self.hub.set_stopped();
        listener.abort();
        // The listener is closed when its task is gone; that it was aborted is what we want.
        let _ = listener.await;

        let deadline = Instant::now() + FLUSH_MAX;
        let links = self.hub.links();
        while links
            .iter()
            .any(|link| link.stage() == Stage::Up && link.out.frames() > 0)
            && Instant::now() < deadline
        {
            sleep(FLUSH_LOOK).await;
        }
        for link in &links {
            link.close_gently();
        }
        let deadline = Instant::now() + FLUSH_MAX;
        for link in &links {
            // Gone or not, it is closed now.
            let _ = timeout_at(
                deadline,
                link.stages().wait_for(|stage| *stage == Stage::Gone),
            )
            .await;
            link.close();
        }
        let deadline = Instant::now() + FLUSH_MAX;
        for link in &links {
            let _ = timeout_at(
                deadline,
                link.stages().wait_for(|stage| *stage == Stage::Gone),
            )
            .await;
            link.finish(false, &self.hub.events);
        }
        // Its children go with it.
        let _ = self.root.stop_and_wait(None, Some(FLUSH_MAX)).await;
        RUNNING.store(false, Ordering::SeqCst);
    }
}

/// Waits, in a test, until something has come about.
#[cfg(test)]
pub(crate) async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let look = async {
        while !reached() {
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(30);
    assert!(tokio::time::timeout(limit, look).await.is_ok(), "{what}");
}

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod tests;
