//! The vocabulary of the model: node sets, operations, and messages small enough to be counted by the million.

use std::sync::{Arc, LazyLock};

use statekeeper::protocol::blob::Blob;
use statekeeper::protocol::placement::Placement;
use statekeeper::protocol::shard::{Answer, Msg, Report, Request};
use statekeeper::protocol::types::{ClusterId, Epoch, Key, Kind, Member, NodeId, RequestId};
use statekeeper::protocol::view::View;

/// Identities, members and joiners together.
pub const NODES: usize = 5;

/// A set of identities or of operations.
pub type Set = u8;

pub fn bit(i: u8) -> Set {
    1 << i
}

pub fn has(set: Set, i: u8) -> bool {
    set & bit(i) != 0
}

pub fn iter(set: Set) -> impl Iterator<Item = u8> {
    (0..8u8).filter(move |i| has(set, *i))
}

/// The line of views that the model plays in; a joiner comes from another one.
pub const MAIN: ClusterId = ClusterId(7);

/// The only key.
pub static KEY: LazyLock<Key> = LazyLock::new(|| Key::new(Kind::of("model"), "key"));

/// The identities, ordered by their rank for [`KEY`]: number 0 is its home where it is active.
pub static MEMBERS: LazyLock<Vec<Member>> = LazyLock::new(|| {
    let mut members: Vec<Member> = ["a@h", "b@h", "c@h", "d@h", "e@h"]
        .into_iter()
        .map(|name| member(name, 1))
        .collect();
    members.sort();
    let everybody = View {
        cluster: MAIN,
        epoch: Epoch(1),
        members,
        leaving: Vec::new(),
    };
    let ranked: Vec<NodeId> = Placement::of(&everybody).ranked(&KEY).cloned().collect();
    ranked
        .iter()
        .map(|id| member(id.name.as_str(), 1))
        .collect()
});

fn member(name: &str, incarnation: u64) -> Member {
    Member {
        id: NodeId::new(name, incarnation),
        addr: Arc::from(name),
    }
}

pub fn id(n: u8) -> NodeId {
    MEMBERS[usize::from(n)].id.clone()
}

pub fn index(id: &NodeId) -> u8 {
    let at = MEMBERS.iter().position(|m| m.id == *id);
    at.expect("every node is one of the members") as u8
}

/// Membership as the view service sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Membership {
    pub members: Set,
    pub leaving: Set,
}

impl Membership {
    pub fn active(self) -> Set {
        self.members & !self.leaving
    }

    pub fn home(self) -> Option<u8> {
        iter(self.active()).next()
    }

    pub fn top(self, backups: u32) -> Set {
        iter(self.active())
            .take(backups as usize + 1)
            .map(bit)
            .sum()
    }

    pub fn without(self, gone: Set) -> Self {
        Self {
            members: self.members & !gone,
            leaving: self.leaving & !gone,
        }
    }

    pub fn view(self, epoch: u8) -> View {
        let mut members: Vec<Member> = iter(self.members)
            .map(|n| MEMBERS[usize::from(n)].clone())
            .collect();
        members.sort();
        let mut leaving: Vec<NodeId> = iter(self.leaving).map(id).collect();
        leaving.sort();
        View {
            cluster: MAIN,
            epoch: Epoch(u64::from(epoch)),
            members,
            leaving,
        }
    }
}

/// The actor's state: how often each operation was applied, two bits each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Val(pub u16);

/// Every value, encoded; so that none is allocated while millions of states are visited.
static ENCODED: LazyLock<&'static [u8]> = LazyLock::new(|| {
    (0..=u16::MAX)
        .flat_map(u16::to_le_bytes)
        .collect::<Vec<u8>>()
        .leak()
});

impl Val {
    pub fn count(self, op: u8) -> u16 {
        (self.0 >> (2 * op)) & 3
    }

    pub fn add(&mut self, op: u8) {
        if self.count(op) < 3 {
            self.0 += 1 << (2 * op);
        }
    }

    pub fn contains(self, ops: Set) -> bool {
        iter(ops).all(|op| self.count(op) > 0)
    }

    pub fn operations(self) -> Set {
        (0..8)
            .filter(|op| self.count(*op) > 0)
            .fold(0, |all, op| all | bit(op))
    }

    pub fn within(self, other: Val) -> bool {
        (0..8).all(|op| self.count(op) <= other.count(op))
    }

    pub fn has_duplicate(self) -> bool {
        (0..8).any(|op| self.count(op) > 1)
    }

    pub fn encode(self) -> Blob {
        let at = usize::from(self.0) * 2;
        Blob::from(&ENCODED[at..at + 2])
    }

    /// The inverse of [`Val::encode`]; a new actor's state is empty.
    pub fn decode(data: &[u8]) -> Self {
        match *data {
            [] => Self(0),
            [low, high] => Self(u16::from_le_bytes([low, high])),
            _ => panic!("not a value of the model: {data:?}"),
        }
    }
}

pub fn request(op: u8, again: bool) -> Request {
    const OPS: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7];
    Request {
        id: Some(RequestId(u128::from(op))),
        payload: Blob::from(&OPS[usize::from(op)..][..1]),
        again,
        span: 0,
    }
}

pub fn op_of(request: &Request) -> u8 {
    request.payload[0]
}

/// What the actor answers: which operation, and the state that it left.
pub fn encode_reply(op: u8, val: Val) -> Blob {
    let [low, high] = val.0.to_le_bytes();
    Blob::from(&[op, low, high])
}

