//! The book is strict.

use super::*;

#[test]
fn what_came_as_it_should_is_accepted_and_measured() {
    let ledger = Ledger::new(2, 2, 1);
    for number in 0..2 {
        ledger.sent(number, Timestamp(1_000_000));
        ledger.acked(number, Timestamp(1_000_010));
        for endpoint in 0..2 {
            assert_eq!(ledger.arrived(Some(number), endpoint, Timestamp(1_000_020 + number as i64)), 0);
        }
    }
    ledger.check().unwrap();
    assert_eq!((ledger.requests(), ledger.expected()), (4, 4));
    assert_eq!(ledger.ack_micros(), [10, 10]);
    assert_eq!(ledger.delivery_micros(), [20, 20, 21, 21]);
    assert!((ledger.seconds() - 21e-6).abs() < 1e-9);
}

#[test]
fn lost_doubled_and_stray_requests_are_each_counted() {
    let ledger = Ledger::new(3, 1, 1);
    ledger.arrived(Some(0), 0, Timestamp(1));
    ledger.arrived(Some(0), 0, Timestamp(2));
    ledger.arrived(Some(1), 0, Timestamp(3));
    ledger.arrived(Some(3), 0, Timestamp(4));
    ledger.arrived(Some(1), 1, Timestamp(5));
    ledger.arrived(None, 0, Timestamp(6));
    let sentence = ledger.check().unwrap_err().to_string();
    assert!(
        sentence.starts_with("1 of 3 deliveries were lost, 1 came more often")
            && sentence.contains("3 requests"),
        "{sentence}"
    );
}

#[test]
fn a_delivery_that_should_come_twice_is_lost_when_it_came_once() {
    let ledger = Ledger::new(1, 1, 2);
    assert_eq!(ledger.arrived(Some(0), 0, Timestamp(1)), 0);
    assert!(ledger.check().is_err());
    assert_eq!(ledger.arrived(Some(0), 0, Timestamp(2)), 1);
    ledger.check().unwrap();
    assert_eq!(ledger.arrived(Some(0), 0, Timestamp(3)), 2);
    assert!(ledger.check().is_err());
}

#[test]
fn under_refusals_only_what_was_accepted_has_to_come() {
    let ledger = Ledger::new(4, 1, 1);
    (0..3).for_each(|number| ledger.sent(number, Timestamp(10)));
    ledger.acked(0, Timestamp(20));
    ledger.refused(1, Timestamp(15));
    assert!(ledger.check_accepted().is_err(), "the accepted one is lost");
    ledger.arrived(Some(0), 0, Timestamp(30));
    ledger.check_accepted().unwrap();
    assert_eq!((ledger.sents(), ledger.refusal_micros(), ledger.ack_micros()), (3, vec![5], vec![10]));
    ledger.arrived(Some(1), 0, Timestamp(30));
    let sentence = ledger.check_accepted().unwrap_err().to_string();
    assert!(sentence.contains("1 came although they had been refused"), "{sentence}");
}
