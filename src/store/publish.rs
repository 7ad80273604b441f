//! Publishing: events, their idempotency keys and their deliveries.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use sha2::{Digest as _, Sha256};
use sqlx::Row as _;

use super::{
    rows::{Binding, Rows},
    tx::Tx,
    writer::Pending,
};
use crate::domain::{
    Change, ChangeKind, Delivery, DeliveryId, Endpoint, Event, EventId, NewEvent, Pos, TenantKey, Timestamp,
    Uid,
};

/// How long an idempotency key is remembered: 24 h.
pub const IDEMPOTENCY_WINDOW: i64 = 24 * 3600 * 1_000_000;

static EVENTS: LazyLock<Rows> = LazyLock::new(|| Rows::new("INSERT INTO events VALUES", 13, ""));
/// The same where a transaction begins: one hop to the store's thread less, while
/// the publisher waits.
static FIRST_EVENTS: LazyLock<Rows> =
    LazyLock::new(|| Rows::new("BEGIN IMMEDIATE; INSERT INTO events VALUES", 13, ""));
/// New deliveries: pending, never tried, at revision 1 since they were made.
static DELIVERIES: LazyLock<Rows> = LazyLock::new(|| {
    let row = "?,?,?,?,?,?,?,?,?,?,?,?,0,0,?,?,?,?,1,?,NULL,NULL,NULL,NULL,NULL,NULL";
    Rows::of("INSERT INTO deliveries VALUES", row, "")
});
static KEYS: LazyLock<Rows> = LazyLock::new(|| {
    Rows::new(
        "INSERT INTO idempotency VALUES",
        5,
        "ON CONFLICT (tenant, key) DO UPDATE SET hash = excluded.hash, event = excluded.event, \
         expires_at = excluded.expires_at",
    )
});
const KNOWN_KEY: &str = "SELECT i.hash, i.event, e.created_at, e.salt, e.fanout FROM idempotency i \
     JOIN events e ON e.pos = i.event WHERE i.tenant = $1 AND i.key = $2 AND i.expires_at > $3";

/// Events handed in together.
#[derive(Debug)]
pub struct Publish {
    /// The events.
    pub events: Vec<NewEvent>,
    /// All or none.
    pub atomic: bool,
    /// Acceptance.
    pub at: Timestamp,
    /// Random part of the ids.
    pub salt: u32,
}

/// A publish on its way to the writer.
#[derive(Debug)]
pub(super) struct Handed {
    publish: Publish,
    /// Content hashes of the events that have a key, made by the caller's task.
    hashes: Vec<Option<[u8; 16]>>,
    /// Held until the writer has done with it.
    _room: Pending,
}

impl Handed {
    /// Takes a publish with the room it needs.
    pub fn new(publish: Publish, room: Pending) -> Self {
        let hash = |event: &NewEvent| (!event.idempotency_key.is_empty()).then(|| content_hash(event));
        let hashes = publish.events.iter().map(hash).collect();
        Self { publish, hashes, _room: room }
    }
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its id, or that of the first with its key.
    pub event: EventId,
    /// The key was seen before; nothing was published.
    pub duplicate: bool,
    /// Endpoints that matched.
    pub matched: u32,
    /// The deliveries made and where they go; empty for a duplicate.
    pub deliveries: Vec<(DeliveryId, Arc<str>)>,
}

/// Why an event was refused: its key was used before for other content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The event that has the key.
    pub event: EventId,
}

/// What idempotency compares: type, content type and payload.
pub fn content_hash(event: &NewEvent) -> [u8; 16] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(event.event_type.as_bytes());
    part(event.payload.content_type.as_bytes());
    part(&event.payload.data);
    let digest = hash.finalize();
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

/// A known idempotency key.
struct Known {
    hash: [u8; 16],
    event: EventId,
    matched: u32,
}

struct KeyRow {
    tenant: TenantKey,
    key: String,
    hash: [u8; 16],
    event: Pos,
    expires_at: Timestamp,
}

/// One event ready to be written.
struct Accepted {
    event: Arc<Event>,
    wanting: Arc<[Arc<Endpoint>]>,
    pos: Pos,
}

