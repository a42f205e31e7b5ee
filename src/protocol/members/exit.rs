//! Ways out of a cluster: forget, leave, farewell; and what may be lost with those that vanish.

use super::{
    COMMANDS_MAX, Effect, Failure, Forgetting, LOSSES_MAX, Members, Msg, OnPossibleLoss,
    PATIENCE_HEARTBEATS, send,
};
use crate::protocol::types::{ClusterId, Epoch, Member, Millis, NodeId, NodeName};
use crate::protocol::view::View;

impl Members {
    pub(super) fn on_forget(
        &mut self,
        name: &NodeName,
        force: bool,
        token: u64,
        out: &mut Vec<Effect>,
    ) {
        let known = self.view.named(name).map(|m| m.id.clone());
        let refused = match &known {
            _ if *name == self.me.id.name => Some(Failure::Myself),
            Some(id) if !self.dead.contains(id) && !self.suspected(id) => {
                Some(Failure::Alive(name.clone()))
            }
            None if !self.lost.contains_key(name) => Some(Failure::Unknown(name.clone())),
            Some(_) | None if self.forgets.len() >= COMMANDS_MAX => Some(Failure::Overtaken),
            Some(_) | None => None,
        };
        if let Some(failure) = refused {
            return out.push(Effect::Answer {
                token,
                result: Err(failure),
            });
        }
        let Some(id) = known else {
            if let Some(lost) = self.lost.get_mut(name) {
                lost.until = self.now; // it is not a member any more: only stop dialling it
            }
            return out.push(Effect::Answer {
                token,
                result: Ok(()),
            });
        };
        // Kept also when it does not suffice: with one more forgotten it may.
        self.mark_dead(id.clone(), out);
        if !self.view.contains(&id) {
            return out.push(Effect::Answer {
                token,
                result: Ok(()),
            });
        }
        if self.can_decide() {
            let until = self.now + self.beats_long(PATIENCE_HEARTBEATS);
            self.forgets.push(Forgetting { id, token, until });
        } else if force {
            self.start_new_line(out);
            out.push(Effect::Answer {
                token,
                result: Ok(()),
            });
        } else {
            out.push(Effect::Answer {
                token,
                result: Err(Failure::NoMajority(name.clone())),
            });
        }
    }

    pub(super) fn on_leave(&mut self, token: u64, out: &mut Vec<Effect>) {
        if self.leave.is_some() {
            return out.push(Effect::Answer {
                token,
                result: Err(Failure::NotMember),
            });
        }
        self.leave = Some(token);
    }

    /// Ends a leave that needs no agreement, or cannot have one.
    pub(super) fn drive_leave(&mut self, out: &mut Vec<Effect>) {
        let Some(token) = self.leave else { return };
        let active = self.view.active().count();
        if self.view.members.len() == 1 {
            return self.finish_leave(token, out);
        }
        // Everything is handed over. Being known dead spares the others the wait until their promises to this node
        // run out.
        if self.view.leaving.contains(&self.me.id) && self.synced {
            return self.finish_leave(token, out);
        }
        // Too few would stay to hold all copies. The others have what this node has when the barrier is complete;
        // without a lease for long that cannot be waited for. Another leaver goes first: the guard may change.
        let refused = !self.view.leaving.contains(&self.me.id) && !self.may_be_leaving();
        let first = self.view.leaving.is_empty() || active <= 1;
        let suspended = self.now - self.leased.max(self.installed) >= self.timings.suspicion;
        if refused && first && (self.synced || suspended) {
            self.finish_leave(token, out);
        }
    }

    /// Whether this node should ask to be marked as leaving.
    pub(super) fn wants_to_be_leaving(&self) -> bool {
        self.leave.is_some() && !self.view.leaving.contains(&self.me.id) && self.may_be_leaving()
    }

    pub(super) fn finish_leave(&mut self, token: u64, out: &mut Vec<Effect>) {
        self.leave = None;
        self.fail_commands(&Failure::Overtaken, out);
        self.answer_connects(|_| true, &Err(Failure::Overtaken), out);
        self.stop(self.synced, out);
        out.push(Effect::Answer {
            token,
            result: Ok(()),
        });
        out.push(Effect::Left);
    }

    /// Ends this life, and tells everybody.
    pub(super) fn stop(&mut self, handed_over: bool, out: &mut Vec<Effect>) {
        // The farewell makes this life known dead: it must have stopped serving before.
        self.leased = Millis(0);
        self.left = true;
        out.push(Effect::Lease { until: Millis(0) });
        out.extend(
            self.links
                .keys()
                .map(|id| send(id, Msg::Farewell { handed_over })),
        );
    }

