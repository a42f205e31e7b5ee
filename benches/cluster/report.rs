//! The tables: medians of the rounds, and ratios of things that were measured in the same run.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::support::plot::Line;
use crate::system::Figures;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Path {
    /// A local actor, no backup.
    Floor,
    /// Players of this node, one backup each on another node.
    Local,
    /// The same, but they share a few actors.
    Guests,
    /// Two backups each.
    LocalTwo,
    /// One ractor_cluster call per reward.
    Naive,
    /// One gen_server:call per reward.
    Erlang,
    /// One batch in flight per peer.
    ErlangBatched,
    /// Players of all nodes, asked on this one: two thirds are forwarded.
    Spread,
    /// The same, but each node works with one thread.
    SpreadThread,
    /// Reads of players of this node.
    Reads,
    /// The same, but they share a few actors.
    GuestReads,
}

impl Path {
    pub(crate) const ALL: [Self; 11] = [
        Self::Floor,
        Self::Local,
        Self::Guests,
        Self::LocalTwo,
        Self::Naive,
        Self::Erlang,
        Self::ErlangBatched,
        Self::Spread,
        Self::SpreadThread,
        Self::Reads,
        Self::GuestReads,
    ];

    pub(crate) fn is_erlang(self) -> bool {
        matches!(self, Self::Erlang | Self::ErlangBatched)
    }

    /// What the arguments call it.
    fn name(self) -> &'static str {
        match self {
            Self::LocalTwo => "two",
            Self::SpreadThread => "spread-thread",
            Self::Naive => "naive",
            Self::Erlang => "erlang",
            Self::ErlangBatched => "batched",
            other => other.order(),
        }
    }

    /// Whether it is not a reward at the player's own node.
    fn is_other(self) -> bool {
        matches!(
            self,
            Self::Spread | Self::SpreadThread | Self::Reads | Self::GuestReads
        )
    }

    /// What the process with the clients calls it.
    pub(crate) fn order(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Local | Self::LocalTwo => "local",
            Self::Guests => "guests",
            Self::Spread | Self::SpreadThread => "spread",
            Self::Reads => "reads",
            Self::GuestReads => "guest-reads",
            Self::Naive | Self::Erlang | Self::ErlangBatched => "-",
        }
    }
}

impl FromStr for Path {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|path| path.name() == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            format!("no such path: {name}; there are {}", known.join(", "))
        })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Floor => "floor: a local actor, no backup",
            Self::Local => "statekeeper, one keeper",
            Self::Guests => "statekeeper, one keeper, shared actors",
            Self::LocalTwo => "statekeeper, two keepers",
            Self::Naive => "one ractor_cluster call per reward",
            Self::Erlang => "Erlang, one call per reward",
            Self::ErlangBatched => "Erlang, batched by hand",
            Self::Spread => "statekeeper, any of three nodes asked",
            Self::SpreadThread => "statekeeper, any of three, one thread",
            Self::Reads => "statekeeper, reads under the lease",
            Self::GuestReads => "statekeeper, reads, shared actors",
        })
    }
}

/// A row of a table.
#[derive(Debug, Serialize)]
struct Row {
    path: String,
    in_flight: usize,
    rewards_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    cpu_us: f64,
    wire_bytes: f64,
    allocations: Option<f64>,
    ratio_floor: Option<f64>,
    ratio_naive: Option<f64>,
    ratio_erlang: Option<f64>,
    ratio_erlang_batched: Option<f64>,
}

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Report {
    figures: BTreeMap<(Path, usize), Vec<Figures>>,
    /// Allocations per reward, where they were counted in another run.
    counted: BTreeMap<(Path, usize), f64>,
}

impl Report {
    pub(crate) fn add(&mut self, path: Path, in_flight: usize, figures: Figures) {
        self.figures
            .entry((path, in_flight))
            .or_default()
            .push(figures);
    }

    pub(crate) fn count(&mut self, path: Path, in_flight: usize, allocations: f64) {
        self.counted.insert((path, in_flight), allocations);
    }

