//! What the steps of a delivery cost that only compute: taking a request apart,
//! finding who wants the event, deciding what to send, the body and its signature,
//! and what an answer means. What the store costs is measured by `benches/store.rs`.
//!
//! `cargo bench --bench hot`. Absolute numbers mean little on a shared machine;
//! compare the lines of one run, and of them the medians.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use divan::{
    Bencher, Divan, black_box,
    counter::{BytesCount, ItemsCount},
};
use hookwire::{
    content,
    domain::{
        Answer, DeadLetterPolicy, Delivery, DeliveryId, Endpoint, EndpointKey, Envelope, Event, EventId,
        Micros, Now, Outcome, Pattern, Payload, Pos, RateLimit, Response, RetryPolicy, Secret, TenantKey,
        Timestamp, Timings, Uid,
    },
    grpc::pb,
    machine::{
        breaker::Signal,
        judge,
        lane::{Lane, Step},
        route::Routes,
    },
    signing::Signer,
};
use prost::Message as _;

const NOW: Timestamp = Timestamp(1_768_996_800_000_000);
const PAYLOAD: usize = 512;
/// An envelope around such a payload, roughly.
const BODY: usize = 600;
/// Endpoints that want the event, however many there are.
const WANTING: i64 = 10;
/// Calls to a sample, since many are as short as a few ticks of the timer. Left to
/// find out by itself, the harness takes one if the first call happens to be slow.
const SAMPLE: u32 = 100;
/// What all lanes of a server may hold together.
const ROOM: usize = 32_768;

/// That of the server: some lines are allocation more than anything else.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    // A hundred samples, the default, are over in a few milliseconds, which one
    // interruption spoils. The time of setting up does not count.
    let options = Divan::default().min_time(Duration::from_millis(300)).skip_ext_time(true);
    options.config_with_args().main();
}

/// Without its checks, which are not public. The payload is not copied: it shares
/// the buffer that came.
#[divan::bench(sample_size = SAMPLE)]
fn decode(bencher: Bencher<'_, '_>) {
    let event = pb::Event {
        event_type: "user.created".to_owned(),
        payload: Some(pb::Payload {
            content_type: "application/json".to_owned(),
            body: Some(pb::payload::Body::Data(payload())),
        }),
        ..pb::Event::default()
    };
    let request = pb::PublishEventRequest { event: Some(event), include_deliveries: false };
    let wire = Bytes::from(request.encode_to_vec());
    bencher
        .counter(BytesCount::new(wire.len()))
        .with_inputs(|| wire.clone())
        .bench_values(|wire| pb::PublishEventRequest::decode(wire).expect("what was just encoded"));
}

/// An event of a type that was seen since an endpoint was last changed.
#[divan::bench(args = [10, 100_000], sample_size = SAMPLE)]
fn match_known(bencher: Bencher<'_, '_>, endpoints: i64) {
    let (mut routes, event_type) = (routes(endpoints), Arc::from("user.created"));
    assert_eq!(routes.wanting(TenantKey::DEFAULT, &event_type).len() as i64, WANTING);
    bencher
        .counter(ItemsCount::new(1_usize))
        .bench_local(|| routes.wanting(TenantKey::DEFAULT, black_box(&event_type)));
}

/// The first event after an endpoint was changed. One to a sample: inputs are made
/// a sample at a time, and the next event would find what this one left.
#[divan::bench(args = [10, 100_000], sample_size = 1)]
fn match_after_change(bencher: Bencher<'_, '_>, endpoints: i64) {
    let (routes, event_type) = (RefCell::new(routes(endpoints)), Arc::from("user.created"));
    let changed = Arc::clone(routes.borrow().get(EndpointKey(1)).expect("the first endpoint"));
    bencher
        .counter(ItemsCount::new(1_usize))
        .with_inputs(|| routes.borrow_mut().put(Arc::clone(&changed)))
        .bench_local_values(|()| routes.borrow_mut().wanting(TenantKey::DEFAULT, black_box(&event_type)));
}

