//! Claims about a lane, one at a time; the simulator tries them all at once.

use super::*;
use crate::{
    domain::{BreakerPolicy, Micros, RateLimit, State, Steps},
    machine::samples,
};

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);
/// What may wait in the store when a lane is opened.
const STORED: Pos = Pos(8);
/// All of that.
const ALL: Page = Page { from: (Timestamp(i64::MIN), Pos(0)), upto: STORED, limit: WINDOW };

fn after(seconds: i64) -> Timestamp {
    NOW.plus(Micros::from_secs(seconds))
}

/// No limits but the window.
fn endpoint() -> Endpoint {
    let rate_limit = RateLimit { disabled: true, ..RateLimit::default() };
    Endpoint { rate_limit, max_in_flight: 10_000, ..samples::endpoint(1) }
}

fn lane(endpoint: Endpoint) -> Lane {
    Lane::new(Arc::new(endpoint), None, NOW)
}

fn delivery(pos: u64) -> Delivery {
    samples::delivery(&endpoint(), Pos(pos), NOW)
}

fn retry(pos: u64) -> Delivery {
    Delivery { attempts: 1, state: State::Retrying, revision: 2, ..delivery(pos) }
}

fn urgent(pos: u64) -> Delivery {
    Delivery { priority: 1, turn_at: Delivery::turn(NOW, NOW, 1), ..delivery(pos) }
}

fn offer(lane: &mut Lane, deliveries: impl IntoIterator<Item = Delivery>) {
    deliveries.into_iter().for_each(|delivery| lane.offer(Arc::new(delivery), 0, &Now::at(NOW)));
}

fn page(deliveries: impl IntoIterator<Item = Delivery>) -> Vec<Arc<Delivery>> {
    deliveries.into_iter().map(Arc::new).collect()
}

/// Everything the lane sends at an instant.
fn sent(lane: &mut Lane, now: Timestamp) -> Vec<u64> {
    let mut sent = Vec::new();
    while let Step::Send(delivery) = lane.next(0, &Now::at(now)) {
        sent.push(delivery.id.pos().0);
    }
    sent
}

/// A lane that has sent all but a few of the first 256 of 300 and asks for more.
fn paging() -> Lane {
    let mut lane = lane(endpoint());
    offer(&mut lane, (1..=300).map(delivery));
    assert_eq!(lane.held(), WINDOW);
    let sent = sent(&mut lane, NOW);
    assert_eq!(sent, (1..=192).collect::<Vec<_>>());
    assert!(lane.outside.asked() > 0);
    lane
}

#[test]
fn a_lane_holds_a_window_and_pages_in_the_rest() {
    let mut lane = paging();
    assert_eq!(sent(&mut lane, NOW), (193..=256).collect::<Vec<_>>());
    assert_eq!(lane.next(0, &Now::at(NOW)), Step::Wait(None));
    lane.paged(page((1..=300).map(delivery)), true, &Now::at(NOW));
    assert_eq!(sent(&mut lane, NOW), (257..=300).collect::<Vec<_>>());
    assert_eq!(lane.next(0, &Now::at(NOW)), Step::Wait(None));
}

#[test]
fn a_page_that_fails_is_asked_for_again() {
    let mut lane = paging();
    lane.page_failed();
    assert_eq!(
        lane.next(0, &Now::at(NOW)),
        Step::Page(Page { from: (NOW, Pos(257)), upto: Pos(300), limit: WINDOW - 64 })
    );
}

#[test]
fn what_comes_while_a_page_is_read_keeps_its_turn() {
    let mut lane = Lane::new(Arc::new(endpoint()), Some(STORED), NOW);
    assert_eq!(lane.next(0, &Now::at(NOW)), Step::Page(ALL));
    offer(&mut lane, [delivery(9), urgent(10)]);
    assert_eq!(lane.next(0, &Now::at(NOW)), Step::Wait(None), "the page may hold what comes before");
    lane.paged(page((1..=3).map(delivery)), true, &Now::at(NOW));
    assert_eq!(sent(&mut lane, NOW), [10, 1, 2, 3, 9]);
}

#[test]
fn a_page_does_not_bring_back_what_has_ended_meanwhile() {
    let mut lane = paging();
    lane.land(Pos(7), Signal::Success, None, NOW);
    lane.recorded(Pos(7));
    offer(&mut lane, [Delivery { state: State::Cancelled, ..delivery(280) }]);
    lane.paged(page((1..=300).map(delivery)), true, &Now::at(NOW));
    let sent = sent(&mut lane, NOW);
    assert!(!sent.contains(&7) && !sent.contains(&280));
    assert_eq!(sent.len(), 300 - 192 - 1);
}

