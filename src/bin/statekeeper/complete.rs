//! What the Tab key offers. Pure.

use crate::command::{ID, Verb};
use crate::syntax::quoted;

/// How many candidates are offered at most.
const OFFERED_MAX: usize = 500;

/// The names that can be completed.
pub(crate) trait Known {
    /// The nodes that are or could be connected.
    fn nodes(&self) -> Vec<String>;
    /// The members of the cluster.
    fn members(&self) -> Vec<String>;
    /// The players of this node.
    fn players(&self) -> Vec<String>;
}

/// Where the last word of `line` starts, and what it could become.
pub(crate) fn completions(line: &str, known: &impl Known) -> (usize, Vec<String>) {
    let (before, start) = split(line);
    let word = &line[start..];
    let candidates = match before.as_slice() {
        [] => {
            let own = matching(
                Verb::ALL.map(|verb| verb.entry().name.to_owned()).to_vec(),
                word,
            );
            // Erlang's forms only where nothing else fits: `interface:` and `net_kernel:`.
            if own.is_empty() {
                matching(erlang(), word)
            } else {
                own
            }
        }
        [verb, arguments @ ..] => match Verb::named(verb) {
            Some(verb) => matching(arguments_of(verb, arguments, known), word),
            None => Vec::new(),
        },
    };
    (start, candidates)
}

/// The words before the last one, and where that starts.
fn split(line: &str) -> (Vec<&str>, usize) {
    let mut before = Vec::new();
    let mut start = None;
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in line.char_indices() {
        if c.is_whitespace() && !quoted {
            before.extend(start.take().map(|start| &line[start..at]));
            continue;
        }
        // A quote opens only at the start of a word.
        quoted = match c {
            '"' if start.is_none() => true,
            '"' if !escaped => false,
            _ => quoted,
        };
        escaped = quoted && c == '\\' && !escaped;
        start.get_or_insert(at);
    }
    (before, start.unwrap_or(line.len()))
}

/// What the next argument of `verb` can be.
fn arguments_of(verb: Verb, before: &[&str], known: &impl Known) -> Vec<String> {
    let quote = |names: Vec<String>| names.iter().map(|name| quoted(name)).collect();
    match (verb, before) {
        (Verb::Connect, []) => known.nodes(),
        (Verb::RewardPlayer | Verb::Whereis | Verb::Kill, []) => quote(known.players()),
        (Verb::RewardPlayer, [_, _]) => vec![ID.to_owned()],
        (Verb::Forget, []) => known.members(),
        (Verb::Forget, [_]) => vec!["--force".to_owned()],
        (Verb::Help, []) => Verb::ALL.map(|verb| verb.entry().name.to_owned()).to_vec(),
        (
            Verb::Connect
            | Verb::Nodes
            | Verb::RewardPlayer
            | Verb::LocalPlayers
            | Verb::Whereis
            | Verb::View
            | Verb::Counters
            | Verb::Kill
            | Verb::Forget
            | Verb::AcceptLoss
            | Verb::Leave
            | Verb::Help
            | Verb::Quit,
            _,
        ) => Vec::new(),
    }
}

/// The calls in Erlang's syntax, up to where their arguments begin.
fn erlang() -> Vec<String> {
    let call = |verb: Verb| {
        let form = verb.entry().erlang;
        let arguments = form.find(['"', '\'']).map(|at| &form[..=at]);
        arguments.unwrap_or(form).to_owned()
    };
    Verb::ALL.map(call).to_vec()
}

/// Those that begin like `word`, each once, in order.
fn matching(mut candidates: Vec<String>, word: &str) -> Vec<String> {
    // Who has not typed the quote yet looks for what is in it.
    candidates.retain(|c| {
        c.starts_with(word)
            || (!word.starts_with('"') && c.trim_start_matches('"').starts_with(word))
    });
    candidates.sort();
    candidates.dedup();
    candidates.truncate(OFFERED_MAX);
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Names;

    impl Known for Names {
        fn nodes(&self) -> Vec<String> {
            ["b@h", "c@h", "b@h"].map(String::from).to_vec()
        }

        fn members(&self) -> Vec<String> {
            ["a@h", "b@h"].map(String::from).to_vec()
        }

        fn players(&self) -> Vec<String> {
            ["player1", "player2", "the one"].map(String::from).to_vec()
        }
    }

    fn offered(line: &str) -> (usize, Vec<String>) {
        completions(line, &Names)
    }

    #[test]
    fn the_first_word_is_a_command() {
        assert_eq!(offered("rew"), (0, vec!["reward_player".into()]));
        assert_eq!(
            offered("  l"),
            (2, vec!["leave".into(), "local_players".into()])
        );
        assert_eq!(offered("").1.len(), Verb::ALL.len());
        assert_eq!(offered("xyz "), (4, vec![]));
    }

    #[test]
    fn erlangs_calls_are_completed_to_their_first_argument() {
        assert_eq!(
            offered("interface:r"),
            (0, vec!["interface:reward_player(<<\"".into()])
        );
        assert_eq!(
            offered("net"),
            (0, vec!["net_kernel:connect_node('".into()])
        );
    }

    #[test]
    fn arguments_are_nodes_members_players_or_commands() {
        assert_eq!(offered("connect "), (8, vec!["b@h".into(), "c@h".into()]));
        assert_eq!(offered("connect c"), (8, vec!["c@h".into()]));
        assert_eq!(offered("forget "), (7, vec!["a@h".into(), "b@h".into()]));
        assert_eq!(offered("forget a@h -"), (11, vec!["--force".into()]));
        assert_eq!(
            offered("kill player"),
            (5, vec!["player1".into(), "player2".into()])
        );
        assert_eq!(offered("reward_player player1 "), (22, vec![]));
        assert_eq!(
            offered("reward_player player1 5 -"),
            (24, vec!["--id".into()])
        );
        assert_eq!(offered("help vi"), (5, vec!["view".into()]));
    }

    #[test]
    fn a_name_with_spaces_is_quoted() {
        assert_eq!(offered("kill the"), (5, vec!["\"the one\"".into()]));
        assert_eq!(offered("kill \"the o"), (5, vec!["\"the one\"".into()]));
        assert_eq!(
            offered("forget \"the \\\" x\" -"),
            (18, vec!["--force".into()])
        );
    }
}
