//! What a part wants done, and who takes it.

use super::super::blob::Blob;
use super::super::types::{Epoch, Key, NodeId};
use super::{Answer, Located, Msg, Progress, Request};

/// What a part wants done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Send this in the current epoch.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        msg: Msg,
    },
    /// Send `to` what it is to keep of that key (see [`Shard::copy_of`](super::Shard::copy_of)), whenever the connection has
    /// room: updates that come meanwhile ride along.
    Copy {
        /// Who is to keep it.
        to: NodeId,
        /// The key.
        key: Key,
        /// Whether a client waits for that; the others may go later.
        awaited: bool,
    },
    /// Start an actor with that state (empty: a new one).
    Start {
        /// The key.
        key: Key,
        /// The generation, which names this actor towards the part.
        gen_: Epoch,
        /// The state.
        data: Blob,
    },
    /// Give the actor that request, after those before.
    Run {
        /// The key.
        key: Key,
        /// The generation of the actor.
        gen_: Epoch,
        /// The request.
        request: Request,
    },
    /// End the actor: it lives elsewhere now, or is at rest.
    Stop {
        /// The key.
        key: Key,
        /// The generation of the actor.
        gen_: Epoch,
    },
    /// The answer to a client of this node.
    Answer {
        /// The request's token.
        token: u64,
        /// The answer.
        answer: Answer,
    },
    /// The answer to a client that asked where an actor is.
    Found {
        /// The question's token.
        token: u64,
        /// The answer.
        found: Option<Located>,
    },
    /// The peer is in an older epoch: send it my view.
    ShowView(NodeId),
    /// The peer is in a later epoch: ask it for its view.
    WantView(NodeId),
    /// The barrier went on (see [`Progress`]).
    Progress(Epoch, Progress),
    /// No request is left, after `Quiesce`.
    Quiet,
    /// An invariant of the protocol does not hold: a defect of ours.
    Broken(&'static str),
    /// A message was dropped that no member of ours sends: its sender is broken, or makes things up.
    Refused {
        /// Who sent it.
        from: NodeId,
        /// What rule it breaks.
        rule: &'static str,
    },
}

/// Takes what a part wants done. There are many copies and answers, so that they need not become an [`Effect`] first.
pub trait Effects {
    /// Takes any.
    fn push(&mut self, effect: Effect);

    /// Takes an [`Effect::Copy`].
    fn copy(&mut self, to: &NodeId, key: &Key, awaited: bool) {
        self.push(Effect::Copy {
            to: to.clone(),
            key: key.clone(),
            awaited,
        });
    }

    /// Takes an [`Effect::Answer`].
    fn answer(&mut self, token: u64, answer: Answer) {
        self.push(Effect::Answer { token, answer });
    }
}

impl Effects for Vec<Effect> {
    fn push(&mut self, effect: Effect) {
        self.push(effect);
    }
}