impl Accepted {
    fn bind<'q>(query: Binding<'q>, row: &'q Self) -> Binding<'q> {
        let event = &row.event;
        let key = Some(event.idempotency_key.as_str()).filter(|key| !key.is_empty());
        let metadata = (!event.metadata.is_empty()).then(|| serde_json::json!(event.metadata).to_string());
        query
            .bind(row.pos.0.cast_signed())
            .bind(event.tenant.0)
            .bind(i64::from(event.id.0.salt()))
            .bind(event.created_at.0)
            .bind(row.wanting.len() as i64)
            .bind(i64::from(event.priority))
            .bind(event.deliver_at.map(|at| at.0))
            .bind(event.expires_at.map(|at| at.0))
            .bind(&*event.event_type)
            .bind(key)
            .bind(metadata)
            .bind(&*event.payload.content_type)
            .bind(&event.payload.data[..])
    }
}

impl Tx<'_> {
    /// Publishes what several callers handed in, with one statement a table.
    pub(super) async fn publish<'p>(
        &mut self,
        publishes: impl Iterator<Item = &'p Handed>,
    ) -> Result<Vec<Vec<Result<Published, Refused>>>, sqlx::Error> {
        let (mut accepted, mut keys, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        let mut in_batch: HashMap<(TenantKey, String), ([u8; 16], EventId, u32)> = HashMap::new();
        for Handed { publish, hashes, .. } in publishes {
            let mut known = Vec::with_capacity(publish.events.len());
            for (event, hash) in publish.events.iter().zip(hashes) {
                known.push(self.known(event, *hash, publish.at, &in_batch).await?);
            }
            if publish.atomic && known.iter().any(|it| matches!(it, Some(Err(_)))) {
                let refused =
                    known.iter().find_map(|it| it.as_ref().and_then(|it| it.as_ref().err())).copied();
                answers.push(refused.map(Err).into_iter().collect());
                continue;
            }
            let mut results = Vec::with_capacity(publish.events.len());
            for ((event, hash), known) in publish.events.iter().zip(hashes).zip(known) {
                // A twin earlier in the same call is only known by now.
                let (own, twin) = (*hash, in_batch.get(&(event.tenant, event.idempotency_key.clone())));
                let known = match twin {
                    Some((hash, id, matched)) if known.is_none() => {
                        let first = Known { hash: *hash, event: *id, matched: *matched };
                        own.map(|own| compare(own, &first))
                    }
                    _ => known,
                };
                if let Some(answer) = known {
                    results.push(answer);
                    continue;
                }
                let (row, answer) = self.accept(event, publish);
                if let Some(hash) = own {
                    let expires_at = Timestamp(publish.at.0 + IDEMPOTENCY_WINDOW);
                    let key = event.idempotency_key.clone();
                    in_batch.insert((event.tenant, key.clone()), (hash, answer.event, answer.matched));
                    keys.push(KeyRow { tenant: event.tenant, key, hash, event: row.pos, expires_at });
                }
                accepted.push(row);
                results.push(Ok(answer));
            }
            answers.push(results);
        }
        self.insert_events(&accepted).await?;
        KEYS.execute(self.conn, &keys, |query, row| {
            query
                .bind(row.tenant.0)
                .bind(row.key.as_str())
                .bind(row.hash.as_slice())
                .bind(row.event.0.cast_signed())
                .bind(row.expires_at.0)
        })
        .await?;
        Ok(answers)
    }

    /// What the store says of an event's idempotency key.
    async fn known(
        &mut self,
        event: &NewEvent,
        hash: Option<[u8; 16]>,
        now: Timestamp,
        in_batch: &HashMap<(TenantKey, String), ([u8; 16], EventId, u32)>,
    ) -> Result<Option<Result<Published, Refused>>, sqlx::Error> {
        let Some(own) = hash else { return Ok(None) };
        let key = (event.tenant, event.idempotency_key.clone());
        if let Some((hash, id, matched)) = in_batch.get(&key) {
            return Ok(Some(compare(own, &Known { hash: *hash, event: *id, matched: *matched })));
        }
        let row = sqlx::query(KNOWN_KEY)
            .bind(event.tenant.0)
            .bind(event.idempotency_key.as_str())
            .bind(now.0)
            .fetch_optional(&mut *self.conn)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let pos = Pos(row.try_get::<i64, _>(1)?.cast_unsigned());
        let salt = row.try_get::<i64, _>(3)? as u32;
        let known = Known {
            hash: row.try_get::<Vec<u8>, _>(0)?.try_into().unwrap_or_default(),
            event: EventId(Uid::new(Timestamp(row.try_get(2)?), salt, pos)),
            matched: row.try_get::<i64, _>(4)? as u32,
        };
        Ok(Some(compare(own, &known)))
    }

    /// Numbers an event and its deliveries.
    fn accept(&mut self, new: &NewEvent, publish: &Publish) -> (Accepted, Published) {
        let wanting = self.routes.wanting(new.tenant, &new.event_type);
        let (pos, at) = (self.next_pos(), publish.at);
        let event = Event {
            id: EventId(Uid::new(at, publish.salt, pos)),
            tenant: new.tenant,
            event_type: Arc::clone(&new.event_type),
            payload: new.payload.clone(),
            idempotency_key: new.idempotency_key.clone(),
            priority: new.priority,
            deliver_at: new.deliver_at,
            expires_at: new.expires_at,
            metadata: new.metadata.clone(),
            created_at: at,
        };
        let mut deliveries = Vec::with_capacity(wanting.len());
        for endpoint in wanting.iter() {
            let pos = self.next_pos();
            let delivery = Delivery::first(&event, endpoint, DeliveryId(Uid::new(at, publish.salt, pos)));
            deliveries.push((delivery.id, Arc::clone(&endpoint.id)));
            self.note(Change {
                pos,
                at,
                kind: ChangeKind::Created,
                previous: None,
                delivery: Arc::new(delivery),
                attempt: None,
            });
        }
        let matched = wanting.len() as u32;
        let published = Published { event: event.id, duplicate: false, matched, deliveries };
        let event = Arc::new(event);
        if matched > 0 {
            self.keep_hot(Arc::clone(&event), matched);
        }
        (Accepted { event, wanting, pos }, published)
    }

    async fn insert_events(&mut self, accepted: &[Accepted]) -> Result<(), sqlx::Error> {
        let opening = if self.is_open { 0 } else { Rows::first(accepted.len()) };
        let (first, others) = accepted.split_at(opening);
        FIRST_EVENTS.execute(self.conn, first, Accepted::bind).await?;
        self.is_open |= opening > 0;
        EVENTS.execute(self.conn, others, Accepted::bind).await?;
        let made: Vec<_> = self.fresh_deliveries().collect();
        insert_deliveries(self, &made).await
    }
}

