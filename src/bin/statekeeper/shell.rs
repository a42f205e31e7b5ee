//! The shell: reads commands, has them carried out, prints the answers.
//!
//! ```text
//!   terminal ── Editor (a thread) ──┐
//!                                   ├─► run ── parse ── execute ──► standard output
//!   anything else ── Lines (thread)─┘
//! ```

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::thread;

use anyhow::Result;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use statekeeper::Node;
use tokio::sync::mpsc;

use crate::command::parse;
use crate::editor::Editor;
use crate::execute::{Answer, execute};
use crate::log::Log;
use crate::render;
use crate::signals::{Received, Signals};

/// The longest line, in bytes: longer than any sensible command, and short enough to hold.
const LINE_MAX: u64 = 1 << 20;
/// The answer when somebody does not want to wait for one.
const GIVEN_UP: &str =
    "no longer waited for: the outcome is unknown; 'whereis' and 'local_players' tell more";
/// How many lines are carried out side by side.
const AT_ONCE_MAX: usize = 64;
/// How many lines are read ahead.
const AHEAD_MAX: usize = 64;

/// What comes in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Input {
    /// A line, or several that were pasted at once.
    Line(String),
    /// What is no line, and why.
    Bad(String),
    /// The line was given up with Ctrl-C; whether there was anything in it.
    Cancelled {
        /// There was nothing in it.
        empty: bool,
    },
    /// There is no more input.
    End,
}

/// Why the shell ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// A command asked for it, and expects an answer.
    Command,
    /// The input is at its end, or a signal came.
    Silent,
}

/// Runs the shell until somebody wants it to end. The node has not left yet.
///
/// # Errors
/// If the terminal cannot be used.
pub(crate) async fn run(
    node: &Node,
    log: &Log,
    signals: &mut Signals,
    concurrent: bool,
) -> Result<Ending> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Ok(if concurrent {
            run_side_by_side(node, signals).await
        } else {
            run_lines(node, signals).await
        });
    }
    let mut editor = Editor::start(node, log)?;
    let ending = run_editor(node, &mut editor, signals).await;
    if editor.close(log).await {
        // The signal that ended the editor is not the user's.
        *signals = Signals::new()?;
    }
    Ok(ending)
}

/// Prints lines, at once. Whoever reads them may be gone; that ends the shell.
pub(crate) fn print(lines: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

async fn run_lines(node: &Node, signals: &mut Signals) -> Ending {
    let mut inputs = lines();
    loop {
        let input = tokio::select! {
            input = inputs.recv() => input.unwrap_or(Input::End),
            _ = signals.any() => return Ending::Silent,
        };
        let answer = match input {
            Input::Line(line) => tokio::select! {
                answer = answer(node, &line, false) => answer,
                _ = signals.any() => return Ending::Silent,
            },
            Input::Bad(why) => Answer::Lines(vec![render::error(&why)]),
            Input::Cancelled { .. } => continue,
            Input::End => return Ending::Silent,
        };
        match answer {
            Answer::Lines(lines) if print(&lines).is_ok() => {}
            Answer::Lines(_) => return Ending::Silent,
            Answer::Leave => return Ending::Command,
        }
    }
}

/// Like [`run_lines`], but a line does not wait for the answers of those before it. At the end those under way are
/// waited for.
async fn run_side_by_side(node: &Node, signals: &mut Signals) -> Ending {
    let mut inputs = lines();
    let mut under_way = FuturesUnordered::new();
    let mut ending = None;
    let mut number = 0;
    loop {
        if let (Some(ending), true) = (ending, under_way.is_empty()) {
            return ending;
        }
        let input = tokio::select! {
            Some((number, answer)) = under_way.next() => {
                match answer {
                    Answer::Lines(lines) if print(&render::numbered(number, &lines)).is_ok() => {}
                    Answer::Lines(_) => return Ending::Silent,
                    Answer::Leave => ending = Some(Ending::Command),
                }
                continue;
            }
            input = inputs.recv(), if ending.is_none() && under_way.len() < AT_ONCE_MAX => input,
            _ = signals.any() => return Ending::Silent,
        };
        number += 1;
        match input.unwrap_or(Input::End) {
            Input::Line(line) => {
                under_way.push(async move { (number, answer(node, &line, false).await) });
            }
            Input::Bad(why) => {
                if print(&render::numbered(number, &[render::error(&why)])).is_err() {
                    return Ending::Silent;
                }
            }
            Input::Cancelled { .. } => {}
            Input::End => ending = Some(Ending::Silent),
        }
    }
}

async fn run_editor(node: &Node, editor: &mut Editor, signals: &mut Signals) -> Ending {
    let mut number = 1_u64;
    loop {
        editor.ask(format!("({}){number}> ", node.name()));
        let input = tokio::select! {
            input = editor.answer() => input,
            signal = signals.any() => match signal {
                // Only where the editor could not take over the terminal.
                Received::Interrupt => Input::Cancelled { empty: true },
                Received::Terminate | Received::Hangup => return Ending::Silent,
            },
        };
        let text = match input {
            Input::Line(text) => text,
            Input::Bad(why) => {
                if print(&[render::error(&why)]).is_err() {
                    return Ending::Silent;
                }
                continue;
            }
            Input::Cancelled { empty } => {
                if empty && print(&["(to leave: 'quit' or Ctrl-D)".to_owned()]).is_err() {
                    return Ending::Silent;
                }
                continue;
            }
            Input::End => return Ending::Silent,
        };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            number += 1;
            let answer = tokio::select! {
                answer = answer(node, line, true) => answer,
                signal = signals.any() => match signal {
                    // What was pasted after the line goes with it.
                    Received::Interrupt if given_up().is_ok() => break,
                    Received::Interrupt | Received::Terminate | Received::Hangup => return Ending::Silent,
                },
            };
            match answer {
                Answer::Lines(lines) if print(&lines).is_ok() => {}
                Answer::Lines(_) => return Ending::Silent,
                Answer::Leave => return Ending::Command,
            }
        }
    }
}

