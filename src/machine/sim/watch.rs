//! What one life of the engine owes one endpoint: limits, holds, order, fairness.
//! Forgotten in a crash, as the engine's own memory is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::rules::{Circuit, Rate, due};
use crate::{
    domain::{Delivery, Endpoint, EndpointState, Now, Pos, Timestamp},
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

/// By turn, each with when it is due whatever the wall clock does from here on.
type Queue = BTreeMap<(Timestamp, Pos), (Arc<Delivery>, Timestamp)>;

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
    /// Open deliveries never tried, by turn.
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
    pub fn paged(&mut self, delivery: &Arc<Delivery>, lane: &Lane, now: &Now) {
        let pos = delivery.id.pos();
        let newer = self.known.get(&pos).is_none_or(|known| known.revision < delivery.revision);
        if newer && !lane.holds(pos) {
            self.told(delivery, now);
        }
    }

    /// The feed speaks of a delivery.
    pub fn told(&mut self, delivery: &Arc<Delivery>, now: &Now) {
        let pos = delivery.id.pos();
        if let Some(known) = self.known.get(&pos) {
            let turn = (known.turn_at, pos);
            self.first_tries.remove(&turn);
            self.retries.remove(&turn);
        }
        self.known.insert(pos, Arc::clone(delivery));
        if delivery.is_open() {
            let queue = if delivery.attempts == 0 { &mut self.first_tries } else { &mut self.retries };
            let fixed = if delivery.attempts > 0 { due(delivery, now) } else { Timestamp::MAX };
            queue.insert((delivery.turn_at, pos), (Arc::clone(delivery), fixed));
        }
    }

    /// The wall clock is about to step: what is due by now stays due.
    pub fn steps(&mut self, now: &Now) {
        for (delivery, fixed) in self.first_tries.values_mut().filter(|(it, _)| due(it, now) <= now.steady) {
            *fixed = due(delivery, now);
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

    /// A delivery that is due, in the lane's memory, and behind nothing that is only stored.
    pub fn kept_waiting(&self, lane: &Lane, now: &Now) -> Option<Pos> {
        let queues = [&self.first_tries, &self.retries];
        let mut due = queues.into_iter().flat_map(|queue| all_due(queue, now));
        // One whose time is over may be about to be recorded as expired.
        let lives = |pos: &Pos| self.known[pos].expires_at.is_none_or(|end| end > now.wall);
        due.find(|(turn, pos)| may_go(lane, (*turn, *pos)) && lives(pos)).map(|(_, pos)| *pos)
    }

    /// A request goes out.
    pub fn sent(&mut self, delivery: &Delivery, lane: &Lane, rows: &Rows, now: &Now) -> Result<(), String> {
        let pos = delivery.id.pos();
        let known = self.known.get(&pos).ok_or("sent what was never told")?;
        require(known.is_open(), || format!("sent although known to be {:?}", known.state))?;
        let queue = if delivery.attempts > 0 { &self.retries } else { &self.first_tries };
        let fixed = queue.get(&(delivery.turn_at, pos)).map_or(Timestamp::MAX, |(_, fixed)| *fixed);
        let due_at = due(delivery, now).min(fixed);
        require(due_at <= now.steady, || format!("sent before {}", delivery.due_at))?;
        require(delivery.expires_at.is_none_or(|at| at > now.wall), || "sent after its end".to_owned())?;
        let state = self.endpoint.state;
        require(state == EndpointState::Active, || format!("sent to an endpoint that is {state:?}"))?;
        require(self.unsettled.insert(pos), || "sent twice at once".to_owned())?;
        let landed = self.unsettled.len() - 1 - self.on_wire.len();
        require(landed < UNRECORDED_MAX, || format!("sent while {landed} results are not recorded"))?;
        self.on_wire.insert(pos);
        let (flying, most) = (self.on_wire.len(), self.endpoint.max_in_flight);
        require(flying <= most as usize, || format!("{flying} in flight, {most} allowed"))?;
        require(self.rate.sent(now.steady), || "more requests than the rate limit allows".to_owned())?;
        require(self.circuit.sent(pos, now.steady), || "sent while the breaker is open".to_owned())?;
        require(self.gone.is_empty(), || "sent although the endpoint is gone".to_owned())?;
        let quiet = self.quiet_until.is_some_and(|until| until > now.steady);
        require(!quiet, || "sent although asked for silence".to_owned())?;
        self.in_order(delivery, lane, rows, now)
    }

    fn in_order(&mut self, delivery: &Delivery, lane: &Lane, rows: &Rows, now: &Now) -> Result<(), String> {
        let turn = (delivery.turn_at, delivery.id.pos());
        let retry = delivery.attempts > 0;
        let queue = if retry { &mut self.retries } else { &mut self.first_tries };
        queue.remove(&turn);
        // What has changed in the store since may be missing from a page.
        let (unsettled, known) = (&self.unsettled, &self.known);
        let waits = |pos: &Pos| !unsettled.contains(pos) && rows[pos].revision == known[pos].revision;
        let passed = all_due(queue, now).find(|(_, pos)| waits(pos)).filter(|ahead| **ahead < turn);
        if let Some(passed) = passed {
            return Err(format!("overtook {}", passed.1.0));
        }
        let retry_due = all_due(&self.retries, now).any(|turn| may_go(lane, *turn));
        if retry {
            let other_due = all_due(&self.first_tries, now).any(|turn| may_go(lane, *turn));
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
/// Where steps of the wall clock left it open when a retry is due, the lane may take the
/// later time.
fn all_due<'q>(queue: &'q Queue, now: &Now) -> impl Iterator<Item = &'q (Timestamp, Pos)> + use<'q> {
    let now = *now;
    let is_due = move |delivery: &Delivery, fixed: Timestamp| {
        due(delivery, &now) <= now.steady && (delivery.attempts == 0 || fixed <= now.steady)
    };
    queue
        .iter()
        .take(LOOK)
        .filter(move |(_, (delivery, fixed))| is_due(delivery, *fixed))
        .map(|(turn, _)| turn)
}

/// Whether a delivery waits in memory, and nothing before it waits elsewhere.
fn may_go(lane: &Lane, turn: (Timestamp, Pos)) -> bool {
    lane.holds(turn.1) && lane.is_complete(turn)
}

fn require(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}
