//! The rules of the data protocol, one sentence each, told to one part by hand.

mod inquiry;
mod lagging;
mod sweep;

use std::sync::Arc;

use super::super::blob::Blob;
use super::super::placement::Placement;
use super::super::types::{ClusterId, Epoch, Key, Kind, Member, NodeId, RequestId};
use super::super::view::View;
use super::{
    Answer, Effect, Input, KEY_SHARE, Msg, Progress, Ran, Request, Shard, healing::RESENT_AT_A_TICK,
};

const PENDING_MAX: usize = 4 * KEY_SHARE;

fn id(name: &str) -> NodeId {
    NodeId::new(name, 1)
}

fn member(name: &str) -> Member {
    Member {
        id: id(name),
        addr: Arc::from(name),
    }
}

fn view(epoch: u64, members: &[&str]) -> View {
    leaving(epoch, members, &[])
}

fn leaving(epoch: u64, members: &[&str], leaving: &[&str]) -> View {
    let mut members: Vec<Member> = members.iter().map(|name| member(name)).collect();
    members.sort();
    let leaving = leaving.iter().map(|name| id(name)).collect();
    View {
        cluster: ClusterId(1),
        epoch: Epoch(epoch),
        members,
        leaving,
    }
}

/// A key for which these names rank in this order, in every view of theirs.
fn ranked(names: &[&str]) -> Key {
    let placement = Placement::of(&view(1, names));
    let wanted: Vec<NodeId> = names.iter().map(|name| id(name)).collect();
    let keys = (0..10_000).map(|n| Key::new(Kind(1), format!("key{n}")));
    let has_order = |key: &Key| placement.ranked(key).eq(&wanted);
    keys.into_iter()
        .find(has_order)
        .expect("some key has any order")
}

fn data(text: &'static str) -> Blob {
    Blob::from(text.as_bytes())
}

fn request(n: u128) -> Request {
    Request {
        id: Some(RequestId(n)),
        payload: Blob::EMPTY,
        again: false,
        span: 0,
    }
}

/// A part under test, and a record of what it wants.
struct Part {
    shard: Shard,
    key: Key,
    leased: bool,
}

impl Part {
    /// A member of a complete view of a, b and c, with a key that ranks them in this order.
    fn of(me: &str) -> Self {
        let names = ["a@h", "b@h", "c@h"];
        Self::in_view(me, view(1, &names), ranked(&names))
    }

    /// A request for its key, as another node forwards it.
    fn forward(&self, token: u64, request: Request) -> Msg {
        let key = self.key.clone();
        Msg::Forward {
            key,
            token,
            request,
        }
    }

    /// The keeper of so many keys of a, of which its own is one.
    fn keeper_of(keys: usize) -> Self {
        let mut part = Self::of("b@h");
        let placement = Placement::of(&view(1, &["a@h", "b@h", "c@h"]));
        let names = (0..).map(|n| Key::new(Kind(1), format!("kept{n}")));
        let kept = names.filter(|key| placement.keepers(key, &id("a@h"), 1).eq([&id("b@h")]));
        for key in kept.take(keys) {
            part.key = key;
            part.put("a@h", 1, 1, "1");
        }
        part
    }

    fn in_view(me: &str, view: View, key: Key) -> Self {
        Self {
            shard: Shard::new(id(me), view, 1, PENDING_MAX, 0),
            key,
            leased: true,
        }
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.shard.handle(self.leased, input, &mut out);
        out
    }

    fn ask(&mut self, token: u64, request: Request) -> Vec<Effect> {
        self.ask_with(None, token, request)
    }

    fn ask_with(&mut self, hint: Option<&str>, token: u64, request: Request) -> Vec<Effect> {
        self.step(Input::Request {
            token,
            key: self.key.clone(),
            request,
            hint: hint.map(id),
        })
    }

    fn hear(&mut self, from: &str, msg: Msg) -> Vec<Effect> {
        let epoch = self.shard.epoch();
        self.step(Input::Message {
            from: id(from),
            epoch,
            msg,
        })
    }

    /// A copy of the key without an owner.
    fn hold(&self, gen_: u64, ver: u64, state: &'static str) -> Msg {
        Msg::Hold {
            key: self.key.clone(),
            gen_: Epoch(gen_),
            ver,
            data: data(state),
        }
    }

    /// The copies that these effects want sent there.
    fn copies_to(&self, name: &str, effects: &[Effect]) -> Vec<Msg> {
        let copies = effects.iter().filter_map(|effect| match effect {
            Effect::Copy { to, key, .. } if *to == id(name) => {
                Some(self.shard.copy_of(key, to)?.to_msg(key.clone()))
            }
            _ => None,
        });
        copies.collect()
    }

    /// The actor handles its oldest request; `data` is the state if it changes.
    fn ran(&mut self, reply: &'static str, state: Option<&'static str>) -> Vec<Effect> {
        let gen_ = self.shard.owns(&self.key).expect("the key is owned");
        let ran = Ran::Done {
            reply: data(reply),
            data: state.map(data),
        };
        self.step(Input::Ran {
            key: self.key.clone(),
            gen_,
            ran,
        })
    }

    /// A keeper acknowledges a version of the owned key.
    fn acked(&mut self, from: &str, ver: u64) -> Vec<Effect> {
        let gen_ = self.shard.owns(&self.key).expect("the key is owned");
        self.hear(
            from,
            Msg::PutAck {
                key: self.key.clone(),
                gen_,
                ver,
            },
        )
    }

    fn claimed(&mut self, from: &str) -> Vec<Effect> {
        self.hear(
            from,
            Msg::Claim {
                key: self.key.clone(),
                rests: 0,
            },
        )
    }

    fn put(&mut self, from: &str, gen_: u64, ver: u64, state: &'static str) -> Vec<Effect> {
        self.hear(
            from,
            Msg::Put {
                key: self.key.clone(),
                gen_: Epoch(gen_),
                ver,
                data: data(state),
            },
        )
    }

    fn done_by(&mut self, names: &[&str]) -> Vec<Effect> {
        names
            .iter()
            .flat_map(|name| self.hear(name, Msg::Done { heard: true }))
            .collect()
    }

    /// The owner of the key with one request that changed the state, which nobody acknowledged.
    fn owner_of_an_unacked_version() -> Self {
        let mut part = Self::of("a@h");
        part.ask(1, request(1));
        part.ran("one", Some("1"));
        part
    }
}

