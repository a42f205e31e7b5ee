//! The books of what was decided and promised, and what is checked against them.

use std::sync::Arc;

use statekeeper::protocol::members;
use statekeeper::protocol::shard::Answer;
use statekeeper::protocol::types::{ClusterId, Epoch};
use statekeeper::protocol::view::View;

use super::world::*;

impl World {
    pub fn note(&mut self, msg: &members::Msg) {
        match msg {
            members::Msg::ViewIs(view) => self.decided(&view.clone()),
            members::Msg::Declined { .. } => self.books.declined = true,
            _ => {}
        }
    }

    /// A view is decided, as somebody says.
    pub fn decided(&mut self, view: &View) {
        let books = &mut self.books;
        let known = books
            .decided
            .entry((view.cluster, view.epoch))
            .or_insert_with(|| view.clone());
        if known != view {
            books.violated.insert(checks::V1);
        }
        let of_line = |(line, _): &&(ClusterId, Epoch)| *line == view.cluster;
        let line: Vec<&View> = books
            .decided
            .iter()
            .filter(|(k, _)| of_line(k))
            .map(|(_, v)| v)
            .collect();
        let back = view.ids().any(|id| {
            let mut member = line
                .iter()
                .map(|v| v.contains(id))
                .skip_while(|is| !is)
                .skip_while(|is| *is);
            member.any(|is| is)
        });
        if back {
            books.violated.insert(checks::V2);
        }
    }

    /// An owner answers a request.
    pub fn answered(&mut self, at: Place, answer: &Answer) {
        let Answer::Reply(reply) = answer else { return };
        let (op, state) = (reply[0], &reply[1..]);
        let Some(node) = self.nodes[at].as_deref() else {
            return;
        };
        let view = node.shard.view();
        let me = node.members.me().id.clone();
        let acker = self
            .books
            .ackers
            .entry((view.cluster, view.epoch))
            .or_insert(me.clone());
        if *acker != me {
            self.books.violated.insert(checks::I1);
        }
        let before = self
            .books
            .open
            .get(&op)
            .map(|(_, before)| before.clone())
            .unwrap_or_default();
        if !before.iter().all(|o| state.contains(o)) || !state.contains(&op) {
            self.books.violated.insert(checks::I2);
        }
        self.books.acked.insert(op);
    }

    pub fn client_hears(&mut self, at: Place, token: u64, answer: &Answer) {
        let Some(node) = self.nodes[at].as_mut().map(Arc::make_mut) else {
            return;
        };
        let Some(op) = node.asked.remove(&token) else {
            return;
        };
        match answer {
            Answer::Reply(_) => {
                self.books.open.remove(&op);
            }
            _ => {
                self.books.open.entry(op).and_modify(|(at, _)| *at = None);
            }
        }
    }

    /// What must hold at any time.
    pub fn check(&mut self) {
        let mut violated = Vec::new();
        for (_, node) in self.living() {
            let (me, view) = (&node.members.me().id, node.members.view());
            let serves = node.members.leased_until() > self.now && view.members.len() > 1;
            let later = self.books.decided.range((view.cluster, view.epoch)..);
            let of_line = later.take_while(|((line, _), _)| *line == view.cluster);
            if serves && !of_line.into_iter().all(|(_, v)| v.contains(me)) {
                violated.push(checks::L1);
            }
            for dead in node.members.known_dead() {
                if self.life(dead).is_some_and(|n| {
                    n.members.view().cluster == view.cluster && n.members.view().contains(dead)
                }) {
                    violated.push(checks::V3);
                }
            }
            let copies = node
                .shard
                .owned_state(&key())
                .map(|(_, _, d)| &d[..])
                .into_iter();
            for data in copies.chain(node.shard.record(&key()).map(|(_, _, d, ..)| d)) {
                if (1..data.len()).any(|i| data[..i].contains(&data[i])) {
                    violated.push(checks::I3);
                }
            }
        }
        let survives = |op: &u8| {
            self.living().any(|(_, n)| {
                let own = n
                    .shard
                    .owned_state(&key())
                    .is_some_and(|(_, _, d)| d.contains(op));
                own || n
                    .shard
                    .record(&key())
                    .is_some_and(|(_, _, d, ..)| d.contains(op))
            })
        };
        if !self.books.acked.iter().all(survives) {
            violated.push(checks::I2);
        }
        self.books.violated.extend(violated);
        if self.lossy && self.is_well() {
            self.lossy = false;
        }
    }
}