    pub(super) fn on_farewell(&mut self, from: &NodeId, handed_over: bool, out: &mut Vec<Effect>) {
        if !self.view.contains(from) {
            return;
        }
        if handed_over || self.synced {
            self.farewelled.insert(from.clone());
        }
        self.mark_dead(from.clone(), out);
    }

    pub(super) fn on_synced(&mut self, epoch: Epoch, complete: bool) {
        if epoch == self.view.epoch && complete {
            self.synced = true;
            self.vanished.clear();
            self.basis = self.view.active().cloned().collect();
        }
    }

    /// Whether `id`, now out of the view, went without taking anything along. (The decider saw the barrier complete;
    /// here the news of that may come later than the view.)
    pub(super) fn left_well(&self, id: &NodeId, leaving: &[NodeId]) -> bool {
        let handed_over = self.synced || !(self.suspected(id) || self.dead.contains(id));
        self.farewelled.contains(id) || (leaving.contains(id) && handed_over)
    }

    /// Counts those that vanished since the last complete barrier, and says so when copies may have gone with them.
    pub(super) fn count_loss(
        &mut self,
        vanished: Vec<NodeId>,
        certain: bool,
        out: &mut Vec<Effect>,
    ) {
        self.farewelled.clear();
        if vanished.is_empty() {
            return;
        }
        self.vanished.extend(vanished);
        let all = !self.basis.is_empty() && self.basis.is_subset(&self.vanished);
        if self.vanished.len() <= self.backups && !all && !certain {
            return;
        }
        let (epoch, nodes) = (
            self.view.epoch,
            Vec::from_iter(self.vanished.iter().cloned()),
        );
        if self.losses.len() == LOSSES_MAX {
            self.losses.remove(0);
        }
        self.losses.push((epoch, nodes.clone()));
        // Who forces a new line has accepted it.
        if self.on_possible_loss == OnPossibleLoss::Refuse && !certain {
            self.refusing = Some(epoch);
        }
        out.push(Effect::PossibleLoss { epoch, nodes });
    }

    pub(super) fn on_accept_loss(&mut self, token: u64, out: &mut Vec<Effect>) {
        let result = match self.refusing.take() {
            Some(epoch) => {
                // Whoever does not hear of it goes on to refuse, and its operator can accept there.
                let others = self.view.ids().filter(|id| **id != self.me.id);
                out.extend(others.map(|id| send(id, Msg::LossAccepted { epoch })));
                Ok(())
            }
            None => Err(Failure::NoLoss),
        };
        out.push(Effect::Answer { token, result });
    }

    /// Answers the commands that the view just installed fulfils.
    pub(super) fn finish_commands(&mut self, out: &mut Vec<Effect>) {
        let view = self.view.clone();
        self.answer_connects(|c| view.contains(&c.peer), &Ok(()), out);
        let done = self.forgets.extract_if(.., |f| !view.contains(&f.id));
        out.extend(done.map(|f| Effect::Answer {
            token: f.token,
            result: Ok(()),
        }));
    }

    /// Ends the commands that a new life cannot fulfil any more.
    pub(super) fn fail_commands(&mut self, failure: &Failure, out: &mut Vec<Effect>) {
        let tokens = self
            .forgets
            .drain(..)
            .map(|f| f.token)
            .chain(self.leave.take());
        out.extend(tokens.map(|token| Effect::Answer {
            token,
            result: Err(failure.clone()),
        }));
    }

    pub(super) fn beat_forget(&mut self, out: &mut Vec<Effect>) {
        let late = self.forgets.extract_if(.., |f| f.until <= self.now);
        let answer = |f: Forgetting| Effect::Answer {
            token: f.token,
            result: Err(Failure::NoMajority(f.id.name)),
        };
        out.extend(late.map(answer));
    }

    /// The guard of a leave: enough active members stay to hold all copies.
    fn may_be_leaving(&self) -> bool {
        self.view.active().count() > self.backups + 1
    }

    /// Goes on alone, by the operator's order, with what this node holds, under a new cluster id. The other survivors
    /// of the old line are not taken along, since they may hold later states: they are refused, and told so, until
    /// they restart and join.
    fn start_new_line(&mut self, out: &mut Vec<Effect>) {
        let cluster = ClusterId(self.next_dice());
        let before = self.view.clone();
        let view = View {
            epoch: before.epoch.next(),
            ..View::alone(cluster, self.me.clone())
        };
        self.bound = true; // it has a history that others must not make it give up
        self.install(view, out);
        let others: Vec<Member> = before
            .members
            .into_iter()
            .filter(|m| m.id != self.me.id)
            .collect();
        self.count_loss(others.iter().map(|m| m.id.clone()).collect(), true, out);
        for member in others {
            self.remember_lost(member, self.now + self.timings.redial, true);
        }
    }
}
