//! What one life of the engine owes one endpoint: limits, holds, order, fairness.
//! Forgotten in a crash, as the engine's own memory is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::rules::{Circuit, Rate};
use crate::{
    domain::{Delivery, Endpoint, EndpointState, Pos, Timestamp},
    machine::{
        breaker::Signal,
        lane::{FIRST_TRIES_PER_RETRY, Lane, UNRECORDED_MAX, WINDOW},
    },
};

/// Entries looked at in search of one that was passed over: more than a few are
/// ahead only if they are not due or not in the lane.
const LOOK: usize = 16;

/// Deliveries as they are stored.
pub type Rows = BTreeMap<Pos, Arc<Delivery>>;

type Queue = BTreeMap<(Timestamp, Pos), Timestamp>;

/// What the engine was told and did about one endpoint.
pub struct Watch {
    endpoint: Arc<Endpoint>,
    rate: Rate,
    circuit: Circuit,
    quiet_until: Option<Timestamp>,
    on_wire: HashSet<Pos>,
    unsettled: HashSet<Pos>,
    /// Found the endpoint gone, which is not recorded yet.
    gone: HashSet<Pos>,
    known: HashMap<Pos, Arc<Delivery>>,
    /// Due times by turn, of open deliveries never tried.
    first_tries: Queue,
    /// The same of those tried before.
    retries: Queue,
    passed_by_first_tries: u32,
    retried_last: bool,
}

impl Watch {
    /// An engine that has just started.
    pub fn new(endpoint: Arc<Endpoint>, now: Timestamp) -> Self {
        Self {
            rate: Rate::new(endpoint.rate_limit, now),
            circuit: Circuit::new(endpoint.breaker),
            endpoint,
            quiet_until: None,
            on_wire: HashSet::new(),
            unsettled: HashSet::new(),
            gone: HashSet::new(),
            known: HashMap::new(),
            first_tries: Queue::new(),
            retries: Queue::new(),
            passed_by_first_tries: 0,
            retried_last: false,
        }
    }

    /// The endpoint was changed.
    pub fn endpoint_told(&mut self, endpoint: Arc<Endpoint>, now: Timestamp) {
        let active = |endpoint: &Endpoint| endpoint.state == EndpointState::Active;
        let revived = active(&endpoint) && !active(&self.endpoint);
        if revived {
            self.quiet_until = None;
        }
        self.rate.change(endpoint.rate_limit, now);
        self.circuit.change(endpoint.breaker, revived);
        self.endpoint = endpoint;
    }

    /// A page speaks of a delivery. What the lane has or knows better, it keeps.
    pub fn paged(&mut self, delivery: &Arc<Delivery>, lane: &Lane) {
        let pos = delivery.id.pos();
        let newer = self.known.get(&pos).is_none_or(|known| known.revision < delivery.revision);
        if newer && !lane.holds(pos) {
            self.told(delivery);
        }
    }

    /// The feed speaks of a delivery.
    pub fn told(&mut self, delivery: &Arc<Delivery>) {
        let pos = delivery.id.pos();
        if let Some(known) = self.known.get(&pos) {
            let turn = (known.turn_at, pos);
            self.first_tries.remove(&turn);
            self.retries.remove(&turn);
        }
        self.known.insert(pos, Arc::clone(delivery));
        if delivery.is_open() {
            let queue = if delivery.attempts == 0 { &mut self.first_tries } else { &mut self.retries };
            queue.insert((delivery.turn_at, pos), delivery.due_at);
        }
    }

    /// A request is over.
    pub fn landed(&mut self, pos: Pos, signal: Signal, quiet_until: Option<Timestamp>, now: Timestamp) {
        self.on_wire.remove(&pos);
        if signal == Signal::Gone {
            self.gone.insert(pos);
        }
        self.circuit.answered(pos, signal, now);
        self.quiet_until = self.quiet_until.max(quiet_until);
    }

    /// Its record came along the feed.
    pub fn recorded(&mut self, pos: Pos) {
        self.unsettled.remove(&pos);
        self.gone.remove(&pos);
    }

    /// The lane has come to rest.
    pub fn rests(&self, lane: &Lane, room: usize) -> Result<(), String> {
        require(lane.held() <= room.max(WINDOW), || format!("{} deliveries waiting in memory", lane.held()))
    }

    /// A delivery is over and about to be recorded as expired.
    pub fn expires(&mut self, delivery: &Delivery) {
        let turn = (delivery.turn_at, delivery.id.pos());
        self.first_tries.remove(&turn);
        self.retries.remove(&turn);
    }

