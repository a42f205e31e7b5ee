//! The language of the shell: a line in, a command out. Pure.
//!
//! Two syntaxes, told apart by the parenthesis after the first word:
//!
//! ```text
//!   reward_player "player 1" 5                      words; a word in double quotes may hold anything
//!   interface:reward_player(<<"player 1">>, 5).     a call in the Erlang original's syntax
//! ```

use std::fmt;

use statekeeper::protocol::types::RequestId;

use crate::syntax::{self, Word};

/// The option that names a request.
pub(crate) const ID: &str = "--id";

/// What the user wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    /// Join this node and another into one cluster.
    Connect {
        /// `NAME[@HOST[:PORT]]`.
        node: String,
    },
    /// List the connected nodes.
    Nodes,
    /// Add to a player's points.
    RewardPlayer {
        /// Its name.
        player: String,
        /// As it was typed.
        amount: String,
        /// Makes it safe to ask again: the same id, on any node, is carried out once.
        id: Option<RequestId>,
    },
    /// List the players of this node.
    LocalPlayers,
    /// Show where a player is.
    Whereis {
        /// Its name.
        player: String,
    },
    /// Show the cluster.
    View,
    /// Show what was refused, and what waits.
    Counters,
    /// Kill a player's actor.
    Kill {
        /// Its name.
        player: String,
    },
    /// Vouch that a node is gone for good.
    Forget {
        /// Its name.
        node: String,
        /// Go on even without a majority.
        force: bool,
    },
    /// Go on although something may be lost.
    AcceptLoss,
    /// Leave the cluster, and end.
    Leave,
    /// Explain all commands, or one.
    Help(Option<Verb>),
    /// End, leaving the cluster before.
    Quit,
}

/// The names of the commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    /// See [`Command::Connect`].
    Connect,
    /// See [`Command::Nodes`].
    Nodes,
    /// See [`Command::RewardPlayer`].
    RewardPlayer,
    /// See [`Command::LocalPlayers`].
    LocalPlayers,
    /// See [`Command::Whereis`].
    Whereis,
    /// See [`Command::View`].
    View,
    /// See [`Command::Counters`].
    Counters,
    /// See [`Command::Kill`].
    Kill,
    /// See [`Command::Forget`].
    Forget,
    /// See [`Command::AcceptLoss`].
    AcceptLoss,
    /// See [`Command::Leave`].
    Leave,
    /// See [`Command::Help`].
    Help,
    /// See [`Command::Quit`].
    Quit,
}

/// What `help` says about a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its arguments.
    pub(crate) arguments: &'static str,
    /// The same as a call in Erlang's syntax.
    pub(crate) erlang: &'static str,
    /// One that could be typed.
    pub(crate) example: &'static str,
    /// What it does, in one line.
    pub(crate) about: &'static str,
}

impl Entry {
    /// The name and its arguments.
    pub(crate) fn usage(&self) -> String {
        format!("{} {}", self.name, self.arguments)
            .trim_end()
            .to_owned()
    }
}

impl Verb {
    /// All, in the order of `help`.
    pub(crate) const ALL: [Self; 13] = [
        Self::Connect,
        Self::Nodes,
        Self::RewardPlayer,
        Self::LocalPlayers,
        Self::Whereis,
        Self::View,
        Self::Counters,
        Self::Kill,
        Self::Forget,
        Self::AcceptLoss,
        Self::Leave,
        Self::Help,
        Self::Quit,
    ];

