//! Whole nodes under bounded deviations from a default schedule: see [`whole`].

mod whole;

use std::collections::BTreeSet;
use std::time::Instant;

use statekeeper::protocol::defect::Planted;
use stateright::{Checker, HasDiscoveries, Model, Path};
use whole::choices::Action;
use whole::world::{Budget, Cfg, World, checks, goals};

const NOTHING: Budget = Budget {
    requests: 0,
    holds: 0,
    crashes: 0,
    obituaries: 0,
    restarts: 0,
    cuts: 0,
    forgets: 0,
    leaves: 0,
    rests: 0,
    connects: &[],
};

/// Three members of one cluster.
const THREE: Cfg = Cfg {
    nodes: 3,
    formed: true,
    heals: true,
    budget: NOTHING,
    ticks: 20,
    heal_ticks: 14,
    cut_ticks: 6,
    planted: Planted::NONE,
};

/// The same of two.
const TWO: Cfg = Cfg { nodes: 2, ..THREE };

struct Explored {
    states: usize,
    found: BTreeSet<&'static str>,
    violated: Option<(&'static str, Path<World, Action>)>,
}

/// Visits every state, or stops at the first violation of a check that counts.
fn explore(cfg: &Cfg, counts: &[&'static str]) -> Explored {
    let start = Instant::now();
    let counts: BTreeSet<&'static str> = counts.iter().copied().collect();
    let checker = (*cfg)
        .checker()
        .threads(1)
        .finish_when(HasDiscoveries::AnyOf(counts.clone()))
        .spawn_dfs()
        .join();
    let (states, seconds) = (checker.unique_state_count(), start.elapsed().as_secs_f32());
    println!("{states} states, {seconds:.1} s: {:?}", cfg.budget);
    let discoveries = checker.discoveries();
    Explored {
        states,
        found: discoveries.keys().copied().collect(),
        violated: discoveries
            .into_iter()
            .find(|(check, _)| counts.contains(check)),
    }
}

/// Every state keeps every check, these goals are reached, and there are exactly so many states.
fn holds(cfg: &Cfg, goals: &[&str], states: usize) {
    let explored = explore(cfg, &checks::ALL);
    if let Some((check, path)) = explored.violated {
        let last = path.last_state().clone();
        for (before, action) in path.into_vec() {
            println!("{}", before.line());
            println!("{action:?}");
        }
        println!("{last:#?}");
        panic!("violated: {check}");
    }
    for goal in goals {
        assert!(explored.found.contains(goal), "this never happens: {goal}");
    }
    assert_eq!(explored.states, states, "the number of states changed");
}

#[test]
fn a_crash_that_one_node_notices_late() {
    let budget = Budget {
        requests: 1,
        crashes: 1,
        holds: 1,
        ..NOTHING
    };
    holds(
        &Cfg { budget, ..THREE },
        &[goals::ANSWERED, goals::RECOVERED],
        219_318,
    );
}

#[test]
fn a_crash_between_two_requests() {
    let budget = Budget {
        requests: 2,
        crashes: 1,
        ..NOTHING
    };
    holds(
        &Cfg { budget, ..THREE },
        &[goals::ANSWERED, goals::RECOVERED],
        72_989,
    );
}

#[test]
fn a_witnessed_crash() {
    let budget = Budget {
        requests: 1,
        crashes: 1,
        obituaries: 1,
        ..NOTHING
    };
    holds(
        &Cfg { budget, ..THREE },
        &[goals::WITNESSED, goals::RECOVERED],
        103_580,
    );
}

#[test]
fn a_node_cut_off_is_evicted_and_comes_back() {
    let budget = Budget {
        requests: 1,
        cuts: 1,
        holds: 1,
        ..NOTHING
    };
    holds(
        &Cfg { budget, ..THREE },
        &[goals::ANSWERED, goals::REJOINED],
        87_603,
    );
}

#[test]
fn both_sides_of_a_cut_are_asked() {
    let budget = Budget {
        requests: 2,
        cuts: 1,
        ..NOTHING
    };
    holds(
        &Cfg { budget, ..THREE },
        &[goals::ANSWERED, goals::REJOINED],
        34_486,
    );
}

#[test]
fn the_survivor_of_two_goes_on_with_the_restarted_other() {
    let budget = Budget {
        requests: 1,
        crashes: 1,
        restarts: 1,
        holds: 1,
        ..NOTHING
    };
    holds(
        &Cfg { budget, ..TWO },
        &[goals::ANSWERED, goals::RECOVERED],
        100_218,
    );
}

#[test]
fn a_restart_beside_an_eviction() {
    let budget = Budget {
        requests: 1,
        crashes: 1,
        restarts: 1,
        ..NOTHING
    };
    holds(
        &Cfg { budget, ..THREE },
        &[goals::ANSWERED, goals::RECOVERED],
        33_354,
    );
}

#[test]
fn a_crashed_node_is_forgotten() {
    let budget = Budget {
        requests: 1,
        crashes: 1,
        forgets: 1,
        ..NOTHING
    };
    holds(
        &Cfg { budget, ..THREE },
        &[goals::ANSWERED, goals::RECOVERED],
        40_554,
    );
}

#[test]
fn a_node_leaves() {
    let budget = Budget {
        requests: 1,
        leaves: 1,
        ..NOTHING
    };
    holds(
        &Cfg { budget, ..THREE },
        &[goals::ANSWERED, goals::LEFT],
        4_501,
    );
    let held = Budget { holds: 1, ..budget };
    holds(
        &Cfg {
            budget: held,
            ..TWO
        },
        &[goals::ANSWERED, goals::LEFT],
        11_181,
    );
}

#[test]
fn an_actor_rests_between_two_requests_beside_a_crash() {
    let budget = Budget {
        requests: 2,
        rests: 1,
        crashes: 1,
        ..NOTHING
    };
    holds(
        &Cfg {
            budget,
            ticks: 18,
            ..THREE
        },
        &[goals::ANSWERED, goals::RECOVERED],
        88_285,
    );
}

#[test]
fn nodes_that_connect_to_each_other_become_one_cluster() {
    let alone = Cfg {
        formed: false,
        ..THREE
    };
    let crossed = Budget {
        holds: 2,
        connects: &[(0, 1), (1, 0)],
        ..NOTHING
    };
    holds(
        &Cfg {
            nodes: 2,
            budget: crossed,
            ..alone
        },
        &[goals::RECOVERED],
        45_104,
    );
}

/// Whoever was admitted to a cluster of its own and is declined by a joiner cannot give that cluster up any more: its
/// operator is told to restart it. So this does not always end in one cluster; but nobody is in two.
#[test]
fn nodes_that_connect_in_a_circle_may_decline() {
    let circle = Budget {
        holds: 1,
        connects: &[(0, 1), (1, 2), (2, 0)],
        ..NOTHING
    };
    holds(
        &Cfg {
            formed: false,
            heals: false,
            budget: circle,
            ..THREE
        },
        &[goals::RECOVERED, goals::DECLINED],
        121_607,
    );
}

#[test]
fn a_joiner_that_went_elsewhere_declines() {
    let chain = Budget {
        holds: 1,
        connects: &[(1, 0), (2, 1)],
        ..NOTHING
    };
    holds(
        &Cfg {
            formed: false,
            heals: false,
            budget: chain,
            ..THREE
        },
        &[goals::DECLINED],
        20_594,
    );
}

/// More deviations at once: minutes in a release build.
#[test]
#[ignore = "minutes: the command is at the top of model_data.rs"]
fn everything_that_fits() {
    let one = Budget {
        requests: 1,
        ..NOTHING
    };
    let table = [
        (
            Budget {
                crashes: 1,
                holds: 1,
                obituaries: 1,
                ..one
            },
            THREE,
            1_785_482,
        ),
        (
            Budget {
                requests: 2,
                crashes: 1,
                holds: 1,
                ..one
            },
            THREE,
            1_513_144,
        ),
        (
            Budget {
                crashes: 1,
                holds: 2,
                restarts: 1,
                ..one
            },
            TWO,
            534_135,
        ),
        (
            Budget {
                crashes: 1,
                obituaries: 1,
                restarts: 1,
                forgets: 1,
                ..one
            },
            THREE,
            1_487_941,
        ),
    ];
    let only: Option<usize> = std::env::var("ONLY").ok().and_then(|n| n.parse().ok());
    for (n, (budget, cfg, states)) in table.into_iter().enumerate() {
        if only.is_none_or(|only| only == n) {
            holds(&Cfg { budget, ..cfg }, &[goals::ANSWERED], states);
        }
    }
}

/// The checks find deliberate defects also where everything works together; two are found only here.
#[cfg(debug_assertions)]
mod defects {
    use statekeeper::protocol::defect::Defect;

    use super::*;

    const CUT: Cfg = Cfg {
        budget: Budget {
            requests: 2,
            cuts: 1,
            ..NOTHING
        },
        ..THREE
    };

    const CRASH: Cfg = Cfg {
        budget: Budget {
            requests: 1,
            crashes: 1,
            restarts: 1,
            ..NOTHING
        },
        ..TWO
    };

    fn violates(check: &'static str, defect: Defect, cfg: Cfg) {
        let planted = defect.into();
        let found = explore(&Cfg { planted, ..cfg }, &[check]).violated;
        let (_, path) = found.unwrap_or_else(|| panic!("{defect:?} does not violate {check}"));
        println!("{defect:?} after {} steps", path.into_actions().len());
    }

    #[test]
    fn an_evicted_identity_that_comes_back_is_seen() {
        violates(checks::V2, Defect::Readmit, CUT);
    }

    #[test]
    fn a_lost_connection_that_counts_as_a_death_lets_an_evicted_node_serve() {
        violates(checks::L1, Defect::WrongDead, CUT);
    }

    #[test]
    fn a_lost_connection_that_counts_as_a_death_forks_a_pair() {
        violates(checks::V1, Defect::WrongDead, Cfg { nodes: 2, ..CUT });
    }

    #[test]
    fn a_forgetful_restart_under_the_same_identity_is_never_served_again() {
        violates(checks::I4, Defect::Amnesia, CRASH);
    }

    #[test]
    fn authority_without_a_barrier_loses_what_was_acknowledged() {
        violates(checks::I2, Defect::NoBarrier, CUT);
    }

    #[test]
    fn an_answer_before_the_copy_is_there_is_lost() {
        violates(checks::I2, Defect::ReplyBeforeAck, CRASH);
    }

    #[test]
    fn an_actor_that_does_not_hear_the_ids_applies_a_retry_twice() {
        violates(checks::I3, Defect::NoDedup, CRASH);
    }
}
