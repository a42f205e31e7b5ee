//! What users type that cannot be done: one line that says what to do, and nothing changes.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use super::support::cluster::Cluster;
use super::support::sandbox::{Killed, PROGRAM, Sandbox};
use super::support::{wait_for, wait_until};

#[test]
fn a_bad_name_is_refused() {
    let cluster = Cluster::calm(2);
    let a = cluster.node("a");
    let longest = "x".repeat(255);
    for name in [
        "\"\"",
        &"x".repeat(256),
        &"é".repeat(128),
        r#""a\nb""#,
        r#""\e[2J""#,
        "\"tab\tbed\"",
        "\u{85}",
    ] {
        for line in [
            format!("reward_player {name} 5"),
            format!("whereis {name}"),
            format!("kill {name}"),
        ] {
            let refused = a.ask(&line);
            assert!(refused.starts_with("error: "), "{line:?}: {refused}");
            assert!(!refused.chars().any(char::is_control), "{refused:?}");
        }
    }
    assert_eq!(a.ask("local_players"), "(none)");
    assert_eq!(a.reward(&longest, 5), "5");
    assert_eq!(a.ask("reward_player \"a name, with # and %\" 5"), "5");
    assert_eq!(a.ask("reward_player Ünïcödé 5"), "5");
    assert_eq!(a.local_players().len(), 3);
}

#[test]
fn a_total_out_of_range_is_refused_and_unchanged() {
    let cluster = Cluster::calm(2);
    let (a, b) = (cluster.node("a"), cluster.node("b"));
    for beyond in [
        "9223372036854775808",
        "-9223372036854775809",
        "99999999999999999999999",
    ] {
        let refused = a.ask(&format!("reward_player player1 {beyond}"));
        assert!(
            refused.starts_with("error: ") && refused.contains("range"),
            "{refused}"
        );
    }
    assert_eq!(a.reward("player1", 0), "0");
    assert_eq!(a.reward("player1", i64::MAX), i64::MAX.to_string());
    for node in [&a, &b] {
        let refused = node.reward("player1", 1);
        assert!(
            refused.starts_with("error: ") && refused.contains("range"),
            "{refused}"
        );
        assert!(refused.contains(&i64::MAX.to_string()), "{refused}");
        assert_eq!(node.points("player1"), i64::MAX);
    }
    assert_eq!(b.reward("player1", -1), (i64::MAX - 1).to_string());
    assert_eq!(b.reward("low", i64::MIN), i64::MIN.to_string());
    assert!(b.reward("low", -1).starts_with("error: "));
    assert_eq!(a.points("low"), i64::MIN);
}

#[test]
fn a_command_that_cannot_be_understood_is_explained() {
    let cluster = Cluster::empty(Sandbox::calm());
    let a = cluster.add("a");
    for (line, expected) in [
        ("rewrd_player player1 5", "did you mean 'reward_player'?"),
        ("local_player", "did you mean 'local_players'?"),
        ("xyzzy", "'help'"),
        (
            "reward_player player1",
            "usage: reward_player PLAYER AMOUNT",
        ),
        ("connect", "usage: connect"),
        ("interface:reward_player(<<\"player1\">>, 5", "')'"),
        ("reward_player \"player1 5", "quote"),
        ("connect a b", "usage: connect"),
        ("connect @", "not a node"),
        ("connect b@host:port", "not a node"),
    ] {
        let refused = a.ask(line);
        assert!(
            refused.starts_with("error: ") && refused.contains(expected),
            "{line}: {refused}"
        );
    }
    assert!(a.lines("help").len() >= 11, "every command has its line");
    assert!(a.lines("help reward_player").len() > 1);
    // Blank lines and comments are no commands: nothing is said.
    for line in ["", "   ", "# a comment", "% another"] {
        assert_eq!(a.lines(line), [""; 0], "{line:?}");
    }
    // A line that is far too long is one command like any other.
    assert!(a.ask(&"x".repeat(2 << 20)).starts_with("error: "));
    assert_eq!(a.ask("nodes"), "(none)");
}

#[test]
fn two_established_clusters_refuse_each_other_and_go_on() {
    let cluster = Cluster::empty(Sandbox::calm());
    cluster.add_all(["a", "b", "c", "d"].map(|name| cluster.spec(name)));
    assert_eq!(cluster.node("a").ask("connect b"), "true");
    assert_eq!(cluster.node("c").ask("connect d"), "true");
    cluster.wait_members(&["a", "b"]);
    cluster.wait_members(&["c", "d"]);
    assert_eq!(cluster.node("a").reward("player1", 5), "5");
    assert_eq!(cluster.node("c").reward("player1", 7), "7");
    for (from, to) in [("a", "c"), ("c", "a"), ("d", "b")] {
        let refused = cluster.node(from).ask(&format!("connect {to}"));
        assert!(
            refused.starts_with("error: ") && refused.contains("different clusters"),
            "{refused}"
        );
    }
    cluster.wait_members(&["a", "b"]);
    cluster.wait_members(&["c", "d"]);
    assert_eq!(cluster.node("b").reward("player1", 1), "6");
    assert_eq!(cluster.node("d").reward("player1", 1), "8");
}

#[test]
fn a_node_cannot_be_connected_to_itself() {
    let cluster = Cluster::empty(Sandbox::calm());
    let a = cluster.add("a");
    let addr = a.addr();
    for peer in ["a".to_owned(), format!("a@{addr}"), format!("b@{addr}")] {
        let refused = a.ask(&format!("connect {peer}"));
        assert!(
            refused.starts_with("error: ") && refused.contains("itself"),
            "{peer}: {refused}"
        );
    }
    assert_eq!(a.view().state, "alone");
}

#[test]
fn lines_may_end_as_elsewhere_and_what_is_no_text_is_skipped() {
    let cluster = Cluster::calm(2);
    let a = cluster.node("a");
    assert_eq!(a.ask("reward_player player1 5\r"), "5");
    let mut child = cluster.sandbox.command(PROGRAM);
    let input = cluster.sandbox.path("input");
    fs::write(
        &input,
        b"reward_player player1 \xff\nreward_player player1 1\n",
    )
    .expect("an input");
    child
        .args(["c", "--connect", "a"])
        .stdin(fs::File::open(&input).expect("the input"));
    let output = child.output().expect("the program runs");
    let stdout = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("error: ") && lines[0].contains("UTF-8"),
        "{stdout}"
    );
    assert_eq!(lines[1], "6");
}

#[test]
fn a_node_whose_reader_has_gone_leaves() {
    let cluster = Cluster::calm(2);
    let mut command = cluster.sandbox.command(PROGRAM);
    command
        .args(["c", "--connect", "a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = Killed(command.spawn().expect("the program starts"));
    drop(child.0.stdout.take());
    let mut stdin = child.0.stdin.take().expect("a pipe");
    stdin.write_all(b"nodes\n").expect("a command");
    let status = wait_for("the node ends", || child.0.try_wait().expect("its status"));
    assert!(status.success(), "{status}");
    wait_until("it has left", || {
        cluster.node("a").view().members == ["a", "b"]
    });
}
