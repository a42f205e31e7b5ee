//! Nodes that live but cannot be heard: frozen processes, and cables that are pulled.

use std::io::Write;
use std::thread;
use std::time::Duration;

use super::support::cluster::Cluster;
use super::support::load::{self, Load, Outcome, check_totals};
use super::support::namespaces::{self, Namespaces};
use super::support::node::Spec;
use super::support::wait_until;

/// Suspicion and lease, and some time for a busy machine: then a node that was cut off has stopped answering.
const SILENT_AFTER: Duration = Duration::from_secs(4);

#[test]
fn a_frozen_node_is_left_behind_and_comes_back_without_loss() {
    let cluster = Cluster::start(3);
    let players = load::players("player", 12);
    let book = Load::run(&cluster, &["a", "b", "c"], &players, |load| {
        for name in ["a", "b"] {
            let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|other| *other != name).collect();
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
    let cluster = Cluster::start(3);
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

#[test]
fn a_node_whose_cable_is_pulled_stops_answering_and_rejoins_without_loss() {
    let names = ["a", "b", "c"];
    let machines = match Namespaces::new(&names) {
        Ok(machines) => machines,
        Err(reason) => {
            // Not with a macro: the test runner would keep it to itself.
            let skipped = format!("\nSKIPPED, no network namespaces here (they need root): {reason}\n\n");
            let _ = std::io::stderr().write_all(skipped.as_bytes());
            return;
        }
    };
    let cluster = Cluster::empty();
    let spec = |(number, name): (u8, &str)| {
        let address = namespaces::address(number);
        let mut spec = Spec::new(&format!("{name}@{address}")).listen((address, 21_500).into());
        spec.namespace = Some(namespaces::full(name));
        spec
    };
    cluster.add_all((1..).zip(names).map(spec));
    let hosts = [2, 3].map(namespaces::address);
    assert_eq!(cluster.node("a").ask(&format!("connect b@{}:21500", hosts[0])), "true");
    assert_eq!(cluster.node("a").ask(&format!("connect c@{}", hosts[1])), "true", "21500 is the default port");
    cluster.wait_serving();

    let players = load::players("player", 12);
    let mut healed = None;
    let mut silent = None;
    let book = Load::run(&cluster, &names, &players, |load| {
        machines.cut("a");
        let cut = std::time::Instant::now();
        silent = Some(cut + SILENT_AFTER);
        cluster.wait_members(&["b", "c"]);
        load.wait_acknowledged(100, |reward| reward.node == "b");
        load.wait_acknowledged(100, |reward| reward.node == "c");
        cluster.wait_state("a", "suspended");
        wait_until("a has been silent for a while", || cut.elapsed() > SILENT_AFTER + Duration::from_secs(2));
        let refused = cluster.node("a").reward("player0", 1);
        assert!(refused.starts_with("error: suspended: waiting for "), "{refused}");
        healed = Some(std::time::Instant::now());
        machines.heal("a");
        cluster.wait_serving();
        load.wait_acknowledged(50, |reward| reward.node == "a");
    });
    let (silent, healed) = (silent.expect("the cut's time"), healed.expect("the heal's time"));
    for reward in book.iter().filter(|reward| reward.node == "a") {
        let meanwhile = reward.asked > silent && reward.answered < healed;
        assert!(!meanwhile || !matches!(reward.outcome, Outcome::Total(_)), "the minority answered: {reward:?}");
    }
    for node in cluster.nodes() {
        check_totals(&book, &node);
        assert!(!node.view().possible_loss);
    }
}
