//! What the clients were told: every call, with its times on one clock, and the judgement of them.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use super::linear::{self, Answered, Lost, Unknown};

/// How many sums are tried.
const SUMS_MAX: u32 = 1_000_000;
/// How many calls around a contradiction are shown.
const SHOWN: usize = 12;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The player's total afterwards.
    Total(i64),
    /// By every node that was asked: it did not happen.
    Refused,
    /// It happened, or not, or will.
    Unknown,
}

/// One call of one client; tried at several nodes, under one id.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The request's id; none if it was a read.
    pub(crate) id: Option<u64>,
    pub(crate) client: usize,
    pub(crate) player: String,
    /// What a reward adds. Amounts differ, and so do their sums: a total tells what it is made of.
    pub(crate) amount: i64,
    pub(crate) invoked: Duration,
    pub(crate) returned: Duration,
    /// From when on no copy of it can be carried out any more.
    pub(crate) settled: Duration,
    /// The nodes that were asked, and what each answered.
    pub(crate) tries: Vec<(String, String)>,
    pub(crate) outcome: Outcome,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.invoked.as_secs_f64(), self.returned.as_secs_f64());
        write!(
            f,
            "{from:>10.6} .. {to:>10.6} s  client {:>2}  ",
            self.client
        )?;
        match self.id {
            Some(id) => write!(f, "reward {} {:+} (id {id})", self.player, self.amount)?,
            None => write!(f, "read {}", self.player)?,
        }
        match &self.outcome {
            Outcome::Total(total) => write!(f, " = {total}")?,
            Outcome::Refused => write!(f, " refused")?,
            Outcome::Unknown => write!(f, " unknown")?,
        }
        for (node, answer) in &self.tries {
            write!(f, "  [{node}: {answer}]")?;
        }
        Ok(())
    }
}

/// A time in which players may have been lost, since the nodes said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

/// Judges all calls, player by player: none if they are linearizable, or a text that shows why not.
pub(crate) fn judge(calls: &[Call], losses: &[Loss]) -> Option<String> {
    let mut players: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        // What was refused never happened.
        if call.outcome != Outcome::Refused {
            players.entry(&call.player).or_default().push(call);
        }
    }
    players
        .into_iter()
        .find_map(|(player, calls)| judge_player(player, calls, losses))
}

fn judge_player(player: &str, mut calls: Vec<&Call>, losses: &[Loss]) -> Option<String> {
    calls.sort_by_key(|call| call.invoked);
    let answered: Vec<Answered> = calls.iter().filter_map(|call| answered(call)).collect();
    let mut unknown: Vec<Unknown> = calls.iter().filter_map(|call| unknown(call)).collect();
    let mut contradiction = linear::check(&answered, &unknown, &[]).err()?;
    if !losses.is_empty() {
        unknown.extend(losses.iter().flat_map(|loss| again(&calls, loss)));
        let lost: Vec<Lost> = losses
            .iter()
            .map(|loss| Lost {
                from: micros(loss.from),
                until: micros(loss.until),
            })
            .collect();
        contradiction = linear::check(&answered, &unknown, &lost).err()?;
    }
    let mut places = calls.iter().enumerate();
    let (stuck, _) = places
        .by_ref()
        .filter(|(_, call)| matches!(call.outcome, Outcome::Total(_)))
        .nth(contradiction.stuck)?;
    let total = contradiction.total;
    let mut text = format!(
        "player {player}: no order of its {} calls explains the one marked with >>\n\
         the best attempt orders {} of them, up to a total of {total}{}\n",
        calls.len(),
        contradiction.ordered,
        if contradiction.given_up {
            "; the search was given up, there are too many unknown outcomes"
        } else {
            ""
        },
    );
    let from = stuck.saturating_sub(SHOWN);
    for (i, call) in calls.iter().enumerate().skip(from).take(2 * SHOWN) {
        let mark = if i == stuck { ">>" } else { "  " };
        // A text never fails to grow.
        let _ = writeln!(text, "{mark} {call}");
    }
    let unknown = calls.iter().filter(|c| c.outcome == Outcome::Unknown);
    for call in unknown.filter(|c| c.invoked < calls[stuck].returned) {
        let _ = writeln!(text, " ? {call}");
    }
    Some(text)
}

