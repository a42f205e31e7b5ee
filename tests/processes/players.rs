//! Players while all nodes live: one actor each in the whole cluster, and what happens when it crashes.

use super::support::cluster::Cluster;
use super::support::load::{self, Load, check_totals, failures};
use super::support::sandbox::Sandbox;

#[test]
fn a_killed_player_goes_on_from_its_backup() {
    let cluster = Cluster::calm(2);
    for (here, there) in [("a", "b"), ("b", "a")] {
        let (node, other) = (cluster.node(here), cluster.node(there));
        let player = format!("player_{here}");
        let kill = format!("kill {player}");
        assert_eq!(node.reward(&player, 5), "5");
        for total in [7, 9, 11] {
            assert_eq!(node.ask(&kill), "killed");
            assert_eq!(node.reward(&player, 2), total.to_string());
        }
        let refused = other.ask(&kill);
        assert!(
            refused.starts_with("error: ") && refused.contains("not on this node"),
            "{refused}"
        );
        assert_eq!(other.reward(&player, 1), "12");
    }
}

#[test]
fn a_crash_is_reported_to_the_node_that_asked() {
    let cluster = Cluster::calm(2);
    for (here, there) in [("a", "b"), ("b", "a")] {
        let (node, other) = (cluster.node(here), cluster.node(there));
        let [player, newborn] = ["player", "newborn"].map(|name| format!("{name}_{here}"));
        assert_eq!(node.reward(&player, 5), "5");
        let crash = other.ask(&format!("reward_player {player} {{1,2}}"));
        assert!(
            crash.starts_with("** CRASH ") && crash.contains("5 + {1,2}"),
            "{crash}"
        );
        assert_eq!(other.reward(&player, 1), "6");
        // The first request ever crashes: there is nothing to go back to.
        let crash = node.ask(&format!("reward_player {newborn} x"));
        assert!(
            crash.starts_with("** CRASH ") && crash.contains("0 + x"),
            "{crash}"
        );
        assert_eq!(other.reward(&newborn, 3), "3");
    }
}

#[test]
fn a_player_that_crashes_again_and_again_disturbs_nobody() {
    let cluster = Cluster::calm(3);
    for here in ["a", "b"] {
        let node = cluster.node(here);
        let bad = format!("bad_{here}");
        assert_eq!(node.reward(&bad, 5), "5");
        let neighbours = load::players(&format!("good_{here}"), 20);
        for player in &neighbours {
            node.points(player);
        }
        let book = Load::run(&cluster, &["b", "c"], &neighbours, |_| {
            for _ in 0..8 {
                let crash = node.ask(&format!("reward_player {bad} x"));
                assert!(crash.starts_with("** CRASH "), "{crash}");
            }
        });
        assert!(failures(&book).is_empty(), "{:?}", failures(&book));
        check_totals(&book, &node);
        assert_eq!(node.reward(&bad, 2), "7");
    }
}

#[test]
fn every_node_answers_the_same_whichever_is_asked() {
    let cluster = Cluster::calm(3);
    let names = ["a", "b", "c"];
    let players = load::players("player", 15);
    for (number, player) in players.iter().enumerate() {
        let mut order = names;
        order.rotate_left(number % 3);
        for (name, total) in order.into_iter().zip(1..) {
            assert_eq!(
                cluster.node(name).reward(player, 1),
                total.to_string(),
                "{player} on {name}"
            );
        }
        let at = cluster.whereis("a", player);
        assert_eq!(
            at.node, order[0],
            "{player} is created on the node that is asked first"
        );
        assert_ne!(
            at.node, at.keeper,
            "{player} and its keeper are on different nodes"
        );
        assert_eq!(at.version, 3);
        for name in names {
            assert_eq!(
                cluster.whereis(name, player),
                at,
                "{player} as {name} sees it"
            );
        }
    }
    let mut all: Vec<(String, i64)> = Vec::new();
    for node in cluster.nodes() {
        let local = node.local_players();
        assert!(local.is_sorted(), "{local:?}");
        assert_eq!(local.len(), 5, "{local:?}");
        all.extend(local);
    }
    all.sort();
    let mut expected: Vec<(String, i64)> = players.into_iter().map(|player| (player, 3)).collect();
    expected.sort();
    assert_eq!(all, expected, "every player lives on exactly one node");
}

#[test]
fn clients_of_all_nodes_at_once_see_one_order_of_rewards() {
    let cluster = Cluster::calm(3);
    let book = Load::run(
        &cluster,
        &["a", "b", "c", "a", "b", "c"],
        &load::players("player", 3),
        |load| {
            load.wait_acknowledged(1_000, |_| true);
        },
    );
    assert!(failures(&book).is_empty(), "{:?}", failures(&book));
    for node in cluster.nodes() {
        check_totals(&book, &node);
    }
}

#[test]
fn with_two_backups_a_player_survives_two_nodes_at_once() {
    let cluster = Cluster::start_with(Sandbox::new(), 5, |spec| spec.option("--backups", "2"));
    let players = load::players("player", 30);
    for player in &players {
        assert_eq!(cluster.node("a").reward(player, 5), "5");
    }
    // Both at the same moment: neither helps to replace the other.
    for name in ["a", "b"] {
        cluster.stop(name);
    }
    for name in ["a", "b"] {
        cluster.kill9(name);
    }
    for player in &players {
        assert_eq!(cluster.node("c").reward(player, 1), "6");
    }
    cluster.wait_serving();
    assert!(!cluster.node("c").view().possible_loss);
}

#[test]
fn a_reward_that_is_asked_again_under_its_id_is_given_once() {
    let cluster = Cluster::calm(3);
    for node in cluster.nodes() {
        assert_eq!(node.ask("reward_player player1 5 --id 17"), "5");
    }
    assert_eq!(
        cluster.node("b").ask("reward_player player1 5 --id 18"),
        "10"
    );
}

#[test]
fn lines_that_are_carried_out_side_by_side_get_numbered_answers() {
    let cluster = Cluster::calm(2);
    let input = "reward_player player1 1\nreward_player player1 2\nhelp nodes\n";
    let ended = cluster
        .sandbox
        .run(&["c", "--connect", "a", "--concurrent"], input);
    let mut answers: Vec<&str> = ended.stdout.lines().collect();
    answers.sort_unstable();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        answers.contains(&"1: 1") || answers.contains(&"2: 2"),
        "{answers:?}"
    );
    assert!(
        answers.contains(&"1: 3") || answers.contains(&"2: 3"),
        "{answers:?}"
    );
    let help = answers.iter().filter(|answer| answer.starts_with('3'));
    assert_eq!(
        help.clone()
            .filter(|answer| answer.starts_with("3: "))
            .count(),
        1
    );
    assert!(
        help.clone().any(|answer| answer.starts_with("3- usage: ")),
        "{answers:?}"
    );
}
