//! One fault after the other, in a random order, under load; in the end every total must be right.

use std::time::{SystemTime, UNIX_EPOCH};

use super::support::cluster::Cluster;
use super::support::load::{self, Load, check_totals};

/// The seed of a run that failed, to have its faults again.
const SEED: &str = "STATEKEEPER_TEST_SEED";
/// How many faults a run has.
const FAULTS: usize = 10;

/// A small generator of numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % below as u64).expect("below a usize")
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The process is killed, the others go on, it is started again.
    Kill,
    /// The process is killed and started again at once.
    Restart,
    /// The process is frozen until the others went on without it.
    Freeze,
    /// The process leaves, and a new one of its name joins.
    Leave,
    /// The actors of some players are killed where they live.
    KillPlayers,
    /// Some players are given amounts that crash them.
    CrashPlayers,
}

const KINDS: [Fault; 6] = [
    Fault::Kill,
    Fault::Restart,
    Fault::Freeze,
    Fault::Leave,
    Fault::KillPlayers,
    Fault::CrashPlayers,
];

#[test]
fn whatever_happens_to_one_node_after_the_other_every_total_stays_right() {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .subsec_nanos();
    let seed = std::env::var(SEED).map_or(u64::from(now), |seed| seed.parse().expect("a number"));
    // Shown when the test fails.
    eprintln!("to have these faults again: {SEED}={seed}");
    let mut dice = Dice(seed);
    let names = ["a", "b", "c", "d"];
    let cluster = Cluster::start(4);
    let players = load::players("player", 16);
    let book = Load::run(&cluster, &names, &players, |load| {
        for _ in 0..FAULTS {
            let (fault, name) = (KINDS[dice.roll(KINDS.len())], names[dice.roll(names.len())]);
            let others: Vec<&str> = names.into_iter().filter(|other| *other != name).collect();
            eprintln!("{fault:?} {name}");
            match fault {
                Fault::Kill => {
                    let dead = cluster.kill9(name);
                    cluster.wait_members(&others);
                    cluster.restart(&dead);
                }
                Fault::Restart => {
                    let dead = cluster.kill9(name);
                    cluster.restart(&dead);
                }
                Fault::Freeze => {
                    cluster.stop(name);
                    cluster.wait_members(&others);
                    cluster.cont(name);
                }
                Fault::Leave => {
                    let leaver = cluster.take(name);
                    assert_eq!(leaver.last_words("leave"), "left");
                    assert_eq!(leaver.wait_for_end().code(), Some(0));
                    cluster.restart(&leaver);
                    assert_eq!(
                        cluster.node(name).ask(&format!("connect {}", others[0])),
                        "true"
                    );
                }
                Fault::KillPlayers => {
                    let node = cluster.node(name);
                    for (player, _) in node.local_players().iter().take(5) {
                        // It may have moved meanwhile.
                        node.ask(&format!("kill {player}"));
                    }
                }
                Fault::CrashPlayers => {
                    for player in players.iter().take(3) {
                        let crash = cluster
                            .node(name)
                            .ask(&format!("reward_player {player} crash"));
                        assert!(crash.starts_with("** CRASH "), "{crash}");
                    }
                }
            }
            // The next fault only comes when all copies are in place: one backup survives one loss.
            cluster.wait_serving();
            load.wait_progress();
        }
        for name in names {
            load.wait_acknowledged(20, |reward| reward.node == name);
        }
    });
    for node in cluster.nodes() {
        check_totals(&book, &node);
        assert!(!node.view().possible_loss);
    }
}