fn answers(effects: &[Effect]) -> Vec<(u64, Answer)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Answer { token, answer } => Some((*token, answer.clone())),
            _ => None,
        })
        .collect()
}

fn reply(token: u64, text: &'static str) -> (u64, Answer) {
    (token, Answer::Reply(data(text)))
}

/// What was sent to that node.
fn sent_to<'a>(name: &str, effects: &'a [Effect]) -> Vec<&'a Msg> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { to, msg } if *to == id(name) => Some(msg),
            _ => None,
        })
        .collect()
}

fn puts(effects: &[Effect]) -> Vec<&str> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Copy { to, .. } => Some(to.name.as_str()),
            _ => None,
        })
        .collect()
}

fn has_progress(effects: &[Effect], wanted: Progress) -> bool {
    effects
        .iter()
        .any(|effect| matches!(effect, Effect::Progress(_, progress) if *progress == wanted))
}

fn runs(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Run { .. }))
        .count()
}

fn starts(effects: &[Effect]) -> Vec<&Blob> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Start { data, .. } => Some(data),
            _ => None,
        })
        .collect()
}

fn grants(effects: &[Effect]) -> usize {
    let sent = effects.iter().filter_map(|effect| match effect {
        Effect::Send { msg, .. } => Some(msg),
        _ => None,
    });
    sent.filter(|msg| matches!(msg, Msg::Grant { .. })).count()
}

#[test]
fn a_home_with_authority_owns_what_nobody_owns() {
    let mut part = Part::of("a@h");
    let effects = part.ask(1, request(1));
    assert_eq!(starts(&effects), [&Blob::EMPTY]);
    assert_eq!(puts(&effects), ["b@h"]);
    assert_eq!(runs(&effects), 1);
}

#[test]
fn a_node_that_is_not_the_home_claims() {
    let mut part = Part::of("c@h");
    let effects = part.ask(1, request(1));
    assert_eq!(
        sent_to("a@h", &effects),
        [&Msg::Claim {
            key: part.key.clone(),
            rests: 0,
        }]
    );
}

#[test]
fn a_reply_waits_for_the_ack_of_its_own_version() {
    let mut part = Part::owner_of_an_unacked_version();
    part.ask(2, request(2));
    assert_eq!(answers(&part.ran("two", Some("2"))), []);
    assert_eq!(answers(&part.acked("b@h", 1)), [reply(1, "one")]);
    assert_eq!(answers(&part.acked("b@h", 2)), [reply(2, "two")]);
}

#[test]
fn an_ack_covers_all_versions_before_it() {
    let mut part = Part::owner_of_an_unacked_version();
    part.ask(2, request(2));
    part.ran("two", Some("2"));
    assert_eq!(
        answers(&part.acked("b@h", 2)),
        [reply(1, "one"), reply(2, "two")]
    );
}

#[test]
fn an_ack_of_a_node_that_is_no_keeper_counts_for_nothing() {
    let mut part = Part::owner_of_an_unacked_version();
    assert_eq!(answers(&part.acked("c@h", 1)), []);
}

#[test]
fn an_ack_of_what_was_never_put_breaks_an_invariant() {
    let mut part = Part::owner_of_an_unacked_version();
    assert!(matches!(part.acked("b@h", 2)[..], [Effect::Refused { .. }]));
}

#[test]
fn a_read_waits_for_the_ack_of_the_version_that_it_saw() {
    let mut part = Part::owner_of_an_unacked_version();
    part.ask(2, request(2));
    assert_eq!(answers(&part.ran("saw 1", None)), []);
    assert_eq!(
        answers(&part.acked("b@h", 1)),
        [reply(1, "one"), reply(2, "saw 1")]
    );
    part.ask(3, request(3));
    assert_eq!(answers(&part.ran("saw 1", None)), [reply(3, "saw 1")]);
}

#[test]
fn a_retry_of_an_unacked_operation_waits_for_that_ack() {
    let mut part = Part::owner_of_an_unacked_version();
    part.ask(2, request(1));
    // The actor remembers the request and its reply.
    assert_eq!(answers(&part.ran("one", None)), []);
    assert_eq!(
        answers(&part.acked("b@h", 1)),
        [reply(1, "one"), reply(2, "one")]
    );
}

#[test]
fn an_unacked_state_is_put_again() {
    let mut part = Part::owner_of_an_unacked_version();
    let again: Vec<Effect> = (0..3).flat_map(|_| part.step(Input::Tick)).collect();
    assert!(puts(&again).contains(&"b@h"));
    part.acked("b@h", 1);
    let after: Vec<Effect> = (0..3).flat_map(|_| part.step(Input::Tick)).collect();
    assert!(puts(&after).is_empty());
}

#[test]
fn a_grant_is_not_an_ack() {
    let mut part = Part::of("c@h");
    part.ask(1, request(1));
    let key = part.key.clone();
    let effects = part.hear(
        "a@h",
        Msg::Grant {
            key,
            gen_: Epoch(1),
            ver: 5,
            data: data("5"),
            rests: 0,
        },
    );
    assert_eq!(starts(&effects), [&data("5")]);
    assert_eq!(puts(&effects), ["a@h"]);
    assert_eq!(answers(&part.ran("saw 5", None)), []);
    assert_eq!(answers(&part.acked("a@h", 5)), [reply(1, "saw 5")]);
}

#[test]
fn a_second_grant_changes_nothing() {
    let mut part = Part::of("c@h");
    let grant = Msg::Grant {
        key: part.key.clone(),
        gen_: Epoch(1),
        ver: 0,
        data: Blob::EMPTY,
        rests: 0,
    };
    part.ask(1, request(1));
    part.hear("a@h", grant.clone());
    part.ran("one", Some("1"));
    assert_eq!(part.hear("a@h", grant), []);
    assert_eq!(
        part.shard.owned_state(&part.key),
        Some((Epoch(1), 1, &data("1")))
    );
}

#[test]
fn an_unconfirmed_grant_is_not_given_to_another() {
    let mut part = Part::of("a@h");
    part.claimed("b@h");
    let owner_is = Msg::OwnerIs {
        key: part.key.clone(),
        owner: id("b@h"),
    };
    assert_eq!(sent_to("c@h", &part.claimed("c@h")), [&owner_is]);
}

#[test]
fn a_lost_grant_is_given_again_to_the_same_node() {
    let mut part = Part::of("a@h");
    let first = part.claimed("b@h");
    assert!(matches!(sent_to("b@h", &first)[..], [Msg::Grant { .. }]));
    assert_eq!(part.claimed("b@h"), first);
}

