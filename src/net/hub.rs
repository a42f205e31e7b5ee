//! The table of links of this process, and what happens to each: registered, handed to ractor, ready, closed.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use ractor::ActorRef;
use ractor_cluster::NodeServerMessage;
use ractor_cluster::node::NodeServerSessionInformation;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::arbiter::{Choice, Existing, Known};
use super::counters::{Refusals, Tally, Throttle, count};
use super::dial::Dials;
use super::frames::Ties;
use super::gateway::Envelope;
use super::groups::Lanes;
use super::handover::{Pending, is_refused};
use super::handshake::{Face, Refusal};
use super::link::{Link, Stage, Undelivered};
use super::outgoing::Untaken;
use super::{Event, Events, NetConfig};
use crate::protocol::types::{Member, NodeId, NodeName};

/// How long the end of a replaced link is waited for; half of it until its session is killed.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// How long it takes at most to find out whether a lost peer's port is closed.
const PROBE_MAX: Duration = Duration::from_millis(500);

/// What all tasks of the network layer share.
pub(super) struct Hub {
    /// What we were told at the start.
    pub(super) config: NetConfig,
    /// Random: this process, in all its lives.
    pub(super) boot: u64,
    /// The counts.
    pub(super) tally: Tally,
    /// How many lanes there are; the last is the control lane.
    lanes: usize,
    /// So that strangers cannot fill the log.
    pub(super) refusals: Refusals,
    /// For frames of no link.
    lost_frames: Throttle,
    /// Where the events go.
    pub(super) events: Events,
    /// The dials under way.
    pub(super) dials: Mutex<Dials>,
    table: RwLock<Table>,
    /// By the tag that control frames to us carry: for the gateway, which needs nothing else.
    tags: RwLock<HashMap<u64, Arc<Link>>>,
    server: OnceLock<ActorRef<NodeServerMessage>>,
    /// Counts the changes of the table, for those who wait for one.
    changes: watch::Sender<u64>,
}

struct Table {
    me: Member,
    /// Counts our identities: a handshake that began under another is void.
    life: u64,
    stopped: bool,
    /// The link with each name, at most one.
    by_name: HashMap<NodeName, Arc<Link>>,
    /// All links that ractor may still know, or whose `LinkDown` is due.
    by_label: HashMap<String, Arc<Link>>,
    /// Counts the links.
    serial: u64,
    known: Known,
}

/// A handshake under way.
pub(super) struct Attempt {
    /// What we say about ourselves.
    pub(super) us: Face,
    /// In which of our lives it began.
    life: u64,
    /// After which link it began.
    serial: u64,
}

/// What came of registering a link.
pub(super) enum Registered {
    /// It is the link with that name now.
    Taken(Pending),
    /// The existing one stays.
    Kept,
    /// Our identity changed, or we are stopping.
    Void,
}

impl Hub {
    /// A hub without links, and without the node server yet.
    pub(super) fn new(config: NetConfig, me: Member, lanes: usize, events: Events) -> Self {
        let table = Table {
            me,
            life: 0,
            stopped: false,
            by_name: HashMap::new(),
            by_label: HashMap::new(),
            serial: 0,
            known: Known::default(),
        };
        Self {
            config,
            boot: rand::random(),
            tally: Tally::default(),
            lanes,
            refusals: Refusals::default(),
            lost_frames: Throttle::default(),
            events,
            dials: Mutex::default(),
            table: RwLock::new(table),
            tags: RwLock::default(),
            server: OnceLock::new(),
            changes: watch::Sender::new(0),
        }
    }

    /// Who we are in this life.
    pub(super) fn me(&self) -> Member {
        self.read().me.clone()
    }

    /// The root has started the node server.
    pub(super) fn set_server(&self, server: ActorRef<NodeServerMessage>) {
        // Set once, by the root's start.
        let _ = self.server.set(server);
    }

    /// ractor's node server.
    pub(super) fn server(&self) -> Option<&ActorRef<NodeServerMessage>> {
        self.server.get()
    }

