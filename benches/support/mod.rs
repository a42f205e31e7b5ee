//! What the benches share: processes that answer lines, clients in closed loop, players, plots.
//!
//! ```text
//!   the bench ──lines──▶ Process: this program once more, in a role
//!                          └── Node of the product, players, clients
//! ```

pub(crate) mod fleet;
pub(crate) mod load;
pub(crate) mod node;
pub(crate) mod options;
pub(crate) mod player;
pub(crate) mod plot;
pub(crate) mod process;
pub(crate) mod timeline;

use std::error::Error;
use std::process::ExitCode;

pub(crate) type Failed = Box<dyn Error + Send + Sync>;
pub(crate) type Res<T> = Result<T, Failed>;

/// Tells a process of a bench what it is.
pub(crate) const ROLE: &str = "STATEKEEPER_BENCH_ROLE";
/// Tells it that it is the guardian of a node.
pub(crate) const GUARDIAN: &str = "--guardian";

/// Runs the bench, or what this process of it is to do.
pub(crate) fn main<F, G>(play: F, drive: impl FnOnce() -> Res<()>) -> ExitCode
where
    F: FnOnce(String) -> G,
    G: Future<Output = Res<()>>,
{
    if std::env::args().nth(1).as_deref() == Some(GUARDIAN) {
        statekeeper::guardian::watch();
        return ExitCode::SUCCESS;
    }
    let outcome = match std::env::var(ROLE) {
        Ok(role) => tokio::runtime::Runtime::new()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(play(role))),
        Err(_) => drive(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}
