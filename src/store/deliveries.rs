//! Writes to deliveries: results of attempts, expirations, cancels, retries.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
};

use const_format::concatcp;
use sqlx::Row as _;

use super::{
    Error, letters,
    lists::OF_EVENT,
    publish,
    read::{self, DELIVERY},
    rows::{Binding, Rows},
    tx::Tx,
    waiting::WAITING,
};
use crate::{
    domain::{
        Attempt, Change, ChangeKind, DeadLetterPolicy, Delivery, DeliveryId, EndpointKey, EventId, Last,
        LetterReason, Pos, State, TenantKey, Timestamp, Trigger, Uid,
    },
    machine::judge::attempt_id,
};

pub(super) static UPDATE: LazyLock<Rows> = LazyLock::new(|| {
    Rows::new(
        "UPDATE deliveries SET state = v.column2, attempts = v.column3, due_at = v.column4, turn_at = v.column5, \
         updated_at = v.column6, revision = v.column7, last_change = v.column8, last_at = v.column9, \
         last_us = v.column10, status = v.column11, cause = v.column12, retryable = v.column13, \
         message = v.column14 FROM (VALUES",
        14,
        ") AS v WHERE deliveries.pos = v.column1 AND deliveries.revision = v.column7 - 1",
    )
});
/// The last change of deliveries.
pub(super) static LAST_CHANGE: LazyLock<Rows> =
    LazyLock::new(|| Rows::new("SELECT last_change FROM deliveries WHERE pos IN (VALUES", 1, ")"));
static INSERT: LazyLock<Rows> = LazyLock::new(|| Rows::new("INSERT INTO changes VALUES", 22, ""));

/// How a delivery goes on after an attempt, or that its time is over.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The delivery as the attempt found it.
    pub before: Arc<Delivery>,
    /// The delivery after it.
    pub after: Delivery,
    /// The attempt; nothing for an expiration.
    pub attempt: Option<Attempt>,
    /// Why it was given up, if it was.
    pub reason: Option<LetterReason>,
    /// How long a dead letter is kept.
    pub letters: DeadLetterPolicy,
    /// The endpoint, as it was at this version, answered that it is gone for good.
    pub gone: Option<u64>,
}

/// One change about to be written.
pub(super) struct Step {
    pub previous: State,
    pub before: Pos,
    pub after: Delivery,
    pub attempt: Option<Attempt>,
}

/// What became of a cancel or retry.
#[derive(Clone, Debug, PartialEq)]
pub enum Steered {
    /// Done; the delivery after it, or the new one.
    Done(Box<Delivery>),
    /// There is no such delivery.
    NotFound,
    /// Its state does not allow it.
    State(State),
    /// Its endpoint is disabled or deleted.
    EndpointInactive,
    /// Its dead letter was replayed, or a replay is under way.
    Letter(crate::domain::LetterState),
}

/// Binds the six columns of a last attempt, as `read::last` reads them.
fn bind_last<'q>(query: Binding<'q>, last: Option<&'q Last>) -> Binding<'q> {
    let failure = last.and_then(|last| last.failure.as_ref());
    query
        .bind(last.map(|last| last.at.0))
        .bind(last.map(|last| last.duration.0))
        .bind(last.and_then(|last| last.status).map(i64::from))
        .bind(failure.map(|failure| i64::from(failure.cause as u8)))
        .bind(failure.map(|failure| i64::from(failure.retryable)))
        .bind(failure.map(|failure| failure.message.as_str()))
}