    /// Begins a handshake: what we say about ourselves, in which of our lives, and when.
    pub(super) fn begin(&self) -> Attempt {
        let table = self.read();
        let us = Face {
            member: table.me.clone(),
            boot: self.boot,
            tag: rand::random(),
        };
        Attempt {
            us,
            life: table.life,
            serial: table.serial,
        }
    }

    /// Remembers that this life of a peer was seen.
    ///
    /// # Errors
    /// [`Refusal::NameInUse`] while that name is linked from another address: nothing says that it is not alive.
    /// [`Refusal::Stale`] if that life is over.
    pub(super) fn admit(&self, face: &Face) -> Result<(), Refusal> {
        let mut table = self.write();
        let elsewhere = |link: &Arc<Link>| {
            link.stage() == Stage::Up && link.peer.member.addr != face.member.addr
        };
        if table
            .by_name
            .get(&face.member.id.name)
            .is_some_and(elsewhere)
        {
            return Err(Refusal::NameInUse);
        }
        table.known.admit(face).map_err(Refusal::Stale)
    }

    /// The link with that life, if there is one that is not ending.
    pub(super) fn existing(&self, peer: &NodeId) -> Option<Existing> {
        current(&self.read(), peer).map(|link| link.existing(u64::MAX))
    }

    /// The link that is up with that life.
    pub(super) fn up(&self, matches: impl Fn(&Member) -> bool) -> Option<Member> {
        let table = self.read();
        let up = |link: &&Arc<Link>| link.stage() == Stage::Up && matches(&link.peer.member);
        table
            .by_name
            .values()
            .find(up)
            .map(|link| link.peer.member.clone())
    }

    /// Makes a link the one with its name, if `decide` wants it and our identity is still that of the attempt.
    pub(super) fn register(
        self: &Arc<Self>,
        attempt: &Attempt,
        peer: &Face,
        outbound: bool,
        decide: impl FnOnce(&NodeName, Option<Existing>) -> Choice,
    ) -> Registered {
        let mut table = self.write();
        if table.stopped || table.life != attempt.life {
            return Registered::Void;
        }
        let existing = current(&table, &peer.member.id).map(|link| link.existing(attempt.serial));
        if decide(&table.me.id.name, existing) == Choice::Keep {
            return Registered::Kept;
        }
        table.serial += 1;
        let link = Arc::new(Link::new(
            table.serial,
            peer.clone(),
            outbound,
            attempt.us.tag,
        ));
        let old = table
            .by_name
            .insert(peer.member.id.name.clone(), Arc::clone(&link));
        table.by_label.insert(link.label.clone(), Arc::clone(&link));
        drop(table);
        self.tags
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(link.tag, Arc::clone(&link));
        if let Some(old) = old {
            old.close();
        }
        Registered::Taken(Pending::new(Arc::clone(self), link))
    }

    /// Waits until ractor has forgotten all former links with that name: otherwise it would choose between them and
    /// the new one by its own rules. Delivers their `LinkDown`, if due. False if one of them does not end.
    pub(super) async fn settle(&self, link: &Link) -> bool {
        let name = &link.peer_id().name;
        let former: Vec<_> = {
            let table = self.read();
            let is_former =
                |other: &&Arc<Link>| other.peer_id().name == *name && other.label != link.label;
            table.by_label.values().filter(is_former).cloned().collect()
        };
        let deadline = Instant::now() + SETTLE_MAX;
        for former in former {
            former.close();
            self.finish(&former, false);
            let mut stages = former.stages();
            let gone = |stage: &Stage| *stage == Stage::Gone;
            if timeout_at(deadline - SETTLE_MAX / 2, stages.wait_for(gone))
                .await
                .is_err()
            {
                former.kill_session();
                if timeout_at(deadline, stages.wait_for(gone)).await.is_err() {
                    return false;
                }
            }
        }
        true
    }

    /// The link whose stream has that label.
    pub(super) fn link_of(&self, label: &str) -> Option<Arc<Link>> {
        self.read().by_label.get(label).cloned()
    }

