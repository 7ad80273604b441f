//! One life of the engine: lanes in memory, driven as [`crate::machine::lane`]
//! asks for. Everything here is forgotten in a crash.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    bugs::Bug,
    checks,
    receiver::Reaction,
    store::{Entry, Flight, Write},
    world::World,
};
use crate::{
    domain::{Answer, Delivery, Endpoint, Pos, State, Steps, Timestamp},
    machine::{
        breaker::Signal,
        judge::{self, Next},
        lane::Lane,
        retry_after::asked_wait,
    },
};

/// One life of the engine.
pub struct Engine {
    /// Which life this is.
    pub life: u32,
    /// Changes of the feed already heard.
    position: usize,
    /// One for each endpoint.
    pub lanes: Vec<Place>,
    /// Nothing was read of the feed yet.
    fresh: bool,
    /// Requests under way: which attempt, and when it began by the steady hand.
    pub flying: BTreeMap<Pos, (u32, Timestamp)>,
}

/// What the engine keeps of one endpoint.
pub struct Place {
    /// Nothing while there is nothing to do for it.
    pub lane: Option<Lane>,
    /// As last told.
    endpoint: Arc<Endpoint>,
    /// When the lane last wanted to be woken.
    pub wake_at: Option<Timestamp>,
    /// A page is being read.
    pub paging: bool,
    /// For [`Bug::StalePage`].
    pub last_page: Option<(Vec<Arc<Delivery>>, bool)>,
}

impl World {
    /// The engine starts: it knows nothing but the position of the feed.
    pub fn start(&mut self) {
        self.count_lost();
        self.life += 1;
        // What the wall clock did before is not known to a process.
        self.steps = Steps::none(self.offset);
        self.checks.started(&self.store, self.now, self.offset);
        let older = if self.bug == Some(Bug::StoredTooLittle) { 2 } else { 1 };
        let stored = self.store.rows.last_key_value().map(|(pos, _)| Pos(pos.0 / older));
        let place = |endpoint: &Arc<Endpoint>| {
            let endpoint = mistaken(endpoint, self.bug);
            let lane = Some(Lane::new(Arc::clone(&endpoint), stored, self.now));
            Place { lane, endpoint, wake_at: None, paging: false, last_page: None }
        };
        let lanes: Vec<_> = self.store.endpoints.iter().map(place).collect();
        let count = lanes.len();
        let (life, position) = (self.life, self.store.feed.len());
        self.engine = Some(Engine { life, position, lanes, fresh: true, flying: BTreeMap::new() });
        (0..count).for_each(|endpoint| self.drive(endpoint));
        self.look();
    }

    /// Reads what is new in the feed.
    pub fn tail(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        self.tailing = false;
        if std::mem::take(&mut engine.fresh) && self.bug == Some(Bug::FeedFromTooLate) {
            engine.position = self.store.feed.len();
        }
        // Sometimes in bites, so that attempts and pages end in between.
        let bite = self.chance.pick(&[3, 50, 1000]);
        for _ in 0..bite {
            let Some(engine) = &mut self.engine else { return };
            let Some(entry) = self.store.feed.get(engine.position).cloned() else { return };
            engine.position += 1;
            self.hear(&entry);
        }
        self.look();
    }

    /// One change of the feed.
    fn hear(&mut self, entry: &Entry) {
        let (clock, reading) = (self.clock(), self.reading());
        let Some(engine) = &mut self.engine else { return };
        let (delivery, now) = (&entry.delivery, self.now);
        let (pos, at) = (delivery.id.pos(), delivery.endpoint.0 as usize - 1);
        let place = &mut engine.lanes[at];
        let watch = &mut self.checks.watches[at];
        watch.told(delivery, &clock);
        if self.bug == Some(Bug::NewcomersForgotten) && place.paging && delivery.revision == 1 {
            return;
        }
        if place.lane.is_none() && !delivery.is_open() && entry.attempt.is_none() {
            return;
        }
        let lane = place.lane.get_or_insert_with(|| Lane::new(Arc::clone(&place.endpoint), None, now));
        if entry.attempt.is_some() {
            watch.recorded(pos);
            lane.recorded(pos);
        }
        lane.offer(Arc::clone(delivery), self.room, &reading);
        self.drive(at);
    }

    /// The engine hears that an endpoint has changed.
    pub fn endpoint_told(&mut self, at: usize) {
        let Some(engine) = &mut self.engine else { return };
        let endpoint = &self.store.endpoints[at];
        self.checks.watches[at].endpoint_told(Arc::clone(endpoint), self.now);
        if self.bug == Some(Bug::EndpointNotTold) {
            return;
        }
        let place = &mut engine.lanes[at];
        place.endpoint = mistaken(endpoint, self.bug);
        if let Some(lane) = &mut place.lane {
            lane.set_endpoint(Arc::clone(&place.endpoint), self.now);
        }
        self.drive(at);
    }

