//! Publishing: events, their idempotency keys and their deliveries.

use std::{collections::HashMap, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::{
    Error,
    db::{Columns, Sql, Value, params},
    room::Place,
    tx::Tx,
};
use crate::domain::{
    Change, ChangeKind, Delivery, DeliveryId, Endpoint, Event, EventId, NewEvent, Pos, Quota, TenantKey,
    Timestamp, Uid, Usage,
};

/// How long an idempotency key is remembered: 24 h.
pub const IDEMPOTENCY_WINDOW: i64 = 24 * 3600 * 1_000_000;

/// Where deliveries in open states are.
const OPEN: Sql = Sql { sqlite: "deliveries", postgres: "deliveries_open" };
const RENEW_KEY: &str = "ON CONFLICT (tenant, key) DO UPDATE SET \
     hash = excluded.hash, event = excluded.event, expires_at = excluded.expires_at";
/// Idempotency keys with the events they were used for. On the server key by key, see
/// `deliveries::UPDATE`.
pub(super) const KNOWN_KEYS: Sql = Sql {
    sqlite: "SELECT i.tenant, i.key, i.expires_at, i.hash, i.event, e.created_at, e.salt, e.fanout \
         FROM idempotency i JOIN events e ON e.pos = i.event WHERE i.tenant = ? AND i.key = ?",
    postgres: "SELECT t.* FROM {rows} AS k (tenant, key) CROSS JOIN LATERAL (SELECT i.tenant, i.key, i.expires_at, i.hash, \
         i.event, e.created_at, e.salt, e.fanout FROM idempotency i JOIN events e ON e.pos = i.event \
         WHERE i.tenant = k.tenant AND i.key = k.key OFFSET 0) AS t",
};

/// Events handed in together.
#[derive(Debug)]
pub struct Publish {
    /// The events.
    pub events: Vec<NewEvent>,
    /// All or none.
    pub atomic: bool,
    /// Waits for room on the way to the writer, as long as it takes: for those who
    /// send no more meanwhile. The others are refused.
    pub in_turn: bool,
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
    place: Place,
}

impl Handed {
    /// Takes a publish with the room it needs.
    pub fn new(publish: Publish, place: Place) -> Self {
        let hash = |event: &NewEvent| (!event.idempotency_key.is_empty()).then(|| content_hash(event));
        let hashes = publish.events.iter().map(hash).collect();
        Self { publish, hashes, place }
    }

    /// How much there is to write, as [`super::room`] counts it.
    pub fn weight(&self) -> usize {
        self.place.num_permits()
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

/// Why an event was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its key was used before for other content, by this event.
    Conflict(EventId),
    /// Its tenant is gone.
    NoTenant,
    /// Its tenant would have more of something than it may.
    Quota {
        /// Of what.
        quota: &'static str,
        /// How much it may have.
        limit: u64,
    },
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

/// Idempotency keys that the store knows, and until when.
type Stored = HashMap<(TenantKey, String), (Timestamp, Known)>;

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

impl Tx<'_> {
    /// Publishes what several callers handed in, one table after the other.
    pub(super) fn publish<'p>(
        &mut self,
        publishes: impl Iterator<Item = &'p Handed>,
    ) -> Result<Vec<Vec<Result<Published, Refused>>>, Error> {
        let publishes: Vec<_> = publishes.collect();
        let (mut accepted, mut keys, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        let stored = self.known_keys(&publishes)?;
        let mut in_batch: HashMap<(TenantKey, String), ([u8; 16], EventId, u32)> = HashMap::new();
        for Handed { publish, hashes, .. } in publishes {
            let known = |(event, hash): (&NewEvent, &Option<[u8; 16]>)| {
                known(event, *hash, publish.at, &in_batch, &stored)
            };
            let known: Vec<_> = publish.events.iter().zip(hashes).map(known).collect();
            let quota = match self.quota_of(publish) {
                Ok(quota) => quota,
                Err(refused) => {
                    answers.push(vec![Err(refused); if publish.atomic { 1 } else { publish.events.len() }]);
                    continue;
                }
            };
            if publish.atomic {
                let conflict = known.iter().find_map(|it| it.as_ref().and_then(|it| it.as_ref().err()));
                let new = publish.events.iter().zip(&known).filter(|(_, known)| known.is_none());
                let refused =
                    conflict.copied().or_else(|| self.over(quota, new.map(|(event, _)| event), publish.at));
                if let Some(refused) = refused {
                    answers.push(vec![Err(refused)]);
                    continue;
                }
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
                if let Some(refused) = self.over(quota, std::iter::once(event), publish.at) {
                    results.push(Err(refused));
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
        self.insert_events(&accepted)?;
        insert_deliveries(self, &self.fresh_deliveries().collect::<Vec<_>>())?;
        self.insert_keys(&keys)?;
        Ok(answers)
    }

    /// What the tenant of a publish may use; all of its events have the same.
    fn quota_of(&self, publish: &Publish) -> Result<Quota, Refused> {
        let Some(event) = publish.events.first() else { return Ok(Quota::default()) };
        self.tenant(event.tenant).map(|tenant| tenant.quota).ok_or(Refused::NoTenant)
    }

    /// What of a quota some new events of one tenant would be over.
    fn over<'e>(
        &mut self,
        quota: Quota,
        events: impl Iterator<Item = &'e NewEvent>,
        at: Timestamp,
    ) -> Option<Refused> {
        if (quota.events_per_day, quota.queued_bytes) == (0, 0) {
            return None;
        }
        let (mut count, mut bytes, mut used) = (0, 0, Usage::default());
        for event in events {
            let copies = self.routes.wanting(event.tenant, &event.event_type).len() as u64;
            (count, bytes) = (count + 1, bytes + copies * event.payload.data.len() as u64);
            used = *self.usage(event.tenant);
        }
        let today = used.events_on(Usage::day_of(at)) + count;
        let queued = bytes.saturating_add_signed(used.queued_bytes);
        let over =
            |quota, limit, wanted| (limit > 0 && wanted > limit).then_some(Refused::Quota { quota, limit });
        // What brings no byte into the queue is not refused for it.
        let queued = if bytes > 0 { queued } else { 0 };
        over("events per day", quota.events_per_day, today)
            .or_else(|| over("queued bytes", quota.queued_bytes, queued))
    }

    /// Of the idempotency keys of some events those that the store knows, and until
    /// when.
    fn known_keys(&self, publishes: &[&Handed]) -> Result<Stored, Error> {
        let events = publishes.iter().flat_map(|it| it.publish.events.iter().zip(&it.hashes));
        let keys = events.filter(|(_, hash)| hash.is_some()).map(|(event, _)| event);
        let keys = keys.map(|event| params![event.tenant, &event.idempotency_key]);
        let known = |row: &dyn Columns| {
            let hash = row.bytes(3)?.and_then(|hash| hash.try_into().ok());
            let hash = hash.ok_or_else(|| Error::corrupt("idempotency.hash", row.number(4).unwrap_or(0)))?;
            let event = EventId(Uid::new(row.time(5)?, row.small(6)?, row.pos(4)?));
            let known = Known { hash, event, matched: row.small(7)? };
            Ok(((TenantKey(row.number(0)?), row.word(1)?.to_owned()), (row.time(2)?, known)))
        };
        Ok(self.conn.rows_each(KNOWN_KEYS, keys, known)?.into_iter().collect())
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
        self.usage(new.tenant).publish(1, at);
        let matched = wanting.len() as u32;
        let published = Published { event: event.id, duplicate: false, matched, deliveries };
        let event = Arc::new(event);
        let here = wanting.iter().filter(|endpoint| self.shards.is_home(endpoint.key)).count() as u32;
        if here > 0 {
            self.keep_hot(Arc::clone(&event), here);
        }
        (Accepted { event, wanting, pos }, published)
    }

    fn insert_events(&self, accepted: &[Accepted]) -> Result<(), Error> {
        let metadata = accepted.iter().map(|Accepted { event, .. }| {
            (!event.metadata.is_empty()).then(|| serde_json::json!(event.metadata).to_string())
        });
        let metadata: Vec<Option<String>> = metadata.collect();
        let rows = accepted.iter().zip(&metadata).map(|(Accepted { event, wanting, pos }, metadata)| {
            let mut row = params![
                pos,
                event.tenant,
                event.id.0.salt(),
                event.created_at,
                wanting.len() as i64,
                event.priority,
                event.deliver_at,
                event.expires_at,
                &event.event_type,
                &event.idempotency_key,
                metadata,
                &event.payload.content_type,
                &event.payload.data,
            ];
            if event.idempotency_key.is_empty() {
                row[9] = Value::Text(None);
            }
            row
        });
        self.conn.insert("events", "", rows)
    }

    fn insert_keys(&self, keys: &[KeyRow]) -> Result<(), Error> {
        let rows = keys.iter().map(|KeyRow { tenant, key, hash, event, expires_at }| {
            params![tenant, key, hash, event, expires_at]
        });
        self.conn.insert("idempotency", RENEW_KEY, rows)
    }
}

/// What is known of an event's idempotency key.
fn known(
    event: &NewEvent,
    hash: Option<[u8; 16]>,
    now: Timestamp,
    in_batch: &HashMap<(TenantKey, String), ([u8; 16], EventId, u32)>,
    stored: &Stored,
) -> Option<Result<Published, Refused>> {
    let own = hash?;
    let key = (event.tenant, event.idempotency_key.clone());
    if let Some((hash, id, matched)) = in_batch.get(&key) {
        return Some(compare(own, &Known { hash: *hash, event: *id, matched: *matched }));
    }
    stored.get(&key).filter(|(expires_at, _)| *expires_at > now).map(|(_, known)| compare(own, known))
}

/// Writes the rows of new deliveries.
pub(super) fn insert_deliveries(tx: &Tx<'_>, deliveries: &[Arc<Delivery>]) -> Result<(), Error> {
    let none: (Option<i64>, Option<&str>) = (None, None);
    // Pending, never tried, at revision 1 since it was made.
    let rows = deliveries.iter().map(|it| {
        params![
            it.id.pos(),
            it.tenant,
            it.event.pos(),
            it.endpoint,
            it.id.0.salt(),
            it.created_at,
            it.trigger as u8,
            it.priority,
            it.max_attempts,
            it.expires_at,
            it.replay_of,
            it.letter,
            it.state as u8,
            it.attempts,
            it.due_at,
            it.due_at,
            it.turn_at,
            it.created_at,
            it.revision.cast_signed(),
            it.id.pos(),
            none.0,
            none.0,
            none.0,
            none.0,
            none.0,
            none.1,
        ]
    });
    tx.conn.insert(OPEN, "", rows)
}

fn compare(own: [u8; 16], known: &Known) -> Result<Published, Refused> {
    if known.hash == own {
        Ok(Published { event: known.event, duplicate: true, matched: known.matched, deliveries: Vec::new() })
    } else {
        Err(Refused::Conflict(known.event))
    }
}
