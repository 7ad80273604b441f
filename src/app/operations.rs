//! Tracked background jobs: accepted, followed, stopped, and done.

use std::{collections::HashMap, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{App, Error, Kind, LetterQuery, List, PageQuery};
use crate::{
    domain::{
        Micros, Operation, OperationId, OperationKind, OperationState, Order, Page, Pos, TenantKey,
        Timestamp, Uid,
    },
    store::Task,
};

/// Slowest pace of an operation, in items a second.
pub const PER_SECOND_MIN: f64 = 0.01;
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

    /// Stops an operation. One that was stopped before is answered as it is.
    pub async fn cancel_operation(&self, tenant: TenantKey, id: OperationId) -> Result<Operation, Error> {
        // First, as the store stops whatever has the id.
        self.operation(tenant, id).await?;
        if let Some(cancelled) = self.store.cancel_operation(id, self.now()).await? {
            return Ok(cancelled);
        }
        let done = self.operation(tenant, id).await?;
        if done.state == OperationState::Cancelled { Ok(done) } else { Err(Error::OperationDone) }
    }

    /// Works on operations until told to stop, each at its own pace, so that a slow
    /// one keeps no other waiting. One that was interrupted goes on where its last
    /// step was committed.
    pub async fn run_operations(&self, shutdown: CancellationToken) {
        let work = async {
            let (mut agenda, mut stale) = (Agenda::default(), true);
            let mut hands = self.store.shards().subscribe();
            loop {
                if !self.is_steward() {
                    // Whoever is goes on with them.
                    (agenda, stale) = (Agenda::default(), true);
                    if hands.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                if stale {
                    match self.store.tasks().await {
                        Ok(tasks) => agenda.renew(tasks, self.clock.now()),
                        Err(error) => {
                            tracing::warn!(%error, "operations cannot be read yet");
                            sleep(AGAIN_AFTER).await;
                            continue;
                        }
                    }
                }
                let changed = self.store.operations_changed();
                let Some(wait) = agenda.wait(self.clock.now()) else {
                    changed.await;
                    stale = true;
                    continue;
                };
                // Also when a step is due by now: what is new is not kept waiting by
                // what is always due.
                stale = timeout(wait, changed).await.is_ok();
                if !stale {
                    stale = self.work_on(&mut agenda).await;
                }
            }
        };
        shutdown.run_until_cancelled(work).await;
    }

    /// One step of the operation that is due first; says whether the agenda has to
    /// be read again.
    async fn work_on(&self, agenda: &mut Agenda) -> bool {
        let Some(mut turn) = agenda.take_first() else { return false };
        // Start to start, so that the time a step takes is not added to its pace.
        let start = self.clock.now();
        match self.step(&mut turn.task).await {
            Ok(Some(pace)) => turn.due = start.plus(pace),
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(%error, "an operation cannot go on yet");
                turn.due = self.clock.now().plus(Micros::from(AGAIN_AFTER));
                agenda.0.push(turn);
                // The step may have been committed although its answer was lost.
                return true;
            }
        }
        agenda.0.push(turn);
        false
    }

    /// One page of an operation, and the time it makes up for; nothing if the
    /// operation is done.
    async fn step(&self, task: &mut Task) -> Result<Option<Micros>, Error> {
        let size = (task.per_second as u32).clamp(1, STEP_MAX);
        let page = Page { size, after: Some(task.cursor), order: Order::OldestFirst };
        let (items, next) = self.letters_after(task.operation.tenant, &task.filter, page).await?;
        let pace = pace(items.len(), task.per_second);
        let cursor = items.last().map_or(task.cursor, |item| item.pos());
        let goes_on = self.store.operation_step(task.operation.id, items, next.is_none(), self.now()).await?;
        task.cursor = cursor;
        Ok(goes_on.then_some(pace))
    }
}

/// The operations that are not finished, in no order.
#[derive(Debug, Default)]
struct Agenda(Vec<Turn>);

/// An operation, and when its next step is due, on the steady line.
#[derive(Debug)]
struct Turn {
    task: Task,
    due: Timestamp,
}

impl Agenda {
    /// What is not finished by now. What is new is due at once; what was known keeps
    /// its pace.
    fn renew(&mut self, tasks: Vec<Task>, now: Timestamp) {
        let known: HashMap<OperationId, Timestamp> =
            self.0.drain(..).map(|turn| (turn.task.operation.id, turn.due)).collect();
        let turn = |task: Task| Turn { due: known.get(&task.operation.id).copied().unwrap_or(now), task };
        self.0.extend(tasks.into_iter().map(turn));
    }

    /// How long until a step is due; nothing if there is nothing to do.
    fn wait(&self, now: Timestamp) -> Option<Duration> {
        self.0.iter().map(|turn| turn.due).min().map(|due| due.since(now).to_std())
    }

    /// Takes out what is due first, the older one of two.
    fn take_first(&mut self) -> Option<Turn> {
        let due_and_age = |turn: &Turn| (turn.due, turn.task.operation.id.pos());
        let first = (0..self.0.len()).min_by_key(|index| due_and_age(&self.0[*index]))?;
        Some(self.0.swap_remove(first))
    }
}

/// The time that so many items make up for.
fn pace(items: usize, per_second: f64) -> Micros {
    // A rate may have been stored before there was a lower bound.
    Micros((items as f64 * 1e6 / per_second.max(PER_SECOND_MIN)) as i64)
}
