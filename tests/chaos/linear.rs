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
