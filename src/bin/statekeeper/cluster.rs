//! `--cluster N`: several nodes on this machine, each a process of its own, and all ended with this one.
//!
//! A child is tied to its standard input: when that closes (this process ended, however it did), it leaves by
//! itself, so that none is ever orphaned.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use statekeeper::Node;
use statekeeper::protocol::members::Status;
use statekeeper::protocol::types::NodeName;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::args::Args;
use crate::log::Log;
use crate::render;

/// How long a child may take until it listens.
const LISTEN_MAX: Duration = Duration::from_secs(20);
/// How long the joined nodes may take until they serve.
const SERVE_MAX: Duration = Duration::from_secs(30);
/// How long a tied child may take to leave.
pub(crate) const LEAVE_MAX: Duration = Duration::from_secs(3);
/// How long it is waited for a child's end, a little longer than it may take.
const END_MAX: Duration = Duration::from_millis(3_500);
/// How often a condition is looked at that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What a tied child reads when it may end at once, because nobody will miss what it holds.
const AT_ONCE: &[u8] = b"now\n";

/// The name of the `number`th node.
pub(crate) fn name(number: u8) -> String {
    format!("app_node{number}")
}

/// The line that a node without a shell says on stderr once it listens.
pub(crate) fn listening(node: &Node) -> String {
    format!("{} listening on {}", node.name(), node.addr())
}

/// The processes of the other nodes. Dropped, they are killed.
#[derive(Debug)]
pub(crate) struct Children {
    list: Vec<Tied>,
    /// Nobody wants to hear how they end.
    muted: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Tied {
    name: NodeName,
    process: Process,
    stdin: Option<ChildStdin>,
}

/// A child process, also in the hands of the thread that hears it end.
#[derive(Clone, Debug)]
struct Process(Arc<Mutex<Child>>);

impl Children {
    /// Starts app_node2 to app_nodeN, joins them with `node`, and waits until that cluster serves.
    ///
    /// # Errors
    /// If one of them cannot start or join; then none is left.
    pub(crate) async fn start(count: u8, node: &Node, args: &Args, log: &Log) -> Result<Self> {
        let mut children = Self {
            list: Vec::new(),
            muted: Arc::default(),
        };
        log.line(&listening(node));
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut starting = Vec::new();
        for number in 2..=count {
            let mut process = Command::new(&program)
                .args(args.for_child(&name(number)))
                // These are this process's alone.
                .env_remove("STATEKEEPER_LISTEN")
                .env_remove("STATEKEEPER_CONNECT")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                // Ctrl-C at the terminal is meant for the shell alone.
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot start {}", program.display()))?;
            let (stdin, stderr) = (process.stdin.take(), process.stderr.take());
            let (started, listens) = oneshot::channel();
            let process = Process(Arc::new(Mutex::new(process)));
            if let Some(stderr) = stderr {
                let relay = Relay {
                    name: name(number),
                    log: log.clone(),
                    muted: Arc::clone(&children.muted),
                };
                let process = process.clone();
                thread::spawn(move || {
                    relay.run(stderr, started);
                    // At once: until then, its name still seems to be taken.
                    process.wait();
                });
            }
            children.list.push(Tied {
                name: NodeName::new(name(number)),
                process,
                stdin,
            });
            starting.push(listens);
        }
        for (child, listens) in children.list.iter_mut().zip(starting) {
            child.name = match timeout(LISTEN_MAX, listens).await {
                Ok(Ok(Ok(name))) => NodeName::new(name),
                Ok(Ok(Err(why))) => bail!("{} could not start: {why}", child.name),
                Ok(Err(_)) => bail!(
                    "{} could not start; 'start.sh {0}' alone may tell why",
                    child.name
                ),
                Err(_) => bail!(
                    "{} does not listen after {LISTEN_MAX:?}; is the machine overloaded?",
                    child.name
                ),
            };
        }
        for child in &children.list {
            node.connect(child.name.as_str())
                .await
                .with_context(|| format!("cannot join {}", child.name))?;
        }
        let deadline = Instant::now() + SERVE_MAX;
        loop {
            let view = node.view();
            if view.status == Status::Serving && view.members.len() == usize::from(count) {
                break;
            }
            if Instant::now() > deadline {
                bail!(
                    "the cluster does not serve after {SERVE_MAX:?}: {}",
                    render::view(&view).join(", ")
                );
            }
            sleep(LOOK_EVERY).await;
        }
        log.line(&format!(
            "{count} nodes serve as one cluster; 'help' lists the commands, 'quit' ends all of them"
        ));
        Ok(children)
    }

