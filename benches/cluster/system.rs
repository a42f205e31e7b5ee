//! The processes of one system under measurement, and what a measurement costs them.

use std::path::{Path as File, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::node::NODES;
use crate::report::Path;
use crate::support::Res;
use crate::support::load::Sample;
use crate::support::process::{Process, free_port, node, this, wire_bytes};

/// One measurement, and its costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) sample: Sample,
    pub(crate) cpu_us: u64,
    pub(crate) wire_bytes: u64,
    /// Where somebody counts.
    pub(crate) allocations: Option<u64>,
}

/// One system: its processes, the one with the clients first.
pub(crate) struct System {
    pub(crate) paths: &'static [Path],
    processes: Vec<Process>,
}

impl System {
    /// What nodes with one backup are asked.
    pub(crate) const ONE_BACKUP: [Path; 6] = [
        Path::Floor,
        Path::Local,
        Path::Spread,
        Path::Guests,
        Path::Reads,
        Path::GuestReads,
    ];

    /// Three nodes of the product; `threads`: how many each works with, if not as many as there are processors.
    pub(crate) fn nodes(
        dir: &File,
        name: &str,
        backups: usize,
        threads: Option<usize>,
        paths: &'static [Path],
    ) -> Res<Self> {
        let mut processes = Vec::new();
        for index in 0..NODES {
            let role = format!("node {name}_node{index} {index} {backups}");
            processes.push(Process::start(node(&role, dir, threads)?)?);
        }
        for index in 1..NODES {
            let said = processes[0].ask(&format!("connect {name}_node{index}"))?;
            if said != "connected" {
                return Err(format!("a node does not connect: {said}").into());
            }
        }
        for process in &mut processes {
            process.tell("prepare")?;
        }
        for process in &mut processes {
            process.expect("ready")?;
        }
        Ok(Self { paths, processes })
    }

    /// ractor_cluster alone.
    pub(crate) fn naive(dir: &File) -> Res<Self> {
        let port = free_port()?;
        let role = |role: &str| {
            let mut command = this(&format!("{role} {port}"))?;
            command.env("HOME", dir);
            Process::start(command)
        };
        let keepers = role("naive-keepers")?;
        Ok(Self {
            paths: &[Path::Naive],
            processes: vec![role("naive-owner")?, keepers],
        })
    }

    /// One of the two Erlang programs.
    pub(crate) fn erlang(dir: &File, module: &str) -> Res<Self> {
        let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/erlang");
        for source in ["driver", module] {
            let compiled = Command::new("erlc")
                .arg("-o")
                .arg(dir)
                .arg(sources.join(format!("{source}.erl")))
                .status()?;
            if !compiled.success() {
                return Err(format!("{source}.erl does not compile").into());
            }
        }
        let port = free_port()?;
        let node = |role: &str, listens: bool, eval: String| {
            let mut command = Command::new("erl");
            command
                .arg("-noshell")
                .args(["-sname", &format!("{module}_{role}@localhost")])
                .args(["-setcookie", "bench", "-start_epmd", "false"])
                .args(["-erl_epmd_port", &port.to_string()])
                .args(["-kernel", "inet_dist_use_interface", "{127,0,0,1}"])
                .arg("-pa")
                .arg(dir)
                .args(if listens {
                    &[][..]
                } else {
                    &["-dist_listen", "false"]
                })
                .args(["-eval", &eval])
                .env("HOME", dir);
            Process::start(command)
        };
        let keepers = node("keepers", true, "driver:keeper([]).".to_owned())?;
        let eval = format!("driver:owner([{module}, '{module}_keepers@localhost']).");
        let owner = node("owner", false, eval)?;
        let paths = match module {
            "plain" => &[Path::Erlang][..],
            _ => &[Path::ErlangBatched],
        };
        Ok(Self {
            paths,
            processes: vec![owner, keepers],
        })
    }

    pub(crate) fn measure(
        &mut self,
        order: &str,
        in_flight: usize,
        wait: Duration,
    ) -> Res<Figures> {
        let allocations = self.allocations()?;
        let (cpu, wire) = (self.cpu_us()?, wire_bytes()?);
        let line = format!("measure {order} {in_flight} {}", wait.as_millis());
        let sample: Sample = self.processes[0].ask(&line)?.parse()?;
        let (cpu, wire) = (self.cpu_us()? - cpu, wire_bytes()? - wire);
        let counted = self.allocations()?.zip(allocations);
        Ok(Figures {
            sample,
            cpu_us: cpu,
            wire_bytes: wire,
            allocations: counted.map(|(after, before)| after - before),
        })
    }

    pub(crate) fn check(&mut self) -> Res<()> {
        match self.processes[0].ask("check")?.as_str() {
            "right" => Ok(()),
            wrong => Err(format!("{:?}: {wrong}", self.paths).into()),
        }
    }

    /// Those of all processes so far; none where nobody counts.
    fn allocations(&mut self) -> Res<Option<u64>> {
        if self.paths.iter().any(|path| path.is_erlang()) {
            return Ok(None);
        }
        let mut sum = Some(0);
        for process in &mut self.processes {
            let counted = process.ask("allocations")?.parse::<u64>().ok();
            sum = sum.zip(counted).map(|(sum, counted)| sum + counted);
        }
        Ok(sum)
    }

    fn cpu_us(&self) -> Res<u64> {
        self.processes.iter().map(Process::cpu_us).sum()
    }
}
