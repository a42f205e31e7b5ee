//! Players that nobody asks for a while go to rest, and wake where they are asked next.

use super::support::cluster::Cluster;
use super::support::node::{Node, short};
use super::support::sandbox::Sandbox;
use super::support::{wait_for, wait_until};

/// Three nodes whose players go to rest soon.
fn drowsy(sandbox: Sandbox) -> Cluster {
    Cluster::start_with(sandbox, 3, |spec| spec.option("--idle", "300"))
}

/// The nodes of the records of a player at rest; none if it is not.
fn at_rest(node: &Node, player: &str) -> Option<Vec<String>> {
    let line = node.ask(&format!("whereis {player}"));
    let rest = line.strip_prefix("node (at rest) keeper ")?;
    let (keepers, _) = rest.split_once(" version ")?;
    let names = keepers.split([' ', ',']).filter(|name| !name.is_empty());
    Some(names.map(|name| short(name).to_owned()).collect())
}

#[test]
fn an_idle_player_rests_in_two_records_and_wakes_where_it_is_asked() {
    let cluster = drowsy(Sandbox::calm());
    let (a, c) = (cluster.node("a"), cluster.node("c"));
    for (number, player) in (0..12).map(|n| (n, format!("player{n}"))) {
        assert_eq!(a.reward(&player, 5 + number), (5 + number).to_string());
    }
    wait_until("nobody is awake", || a.local_players().is_empty());
    for (number, player) in (0..12).map(|n| (n, format!("player{n}"))) {
        let keepers = wait_for("its home has heard that it rests", || at_rest(&c, &player));
        assert_eq!(keepers.len(), 2, "{player} is kept by {keepers:?}");
        assert_eq!(c.reward(&player, 1), (6 + number).to_string());
    }
    // A player that is asked stays awake, and lives where it was asked.
    let at = wait_for("player0 is awake", || {
        c.points("player0");
        c.whereis("player0")
    });
    assert_eq!(at.node, "c");
}

#[test]
fn a_player_at_rest_survives_the_loss_of_either_of_its_nodes() {
    for lost in 0..2 {
        let cluster = drowsy(Sandbox::new());
        let a = cluster.node("a");
        let players: Vec<String> = (0..20).map(|n| format!("player{n}")).collect();
        for player in &players {
            assert_eq!(a.reward(player, 5), "5");
        }
        let keepers = wait_for("all are at rest", || {
            let resting = players.iter().map(|player| at_rest(&a, player));
            resting.collect::<Option<Vec<_>>>()
        });
        let victim = &keepers[0][lost];
        cluster.kill9(victim);
        for player in &players {
            for node in cluster.nodes() {
                node.points(player);
            }
            assert_eq!(
                cluster.nodes()[0].reward(player, 1),
                "6",
                "without {victim}"
            );
        }
        cluster.wait_serving();
        assert!(
            cluster
                .nodes()
                .iter()
                .all(|node| !node.view().possible_loss)
        );
    }
}
