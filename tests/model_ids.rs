//! I3, model-checked: of requests that nodes forward under ids of their own none is applied twice, and none that may be
//! asked for again is forgotten, however late messages arrive, how often, and in which order.
//!
//! The [`Issuer`]s and the [`Ring`] are the real ones. A message that was sent can arrive at any time from then on, again
//! and again, or never; the actor can crash, and then goes on from its backup. Only what is backed up is answered.

use std::collections::{BTreeMap, BTreeSet};

use statekeeper::protocol::defect::Planted;
use statekeeper::protocol::ring::{Issuer, Known, Ring};
use statekeeper::protocol::types::RequestId;
use stateright::{Checker, HasDiscoveries, Model, Property};

const ONCE: &str = "I3: no request is applied twice";
const KNOWN: &str = "the reply of what may be asked for again is known";
const FORGETS: &str = "replies that were heard are forgotten";

#[derive(Clone, Copy)]
struct Config {
    issuers: usize,
    /// How many requests each of them gives an id.
    requests: usize,
    /// How often requests are sent once more, all together.
    resends: u8,
    crashes: u8,
    /// How many requests are given up, all together.
    given_up: u8,
    planted: Planted,
}

/// An actor: its memory, and how often it applied what.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Actor {
    ring: Ring,
    applied: BTreeMap<RequestId, u8>,
}

/// A request on its way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Sent {
    id: RequestId,
    span: u16,
    again: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    issuers: Vec<Issuer>,
    issued: Vec<usize>,
    net: BTreeSet<Sent>,
    actor: Actor,
    backup: Actor,
    resends: u8,
    crashes: u8,
    given_up: u8,
    /// A request that may be asked for again was refused, since nobody knows what became of it.
    refused: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Action {
    Issue(usize),
    Resend(usize, RequestId),
    Arrive(Sent),
    Backup,
    Crash,
    Hear(usize, RequestId),
    GiveUp(usize, RequestId),
}

impl State {
    fn open(&self) -> impl Iterator<Item = (usize, RequestId)> {
        let of = |(at, issuer): (usize, &Issuer)| {
            let ids: Vec<RequestId> = issuer.open().collect();
            ids.into_iter().map(move |id| (at, id))
        };
        self.issuers.iter().enumerate().flat_map(of)
    }

    fn send(&mut self, at: usize, id: RequestId, again: bool, planted: Planted) {
        let span = self.issuers[at].span(id, planted);
        self.net.insert(Sent { id, span, again });
    }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let issuer = |n| Issuer::new(&format!("{n}@h#1"), 0);
        vec![State {
            issuers: (0..self.issuers).map(issuer).collect(),
            issued: vec![0; self.issuers],
            net: BTreeSet::new(),
            actor: Actor::default(),
            backup: Actor::default(),
            resends: 0,
            crashes: 0,
            given_up: 0,
            refused: false,
        }]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        let may_issue = (0..self.issuers).filter(|at| s.issued[*at] < self.requests);
        actions.extend(may_issue.map(Action::Issue));
        actions.extend(s.net.iter().copied().map(Action::Arrive));
        if s.backup != s.actor {
            actions.push(Action::Backup);
            if s.crashes < self.crashes {
                actions.push(Action::Crash);
            }
        }
        for (at, id) in s.open() {
            if s.resends < self.resends {
                actions.push(Action::Resend(at, id));
            }
            if s.given_up < self.given_up {
                actions.push(Action::GiveUp(at, id));
            }
            if s.backup.applied.contains_key(&id) {
                actions.push(Action::Hear(at, id));
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut s = before.clone();
        match action {
            Action::Issue(at) => {
                s.issued[at] += 1;
                let id = s.issuers[at].issue();
                s.send(at, id, false, self.planted);
            }
            Action::Resend(at, id) => {
                s.resends += 1;
                s.send(at, id, true, self.planted);
            }
            Action::Arrive(Sent { id, span, again }) => {
                let is_open = s.open().any(|(_, open)| open == id);
                match s.actor.ring.judge(Some(id), again, self.planted) {
                    Known::New => {
                        s.actor.ring.remember(id, span, b"reply");
                        *s.actor.applied.entry(id).or_default() += 1;
                    }
                    Known::Replied(_) => {}
                    Known::Forgotten => s.refused |= is_open,
                }
            }
            Action::Backup => s.backup = s.actor.clone(),
            Action::Crash => {
                s.crashes += 1;
                s.actor = s.backup.clone();
            }
            Action::Hear(at, id) => s.issuers[at].close(id),
            Action::GiveUp(at, id) => {
                s.given_up += 1;
                s.issuers[at].close(id);
            }
        }
        (s != *before).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONCE, |_, s: &State| {
                s.actor.applied.values().all(|times| *times <= 1)
            }),
            Property::always(KNOWN, |_, s: &State| {
                let applied = |id: &RequestId| s.actor.applied.contains_key(id);
                let mut open = s.open().map(|(_, id)| id).filter(applied);
                !s.refused && open.all(|id| s.actor.ring.iter().any(|(known, _)| known == id))
            }),
            Property::sometimes(FORGETS, |_, s: &State| {
                s.actor.ring.len() < s.actor.applied.len()
            }),
        ]
    }
}

const ONE: Config = Config {
    issuers: 1,
    requests: 4,
    resends: 2,
    crashes: 1,
    given_up: 1,
    planted: Planted::NONE,
};

const TWO: Config = Config {
    issuers: 2,
    requests: 2,
    resends: 2,
    ..ONE
};

/// How many states there are; none of them is wrong.
fn check(config: Config) -> usize {
    let checker = config.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    checker.unique_state_count()
}

#[test]
fn what_one_node_forwards_is_applied_once() {
    assert_eq!(check(ONE), 488_001);
}

#[test]
fn what_two_nodes_forward_is_applied_once() {
    assert_eq!(check(TWO), 254_831);
}

#[cfg(debug_assertions)]
mod defects {
    use statekeeper::protocol::defect::Defect;

    use super::*;

    fn is_caught(defect: Defect, property: &'static str) {
        let config = Config {
            planted: defect.into(),
            ..ONE
        };
        let checker = config.checker();
        let checker = checker.finish_when(HasDiscoveries::AnyFailures);
        checker.spawn_bfs().join().assert_any_discovery(property);
    }

    #[test]
    fn what_is_said_to_be_heard_and_is_not_gets_no_reply() {
        is_caught(Defect::UnheardForgotten, KNOWN);
    }

    #[test]
    fn a_request_that_comes_late_is_applied_twice() {
        is_caught(Defect::LateRequest, ONCE);
    }
}