#[test]
fn what_does_not_fit_while_a_page_is_read_is_paged_in_later() {
    let mut lane = paging();
    let step = |pos: u64| NOW.minus(Micros(pos.cast_signed()));
    let rush = (401..=700).map(|pos| Delivery { turn_at: step(pos), ..delivery(pos) });
    offer(&mut lane, rush);
    assert_eq!(sent(&mut lane, NOW), (445..=700).rev().collect::<Vec<_>>());
    lane.paged(page((1..=300).map(delivery)), true, &Now::at(NOW));
    let Step::Page(..) = lane.next(0, &Now::at(NOW)) else { panic!("those that did not fit are forgotten") };
    lane.paged(
        page((193..=300).chain(401..=444).map(|pos| match pos {
            401.. => Delivery { turn_at: step(pos), ..delivery(pos) },
            _ => delivery(pos),
        })),
        true,
        &Now::at(NOW),
    );
    assert_eq!(sent(&mut lane, NOW), (401..=444).rev().chain(193..=300).collect::<Vec<_>>());
}

#[test]
fn priority_is_a_head_start() {
    let mut lane = lane(endpoint());
    let older = samples::delivery(&endpoint(), Pos(1), NOW.minus(Micros::from_secs(61)));
    let low = Delivery { priority: -1, turn_at: Delivery::turn(NOW, NOW, -1), ..delivery(2) };
    offer(&mut lane, [low, delivery(3), urgent(4), older]);
    assert_eq!(sent(&mut lane, NOW), [1, 4, 3, 2], "a minute of waiting outweighs a step of priority");
}

#[test]
fn every_fifth_is_a_retry_while_both_wait() {
    let mut lane = lane(endpoint());
    offer(&mut lane, (1..=10).map(delivery).chain((101..=104).map(retry)));
    assert_eq!(sent(&mut lane, NOW), [1, 2, 3, 4, 101, 5, 6, 7, 8, 102, 9, 10, 103, 104]);
}

#[test]
fn nothing_goes_before_it_is_due() {
    let mut lane = lane(endpoint());
    offer(&mut lane, [Delivery { due_at: after(5), turn_at: after(5), ..delivery(1) }]);
    assert_eq!(lane.next(0, &Now::at(NOW)), Step::Wait(Some(after(5))));
    assert_eq!(sent(&mut lane, after(5)), [1]);
}

#[test]
fn every_hold_says_why_and_until_when() {
    let mut lane = lane(Endpoint {
        rate_limit: RateLimit { per_second: 1.0, burst: 2, disabled: false },
        max_in_flight: 3,
        breaker: BreakerPolicy { failure_threshold: 1, ..BreakerPolicy::default() },
        ..endpoint()
    });
    offer(&mut lane, (1..=9).map(delivery));
    assert_eq!(sent(&mut lane, NOW), [1, 2]);
    assert_eq!(lane.gate(NOW).unwrap().0, Hold::Rate);
    assert_eq!(sent(&mut lane, after(2)), [3]);
    assert_eq!(lane.gate(after(2)), Some((Hold::MaxInFlight, None)));
    assert_eq!(lane.live(&delivery(3), &Now::at(after(2))), Live { in_flight: true, ..Live::default() });

    lane.land(Pos(1), Signal::Failure, None, after(2));
    assert_eq!(lane.gate(after(2)), Some((Hold::CircuitOpen, Some(after(62)))));
    assert_eq!(lane.next(0, &Now::at(after(2))), Step::Wait(Some(after(62))));
    lane.land(Pos(2), Signal::Neutral, Some(after(90)), after(2));
    assert_eq!(lane.gate(after(62)), Some((Hold::RetryAfter, Some(after(90)))));
    assert_eq!(sent(&mut lane, after(90)), [4], "one probe");
    assert_eq!(lane.gate(after(91)), Some((Hold::CircuitOpen, None)));

    let told = |state| Arc::new(Endpoint { state, ..lane_endpoint() });
    lane.set_endpoint(told(EndpointState::Paused), after(91));
    assert_eq!(lane.live(&delivery(5), &Now::at(after(91))).hold, Some(Hold::Paused));
    lane.set_endpoint(told(EndpointState::AutoDisabled), after(91));
    assert_eq!(lane.gate(after(91)), Some((Hold::Disabled, None)));
    lane.set_endpoint(told(EndpointState::Active), after(91));
    assert_eq!(lane.gate(after(91)), None, "coming back closes the breaker");
}

