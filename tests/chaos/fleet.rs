//! The nodes under test, each on a machine of its own, and all that can be done to them. Nothing here waits for
//! ever, and what a cluster does not do in time is a finding, not a panic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::process::Process;
use super::support::namespaces::Namespaces;
use super::support::node::{Spec, View, lock};
use super::support::sandbox::Sandbox;

/// How long a shell may take that is asked in passing.
const GLANCE: Duration = Duration::from_millis(500);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// A request at a node waits that long for a failover.
const CALL_TIMEOUT_MS: &str = "4000";
/// The library's default, at which nodes expect each other.
const PORT: u16 = 21_500;

/// How the nodes are started.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Nodes of the first hour.
    pub(crate) nodes: usize,
    /// Nodes that can join later.
    pub(crate) spares: usize,
    /// Backups of each player.
    pub(crate) backups: usize,
    /// How long the cluster may take to heal, on a busy machine.
    pub(crate) patience: Duration,
    /// A deliberate defect.
    pub(crate) defect: Option<String>,
}

/// A cluster of separate hosts.
pub(crate) struct Fleet {
    pub(crate) sandbox: Sandbox,
    plan: Plan,
    machines: Namespaces,
    nodes: Mutex<BTreeMap<String, Arc<Process>>>,
    frozen: Mutex<BTreeSet<String>>,
    /// Machines without a cable, and directions that are broken.
    unplugged: Mutex<BTreeSet<String>>,
    broken: Mutex<BTreeSet<(String, String)>>,
    lives: AtomicUsize,
    start: Instant,
    events: Mutex<Vec<(Duration, String)>>,
}

impl Fleet {
    /// The machines, without nodes.
    ///
    /// # Errors
    /// What this user or this system does not permit.
    pub(crate) fn new(plan: &Plan) -> Result<Self, String> {
        let names = names(plan.nodes + plan.spares);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(Self {
            machines: Namespaces::new(&names)?,
            sandbox: Sandbox::new(),
            plan: plan.clone(),
            nodes: Mutex::default(),
            frozen: Mutex::default(),
            unplugged: Mutex::default(),
            broken: Mutex::default(),
            lives: AtomicUsize::new(0),
            start: Instant::now(),
            events: Mutex::default(),
        })
    }

    /// Starts the nodes of the first hour, and joins them.
    pub(crate) fn boot(&self) -> Result<(), String> {
        let names = names(self.plan.nodes);
        names.iter().for_each(|name| self.start(name));
        for name in &names[1..] {
            self.connect(name)?;
        }
        self.wait_serving()
    }

    /// Time on the run's clock.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Takes note of what was done.
    pub(crate) fn note(&self, what: impl Into<String>) {
        let what = what.into();
        if std::env::var_os("CHAOS_TALK").is_some() {
            eprintln!("{:>8.3} s  {what}", self.now().as_secs_f64());
        }
        lock(&self.events).push((self.now(), what));
    }

    /// What was done, and when.
    pub(crate) fn events(&self) -> Vec<(Duration, String)> {
        lock(&self.events).clone()
    }

    /// Those that run, frozen ones too.
    pub(crate) fn nodes(&self) -> Vec<Arc<Process>> {
        lock(&self.nodes).values().cloned().collect()
    }

    /// The names of those that run.
    pub(crate) fn running(&self) -> Vec<String> {
        lock(&self.nodes).keys().cloned().collect()
    }

    /// The names of those that do not.
    pub(crate) fn idle(&self) -> Vec<String> {
        let running = self.running();
        let mut idle = names(self.plan.nodes + self.plan.spares);
        idle.retain(|name| !running.contains(name));
        idle
    }

    pub(crate) fn is_frozen(&self, name: &str) -> bool {
        lock(&self.frozen).contains(name)
    }

