//! What is committed: deliveries, and the feed of their changes.
//!
//! Commits are atomic and instant; what can go wrong around them is the
//! [`super::world`]'s business. Every write may come twice, because a writer that
//! is told of a failure writes again: each looks at what is stored first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    bugs::Bug,
    checks::{self, Checks},
};
use crate::{
    domain::{Cause, Delivery, Endpoint, EndpointState, Micros, Outcome, Pos, State, Timestamp},
    machine::{
        judge::{self, Verdict},
        lane::Page,
        lost, samples,
    },
};

/// What is committed.
#[derive(Default)]
pub struct Store {
    /// Endpoints, by key - 1.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Every delivery.
    pub rows: BTreeMap<Pos, Arc<Delivery>>,
    /// Open deliveries of each endpoint by turn.
    pub open: Vec<BTreeMap<(Timestamp, Pos), Arc<Delivery>>>,
    /// Every change; the first has position 1.
    pub feed: Vec<Entry>,
    /// Attempts without a result that began some time ago, and when.
    pub starts: BTreeMap<Pos, (u32, Timestamp)>,
    /// Deliveries by idempotency key.
    keys: HashMap<u64, Pos>,
}

/// One change of one delivery.
#[derive(Clone)]
pub struct Entry {
    /// The delivery after it.
    pub delivery: Arc<Delivery>,
    /// How the attempt that caused it failed, if an attempt did and it failed.
    pub attempt: Option<Option<Cause>>,
}

/// An attempt, in flight or over.
#[derive(Clone)]
pub struct Flight {
    /// The delivery as it was sent.
    pub before: Arc<Delivery>,
    /// What was or will be observed.
    pub outcome: Outcome,
    /// How long the receiver asked us to wait.
    pub asked: Option<Micros>,
}

/// Something to commit.
#[derive(Clone)]
pub enum Write {
    /// A new event.
    Publish {
        key: u64,
        endpoint: usize,
        priority: i8,
        due_at: Option<Timestamp>,
        expires_at: Option<Timestamp>,
    },
    /// An attempt has begun, and goes on.
    Start { pos: Pos, number: u32, started_at: Timestamp },
    /// How an attempt went.
    Result { flight: Box<Flight>, verdict: Verdict, endpoint: Arc<Endpoint>, earliest: Timestamp },
    /// Its time is over.
    Expire(Arc<Delivery>),
    /// Stopped by a caller.
    Cancel(Pos),
    /// Due at once.
    RetryNow(Pos),
    /// An endpoint was changed.
    Endpoint(Arc<Endpoint>),
}

impl Write {
    /// Whose start it is, if it is one.
    pub fn start_of(&self) -> Option<Pos> {
        match self {
            Self::Start { pos, .. } => Some(*pos),
            Self::Publish { .. }
            | Self::Result { .. }
            | Self::Expire(_)
            | Self::Cancel(_)
            | Self::RetryNow(_)
            | Self::Endpoint(_) => None,
        }
    }
}

impl Store {
    /// A store with endpoints and nothing else.
    pub fn new(endpoints: Vec<Arc<Endpoint>>) -> Self {
        let open = endpoints.iter().map(|_| BTreeMap::new()).collect();
        Self { endpoints, open, ..Self::default() }
    }

    /// Commits one write.
    pub fn commit(&mut self, write: &Write, now: Timestamp, bug: Option<Bug>, checks: &mut Checks) {
        match write {
            Write::Publish { key, endpoint, priority, due_at, expires_at } => {
                if !self.keys.contains_key(key) && self.endpoints[*endpoint].receives() {
                    let delivery = self.created(*endpoint, *priority, *due_at, *expires_at, now);
                    self.keys.insert(*key, delivery.id.pos());
                    self.put(delivery, None, None, checks);
                }
            }
            Write::Start { pos, number, started_at } => {
                self.starts.insert(*pos, (*number, *started_at));
                checks.known(*pos, *number);
            }
            Write::Result { flight, verdict, endpoint, earliest } => {
                self.result(flight, verdict, endpoint, *earliest, bug, checks);
            }
            Write::Expire(before) => {
                // Its time is over, whatever else was changed meanwhile.
                if self.rows[&before.id.pos()].is_open() {
                    self.change(before.id.pos(), now, checks, |row| row.state = State::Expired);
                }
            }
            Write::Cancel(pos) => {
                if self.rows[pos].is_open() || bug == Some(Bug::TerminalOverwritten) {
                    self.change(*pos, now, checks, |row| row.state = State::Cancelled);
                }
            }
            Write::RetryNow(pos) => {
                let row = &self.rows[pos];
                if row.is_open() && row.due_at > now {
                    checks.hurried(*pos);
                    self.change(*pos, now, checks, |row| {
                        row.due_at = now;
                        row.turn_at = Delivery::turn(row.created_at, now, row.priority);
                    });
                }
            }
            Write::Endpoint(endpoint) => self.endpoints[endpoint.key.0 as usize - 1] = Arc::clone(endpoint),
        }
    }

    /// The delivery made under an idempotency key.
    pub fn made(&self, key: u64) -> Option<&Arc<Delivery>> {
        self.rows.get(self.keys.get(&key)?)
    }

    /// How many deliveries are open.
    pub fn open_count(&self) -> usize {
        self.open.iter().map(BTreeMap::len).sum()
    }