    /// A lane has waited long enough, unless it was asked again since.
    pub fn wake(&mut self, at: usize, when: Timestamp) {
        if self.engine.as_ref().is_some_and(|engine| engine.lanes[at].wake_at == Some(when)) {
            self.drive(at);
        }
    }

    /// A page has been read, or not.
    pub fn paged(&mut self, at: usize, page: Option<Vec<Arc<Delivery>>>, last: bool) {
        let (clock, reading) = (self.clock(), self.reading());
        let Some(engine) = &mut self.engine else { return };
        let place = &mut engine.lanes[at];
        place.paging = false;
        let Some(lane) = &mut place.lane else { return };
        match page {
            None => lane.page_failed(),
            Some(page) => {
                page.iter().for_each(|it| self.checks.watches[at].paged(it, lane, &clock));
                lane.paged(page, last, &reading);
            }
        }
        if let Err(message) = self.checks.watches[at].complete(lane, &self.store.rows) {
            self.checks.fail(message);
        }
        self.drive(at);
    }

    /// An attempt is over: it is judged, and its result goes to the writer.
    pub fn ended(&mut self, mut flight: Box<Flight>) {
        let wall = self.wall();
        flight.outcome.started_at = wall.minus(flight.outcome.duration);
        let Some(engine) = &mut self.engine else { return };
        let pos = flight.before.id.pos();
        engine.flying.remove(&pos);
        let at = flight.before.endpoint.0 as usize - 1;
        let policy = &engine.lanes[at].endpoint.retry;
        let verdict = judge::judge(&flight.before, policy, &flight.outcome, self.chance.unit());
        if let Next::RetryAt(due_at) = verdict.next
            && due_at <= wall
        {
            self.checks.fail(format!("delivery {}: retried at once", pos.0));
        }
        let ended_at = flight.outcome.started_at.plus(flight.outcome.duration);
        let asked = |answer: &Answer| asked_wait(policy, answer, ended_at);
        let quiet = flight.outcome.result.as_ref().ok().and_then(asked).map(|wait| self.now.plus(wait));
        let signal = Signal::of(verdict.failure.as_ref().map(|failure| failure.cause));
        let leaks = self.bug == Some(Bug::SlotLeaks) && self.store.rows[&pos].state == State::Cancelled;
        if let Some(lane) = engine.lanes[at].lane.as_mut().filter(|_| !leaks) {
            lane.land(pos, signal, quiet, self.now);
        }
        let endpoint = Arc::clone(&self.told[at]);
        let Flight { before, outcome, asked } = *flight;
        let reaction = Reaction { outcome, asked };
        let wait = reaction.wait(&endpoint.retry);
        let quiet = wait.map(|wait| self.now.plus(wait));
        self.checks.watches[at].landed(pos, signal, quiet, self.now);
        let earliest = checks::earliest(&endpoint, before.attempts + 1, self.now, wait);
        let flight = Box::new(Flight { before, outcome: reaction.outcome, asked });
        self.write(Write::Result { flight, verdict, endpoint, earliest });
        self.drive(at);
    }

    /// A request still goes on, or it was over before its start had to be written.
    pub fn begun(&mut self, pos: Pos) {
        let Some(engine) = &self.engine else { return };
        let Some(&(number, began)) = engine.flying.get(&pos) else { return };
        if self.bug != Some(Bug::StartNotWritten) && began.plus(checks::KNOWN_AFTER) >= self.now {
            let started_at = self.wall().minus(self.now.since(began));
            self.write(Write::Start { pos, number, started_at });
        }
    }

    /// Before anything is sent, what the life before left under way is counted.
    fn count_lost(&mut self) {
        if self.bug == Some(Bug::StartLost) {
            self.store.starts.clear();
        }
        let (now, wall) = (self.now, self.wall());
        self.store.count_lost(now, wall, self.bug, &mut self.checks);
        self.checks.all_counted();
    }

    /// Whether the engine alive holds nothing in flight or unrecorded.
    pub fn rested(&self) -> bool {
        let lanes = self.engine.iter().flat_map(|engine| &engine.lanes);
        lanes.flat_map(|place| &place.lane).all(|lane| lane.in_flight() == 0 && lane.unrecorded() == 0)
    }
}

/// The endpoint as an engine with this bug sees it.
fn mistaken(endpoint: &Arc<Endpoint>, bug: Option<Bug>) -> Arc<Endpoint> {
    let mut endpoint = Arc::clone(endpoint);
    if bug == Some(Bug::BucketNotTaken) {
        Arc::make_mut(&mut endpoint).rate_limit.disabled = true;
    }
    if bug == Some(Bug::RetryAfterIgnored) {
        Arc::make_mut(&mut endpoint).retry.ignore_retry_after = true;
    }
    endpoint
}
