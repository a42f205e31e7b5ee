//! One node as a process on a machine of its own. Its shell carries lines out side by side: every question has its
//! own number, its answer may come late, and who asked may have gone on meanwhile.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::support::PATIENCE;
use super::support::node::{Spec, View, lock};
use super::support::sandbox::{Killed, Sandbox};

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// What the one who asked calls it.
    pub(crate) tag: usize,
    /// None if the process ended first.
    pub(crate) lines: Option<Vec<String>>,
}

type Waiting = Arc<Mutex<Open>>;

#[derive(Default)]
struct Open {
    ended: bool,
    asked: u64,
    questions: HashMap<u64, (usize, Sender<Reply>)>,
}

/// A running node. Dropped, its process is killed.
pub(crate) struct Process {
    pub(crate) spec: Spec,
    pid: u32,
    child: Mutex<Killed>,
    stdin: Mutex<Option<ChildStdin>>,
    waiting: Waiting,
}

impl Process {
    /// Starts the program, with a deliberate defect if one is named.
    pub(crate) fn start(sandbox: &Sandbox, spec: Spec, defect: Option<&str>) -> Self {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(sandbox.log_file(spec.short()))
            .expect("a log file");
        let mut command = spec.command(sandbox);
        if let Some(defect) = defect {
            command.env("STATEKEEPER_DEFECT", defect);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let waiting = Waiting::default();
        let stdout = child.stdout.take().expect("a pipe");
        let answers = Arc::clone(&waiting);
        thread::spawn(move || read_answers(stdout, &answers));
        Self {
            spec,
            pid: child.id(),
            stdin: Mutex::new(child.stdin.take()),
            child: Mutex::new(Killed(child)),
            waiting,
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.spec.short()
    }

    /// Tells one life of a name from another.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.waiting).ended
    }

    /// Asks; the reply, of whatever kind, goes to `to`, once.
    pub(crate) fn send(&self, line: &str, tag: usize, to: &Sender<Reply>) {
        // Numbers are those of the lines: none must overtake another one.
        let mut stdin = lock(&self.stdin);
        {
            let mut open = lock(&self.waiting);
            if open.ended {
                // Nobody may wait for it any more.
                let _ = to.send(Reply { tag, lines: None });
                return;
            }
            open.asked += 1;
            let number = open.asked;
            open.questions.insert(number, (tag, to.clone()));
        }
        if let Some(stdin) = stdin.as_mut() {
            // If nobody reads any more, the end of the output will tell.
            let _ = stdin.write_all(format!("{line}\n").as_bytes());
        }
    }

    /// Asks, and waits a while for the lines of the answer.
    pub(crate) fn ask_within(&self, line: &str, patience: Duration) -> Option<Vec<String>> {
        let (to, replies) = channel();
        self.send(line, 0, &to);
        replies.recv_timeout(patience).ok()?.lines
    }

    /// Asks, and waits for the lines of the answer; none if the process ended.
    pub(crate) fn ask(&self, line: &str) -> Option<Vec<String>> {
        self.ask_within(line, PATIENCE)
    }

    pub(crate) fn view_within(&self, patience: Duration) -> Option<View> {
        self.ask_within("view", patience)
            .map(|lines| View::of(&lines))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid).expect("a process number"));
        // The process is ours and not waited for yet: the number is still its own.
        signal::kill(pid, signal).expect("a signal to a child");
    }

    /// Kills the process, without any warning, and waits for its end.
    pub(crate) fn kill9(&self) {
        let mut child = lock(&self.child);
        let killed = child.0.kill().and_then(|()| child.0.wait());
        killed.expect("a child to kill");
    }

    /// Whether the process ended in good order; none while it runs.
    pub(crate) fn ended_with(&self) -> Option<bool> {
        let status = lock(&self.child).0.try_wait().expect("its status");
        status.map(|status| status.success())
    }
}

/// Gives each answer to who asked, and the end to all who wait then.
fn read_answers(stdout: ChildStdout, waiting: &Mutex<Open>) {
    let mut begun: HashMap<u64, Vec<String>> = HashMap::new();
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        // "17- one line", "17: the last one". What has no number is the farewell.
        let digits = line.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
        let Ok(number) = line[..digits].parse::<u64>() else {
            continue;
        };
        let (mark, text) = line[digits..].split_at(1);
        let lines = begun.entry(number).or_default();
        lines.push(text.trim_start().to_owned());
        if mark == ":"
            && let Some(lines) = begun.remove(&number)
            && let Some((tag, to)) = lock(waiting).questions.remove(&number)
        {
            let lines = Some(lines);
            let _ = to.send(Reply { tag, lines });
        }
    }
    let mut open = lock(waiting);
    open.ended = true;
    for (_, (tag, to)) in open.questions.drain() {
        let _ = to.send(Reply { tag, lines: None });
    }
}
