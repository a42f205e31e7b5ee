//! The node program: one node of the player system, and its shell.
//!
//! ```text
//!   args ─► main ─┬─ join       --connect
//!                 ├─ cluster    --cluster: more nodes, as child processes
//!                 └─ shell ─┬─ editor ─ complete    a terminal
//!                           ├─ command ─ syntax     a line in, a command out
//!                           └─ execute ─┬─ players  the server type and its interface
//!                                       └─ render   what a result looks like
//! ```

mod args;
mod cluster;
mod command;
mod complete;
mod editor;
mod execute;
mod join;
mod log;
mod players;
mod render;
mod shell;
mod signals;
mod syntax;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use statekeeper::protocol::members::Failure;
use statekeeper::{Node, StartError};
use tokio::time::timeout;

use crate::args::Args;
use crate::cluster::Children;
use crate::log::Log;
use crate::players::Player;
use crate::shell::Ending;
use crate::signals::Signals;

/// Many small states and messages: where most allocators spend their time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code for bad arguments, as in the Erlang original (EX_DATAERR of sysexits.h).
const BAD_ARGUMENTS: u8 = 65;
/// How long a node may take to leave, until it ends all the same.
const LEAVE_MAX: Duration = Duration::from_secs(15);
/// The same when everybody who could take over ends with it.
const LEAVE_TOGETHER_MAX: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    if std::env::args_os().skip(1).eq([args::GUARDIAN]) {
        statekeeper::guardian::watch();
        return ExitCode::SUCCESS;
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            eprint!("{}", args::complaint(&error));
            return ExitCode::from(BAD_ARGUMENTS);
        }
        Err(help) => {
            // Whoever reads only its beginning, as `head` does, closes the pipe.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let log = Log::start(args.log);
    // As many workers as the machine has processors is tokio's default.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = args.threads {
        runtime.worker_threads(threads);
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(Box::pin(run(&args, &log)));
    // The threads that read standard input end with the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref::<StartError>() {
                Some(
                    StartError::Name { .. }
                    | StartError::Timings(_)
                    | StartError::Backups(_)
                    | StartError::Waiting(_),
                ) => {
                    eprintln!("\nUsage: {}", args::USAGE);
                    ExitCode::from(BAD_ARGUMENTS)
                }
                Some(
                    StartError::NameInUse { .. }
                    | StartError::Listen { .. }
                    | StartError::Cookie { .. }
                    | StartError::Registered(_)
                    | StartError::Other(_),
                )
                | None => ExitCode::FAILURE,
            }
        }
    }
}

/// One node's life: start, shell, leave.
async fn run(args: &Args, log: &Log) -> Result<()> {
    let mut signals = Signals::new().context("cannot heed signals")?;
    let (node, mut children) = tokio::select! {
        started = Box::pin(start(args, log)) => started?,
        // Dropped with what is started, the children are killed.
        signal = signals.any() => std::process::exit(signal.code()),
    };
    let ending = if args.no_shell {
        wait(args.tied, &mut signals).await;
        Ending::Silent
    } else {
        shell::run(&node, log, &mut signals, args.concurrent).await?
    };
    tokio::select! {
        () = leave(&node, children.as_mut(), args.tied, ending) => Ok(()),
        signal = signals.any() => {
            if let Some(children) = &mut children {
                children.kill();
            }
            std::process::exit(signal.code())
        }
    }
}

/// Starts the node, and whatever it shall be connected to.
async fn start(args: &Args, log: &Log) -> Result<(Node, Option<Children>)> {
    let name = args.name.clone().unwrap_or_else(|| cluster::name(1));
    let builder = Node::builder(args.config(&name));
    let builder = if args.share_actors {
        builder.register_shared(Player)
    } else {
        builder.register(Player)
    };
    #[cfg(debug_assertions)]
    let builder = match std::env::var("STATEKEEPER_DEFECT") {
        Ok(defect) => builder.plant(defect.parse().context("STATEKEEPER_DEFECT")?),
        Err(_) => builder,
    };
    let node = builder.start().await?;
    let children = match args.cluster {
        Some(count) => Some(Children::start(count, &node, args, log).await?),
        None => {
            if args.no_shell {
                log.line(&cluster::listening(&node));
            }
            join::join(&node, &args.connect, log).await;
            None
        }
    };
    Ok((node, children))
}

/// Waits until the process shall end.
async fn wait(tied: bool, signals: &mut Signals) {
    if tied {
        tokio::select! {
            _ = cluster::untied() => {}
            _ = signals.any() => {}
        }
    } else {
        signals.any().await;
    }
}

/// Hands over and leaves, and ends the children. An ending that was asked for is answered.
async fn leave(node: &Node, children: Option<&mut Children>, tied: bool, ending: Ending) {
    // Then nobody is left who would miss anything.
    let together = children
        .as_ref()
        .is_some_and(|children| children.are_all_of(&node.view().members, node.name()));
    let patience = match (tied, together) {
        (true, _) => cluster::LEAVE_MAX,
        (false, true) => LEAVE_TOGETHER_MAX,
        (false, false) => LEAVE_MAX,
    };
    let said = match timeout(patience, node.leave()).await {
        // Who is alone has nobody to hand over to.
        Ok(Ok(()) | Err(Failure::NotMember)) => "left".to_owned(),
        Ok(Err(failure)) => render::error(&format!("not handed over: {failure}")),
        Err(_) => render::error(&format!(
            "not handed over within {} s; the node ends all the same",
            patience.as_secs()
        )),
    };
    match ending {
        // Whoever asked may be gone.
        Ending::Command => {
            let _ = shell::print(&[said]);
        }
        Ending::Silent if said.starts_with("error") => tracing::warn!("{said}"),
        Ending::Silent => {}
    }
    if let Some(children) = children {
        children.end(together).await;
    }
}