    pub(crate) fn start(&self, name: &str) {
        let address = self.machines.address(name);
        let mut spec = Spec::new(&format!("{name}@{address}"))
            .listen((address, PORT).into())
            .option("--call-timeout", CALL_TIMEOUT_MS)
            .option("--backups", &self.plan.backups.to_string());
        spec.options.push("--concurrent".to_owned());
        // With and without a witness of its end, in turn.
        if self.lives.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            spec.options.push("--no-guardian".to_owned());
        }
        spec.namespace = Some(self.machines.file(name));
        let node = Arc::new(Process::start(
            &self.sandbox,
            spec,
            self.plan.defect.as_deref(),
        ));
        lock(&self.nodes).insert(name.to_owned(), node);
    }

    /// Joins a node to whoever else runs.
    pub(crate) fn connect(&self, name: &str) -> Result<(), String> {
        let node = self.node(name)?;
        let others: Vec<String> = self.running().into_iter().filter(|o| o != name).collect();
        let mut said = String::new();
        self.within(&format!("{name} joins"), || {
            let joined = others.iter().any(|other| {
                let peer = format!("connect {other}@{}", self.machines.address(other));
                said = node.ask(&peer).unwrap_or_default().join(" ");
                said == "true"
            });
            // It may have been found by the others meanwhile.
            joined
                || node
                    .view_within(GLANCE)
                    .is_some_and(|v| v.members.len() > 1)
        })
        .map_err(|failure| format!("{failure}: {said}"))
    }

    /// Kills a node without warning.
    pub(crate) fn kill(&self, name: &str) {
        let node = lock(&self.nodes).remove(name);
        lock(&self.frozen).remove(name);
        if let Some(node) = node {
            node.kill9();
        }
    }

    /// Has a node leave in good order.
    pub(crate) fn leave(&self, name: &str) -> Result<(), String> {
        let node = self.node(name)?;
        lock(&self.nodes).remove(name);
        node.signal(Signal::SIGTERM);
        let mut status = None;
        self.within(&format!("{name} leaves"), || {
            status = node.ended_with();
            status.is_some()
        })?;
        if status == Some(true) {
            Ok(())
        } else {
            Err(format!("{name} did not end in good order"))
        }
    }

    pub(crate) fn freeze(&self, name: &str) {
        if let Some(node) = lock(&self.nodes).get(name) {
            lock(&self.frozen).insert(name.to_owned());
            node.signal(Signal::SIGSTOP);
        }
    }

    pub(crate) fn thaw(&self, name: &str) {
        if let Some(node) = lock(&self.nodes).get(name) {
            node.signal(Signal::SIGCONT);
            lock(&self.frozen).remove(name);
        }
    }

    /// Pulls a machine's cable.
    pub(crate) fn unplug(&self, name: &str) {
        if lock(&self.unplugged).insert(name.to_owned()) {
            self.machines.cut(name);
        }
    }

    /// Breaks one direction between two machines.
    pub(crate) fn silence(&self, from: &str, to: &str) {
        if lock(&self.broken).insert((from.to_owned(), to.to_owned())) {
            self.machines.cut_from(from, to);
        }
    }

    /// Breaks both directions between all machines of different groups.
    pub(crate) fn split(&self, groups: &[Vec<String>]) {
        for (i, group) in groups.iter().enumerate() {
            for (one, other) in group
                .iter()
                .flat_map(|one| groups[i + 1..].iter().flatten().map(move |o| (one, o)))
            {
                self.silence(one, other);
                self.silence(other, one);
            }
        }
    }

    /// Undoes all that can be undone.
    pub(crate) fn heal(&self) {
        let unplugged = std::mem::take(&mut *lock(&self.unplugged));
        unplugged.iter().for_each(|name| self.machines.heal(name));
        let broken = std::mem::take(&mut *lock(&self.broken));
        for (from, to) in &broken {
            self.machines.heal_from(from, to);
        }
        let frozen = lock(&self.frozen).clone();
        frozen.iter().for_each(|name| self.thaw(name));
    }

    /// Kills the actors of some players where they live.
    pub(crate) fn kill_actors(&self, name: &str) {
        let Ok(node) = self.node(name) else { return };
        let players = node.ask_within("local_players", GLANCE).unwrap_or_default();
        for line in players.iter().take(6) {
            if let Some((player, _)) = line.split_once(' ') {
                node.ask_within(&format!("kill {player}"), GLANCE);
            }
        }
    }

    /// Waits until all that run serve as one cluster, their copies in place.
    pub(crate) fn wait_serving(&self) -> Result<(), String> {
        self.wait_members(&self.running())
    }

    /// Waits until these serve, and are the members of their cluster.
    pub(crate) fn wait_members(&self, names: &[String]) -> Result<(), String> {
        let mut last = String::new();
        self.within(
            &format!("{} serve as one cluster", names.join(", ")),
            || {
                let views: Vec<(String, Option<View>)> = names
                    .iter()
                    .filter_map(|name| self.node(name).ok())
                    .map(|node| (node.name().to_owned(), node.view_within(GLANCE)))
                    .collect();
                last = format!("{views:?}");
                let serves = |view: &View| view.members == names && view.state == "serving";
                views.len() == names.len()
                    && views
                        .iter()
                        .all(|(_, view)| view.as_ref().is_some_and(serves))
            },
        )
        .map_err(|failure| format!("{failure}; at last: {last}"))
    }

    /// Waits until `condition` holds; the failure says what never came.
    fn within(&self, what: &str, mut condition: impl FnMut() -> bool) -> Result<(), String> {
        let patience = self.plan.patience;
        let deadline = Instant::now() + patience;
        while !condition() {
            if Instant::now() > deadline {
                return Err(format!("not within {patience:?}: {what}"));
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn node(&self, name: &str) -> Result<Arc<Process>, String> {
        let node = lock(&self.nodes).get(name).cloned();
        node.ok_or_else(|| format!("{name} does not run"))
    }
}

fn names(count: usize) -> Vec<String> {
    let names = ('a'..).take(count);
    names.map(String::from).collect()
}
