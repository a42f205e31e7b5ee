//! The state: nodes, connections, what is under way, and the books of what was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use statekeeper::protocol::defect::Planted;
use statekeeper::protocol::members::{self, Members, Timings};
use statekeeper::protocol::shard::{self, Shard};
use statekeeper::protocol::types::{ClusterId, Epoch, Key, Kind, Member, Millis, NodeId};
use statekeeper::protocol::view::View;

/// A node, by its place in the alphabet.
pub type Place = usize;

/// How many places there are.
pub const PLACES: usize = 3;

/// Time passes in these steps.
pub const TICK: Millis = Millis(100);

/// As short as the rules allow, so that little time has to be explored.
pub const TIMINGS: Timings = Timings {
    heartbeat: TICK,
    lease: Millis(200),
    promise: Millis(200),
    suspicion: Millis(300),
    retry: TICK,
    redial: Millis(600_000),
};

/// What is seen to be wrong.
pub mod checks {
    pub const I1: &str = "I1: at most one node answers writes in an epoch";
    pub const I2: &str = "I2: an acknowledged operation survives";
    pub const I3: &str = "I3: no operation is applied twice";
    pub const I4: &str = "I4: after quiet time every node serves";
    pub const V1: &str = "V1: no epoch has two views";
    pub const V2: &str = "V2: an evicted identity is in no later view";
    pub const V3: &str = "V3: whoever is known dead has no part in this line of views any more";
    pub const L1: &str = "L1: a serving node is in every decided view";
    pub const UNBROKEN: &str = "the machines never find an invariant broken";
    pub const ALL: [&str; 9] = [I1, I2, I3, I4, V1, V2, V3, L1, UNBROKEN];
}

/// What must happen in some run, lest a configuration be empty.
pub mod goals {
    pub const ANSWERED: &str = "every request is answered";
    pub const RECOVERED: &str = "all is well after the last disturbance";
    pub const REJOINED: &str = "an evicted node comes back";
    pub const WITNESSED: &str = "the dead are evicted before their lease is over";
    pub const DECLINED: &str = "a joiner declines";
    pub const LEFT: &str = "a node leaves";
}

/// The only key.
pub fn key() -> Key {
    Key::new(Kind(1), "key")
}

pub fn member(place: Place, incarnation: u64) -> Member {
    let name = ["a@h", "b@h", "c@h"][place];
    Member {
        id: NodeId::new(name, incarnation),
        addr: name.into(),
    }
}

pub fn place(id: &NodeId) -> Place {
    usize::from(id.name.as_str().as_bytes()[0] - b'a')
}

/// A process.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    pub members: Members,
    pub shard: Shard,
    pub has_data: bool,
    /// The part's requests of clients here, by token: which operation.
    pub asked: BTreeMap<u64, u8>,
}

/// From one life to another; membership and parts have lanes of their own. Within a node, from itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lane {
    pub from: NodeId,
    pub to: NodeId,
    pub of_parts: bool,
}

/// What is under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Item {
    Up(Member),
    Down { refused: bool },
    Control(members::Msg),
    Part(ClusterId, Epoch, shard::Msg),
    Install(View),
    Dissolve(View),
    Leased,
    Progress(Epoch, bool),
    HasData(bool),
}

/// What may still be done to the cluster. Commands and requests come between ticks, the rest at any time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Budget {
    pub requests: u8,
    /// A connection is slow for a tick.
    pub holds: u8,
    pub crashes: u8,
    /// A guardian witnesses a crash.
    pub obituaries: u8,
    pub restarts: u8,
    /// A node is cut off from all others, for [`Cfg::cut_ticks`].
    pub cuts: u8,
    pub forgets: u8,
    pub leaves: u8,
    /// An idle actor goes to rest.
    pub rests: u8,
    /// Who connects to whom.
    pub connects: &'static [(Place, Place)],
}

