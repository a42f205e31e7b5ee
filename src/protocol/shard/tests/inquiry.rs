//! A home without authority asks all members.

use super::super::Report;
use super::*;

/// A joiner that is the home of the key in a view of b, c, d and itself, before its barrier.
fn new_home() -> Part {
    let key = ranked(&["a@h", "b@h", "c@h", "d@h"]);
    let alone = View::alone(ClusterId(9), member("a@h"));
    let mut part = Part::in_view("a@h", alone, key);
    part.step(Input::Install(view(5, &["a@h", "b@h", "c@h", "d@h"])));
    part
}

impl Part {
    fn reported(&mut self, from: &str, report: Report) -> Vec<Effect> {
        let key = self.key.clone();
        self.hear(from, Msg::Report { key, report })
    }
}

fn copy(gen_: u64, ver: u64, state: &'static str) -> Report {
    Report::Copy {
        gen_: Epoch(gen_),
        ver,
        data: data(state),
    }
}

fn inquiries(effects: &[Effect]) -> usize {
    let sent = ["b@h", "c@h", "d@h"].map(|to| sent_to(to, effects));
    let asked = |msg: &&&Msg| matches!(msg, Msg::Inquire { .. });
    sent.iter().flatten().filter(asked).count()
}

#[test]
fn a_home_without_authority_grants_the_newest_of_what_all_members_report() {
    let mut part = new_home();
    assert_eq!(inquiries(&part.claimed("d@h")), 3);
    part.reported("b@h", copy(3, 7, "7"));
    part.reported("b@h", copy(3, 7, "7"));
    assert_eq!(grants(&part.reported("d@h", Report::Nothing)), 0);
    // Whoever waits asks again, those that have not reported.
    assert_eq!(inquiries(&part.claimed("d@h")), 1);
    let effects = part.reported("c@h", copy(3, 6, "6"));
    let granted = Msg::Grant {
        key: part.key.clone(),
        gen_: Epoch(5),
        ver: 7,
        data: data("7"),
        rests: 0,
    };
    assert!(sent_to("d@h", &effects).contains(&&granted), "{effects:?}");
    // It need not ask again.
    let effects = part.claimed("b@h");
    let named = Msg::OwnerIs {
        key: part.key.clone(),
        owner: id("d@h"),
    };
    assert_eq!(sent_to("b@h", &effects), [&named]);
}

#[test]
fn a_member_that_was_not_connected_is_asked_when_it_is() {
    let mut part = new_home();
    part.claimed("d@h");
    part.reported("b@h", Report::Nothing);
    assert_eq!(inquiries(&part.step(Input::Linked)), 2);
}

#[test]
fn an_owner_that_reports_need_not_wait_for_the_others() {
    let mut part = new_home();
    part.claimed("d@h");
    part.ask(1, request(1));
    let effects = part.reported("c@h", Report::Owner);
    let named = Msg::OwnerIs {
        key: part.key.clone(),
        owner: id("c@h"),
    };
    assert_eq!(sent_to("d@h", &effects), [&named]);
    assert!(matches!(
        sent_to("c@h", &effects)[..],
        [Msg::Forward { .. }]
    ));
}

#[test]
fn a_home_without_authority_owns_what_no_member_has() {
    let mut part = new_home();
    assert_eq!(inquiries(&part.ask(1, request(1))), 3);
    for member in ["b@h", "c@h"] {
        assert_eq!(runs(&part.reported(member, Report::Nothing)), 0);
    }
    assert_eq!(runs(&part.reported("d@h", Report::Nothing)), 1);
    // An answer to a question that nobody asks any more.
    assert_eq!(part.reported("d@h", Report::Nothing), []);
}

#[test]
fn a_member_reports_what_it_has_unless_a_live_owner_does() {
    let all = ["a@h", "b@h", "c@h", "d@h"];
    let report = |part: &mut Part| {
        let key = part.key.clone();
        let effects = part.hear("a@h", Msg::Inquire { key });
        match &sent_to("a@h", &effects)[..] {
            [Msg::Report { report, .. }] => report.clone(),
            other => panic!("{other:?}"),
        }
    };
    let mut keeper = Part::in_view("b@h", view(1, &all), ranked(&all));
    assert_eq!(report(&mut keeper), Report::Nothing);
    keeper.put("a@h", 1, 4, "4");
    assert_eq!(report(&mut keeper), Report::Nothing);
    keeper.step(Input::Install(view(2, &["b@h", "c@h", "d@h"])));
    keeper.step(Input::Install(view(3, &all)));
    assert_eq!(report(&mut keeper), copy(1, 4, "4"));

    let mut owner = Part::in_view("c@h", view(1, &all), ranked(&all));
    owner.ask(1, request(1));
    let grant = Msg::Grant {
        key: owner.key.clone(),
        gen_: Epoch(1),
        ver: 0,
        data: Blob::EMPTY,
        rests: 0,
    };
    owner.hear("a@h", grant);
    assert_eq!(report(&mut owner), Report::Owner);
}
