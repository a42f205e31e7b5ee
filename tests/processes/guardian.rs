//! What the process that watches a node changes: nobody waits for the lease of the dead.

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::support::cluster::Cluster;
use super::support::node::Spec;
use super::support::sandbox::{Sandbox, is_running};
use super::support::wait_until;

fn is_alive(pid: Pid) -> bool {
    is_running(pid.as_raw().unsigned_abs())
}

/// Nodes whose lease lasts longer than any request waits.
fn patient(count: u8) -> Cluster {
    Cluster::start_with(Sandbox::new(), count, with_patience)
}

fn with_patience(spec: Spec) -> Spec {
    let spec = spec
        .option("--lease", "300000")
        .option("--suspicion", "300000");
    spec.option("--call-timeout", "60000")
}

#[test]
fn after_a_witnessed_death_nobody_waits_for_the_lease() {
    let cluster = patient(3);
    let player = cluster.player_on("a", "b");
    let a = cluster.kill9("a");
    assert_eq!(cluster.node("c").reward(&player, 1), "2");
    assert!(cluster.sandbox.log("b").contains("says its guardian"));
    cluster.restart(&a);
    cluster.wait_serving();
    assert_eq!(cluster.node("a").reward(&player, 1), "3");
}

#[test]
fn the_survivor_of_two_is_alone_and_goes_on_with_any_other_node() {
    let cluster = patient(2);
    let player = cluster.player_on("a", "b");
    cluster.kill9("a");
    let b = cluster.node("b");
    wait_until("b is alone", || b.view().state == "alone");
    cluster.add_as(with_patience(cluster.spec("c")));
    assert_eq!(b.ask("connect c"), "true");
    cluster.wait_serving();
    assert_eq!(cluster.node("c").reward(&player, 1), "2");
}

#[test]
fn where_the_guardian_is_lost_as_well_the_lease_runs_out() {
    let cluster = Cluster::start(3);
    let player = cluster.player_on("a", "b");
    let guardian = cluster.node("a").guardian();
    signal::kill(guardian, Signal::SIGKILL).expect("a guardian to kill");
    cluster.kill9("a");
    assert_eq!(cluster.node("c").reward(&player, 1), "2");
    assert!(!cluster.sandbox.log("b").contains("says its guardian"));
}

#[test]
fn a_guardian_says_nothing_of_a_node_that_leaves_or_is_frozen() {
    let cluster = Cluster::start(3);
    cluster.stop("b");
    cluster.wait_members(&["a", "c"]);
    cluster.cont("b");
    cluster.wait_serving();
    let leaver = cluster.take("c");
    let guardian = leaver.guardian();
    assert_eq!(leaver.last_words("leave"), "left");
    wait_until("the guardian ends with its node", || !is_alive(guardian));
    cluster.wait_serving();
    assert!(!cluster.sandbox.log("a").contains("says its guardian"));
}

#[test]
fn a_guardian_ends_after_its_node_was_killed() {
    let cluster = Cluster::start(2);
    let guardian = cluster.node("a").guardian();
    cluster.kill9("a");
    wait_until("the guardian ends after its node", || !is_alive(guardian));
}