/// The inverse of [`encode_reply`].
pub fn decode_reply(reply: &Blob) -> (u8, Val) {
    match **reply {
        [op, low, high] => (op, Val(u16::from_le_bytes([low, high]))),
        _ => panic!("not a reply of the model: {reply:?}"),
    }
}

/// A version of the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Version {
    pub gen_: u8,
    pub ver: u8,
}

impl Version {
    pub fn of(gen_: Epoch, ver: u64) -> Self {
        Self {
            gen_: gen_.0 as u8,
            ver: ver as u8,
        }
    }

    fn epoch(self) -> Epoch {
        Epoch(u64::from(self.gen_))
    }
}

/// A message as the network of the model keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Content {
    Claim {
        rests: u8,
    },
    OwnerIs {
        owner: u8,
    },
    Grant {
        at: Version,
        val: Val,
        rests: u8,
    },
    Put {
        at: Version,
        val: Val,
    },
    PutAck {
        at: Version,
    },
    Hold {
        at: Version,
        val: Val,
    },
    HoldAck {
        at: Version,
    },
    Forward {
        token: u8,
        op: u8,
        again: bool,
    },
    Reply {
        token: u8,
        op: u8,
        val: Val,
    },
    Inquire,
    Report {
        owner: bool,
        copy: Option<(Version, Val)>,
    },
}

impl Content {
    /// What the machine said; none for what the model does not play (`Done` is kept apart, nobody locates).
    pub fn of(msg: &Msg) -> Option<Self> {
        Some(match msg {
            Msg::Claim { rests, .. } => Self::Claim {
                rests: *rests as u8,
            },
            Msg::OwnerIs { owner, .. } => Self::OwnerIs {
                owner: index(owner),
            },
            Msg::Grant {
                gen_,
                ver,
                data,
                rests,
                ..
            } => Self::Grant {
                at: Version::of(*gen_, *ver),
                val: Val::decode(data),
                rests: *rests as u8,
            },
            Msg::Put {
                gen_, ver, data, ..
            } => Self::Put {
                at: Version::of(*gen_, *ver),
                val: Val::decode(data),
            },
            Msg::PutAck { gen_, ver, .. } => Self::PutAck {
                at: Version::of(*gen_, *ver),
            },
            Msg::Hold {
                gen_, ver, data, ..
            } => Self::Hold {
                at: Version::of(*gen_, *ver),
                val: Val::decode(data),
            },
            Msg::HoldAck { gen_, ver, .. } => Self::HoldAck {
                at: Version::of(*gen_, *ver),
            },
            Msg::Forward { token, request, .. } => Self::Forward {
                token: *token as u8,
                op: op_of(request),
                again: request.again,
            },
            Msg::Reply {
                token,
                answer: Answer::Reply(reply),
            } => {
                let (op, val) = decode_reply(reply);
                Self::Reply {
                    token: *token as u8,
                    op,
                    val,
                }
            }
            Msg::Inquire { .. } => Self::Inquire,
            Msg::Report { report, .. } => Self::Report {
                owner: *report == Report::Owner,
                copy: match report {
                    Report::Copy { gen_, ver, data } => {
                        Some((Version::of(*gen_, *ver), Val::decode(data)))
                    }
                    Report::Owner | Report::Nothing => None,
                },
            },
            Msg::Reply { .. } | Msg::Done { .. } | Msg::Locate { .. } | Msg::Located { .. } => {
                return None;
            }
        })
    }

    /// What the machine hears.
    pub fn msg(self) -> Msg {
        let key = KEY.clone();
        let data = |val: Val| {
            if val == Val::default() {
                Blob::EMPTY
            } else {
                val.encode()
            }
        };
        match self {
            Self::Claim { rests } => Msg::Claim {
                key,
                rests: rests.into(),
            },
            Self::OwnerIs { owner } => Msg::OwnerIs {
                key,
                owner: id(owner),
            },
            Self::Grant { at, val, rests } => Msg::Grant {
                key,
                gen_: at.epoch(),
                ver: at.ver.into(),
                data: data(val),
                rests: rests.into(),
            },
            Self::Put { at, val } => Msg::Put {
                key,
                gen_: at.epoch(),
                ver: at.ver.into(),
                data: data(val),
            },
            Self::PutAck { at } => Msg::PutAck {
                key,
                gen_: at.epoch(),
                ver: at.ver.into(),
            },
            Self::Hold { at, val } => Msg::Hold {
                key,
                gen_: at.epoch(),
                ver: at.ver.into(),
                data: data(val),
            },
            Self::HoldAck { at } => Msg::HoldAck {
                key,
                gen_: at.epoch(),
                ver: at.ver.into(),
            },
            Self::Forward { token, op, again } => Msg::Forward {
                key,
                token: token.into(),
                request: request(op, again),
            },
            Self::Reply { token, op, val } => Msg::Reply {
                token: token.into(),
                answer: Answer::Reply(encode_reply(op, val)),
            },
            Self::Inquire => Msg::Inquire { key },
            Self::Report { owner, copy } => Msg::Report {
                key,
                report: match copy {
                    Some((at, val)) => Report::Copy {
                        gen_: at.epoch(),
                        ver: at.ver.into(),
                        data: data(val),
                    },
                    None if owner => Report::Owner,
                    None => Report::Nothing,
                },
            },
        }
    }
}

/// A message on its way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Packet {
    pub epoch: u8,
    pub from: u8,
    pub to: u8,
    pub content: Content,
}
