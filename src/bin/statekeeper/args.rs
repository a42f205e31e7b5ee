//! The options: from the command line, or from the environment.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Parser, ValueEnum};
use statekeeper::config::{Config, OnPossibleLoss, Timings, WAITING_BYTES_MIN};
use statekeeper::protocol::types::Millis;

/// How the program is called, as the Erlang original says it.
pub(crate) const USAGE: &str = "\
start.sh NODE_NAME [OPTIONS]
       start.sh --cluster N [OPTIONS]";

/// The one argument of a guardian, which nodes start by themselves.
pub(crate) const GUARDIAN: &str = "--guardian";

const EXAMPLES: &str = "\
Examples:
  ./start.sh --cluster 3                          three nodes on this machine, and a shell
  ./start.sh app_node1                            one node; then, in another terminal:
  ./start.sh app_node2 --connect app_node1        a second one, joined to the first
  ./start.sh app_node1 --listen 10.0.0.1:21500    reachable from other machines
  ./start.sh app_node2 --listen 10.0.0.2:21500 --connect app_node1@host1:21500
  echo 'reward_player player1 5' | ./start.sh app_node3 --connect app_node1

The shell's commands: type 'help' in it. RUST_LOG refines --log, for example RUST_LOG=statekeeper=debug.
Exit codes: 0 done, 1 the node could not start, 65 bad arguments.";

/// Starts a node with its shell: stateful actors whose state survives their node.
#[derive(Clone, Debug, Parser)]
#[command(name = "statekeeper", version, override_usage = USAGE, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Args {
    /// The node's name: NAME or NAME@HOST; HOST defaults to this machine's short host name
    #[arg(
        value_name = "NODE_NAME",
        required_unless_present = "cluster",
        conflicts_with = "cluster"
    )]
    pub(crate) name: Option<String>,

    /// Start N nodes, app_node1 to app_nodeN, on this machine, join them, and run app_node1's shell; leaving
    /// the shell ends them all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=9))]
    pub(crate) cluster: Option<u8>,

    /// Where to listen, an IP address and a port [default: 127.0.0.1 and the first free port of 21500 to 21999]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "STATEKEEPER_LISTEN",
        hide_env_values = true,
        conflicts_with = "cluster"
    )]
    pub(crate) listen: Option<SocketAddr>,

    /// Join this node's cluster at the start; may be repeated (or hold a list with commas), one that answers
    /// suffices. Without a port: by name on this machine, and port 21500 on others
    #[arg(
        long,
        value_name = "NAME[@HOST[:PORT]]",
        env = "STATEKEEPER_CONNECT",
        hide_env_values = true,
        value_delimiter = ',',
        conflicts_with = "cluster"
    )]
    pub(crate) connect: Vec<String>,

    /// The secret that all nodes share; its file must be readable by you alone [default: ~/.statekeeper.cookie,
    /// made at the first start]
    #[arg(
        long,
        value_name = "FILE",
        env = "STATEKEEPER_COOKIE_FILE",
        hide_env_values = true
    )]
    pub(crate) cookie_file: Option<PathBuf>,

    /// How many backups each player has, each on another node: 1 to 7; the same on all nodes
    #[arg(
        long,
        value_name = "N",
        env = "STATEKEEPER_BACKUPS", hide_env_values = true,
        default_value_t = 1,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=7)
    )]
    pub(crate) backups: usize,

    /// When more nodes vanished at once than the backups survive: go on with what is left, or refuse all requests until
    /// 'accept_loss'; the same on all nodes
    #[arg(
        long,
        value_name = "POLICY",
        env = "STATEKEEPER_ON_POSSIBLE_LOSS",
        hide_env_values = true,
        default_value = "continue"
    )]
    pub(crate) on_possible_loss: LossPolicy,

    /// No shell: run until SIGTERM or SIGINT, then leave gracefully
    #[arg(long, env = "STATEKEEPER_NO_SHELL", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) no_shell: bool,

    /// No guardian process beside the node: should the node crash, the others wait until its lease has run out
    #[arg(long, env = "STATEKEEPER_NO_GUARDIAN", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) no_guardian: bool,

    /// Where standard input is no terminal: carry its lines out side by side, up to 64 at once. The lines of an
    /// answer begin with the number of the line that it answers and '-', the last one with the number and ':'
    #[arg(long, env = "STATEKEEPER_CONCURRENT", hide_env_values = true, conflicts_with = "no_shell", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) concurrent: bool,

    /// What the log, on stderr, tells [default: warn, or RUST_LOG]
    #[arg(
        long,
        value_name = "LEVEL",
        env = "STATEKEEPER_LOG",
        hide_env_values = true
    )]
    pub(crate) log: Option<Level>,

    /// How often every member is asked for a sign of life, in milliseconds
    #[arg(long, value_name = "MS", env = "STATEKEEPER_HEARTBEAT", hide_env_values = true, default_value_t = Timings::default().heartbeat.0,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) heartbeat: u64,

    /// How long a sign of life counts, in milliseconds: without a majority's, a node stops answering
    #[arg(long, value_name = "MS", env = "STATEKEEPER_LEASE", hide_env_values = true, default_value_t = Timings::default().lease.0,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) lease: u64,

    /// How long a node promises not to vote another one out, in milliseconds; longer than the lease, for clocks
    /// that drift [default: lease and a quarter]
    #[arg(long, value_name = "MS", env = "STATEKEEPER_PROMISE", hide_env_values = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) promise: Option<u64>,

    /// How long a member may be silent until it counts as lost, in milliseconds
    #[arg(long, value_name = "MS", env = "STATEKEEPER_SUSPICION", hide_env_values = true, default_value_t = Timings::default().suspicion.0,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) suspicion: u64,

    /// How long a request waits, in milliseconds, for example for a failover, until its outcome is unknown
    #[arg(long, value_name = "MS", env = "STATEKEEPER_CALL_TIMEOUT", hide_env_values = true, default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) call_timeout: u64,

    /// After how many milliseconds without a request a player goes to rest: it lives on as records on its keepers' nodes,
    /// until somebody asks it again; 0: never
    #[arg(
        long,
        value_name = "MS",
        env = "STATEKEEPER_IDLE",
        hide_env_values = true,
        default_value_t = 600_000
    )]
    pub(crate) idle: u64,

    /// Players share a few actors instead of having one each: a fraction of the memory; but one that computes long may hold
    /// up others. Each node may do as it likes
    #[arg(long, env = "STATEKEEPER_SHARE_ACTORS", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) share_actors: bool,

    /// How many threads the node works with [default: as many as the machine has processors]. For several nodes on one
    /// machine that are asked alike, its share; but with one, a player that computes long holds up all that the node does
    #[arg(long, value_name = "N", env = "STATEKEEPER_THREADS", hide_env_values = true,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub(crate) threads: Option<usize>,

    /// How many bytes of requests, replies and messages may wait on this node, at least 64 MiB; what would go beyond
    /// is refused: 'overloaded, try again'
    #[arg(long, value_name = "BYTES", env = "STATEKEEPER_WAITING_BYTES", hide_env_values = true,
          default_value_t = Config::new("").waiting_bytes_max,
          value_parser = RangedU64ValueParser::<usize>::new().range(WAITING_BYTES_MIN as u64..))]
    pub(crate) waiting_bytes: usize,

    /// For the nodes of --cluster: end when standard input does, so that none outlives its parent
    #[arg(long, hide = true)]
    pub(crate) tied: bool,
}

