//! Histories that are right, and histories that are wrong, each in its own way.

use std::time::{Duration, Instant};

use super::dice::Dice;
use super::linear::{Answered, Lost, Unknown, check};

fn reward(amount: i64, total: i64, invoked: u64, returned: u64) -> Answered {
    Answered {
        amount,
        total,
        invoked,
        returned,
    }
}

fn read(total: i64, invoked: u64, returned: u64) -> Answered {
    reward(0, total, invoked, returned)
}

fn unknown(amount: i64, invoked: u64) -> Unknown {
    Unknown { amount, invoked }
}

#[track_caller]
fn stuck(answered: &[Answered], unknown: &[Unknown], lost: &[Lost]) -> usize {
    let contradiction = check(answered, unknown, lost).expect_err("no order explains this");
    assert!(!contradiction.given_up);
    contradiction.stuck
}

#[test]
fn calls_side_by_side_may_take_effect_in_either_order() {
    check(&[], &[], &[]).expect("nothing is wrong");
    let side_by_side = [reward(5, 7, 0, 10), reward(2, 2, 1, 9), read(2, 0, 10)];
    check(&side_by_side, &[], &[]).expect("2, read, 5");
}

#[test]
fn an_unknown_outcome_may_show_late_or_never() {
    let once = [unknown(3, 0)];
    check(&[read(0, 1, 2), read(0, 3, 4)], &once, &[]).expect("never");
    check(&[read(0, 1, 2), read(3, 3, 4)], &once, &[]).expect("late");
    let several = [unknown(3, 0), unknown(4, 0), unknown(8, 0)];
    check(&[reward(1, 5, 5, 6)], &several, &[]).expect("one of three");
    check(&[reward(1, 12, 5, 6)], &several, &[]).expect("two of three");
    assert_eq!(stuck(&[reward(1, 10, 5, 6)], &several, &[]), 0);
}

#[test]
fn a_stale_read_is_found() {
    assert_eq!(stuck(&[reward(5, 5, 0, 1), read(0, 2, 3)], &[], &[]), 1);
    // Also when it is the later of two reads, of which the first saw a reward that is still under way.
    let reads = [reward(5, 5, 0, 9), read(5, 1, 2), read(0, 3, 4)];
    assert_eq!(stuck(&reads, &[], &[]), 2);
}

#[test]
fn a_lost_update_is_found() {
    assert_eq!(
        stuck(&[reward(5, 5, 0, 1), reward(3, 3, 2, 3)], &[], &[]),
        1
    );
    assert_eq!(
        stuck(&[reward(5, 5, 0, 9), reward(3, 3, 0, 9)], &[], &[]),
        1
    );
}

#[test]
fn a_reward_given_twice_is_found() {
    assert_eq!(stuck(&[reward(5, 5, 0, 1), read(10, 2, 3)], &[], &[]), 1);
    assert_eq!(stuck(&[read(10, 2, 3)], &[unknown(5, 0)], &[]), 0);
    let twice = [read(5, 2, 3), read(10, 4, 5)];
    assert_eq!(stuck(&twice, &[unknown(5, 0)], &[]), 1);
}

#[test]
fn a_read_from_the_future_is_found() {
    assert_eq!(stuck(&[read(5, 0, 1), reward(5, 5, 2, 3)], &[], &[]), 0);
    assert_eq!(stuck(&[read(5, 0, 1)], &[unknown(5, 2)], &[]), 0);
    // What it saw began in time, but not before another one that did not see it.
    let both = [read(5, 0, 9), read(0, 10, 11)];
    assert_eq!(stuck(&both, &[unknown(5, 8)], &[]), 0);
}

#[test]
fn an_unknown_outcome_that_was_taken_back_is_found() {
    let taken_back = [read(5, 1, 2), read(0, 3, 4)];
    assert_eq!(stuck(&taken_back, &[unknown(5, 0)], &[]), 0);
}

#[test]
fn a_loss_that_was_said_excuses_what_it_can_explain() {
    let lost = |from, until| [Lost { from, until }];
    let calls = [reward(5, 5, 0, 1), reward(2, 7, 2, 3), reward(1, 1, 20, 21)];
    assert_eq!(stuck(&calls, &[], &[]), 2);
    check(&calls, &[], &lost(10, 15)).expect("lost between the second and the third");
    // One that was over before the second, or came after the third, explains nothing.
    assert_eq!(stuck(&calls, &[], &lost(1, 1)), 2);
    assert_eq!(stuck(&calls, &[], &lost(22, 30)), 2);
    let mut older = calls;
    older[2].total = 6;
    check(&older, &[], &lost(10, 15)).expect("an older copy");
    older[2].total = 7;
    assert_eq!(stuck(&older, &[], &lost(10, 15)), 2);
    check(&older, &[unknown(6, 4)], &lost(10, 15)).expect("a new beginning");
}

/// Clients side by side, whose every tenth outcome is unknown; the amounts differ.
fn long(calls: u64) -> (Vec<Answered>, Vec<Unknown>) {
    let mut dice = Dice::new(calls);
    let mut total = 0;
    let (mut answered, mut lost) = (Vec::new(), Vec::new());
    for i in 0..calls {
        let amount = dice.between(1 << 39, 1 << 40) as i64;
        let (invoked, returned) = (10 * i, 10 * i + 95);
        if i % 10 == 3 {
            total += if i % 20 == 3 { amount } else { 0 };
            lost.push(unknown(amount, invoked));
            continue;
        }
        let amount = if i % 3 == 0 { 0 } else { amount };
        total += amount;
        answered.push(reward(amount, total, invoked, returned));
    }
    (answered, lost)
}

#[test]
fn thousands_of_calls_are_judged_in_seconds_be_they_right_or_wrong() {
    let start = Instant::now();
    let (mut answered, unknown) = long(5_000);
    check(&answered, &unknown, &[]).expect("made to be right");
    // The last answer misses something, and so does a read of long ago.
    for wrong in [4_499, 2_249] {
        answered[wrong].total -= 1;
        let contradiction = check(&answered, &unknown, &[]).expect_err("made to be wrong");
        assert!(!contradiction.given_up, "{contradiction:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(60));
}
