//! One process: the two machines, the actors, and the driver between them, as the real one is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use statekeeper::protocol::SHARDS;
use statekeeper::protocol::blob::Blob;
use statekeeper::protocol::defect::Planted;
use statekeeper::protocol::members::{Members, Timings};
use statekeeper::protocol::ring::{Known, Ring, Snapshot};
use statekeeper::protocol::shard::{Ran, Request, Shard};
use statekeeper::protocol::types::{ClusterId, Epoch, Key, Kind, Member, Millis, NodeId};
use statekeeper::protocol::view::View;

use super::invariants::OpId;
use super::network::{LinkId, Payload, Place};
use super::plan::Plan;

/// Most requests that wait in one part.
const PENDING_MAX: usize = 160;

/// Most frames of another line that wait for a view.
pub const EARLY_MAX: usize = 64;

/// How an actor behaves, by its server type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// Mostly written to.
    Ledger,
    /// Mostly read.
    Board,
    /// Some calls panic, which ends the actor.
    Fragile,
}

impl Sort {
    const ALL: [Self; 3] = [Self::Ledger, Self::Board, Self::Fragile];

    /// Of the key with that number.
    pub fn of(n: usize) -> Self {
        Self::ALL[n % Self::ALL.len()]
    }

    pub fn of_key(key: &Key) -> Self {
        Self::of(key.kind().0 as usize)
    }

    /// How many of a hundred calls read, and how many fail.
    pub fn habits(self) -> (u64, u64) {
        match self {
            Self::Ledger => (20, 3),
            Self::Board => (85, 1),
            Self::Fragile => (20, 15),
        }
    }
}

/// The key with that number: actors of different types have the same names.
pub fn key(n: usize) -> Key {
    let name = format!("k{}", n / Sort::ALL.len());
    Key::new(Kind(Sort::of(n) as u32), name)
}

/// The part that a key belongs to.
pub fn part_of(key: &Key) -> usize {
    (key.hash() % SHARDS as u64) as usize
}

/// What a client asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    pub key: usize,
    pub op: OpId,
    pub is_read: bool,
    /// The actor refuses it.
    pub fails: bool,
}

/// What it gets: the operations that were applied, with its own; a read gets all of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counted {
    pub key: usize,
    pub op: OpId,
    pub is_read: bool,
    pub count: u64,
    pub log: Vec<OpId>,
}

pub fn encode<T: Serialize>(value: &T) -> Blob {
    postcard::to_stdvec(value).expect("it encodes").into()
}

pub fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).expect("it decodes")
}

/// An actor: a list of the operations that were applied, behind the ring that recognises retries.
#[derive(Clone, Debug)]
pub struct Actor {
    pub gen_: Epoch,
    pub instance: u64,
    /// Requests of its part, and of clients, by their tokens.
    pub running: VecDeque<(Option<u64>, Request)>,
    /// In which view the keepers have which version.
    pub backed_up: Option<(ClusterId, Epoch, u64)>,
    /// The version of its state, as its part will count it.
    pub ver: u64,
    ring: Ring,
    log: Vec<OpId>,
    planted: Planted,
}

impl Actor {
    pub fn start(gen_: Epoch, instance: u64, data: &Blob, ver: u64, planted: Planted) -> Self {
        let snapshot: Snapshot = if data.is_empty() {
            Snapshot::default()
        } else {
            decode(data)
        };
        let log = if snapshot.state.is_empty() {
            Vec::new()
        } else {
            decode(&snapshot.state)
        };
        Self {
            gen_,
            instance,
            running: VecDeque::new(),
            backed_up: None,
            ver,
            ring: snapshot.ring,
            log,
            planted,
        }
    }

    /// Handles the oldest request. A refusal of some actors is their end.
    pub fn run(&mut self) -> Option<(Option<u64>, Request, Ran)> {
        let (token, request) = self.running.pop_front()?;
        let ran = self.handle(&request)?;
        if matches!(ran, Ran::Done { data: Some(_), .. }) {
            self.ver += 1;
        }
        Some((token, request, ran))
    }

    fn handle(&mut self, request: &Request) -> Option<Ran> {
        match self.ring.judge(request.id, request.again, self.planted) {
            Known::New => {}
            Known::Replied(reply) => {
                return Some(Ran::Done {
                    reply: Blob::from(reply),
                    data: None,
                });
            }
            Known::Forgotten => return Some(Ran::Unknown),
        }
        let Call {
            key,
            op,
            is_read,
            fails,
        } = decode(&request.payload);
        if fails {
            return Some(Ran::Failed(Blob::EMPTY));
        }
        if !is_read {
            self.log.push(op);
        }
        let log = if is_read {
            self.log.clone()
        } else {
            Vec::new()
        };
        let reply = encode(&Counted {
            key,
            op,
            is_read,
            count: self.log.len() as u64,
            log,
        });
        if is_read {
            return Some(Ran::Done { reply, data: None });
        }
        if let Some(id) = request.id {
            self.ring.remember(id, request.span, &reply);
        }
        let snapshot = Snapshot {
            ring: self.ring.clone(),
            state: encode(&self.log),
        };
        Some(Ran::Done {
            reply,
            data: Some(encode(&snapshot)),
        })
    }
}