/// What follows a possible loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LossPolicy {
    /// Go on with what is left
    Continue,
    /// Answer nobody until an operator accepts it
    Refuse,
}

/// How much the log tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Level {
    /// Nothing
    Off,
    /// Broken invariants
    Error,
    /// Also what was refused or dropped
    Warn,
    /// Also views and ownerships that change
    Info,
    /// Also what each actor does
    Debug,
    /// Everything
    Trace,
}

impl Level {
    /// Its name, as it is typed.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Args {
    /// The configuration of the node called `name`.
    pub(crate) fn config(&self, name: &str) -> Config {
        let mut config = Config::new(name);
        config.listen = self.listen;
        config.cookie_file.clone_from(&self.cookie_file);
        config.backups = self.backups;
        config.timings = self.timings();
        config.on_possible_loss = match self.on_possible_loss {
            LossPolicy::Continue => OnPossibleLoss::Continue,
            LossPolicy::Refuse => OnPossibleLoss::Refuse,
        };
        config.guardian = self.guardian();
        config.call_timeout = Duration::from_millis(self.call_timeout);
        config.idle = Duration::from_millis(self.idle);
        config.waiting_bytes_max = self.waiting_bytes;
        config
    }

    /// The command line of a node of `--cluster` that is to be like this one.
    pub(crate) fn for_child(&self, name: &str) -> Vec<OsString> {
        let timings = self.timings();
        let mut line: Vec<OsString> = [name, "--no-shell", "--tied"].map(OsString::from).to_vec();
        let mut option = |option: &str, value: OsString| line.extend([option.into(), value]);
        if let Some(file) = &self.cookie_file {
            option("--cookie-file", file.clone().into());
        }
        if let Some(level) = self.log {
            option("--log", level.as_str().into());
        }
        if let Some(threads) = self.threads {
            option("--threads", threads.to_string().into());
        }
        for (name, value) in [
            ("--backups", self.backups as u64),
            ("--heartbeat", timings.heartbeat.0),
            ("--lease", timings.lease.0),
            ("--promise", timings.promise.0),
            ("--suspicion", timings.suspicion.0),
            ("--call-timeout", self.call_timeout),
            ("--idle", self.idle),
            ("--waiting-bytes", self.waiting_bytes as u64),
        ] {
            option(name, value.to_string().into());
        }
        if self.on_possible_loss == LossPolicy::Refuse {
            line.extend(["--on-possible-loss".into(), "refuse".into()]);
        }
        for (flag, given) in [
            ("--no-guardian", self.no_guardian),
            ("--share-actors", self.share_actors),
        ] {
            if given {
                line.push(flag.into());
            }
        }
        line
    }