fn lane_endpoint() -> Endpoint {
    Endpoint { max_in_flight: 3, ..endpoint() }
}

#[test]
fn what_is_over_expires_even_while_the_endpoint_is_held() {
    let mut lane = lane(Endpoint { state: EndpointState::Paused, ..endpoint() });
    offer(&mut lane, [Delivery { expires_at: Some(after(9)), ..delivery(1) }]);
    assert_eq!(lane.next(0, &Now::at(NOW)), Step::Wait(Some(after(9))));
    let Step::Expire(delivery) = lane.next(0, &Now::at(after(9))) else { panic!("it is over") };
    assert_eq!(delivery.id.pos(), Pos(1));
    assert!(!lane.is_idle(after(9)), "not before it is recorded");
    assert_eq!(lane.next(0, &Now::at(after(9))), Step::Wait(None), "and once only");
    offer(&mut lane, [Delivery { state: State::Expired, ..(*delivery).clone() }]);
    assert!(lane.is_idle(after(9)));
}

#[test]
fn cancelling_takes_out_what_waits_and_leaves_what_is_in_flight() {
    let mut lane = lane(Endpoint { max_in_flight: 1, ..endpoint() });
    offer(&mut lane, [delivery(1), delivery(2)]);
    assert_eq!(sent(&mut lane, NOW), [1]);
    offer(&mut lane, [1, 2].map(|pos| Delivery { state: State::Cancelled, revision: 2, ..delivery(pos) }));
    assert_eq!((lane.in_flight(), lane.held()), (1, 0));
    lane.land(Pos(1), Signal::Success, None, NOW);
    assert!(!lane.is_idle(NOW), "not before it is recorded");
    lane.recorded(Pos(1));
    assert!(lane.is_idle(NOW));
}

#[test]
fn a_slot_is_free_when_its_attempt_ends_and_unrecorded_results_are_bounded() {
    let mut lane = lane(Endpoint { max_in_flight: 2, ..endpoint() });
    offer(&mut lane, (1..=250).map(delivery));
    assert_eq!(sent(&mut lane, NOW), [1, 2]);
    lane.land(Pos(1), Signal::Success, None, NOW);
    assert_eq!(sent(&mut lane, NOW), [3]);
    assert_eq!(
        lane.live(&delivery(1), &Now::at(NOW)),
        Live { in_flight: true, ..Live::default() },
        "until it is recorded"
    );

    let mut lane = super::tests::lane(endpoint());
    for pos in 1..=512 {
        offer(&mut lane, [delivery(pos)]);
        assert_eq!(sent(&mut lane, NOW), [pos]);
        lane.land(Pos(pos), Signal::Success, None, NOW);
    }
    offer(&mut lane, [delivery(513)]);
    assert_eq!(lane.gate(NOW), Some((Hold::MaxInFlight, None)));
    lane.recorded(Pos(9));
    assert_eq!(sent(&mut lane, NOW), [513]);
}

#[test]
fn a_lane_takes_what_room_there_is_while_it_flows_and_gives_it_back() {
    let limited = RateLimit { per_second: 1.0, burst: 1, disabled: false };
    let mut lane = lane(Endpoint { max_in_flight: 1, rate_limit: limited, ..endpoint() });
    (1..=300).for_each(|pos| lane.offer(Arc::new(delivery(pos)), 400, &Now::at(NOW)));
    assert_eq!(lane.held(), 300);
    assert_eq!(sent(&mut lane, NOW), [1]);
    assert_eq!((lane.next(0, &Now::at(NOW)), lane.held()), (Step::Wait(None), 299), "full, but it flows");
    lane.land(Pos(1), Signal::Success, None, NOW);
    let Step::Wait(Some(_)) = lane.next(0, &Now::at(NOW)) else { panic!("the rate limit holds it back") };
    assert_eq!(lane.held(), WINDOW);
    lane.offer(Arc::new(delivery(301)), 400, &Now::at(NOW));
    assert_eq!(lane.held(), WINDOW);
}

