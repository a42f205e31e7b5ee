//! Is there one order of all calls to a player that explains every answer and agrees with the clock?
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the memory of Lowe ("Testing
//! for linearizability", 2017), for one player at a time (Horn and Kroening's P-compositionality, 2015): take a call
//! that began before any other one returned, see whether its answer fits the state, go on, and step back where nothing
//! fits. A set of calls and the state that they led to is tried once.
//!
//! ```text
//!   invoked ──────┬────── returned      takes effect once in between; its total is known
//!   invoked ──────┬──────────────  …    unknown: takes effect at any time after, or never
//! ```
//!
//! A player is a counter and amounts are positive, which makes the search nearly a walk. An answer says what the total
//! was before it. If that is more than the total so far, unknown outcomes must make up for the gap, and nobody can tell
//! whether they took effect any earlier: they are looked for only then. The amounts are random numbers of 40 bits, so
//! that no two sets of them have one sum. And totals never pass the least one that an answer still needs.

use std::collections::HashSet;

/// An answered call. Times are of one clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    /// What it added; nothing if it was a read.
    pub(crate) amount: i64,
    pub(crate) total: i64,
    pub(crate) invoked: u64,
    pub(crate) returned: u64,
}

/// A call without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub(crate) amount: i64,
    pub(crate) invoked: u64,
}

/// A time in which the player may have been lost, once: it goes on from nothing, or as it had been at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

/// Why there is no such order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    /// Of the best attempt: how many answered calls it could order,
    pub(crate) ordered: usize,
    /// the total then,
    pub(crate) total: i64,
    /// and the answered call that did not fit.
    pub(crate) stuck: usize,
    /// The search was given up.
    pub(crate) given_up: bool,
}

/// How many calls are tried until a search counts as hopeless.
const TRIES_MAX: u64 = 20_000_000;
/// How many sums are tried to fill one gap.
const SUMS_MAX: u32 = 100_000;

/// Looks for an order.
///
/// # Errors
/// Where the best attempt ended.
pub(crate) fn check(
    answered: &[Answered],
    unknown: &[Unknown],
    lost: &[Lost],
) -> Result<(), Contradiction> {
    Search::new(answered, unknown, lost).run()
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Call(usize),
    Return(usize),
}

/// What has to have happened before an answered call, so that its answer fits.
#[derive(Clone, Debug, Default)]
struct Before {
    /// Unknown outcomes that took effect.
    applied: Vec<usize>,
    lost: Option<usize>,
}

/// An answered call that was put next, and how to step back from it.
struct Step {
    call: usize,
    total: i64,
    latest: u64,
    before: Before,
    /// What else could have happened before it.
    others: Vec<Before>,
}

struct Search<'a> {
    answered: &'a [Answered],
    unknown: &'a [Unknown],
    lost: &'a [Lost],
    events: Vec<Event>,
    /// The events that are left, a doubly linked list: number `events.len()` is both ends.
    next: Vec<usize>,
    prev: Vec<usize>,
    call_at: Vec<usize>,
    return_at: Vec<usize>,
    /// The answered calls by the totals that they need, and the first of those that is left.
    needs: Vec<(i64, usize)>,
    rank: Vec<usize>,
    least: usize,
    used: Vec<bool>,
    applied: Vec<bool>,
    happened: Vec<bool>,
    /// The total so far, the latest invocation, and the set of all that took effect.
    total: i64,
    latest: u64,
    set: u128,
    order: Vec<Step>,
    seen: HashSet<(u128, i64)>,
}

