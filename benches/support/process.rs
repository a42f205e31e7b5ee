//! The processes of a bench: this very program in a role, lines in, lines out. And what the kernel says of them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::{ROLE, Res};

/// The processor time that a tick of `/proc/PID/stat` stands for, in microseconds: 100 per second on every Linux.
const TICK_US: u64 = 10_000;

/// A process that answers a line with a line. Dropped, it is ended.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Res<Self> {
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

    pub(crate) fn ask(&mut self, line: &str) -> Res<String> {
        let stdin = self.stdin.as_mut().ok_or("it has ended")?;
        writeln!(stdin, "{line}")?;
        self.answer()
    }

    pub(crate) fn tell(&mut self, line: &str) -> Res<()> {
        Ok(writeln!(
            self.stdin.as_mut().ok_or("it has ended")?,
            "{line}"
        )?)
    }

    pub(crate) fn answer(&mut self) -> Res<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err("a process of the bench has ended; see above".into());
        }
        Ok(line.trim_end().to_owned())
    }

    pub(crate) fn expect(&mut self, wanted: &str) -> Res<()> {
        let said = self.answer()?;
        if said == wanted {
            return Ok(());
        }
        Err(format!("'{said}' instead of '{wanted}'").into())
    }

    /// Asks, and expects that answer.
    pub(crate) fn order(&mut self, line: &str, wanted: &str) -> Res<()> {
        self.tell(line)?;
        self.expect(wanted)
            .map_err(|e| format!("{line}: {e}").into())
    }

    /// Ends it without any warning.
    pub(crate) fn kill9(&mut self) -> Res<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The memory that it has, in bytes.
    pub(crate) fn resident(&self) -> Res<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.ok_or("no VmRSS")?.parse::<u64>()? * 1_024)
    }

    /// The processor time that it has used, in microseconds.
    pub(crate) fn cpu_us(&self) -> Res<u64> {
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

/// This very program, in a role.
pub(crate) fn this(role: &str) -> Res<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ROLE, role);
    // As start.sh has it.
    command.env("MIMALLOC_PAGE_RECLAIM_ON_FREE", "-1");
    Ok(command)
}

/// A node of the product, in that role. It has its files in `dir`, so that it finds no others than those there, and works with
/// so many threads, if not with as many as there are processors.
pub(crate) fn node(role: &str, dir: &Path, threads: Option<usize>) -> Res<Command> {
    let mut command = this(role)?;
    command
        .env("STATEKEEPER_RUNTIME_DIR", dir.join("run"))
        .env("HOME", dir);
    if let Some(threads) = threads {
        // tokio's.
        command.env("TOKIO_WORKER_THREADS", threads.to_string());
    }
    Ok(command)
}

pub(crate) fn free_port() -> Res<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// All bytes that went over loopback so far.
pub(crate) fn wire_bytes() -> Res<u64> {
    let devices = fs::read_to_string("/proc/net/dev")?;
    let line = devices
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    let bytes = line.and_then(|line| line.split_whitespace().next());
    Ok(bytes.ok_or("no loopback")?.parse()?)
}
