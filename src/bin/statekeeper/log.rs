//! The log: to stderr, and around the prompt while a line is being edited.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustyline::ExternalPrinter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::Level;

/// The most lines that wait for the line editor; more are dropped rather than that anybody waits.
const WAITING_MAX: usize = 1_000;

/// Where the lines of the log go; clones are handles to the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// The line editor's printer, while there is one.
    editor: Arc<Mutex<Option<SyncSender<String>>>>,
}

impl Log {
    /// Starts the log. An explicit `level` comes before RUST_LOG, and that before the default.
    pub(crate) fn start(level: Option<Level>) -> Self {
        let log = Self::default();
        let filter = match level {
            None => {
                let shell = io::stdin().is_terminal() && io::stdout().is_terminal();
                EnvFilter::try_from_default_env().unwrap_or_else(|_| filter(Level::Warn, !shell))
            }
            Some(level) => filter(level, true),
        };
        let colours =
            io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(colours)
            // It would complain on stderr, which is what failed.
            .log_internal_errors(false)
            .with_writer(log.clone());
        if subscriber.try_init().is_err() {
            log.line("a second logger was refused");
        }
        log
    }

    /// Writes one line.
    pub(crate) fn line(&self, line: &str) {
        self.write(format!("{line}\n"));
    }

    /// From now on the line editor prints, above the line that is being edited.
    pub(crate) fn print_through(&self, mut printer: impl ExternalPrinter + Send + 'static) {
        let (sender, lines) = sync_channel::<String>(WAITING_MAX);
        // Printing waits until the editor reads: a thread of its own, that nobody waits for.
        thread::spawn(move || {
            for line in lines {
                if printer.print(line).is_err() {
                    return;
                }
            }
        });
        *self.editor.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }

    /// From now on everything goes to stderr again.
    pub(crate) fn print_directly(&self) {
        *self.editor.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn write(&self, text: String) {
        let editor = self.editor.lock().unwrap_or_else(PoisonError::into_inner);
        match editor.as_ref() {
            // A full queue drops the line: see `WAITING_MAX`.
            Some(editor) => {
                let _ = editor.try_send(text);
            }
            // There is nowhere to report that stderr is gone.
            None => {
                let _ = io::stderr().write_all(text.as_bytes());
            }
        }
    }
}

/// Of ractor only what is worse: it is chatty, and it warns of every connection that ends. Of crashes nothing, as
/// long as there is a shell whose user is told anyway and did not ask for more.
fn filter(level: Level, crashes: bool) -> EnvFilter {
    EnvFilter::new(match level {
        Level::Off | Level::Error => level.as_str().to_owned(),
        Level::Warn | Level::Info | Level::Debug | Level::Trace => {
            let level = level.as_str();
            let crashes = if crashes { level } else { "off" };
            format!(
                "warn,ractor=error,ractor_cluster=error,statekeeper={level},statekeeper::crash={crashes}"
            )
        }
    })
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::write(self, String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