/// One configuration.
#[derive(Clone, Copy, Debug)]
pub struct Cfg {
    /// How many nodes run in the beginning; members of one cluster, or each alone.
    pub nodes: usize,
    pub formed: bool,
    /// Whether all must be well in the end.
    pub heals: bool,
    pub budget: Budget,
    /// How long a run is, and how long it takes until all is well after the last disturbance.
    pub ticks: u8,
    pub heal_ticks: u8,
    pub cut_ticks: u64,
    pub planted: Planted,
}

/// What was decided and promised so far.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Books {
    pub decided: BTreeMap<(ClusterId, Epoch), View>,
    pub ackers: BTreeMap<(ClusterId, Epoch), NodeId>,
    /// Operations in hand of clients: where, and what was acknowledged before they were first sent.
    pub open: BTreeMap<u8, (Option<Place>, BTreeSet<u8>)>,
    pub acked: BTreeSet<u8>,
    pub violated: BTreeSet<&'static str>,
    pub declined: bool,
    /// When the last crash was.
    pub crashed: Option<Millis>,
    pub died: bool,
    pub rejoined: bool,
    pub left: bool,
}

/// A state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct World {
    pub now: Millis,
    pub ticks: u8,
    /// Whether nothing happened since the last tick but commands.
    pub fresh: bool,
    pub nodes: [Option<Arc<Node>>; PLACES],
    pub lives: [u64; PLACES],
    /// Both directions of every connection.
    pub links: BTreeSet<(NodeId, NodeId)>,
    /// What is under way, in the order in which it was sent.
    pub mail: Vec<(Lane, Item)>,
    /// Lanes that are slow until the next tick.
    pub held: BTreeSet<Lane>,
    pub cut: Option<(Place, Millis)>,
    /// The crashed, in their last life, that nobody has witnessed.
    pub unwitnessed: Option<NodeId>,
    pub budget: Budget,
    pub disturbed: u8,
    /// Something was lost, and not every copy is back in place.
    pub lossy: bool,
    pub next_op: u8,
    /// The connects that were ordered.
    pub ordered: BTreeSet<(Place, Place)>,
    pub books: Books,
}

impl World {
    pub fn node(&self, place: Place) -> Option<&Node> {
        self.nodes[place].as_deref()
    }

    pub fn living(&self) -> impl Iterator<Item = (Place, &Node)> {
        (0..PLACES).filter_map(|p| self.node(p).map(|n| (p, n)))
    }

    /// The node with that very identity, if it runs.
    pub fn life(&self, id: &NodeId) -> Option<&Node> {
        self.node(place(id)).filter(|n| n.members.me().id == *id)
    }

    pub fn is_cut(&self, place: Place) -> bool {
        self.cut.is_some_and(|(cut, _)| cut == place)
    }

    /// Every living node has the same view, its lease, and its complete barrier.
    pub fn is_well(&self) -> bool {
        let mut views = self.living().map(|(_, n)| n.members.view());
        let Some(view) = views.next() else {
            return false;
        };
        view.members.len() >= 2
            && view.ids().all(|id| self.life(id).is_some())
            && views.all(|other| other == view)
            && self.living().all(|(_, n)| {
                n.members.leased_until() > self.now
                    && n.shard.view() == view
                    && n.shard.is_complete()
            })
    }

    /// A state in one line, for a trace.
    pub fn line(&self) -> String {
        let node = |(_, n): (Place, &Node)| {
            let (view, shard) = (n.members.view(), &n.shard);
            format!(
                "{} {}/{} {:?} own {:?} rec {:?}",
                n.members.me().id,
                view.epoch,
                shard.epoch(),
                view.ids().collect::<Vec<_>>(),
                shard.owned_state(&key()),
                shard.record(&key())
            )
        };
        let nodes: Vec<String> = self.living().map(node).collect();
        let next = self.mail.iter().find(|(lane, _)| !self.held.contains(lane));
        format!("{:>5} {}; next: {next:?}", self.now.0, nodes.join(", "))
    }
}
