//! Clients that never rest, and the book that is kept of what they were told.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::node::{Gone, Node, lock};
use super::wait_until;

/// Between two requests of one client: all tests share the machine.
const PAUSE: Duration = Duration::from_millis(2);
/// Before a client that was refused tries again.
const RETRY: Duration = Duration::from_millis(50);
/// The answers to a request that was not carried out.
const REFUSALS: [&str; 5] = [
    "error: suspended: ",
    "error: this node is alone: ",
    "error: this node is leaving; ",
    "error: overloaded, ",
    "** CRASH ",
];
/// What the error of a node says that does not know whether it did.
const UNKNOWN: &str = "the outcome is unknown";

/// One request, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Reward {
    /// The node that was asked.
    pub(crate) node: String,
    pub(crate) player: String,
    pub(crate) amount: i64,
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The player's new total.
    Total(i64),
    /// Not carried out, and why not.
    Refused(String),
    /// No answer: carried out, or not.
    Unknown(String),
    /// What must never be answered.
    Wrong(String),
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load<'a> {
    cluster: &'a Cluster,
    players: Vec<String>,
    book: Mutex<Vec<Reward>>,
    stop: AtomicBool,
}

impl<'a> Load<'a> {
    /// Runs one client at each of `nodes` while `disturb` does its worst; then checks what the players' totals
    /// have become. The book of all requests.
    #[track_caller]
    pub(crate) fn run(
        cluster: &'a Cluster,
        nodes: &[&str],
        players: &[String],
        disturb: impl FnOnce(&Self),
    ) -> Vec<Reward> {
        let load = Self {
            cluster,
            players: players.to_vec(),
            book: Mutex::default(),
            stop: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            // Also when `disturb` fails: the scope waits for the clients.
            let _stopped = Stopped(&load.stop);
            for (number, node) in nodes.iter().enumerate() {
                let load = &load;
                scope.spawn(move || load.client(number, node));
            }
            load.wait_progress();
            disturb(&load);
            load.wait_progress();
        });
        let book = load.book.into_inner().expect("no client failed");
        check(&book);
        book
    }

    /// Waits until the clients of some node got on: a hundred acknowledged requests from now on.
    #[track_caller]
    pub(crate) fn wait_progress(&self) {
        self.wait_acknowledged(100, |_| true);
    }

    /// Waits for `more` requests that are asked from now on and acknowledged.
    #[track_caller]
    pub(crate) fn wait_acknowledged(&self, more: usize, which: impl Fn(&Reward) -> bool) {
        let now = Instant::now();
        let mut seen = 0;
        let mut count = 0;
        wait_until("the load goes on", || {
            let book = lock(&self.book);
            for reward in &book[seen..] {
                if let Outcome::Wrong(answer) = &reward.outcome {
                    panic!(
                        "{} answered a reward of {} with: {answer}",
                        reward.node, reward.player
                    );
                }
                let counts = reward.asked >= now && matches!(reward.outcome, Outcome::Total(_));
                count += usize::from(counts && which(reward));
            }
            seen = book.len();
            count >= more
        });
    }

    /// Asks one node, whatever process has its name, for one reward after the other.
    fn client(&self, number: usize, name: &str) {
        for round in number.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let Some(node) = self
                .cluster
                .nodes()
                .into_iter()
                .find(|node| node.name() == name)
            else {
                thread::sleep(RETRY);
                continue;
            };
            let player = &self.players[(round * 7 + number) % self.players.len()];
            let amount = i64::try_from(round % 9 + 1).expect("a small number");
            let reward = reward(&node, player, amount);
            let pause = if matches!(reward.outcome, Outcome::Total(_)) {
                PAUSE
            } else {
                RETRY
            };
            let wrong = matches!(reward.outcome, Outcome::Wrong(_));
            lock(&self.book).push(reward);
            if wrong {
                return;
            }
            thread::sleep(pause);
        }
    }
}

struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Names for players.
pub(crate) fn players(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{prefix}{number}"))
        .collect()
}

/// One request of a client.
pub(crate) fn reward(node: &Node, player: &str, amount: i64) -> Reward {
    let asked = Instant::now();
    let outcome = match node.try_ask(&format!("reward_player {player} {amount}")) {
        Ok(lines) => outcome_of(&lines.join("\n")),
        Err(Gone) => Outcome::Unknown("the node ended".to_owned()),
    };
    Reward {
        node: node.name().to_owned(),
        player: player.to_owned(),
        amount,
        asked,
        answered: Instant::now(),
        outcome,
    }
}

/// What an answer means.
pub(crate) fn outcome_of(answer: &str) -> Outcome {
    if let Ok(total) = answer.parse() {
        return Outcome::Total(total);
    }
    let answer = answer.to_owned();
    if REFUSALS.iter().any(|refusal| answer.starts_with(refusal)) {
        Outcome::Refused(answer)
    } else if answer.starts_with("error: ") && answer.contains(UNKNOWN) {
        Outcome::Unknown(answer)
    } else {
        Outcome::Wrong(answer)
    }
}

