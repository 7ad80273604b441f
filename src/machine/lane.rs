//! One endpoint's deliveries on their way out.
//!
//! A lane is told what waits ([`Lane::offer`]), how attempts ended
//! ([`Lane::land`]), that they are recorded ([`Lane::recorded`]) and the time;
//! asked for its [`Lane::next`] step it answers with one thing to do. It holds back
//! for the endpoint's state, for silence the endpoint asked for, the circuit breaker,
//! the cap on attempts in flight and the token bucket; a hold spends no attempt.
//!
//! Memory is a window: a lane holds the waiting deliveries whose turn is nearest,
//! [`WINDOW`] of them or, while it flows, as many as its owner has room for. The
//! others wait in the store, all at or after the `horizon` and none made later than
//! `upto`. As what is before the horizon drains the lane asks for the next page. Whatever
//! is offered meanwhile is taken in as far as there is room, the nearest turns first; what
//! lies beyond the horizon waits until the pages have come to it, so it overtakes nothing
//! in them, and need not be read again. What is left to the store is found by a later
//! page, so nothing is lost between the two.
//!
//! Times are instants of the steady line, but for what callers set by the time of day: a
//! delivery's first due time and its expiration. A lane that waits for one of those has to
//! be asked again when the wall clock steps. See [`Now`].
//!
//! First tries and retries take turns when both are due: [`FIRST_TRIES_PER_RETRY`]
//! of one for each of the other, so that neither a backlog of retries delays new
//! events nor a flood of new events starves retries.

mod held;
mod outside;

use std::sync::Arc;

pub use self::outside::Page;
use self::{
    held::{Due, Held, Place},
    outside::Outside,
};
use super::{
    breaker::{Breaker, Position, Signal},
    bucket::Bucket,
};
use crate::domain::{Delivery, Endpoint, EndpointState, Hold, Live, Now, Pos, Timestamp};

/// Waiting deliveries that any lane may hold.
pub const WINDOW: usize = 256;
/// Up to so many a lane reads at once while it flows, if it may hold them: a page costs
/// the same for all that it brings.
pub const PAGE: usize = 4 * WINDOW;
/// Results not yet recorded, or expirations, at most: a crash repeats as many
/// requests, and no more of them help to fill a transaction.
pub(super) const UNRECORDED_MAX: usize = 512;
/// First tries sent for each retry, when both are due: retries take a fifth.
pub const FIRST_TRIES_PER_RETRY: u32 = 4;

/// Order among deliveries that are due.
pub type Turn = (Timestamp, Pos);

/// One endpoint's deliveries on their way out.
#[derive(Debug)]
pub struct Lane {
    endpoint: Arc<Endpoint>,
    bucket: Bucket,
    breaker: Breaker,
    quiet_until: Option<Timestamp>,
    held: Held,
    in_flight: u32,
    /// Attempts in flight at most, beside the endpoint's own limit.
    in_flight_cap: u32,
    /// Results of attempts being recorded.
    landed: usize,
    /// Expirations being recorded.
    ending: usize,
    /// The last delivery that found the endpoint gone, until that is recorded and
    /// the endpoint disabled by it.
    gone: Option<Pos>,
    /// The delivery that probes an endpoint whose breaker was open.
    probe: Option<Pos>,
    first_tries_in_row: u32,
    outside: Outside,
}

/// What of a lane outlives it: how a breaker stands that is not closed, and the silence
/// that the endpoint asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Failures in a row.
    pub failures: u32,
    /// When the breaker last opened; nothing if it is closed.
    pub opened_at: Option<Timestamp>,
    /// The end of the silence.
    pub quiet_until: Option<Timestamp>,
}

impl Kept {
    /// The same with each instant taken to another line of time: on the way to the store,
    /// which keeps wall times, and back.
    #[must_use]
    pub fn moved(self, to: impl Fn(Timestamp) -> Timestamp) -> Self {
        Self { opened_at: self.opened_at.map(&to), quiet_until: self.quiet_until.map(&to), ..self }
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make an attempt now; tell [`Lane::land`] how it ended.
    Send(Arc<Delivery>),
    /// Record that its time is over.
    Expire(Arc<Delivery>),
    /// Read these from the store and hand them to [`Lane::paged`].
    Page(Page),
    /// Nothing until told of something, until the wall clock steps, or until this instant.
    Wait(Option<Timestamp>),
}

impl Lane {
    /// An empty lane. Deliveries up to `stored` may wait in the store; nothing: none do.
    pub fn new(endpoint: Arc<Endpoint>, stored: Option<Pos>, now: Timestamp) -> Self {
        Self {
            bucket: Bucket::new(endpoint.rate_limit, now),
            breaker: Breaker::new(endpoint.breaker),
            endpoint,
            quiet_until: None,
            held: Held::default(),
            in_flight: 0,
            in_flight_cap: u32::MAX,
            landed: 0,
            ending: 0,
            gone: None,
            probe: None,
            first_tries_in_row: 0,
            outside: Outside::new(stored),
        }
    }

