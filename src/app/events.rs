//! Publishing events and reading them back.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{App, Error, Invalid, Kind, List, PageQuery};
use crate::{
    domain::{Event, EventId, EventSummary, NewEvent, Page, Pos, Rule, TenantKey, Violations},
    store::{EventFilter, Publish, Published, Refused, content_hash},
};

/// Bytes of payload shown in one page at most: a page fits a client's usual limit
/// of 4 MiB unless a single item does not. A page cut short has a token.
pub(super) const PAGE_BYTES_MAX: usize = 3 << 20;
/// Rows with payloads read at once, so that a page holds little more than it shows.
pub(super) const ROWS_WITH_PAYLOAD: u32 = 16;
/// Summaries counted at once.
const COUNTED_AT_ONCE: usize = 4;

/// How much of a resource is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// No payloads.
    Basic,
    /// Everything.
    Full,
}

/// An event with what belongs to it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The event; without its payload in a basic read.
    pub event: Event,
    /// Size of the payload.
    pub size: u64,
    /// Its deliveries, counted.
    pub summary: EventSummary,
}

impl App {
    /// Publishes events: durable once answered. Each succeeds or fails by itself,
    /// unless all are to stand or fall together; then the first failure is the
    /// call's.
    pub async fn publish(
        &self,
        events: Vec<NewEvent>,
        atomic: bool,
    ) -> Result<Vec<Result<Published, Error>>, Error> {
        self.hand_in(events, atomic, false).await
    }

    async fn hand_in(
        &self,
        events: Vec<NewEvent>,
        atomic: bool,
        in_turn: bool,
    ) -> Result<Vec<Result<Published, Error>>, Error> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> = events
            .iter()
            .map(|it| (it.idempotency_key.clone(), it.tenant, Arc::clone(&it.event_type)))
            .collect();
        if atomic {
            no_conflicting_twins(&events)?;
        }
        let publish = Publish { events, atomic, in_turn, at: self.now(), salt: self.entropy.salt() };
        let answers = self.store.publish(publish).await?;
        if atomic && let Some(refused) = answers.iter().find_map(|answer| answer.as_ref().err()) {
            let key = match refused {
                Refused::Conflict(event) => self.store.event(*event).await?.map(|it| it.idempotency_key),
                Refused::Quota { .. } | Refused::NoTenant => None,
            };
            return Err(refusal(*refused, key.unwrap_or_default()));
        }
        let answers = answers.into_iter().zip(keys);
        let told = answers.map(|(answer, (key, tenant, event_type))| {
            if answer.as_ref().is_ok_and(|published| !published.duplicate) {
                self.event_counts.count(tenant, &event_type, self.store.directory());
            }
            answer.map_err(|refused| refusal(refused, key))
        });
        Ok(told.collect())
    }

    /// Publishes those of a batch that are good; the answers are in its order.
    pub async fn publish_batch(
        &self,
        batch: Vec<Result<NewEvent, Error>>,
    ) -> Result<Vec<Result<Published, Error>>, Error> {
        self.hand_in_good(batch, false).await
    }

    /// As [`Self::publish_batch`], for what was taken off a stream together: it waits
    /// for its turn where a call would be refused, and a full queue is told for each
    /// event, as they are not a unit to their sender.
    pub async fn publish_chunk(
        &self,
        chunk: Vec<Result<NewEvent, Error>>,
    ) -> Result<Vec<Result<Published, Error>>, Error> {
        let count = chunk.len();
        match self.hand_in_good(chunk, true).await {
            Err(Error::QueueFull { depth, limit }) => {
                Ok((0..count).map(|_| Err(Error::QueueFull { depth, limit })).collect())
            }
            outcome => outcome,
        }
    }

    /// Why a call that publishes would be refused at once, whatever it brings: its
    /// message need not be looked at.
    pub fn crowded(&self) -> Option<Error> {
        self.store.crowded().map(Error::from)
    }

    async fn hand_in_good(
        &self,
        batch: Vec<Result<NewEvent, Error>>,
        in_turn: bool,
    ) -> Result<Vec<Result<Published, Error>>, Error> {
        let (good, slots) = sift(batch);
        let mut answers = self.hand_in(good, false, in_turn).await?.into_iter();
        let lost = || Err(Error::Internal("an event was not answered".into()));
        let answer = |slot: Option<Error>| slot.map_or_else(|| answers.next().unwrap_or_else(lost), Err);
        Ok(slots.into_iter().map(answer).collect())
    }

    /// Reads an event.
    pub async fn event(&self, tenant: TenantKey, id: EventId) -> Result<Found, Error> {
        let event = self.stored_event(tenant, id).await?;
        let summary = self.store.event_summary(id).await?;
        Ok(Found { size: event.payload.data.len() as u64, event, summary })
    }

    /// A page of events, and the token of the next.
    pub async fn events(
        &self,
        tenant: TenantKey,
        filter: &EventFilter,
        show: Show,
        query: &PageQuery,
    ) -> Result<(Vec<Found>, String), Error> {
        let cut = self.cut(tenant, List::Events, query)?;
        let (events, next) = match show {
            Show::Basic => self.store.events(tenant, filter, false, cut.page).await?,
            Show::Full => self.events_with_payloads(tenant, filter, cut.page).await?,
        };
        let counted = stream::iter(events).map(async |(event, size)| {
            let summary = self.store.event_summary(event.id).await?;
            Ok::<_, Error>(Found { event, size, summary })
        });
        Ok((counted.buffered(COUNTED_AT_ONCE).try_collect().await?, cut.next(next)))
    }

    async fn events_with_payloads(
        &self,
        tenant: TenantKey,
        filter: &EventFilter,
        page: Page,
    ) -> Result<(Vec<(Event, u64)>, Option<Pos>), Error> {
        let (mut events, mut bytes, mut after) = (Vec::new(), 0, page.after);
        loop {
            let left = page.size - events.len() as u32;
            let part = Page { size: left.min(ROWS_WITH_PAYLOAD), after, ..page };
            let (found, next) = self.store.events(tenant, filter, true, part).await?;
            for (event, size) in found {
                let over = bytes + event.payload.data.len() > PAGE_BYTES_MAX;
                if over && !events.is_empty() {
                    return Ok((events, after));
                }
                bytes += event.payload.data.len();
                after = Some(event.id.pos());
                events.push((event, size));
            }
            if next.is_none() || events.len() >= page.size as usize {
                return Ok((events, next));
            }
            after = next;
        }
    }

    /// Cancels an event's open deliveries; says how many.
    pub async fn cancel_event(&self, tenant: TenantKey, id: EventId) -> Result<u32, Error> {
        self.stored_event(tenant, id).await?;
        Ok(self.store.cancel_event(id, self.now()).await?)
    }

    async fn stored_event(&self, tenant: TenantKey, id: EventId) -> Result<Event, Error> {
        let event = self.store.event(id).await?.filter(|event| event.tenant == tenant);
        event.ok_or_else(|| Error::not_found(Kind::Event, id.to_string()))
    }
}