#[test]
fn a_lane_that_flows_reads_larger_pages_if_there_is_room() {
    let stored = |endpoint| Lane::new(Arc::new(endpoint), Some(STORED), NOW);
    let mut lane = stored(Endpoint { state: EndpointState::Paused, ..endpoint() });
    assert_eq!(lane.next(5_000, &Now::at(NOW)), Step::Page(ALL), "it is held back");
    assert_eq!(stored(endpoint()).next(300, &Now::at(NOW)), Step::Page(Page { limit: 300, ..ALL }));
    let mut lane = stored(endpoint());
    assert_eq!(lane.next(5_000, &Now::at(NOW)), Step::Page(Page { limit: PAGE, ..ALL }));
    assert_eq!((lane.held(), lane.claimed()), (0, PAGE), "others have that much less");
    lane.paged(page((1..=PAGE as u64).map(delivery)), false, &Now::at(NOW));
    assert_eq!(lane.held(), PAGE);
}

#[test]
fn what_comes_behind_others_in_the_store_is_held_and_not_read_again() {
    let mut lane = Lane::new(Arc::new(endpoint()), Some(STORED), NOW);
    let asked = Page { limit: 300, ..ALL };
    assert_eq!(lane.next(300, &Now::at(NOW)), Step::Page(asked));
    // Deliveries 1 to 8 wait in the store; 9 and on come meanwhile.
    (9..=300).for_each(|pos| lane.offer(Arc::new(delivery(pos)), 300, &Now::at(NOW)));
    assert_eq!(
        (lane.held(), lane.next(300, &Now::at(NOW))),
        (292, Step::Wait(None)),
        "behind those in the store"
    );
    lane.paged(page((1..=4).map(delivery)), false, &Now::at(NOW));
    assert_eq!(lane.next(300, &Now::at(NOW)), Step::Page(Page { from: (NOW, Pos(5)), limit: 296, ..asked }));
    lane.paged(page((5..=8).map(delivery)), true, &Now::at(NOW));
    assert_eq!(sent(&mut lane, NOW), (1..=300).collect::<Vec<_>>());
}

#[test]
fn what_others_made_waits_in_the_store_behind_what_waits_there_already() {
    let mut paused = lane(Endpoint { state: EndpointState::Paused, ..endpoint() });
    offer(&mut paused, (1..=300).map(delivery));
    assert!(paused.leaves(after(1), NOW) && !paused.leaves(NOW.minus(Micros::from_secs(1)), NOW));
    let mut lane = paging();
    assert!(!lane.leaves(after(1), NOW), "it may be sent soon");
    // The page under way was read before: it cannot know of it.
    lane.leave_outside(after(1), Pos(400));
    lane.paged(page((1..=300).map(delivery)), true, &Now::at(NOW));
    assert_eq!(sent(&mut lane, NOW).len(), 300 - 192 - WINDOW / 4);
    assert_eq!(
        (lane.outside.asked() > 0, lane.outside.horizon()),
        (true, Some((after(1), Pos(0)))),
        "it is asked for"
    );
    assert_eq!(sent(&mut lane, NOW).len(), WINDOW / 4, "what comes before goes on");
}

#[test]
fn deliveries_read_by_number_do_not_bring_back_what_has_ended_meanwhile() {
    let mut lane = lane(endpoint());
    lane.fetch();
    offer(&mut lane, [delivery(1), delivery(2)]);
    assert_eq!(sent(&mut lane, NOW), [1, 2]);
    lane.land(Pos(1), Signal::Success, None, NOW);
    lane.recorded(Pos(1));
    assert!(!lane.is_news(Pos(1)) && !lane.is_news(Pos(2)) && lane.is_news(Pos(3)));
    assert!(!lane.is_idle(NOW), "what is read is still to come");
    lane.fetched();
    assert!(lane.is_news(Pos(1)), "later reads know of it");
}

#[test]
fn what_is_told_during_one_read_is_no_news_of_that_read_alone() {
    let mut lane = paging();
    lane.fetch();
    offer(&mut lane, [delivery(400)]);
    assert!(!lane.is_news(Pos(400)));
    lane.fetched();
    lane.fetch();
    assert!(lane.is_news(Pos(400)), "the page is still under way, but this read is a new one");
}

#[test]
fn what_somebody_else_ended_is_sent_no_more() {
    let mut lane = lane(Endpoint { max_in_flight: 1, ..endpoint() });
    offer(&mut lane, [delivery(1), delivery(2)]);
    assert_eq!(sent(&mut lane, NOW), [1]);
    let ended = |pos| Delivery { state: State::Cancelled, ..delivery(pos) };
    offer(&mut lane, [ended(1), ended(2)]);
    assert_eq!((lane.in_flight(), lane.held()), (1, 0), "what is in flight lands first");
}

