//! Nodes that are killed without warning, and come back.

use std::fs;

use super::support::cluster::Cluster;
use super::support::load::{self, Load, check_totals};
use super::support::node::Spec;
use super::support::sandbox::Sandbox;
use super::support::wait_until;

#[test]
fn a_node_alone_refuses_and_says_what_to_do() {
    let cluster = Cluster::empty(Sandbox::new());
    let a = cluster.add("a");
    assert_eq!(a.view().state, "alone");
    for line in ["reward_player player1 5", "whereis player1"] {
        let refused = a.ask(line);
        assert!(
            refused.starts_with("error: this node is alone"),
            "{refused}"
        );
        assert!(refused.contains("connect"), "{refused}");
    }
    assert_eq!(a.ask("local_players"), "(none)");
    assert_eq!(a.ask("nodes"), "(none)");
}

#[test]
fn players_survive_the_owners_node_then_the_keepers_node_and_then_both_come_back() {
    // What is under way when the last one suspends waits that long, and the shell with it.
    let cluster = Cluster::start_with(Sandbox::new(), 3, |spec| {
        spec.option("--call-timeout", "4000")
    });
    let players = load::players("player", 12);
    let book = Load::run(&cluster, &["a", "b", "c"], &players, |load| {
        let owner = cluster.whereis("a", "player0").node;
        let killed_first = cluster.kill9(&owner);
        load.wait_progress();
        cluster.wait_serving();

        let survivor = cluster.nodes()[0].clone();
        let at = cluster.whereis(survivor.name(), "player0");
        assert_ne!(at.node, owner);
        assert_ne!(at.node, at.keeper);
        let killed_second = cluster.kill9(&at.keeper);
        // The last one of three has nobody who could keep a backup.
        cluster.wait_state(&at.node, "alone");

        cluster.restart(&killed_first);
        cluster.restart(&killed_second);
        cluster.wait_serving();
        for node in cluster.nodes() {
            let name = node.name().to_owned();
            load.wait_acknowledged(50, |reward| reward.node == name);
        }
    });
    for node in cluster.nodes() {
        check_totals(&book, &node);
        assert!(
            !node.view().possible_loss,
            "no more than one node was lost between two syncs"
        );
    }
}

#[test]
fn four_nodes_lose_one_after_the_other_down_to_two_and_go_on() {
    let cluster = Cluster::start(4);
    let players = load::players("player", 12);
    let book = Load::run(&cluster, &["a", "b", "c", "d"], &players, |load| {
        for name in ["a", "c"] {
            cluster.kill9(name);
            load.wait_progress();
            cluster.wait_serving();
        }
        load.wait_acknowledged(100, |reward| reward.node == "d");
    });
    for name in ["b", "d"] {
        check_totals(&book, &cluster.node(name));
    }
}

#[test]
fn when_player_and_keeper_would_share_a_node_the_keeper_moves() {
    let cluster = Cluster::start(3);
    let player = cluster.player_on("a", "b");
    cluster.kill9("a");
    // Asked is the very node that has the backup.
    assert_eq!(cluster.node("b").reward(&player, 4), "5");
    let at = cluster.whereis("b", &player);
    assert_eq!((at.node.as_str(), at.keeper.as_str()), ("b", "c"));
    assert_eq!(cluster.node("c").reward(&player, 1), "6");
    assert_eq!(cluster.whereis("c", &player).node, "b");

    // The new backup is as good as the first.
    cluster.wait_serving();
    cluster.add("d");
    assert_eq!(cluster.node("d").ask("connect c"), "true");
    cluster.wait_serving();
    cluster.kill9("b");
    assert_eq!(cluster.node("c").reward(&player, 1), "7");
}

#[test]
fn a_player_is_brought_back_by_whichever_node_is_asked() {
    let cluster = Cluster::start(3);
    let (on_b, on_c) = (cluster.player_on("a", "b"), cluster.player_on("a", "c"));
    cluster.kill9("a");
    // Asked is the node that does not have the backup.
    assert_eq!(cluster.node("c").reward(&on_b, 1), "2");
    assert_eq!(cluster.node("b").reward(&on_c, 1), "2");
    for player in [on_b, on_c] {
        let at = cluster.whereis("b", &player);
        assert_eq!(cluster.whereis("c", &player), at);
        assert_ne!(at.node, at.keeper);
    }
}

#[test]
fn the_survivor_of_two_waits_and_goes_on_with_the_other_restarted() {
    let cluster = Cluster::unguarded(2);
    let (a, b) = (cluster.node("a"), cluster.node("b"));
    for number in 0..20 {
        assert_eq!(a.reward(&format!("on-a{number}"), 5), "5");
        assert_eq!(b.reward(&format!("on-b{number}"), 6), "6");
    }
    let dead = cluster.kill9("b");
    cluster.wait_state("a", "suspended");
    for player in ["on-a0", "on-b0", "new"] {
        let refused = a.reward(player, 1);
        assert!(
            refused.starts_with("error: suspended: waiting for b"),
            "{refused}"
        );
        assert!(
            refused.contains("restart") && refused.contains("forget"),
            "{refused}"
        );
    }
    assert!(
        a.lines("view")
            .iter()
            .any(|line| line.starts_with("waiting for: b@")),
        "{:?}",
        a.lines("view")
    );

    let b = cluster.restart(&dead);
    cluster.wait_serving();
    for number in 0..20 {
        assert_eq!(b.reward(&format!("on-a{number}"), 1), "6");
        assert_eq!(a.reward(&format!("on-b{number}"), 1), "7");
    }
    assert!(!a.view().possible_loss);
}

