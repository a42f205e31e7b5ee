//! Network namespaces: machines of one's own, joined by a switch whose cables can be pulled. They need root.
//!
//! ```text
//!   machine a           machine b           machine c       one node each, at 10.77.0.1, .2, .3
//!     eth0                eth0                eth0
//!      └───── pa ──────────┴── pb ──────────────┘ pc        in the switch: a bridge
//! ```
//!
//! Each is the namespace of a process that does nothing but wait for the end of its input: nothing has a name that
//! others could see, and nothing is left behind, however the test ends.

use std::io::Read;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use super::sandbox::Killed;

/// Machines on one network. Dropped, they are removed.
#[derive(Debug)]
pub(crate) struct Namespaces {
    switch: Machine,
    machines: Vec<Machine>,
}

#[derive(Debug)]
struct Machine {
    name: String,
    holder: Killed,
}

impl Namespaces {
    /// One machine for each of `names`.
    ///
    /// # Errors
    /// What this user or this system does not permit.
    pub(crate) fn new(names: &[&str]) -> Result<Self, String> {
        let switch = Machine::start("switch")?;
        switch.ip("link add bridge type bridge")?;
        switch.ip("link set bridge up")?;
        let mut machines = Vec::new();
        for (number, name) in (1..).zip(names) {
            let machine = Machine::start(name)?;
            let (port, pid) = (port(name), machine.pid());
            switch.ip(&format!(
                "link add {port} type veth peer name eth0 netns {pid}"
            ))?;
            switch.ip(&format!("link set {port} master bridge"))?;
            switch.ip(&format!("link set {port} up"))?;
            machine.ip(&format!("addr add {}/24 dev eth0", address(number)))?;
            machine.ip("link set eth0 up")?;
            machine.ip("link set lo up")?;
            machines.push(machine);
        }
        Ok(Self { switch, machines })
    }

    /// Pulls the cable of a machine: packets vanish, nobody is told.
    pub(crate) fn cut(&self, name: &str) {
        let port = port(name);
        self.switch
            .ip(&format!("link set {port} down"))
            .expect("a cable to pull");
    }

    /// Plugs it in again.
    pub(crate) fn heal(&self, name: &str) {
        let port = port(name);
        self.switch
            .ip(&format!("link set {port} up"))
            .expect("a cable to plug in");
    }

    /// Breaks the way between two machines, while everybody else hears both.
    pub(crate) fn cut_between(&self, one: &str, other: &str) {
        self.cut_from(one, other);
        self.cut_from(other, one);
    }

    /// Breaks one direction: what `from` sends to `to` vanishes, nobody is told.
    pub(crate) fn cut_from(&self, from: &str, to: &str) {
        // To a hardware address that nobody has.
        let to = self.address(to);
        let entry = format!("neigh replace {to} lladdr 02:00:00:00:00:01 dev eth0 nud permanent");
        self.machine(from)
            .ip(&entry)
            .expect("a neighbour to misplace");
    }

    /// Repairs it.
    pub(crate) fn heal_between(&self, one: &str, other: &str) {
        self.heal_from(one, other);
        self.heal_from(other, one);
    }

    /// Repairs one direction.
    pub(crate) fn heal_from(&self, from: &str, to: &str) {
        let entry = format!("neigh del {} dev eth0", self.address(to));
        self.machine(from).ip(&entry).expect("a neighbour to find");
    }

    /// The address of a machine.
    pub(crate) fn address(&self, name: &str) -> Ipv4Addr {
        let number = self
            .machines
            .iter()
            .position(|machine| machine.name == name);
        address(u8::try_from(number.expect("a machine") + 1).expect("a small network"))
    }

    /// The file of a machine's namespace.
    pub(crate) fn file(&self, name: &str) -> String {
        self.machine(name).file()
    }

    fn machine(&self, name: &str) -> &Machine {
        let machine = self.machines.iter().find(|machine| machine.name == name);
        machine.expect("a machine")
    }
}

impl Machine {
    fn start(name: &str) -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo here; exec cat >&2"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut holder = Killed(command.spawn().map_err(|e| format!("unshare: {e}"))?);
        let said = |pipe: Option<&mut dyn Read>| {
            let mut said = String::new();
            // What is no text is no reason to fail.
            let _ = pipe.map(|pipe| pipe.read_to_string(&mut said));
            said.trim().to_owned()
        };
        // The end comes when `cat` takes the shell's place, or with a failure.
        if said(holder.0.stdout.as_mut().map(|pipe| pipe as &mut dyn Read)) == "here" {
            return Ok(Self {
                name: name.to_owned(),
                holder,
            });
        }
        Err(said(
            holder.0.stderr.as_mut().map(|pipe| pipe as &mut dyn Read),
        ))
    }

    fn pid(&self) -> u32 {
        self.holder.0.id()
    }

    fn file(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// Runs `ip` in it.
    fn ip(&self, arguments: &str) -> Result<(), String> {
        let mut command = enter(&self.file(), "ip");
        let output = command.args(arguments.split(' ')).output();
        let output = output.map_err(|e| format!("nsenter: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        Err(format!("ip {arguments}: {}", reason.trim()))
    }
}

/// A command that runs in the network namespace of that file; its process becomes the program.
pub(crate) fn enter(file: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={file}")).arg(program);
    command
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

fn port(name: &str) -> String {
    format!("p{name}")
}
