//! The course of the bench.

use std::path::Path as File;
use std::process::Command;
use std::time::Duration;

use crate::report::{Path, Report};
use crate::support::Res;
use crate::support::options::Options;
use crate::support::plot::{self, Chart};
use crate::system::System;
use crate::{naive, node};

const IN_FLIGHT: [usize; 4] = [1, 64, 1_024, 8_192];

/// What a process of this bench does.
pub(crate) async fn play(role: String) -> Res<()> {
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["node", name, index, backups] => node::run(name, index.parse()?, backups.parse()?).await,
        ["naive-keepers", port] => naive::keepers(port.parse()?).await,
        ["naive-owner", port] => naive::owner(port.parse()?).await,
        _ => Err(format!("no such role: {role}").into()),
    }
}

pub(crate) fn drive() -> Res<()> {
    let options = Options::parse(
        &["--seconds", "--repeat", "--in-flight", "--paths", "--plot"],
        &["--json", "--allocations"],
    )?;
    let wait = Duration::from_secs(options.value("--seconds", 3)?);
    let repeat: u64 = options.value("--repeat", 3)?;
    let in_flights = options.list("--in-flight", &IN_FLIGHT)?;
    let mut paths = options.list("--paths", &Path::ALL)?;
    leave_out_erlang(&mut paths);
    let mut report = Report::default();
    for round in 1..=repeat {
        // Nodes of their own: no surprise for those that run here already. And new ones for each round: how a process lies in
        // memory makes it faster or slower by a tenth, as long as it lives.
        let dir = tempfile::tempdir()?;
        let mut systems = start(dir.path(), &paths)?;
        for in_flight in &in_flights {
            for system in &mut systems {
                for path in system.paths.iter().filter(|path| paths.contains(path)) {
                    eprintln!("round {round} of {repeat}: {path}, {in_flight} in flight");
                    let figures = system.measure(path.order(), *in_flight, wait)?;
                    report.add(*path, *in_flight, figures);
                }
            }
        }
        for system in &mut systems {
            system.check()?;
        }
    }
    eprintln!("every total is right");
    if options.has("--allocations") {
        count_allocations(&in_flights, &mut report)?;
    }
    report.print(options.has("--json"));
    if let Some(file) = options.text("--plot") {
        let chart = Chart {
            x: "requests in flight",
            y: "rewards per second",
            lines: report.lines(),
        };
        plot::write(file, &[chart])?;
    }
    Ok(())
}

/// Starts what these paths need.
fn start(dir: &File, paths: &[Path]) -> Res<Vec<System>> {
    let any = |of: &[Path]| of.iter().any(|path| paths.contains(path));
    let mut systems = Vec::new();
    for (name, backups, threads, measured) in [
        ("bench", 1, None, &System::ONE_BACKUP[..]),
        ("pair", 2, None, &[Path::LocalTwo]),
        ("thread", 1, Some(1), &[Path::SpreadThread]),
    ] {
        if any(measured) {
            systems.push(System::nodes(dir, name, backups, threads, measured)?);
        }
    }
    if any(&[Path::Naive]) {
        systems.push(System::naive(dir)?);
    }
    for (path, module) in [(Path::Erlang, "plain"), (Path::ErlangBatched, "batched")] {
        if any(&[path]) {
            systems.push(System::erlang(dir, module)?);
        }
    }
    Ok(systems)
}

/// Leaves out what cannot be measured here, and says so.
fn leave_out_erlang(paths: &mut Vec<Path>) {
    if !paths.iter().any(|path| path.is_erlang()) {
        return;
    }
    // Nobody counts what Erlang allocates.
    let why = if crate::allocations().parse::<u64>().is_ok() {
        "counting"
    } else if Command::new("erl").arg("-version").output().is_err() {
        "no erl here (Debian: erlang-base)"
    } else {
        return;
    };
    eprintln!("{why}: the two Erlang programs are left out");
    paths.retain(|path| !path.is_erlang());
}

/// Asks the bench that counts.
fn count_allocations(in_flights: &[usize], report: &mut Report) -> Res<()> {
    let in_flights: Vec<String> = in_flights.iter().map(usize::to_string).collect();
    eprintln!("counting allocations");
    let counted = Command::new(env!("CARGO"))
        .args(["bench", "--quiet", "--bench", "allocations", "--"])
        .args([
            "--json",
            "--seconds",
            "1",
            "--in-flight",
            &in_flights.join(","),
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !counted.status.success() {
        return Err("the bench that counts allocations failed".into());
    }
    for line in String::from_utf8(counted.stdout)?.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let path = Path::ALL
            .into_iter()
            .find(|path| row["path"] == path.to_string());
        let (Some(path), Some(in_flight)) = (path, row["in_flight"].as_u64()) else {
            return Err(format!("no such path: {line}").into());
        };
        if let Some(allocations) = row["allocations"].as_f64() {
            report.count(path, usize::try_from(in_flight)?, allocations);
        }
    }
    Ok(())
}
