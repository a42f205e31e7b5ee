//! What can happen next, and what comes of it.

use super::net::*;
use super::world::*;

impl Cfg {
    /// What may happen next.
    pub fn choices(&self, w: &World, acts: &mut Vec<Action>) {
        if w.flags != 0 {
            return;
        }
        acts.extend(
            w.net
                .iter()
                .filter(|p| self.is_deliverable(w, p))
                .map(|p| Action::Deliver(*p)),
        );
        let view = w.views[usize::from(w.last)];
        for n in 0..NODES as u8 {
            let Some(node) = w.node(n) else { continue };
            let epoch = node.epoch();
            if self.may_complete(w, n) && complete_matters(w, n, self.backups) {
                acts.push(Action::Complete(n));
            }
            if !node.running.is_empty() {
                acts.push(Action::Run(n));
            }
            if w.rests > 0 && node.may_rest() {
                acts.push(Action::Rest(n));
            }
            acts.extend(iter(node.due).map(|to| Action::PutNow { from: n, to }));
            acts.extend(
                (epoch + 1..=w.last)
                    .filter(|e| has(w.views[usize::from(*e)].members, n))
                    .map(|epoch| Action::Install { node: n, epoch }),
            );
            if w.crashes > 0 && has(view.members, n) && self.may_lose(w, n).is_some() {
                acts.push(Action::Crash(n));
            }
            if epoch > 0 && has(w.views[usize::from(epoch)].leaving, n) && node.shard.is_complete()
            {
                acts.push(Action::Exit(n));
            }
        }
        self.client_choices(w, acts);
        if usize::from(w.last) < EPOCHS - 2 {
            self.view_choices(w, acts);
        }
    }

    pub(super) fn client_choices(&self, w: &World, acts: &mut Vec<Action>) {
        let view = w.views[usize::from(w.last)];
        for client in 0..self.clients {
            let c = usize::from(client);
            if w.current[c] >= self.ops {
                continue;
            }
            // Clients are interchangeable: the first request is the first client's.
            if c > 0 && !w.sent[c] && w.current[c] == 0 && w.current[0] == 0 && !w.sent[0] {
                continue;
            }
            for node in 0..NODES as u8 {
                if w.node(node).is_none_or(|n| n.epoch() == 0) {
                    continue;
                }
                let hints = iter(if self.hints {
                    view.members & !bit(node)
                } else {
                    0
                });
                for hint in hints.map(Some).chain([None]) {
                    if !w.sent[c] {
                        acts.push(Action::Send { client, node, hint });
                    } else if w.retries > 0 {
                        acts.push(Action::Retry { client, node, hint });
                    }
                }
            }
        }
    }

    pub(super) fn view_choices(&self, w: &World, acts: &mut Vec<Action>) {
        let view = w.views[usize::from(w.last)];
        let left = |m: u8| (view.active() & !bit(m)).count_ones();
        if w.evicts > 0 {
            let out =
                iter(view.members).filter(|m| left(*m) >= 2 && self.may_lose(w, *m).is_some());
            acts.extend(out.map(Action::Evict));
        }
        if w.joins > 0 {
            for j in 0..NODES as u8 {
                if has(self.joiners, j) && !has(w.used, j) {
                    acts.push(Action::Admit(j));
                }
            }
        }
        if w.joins > 0 && w.evicts > 0 {
            for j in iter(self.joiners & !w.used) {
                let out =
                    iter(view.members).filter(|m| left(*m) >= 1 && self.may_lose(w, *m).is_some());
                acts.extend(out.map(|m| Action::Replace(m, j)));
            }
        }
        if w.leaves > 0 {
            acts.extend(
                iter(view.active())
                    .filter(|m| left(*m) > self.backups)
                    .map(Action::Leave),
            );
        }
    }

    /// The state after `action`; none if it changes nothing.
    pub fn after(&self, last: &World, action: Action) -> Option<World> {
        let mut w = last.clone();
        match action {
            Action::Send { client, node, hint } => {
                w.sent[usize::from(client)] = true;
                let op = self.op(&w, client);
                w.must[usize::from(op)] = if self.direct {
                    // And all that an answered reader has seen.
                    let seen = |p: u8| w.seen[usize::from(p)].operations();
                    iter(w.acked).fold(w.acked, |all, p| all | seen(p))
                } else {
                    w.acked
                };
                self.ask(&mut w, node, op, false, hint);
            }
            Action::Retry { client, node, hint } => {
                w.retries -= 1;
                let op = self.op(&w, client);
                self.ask(&mut w, node, op, true, hint);
            }
            Action::Deliver(packet) => self.deliver(&mut w, packet),
            Action::Complete(n) => self.complete(&mut w, n),
            Action::Run(n) => self.run_oldest(&mut w, n),
            Action::PutNow { from, to } => {
                w.change(from, |node| node.due &= !bit(to));
                self.put(&mut w, from, to);
            }
            Action::Install { node, epoch } => self.install(&mut w, node, epoch),
            Action::Crash(n) => {
                w.lost = self.may_lose(&w, n)?;
                w.crashes -= 1;
                w.nodes[usize::from(n)] = None;
            }
            Action::Evict(m) => {
                w.lost = self.may_lose(&w, m)?;
                w.evicts -= 1;
                let next = w.views[usize::from(w.last)].without(bit(m));
                w.decide(next);
            }
            Action::Admit(j) => {
                w.joins -= 1;
                w.used |= bit(j);
                let mut next = w.views[usize::from(w.last)];
                next.members |= bit(j);
                w.decide(next);
            }
            Action::Replace(m, j) => {
                w.lost = self.may_lose(&w, m)?;
                w.evicts -= 1;
                w.joins -= 1;
                w.used |= bit(j);
                let mut next = w.views[usize::from(w.last)].without(bit(m));
                next.members |= bit(j);
                w.decide(next);
            }
            Action::Leave(m) => {
                w.leaves -= 1;
                let mut next = w.views[usize::from(w.last)];
                next.leaving |= bit(m);
                w.decide(next);
            }
            Action::Rest(n) => {
                w.rests -= 1;
                self.rest(&mut w, n);
            }
            Action::Exit(n) => {
                // Its barrier completed: what it held is elsewhere, so this is no loss.
                w.nodes[usize::from(n)] = None;
                let view = w.views[usize::from(w.last)];
                if has(view.members, n) {
                    if usize::from(w.last) >= EPOCHS - 2 {
                        return None;
                    }
                    w.decide(view.without(bit(n)));
                }
            }
        }
        // A client goes on when its operation is acknowledged; before that it may have sent the last one again.
        for client in 0..self.clients {
            let c = usize::from(client);
            while w.current[c] < self.ops && has(w.acked, self.op(&w, client)) {
                if w.current[c] + 1 >= self.ops && w.retries > 0 {
                    break;
                }
                w.current[c] += 1;
                w.sent[c] = false;
            }
        }
        self.finish(&mut w);
        (w != *last).then_some(w)
    }

    pub(super) fn op(&self, w: &World, client: u8) -> u8 {
        client * self.ops + w.current[usize::from(client)]
    }
}

/// Whether completing the barrier changes more than the flag.
fn complete_matters(w: &World, n: u8, backups: u32) -> bool {
    let Some(node) = w.node(n) else { return false };
    let view = w.views[usize::from(node.epoch())];
    view.home() == Some(n) && !node.shard.speaks_for(&KEY)
        || !has(view.top(backups), n) && node.rec().is_some()
        || has(view.leaving, n)
        || w.rests > 0 && node.own().is_some()
}
