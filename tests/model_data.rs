//! The data protocol under every order of messages, crashes, evictions, joins and leaves: see [`model`].
//!
//! Each configuration asserts how many states it has, so that neither the model nor a check can shrink unnoticed;
//! where the protocol changes, the new number belongs into the same commit. `cargo test` visits the small ones; the
//! others take minutes: `cargo test --release --test model_data -- --ignored --nocapture --test-threads 2`.
//!
//! An identity's number is its rank for the one key: 0 is the home. A joiner is a new or a restarted process.

mod model;

use std::collections::BTreeSet;
use std::time::Instant;

use model::checks::heals;
use model::net::Set;
use model::world::{Action, Cfg, Mutation, World};
use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

/// Members 0, 1 and 2; two clients with one operation each; one crash and one eviction.
const THREE: Cfg = Cfg::BASE;

fn set(members: &[u8]) -> Set {
    members.iter().map(|n| 1 << n).sum()
}

/// Three members, of which some are evicted, and a fourth node that joins or replaces.
fn joined_by(joiner: u8) -> Cfg {
    let all = set(&[0, 1, 2, 3]);
    Cfg {
        init: all & !set(&[joiner]),
        joiners: set(&[joiner]),
        joins: 1,
        ..THREE
    }
}

struct Explored {
    states: usize,
    violated: Option<(&'static str, Path<World, Action>)>,
    unreached: Vec<&'static str>,
}

/// Visits every state of a configuration, or stops at the first violation.
fn explore(cfg: &Cfg) -> Explored {
    let start = Instant::now();
    let of = |expectation: Expectation| -> BTreeSet<&'static str> {
        cfg.properties()
            .iter()
            .filter(|p| p.expectation == expectation)
            .map(|p| p.name)
            .collect()
    };
    let (invariants, goals) = (of(Expectation::Always), of(Expectation::Sometimes));
    let checker = cfg
        .clone()
        .checker()
        .threads(1)
        .finish_when(HasDiscoveries::AnyOf(invariants.clone()))
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    let states = checker.unique_state_count();
    println!(
        "{states} states, {} steps, {:.1} s: {cfg:?}",
        checker.state_count(),
        start.elapsed().as_secs_f32()
    );
    Explored {
        states,
        unreached: goals
            .into_iter()
            .filter(|goal| !found.contains_key(goal))
            .collect(),
        violated: found
            .into_iter()
            .find(|(check, _)| invariants.contains(check)),
    }
}

/// Every state of the configuration keeps every invariant, and there are exactly so many.
fn holds(cfg: &Cfg, states: usize) {
    let explored = explore(cfg);
    if let Some((check, path)) = explored.violated {
        let last = path.last_state().clone();
        path.into_actions()
            .iter()
            .for_each(|action| println!("   {action:?}"));
        println!("{last:?}\n{:?}", heals(cfg, &last));
        panic!("violated: {check}");
    }
    assert_eq!(
        explored.unreached,
        Vec::<&str>::new(),
        "these never happen, so the model is empty"
    );
    assert_eq!(explored.states, states, "the number of states changed");
}

/// Some check finds the deliberate defect.
fn is_caught(mutation: Mutation, cfg: Cfg) {
    let found = explore(&Cfg {
        mutation,
        live_every: 0,
        ..cfg
    })
    .violated;
    let (check, path) = found.unwrap_or_else(|| panic!("no check finds the defect {mutation:?}"));
    println!(
        "{mutation:?} violates, after {} steps: {check}",
        path.into_actions().len()
    );
}

#[test]
fn three_members_and_a_retry() {
    holds(
        &Cfg {
            clients: 1,
            retries: 1,
            live_every: 1,
            ..THREE
        },
        14_389,
    );
}

#[test]
fn three_members_and_two_clients() {
    holds(
        &Cfg {
            live_every: 8,
            ..THREE
        },
        25_199,
    );
}

#[test]
fn several_versions_under_way() {
    holds(
        &Cfg {
            slow_actor: true,
            ..THREE
        },
        51_121,
    );
    holds(
        &Cfg {
            slow_puts: true,
            ..THREE
        },
        25_081,
    );
    holds(
        &Cfg {
            slow_actor: true,
            slow_puts: true,
            crashes: 0,
            ..THREE
        },
        60_122,
    );
}

#[test]
fn a_joiner_becomes_the_home() {
    holds(
        &Cfg {
            clients: 1,
            ..joined_by(0)
        },
        80_056,
    );
}

#[test]
fn a_joiner_becomes_the_first_keeper() {
    holds(
        &Cfg {
            clients: 1,
            ..joined_by(1)
        },
        97_353,
    );
}

#[test]
fn a_joiner_comes_to_the_survivor_of_two() {
    holds(
        &Cfg {
            init: set(&[1, 2]),
            clients: 1,
            retries: 1,
            ..joined_by(0)
        },
        87_278,
    );
    holds(
        &Cfg {
            init: set(&[0, 1]),
            clients: 1,
            retries: 1,
            ..joined_by(2)
        },
        89_500,
    );
}

#[test]
fn reads_under_a_lease() {
    holds(
        &Cfg {
            ops: 2,
            reads: true,
            lease: true,
            crashes: 0,
            ..THREE
        },
        128_112,
    );
}

#[test]
fn a_leave_beside_an_eviction() {
    holds(
        &Cfg {
            clients: 1,
            retries: 1,
            leaves: 1,
            crashes: 0,
            ..THREE
        },
        104_621,
    );
}