/// One delivery through a lane that nothing holds back, behind so many that wait.
#[divan::bench(args = [0, 200, 10_000], sample_size = SAMPLE)]
fn lane(bencher: Bencher<'_, '_>, waiting: u64) {
    let rate_limit = RateLimit { disabled: true, ..RateLimit::default() };
    let endpoint = Arc::new(Endpoint { rate_limit, ..endpoint(1) });
    let event = event();
    let mut lane = Lane::new(Arc::clone(&endpoint), None, NOW);
    for pos in 1..=waiting {
        lane.offer(delivery(&event, &endpoint, pos), ROOM, &Now::at(NOW));
    }
    assert_eq!(lane.held() as u64, waiting);
    let mut last = waiting;
    let next = || {
        last += 1;
        delivery(&event, &endpoint, last)
    };
    bencher.counter(ItemsCount::new(1_usize)).with_inputs(next).bench_local_values(|delivery| {
        lane.offer(delivery, ROOM, &Now::at(NOW));
        let Step::Send(sent) = lane.next(0, &Now::at(NOW)) else { panic!("nothing holds the lane back") };
        let pos = sent.id.pos();
        lane.land(pos, Signal::Success, None, NOW);
        lane.recorded(pos);
        // Let go of outside the timing: whoever records the result still has it.
        sent
    });
}

#[divan::bench(sample_size = SAMPLE)]
fn envelope(bencher: Bencher<'_, '_>) {
    let event = event();
    let length = content::body(&event, Envelope::Event).data.len();
    assert!(length > PAYLOAD, "the payload is wrapped");
    bencher.counter(BytesCount::new(length)).bench(|| content::body(black_box(&event), Envelope::Event));
}

/// As an endpoint signs by default, with one secret, whose keyed state is at hand.
#[divan::bench(sample_size = SAMPLE)]
fn sign(bencher: Bencher<'_, '_>) {
    let secret = Secret {
        id: "1".to_owned(),
        value: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
        created_at: NOW,
        primary_at: None,
        expires_at: None,
    };
    let signer = Signer::new(&Endpoint { secrets: vec![secret], ..endpoint(1) });
    let (id, body) = (event().id.to_string(), vec![b'1'; BODY]);
    assert_eq!(signer.sign(&id, NOW, &body).len(), 3, "id, timestamp and signature");
    bencher.counter(BytesCount::new(BODY)).bench(|| signer.sign(black_box(&id), NOW, black_box(&body)));
}

/// What a 200 means, and what is to be recorded of it.
#[divan::bench(sample_size = SAMPLE)]
fn judge_and_settle(bencher: Bencher<'_, '_>) {
    let delivery = delivery(&event(), &endpoint(1), 2);
    let (policy, letters) = (RetryPolicy::default(), DeadLetterPolicy::default());
    bencher.counter(ItemsCount::new(1_usize)).with_inputs(outcome).bench_values(|outcome| {
        let verdict = judge::judge(black_box(&delivery), &policy, &outcome, 0.5);
        judge::settle(&delivery, outcome, verdict, letters)
    });
}

/// So many endpoints, of which a few want the event.
fn routes(endpoints: i64) -> Routes {
    let pattern = |text| vec![Pattern::parse(text).expect("a pattern")];
    let (wanted, other) = (pattern("user.*"), pattern("order.*"));
    let mut routes = Routes::default();
    for key in 1..=endpoints {
        let event_types = if key <= WANTING { wanted.clone() } else { other.clone() };
        routes.put(Arc::new(Endpoint { event_types, ..endpoint(key) }));
    }
    routes
}

fn endpoint(key: i64) -> Endpoint {
    let made = Endpoint::new(TenantKey::DEFAULT, format!("ep_{key}"), "http://127.0.0.1:9/", NOW);
    Endpoint { key: EndpointKey(key), ..made }
}

fn event() -> Event {
    Event {
        id: EventId(Uid::new(NOW, 7, Pos(1))),
        tenant: TenantKey::DEFAULT,
        event_type: "user.created".into(),
        payload: Payload { content_type: "application/json".into(), data: payload() },
        idempotency_key: String::new(),
        priority: 0,
        deliver_at: None,
        expires_at: None,
        metadata: BTreeMap::new(),
        created_at: NOW,
    }
}

fn payload() -> Bytes {
    vec![b'1'; PAYLOAD].into()
}

fn delivery(event: &Event, endpoint: &Endpoint, pos: u64) -> Arc<Delivery> {
    Arc::new(Delivery::first(event, endpoint, DeliveryId(Uid::new(NOW, 7, Pos(pos)))))
}

fn outcome() -> Outcome {
    let response = Response {
        headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
        body: b"ok".to_vec(),
        ..Response::default()
    };
    let answer = Answer { status: 200, response, ..Answer::default() };
    Outcome { started_at: NOW, duration: Micros(900), timings: Timings::default(), result: Ok(answer) }
}
