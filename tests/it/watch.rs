//! A watcher that resumes sees everything, in order, whatever happened between.
//!
//! The change log is dense per delivery: revision 1, 2, 3, and so on. So each
//! watcher can tell by itself whether it missed something or got it out of order,
//! and the test only has to compare where it ended with what the server lists in
//! the end. Disconnects are at random, tokens are sometimes stale, and the server
//! is killed again and again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use hookwire::grpc::pb::{self, DeliveryStatus, delivery_change::Kind, watch_deliveries_request::Start};
use tokio::{sync::watch, task::JoinSet};
use tonic::{Code, Status};

use crate::support::{
    Answer, Api, Dice, Load, Received, Receiver, Server, alone, detail, event, eventually, is_final,
    open_endpoint, reason_of, retrying, span, transport_fault,
};

fn from_token(token: &str) -> pb::WatchDeliveriesRequest {
    pb::WatchDeliveriesRequest { start: Some(Start::ResumeToken(token.to_owned())), ..Default::default() }
}

/// What one watcher has seen, checked as it comes.
#[derive(Default)]
pub struct Observer {
    /// For messages.
    pub name: String,
    changes: BTreeMap<u64, (String, u64)>,
    /// Revision and status of each delivery.
    pub latest: HashMap<String, (u64, DeliveryStatus)>,
    /// Changes seen more than once, after resuming.
    pub repeats: usize,
}

impl Observer {
    /// Takes the changes of one response. `in_stream` is the last sequence seen
    /// on the present stream.
    fn take(&mut self, in_stream: &mut u64, changes: Vec<pb::DeliveryChange>) {
        let name = &self.name;
        for change in changes {
            let sequence = change.sequence;
            assert!(sequence > *in_stream, "{name}: {sequence} after {in_stream} on one stream");
            *in_stream = sequence;
            let kind = change.kind();
            let previous = change.previous_status();
            let delivery = change.delivery.expect("a change has its delivery");
            let status = delivery.status();
            let told = (delivery.id, delivery.revision);
            let newest = self.changes.last_key_value().map_or(0, |(last, _)| *last);
            if sequence <= newest {
                assert_eq!(self.changes.get(&sequence), Some(&told), "{name}: {sequence} was not so before");
                self.repeats += 1;
                continue;
            }
            let before = self.latest.get(&told.0).copied();
            let (revision, was) = before.unwrap_or((0, DeliveryStatus::Unspecified));
            assert_eq!(told.1, revision + 1, "{name}: a gap in {} at sequence {sequence}", told.0);
            assert_eq!(kind == Kind::Created, told.1 == 1, "{name}: {kind:?} at revision {}", told.1);
            assert!(!is_final(was), "{name}: {} changed after its end", told.0);
            if before.is_some() {
                assert_eq!(previous, was, "{name}: {} was {was:?}", told.0);
            }
            self.latest.insert(told.0.clone(), (told.1, status));
            self.changes.insert(sequence, told);
        }
    }
}

/// Watches until it has seen as many changes as there are, dropping the stream
/// now and then and going back to one of the last tokens, at any of the instances.
pub async fn watch_on_and_off(
    ports: Vec<u16>,
    mut dice: Dice,
    name: String,
    start: String,
    mut total: watch::Receiver<Option<usize>>,
    progress: watch::Sender<usize>,
) -> Observer {
    let mut seen = Observer { name, ..Observer::default() };
    let mut tokens = vec![start];
    loop {
        let back = usize::try_from(dice.roll(0, 3)).expect("small").min(tokens.len() - 1);
        let request = pb::WatchDeliveriesRequest {
            progress_interval: span(1000),
            max_batch_size: i32::try_from(dice.roll(1, 200)).expect("small"),
            ..from_token(&tokens[tokens.len() - 1 - back])
        };
        let api = Api::at(ports[usize::try_from(dice.roll(0, ports.len() as u64)).expect("small")]);
        let patience = dice.roll(5, 300);
        if let Err(status) = watch_a_while(&api, request, patience, &mut seen, &mut tokens).await {
            assert!(transport_fault(&status), "{}: {status:?}", seen.name);
            // The server may be down; a client backs off.
            tokio::time::sleep(Duration::from_millis(dice.roll(20, 80))).await;
        }
        progress.send_replace(seen.changes.len());
        if *total.borrow_and_update() == Some(seen.changes.len()) {
            return seen;
        }
    }
}

