//! `forget`: the operator's word that a node is gone for good.

use super::support::cluster::Cluster;
use super::support::load;
use super::support::wait_until;

#[test]
fn after_the_loss_of_the_majority_only_force_helps() {
    let cluster = Cluster::start(3);
    let a = cluster.node("a");
    let kept = [
        cluster.player_on("a", "b"),
        cluster.player_on("b", "a"),
        cluster.player_on("c", "a"),
    ];
    // Both at the same moment: neither helps to vote the other one out.
    for name in ["b", "c"] {
        cluster.stop(name);
    }
    for name in ["b", "c"] {
        cluster.kill9(name);
    }
    cluster.wait_state("a", "suspended");
    let before = a.view();
    let refused = a.reward(&kept[0], 1);
    assert!(
        refused.starts_with("error: suspended: waiting for ") && refused.contains("forget"),
        "{refused}"
    );

    let refused = a.ask("forget b");
    assert!(
        refused.starts_with("error: ") && refused.contains("--force"),
        "{refused}"
    );
    assert_eq!(a.view().cluster, before.cluster);

    assert_eq!(a.ask("forget b --force"), "ok");
    wait_until("a goes on alone", || a.view().members == ["a"]);
    assert_ne!(
        a.view().cluster,
        before.cluster,
        "the old line cannot come back"
    );
    assert!(a.view().possible_loss, "two nodes vanished at once");
    let refused = a.reward(&kept[0], 1);
    assert!(
        refused.starts_with("error: this node is alone"),
        "{refused}"
    );

    let d = cluster.add("d");
    assert_eq!(d.ask("connect a"), "true");
    cluster.wait_serving();
    for player in &kept {
        assert_eq!(
            d.reward(player, 1),
            "2",
            "{player} had its actor or its backup on a"
        );
    }
}

#[test]
fn the_survivor_of_two_goes_on_with_a_new_node_when_the_other_is_forgotten() {
    let cluster = Cluster::unguarded(2);
    let players = load::players("player", 10);
    for (number, player) in players.iter().enumerate() {
        let node = cluster.node(["a", "b"][number % 2]);
        assert_eq!(node.reward(player, 5), "5");
    }
    cluster.kill9("b");
    cluster.wait_state("a", "suspended");
    let a = cluster.node("a");
    assert_eq!(a.ask("forget b"), "ok");
    wait_until("a is alone", || a.view().state == "alone");
    cluster.add("c");
    assert_eq!(a.ask("connect c"), "true");
    cluster.wait_serving();
    for player in &players {
        assert_eq!(a.points(player), 5);
    }
}

#[test]
fn only_a_lost_node_can_be_forgotten() {
    let cluster = Cluster::start(2);
    let a = cluster.node("a");
    for (line, reason) in [
        ("forget b", "alive"),
        ("forget b --force", "alive"),
        ("forget a", "itself"),
        ("forget nobody", "no member"),
    ] {
        let refused = a.ask(line);
        assert!(
            refused.starts_with("error: ") && refused.contains(reason),
            "{line}: {refused}"
        );
    }
    assert_eq!(a.reward("player1", 5), "5");
}