    /// All links, ending ones too.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.read().by_label.values().cloned().collect()
    }

    /// For waiting until something about the links has changed.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// ractor's session of that link is ready, and knows the peer's gateway.
    pub(super) fn link_ready(&self, link: &Arc<Link>, gateway: Option<ActorRef<Envelope>>) {
        let is_current = self
            .read()
            .by_name
            .get(&link.peer_id().name)
            .is_some_and(|now| Arc::ptr_eq(now, link));
        let has_gateway = gateway.is_some();
        if let Some(gateway) = gateway {
            link.attach_gateway(gateway);
        }
        if !has_gateway || !is_current {
            tracing::warn!(node = %self.me().id, peer = %link.peer_id(), has_gateway, "link not wanted any more");
            link.close();
        } else if link.open(&self.events) {
            count(&self.tally.links_up);
            tracing::info!(node = %self.me().id, peer = %link.peer_id(), addr = %link.peer.member.addr, "link up");
        }
        self.changed();
    }

    /// ractor has forgotten the session of that link.
    pub(super) fn link_closed(self: &Arc<Self>, link: &Arc<Link>) {
        let ours = link.stage() >= Stage::Closing;
        if !link.ended.load(Relaxed) {
            // Neither side closed the stream: ractor did, as it does when it cannot decode what comes.
            count(&self.tally.malformed);
            tracing::warn!(peer = %link.peer_id(), "ractor ended the session: a frame that cannot be decoded");
        }
        let stopped = {
            let mut table = self.write();
            if table
                .by_name
                .get(&link.peer_id().name)
                .is_some_and(|now| Arc::ptr_eq(now, link))
            {
                table.by_name.remove(&link.peer_id().name);
            }
            table.stopped
        };
        link.forgotten();
        self.changed();
        if ours || stopped {
            self.finish(link, false);
            self.remove(link);
            return;
        }
        let (hub, link) = (Arc::clone(self), Arc::clone(link));
        tokio::spawn(async move {
            let refused = timeout(PROBE_MAX, is_refused(&link.peer.member.addr))
                .await
                .unwrap_or(false);
            hub.finish(&link, refused);
            hub.remove(&link);
        });
    }

    /// Ends a link; what it still receives is dropped, and `LinkDown` follows.
    pub(super) fn hang_up(&self, peer: &NodeId) {
        let link = current(&self.read(), peer).cloned();
        if let Some(link) = link {
            link.mute();
            link.close();
        }
    }

    /// The lane that goes through ractor; those before it are the parts'.
    pub(super) fn control_lane(&self) -> usize {
        self.lanes - 1
    }

    /// A control frame for us: finds its link by the tag at its end.
    pub(super) fn control(&self, mut bytes: Vec<u8>) {
        let Some((payload, tag)) = bytes
            .split_last_chunk::<8>()
            .map(|(rest, tag)| (rest.len(), u64::from_be_bytes(*tag)))
        else {
            return count(&self.tally.malformed);
        };
        bytes.truncate(payload);
        let link = self
            .tags
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&tag)
            .cloned();
        let Some(link) = link else {
            return self.lost_frame();
        };
        self.deliver(&link, self.control_lane(), bytes);
        count(&link.handled);
    }

    /// A frame that came on that link; whether it was delivered.
    pub(super) fn deliver(&self, link: &Link, lane: usize, bytes: Vec<u8>) -> bool {
        match link.deliver(lane, bytes, &self.events) {
            Ok(was_up) => return was_up,
            Err(Undelivered::Down) => self.lost_frame(),
            Err(Undelivered::TooEarly) => {
                count(&self.tally.congested);
                tracing::warn!(peer = %link.peer_id(), "too many frames before the link was ready: it ends");
                link.close();
            }
        }
        false
    }

    fn lost_frame(&self) {
        count(&self.tally.unknown_link);
        if let Some(suppressed) = self.lost_frames.pass() {
            tracing::debug!(suppressed, "a frame of a link that is no more");
        }
    }

    /// Sends to a linked peer; false if it cannot be.
    pub(super) fn send(&self, to: &NodeId, lane: usize, ties: Ties, bytes: Vec<u8>) -> bool {
        let Some(link) = current(&self.read(), to).cloned() else {
            return false;
        };
        let sent = if lane == self.control_lane() {
            link.send_control(bytes)
        } else {
            link.send(lane, ties, bytes)
        };
        match sent {
            Ok(()) => true,
            Err(Untaken::Full) => {
                count(&self.tally.congested);
                tracing::warn!(peer = %to, "the peer does not read what waits for it: the link ends");
                link.close();
                false
            }
            Err(Untaken::Closed) => false,
        }
    }

    /// Parts have frames that were delivered, or need not wait any longer with what they have to ask a peer.
    pub(super) fn due(&self, arrived: Lanes, may_ask: Lanes, here: bool) {
        for lane in (0..self.control_lane()).filter(|lane| may_ask & 1 << lane != 0) {
            (self.events)(Event::MayAsk { lane });
        }
        let lanes = arrived | may_ask;
        if lanes != 0 {
            (self.events)(Event::Due { lanes, here });
        }
    }

    /// A part waits no longer for a peer to answer it.
    pub(super) fn give_up(&self, to: &NodeId, lane: usize) {
        let link = current(&self.read(), to).cloned();
        if let Some(link) = link {
            // As if it had.
            let answer = std::iter::once((lane, Ties::ANSWERS));
            self.due(0, link.out.arrived(answer), false);
        }
    }

    /// Whether a part may ask a peer now; else [`Event::MayAsk`] says when it may.
    pub(super) fn may_ask(&self, to: &NodeId, lane: usize) -> bool {
        current(&self.read(), to).is_none_or(|link| link.out.may_ask(lane))
    }

    /// A part has nothing to send to a peer that has answered it.
    pub(super) fn pass(&self, to: &NodeId, lane: usize) {
        if let Some(link) = current(&self.read(), to) {
            link.out.pass(lane);
        }
    }

    /// Whether a peer takes in what is sent. One that is not linked has nothing to wait for.
    pub(super) fn has_room(&self, to: &NodeId) -> bool {
        current(&self.read(), to).is_none_or(|link| link.out.has_room())
    }

    /// Somebody connected to ractor's own port.
    pub(super) fn stranger(&self, session: &NodeServerSessionInformation) {
        count(&self.tally.strangers);
        session.actor.stop(None);
        if let Some(suppressed) = self.refusals.strangers.pass() {
            tracing::warn!(peer = %session.peer_addr, suppressed, "refused a connection to the inner port");
        }
    }

    /// A new life of this process: no link of the old one delivers anything from now on but `LinkDown`.
    pub(super) fn set_identity(&self, me: Member) {
        let mut table = self.write();
        table.me = me;
        table.life += 1;
        table.by_name.clear();
        let links: Vec<_> = table.by_label.values().cloned().collect();
        drop(table);
        for link in links {
            link.mute();
            link.close();
        }
        self.changed();
    }

    /// No further links.
    pub(super) fn set_stopped(&self) {
        self.write().stopped = true;
        self.changed();
    }

    /// Something that never ends has ended.
    pub(super) fn failed(&self, what: &str) {
        if self.read().stopped {
            return;
        }
        tracing::error!(node = %self.me().id, what, "the network layer failed");
        self.set_stopped();
        for link in self.links() {
            link.close();
        }
        (self.events)(Event::Failed(what.to_owned()));
    }

    /// Tells the end of a link, if it is due.
    fn finish(&self, link: &Link, refused: bool) {
        if link.finish(refused, &self.events) {
            count(&self.tally.links_down);
            tracing::info!(node = %self.me().id, peer = %link.peer_id(), refused, "link down");
        }
    }

    /// Forgets a link.
    pub(super) fn remove(&self, link: &Link) {
        self.tags
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&link.tag);
        let mut table = self.write();
        table.by_label.remove(&link.label);
        if table
            .by_name
            .get(&link.peer_id().name)
            .is_some_and(|now| now.label == link.label)
        {
            table.by_name.remove(&link.peer_id().name);
        }
    }

    /// Wakes those who wait for a change.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The link with that very life, if there is one that is not ending.
fn current<'a>(table: &'a Table, peer: &NodeId) -> Option<&'a Arc<Link>> {
    table
        .by_name
        .get(&peer.name)
        .filter(|link| link.peer_id() == peer && link.stage() < Stage::Closing)
}
