//! The session that the README shows, as a user types it: one node per terminal.

use std::sync::Arc;
use std::thread;

use super::support::cluster::Cluster;
use super::support::node::{Node, Spec};
use super::support::sandbox::Sandbox;

/// Three nodes as `start.sh NAME` starts them, without any option; and the host in their names.
fn three_terminals(cluster: &Cluster) -> (Arc<Node>, String) {
    let names = ["app_node1", "app_node2", "app_node3"];
    let first = cluster.add_all(names.map(Spec::new)).swap_remove(0);
    let view = first.lines("view");
    let host = view
        .iter()
        .find_map(|line| line.strip_prefix("members: app_node1@"));
    let host = host.expect("its own name").to_owned();
    (first, host)
}

#[test]
fn the_transcript_of_the_readme_holds_line_by_line() {
    let cluster = Cluster::empty(Sandbox::calm());
    let (node, host) = three_terminals(&cluster);
    assert_eq!(node.ask(&format!("connect app_node2@{host}")), "true");
    assert_eq!(node.ask(&format!("connect app_node3@{host}")), "true");
    assert_eq!(node.ask("reward_player player1 5"), "5");
    let crash = node.ask("reward_player player1 a");
    assert!(crash.starts_with("** CRASH "), "{crash}");
    assert!(
        crash.contains("player1") && crash.contains("5 + a"),
        "{crash}"
    );
    assert_eq!(node.ask("reward_player player1 2"), "7");
    assert_eq!(node.ask("local_players"), "player1 7");
    assert_eq!(
        node.lines("nodes"),
        [format!("app_node2@{host}"), format!("app_node3@{host}")]
    );
    assert_eq!(node.last_words("quit"), "left");
    assert!(node.wait_for_end().success());
}

#[test]
fn the_lines_of_the_erlang_original_can_be_pasted() {
    let cluster = Cluster::empty(Sandbox::calm());
    let (node, host) = three_terminals(&cluster);
    assert_eq!(node.ask("interface:local_players()."), "(none)");
    assert_eq!(
        node.ask(&format!("net_kernel:connect_node('app_node2@{host}').")),
        "true"
    );
    assert_eq!(
        node.ask(&format!("net_kernel:connect_node('app_node3@{host}').")),
        "true"
    );
    assert_eq!(
        node.lines("nodes()."),
        [format!("app_node2@{host}"), format!("app_node3@{host}")]
    );
    assert_eq!(
        node.ask("interface:reward_player(<<\"player1\">>, 5)."),
        "5"
    );
    let crash = node.ask("interface:reward_player(<<\"player1\">>, a).");
    assert!(
        crash.starts_with("** CRASH ") && crash.contains("5 + a"),
        "{crash}"
    );
    assert_eq!(
        node.ask("interface:reward_player(<<\"player1\">>, 2)."),
        "7"
    );
    assert_eq!(node.ask("interface:local_players()."), "player1 7");
    assert_eq!(node.last_words("q()."), "left");
    assert!(node.wait_for_end().success());
}

#[test]
fn one_connect_to_any_member_connects_all() {
    let cluster = Cluster::empty(Sandbox::calm());
    cluster.add_all(["a", "b", "c", "d"].map(|name| cluster.spec(name)));
    assert_eq!(cluster.node("a").ask("connect b"), "true");
    assert_eq!(cluster.node("c").ask("connect b"), "true");
    assert_eq!(cluster.node("a").ask("connect d"), "true");
    cluster.wait_serving();
    for node in cluster.nodes() {
        assert_eq!(
            node.lines("nodes").len(),
            3,
            "{} sees all others",
            node.name()
        );
    }
    // Once more does no harm.
    assert_eq!(cluster.node("d").ask("connect a"), "true");
    cluster.wait_serving();
}

#[test]
fn crossed_and_crowded_connects_end_in_one_cluster() {
    let cluster = Cluster::empty(Sandbox::calm());
    let names = ["a", "b", "c", "d", "e"];
    cluster.add_all(names.map(|name| cluster.spec(name)));
    let crossed = [("a", "b"), ("b", "a")];
    let crowded = [("c", "a"), ("d", "a"), ("e", "a"), ("d", "b")];
    for connects in [&crossed[..], &crowded[..]] {
        thread::scope(|scope| {
            for (from, to) in connects {
                let node = cluster.node(from);
                scope.spawn(move || assert_eq!(node.ask(&format!("connect {to}")), "true"));
            }
        });
    }
    cluster.wait_serving();
    let views: Vec<_> = cluster.nodes().iter().map(|node| node.view()).collect();
    assert!(views.iter().all(|view| *view == views[0]), "{views:?}");
}