/// Answers somebody who does not want to wait for the answer. The terminal has printed `^C`: a new line.
fn given_up() -> io::Result<()> {
    print(&[String::new(), render::error(&GIVEN_UP)])
}

/// What a line is answered: nothing if there is no command in it.
async fn answer(node: &Node, line: &str, columns: bool) -> Answer {
    match parse(line) {
        Ok(Some(command)) => execute(node, command, columns).await,
        Ok(None) => Answer::Lines(Vec::new()),
        Err(failure) => Answer::Lines(vec![render::error(&failure)]),
    }
}

/// The lines of standard input, read by a thread: nothing else can give up waiting for them.
fn lines() -> mpsc::Receiver<Input> {
    let (sender, receiver) = mpsc::channel(AHEAD_MAX);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let line = read_line(&mut input);
            let end = line == Input::End;
            if sender.blocking_send(line).is_err() || end {
                return;
            }
        }
    });
    receiver
}

/// The next line, of bounded length. An error ends the input.
fn read_line(input: &mut impl BufRead) -> Input {
    let mut line = Vec::new();
    match input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
        Ok(0) | Err(_) => return Input::End,
        Ok(_) => {}
    }
    let whole = line.ends_with(b"\n");
    if !whole && line.len() as u64 == LINE_MAX {
        // An error shows at the next line.
        let _ = input.skip_until(b'\n');
        return Input::Bad(format!(
            "the line is longer than {LINE_MAX} bytes; it was skipped"
        ));
    }
    match String::from_utf8(line) {
        Ok(line) => Input::Line(line),
        Err(_) => Input::Bad("the line is not UTF-8; it was skipped".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(mut bytes: &[u8]) -> Vec<Input> {
        let mut inputs = Vec::new();
        loop {
            let input = read_line(&mut bytes);
            if input == Input::End {
                return inputs;
            }
            inputs.push(input);
        }
    }

    #[test]
    fn the_last_line_needs_no_newline() {
        assert_eq!(
            inputs(b"a\n\nb"),
            ["a\n", "\n", "b"].map(|l| Input::Line(l.into()))
        );
    }

    #[test]
    fn a_line_that_is_too_long_or_no_text_is_skipped_alone() {
        let long = [vec![b'x'; 3 << 20], b"\nnodes\n".to_vec()].concat();
        assert!(
            matches!(inputs(&long).as_slice(), [Input::Bad(_), Input::Line(line)] if line == "nodes\n")
        );
        assert!(
            matches!(inputs(b"\xff\nnodes").as_slice(), [Input::Bad(_), Input::Line(line)] if line == "nodes")
        );
    }
}
