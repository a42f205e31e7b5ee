//! The state space: what can happen to a cluster of real machines.
//!
//! Reductions, each of which leaves out only what another path of the model has too:
//! - the last missing `Done` is the one that matters, so one action delivers all of them ([`Action::Complete`]);
//! - a `HoldAck` arrives at once where no actor goes to rest: its delay could only delay the receiver's own `Done`, which
//!   may be late by itself;
//! - in large configurations, a report arrives at once: what it says holds until the next view, or until the home knows
//!   everything by the barrier (`slow_reports` drops that);
//! - a forwarded request and its answer arrive at once if the receiver is in the same epoch, else when it gets there;
//! - where actors go to rest, an `OwnerIs` arrives once for each time that it is sent: each may send a request one node
//!   further, and if it came for ever, the request would go in circles for ever;
//! - messages that can never again have an effect are dropped, so that equal futures are one state.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use statekeeper::protocol::defect::Planted;
use statekeeper::protocol::shard::{Input, Shard};
use statekeeper::protocol::types::{ClusterId, Epoch};
use statekeeper::protocol::view::View;

use super::net::*;

/// One epoch number more than a run can reach, and one for the liveness closure.
pub const EPOCHS: usize = 9;

/// The operation of the liveness probe.
pub const PROBE: u8 = 7;

/// One configuration.
#[derive(Clone, Debug)]
pub struct Cfg {
    pub backups: u32,
    pub init: Set,
    pub joiners: Set,
    pub clients: u8,
    /// Operations of each client.
    pub ops: u8,
    pub retries: u8,
    pub crashes: u8,
    pub evicts: u8,
    pub joins: u8,
    pub leaves: u8,
    /// How often an idle actor goes to rest.
    pub rests: u8,
    /// No more losses between two complete syncs than there are backups.
    pub constrained: bool,
    /// The operations of client 1 are reads.
    pub reads: bool,
    /// A node stops answering clients before a view without it is decided.
    pub lease: bool,
    /// The actor takes its time, so that several requests and versions are under way.
    pub slow_actor: bool,
    /// Clients give the actor of their node its requests past the part, as long as there is one.
    pub direct: bool,
    /// A Put leaves when the connection has room, with the state of then.
    pub slow_puts: bool,
    /// What a member reports of the key takes its time to arrive, too.
    pub slow_reports: bool,
    /// Requests may go to any other member first, as if it had been the owner a moment ago.
    pub hints: bool,
    /// Check the liveness closure in one state of so many; 0: never.
    pub live_every: u64,
    /// A rule of the machines that is broken on purpose.
    pub planted: Planted,
}

impl Cfg {
    /// Three members, two clients with one operation each, one crash and one eviction.
    pub const BASE: Self = Self {
        backups: 1,
        init: 0b111,
        joiners: 0,
        clients: 2,
        ops: 1,
        retries: 0,
        crashes: 1,
        evicts: 1,
        joins: 0,
        leaves: 0,
        rests: 0,
        constrained: true,
        reads: false,
        lease: false,
        slow_actor: false,
        direct: false,
        slow_puts: false,
        slow_reports: true,
        hints: false,
        live_every: 64,
        planted: Planted::NONE,
    };

    /// The operations that do not change the state.
    pub fn read_ops(&self) -> Set {
        if self.reads {
            (0..self.ops).map(|i| bit(self.ops + i)).sum()
        } else {
            0
        }
    }
}

/// A request that the actor of one generation was given, with its id or without.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Given {
    pub gen_: u64,
    pub op: u8,
    pub has_id: bool,
    /// By its client itself, past the part.
    pub direct: bool,
}

/// A living node: the real machine, and what its driver has in hand.
#[derive(Clone, Debug)]
pub struct Node {
    pub shard: Shard,
    /// Requests that the actor was given.
    pub running: VecDeque<Given>,
    /// Keepers that get the current state when the connection has room.
    pub due: Set,
    /// Whether it changed since its hash was computed.
    pub(super) dirty: bool,
    hash: u64,
}

