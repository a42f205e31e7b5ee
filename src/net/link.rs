//! One link to one life of a peer: its phases, what it delivers, and what waits to be sent on it.
//!
//! ```text
//!   Joining ──ready──▶ Up ──────closed──▶ (probe) ──▶ Down      LinkUp on entering Up, LinkDown on leaving Up or Muted
//!      │               └─hangup─▶ Muted ────────────▶ Down
//!      └──────────closed─────────────────────────────▶ Down
//! ```
//! Frames that arrive before the link is up wait for `LinkUp`; none is delivered after `LinkDown`.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use ractor::ActorRef;
use ractor_cluster::NodeSessionMessage;
use tokio::sync::watch;

use super::arbiter::Existing;
use super::frames::Ties;
use super::gateway::Envelope;
use super::handshake::Face;
use super::outgoing::{Outgoing, Untaken};
use super::{Event, Events};
use crate::protocol::types::NodeId;

/// The most frames that wait for the link to come up.
const EARLY_MAX: usize = 10_000;
/// With more bytes of frames that arrived and are not handled, no more is read: the peer has to wait.
pub(super) const ARRIVED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a frame that arrived holds beside its bytes, so that very short ones are bounded as well.
const ARRIVED_COST: usize = 128;

/// How far a link is, for those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// In the making.
    Joining,
    /// Ready.
    Up,
    /// Ending, or never to be ready.
    Closing,
    /// ractor has no session of it any more.
    Gone,
}

/// A frame that arrived. It counts against its link until it is dropped, so that a peer that sends faster than this
/// node handles is not read any more.
pub(crate) struct Arrival {
    bytes: Vec<u8>,
    of_link: Arc<AtomicUsize>,
}

impl Arrival {
    fn new(bytes: Vec<u8>, of_link: &Arc<AtomicUsize>) -> Self {
        of_link.fetch_add(bytes.len() + ARRIVED_COST, Relaxed);
        Self {
            bytes,
            of_link: Arc::clone(of_link),
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.of_link
            .fetch_sub(self.bytes.len() + ARRIVED_COST, Relaxed);
    }
}

impl std::ops::Deref for Arrival {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Arrival {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Arrival {}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arrival({} bytes)", self.bytes.len())
    }
}

enum Phase {
    Joining(Vec<(usize, Arrival)>),
    Up,
    Muted,
    Down,
}

/// What could not be delivered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undelivered {
    /// The link is ending, or has ended.
    Down,
    /// Too much arrived before it was up.
    TooEarly,
}

/// One link.
pub(super) struct Link {
    /// Its name at both ends: the initiator's tag.
    pub(super) id: u64,
    /// Counts the links of this process.
    serial: u64,
    /// Its name in ractor's events, unique in this process.
    pub(super) label: String,
    /// The peer.
    pub(super) peer: Face,
    /// Whether we initiated it.
    pub(super) outbound: bool,
    /// What frames to us carry.
    pub(super) tag: u64,
    phase: RwLock<Phase>,
    stage: watch::Sender<Stage>,
    /// The peer's gateway, for the control lane.
    gateway: OnceLock<ActorRef<Envelope>>,
    session: Mutex<Option<ActorRef<NodeSessionMessage>>>,
    socket: Mutex<Option<TcpStream>>,
    /// What waits to be written.
    pub(super) out: Arc<Outgoing>,
    /// Bytes of frames that arrived and are not handled.
    unhandled: Arc<AtomicUsize>,
    /// Frames for gateways that were read from the stream.
    pub(super) arrived: AtomicU64,
    /// Those of them that the gateways have handled.
    pub(super) handled: AtomicU64,
    /// The stream ended as streams do, or broke, or was ended by us.
    pub(super) ended: AtomicBool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Link({} {} {:?})",
            self.label,
            self.peer.member.id,
            self.stage()
        )
    }
}

