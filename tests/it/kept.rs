//! What was acknowledged is kept: the claim that tests make after any number of deaths.

use std::collections::{HashMap, HashSet};

use hookwire::grpc::pb::{self, DeliveryStatus};

use crate::support::{Ledger, Receiver, body_of, key_in};

/// Compares what was acknowledged with what came to the endpoints of one receiver: all of
/// it to each of them, as it was published, and nothing else. How many requests each
/// delivery took.
pub fn compare(ledger: &Ledger, receiver: &Receiver, endpoints: usize) -> HashMap<String, usize> {
    let acked = ledger.acked();
    assert_eq!(ledger.two_ids(), Vec::<String>::new(), "one key, one event");
    assert_eq!(acked.values().collect::<HashSet<_>>().len(), acked.len(), "one event, one key");

    let mut requests: HashMap<String, usize> = HashMap::new();
    let mut received: HashMap<String, HashSet<String>> = HashMap::new();
    for request in receiver.ledger() {
        let key = key_in(&request.body);
        assert!(request.body == body_of(&key), "altered: {request:?}");
        let event = acked.get(&key).map(String::as_str);
        assert_eq!(event, Some(request.event_id()), "an unknown event: {key}");
        received.entry(request.path.clone()).or_default().insert(key);
        *requests.entry(request.delivery_id()).or_default() += 1;
    }
    assert_eq!(received.len(), endpoints, "each endpoint got something");
    for (path, keys) in &received {
        let lost: Vec<_> = acked.keys().filter(|key| !keys.contains(*key)).collect();
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged events never came to {path}: {lost:?}",
            lost.len(),
            acked.len()
        );
    }
    assert_eq!(requests.len(), acked.len() * endpoints, "one delivery per event and endpoint");
    requests
}

/// Checks that all was delivered and no attempt recorded that was never made; how many
/// requests were made beyond the recorded ones.
pub fn repeats(deliveries: &[pb::Delivery], requests: &HashMap<String, usize>) -> usize {
    assert_eq!(deliveries.len(), requests.len(), "one delivery per event and endpoint");
    let mut repeats = 0;
    for delivery in deliveries {
        assert_eq!(delivery.status(), DeliveryStatus::Delivered, "{delivery:?}");
        let recorded = usize::try_from(delivery.attempt_count).expect("not negative");
        let sent = requests[&delivery.id];
        assert!(sent >= recorded, "{sent} requests, but {recorded} attempts recorded: {delivery:?}");
        repeats += sent - recorded;
    }
    repeats
}
