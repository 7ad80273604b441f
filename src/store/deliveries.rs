//! Writes to deliveries: results of attempts, expirations, cancels, retries.

use std::sync::Arc;

use const_format::concatcp;

use super::{
    Error,
    db::{Sql, Value, params},
    letters,
    lists::OF_EVENT,
    partitions, publish,
    read::{self, DELIVERY},
    tx::Tx,
    waiting::WAITING,
};
use crate::{
    domain::{
        Attempt, Change, ChangeKind, DeadLetterPolicy, Delivery, DeliveryId, EndpointKey, EventId, Last,
        LetterReason, Micros, Pos, Shard, State, TenantKey, Timestamp, Trigger, Uid,
    },
    machine::judge::attempt_id,
};

/// A change of a delivery, only if it is as it was, in the file.
const UPDATE_ROW: &str = "UPDATE deliveries SET state = ?, attempts = ?, due_at = ?, turn_at = ?, updated_at = ?, \
     revision = ?6, last_change = ?, last_at = ?, last_us = ?, status = ?, cause = ?, retryable = ?, \
     message = ? WHERE pos = ? AND revision = ?6 - 1";
macro_rules! step_columns {
    () => {
        "state, attempts, due_at, turn_at, updated_at, revision, last_change, last_at, last_us, status, cause, \
         retryable, message, pos, n"
    };
}
/// On the server: steps and where the rows are that they change. Row by row, whatever the
/// server believes of the size of a table that was empty a moment ago: it keeps a plan for
/// long.
macro_rules! hits {
    ($table:literal) => {
        concat!(
            "WITH u (",
            step_columns!(),
            ") AS (SELECT * FROM {rows} AS r), hit AS (SELECT u.*, t.at FROM u CROSS JOIN LATERAL (SELECT o.ctid AS at FROM ",
            $table,
            " o WHERE o.pos = u.pos AND o.revision = u.revision - 1 OFFSET 0) AS t)"
        )
    };
}
macro_rules! changed_columns {
    () => {
        "SET state = u.state, attempts = u.attempts, due_at = u.due_at, turn_at = u.turn_at, \
         updated_at = u.updated_at, revision = u.revision, last_change = u.last_change, last_at = u.last_at, \
         last_us = u.last_us, status = u.status, cause = u.cause, retryable = u.retryable, message = u.message"
    };
}
/// Of deliveries that go on.
pub(super) const UPDATE: Sql = Sql {
    sqlite: UPDATE_ROW,
    postgres: concat!(
        hits!("deliveries_open"),
        " UPDATE deliveries_open d ",
        changed_columns!(),
        " FROM hit u WHERE d.ctid = u.at RETURNING u.n"
    ),
};
/// Of deliveries that come to their end: on the server their rows move to the history.
pub(super) const END: Sql = Sql {
    sqlite: UPDATE_ROW,
    postgres: concat!(
        hits!("deliveries_open"),
        ", ended AS (DELETE FROM deliveries_open d USING hit u WHERE d.ctid = u.at RETURNING d.pos, d.tenant, d.event, \
         d.endpoint, d.salt, d.created_at, d.trigger, d.priority, d.max_attempts, d.expires_at, d.replay_of, \
         d.letter, u.state, u.attempts, d.first_due_at, u.due_at, u.turn_at, u.updated_at, u.revision, \
         u.last_change, u.last_at, u.last_us, u.status, u.cause, u.retryable, u.message, u.n), \
         moved AS (INSERT INTO deliveries_over SELECT pos, tenant, event, endpoint, salt, created_at, trigger, priority, \
         max_attempts, expires_at, replay_of, letter, state, attempts, first_due_at, due_at, turn_at, updated_at, \
         revision, last_change, last_at, last_us, status, cause, retryable, message FROM ended) SELECT n FROM ended"
    ),
};
/// Of deliveries that are over: a result that comes late.
pub(super) const UPDATE_OVER: Sql = Sql {
    sqlite: UPDATE_ROW,
    postgres: concat!(
        "UPDATE deliveries_over d ",
        changed_columns!(),
        " FROM {rows} AS u (",
        step_columns!(),
        ") WHERE d.pos = u.pos AND d.revision = u.revision - 1 RETURNING u.n"
    ),
};

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
    /// Under which tenure of its share it was begun: void under another.
    pub epoch: u64,
    /// The start of the attempt was handed to the writer before.
    pub started: bool,
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

/// The six columns of a last attempt, as `read::last` reads them.
type LastColumns<'l> =
    (Option<Timestamp>, Option<Micros>, Option<u16>, Option<u8>, Option<bool>, Option<&'l str>);

fn last_columns(last: Option<&Last>) -> LastColumns<'_> {
    let failure = last.and_then(|last| last.failure.as_ref());
    (
        last.map(|last| last.at),
        last.map(|last| last.duration),
        last.and_then(|last| last.status),
        failure.map(|failure| failure.cause as u8),
        failure.map(|failure| failure.retryable),
        failure.map(|failure| failure.message.as_str()),
    )
}