/// Takes that many responses at most, fewer when there is nothing new.
async fn watch_a_while(
    api: &Api,
    request: pb::WatchDeliveriesRequest,
    patience: u64,
    seen: &mut Observer,
    tokens: &mut Vec<String>,
) -> Result<(), Status> {
    let (mut stream, first) = api.watch(request).await?;
    assert!(first.changes.is_empty(), "{}: the first response has no changes", seen.name);
    let mut in_stream = 0;
    for _ in 0..patience {
        let Some(response) = stream.message().await? else {
            return Err(Status::unavailable("the watch ended"));
        };
        let quiet = response.changes.is_empty();
        seen.take(&mut in_stream, response.changes);
        // Kept after the changes were taken, as the API asks.
        tokens.push(response.resume_token);
        if tokens.len() > 4 {
            tokens.remove(0);
        }
        if quiet {
            break;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_watchers_that_come_and_go_through_five_kills_miss_nothing() {
    const WATCHERS: u64 = 20;
    const KILLS: u64 = 5;
    /// Each goes to two endpoints.
    const EVENTS: u64 = 5_000;
    let _alone = alone().await;
    let mut dice = Dice::of("watch");
    let mut server = Server::build().restartable().start().await;
    let api = server.api();
    // One delivery in eight fails once, so that there are more than two changes.
    let flaky = |request: &Received| {
        let unlucky = request.delivery_id().ends_with(['0', '1']);
        if unlucky && !request.number.is_multiple_of(3) { Answer::status(500) } else { Answer::ok() }
    };
    let receivers = [Receiver::answering(flaky).await, Receiver::answering(flaky).await];
    for receiver in &receivers {
        let endpoint = pb::Endpoint {
            max_in_flight: 100,
            retry_policy: retrying(50, 100),
            circuit_breaker: Some(pb::CircuitBreaker { disabled: true, ..Default::default() }),
            ..open_endpoint(receiver.at("/hook"))
        };
        api.create_endpoint(endpoint).await;
    }
    let listed = api.deliveries.clone().list_deliveries(pb::ListDeliveriesRequest::default()).await;
    let start = listed.expect("ListDeliveries").into_inner().resume_token;

    let (tell_total, total) = watch::channel(None);
    let mut watchers = JoinSet::new();
    let mut progress = Vec::new();
    for number in 0..WATCHERS {
        let (report, reported) = watch::channel(0);
        progress.push(reported);
        let name = format!("watcher {number}");
        let dice = dice.fork(number);
        let ports = vec![server.port];
        watchers.spawn(watch_on_and_off(ports, dice, name, start.clone(), total.clone(), report));
    }

    let load = Load::start(&[server.port], "tick", EVENTS, [2, 4, 2]);
    for kill in 1..=KILLS {
        let mark = EVENTS * kill / (KILLS + 1);
        let what = format!("{mark} events acknowledged");
        eventually(Duration::from_secs(60), &what, async || {
            let acked = load.ledger.count();
            if acked as u64 >= mark { Ok(()) } else { Err(format!("{acked}")) }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(dice.roll(0, 50))).await;
        server.kill9();
        server.restart().await;
    }
    load.finish(Duration::from_secs(60)).await;
    api.all_final(Duration::from_secs(90)).await;

    let deliveries = api.all_deliveries(pb::DeliveryFilter::default()).await;
    assert_eq!(deliveries.len() as u64, 2 * EVENTS);
    let truth: HashMap<_, _> = deliveries
        .into_iter()
        .map(|delivery| {
            let status = delivery.status();
            (delivery.id, (delivery.revision, status))
        })
        .collect();
    let changes: u64 = truth.values().map(|(revision, _)| revision).sum();
    tell_total.send_replace(Some(usize::try_from(changes).expect("small")));

    let ended = tokio::time::timeout(Duration::from_secs(90), watchers.join_all()).await;
    let watchers = ended.unwrap_or_else(|_| {
        let seen: Vec<_> = progress.iter().map(|seen| *seen.borrow()).collect();
        panic!("of {changes} changes the watchers saw only {seen:?}")
    });
    for watcher in &watchers {
        assert!(watcher.latest == truth, "{} ended elsewhere than the list", watcher.name);
    }
    let repeats: usize = watchers.iter().map(|watcher| watcher.repeats).sum();
    println!("watch: {changes} changes each, {repeats} seen again after resuming");
    assert!(repeats > 0, "stale tokens repeat, or the test did not test that");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_response_comes_at_once_and_progress_follows_in_silence() {
    let server = Server::start().await;
    let api = server.api();
    let request = pb::WatchDeliveriesRequest { progress_interval: span(1000), ..Default::default() };
    let opened = tokio::time::timeout(Duration::from_secs(2), api.watch(request)).await;
    let (mut stream, first) = opened.expect("at once").expect("a watch");
    assert!(first.changes.is_empty());
    assert!(!first.resume_token.is_empty() && first.resume_token.len() <= 256);
    assert!(first.resume_token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)));
    assert!(first.server_time.is_some());

    for _ in 0..2 {
        let progress = tokio::time::timeout(Duration::from_secs(3), stream.message()).await;
        let progress = progress.expect("within the interval").expect("no error").expect("a response");
        assert!(progress.changes.is_empty() && !progress.resume_token.is_empty(), "{progress:?}");
        assert_eq!(progress.lag, 0, "nothing is waiting");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_can_be_followed_without_a_gap() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    let endpoint = api.create_endpoint(open_endpoint(receiver.at("/hook"))).await;
    let other = api.create_endpoint(open_endpoint(receiver.at("/other"))).await;
    api.publish(event("before", "{}")).await;

    let filter = pb::DeliveryFilter { endpoint_ids: vec![endpoint.id.clone()], ..Default::default() };
    let request = pb::ListDeliveriesRequest { filter: Some(filter.clone()), ..Default::default() };
    let listed = api.deliveries.clone().list_deliveries(request).await.expect("list").into_inner();
    let mut known: HashMap<_, _> =
        listed.deliveries.into_iter().map(|delivery| (delivery.id, delivery.revision)).collect();
    assert_eq!(known.len(), 1);

    // Published while nobody watches.
    let published = api.publish(event("between", "{}")).await;
    assert_eq!(published.matched_endpoints, 2);
    let request = pb::WatchDeliveriesRequest {
        filter: Some(filter),
        include_attempts: true,
        ..from_token(&listed.resume_token)
    };
    let (mut stream, _) = api.watch(request).await.expect("a watch");
    let delivered = async {
        loop {
            let response = stream.message().await.expect("no error").expect("a response");
            for change in response.changes {
                let (kind, attempt) = (change.kind(), change.attempt);
                let delivery = change.delivery.expect("a delivery");
                assert_ne!(delivery.endpoint_id, other.id, "the filter holds");
                let revision = known.entry(delivery.id.clone()).or_default();
                assert!(delivery.revision <= *revision + 1, "a gap: {delivery:?} after {revision}");
                *revision = delivery.revision.max(*revision);
                if delivery.event_id == published.event_id && delivery.status() == DeliveryStatus::Delivered {
                    assert_eq!(kind, Kind::StatusChanged);
                    return attempt.expect("the attempt that delivered it");
                }
            }
        }
    };
    let attempt = tokio::time::timeout(Duration::from_secs(10), delivered).await.expect("delivered");
    assert_eq!(attempt.response.expect("a response").status_code, 200);
    assert_eq!(known.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_older_than_the_log_is_refused_with_a_token_that_works() {
    let server = Server::build().env("HOOKWIRE_FEED_RETENTION_MS", "1500").start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    api.create_endpoint(open_endpoint(receiver.at("/hook"))).await;
    let (stream, first) = api.watch(pb::WatchDeliveriesRequest::default()).await.expect("a watch");
    drop(stream);
    let old = first.resume_token;
    let id = api.publish_to_one(event("early", "{}")).await;
    api.delivery_in(&id, DeliveryStatus::Delivered, Duration::from_secs(5)).await;

    let refused = eventually(Duration::from_secs(15), "the old position is refused", async || {
        match api.watch(from_token(&old)).await {
            Ok(_) => Err("still good".to_owned()),
            Err(status) => Ok(status),
        }
    })
    .await;
    assert_eq!((refused.code(), reason_of(&refused).as_str()), (Code::OutOfRange, "WATCH_COMPACTED"));
    let oldest = detail(&refused, "oldest_sequence");
    assert!(oldest.parse::<u64>().is_ok(), "{refused:?}");
    assert!(!detail(&refused, "oldest_time").is_empty(), "{refused:?}");

    let token = detail(&refused, "resume_token");
    let (mut stream, first) = api.watch(from_token(&token)).await.expect("the token offered is good");
    assert!(first.changes.is_empty());
    let late = api.publish_to_one(event("late", "{}")).await;
    let found = async {
        loop {
            let response = stream.message().await.expect("no error").expect("a response");
            if response
                .changes
                .iter()
                .any(|change| change.delivery.as_ref().is_some_and(|delivery| delivery.id == late))
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), found).await.expect("later changes follow");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_ours_is_refused() {
    let server = Server::start().await;
    let stranger = Server::start().await;
    let (_, first) = stranger.api().watch(pb::WatchDeliveriesRequest::default()).await.expect("a watch");
    let mut mangled = first.resume_token.clone().into_bytes();
    let last = mangled.last_mut().expect("not empty");
    *last = if *last == b'A' { b'B' } else { b'A' };
    let mangled = String::from_utf8(mangled).expect("ASCII");
    for (what, token) in
        [("another store's", first.resume_token.as_str()), ("mangled", &mangled), ("made up", "42")]
    {
        let refused = server.api().watch(from_token(token)).await.map(|_| ()).expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused:?}");
        assert_eq!(reason_of(&refused), "RESUME_TOKEN_INVALID", "{what}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watchers_of_the_same_moment_agree() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    api.create_endpoint(open_endpoint(receiver.at("/hook"))).await;
    let batch = (0..50).map(|number| event("tick", format!("{{\"number\":{number}}}"))).collect();
    api.publish_batch(batch).await;
    api.all_final(Duration::from_secs(10)).await;

    let earliest = pb::WatchDeliveriesRequest {
        start: Some(Start::Earliest(true)),
        progress_interval: span(1000),
        ..Default::default()
    };
    let mut watchers = JoinSet::new();
    for number in 0..5 {
        let (api, request) = (Arc::new(server.api()), earliest.clone());
        watchers.spawn(async move {
            let mut seen = Observer { name: format!("watcher {number}"), ..Observer::default() };
            let mut tokens = Vec::new();
            // Ends at the first progress marker, when all was sent.
            watch_a_while(&api, request, u64::MAX, &mut seen, &mut tokens).await.expect("a watch");
            seen.changes
        });
    }
    let seen = watchers.join_all().await;
    assert_eq!(seen[0].len(), 100, "made and delivered, fifty times");
    assert!(seen.iter().all(|changes| *changes == seen[0]));
}
