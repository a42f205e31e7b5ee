//! Network namespaces: machines of one's own, joined by a switch whose cables can be pulled. They need root.
//!
//! ```text
//!   sk-PID-1-a          sk-PID-1-b          sk-PID-1-c      one node each, at 10.77.0.1, .2, .3
//!     eth0                eth0                eth0
//!      └───── pa ──────────┴── pb ──────────────┘ pc        in sk-PID-1-switch: a bridge
//! ```

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::sandbox::is_running;

/// How a namespace of ours is called, before the number of the process that made it.
const PREFIX: &str = "sk-";

static NETWORKS: AtomicUsize = AtomicUsize::new(1);

/// Machines on one network. Dropped, they are removed, and everything in them.
#[derive(Debug)]
pub(crate) struct Namespaces {
    prefix: String,
    machines: Vec<String>,
    made: Vec<String>,
}

impl Namespaces {
    /// One machine for each of `names`.
    ///
    /// # Errors
    /// What this user or this system does not permit.
    pub(crate) fn new(names: &[&str]) -> Result<Self, String> {
        remove_leftovers();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let mut these = Self {
            prefix: format!("{PREFIX}{}-{number}-", std::process::id()),
            machines: names.iter().map(|name| (*name).to_owned()).collect(),
            made: Vec::new(),
        };
        let switch = these.add("switch")?;
        ip(&["-n", &switch, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "bridge", "up"])?;
        for name in names {
            let machine = these.add(name)?;
            let port = port(name);
            let cable = [
                "link", "add", "eth0", "netns", &machine, "type", "veth", "peer", "name", &port,
                "netns",
            ];
            ip(&[&cable[..], &[&switch]].concat())?;
            ip(&["-n", &switch, "link", "set", &port, "master", "bridge"])?;
            ip(&["-n", &switch, "link", "set", &port, "up"])?;
            ip(&[
                "-n",
                &machine,
                "addr",
                "add",
                &format!("{}/24", these.address(name)),
                "dev",
                "eth0",
            ])?;
            ip(&["-n", &machine, "link", "set", "eth0", "up"])?;
            ip(&["-n", &machine, "link", "set", "lo", "up"])?;
        }
        Ok(these)
    }

    /// Pulls the cable of a machine: packets vanish, nobody is told.
    pub(crate) fn cut(&self, name: &str) {
        ip(&[
            "-n",
            &self.full("switch"),
            "link",
            "set",
            &port(name),
            "down",
        ])
        .expect("a cable to pull");
    }

    /// Plugs it in again.
    pub(crate) fn heal(&self, name: &str) {
        ip(&["-n", &self.full("switch"), "link", "set", &port(name), "up"])
            .expect("a cable to plug in");
    }

    /// Breaks the way between two machines, while everybody else hears both.
    pub(crate) fn cut_between(&self, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            // To a hardware address that nobody has: the packets vanish, nobody is told.
            let to = self.address(to).to_string();
            let entry = [
                "neigh",
                "replace",
                &to,
                "lladdr",
                "02:00:00:00:00:01",
                "dev",
                "eth0",
                "nud",
                "permanent",
            ];
            ip(&[&["-n", &self.full(from)], &entry[..]].concat()).expect("a neighbour to misplace");
        }
    }

    /// Repairs it.
    pub(crate) fn heal_between(&self, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            let to = self.address(to).to_string();
            ip(&["-n", &self.full(from), "neigh", "del", &to, "dev", "eth0"])
                .expect("a neighbour to find");
        }
    }

    /// The address of a machine.
    pub(crate) fn address(&self, name: &str) -> Ipv4Addr {
        let number = self
            .machines
            .iter()
            .position(|machine| machine == name)
            .expect("a machine");
        Ipv4Addr::new(
            10,
            77,
            0,
            u8::try_from(number + 1).expect("a small network"),
        )
    }

    /// The namespace of a machine.
    pub(crate) fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn add(&mut self, name: &str) -> Result<String, String> {
        let name = self.full(name);
        ip(&["netns", "add", &name])?;
        self.made.push(name.clone());
        Ok(name)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.made {
            // Nothing else can be done, and the next run tries again.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn port(name: &str) -> String {
    format!("p{name}")
}

/// A test that was killed could not remove its own.
fn remove_leftovers() {
    let list = Command::new("ip").args(["netns", "list"]).output();
    let list = list
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    for name in list.lines().filter_map(|line| line.split(' ').next()) {
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        if maker.is_some_and(|pid| !is_running(pid)) {
            // Another test may do the same right now.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}
