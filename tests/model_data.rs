//! The data protocol under every order of messages, crashes, evictions, joins and leaves: see [`model`].
//!
//! Each configuration asserts how many states it has, so that neither the model nor a check can shrink unnoticed;
//! where the protocol changes, the new number belongs into the same commit. `cargo test` visits the small ones, and
//! the deliberate defects, which a release build cannot have. All sizes of all models, half an hour and 6 GB of memory:
//! `cargo test --release --test 'model_*' -- --include-ignored --nocapture --test-threads 1`.
//!
//! An identity's number is its rank for the one key: 0 is the home. A joiner is a new or a restarted process.

mod model;

use std::collections::BTreeSet;
use std::time::Instant;

use model::checks::heals;
use model::net::Set;
use model::world::{Action, Cfg, World};
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

/// Visits every state of a configuration, or stops at the first violation of any invariant.
fn explore(cfg: &Cfg) -> Explored {
    explore_until(cfg, |_| true)
}

/// Visits every state of a configuration, or stops at the first violation of an invariant that counts.
fn explore_until(cfg: &Cfg, counts: impl Fn(&str) -> bool) -> Explored {
    let start = Instant::now();
    let of = |expectation: Expectation| -> BTreeSet<&'static str> {
        cfg.properties()
            .iter()
            .filter(|p| p.expectation == expectation)
            .map(|p| p.name)
            .collect()
    };
    let (mut invariants, goals) = (of(Expectation::Always), of(Expectation::Sometimes));
    invariants.retain(|invariant| counts(invariant));
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