impl Tx<'_> {
    /// Records results. A result that comes too late for its delivery is recorded
    /// as an attempt and changes nothing else; one recorded before is dropped.
    pub(super) async fn finish(&mut self, finishes: &[Finish]) -> Result<(), sqlx::Error> {
        let steps = finishes.iter().map(|finish| Step {
            previous: finish.before.state,
            before: finish.before.last_change,
            after: finish.after.clone(),
            attempt: finish.attempt.clone(),
        });
        let late = self.apply(steps.collect()).await?;
        for step in late {
            if let Some(step) = self.reconcile(step).await? {
                self.apply(vec![step]).await?;
            }
        }
        for finish in finishes {
            if let Some(reason) = finish.reason {
                letters::keep(self, finish, reason).await?;
            }
            if let Some(version) = finish.gone {
                self.disable_gone(finish.after.endpoint, version, finish.after.updated_at).await?;
            }
        }
        Ok(())
    }

    /// Writes changes, each only if its delivery is as it was; returns those that
    /// were not.
    pub(super) async fn apply(&mut self, mut steps: Vec<Step>) -> Result<Vec<Step>, sqlx::Error> {
        for step in &mut steps {
            let pos = self.next_pos();
            step.after.last_change = pos;
            if let Some(attempt) = &mut step.attempt {
                attempt.id = attempt_id(&step.after, attempt.started_at, pos);
            }
        }
        let written = UPDATE.execute(self.conn, &steps, |query, step| {
            let it = &step.after;
            let query = query
                .bind(it.id.pos().0.cast_signed())
                .bind(i64::from(it.state as u8))
                .bind(i64::from(it.attempts))
                .bind(it.due_at.0)
                .bind(it.turn_at.0)
                .bind(it.updated_at.0)
                .bind(it.revision.cast_signed())
                .bind(it.last_change.0.cast_signed());
            bind_last(query, it.last.as_ref())
        });
        let (steps, late) = if written.await? == steps.len() as u64 {
            (steps, Vec::new())
        } else {
            let rows = LAST_CHANGE
                .fetch(self.conn, &steps, |query, step| query.bind(step.after.id.pos().0.cast_signed()))
                .await?;
            let last: Result<HashSet<i64>, _> = rows.iter().map(|row| row.try_get(0)).collect();
            let last = last?;
            steps.into_iter().partition(|step| last.contains(&step.after.last_change.0.cast_signed()))
        };
        self.insert_changes(&steps).await?;
        for step in steps {
            letters::follow(self, &step.after).await?;
            self.note(Change {
                pos: step.after.last_change,
                at: step.after.updated_at,
                kind: ChangeKind::between(step.previous, step.after.state),
                previous: Some(step.previous),
                delivery: Arc::new(step.after),
                attempt: step.attempt.map(Arc::new),
            });
        }
        Ok(late)
    }

    async fn insert_changes(&mut self, steps: &[Step]) -> Result<(), sqlx::Error> {
        let insert = INSERT.execute(self.conn, steps, |query, step| {
            let it = &step.after;
            let timings = step.attempt.as_ref().map(|attempt| attempt.timings).unwrap_or_default();
            let response = step.attempt.as_ref().and_then(|attempt| attempt.response.as_deref());
            let query = query
                .bind(it.last_change.0.cast_signed())
                .bind(it.tenant.0)
                .bind(it.id.pos().0.cast_signed())
                .bind(step.before.0.cast_signed())
                .bind(it.updated_at.0)
                .bind(i64::from(step.previous as u8))
                .bind(i64::from(it.state as u8))
                .bind(i64::from(it.attempts))
                .bind(it.due_at.0)
                .bind(it.revision.cast_signed())
                .bind(i64::from(step.attempt.is_some()));
            bind_last(query, it.last.as_ref())
                .bind(timings.dns.map(|span| span.0))
                .bind(timings.connect.map(|span| span.0))
                .bind(timings.tls.map(|span| span.0))
                .bind(timings.first_byte.map(|span| span.0))
                .bind(response.and_then(|response| serde_json::to_string(response).ok()))
        });
        insert.await.map(drop)
    }

    /// Lays a late result over what the delivery has become meanwhile.
    async fn reconcile(&mut self, step: Step) -> Result<Option<Step>, sqlx::Error> {
        let Some(current) = self.delivery(step.after.tenant, step.after.id).await? else { return Ok(None) };
        let seen = |last: &Last| Some(last.at) == step.after.last.as_ref().map(|last| last.at);
        if current.attempts >= step.after.attempts && current.last.as_ref().is_some_and(seen) {
            return Ok(None);
        }
        let (mut after, mut attempt) = (step.after, step.attempt);
        if !current.is_open() {
            if attempt.is_none() {
                return Ok(None);
            }
            (after.state, after.due_at, after.turn_at) = (current.state, current.due_at, current.turn_at);
        }
        after.revision = current.revision + 1;
        after.attempts = current.attempts + u32::from(attempt.is_some());
        if let Some(attempt) = &mut attempt {
            attempt.number = after.attempts;
        }
        Ok(Some(Step { previous: current.state, before: current.last_change, after, attempt }))
    }

    /// A delivery as this transaction sees it.
    pub(super) async fn delivery(
        &mut self,
        tenant: TenantKey,
        id: DeliveryId,
    ) -> Result<Option<Delivery>, sqlx::Error> {
        let sql = concatcp!(DELIVERY, " WHERE d.pos = $1");
        let row = sqlx::query(sql).bind(id.pos().0.cast_signed()).fetch_optional(&mut *self.conn).await?;
        let delivery = row.map(|row| read::delivery(&row)).transpose()?;
        Ok(delivery.filter(|it| it.tenant == tenant && it.id == id))
    }
}

/// Cancels an open delivery.
pub(super) async fn cancel(
    tx: &mut Tx<'_>,
    tenant: TenantKey,
    id: DeliveryId,
    now: Timestamp,
) -> Result<Steered, Error> {
    let Some(delivery) = tx.delivery(tenant, id).await? else { return Ok(Steered::NotFound) };
    if !delivery.is_open() {
        return Ok(Steered::State(delivery.state));
    }
    let after = changed(&delivery, now, |it| it.state = State::Cancelled);
    apply_one(tx, &delivery, after).await
}

