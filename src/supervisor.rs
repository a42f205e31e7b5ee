//! The policy of a supervisor, in OTP's words: what is restarted, how often, and how it backs off.
//!
//! Every actor has an intensity of its own. Where OTP's supervisor gives up and takes its other children with
//! it, an actor that crashes again and again backs off alone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Which exits of an actor are followed by a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RestartKind {
    /// Every exit.
    #[default]
    Permanent,
    /// Only an abnormal one (a panic, a kill).
    Transient,
    /// None: the next request starts the actor again.
    Temporary,
}

/// When and how often an actor is started again (strategy one-for-one).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restart {
    /// Which exits are followed by a restart.
    pub kind: RestartKind,
    /// This many restarts within `period` come at once; further ones wait.
    pub intensity: usize,
    /// The window in which restarts are counted.
    pub period: Duration,
    /// The first wait beyond the intensity; it doubles with every further crash, up to `backoff_max`.
    pub backoff_min: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
}

impl Default for Restart {
    /// Permanent; 5 restarts in 5 s at once, then after 100 ms, 200 ms, … up to 10 s.
    fn default() -> Self {
        Self {
            kind: RestartKind::Permanent,
            intensity: 5,
            period: Duration::from_secs(5),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// What a supervisor does about an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Start it again after that time.
    Again(Duration),
    /// Leave it down until it is asked for.
    Down,
}

/// The recent restarts of one actor.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The last restarts, oldest first; at most `intensity` of them.
    recent: VecDeque<Instant>,
    /// How many restarts in a row had to wait.
    waits: u32,
}

impl History {
    /// The actor ended at `now`.
    pub(crate) fn exited(&mut self, now: Instant, policy: &Restart, abnormal: bool) -> Verdict {
        match policy.kind {
            RestartKind::Permanent => {}
            RestartKind::Transient if abnormal => {}
            RestartKind::Transient | RestartKind::Temporary => return Verdict::Down,
        }
        self.forget(now, policy);
        if self.recent.is_empty() {
            self.waits = 0;
        }
        if self.waits == 0 && self.recent.len() < policy.intensity {
            self.recent.push_back(now);
            return Verdict::Again(Duration::ZERO);
        }
        let wait = policy
            .backoff_min
            .saturating_mul(1 << self.waits.min(20))
            .min(policy.backoff_max);
        self.waits += 1;
        // The restart counts from when it happens, so that one who crashes at once is not forgiven for waiting.
        self.recent.pop_front();
        self.recent.push_back(now + wait);
        Verdict::Again(wait)
    }

    /// Whether nothing of it matters any more.
    pub(crate) fn is_calm(&mut self, now: Instant, policy: &Restart) -> bool {
        self.forget(now, policy);
        self.recent.is_empty()
    }

    fn forget(&mut self, now: Instant, policy: &Restart) {
        while self
            .recent
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) > policy.period)
        {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_within_the_intensity_come_at_once_and_further_ones_back_off() {
        let policy = Restart {
            intensity: 2,
            ..Restart::default()
        };
        let (mut history, mut now) = (History::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..12 {
            let Verdict::Again(wait) = history.exited(now, &policy, true) else {
                panic!("permanent")
            };
            waits.push(wait.as_millis());
            now += wait;
        }
        assert_eq!(waits[..7], [0, 0, 100, 200, 400, 800, 1_600]);
        assert_eq!(waits[11], policy.backoff_max.as_millis());
    }

    #[test]
    fn an_actor_that_was_calm_for_the_period_is_forgiven() {
        let policy = Restart {
            intensity: 1,
            ..Restart::default()
        };
        let (mut history, now) = (History::default(), Instant::now());
        assert_eq!(
            history.exited(now, &policy, true),
            Verdict::Again(Duration::ZERO)
        );
        assert!(!history.is_calm(now, &policy));
        let later = now + policy.period + Duration::from_millis(1);
        assert!(history.is_calm(later, &policy));
        assert_eq!(
            history.exited(later, &policy, true),
            Verdict::Again(Duration::ZERO)
        );
    }

    #[test]
    fn transient_actors_restart_after_a_crash_only_and_temporary_ones_never() {
        let now = Instant::now();
        let transient = Restart {
            kind: RestartKind::Transient,
            ..Restart::default()
        };
        let temporary = Restart {
            kind: RestartKind::Temporary,
            ..Restart::default()
        };
        assert_eq!(
            History::default().exited(now, &transient, false),
            Verdict::Down
        );
        assert_eq!(
            History::default().exited(now, &transient, true),
            Verdict::Again(Duration::ZERO)
        );
        assert_eq!(
            History::default().exited(now, &temporary, true),
            Verdict::Down
        );
    }
}
