//! L1, model-checked: a serving node is in every decided view.
//!
//! The nodes' leases are the real [`Lease`] machines, under discrete time. The agreement is abstract (one candidate per
//! epoch, decided by votes of a majority of the view before), but every vote obeys the real guard. States that differ
//! only in what the clock shows are one: deadlines are compared as seen from now.
//!
//! A node may crash; afterwards, and never before, it may become known dead (its guardian's obituary, a newer
//! incarnation at its address, the operator's word): then no vote waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::LazyLock;

use statekeeper::protocol::defect::Planted;
use statekeeper::protocol::lease::Lease;
use statekeeper::protocol::types::{ClusterId, Member, Millis, NodeId};
use statekeeper::protocol::view::View;
use stateright::{Checker, HasDiscoveries, Model, Property};

/// A node, by its place in the alphabet.
type Place = usize;

const TICK: Millis = Millis(1_000);

struct Config {
    members: &'static [Place],
    joiners: &'static [Place],
    /// L and G, in ticks.
    lease: u64,
    promise: u64,
    epoch_max: usize,
    crashes: u8,
    /// A death may be declared that is none.
    liar: bool,
    planted: Planted,
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
    crashed: BTreeSet<Place>,
    dead: Vec<NodeId>,
}

/// What of a state matters.
type Whole<'a> = (
    BTreeMap<Place, Essence>,
    &'a [View],
    &'a Option<View>,
    [&'a BTreeSet<Place>; 2],
    &'a [NodeId],
);

/// What of a node matters: its epoch, its vote, and each deadline as seen from now.
type Essence = (usize, bool, Vec<(Millis, Millis)>);

impl State {
    fn essence(&self) -> Whole<'_> {
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
            [&self.votes, &self.crashed],
            &self.dead,
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
    Crash(Place),
    /// Somebody vouches for a death.
    Declare(Place),
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
        lease.plant(self.planted);
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
        node.lease.may_evict(state.now, &out, &state.dead)
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
            crashed: BTreeSet::new(),
            dead: Vec::new(),
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
                let crashed = state.crashed.contains(&at);
                if !crashed && state.nodes.get(&at).is_none_or(|node| node.epoch < epoch) {
                    actions.push(Action::Install(at, epoch));
                }
            }
        }
        for (at, node) in &state.nodes {
            for (to, other) in &state.nodes {
                if at != to && node.epoch == other.epoch {
                    actions.push(Action::Pong { from: *at, to: *to });
                }
            }
            if self.may_vote(state, node, *at) {
                actions.push(Action::Vote(*at));
            }
            if state.crashed.len() < usize::from(self.crashes) {
                actions.push(Action::Crash(*at));
            }
        }
        let living = state
            .nodes
            .keys()
            .filter(|_| self.liar && state.dead.is_empty());
        let undeclared = |at: &&Place| !state.dead.contains(&member(**at).id);
        actions.extend(
            state
                .crashed
                .iter()
                .chain(living)
                .filter(undeclared)
                .map(|at| Action::Declare(*at)),
        );
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
                node.lease.vote();
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
            Action::Crash(at) => {
                state.nodes.remove(&at);
                state.crashed.insert(at);
            }
            Action::Declare(at) => {
                state.dead.push(member(at).id);
                state.dead.sort();
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
    crashes: 0,
    liar: false,
    planted: Planted::NONE,
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
fn a_serving_node_is_in_every_decided_view_when_the_dead_are_not_waited_for() {
    assert_eq!(
        check(Config {
            crashes: 1,
            joiners: &[],
            ..THREE
        }),
        8_362
    );
    assert_eq!(check(Config { crashes: 1, ..PAIR }), 147_125);
}

#[test]
fn declaring_a_living_node_dead_lets_an_evicted_node_serve() {
    assert_caught(Config {
        liar: true,
        ..THREE
    });
}

fn assert_caught(config: Config) {
    let checker = config
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    checker.assert_any_discovery("L1: a serving node is in every decided view");
}

#[cfg(debug_assertions)]
mod defects {
    use statekeeper::protocol::defect::Defect;

    use super::*;

    const LONGER: Config = Config {
        lease: 2,
        promise: 2,
        ..THREE
    };

    fn lets_an_evicted_node_serve(defect: Defect, config: Config) {
        assert_caught(Config {
            planted: defect.into(),
            ..config
        });
    }

    #[test]
    fn a_vote_that_does_not_wait_lets_an_evicted_node_serve() {
        lets_an_evicted_node_serve(Defect::NoWait, THREE);
    }

    #[test]
    fn an_install_without_promises_lets_an_evicted_node_serve() {
        lets_an_evicted_node_serve(
            Defect::NoGrace,
            Config {
                epoch_max: 3,
                ..THREE
            },
        );
    }

    #[test]
    fn a_voter_that_goes_on_as_before_lets_an_evicted_node_serve() {
        lets_an_evicted_node_serve(Defect::NoWedge, LONGER);
    }

    #[test]
    fn a_voter_that_counts_itself_lets_an_evicted_node_serve() {
        lets_an_evicted_node_serve(Defect::WedgeButSelf, LONGER);
    }

    #[test]
    fn a_vote_that_waits_too_short_lets_an_evicted_node_serve() {
        lets_an_evicted_node_serve(Defect::ShortWait, LONGER);
    }
}