    /// A page is in: what the engine knows waits in memory, or will be found by
    /// another page. What has changed in the store since is still to be told.
    pub fn complete(&self, lane: &Lane, rows: &Rows) -> Result<(), String> {
        for turn in self.first_tries.keys().chain(self.retries.keys()) {
            let pos = turn.1;
            let found = lane.holds(pos) || !lane.is_complete(*turn) || self.unsettled.contains(&pos);
            let current = || rows[&pos].revision == self.known[&pos].revision;
            require(found || !current(), || format!("delivery {} is forgotten", pos.0))?;
        }
        Ok(())
    }

    /// A request goes out.
    pub fn sent(
        &mut self,
        delivery: &Delivery,
        lane: &Lane,
        rows: &Rows,
        now: Timestamp,
    ) -> Result<(), String> {
        let pos = delivery.id.pos();
        let known = self.known.get(&pos).ok_or("sent what was never told")?;
        require(known.is_open(), || format!("sent although known to be {:?}", known.state))?;
        require(delivery.due_at <= now, || format!("sent before {}", delivery.due_at))?;
        require(delivery.expires_at.is_none_or(|at| at > now), || "sent after its end".to_owned())?;
        let state = self.endpoint.state;
        require(state == EndpointState::Active, || format!("sent to an endpoint that is {state:?}"))?;
        require(self.unsettled.insert(pos), || "sent twice at once".to_owned())?;
        let landed = self.unsettled.len() - 1 - self.on_wire.len();
        require(landed < UNRECORDED_MAX, || format!("sent while {landed} results are not recorded"))?;
        self.on_wire.insert(pos);
        let (flying, most) = (self.on_wire.len(), self.endpoint.max_in_flight);
        require(flying <= most as usize, || format!("{flying} in flight, {most} allowed"))?;
        require(self.rate.sent(now), || "more requests than the rate limit allows".to_owned())?;
        require(self.circuit.sent(pos, now), || "sent while the breaker is open".to_owned())?;
        require(self.gone.is_empty(), || "sent although the endpoint is gone".to_owned())?;
        let quiet = self.quiet_until.is_some_and(|until| until > now);
        require(!quiet, || "sent although asked for silence".to_owned())?;
        self.in_order(delivery, lane, rows, now)
    }

    fn in_order(
        &mut self,
        delivery: &Delivery,
        lane: &Lane,
        rows: &Rows,
        now: Timestamp,
    ) -> Result<(), String> {
        let turn = (delivery.turn_at, delivery.id.pos());
        let retry = delivery.attempts > 0;
        let queue = if retry { &mut self.retries } else { &mut self.first_tries };
        queue.remove(&turn);
        // What has changed in the store since may be missing from a page.
        let (unsettled, known) = (&self.unsettled, &self.known);
        let waits = |pos: &Pos| !unsettled.contains(pos) && rows[pos].revision == known[pos].revision;
        let passed = due(queue, now).find(|(_, pos)| waits(pos)).filter(|ahead| **ahead < turn);
        if let Some(passed) = passed {
            return Err(format!("overtook {}", passed.1.0));
        }
        let retry_due = due(&self.retries, now).any(|turn| may_go(lane, *turn));
        if retry {
            let other_due = due(&self.first_tries, now).any(|turn| may_go(lane, *turn));
            let greedy = self.retried_last && other_due;
            require(!greedy, || "two retries in a row while a first try is due".to_owned())?;
        }
        self.passed_by_first_tries = if retry || !retry_due { 0 } else { self.passed_by_first_tries + 1 };
        let row = self.passed_by_first_tries;
        require(row <= FIRST_TRIES_PER_RETRY, || format!("{row} first tries in a row while a retry is due"))?;
        self.retried_last = retry;
        Ok(())
    }
}

/// Deliveries of a queue that are due and known to the engine.
fn due(queue: &Queue, now: Timestamp) -> impl Iterator<Item = &(Timestamp, Pos)> {
    queue.iter().take(LOOK).filter(move |(_, due_at)| **due_at <= now).map(|(turn, _)| turn)
}

/// Whether a delivery waits in memory, and nothing before it waits elsewhere.
fn may_go(lane: &Lane, turn: (Timestamp, Pos)) -> bool {
    lane.holds(turn.1) && lane.is_complete(turn)
}

fn require(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}
