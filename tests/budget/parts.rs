//! An owner's part and a keeper's in one thread, with every message encoded and decoded: for a machine that counts
//! instructions.

use std::collections::VecDeque;
use std::sync::Arc;

use statekeeper::protocol::blob::Blob;
use statekeeper::protocol::shard::{Answer, Effect, Input, Msg, Ran, Request, Shard};
use statekeeper::protocol::types::{ClusterId, Epoch, Key, Kind, Member, NodeId};
use statekeeper::protocol::view::View;

use crate::support::Res;
use crate::support::player::name;

const PLAYERS: u64 = 1_000;
/// So many requests are given before their messages are delivered.
const IN_FLIGHT: u64 = 64;
const PENDING_MAX: usize = 100_000;

/// Two parts, and the messages between them.
struct Pair {
    ids: [NodeId; 2],
    parts: [Shard; 2],
    flying: VecDeque<(usize, Vec<u8>)>,
    effects: Vec<Effect>,
    points: u64,
    answered: u64,
}

/// Gives so many rewards, and fails if one of them is not acknowledged.
pub(crate) fn run(rewards: u64) -> Res<()> {
    let ids = ["a@h", "b@h"].map(|name| NodeId::new(name, 1));
    let view = View {
        cluster: ClusterId(1),
        epoch: Epoch(1),
        members: ids
            .iter()
            .map(|id| Member {
                id: id.clone(),
                addr: Arc::from("h:1"),
            })
            .collect(),
        leaving: Vec::new(),
    };
    let part = |id: &NodeId| Shard::new(id.clone(), view.clone(), 1, PENDING_MAX, 0);
    let mut pair = Pair {
        parts: ids.each_ref().map(part),
        ids,
        flying: VecDeque::new(),
        effects: Vec::new(),
        points: 0,
        answered: 0,
    };
    let kind = Kind::of("player");
    let keys: Vec<Key> = (0..usize::try_from(PLAYERS)?)
        .map(|number| Key::new(kind, name("player", number)))
        .collect();
    for token in 0..rewards {
        let request = Request {
            id: None,
            payload: Blob::from(&[0, 2]),
            again: false,
            span: 0,
        };
        let input = Input::Request {
            token,
            key: keys[usize::try_from(token % PLAYERS)?].clone(),
            request,
            hint: None,
        };
        pair.step(0, input)?;
        if token % IN_FLIGHT == IN_FLIGHT - 1 {
            pair.deliver()?;
        }
    }
    pair.deliver()?;
    if pair.answered == rewards {
        return Ok(());
    }
    Err(format!("{} of {rewards} rewards were acknowledged", pair.answered).into())
}

impl Pair {
    fn deliver(&mut self) -> Res<()> {
        while let Some((to, bytes)) = self.flying.pop_front() {
            let input = Input::Message {
                from: self.ids[1 - to].clone(),
                epoch: Epoch(1),
                msg: postcard::from_bytes(&bytes)?,
            };
            self.step(to, input)?;
        }
        Ok(())
    }

    fn step(&mut self, at: usize, input: Input) -> Res<()> {
        let mut effects = std::mem::take(&mut self.effects);
        self.parts[at].handle(true, input, &mut effects);
        for effect in effects.drain(..) {
            self.effect(at, effect)?;
        }
        self.effects = effects;
        Ok(())
    }

    fn effect(&mut self, at: usize, effect: Effect) -> Res<()> {
        match effect {
            Effect::Send { msg, .. } => self.send(1 - at, &msg),
            Effect::Copy { to, key, .. } => {
                let copied = self.parts[at].copy_of(&key, &to).ok_or("nothing to put")?;
                let msg = copied.to_msg(key.clone());
                self.send(1 - at, &msg)
            }
            Effect::Start { .. } => Ok(()),
            Effect::Run { key, gen_, .. } => {
                self.points += 1;
                let ran = Ran::Done {
                    reply: Blob::from(&[1]),
                    data: Some(Blob::from(&self.points.to_le_bytes())),
                };
                self.step(at, Input::Ran { key, gen_, ran })
            }
            Effect::Answer {
                answer: Answer::Reply(_),
                ..
            } => {
                self.answered += 1;
                Ok(())
            }
            other => Err(format!("unexpected: {other:?}").into()),
        }
    }

    fn send(&mut self, to: usize, msg: &Msg) -> Res<()> {
        self.flying.push_back((to, postcard::to_stdvec(msg)?));
        Ok(())
    }
}
