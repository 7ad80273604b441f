//! What only the home of an endpoint knows is told alike by all.
//!
//! What is in flight, what is held and how a breaker stands are facts of the moment and of
//! one process; a client that asks another one must not notice.

use std::time::Duration;

use hookwire::grpc::pb::{self, CircuitState, DeliveryStatus, HoldReason, circuit_state::Position};

use super::Fleet;
use crate::support::{Answer, Receiver, event, eventually, open_endpoint, retrying, stubborn};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn all_instances_say_alike_what_is_in_flight_and_what_waits_for_it() {
    let fleet = Fleet::start().await;
    let apis = fleet.apis();
    let receiver = Receiver::answering(|_| Answer::hang()).await;
    // As many endpoints as make it sure that each instance is the home of some.
    let mut pairs = Vec::new();
    for number in 0..24 {
        let endpoint = pb::Endpoint {
            event_types: vec![format!("hanging.e{number}")],
            max_in_flight: 1,
            ..stubborn(receiver.at(&format!("/{number}")))
        };
        apis[0].create_endpoint(endpoint).await;
        let event = event(&format!("hanging.e{number}"), "{}");
        let first = apis[number % 3].publish_to_one(event.clone()).await;
        receiver.wait_for(number + 1, SOON).await;
        pairs.push((first, apis[number % 3].publish_to_one(event).await));
    }
    let homes = fleet.homes();
    assert!((0..3).all(|member| homes.values().any(|home| *home == member)), "{homes:?}");

    let in_flight = (DeliveryStatus::InProgress, HoldReason::Unspecified, 1);
    let waiting = (DeliveryStatus::Pending, HoldReason::MaxInFlight, 0);
    for (member, api) in apis.iter().enumerate() {
        for (first, second) in &pairs {
            eventually(SOON, &format!("member {member} says so"), async || {
                let mut seen = Vec::new();
                for id in [first, second] {
                    let delivery = api.delivery(id).await;
                    seen.push((delivery.status(), delivery.hold_reason(), delivery.attempt_count));
                }
                if seen == [in_flight, waiting] { Ok(()) } else { Err(format!("{seen:?}")) }
            })
            .await;
        }
    }
    println!("live: {} deliveries, asked of three", 2 * pairs.len());
}

/// What each member says of a breaker, once they agree and it is what is wanted.
async fn agree(fleet: &Fleet, endpoint: &str, wanted: impl Fn(&CircuitState) -> bool) -> CircuitState {
    let apis = fleet.apis();
    eventually(SOON, "all say the same of the breaker", async || {
        let mut said = Vec::new();
        for api in &apis {
            said.push(api.endpoint(endpoint).await.circuit_state.unwrap_or_default());
        }
        let same = said.iter().all(|it| *it == said[0]);
        if same && wanted(&said[0]) { Ok(said.swap_remove(0)) } else { Err(format!("{said:?}")) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_instances_say_alike_how_a_breaker_stands_and_each_can_close_it() {
    let fleet = Fleet::start().await;
    let receiver = Receiver::ok().await;
    let endpoint = pb::Endpoint {
        max_in_flight: 1,
        retry_policy: retrying(10, 50),
        ..open_endpoint(receiver.at("/hook"))
    };
    let endpoint = fleet.members[0].api().create_endpoint(endpoint).await.id;
    let home = fleet.home_of(&endpoint).await;
    for (member, api) in fleet.apis().iter().enumerate() {
        receiver.answer_with(|_| Answer::status(500));
        let delivery = api.publish_to_one(event("tick", "{}")).await;
        let open = agree(&fleet, &endpoint, |circuit| circuit.position() == Position::Open).await;
        assert_eq!(open.consecutive_failures, 5, "{open:?}");
        assert!(open.open_time.is_some() && open.next_probe_time.is_some(), "{open:?}");

        // The cool-down is a minute, so it is not that which closes it.
        receiver.answer_with(|_| Answer::ok());
        let resume = pb::ResumeEndpointRequest { id: endpoint.clone() };
        let resumed = api.endpoints.clone().resume_endpoint(resume).await.expect("ResumeEndpoint");
        let resumed = resumed.into_inner().endpoint.and_then(|it| it.circuit_state).unwrap_or_default();
        assert_eq!(resumed.position(), Position::Closed, "as answered by member {member}");
        agree(&fleet, &endpoint, |it| it.position() == Position::Closed && it.consecutive_failures == 0)
            .await;
        let delivered = api.delivery_in(&delivery, DeliveryStatus::Delivered, SOON).await;
        assert_eq!(delivered.attempt_count, 6, "what waited goes on at once");
    }
    println!("live: breaker of member {home} closed by each of three");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_instance_tests_an_endpoint_whoever_is_its_home() {
    let fleet = Fleet::start().await;
    let receiver = Receiver::ok().await;
    let made = fleet.members[0].api().create_endpoint(open_endpoint(receiver.at("/hook"))).await;
    for (member, api) in fleet.apis().iter().enumerate() {
        let request = pb::TestEndpointRequest { id: made.id.clone(), ..Default::default() };
        let tested = api.endpoints.clone().test_endpoint(request).await.expect("TestEndpoint").into_inner();
        let response = tested.attempt.expect("an attempt").response.expect("a response");
        assert_eq!((response.status_code, receiver.count()), (200, member + 1), "by member {member}");
    }
}