    /// What `help` says about it.
    pub(crate) const fn entry(self) -> Entry {
        match self {
            Self::Connect => Entry {
                name: "connect",
                arguments: "NAME[@HOST[:PORT]]",
                erlang: "net_kernel:connect_node('app_node2@host').",
                example: "connect app_node2",
                about: "joins this node and another into one cluster; one connect to any member suffices",
            },
            Self::Nodes => Entry {
                name: "nodes",
                arguments: "",
                erlang: "nodes().",
                example: "nodes",
                about: "lists the other nodes that this one is connected to",
            },
            Self::RewardPlayer => Entry {
                name: "reward_player",
                arguments: "PLAYER AMOUNT [--id NUMBER]",
                erlang: "interface:reward_player(<<\"player1\">>, 5).",
                example: "reward_player player1 5",
                about: "adds AMOUNT to the player's points and prints the new total; an AMOUNT that is no integer crashes its actor; asked again with the same --id, on any node, it is carried out once",
            },
            Self::LocalPlayers => Entry {
                name: "local_players",
                arguments: "",
                erlang: "interface:local_players().",
                example: "local_players",
                about: "lists the players that live on this node, with their points",
            },
            Self::Whereis => Entry {
                name: "whereis",
                arguments: "PLAYER",
                erlang: "whereis(<<\"player1\">>).",
                example: "whereis player1",
                about: "tells the node of the player, the node of its keeper, and how often its state was written",
            },
            Self::View => Entry {
                name: "view",
                arguments: "",
                erlang: "view().",
                example: "view",
                about: "shows the cluster: its id, epoch and members, and what this node is doing",
            },
            Self::Counters => Entry {
                name: "counters",
                arguments: "",
                erlang: "counters().",
                example: "counters",
                about: "shows how many bytes of requests wait, and what this node refused, dropped and linked so far",
            },
            Self::Kill => Entry {
                name: "kill",
                arguments: "PLAYER",
                erlang: "kill(<<\"player1\">>).",
                example: "kill player1",
                about: "kills the actor of a player of this node, to watch its restart",
            },
            Self::Forget => Entry {
                name: "forget",
                arguments: "NAME [--force]",
                erlang: "forget('app_node3@host').",
                example: "forget app_node3",
                about: "vouches that a node is gone for good; --force goes on even without a majority, and may lose state",
            },
            Self::AcceptLoss => Entry {
                name: "accept_loss",
                arguments: "",
                erlang: "accept_loss().",
                example: "accept_loss",
                about: "goes on where nodes refuse since something may be lost (--on-possible-loss refuse)",
            },
            Self::Leave => Entry {
                name: "leave",
                arguments: "",
                erlang: "leave().",
                example: "leave",
                about: "hands everything over to the other nodes, leaves the cluster and ends",
            },
            Self::Help => Entry {
                name: "help",
                arguments: "[COMMAND]",
                erlang: "help().",
                example: "help reward_player",
                about: "lists all commands, or explains one",
            },
            Self::Quit => Entry {
                name: "quit",
                arguments: "",
                erlang: "q().",
                example: "quit",
                about: "the same as 'leave'; so do 'exit', Ctrl-D and the end of the input",
            },
        }
    }

    /// The command of that name, in either syntax.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let own = match name {
            "net_kernel:connect_node" | "connect_node" => "connect",
            "erlang:nodes" => "nodes",
            "exit" | "q" | "c:q" | "halt" | "erlang:halt" | "init:stop" => "quit",
            other => other.strip_prefix("interface:").unwrap_or(other),
        };
        Self::ALL.into_iter().find(|verb| verb.entry().name == own)
    }
}

/// Why a line is no command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ParseError {
    /// No command has that name.
    Unknown {
        /// The name.
        name: String,
        /// One that is spelled nearly so.
        nearest: Option<&'static str>,
    },
    /// The command takes other arguments.
    Usage(Verb),
    /// A quote or parenthesis is not closed, or the like.
    Syntax(String),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name, nearest } => {
                // Who pastes a novel needs no echo of it.
                let name: String = name.chars().take(40).collect();
                match nearest {
                    Some(nearest) => {
                        write!(
                            f,
                            "unknown command '{name}': did you mean '{nearest}'? ('help' lists all)"
                        )
                    }
                    None => write!(f, "unknown command '{name}': 'help' lists all"),
                }
            }
            Self::Usage(verb) => {
                let entry = verb.entry();
                write!(
                    f,
                    "usage: {}, for example: {}",
                    entry.usage(),
                    entry.example
                )
            }
            Self::Syntax(what) => write!(f, "{what}"),
        }
    }
}

