//! What lags is looked at again, and what does not is not.

use super::*;

#[test]
fn what_was_acknowledged_is_not_looked_at_again() {
    let mut part = Part::owner_of_an_unacked_version();
    part.acked("b@h", 1);
    assert_eq!(part.shard.lagging.names(), []);
    assert_eq!(part.shard.lagging.take(0), []);
}

#[test]
fn who_lags_again_in_the_tick_of_a_look_is_looked_at_again() {
    let mut part = Part::owner_of_an_unacked_version();
    let effects = part.step(Input::Linked);
    assert_eq!(part.copies_to("b@h", &effects).len(), 1);
    part.acked("b@h", 1);
    part.ask(2, request(2));
    part.ran("two", Some("2"));
    part.shard.audit().expect("it is listed");
    let effects = part.step(Input::Linked);
    assert_eq!(part.copies_to("b@h", &effects).len(), 1);
}

#[test]
fn a_write_is_put_again_when_that_write_is_old_not_when_the_key_lags_for_long() {
    let mut part = Part::owner_of_an_unacked_version();
    part.step(Input::Tick);
    part.ask(2, request(2));
    part.ran("two", Some("2"));
    let mut again = Vec::new();
    for _ in 0..4 {
        let effects = part.step(Input::Tick);
        again.push(part.copies_to("b@h", &effects).len());
    }
    // Two ticks after the second write, and two ticks after that.
    assert_eq!(again, [0, 1, 0, 1]);
}

#[test]
fn what_the_lease_holds_back_is_answered_with_it_and_otherwise_after_a_while() {
    for input in [Input::Leased, Input::Tick] {
        let mut part = Part::owner_of_an_unacked_version();
        part.leased = false;
        assert_eq!(answers(&part.acked("b@h", 1)), []);
        part.shard.audit().expect("it is listed");
        part.leased = true;
        let mut answered = answers(&part.step(input.clone()));
        if input == Input::Tick {
            assert_eq!(answered, []);
            answered = answers(&part.step(input));
        }
        assert_eq!(answered.len(), 1);
        assert_eq!(part.shard.lagging.names(), []);
    }
}

#[test]
fn a_read_without_a_lease_is_answered_when_there_is_one() {
    let mut part = Part::owner_of_an_unacked_version();
    part.acked("b@h", 1);
    part.leased = false;
    part.ask(2, request(2));
    assert_eq!(answers(&part.ran("read", None)), []);
    part.shard.audit().expect("it is listed");
    part.leased = true;
    assert_eq!(answers(&part.step(Input::Leased)).len(), 1);
}
