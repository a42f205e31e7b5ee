//! What a command's result looks like. Pure.
//!
//! The lines are a contract with scripts: a result alone, an error as `error: …`, a crash as `** CRASH …`.
//! None of them carries control characters, whatever the players are called.

use statekeeper::protocol::members::Status;
use statekeeper::protocol::types::NodeName;
use statekeeper::{CallError, Counters, LocalServer, ViewInfo, Whereis};

use crate::command::Verb;
use crate::players::State;
use crate::syntax::quoted;

/// What stands for nothing at all.
const NONE: &str = "(none)";

/// A failure, in one line.
pub(crate) fn error(error: &impl ToString) -> String {
    one_line(&format!("error: {}", error.to_string()))
}

/// Why a call has no reply, in one line.
pub(crate) fn call_error(failure: &CallError) -> String {
    match failure {
        CallError::Crashed(crash) => one_line(&format!(
            "** CRASH {} '{}' on {}: {}, restarted from its keeper",
            crash.kind, crash.key, crash.node, crash.reason
        )),
        CallError::Alone
        | CallError::Suspended(_)
        | CallError::PossibleLoss(_)
        | CallError::Leaving
        | CallError::Unknown { .. }
        | CallError::Lost
        | CallError::Overloaded
        | CallError::Key(_)
        | CallError::NoSuchType(_)
        | CallError::Codec(_) => error(failure),
    }
}

/// One name per line.
pub(crate) fn nodes(nodes: &[NodeName]) -> Vec<String> {
    if nodes.is_empty() {
        return vec![NONE.to_owned()];
    }
    nodes.iter().map(|name| one_line(name.as_str())).collect()
}

/// `NAME POINTS` per player; for people also where its keepers are, in columns.
pub(crate) fn local_players(players: &[LocalServer<State>], columns: bool) -> Vec<String> {
    if players.is_empty() {
        return vec![NONE.to_owned()];
    }
    if !columns {
        return players
            .iter()
            .map(|p| one_line(&format!("{} {}", p.key, p.state.points)))
            .collect();
    }
    let cells: Vec<(String, String)> = players
        .iter()
        .map(|p| (one_line(&p.key), p.state.points.to_string()))
        .collect();
    let width =
        |of: fn(&(String, String)) -> &str| cells.iter().map(|c| of(c).chars().count()).max();
    let (names, points) = (width(|c| &c.0).unwrap_or(0), width(|c| &c.1).unwrap_or(0));
    cells
        .iter()
        .zip(players)
        .map(|((name, total), player)| {
            let (keepers, version) = (keepers(&player.keepers), player.version);
            format!("{name:<names$} {total:>points$}   keeper {keepers}  version {version}")
        })
        .collect()
}

/// Where a player is, in one line.
pub(crate) fn whereis(player: &str, found: Option<&Whereis>) -> String {
    match found {
        None => {
            let typed = quoted(player);
            error(&format!(
                "no player called '{player}' yet; 'reward_player {typed} 1' creates it"
            ))
        }
        Some(found) => {
            let node = found.node.as_ref().map_or("(at rest)", NodeName::as_str);
            one_line(&format!(
                "node {node} keeper {} version {}",
                keepers(&found.keepers),
                found.version
            ))
        }
    }
}

/// What `kill` did.
pub(crate) fn killed(player: &str, killed: bool) -> String {
    if killed {
        return "killed".to_owned();
    }
    let typed = quoted(player);
    error(&format!(
        "player '{player}' is not on this node; 'whereis {typed}' tells where it is"
    ))
}

/// The cluster, one `name: value` per line.
pub(crate) fn view(view: &ViewInfo) -> Vec<String> {
    let member = |name: &NodeName| {
        let leaving = if view.leaving.contains(name) {
            " (leaving)"
        } else {
            ""
        };
        format!("{name}{leaving}")
    };
    let mut lines = vec![
        format!("cluster: {}", view.cluster),
        format!("epoch: {}", view.epoch),
        format!(
            "members: {}",
            view.members
                .iter()
                .map(member)
                .collect::<Vec<_>>()
                .join(" ")
        ),
        format!("state: {}", status(view.status)),
    ];
    if !view.waiting_for.is_empty() {
        lines.push(format!("waiting for: {}", list(&view.waiting_for)));
    }
    lines.extend(view.possible_loss.iter().map(|(epoch, nodes)| {
        let nodes = list(nodes);
        format!("POSSIBLE LOSS: since epoch {epoch}: {nodes} vanished at once; what only they held is lost")
    }));
    lines.iter().map(|line| one_line(line)).collect()
}

/// The answer to line `number` where answers come in any order; its last line can be told from those before it.
pub(crate) fn numbered(number: u64, lines: &[String]) -> Vec<String> {
    let last = lines.len().saturating_sub(1);
    let mark = |at| if at == last { ':' } else { '-' };
    let numbered = lines.iter().enumerate();
    numbered
        .map(|(at, line)| format!("{number}{} {line}", mark(at)))
        .collect()
}

/// What waits and what was counted, one `name: value` per line.
pub(crate) fn counters(waiting_bytes: usize, counters: &Counters) -> Vec<String> {
    let waiting = std::iter::once(format!("waiting_bytes: {waiting_bytes}"));
    let counted = counters.named().map(|(name, n)| format!("{name}: {n}"));
    waiting.chain(counted).collect()
}

/// All commands, one line each.
pub(crate) fn help() -> Vec<String> {
    let width = Verb::ALL
        .into_iter()
        .map(|verb| verb.entry().usage().len())
        .max()
        .unwrap_or(0);
    let line = |verb: Verb| format!("{:<width$}  {}", verb.entry().usage(), verb.entry().about);
    Verb::ALL.into_iter().map(line).collect()
}

