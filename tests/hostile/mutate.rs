//! From what nodes of ours send to what they never do: cut, flipped, stale, foreign, impossible, made up.

use serde::Serialize;
use serde::de::DeserializeOwned;
use statekeeper::protocol::blob::Blob;
use statekeeper::protocol::shard::{Answer, Located, Msg, Report, Request};
use statekeeper::protocol::types::{Epoch, Key, Kind, NodeId, RequestId};

use super::dice::Dice;

/// Numbers at which something could overflow or be out of reach.
pub(crate) const EXTREMES: [u64; 9] = [
    0,
    1,
    2,
    (1 << 48) - 1,
    1 << 48,
    (1 << 60) - 1,
    1 << 60,
    u64::MAX - 1,
    u64::MAX,
];

/// A number at a limit, or near `near`.
pub(crate) fn number(dice: &mut Dice, near: u64) -> u64 {
    if dice.percent(50) {
        return dice.pick(&EXTREMES).expect("there are some");
    }
    near.wrapping_add(dice.between(0, 5)).wrapping_sub(2)
}

/// Breaks bytes in one of the ways in which bytes break.
pub(crate) fn bytes(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..dice.between(1, 4) {
        let at = dice.between(0, bytes.len() as u64) as usize;
        match dice.between(0, 6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << dice.between(0, 8),
            2 if at < bytes.len() => bytes[at] = dice.roll() as u8,
            3 => bytes.insert(at, dice.roll() as u8),
            // A length that claims to be endless.
            4 => drop(bytes.splice(at..at, [0xff; 9])),
            _ => {
                let again = bytes[at..].to_vec();
                bytes.extend(again);
                bytes.truncate(1 << 16);
            }
        }
    }
}

/// The same value after its bytes were broken, if they still mean anything.
pub(crate) fn broken<T: Serialize + DeserializeOwned>(dice: &mut Dice, value: &T) -> Option<T> {
    let mut encoded = postcard::to_stdvec(value).expect("an encoding");
    bytes(dice, &mut encoded);
    postcard::take_from_bytes(&encoded)
        .ok()
        .map(|(value, _)| value)
}

/// A message that no node of ours sends, or not now.
pub(crate) fn message(dice: &mut Dice, msg: &Msg, keys: &[Key], nodes: &[NodeId]) -> Option<Msg> {
    match dice.between(0, 4) {
        0 => broken(dice, msg),
        1 => Some(made_up(dice, keys, nodes)),
        _ => {
            let mut msg = msg.clone();
            twist(dice, &mut msg, keys);
            Some(msg)
        }
    }
}

fn some_key(dice: &mut Dice, keys: &[Key]) -> Key {
    if dice.percent(10) {
        return Key::new(Kind(9), "x".repeat(dice.between(1, 256) as usize));
    }
    dice.pick(keys).expect("there are keys")
}

fn some_data(dice: &mut Dice) -> Blob {
    let length = match dice.between(0, 10) {
        0 => 1 << 20,
        1..4 => 0,
        _ => dice.between(0, 2_000) as usize,
    };
    Blob::from(vec![dice.roll() as u8; length])
}