/// Reads one line; none if it is empty or a comment.
pub(crate) fn parse(line: &str) -> Result<Option<Command>, ParseError> {
    let words = syntax::words(line).map_err(ParseError::Syntax)?;
    let Some((name, arguments)) = words.split_first() else {
        return Ok(None);
    };
    let verb = Verb::named(&name.text).ok_or_else(|| ParseError::Unknown {
        name: name.text.clone(),
        nearest: nearest(&name.text),
    })?;
    command(verb, arguments)
        .map(Some)
        .ok_or(ParseError::Usage(verb))
}

/// The command, if the arguments fit it.
fn command(verb: Verb, arguments: &[Word]) -> Option<Command> {
    let text = |word: &Word| word.text.clone();
    match (verb, arguments) {
        (Verb::Connect, [node]) => Some(Command::Connect { node: text(node) }),
        (Verb::Nodes, []) => Some(Command::Nodes),
        (Verb::RewardPlayer, [player, amount]) => Some(Command::RewardPlayer {
            player: text(player),
            amount: amount.typed.clone(),
            id: None,
        }),
        (Verb::RewardPlayer, [player, amount, option, id]) if option.text == ID => {
            Some(Command::RewardPlayer {
                player: text(player),
                amount: amount.typed.clone(),
                id: Some(RequestId(id.text.parse().ok()?)),
            })
        }
        (Verb::LocalPlayers, []) => Some(Command::LocalPlayers),
        (Verb::Whereis, [player]) => Some(Command::Whereis {
            player: text(player),
        }),
        (Verb::View, []) => Some(Command::View),
        (Verb::Counters, []) => Some(Command::Counters),
        (Verb::Kill, [player]) => Some(Command::Kill {
            player: text(player),
        }),
        (Verb::Forget, [node]) if !is_force(node) => Some(Command::Forget {
            node: text(node),
            force: false,
        }),
        (Verb::Forget, [node, force] | [force, node]) if is_force(force) && !is_force(node) => {
            Some(Command::Forget {
                node: text(node),
                force: true,
            })
        }
        (Verb::AcceptLoss, []) => Some(Command::AcceptLoss),
        (Verb::Leave, []) => Some(Command::Leave),
        (Verb::Help, []) => Some(Command::Help(None)),
        (Verb::Help, [topic]) => Verb::named(&topic.text).map(|verb| Command::Help(Some(verb))),
        (Verb::Quit, []) => Some(Command::Quit),
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
        ) => None,
    }
}

/// Erlang's callers say it with an atom.
fn is_force(word: &Word) -> bool {
    word.text == "--force" || word.text == "force"
}