impl Link {
    /// A link in the making; `tag` is ours.
    pub(super) fn new(serial: u64, peer: Face, outbound: bool, tag: u64) -> Self {
        Self {
            id: if outbound { tag } else { peer.tag },
            serial,
            label: format!("link-{serial}"),
            peer,
            outbound,
            tag,
            phase: RwLock::new(Phase::Joining(Vec::new())),
            stage: watch::Sender::new(Stage::Joining),
            gateway: OnceLock::new(),
            session: Mutex::new(None),
            socket: Mutex::new(None),
            out: Outgoing::new(),
            unhandled: Arc::default(),
            arrived: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    /// Which life of which node is at the other end.
    pub(super) fn peer_id(&self) -> &NodeId {
        &self.peer.member.id
    }

    /// How far it is.
    pub(super) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// For waiting for a stage.
    pub(super) fn stages(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// What the arbiter needs to know, for an attempt that began after link number `since`.
    pub(super) fn existing(&self, since: u64) -> Existing {
        let up = self.stage() == Stage::Up;
        Existing {
            id: self.id,
            up,
            outbound: self.outbound,
            newer: self.serial > since,
        }
    }

    /// Stages only go forward.
    pub(super) fn advance(&self, stage: Stage) {
        self.stage.send_if_modified(|now| {
            let forward = *now < stage;
            if forward {
                *now = stage;
            }
            forward
        });
    }

    /// Keeps a second handle of the socket, so that the link can be ended whatever ractor is waiting for.
    pub(super) fn attach_socket(&self, stream: &tokio::net::TcpStream) -> std::io::Result<()> {
        let socket = TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        *lock(&self.socket) = Some(socket);
        Ok(())
    }

    /// ractor opened the session. One that is not wanted any more is stopped at once.
    pub(super) fn attach_session(&self, session: ActorRef<NodeSessionMessage>) {
        if self.stage() >= Stage::Closing {
            session.stop(None);
        }
        *lock(&self.session) = Some(session);
        // `close` may have come in between and have found no session.
        if self.stage() >= Stage::Closing {
            self.stop_session();
        }
    }

    /// ractor knows the peer's gateway now.
    pub(super) fn attach_gateway(&self, gateway: ActorRef<Envelope>) {
        // Set once, when the session gets ready.
        let _ = self.gateway.set(gateway);
    }

    /// The session is ready: delivers `LinkUp`, then what came early. False if the link is not wanted any more.
    pub(super) fn open(&self, events: &Events) -> bool {
        let mut phase = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        if self.stage() >= Stage::Closing {
            return false;
        }
        let Phase::Joining(early) = &mut *phase else {
            return false;
        };
        let early = std::mem::take(early);
        *phase = Phase::Up;
        // Who hears of the link sends at once.
        self.out.open();
        events(Event::LinkUp(self.peer.member.clone()));
        let mut lanes = 0;
        for (lane, bytes) in early {
            lanes |= 1 << lane;
            events(self.frame(lane, bytes));
        }
        if lanes != 0 {
            events(Event::Due { lanes, here: false });
        }
        drop(phase);
        self.advance(Stage::Up);
        true
    }

    /// Delivers a frame, or keeps it until the link is up; whether it is.
    pub(super) fn deliver(
        &self,
        lane: usize,
        bytes: Vec<u8>,
        events: &Events,
    ) -> Result<bool, Undelivered> {
        let bytes = Arrival::new(bytes, &self.unhandled);
        let up = |bytes| {
            events(self.frame(lane, bytes));
            Ok(true)
        };
        match &*self.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Up => return up(bytes),
            Phase::Muted | Phase::Down => return Err(Undelivered::Down),
            Phase::Joining(_) => {}
        }
        match &mut *self.phase.write().unwrap_or_else(PoisonError::into_inner) {
            Phase::Joining(early)
                if early.len() < EARLY_MAX && self.unhandled.load(Relaxed) <= ARRIVED_BYTES_MAX =>
            {
                early.push((lane, bytes));
                Ok(false)
            }
            Phase::Joining(_) => Err(Undelivered::TooEarly),
            Phase::Up => up(bytes),
            Phase::Muted | Phase::Down => Err(Undelivered::Down),
        }
    }

    fn frame(&self, lane: usize, bytes: Arrival) -> Event {
        Event::Frame {
            from: self.peer_id().clone(),
            lane,
            bytes,
        }
    }

    /// Delivers nothing more but `LinkDown`, if that is due.
    pub(super) fn mute(&self) {
        let mut phase = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        *phase = match *phase {
            Phase::Up | Phase::Muted => Phase::Muted,
            Phase::Joining(_) | Phase::Down => Phase::Down,
        };
    }

    /// Delivers `LinkDown` if `LinkUp` was delivered and this was not yet. True if it did.
    pub(super) fn finish(&self, refused: bool, events: &Events) -> bool {
        let mut phase = self.phase.write().unwrap_or_else(PoisonError::into_inner);
        let due = matches!(
            std::mem::replace(&mut *phase, Phase::Down),
            Phase::Up | Phase::Muted
        );
        if due {
            events(Event::LinkDown {
                peer: self.peer_id().clone(),
                refused,
            });
        }
        due
    }

    /// Ends the stream and ractor's session.
    pub(super) fn close(&self) {
        self.ended.store(true, Relaxed);
        self.advance(Stage::Closing);
        self.out.close();
        if let Some(socket) = &*lock(&self.socket) {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.stop_session();
    }

    /// Ends our direction of the stream: the peer reads all that was written, then the end.
    pub(super) fn close_gently(&self) {
        self.ended.store(true, Relaxed);
        if let Some(socket) = &*lock(&self.socket) {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Write);
        }
    }

    /// Where `stop` is not heard, since the session waits for something, this is.
    pub(super) fn kill_session(&self) {
        if let Some(session) = &*lock(&self.session) {
            session.kill();
        }
    }

    /// ractor has forgotten the session: lets go of all that belongs to it.
    pub(super) fn forgotten(&self) {
        *lock(&self.socket) = None;
        *lock(&self.session) = None;
        self.out.close();
        self.advance(Stage::Gone);
    }

    /// Sends a frame of a part, of at most [`super::PAYLOAD_MAX`].
    pub(super) fn send(&self, lane: usize, ties: Ties, bytes: Vec<u8>) -> Result<(), Untaken> {
        self.out.send(lane, ties, bytes)
    }

    /// Sends a control frame, of at most [`super::PAYLOAD_MAX`]: through ractor, whose sessions lead to the gateway.
    pub(super) fn send_control(&self, mut bytes: Vec<u8>) -> Result<(), Untaken> {
        let gateway = self.gateway.get().ok_or(Untaken::Closed)?;
        bytes.extend_from_slice(&self.peer.tag.to_be_bytes());
        self.out.expect(bytes.len())?;
        gateway
            .cast(Envelope::Frame(bytes))
            .map_err(|_| Untaken::Closed)
    }

    /// Whether so much arrived, and is not handled, that no more should be read.
    pub(super) fn is_flooded(&self) -> bool {
        // What comes before the link is up has its own limit, and must be read on: what makes it ready is behind it.
        self.unhandled.load(Relaxed) > ARRIVED_BYTES_MAX && self.stage() == Stage::Up
    }

    fn stop_session(&self) {
        if let Some(session) = &*lock(&self.session) {
            session.stop(None);
        }
    }
}

/// The locks here guard plain data that is whole after every step, so that a panic elsewhere does not spoil it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
