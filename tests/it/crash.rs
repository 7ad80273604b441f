//! What was acknowledged is delivered, though the server is killed at any moment.
//!
//! Thirty-two publishers in all three ways of publishing, two endpoints, and
//! SIGKILL after SIGKILL at moments drawn by chance. Two ledgers outlive the
//! server, because both are kept in this process: what was acknowledged to the
//! publishers, and what the receivers got. In the end they must agree, to the
//! byte. A crash may repeat a request that it cut off from its record, and only
//! that.

use std::{env, time::Duration};

use hookwire::grpc::pb::{self, DeliveryErrorCause, DeliveryStatus};

use crate::{
    kept::{compare, repeats},
    support::{
        Answer, Dice, Load, Received, Receiver, Server, alone, create_stubborn, event, eventually, span,
    },
};

/// As `stubborn` says.
const MAX_IN_FLIGHT: usize = 16;
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
    let receiver = Receiver::answering(flaky).await;
    create_stubborn(&api, &receiver, ENDPOINTS).await;

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

    let requests = compare(&ledger, &receiver, ENDPOINTS);
    let repeats = repeats(&api.all_deliveries(pb::DeliveryFilter::default()).await, &requests);
    let claimed = (MAX_IN_FLIGHT + UNRECORDED_MAX) * ENDPOINTS;
    let claimed = claimed.min(IN_FLIGHT_MAX) * kills;
    println!("crash: {} acknowledged, {kills} kills, {repeats} requests repeated", ledger.count());
    assert!(
        repeats <= claimed,
        "{repeats} repeats, but only {claimed} can have been in flight or unrecorded"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_kill_cuts_off_counts_as_an_attempt() {
    const ATTEMPTS: usize = 3;
    let _alone = alone().await;
    let mut server = Server::build().restartable().start().await;
    if server.database().is_some() {
        // There it is a claim of the store's own tests.
        return;
    }
    let api = server.api();
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_secs(600))).await;
    let retry_policy = Some(pb::RetryPolicy {
        max_attempts: ATTEMPTS as i32,
        initial_delay: span(10),
        max_delay: span(20),
        ..Default::default()
    });
    let endpoint = pb::Endpoint { url: receiver.at("/hangs"), retry_policy, ..Default::default() };
    api.create_endpoint(endpoint).await;
    api.publish(event("cut.off", "{\"n\":1}")).await;
    for kill in 1..=ATTEMPTS {
        receiver.wait_for(kill, Duration::from_secs(30)).await;
        known(&server, kill).await;
        server.kill9();
        server.restart().await;
    }
    api.all_final(Duration::from_secs(30)).await;
    let dead = api.all_deliveries(pb::DeliveryFilter::default()).await;
    assert_eq!((dead[0].status(), dead[0].attempt_count), (DeliveryStatus::DeadLetter, ATTEMPTS as i32));
    assert_eq!(receiver.count(), ATTEMPTS, "no request beyond max_attempts");
    let error = dead[0].last_error.as_ref().expect("an error");
    assert_eq!(error.cause(), DeliveryErrorCause::WorkerLost);
}

/// Waits until the store knows that an attempt has begun.
async fn known(server: &Server, number: usize) {
    let file = server.data_dir().join("hookwire.db");
    eventually(Duration::from_secs(30), "the start is stored", async || {
        let conn = rusqlite::Connection::open(&file).map_err(|error| error.to_string())?;
        let begun = conn.query_row("SELECT number FROM starts", [], |row| row.get::<_, i64>(0));
        match begun {
            Ok(begun) if begun == number as i64 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