/// The command that is spelled most like `name`, if any is near.
fn nearest(name: &str) -> Option<&'static str> {
    /// No command is that long; the distance takes quadratic time.
    const LENGTH_MAX: usize = 40;
    if name.chars().count() > LENGTH_MAX {
        return None;
    }
    let name = name.to_lowercase();
    let own = name.rsplit(':').next().unwrap_or(&name);
    let names = Verb::ALL
        .into_iter()
        .map(|verb| verb.entry().name)
        .chain(["exit"]);
    names
        .map(|known| {
            let whole = strsim::damerau_levenshtein(own, known);
            // Who typed only the beginning is one mistake further away.
            let begun: String = known.chars().take(own.chars().count()).collect();
            let beginning = 1 + strsim::damerau_levenshtein(own, &begun);
            (
                if own.len() >= 2 {
                    whole.min(beginning)
                } else {
                    whole
                },
                known,
            )
        })
        .filter(|(distance, known)| *distance <= 1.max(known.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ok(line: &str) -> Command {
        parse(line).unwrap().unwrap()
    }

    fn error(line: &str) -> String {
        parse(line).unwrap_err().to_string()
    }

    fn reward(player: &str, amount: &str) -> Command {
        Command::RewardPlayer {
            player: player.into(),
            amount: amount.into(),
            id: None,
        }
    }

    #[test]
    fn each_command_has_its_own_syntax() {
        assert_eq!(
            ok("connect app_node2@host"),
            Command::Connect {
                node: "app_node2@host".into()
            }
        );
        assert_eq!(ok(" nodes "), Command::Nodes);
        assert_eq!(ok("reward_player player1 5"), reward("player1", "5"));
        assert_eq!(ok("local_players"), Command::LocalPlayers);
        assert_eq!(ok("whereis p"), Command::Whereis { player: "p".into() });
        assert_eq!(ok("view"), Command::View);
        assert_eq!(ok("counters"), Command::Counters);
        assert_eq!(ok("kill p"), Command::Kill { player: "p".into() });
        assert_eq!(
            ok("forget n"),
            Command::Forget {
                node: "n".into(),
                force: false
            }
        );
        assert_eq!(
            ok("forget n --force"),
            Command::Forget {
                node: "n".into(),
                force: true
            }
        );
        assert_eq!(
            ok("forget --force n"),
            Command::Forget {
                node: "n".into(),
                force: true
            }
        );
        assert_eq!(ok("leave"), Command::Leave);
        assert_eq!(ok("help"), Command::Help(None));
        assert_eq!(
            ok("help reward_player"),
            Command::Help(Some(Verb::RewardPlayer))
        );
        assert_eq!(ok("quit"), Command::Quit);
        assert_eq!(ok("exit"), Command::Quit);
    }

    #[test]
    fn a_reward_can_have_a_request_id() {
        let id = Some(RequestId(u128::MAX));
        let (player, amount) = ("--id".into(), "5".into());
        assert_eq!(
            ok(&format!("reward_player --id 5 --id {}", u128::MAX)),
            Command::RewardPlayer { player, amount, id }
        );
        for id in ["", "x", "-1", "340282366920938463463374607431768211456"] {
            let refused = error(&format!("reward_player p 5 --id {id}"));
            assert!(refused.starts_with("usage: reward_player "), "{refused}");
        }
    }

    #[test]
    fn the_lines_of_the_original_can_be_pasted() {
        let connect = Command::Connect {
            node: "app_node2@host".into(),
        };
        assert_eq!(ok("net_kernel:connect_node('app_node2@host')."), connect);
        assert_eq!(ok("net_kernel:connect_node( app_node2@host )"), connect);
        assert_eq!(ok("nodes()."), Command::Nodes);
        assert_eq!(
            ok("interface:reward_player(<<\"player1\">>, 5)."),
            reward("player1", "5")
        );
        assert_eq!(
            ok("interface:reward_player( << \"player 1\" >> ,-5 ) . % x"),
            reward("player 1", "-5")
        );
        assert_eq!(
            ok("interface:reward_player(<<\"ü\"/utf8>>, a)."),
            reward("ü", "a")
        );
        assert_eq!(
            ok("interface:reward_player(\"p\", {a, \"b)\"})."),
            reward("p", "{a, \"b)\"}")
        );
        assert_eq!(ok("interface:local_players()."), Command::LocalPlayers);
        assert_eq!(
            ok("forget('n@h', force)."),
            Command::Forget {
                node: "n@h".into(),
                force: true
            }
        );
        assert_eq!(ok("q()."), Command::Quit);
        assert_eq!(ok("init:stop()."), Command::Quit);
    }

    #[test]
    fn every_command_understands_its_own_help() {
        for verb in Verb::ALL {
            let Entry {
                name,
                erlang,
                example,
                ..
            } = verb.entry();
            assert_eq!(Verb::named(name), Some(verb));
            assert!(parse(erlang).is_ok_and(|c| c.is_some()), "{erlang}");
            assert!(parse(example).is_ok_and(|c| c.is_some()), "{example}");
            assert_eq!(ok(&format!("help {name}")), Command::Help(Some(verb)));
        }
    }

    #[test]
    fn an_amount_arrives_as_it_was_typed() {
        for amount in ["a", "99999999999999999999", "+5", "1.5", "0x10", "--5"] {
            assert_eq!(
                ok(&format!("reward_player p {amount}")),
                reward("p", amount)
            );
            assert_eq!(
                ok(&format!("interface:reward_player(<<\"p\">>, {amount}).")),
                reward("p", amount)
            );
        }
        assert_eq!(
            ok("interface:reward_player(<<\"p\">>, \"5\")."),
            reward("p", "\"5\"")
        );
    }

    #[test]
    fn quotes_hold_spaces_comments_and_escapes() {
        assert_eq!(ok(r#"reward_player "player 1" 5"#), reward("player 1", "5"));
        assert_eq!(
            ok(r##"reward_player "#1 \"x\" \\ \n" 5"##),
            reward("#1 \"x\" \\ \n", "5")
        );
        assert_eq!(ok(r#"reward_player "" 5"#), reward("", "5"));
        assert_eq!(ok("reward_player o'brien 5"), reward("o'brien", "5"));
    }

    #[test]
    fn empty_lines_and_comments_are_no_commands() {
        for line in ["", "   ", "\t", "# x", "  % reward_player p 5", "%", "\r"] {
            assert_eq!(parse(line), Ok(None), "{line:?}");
        }
        assert_eq!(
            ok("reward_player player1 a   # it crashes there"),
            reward("player1", "a")
        );
        assert_eq!(ok("nodes(). % all"), Command::Nodes);
    }

    #[test]
    fn an_unknown_command_names_the_nearest() {
        assert_eq!(
            error("rewrd_player p 5"),
            "unknown command 'rewrd_player': did you mean 'reward_player'? ('help' lists all)"
        );
        assert!(error("rew p 5").contains("did you mean 'reward_player'?"));
        assert!(error("rewrd p 5").contains("did you mean 'reward_player'?"));
        assert!(error("NODES").contains("did you mean 'nodes'?"));
        assert!(
            error("interface:rewrd_player(<<\"p\">>, 5).")
                .contains("did you mean 'reward_player'?")
        );
        assert_eq!(error("xyzzy"), "unknown command 'xyzzy': 'help' lists all");
        assert_eq!(
            error(&"x".repeat(1000)),
            format!("unknown command '{}': 'help' lists all", "x".repeat(40))
        );
    }

    #[test]
    fn a_wrong_number_of_arguments_shows_the_usage() {
        assert_eq!(
            error("reward_player p"),
            "usage: reward_player PLAYER AMOUNT [--id NUMBER], for example: reward_player player1 5"
        );
        for line in [
            "connect",
            "nodes x",
            "kill",
            "kill a b",
            "forget",
            "forget --force",
            "forget a b",
            "help xyz",
        ] {
            assert!(error(line).starts_with("usage: "), "{line}");
        }
        assert!(error("interface:reward_player(<<\"p\">>).").starts_with("usage: reward_player"));
    }

    #[test]
    fn what_is_not_closed_is_a_clear_error() {
        assert!(error("reward_player \"p 5").contains("quote"));
        assert!(error("reward_player \"p\"x 5").contains("space"));
        assert!(error("interface:reward_player(<<\"p\">>, 5").contains("')'"));
        assert!(error("nodes() x").contains("after"));
        assert!(error("connect_node('n@h).").contains("quote"));
        assert!(error("interface:reward_player(, 5).").contains("empty"));
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "\\PC*") {
            let _ = parse(&line);
        }

        #[test]
        fn no_line_that_looks_like_a_command_panics(
            line in "(reward_player|interface:reward_player|kill|forget)?[ (]?[\"'<>a5,(){}\\[\\]\\\\.% #xé]*"
        ) {
            if let Err(error) = parse(&line) {
                prop_assert!(!error.to_string().is_empty());
            }
        }

        #[test]
        fn every_name_can_be_quoted(name in ".*") {
            let quoted = syntax::quoted(&name);
            prop_assert_eq!(ok(&format!("kill {quoted}")), Command::Kill { player: name });
        }
    }
}