    /// This very program, as the guardian of its node.
    fn guardian(&self) -> Option<Vec<OsString>> {
        let program = std::env::current_exe().ok()?;
        (!self.no_guardian).then(|| vec![program.into(), GUARDIAN.into()])
    }

    fn timings(&self) -> Timings {
        Timings {
            heartbeat: Millis(self.heartbeat),
            lease: Millis(self.lease),
            promise: Millis(
                self.promise
                    .unwrap_or(self.lease.saturating_add(self.lease / 4)),
            ),
            suspicion: Millis(self.suspicion),
            ..Timings::default()
        }
    }
}

/// What clap says of bad arguments, always with the usage.
pub(crate) fn complaint(error: &clap::Error) -> String {
    let text = error.to_string();
    if text.contains("Usage: ") {
        text
    } else {
        format!("{}\n\nUsage: {USAGE}\n", text.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("start.sh").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_the_librarys() {
        let config = parse("a").unwrap().config("a");
        let default = Config::new("a");
        assert_eq!(config.timings, default.timings);
        assert_eq!(config.backups, default.backups);
        assert_eq!(config.call_timeout, default.call_timeout);
        assert_eq!(config.idle, default.idle);
        assert_eq!(config.waiting_bytes_max, default.waiting_bytes_max);
    }

    #[test]
    fn a_promise_follows_its_lease() {
        assert_eq!(
            parse("a --lease 2000").unwrap().config("a").timings.promise,
            Millis(2500)
        );
        assert_eq!(
            parse("a --lease 2000 --promise 2100")
                .unwrap()
                .config("a")
                .timings
                .promise,
            Millis(2100)
        );
    }

    #[test]
    fn a_node_name_or_a_cluster_but_not_both() {
        assert!(parse("").is_err());
        assert!(parse("--cluster 3").is_ok());
        assert!(parse("a --cluster 3").is_err());
        assert!(parse("--cluster 1").is_err());
        assert!(parse("--cluster 10").is_err());
    }

    #[test]
    fn bad_arguments_always_show_the_usage() {
        for line in [
            "",
            "a b",
            "a --bogus",
            "a --listen x",
            "a --log loud",
            "a --backups 0",
            "a --waiting-bytes 1000",
            "a --idle soon",
            "a --threads 0",
            "--cluster 3 --listen 127.0.0.1:1",
        ] {
            let text = complaint(&parse(line).unwrap_err());
            assert!(
                text.contains("Usage: start.sh NODE_NAME [OPTIONS]"),
                "{line}: {text}"
            );
        }
    }

    #[test]
    fn a_child_of_a_cluster_gets_the_same_options() {
        let args = parse(
            "--cluster 3 --lease 2000 --log info --backups 2 --cookie-file /x --call-timeout 7 --idle 0 --waiting-bytes 99999999 --on-possible-loss refuse --share-actors --threads 3",
        )
        .unwrap();
        let line = args.for_child("app_node2");
        let child =
            Args::try_parse_from(std::iter::once(OsString::from("start.sh")).chain(line)).unwrap();
        assert!(child.no_shell && child.tied && child.share_actors);
        assert_eq!(child.name.as_deref(), Some("app_node2"));
        assert_eq!(child.threads, args.threads);
        let (ours, theirs) = (args.config("n"), child.config("n"));
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }
}
