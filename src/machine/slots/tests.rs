//! Claims about slots one at a time, and a simulation of healthy endpoints beside hanging ones.

mod sim;

use super::*;

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

fn after(millis: i64) -> Timestamp {
    NOW.plus(Micros::from_millis(millis))
}

/// Begins attempts of a class until it may begin no more, and says how many.
fn fill(slots: &mut Slots<()>, class: Class, first: u64, now: Timestamp) -> usize {
    let before = slots.len();
    let mut pos = first;
    while slots.may_begin(class) {
        slots.begin(Pos(pos), EndpointKey(pos.cast_signed()), class, now, ());
        pos += 1;
    }
    slots.len() - before
}

#[test]
fn each_class_holds_its_part_and_the_rest_is_for_quicker_ones() {
    let mut slots = Slots::new(1024);
    assert_eq!(fill(&mut slots, Class::Hanging, 0, NOW), 128);
    assert_eq!(fill(&mut slots, Class::Slow, 1_000, NOW), 512 - 128);
    assert_eq!(fill(&mut slots, Class::Unproven, 2_000, NOW), (896 - 512) / 32);
    assert_eq!(fill(&mut slots, Class::Quick, 3_000, NOW), 512 - 12);
    assert!(Class::ALL.iter().all(|class| !slots.may_begin(*class)));
}

#[test]
fn an_unproven_endpoint_waits_no_longer_than_the_patience_with_those_before_it() {
    let mut slots = Slots::new(1024);
    assert_eq!(fill(&mut slots, Class::Unproven, 0, NOW), 896 / 4);
    assert_eq!(slots.overdue_at(), Some(after(50)));
    assert_eq!(slots.overdue(after(50)), None, "nothing is learned of an endpoint so soon");
    assert_eq!(slots.held, [0, 0, 224, 0]);
    assert_eq!(fill(&mut slots, Class::Unproven, 1_000, after(50)), (896 - 224) / 32);
}

#[test]
fn with_one_slot_every_class_has_its_turn() {
    for class in Class::ALL {
        assert_eq!(fill(&mut Slots::new(1), class, 0, NOW), 1);
    }
}

#[test]
fn an_attempt_that_goes_on_moves_to_slower_classes_and_is_reported_once_for_each() {
    let mut slots = Slots::new(16);
    slots.begin(Pos(1), EndpointKey(7), Class::Quick, NOW, ());
    assert_eq!(slots.overdue_at(), Some(after(1_000)));
    assert_eq!(slots.overdue(after(999)), None);
    assert_eq!(slots.overdue(after(1_000)), Some((EndpointKey(7), SLOW_AFTER)));
    assert_eq!((slots.overdue(after(1_000)), slots.overdue_at()), (None, Some(after(5_000))));
    assert_eq!(slots.held, [0, 0, 1, 0]);
    assert_eq!(slots.overdue(after(5_000)), Some((EndpointKey(7), HANGING_AFTER)));
    assert_eq!(slots.held, [0, 0, 0, 1]);
    assert_eq!(slots.overdue_at(), None);
    assert_eq!((slots.release(Pos(1)), slots.held), (Some(()), [0; 4]));
}

#[test]
fn an_attempt_that_has_ended_or_began_anew_is_not_overdue() {
    let mut slots = Slots::new(16);
    slots.begin(Pos(1), EndpointKey(1), Class::Quick, NOW, ());
    slots.ended(Pos(1));
    slots.begin(Pos(2), EndpointKey(2), Class::Quick, NOW, ());
    slots.release(Pos(2));
    slots.begin(Pos(2), EndpointKey(2), Class::Quick, after(900), ());
    assert_eq!(slots.overdue(after(1_000)), None);
    assert_eq!(slots.overdue_at(), Some(after(1_900)));
    assert_eq!(slots.overdue(after(1_900)), Some((EndpointKey(2), SLOW_AFTER)));
}

#[test]
fn under_pressure_an_endpoint_that_is_not_quick_gets_one_slot_at_a_time() {
    let mut slots = Slots::new(16);
    let capped = |slots: &Slots<()>| Class::ALL.map(|class| slots.in_flight_cap(class) == 1);
    assert_eq!(capped(&slots), [false; 4]);
    (1..=2).for_each(|pos| slots.begin(Pos(pos), EndpointKey(1), Class::Unproven, NOW, ()));
    assert_eq!(capped(&slots), [false, true, false, true]);
    (3..=4).for_each(|pos| slots.begin(Pos(pos), EndpointKey(1), Class::Slow, NOW, ()));
    assert_eq!(capped(&slots), [false, true, true, true]);
}
