//! Carries a command out: asks the node, and renders what it says.

use statekeeper::Node;

use crate::command::Command;
use crate::{players, render};

/// What the shell does with a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// It prints these lines, at least one.
    Lines(Vec<String>),
    /// It ends, and the node leaves.
    Leave,
}

/// Carries out one command; `columns` if people read the answer.
pub(crate) async fn execute(node: &Node, command: Command, columns: bool) -> Answer {
    let lines = match command {
        Command::Connect { node: peer } => match node.connect(&peer).await {
            Ok(()) => vec!["true".to_owned()],
            Err(failure) => vec![render::error(&failure)],
        },
        Command::Nodes => render::nodes(&node.nodes()),
        Command::RewardPlayer { player, amount, id } => {
            vec![
                match players::reward_player(node, &player, &amount, id).await {
                    Ok(Ok(total)) => total.to_string(),
                    Ok(Err(refused)) => render::error(&refused),
                    Err(failure) => render::call_error(&failure),
                },
            ]
        }
        Command::LocalPlayers => match players::local_players(node).await {
            Ok(players) => render::local_players(&players, columns),
            Err(failure) => vec![render::call_error(&failure)],
        },
        Command::Whereis { player } => vec![match players::whereis(node, &player).await {
            Ok(found) => render::whereis(&player, found.as_ref()),
            Err(failure) => render::call_error(&failure),
        }],
        Command::View => render::view(&node.view()),
        Command::Counters => render::counters(node.waiting_bytes(), &node.counters()),
        Command::Kill { player } => vec![match players::kill(node, &player).await {
            Ok(killed) => render::killed(&player, killed),
            Err(failure) => render::call_error(&failure),
        }],
        Command::Forget { node: name, force } => vec![match node.forget(&name, force).await {
            Ok(()) => "ok".to_owned(),
            Err(failure) => render::error(&failure),
        }],
        Command::AcceptLoss => vec![match node.accept_loss().await {
            Ok(()) => "ok".to_owned(),
            Err(failure) => render::error(&failure),
        }],
        Command::Help(None) => render::help(),
        Command::Help(Some(verb)) => render::help_on(verb),
        Command::Leave | Command::Quit => return Answer::Leave,
    };
    Answer::Lines(lines)
}