#[test]
fn two_backups_survive_two_losses() {
    let four = set(&[0, 1, 2, 3]);
    holds(
        &Cfg {
            backups: 2,
            init: four,
            clients: 1,
            crashes: 2,
            ..THREE
        },
        67_483,
    );
}

#[test]
fn two_losses_one_after_the_other() {
    holds(
        &Cfg {
            init: set(&[0, 1, 2, 3]),
            clients: 1,
            crashes: 2,
            evicts: 2,
            ..THREE
        },
        27_236,
    );
}

#[test]
fn more_losses_than_backups_break_nothing_but_the_promise_to_keep() {
    holds(
        &Cfg {
            constrained: false,
            ..THREE
        },
        36_812,
    );
}

/// All configurations of the executable specification that fit into memory, and more of the real machine.
#[test]
#[ignore = "minutes, and gigabytes of memory: cargo test --release --test model_data -- --ignored --nocapture"]
fn everything_that_fits() {
    let four = Cfg {
        init: set(&[0, 1, 2, 3]),
        ..THREE
    };
    let table = [
        (
            Cfg {
                retries: 1,
                ..THREE
            },
            0,
        ),
        (
            Cfg {
                ops: 2,
                reads: true,
                lease: true,
                ..THREE
            },
            0,
        ),
        (
            Cfg {
                slow_actor: true,
                slow_puts: true,
                ..THREE
            },
            0,
        ),
        (
            Cfg {
                slow_actor: true,
                clients: 1,
                retries: 1,
                ..THREE
            },
            0,
        ),
        (
            Cfg {
                slow_actor: true,
                slow_puts: true,
                clients: 1,
                ..joined_by(0)
            },
            0,
        ),
        (joined_by(0), 0),
        (joined_by(1), 0),
        (joined_by(2), 0),
        (
            Cfg {
                joiners: set(&[3]),
                joins: 1,
                ..THREE
            },
            0,
        ),
        (
            Cfg {
                clients: 1,
                retries: 1,
                ..joined_by(0)
            },
            0,
        ),
        (
            Cfg {
                reads: true,
                lease: true,
                ..joined_by(0)
            },
            0,
        ),
        (
            Cfg {
                init: set(&[0, 1]),
                retries: 1,
                ..joined_by(2)
            },
            0,
        ),
        (
            Cfg {
                init: set(&[1, 2]),
                retries: 1,
                ..joined_by(0)
            },
            0,
        ),
        (
            Cfg {
                crashes: 2,
                evicts: 2,
                ..four.clone()
            },
            0,
        ),
        (
            Cfg {
                clients: 1,
                leaves: 1,
                ..four.clone()
            },
            0,
        ),
        (
            Cfg {
                backups: 2,
                ..four.clone()
            },
            0,
        ),
        (
            Cfg {
                backups: 2,
                evicts: 2,
                clients: 1,
                ..four.clone()
            },
            0,
        ),
        (
            Cfg {
                constrained: false,
                clients: 1,
                crashes: 2,
                evicts: 2,
                retries: 1,
                live_every: 0,
                ..four
            },
            0,
        ),
        (
            Cfg {
                constrained: false,
                live_every: 0,
                ..joined_by(0)
            },
            0,
        ),
    ];
    let only: Option<usize> = std::env::var("ONLY").ok().and_then(|n| n.parse().ok());
    for (_, (cfg, states)) in table
        .iter()
        .enumerate()
        .filter(|(n, _)| only.is_none_or(|only| only == *n))
    {
        holds(cfg, *states);
    }
}

#[test]
fn the_checks_catch_a_missing_barrier() {
    is_caught(Mutation::NoBarrier, THREE);
}

#[test]
fn the_checks_catch_a_done_without_acknowledgements() {
    is_caught(Mutation::DoneWithoutAcks, THREE);
}

#[test]
fn the_checks_catch_writes_of_other_epochs() {
    is_caught(
        Mutation::NoEpochCheckOnPut,
        Cfg {
            clients: 1,
            ..joined_by(0)
        },
    );
}

#[test]
fn the_checks_catch_an_answer_before_the_acknowledgement() {
    is_caught(Mutation::ReplyBeforeAck, THREE);
}

#[test]
fn the_checks_catch_an_actor_that_ignores_request_ids() {
    is_caught(Mutation::NoDedup, THREE);
}

#[test]
fn the_checks_catch_a_retry_that_is_answered_at_once() {
    is_caught(
        Mutation::DedupReplyAtOnce,
        Cfg {
            clients: 1,
            retries: 1,
            ..THREE
        },
    );
}

#[test]
fn the_checks_catch_an_evicted_identity_that_comes_back() {
    is_caught(Mutation::Readmit, Cfg { joins: 1, ..THREE });
}

#[test]
fn the_checks_catch_a_second_grant_while_the_first_is_not_confirmed() {
    is_caught(Mutation::RegrantUnconfirmed, THREE);
}

#[test]
fn the_checks_catch_a_grant_of_an_older_epoch() {
    is_caught(
        Mutation::LateGrant,
        Cfg {
            crashes: 0,
            ..joined_by(0)
        },
    );
}

#[test]
#[ignore = "half a minute: cargo test --release --test model_data -- --ignored"]
fn the_checks_catch_a_grant_that_counts_as_an_acknowledgement() {
    is_caught(
        Mutation::GrantIsAck,
        Cfg {
            reads: true,
            lease: true,
            ..joined_by(0)
        },
    );
}
