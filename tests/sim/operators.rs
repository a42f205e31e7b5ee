//! What operators do: join nodes, let them leave, forget the lost, and what the worst case needs.

use statekeeper::protocol::members::{self, Status};
use statekeeper::protocol::shard::Input;
use statekeeper::protocol::types::{ClusterId, NodeId, NodeName};

use super::clients::Try;
use super::cluster::{Cluster, Event, Mend, ToMembers, ToPart};
use super::network::{Place, Weather};
use super::process::{ALL, Leaving, Process, key, part_of};

impl Cluster {
    /// The line of views that the cluster began with; everybody else's is given up for it.
    pub fn line(&self) -> Option<ClusterId> {
        self.books.line
    }

    /// The process that knows the latest view of the line.
    pub fn latest(&self) -> Option<&Process> {
        let of_line = self
            .processes
            .values()
            .filter(|p| Some(p.members.view().cluster) == self.line());
        of_line.max_by_key(|p| p.members.view().epoch)
    }

    /// Joins a node that is not in the cluster to one that is, as an operator would.
    pub(super) fn operate(&mut self, p: u64) {
        self.after(1_000, Event::Operate(p));
        let (Some(process), Some(target)) = (self.processes.get(&p), self.latest()) else {
            return;
        };
        let alone = matches!(
            process.members.status(process.clock(self.now)),
            Status::Alone | Status::Joining
        );
        if !alone
            || Some(process.members.view().cluster) == self.line()
            || process.leaving != Leaving::No
        {
            return;
        }
        let (place, peer) = (target.place, target.id().clone());
        if process.links.contains_key(&peer) {
            let token = self.now;
            self.members(p, members::Input::Connect { peer, token });
        } else {
            self.dial(p, place, None);
        }
    }

    /// Asks a node to leave.
    pub fn leave(&mut self, p: u64) {
        let Some(process) = self.processes.get_mut(&p) else {
            return;
        };
        process.leaving = Leaving::Quiescing(ALL);
        let id = process.id().clone();
        self.note(|| format!("{id} is asked to leave"));
        self.tell_parts(p, || ToPart::Input(Input::Quiesce));
        self.after(
            5_000,
            Event::ToMembers {
                process: p,
                item: ToMembers::Leave,
            },
        );
    }

    pub fn forget(&mut self, name: &NodeName) {
        self.note(|| format!("forget {name}"));
        let all: Vec<u64> = self.processes.keys().copied().collect();
        for p in all {
            self.members(
                p,
                members::Input::Forget {
                    name: name.clone(),
                    force: false,
                    token: 1,
                },
            );
        }
    }

    /// What an operator does who sees that most members of the last view are gone: with their names forgotten by
    /// force, the most recent survivor goes on alone in a new line, and the others join it.
    pub fn rescue(&mut self) {
        let Some(survivor) = self.latest() else {
            // Nobody is left who knows anything: the first node begins anew.
            let is_alone = |p: &&Process| p.members.status(p.clock(self.now)) == Status::Alone;
            self.books.line = self
                .processes
                .values()
                .find(is_alone)
                .map(|first| first.members.view().cluster);
            self.count("clusters lost");
            self.books.losses.given_up();
            self.books.losses.is_told = true;
            return;
        };
        let (p, view) = (survivor.number, survivor.members.view().clone());
        let gone = |id: &&NodeId| !self.processes.values().any(|process| process.id() == *id);
        let names: Vec<NodeName> = view.ids().filter(gone).map(|id| id.name.clone()).collect();
        if names.len() * 2 < view.members.len() {
            return;
        }
        for name in names {
            self.note(|| format!("forget {name} --force"));
            self.members(
                p,
                members::Input::Forget {
                    name,
                    force: true,
                    token: 2,
                },
            );
        }
        let line = self
            .processes
            .get(&p)
            .map(|survivor| survivor.members.view().cluster);
        if line != self.line() {
            self.count("majorities lost");
            self.books.line = line;
            self.books.losses.given_up();
            // Whoever survived in the old line is refused by the new one until it is restarted.
            let old: Vec<(u64, Place)> = self
                .processes
                .values()
                .filter(|process| process.members.view().cluster == view.cluster)
                .map(|process| (process.number, process.place))
                .collect();
            for (number, place) in old {
                self.kill(number, false);
                self.boot(place);
            }
        }
    }

    /// Ends all faults at once: nodes that are down start again.
    pub fn mend_all(&mut self) {
        self.faults.stopped = true;
        let mends = self
            .events
            .extract_if(.., |_, event| matches!(event, Event::Mend(_)))
            .collect::<Vec<_>>();
        for (_, event) in mends {
            self.happen(event);
        }
        for pair in self.network.cuts() {
            self.mend(Mend::Cuts(vec![pair]));
        }
        self.network.weather = Weather::CALM;
        for process in self.processes.values_mut() {
            process.doom = None;
        }
    }

    /// Asks a node on behalf of a client.
    pub fn ask(&mut self, token: u64, of: &Try) {
        let number = of.process;
        let (key, request) = (key(of.call.key), of.request());
        let part = part_of(&key);
        if let Some(request) = self.give(number, part, &key, token, request) {
            let hint = self.hint(number, part, token);
            let input = Input::Request {
                token,
                key,
                request,
                hint,
            };
            self.part(number, part, input);
        }
    }

    /// Half of the time a node believes of some member that it owned the key a moment ago.
    fn hint(&self, number: u64, part: usize, token: u64) -> Option<NodeId> {
        let view = self.processes.get(&number)?.parts[part].view();
        let at = token % (2 * view.members.len() as u64);
        view.ids().nth(usize::try_from(at).ok()?).cloned()
    }
}
