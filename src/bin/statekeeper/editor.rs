//! The line editor of a terminal: history, completion, and a log that does not garble the line.
//!
//! Reading a line blocks, so it has a thread of its own: a prompt goes in, an [`Input`] comes out.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustyline::completion::{Completer, Pair};
use rustyline::error::{ReadlineError, Signal};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, CompletionType, ConditionalEventHandler, Config, Context, Event, EventContext,
    EventHandler, Helper, KeyEvent, RepeatCount,
};
use statekeeper::Node;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::complete::{Known, completions};
use crate::log::Log;
use crate::players;
use crate::shell::Input;

/// How many lines the history keeps.
const HISTORY_MAX: usize = 1_000;
/// How long the Tab key waits for the names of the players.
const TAB_MAX: Duration = Duration::from_millis(300);
/// How long the editor may take to give the terminal back.
const CLOSE_MAX: Duration = Duration::from_millis(500);

type Lines = rustyline::Editor<Helping, DefaultHistory>;

/// The editor's thread, as the shell sees it.
#[derive(Debug)]
pub(crate) struct Editor {
    prompts: std_mpsc::Sender<String>,
    inputs: mpsc::Receiver<Input>,
    /// A prompt is out, and its answer not yet in.
    asked: bool,
}

impl Editor {
    /// Takes the terminal, and the log with it.
    ///
    /// # Errors
    /// If there is no usable terminal.
    pub(crate) fn start(node: &Node, log: &Log) -> Result<Self> {
        let config = Config::builder()
            .max_history_size(HISTORY_MAX)
            .context("history")?
            .history_ignore_dups(true)
            .context("history")?
            .completion_type(CompletionType::List)
            .build();
        let mut lines = Lines::with_config(config).context("the terminal cannot be used")?;
        lines.set_helper(Some(Helping {
            node: node.clone(),
            runtime: Handle::current(),
        }));
        let empty = Arc::new(AtomicBool::new(true));
        lines.bind_sequence(
            KeyEvent::ctrl('C'),
            EventHandler::Conditional(Box::new(NoteIfEmpty(Arc::clone(&empty)))),
        );
        let history = std::env::home_dir().map(|home| home.join(".statekeeper_history"));
        if let Some(history) = &history {
            // At the very first start there is none; an unreadable one only costs the old lines.
            let _ = lines.load_history(history);
        }
        // A terminal that cannot do it gets the log in between.
        if std::io::IsTerminal::is_terminal(&std::io::stderr())
            && let Ok(printer) = lines.create_external_printer()
        {
            log.print_through(printer);
        }
        let (prompts, prompts_out) = std_mpsc::channel::<String>();
        let (inputs_in, inputs) = mpsc::channel(1);
        thread::Builder::new()
            .name("editor".to_owned())
            .spawn(move || {
                for prompt in prompts_out {
                    let input = read(&mut lines, &prompt, history.as_ref(), &empty);
                    if inputs_in.blocking_send(input).is_err() {
                        return;
                    }
                }
            })
            .context("cannot start the editor's thread")?;
        Ok(Self {
            prompts,
            inputs,
            asked: false,
        })
    }

    /// Asks for a line, unless one is being edited already.
    pub(crate) fn ask(&mut self, prompt: String) {
        // A thread that ended answers with the end of its channel.
        self.asked = self.asked || self.prompts.send(prompt).is_ok();
    }

    /// The line that was asked for. Can be given up and called again.
    pub(crate) async fn answer(&mut self) -> Input {
        let input = self.inputs.recv().await;
        self.asked = false;
        input.unwrap_or(Input::End)
    }

    /// Gives the terminal back as it was; whether that took a SIGINT to this very process.
    pub(crate) async fn close(mut self, log: &Log) -> bool {
        let asked = self.asked;
        if asked {
            // The terminal is in raw mode, and only the editor knows how it was before. SIGINT makes it return;
            // it holds that signal's handler while it reads. The shell's own `kill` needs no unsafe code.
            let sent = Command::new("sh")
                .args(["-c", "kill -INT $PPID"])
                .stdin(Stdio::null())
                .status();
            if sent.is_ok() {
                let _ = timeout(CLOSE_MAX, self.inputs.recv()).await;
            }
        }
        log.print_directly();
        asked
    }
}

/// Reads one line, and adds it to the history.
fn read(lines: &mut Lines, prompt: &str, history: Option<&PathBuf>, empty: &AtomicBool) -> Input {
    loop {
        return match lines.readline(prompt) {
            Ok(text) => {
                // What was pasted at once is remembered line by line.
                let mut added = false;
                for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
                    added |= lines.add_history_entry(line).unwrap_or(false);
                }
                if let Some(history) = history.filter(|_| added) {
                    // At once, and by appending: other nodes' shells write there too. If the disk is full,
                    // the history is the least worry.
                    let _ = lines.append_history(history);
                }
                Input::Line(text)
            }
            Err(ReadlineError::Interrupted) => Input::Cancelled {
                empty: empty.load(Ordering::Relaxed),
            },
            Err(ReadlineError::Signal(Signal::Resize)) => continue,
            Err(ReadlineError::Signal(_)) => Input::Cancelled { empty: false },
            Err(ReadlineError::Eof) => Input::End,
            Err(ReadlineError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                Input::Bad("the line is not UTF-8; it was skipped".to_owned())
            }
            // The terminal is gone; the variants may grow.
            Err(_) => Input::End,
        };
    }
}

/// Notes at Ctrl-C whether there was anything to cancel, and leaves the rest to the editor.
struct NoteIfEmpty(Arc<AtomicBool>);

impl ConditionalEventHandler for NoteIfEmpty {
    fn handle(
        &self,
        _: &Event,
        _: RepeatCount,
        _: bool,
        context: &EventContext<'_>,
    ) -> Option<Cmd> {
        self.0.store(context.line().is_empty(), Ordering::Relaxed);
        None
    }
}

/// Knows what could come next in a line.
struct Helping {
    node: Node,
    runtime: Handle,
}

impl Known for Helping {
    fn nodes(&self) -> Vec<String> {
        let names = self.node.nodes().into_iter().chain(self.node.neighbours());
        names.map(|name| name.as_str().to_owned()).collect()
    }

    fn members(&self) -> Vec<String> {
        self.node
            .view()
            .members
            .iter()
            .map(|name| name.as_str().to_owned())
            .collect()
    }

    fn players(&self) -> Vec<String> {
        let players = async { timeout(TAB_MAX, players::local_players(&self.node)).await };
        // No names are no completion; the command itself tells why.
        let players = self.runtime.block_on(players);
        players
            .into_iter()
            .flatten()
            .flatten()
            .map(|player| player.key)
            .collect()
    }
}

impl Completer for Helping {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, mut found) = completions(&line[..position], self);
        if let [only] = found.as_mut_slice()
            && !only.ends_with(['(', '\'', '"'])
        {
            only.push(' ');
        }
        let pair = |text: String| Pair {
            display: text.trim_end().to_owned(),
            replacement: text,
        };
        Ok((start, found.into_iter().map(pair).collect()))
    }
}

impl Hinter for Helping {
    type Hint = String;
}

impl Highlighter for Helping {}

impl Validator for Helping {}

impl Helper for Helping {}