/// Cancels the open deliveries of an event; says how many.
pub(super) async fn cancel_event(tx: &mut Tx<'_>, event: EventId, now: Timestamp) -> Result<u32, Error> {
    let sql = concatcp!(DELIVERY, " WHERE d.state < 2 AND d.pos IN ", OF_EVENT);
    let rows = sqlx::query(sql).bind(event.pos().0.cast_signed()).fetch_all(&mut *tx.conn).await?;
    end_all(tx, rows, State::Cancelled, now).await
}

/// Cancels up to `limit` open deliveries of an endpoint; says how many.
pub(super) async fn cancel_endpoint(
    tx: &mut Tx<'_>,
    endpoint: EndpointKey,
    limit: u32,
    now: Timestamp,
) -> Result<u32, Error> {
    let query = sqlx::query(WAITING).bind(endpoint.0).bind(i64::MIN).bind(0).bind(i64::from(limit));
    let rows = query.fetch_all(&mut *tx.conn).await?;
    end_all(tx, rows, State::Cancelled, now).await
}

/// What is past its end and still open, earliest end first.
pub(super) const PAST_END: &str =
    concatcp!(DELIVERY, " WHERE d.state < 2 AND d.expires_at <= $1 ORDER BY d.expires_at LIMIT $2");

/// Ends up to `limit` open deliveries whose end came before `before`; says how many.
pub(super) async fn expire(
    tx: &mut Tx<'_>,
    before: Timestamp,
    limit: i64,
    now: Timestamp,
) -> Result<u32, Error> {
    let rows = sqlx::query(PAST_END).bind(before.0).bind(limit).fetch_all(&mut *tx.conn).await?;
    end_all(tx, rows, State::Expired, now).await
}

async fn end_all(
    tx: &mut Tx<'_>,
    rows: Vec<sqlx::sqlite::SqliteRow>,
    state: State,
    now: Timestamp,
) -> Result<u32, Error> {
    let mut steps = Vec::with_capacity(rows.len());
    for row in rows {
        let delivery = read::delivery(&row)?;
        let after = changed(&delivery, now, |it| it.state = state);
        steps.push(Step { previous: delivery.state, before: delivery.last_change, after, attempt: None });
    }
    let count = steps.len() as u32;
    tx.apply(steps).await?;
    Ok(count)
}

/// Makes an open delivery due now; repeats a finished one that did not succeed.
pub(super) async fn retry(
    tx: &mut Tx<'_>,
    tenant: TenantKey,
    id: DeliveryId,
    now: Timestamp,
) -> Result<Steered, Error> {
    let Some(delivery) = tx.delivery(tenant, id).await? else { return Ok(Steered::NotFound) };
    match delivery.state {
        State::Pending | State::Retrying => {
            let after = changed(&delivery, now, |it| (it.due_at, it.turn_at) = (now, now));
            apply_one(tx, &delivery, after).await
        }
        State::Delivered => Ok(Steered::State(delivery.state)),
        State::DeadLetter => letters::replay(tx, tenant, delivery.letter.unwrap_or(id), now).await,
        State::Failed | State::Cancelled | State::Expired => {
            repeat(tx, &delivery, Trigger::ManualRetry, None, now).await
        }
    }
}

/// Makes a new delivery of the same event to the same endpoint.
pub(super) async fn repeat(
    tx: &mut Tx<'_>,
    old: &Delivery,
    trigger: Trigger,
    letter: Option<DeliveryId>,
    now: Timestamp,
) -> Result<Steered, Error> {
    let Some(endpoint) = tx.endpoint(old.endpoint).filter(|endpoint| endpoint.receives()) else {
        return Ok(Steered::EndpointInactive);
    };
    let pos = tx.next_pos();
    let id = DeliveryId(Uid::new(now, old.id.0.salt(), pos));
    let new = Arc::new(Delivery {
        id,
        trigger,
        max_attempts: endpoint.retry.max_attempts,
        created_at: now,
        expires_at: None,
        replay_of: Some(old.id),
        letter,
        state: State::Pending,
        attempts: 0,
        due_at: now,
        turn_at: Delivery::turn(now, now, old.priority),
        last: None,
        updated_at: now,
        revision: 1,
        last_change: pos,
        ..old.clone()
    });
    publish::insert_deliveries(tx, &[Arc::clone(&new)]).await?;
    let delivery = Arc::clone(&new);
    tx.note(Change { pos, at: now, kind: ChangeKind::Created, previous: None, delivery, attempt: None });
    Ok(Steered::Done(Box::new((*new).clone())))
}

fn changed(delivery: &Delivery, now: Timestamp, change: impl FnOnce(&mut Delivery)) -> Delivery {
    let mut after = delivery.clone();
    after.revision += 1;
    after.updated_at = now;
    change(&mut after);
    after
}

async fn apply_one(tx: &mut Tx<'_>, before: &Delivery, after: Delivery) -> Result<Steered, Error> {
    let step = Step { previous: before.state, before: before.last_change, after, attempt: None };
    tx.apply(vec![step]).await?;
    let after = tx.delivery(before.tenant, before.id).await?;
    Ok(after.map_or(Steered::NotFound, |after| Steered::Done(Box::new(after))))
}