fn micros(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).expect("a run of less than 500 000 years")
}

fn answered(call: &Call) -> Option<Answered> {
    let Outcome::Total(total) = call.outcome else {
        return None;
    };
    Some(Answered {
        amount: call.amount,
        total,
        invoked: micros(call.invoked),
        returned: micros(call.returned),
    })
}

/// A read without an answer tells nothing.
fn unknown(call: &Call) -> Option<Unknown> {
    let is_unknown = call.outcome == Outcome::Unknown && call.amount > 0;
    is_unknown.then(|| Unknown {
        amount: call.amount,
        invoked: micros(call.invoked),
    })
}

/// With a player its memory of ids is lost: a copy of a call that was still on its way is carried out again.
fn again(calls: &[&Call], loss: &Loss) -> Vec<Unknown> {
    let open = calls
        .iter()
        .filter(|call| call.amount > 0 && call.invoked <= loss.until && call.settled >= loss.from);
    open.map(|call| Unknown {
        amount: call.amount,
        invoked: micros(loss.from.max(call.invoked)),
    })
    .collect()
}

/// What must hold at rest, without any search: the total of a player is what was acknowledged, plus some of what was
/// not. The amounts are such that no other set of them has the same sum.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sum {
    acknowledged: i64,
    unknown: Vec<(i64, usize)>,
}

/// The sums of all players.
pub(crate) fn sums(calls: &[Call]) -> BTreeMap<String, Sum> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for call in calls {
        let sum = sums.entry(call.player.clone()).or_default();
        match call.outcome {
            Outcome::Total(_) => sum.acknowledged += call.amount,
            Outcome::Unknown if call.amount > 0 => sum.unknown.push((call.amount, 0)),
            Outcome::Unknown | Outcome::Refused => {}
        }
    }
    for sum in sums.values_mut() {
        sum.unknown.sort_unstable();
    }
    sums
}

impl Sum {
    /// Whether the player can have this total.
    pub(crate) fn check(&self, player: &str, total: i64) -> Result<(), String> {
        let more = total - self.acknowledged;
        if linear::subset(more, &self.unknown, &mut SUMS_MAX.clone()).is_some() {
            return Ok(());
        }
        let count = self.unknown.len();
        Err(format!(
            "{player} has {total} at rest: {more} more than was acknowledged, which no sum of the {count} unknown rewards is"
        ))
    }
}

mod tests {
    use super::*;

    fn call(second: u64, amount: i64, outcome: Outcome) -> Call {
        Call {
            id: Some(second),
            client: 0,
            player: "p".to_owned(),
            amount,
            invoked: Duration::from_secs(second),
            returned: Duration::from_millis(1_000 * second + 500),
            settled: Duration::ZERO,
            tries: vec![("a".to_owned(), "5".to_owned())],
            outcome,
        }
    }

    #[test]
    fn the_calls_around_a_contradiction_are_shown() {
        let mut calls = vec![
            call(1, 5, Outcome::Total(5)),
            call(2, 7, Outcome::Unknown),
            call(3, 1, Outcome::Refused),
            call(4, 2, Outcome::Total(14)),
        ];
        assert_eq!(judge(&calls, &[]), None);
        calls[3].outcome = Outcome::Total(2);
        let text = judge(&calls, &[]).expect("5 was lost");
        for shown in [
            ">>   4.000000",
            "reward p +2 (id 4) = 2  [a: 5]",
            " ?   2.000000",
        ] {
            assert!(text.contains(shown), "{shown} is not in\n{text}");
        }
        let loss = Loss {
            from: Duration::from_secs(3),
            until: Duration::from_secs(4),
        };
        assert_eq!(judge(&calls, &[loss]), None);
    }

    #[test]
    fn a_sum_at_rest_is_what_was_acknowledged_and_some_of_the_rest() {
        let calls = [
            call(1, 5, Outcome::Total(5)),
            call(2, 70, Outcome::Unknown),
            call(3, 900, Outcome::Unknown),
            call(4, 3_000, Outcome::Refused),
        ];
        let sum = &sums(&calls)["p"];
        for right in [5, 75, 905, 975] {
            sum.check("p", right).expect("some of them");
        }
        for wrong in [0, 10, 145, 3_005] {
            sum.check("p", wrong).expect_err("no sum of them");
        }
    }
}