    /// Whether all of `members` are processes that end with this one.
    pub(crate) fn are_all_of(&self, members: &[NodeName], me: &NodeName) -> bool {
        let running: Vec<&NodeName> = self
            .list
            .iter()
            .filter(|child| child.process.is_running())
            .map(|child| &child.name)
            .collect();
        members
            .iter()
            .all(|member| member == me || running.contains(&member))
    }

    /// Ends all: one after the other, each handing over what it has, or `at_once` when nobody will miss it.
    pub(crate) async fn end(&mut self, at_once: bool) {
        self.muted.store(true, Ordering::Relaxed);
        if at_once {
            for child in &mut self.list {
                if let Some(stdin) = &mut child.stdin {
                    // One that is gone already needs no telling.
                    let _ = stdin.write_all(AT_ONCE);
                }
                child.stdin = None;
            }
        }
        for child in self.list.iter_mut().rev() {
            child.stdin = None;
            let deadline = Instant::now() + END_MAX;
            while child.process.is_running() && Instant::now() < deadline {
                sleep(LOOK_EVERY).await;
            }
            child.process.kill();
        }
    }

    /// Kills all, without a word.
    pub(crate) fn kill(&mut self) {
        self.muted.store(true, Ordering::Relaxed);
        self.list.iter().for_each(|child| child.process.kill());
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    fn is_running(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    fn kill(&self) {
        // Of one that has ended, nothing is left to kill.
        let _ = self.child().kill();
        self.wait();
    }

    /// Blocks until it has ended; only for one that is about to.
    fn wait(&self) {
        while self.is_running() {
            thread::sleep(LOOK_EVERY);
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For a tied child: completes when it is to leave. Ends the process if nobody will miss what it holds.
pub(crate) fn untied() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        let mut order = Vec::new();
        // Whatever goes wrong, the parent is gone.
        let _ = io::stdin().lock().read_until(b'\n', &mut order);
        if order == AT_ONCE {
            std::process::exit(0);
        }
        let _ = sender.send(());
    });
    receiver
}

/// Passes on what a child says on stderr.
struct Relay {
    name: String,
    log: Log,
    muted: Arc<AtomicBool>,
}

impl Relay {
    /// Runs until the child closes it. Announces its whole name once it listens, or its last words if it ends
    /// before that.
    fn run(self, stderr: ChildStderr, started: oneshot::Sender<Result<String, String>>) {
        let mut started = Some(started);
        let mut last = String::from("it said nothing");
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some((whole, _)) = line.split_once(" listening on ")
                && let Some(started) = started.take()
            {
                // Nobody waits any more: this process is about to end.
                let _ = started.send(Ok(whole.to_owned()));
                self.say(&line);
            } else if started.is_none() {
                self.say(&format!("{}: {line}", self.name));
            }
            last = line;
        }
        match started {
            // Whoever waits for it to listen tells of its error.
            Some(started) => {
                let why = last.strip_prefix("error: ").unwrap_or(&last);
                let _ = started.send(Err(why.to_owned()));
            }
            None => self.say(&format!(
                "{0} has ended; 'start.sh {0}' starts it again",
                self.name
            )),
        }
    }

    fn say(&self, line: &str) {
        if !self.muted.load(Ordering::Relaxed) {
            self.log.line(line);
        }
    }
}
