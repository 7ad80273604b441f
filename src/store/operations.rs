//! Operations: their rows, and one step of their work.

use super::{
    Error, Store,
    db::{Columns, Row, params},
    deliveries::Steered,
    letters::{self, Discarded, LetterFilter},
    tx::Tx,
};
use crate::domain::{
    DeliveryId, ItemFailure, Operation, OperationId, OperationKind, OperationState, Page, Pos, Shard,
    TenantKey, Timestamp, Uid,
};

const COLUMNS: &str = "seq, tenant, salt, kind, state, created_at, updated_at, ended_at, total, succeeded, failed, \
     skipped, failures";

const ONE: &str = const_format::concatcp!("SELECT ", COLUMNS, " FROM operations WHERE seq = $1");

/// An operation with what it needs to go on.
#[derive(Clone, Debug)]
pub struct Task {
    /// The operation.
    pub operation: Operation,
    /// What it acts on.
    pub filter: LetterFilter,
    /// Items a second at most.
    pub per_second: f64,
    /// The last item handled.
    pub cursor: Pos,
}

/// Accepts an operation; its number is given here.
pub(super) fn create(tx: &mut Tx<'_>, task: Task) -> Result<Operation, Error> {
    let mut operation = task.operation;
    let sql = "INSERT INTO operations (tenant, salt, kind, state, created_at, updated_at, total, succeeded, failed, \
         skipped, failures, filter, per_second, cursor) VALUES ($1,$2,$3,$4,$5,$5,$6,0,0,0,'[]',$7,$8,0) \
         RETURNING seq";
    let values = params![
        operation.tenant,
        operation.id.0.salt(),
        operation.kind as u8,
        operation.state as u8,
        operation.created_at,
        operation.total.cast_signed(),
        serde_json::to_string(&task.filter)?,
        task.per_second,
    ];
    let seq = tx.conn.number(sql, &values)?;
    let seq = seq.ok_or_else(|| Error::Corrupt("an operation got no number".to_owned()))?;
    tx.wake_operations();
    let salt = operation.id.0.salt();
    operation.id = OperationId(Uid::new(operation.created_at, salt, Pos(seq.cast_unsigned())));
    Ok(operation)
}

/// Handles a page of items and notes the progress, all in one transaction, so an
/// item is handled once whatever happens. Says whether the operation goes on.
pub(super) fn step(
    tx: &mut Tx<'_>,
    id: OperationId,
    items: Vec<DeliveryId>,
    last: bool,
    now: Timestamp,
) -> Result<bool, Error> {
    // Another process goes on with it if it has become the steward meanwhile.
    let steward = tx.shards.owns(Shard::STEWARD);
    let goes_on = |operation: &Operation| steward && !operation.state.is_done();
    let Some(mut operation) = read(tx, id)?.filter(goes_on) else { return Ok(false) };
    let cursor = items.last().map(|id| id.pos());
    for item in items {
        match handle(tx, &operation, item, now)? {
            Handled::Done => operation.succeeded += 1,
            Handled::Skipped => operation.skipped += 1,
            Handled::Failed(failure) => {
                operation.failed += 1;
                if operation.failures.len() < Operation::FAILURES_MAX {
                    operation.failures.push(failure);
                }
            }
        }
    }
    operation.state = if last { OperationState::Succeeded } else { OperationState::Running };
    if last {
        operation.total = operation.succeeded + operation.failed + operation.skipped;
    }
    let sql = "UPDATE operations SET state = $1, updated_at = $2, ended_at = $3, total = $4, succeeded = $5, \
         failed = $6, skipped = $7, failures = $8, cursor = coalesce($9, cursor) WHERE seq = $10";
    let values = params![
        operation.state as u8,
        now,
        last.then_some(now),
        operation.total.cast_signed(),
        operation.succeeded.cast_signed(),
        operation.failed.cast_signed(),
        operation.skipped.cast_signed(),
        serde_json::to_string(&operation.failures)?,
        cursor,
        id.pos(),
    ];
    tx.conn.execute(sql, &values)?;
    Ok(!last)
}

enum Handled {
    Done,
    Skipped,
    Failed(ItemFailure),
}