#[test]
fn an_old_claim_of_a_confirmed_owner_is_ignored() {
    let mut part = Part::of("a@h");
    part.claimed("b@h");
    part.put("b@h", 1, 1, "1");
    assert_eq!(part.claimed("b@h"), []);
}

#[test]
fn the_home_forwards_to_the_owner_that_it_knows() {
    let mut part = Part::of("a@h");
    part.put("b@h", 1, 1, "1");
    let effects = part.ask(1, request(1));
    assert!(matches!(
        sent_to("b@h", &effects)[..],
        [Msg::Forward { .. }]
    ));
}

#[test]
fn a_keeper_acknowledges_what_it_is_given_and_nothing_older() {
    let mut part = Part::of("b@h");
    let ack = Msg::PutAck {
        key: part.key.clone(),
        gen_: Epoch(1),
        ver: 2,
    };
    assert_eq!(sent_to("a@h", &part.put("a@h", 1, 2, "2")), [&ack]);
    assert_eq!(part.put("a@h", 1, 1, "1"), []);
    assert_eq!(sent_to("a@h", &part.put("a@h", 1, 2, "2")), [&ack]);
    assert_eq!(
        part.shard.record(&part.key),
        Some((Epoch(1), 2, &data("2")[..], Some(&id("a@h")), true))
    );
}

#[test]
fn a_put_of_an_older_generation_breaks_an_invariant() {
    let mut part = Part::of("b@h");
    part.put("a@h", 1, 2, "2");
    part.step(Input::Install(view(2, &["a@h", "b@h", "c@h"])));
    part.put("a@h", 2, 3, "3");
    assert!(matches!(
        part.put("a@h", 1, 4, "4")[..],
        [Effect::Refused { .. }]
    ));
}

#[test]
fn a_put_to_an_owner_breaks_an_invariant() {
    let mut part = Part::owner_of_an_unacked_version();
    assert!(matches!(
        part.put("b@h", 1, 9, "9")[..],
        [Effect::Refused { .. }]
    ));
}

#[test]
fn a_node_without_lease_answers_nobody_and_answers_later() {
    let mut part = Part::owner_of_an_unacked_version();
    part.leased = false;
    assert_eq!(answers(&part.acked("b@h", 1)), []);
    assert_eq!(answers(&part.step(Input::Tick)), []);
    part.leased = true;
    assert_eq!(answers(&part.step(Input::Tick)), [reply(1, "one")]);
}

#[test]
fn a_node_without_peers_answers_nobody_and_its_barrier_completes() {
    let mut part = Part::owner_of_an_unacked_version();
    let effects = part.step(Input::Install(view(2, &["a@h"])));
    assert!(has_progress(&effects, Progress::Complete));
    assert_eq!(answers(&part.step(Input::Tick)), []);
    // With a new node, the state gets its copy first.
    assert_eq!(
        puts(&part.step(Input::Install(view(3, &["a@h", "c@h"])))),
        ["c@h"]
    );
    assert_eq!(answers(&part.acked("c@h", 1)), [reply(1, "one")]);
}

#[test]
fn requests_beyond_the_bound_are_refused_as_overloaded() {
    // Not owned here: they wait for the home.
    let mut part = Part::of("c@h");
    for n in 0..PENDING_MAX as u64 {
        assert_eq!(answers(&part.ask(n, request(n.into()))), []);
    }
    assert_eq!(
        answers(&part.ask(99, request(99))),
        [(99, Answer::Overloaded)]
    );
    // Each end makes room.
    part.step(Input::Cancel {
        key: part.key.clone(),
        token: 0,
    });
    assert_eq!(answers(&part.ask(100, request(100))), []);
}

#[test]
fn a_retry_of_what_is_still_in_hand_takes_its_place() {
    let mut part = Part::owner_of_an_unacked_version();
    let retry = Request {
        again: true,
        ..request(1)
    };
    assert_eq!(part.ask(2, retry.clone()), []);
    let forward = part.forward(5, retry);
    assert_eq!(part.hear("c@h", forward), []);
    // There is one answer, for the latest.
    let effects = part.acked("b@h", 1);
    assert_eq!(answers(&effects), []);
    let answer = Msg::Reply {
        token: 5,
        answer: Answer::Reply(data("one")),
    };
    assert_eq!(sent_to("c@h", &effects), [&answer]);
}

#[test]
fn a_retry_that_nobody_remembers_is_unknown() {
    let mut part = Part::of("a@h");
    part.ask(
        1,
        Request {
            again: true,
            ..request(1)
        },
    );
    let ran = Ran::Unknown;
    let effects = part.step(Input::Ran {
        key: part.key.clone(),
        gen_: Epoch(1),
        ran,
    });
    assert_eq!(answers(&effects), [(1, Answer::Unknown)]);
}

#[test]
fn numbers_that_cannot_be_are_not_believed() {
    let mut part = Part::of("b@h");
    assert!(matches!(
        part.put("a@h", 2, 1, "1")[..],
        [Effect::Refused { .. }]
    ));
    assert!(matches!(
        part.put("a@h", 1, u64::MAX, "1")[..],
        [Effect::Refused { .. }]
    ));
    assert_eq!(part.shard.record(&part.key), None);
}

#[test]
fn a_failed_request_is_answered_at_once_and_changes_nothing() {
    let mut part = Part::of("a@h");
    part.ask(1, request(1));
    let ran = Ran::Failed(data("no"));
    let effects = part.step(Input::Ran {
        key: part.key.clone(),
        gen_: Epoch(1),
        ran,
    });
    assert_eq!(answers(&effects), [(1, Answer::Failed(data("no")))]);
    assert_eq!(
        part.shard.owned_state(&part.key),
        Some((Epoch(1), 0, &Blob::EMPTY))
    );
}

#[test]
fn an_actor_that_ends_leaves_its_requests_to_its_successor() {
    let mut part = Part::owner_of_an_unacked_version();
    part.ask(2, request(2));
    let key = part.key.clone();
    let effects = part.step(Input::Exited {
        key: key.clone(),
        gen_: Epoch(1),
        again: true,
    });
    assert_eq!(effects, []);
    assert_eq!(runs(&part.ask(3, request(3))), 0);
    let effects = part.step(Input::Restart {
        key,
        gen_: Epoch(1),
    });
    assert_eq!(starts(&effects), [&data("1")]);
    assert_eq!(runs(&effects), 2);
}

