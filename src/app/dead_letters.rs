//! Looking into dead letters, sending them again and removing them.

use std::sync::Arc;

use super::{
    App, Error, Kind, List, PageQuery, Seen, Show,
    events::{PAGE_BYTES_MAX, ROWS_WITH_PAYLOAD},
};
use crate::{
    domain::{
        Attempt, DeadLetter, DeadLetterId, DeliveryId, EventId, Failure, LetterReason, LetterState, Page,
        Pattern, Payload, Pos, TenantKey, TimeRange,
    },
    store::{Discarded, LetterFilter, Steered},
};

/// Which dead letters, as a caller says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LetterQuery {
    /// Only of these endpoints, by public id.
    pub endpoints: Vec<Arc<str>>,
    /// Only of types that fit one of these.
    pub event_types: Vec<Pattern>,
    /// Came here in this interval.
    pub created: TimeRange,
    /// Only for these reasons.
    pub reasons: Vec<LetterReason>,
    /// Only in these states; none means open.
    pub states: Vec<LetterState>,
    /// Only of these events.
    pub events: Vec<EventId>,
}

/// A dead letter with what belongs to it.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The dead letter.
    pub letter: DeadLetter,
    /// How its last attempt failed, with the HTTP status; replays included.
    pub failure: Option<(Failure, Option<u16>)>,
    /// The event's payload, if asked for.
    pub payload: Option<Payload>,
}

impl LetterQuery {
    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl App {
    /// Reads a dead letter.
    pub async fn letter(&self, tenant: TenantKey, id: DeadLetterId, show: Show) -> Result<Letter, Error> {
        let found = self.store.letter(tenant, DeliveryId(id.0)).await?;
        let letter = found.ok_or_else(|| Error::not_found(Kind::DeadLetter, id.to_string()))?;
        self.complete(letter, show).await
    }

    /// The attempts of the delivery that was given up.
    pub async fn letter_attempts(&self, letter: &DeadLetter) -> Result<Vec<Arc<Attempt>>, Error> {
        Ok(self.store.attempts(&letter.delivery).await?)
    }

    /// A page of dead letters, and the token of the next.
    pub async fn letters(
        &self,
        tenant: TenantKey,
        wanted: &LetterQuery,
        show: Show,
        query: &PageQuery,
    ) -> Result<(Vec<Letter>, String), Error> {
        let cut = self.cut(tenant, List::DeadLetters, query)?;
        let filter = self.letter_filter(tenant, wanted).await?;
        let (mut letters, mut bytes, mut after) = (Vec::new(), 0, cut.page.after);
        loop {
            let left = cut.page.size - letters.len() as u32;
            let size = if show == Show::Full { left.min(ROWS_WITH_PAYLOAD) } else { left };
            let (found, next) = self.store.letters(tenant, &filter, Page { size, after, ..cut.page }).await?;
            for letter in found {
                let pos = letter.delivery.id.pos();
                let letter = self.complete(letter, show).await?;
                let more = letter.payload.as_ref().map_or(0, |payload| payload.data.len());
                if bytes + more > PAGE_BYTES_MAX && !letters.is_empty() {
                    return Ok((letters, cut.next(after)));
                }
                (bytes, after) = (bytes + more, Some(pos));
                letters.push(letter);
            }
            if next.is_none() || show == Show::Basic || letters.len() >= cut.page.size as usize {
                return Ok((letters, cut.next(next)));
            }
            after = next;
        }
    }

    /// Sends a dead letter again: the letter after it, and the new delivery.
    pub async fn replay_letter(&self, tenant: TenantKey, id: DeadLetterId) -> Result<(Letter, Seen), Error> {
        let delivery_id = DeliveryId(id.0);
        let steered = self.store.replay(tenant, delivery_id, self.now()).await?;
        if steered == Steered::NotFound {
            return Err(Error::not_found(Kind::DeadLetter, id.to_string()));
        }
        let delivery = self.steered(tenant, delivery_id, steered).await?;
        let letter = self.letter(tenant, id, Show::Basic).await?;
        Ok((letter, self.see(delivery).await))
    }

    /// Removes a dead letter for good.
    pub async fn discard_letter(&self, tenant: TenantKey, id: DeadLetterId) -> Result<(), Error> {
        match self.store.discard(tenant, DeliveryId(id.0)).await? {
            Discarded::Done => Ok(()),
            Discarded::NotFound => Err(Error::not_found(Kind::DeadLetter, id.to_string())),
            Discarded::Replaying => Err(Error::LetterState(LetterState::Replaying)),
        }
    }

    /// The filter as the store knows it: endpoints by key, deleted ones too.
    pub(super) async fn letter_filter(
        &self,
        tenant: TenantKey,
        wanted: &LetterQuery,
    ) -> Result<LetterFilter, Error> {
        let states = if wanted.states.is_empty() { &[LetterState::Open][..] } else { &wanted.states };
        let mut filter = LetterFilter {
            event_types: wanted.event_types.clone(),
            created: (wanted.created.start.map(|at| at.0), wanted.created.end.map(|at| at.0)),
            reasons: wanted.reasons.iter().map(|reason| *reason as u8).collect(),
            states: states.iter().map(|state| *state as u8).collect(),
            ..LetterFilter::default()
        };
        if !wanted.endpoints.is_empty() {
            filter.set_endpoints(self.store.endpoint_keys(tenant, &wanted.endpoints).await?);
        }
        filter.set_events(&wanted.events);
        Ok(filter)
    }

    async fn complete(&self, letter: DeadLetter, show: Show) -> Result<Letter, Error> {
        let payload = match show {
            Show::Basic => None,
            Show::Full => self.store.event(letter.delivery.event).await?.map(|event| event.payload),
        };
        // A replay that failed is newer than what the delivery itself ended with.
        let replay = match letter.last_replay {
            Some((_, id)) => self.store.delivery(letter.delivery.tenant, id).await?,
            None => None,
        };
        let last_of = |last: Option<&crate::domain::Last>| {
            last.and_then(|last| Some((last.failure.clone()?, last.status)))
        };
        let failure = last_of(replay.as_ref().and_then(|it| it.last.as_ref()))
            .or_else(|| last_of(letter.delivery.last.as_ref()));
        Ok(Letter { letter, failure, payload })
    }

    /// Where a page of an operation goes on.
    pub(super) async fn letters_after(
        &self,
        tenant: TenantKey,
        filter: &LetterFilter,
        mut page: Page,
    ) -> Result<(Vec<DeliveryId>, Option<Pos>), Error> {
        loop {
            let (found, next) = self.store.letters(tenant, filter, page).await?;
            // A scan that found nothing yet has only moved on.
            if found.is_empty() && next.is_some() {
                page.after = next;
                continue;
            }
            return Ok((found.into_iter().map(|letter| letter.delivery.id).collect(), next));
        }
    }
}
