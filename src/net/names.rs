//! How nodes are called: `NAME[@HOST[:PORT]]`, and where such a node is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::registry::Registry;
use crate::config::PORTS;
use crate::protocol::types::NodeName;

/// The longest `NAME`.
const NAME_MAX: usize = 64;
/// The longest `HOST`; with the name it stays below what a file name may have.
const HOST_MAX: usize = 128;

/// A node as an operator or a program names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerSpec {
    /// The part before the `@`.
    pub(crate) name: String,
    /// The part after it, without the brackets of an IPv6 address.
    pub(crate) host: Option<String>,
    /// The port, if given.
    pub(crate) port: Option<u16>,
}

/// Where a node is to be found, and which name must answer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// A full name, or only its part before the `@`; see [`matches`].
    pub(crate) expect: String,
    /// `HOST:PORT`.
    pub(crate) addr: String,
}

impl PeerSpec {
    /// Reads `NAME[@HOST[:PORT]]`.
    ///
    /// # Errors
    /// What is wrong, for [`crate::StartError::Name`] and the like.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, rest) = match text.split_once('@') {
            Some((name, rest)) => (name, Some(rest)),
            None => (text, None),
        };
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_name_byte) {
            return Err("a name is 1 to 64 letters, digits, '_', '-' or '.', then perhaps '@HOST'");
        }
        let (host, port) = match rest {
            Some(rest) => {
                let (host, port) = parse_host(rest)?;
                (Some(host), port)
            }
            None => (None, None),
        };
        Ok(Self {
            name: name.to_owned(),
            host,
            port,
        })
    }

    /// The full name of a node of this machine: without a host, the machine's short host name.
    pub(crate) fn node_name(&self) -> NodeName {
        let host = self.host.clone().unwrap_or_else(short_host);
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        NodeName::new(format!("{}@{host}", self.name))
    }

    /// Where that node is: as the registry of this machine remembers it, else at its host and port. Names need not
    /// have this machine's host name to run here, so running ones are found by their whole name, or by the part
    /// before the `@` if that is all there is.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub(crate) fn resolve(&self, registry: &Registry) -> Result<Place, String> {
        let local = self.is_local();
        if local && self.port.is_none() {
            let name = match self.host.as_deref() {
                Some(host) if !is_loopback(host) => self.node_name(),
                _ => Self {
                    host: None,
                    ..self.clone()
                }
                .node_name(),
            };
            if let Some(addr) = registry.lookup(&name) {
                return Ok(Place {
                    expect: name.to_string(),
                    addr: addr.to_string(),
                });
            }
            let mut running = registry
                .running()
                .into_iter()
                .filter(|(n, _)| self.host.is_none() && n.short() == self.name);
            if let (Some((name, addr)), None) = (running.next(), running.next()) {
                return Ok(Place {
                    expect: name.to_string(),
                    addr: addr.to_string(),
                });
            }
            return Err(format!(
                "no node {} has run on this machine: start it, or name its address as {}@HOST:PORT",
                self.name, self.name
            ));
        }
        let whole = self.node_name();
        if self.port.is_none()
            && let Some((_, addr)) = registry
                .running()
                .into_iter()
                .find(|(name, _)| *name == whole)
        {
            return Ok(Place {
                expect: whole.to_string(),
                addr: addr.to_string(),
            });
        }
        let host = match self.host.as_deref() {
            Some(host) if !local || is_loopback(host) => host,
            _ => "127.0.0.1",
        };
        let port = self.port.unwrap_or(*PORTS.start());
        let addr = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        Ok(Place {
            expect: self.name.clone(),
            addr,
        })
    }

    /// Whether the host is this machine.
    fn is_local(&self) -> bool {
        match self.host.as_deref() {
            None => true,
            Some(host) => is_loopback(host) || host.eq_ignore_ascii_case(&short_host()),
        }
    }
}

/// The machine's host name up to its first dot.
pub(crate) fn short_host() -> String {
    let name = gethostname::gethostname().to_string_lossy().into_owned();
    let short: String = name
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .take(HOST_MAX)
        .collect();
    if !short.is_empty() && short.bytes().all(is_name_byte) {
        short
    } else {
        "localhost".to_owned()
    }
}

/// Whether a node called `name` is the expected one: the same full name, or the same part before the `@` if
/// nothing more is expected.
pub(crate) fn matches(expect: &str, name: &NodeName) -> bool {
    if expect.contains('@') {
        expect == name.as_str()
    } else {
        expect == name.short()
    }
}

/// Whether this is a full name, `NAME@HOST`.
pub(crate) fn valid(name: &str) -> bool {
    PeerSpec::parse(name).is_ok_and(|spec| spec.host.is_some() && spec.port.is_none())
}

/// Whether this is `HOST:PORT`.
pub(crate) fn valid_address(addr: &str) -> bool {
    parse_host(addr).is_ok_and(|(_, port)| port.is_some_and(|port| port != 0))
}