/// One command: what it does, how it is typed in either syntax, and an example.
pub(crate) fn help_on(verb: Verb) -> Vec<String> {
    let entry = verb.entry();
    let mut lines = vec![
        format!("usage:   {}", entry.usage()),
        format!("Erlang:  {}", entry.erlang),
        format!("example: {}", entry.example),
        format!("         {}", entry.about),
    ];
    if entry.arguments.contains("PLAYER") {
        lines.push(
            "         a name with spaces, or with # or % in front, goes in double quotes"
                .to_owned(),
        );
    }
    lines
}

/// The word for what a node is doing.
pub(crate) fn status(status: Status) -> &'static str {
    match status {
        Status::Alone => "alone",
        Status::Joining => "joining",
        Status::Serving => "serving",
        Status::Syncing => "syncing",
        Status::Refusing => "refusing, 'accept_loss' goes on",
        Status::Suspended => "suspended",
        Status::Leaving => "leaving",
    }
}

fn keepers(nodes: &[NodeName]) -> String {
    if nodes.is_empty() {
        NONE.to_owned()
    } else {
        list(nodes)
    }
}

fn list(nodes: &[NodeName]) -> String {
    nodes
        .iter()
        .map(NodeName::as_str)
        .collect::<Vec<_>>()
        .join(",")
}

/// Escapes what would end the line or command the terminal.
fn one_line(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let mut line = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use statekeeper::Crash;
    use statekeeper::protocol::types::{ClusterId, Epoch};

    use super::*;

    fn names(names: &[&str]) -> Vec<NodeName> {
        names.iter().map(|name| NodeName::new(*name)).collect()
    }

    fn player(key: &str, points: i64) -> LocalServer<State> {
        LocalServer {
            key: key.into(),
            state: State { points },
            keepers: names(&["b@h"]),
            version: 3,
        }
    }

    #[test]
    fn a_crash_is_one_line_that_says_so() {
        let crash = CallError::Crashed(Crash {
            kind: "player".into(),
            key: "player1".into(),
            node: "a@h".into(),
            reason: "bad argument: 5 + a\n (players.rs:42)".into(),
        });
        assert_eq!(
            call_error(&crash),
            "** CRASH player 'player1' on a@h: bad argument: 5 + a\\n (players.rs:42), restarted from its keeper"
        );
    }

    #[test]
    fn every_other_failure_is_one_line_that_says_error() {
        assert!(call_error(&CallError::Alone).starts_with("error: this node is alone"));
        assert_eq!(error(&"a\nb\x1b[2J"), "error: a\\nb\\u{1b}[2J");
    }

    #[test]
    fn nothing_is_said_as_none() {
        assert_eq!(nodes(&[]), ["(none)"]);
        assert_eq!(local_players(&[], false), ["(none)"]);
        assert_eq!(local_players(&[], true), ["(none)"]);
    }

    #[test]
    fn players_are_names_and_points_and_for_people_their_keepers_in_columns() {
        let players = [player("a", 5), player("player two", -100)];
        assert_eq!(local_players(&players, false), ["a 5", "player two -100"]);
        assert_eq!(
            local_players(&players, true),
            [
                "a             5   keeper b@h  version 3",
                "player two -100   keeper b@h  version 3"
            ]
        );
    }

    #[test]
    fn whereis_tells_node_keeper_and_version_or_what_to_do() {
        let at = |node: Option<&str>| Whereis {
            node: node.map(NodeName::new),
            keepers: names(&["b@h"]),
            version: 7,
        };
        assert_eq!(
            whereis("x", Some(&at(Some("a@h")))),
            "node a@h keeper b@h version 7"
        );
        assert_eq!(
            whereis("x", Some(&at(None))),
            "node (at rest) keeper b@h version 7"
        );
        assert_eq!(
            whereis("x", None),
            "error: no player called 'x' yet; 'reward_player x 1' creates it"
        );
        assert!(whereis("x y", None).contains("'reward_player \"x y\" 1'"));
    }

    #[test]
    fn a_view_is_loud_about_loss_and_what_it_waits_for() {
        let info = ViewInfo {
            cluster: ClusterId(1),
            epoch: Epoch(4),
            members: names(&["a@h", "b@h", "c@h"]),
            leaving: names(&["b@h"]),
            status: Status::Suspended,
            waiting_for: names(&["c@h"]),
            possible_loss: vec![(Epoch(3), names(&["d@h", "e@h"]))],
        };
        assert_eq!(
            view(&info),
            [
                "cluster: 0000000000000001",
                "epoch: 4",
                "members: a@h b@h (leaving) c@h",
                "state: suspended",
                "waiting for: c@h",
                "POSSIBLE LOSS: since epoch 3: d@h,e@h vanished at once; what only they held is lost",
            ]
        );
    }

    #[test]
    fn a_numbered_answer_shows_its_end() {
        let lines = ["a", "b"].map(String::from);
        assert_eq!(numbered(7, &lines), ["7- a", "7: b"]);
        assert_eq!(numbered(7, &lines[1..]), ["7: b"]);
        assert!(numbered(7, &[]).is_empty());
    }

    #[test]
    fn counters_have_their_names() {
        let lines = counters(7, &Counters::default());
        assert_eq!(lines[0], "waiting_bytes: 7");
        assert!(lines.contains(&"implausible: 0".to_owned()));
    }

    #[test]
    fn help_lists_every_command_in_one_line() {
        assert_eq!(help().len(), Verb::ALL.len());
        assert!(
            help_on(Verb::RewardPlayer)
                .iter()
                .any(|line| line.contains("interface:reward_player("))
        );
    }
}
