//! L1, model-checked: a serving node is in every decided view.
//!
//! The nodes' leases are the real [`Lease`] machines, under discrete time. The agreement is abstract (one candidate per
//! epoch, decided by votes of a majority of the view before), but every vote obeys the real guard. States that differ
//! only in what the clock shows are one: deadlines are compared as seen from now.
//!
//! Deliberate defects, all in the adapter: votes that do not wait, pongs after a vote, a voter that still counts
//! itself, and a wait that is one tick too short. `NoGrace` (no fresh promise at an install) would need a switch in the
//! product; the unit test `an_install_gives_every_member_a_fresh_promise` holds that line.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use statekeeper::protocol::lease::Lease;
use statekeeper::protocol::types::{ClusterId, Member, Millis, NodeId};
use statekeeper::protocol::view::View;
use stateright::{Checker, HasDiscoveries, Model, Property};

/// A node, by its place in the alphabet.
type Place = usize;

const TICK: Millis = Millis(1_000);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Defect {
    None,
    NoWait,
    NoWedge,
    WedgeButSelf,
    ShortWait,
}

struct Config {
    members: &'static [Place],
    joiners: &'static [Place],
    /// L and G, in ticks.
    lease: u64,
    promise: u64,
    epoch_max: usize,
    defect: Defect,
}

#[derive(Clone, Debug)]
struct Node {
    /// Index into the decided views.
    epoch: usize,
    voted: bool,
    lease: Lease,
}

#[derive(Clone, Debug)]
struct State {
    now: Millis,
    nodes: BTreeMap<Place, Node>,
    /// The view of epoch `i + 1` at place `i`.
    views: Vec<View>,
    candidate: Option<View>,
    votes: BTreeSet<Place>,
}

/// What of a node matters: its epoch, its vote, and each deadline as seen from now.
type Essence = (usize, bool, Vec<(Millis, Millis)>);