fn parse_host(text: &str) -> Result<(String, Option<u16>), &'static str> {
    const BAD_HOST: &str =
        "a host is a name, an IPv4 address, or an IPv6 address in brackets, then perhaps ':PORT'";
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or(BAD_HOST)?;
            host.parse::<Ipv6Addr>().map_err(|_| BAD_HOST)?;
            (
                host,
                rest.strip_prefix(':')
                    .map_or_else(|| rest.is_empty().then_some(None), |port| Some(Some(port))),
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(Some(port))),
            None => (text, Some(None)),
        },
    };
    let port = match port.ok_or(BAD_HOST)? {
        Some(port) => Some(port.parse().map_err(|_| "a port is a number up to 65535")?),
        None => None,
    };
    let bracketed = text.starts_with('[');
    if host.is_empty() || host.len() > HOST_MAX || !(bracketed || host.bytes().all(is_name_byte)) {
        return Err(BAD_HOST);
    }
    Ok((host.to_owned(), port))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

/// The default address to listen on, without its port.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The loopback address with that port.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(LOOPBACK, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, host: Option<&str>, port: Option<u16>) -> PeerSpec {
        PeerSpec {
            name: name.to_owned(),
            host: host.map(str::to_owned),
            port,
        }
    }

    #[test]
    fn names_hosts_and_ports_are_read() {
        for (text, expected) in [
            ("bob", spec("bob", None, None)),
            ("b.o-b_1", spec("b.o-b_1", None, None)),
            ("bob@host", spec("bob", Some("host"), None)),
            (
                "bob@host.example:1",
                spec("bob", Some("host.example"), Some(1)),
            ),
            (
                "bob@10.0.0.1:65535",
                spec("bob", Some("10.0.0.1"), Some(65535)),
            ),
            ("bob@[::1]", spec("bob", Some("::1"), None)),
            (
                "bob@[fe80::1]:21500",
                spec("bob", Some("fe80::1"), Some(21500)),
            ),
        ] {
            assert_eq!(PeerSpec::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "x".repeat(65);
        let long_host = format!("a@{}", "x".repeat(129));
        for text in [
            "",
            "@host",
            "a b",
            "a/b",
            "ä",
            "a@",
            "a@@b",
            "a@h:",
            "a@h:x",
            "a@h:65536",
            "a@h:1:2",
            "a@::1",
            "a@[::1",
            "a@[x]",
            "a@[::1]x",
            "a@h/..",
            "..@\n",
            &long,
            &long_host,
        ] {
            assert!(PeerSpec::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_full_name_survives_the_round_trip() {
        for text in ["bob@host", "bob@10.0.0.1", "bob@[::1]"] {
            assert_eq!(PeerSpec::parse(text).unwrap().node_name().as_str(), text);
            assert!(valid(text));
        }
        assert!(valid(PeerSpec::parse("bob").unwrap().node_name().as_str()));
        assert!(!valid("bob") && !valid("bob@host:1"));
    }

    #[test]
    fn an_address_has_a_port() {
        assert!(
            valid_address("127.0.0.1:1")
                && valid_address("[::1]:1")
                && valid_address("host.example:21500")
        );
        assert!(
            !valid_address("host")
                && !valid_address("host:0")
                && !valid_address("")
                && !valid_address("a\nb:1")
        );
    }

    #[test]
    fn a_short_expectation_matches_on_every_host() {
        let name = NodeName::new("bob@host");
        assert!(matches("bob", &name) && matches("bob@host", &name));
        assert!(!matches("bob@other", &name) && !matches("bo", &name) && !matches("", &name));
    }

    #[test]
    fn local_nodes_are_found_in_the_registry_and_others_at_their_host() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open_at(dir.path().join("run")).unwrap();
        let bob = PeerSpec::parse("bob").unwrap();
        assert!(
            bob.resolve(&registry)
                .unwrap_err()
                .contains("bob@HOST:PORT")
        );

        let mut claim = registry.claim(&bob.node_name()).unwrap();
        claim.record(loopback(21_501), 1).unwrap();
        for text in [
            "bob",
            "bob@localhost",
            "bob@127.0.0.1",
            &format!("bob@{}", short_host()),
        ] {
            let place = PeerSpec::parse(text).unwrap().resolve(&registry).unwrap();
            assert_eq!(
                place,
                Place {
                    expect: bob.node_name().to_string(),
                    addr: "127.0.0.1:21501".to_owned()
                },
                "{text}"
            );
        }
        for (text, addr) in [
            ("bob@far.example", "far.example:21500"),
            ("bob@[2001:db8::1]:7", "[2001:db8::1]:7"),
            ("bob@localhost:7", "localhost:7"),
            (&format!("bob@{}:7", short_host()), "127.0.0.1:7"),
        ] {
            let place = PeerSpec::parse(text).unwrap().resolve(&registry).unwrap();
            assert_eq!(
                place,
                Place {
                    expect: "bob".to_owned(),
                    addr: addr.to_owned()
                },
                "{text}"
            );
        }
    }
}