#[test]
fn an_actor_that_ended_is_started_by_the_next_request() {
    let mut part = Part::owner_of_an_unacked_version();
    let effects = part.step(Input::Exited {
        key: part.key.clone(),
        gen_: Epoch(1),
        again: false,
    });
    assert_eq!(effects, []);
    assert_eq!(starts(&part.ask(2, request(2))), [&data("1")]);
}

#[test]
fn what_an_actor_of_another_generation_did_counts_for_nothing() {
    let mut part = Part::of("a@h");
    part.ask(1, request(1));
    let ran = Ran::Done {
        reply: data("old"),
        data: Some(data("old")),
    };
    assert_eq!(
        part.step(Input::Ran {
            key: part.key.clone(),
            gen_: Epoch(0),
            ran
        }),
        []
    );
}

#[test]
fn a_message_of_a_later_epoch_waits_for_its_view() {
    let mut part = Part::of("b@h");
    let msg = Msg::Put {
        key: part.key.clone(),
        gen_: Epoch(2),
        ver: 1,
        data: data("1"),
    };
    let effects = part.step(Input::Message {
        from: id("a@h"),
        epoch: Epoch(2),
        msg,
    });
    assert_eq!(effects, [Effect::WantView(id("a@h"))]);
    let effects = part.step(Input::Install(view(2, &["a@h", "b@h", "c@h"])));
    assert!(sent_to("a@h", &effects).contains(&&Msg::PutAck {
        key: part.key.clone(),
        gen_: Epoch(2),
        ver: 1
    }));
}

#[test]
fn what_waits_for_a_view_of_another_line_is_void() {
    let mut part = Part::of("b@h");
    let msg = Msg::Put {
        key: part.key.clone(),
        gen_: Epoch(2),
        ver: 1,
        data: data("1"),
    };
    part.step(Input::Message {
        from: id("a@h"),
        epoch: Epoch(2),
        msg,
    });
    let forced = View {
        cluster: ClusterId(2),
        ..view(2, &["a@h", "b@h", "c@h"])
    };
    part.step(Input::Install(forced));
    assert_eq!(part.shard.record(&part.key), None);
}

#[test]
fn a_message_of_an_earlier_epoch_is_answered_with_the_view() {
    let mut part = Part::of("b@h");
    part.step(Input::Install(view(2, &["a@h", "b@h", "c@h"])));
    let msg = Msg::Claim {
        key: part.key.clone(),
        rests: 0,
    };
    let effects = part.step(Input::Message {
        from: id("a@h"),
        epoch: Epoch(1),
        msg,
    });
    assert_eq!(effects, [Effect::ShowView(id("a@h"))]);
}

#[test]
fn an_evicted_node_is_shown_the_view() {
    let mut part = Part::of("b@h");
    part.step(Input::Install(view(2, &["b@h", "c@h"])));
    let effects = part.put("a@h", 1, 1, "1");
    assert_eq!(effects, [Effect::ShowView(id("a@h"))]);
}

#[test]
fn an_earlier_view_is_not_installed() {
    let mut part = Part::of("b@h");
    part.step(Input::Install(view(3, &["a@h", "b@h"])));
    assert_eq!(
        part.step(Input::Install(view(2, &["a@h", "b@h", "c@h"]))),
        []
    );
    assert_eq!(part.shard.epoch(), Epoch(3));
}

#[test]
fn a_joiner_has_no_authority_before_its_first_barrier() {
    let key = ranked(&["a@h", "b@h", "c@h"]);
    let alone = View::alone(ClusterId(9), member("a@h"));
    let mut part = Part::in_view("a@h", alone, key.clone());
    part.step(Input::Install(view(5, &["a@h", "b@h", "c@h"])));
    assert_eq!(runs(&part.ask(1, request(1))), 0);
    assert_eq!(grants(&part.claimed("c@h")), 0);
    // What another node knows arrives before the barrier completes, and is what the claims get.
    part.hear("b@h", part.hold(3, 7, "7"));
    part.hear(
        "b@h",
        Msg::HoldAck {
            key: key.clone(),
            gen_: Epoch(3),
            ver: 7,
        },
    );
    let effects = part.done_by(&["b@h", "c@h"]);
    assert!(has_progress(&effects, Progress::Complete));
    let granted = starts(&effects) == [&data("7")]
        || sent_to("c@h", &effects)
            .iter()
            .any(|msg| matches!(msg, Msg::Grant { ver: 7, data, .. } if **data == *b"7"));
    assert!(granted, "{effects:?}");
}

#[test]
fn authority_is_kept_where_the_home_stays_the_home() {
    let mut part = Part::of("a@h");
    part.put("c@h", 1, 4, "4");
    part.step(Input::Install(view(2, &["a@h", "b@h"])));
    // The owner is gone; nobody needs to wait for the barrier.
    let effects = part.claimed("b@h");
    assert!(matches!(
        sent_to("b@h", &effects)[..],
        [
            Msg::Grant {
                ver: 4,
                gen_: Epoch(2),
                ..
            },
            ..
        ] | [
            ..,
            Msg::Grant {
                ver: 4,
                gen_: Epoch(2),
                ..
            }
        ]
    ));
}

#[test]
fn authority_that_was_interrupted_waits_for_the_barrier() {
    let mut part = Part::of("b@h");
    part.step(Input::Install(view(2, &["b@h", "c@h"])));
    assert_eq!(runs(&part.ask(1, request(1))), 0);
    assert_eq!(runs(&part.done_by(&["c@h"])), 1);
}

#[test]
fn a_claim_before_the_barrier_is_answered_after_it() {
    let mut part = Part::of("b@h");
    part.step(Input::Install(view(2, &["b@h", "c@h"])));
    assert_eq!(grants(&part.claimed("c@h")), 0);
    assert_eq!(grants(&part.claimed("c@h")), 0);
    assert_eq!(grants(&part.done_by(&["c@h"])), 1);
}

