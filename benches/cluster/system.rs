//! The processes of one system under measurement, and what a measurement costs them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path as File, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::ROLE;
use crate::load::{Res, Sample};
use crate::node::NODES;
use crate::report::Path;

/// The processor time that a tick of `/proc/PID/stat` stands for, in microseconds: 100 per second on every Linux.
const TICK_US: u64 = 10_000;

/// One measurement, and its costs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) sample: Sample,
    pub(crate) cpu_us: u64,
    pub(crate) wire_bytes: u64,
}

/// One system: its processes, the one with the clients first.
pub(crate) struct System {
    pub(crate) paths: &'static [Path],
    processes: Vec<Process>,
}

/// A process that answers a line with a line. Dropped, it is ended.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    fn start(mut command: Command) -> Res<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{command:?}: {e}"))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut process = Self {
            child,
            stdin,
            stdout,
        };
        process.expect("up")?;
        Ok(process)
    }

    fn ask(&mut self, line: &str) -> Res<String> {
        let stdin = self.stdin.as_mut().ok_or("it has ended")?;
        writeln!(stdin, "{line}")?;
        self.answer()
    }

    fn tell(&mut self, line: &str) -> Res<()> {
        Ok(writeln!(
            self.stdin.as_mut().ok_or("it has ended")?,
            "{line}"
        )?)
    }

    fn answer(&mut self) -> Res<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err("a process of the bench has ended; see above".into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn expect(&mut self, wanted: &str) -> Res<()> {
        let said = self.answer()?;
        if said == wanted {
            return Ok(());
        }
        Err(format!("'{said}' instead of '{wanted}'").into())
    }

    /// The processor time that it has used, in microseconds.
    fn cpu_us(&self) -> Res<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after = stat.rsplit(") ").next().ok_or("an odd stat")?;
        let fields: Vec<&str> = after.split(' ').collect();
        let (user, system): (u64, u64) = (fields[11].parse()?, fields[12].parse()?);
        Ok((user + system) * TICK_US)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stdin = None;
        // Whoever does not end with its input is ended.
        for _ in 0..100 {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl System {
    /// Three nodes of the product.
    pub(crate) fn nodes(dir: &File, name: &str, backups: usize) -> Res<Self> {
        let mut processes = Vec::new();
        for index in 0..NODES {
            let mut command = this(&format!("node {name}_node{index} {index} {backups}"))?;
            command
                .env("STATEKEEPER_RUNTIME_DIR", dir.join("run"))
                .env("HOME", dir);
            processes.push(Process::start(command)?);
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
        let paths = if backups == 1 {
            &[Path::Floor, Path::Local, Path::Reads, Path::Spread][..]
        } else {
            &[Path::LocalTwo]
        };
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
        let (cpu, wire) = (self.cpu_us()?, wire_bytes()?);
        let line = format!("measure {order} {in_flight} {}", wait.as_millis());
        let sample: Sample = self.processes[0].ask(&line)?.parse()?;
        Ok(Figures {
            sample,
            cpu_us: self.cpu_us()? - cpu,
            wire_bytes: wire_bytes()? - wire,
        })
    }

    pub(crate) fn check(&mut self) -> Res<()> {
        match self.processes[0].ask("check")?.as_str() {
            "right" => Ok(()),
            wrong => Err(format!("{:?}: {wrong}", self.paths).into()),
        }
    }

    fn cpu_us(&self) -> Res<u64> {
        self.processes.iter().map(Process::cpu_us).sum()
    }
}

/// This very program, in a role.
fn this(role: &str) -> Res<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ROLE, role);
    Ok(command)
}

fn free_port() -> Res<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// All bytes that went over loopback so far.
fn wire_bytes() -> Res<u64> {
    let devices = fs::read_to_string("/proc/net/dev")?;
    let line = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    let bytes = line.and_then(|line| line.split_whitespace().next());
    Ok(bytes.ok_or("no loopback")?.parse()?)
}