    /// A lane of an endpoint that had another home until an instant. What that sent just
    /// before is not known, so it starts with an empty bucket.
    pub fn inherited(endpoint: Arc<Endpoint>, stored: Option<Pos>, since: Timestamp, now: Timestamp) -> Self {
        let bucket = Bucket::empty(endpoint.rate_limit, since.min(now));
        Self { bucket, ..Self::new(endpoint, stored, now) }
    }

    /// Takes it up as its last home left it, as of the instant it ceased to be that.
    pub fn inherit(&mut self, kept: &Kept, since: Timestamp) {
        self.breaker.restore(kept.failures, kept.opened_at, since);
        self.quiet_until = kept.quiet_until;
    }

    /// What of it is kept in the store: nothing, while the breaker is closed and the
    /// endpoint asked for no silence.
    pub fn kept(&self, now: Timestamp) -> Option<Kept> {
        let open = self.breaker.position() != Position::Closed;
        let (failures, opened_at) =
            if open { (self.breaker.failures(), self.breaker.opened_at()) } else { (0, None) };
        let quiet_until = self.quiet_until.filter(|until| *until > now);
        (open || quiet_until.is_some()).then_some(Kept { failures, opened_at, quiet_until })
    }

    /// The endpoint as last told.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The endpoint was changed. Bringing it back to life closes the breaker and
    /// ends the silence: somebody says that it works again.
    pub fn set_endpoint(&mut self, endpoint: Arc<Endpoint>, now: Timestamp) {
        if endpoint.state == EndpointState::Active && self.endpoint.state != EndpointState::Active {
            self.reset();
        }
        self.bucket.set_limit(endpoint.rate_limit, now);
        self.breaker.set_policy(endpoint.breaker);
        self.endpoint = endpoint;
    }

    /// Closes the breaker and ends the silence.
    pub fn reset(&mut self) {
        self.breaker.close();
        self.quiet_until = None;
    }

    /// Attempts in flight at most from now on, beside the endpoint's own limit.
    pub fn set_in_flight_cap(&mut self, cap: u32) {
        self.in_flight_cap = cap;
    }

    /// Lets the next due delivery probe the endpoint without waiting for the cool-down of an
    /// open breaker.
    pub fn probe_now(&mut self, now: Timestamp) {
        self.breaker.end_cooldown(now);
    }

    /// A delivery was made or changed. `room` is how many waiting deliveries the lane
    /// may hold while it flows, if more than a window.
    pub fn offer(&mut self, delivery: Arc<Delivery>, room: usize, now: &Now) {
        let pos = delivery.id.pos();
        self.outside.touch(pos);
        match self.held.places.get(&pos) {
            Some(Place::InFlight | Place::Landed) => return,
            Some(Place::Expiring) => {
                if !delivery.is_open() {
                    self.held.places.remove(&pos);
                    self.ending -= 1;
                }
                return;
            }
            Some(_) => drop(self.held.take(pos)),
            None => {}
        }
        if !delivery.is_open() {
            return;
        }
        self.held.insert(delivery, self.outside.horizon(), now);
        if self.held() > WINDOW {
            let room = if self.flows(now.steady) { room.max(WINDOW) } else { WINDOW };
            self.shed(room);
        }
    }

    /// An attempt ended: its slot is free, and what it says of the endpoint counts
    /// from here on.
    pub fn land(&mut self, pos: Pos, signal: Signal, quiet_until: Option<Timestamp>, now: Timestamp) {
        if let Some(place @ Place::InFlight) = self.held.places.get_mut(&pos) {
            *place = Place::Landed;
            self.in_flight -= 1;
            self.landed += 1;
        }
        // While a probe is out, an attempt from before the opening says nothing new,
        // unless it says that the endpoint works.
        let stale = self.probe.is_some_and(|probe| probe != pos) && signal != Signal::Success;
        if !(stale && self.breaker.position() == Position::HalfOpen) {
            self.breaker.record(signal, now);
        }
        self.probe = self.probe.filter(|probe| *probe != pos);
        self.quiet_until = self.quiet_until.max(quiet_until);
        if signal == Signal::Gone {
            self.gone = Some(pos);
        }
    }