impl State {
    fn essence(
        &self,
    ) -> (
        BTreeMap<Place, Essence>,
        &[View],
        &Option<View>,
        &BTreeSet<Place>,
    ) {
        let of = |node: &Node| {
            let left = |until: Millis| until - self.now;
            let peers = MEMBERS.iter().map(|m| &m.id);
            let deadlines = peers.map(|id| {
                (
                    left(node.lease.held_until(id)),
                    left(node.lease.granted_until(id)),
                )
            });
            (node.epoch, node.voted, deadlines.collect())
        };
        (
            self.nodes.iter().map(|(p, n)| (*p, of(n))).collect(),
            &self.views,
            &self.candidate,
            &self.votes,
        )
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.essence() == other.essence()
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.essence().hash(hasher);
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Action {
    Tick,
    /// A ping of `to`, and its pong by `from`.
    Pong {
        from: Place,
        to: Place,
    },
    Propose(View),
    Vote(Place),
    Install(Place, usize),
}

static MEMBERS: LazyLock<Vec<Member>> = LazyLock::new(|| {
    let member = |name: &str| Member {
        id: NodeId::new(name, 1),
        addr: name.into(),
    };
    ["a", "b", "c", "d"].map(member).to_vec()
});

fn member(place: Place) -> Member {
    MEMBERS[place].clone()
}

fn place(id: &NodeId) -> Place {
    usize::from(id.name.as_str().as_bytes()[0] - b'a')
}

impl Config {
    fn install(&self, state: &State, at: Place, epoch: usize) -> Node {
        let ticks = |n: u64| Millis(n * TICK.0);
        let mut lease = Lease::new(member(at).id, ticks(self.lease), ticks(self.promise));
        lease.install(state.now, &state.views[epoch]);
        Node {
            epoch,
            voted: false,
            lease,
        }
    }

    fn may_vote(&self, state: &State, node: &Node, at: Place) -> bool {
        let Some(candidate) = &state.candidate else {
            return false;
        };
        let view = &state.views[node.epoch];
        if node.epoch + 1 != state.views.len() || state.votes.contains(&at) {
            return false;
        }
        let out: Vec<NodeId> = view
            .ids()
            .filter(|id| !candidate.contains(id))
            .cloned()
            .collect();
        match self.defect {
            Defect::NoWait => true,
            Defect::ShortWait => node.lease.may_evict(state.now + TICK, &out, &[]),
            Defect::None | Defect::NoWedge | Defect::WedgeButSelf => {
                node.lease.may_evict(state.now, &out, &[])
            }
        }
    }

    fn may_pong(&self, from: &Node, to: &Node) -> bool {
        // A node that voted still asks its lease, which says no; the defects must not get that far.
        from.epoch == to.epoch && !(self.defect == Defect::WedgeButSelf && from.voted)
    }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let members = self.members.iter().map(|p| member(*p)).collect();
        let view = View {
            members,
            ..View::alone(ClusterId(1), member(0))
        };
        let (now, views) = (Millis(1_000_000), vec![view]);
        let mut state = State {
            now,
            nodes: BTreeMap::new(),
            views,
            candidate: None,
            votes: BTreeSet::new(),
        };
        // They installed their first view long ago.
        let long_ago = State {
            now: Millis(0),
            ..state.clone()
        };
        state.nodes = self
            .members
            .iter()
            .map(|p| (*p, self.install(&long_ago, *p, 0)))
            .collect();
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        let last = state.views.len() - 1;
        for epoch in 0..=last {
            for at in state.views[epoch].ids().map(place) {
                if state.nodes.get(&at).is_none_or(|node| node.epoch < epoch) {
                    actions.push(Action::Install(at, epoch));
                }
            }
        }
        for (at, node) in &state.nodes {
            for (to, other) in &state.nodes {
                if at != to && self.may_pong(node, other) {
                    actions.push(Action::Pong { from: *at, to: *to });
                }
            }
            if self.may_vote(state, node, *at) {
                actions.push(Action::Vote(*at));
            }
        }
        if state.candidate.is_none() && state.views.len() < self.epoch_max {
            let view = &state.views[last];
            let joins: Vec<Member> = self
                .joiners
                .iter()
                .map(|j| member(*j))
                .filter(|j| !view.contains(&j.id))
                .collect();
            for out in std::iter::once(None).chain(view.ids().map(Some)) {
                for join in std::iter::once(None).chain(joins.iter().map(Some)) {
                    let out: Vec<NodeId> = out.into_iter().cloned().collect();
                    let next = view.next(&out, join, &[]);
                    if next.members != view.members && next.members.len() >= 2 {
                        actions.push(Action::Propose(next));
                    }
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let now = state.now;
        match action {
            Action::Tick => state.now = now + TICK,
            Action::Pong { from, to } => {
                if state
                    .nodes
                    .get_mut(&from)?
                    .lease
                    .ponged(now, &member(to).id)
                {
                    state
                        .nodes
                        .get_mut(&to)?
                        .lease
                        .pong(now, &member(from).id, now);
                }
            }
            Action::Propose(view) => state.candidate = Some(view),
            Action::Vote(at) => {
                let node = state.nodes.get_mut(&at)?;
                node.voted = true;
                match self.defect {
                    Defect::NoWedge | Defect::WedgeButSelf => {}
                    Defect::None | Defect::NoWait | Defect::ShortWait => node.lease.vote(),
                }
                state.votes.insert(at);
                if 2 * state.votes.len() > state.views[node.epoch].members.len() {
                    state.views.extend(state.candidate.take());
                    state.votes.clear();
                }
            }
            Action::Install(at, epoch) => {
                let node = self.install(&state, at, epoch);
                state.nodes.insert(at, node);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn serves(state: &State, node: &Node) -> bool {
            node.lease.leased_until(state.now) > state.now
        }
        vec![
            Property::always(
                "L1: a serving node is in every decided view",
                |_, state: &State| {
                    state
                        .nodes
                        .iter()
                        .filter(|(_, node)| serves(state, node))
                        .all(|(at, node)| {
                            state
                                .views
                                .iter()
                                .skip(node.epoch)
                                .all(|view| view.contains(&member(*at).id))
                        })
                },
            ),
            Property::sometimes(
                "two nodes serve in the last epoch",
                |config: &Config, state: &State| {
                    let last =
                        |node: &&Node| node.epoch + 1 == config.epoch_max && serves(state, node);
                    state.nodes.values().filter(last).count() > 1
                },
            ),
        ]
    }
}

/// Explores every state, and returns how many there are.
fn check(config: Config) -> usize {
    let checker = config.checker().threads(2).spawn_bfs().join();
    checker.assert_no_discovery("L1: a serving node is in every decided view");
    checker.assert_any_discovery("two nodes serve in the last epoch");
    checker.unique_state_count()
}

const PAIR: Config = Config {
    members: &[0, 1],
    joiners: &[2],
    lease: 2,
    promise: 2,
    epoch_max: 3,
    defect: Defect::None,
};
const THREE: Config = Config {
    members: &[0, 1, 2],
    joiners: &[3],
    lease: 1,
    promise: 1,
    epoch_max: 2,
    ..PAIR
};

#[test]
fn a_serving_one_of_three_is_in_every_decided_view() {
    assert_eq!(check(THREE), 79_252);
}

#[test]
fn a_serving_one_of_two_or_three_is_in_every_decided_view() {
    assert_eq!(check(PAIR), 46_869);
}

#[test]
fn a_promise_may_outlast_the_lease() {
    assert_eq!(
        check(Config {
            promise: 2,
            joiners: &[],
            ..THREE
        }),
        11_220
    );
}

#[test]
fn each_defect_lets_an_evicted_node_serve() {
    for defect in [
        Defect::NoWait,
        Defect::NoWedge,
        Defect::WedgeButSelf,
        Defect::ShortWait,
    ] {
        let config = Config {
            lease: 2,
            promise: 2,
            defect,
            ..THREE
        };
        let checker = config
            .checker()
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let caught = checker
            .discovery("L1: a serving node is in every decided view")
            .is_some();
        assert!(caught, "{defect:?}");
    }
}
