//! Several nodes, joined.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;

use super::namespaces::Namespaces;
use super::node::{Node, Spec, Whereis, lock};
use super::sandbox::Sandbox;
use super::{wait_for, wait_until};

/// The first node's port; the address is the sandbox's own.
const PORT: u16 = 21_500;

/// The running nodes of one sandbox, by their short names: `a`, `b`, `c` and so on.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) sandbox: Arc<Sandbox>,
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
}

impl Cluster {
    /// No nodes yet.
    pub(crate) fn empty(sandbox: Sandbox) -> Self {
        Self {
            sandbox: Arc::new(sandbox),
            nodes: Mutex::default(),
        }
    }

    /// `count` nodes that serve as one cluster.
    pub(crate) fn start(count: u8) -> Self {
        Self::start_with(Sandbox::new(), count, |spec| spec)
    }

    /// The same, for a test in which no node dies.
    pub(crate) fn calm(count: u8) -> Self {
        Self::start_with(Sandbox::calm(), count, |spec| spec)
    }

    /// The same, without guardians: when a node is killed, nobody can tell that from a loss of its machine.
    pub(crate) fn unguarded(count: u8) -> Self {
        Self::start_with(Sandbox::new(), count, |spec| spec.flag("--no-guardian"))
    }

    /// The same, each with further options.
    pub(crate) fn start_with(sandbox: Sandbox, count: u8, options: impl Fn(Spec) -> Spec) -> Self {
        let cluster = Self::empty(sandbox);
        let names: Vec<String> = (b'a'..)
            .take(count.into())
            .map(|name| char::from(name).to_string())
            .collect();
        cluster.add_all(names.iter().map(|name| options(cluster.spec(name))));
        for other in &names[1..] {
            assert_eq!(
                cluster.node(&names[0]).ask(&format!("connect {other}")),
                "true"
            );
        }
        cluster.wait_serving();
        cluster
    }

    /// The same, each on a machine of its own, whose cables can be pulled.
    ///
    /// # Errors
    /// What this user or this system does not permit.
    pub(crate) fn on_machines(
        names: &[&str],
        options: impl Fn(Spec) -> Spec,
    ) -> Result<(Namespaces, Self), String> {
        let machines = Namespaces::new(names)?;
        let cluster = Self::empty(Sandbox::new());
        cluster.add_all(names.iter().map(|name| {
            let address = machines.address(name);
            let spec = Spec::new(&format!("{name}@{address}")).listen((address, PORT).into());
            let mut spec = options(spec);
            spec.namespace = Some(machines.file(name));
            spec
        }));
        for name in &names[1..] {
            let peer = format!("connect {name}@{}", machines.address(name));
            assert_eq!(
                cluster.node(names[0]).ask(&peer),
                "true",
                "{PORT} is the default port"
            );
        }
        cluster.wait_serving();
        Ok((machines, cluster))
    }

    /// The node of that name, with a port of its own.
    pub(crate) fn spec(&self, name: &str) -> Spec {
        let port = PORT + u16::from(name.as_bytes()[0] - b'a');
        Spec::new(name).listen(self.sandbox.addr(port))
    }

    /// Starts one more node, which is connected to none.
    pub(crate) fn add(&self, name: &str) -> Arc<Node> {
        self.add_as(self.spec(name))
    }

    /// Starts a node; in place of the one that had its name, if there was one.
    pub(crate) fn add_as(&self, spec: Spec) -> Arc<Node> {
        let mut added = self.add_all([spec]);
        added.pop().expect("one node")
    }

    /// Starts nodes side by side, and waits until all of them listen.
    #[track_caller]
    pub(crate) fn add_all(&self, specs: impl IntoIterator<Item = Spec>) -> Vec<Arc<Node>> {
        let start = |spec| {
            let node = Arc::new(Node::start(&self.sandbox, spec));
            lock(&self.nodes).insert(node.name().to_owned(), Arc::clone(&node));
            node
        };
        let nodes: Vec<Arc<Node>> = specs.into_iter().map(start).collect();
        for node in nodes.iter().filter(|node| node.has_shell()) {
            node.lines("help nodes");
        }
        nodes
    }

    #[track_caller]
    pub(crate) fn node(&self, name: &str) -> Arc<Node> {
        let node = lock(&self.nodes).get(name).cloned();
        node.unwrap_or_else(|| panic!("no node is called {name}"))
    }

    /// Those that run, sorted by name.
    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        lock(&self.nodes).values().cloned().collect()
    }

    /// Kills a node's process without any warning.
    pub(crate) fn kill9(&self, name: &str) -> Arc<Node> {
        let node = self.take(name);
        node.kill9();
        node
    }

    /// Takes note that a node has ended, or will.
    pub(crate) fn take(&self, name: &str) -> Arc<Node> {
        let node = lock(&self.nodes).remove(name);
        node.unwrap_or_else(|| panic!("no node is called {name}"))
    }

    /// Starts a node that was killed once more: the same name and address, a new life.
    pub(crate) fn restart(&self, dead: &Node) -> Arc<Node> {
        self.add_as(dead.spec.clone())
    }

    /// Freezes a node's process: to the others it is silent, its connections stay.
    pub(crate) fn stop(&self, name: &str) {
        self.node(name).signal(Signal::SIGSTOP);
    }

    /// Thaws it.
    pub(crate) fn cont(&self, name: &str) {
        self.node(name).signal(Signal::SIGCONT);
    }

    /// Waits until all nodes that run serve, all of them in one cluster.
    #[track_caller]
    pub(crate) fn wait_serving(&self) {
        let names: Vec<String> = lock(&self.nodes).keys().cloned().collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.wait_members(&names);
    }

    /// Waits until these nodes serve, and are the members of their cluster.
    #[track_caller]
    pub(crate) fn wait_members(&self, names: &[&str]) {
        let nodes: Vec<Arc<Node>> = names.iter().map(|name| self.node(name)).collect();
        wait_until(
            &format!("{} serve as one cluster", names.join(", ")),
            || {
                nodes.iter().all(|node| {
                    let view = node.view();
                    view.members == names && view.state == "serving"
                })
            },
        );
    }

    /// Waits until the shell of `name` shows that state.
    #[track_caller]
    pub(crate) fn wait_state(&self, name: &str, state: &str) {
        let node = self.node(name);
        wait_until(&format!("{name} is {state}"), || node.view().state == state);
    }

    /// Creates players on the node `owner` until there is one whose keeper is on `keeper`; its name.
    #[track_caller]
    pub(crate) fn player_on(&self, owner: &str, keeper: &str) -> String {
        let node = self.node(owner);
        for number in 0..1_000 {
            let player = format!("on-{owner}-{keeper}-{number}");
            assert_eq!(node.reward(&player, 1), "1");
            let at = self.whereis(owner, &player);
            assert_eq!(
                at.node, owner,
                "a player is created on the node that is asked first"
            );
            if at.keeper == keeper {
                return player;
            }
        }
        panic!("none of 1000 players has its keeper on {keeper}");
    }

    /// Where a player is, as `name` tells.
    #[track_caller]
    pub(crate) fn whereis(&self, name: &str, player: &str) -> Whereis {
        let node = self.node(name);
        wait_for(&format!("{name} tells where {player} is"), || {
            node.whereis(player)
        })
    }
}
