//! Operations: their rows, and one step of their work.

use sqlx::{Row as _, sqlite::SqliteRow};

use super::{
    Error, Store,
    deliveries::Steered,
    letters::{self, Discarded, LetterFilter},
    tx::Tx,
};
use crate::domain::{
    DeliveryId, ItemFailure, Operation, OperationId, OperationKind, OperationState, Page, Pos, TenantKey,
    Timestamp, Uid,
};

const COLUMNS: &str = "seq, tenant, salt, kind, state, created_at, updated_at, ended_at, total, succeeded, failed, \
     skipped, failures";

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
pub(super) async fn create(tx: &mut Tx<'_>, task: Task) -> Result<Operation, Error> {
    let mut operation = task.operation;
    let seq: i64 = sqlx::query_scalar(
        "INSERT INTO operations (tenant, salt, kind, state, created_at, updated_at, total, succeeded, failed, skipped, \
         failures, filter, per_second, cursor) VALUES ($1,$2,$3,$4,$5,$5,$6,0,0,0,'[]',$7,$8,0) RETURNING seq",
    )
    .bind(operation.tenant.0)
    .bind(i64::from(operation.id.0.salt()))
    .bind(i64::from(operation.kind as u8))
    .bind(i64::from(operation.state as u8))
    .bind(operation.created_at.0)
    .bind(operation.total.cast_signed())
    .bind(serde_json::to_string(&task.filter).unwrap_or_default())
    .bind(task.per_second)
    .fetch_one(&mut *tx.conn)
    .await?;
    let salt = operation.id.0.salt();
    operation.id = OperationId(Uid::new(operation.created_at, salt, Pos(seq.cast_unsigned())));
    Ok(operation)
}

