//! What the actors of one node share: how they reach each other, the network, the clock and the lease.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tokio::sync::watch;
use tracing::{error, warn};

use crate::config::Config;
use crate::guardian::Guardian;
use crate::info::ViewInfo;
use crate::net::{Event, Net, Ties};
use crate::protocol::SHARDS;
use crate::protocol::defect::Planted;
use crate::protocol::members::{Msg, Status};
use crate::protocol::types::{ClusterId, Epoch, Kind, NodeId, NodeName};
use crate::protocol::view::View;
use crate::wire::{self, DecodeError};

use super::driver;
use super::inbox::Inbox;
use super::lease::Lease;
use super::members;
use super::part::Part;
use super::player::ServerType;

/// The lane of the membership's messages; those before it belong to the parts of the key space.
pub(crate) const CONTROL_LANE: usize = SHARDS;

/// One node.
pub(crate) struct Shared {
    pub(crate) name: NodeName,
    pub(crate) config: Config,
    pub(crate) types: HashMap<Kind, Arc<dyn ServerType>>,
    pub(crate) planted: Planted,
    pub(crate) parts: Vec<Arc<Part>>,
    pub(crate) members: Arc<Inbox<members::Item>>,
    pub(crate) info: watch::Sender<ViewInfo>,
    /// Whether the node takes no requests as it is; every request asks.
    pub(crate) refuses: AtomicBool,
    /// Set once: the node takes no new requests.
    pub(crate) leaving: AtomicBool,
    /// Whoever lists the actors of this node has it: one at a time, since each list is a copy of everything.
    pub(crate) listing: tokio::sync::Mutex<()>,
    net: OnceLock<Net>,
    guardian: OnceLock<Guardian>,
    me: RwLock<NodeId>,
    pub(crate) lease: Arc<Lease>,
}

impl Shared {
    pub(crate) fn new(
        me: NodeId,
        cluster: ClusterId,
        config: Config,
        types: HashMap<Kind, Arc<dyn ServerType>>,
        planted: Planted,
    ) -> Self {
        let info = ViewInfo {
            cluster,
            epoch: Epoch(1),
            members: vec![me.name.clone()],
            leaving: Vec::new(),
            status: Status::Alone,
            waiting_for: Vec::new(),
            possible_loss: Vec::new(),
        };
        let bytes_max = config.waiting_bytes_max / SHARDS;
        let waiting_max = (config.waiting_max / SHARDS).max(1);
        let lease = Arc::new(Lease::new());
        Self {
            name: me.name.clone(),
            config,
            types,
            planted,
            parts: (0..SHARDS)
                .map(|index| {
                    let part = Part::new(index, waiting_max, bytes_max, Arc::clone(&lease));
                    Arc::new(part)
                })
                .collect(),
            members: Arc::new(Inbox::new()),
            info: watch::Sender::new(info),
            refuses: AtomicBool::new(true),
            leaving: AtomicBool::new(false),
            listing: tokio::sync::Mutex::new(()),
            net: OnceLock::new(),
            guardian: OnceLock::new(),
            me: RwLock::new(me),
            lease,
        }
    }

    /// Connects the node to its network.
    pub(crate) fn attach(&self, net: Net) {
        let _ = self.net.set(net);
    }

    /// The network, once there is one.
    pub(crate) fn net(&self) -> Option<&Net> {
        self.net.get()
    }

    /// Gives the node a guardian.
    pub(crate) fn guard(&self, guardian: Guardian) {
        let _ = self.guardian.set(guardian);
    }

    /// Whom the guardian shall tell that this life is over, should its process end.
    pub(crate) fn bequeath(&self, view: &View) {
        let (Some(guardian), Some(net)) = (self.guardian.get(), self.net()) else {
            return;
        };
        let me = self.me();
        let others = view.members.iter().filter(|m| m.id.name != me.name);
        let heirs = others.map(|m| m.addr.to_string()).collect();
        if let Some(obituary) = net.obituary(&me) {
            guardian.entrust(obituary, heirs);
        }
    }

    /// The guardian has nothing to tell any more: the node has said itself that it stops.
    pub(crate) async fn dismiss_guardian(&self) {
        if let Some(guardian) = self.guardian.get() {
            guardian.dismiss().await;
        }
    }

