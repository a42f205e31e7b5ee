//! Network namespaces: machines of one's own, joined by a switch whose cables can be pulled. They need root.
//!
//! ```text
//!   sk-PID-a            sk-PID-b            sk-PID-c        one node each, at 10.77.0.1, .2, .3
//!     eth0                eth0                eth0
//!      └───── pa ──────────┴── pb ──────────────┘ pc        in sk-PID-switch: a bridge
//! ```

use std::net::Ipv4Addr;
use std::process::Command;

use super::sandbox::is_running;

/// How a namespace of ours is called, before the number of the process that made it.
const PREFIX: &str = "sk-";

/// Machines on one network. Dropped, they are removed, and everything in them.
#[derive(Debug)]
pub(crate) struct Namespaces {
    made: Vec<String>,
}

impl Namespaces {
    /// One machine for each of `names`.
    ///
    /// # Errors
    /// What this user or this system does not permit.
    pub(crate) fn new(names: &[&str]) -> Result<Self, String> {
        remove_leftovers();
        let mut these = Self { made: Vec::new() };
        let switch = these.add("switch")?;
        ip(&["-n", &switch, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "bridge", "up"])?;
        for (number, name) in (1..).zip(names) {
            let machine = these.add(name)?;
            let port = port(name);
            let cable = ["link", "add", "eth0", "netns", &machine, "type", "veth", "peer", "name", &port, "netns"];
            ip(&[&cable[..], &[&switch]].concat())?;
            ip(&["-n", &switch, "link", "set", &port, "master", "bridge"])?;
            ip(&["-n", &switch, "link", "set", &port, "up"])?;
            ip(&["-n", &machine, "addr", "add", &format!("{}/24", address(number)), "dev", "eth0"])?;
            ip(&["-n", &machine, "link", "set", "eth0", "up"])?;
            ip(&["-n", &machine, "link", "set", "lo", "up"])?;
        }
        Ok(these)
    }

    /// Pulls the cable of a machine: packets vanish, nobody is told.
    pub(crate) fn cut(&self, name: &str) {
        ip(&["-n", &full("switch"), "link", "set", &port(name), "down"]).expect("a cable to pull");
    }

    /// Plugs it in again.
    pub(crate) fn heal(&self, name: &str) {
        ip(&["-n", &full("switch"), "link", "set", &port(name), "up"]).expect("a cable to plug in");
    }

    fn add(&mut self, name: &str) -> Result<String, String> {
        let name = full(name);
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

/// The address of the `number`th machine, from 1 on.
pub(crate) fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

/// The namespace of a machine.
pub(crate) fn full(name: &str) -> String {
    format!("{PREFIX}{}-{name}", std::process::id())
}

fn port(name: &str) -> String {
    format!("p{name}")
}

/// A test that was killed could not remove its own.
fn remove_leftovers() {
    let list = Command::new("ip").args(["netns", "list"]).output();
    let list = list.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for name in list.lines().filter_map(|line| line.split(' ').next()) {
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        if maker.is_some_and(|pid| !is_running(pid)) {
            // Another test may do the same right now.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|e| format!("ip: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}