    pub(crate) fn print(&self, json: bool) {
        let rows = |spread: bool| {
            let paths = self
                .figures
                .keys()
                .filter(move |(path, _)| spread == path.is_other());
            paths.map(|(path, in_flight)| self.row(*path, *in_flight))
        };
        if json {
            for row in rows(false).chain(rows(true)) {
                // Numbers and names only.
                println!("{}", serde_json::to_string(&row).unwrap_or_default());
            }
            return;
        }
        for (title, spread) in [("Rewards", false), ("Other ways to ask", true)] {
            println!(
                "\n{title:<38}{:>9}{:>11}{:>8}{:>8}{:>8}{:>8}{:>7}{:>7}{:>8}{:>8}{:>8}{:>9}",
                "in flight",
                "per s",
                "p50 us",
                "p99",
                "p99.9",
                "cpu us",
                "wire",
                "alloc",
                "x floor",
                "x naive",
                "x erl",
                "x batched"
            );
            for row in rows(spread) {
                let ratio =
                    |ratio: Option<f64>| ratio.map_or("-".to_owned(), |r| format!("{r:.2}"));
                let count = |n: Option<f64>| n.map_or("-".to_owned(), |n| format!("{n:.1}"));
                println!(
                    "{:<38}{:>9}{:>11.0}{:>8.0}{:>8.0}{:>8.0}{:>8.2}{:>7.0}{:>7}{:>8}{:>8}{:>8}{:>9}",
                    row.path,
                    row.in_flight,
                    row.rewards_per_s,
                    row.p50_us,
                    row.p99_us,
                    row.p999_us,
                    row.cpu_us,
                    row.wire_bytes,
                    count(row.allocations),
                    ratio(row.ratio_floor),
                    ratio(row.ratio_naive),
                    ratio(row.ratio_erlang),
                    ratio(row.ratio_erlang_batched),
                );
            }
        }
    }

    /// The rates of each path, for the plot.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let mut lines: BTreeMap<Path, Vec<(f64, f64)>> = BTreeMap::new();
        for (path, in_flight) in self.figures.keys() {
            let per_s = self.median(*path, *in_flight, rate).unwrap_or(0.0);
            lines
                .entry(*path)
                .or_default()
                .push((*in_flight as f64, per_s));
        }
        let named = lines
            .into_iter()
            .map(|(path, points)| (path.to_string(), points));
        named.collect()
    }

    fn row(&self, path: Path, in_flight: usize) -> Row {
        let of = |value: fn(&Figures) -> f64| self.median(path, in_flight, value).unwrap_or(0.0);
        let per_s = of(rate);
        let ratio = |to: Path| Some(per_s / self.median(to, in_flight, rate)?);
        Row {
            path: path.to_string(),
            in_flight,
            rewards_per_s: per_s,
            p50_us: of(|f| f.sample.p50 as f64),
            p99_us: of(|f| f.sample.p99 as f64),
            p999_us: of(|f| f.sample.p999 as f64),
            cpu_us: of(|f| f.cpu_us as f64 / f.sample.all()),
            wire_bytes: of(|f| f.wire_bytes as f64 / f.sample.all()),
            allocations: self.allocations(path, in_flight),
            ratio_floor: ratio(Path::Floor),
            ratio_naive: ratio(Path::Naive),
            ratio_erlang: ratio(Path::Erlang),
            ratio_erlang_batched: ratio(Path::ErlangBatched),
        }
    }

    fn allocations(&self, path: Path, in_flight: usize) -> Option<f64> {
        let figures = self.figures.get(&(path, in_flight))?;
        let counted = figures.iter().find_map(|f| Some((f.allocations?, f)));
        let here = counted.map(|(allocations, f)| allocations as f64 / f.sample.all());
        here.or_else(|| self.counted.get(&(path, in_flight)).copied())
    }

    fn median(&self, path: Path, in_flight: usize, value: fn(&Figures) -> f64) -> Option<f64> {
        let figures = self.figures.get(&(path, in_flight))?;
        let mut values: Vec<f64> = figures.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

fn rate(figures: &Figures) -> f64 {
    figures.sample.count as f64 * 1e6 / figures.sample.elapsed_us as f64
}
