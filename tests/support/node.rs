//! One node: a process of the built program, and its shell.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::namespaces;
use super::sandbox::{Killed, PROGRAM, Sandbox};
use super::{PATIENCE, wait_for};

/// How many exchanges of its shell a failed test shows.
const EXCHANGES_SHOWN: usize = 40;

/// How a node is started; the same again when it is restarted.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) options: Vec<String>,
    /// The file of the network namespace that it runs in.
    pub(crate) namespace: Option<String>,
}

impl Spec {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            listen: None,
            options: Vec::new(),
            namespace: None,
        }
    }

    pub(crate) fn listen(mut self, addr: SocketAddr) -> Self {
        self.listen = Some(addr);
        self
    }

    pub(crate) fn option(mut self, option: &str, value: &str) -> Self {
        self.options.extend([option.to_owned(), value.to_owned()]);
        self
    }

    pub(crate) fn flag(mut self, flag: &str) -> Self {
        self.options.push(flag.to_owned());
        self
    }

    /// The name without the host.
    pub(crate) fn short(&self) -> &str {
        short(&self.name)
    }

    pub(crate) fn command(&self, sandbox: &Sandbox) -> Command {
        let mut command = match &self.namespace {
            Some(file) => sandbox.isolate(namespaces::enter(file, PROGRAM)),
            None => sandbox.command(PROGRAM),
        };
        command
            .args([&self.name, "--log", "info"])
            .args(&self.options);
        if let Some(addr) = self.listen {
            command.arg("--listen").arg(addr.to_string());
        }
        // On every second node, players share actors: nobody can tell.
        if self.short().bytes().last().is_some_and(|b| b % 2 == 0) {
            command.arg("--share-actors");
        }
        command
    }
}

/// The node's process has ended, or ended before it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// A running node. Dropped, its process is killed.
pub(crate) struct Node {
    pub(crate) spec: Spec,
    pid: u32,
    process: Mutex<Killed>,
    shell: Mutex<Shell>,
    /// The last exchanges, for a test that fails.
    shown: Arc<Mutex<VecDeque<String>>>,
    /// Its log outlives it.
    _sandbox: Arc<Sandbox>,
}

/// The writing end of a shell. Answers come in the order of the questions: the reading end knows who waits.
struct Shell {
    stdin: Option<ChildStdin>,
    waiting: Sender<Question>,
    asked: u64,
}

struct Question {
    line: String,
    /// A command that no shell knows: its answer ends this question's.
    mark: String,
    answer: Sender<Answer>,
}

/// The lines up to the mark, or up to the end of the process.
struct Answer {
    lines: Vec<String>,
    ended: bool,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("spec", &self.spec)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Node {
    pub(crate) fn start(sandbox: &Arc<Sandbox>, spec: Spec) -> Self {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(sandbox.log_file(spec.short()))
            .expect("a log file");
        let mut child = spec
            .command(sandbox)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let (waiting, questions) = channel();
        let shown = Arc::new(Mutex::new(VecDeque::new()));
        let stdout = child.stdout.take().expect("a pipe");
        let name = spec.short().to_owned();
        let transcript = Arc::clone(&shown);
        thread::spawn(move || read_answers(&name, stdout, &questions, &transcript));
        Self {
            spec,
            pid: child.id(),
            shell: Mutex::new(Shell {
                stdin: child.stdin.take(),
                waiting,
                asked: 0,
            }),
            process: Mutex::new(Killed(child)),
            shown,
            _sandbox: Arc::clone(sandbox),
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.spec.short()
    }

    pub(crate) fn has_shell(&self) -> bool {
        !self
            .spec
            .options
            .iter()
            .any(|option| option == "--no-shell")
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.spec
            .listen
            .expect("this node was told where to listen")
    }

    /// Types a line, and waits for the lines that it is answered with.
    pub(crate) fn try_ask(&self, line: &str) -> Result<Vec<String>, Gone> {
        let Answer { lines, ended } = self.exchange(line)?;
        if ended { Err(Gone) } else { Ok(lines) }
    }

    fn exchange(&self, line: &str) -> Result<Answer, Gone> {
        let (answer, answers) = channel();
        {
            let mut shell = lock(&self.shell);
            shell.asked += 1;
            let mark = format!("mark-{}", shell.asked);
            let text = format!("{line}\n{mark}\n");
            let stdin = shell.stdin.as_mut().ok_or(Gone)?;
            // Nobody reads any more once the process has ended.
            stdin
                .write_all(text.as_bytes())
                .and_then(|()| stdin.flush())
                .map_err(|_| Gone)?;
            shell
                .waiting
                .send(Question {
                    line: line.to_owned(),
                    mark,
                    answer,
                })
                .map_err(|_| Gone)?;
        }
        match answers.recv_timeout(PATIENCE) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Disconnected) => Err(Gone),
            Err(RecvTimeoutError::Timeout) => {
                panic!(
                    "{} did not answer '{line}' within {PATIENCE:?}",
                    self.name()
                )
            }
        }
    }

    /// The lines that a command is answered with.
    #[track_caller]
    pub(crate) fn lines(&self, line: &str) -> Vec<String> {
        let lines = self.try_ask(line);
        lines.unwrap_or_else(|Gone| panic!("{} ended, and did not answer '{line}'", self.name()))
    }

    /// The one line that a command is answered with.
    #[track_caller]
    pub(crate) fn ask(&self, line: &str) -> String {
        match <[String; 1]>::try_from(self.lines(line)) {
            Ok([answer]) => answer,
            Err(lines) => panic!(
                "{} answered '{line}' with {lines:?} instead of one line",
                self.name()
            ),
        }
    }

