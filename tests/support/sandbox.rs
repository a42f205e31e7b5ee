//! Where a test's processes live: directories and a loopback address of their own.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use tempfile::TempDir;

use super::wait_for;

/// The built program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_statekeeper");
/// How many lines of each log a failed test shows.
const LOG_SHOWN: usize = 120;

static SANDBOXES: AtomicU8 = AtomicU8::new(1);

/// Dropped while a test fails, it shows the logs of all its nodes.
#[derive(Debug)]
pub(crate) struct Sandbox {
    dir: TempDir,
    ip: Ipv4Addr,
    calm: bool,
}

impl Sandbox {
    /// For nodes with the program's own timings.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for sub in ["home", "run", "log"] {
            let path = dir.path().join(sub);
            fs::DirBuilder::new()
                .mode(0o700)
                .create(path)
                .expect("a directory");
        }
        // All of 127.0.0.0/8 is loopback. With an address of its own no node takes a port that a restarted node
        // of another test hopes to get back.
        let [.., high, low] = std::process::id().to_be_bytes();
        let number = SANDBOXES.fetch_add(1, Ordering::Relaxed);
        let ip = Ipv4Addr::new(127, 64 + high % 128, low, number);
        Self {
            dir,
            ip,
            calm: false,
        }
    }

    /// For nodes that take nobody for lost soon: where no node dies, a machine that is far too busy shall not look
    /// as if one did.
    pub(crate) fn calm() -> Self {
        let mut sandbox = Self::new();
        sandbox.calm = true;
        sandbox
    }

    /// An address that only this sandbox uses.
    pub(crate) fn addr(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.ip, port))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program that sees this sandbox only.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        self.isolate(Command::new(program.as_ref()))
    }

    /// A command that sees this sandbox only.
    pub(crate) fn isolate(&self, mut command: Command) -> Command {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("STATEKEEPER_RUNTIME_DIR", self.path("run"));
        if self.calm {
            command
                .env("STATEKEEPER_LEASE", "10000")
                .env("STATEKEEPER_SUSPICION", "15000");
        }
        command
    }

    /// Runs the node program to its end.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> Ended {
        let mut command = self.command(PROGRAM);
        command.args(arguments);
        run(command, input)
    }

    /// What the node called `name` logged so far.
    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.log_file(name)).unwrap_or_default()
    }

    pub(crate) fn log_file(&self, name: &str) -> PathBuf {
        self.path("log").join(name)
    }

    /// Where the runtime directory remembers the node of that short name.
    pub(crate) fn record(&self, name: &str) -> PathBuf {
        let files = fs::read_dir(self.path("run")).expect("the runtime directory");
        let is_it = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}@")))
        };
        files
            .flatten()
            .map(|file| file.path())
            .find(is_it)
            .expect("a record of that node")
    }

    /// The processes of the nodes that ran here last, as the runtime directory names them.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let files = fs::read_dir(self.path("run")).expect("the runtime directory");
        files
            .flatten()
            .filter_map(|file| fs::read_to_string(file.path()).ok())
            .filter_map(|record| record.split_whitespace().next()?.parse().ok())
            .collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let logs = fs::read_dir(self.path("log")).into_iter().flatten();
        for log in logs.flatten() {
            let text = fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_SHOWN)..];
            let name = log.file_name();
            eprintln!("---- log of {} ----\n{}", name.display(), shown.join("\n"));
        }
    }
}

/// What came of a process that ran to its end.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, which has to come by itself.
pub(crate) fn run(mut command: Command, input: &str) -> Ended {
    let file = || tempfile::tempfile().expect("a temporary file");
    let (stdout, stderr) = (file(), file());
    let clone = |file: &File| file.try_clone().expect("another handle");
    let child = command
        .stdin(Stdio::piped())
        .stdout(clone(&stdout))
        .stderr(clone(&stderr))
        .spawn()
        .expect("the program starts");
    let mut child = Killed(child);
    if let Some(mut stdin) = child.0.stdin.take() {
        // It may end without reading what is small enough for the pipe.
        let _ = stdin.write_all(input.as_bytes());
    }
    let status = wait_for(&format!("{command:?} ends"), || {
        child.0.try_wait().expect("its status")
    });
    let text = |mut file: File| {
        let mut text = String::new();
        file.rewind()
            .and_then(|()| file.read_to_string(&mut text))
            .expect("its output");
        text
    };
    Ended {
        code: status.code(),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

/// A child that does not outlive its test.
#[derive(Debug)]
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a process of that number runs.
pub(crate) fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