    /// The result of an attempt is recorded. If the delivery is still open, offer
    /// it again afterwards.
    pub fn recorded(&mut self, pos: Pos) {
        // Without its place, an older row of what is read would pass for news, also if
        // the delivery has ended and is not offered again.
        self.outside.touch(pos);
        if self.held.places.get(&pos) == Some(&Place::Landed) {
            self.held.places.remove(&pos);
            self.landed -= 1;
        }
        self.gone = self.gone.filter(|gone| *gone != pos);
    }

    /// The page that was asked for. `last` says that the store holds no more of it.
    pub fn paged(&mut self, page: Vec<Arc<Delivery>>, last: bool, now: &Now) {
        let room = self.claimed();
        let end = page.last().map(|delivery| (delivery.turn_at, Pos(delivery.id.pos().0 + 1)));
        let horizon = self.outside.read(end.filter(|_| !last));
        self.held.advance(horizon, now);
        for delivery in page {
            let pos = delivery.id.pos();
            if !self.held.places.contains_key(&pos) && self.outside.is_news_of_page(pos) {
                self.held.insert(delivery, horizon, now);
            }
        }
        self.outside.settle();
        self.shed(room);
    }

    /// Deliveries that others made or changed are being read: what is told of them meanwhile
    /// is newer.
    pub fn fetch(&mut self) {
        self.outside.fetch();
    }

    /// Such a read is over; [`Lane::offer`] each of these, if it is [`Lane::is_news`],
    /// before this.
    pub fn fetched(&mut self) {
        self.outside.fetched();
    }

    /// Whether nothing was told of a delivery since it was asked for.
    pub fn is_news(&self, pos: Pos) -> bool {
        self.outside.is_news_of_fetch(pos)
    }

    /// Deliveries up to a number were made for it elsewhere and are left to the store: their
    /// turns are not before this.
    pub fn leave_outside(&mut self, turn_at: Timestamp, upto: Pos) {
        let known = self.outside.horizon();
        self.outside.leave((turn_at, Pos(0)), upto);
        if let Some(horizon) = self.outside.horizon().filter(|it| Some(*it) != known) {
            self.held.recede(horizon);
        }
    }

    /// Whether what has such a turn would be left to the store anyway: it waits behind
    /// others, and there is no room for it.
    pub fn leaves(&mut self, turn_at: Timestamp, now: Timestamp) -> bool {
        !self.outside.is_behind((turn_at, Pos(0))) && self.held() >= WINDOW && !self.flows(now)
    }

    /// The page could not be read; it will be asked for again.
    pub fn page_failed(&mut self) {
        self.outside.fail();
    }

    /// The next thing to do; `room` as for [`Lane::offer`]. Call until it says to wait.
    pub fn next(&mut self, room: usize, now: &Now) -> Step {
        self.held.promote(now);
        // What is recorded slowly, or not at all on a full disk, must not pile up.
        if let Some(&(at, pos)) = self.held.expiring.first()
            && at <= now.wall
            && self.ending < UNRECORDED_MAX
            && let Some(delivery) = self.held.take(pos)
        {
            self.held.places.insert(pos, Place::Expiring);
            self.ending += 1;
            return Step::Expire(delivery);
        }
        if let Some(page) = self.page(room, now.steady) {
            return Step::Page(page);
        }
        let expiry = self.held.expiring.first().map(|(at, _)| *at).filter(|at| *at > now.wall);
        let expiry = expiry.map(|at| now.steady_at(at));
        if self.held.first_tries.is_empty() && self.held.retries.is_empty() {
            let due = self.held.next_due(now);
            return Step::Wait([due, expiry].into_iter().flatten().min());
        }
        match self.gate(now.steady) {
            Some((hold, until)) => {
                if hold != Hold::MaxInFlight {
                    // Room is for lanes that flow.
                    self.shed(WINDOW);
                }
                Step::Wait([until, expiry].into_iter().flatten().min())
            }
            None => Step::Send(self.send()),
        }
    }

    /// What to read next, once little is left before the horizon.
    fn page(&mut self, room: usize, now: Timestamp) -> Option<Page> {
        self.outside.horizon()?;
        let full = if self.flows(now) { room.clamp(WINDOW, PAGE) } else { WINDOW };
        self.outside.ask(self.held.near(), full)
    }

    /// Whether nothing holds the lane back but what is in flight.
    fn flows(&mut self, now: Timestamp) -> bool {
        self.gate(now).is_none_or(|(hold, _)| hold == Hold::MaxInFlight)
    }

