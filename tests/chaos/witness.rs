//! Looks at the nodes while they are at work: what the clients' answers cannot show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::clients::Clients;
use super::dice::Dice;
use super::fleet::Fleet;
use super::history::Loss;
use super::process::Process;
use super::support::node::{View, short};

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);
/// For a node that is frozen.
const GLANCE: Duration = Duration::from_millis(400);
/// How long it may take until somebody looks.
const HEARD_WITHIN: Duration = Duration::from_millis(500);
/// How many players are looked for in a round.
const SOUGHT: usize = 3;
/// How many findings are kept: the first says it all.
const FINDINGS_MAX: usize = 20;

/// What was seen.
#[derive(Default)]
pub(crate) struct Witness {
    /// Who had a player, by cluster and epoch.
    owners: BTreeMap<(String, u64, String), (String, u32)>,
    /// How often a player was seen on its node, and with its keepers.
    pub(crate) seen: usize,
    pub(crate) placed: usize,
    /// What the nodes said of possible losses, and when that was first seen.
    pub(crate) losses: BTreeMap<String, Duration>,
    /// What must not be.
    pub(crate) findings: Vec<String>,
}

impl Witness {
    /// Looks around until it is told to stop.
    pub(crate) fn watch(
        &mut self,
        fleet: &Fleet,
        clients: &Clients<'_>,
        mut dice: Dice,
        stop: &AtomicBool,
    ) {
        while !stop.load(Ordering::Relaxed) {
            for node in fleet.nodes() {
                if fleet.is_frozen(node.name()) {
                    continue;
                }
                self.owners_on(fleet, &node);
                for player in clients.some_players(&mut dice, SOUGHT) {
                    self.place_of(fleet, &node, &player);
                }
            }
            thread::sleep(PAUSE);
        }
    }

    fn find(&mut self, fleet: &Fleet, what: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings
                .push(format!("{:.3} s: {what}", fleet.now().as_secs_f64()));
        }
    }

    /// No two nodes have one player in one epoch.
    fn owners_on(&mut self, fleet: &Fleet, node: &Arc<Process>) {
        let Some(before) = self.view_of(fleet, node) else {
            return;
        };
        let players = node.ask_within("local_players", GLANCE);
        let (Some(players), Some(after)) = (players, self.view_of(fleet, node)) else {
            return;
        };
        // Else its parts may be in another epoch than its view.
        if before != after || after.state != "serving" {
            return;
        }
        let me = (node.name().to_owned(), node.pid());
        for line in players {
            let Some((player, _)) = line.split_once(' ') else {
                continue;
            };
            let at = (after.cluster.clone(), after.epoch, player.to_owned());
            self.seen += 1;
            let first = self.owners.entry(at).or_insert_with(|| me.clone()).clone();
            if first != me {
                let epoch = after.epoch;
                self.find(
                    fleet,
                    format!("{player} is on {first:?} and on {me:?} in epoch {epoch}"),
                );
            }
        }
    }

    /// No player is where its keeper is, and no keeper is named twice.
    fn place_of(&mut self, fleet: &Fleet, node: &Arc<Process>, player: &str) {
        let lines = node.ask_within(&format!("whereis {player}"), GLANCE);
        let line = lines.unwrap_or_default().join(" ");
        let ["node", owner, "keeper", keepers, "version", _] =
            line.split(' ').collect::<Vec<_>>()[..]
        else {
            return;
        };
        self.placed += 1;
        let mut places: Vec<&str> = keepers.split(',').chain([owner]).map(short).collect();
        let count = places.len();
        places.sort_unstable();
        places.dedup();
        if places.len() < count {
            let name = node.name();
            self.find(
                fleet,
                format!("{player} has two copies on one node, says {name}: {line}"),
            );
        }
    }

    fn view_of(&mut self, fleet: &Fleet, node: &Process) -> Option<View> {
        let lines = node.ask_within("view", GLANCE)?;
        for line in lines
            .iter()
            .filter(|line| line.starts_with("POSSIBLE LOSS"))
        {
            self.losses
                .entry(line.clone())
                .or_insert_with(|| fleet.now());
        }
        Some(View::of(&lines))
    }

    /// What all nodes that run say of losses now.
    pub(crate) fn look_for_losses(&mut self, fleet: &Fleet) {
        for node in fleet.nodes() {
            self.view_of(fleet, &node);
        }
    }

    /// Those windows in which something may have been lost, and in or soon after which the nodes said so.
    pub(crate) fn confirm(&self, windows: Vec<Loss>) -> Vec<Loss> {
        let said = |loss: &Loss| {
            let heard = loss.from..loss.until + HEARD_WITHIN;
            self.losses.values().any(|at| heard.contains(at))
        };
        windows.into_iter().filter(said).collect()
    }

    /// No node ended by itself, none found an invariant broken.
    pub(crate) fn read_logs(&mut self, fleet: &Fleet) {
        for node in fleet.nodes() {
            if node.has_ended() {
                self.find(fleet, format!("{} ended by itself", node.name()));
            }
        }
        let mut lines = BTreeSet::new();
        for log in fs::read_dir(fleet.sandbox.path("log"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let text = fs::read_to_string(log.path()).unwrap_or_default();
            let bad = |line: &&str| line.contains(" ERROR ") || line.contains("panicked at");
            let name = log.file_name();
            lines.extend(
                text.lines()
                    .filter(bad)
                    .take(3)
                    .map(|line| format!("log of {}: {line}", name.display())),
            );
        }
        for line in lines {
            self.find(fleet, line);
        }
    }
}