    /// Types a line that ends the shell; the one line that it says to that.
    #[track_caller]
    pub(crate) fn last_words(&self, line: &str) -> String {
        match self.exchange(line) {
            Ok(Answer { lines, ended: true }) => lines.join("\n"),
            Ok(Answer {
                lines,
                ended: false,
            }) => panic!("{} goes on after '{line}': {lines:?}", self.name()),
            Err(Gone) => panic!("{} had ended before '{line}'", self.name()),
        }
    }

    pub(crate) fn reward(&self, player: &str, amount: i64) -> String {
        self.ask(&format!("reward_player {player} {amount}"))
    }

    /// The player's points.
    #[track_caller]
    pub(crate) fn points(&self, player: &str) -> i64 {
        let answer = self.reward(player, 0);
        answer
            .parse()
            .unwrap_or_else(|_| panic!("{} says of {player}: {answer}", self.name()))
    }

    pub(crate) fn view(&self) -> View {
        View::of(&self.lines("view"))
    }

    /// Where a player is; none if the node cannot tell now, or there is no such player.
    pub(crate) fn whereis(&self, player: &str) -> Option<Whereis> {
        Whereis::of(&self.ask(&format!("whereis {player}")))
    }

    /// The names and points of the players on this node.
    pub(crate) fn local_players(&self) -> Vec<(String, i64)> {
        let lines = self.lines("local_players");
        if lines == ["(none)"] {
            return Vec::new();
        }
        let player = |line: String| {
            let (name, points) = line.rsplit_once(' ').expect("a name and points");
            (name.to_owned(), points.parse().expect("points"))
        };
        lines.into_iter().map(player).collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid).expect("a process number"));
        // The process is ours and not waited for yet: the number is still its own.
        signal::kill(pid, signal).expect("a signal to a child");
    }

    /// The process that watches this one.
    #[track_caller]
    pub(crate) fn guardian(&self) -> Pid {
        let processes = fs::read_dir("/proc").expect("the processes").flatten();
        let is_guardian = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.split(' ').nth(1));
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            parent == Some(&self.pid.to_string()) && line.contains("--guardian")
        };
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Pid::from_raw(pids.find(is_guardian).expect("a guardian"))
    }

    /// Kills the process, without any warning, and waits for its end.
    pub(crate) fn kill9(&self) {
        let mut process = lock(&self.process);
        process
            .0
            .kill()
            .and_then(|()| process.0.wait())
            .expect("a child to kill");
    }

    /// Closes the shell's input.
    pub(crate) fn end_input(&self) {
        lock(&self.shell).stdin = None;
    }

    /// Waits until the process ends by itself.
    #[track_caller]
    pub(crate) fn wait_for_end(&self) -> ExitStatus {
        let what = format!("{} ends", self.name());
        wait_for(&what, || {
            lock(&self.process).0.try_wait().expect("its status")
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            let shown: Vec<String> = lock(&self.shown).iter().cloned().collect();
            eprintln!(
                "---- shell of {} (process {}) ----\n{}",
                self.name(),
                self.pid,
                shown.join("\n")
            );
        }
    }
}

/// Reads the answers, and gives each to who asked.
fn read_answers(
    name: &str,
    stdout: ChildStdout,
    questions: &Receiver<Question>,
    transcript: &Mutex<VecDeque<String>>,
) {
    let show = |question: &str, answer: &[String]| {
        let mut shown = lock(transcript);
        if shown.len() == EXCHANGES_SHOWN {
            shown.pop_front();
        }
        shown.push_back(format!("{name}> {question} => {}", answer.join("\n      ")));
    };
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    while let Ok(question) = questions.recv() {
        let end = format!("error: unknown command '{}'", question.mark);
        let mut answer = Answer {
            lines: Vec::new(),
            ended: false,
        };
        loop {
            match lines.next() {
                Some(line) if line.starts_with(&end) => break,
                Some(line) => answer.lines.push(line),
                None => {
                    answer.ended = true;
                    break;
                }
            }
        }
        show(&question.line, &answer.lines);
        // Who asked may have given up. Once the output has ended, every question gets an empty answer.
        let _ = question.answer.send(answer);
    }
}

/// The cluster as a node's shell shows it; names without hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) cluster: String,
    pub(crate) epoch: u64,
    pub(crate) members: Vec<String>,
    pub(crate) state: String,
    pub(crate) possible_loss: bool,
}

impl View {
    pub(crate) fn of(lines: &[String]) -> Self {
        let value = |key: &str| {
            let line = lines
                .iter()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("no '{key}' in {lines:?}"))
        };
        Self {
            cluster: value("cluster").to_owned(),
            epoch: value("epoch").parse().expect("a number"),
            members: value("members")
                .split(' ')
                .map(|name| short(name).to_owned())
                .collect(),
            state: value("state").to_owned(),
            possible_loss: lines.iter().any(|line| line.starts_with("POSSIBLE LOSS")),
        }
    }
}

/// Where a player is; names without hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whereis {
    pub(crate) node: String,
    pub(crate) keeper: String,
    pub(crate) version: u64,
}

impl Whereis {
    fn of(line: &str) -> Option<Self> {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["node", node, "keeper", keeper, "version", version] => Some(Self {
                node: short(node).to_owned(),
                keeper: short(keeper).to_owned(),
                version: version.parse().ok()?,
            }),
            _ => None,
        }
    }
}

pub(crate) fn short(name: &str) -> &str {
    name.split_once('@').map_or(name, |(short, _)| short)
}

/// A test that failed while it held a lock is shown all the same.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