impl Node {
    fn new(shard: Shard) -> Arc<Self> {
        let mut node = Self {
            shard,
            running: VecDeque::new(),
            due: 0,
            dirty: true,
            hash: 0,
        };
        node.seal();
        Arc::new(node)
    }

    /// Computes the identity of the node's state.
    pub(super) fn seal(&mut self) {
        self.shard.forget_history(&KEY);
        let mut hasher = DefaultHasher::new();
        self.shard.hash(&mut hasher);
        self.running.hash(&mut hasher);
        self.due.hash(&mut hasher);
        self.hash = hasher.finish();
        self.dirty = false;
    }

    /// The installed epoch of the main line; 0 for a joiner that was not admitted yet.
    pub fn epoch(&self) -> u8 {
        if self.shard.view().cluster == MAIN {
            self.shard.epoch().0 as u8
        } else {
            0
        }
    }

    /// Version and state, if this node owns the key.
    pub fn own(&self) -> Option<(Version, Val)> {
        self.shard
            .owned_state(&KEY)
            .map(|(gen_, ver, data)| (Version::of(gen_, ver), Val::decode(data)))
    }

    /// Whether its actor can go to rest.
    pub fn may_rest(&self) -> bool {
        let gen_ = self.shard.owns(&KEY);
        gen_.is_some_and(|gen_| self.shard.may_rest(&KEY, gen_))
    }

    /// Version, state and owner, if this node keeps a record; and whether it is confirmed.
    pub fn rec(&self) -> Option<(Version, Val, Option<u8>, bool)> {
        self.shard
            .record(&KEY)
            .map(|(gen_, ver, data, owner, confirmed)| {
                (
                    Version::of(gen_, ver),
                    Val::decode(data),
                    owner.map(index),
                    confirmed,
                )
            })
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Node {}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// What was seen to be wrong; a state with a flag is a counterexample.
pub mod flags {
    /// I1: two nodes answered writes in one epoch, and neither had put the actor to rest before.
    pub const TWO_ACKERS: u8 = 1;
    /// I1': two nodes own the key in one epoch at one time.
    pub const TWO_OWNERS: u8 = 2;
    /// I2: an answer misses something that was acknowledged before.
    pub const LOST: u8 = 4;
    /// The machine itself says that an invariant does not hold.
    pub const BROKEN: u8 = 8;
    /// A home with authority learns of a record that it should have known.
    pub const SURPRISE: u8 = 16;
}

/// A state of the whole world.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    /// By epoch; number 0 is not used.
    pub views: [Membership; EPOCHS],
    pub last: u8,
    pub nodes: [Option<Arc<Node>>; NODES],
    /// Sorted; nothing is ever lost from it but by being never delivered.
    pub net: Vec<Packet>,
    /// By epoch: who said that its copies are in place.
    pub done: [Set; EPOCHS],
    pub current: [u8; 2],
    pub sent: [bool; 2],
    pub retries: u8,
    pub crashes: u8,
    pub evicts: u8,
    pub joins: u8,
    pub leaves: u8,
    pub rests: u8,
    pub acked: Set,
    /// By epoch: who answers writes, until the actor goes to rest there.
    pub acker: [Option<u8>; EPOCHS],
    /// Lost since the last complete sync.
    pub lost: Set,
    /// How many losses the last complete sync can stand.
    pub limit: u8,
    /// Identities that ever were members.
    pub used: Set,
    /// Per operation: what was acknowledged before it was first sent.
    pub must: [Set; 8],
    /// Per acknowledged operation: the state that its first answer was computed from.
    pub seen: [Val; 8],
    pub flags: u8,
}

/// What can happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    Send {
        client: u8,
        node: u8,
        hint: Option<u8>,
    },
    Retry {
        client: u8,
        node: u8,
        hint: Option<u8>,
    },
    Deliver(Packet),
    /// Every missing `Done` of its epoch arrives at the node.
    Complete(u8),
    /// The actor handles the oldest request that it was given.
    Run(u8),
    /// The connection has room for the state.
    PutNow {
        from: u8,
        to: u8,
    },
    Install {
        node: u8,
        epoch: u8,
    },
    Crash(u8),
    Evict(u8),
    Admit(u8),
    Replace(u8, u8),
    Leave(u8),
    Exit(u8),
    /// The actor goes to rest.
    Rest(u8),
}

