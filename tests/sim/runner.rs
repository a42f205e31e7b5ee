//! Many runs: on all cores, with the progress shown, each failure with the command that replays it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::run::{Counts, Failure};

/// How often the progress is shown.
const SHOWN_EVERY: Duration = Duration::from_secs(10);

/// How many lines of a failure's trace are shown, unless `SIM_TRACE` asks for more.
const LINES_SHOWN: usize = 200;

/// What several threads work on.
struct Work {
    next: u64,
    /// By thread: the seed that it is at.
    at: Vec<u64>,
    total: Counts,
    failed: Option<(u64, Failure)>,
    shown: Instant,
}

impl Work {
    /// The next seed for that thread; none if all are run, or one has failed.
    fn take(&mut self, thread: usize, end: u64) -> Option<u64> {
        let seed = self.next;
        if seed >= end || self.failed.is_some() {
            self.at[thread] = u64::MAX;
            return None;
        }
        self.next += 1;
        self.at[thread] = seed;
        Some(seed)
    }

    /// All seeds before this one have passed.
    fn passed(&self) -> u64 {
        self.at.iter().copied().fold(self.next, u64::min)
    }

    fn show(&mut self, from: u64, end: u64, began: Instant) {
        if self.shown.elapsed() < SHOWN_EVERY {
            return;
        }
        self.shown = Instant::now();
        let (done, passed) = (self.next - from, self.passed());
        let rate = done as f64 / began.elapsed().as_secs_f64();
        let left = ((end - self.next) as f64 / rate / 60.0).ceil();
        eprintln!(
            "{done} of {} seeds, {rate:.0} per second, {left:.0} min left; go on from here with SIM_FROM={passed}",
            end - from
        );
    }
}

/// Runs all of these seeds, each by `run`, until one fails; the lowest that failed by then is returned.
pub fn run_all(
    seeds: Range<u64>,
    run: impl Fn(u64) -> Result<Counts, Failure> + Sync,
) -> Result<Counts, (u64, Failure)> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    let work = Mutex::new(Work {
        next: seeds.start,
        at: vec![seeds.start; threads],
        total: BTreeMap::new(),
        failed: None,
        shown: began,
    });
    let lock = || work.lock().expect("no thread panics with the lock");
    let (lock, run) = (&lock, &run);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (from, end) = (seeds.start, seeds.end);
            scope.spawn(move || {
                while let Some(seed) = { lock().take(thread, end) } {
                    let result = run(seed);
                    let mut work = lock();
                    match result {
                        Ok(counts) => {
                            for (what, count) in counts {
                                *work.total.entry(what).or_default() += count;
                            }
                        }
                        Err(failure) => {
                            if work
                                .failed
                                .as_ref()
                                .is_none_or(|(lowest, _)| seed < *lowest)
                            {
                                work.failed = Some((seed, failure));
                            }
                        }
                    }
                    work.show(from, end, began);
                }
            });
        }
    });
    let Work { total, failed, .. } = work.into_inner().expect("all threads have ended");
    failed.map_or(Ok(total), Err)
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How a failure is told: the end of its trace, what is wrong, and the command that replays it.
pub fn tell(seed: u64, failure: &Failure) -> String {
    let Failure { what, trace } = failure;
    let shown = number("SIM_TRACE").map_or(LINES_SHOWN, |n| n as usize);
    let skipped = trace.len().saturating_sub(shown);
    let lines = trace[skipped..].join("\n");
    format!(
        "seed {seed}, {skipped} earlier lines left out:\n{lines}\n\nseed {seed}: {what}\n\
         replay: SIM_SEED={seed} cargo test --test simulation clusters -- --nocapture\n\
         every line: SIM_TRACE=1000000 in front of it"
    )
}