    /// This life of the node.
    pub(crate) fn me(&self) -> NodeId {
        self.me
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_me(&self, me: NodeId) {
        *self.me.write().unwrap_or_else(PoisonError::into_inner) = me;
    }

    /// Sends to a connected peer; false if it is not.
    pub(crate) fn send(&self, to: &NodeId, lane: usize, ties: Ties, bytes: Vec<u8>) -> bool {
        self.net()
            .is_some_and(|net| net.send(to, lane, ties, bytes))
    }

    /// Whether a peer takes in what was sent before; what is not connected has no room to wait for.
    pub(crate) fn has_room(&self, to: &NodeId) -> bool {
        self.net().is_none_or(|net| net.has_room(to))
    }

    /// Whether a part may ask a peer now: its own frames wait for each other, and those of the parts as well.
    pub(crate) fn may_ask(&self, to: &NodeId, lane: usize) -> bool {
        self.net().is_none_or(|net| net.may_ask(to, lane))
    }

    /// A part waits no longer for a peer to answer it.
    pub(crate) fn give_up(&self, to: &NodeId, lane: usize) {
        if let Some(net) = self.net() {
            net.give_up(to, lane);
        }
    }

    /// A part has nothing to send to a peer that has answered it.
    pub(crate) fn pass(&self, to: &NodeId, lane: usize) {
        if let Some(net) = self.net() {
            net.pass(to, lane);
        }
    }

    /// Sends a message of the membership.
    pub(crate) fn tell(&self, to: &NodeId, msg: &Msg) {
        self.send(to, CONTROL_LANE, Ties::default(), wire::control(msg));
    }

    /// The peer is in an older epoch.
    pub(crate) fn show_view(&self, to: &NodeId, view: &View) {
        self.tell(to, &Msg::ViewIs(view.clone()));
    }

    /// The peer is in a later epoch.
    pub(crate) fn want_view(&self, of: &NodeId) {
        self.tell(of, &Msg::ViewWanted);
    }

    /// The barrier of a part went on.
    pub(crate) fn progress(&self, part: usize, epoch: Epoch, complete: bool) {
        self.members.push(members::Item::Progress {
            part,
            epoch,
            complete,
        });
    }

    /// A peer sent what cannot be read; that frame is dropped from there on.
    pub(crate) fn malformed(&self, from: &NodeId, error: &DecodeError) {
        let count = self.net().map_or(1, Net::count_malformed);
        // A flood of them must not flood the log.
        if count.is_power_of_two() {
            warn!(node = %self.name, peer = %from, count, "frame dropped: {error}");
        }
    }

    /// A peer sent what none of ours sends; that message was dropped.
    pub(crate) fn refused(&self, from: &NodeId, rule: &str) {
        let count = self.net().map_or(1, Net::count_implausible);
        if count.is_power_of_two() {
            warn!(node = %self.name, peer = %from, count, "message refused: {rule}");
        }
    }

    /// Whatever the network has for this node.
    pub(crate) fn event(&self, event: Event) {
        match event {
            Event::Frame { from, lane, bytes } if lane == CONTROL_LANE => {
                self.members.push(members::Item::Control { from, bytes });
            }
            Event::Frame { from, lane, bytes } => {
                if let Some(part) = self.parts.get(lane) {
                    part.inbox.put(driver::Item::Frame { from, bytes });
                }
            }
            Event::MayAsk { lane } => {
                if let Some(part) = self.parts.get(lane) {
                    part.inbox.put(driver::Item::MayAsk);
                }
            }
            Event::Due { lanes, here } => {
                let is_due = |part: &&Arc<Part>| lanes & 1 << part.index != 0;
                let due = self.parts.iter().filter(is_due);
                if here {
                    Part::drive_all_here(due);
                } else {
                    due.for_each(|part| part.inbox.wake());
                }
            }
            Event::LinkUp(peer) => {
                self.for_all_parts(|| driver::Item::LinkUp);
                self.members.push(members::Item::LinkUp(peer));
            }
            Event::LinkDown { peer, refused } => {
                self.for_all_parts(|| driver::Item::LinkDown { peer: peer.clone() });
                self.members.push(members::Item::LinkDown { peer, refused });
            }
            Event::Died(who) => self.members.push(members::Item::Died(who)),
            Event::Stale { known } => self.members.push(members::Item::Stale { known }),
            Event::Failed(reason) => {
                error!(node = %self.name, "this node stops, its network failed: {reason}");
                self.leaving.store(true, Ordering::Release);
            }
        }
    }

    /// Gives every part of the key space an item.
    pub(crate) fn for_all_parts(&self, mut item: impl FnMut() -> driver::Item) {
        self.parts.iter().for_each(|part| part.inbox.push(item()));
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