/// How far the parts are with the barrier of `epoch`: one bit each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Barrier {
    pub epoch: Epoch,
    pub sent: u32,
    pub complete: u32,
}

/// All parts, one bit each.
pub const ALL: u32 = (1 << SHARDS) - 1;

/// How a leave goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaving {
    No,
    /// Parts that are not quiet yet, one bit each.
    Quiescing(u32),
    Asked,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    pub number: u64,
    pub place: Place,
    pub members: Members,
    pub parts: Vec<Shard>,
    /// Whose parts they are: a part hears later than its node that a life is over.
    pub lives: Vec<NodeId>,
    /// The process's own clock: an offset and a rate in thousandths.
    clock: (u64, u64),
    /// How long an item takes from one actor of the node to another.
    pub latency: u64,
    /// When the last item arrives that one actor of the node gave to another.
    pub passed: u64,
    pub barrier: Barrier,
    pub has_data: u32,
    pub was_leased: bool,
    pub unleased_since: Option<u64>,
    pub links: BTreeMap<NodeId, LinkId>,
    pub dialling: BTreeSet<Place>,
    pub actors: BTreeMap<(usize, Key), Actor>,
    pub instances: u64,
    /// By part and peer: keys whose state goes there when there is room.
    pub due: BTreeMap<(usize, NodeId), BTreeSet<Key>>,
    /// Who was shown or asked for a view since the last tick of the part.
    pub told: BTreeSet<(usize, NodeId)>,
    pub early: Vec<(usize, NodeId, Payload)>,
    pub paused_until: u64,
    pub leaving: Leaving,
    /// It ends before it does so many more things, whatever they are.
    pub doom: Option<u32>,
}

impl Process {
    pub fn new(
        number: u64,
        me: Member,
        place: Place,
        plan: &Plan,
        seed: u64,
        clock: (u64, u64),
    ) -> Self {
        let backups = plan.backups;
        let mut members = Members::new(
            me.clone(),
            ClusterId(seed ^ 0xc105),
            Timings::default(),
            backups,
            seed,
        );
        members.plant(plan.planted);
        let parts = parts(&me.id, members.view(), plan);
        let barrier = Barrier {
            epoch: members.view().epoch,
            ..Barrier::default()
        };
        Self {
            number,
            place,
            members,
            lives: vec![me.id.clone(); parts.len()],
            parts,
            clock,
            latency: seed % 3,
            passed: 0,
            barrier,
            has_data: 0,
            was_leased: false,
            unleased_since: None,
            links: BTreeMap::new(),
            dialling: BTreeSet::new(),
            actors: BTreeMap::new(),
            instances: 0,
            due: BTreeMap::new(),
            told: BTreeSet::new(),
            early: Vec::new(),
            paused_until: 0,
            leaving: Leaving::No,
            doom: None,
        }
    }

    /// The process's own clock.
    pub fn clock(&self, now: u64) -> Millis {
        Millis(self.clock.0 + now * self.clock.1 / 1_000)
    }

    pub fn is_leased(&self, now: u64) -> bool {
        self.clock(now) < self.members.leased_until()
    }

    /// Whether a part may answer: the lease is of one view, which the part may not have heard of yet.
    pub fn may_answer(&self, now: u64, part: usize) -> bool {
        let (mine, of_part) = (self.members.view(), self.parts[part].view());
        self.is_leased(now) && (mine.cluster, mine.epoch) == (of_part.cluster, of_part.epoch)
    }

    /// Whether the actor may answer by itself from its state.
    pub fn actor_may_answer(&self, now: u64, actor: &Actor) -> bool {
        let mine = self.members.view();
        self.is_leased(now) && actor.backed_up == Some((mine.cluster, mine.epoch, actor.ver))
    }

    pub fn id(&self) -> &NodeId {
        &self.members.me().id
    }

    /// A new identity: everything of the old one is gone.
    pub fn renew(&mut self, index: usize, me: NodeId, view: &View, plan: &Plan) -> Shard {
        let fresh = parts(&me, view, plan).swap_remove(index);
        self.lives[index] = me;
        std::mem::replace(&mut self.parts[index], fresh)
    }

    /// Whether every part has the node's view and its complete barrier.
    pub fn is_whole(&self) -> bool {
        let view = self.members.view();
        self.parts
            .iter()
            .all(|part| part.view() == view && part.is_complete())
    }

    /// Whether every part has said `Done` of that view.
    pub fn has_synced(&self, view: &View) -> bool {
        self.parts
            .iter()
            .all(|part| part.view() == view && part.done_sent())
    }
}

fn parts(me: &NodeId, view: &View, plan: &Plan) -> Vec<Shard> {
    let part = |n| {
        let mut part = Shard::new(
            me.clone(),
            view.clone(),
            plan.backups,
            PENDING_MAX,
            n as u16,
        );
        part.plant(plan.planted);
        part.sweep_at_once(plan.swept_at_once);
        part
    };
    (0..SHARDS).map(part).collect()
}