#[test]
fn what_is_not_in_place_is_sent_again_a_bounded_number_at_a_time() {
    let mut part = Part::keeper_of(RESENT_AT_A_TICK + 1);
    let all = RESENT_AT_A_TICK + 1;
    let heal = |part: &mut Part, first: Input| {
        let mut copies = part.step(first).len();
        while part.shard.is_healing() {
            let more = part.step(Input::Heal).len();
            assert!((1..RESENT_AT_A_TICK).contains(&more));
            copies += more;
        }
        copies
    };
    let install = Input::Install(view(2, &["b@h", "c@h"]));
    assert_eq!(heal(&mut part, install), all);
    assert_eq!(part.step(Input::Heal), []);
    for _ in 0..2 {
        assert_eq!(part.step(Input::Tick).len(), RESENT_AT_A_TICK);
    }
    // What was lost with a connection is sent again at once.
    assert_eq!(heal(&mut part, Input::Linked), all);
}

#[test]
fn who_sends_a_copy_has_it() {
    let mut part = Part::of("b@h");
    part.put("a@h", 1, 1, "1");
    part.step(Input::Install(view(2, &["b@h", "c@h"])));
    assert!(!part.shard.done_sent());
    part.hear("c@h", part.hold(1, 1, "1"));
    assert!(part.shard.done_sent());
}

#[test]
fn records_are_dropped_only_when_the_barrier_completes() {
    let names = ["d@h", "a@h", "b@h", "c@h"];
    let key = ranked(&names);
    let mut part = Part::in_view("b@h", view(1, &["a@h", "b@h", "c@h"]), key.clone());
    part.put("a@h", 1, 1, "1");
    part.step(Input::Install(view(2, &names)));
    assert!(part.shard.record(&key).is_some());
    part.done_by(&["a@h", "c@h"]);
    assert!(part.shard.record(&key).is_some());
    part.done_by(&["d@h"]);
    assert_eq!(part.shard.record(&key), None);
}

#[test]
fn a_record_without_an_owner_goes_where_such_records_live() {
    let mut part = Part::of("b@h");
    part.put("a@h", 1, 1, "1");
    let effects = part.step(Input::Install(view(2, &["b@h", "c@h"])));
    let hold = part.hold(1, 1, "1");
    assert_eq!(part.copies_to("c@h", &effects), [hold]);
    assert!(!has_progress(&effects, Progress::Sent));
    let effects = part.hear(
        "c@h",
        Msg::HoldAck {
            key: part.key.clone(),
            gen_: Epoch(1),
            ver: 1,
        },
    );
    assert!(has_progress(&effects, Progress::Sent));
}

#[test]
fn a_hold_never_replaces_a_later_version() {
    let mut part = Part::of("b@h");
    part.put("a@h", 1, 2, "2");
    part.hear("c@h", part.hold(1, 1, "1"));
    assert_eq!(
        part.shard.record(&part.key).map(|(_, ver, ..)| ver),
        Some(2)
    );
}

#[test]
fn a_grant_that_was_never_confirmed_is_forgotten_without_authority() {
    let names = ["d@h", "a@h", "b@h", "c@h"];
    let key = ranked(&names);
    let mut part = Part::in_view("a@h", view(1, &["a@h", "b@h", "c@h"]), key.clone());
    part.claimed("b@h");
    part.step(Input::Install(view(2, &names)));
    assert_eq!(
        part.shard.record(&key).map(|(.., owner, _)| owner),
        Some(None)
    );
}

#[test]
fn a_sync_waits_for_the_version_at_install_and_no_later_one() {
    let mut part = Part::owner_of_an_unacked_version();
    part.step(Input::Install(view(2, &["a@h", "c@h"])));
    part.ask(2, request(2));
    part.ran("two", Some("2"));
    assert!(!part.shard.done_sent());
    let effects = part.acked("c@h", 1);
    assert!(has_progress(&effects, Progress::Sent));
    assert_eq!(answers(&effects), [reply(1, "one")]);
}

#[test]
fn a_keeper_that_stays_need_not_acknowledge_again() {
    let mut part = Part::owner_of_an_unacked_version();
    part.acked("b@h", 1);
    let effects = part.step(Input::Install(view(2, &["a@h", "b@h"])));
    assert_eq!(puts(&effects), Vec::<&str>::new());
    assert!(has_progress(&effects, Progress::Sent));
}

#[test]
fn a_done_is_said_again_until_it_is_heard() {
    let mut part = Part::of("b@h");
    let effects = part.step(Input::Install(view(2, &["a@h", "b@h", "c@h"])));
    assert_eq!(sent_to("a@h", &effects), [&Msg::Done { heard: false }]);
    part.done_by(&["a@h", "c@h"]);
    assert!(part.shard.is_complete());
    // A member that missed it asks, and is told.
    let effects = part.hear("a@h", Msg::Done { heard: false });
    assert_eq!(
        effects,
        [Effect::Send {
            to: id("a@h"),
            msg: Msg::Done { heard: true }
        }]
    );
    assert_eq!(part.hear("a@h", Msg::Done { heard: true }), []);
}

#[test]
fn a_leaver_keeps_its_last_version_as_a_record() {
    let mut part = Part::owner_of_an_unacked_version();
    let effects = part.step(Input::Install(leaving(2, &["a@h", "b@h", "c@h"], &["a@h"])));
    assert!(effects.contains(&Effect::Stop {
        key: part.key.clone(),
        gen_: Epoch(1)
    }));
    assert_eq!(
        part.shard.record(&part.key),
        Some((Epoch(1), 1, &data("1")[..], None, true))
    );
    let hold = part.hold(1, 1, "1");
    assert_eq!(part.copies_to("b@h", &effects), std::slice::from_ref(&hold));
    assert_eq!(part.copies_to("c@h", &effects), [hold]);
    assert_eq!(answers(&effects), []);
}

#[test]
fn what_a_leaver_applied_without_an_id_is_unknown() {
    let mut part = Part::of("a@h");
    part.ask(
        1,
        Request {
            id: None,
            payload: Blob::EMPTY,
            again: false,
            span: 0,
        },
    );
    part.ran("one", Some("1"));
    let effects = part.step(Input::Install(leaving(2, &["a@h", "b@h", "c@h"], &["a@h"])));
    assert_eq!(answers(&effects), [(1, Answer::Unknown)]);
}

#[test]
fn a_node_that_quiesces_refuses_its_clients_and_says_when_it_is_quiet() {
    let mut part = Part::owner_of_an_unacked_version();
    assert_eq!(part.step(Input::Quiesce), []);
    assert_eq!(answers(&part.ask(2, request(2))), [(2, Answer::Leaving)]);
    let effects = part.acked("b@h", 1);
    assert_eq!(answers(&effects), [reply(1, "one")]);
    assert_eq!(effects.last(), Some(&Effect::Quiet));
    assert_eq!(part.step(Input::Tick), []);
}