impl Tx<'_> {
    /// Records results. A result that comes too late for its delivery is recorded
    /// as an attempt and changes nothing else; one recorded before is dropped, as is one
    /// that was begun before its share of the work came to another process. Says how many
    /// of the latter there were.
    pub(super) fn finish(&mut self, finishes: &[Finish]) -> Result<u64, Error> {
        let valid =
            |finish: &&Finish| self.shards.tenure(Shard::of(finish.after.endpoint)).epoch == finish.epoch;
        let valid: Vec<&Finish> = finishes.iter().filter(valid).collect();
        let steps = valid.iter().map(|finish| Step {
            previous: finish.before.state,
            before: finish.before.last_change,
            after: finish.after.clone(),
            attempt: finish.attempt.clone(),
        });
        for step in self.apply(steps)? {
            if let Some(step) = self.reconcile(step)? {
                self.apply([step])?;
            }
        }
        let started = valid.iter().filter(|finish| finish.started);
        self.forget_starts(started.map(|finish| finish.after.id.pos()))?;
        for finish in &valid {
            if let Some(reason) = finish.reason {
                letters::keep(self, finish, reason)?;
            }
            if let Some(version) = finish.gone {
                self.disable_gone(finish.after.endpoint, version, finish.after.updated_at)?;
            }
        }
        Ok((finishes.len() - valid.len()) as u64)
    }

    /// Writes changes, each only if its delivery is as it was; returns those that
    /// were not.
    pub(super) fn apply(&mut self, steps: impl IntoIterator<Item = Step>) -> Result<Vec<Step>, Error> {
        let (mut goes_on, mut ends, mut is_over) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            match (step.previous.is_open(), step.after.is_open()) {
                (true, true) => goes_on.push(step),
                (true, false) => ends.push(step),
                (false, _) => is_over.push(step),
            }
        }
        let mut late = self.write(UPDATE, goes_on)?;
        late.extend(self.write(END, ends)?);
        late.extend(self.write(UPDATE_OVER, is_over)?);
        Ok(late)
    }

    /// Numbers and writes changes; returns those whose deliveries were not as expected.
    fn write(&mut self, update: Sql, mut steps: Vec<Step>) -> Result<Vec<Step>, Error> {
        for step in &mut steps {
            let pos = self.next_pos();
            step.after.last_change = pos;
            if let Some(attempt) = &mut step.attempt {
                attempt.id = attempt_id(&step.after, attempt.started_at, pos);
            }
        }
        let rows = steps.iter().map(|step| {
            let it = &step.after;
            let (at, duration, status, cause, retryable, message) = last_columns(it.last.as_ref());
            params![
                it.state as u8,
                it.attempts,
                it.due_at,
                it.turn_at,
                it.updated_at,
                it.revision.cast_signed(),
                it.last_change,
                at,
                duration,
                status,
                cause,
                retryable,
                message,
                it.id.pos(),
            ]
        });
        let changed = self.conn.update_each(update, rows)?;
        let (mut written, mut late) = (Vec::with_capacity(steps.len()), Vec::new());
        for (step, changed) in steps.into_iter().zip(changed) {
            if changed { written.push(step) } else { late.push(step) }
        }
        self.insert_changes(&written)?;
        if self.conn.is_shared() {
            partitions::note_late(self.conn, &written)?;
        }
        for step in written {
            letters::follow(self, &step.after)?;
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

    fn insert_changes(&self, steps: &[Step]) -> Result<(), Error> {
        let response = |step: &Step| {
            let response = step.attempt.as_ref().and_then(|attempt| attempt.response.as_deref());
            response.map(serde_json::to_string).transpose()
        };
        let responses: Vec<Option<String>> = steps.iter().map(response).collect::<Result<_, _>>()?;
        let rows = steps.iter().zip(&responses).map(|(step, response)| {
            let it = &step.after;
            let (at, duration, status, cause, retryable, message) = last_columns(it.last.as_ref());
            let timings = step.attempt.as_ref().map(|attempt| attempt.timings).unwrap_or_default();
            params![
                it.last_change,
                it.tenant,
                it.id.pos(),
                step.before,
                it.updated_at,
                step.previous as u8,
                it.state as u8,
                it.attempts,
                it.due_at,
                it.revision.cast_signed(),
                step.attempt.is_some(),
                at,
                duration,
                status,
                cause,
                retryable,
                message,
                timings.dns,
                timings.connect,
                timings.tls,
                timings.first_byte,
                response,
            ]
        });
        self.conn.insert("changes", "", rows)
    }

    /// Lays a late result over what the delivery has become meanwhile.
    fn reconcile(&self, step: Step) -> Result<Option<Step>, Error> {
        let Some(current) = self.delivery(step.after.tenant, step.after.id)? else { return Ok(None) };
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
    pub(super) fn delivery(&self, tenant: TenantKey, id: DeliveryId) -> Result<Option<Delivery>, Error> {
        let found = self.deliveries(concatcp!(DELIVERY, " WHERE d.pos = $1"), &params![id.pos()])?.pop();
        Ok(found.filter(|it| it.tenant == tenant && it.id == id))
    }

    /// Deliveries as this transaction sees them.
    fn deliveries(&self, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Delivery>, Error> {
        self.conn.rows(sql, values, read::delivery)
    }
}

/// Cancels an open delivery.
pub(super) fn cancel(
    tx: &mut Tx<'_>,
    tenant: TenantKey,
    id: DeliveryId,
    now: Timestamp,
) -> Result<Steered, Error> {
    let Some(delivery) = tx.delivery(tenant, id)? else { return Ok(Steered::NotFound) };
    if !delivery.is_open() {
        return Ok(Steered::State(delivery.state));
    }
    let after = changed(&delivery, now, |it| it.state = State::Cancelled);
    apply_one(tx, &delivery, after)
}

/// Cancels the open deliveries of an event; says how many.
pub(super) fn cancel_event(tx: &mut Tx<'_>, event: EventId, now: Timestamp) -> Result<u32, Error> {
    let sql = concatcp!(DELIVERY, " WHERE d.state < 2 AND d.pos IN ", OF_EVENT);
    let open = tx.deliveries(sql, &params![event.pos()])?;
    end_all(tx, &open, State::Cancelled, now)
}

/// Cancels up to `limit` open deliveries of an endpoint; says how many.
pub(super) fn cancel_endpoint(
    tx: &mut Tx<'_>,
    endpoint: EndpointKey,
    limit: u32,
    now: Timestamp,
) -> Result<u32, Error> {
    let open = tx.deliveries(WAITING, &params![endpoint, i64::MIN, 0, i64::MAX, limit])?;
    end_all(tx, &open, State::Cancelled, now)
}

/// What is past its end and still open, earliest end first.
pub(super) const PAST_END: &str =
    concatcp!(DELIVERY, " WHERE d.state < 2 AND d.expires_at <= $1 ORDER BY d.expires_at LIMIT $2");

/// Ends up to `limit` open deliveries whose end came before `before`; says how many.
pub(super) fn expire(tx: &mut Tx<'_>, before: Timestamp, limit: i64, now: Timestamp) -> Result<u32, Error> {
    let past = tx.deliveries(PAST_END, &params![before, limit])?;
    end_all(tx, &past, State::Expired, now)
}

fn end_all(tx: &mut Tx<'_>, deliveries: &[Delivery], state: State, now: Timestamp) -> Result<u32, Error> {
    let end = |delivery: &Delivery| Step {
        previous: delivery.state,
        before: delivery.last_change,
        after: changed(delivery, now, |it| it.state = state),
        attempt: None,
    };
    tx.apply(deliveries.iter().map(end))?;
    Ok(deliveries.len() as u32)
}

/// Makes an open delivery due now; repeats a finished one that did not succeed. An open
/// circuit breaker does not keep it waiting: the endpoint is probed at once.
pub(super) fn retry(
    tx: &mut Tx<'_>,
    tenant: TenantKey,
    id: DeliveryId,
    now: Timestamp,
) -> Result<Steered, Error> {
    let Some(delivery) = tx.delivery(tenant, id)? else { return Ok(Steered::NotFound) };
    let steered = match delivery.state {
        State::Pending | State::Retrying => {
            let after = changed(&delivery, now, |it| (it.due_at, it.turn_at) = (now, now));
            apply_one(tx, &delivery, after)
        }
        State::Delivered => Ok(Steered::State(delivery.state)),
        State::DeadLetter => letters::replay(tx, tenant, delivery.letter.unwrap_or(id), now),
        State::Failed | State::Cancelled | State::Expired => {
            repeat(tx, &delivery, Trigger::ManualRetry, None, now)
        }
    }?;
    if matches!(steered, Steered::Done(_)) {
        tx.probe(delivery.endpoint);
    }
    Ok(steered)
}

/// Makes a new delivery of the same event to the same endpoint.
pub(super) fn repeat(
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
    publish::insert_deliveries(tx, &[Arc::clone(&new)])?;
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

fn apply_one(tx: &mut Tx<'_>, before: &Delivery, after: Delivery) -> Result<Steered, Error> {
    let step = Step { previous: before.state, before: before.last_change, after, attempt: None };
    tx.apply([step])?;
    let after = tx.delivery(before.tenant, before.id)?;
    Ok(after.map_or(Steered::NotFound, |after| Steered::Done(Box::new(after))))
}
