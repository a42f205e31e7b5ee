//! Rewards per second, with everything of the protocol on, beside what else there is: measured in one run, in turn.
//!
//! ```text
//!   this process ──orders──▶ bench_node1 ⇄ bench_node2, bench_node3     one backup; the clients are in the first
//!               ├──────────▶ pair_node1  ⇄ pair_node2,  pair_node3      the same with two backups
//!               ├──────────▶ naive owner ⇄ naive keepers                ractor_cluster alone
//!               └──────────▶ erl owner   ⇄ erl keepers, twice           plain, and batched by hand; if `erl` is here
//! ```
//!
//! All processes are on loopback; those that are not measured are idle. Clients ask in closed loop. Each figure is a
//! median of the rounds. At the end every total is checked: a lost or doubled reward fails the bench.
//!
//! `cpu` is the time of all processes of the path together, `wire` the bytes on loopback in both directions with the
//! headers of TCP and IP, both per reward.
//!
//! `cargo bench --bench cluster [-- --json] [--seconds N] [--repeat N] [--in-flight N,N]
//! [--plot FILE.svg]`

mod load;
mod naive;
mod node;
mod plot;
mod report;
mod system;

use std::process::{Command, ExitCode};
use std::time::Duration;

use load::Res;
use report::Report;
use system::System;

/// Many small states and messages, as in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tells a process of this bench what it is.
const ROLE: &str = "STATEKEEPER_BENCH_ROLE";
const IN_FLIGHT: [usize; 4] = [1, 64, 1_024, 8_192];

fn main() -> ExitCode {
    let outcome = match std::env::var(ROLE) {
        Ok(role) => tokio::runtime::Runtime::new()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(play(&role))),
        Err(_) => Options::parse().and_then(|options| drive(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// What a process of this bench does.
async fn play(role: &str) -> Res<()> {
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["node", name, index, backups] => node::run(name, index.parse()?, backups.parse()?).await,
        ["naive-keepers", port] => naive::keepers(port.parse()?).await,
        ["naive-owner", port] => naive::owner(port.parse()?).await,
        _ => Err(format!("no such role: {role}").into()),
    }
}

struct Options {
    json: bool,
    wait: Duration,
    repeat: u64,
    in_flight: Vec<usize>,
    plot: Option<String>,
}

impl Options {
    fn parse() -> Res<Self> {
        let mut options = Self {
            json: false,
            wait: Duration::from_secs(3),
            repeat: 3,
            in_flight: IN_FLIGHT.to_vec(),
            plot: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} takes a value"));
            match argument.as_str() {
                "--bench" => {} // what cargo passes to every benchmark
                "--json" => options.json = true,
                "--seconds" => options.wait = Duration::from_secs(value()?.parse()?),
                "--repeat" => options.repeat = value()?.parse()?,
                "--plot" => options.plot = Some(value()?),
                "--in-flight" => {
                    let numbers = value()?;
                    let numbers = numbers.split(',').map(str::parse);
                    options.in_flight = numbers.collect::<Result<_, _>>()?;
                }
                other => return Err(format!("unknown argument {other}; the options are --json, --seconds N, --repeat N, --in-flight N,N and --plot FILE").into()),
            }
        }
        Ok(options)
    }
}

fn drive(options: &Options) -> Res<()> {
    // Nodes of their own: no surprise for those that run here already.
    let dir = tempfile::tempdir()?;
    let mut systems = vec![
        System::nodes(dir.path(), "bench", 1)?,
        System::nodes(dir.path(), "pair", 2)?,
        System::naive(dir.path())?,
    ];
    if Command::new("erl").arg("-version").output().is_ok() {
        systems.push(System::erlang(dir.path(), "plain")?);
        systems.push(System::erlang(dir.path(), "batched")?);
    } else {
        eprintln!("no erl here: the two Erlang programs are left out (Debian: erlang-base)");
    }
    let mut report = Report::default();
    for round in 1..=options.repeat {
        for in_flight in &options.in_flight {
            for system in &mut systems {
                for path in system.paths {
                    eprintln!(
                        "round {round} of {}: {path}, {in_flight} in flight",
                        options.repeat
                    );
                    let figures = system.measure(path.order(), *in_flight, options.wait)?;
                    report.add(*path, *in_flight, figures);
                }
            }
        }
    }
    for system in &mut systems {
        system.check()?;
    }
    eprintln!("every total is right");
    report.print(options.json);
    if let Some(file) = &options.plot {
        plot::rates(file, &report.lines())?;
    }
    Ok(())
}