#[test]
fn a_node_that_quiesces_lets_its_peers_wait_for_the_next_view() {
    let mut part = Part::owner_of_an_unacked_version();
    part.step(Input::Quiesce);
    let forward = part.forward(5, request(5));
    assert_eq!(runs(&part.hear("c@h", forward)), 0);
    assert!(part.acked("b@h", 1).contains(&Effect::Quiet));
}

#[test]
fn a_node_that_quiesces_does_not_claim_what_it_owns() {
    let mut part = Part::of("c@h");
    part.ask(1, request(1));
    let grant = Msg::Grant {
        key: part.key.clone(),
        gen_: Epoch(1),
        ver: 7,
        data: data("7"),
        rests: 0,
    };
    part.hear("a@h", grant);
    part.step(Input::Quiesce);
    let forward = part.forward(5, request(5));
    part.hear("b@h", forward);
    // Its home has not heard that it owns the key, and would grant it anew.
    let effects = part.step(Input::Linked);
    let claims = |msg: &&Msg| matches!(msg, Msg::Claim { .. });
    assert_eq!(sent_to("a@h", &effects).into_iter().find(claims), None);
}

#[test]
fn a_forwarded_request_has_an_id() {
    let mut part = Part::of("c@h");
    part.ask(
        1,
        Request {
            id: None,
            payload: data("x"),
            again: false,
            span: 0,
        },
    );
    let key = part.key.clone();
    let effects = part.hear(
        "a@h",
        Msg::OwnerIs {
            key,
            owner: id("b@h"),
        },
    );
    assert!(matches!(
        sent_to("b@h", &effects)[..],
        [Msg::Forward {
            request: Request {
                id: Some(_),
                span: 1,
                ..
            },
            ..
        }]
    ));
    let without = Request {
        id: None,
        ..request(5)
    };
    let forward = part.forward(5, without);
    let effects = part.hear("b@h", forward);
    assert!(matches!(effects[..], [Effect::Refused { .. }]));
}

/// Asks without an id, of a node that forwards it, under that token: how far back it may ask again.
fn forwarded_span(part: &mut Part, token: u64) -> u16 {
    let without = Request {
        id: None,
        ..request(0)
    };
    let effects = part.ask_with(Some("b@h"), token, without);
    match sent_to("b@h", &effects)[..] {
        [Msg::Forward { request, .. }] => request.span,
        _ => panic!("it is not forwarded: {effects:?}"),
    }
}

#[test]
fn a_node_says_how_far_back_what_it_forwarded_is_not_over() {
    let mut part = Part::of("c@h");
    let answer = |token| Msg::Reply {
        token,
        answer: Answer::Reply(data("x")),
    };
    assert_eq!(forwarded_span(&mut part, 11), 1);
    assert_eq!(forwarded_span(&mut part, 12), 2);
    part.hear("b@h", answer(2));
    assert_eq!(forwarded_span(&mut part, 13), 3, "the first is open");
    part.hear("b@h", answer(1));
    assert_eq!(forwarded_span(&mut part, 14), 2, "the third is");
    let key = part.key.clone();
    part.step(Input::Cancel { key, token: 13 });
    assert_eq!(forwarded_span(&mut part, 15), 2, "it was given up");
    // Forwarded once more under a new view, they may be asked for again as before.
    let effects = part.step(Input::Install(view(2, &["a@h", "b@h", "c@h"])));
    let spans: Vec<u16> = sent_to("b@h", &effects)
        .into_iter()
        .filter_map(|msg| match msg {
            Msg::Forward { request, .. } => Some(request.span),
            _ => None,
        })
        .collect();
    assert_eq!(spans, [1, 2]);
}

#[test]
fn a_request_of_another_node_keeps_its_span_on_its_way() {
    let mut part = Part::of("c@h");
    let request = Request {
        span: 7,
        ..request(5)
    };
    // It does not own the key, and asks the home.
    let forward = part.forward(5, request.clone());
    let effects = part.hear("a@h", forward);
    assert_eq!(answers(&effects), []);
    let key = part.key.clone();
    let owner = id("b@h");
    let effects = part.hear("a@h", Msg::OwnerIs { key, owner });
    assert!(matches!(
        sent_to("b@h", &effects)[..],
        [Msg::Forward { request: sent, .. }] if *sent == request
    ));
}

#[test]
fn only_the_node_that_was_asked_answers_a_forwarded_request() {
    let mut part = Part::of("c@h");
    part.ask(7, request(1));
    let key = part.key.clone();
    part.hear(
        "a@h",
        Msg::OwnerIs {
            key,
            owner: id("b@h"),
        },
    );
    let answer = |text| Msg::Reply {
        token: 1,
        answer: Answer::Reply(data(text)),
    };
    assert_eq!(part.hear("a@h", answer("forged")), []);
    assert_eq!(answers(&part.hear("b@h", answer("one"))), [reply(7, "one")]);
    assert_eq!(part.hear("b@h", answer("again")), []);
}

#[test]
fn a_forwarded_request_that_comes_again_is_not_run_again_while_it_waits() {
    let mut part = Part::of("a@h");
    let forward = part.forward(5, request(5));
    assert_eq!(runs(&part.hear("c@h", forward.clone())), 1);
    assert_eq!(part.hear("c@h", forward.clone()), []);
    part.ran("five", Some("5"));
    assert_eq!(part.hear("c@h", forward.clone()), []);
    let answer = Msg::Reply {
        token: 5,
        answer: Answer::Reply(data("five")),
    };
    assert_eq!(sent_to("c@h", &part.acked("b@h", 1)), [&answer]);
    // The answer may be lost: then the actor remembers the request.
    assert_eq!(runs(&part.hear("c@h", forward)), 1);
}

#[test]
fn a_request_that_may_have_run_is_never_called_refused() {
    let mut part = Part::of("c@h");
    part.ask(7, request(1));
    let key = part.key.clone();
    part.hear(
        "a@h",
        Msg::OwnerIs {
            key: key.clone(),
            owner: id("b@h"),
        },
    );
    // Its answer is lost with the owner, and the node then stops serving.
    part.step(Input::Install(view(2, &["a@h", "c@h"])));
    part.ask(8, request(2));
    let answers = answers(&part.step(Input::Refuse));
    assert_eq!(answers, [(7, Answer::Unknown), (8, Answer::NotServing)]);
}