impl<'a> Search<'a> {
    fn new(answered: &'a [Answered], unknown: &'a [Unknown], lost: &'a [Lost]) -> Self {
        let mut events: Vec<(u64, bool, Event)> = Vec::new();
        for (i, call) in answered.iter().enumerate() {
            events.push((call.invoked, false, Event::Call(i)));
            events.push((call.returned, true, Event::Return(i)));
        }
        // At the same time they overlap: calls first.
        events.sort_by_key(|(at, returns, _)| (*at, *returns));
        let events: Vec<Event> = events.into_iter().map(|(.., event)| event).collect();
        let (mut call_at, mut return_at) = (vec![0; answered.len()], vec![0; answered.len()]);
        for (at, event) in events.iter().enumerate() {
            match event {
                Event::Call(i) => call_at[*i] = at,
                Event::Return(i) => return_at[*i] = at,
            }
        }
        let needs = answered.iter().enumerate();
        let mut needs: Vec<(i64, usize)> = needs.map(|(i, c)| (c.total - c.amount, i)).collect();
        needs.sort_unstable();
        let mut rank = vec![0; answered.len()];
        for (at, (_, i)) in needs.iter().enumerate() {
            rank[*i] = at;
        }
        let end = events.len();
        Self {
            answered,
            unknown,
            lost,
            next: (1..=end).chain([0]).collect(),
            prev: [end].into_iter().chain(0..end).collect(),
            events,
            call_at,
            return_at,
            needs,
            rank,
            least: 0,
            used: vec![false; answered.len()],
            applied: vec![false; unknown.len()],
            happened: vec![false; lost.len()],
            total: 0,
            latest: 0,
            set: 0,
            order: Vec::new(),
            seen: HashSet::new(),
        }
    }

    fn run(mut self) -> Result<(), Contradiction> {
        let end = self.events.len();
        let mut best = Contradiction {
            ordered: 0,
            total: 0,
            stuck: 0,
            given_up: false,
        };
        let mut at = self.next[end];
        for _ in 0..TRIES_MAX {
            if self.order.len() == self.answered.len() {
                return Ok(());
            }
            // Nobody may need a total that will never come again.
            let stuck = match self.events.get(at) {
                _ if let Some(i) = self.passed_over() => i,
                Some(Event::Call(i)) => {
                    let options = self.options(*i);
                    at = if self.advance(*i, options) {
                        self.next[end]
                    } else {
                        self.next[at]
                    };
                    continue;
                }
                // It had to take effect before it returned.
                Some(Event::Return(i)) => *i,
                None => best.stuck,
            };
            if self.order.len() > best.ordered || self.order.is_empty() && best.ordered == 0 {
                best.ordered = self.order.len();
                (best.total, best.stuck) = (self.total, stuck);
            }
            let Some(call) = self.step_back() else {
                return Err(best);
            };
            at = match call {
                Some(call) => self.next[self.call_at[call]],
                None => self.next[end],
            };
        }
        best.given_up = true;
        Err(best)
    }

    fn passed_over(&self) -> Option<usize> {
        let (need, i) = *self.needs.get(self.least)?;
        (self.lost.is_empty() && need < self.total).then_some(i)
    }

    /// What can have happened before this call, so that it can be next.
    fn options(&self, i: usize) -> Vec<Before> {
        let call = self.answered[i];
        let need = call.total - call.amount;
        // Without losses the totals grow: no answer that is left needs less than the next one.
        if self.lost.is_empty() && self.needs.get(self.least).is_some_and(|(n, _)| *n < need) {
            return Vec::new();
        }
        let mut options = Vec::new();
        options.extend(self.fill(need - self.total).map(|applied| Before {
            applied,
            lost: None,
        }));
        for (number, lost) in self.lost.iter().enumerate() {
            // Not once it was over, and not before it began.
            if self.happened[number] || self.latest > lost.until || self.deadline() < lost.from {
                continue;
            }
            let known = self.order.iter().map(|step| step.total).chain([0]);
            let mut known: Vec<i64> = known.filter(|known| *known < self.total).collect();
            known.sort_unstable();
            known.dedup();
            let filled = known
                .into_iter()
                .filter_map(|back_to| self.fill(need - back_to));
            options.extend(filled.map(|applied| Before {
                applied,
                lost: Some(number),
            }));
        }
        options
    }

    /// When the first call that is left returned: what takes effect next began before that.
    fn deadline(&self) -> u64 {
        let mut at = self.next[self.events.len()];
        while let Some(Event::Call(_)) = self.events.get(at) {
            at = self.next[at];
        }
        match self.events.get(at) {
            Some(Event::Return(i)) => self.answered[*i].returned,
            Some(Event::Call(_)) | None => u64::MAX,
        }
    }