/// Changes one part of a message.
fn twist(dice: &mut Dice, msg: &mut Msg, all: &[Key]) {
    match msg {
        Msg::OwnerIs { key, .. } => *key = some_key(dice, all),
        Msg::Claim { key, rests } => match dice.between(0, 2) {
            0 => *key = some_key(dice, all),
            _ => *rests = number(dice, *rests),
        },
        Msg::Grant {
            key,
            gen_,
            ver,
            data,
            rests,
        } => match dice.between(0, 5) {
            0 => *key = some_key(dice, all),
            1 => *gen_ = Epoch(number(dice, gen_.0)),
            2 => *ver = number(dice, *ver),
            3 => *rests = number(dice, *rests),
            _ => *data = some_data(dice),
        },
        Msg::Put {
            key,
            gen_,
            ver,
            data,
        }
        | Msg::Hold {
            key,
            gen_,
            ver,
            data,
        } => match dice.between(0, 4) {
            0 => *key = some_key(dice, all),
            1 => *gen_ = Epoch(number(dice, gen_.0)),
            2 => *ver = number(dice, *ver),
            _ => *data = some_data(dice),
        },
        Msg::PutAck { key, gen_, ver } | Msg::HoldAck { key, gen_, ver } => {
            match dice.between(0, 3) {
                0 => *key = some_key(dice, all),
                1 => *gen_ = Epoch(number(dice, gen_.0)),
                _ => *ver = number(dice, *ver),
            }
        }
        Msg::Done { heard } => *heard = !*heard,
        Msg::Forward {
            key,
            token,
            request,
        } => match dice.between(0, 5) {
            0 => *key = some_key(dice, all),
            1 => *token = number(dice, *token),
            2 => request.id = None,
            3 => request.again = !request.again,
            _ => request.payload = some_data(dice),
        },
        Msg::Reply { token, answer } => {
            *token = number(dice, *token);
            if dice.percent(50) {
                *answer = some_answer(dice);
            }
        }
        Msg::Locate { key, token } => {
            *key = some_key(dice, all);
            *token = number(dice, *token);
        }
        Msg::Located { token, .. } => *token = number(dice, *token),
        Msg::Inquire { key } => *key = some_key(dice, all),
        Msg::Report { key, report } => match dice.between(0, 2) {
            0 => *key = some_key(dice, all),
            _ => *report = some_report(dice),
        },
    }
}

fn some_answer(dice: &mut Dice) -> Answer {
    match dice.between(0, 6) {
        0 => Answer::Reply(some_data(dice)),
        1 => Answer::Failed(some_data(dice)),
        2 => Answer::Overloaded,
        3 => Answer::Leaving,
        4 => Answer::NotServing,
        _ => Answer::Unknown,
    }
}

fn some_report(dice: &mut Dice) -> Report {
    match dice.between(0, 3) {
        0 => Report::Owner,
        1 => Report::Nothing,
        _ => Report::Copy {
            gen_: Epoch(number(dice, 2)),
            ver: number(dice, 2),
            data: some_data(dice),
        },
    }
}

/// A message that nothing led to.
fn made_up(dice: &mut Dice, keys: &[Key], nodes: &[NodeId]) -> Msg {
    let key = some_key(dice, keys);
    let (gen_, ver) = (Epoch(number(dice, 2)), number(dice, 2));
    let data = some_data(dice);
    let token = number(dice, 3);
    let node = dice.pick(nodes).expect("there are nodes");
    match dice.between(0, 14) {
        0 => Msg::Claim { key, rests: token },
        1 => Msg::OwnerIs { key, owner: node },
        2 => Msg::Grant {
            key,
            gen_,
            ver,
            data,
            rests: token,
        },
        3 => Msg::Put {
            key,
            gen_,
            ver,
            data,
        },
        4 => Msg::PutAck { key, gen_, ver },
        5 => Msg::Hold {
            key,
            gen_,
            ver,
            data,
        },
        6 => Msg::HoldAck { key, gen_, ver },
        7 => Msg::Done {
            heard: dice.percent(50),
        },
        8 => Msg::Forward {
            key,
            token,
            request: Request {
                id: dice
                    .percent(50)
                    .then(|| RequestId(u128::from(number(dice, 3)))),
                payload: data,
                again: dice.percent(50),
                span: number(dice, 3) as u16,
            },
        },
        9 => Msg::Reply {
            token,
            answer: some_answer(dice),
        },
        10 => Msg::Locate { key, token },
        11 => Msg::Inquire { key },
        12 => Msg::Report {
            key,
            report: some_report(dice),
        },
        _ => Msg::Located {
            token,
            found: Some(Located {
                owner: Some(node.clone()),
                keepers: vec![node; dice.between(0, 3_000) as usize],
                version: ver,
            }),
        },
    }
}
