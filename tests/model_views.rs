//! V1, model-checked: no epoch has two decided views.
//!
//! The nodes are the real [`Agreement`] machines. The network is a set of messages that only grows: whatever was sent
//! may arrive at any time, any number of times, or never. Nodes crash; a crash may become known. What these runs
//! leave out (the lease, which only delays votes) is in `model_lease.rs`.
//!
//! A crashed process may come back: with the next incarnation it is nobody's acceptor. An outsider that knows the view
//! may try to propose, and is not let.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use statekeeper::protocol::agreement::{Agreement, Effect, Msg};
use statekeeper::protocol::defect::{Defect, Planted};
use statekeeper::protocol::types::{ClusterId, Epoch, Member, NodeId};
use statekeeper::protocol::view::View;
use stateright::{Checker, HasDiscoveries, Model, Property};

/// A node, by its place in the alphabet.
type Place = usize;

struct Config {
    members: &'static [Place],
    joiners: &'static [Place],
    /// Who proposes, and who crashes or gets evicted.
    proposers: &'static [Place],
    crashing: &'static [Place],
    /// How many proposals are started, and how many nodes crash.
    proposals: u8,
    crashes: u8,
    epoch_max: u64,
    evicted_max: usize,
    /// A death may be declared that is none.
    liar: bool,
    planted: Planted,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Node {
    view: View,
    agreement: Agreement,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Letter {
    epoch: Epoch,
    from: Place,
    to: Place,
    msg: Msg,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    /// Running nodes with a view. Joiners have none until they install one.
    nodes: BTreeMap<Place, Node>,
    crashed: BTreeMap<Place, View>,
    dead: Vec<NodeId>,
    net: BTreeSet<Letter>,
    decided: BTreeMap<Epoch, View>,
    fork: bool,
    half: bool,
    proposals: u8,
    crashes: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Action {
    Propose(Place, View),
    /// A proposal by a node that is not a member.
    Intrude(Place, View),
    Deliver(Letter),
    Install(Place, Epoch),
    Crash(Place),
    Declare(Place),
    Restart(Place),
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
    fn node(&self, id: &NodeId, view: &View) -> Node {
        let mut agreement = Agreement::new(id.clone(), view);
        agreement.plant(self.planted);
        let view = view.clone();
        Node { view, agreement }
    }

    /// Carries the machine's effects out; what it tells itself arrives at once.
    fn perform(&self, state: &mut State, at: Place, effects: Vec<Effect>) {
        let view = state.nodes[&at].view.clone();
        let mut own = Vec::new();
        for effect in effects {
            let (to, msg) = match effect {
                Effect::Send { to, msg } => (vec![to], msg),
                Effect::Broadcast(msg) => (view.ids().cloned().collect(), msg),
                Effect::Wait => unreachable!("no lease forbids a vote here"),
                Effect::Decided(next) => {
                    let voters = state.nodes.len() * 2 <= view.members.len();
                    state.half |= voters && !state.dead.is_empty();
                    state.fork |= state
                        .decided
                        .get(&next.epoch)
                        .is_some_and(|known| *known != next);
                    state.decided.entry(next.epoch).or_insert(next);
                    continue;
                }
            };
            for to in to {
                // What only tells a proposer which round to outbid speeds it up; here it counts as lost.
                if matches!(&msg, Msg::Promise { ballot, .. } if ballot.node != to) {
                    continue;
                }
                if place(&to) == at {
                    own.push(msg.clone());
                } else {
                    state.net.insert(Letter {
                        epoch: view.epoch,
                        from: at,
                        to: place(&to),
                        msg: msg.clone(),
                    });
                }
            }
        }
        for msg in own {
            self.receive(state, at, at, msg);
        }
    }

    fn receive(&self, state: &mut State, from: Place, at: Place, msg: Msg) {
        let dead = &state.dead;
        let Some(node) = state.nodes.get_mut(&at) else {
            return;
        };
        let mut effects = Vec::new();
        node.agreement
            .receive(&member(from).id, msg, dead, |_| true, &mut effects);
        self.perform(state, at, effects);
    }

    /// Whom a member may wish for: somebody evicted, somebody admitted, or both.
    fn wishes(&self, state: &State, at: Place, view: &View, wishes: &mut Vec<View>) {
        let others: Vec<NodeId> = view
            .ids()
            .filter(|id| place(id) != at && self.crashing.contains(&place(id)))
            .cloned()
            .collect();
        let fresh = |j: &&Place| {
            !view.contains(&member(**j).id)
                && !state.crashed.contains_key(*j)
                && !state.nodes.contains_key(*j)
        };
        for evicted in 0_u32..1 << others.len() {
            if evicted.count_ones() as usize > self.evicted_max {
                continue;
            }
            let out: Vec<NodeId> = others
                .iter()
                .enumerate()
                .filter(|(i, _)| evicted >> i & 1 == 1)
                .map(|(_, id)| id.clone())
                .collect();
            if !out.is_empty() {
                wishes.push(view.next(&out, None, &[]));
            }
            wishes.extend(
                self.joiners
                    .iter()
                    .filter(fresh)
                    .map(|j| view.next(&out, Some(&member(*j)), &[])),
            );
        }
    }

    /// Drops letters that change nothing, now and for ever, to keep the states few: those to the crashed, of past
    /// epochs, of ballots that are over, and those that arrived (a copy of them changes nothing either).
    fn tidy(&self, state: &mut State) {
        let (nodes, crashed) = (&state.nodes, &state.crashed);
        state.net.retain(|letter| {
            let Some(node) = nodes.get(&letter.to) else {
                return !crashed.contains_key(&letter.to) || self.planted.has(Defect::Amnesia);
            };
            if node.view.epoch != letter.epoch {
                return node.view.epoch < letter.epoch;
            }
            let mut after = node.agreement.clone();
            after.receive(
                &member(letter.from).id,
                letter.msg.clone(),
                &state.dead,
                |_| true,
                &mut Vec::new(),
            );
            after != node.agreement
        });
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
        let node = |p: &Place| (*p, self.node(&member(*p).id, &view));
        vec![State {
            nodes: self.members.iter().map(node).collect(),
            crashed: BTreeMap::new(),
            dead: Vec::new(),
            net: BTreeSet::new(),
            decided: BTreeMap::from([(Epoch(1), view.clone())]),
            fork: false,
            half: false,
            proposals: self.proposals,
            crashes: self.crashes,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fork {
            return;
        }
        for (at, node) in &state.nodes {
            if state.crashes > 0 && self.crashing.contains(at) {
                actions.push(Action::Crash(*at));
            }
            if self.liar && !state.dead.contains(&member(*at).id) {
                actions.push(Action::Declare(*at));
            }
            if state.proposals > 0
                && self.proposers.contains(at)
                && node.view.epoch < Epoch(self.epoch_max)
            {
                let mut wishes = Vec::new();
                self.wishes(state, *at, &node.view, &mut wishes);
                actions.extend(wishes.into_iter().map(|wish| Action::Propose(*at, wish)));
            }
        }
        for at in self.joiners.iter().filter(|j| !state.nodes.contains_key(j)) {
            if state.proposals > 0 && !state.crashed.contains_key(at) {
                let mut wishes = Vec::new();
                self.wishes(state, *at, &state.decided[&Epoch(1)], &mut wishes);
                actions.extend(wishes.into_iter().map(|wish| Action::Intrude(*at, wish)));
            }
        }
        for at in state.crashed.keys() {
            actions.push(Action::Restart(*at));
            if !state.dead.contains(&member(*at).id) {
                actions.push(Action::Declare(*at));
            }
        }
        for letter in &state.net {
            if state
                .nodes
                .get(&letter.to)
                .is_some_and(|node| node.view.epoch == letter.epoch)
            {
                actions.push(Action::Deliver(letter.clone()));
            }
        }
        for (epoch, view) in &state.decided {
            for at in view
                .ids()
                .map(place)
                .filter(|at| !state.crashed.contains_key(at))
            {
                if state
                    .nodes
                    .get(&at)
                    .is_none_or(|node| node.view.epoch < *epoch)
                {
                    actions.push(Action::Install(at, *epoch));
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Propose(at, wish) => {
                state.proposals -= 1;
                let mut effects = Vec::new();
                state
                    .nodes
                    .get_mut(&at)?
                    .agreement
                    .propose(wish, &mut effects);
                self.perform(&mut state, at, effects);
            }
            Action::Intrude(at, wish) => {
                state.proposals -= 1;
                let mut node = self.node(&member(at).id, &state.decided[&Epoch(1)]);
                let mut effects = Vec::new();
                node.agreement.propose(wish, &mut effects);
                if effects.is_empty() {
                    return None;
                }
                state.nodes.insert(at, node);
                self.perform(&mut state, at, effects);
            }
            Action::Deliver(Letter {
                epoch: _,
                from,
                to,
                msg,
            }) => self.receive(&mut state, from, to, msg),
            Action::Install(at, epoch) => {
                let view = state.decided[&epoch].clone();
                state.nodes.insert(at, self.node(&member(at).id, &view));
            }
            Action::Crash(at) => {
                state.crashes -= 1;
                let node = state.nodes.remove(&at)?;
                state.crashed.insert(at, node.view);
            }
            Action::Declare(at) => {
                state.dead.push(member(at).id);
                state.dead.sort();
                let places: Vec<Place> = state.nodes.keys().copied().collect();
                for at in places {
                    let dead = state.dead.clone();
                    let mut effects = Vec::new();
                    state
                        .nodes
                        .get_mut(&at)?
                        .agreement
                        .reconsider(&dead, &mut effects);
                    self.perform(&mut state, at, effects);
                }
            }
            Action::Restart(at) => {
                let view = state.crashed[&at].clone();
                let NodeId { name, incarnation } = member(at).id;
                let incarnation = NodeId::next_incarnation(0, Some(incarnation), self.planted);
                let id = NodeId { name, incarnation };
                if !view.contains(&id) {
                    return None; // one of the joiners
                }
                state.crashed.remove(&at);
                state.nodes.insert(at, self.node(&id, &view));
            }
        }
        self.tidy(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("V1: no epoch has two decided views", |_, state: &State| {
                !state.fork
            }),
            Property::sometimes(
                "the last epoch is decided",
                |config: &Config, state: &State| {
                    state.decided.contains_key(&Epoch(config.epoch_max))
                },
            ),
            Property::sometimes("half of the members decide", |_, state: &State| state.half),
        ]
    }
}

/// Explores every state, and returns how many there are.
fn check(config: Config, half: bool) -> usize {
    let checker = config.checker().threads(2).spawn_bfs().join();
    checker.assert_no_discovery("V1: no epoch has two decided views");
    checker.assert_any_discovery("the last epoch is decided");
    if half {
        checker.assert_any_discovery("half of the members decide");
    }
    checker.unique_state_count()
}

fn assert_caught(config: Config) {
    let checker = config
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    checker.assert_any_discovery("V1: no epoch has two decided views");
}

const PAIR: Config = Config {
    members: &[0, 1],
    joiners: &[2, 3],
    proposers: &[0, 1, 2, 3],
    crashing: &[0, 1, 2, 3],
    proposals: 2,
    crashes: 2,
    epoch_max: 2,
    evicted_max: 1,
    liar: false,
    planted: Planted::NONE,
};

const THREE: Config = Config {
    members: &[0, 1, 2],
    joiners: &[],
    ..PAIR
};

const FOUR: Config = Config {
    members: &[0, 1, 2, 3],
    proposers: &[0, 1],
    crashing: &[2, 3],
    ..THREE
};

#[test]
fn a_pair_with_joiners_never_forks() {
    assert_eq!(check(PAIR, true), 12_385);
}

#[test]
fn three_never_fork() {
    assert_eq!(check(THREE, false), 91_770);
}

#[test]
fn four_never_fork() {
    // With one crash as well it is 232 357 states and 17 s.
    assert_eq!(check(Config { crashes: 0, ..FOUR }, false), 57_389);
}

#[test]
fn half_of_four_decide_when_the_others_are_known_dead() {
    assert_eq!(
        check(
            Config {
                proposals: 1,
                ..FOUR
            },
            true
        ),
        2_831
    );
}

#[test]
fn views_follow_each_other_without_a_fork() {
    assert_eq!(
        check(
            Config {
                epoch_max: 3,
                ..PAIR
            },
            true
        ),
        51_075
    );
}

#[test]
fn declaring_a_living_node_dead_forks() {
    assert_caught(Config { liar: true, ..PAIR });
}

#[cfg(debug_assertions)]
mod defects {
    use super::*;

    #[test]
    fn a_forgetful_restart_under_the_same_identity_forks() {
        assert_caught(Config {
            planted: Defect::Amnesia.into(),
            crashes: 1,
            ..THREE
        });
    }

    #[test]
    fn proposing_without_promises_forks() {
        assert_caught(Config {
            planted: Defect::NoPhase1.into(),
            crashes: 0,
            ..THREE
        });
    }

    #[test]
    fn half_of_the_members_without_known_deaths_fork() {
        assert_caught(Config {
            planted: Defect::Half.into(),
            ..PAIR
        });
    }

    #[test]
    fn less_than_half_fork_however_many_are_known_dead() {
        assert_caught(Config {
            planted: Defect::UnboundedDead.into(),
            evicted_max: 2,
            ..THREE
        });
    }

    #[test]
    fn an_outsider_that_counts_votes_forks() {
        assert_caught(Config {
            planted: Defect::Outsider.into(),
            ..PAIR
        });
    }
}