    /// The unknown outcomes that make up for a gap.
    fn fill(&self, gap: i64) -> Option<Vec<usize>> {
        if gap <= 0 {
            return (gap == 0).then(Vec::new);
        }
        let deadline = self.deadline();
        let left = self.unknown.iter().enumerate();
        let mut left: Vec<(i64, usize)> = left
            .filter(|(i, unknown)| !self.applied[*i] && unknown.invoked <= deadline)
            .map(|(i, unknown)| (unknown.amount, i))
            .filter(|(amount, _)| (1..=gap).contains(amount))
            .collect();
        left.sort_unstable();
        subset(gap, &left, &mut SUMS_MAX.clone())
    }

    /// Puts a call next, in the first of these ways that was not tried before.
    fn advance(&mut self, call: usize, mut others: Vec<Before>) -> bool {
        while let Some(before) = others.pop() {
            let (total, latest) = (self.total, self.latest);
            self.toggle(&before, true);
            self.set ^= mark(0, call);
            if self.seen.insert((self.set, self.answered[call].total)) {
                self.total = self.answered[call].total;
                self.latest = latest.max(self.answered[call].invoked);
                self.take(call);
                self.order.push(Step {
                    call,
                    total,
                    latest,
                    before,
                    others,
                });
                return true;
            }
            self.set ^= mark(0, call);
            self.toggle(&before, false);
        }
        false
    }

    /// Takes the last call back. None if there is none; then the call, if it cannot be next in another way either.
    fn step_back(&mut self) -> Option<Option<usize>> {
        let step = self.order.pop()?;
        self.put_back(step.call);
        self.set ^= mark(0, step.call);
        self.toggle(&step.before, false);
        (self.total, self.latest) = (step.total, step.latest);
        Some((!self.advance(step.call, step.others)).then_some(step.call))
    }

    fn toggle(&mut self, before: &Before, on: bool) {
        for i in &before.applied {
            self.applied[*i] = on;
            self.set ^= mark(1, *i);
        }
        if let Some(number) = before.lost {
            self.happened[number] = on;
            self.set ^= mark(2, number);
        }
    }

    fn take(&mut self, i: usize) {
        self.used[i] = true;
        for at in [self.call_at[i], self.return_at[i]] {
            let (prev, next) = (self.prev[at], self.next[at]);
            self.next[prev] = next;
            self.prev[next] = prev;
        }
        while self
            .needs
            .get(self.least)
            .is_some_and(|(_, i)| self.used[*i])
        {
            self.least += 1;
        }
    }

    fn put_back(&mut self, i: usize) {
        self.used[i] = false;
        self.least = self.least.min(self.rank[i]);
        // In the opposite order of `take`.
        for at in [self.return_at[i], self.call_at[i]] {
            let (prev, next) = (self.prev[at], self.next[at]);
            self.next[prev] = at;
            self.prev[next] = at;
        }
    }
}

/// Numbers that have that sum, each used once. All are positive, and sorted.
pub(crate) fn subset(sum: i64, numbers: &[(i64, usize)], tries: &mut u32) -> Option<Vec<usize>> {
    if sum == 0 {
        return Some(Vec::new());
    }
    *tries = tries.checked_sub(1)?;
    let ((last, i), rest) = numbers.split_last()?;
    // Even the least is too much, or all are too little.
    if sum < numbers[0].0 || numbers.iter().map(|(number, _)| number).sum::<i64>() < sum {
        return None;
    }
    if let Some(mut found) = subset(sum - last, rest, tries) {
        found.push(*i);
        return Some(found);
    }
    subset(sum, rest, tries)
}

/// A random number for each thing that can take effect, always the same: a set of them is the xor of theirs.
fn mark(kind: u64, i: usize) -> u128 {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let seed = (3 * i as u64 + kind + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u128::from(mix(seed)) << 64 | u128::from(mix(!seed))
}

mod tests {
    use std::time::{Duration, Instant};

    use super::*;

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
        let mut total = 0;
        let (mut answered, mut lost) = (Vec::new(), Vec::new());
        for i in 0..calls {
            let amount = (1 << 39) + i64::try_from(mark(0, i as usize) % (1 << 39)).expect("small");
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
}