    /// Open deliveries of an endpoint, and whether these are all that were asked for.
    pub fn page(&self, endpoint: usize, asked: Page) -> (Vec<Arc<Delivery>>, bool) {
        let found = self.open[endpoint].range(asked.from..).filter(|((_, pos), _)| *pos <= asked.upto);
        let page: Vec<_> = found.map(|(_, it)| Arc::clone(it)).take(asked.limit).collect();
        let last = page.len() < asked.limit;
        (page, last)
    }

    /// The guard: an attempt counts once, and does not bring back to life what
    /// has ended since it began. If something else has changed, such as the due
    /// time, the attempt is the newer truth.
    fn result(
        &mut self,
        flight: &Flight,
        verdict: &Verdict,
        endpoint: &Endpoint,
        earliest: Timestamp,
        bug: Option<Bug>,
        checks: &mut Checks,
    ) {
        let pos = flight.before.id.pos();
        let row = Arc::clone(&self.rows[&pos]);
        if bug != Some(Bug::ResultAndStart) {
            self.starts.remove(&pos);
        }
        let guarded = bug != Some(Bug::NoRevisionGuard);
        if guarded && row.attempts > flight.before.attempts {
            return;
        }
        let before = if guarded { row.as_ref() } else { flight.before.as_ref() };
        let (mut after, attempt) =
            judge::settle(before, flight.outcome.clone(), verdict.clone(), endpoint.dead_letters);
        if !before.is_open() {
            (after.state, after.due_at, after.turn_at) = (row.state, row.due_at, row.turn_at);
        }
        checks.recorded(&after, &attempt, endpoint, earliest);
        let cause = attempt.failure.map(|failure| failure.cause);
        self.put(after, Some(cause), Some(&row), checks);
        let stored = &mut self.endpoints[flight.before.endpoint.0 as usize - 1];
        if cause == Some(Cause::Gone) && stored.receives() {
            let stored = Arc::make_mut(stored);
            stored.state = EndpointState::AutoDisabled;
            stored.version += 1;
        }
    }

    /// Counts attempts that a life before left without a result.
    pub fn count_lost(&mut self, now: Timestamp, wall: Timestamp, bug: Option<Bug>, checks: &mut Checks) {
        let starts = std::mem::take(&mut self.starts);
        if bug == Some(Bug::StartCountedTwice) {
            self.starts.clone_from(&starts);
        }
        for (pos, (number, started_at)) in starts {
            let row = Arc::clone(&self.rows[&pos]);
            let forgets_results = matches!(bug, Some(Bug::StartCountedTwice | Bug::ResultAndStart));
            let number = if forgets_results { row.attempts + 1 } else { number };
            let in_a_row = if bug == Some(Bug::NoDistance) { 0 } else { self.lost_in_a_row(pos) };
            let endpoint = Arc::clone(&self.endpoints[row.endpoint.0 as usize - 1]);
            let Some(lost) = lost::lost(&row, &endpoint, (number, started_at), in_a_row, wall) else {
                continue;
            };
            let earliest = checks::earliest(&endpoint, number, now, None);
            checks.recorded(&lost.after, &lost.attempt, &endpoint, earliest);
            self.put(lost.after, Some(Some(Cause::WorkerLost)), Some(&row), checks);
        }
    }

    /// Attempts at the end of a delivery's history that were cut off.
    fn lost_in_a_row(&self, pos: Pos) -> u32 {
        let attempts = self.feed.iter().rev().filter(|entry| entry.delivery.id.pos() == pos);
        let causes = attempts.filter_map(|entry| entry.attempt);
        causes.take_while(|cause| *cause == Some(Cause::WorkerLost)).count() as u32
    }

    fn created(
        &self,
        endpoint: usize,
        priority: i8,
        due_at: Option<Timestamp>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Delivery {
        let due_at = due_at.unwrap_or(now).max(now);
        let turn_at = Delivery::turn(now, due_at, priority);
        let plain = samples::delivery(&self.endpoints[endpoint], self.next_pos(), now);
        Delivery { priority, expires_at, due_at, turn_at, ..plain }
    }

    fn change(&mut self, pos: Pos, now: Timestamp, checks: &mut Checks, edit: impl FnOnce(&mut Delivery)) {
        let before = Arc::clone(&self.rows[&pos]);
        let mut after = before.as_ref().clone();
        edit(&mut after);
        (after.revision, after.updated_at) = (before.revision + 1, now);
        self.put(after, None, Some(&before), checks);
    }

    fn put(
        &mut self,
        mut after: Delivery,
        attempt: Option<Option<Cause>>,
        before: Option<&Arc<Delivery>>,
        checks: &mut Checks,
    ) {
        after.last_change = self.next_pos();
        checks.committed(before.map(Arc::as_ref), &after, attempt.is_some());
        let (pos, delivery) = (after.id.pos(), Arc::new(after));
        let open = &mut self.open[delivery.endpoint.0 as usize - 1];
        if let Some(before) = before {
            open.remove(&(before.turn_at, pos));
        }
        if delivery.is_open() {
            open.insert((delivery.turn_at, pos), Arc::clone(&delivery));
        }
        self.rows.insert(pos, Arc::clone(&delivery));
        self.feed.push(Entry { delivery, attempt });
    }

    fn next_pos(&self) -> Pos {
        Pos(self.feed.len() as u64 + 1)
    }
}