#[test]
fn a_new_home_starts_without_tokens_and_probes_after_a_whole_cooldown() {
    let limit = RateLimit { per_second: 10.0, burst: 10, disabled: false };
    let breaker = BreakerPolicy { cooldown: Micros::from_secs(60), ..BreakerPolicy::default() };
    let old = Endpoint { rate_limit: limit, breaker, ..endpoint() };
    let mut lane = Lane::inherited(Arc::new(old.clone()), None, NOW, NOW);
    offer(&mut lane, (1..=30).map(delivery));
    assert_eq!(sent(&mut lane, NOW), [0; 0]);
    assert_eq!(sent(&mut lane, after(1)).len(), 10);
    let mut lane = Lane::inherited(Arc::new(old), None, NOW, NOW);
    let opened_at = Some(NOW.minus(Micros::from_secs(59)));
    lane.inherit(&Kept { failures: 5, opened_at, quiet_until: None }, NOW);
    assert_eq!(lane.kept(NOW), Some(Kept { failures: 5, opened_at, quiet_until: None }));
    offer(&mut lane, (1..=3).map(delivery));
    assert_eq!(sent(&mut lane, after(59)), [0; 0], "its last home may just have sent one");
    assert_eq!(sent(&mut lane, after(60)), [1]);
}

/// The clock `seconds` after [`NOW`]; its wall hand was set by so many seconds at 10 s.
fn stepped(seconds: i64, by: i64) -> Now {
    let mut steps = Steps::none(Micros::ZERO);
    steps.note(after(10), Micros::from_secs(by));
    Now::new(after(seconds), after(seconds + by), steps)
}

#[test]
fn a_time_of_day_follows_a_step_of_the_wall_clock_and_a_retry_does_not() {
    let scheduled = Delivery { due_at: after(600), turn_at: after(600), ..delivery(1) };
    let retrying = Delivery { due_at: after(30), turn_at: after(30), ..retry(2) };
    let forever = || {
        let mut lane = lane(endpoint());
        offer(&mut lane, [scheduled.clone(), retrying.clone()]);
        lane
    };
    let mut ahead = forever();
    assert_eq!(ahead.next(0, &Now::at(NOW)), Step::Wait(Some(after(30))));
    assert!(matches!(ahead.next(0, &stepped(11, 3_600)), Step::Send(it) if it.id.pos() == Pos(1)));
    assert_eq!(ahead.next(0, &stepped(11, 3_600)), Step::Wait(Some(after(30))));
    assert!(matches!(ahead.next(0, &stepped(30, 3_600)), Step::Send(it) if it.id.pos() == Pos(2)));

    let mut back = forever();
    assert!(matches!(back.next(0, &stepped(30, -3_600)), Step::Send(it) if it.id.pos() == Pos(2)));
    assert_eq!(back.next(0, &stepped(600, -3_600)), Step::Wait(Some(after(4_200))));
    assert!(matches!(back.next(0, &stepped(4_200, -3_600)), Step::Send(it) if it.id.pos() == Pos(1)));
}

#[test]
fn a_retry_read_from_the_store_after_a_step_waits_no_shorter_and_no_longer() {
    for by in [3_600, -3_600] {
        let mut lane = Lane::new(Arc::new(endpoint()), Some(STORED), NOW);
        assert_eq!(lane.next(0, &stepped(12, by)), Step::Page(ALL));
        let retrying = Delivery { due_at: after(30), turn_at: after(30), ..retry(2) };
        lane.paged(page([retrying]), true, &stepped(12, by));
        assert_eq!(lane.next(0, &stepped(12, by)), Step::Wait(Some(after(30))), "a step by {by} s");
        assert!(matches!(lane.next(0, &stepped(30, by)), Step::Send(_)));
    }
}

#[test]
fn what_is_due_at_once_goes_at_once_by_whatever_clock_it_was_made() {
    let mut lane = lane(endpoint());
    let ahead = samples::delivery(&endpoint(), Pos(1), after(3_600));
    offer(&mut lane, [ahead]);
    assert_eq!(sent(&mut lane, NOW), [1]);
}

#[test]
fn an_expiration_is_a_time_of_day() {
    let mut lane = lane(endpoint());
    let paused = Endpoint { state: EndpointState::Paused, ..endpoint() };
    lane.set_endpoint(Arc::new(paused), NOW);
    offer(&mut lane, [Delivery { expires_at: Some(after(600)), ..delivery(1) }]);
    assert_eq!(lane.next(0, &stepped(11, -60)), Step::Wait(Some(after(660))));
    assert!(matches!(lane.next(0, &stepped(12, 3_600)), Step::Expire(_)));
}