/// Handles a page of items and notes the progress, all in one transaction, so an
/// item is handled once whatever happens. Says whether the operation goes on.
pub(super) async fn step(
    tx: &mut Tx<'_>,
    id: OperationId,
    items: Vec<DeliveryId>,
    last: bool,
    now: Timestamp,
) -> Result<bool, Error> {
    let Some(mut operation) = read(tx, id).await?.filter(|operation| !operation.state.is_done()) else {
        return Ok(false);
    };
    let cursor = items.last().map(|id| id.pos());
    for item in items {
        match handle(tx, &operation, item, now).await? {
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
    sqlx::query(
        "UPDATE operations SET state = $2, updated_at = $3, ended_at = $4, total = $5, succeeded = $6, failed = $7, \
         skipped = $8, failures = $9, cursor = coalesce($10, cursor) WHERE seq = $1",
    )
    .bind(id.pos().0.cast_signed())
    .bind(i64::from(operation.state as u8))
    .bind(now.0)
    .bind(last.then_some(now.0))
    .bind(operation.total.cast_signed())
    .bind(operation.succeeded.cast_signed())
    .bind(operation.failed.cast_signed())
    .bind(operation.skipped.cast_signed())
    .bind(serde_json::to_string(&operation.failures).unwrap_or_default())
    .bind(cursor.map(|pos| pos.0.cast_signed()))
    .execute(&mut *tx.conn)
    .await?;
    Ok(!last)
}

enum Handled {
    Done,
    Skipped,
    Failed(ItemFailure),
}

async fn handle(
    tx: &mut Tx<'_>,
    operation: &Operation,
    item: DeliveryId,
    now: Timestamp,
) -> Result<Handled, Error> {
    match operation.kind {
        OperationKind::ReplayDeadLetters => {
            Ok(match letters::replay(tx, operation.tenant, item, now).await? {
                Steered::Done(_) => Handled::Done,
                Steered::NotFound | Steered::Letter(_) | Steered::State(_) => Handled::Skipped,
                Steered::EndpointInactive => Handled::Failed(ItemFailure {
                    item: format!("dl_{}", item.0),
                    reason: "ENDPOINT_INACTIVE".to_owned(),
                    message: "the endpoint is disabled or deleted".to_owned(),
                }),
            })
        }
        OperationKind::PurgeDeadLetters => Ok(match letters::discard(tx, operation.tenant, item).await? {
            Discarded::Done => Handled::Done,
            Discarded::NotFound | Discarded::Replaying => Handled::Skipped,
        }),
    }
}

/// Stops an operation. Nothing: it has finished, or there is none.
pub(super) async fn cancel(
    tx: &mut Tx<'_>,
    id: OperationId,
    now: Timestamp,
) -> Result<Option<Operation>, Error> {
    let found = read(tx, id).await?.filter(|operation| !operation.state.is_done());
    let Some(mut operation) = found else { return Ok(None) };
    operation.state = OperationState::Cancelled;
    (operation.updated_at, operation.ended_at) = (now, Some(now));
    sqlx::query("UPDATE operations SET state = $2, updated_at = $3, ended_at = $3 WHERE seq = $1")
        .bind(id.pos().0.cast_signed())
        .bind(i64::from(operation.state as u8))
        .bind(now.0)
        .execute(&mut *tx.conn)
        .await?;
    Ok(Some(operation))
}

async fn read(tx: &mut Tx<'_>, id: OperationId) -> Result<Option<Operation>, sqlx::Error> {
    let sql = const_format::concatcp!("SELECT ", COLUMNS, " FROM operations WHERE seq = $1");
    let row = sqlx::query(sql).bind(id.pos().0.cast_signed()).fetch_optional(&mut *tx.conn).await?;
    let operation = row.map(|row| decode(&row)).transpose()?;
    Ok(operation.filter(|operation| operation.id == id))
}

impl Store {
    /// One operation.
    pub async fn operation(&self, tenant: TenantKey, id: OperationId) -> Result<Option<Operation>, Error> {
        let sql = const_format::concatcp!("SELECT ", COLUMNS, " FROM operations WHERE seq = $1");
        let row = sqlx::query(sql).bind(id.pos().0.cast_signed()).fetch_optional(&self.readers).await?;
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
        let rows = sqlx::query(sql).bind(tenant.0).bind(before).fetch_all(&self.readers).await?;
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
        let rows = sqlx::query(sql).fetch_all(&self.readers).await?;
        let bad = |error: serde_json::Error| sqlx::Error::Decode(Box::new(error));
        let task = |row: &SqliteRow| {
            Ok(Task {
                operation: decode(row)?,
                filter: serde_json::from_str(row.try_get(13)?).map_err(bad)?,
                per_second: row.try_get(14)?,
                cursor: Pos(row.try_get::<i64, _>(15)?.cast_unsigned()),
            })
        };
        Ok(rows.iter().map(task).collect::<Result<_, sqlx::Error>>()?)
    }
}

fn decode(row: &SqliteRow) -> Result<Operation, sqlx::Error> {
    let seq: i64 = row.try_get(0)?;
    let bad = |what: &str| sqlx::Error::Decode(format!("bad operations.{what} in row {seq}").into());
    let created_at = Timestamp(row.try_get(5)?);
    let number = |column: usize| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
    Ok(Operation {
        id: OperationId(Uid::new(created_at, row.try_get::<i64, _>(2)? as u32, Pos(seq.cast_unsigned()))),
        tenant: TenantKey(row.try_get(1)?),
        kind: OperationKind::from_number(row.try_get(3)?).ok_or_else(|| bad("kind"))?,
        state: OperationState::from_number(row.try_get(4)?).ok_or_else(|| bad("state"))?,
        created_at,
        updated_at: Timestamp(row.try_get(6)?),
        ended_at: row.try_get::<Option<i64>, _>(7)?.map(Timestamp),
        total: number(8)?,
        succeeded: number(9)?,
        failed: number(10)?,
        skipped: number(11)?,
        failures: serde_json::from_str(row.try_get(12)?).map_err(|_| bad("failures"))?,
    })
}
