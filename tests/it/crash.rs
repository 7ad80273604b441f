//! What was acknowledged is delivered, though the server is killed at any moment.
//!
//! Thirty-two publishers in all three ways of publishing, two endpoints, and
//! SIGKILL after SIGKILL at moments drawn by chance. Two ledgers outlive the
//! server, because both are kept in this process: what was acknowledged to the
//! publishers, and what the receivers got. In the end they must agree, to the
//! byte. A crash may repeat a request that it cut off from its record, and only
//! that.

use std::{
    collections::{HashMap, HashSet},
    env,
    time::Duration,
};

use hookwire::grpc::pb::{self, DeliveryStatus, Envelope};

use crate::support::{
    Answer, Dice, Load, Received, Receiver, Server, alone, body_of, eventually, key_in, open_endpoint, span,
};

const MAX_IN_FLIGHT: i32 = 16;
const ENDPOINTS: usize = 2;
/// Results of an endpoint that a server keeps before they are recorded, at most.
const UNRECORDED_MAX: usize = 512;
/// Attempts in flight or unrecorded over all endpoints, unless told otherwise.
const IN_FLIGHT_MAX: usize = 1024;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_altered_or_doubled_by_kill_9() {
    let kills = env::var("HOOKWIRE_KILLS").map_or(20, |text| text.parse().expect("a number"));
    let _alone = alone().await;
    let mut dice = Dice::of("crash");
    let mut server = Server::build().restartable().start().await;
    let api = server.api();
    // Some first attempts fail, so that retries are waiting when the server dies.
    let flaky = |request: &Received| match request.number % 17 {
        3 => Answer::status(503),
        _ => Answer::ok().after(Duration::from_millis(request.number as u64 % 7)),
    };
    let mut receivers = Vec::new();
    for _ in 0..ENDPOINTS {
        let receiver = Receiver::answering(flaky).await;
        let endpoint = pb::Endpoint {
            envelope: Envelope::Raw.into(),
            max_in_flight: MAX_IN_FLIGHT,
            retry_policy: Some(pb::RetryPolicy {
                max_attempts: 50,
                initial_delay: span(100),
                max_delay: span(500),
                ..Default::default()
            }),
            circuit_breaker: Some(pb::CircuitBreaker { disabled: true, ..Default::default() }),
            ..open_endpoint(receiver.at("/hook"))
        };
        api.create_endpoint(endpoint).await;
        receivers.push(receiver);
    }

    let load = Load::start(&[server.port], "crash.test", u64::MAX, [16, 8, 8]);
    for kill in 1..=kills {
        let mark = load.ledger.count() + usize::try_from(dice.roll(50, 250)).expect("small");
        eventually(Duration::from_secs(30), &format!("work goes on before kill {kill}"), async || {
            let acked = load.ledger.count();
            if acked >= mark { Ok(()) } else { Err(format!("{acked} of {mark} acknowledged")) }
        })
        .await;
        tokio::time::sleep(Duration::from_micros(dice.roll(0, 30_000))).await;
        server.kill9();
        server.restart().await;
    }
    let ledger = load.stop(Duration::from_secs(60)).await;
    api.all_final(Duration::from_secs(120)).await;

    let acked = ledger.acked();
    let ids: HashSet<_> = acked.values().cloned().collect();
    assert_eq!(ledger.two_ids(), Vec::<String>::new(), "one key, one event");
    assert_eq!(ids.len(), acked.len(), "one event, one key");

    let mut requests: HashMap<String, usize> = HashMap::new();
    for receiver in &receivers {
        let mut received = HashSet::new();
        for request in receiver.ledger() {
            let key = key_in(&request.body);
            assert!(request.body == body_of(&key), "altered: {request:?}");
            assert_eq!(
                acked.get(&key).map(String::as_str),
                Some(request.event_id()),
                "an unknown event: {key}"
            );
            received.insert(key);
            *requests.entry(request.delivery_id()).or_default() += 1;
        }
        let lost: Vec<_> = acked.keys().filter(|key| !received.contains(*key)).collect();
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged events never came: {lost:?}",
            lost.len(),
            acked.len()
        );
    }

    let deliveries = api.all_deliveries(pb::DeliveryFilter::default()).await;
    assert_eq!(deliveries.len(), acked.len() * ENDPOINTS, "one delivery per event and endpoint");
    let mut repeats = 0;
    for delivery in &deliveries {
        assert_eq!(delivery.status(), DeliveryStatus::Delivered, "{delivery:?}");
        let recorded = usize::try_from(delivery.attempt_count).expect("not negative");
        let sent = requests[&delivery.id];
        assert!(sent >= recorded, "{sent} requests, but {recorded} attempts recorded: {delivery:?}");
        repeats += sent - recorded;
    }
    let claimed = (usize::try_from(MAX_IN_FLIGHT).expect("positive") + UNRECORDED_MAX) * ENDPOINTS;
    let claimed = claimed.min(IN_FLIGHT_MAX) * kills;
    println!("crash: {} acknowledged, {kills} kills, {repeats} requests repeated", acked.len());
    assert!(
        repeats <= claimed,
        "{repeats} repeats, but only {claimed} can have been in flight or unrecorded"
    );
}
