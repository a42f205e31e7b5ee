//! Nodes that leave in good order: nobody notices, nothing is lost.

use nix::sys::signal::Signal;

use super::support::cluster::Cluster;
use super::support::load::{self, Load, check_totals, failures};
use super::support::node::Node;
use super::support::sandbox::Sandbox;

/// A node that owns many players leaves while the others are asked for them.
#[track_caller]
fn no_request_fails_when_a_node_leaves(leave: impl FnOnce(&Node)) {
    let cluster = Cluster::calm(3);
    let players = load::players("player", 40);
    for player in &players {
        cluster.node("a").points(player);
    }
    assert_eq!(cluster.node("a").local_players().len(), players.len());
    let book = Load::run(&cluster, &["b", "c"], &players, |load| {
        let a = cluster.take("a");
        leave(&a);
        assert_eq!(a.wait_for_end().code(), Some(0));
        load.wait_progress();
    });
    assert!(failures(&book).is_empty(), "{:?}", failures(&book));
    cluster.wait_serving();
    for node in cluster.nodes() {
        check_totals(&book, &node);
        assert!(!node.view().possible_loss);
    }
}

#[test]
fn no_request_fails_when_a_node_is_told_to_leave() {
    no_request_fails_when_a_node_leaves(|node| assert_eq!(node.last_words("leave"), "left"));
}

#[test]
fn no_request_fails_when_a_node_gets_sigterm() {
    no_request_fails_when_a_node_leaves(|node| node.signal(Signal::SIGTERM));
}

#[test]
fn no_request_fails_when_a_nodes_input_ends() {
    no_request_fails_when_a_node_leaves(Node::end_input);
}

#[test]
fn a_node_that_left_comes_back_as_a_new_one() {
    let cluster = Cluster::calm(3);
    let players = load::players("player", 10);
    let book = Load::run(&cluster, &["b", "c"], &players, |load| {
        for _ in 0..2 {
            let a = cluster.take("a");
            assert_eq!(a.last_words("quit"), "left");
            assert_eq!(a.wait_for_end().code(), Some(0));
            cluster.restart(&a);
            assert_eq!(cluster.node("a").ask("connect b"), "true");
            cluster.wait_serving();
            load.wait_progress();
        }
    });
    assert!(failures(&book).is_empty(), "{:?}", failures(&book));
    check_totals(&book, &cluster.node("a"));
}

#[test]
fn one_of_two_leaves_and_the_other_goes_on_with_any_new_node() {
    let cluster = Cluster::calm(2);
    let players = load::players("player", 20);
    for player in &players {
        assert_eq!(cluster.node("b").reward(player, 5), "5");
    }
    let b = cluster.take("b");
    b.last_words("leave");
    assert_eq!(b.wait_for_end().code(), Some(0));
    let refused = cluster.node("a").reward("player0", 1);
    assert!(refused.starts_with("error: "), "{refused}");

    cluster.add("c");
    assert_eq!(cluster.node("c").ask("connect a"), "true");
    cluster.wait_serving();
    for player in &players {
        assert_eq!(cluster.node("c").points(player), 5);
    }
}

#[test]
fn a_node_alone_leaves_at_once() {
    let cluster = Cluster::empty(Sandbox::calm());
    let a = cluster.add("a");
    assert_eq!(a.last_words("leave"), "left");
    assert_eq!(a.wait_for_end().code(), Some(0));
}

#[test]
fn two_nodes_leave_at_the_same_time() {
    let cluster = Cluster::calm(4);
    let players = load::players("player", 40);
    for player in &players {
        cluster.node("a").points(player);
    }
    let book = Load::run(&cluster, &["b", "c"], &players, |_| {
        let leavers = ["a", "d"].map(|name| cluster.take(name));
        for leaver in &leavers {
            leaver.signal(Signal::SIGTERM);
        }
        for leaver in &leavers {
            assert_eq!(leaver.wait_for_end().code(), Some(0));
        }
    });
    assert!(failures(&book).is_empty(), "{:?}", failures(&book));
    cluster.wait_serving();
    for node in cluster.nodes() {
        check_totals(&book, &node);
        assert!(!node.view().possible_loss);
    }
}

#[test]
fn requests_typed_before_the_end_of_the_input_are_all_answered() {
    let cluster = Cluster::calm(2);
    let mut input: String = (0..500).map(|_| "reward_player player1 2\n").collect();
    input.push_str("quit\nreward_player player1 2\n");
    let ended = cluster.sandbox.run(&["c", "--connect", "a"], &input);
    let mut expected: Vec<String> = (1..=500).map(|number| (2 * number).to_string()).collect();
    expected.push("left".to_owned());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout.lines().collect::<Vec<_>>(), expected);
    assert_eq!(
        cluster.node("a").points("player1"),
        1000,
        "nothing after 'quit' is carried out"
    );
}