/// Whoever was to handle it does so under the new view as well, as a rule: a home that has just joined is not asked.
#[test]
fn what_is_forwarded_goes_there_again_under_a_new_view() {
    let claims = |effects: &[Effect]| {
        let sent = sent_to("a@h", effects).into_iter();
        sent.filter(|msg| matches!(msg, Msg::Claim { .. })).count()
    };
    let mut part = Part::of("c@h");
    part.ask_with(Some("b@h"), 1, request(1));
    let effects = part.step(Input::Install(view(2, &["a@h", "b@h", "c@h"])));
    assert_eq!(claims(&effects), 0);
    let again = |msg: &&Msg| matches!(msg, Msg::Forward { request, .. } if request.again);
    assert!(sent_to("b@h", &effects).iter().any(again));
    let effects = part.step(Input::Install(view(3, &["a@h", "c@h"])));
    assert!(claims(&effects) > 0);
}

#[test]
fn a_request_that_was_sent_twice_is_not_called_overloaded() {
    let mut part = Part::of("c@h");
    part.ask(7, request(1));
    let key = part.key.clone();
    part.hear(
        "a@h",
        Msg::OwnerIs {
            key,
            owner: id("b@h"),
        },
    );
    let again: Vec<Effect> = (0..3).flat_map(|_| part.step(Input::Tick)).collect();
    assert!(matches!(
        sent_to("b@h", &again)[..],
        [Msg::Forward { .. }, ..]
    ));
    let overloaded = Msg::Reply {
        token: 1,
        answer: Answer::Overloaded,
    };
    assert_eq!(
        answers(&part.hear("b@h", overloaded)),
        [(7, Answer::Unknown)]
    );
}

#[test]
fn a_request_that_was_sent_once_may_be_called_overloaded() {
    let mut part = Part::of("c@h");
    part.ask(7, request(1));
    let key = part.key.clone();
    part.hear(
        "a@h",
        Msg::OwnerIs {
            key,
            owner: id("b@h"),
        },
    );
    let overloaded = Msg::Reply {
        token: 1,
        answer: Answer::Overloaded,
    };
    assert_eq!(
        answers(&part.hear("b@h", overloaded)),
        [(7, Answer::Overloaded)]
    );
}

#[test]
fn a_client_that_gives_up_is_forgotten_if_nothing_has_started() {
    let mut part = Part::of("c@h");
    part.ask(1, request(1));
    part.step(Input::Cancel {
        key: part.key.clone(),
        token: 1,
    });
    let key = part.key.clone();
    let effects = part.hear(
        "a@h",
        Msg::Grant {
            key,
            gen_: Epoch(1),
            ver: 0,
            data: Blob::EMPTY,
            rests: 0,
        },
    );
    assert_eq!(runs(&effects), 0);
    assert_eq!(part.shard.dissolve(), []);
}

#[test]
fn a_part_that_ends_tells_which_requests_may_have_been_carried_out() {
    let mut part = Part::owner_of_an_unacked_version();
    part.ask(2, request(2));
    let mut tokens = part.shard.dissolve();
    tokens.sort_unstable();
    assert_eq!(tokens, [(1, true), (2, false)]);
}