/// Why an event with this idempotency key was refused.
fn refusal(refused: Refused, key: String) -> Error {
    match refused {
        Refused::Conflict(event) => Error::IdempotencyConflict { key, event },
        Refused::Quota { quota, limit } => Error::Quota { quota, limit },
        Refused::NoTenant => Error::CredentialInvalid,
    }
}

/// The good events, and for each of all the error that keeps it out.
fn sift(batch: Vec<Result<NewEvent, Error>>) -> (Vec<NewEvent>, Vec<Option<Error>>) {
    let mut good = Vec::with_capacity(batch.len());
    let slots = batch.into_iter().map(|item| match item {
        Ok(event) => {
            good.push(event);
            None
        }
        Err(error) => Some(error),
    });
    let slots = slots.collect();
    (good, slots)
}

/// In an atomic batch a key stands for one content: the second event of a pair
/// could neither be published nor refused alone.
fn no_conflicting_twins(events: &[NewEvent]) -> Result<(), Error> {
    let mut seen = HashMap::new();
    let mut wrong = Violations::default();
    for (at, event) in events.iter().enumerate().filter(|(_, event)| !event.idempotency_key.is_empty()) {
        let hash = content_hash(event);
        if *seen.entry(event.idempotency_key.as_str()).or_insert(hash) != hash {
            let why = "is the key of another event of this batch with other content";
            wrong.add(format!("events[{at}].idempotency_key"), Rule::Duplicate, why);
        }
    }
    if wrong.0.is_empty() {
        Ok(())
    } else {
        Err(Error::Invalid { violations: wrong, reason: Invalid::Field })
    }
}