#[test]
fn a_request_during_a_failover_waits_for_it() {
    let cluster = Cluster::start(3);
    let player = cluster.player_on("a", "b");
    for (dead, asked, total) in [("a", "c", 2), ("b", "c", 3)] {
        let dead = cluster.kill9(dead);
        // At once, long before anybody has noticed.
        assert_eq!(cluster.node(asked).reward(&player, 1), total.to_string());
        cluster.restart(&dead);
        cluster.wait_serving();
    }
}

#[test]
fn restarted_nodes_find_their_cluster_by_themselves_again_and_again() {
    let cluster = Cluster::start(3);
    let players = load::players("player", 10);
    let book = Load::run(&cluster, &["a", "b", "c"], &players, |load| {
        for name in ["a", "b", "c", "a"] {
            let dead = cluster.kill9(name);
            // At once: the others may not even have noticed.
            cluster.restart(&dead);
            cluster.wait_serving();
            load.wait_acknowledged(20, |reward| reward.node == name);
        }
    });
    for node in cluster.nodes() {
        check_totals(&book, &node);
    }
}

#[test]
fn a_restarted_node_whose_port_was_taken_joins_by_connect() {
    let cluster = Cluster::start(3);
    let a = cluster.node("a");
    assert_eq!(a.reward("player1", 5), "5");
    let dead = cluster.kill9("b");
    wait_until("b is gone", || a.view().members == ["a", "c"]);
    let spec = dead.spec.clone().listen(cluster.sandbox.addr(21_900));
    let b = cluster.add_as(spec);
    let answer = b.ask("connect a");
    assert_eq!(answer, "true");
    cluster.wait_serving();
    assert_eq!(b.points("player1"), 5);
}

#[test]
fn thousands_of_players_survive_their_node() {
    const PLAYERS: usize = 1_500;
    let cluster = Cluster::start(3);
    let a = cluster.node("a");
    for player in load::players("player", PLAYERS) {
        assert_eq!(a.reward(&player, 3), "3");
    }
    cluster.kill9("a");
    let (b, c) = (cluster.node("b"), cluster.node("c"));
    for (number, player) in load::players("player", PLAYERS).iter().enumerate() {
        let node = [&b, &c][number % 2];
        assert_eq!(node.reward(player, 1), "4");
    }
    let found = b.local_players().len() + c.local_players().len();
    assert_eq!(found, PLAYERS);
}

#[test]
fn losing_a_player_and_its_keeper_at_once_is_said_loudly() {
    let cluster = Cluster::start(5);
    let (lost, kept) = (cluster.player_on("a", "b"), cluster.player_on("a", "c"));
    for name in ["a", "b"] {
        cluster.stop(name);
    }
    for name in ["a", "b"] {
        cluster.kill9(name);
    }
    cluster.wait_serving();
    for node in cluster.nodes() {
        assert!(node.view().possible_loss, "{:?}", node.lines("view"));
        assert!(cluster.sandbox.log(node.name()).contains("possible loss"));
    }
    assert_eq!(cluster.node("d").points(&lost), 0);
    assert_eq!(cluster.node("d").points(&kept), 1);
}

#[test]
fn nodes_can_refuse_to_go_on_after_a_loss() {
    let refuse = |spec: Spec| spec.option("--on-possible-loss", "refuse");
    let cluster = Cluster::start_with(Sandbox::new(), 5, refuse);
    let kept = cluster.player_on("c", "d");
    assert_eq!(
        cluster.node("c").ask("accept_loss"),
        "error: there is no possible loss that waits to be accepted"
    );
    for name in ["a", "b"] {
        cluster.stop(name);
    }
    for name in ["a", "b"] {
        cluster.kill9(name);
    }
    for name in ["c", "d", "e"] {
        cluster.wait_state(name, "refusing, 'accept_loss' goes on");
        let refused = cluster.node(name).reward(&kept, 1);
        assert!(
            refused.starts_with("error: refused, something may be lost with a, b"),
            "{refused}"
        );
    }
    assert_eq!(cluster.node("d").ask("accept_loss"), "ok");
    cluster.wait_serving();
    assert_eq!(cluster.node("e").reward(&kept, 1), "2");
}

#[test]
fn a_node_whose_clock_went_back_comes_back_all_the_same() {
    let cluster = Cluster::start(3);
    assert_eq!(cluster.node("a").reward("player1", 5), "5");
    let record = cluster.sandbox.record("b");
    let future = |text: &str| {
        let words: Vec<&str> = text.split(' ').collect();
        let [pid, addr, _, end] = words[..] else {
            panic!("a record is {words:?}")
        };
        format!("{pid} {addr} {} {end}", u64::MAX / 16)
    };
    // A life that began long after today.
    let dead = cluster.kill9("b");
    let text = fs::read_to_string(&record).expect("its record");
    fs::write(&record, future(&text)).expect("a changed record");
    let from_the_future = cluster.restart(&dead);
    cluster.wait_serving();
    // And one that knows nothing of that.
    let dead = cluster.kill9(from_the_future.name());
    fs::remove_file(&record).expect("a record to forget");
    let b = cluster.restart(&dead);
    cluster.wait_serving();
    assert_eq!(b.points("player1"), 5);
}
