//! Clients in closed loop, and the lines in which a process of the bench is asked for them.
//!
//! ```text
//!   measure PATH IN_FLIGHT MILLISECONDS  ->  sample COUNT ELAPSED_US P50 P99 P999   (latencies in microseconds)
//!   check                                ->  right, or wrong REASON
//! ```

use std::error::Error;
use std::fmt;
use std::io::BufRead;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

pub(crate) type Res<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How many players each path has.
pub(crate) const PLAYERS: usize = 10_000;
/// The longest latency that is told from a longer one.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What a measurement came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) count: u64,
    pub(crate) elapsed_us: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            elapsed_us,
            p50,
            p99,
            p999,
        } = self;
        write!(f, "sample {count} {elapsed_us} {p50} {p99} {p999}")
    }
}

impl FromStr for Sample {
    type Err = Box<dyn Error + Send + Sync>;

    fn from_str(line: &str) -> Res<Self> {
        let numbers: Vec<u64> = line
            .strip_prefix("sample ")
            .ok_or_else(|| format!("no sample: {line}"))?
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [count, elapsed_us, p50, p99, p999] = numbers[..] else {
            return Err(format!("no sample: {line}").into());
        };
        Ok(Self {
            count,
            elapsed_us,
            p50,
            p99,
            p999,
        })
    }
}

/// `in_flight` clients ask players at random until the time is over; `give` asks the player of a number.
pub(crate) async fn closed_loop<F, G>(in_flight: usize, wait: Duration, give: F) -> Res<Sample>
where
    F: Fn(usize) -> G + Clone + Send + 'static,
    G: Future<Output = Res<()>> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let clients: Vec<_> = (0..in_flight)
        .map(|client| tokio::spawn(one(client, stop.clone(), give.clone())))
        .collect();
    tokio::time::sleep(wait).await;
    stop.store(true, Ordering::Relaxed);
    let mut latency = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_US, 3)?;
    for client in clients {
        latency.add(client.await??)?;
    }
    Ok(Sample {
        count: latency.len(),
        elapsed_us: u64::try_from(start.elapsed().as_micros())?,
        p50: latency.value_at_quantile(0.5),
        p99: latency.value_at_quantile(0.99),
        p999: latency.value_at_quantile(0.999),
    })
}

async fn one<F, G>(client: usize, stop: Arc<AtomicBool>, give: F) -> Res<Histogram<u64>>
where
    F: Fn(usize) -> G,
    G: Future<Output = Res<()>>,
{
    let mut latency = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3)?;
    let mut dice = SmallRng::seed_from_u64(client as u64);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        give(dice.random_range(0..PLAYERS)).await?;
        let us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        latency.saturating_record(us.max(1));
    }
    Ok(latency)
}

/// The lines of standard input, until it ends.
pub(crate) fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// `PATH IN_FLIGHT MILLISECONDS`.
pub(crate) fn order(line: &str) -> Res<(&str, usize, Duration)> {
    let words: Vec<&str> = line.split(' ').collect();
    let ["measure", path, in_flight, ms] = words[..] else {
        return Err(format!("not understood: {line}").into());
    };
    Ok((path, in_flight.parse()?, Duration::from_millis(ms.parse()?)))
}
