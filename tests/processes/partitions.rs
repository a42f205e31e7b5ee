//! Nodes that live but cannot be heard: frozen processes, and cables that are pulled.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use super::support::cluster::Cluster;
use super::support::load::{self, Load, Outcome, check_totals};
use super::support::namespaces::Namespaces;
use super::support::node::Spec;
use super::support::sandbox::Sandbox;
use super::support::wait_until;

/// Suspicion and lease, and some time for a busy machine: then a node that was cut off has stopped answering.
const SILENT_AFTER: Duration = Duration::from_secs(4);

#[test]
fn a_frozen_node_is_left_behind_and_comes_back_without_loss() {
    let cluster = Cluster::start(3);
    let players = load::players("player", 12);
    let book = Load::run(&cluster, &["a", "b", "c"], &players, |load| {
        for name in ["a", "b"] {
            let others: Vec<&str> = ["a", "b", "c"]
                .into_iter()
                .filter(|other| *other != name)
                .collect();
            cluster.stop(name);
            cluster.wait_members(&others);
            load.wait_acknowledged(100, |reward| reward.node != name);
            cluster.cont(name);
            cluster.wait_serving();
            load.wait_acknowledged(20, |reward| reward.node == name);
        }
    });
    for node in cluster.nodes() {
        check_totals(&book, &node);
        assert!(!node.view().possible_loss);
    }
}

#[test]
fn a_node_that_is_frozen_only_for_a_moment_is_not_left_behind() {
    let cluster = Cluster::start_with(Sandbox::new(), 3, |spec| spec.option("--suspicion", "6000"));
    let before = cluster.node("a").view();
    cluster.stop("b");
    // A pause, not a wait: shorter than the suspicion.
    thread::sleep(Duration::from_millis(600));
    cluster.cont("b");
    cluster.wait_serving();
    assert_eq!(cluster.node("b").reward("player1", 1), "1");
    let after = cluster.node("a").view();
    assert_eq!((after.cluster, after.epoch), (before.cluster, before.epoch));
}

/// Nodes on machines of their own that serve as one cluster; none where that is not permitted.
fn machines(names: &[&str]) -> Option<(Namespaces, Cluster)> {
    // What is under way when a cable is pulled waits that long, and the shell with it.
    let patience = |spec: Spec| spec.option("--call-timeout", "4000");
    Cluster::on_machines(names, patience)
        .inspect_err(|reason| {
            // Not with a macro: the test runner would keep it to itself.
            let skipped =
                format!("\nSKIPPED, no network namespaces here (they need root): {reason}\n\n");
            let _ = std::io::stderr().write_all(skipped.as_bytes());
        })
        .ok()
}

#[test]
fn a_node_whose_cable_is_pulled_stops_answering_and_rejoins_without_loss() {
    let names = ["a", "b", "c"];
    let Some((machines, cluster)) = machines(&names) else {
        return;
    };
    let players = load::players("player", 12);
    let (mut silent, mut healed) = (None, None);
    let book = Load::run(&cluster, &names, &players, |load| {
        machines.cut("a");
        let cut = Instant::now();
        silent = Some(cut + SILENT_AFTER);
        cluster.wait_members(&["b", "c"]);
        for name in ["b", "c"] {
            load.wait_acknowledged(100, |reward| reward.node == name);
        }
        cluster.wait_state("a", "suspended");
        wait_until("a has had its chance to answer wrongly", || {
            cut.elapsed() > SILENT_AFTER + SILENT_AFTER / 2
        });
        let refused = cluster.node("a").reward("player0", 1);
        assert!(
            refused.starts_with("error: suspended: waiting for "),
            "{refused}"
        );
        healed = Some(Instant::now());
        machines.heal("a");
        cluster.wait_serving();
        load.wait_acknowledged(50, |reward| reward.node == "a");
    });
    let (silent, healed) = (
        silent.expect("the cut's time"),
        healed.expect("the heal's time"),
    );
    for reward in book.iter().filter(|reward| reward.node == "a") {
        let meanwhile = reward.asked > silent && reward.answered < healed;
        assert!(
            !meanwhile || !matches!(reward.outcome, Outcome::Total(_)),
            "the minority answered: {reward:?}"
        );
    }
    for node in cluster.nodes() {
        check_totals(&book, &node);
        assert!(!node.view().possible_loss);
    }
}

#[test]
fn two_nodes_that_cannot_hear_each_other_cost_the_cluster_one_of_them_at_most() {
    let names = ["a", "b", "c"];
    let Some((machines, cluster)) = machines(&names) else {
        return;
    };
    let players = load::players("player", 12);
    let book = Load::run(&cluster, &names, &players, |load| {
        machines.cut_between("a", "b");
        // c hears both; one of the two has to go.
        wait_until("two of the three serve", || {
            let view = cluster.node("c").view();
            view.members.len() == 2 && view.state == "serving"
        });
        let members = cluster.node("c").view().members;
        for name in &members {
            load.wait_acknowledged(100, |reward| reward.node == *name);
        }
        machines.heal_between("a", "b");
        cluster.wait_serving();
        for name in names {
            load.wait_acknowledged(50, |reward| reward.node == name);
        }
    });
    for node in cluster.nodes() {
        check_totals(&book, &node);
        assert!(!node.view().possible_loss);
    }
}

#[test]
fn when_all_cables_are_pulled_nobody_answers_and_then_all_go_on() {
    let names = ["a", "b", "c"];
    let Some((machines, cluster)) = machines(&names) else {
        return;
    };
    let players = load::players("player", 12);
    let book = Load::run(&cluster, &names, &players, |load| {
        for name in names {
            machines.cut(name);
        }
        for name in names {
            cluster.wait_state(name, "suspended");
        }
        let cluster_id = cluster.node("a").view().cluster;
        for name in names {
            machines.heal(name);
        }
        cluster.wait_serving();
        assert_eq!(cluster.node("a").view().cluster, cluster_id);
        for name in names {
            load.wait_acknowledged(50, |reward| reward.node == name);
        }
    });
    for node in cluster.nodes() {
        check_totals(&book, &node);
        assert!(!node.view().possible_loss);
    }
}

#[test]
fn the_smaller_part_of_five_waits_while_the_larger_one_goes_on() {
    let names = ["a", "b", "c", "d", "e"];
    let Some((machines, cluster)) = machines(&names) else {
        return;
    };
    let a = cluster.node("a");
    let mut players = load::players("player", 24);
    // What has its actor and its only backup in the smaller part is lost when that is given up.
    players.retain(|player| a.points(player) == 0 && cluster.whereis("a", player).keeper != "b");
    let book = Load::run(&cluster, &names, &players, |load| {
        for (one, others) in [("a", ["c", "d", "e"]), ("b", ["c", "d", "e"])] {
            for other in others {
                machines.cut_between(one, other);
            }
        }
        cluster.wait_members(&["c", "d", "e"]);
        for name in ["a", "b"] {
            cluster.wait_state(name, "suspended");
        }
        load.wait_acknowledged(100, |reward| reward.node == "e");
        for (one, others) in [("a", ["c", "d", "e"]), ("b", ["c", "d", "e"])] {
            for other in others {
                machines.heal_between(one, other);
            }
        }
        cluster.wait_serving();
        for name in names {
            load.wait_acknowledged(20, |reward| reward.node == name);
        }
    });
    check_totals(&book, &cluster.node("a"));
}
