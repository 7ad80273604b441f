//! Tracked background jobs: accepted, followed, stopped, and done.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{App, Error, Kind, LetterQuery, List, PageQuery};
use crate::{
    domain::{
        Operation, OperationId, OperationKind, OperationState, Order, Page, Pos, TenantKey, Timestamp, Uid,
    },
    store::Task,
};

/// Items handled in one transaction at most, so that no publish waits long.
const STEP_MAX: u32 = 100;
/// Removals need no pacing towards endpoints: as fast as steps go.
const PURGES_PER_SECOND: f64 = 10_000.0;
/// Between looks at an operation that somebody waits for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Before a step that failed is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Which operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationFilter {
    /// Only of these kinds; none means all.
    pub kinds: Vec<OperationKind>,
    /// Only in these states; none means all.
    pub states: Vec<OperationState>,
}

impl App {
    /// Accepts the replay of all dead letters that fit.
    pub async fn replay_letters(
        &self,
        tenant: TenantKey,
        wanted: &LetterQuery,
        per_second: f64,
    ) -> Result<Operation, Error> {
        self.accept(tenant, OperationKind::ReplayDeadLetters, wanted, per_second).await
    }

    /// Accepts the removal of all dead letters that fit.
    pub async fn purge_letters(&self, tenant: TenantKey, wanted: &LetterQuery) -> Result<Operation, Error> {
        self.accept(tenant, OperationKind::PurgeDeadLetters, wanted, PURGES_PER_SECOND).await
    }

    async fn accept(
        &self,
        tenant: TenantKey,
        kind: OperationKind,
        wanted: &LetterQuery,
        per_second: f64,
    ) -> Result<Operation, Error> {
        let now = self.now();
        let mut filter = self.letter_filter(tenant, wanted).await?;
        // What comes in later is not meant.
        let end = now.0.saturating_add(1);
        filter.created.1 = Some(filter.created.1.map_or(end, |given| given.min(end)));
        let operation = Operation {
            id: OperationId(Uid::new(now, self.entropy.salt(), Pos(0))),
            tenant,
            kind,
            state: OperationState::Queued,
            created_at: now,
            updated_at: now,
            ended_at: None,
            total: self.store.count_letters(tenant, &filter).await?,
            succeeded: 0,
            failed: 0,
            skipped: 0,
            failures: Vec::new(),
        };
        let task = Task { operation, filter, per_second, cursor: Pos(0) };
        let operation = self.store.create_operation(task).await?;
        self.new_operation.notify_one();
        Ok(operation)
    }

    /// Reads an operation.
    pub async fn operation(&self, tenant: TenantKey, id: OperationId) -> Result<Operation, Error> {
        let found = self.store.operation(tenant, id).await?;
        found.ok_or_else(|| Error::not_found(Kind::Operation, id.to_string()))
    }

    /// A page of operations, newest first, and the token of the next.
    pub async fn operations(
        &self,
        tenant: TenantKey,
        filter: &OperationFilter,
        query: &PageQuery,
    ) -> Result<(Vec<Operation>, String), Error> {
        let cut = self.cut(tenant, List::Operations, query)?;
        let fits = |it: &Operation| {
            (filter.kinds.is_empty() || filter.kinds.contains(&it.kind))
                && (filter.states.is_empty() || filter.states.contains(&it.state))
        };
        let (page, next) = self.store.operations(tenant, fits, cut.page).await?;
        Ok((page, cut.next(next)))
    }

    /// The operation once it is done, or as it is when the time is over.
    pub async fn wait_operation(
        &self,
        tenant: TenantKey,
        id: OperationId,
        limit: Duration,
    ) -> Result<Operation, Error> {
        let mut latest = self.operation(tenant, id).await?;
        let done = async {
            while !latest.state.is_done() && !self.draining.is_cancelled() {
                sleep(LOOK_EVERY).await;
                latest = self.operation(tenant, id).await?;
            }
            Ok::<_, Error>(())
        };
        match timeout(limit, done).await {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Ok(latest),
        }
    }

    /// Stops an operation.
    pub async fn cancel_operation(&self, tenant: TenantKey, id: OperationId) -> Result<Operation, Error> {
        // First, as the store stops whatever has the id.
        self.operation(tenant, id).await?;
        self.store.cancel_operation(id, self.now()).await?.ok_or(Error::OperationDone)
    }

    /// Works on operations, the oldest first, until told to stop. One that was
    /// interrupted goes on where its last step was committed.
    pub async fn run_operations(&self, shutdown: CancellationToken) {
        let work = async {
            loop {
                match self.step().await {
                    Ok(true) => {}
                    Ok(false) => self.new_operation.notified().await,
                    Err(error) => {
                        tracing::warn!(%error, "an operation cannot go on yet");
                        sleep(AGAIN_AFTER).await;
                    }
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
    }

    /// One page of the oldest operation; false if there is none.
    async fn step(&self) -> Result<bool, Error> {
        let Some(task) = self.store.next_task().await? else { return Ok(false) };
        let size = (task.per_second as u32).clamp(1, STEP_MAX);
        let page = Page { size, after: Some(task.cursor), order: Order::OldestFirst };
        let (items, next) = self.letters_after(task.operation.tenant, &task.filter, page).await?;
        let now: Timestamp = self.now();
        let pace = Duration::from_secs_f64(items.len() as f64 / task.per_second.max(f64::MIN_POSITIVE))
            .min(Duration::from_secs(3600));
        let step = self.store.operation_step(task.operation.id, items, next.is_none(), now);
        // Start to start, so that the time a step takes is not added to its pace.
        let (step, ()) = tokio::join!(step, sleep(pace));
        step?;
        Ok(true)
    }
}
