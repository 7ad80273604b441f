//! What the store costs a delivery: publish and result, at several batch sizes,
//! and without one index after another to see what each is worth.
//!
//! `cargo bench --bench store`. Absolute numbers mean little on a shared machine;
//! compare the lines of one run.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use hookwire::{
    domain::{
        Answer, DeadLetterPolicy, Delivery, Endpoint, InstanceId, Micros, NewEvent, Outcome, Payload,
        RetryPolicy, TenantKey, Timestamp, Timings,
    },
    entropy::Entropy,
    machine::judge,
    store::{Config, Finish, Location, Next, Publish, RECENT_MAX, Store},
    vault::Vault,
};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

const EVENTS: usize = 20_000;
const PAYLOAD: usize = 512;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!(
        "{:>6}  {:<26} {:>12} {:>14} {:>14}",
        "batch", "without", "CPU us", "bytes written", "file bytes"
    );
    for batch in [1, 16, 64, 256, 1024] {
        runtime.block_on(measure(batch, None));
    }
    for index in ["deliveries_by_endpoint", "deliveries_waiting"] {
        runtime.block_on(measure(256, Some(index)));
    }
}

async fn measure(batch: usize, without: Option<&'static str>) {
    let folder = tempfile::tempdir().expect("a folder");
    let events = if batch == 1 { EVENTS / 20 } else { EVENTS };
    let store = open(folder.path()).await;
    if let Some(index) = without {
        store.close().await.expect("closed");
        drop(store);
        let options = SqliteConnectOptions::new().filename(folder.path().join("hookwire.db"));
        let mut conn = options.connect().await.expect("the file");
        let sql = format!("DROP INDEX {index}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.expect("dropped");
        conn.close().await.expect("closed");
        let store = open(folder.path()).await;
        return run(store, batch, events, without, folder.path()).await;
    }
    run(store, batch, events, without, folder.path()).await;
}

async fn open(folder: &Path) -> Arc<Store> {
    let config = Config {
        location: Location::Directory(folder.to_owned()),
        instance: InstanceId(1),
        name: "bench".to_owned(),
        started_at: Timestamp(0),
        vault: Vault::drawn(Entropy::seeded(1)),
        incarnation: 1,
        queue_max: u64::MAX,
        pending_bytes_max: u64::MAX,
        mark_every: 10_000_000,
        crash_after_publishes: None,
    };
    Store::open(config).await.expect("the store opens").0
}

async fn run(store: Arc<Store>, batch: usize, events: usize, without: Option<&str>, folder: &Path) {
    store.create_endpoint(endpoint()).await.expect("an endpoint");
    let (cpu, written) = usage();
    let mut after = store.recent().position();
    for round in 0..events / batch {
        let at = Timestamp(1_768_996_800_000_000 + round as i64 * 1_000);
        let new = (0..batch).map(|_| event()).collect();
        store
            .publish(Publish { events: new, atomic: false, in_turn: false, at, salt: 1 })
            .await
            .expect("published");
        let Some(Next::Changes(made, reached)) = store.recent().after(after, RECENT_MAX) else {
            panic!("far from the head")
        };
        for change in made.iter().filter(|change| change.previous.is_none()) {
            store.finish(vec![finish(&change.delivery, at)]).expect("handed over");
        }
        let done = reached.0 + batch as u64;
        store.recent().subscribe().wait_for(|position| position.0 >= done).await.expect("committed");
        after = store.recent().position();
    }
    let (cpu_now, written_now) = usage();
    let size = std::fs::metadata(folder.join("hookwire.db")).map_or(0, |it| it.len());
    let each = |total: u64| total as f64 / events as f64;
    println!(
        "{batch:>6}  {:<26} {:>12.1} {:>14.0} {:>14.0}",
        without.unwrap_or("-"),
        each(cpu_now - cpu),
        each(written_now - written),
        each(size),
    );
}

/// CPU microseconds of this process, and bytes it caused to be written.
fn usage() -> (u64, u64) {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let micros = cpu.tv_sec.cast_unsigned() * 1_000_000 + cpu.tv_nsec.cast_unsigned() / 1_000;
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let written =
        io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).and_then(|it| it.parse().ok());
    (micros, written.unwrap_or(0))
}

fn finish(delivery: &Arc<Delivery>, at: Timestamp) -> Finish {
    let response = hookwire::domain::Response {
        headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
        body: b"ok".to_vec(),
        ..Default::default()
    };
    let answer = Answer { status: 200, response, ..Answer::default() };
    let outcome =
        Outcome { started_at: at, duration: Micros(900), timings: Timings::default(), result: Ok(answer) };
    let verdict = judge::judge(delivery, &RetryPolicy::default(), &outcome, 0.5);
    let letters = DeadLetterPolicy::default();
    let (after, attempt) = judge::settle(delivery, outcome, verdict, letters);
    Finish {
        before: Arc::clone(delivery),
        after,
        attempt: Some(attempt),
        reason: None,
        letters,
        gone: None,
        epoch: 0,
        started: false,
    }
}

fn event() -> NewEvent {
    NewEvent {
        tenant: TenantKey::DEFAULT,
        event_type: "user.created".into(),
        payload: Payload { content_type: "application/json".into(), data: vec![b'1'; PAYLOAD].into() },
        idempotency_key: String::new(),
        priority: 0,
        deliver_at: None,
        expires_at: None,
        metadata: BTreeMap::new(),
    }
}

fn endpoint() -> Endpoint {
    Endpoint::new(TenantKey::DEFAULT, "ep", "http://127.0.0.1:9/", Timestamp(0))
}