    /// Why a due delivery would have to wait now, and until when if that is known.
    pub fn gate(&mut self, now: Timestamp) -> Option<(Hold, Option<Timestamp>)> {
        match self.endpoint.state {
            EndpointState::Active => {}
            EndpointState::Paused => return Some((Hold::Paused, None)),
            EndpointState::Disabled | EndpointState::AutoDisabled => return Some((Hold::Disabled, None)),
        }
        if self.gone.is_some() {
            return Some((Hold::Disabled, None));
        }
        if let Some(until) = self.quiet_until.filter(|until| *until > now) {
            return Some((Hold::RetryAfter, Some(until)));
        }
        let ready = self.breaker.ready_at(now);
        if ready > now {
            return Some((Hold::CircuitOpen, (ready != Timestamp::MAX).then_some(ready)));
        }
        // What lands is recorded at the store's pace; what a crash would repeat must
        // not pile up.
        if self.in_flight >= self.endpoint.max_in_flight.min(self.in_flight_cap)
            || self.landed >= UNRECORDED_MAX
        {
            return Some((Hold::MaxInFlight, None));
        }
        let ready = self.bucket.ready_at(now);
        (ready > now).then_some((Hold::Rate, Some(ready)))
    }

    /// What holds for an open delivery now. A hold is told if the delivery would
    /// wait for it at its due time too, as far as can be said now.
    pub fn live(&mut self, delivery: &Delivery, now: &Now) -> Live {
        if let Some(Place::InFlight | Place::Landed) = self.held.places.get(&delivery.id.pos()) {
            return Live { in_flight: true, ..Live::default() };
        }
        let due = Due::of(delivery, now).steady(now);
        let lasts = |hold: Hold, until: Option<Timestamp>| match hold {
            Hold::Paused | Hold::Disabled => true,
            Hold::RetryAfter | Hold::CircuitOpen => until.is_none_or(|until| until >= due),
            Hold::Rate | Hold::MaxInFlight => due <= now.steady,
        };
        let held = self.gate(now.steady).filter(|(hold, until)| lasts(*hold, *until));
        Live {
            in_flight: false,
            hold: held.map(|(hold, _)| hold),
            held_until: held.and_then(|(_, until)| until),
        }
    }

    /// The circuit breaker.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Attempts in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether nothing would be forgotten by dropping the lane.
    pub fn is_idle(&mut self, now: Timestamp) -> bool {
        let rested = self.breaker.position() == Position::Closed
            && self.breaker.failures() == 0
            && self.quiet_until.is_none_or(|until| until <= now)
            && self.bucket.is_full(now);
        rested && self.held.places.is_empty() && self.outside.is_nothing()
    }

    /// Waiting deliveries held in memory.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The same, or as many as it may be with the page under way.
    pub fn claimed(&self) -> usize {
        self.held().max(self.outside.asked())
    }

    fn send(&mut self) -> Arc<Delivery> {
        let Held { first_tries, retries, .. } = &self.held;
        let retry_turn = self.first_tries_in_row >= FIRST_TRIES_PER_RETRY || first_tries.is_empty();
        let retry = retry_turn && !retries.is_empty();
        let queue = if retry { retries } else { first_tries };
        self.first_tries_in_row = if retry { 0 } else { self.first_tries_in_row.saturating_add(1) };
        let (&(_, pos), _) = queue.first_key_value().expect("one of the two queues has an entry");
        let delivery = self.held.take(pos).expect("what is queued is known");
        self.held.places.insert(pos, Place::InFlight);
        self.in_flight += 1;
        self.bucket.take();
        self.breaker.admit();
        if self.breaker.position() == Position::HalfOpen {
            self.probe = Some(pos);
        }
        delivery
    }

    /// Leaves to the store what does not fit: the furthest turns.
    fn shed(&mut self, room: usize) {
        while self.held() > room
            && let Some(turn) = self.held.furthest()
        {
            self.held.take(turn.1);
            self.outside.leave(turn, turn.1);
        }
    }
}

/// What the simulator may look at.
#[cfg(test)]
impl Lane {
    /// Whether a delivery waits in memory.
    pub(super) fn holds(&self, pos: Pos) -> bool {
        self.held.places.get(&pos).is_some_and(|place| !matches!(place, Place::InFlight | Place::Landed))
    }

    /// Whether all that waits up to this turn waits in memory.
    pub(super) fn is_complete(&self, turn: Turn) -> bool {
        self.outside.is_behind(turn)
    }

    /// Attempts that are over and not recorded.
    pub(super) fn unrecorded(&self) -> usize {
        self.landed
    }
}

#[cfg(test)]
mod tests;
