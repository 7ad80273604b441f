//! Publishing: events, their idempotency keys and their deliveries.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

use super::{Error, room::Place, tx::Tx};
use crate::domain::{
    Change, ChangeKind, Delivery, DeliveryId, Endpoint, Event, EventId, NewEvent, Pos, Quota, TenantKey,
    Timestamp, Uid, Usage,
};

/// How long an idempotency key is remembered: 24 h.
pub const IDEMPOTENCY_WINDOW: i64 = 24 * 3600 * 1_000_000;

const EVENT: &str = "INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)";
/// A new delivery: pending, never tried, at revision 1 since it was made.
const DELIVERY: &str = "INSERT INTO deliveries VALUES \
     (?,?,?,?,?,?,?,?,?,?,?,?,0,0,?,?,?,?,1,?,NULL,NULL,NULL,NULL,NULL,NULL)";
const KEY: &str = "INSERT INTO idempotency VALUES (?,?,?,?,?) ON CONFLICT (tenant, key) DO UPDATE SET \
     hash = excluded.hash, event = excluded.event, expires_at = excluded.expires_at";
const KNOWN_KEY: &str = "SELECT i.hash, i.event, e.created_at, e.salt, e.fanout FROM idempotency i \
     JOIN events e ON e.pos = i.event WHERE i.tenant = ? AND i.key = ? AND i.expires_at > ?";

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
        let (mut accepted, mut keys, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        let mut in_batch: HashMap<(TenantKey, String), ([u8; 16], EventId, u32)> = HashMap::new();
        for Handed { publish, hashes, .. } in publishes {
            let mut known = Vec::with_capacity(publish.events.len());
            for (event, hash) in publish.events.iter().zip(hashes) {
                known.push(self.known(event, *hash, publish.at, &in_batch)?);
            }
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

    /// What the store says of an event's idempotency key.
    fn known(
        &mut self,
        event: &NewEvent,
        hash: Option<[u8; 16]>,
        now: Timestamp,
        in_batch: &HashMap<(TenantKey, String), ([u8; 16], EventId, u32)>,
    ) -> Result<Option<Result<Published, Refused>>, Error> {
        let Some(own) = hash else { return Ok(None) };
        let key = (event.tenant, event.idempotency_key.clone());
        if let Some((hash, id, matched)) = in_batch.get(&key) {
            return Ok(Some(compare(own, &Known { hash: *hash, event: *id, matched: *matched })));
        }
        let mut query = self.conn.prepare_cached(KNOWN_KEY)?;
        let known = query
            .query_row(params![event.tenant, event.idempotency_key, now], |row| {
                let id =
                    Uid::new(Timestamp(row.get(2)?), row.get(3)?, Pos(row.get::<_, i64>(1)?.cast_unsigned()));
                Ok(Known { hash: row.get(0)?, event: EventId(id), matched: row.get(4)? })
            })
            .optional()?;
        Ok(known.map(|known| compare(own, &known)))
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
        if matched > 0 {
            self.keep_hot(Arc::clone(&event), matched);
        }
        (Accepted { event, wanting, pos }, published)
    }

    fn insert_events(&self, accepted: &[Accepted]) -> Result<(), Error> {
        let mut insert = self.conn.prepare_cached(EVENT)?;
        for Accepted { event, wanting, pos } in accepted {
            let key = Some(event.idempotency_key.as_str()).filter(|key| !key.is_empty());
            let metadata =
                (!event.metadata.is_empty()).then(|| serde_json::json!(event.metadata).to_string());
            insert.execute(params![
                pos,
                event.tenant,
                event.id.0.salt(),
                event.created_at,
                wanting.len() as i64,
                event.priority,
                event.deliver_at,
                event.expires_at,
                event.event_type,
                key,
                metadata,
                event.payload.content_type,
                &event.payload.data[..],
            ])?;
        }
        Ok(())
    }

    fn insert_keys(&self, keys: &[KeyRow]) -> Result<(), Error> {
        let mut insert = self.conn.prepare_cached(KEY)?;
        for KeyRow { tenant, key, hash, event, expires_at } in keys {
            insert.execute(params![tenant, key, hash, event, expires_at])?;
        }
        Ok(())
    }
}

/// Writes the rows of new deliveries.
pub(super) fn insert_deliveries(tx: &Tx<'_>, deliveries: &[Arc<Delivery>]) -> Result<(), Error> {
    let mut insert = tx.conn.prepare_cached(DELIVERY)?;
    for it in deliveries {
        insert.execute(params![
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
            it.due_at,
            it.due_at,
            it.turn_at,
            it.created_at,
            it.id.pos(),
        ])?;
    }
    Ok(())
}

fn compare(own: [u8; 16], known: &Known) -> Result<Published, Refused> {
    if known.hash == own {
        Ok(Published { event: known.event, duplicate: true, matched: known.matched, deliveries: Vec::new() })
    } else {
        Err(Refused::Conflict(known.event))
    }
}