#[test]
fn the_home_tells_where_an_actor_is() {
    let mut part = Part::of("a@h");
    let key = part.key.clone();
    let effects = part.step(Input::Locate {
        token: 1,
        key: key.clone(),
    });
    assert_eq!(
        effects,
        [Effect::Found {
            token: 1,
            found: None
        }]
    );
    part.put("c@h", 1, 3, "3");
    let effects = part.hear("b@h", Msg::Locate { key, token: 9 });
    let [
        Msg::Located {
            token: 9,
            found: Some(found),
        },
    ] = sent_to("b@h", &effects)[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(
        (found.owner.clone(), found.keepers.clone(), found.version),
        (Some(id("c@h")), vec![id("a@h")], 3)
    );
}

#[test]
fn a_home_without_authority_does_not_say_that_an_actor_is_nowhere() {
    let mut part = Part::of("b@h");
    part.step(Input::Install(view(2, &["b@h", "c@h"])));
    let key = part.key.clone();
    assert_eq!(part.step(Input::Locate { token: 1, key }), []);
    assert!(part.done_by(&["c@h"]).contains(&Effect::Found {
        token: 1,
        found: None
    }));
}

#[test]
fn a_hint_saves_the_question_to_the_home() {
    let mut part = Part::of("c@h");
    let effects = part.ask_with(Some("b@h"), 1, request(1));
    assert_eq!(sent_to("a@h", &effects), [] as [&Msg; 0]);
    assert!(matches!(
        sent_to("b@h", &effects)[..],
        [Msg::Forward { .. }]
    ));
    // The node itself, and one that is no member, are none to forward to.
    for (token, hint) in [(2, "c@h"), (3, "d@h")] {
        let mut part = Part::of("c@h");
        let effects = part.ask_with(Some(hint), token, request(token.into()));
        assert!(
            matches!(sent_to("a@h", &effects)[..], [Msg::Claim { .. }]),
            "{hint}"
        );
    }
}

#[test]
fn who_gets_a_request_by_a_wrong_hint_asks_the_home() {
    let mut part = Part::of("b@h");
    let forward = part.forward(1, request(1));
    let effects = part.hear("c@h", forward);
    assert!(matches!(sent_to("a@h", &effects)[..], [Msg::Claim { .. }]));
}

/// A view change makes a node forward again what the owner still has in hand: run once, answered to the latest.
#[test]
fn a_forward_that_is_repeated_while_in_hand_is_run_once() {
    let mut part = Part::owner_of_an_unacked_version();
    let key = part.key.clone();
    let forward = |token, again| Msg::Forward {
        key: key.clone(),
        token,
        request: Request {
            again,
            ..request(7)
        },
    };
    assert_eq!(runs(&part.hear("c@h", forward(1, false))), 1);
    assert_eq!(
        runs(&part.hear("c@h", forward(2, true))),
        0,
        "it is with the actor"
    );
    part.ran("seven", Some("7"));
    assert_eq!(
        runs(&part.hear("c@h", forward(3, true))),
        0,
        "it waits for the keeper"
    );
    let effects = part.acked("b@h", 2);
    let answer = Answer::Reply(data("seven"));
    assert_eq!(sent_to("c@h", &effects), [&Msg::Reply { token: 3, answer }]);
}

/// Peers count their requests, each for itself.
#[test]
fn two_peers_may_have_the_same_name_for_a_request() {
    let mut part = Part::owner_of_an_unacked_version();
    let key = part.key.clone();
    let forward = |id| Msg::Forward {
        key: key.clone(),
        token: 1,
        request: request(id),
    };
    assert_eq!(runs(&part.hear("b@h", forward(7))), 1);
    assert_eq!(runs(&part.hear("c@h", forward(8))), 1);
    part.ran("seven", Some("7"));
    part.ran("eight", Some("8"));
    assert_eq!(runs(&part.hear("c@h", forward(8))), 0, "it is in hand");
    let effects = part.acked("b@h", 3);
    for (to, reply) in [("b@h", "seven"), ("c@h", "eight")] {
        let answer = Answer::Reply(data(reply));
        assert_eq!(sent_to(to, &effects), [&Msg::Reply { token: 1, answer }]);
    }
    assert_eq!(runs(&part.hear("b@h", forward(9))), 1, "it was answered");
    assert_eq!(part.shard.audit(), Ok(()));
}

#[test]
fn one_key_does_not_use_up_the_whole_part() {
    let names = ["a@h", "b@h", "c@h"];
    let mut part = Part::of("a@h");
    part.shard = Shard::new(id("a@h"), view(1, &names), 1, 1_600, 0);
    let asked = (0..200).map(|token| answers(&part.ask(token, request(token.into()))).len());
    assert_eq!(asked.sum::<usize>(), 100, "a sixteenth may wait");
}

impl Part {
    fn rest(&mut self) -> Vec<Effect> {
        self.step(Input::Rest {
            key: self.key.clone(),
            gen_: Epoch(1),
        })
    }

    fn held_by(&mut self, name: &str, ver: u64) -> Vec<Effect> {
        let key = self.key.clone();
        let gen_ = Epoch(1);
        self.hear(name, Msg::HoldAck { key, gen_, ver })
    }

    fn granted(&mut self, ver: u64, state: &'static str, rests: u64) -> Vec<Effect> {
        self.hear(
            "a@h",
            Msg::Grant {
                key: self.key.clone(),
                gen_: Epoch(1),
                ver,
                data: data(state),
                rests,
            },
        )
    }

    /// The third of the ranking owns the key, with one write that its keeper has.
    fn idle_owner() -> Self {
        let mut part = Self::of("c@h");
        part.ask(1, request(1));
        part.granted(0, "", 0);
        part.ran("one", Some("1"));
        part.acked("a@h", 1);
        part
    }
}

#[test]
fn an_actor_goes_to_rest_only_when_it_owes_nothing() {
    let mut part = Part::owner_of_an_unacked_version();
    assert_eq!(part.rest(), []);
    part.acked("b@h", 1);
    part.ask(2, request(2));
    assert_eq!(part.rest(), []);
    part.ran("saw 1", None);
    assert!(matches!(part.rest()[..], [Effect::Stop { .. }, ..]));
}

#[test]
fn no_actor_goes_to_rest_while_the_barrier_goes_on_or_the_node_leaves() {
    let mut part = Part::idle_owner();
    part.step(Input::Install(view(2, &["a@h", "b@h", "c@h"])));
    assert_eq!(part.rest(), []);
    part.done_by(&["a@h", "b@h"]);
    part.step(Input::Quiesce);
    assert_eq!(part.rest(), []);
}

#[test]
fn the_copies_of_an_actor_at_rest_are_sent_until_they_are_acknowledged_and_then_the_surplus_is_dropped()
 {
    let mut part = Part::idle_owner();
    let effects = part.rest();
    let hold = part.hold(1, 2, "1");
    assert_eq!(part.copies_to("a@h", &effects), std::slice::from_ref(&hold));
    assert_eq!(part.copies_to("b@h", &effects), std::slice::from_ref(&hold));
    part.held_by("a@h", 2);
    let effects = part.step(Input::Tick);
    assert_eq!(part.copies_to("b@h", &effects), [hold]);
    assert_eq!(part.copies_to("a@h", &effects), []);
    assert!(part.shard.record(&part.key).is_some());
    part.held_by("b@h", 2);
    assert_eq!(part.shard.record(&part.key), None);
    assert!(!part.shard.has_data());
}

#[test]
fn the_home_hands_out_what_rests_when_it_has_heard_so() {
    let mut part = Part::of("a@h");
    part.put("c@h", 1, 1, "1");
    assert_eq!(part.claimed("c@h"), []);
    part.hear("c@h", part.hold(1, 2, "1"));
    // A put of before is late.
    assert_eq!(part.put("c@h", 1, 1, "1"), []);
    let effects = part.claimed("b@h");
    assert!(matches!(
        sent_to("b@h", &effects)[..],
        [Msg::Grant { ver: 2, .. }]
    ));
}

#[test]
fn a_grant_of_before_the_rest_is_void() {
    let mut part = Part::idle_owner();
    part.rest();
    part.held_by("a@h", 2);
    part.held_by("b@h", 2);
    assert_eq!(part.granted(0, "", 0), []);
    let claim = Msg::Claim {
        key: part.key.clone(),
        rests: 1,
    };
    assert_eq!(sent_to("a@h", &part.ask(2, request(2))), [&claim]);
    assert_eq!(part.granted(0, "", 0), []);
    assert_eq!(starts(&part.granted(2, "1", 1)), [&data("1")]);
}

#[test]
fn a_grant_to_who_waited_since_before_another_actor_went_to_rest_is_taken() {
    let mut part = Part::idle_owner();
    let resting = part.key.clone();
    let others = (0..).map(|n| Key::new(Kind(2), format!("other{n}")));
    let of_a =
        |key: &Key| Placement::of(&view(1, &["a@h", "b@h", "c@h"])).home(key) == Some(&id("a@h"));
    part.key = others.into_iter().find(of_a).expect("some key");
    part.ask(2, request(2));
    let other = std::mem::replace(&mut part.key, resting);
    assert_ne!(part.rest(), []);
    part.key = other;
    assert_eq!(starts(&part.granted(4, "4", 0)), [&data("4")]);
}

#[test]
fn a_late_put_of_who_rests_does_not_disturb_the_next_owner() {
    let mut part = Part::of("b@h");
    part.put("a@h", 1, 3, "3");
    part.ask(1, request(1));
    part.granted(4, "3", 0);
    assert_eq!(part.put("a@h", 1, 3, "3"), []);
    assert_eq!(part.shard.owns(&part.key), Some(Epoch(1)));
}