/// Writes the rows of new deliveries.
pub(super) async fn insert_deliveries(
    tx: &mut Tx<'_>,
    deliveries: &[Arc<Delivery>],
) -> Result<(), sqlx::Error> {
    let insert = DELIVERIES.execute(tx.conn, deliveries, |query, it| {
        query
            .bind(it.id.pos().0.cast_signed())
            .bind(it.tenant.0)
            .bind(it.event.pos().0.cast_signed())
            .bind(it.endpoint.0)
            .bind(i64::from(it.id.0.salt()))
            .bind(it.created_at.0)
            .bind(i64::from(it.trigger as u8))
            .bind(i64::from(it.priority))
            .bind(i64::from(it.max_attempts))
            .bind(it.expires_at.map(|at| at.0))
            .bind(it.replay_of.map(|id| id.0.to_bytes().to_vec()))
            .bind(it.letter.map(|id| id.0.to_bytes().to_vec()))
            .bind(it.due_at.0)
            .bind(it.due_at.0)
            .bind(it.turn_at.0)
            .bind(it.created_at.0)
            .bind(it.id.pos().0.cast_signed())
    });
    insert.await.map(drop)
}

fn compare(own: [u8; 16], known: &Known) -> Result<Published, Refused> {
    if known.hash == own {
        Ok(Published { event: known.event, duplicate: true, matched: known.matched, deliveries: Vec::new() })
    } else {
        Err(Refused { event: known.event })
    }
}