/// Checks that the answers fit one order of all requests, which agrees with the clock: a linearizable counter.
///
/// Every acknowledged reward took its player from `total - amount` to `total`. So these spans are disjoint, what is
/// between them was given by requests without an answer, and a request that was asked after another one's answer has
/// the higher total.
#[track_caller]
fn check(book: &[Reward]) {
    for (player, rewards) in by_player(book) {
        let mut acknowledged: Vec<(i64, &Reward)> = rewards
            .iter()
            .filter_map(|reward| match reward.outcome {
                Outcome::Total(total) => Some((total, *reward)),
                Outcome::Refused(_) | Outcome::Unknown(_) => None,
                Outcome::Wrong(ref answer) => panic!("{player}: {answer}"),
            })
            .collect();
        acknowledged.sort_by_key(|(total, _)| *total);
        let unknown: i64 = unknown(&rewards);
        let (mut before, mut gaps) = (0, 0);
        let mut latest: Option<&Reward> = None;
        for (total, reward) in acknowledged {
            let gap = total - reward.amount - before;
            assert!(
                gap >= 0,
                "{player}: a reward was lost or given twice, before {reward:#?}\nand {latest:#?}"
            );
            gaps += gap;
            assert!(
                gaps <= unknown,
                "{player}: a reward was given twice, before {reward:#?}"
            );
            if let Some(latest) = latest {
                assert!(
                    latest.asked <= reward.answered,
                    "{player}: {reward:#?}\nis older than {latest:#?}"
                );
            }
            if latest.is_none_or(|latest| latest.asked < reward.asked) {
                latest = Some(reward);
            }
            before = total;
        }
    }
}

/// What each player of the book can have now.
fn expected(book: &[Reward]) -> BTreeMap<String, RangeInclusive<i64>> {
    let range = |(player, rewards): (&str, Vec<&Reward>)| {
        let acknowledged: i64 = rewards
            .iter()
            .filter(|reward| matches!(reward.outcome, Outcome::Total(_)))
            .map(|reward| reward.amount)
            .sum();
        (
            player.to_owned(),
            acknowledged..=acknowledged + unknown(&rewards),
        )
    };
    by_player(book).into_iter().map(range).collect()
}

/// Checks the totals of all players of the book, as `node` tells them.
#[track_caller]
pub(crate) fn check_totals(book: &[Reward], node: &Node) {
    for (player, expected) in expected(book) {
        let points = node.points(&player);
        assert!(
            expected.contains(&points),
            "{player} has {points} instead of {expected:?}"
        );
    }
}

/// The requests that were not acknowledged.
pub(crate) fn failures(book: &[Reward]) -> Vec<&Reward> {
    book.iter()
        .filter(|reward| !matches!(reward.outcome, Outcome::Total(_)))
        .collect()
}

fn unknown(rewards: &[&Reward]) -> i64 {
    let unknown = rewards
        .iter()
        .filter(|reward| matches!(reward.outcome, Outcome::Unknown(_)));
    unknown.map(|reward| reward.amount).sum()
}

fn by_player(book: &[Reward]) -> BTreeMap<&str, Vec<&Reward>> {
    let mut players: BTreeMap<&str, Vec<&Reward>> = BTreeMap::new();
    for reward in book {
        players.entry(&reward.player).or_default().push(reward);
    }
    players
}

mod tests {
    use super::*;

    /// A book of rewards of one player: amount and outcome, asked one after the other.
    fn book(rewards: &[(i64, Outcome)]) -> Vec<Reward> {
        let start = Instant::now();
        let at = |number: u32| start + number * Duration::from_secs(1);
        let reward = |(number, (amount, outcome)): (u32, &(i64, Outcome))| Reward {
            node: "a".to_owned(),
            player: "player1".to_owned(),
            amount: *amount,
            asked: at(2 * number),
            answered: at(2 * number + 1),
            outcome: outcome.clone(),
        };
        (0..).zip(rewards).map(reward).collect()
    }

    fn unknown() -> Outcome {
        Outcome::Unknown(String::new())
    }

    #[test]
    fn a_book_without_contradictions_passes() {
        let refused = Outcome::Refused(String::new());
        let book = book(&[
            (5, Outcome::Total(5)),
            (7, unknown()),
            (9, refused),
            (1, Outcome::Total(13)),
            (2, unknown()),
        ]);
        check(&book);
        assert_eq!(expected(&book)["player1"], 6..=15);
    }

    #[test]
    #[should_panic(expected = "lost or given twice")]
    fn a_lost_reward_is_found() {
        check(&book(&[(5, Outcome::Total(5)), (1, Outcome::Total(1))]));
    }

    #[test]
    #[should_panic(expected = "given twice")]
    fn a_reward_given_twice_is_found() {
        check(&book(&[
            (5, Outcome::Total(5)),
            (1, unknown()),
            (2, Outcome::Total(9)),
        ]));
    }

    #[test]
    #[should_panic(expected = "is older than")]
    fn an_answer_from_the_past_is_found() {
        check(&book(&[
            (5, unknown()),
            (1, Outcome::Total(6)),
            (5, Outcome::Total(5)),
        ]));
    }
}