/// All of these do, or the one with the number `ONLY`.
fn all_hold(table: &[(Cfg, usize)]) {
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
fn three_members_and_a_retry() {
    holds(
        &Cfg {
            clients: 1,
            retries: 1,
            live_every: 1,
            ..THREE
        },
        16_833,
    );
}

#[test]
fn three_members_and_two_clients() {
    holds(
        &Cfg {
            live_every: 8,
            ..THREE
        },
        29_007,
    );
}

#[test]
fn several_versions_under_way() {
    holds(
        &Cfg {
            slow_actor: true,
            ..THREE
        },
        57_499,
    );
    holds(
        &Cfg {
            slow_puts: true,
            ..THREE
        },
        28_075,
    );
    holds(
        &Cfg {
            slow_actor: true,
            slow_puts: true,
            crashes: 0,
            ..THREE
        },
        66_140,
    );
}

#[test]
fn a_joiner_becomes_the_home() {
    holds(
        &Cfg {
            clients: 1,
            ..joined_by(0)
        },
        166_793,
    );
}

#[test]
fn a_joiner_becomes_the_first_keeper() {
    holds(
        &Cfg {
            clients: 1,
            ..joined_by(1)
        },
        106_470,
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
        211_654,
    );
    holds(
        &Cfg {
            init: set(&[0, 1]),
            clients: 1,
            retries: 1,
            ..joined_by(2)
        },
        108_614,
    );
}

#[test]
fn requests_that_go_past_the_part() {
    holds(
        &Cfg {
            direct: true,
            slow_actor: true,
            ..THREE
        },
        58_457,
    );
    holds(
        &Cfg {
            direct: true,
            slow_puts: true,
            clients: 1,
            retries: 1,
            ..THREE
        },
        13_653,
    );
    holds(
        &Cfg {
            direct: true,
            slow_puts: true,
            reads: true,
            lease: true,
            ops: 2,
            crashes: 0,
            ..THREE
        },
        261_699,
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
        155_565,
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
        145_935,
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
        65_585,
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
        35_116,
    );
}

#[test]
fn more_losses_than_backups_break_nothing_but_the_promise_to_keep() {
    holds(
        &Cfg {
            constrained: false,
            ..THREE
        },
        42_146,
    );
}

/// One client, whose actor may go to rest whenever it is idle.
const RESTED: Cfg = Cfg {
    clients: 1,
    rests: 1,
    crashes: 0,
    evicts: 0,
    live_every: 1,
    ..THREE
};

/// Whoever was the owner a moment ago, or never: a request that goes there first is answered once, and with the truth.
#[test]
fn a_hint_may_be_wrong() {
    let table = [
        (
            Cfg {
                clients: 1,
                retries: 1,
                hints: true,
                live_every: 1,
                ..THREE
            },
            97_560,
        ),
        (
            Cfg {
                hints: true,
                crashes: 0,
                ..THREE
            },
            82_301,
        ),
        (
            Cfg {
                hints: true,
                ops: 2,
                ..RESTED
            },
            8_285,
        ),
        (
            Cfg {
                hints: true,
                clients: 1,
                crashes: 0,
                evicts: 0,
                ..joined_by(0)
            },
            3_305,
        ),
        (
            Cfg {
                hints: true,
                clients: 1,
                crashes: 0,
                leaves: 1,
                evicts: 0,
                ..THREE
            },
            8_911,
        ),
    ];
    all_hold(&table);
}

#[test]
fn an_actor_at_rest_is_asked_again() {
    holds(
        &Cfg {
            retries: 1,
            ..RESTED
        },
        3_903,
    );
    holds(
        &Cfg {
            ops: 2,
            slow_actor: true,
            slow_puts: true,
            ..RESTED
        },
        8_308,
    );
    holds(
        &Cfg {
            clients: 2,
            reads: true,
            lease: true,
            ..RESTED
        },
        5_907,
    );
}

#[test]
fn an_actor_goes_to_rest_twice_in_one_epoch() {
    holds(
        &Cfg {
            rests: 2,
            ops: 2,
            live_every: 4,
            ..RESTED
        },
        21_088,
    );
}

#[test]
fn an_actor_goes_to_rest_beside_a_loss() {
    holds(
        &Cfg {
            ops: 2,
            crashes: 1,
            evicts: 1,
            live_every: 4,
            ..RESTED
        },
        95_093,
    );
    holds(
        &Cfg {
            retries: 1,
            evicts: 1,
            live_every: 16,
            ..RESTED
        },
        69_236,
    );
}

#[test]
fn an_actor_with_two_backups_goes_to_rest() {
    holds(
        &Cfg {
            backups: 2,
            init: set(&[0, 1, 2, 3]),
            crashes: 1,
            ..RESTED
        },
        2_471,
    );
}

#[test]
fn an_actor_goes_to_rest_beside_a_join_or_a_leave() {
    holds(
        &Cfg {
            live_every: 1,
            init: joined_by(0).init,
            joiners: set(&[0]),
            joins: 1,
            ..RESTED
        },
        3_823,
    );
    holds(
        &Cfg {
            ops: 2,
            leaves: 1,
            live_every: 16,
            ..RESTED
        },
        159_549,
    );
}

/// More of them at once: the same command.
#[test]
#[ignore = "minutes, and gigabytes of memory: the command is at the top of this file"]
fn everything_at_rest_that_fits() {
    let table = [
        (
            Cfg {
                ops: 2,
                rests: 2,
                crashes: 1,
                evicts: 1,
                live_every: 64,
                ..RESTED
            },
            398_456,
        ),
        (
            Cfg {
                retries: 1,
                crashes: 1,
                evicts: 1,
                live_every: 64,
                ..RESTED
            },
            120_087,
        ),
        (
            Cfg {
                retries: 1,
                rests: 2,
                live_every: 64,
                ..RESTED
            },
            23_228,
        ),
        (
            Cfg {
                clients: 2,
                crashes: 1,
                evicts: 1,
                live_every: 64,
                ..RESTED
            },
            300_675,
        ),
        (
            Cfg {
                crashes: 1,
                evicts: 1,
                live_every: 64,
                init: joined_by(0).init,
                joiners: set(&[0]),
                joins: 1,
                ..RESTED
            },
            515_261,
        ),
        (
            Cfg {
                backups: 2,
                init: set(&[0, 1, 2, 3]),
                ops: 2,
                live_every: 64,
                ..RESTED
            },
            186_994,
        ),
        (
            Cfg {
                clients: 2,
                rests: 2,
                reads: true,
                lease: true,
                live_every: 64,
                ..RESTED
            },
            37_082,
        ),
        (
            Cfg {
                ops: 2,
                leaves: 1,
                evicts: 1,
                live_every: 64,
                ..RESTED
            },
            867_497,
        ),
        (
            Cfg {
                ops: 2,
                crashes: 1,
                evicts: 1,
                slow_actor: true,
                slow_puts: true,
                live_every: 64,
                ..RESTED
            },
            372_194,
        ),
        (
            Cfg {
                ops: 2,
                init: joined_by(1).init,
                joiners: set(&[1]),
                joins: 1,
                ..RESTED
            },
            153_736,
        ),
        (
            Cfg {
                ops: 2,
                live_every: 64,
                init: joined_by(0).init,
                joiners: set(&[0]),
                joins: 1,
                ..RESTED
            },
            479_599,
        ),
    ];
    all_hold(&table);
}

/// All configurations of the executable specification that fit into memory, and more of the real machine.
#[test]
#[ignore = "half an hour, and gigabytes of memory: the command is at the top of this file"]
fn everything_that_fits() {
    let three = Cfg {
        slow_reports: false,
        ..THREE
    };
    let joined_by = |joiner| Cfg {
        slow_reports: false,
        ..joined_by(joiner)
    };
    let four = Cfg {
        init: set(&[0, 1, 2, 3]),
        ..three.clone()
    };
    let table = [
        (
            Cfg {
                retries: 1,
                ..three.clone()
            },
            573_284,
        ),
        (
            Cfg {
                ops: 2,
                reads: true,
                lease: true,
                ..three.clone()
            },
            345_209,
        ),
        (
            Cfg {
                slow_actor: true,
                slow_puts: true,
                ..three.clone()
            },
            121_538,
        ),
        (
            Cfg {
                slow_actor: true,
                clients: 1,
                retries: 1,
                ..three.clone()
            },
            36_319,
        ),
        (
            Cfg {
                slow_actor: true,
                slow_puts: true,
                clients: 1,
                ..joined_by(0)
            },
            410_676,
        ),
        (joined_by(0), 4_473_046),
        (joined_by(1), 3_483_914),
        (joined_by(2), 3_161_552),
        (
            Cfg {
                joiners: set(&[3]),
                joins: 1,
                ..three.clone()
            },
            2_779_825,
        ),
        (
            Cfg {
                clients: 1,
                retries: 1,
                ..joined_by(0)
            },
            2_534_029,
        ),
        (
            Cfg {
                reads: true,
                lease: true,
                ..joined_by(0)
            },
            2_883_147,
        ),
        (
            Cfg {
                init: set(&[0, 1]),
                retries: 1,
                ..joined_by(2)
            },
            3_477_604,
        ),
        (
            Cfg {
                init: set(&[1, 2]),
                retries: 1,
                ..joined_by(0)
            },
            5_914_787,
        ),
        (
            Cfg {
                crashes: 2,
                evicts: 2,
                ..four.clone()
            },
            1_663_496,
        ),
        (
            Cfg {
                clients: 1,
                leaves: 1,
                ..four.clone()
            },
            1_044_468,
        ),
        (
            Cfg {
                backups: 2,
                ..four.clone()
            },
            5_339_921,
        ),
        (
            Cfg {
                backups: 2,
                evicts: 2,
                clients: 1,
                ..four.clone()
            },
            458_757,
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
            5_951_934,
        ),
    ];
    all_hold(&table);
}

/// Each deliberate defect of the data protocol violates a check, in a small configuration.
#[cfg(debug_assertions)]
mod defects {
    use model::checks::*;
    use statekeeper::protocol::defect::Defect;

    use super::*;

    /// One client's operation, one crash and one eviction.
    const ONE: Cfg = Cfg {
        clients: 1,
        live_every: 0,
        ..THREE
    };

    /// And once more, by any node.
    const RETRIED: Cfg = Cfg { retries: 1, ..ONE };

    /// A fourth node joins or replaces, and becomes the home.
    fn new_home() -> Cfg {
        Cfg {
            clients: 1,
            crashes: 0,
            live_every: 0,
            ..joined_by(0)
        }
    }

    /// Its actor goes to rest, and another client asks.
    const RESTING: Cfg = Cfg {
        rests: 1,
        ops: 2,
        crashes: 0,
        evicts: 0,
        live_every: 1,
        ..ONE
    };

    fn violates(check: &str, defect: Defect, cfg: Cfg) {
        let planted = defect.into();
        let found = explore_until(&Cfg { planted, ..cfg }, |invariant| invariant == check);
        let (_, path) = found
            .violated
            .unwrap_or_else(|| panic!("{defect:?} does not violate {check}"));
        println!(
            "{defect:?} after {} steps: {check}",
            path.into_actions().len()
        );
    }

    #[test]
    fn authority_without_a_barrier_loses_what_was_acknowledged() {
        violates(I2_AUTHORITY, Defect::NoBarrier, ONE);
    }

    #[test]
    fn a_record_granted_before_the_barrier_loses_what_was_acknowledged() {
        violates(I2_AUTHORITY, Defect::KnownRecordsAtOnce, new_home());
    }

    #[test]
    fn a_home_that_does_not_wait_for_all_reports_loses_what_was_acknowledged() {
        violates(I2_AUTHORITY, Defect::PartialInquiry, new_home());
    }

    #[test]
    fn a_write_of_an_earlier_epoch_loses_what_was_acknowledged() {
        let new_keeper = Cfg {
            crashes: 1,
            joiners: set(&[1]),
            init: set(&[0, 2, 3]),
            ..new_home()
        };
        violates(I2_DURABLE, Defect::NoEpochCheckOnPut, new_keeper);
    }

    #[test]
    fn a_grant_of_an_earlier_epoch_breaks_the_order_of_generations() {
        violates(UNBROKEN, Defect::LateGrant, ONE);
    }

    #[test]
    fn an_unconfirmed_record_that_is_not_passed_on_is_lost() {
        violates(I2_DURABLE, Defect::OnlyDeadOwnersPushed, RETRIED);
    }

    #[test]
    fn a_record_dropped_at_the_install_is_lost() {
        violates(I2_DURABLE, Defect::DropAtInstall, new_home());
    }

    #[test]
    fn done_before_the_copies_are_there_loses_what_was_acknowledged() {
        violates(I2_AUTHORITY, Defect::DoneWithoutAcks, ONE);
    }

    #[test]
    fn a_record_without_a_second_copy_is_lost() {
        violates(I2_DURABLE, Defect::NoOrphanCopy, ONE);
    }

    #[test]
    fn a_write_whose_acknowledgement_is_presumed_is_lost() {
        violates(I2_DURABLE, Defect::PushByDiff, RETRIED);
    }

    #[test]
    fn authority_carried_over_an_incomplete_barrier_loses_what_was_acknowledged() {
        violates(I2_AUTHORITY, Defect::CarryWithoutComplete, new_home());
    }

    #[test]
    fn an_answer_before_the_copy_is_there_is_lost() {
        violates(I2_AUTHORITY, Defect::ReplyBeforeAck, ONE);
    }

    #[test]
    fn an_actor_that_does_not_hear_the_ids_applies_a_retry_twice() {
        violates(I3, Defect::NoDedup, RETRIED);
    }

    #[test]
    fn a_retry_answered_before_the_copy_is_there_is_lost() {
        violates(I2_AUTHORITY, Defect::DedupReplyAtOnce, RETRIED);
    }

    #[test]
    fn a_second_grant_before_the_first_is_confirmed_makes_two_owners() {
        violates(I1_OWN, Defect::RegrantUnconfirmed, RETRIED);
    }

    #[test]
    fn a_grant_taken_for_an_acknowledgement_makes_two_owners() {
        let read = Cfg {
            clients: 2,
            reads: true,
            lease: true,
            ..new_home()
        };
        violates(I1_OWN, Defect::GrantIsAck, read);
    }

    #[test]
    fn an_actor_that_answers_what_is_not_backed_up_lets_a_read_be_forgotten() {
        let read = Cfg {
            clients: 2,
            ops: 2,
            direct: true,
            reads: true,
            lease: true,
            slow_puts: true,
            ..ONE
        };
        violates(I2_ANSWER, Defect::ReadAhead, read);
    }

    #[test]
    fn a_record_at_rest_dropped_before_the_others_have_it_is_lost() {
        let crash = Cfg {
            ops: 1,
            crashes: 1,
            ..RESTING
        };
        violates(I2_DURABLE, Defect::RestWithoutAcks, crash);
    }

    #[test]
    fn an_actor_that_rests_without_a_version_of_its_own_is_never_served_again() {
        violates(I4, Defect::RestSameVersion, RESTING);
    }

    #[test]
    fn a_grant_of_before_the_rest_makes_two_owners() {
        violates(I1_OWN, Defect::GrantBeforeRest, RESTING);
    }

    #[test]
    fn a_grant_of_before_the_rest_forgets_what_was_acknowledged() {
        violates(
            I2_ANSWER,
            Defect::GrantBeforeRest,
            Cfg {
                rests: 2,
                ..RESTING
            },
        );
    }
}
