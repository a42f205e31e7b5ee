//! Who has not been asked for long. A player's last use is one number that is written when it has handled a request; a
//! wheel of buckets finds those whose time is over, without looking at the others: a player is looked at once per idle
//! time, however often it is used.
//!
//! ```text
//!   started, or used since ──▶ the bucket of (last use + idle time)
//!                                  │ its time has come
//!                                  ▼
//!                   used since? ──▶ a later bucket        not used: to rest
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Into how many buckets the idle time is divided: a player rests at most one of them later than it could.
const BUCKETS: u32 = 64;

/// Most players that are looked at in one go, so that many that were started together do not stop the part.
const DUE_MAX: usize = 1_000;

/// A reading of a wheel's clock: how many buckets have gone by.
pub(crate) type Turn = u64;

/// The wheel.
#[derive(Debug)]
pub(super) struct Idle<T> {
    start: Instant,
    /// How long a bucket is; none if nobody ever rests.
    step: Option<Duration>,
    now: Turn,
    /// The first one is that of `reached`.
    buckets: VecDeque<Vec<T>>,
    reached: Turn,
}

impl<T> Idle<T> {
    /// A wheel for an idle time; none if that is zero.
    pub(super) fn new(idle: Duration, start: Instant) -> Self {
        let step = (!idle.is_zero()).then(|| (idle / BUCKETS).max(Duration::from_millis(1)));
        Self {
            start,
            step,
            now: 0,
            buckets: VecDeque::new(),
            reached: 0,
        }
    }

    /// The time of the last [`Self::turn`].
    pub(super) fn now(&self) -> Turn {
        self.now
    }

    /// Looks at a player when its idle time is over, counted from `used`.
    pub(super) fn watch(&mut self, player: T, used: Turn) {
        if self.step.is_none() {
            return;
        }
        // One more, since the bucket of `used` has begun already.
        let due = used + Turn::from(BUCKETS) + 1;
        let at = due
            .saturating_sub(self.reached)
            .min(2 * Turn::from(BUCKETS)) as usize;
        if self.buckets.len() <= at {
            self.buckets.resize_with(at + 1, Vec::new);
        }
        self.buckets[at].push(player);
    }

    /// Looks again at a player that could not go to rest, after an eighth of the idle time.
    pub(super) fn retry(&mut self, player: T) {
        let used = self.now.saturating_sub(Turn::from(BUCKETS - BUCKETS / 8));
        self.watch(player, used);
    }

    /// Time passed: the players to look at now. Those that there is no time for come next.
    pub(super) fn turn(&mut self, now: Instant) -> Vec<T> {
        let Some(step) = self.step else {
            return Vec::new();
        };
        let turns = now.duration_since(self.start).as_nanos() / step.as_nanos();
        self.now = Turn::try_from(turns).unwrap_or(Turn::MAX);
        let mut due = Vec::new();
        while let Some(bucket) = self.buckets.front_mut() {
            if self.reached > self.now {
                break;
            }
            let room = DUE_MAX - due.len();
            due.extend(bucket.drain(bucket.len().saturating_sub(room)..));
            if !bucket.is_empty() {
                return due;
            }
            self.buckets.pop_front();
            self.reached += 1;
        }
        if self.buckets.is_empty() {
            self.reached = self.now + 1;
        }
        due
    }

    /// Whether a player that was used then has been idle for the whole time.
    pub(super) fn is_over(&self, used: Turn) -> bool {
        self.now > used + Turn::from(BUCKETS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_millis(640);

    fn due(idle: &mut Idle<u64>, start: Instant, at_ms: u64) -> Vec<u64> {
        idle.turn(start + Duration::from_millis(at_ms))
    }

    #[test]
    fn a_player_is_looked_at_when_its_time_is_over_and_not_before() {
        let start = Instant::now();
        let mut idle = Idle::new(IDLE, start);
        idle.watch(1, idle.now());
        assert!(due(&mut idle, start, 640).is_empty());
        assert!(!idle.is_over(0));
        assert_eq!(due(&mut idle, start, 650), [1]);
        assert!(idle.is_over(0));
        assert!(due(&mut idle, start, 5_000).is_empty());
    }

    #[test]
    fn who_was_used_since_is_looked_at_again_later() {
        let start = Instant::now();
        let mut idle = Idle::new(IDLE, start);
        idle.watch(1, 0);
        due(&mut idle, start, 300);
        let used = idle.now();
        assert_eq!(due(&mut idle, start, 700), [1]);
        assert!(!idle.is_over(used));
        idle.watch(1, used);
        assert!(due(&mut idle, start, 940).is_empty());
        assert_eq!(due(&mut idle, start, 950), [1]);
        assert!(idle.is_over(used));
    }

    #[test]
    fn who_could_not_go_to_rest_is_looked_at_again_soon() {
        let start = Instant::now();
        let mut idle = Idle::new(IDLE, start);
        due(&mut idle, start, 1_000);
        idle.retry(1);
        assert!(due(&mut idle, start, 1_080).is_empty());
        assert_eq!(due(&mut idle, start, 1_090), [1]);
    }

    #[test]
    fn many_at_once_are_looked_at_one_lot_after_the_other() {
        let start = Instant::now();
        let mut idle = Idle::new(IDLE, start);
        let many = DUE_MAX as u64 * 2 + 500;
        (0..many).for_each(|player| idle.watch(player, 0));
        let mut lots = Vec::new();
        let mut seen = Vec::new();
        for at in [10_000, 10_001, 10_002, 10_003] {
            let lot = due(&mut idle, start, at);
            lots.push(lot.len());
            seen.extend(lot);
        }
        seen.sort_unstable();
        assert_eq!(lots, [DUE_MAX, DUE_MAX, 500, 0]);
        assert!(seen.into_iter().eq(0..many));
    }

    #[test]
    fn where_nobody_rests_nobody_is_remembered() {
        let start = Instant::now();
        let mut idle = Idle::new(Duration::ZERO, start);
        idle.watch(1_u64, 0);
        assert!(due(&mut idle, start, u64::from(u32::MAX)).is_empty());
        assert!(idle.buckets.is_empty());
    }
}