fn handle(
    tx: &mut Tx<'_>,
    operation: &Operation,
    item: DeliveryId,
    now: Timestamp,
) -> Result<Handled, Error> {
    match operation.kind {
        OperationKind::ReplayDeadLetters => Ok(match letters::replay(tx, operation.tenant, item, now)? {
            Steered::Done(_) => Handled::Done,
            Steered::NotFound | Steered::Letter(_) | Steered::State(_) => Handled::Skipped,
            Steered::EndpointInactive => Handled::Failed(ItemFailure {
                item: format!("dl_{}", item.0),
                reason: "ENDPOINT_INACTIVE".to_owned(),
                message: "the endpoint is disabled or deleted".to_owned(),
            }),
        }),
        OperationKind::PurgeDeadLetters => Ok(match letters::discard(tx, operation.tenant, item)? {
            Discarded::Done => Handled::Done,
            Discarded::NotFound | Discarded::Replaying => Handled::Skipped,
        }),
    }
}

/// Stops an operation. Nothing: it has finished, or there is none.
pub(super) fn cancel(tx: &mut Tx<'_>, id: OperationId, now: Timestamp) -> Result<Option<Operation>, Error> {
    let found = read(tx, id)?.filter(|operation| !operation.state.is_done());
    let Some(mut operation) = found else { return Ok(None) };
    operation.state = OperationState::Cancelled;
    (operation.updated_at, operation.ended_at) = (now, Some(now));
    let sql = "UPDATE operations SET state = $1, updated_at = $2, ended_at = $2 WHERE seq = $3";
    tx.conn.execute(sql, &params![operation.state as u8, now, id.pos()])?;
    tx.wake_operations();
    Ok(Some(operation))
}

fn read(tx: &mut Tx<'_>, id: OperationId) -> Result<Option<Operation>, Error> {
    let operation = tx.conn.row(ONE, &params![id.pos()], decode)?;
    Ok(operation.filter(|operation| operation.id == id))
}

impl Store {
    /// One operation.
    pub async fn operation(&self, tenant: TenantKey, id: OperationId) -> Result<Option<Operation>, Error> {
        let row = self.readers.row(ONE, &params![id.pos()]).await?;
        let operation = row.map(|row| decode(&row)).transpose()?;
        Ok(operation.filter(|it| it.tenant == tenant && it.id == id))
    }

    /// A page of operations, newest first, and where the next one starts. They are
    /// few: finished ones are kept a week.
    pub async fn operations(
        &self,
        tenant: TenantKey,
        fits: impl Fn(&Operation) -> bool,
        page: Page,
    ) -> Result<(Vec<Operation>, Option<Pos>), Error> {
        let sql = const_format::concatcp!(
            "SELECT ",
            COLUMNS,
            " FROM operations WHERE tenant = $1 AND seq < $2 ORDER BY seq DESC"
        );
        let before = page.after.map_or(i64::MAX, |pos| pos.0.cast_signed());
        let rows = self.readers.rows(sql, &params![tenant, before]).await?;
        let mut found = Vec::new();
        for row in &rows {
            let operation = decode(row)?;
            if !fits(&operation) {
                continue;
            }
            if found.len() == page.size as usize {
                let last: Option<&Operation> = found.last();
                let next = last.map(|operation| operation.id.pos());
                return Ok((found, next));
            }
            found.push(operation);
        }
        Ok((found, None))
    }

    /// The operations that are not finished, the oldest first.
    pub async fn tasks(&self) -> Result<Vec<Task>, Error> {
        let sql = const_format::concatcp!(
            "SELECT ",
            COLUMNS,
            ", filter, per_second, cursor FROM operations WHERE ended_at IS NULL ORDER BY seq"
        );
        let rows = self.readers.rows(sql, &[]).await?;
        let task = |row: &Row| {
            Ok(Task {
                operation: decode(row)?,
                filter: serde_json::from_str(row.word(13)?)?,
                per_second: row.real(14)?,
                cursor: row.pos(15)?,
            })
        };
        rows.iter().map(task).collect()
    }
}

fn decode(row: &dyn Columns) -> Result<Operation, Error> {
    let seq = row.number(0)?;
    let bad = |what: &str| Error::corrupt(what, seq);
    let created_at = row.time(5)?;
    Ok(Operation {
        id: OperationId(Uid::new(created_at, row.small(2)?, row.pos(0)?)),
        tenant: TenantKey(row.number(1)?),
        kind: OperationKind::from_number(row.number(3)?).ok_or_else(|| bad("operations.kind"))?,
        state: OperationState::from_number(row.number(4)?).ok_or_else(|| bad("operations.state"))?,
        created_at,
        updated_at: row.time(6)?,
        ended_at: row.time_if(7)?,
        total: row.count(8)?,
        succeeded: row.count(9)?,
        failed: row.count(10)?,
        skipped: row.count(11)?,
        failures: serde_json::from_str(row.word(12)?)?,
    })
}
