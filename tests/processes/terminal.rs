//! The interactive shell, in a pseudo terminal.

use std::process::Command;

use rexpect::reader::Options;
use rexpect::session::{PtySession, spawn_with_options};

use super::support::cluster::Cluster;
use super::support::sandbox::{PROGRAM, Sandbox};
use super::support::{PATIENCE, wait_until};

/// A node in a terminal of its own.
struct Terminal {
    session: PtySession,
    name: String,
}

impl Terminal {
    fn start(sandbox: &Sandbox, name: &str, options: &[&str]) -> Self {
        let mut command: Command = sandbox.command(PROGRAM);
        command.arg(name).args(options).env("TERM", "xterm");
        let options = Options::new()
            .timeout_ms(Some(u64::try_from(PATIENCE.as_millis()).expect("a minute")))
            .strip_ansi_escape_codes(true);
        let mut session =
            spawn_with_options(command, options).expect("the program starts in a terminal");
        // A test that fails does not wait for a graceful end.
        session.process_mut().set_kill_timeout(Some(0));
        Self {
            session,
            name: name.to_owned(),
        }
    }

    /// Waits for a text.
    #[track_caller]
    fn expect(&mut self, text: &str) -> String {
        self.session
            .exp_string(text)
            .unwrap_or_else(|e| panic!("'{text}' never came: {e}"))
    }

    /// Waits for the prompt of the `number`th line; what came before it.
    #[track_caller]
    fn prompt(&mut self, number: u32) -> String {
        let name = self.name.clone();
        let prompt = self
            .session
            .exp_regex(&format!(r"\({name}@[A-Za-z0-9_.-]+\){number}> "));
        prompt
            .unwrap_or_else(|e| panic!("no prompt {number}: {e}"))
            .0
    }

    fn keys(&mut self, keys: &str) {
        self.session
            .send(keys)
            .and_then(|_| self.session.flush())
            .expect("keys to press");
    }

    fn control(&mut self, letter: char) {
        self.session.send_control(letter).expect("a key to press");
    }

    /// Types a line.
    fn line(&mut self, line: &str) {
        self.keys(&format!("{line}\r"));
    }

    /// Waits for the end of the process; its exit code.
    fn end(mut self) -> i32 {
        let rest = self.session.exp_eof().expect("the end of the output");
        match self.session.process().wait() {
            Ok(rexpect::process::WaitStatus::Exited(_, code)) => code,
            other => panic!("{other:?} after {rest}"),
        }
    }
}

#[test]
fn the_shell_shows_prompts_and_keepers_and_ctrl_d_leaves() {
    let cluster = Cluster::calm(2);
    let mut terminal = Terminal::start(&cluster.sandbox, "t", &[]);
    terminal.prompt(1);
    terminal.line("connect a");
    terminal.expect("true\r\n");
    terminal.prompt(2);
    terminal.line("reward_player player1 5");
    terminal.expect("\r\n5\r\n");
    terminal.prompt(3);
    terminal.line("reward_player player1 a");
    terminal.expect("** CRASH ");
    terminal.prompt(4);
    terminal.line("reward_player player1 2");
    terminal.expect("\r\n7\r\n");
    terminal.prompt(5);
    terminal.line("local_players");
    terminal.expect("player1 7   keeper ");
    terminal.expect("version 2");
    terminal.prompt(6);

    terminal.control('d');
    assert_eq!(terminal.end(), 0);
    let a = cluster.node("a");
    wait_until("t has left", || a.view().members == ["a", "b"]);
    assert_eq!(a.points("player1"), 7);
}

#[test]
fn the_shell_completes_commands_and_players() {
    let cluster = Cluster::calm(2);
    let mut terminal = Terminal::start(&cluster.sandbox, "t", &["--connect", "a"]);
    terminal.prompt(1);
    terminal.line("reward_player scrooge 5");
    terminal.expect("\r\n5\r\n");
    terminal.prompt(2);
    terminal.keys("rew\t");
    terminal.expect("reward_player ");
    terminal.keys("scr\t");
    terminal.expect("scrooge ");
    terminal.line("2");
    terminal.expect("\r\n7\r\n");
    terminal.prompt(3);
    terminal.keys("whe\tscr\t");
    terminal.expect("whereis scrooge ");
    terminal.line("");
    terminal.expect("node t@");
    terminal.prompt(4);
    terminal.control('d');
    assert_eq!(terminal.end(), 0);
}

#[test]
fn ctrl_c_cancels_a_line_and_the_shell_goes_on() {
    let sandbox = Sandbox::calm();
    let mut terminal = Terminal::start(&sandbox, "t", &[]);
    terminal.prompt(1);
    terminal.keys("reward_player player1 5");
    terminal.expect("reward_player player1 5");
    terminal.control('c');
    // The line ends, and only then comes a new prompt: every key shows the old one again.
    terminal.expect("\r\n");
    terminal.prompt(1);
    terminal.line("nodes");
    let shown = terminal.expect("(none)");
    assert!(
        !shown.contains("error"),
        "the cancelled line was not carried out: {shown}"
    );
    terminal.prompt(2);
    terminal.control('c');
    terminal.expect("Ctrl-D");
    terminal.prompt(2);
    terminal.line("quit");
    terminal.expect("left");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn lines_that_are_typed_ahead_are_answered_one_after_the_other() {
    let cluster = Cluster::calm(2);
    let mut terminal = Terminal::start(&cluster.sandbox, "t", &["--connect", "a"]);
    terminal.prompt(1);
    terminal.keys("reward_player player1 5\rreward_player player1 6\rreward_player player1 7\r");
    for (total, number) in [("5", 2), ("11", 3), ("18", 4)] {
        terminal.expect(&format!("\r\n{total}\r\n"));
        terminal.prompt(number);
    }
    terminal.control('d');
    assert_eq!(terminal.end(), 0);
}

#[test]
fn the_history_lasts_across_starts() {
    let sandbox = Sandbox::calm();
    let mut terminal = Terminal::start(&sandbox, "t", &[]);
    terminal.prompt(1);
    terminal.line("help forget");
    terminal.prompt(2);
    terminal.line("nodes");
    terminal.prompt(3);
    // Two up: the line before the last.
    terminal.keys("\u{1b}[A\u{1b}[A");
    terminal.expect("help forget");
    terminal.line("");
    terminal.expect("usage:   forget");
    terminal.prompt(4);
    terminal.line("quit");
    assert_eq!(terminal.end(), 0);

    let mut terminal = Terminal::start(&sandbox, "t", &[]);
    terminal.prompt(1);
    terminal.keys("\u{1b}[A\u{1b}[A");
    terminal.expect("help forget");
    terminal.line("");
    terminal.expect("usage:   forget");
    terminal.prompt(2);
    terminal.control('d');
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_suspended_node_says_so_at_the_prompt() {
    let cluster = Cluster::start(2);
    let mut terminal = Terminal::start(&cluster.sandbox, "t", &["--connect", "a"]);
    terminal.prompt(1);
    let a = cluster.node("a");
    wait_until("t has joined", || a.view().members == ["a", "b", "t"]);
    for name in ["a", "b"] {
        cluster.stop(name);
    }
    for name in ["a", "b"] {
        cluster.kill9(name);
    }
    let mut number = 1;
    wait_until("the shell tells of it", || {
        terminal.line("reward_player player1 1");
        number += 1;
        terminal
            .prompt(number)
            .contains("error: suspended: waiting for ")
    });
    terminal.line("forget a --force");
    terminal.expect("ok");
    terminal.prompt(number + 1);
    terminal.control('d');
    assert_eq!(terminal.end(), 0);
}