/// Something that happens to a node within one action.
pub(super) enum Event {
    Input(Input),
    Run(Given),
}

impl Cfg {
    /// The first state: a complete barrier, no data.
    pub fn first(&self) -> World {
        let mut views = [Membership::default(); EPOCHS];
        views[1] = Membership {
            members: self.init,
            leaving: 0,
        };
        let node = |n: u8| {
            let member = MEMBERS[usize::from(n)].clone();
            let view = if has(self.init, n) {
                views[1].view(1)
            } else {
                View::alone(ClusterId(100 + u64::from(n)), member.clone())
            };
            let mut shard = Shard::new(member.id, view, self.backups as usize, 100, u16::from(n));
            shard.plant(self.planted);
            Node::new(shard)
        };
        World {
            views,
            last: 1,
            nodes: std::array::from_fn(|n| {
                has(self.init | self.joiners, n as u8).then(|| node(n as u8))
            }),
            net: Vec::new(),
            done: [0; EPOCHS],
            current: [0; 2],
            sent: [false; 2],
            retries: self.retries,
            crashes: self.crashes,
            evicts: self.evicts,
            joins: self.joins,
            leaves: self.leaves,
            rests: self.rests,
            acked: 0,
            acker: [None; EPOCHS],
            lost: 0,
            limit: self.backups.min(self.init.count_ones() - 1) as u8,
            used: self.init,
            must: [0; 8],
            seen: [Val::default(); 8],
            flags: 0,
        }
    }
}

impl Packet {
    pub fn input(self) -> Input {
        Input::Message {
            from: id(self.from),
            epoch: Epoch(self.epoch.into()),
            msg: self.content.msg(),
        }
    }
}

impl World {
    /// The node, if it lives.
    pub fn node(&self, n: u8) -> Option<&Node> {
        self.nodes[usize::from(n)].as_deref()
    }

    pub fn living(&self) -> impl Iterator<Item = (u8, &Node)> {
        (0..NODES as u8).filter_map(|n| self.node(n).map(|node| (n, node)))
    }

    pub(super) fn change(&mut self, n: u8, change: impl FnOnce(&mut Node)) {
        if let Some(node) = &mut self.nodes[usize::from(n)] {
            let node = Arc::make_mut(node);
            change(node);
            node.dirty = true;
        }
    }

    pub(super) fn decide(&mut self, next: Membership) {
        self.last += 1;
        self.views[usize::from(self.last)] = next;
    }

    pub(super) fn send(&mut self, packet: Packet) {
        if let Err(at) = self.net.binary_search(&packet) {
            self.net.insert(at, packet);
        }
    }

    /// The keepers whose Put has room now.
    pub fn take_due(&mut self, n: u8) -> Vec<u8> {
        let due = self.node(n).map_or(0, |node| node.due);
        if due != 0 {
            self.change(n, |node| node.due = 0);
        }
        iter(due).collect()
    }

    /// Takes out of the net what arrives at once, and what never will.
    pub(super) fn take_direct(&mut self, events: &mut VecDeque<(u8, Event)>) {
        for p in std::mem::take(&mut self.net) {
            let direct = matches!(p.content, Content::Forward { .. } | Content::Reply { .. });
            match self.node(p.to).map(Node::epoch) {
                _ if !direct => self.net.push(p),
                Some(epoch) if epoch == p.epoch => {
                    events.push_back((p.to, Event::Input(p.input())))
                }
                Some(epoch) if epoch < p.epoch => self.net.push(p),
                Some(_) | None => {}
            }
        }
    }
}
