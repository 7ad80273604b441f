//! Healthy endpoints beside `h` hanging ones, in virtual time, with the real lanes, slots
//! and queue. It measures how long a due delivery of a healthy endpoint waits for a slot:
//! of endpoints that had answered before the trouble, and of newcomers whose first event
//! comes in the middle of it.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use super::super::Slots;
use crate::{
    domain::{Endpoint, EndpointKey, Micros, Now, Pos, RateLimit, TenantKey, Timestamp},
    machine::{
        breaker::Signal,
        lane::{Lane, Step},
        latency::{Class, Latency},
        samples,
        share::Share,
    },
};

const BEGIN: Timestamp = Timestamp(1_700_000_000_000_000);
/// When the hanging endpoints get their events.
const FLOOD: Micros = Micros::from_secs(2);
const END: Micros = Micros::from_secs(40);
/// How long a healthy endpoint takes to answer.
const ANSWER: Micros = Micros::from_millis(5);
/// The timeout of attempts.
const TIMEOUT: Micros = Micros::from_secs(10);
const HEALTHY: usize = 5;
/// Between two events of a healthy endpoint.
const PACE: Micros = Micros::from_millis(50);
/// Healthy endpoints that get their first event after the flood, one a second.
const NEWCOMERS: usize = 30;
/// Hanging endpoints that take one slot each of 1,024 and leave an eighth and some more.
const MANY: usize = 700;

/// A mistake made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// Every attempt may begin while any slot is free.
    OneClass,
    /// Nothing is learned from attempts that go on.
    OverdueIgnored,
    /// Nothing is learned from attempts that end.
    LatencyIgnored,
    /// An unproven endpoint may fill its own limit whatever the pressure.
    NoCap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Publish(usize),
    Ended(usize, Pos, Micros),
    Timer(usize),
    Overdue,
}

struct Place {
    lane: Lane,
    latency: Latency,
    queued: Option<Class>,
    takes: Micros,
}

struct World {
    bug: Option<Bug>,
    now: Timestamp,
    slots: Slots<()>,
    share: Share<usize>,
    places: Vec<Place>,
    agenda: BinaryHeap<Reverse<(Timestamp, Happening)>>,
    made: u64,
    /// When overdue attempts are looked for next.
    overdue_at: Option<Timestamp>,
    /// Longest wait of each kind of healthy endpoint.
    proven: Vec<Micros>,
    newcomers: Vec<Micros>,
}

impl World {
    fn new(total: usize, hanging: usize, events: usize, bug: Option<Bug>) -> Self {
        let mut world = Self {
            bug,
            now: BEGIN,
            slots: Slots::new(total),
            share: Share::default(),
            places: Vec::new(),
            agenda: BinaryHeap::new(),
            made: 0,
            overdue_at: None,
            proven: Vec::new(),
            newcomers: Vec::new(),
        };
        for number in 0..HEALTHY + NEWCOMERS + hanging {
            let takes = if number < HEALTHY + NEWCOMERS { ANSWER } else { TIMEOUT };
            let rate_limit = RateLimit { disabled: true, ..RateLimit::default() };
            let endpoint = Endpoint { rate_limit, ..samples::endpoint(number as i64 + 1) };
            let lane = Lane::new(Arc::new(endpoint), None, BEGIN);
            world.places.push(Place { lane, latency: Latency::default(), queued: None, takes });
        }
        for number in 0..HEALTHY {
            let mut at = Micros(number as i64);
            while at < END {
                world.at(at, Happening::Publish(number));
                at = Micros(at.0 + PACE.0);
            }
        }
        for number in 0..NEWCOMERS {
            let at = Micros(FLOOD.0 + 500_000 + number as i64 * 1_000_000);
            world.at(at, Happening::Publish(HEALTHY + number));
        }
        for number in 0..hanging {
            for _ in 0..events {
                world.at(FLOOD, Happening::Publish(HEALTHY + NEWCOMERS + number));
            }
        }
        world
    }

    fn at(&mut self, after: Micros, what: Happening) {
        self.agenda.push(Reverse((BEGIN.plus(after), what)));
    }

    fn run(mut self) -> Waits {
        while let Some(Reverse((at, what))) = self.agenda.pop() {
            if at > BEGIN.plus(END) {
                break;
            }
            self.now = at;
            match what {
                Happening::Publish(number) => self.publish(number),
                Happening::Ended(number, pos, took) => self.ended(number, pos, took),
                Happening::Timer(number) => self.wake(number),
                Happening::Overdue => {}
            }
            self.learn_overdue();
            self.pump();
        }
        let unsent = self.places[..HEALTHY + NEWCOMERS].iter().map(|place| place.lane.held()).sum::<usize>();
        Waits {
            proven: p99(self.proven),
            newcomers: self.newcomers.into_iter().max().unwrap_or_default(),
            unsent,
        }
    }

    fn publish(&mut self, number: usize) {
        self.made += 1;
        let place = &mut self.places[number];
        let delivery = samples::delivery(place.lane.endpoint(), Pos(self.made), self.now);
        place.lane.offer(Arc::new(delivery), 0, &Now::at(self.now));
        self.wake(number);
    }

    fn ended(&mut self, number: usize, pos: Pos, took: Micros) {
        let place = &mut self.places[number];
        let signal = if took < TIMEOUT { Signal::Success } else { Signal::Failure };
        place.lane.land(pos, signal, None, self.now);
        place.lane.recorded(pos);
        if self.bug != Some(Bug::LatencyIgnored) {
            place.latency.observe(took);
        }
        self.slots.ended(pos);
        self.slots.release(pos);
        self.share.end(TenantKey::DEFAULT);
        self.wake(number);
    }

    fn learn_overdue(&mut self) {
        if self.bug == Some(Bug::OverdueIgnored) {
            return;
        }
        while let Some((EndpointKey(key), age)) = self.slots.overdue(self.now) {
            let number = key as usize - 1;
            self.places[number].latency.at_least(age);
            self.wake(number);
        }
        if let Some(at) = self.slots.overdue_at().filter(|at| self.overdue_at != Some(*at)) {
            self.overdue_at = Some(at);
            self.agenda.push(Reverse((at, Happening::Overdue)));
        }
    }

    fn wake(&mut self, number: usize) {
        let place = &mut self.places[number];
        let class = place.latency.class();
        if place.queued != Some(class) {
            place.queued = Some(class);
            self.share.push(TenantKey::DEFAULT, 10, class, number);
        }
    }

    fn pump(&mut self) {
        loop {
            let any = self.bug == Some(Bug::OneClass);
            let open = |class| self.slots.may_begin(if any { Class::Quick } else { class });
            let Some((class, number)) = self.share.pop(open) else { return };
            let place = &mut self.places[number];
            if place.queued != Some(class) {
                continue;
            }
            place.queued = None;
            let cap = if self.bug == Some(Bug::NoCap) { u32::MAX } else { self.slots.in_flight_cap(class) };
            place.lane.set_in_flight_cap(cap);
            match place.lane.next(0, &Now::at(self.now)) {
                Step::Send(delivery) => {
                    let pos = delivery.id.pos();
                    let waited = self.now.since(delivery.created_at);
                    match number {
                        0..HEALTHY => self.proven.push(waited),
                        HEALTHY.. if number < HEALTHY + NEWCOMERS => self.newcomers.push(waited),
                        _ => {}
                    }
                    let takes = place.takes;
                    self.slots.begin(pos, EndpointKey(number as i64 + 1), class, self.now, ());
                    self.share.begin(TenantKey::DEFAULT);
                    self.agenda.push(Reverse((self.now.plus(takes), Happening::Ended(number, pos, takes))));
                    self.wake(number);
                }
                Step::Wait(Some(at)) => self.agenda.push(Reverse((at, Happening::Timer(number)))),
                Step::Wait(None) => {}
                Step::Expire(_) | Step::Page(_) => unreachable!("nothing expires or waits in a store"),
            }
        }
    }
}

/// What healthy endpoints waited.
#[derive(Debug)]
struct Waits {
    /// 99th percentile of endpoints that had answered before.
    proven: Micros,
    /// The longest of newcomers' first events.
    newcomers: Micros,
    /// Deliveries of healthy endpoints that never went out.
    unsent: usize,
}

impl Waits {
    /// Whether healthy endpoints were served as if the hanging ones were not there: those known
    /// as quick at once, newcomers within the patience with those before them.
    fn are_short(&self) -> bool {
        self.proven == Micros::ZERO && self.newcomers <= Micros::from_millis(50) && self.unsent == 0
    }
}

fn p99(mut waits: Vec<Micros>) -> Micros {
    waits.sort_unstable();
    waits.get(waits.len() * 99 / 100).copied().unwrap_or_default()
}

#[test]
fn a_healthy_endpoint_finds_a_slot_beside_any_number_of_hanging_ones() {
    for (total, hanging, events) in
        [(1024, 1, 20), (1024, 110, 20), (1024, 1_000, 20), (1024, 10_000, 3), (20, 3, 20), (20, 100, 20)]
    {
        let waits = World::new(total, hanging, events, None).run();
        println!("{total} slots, {hanging} hanging: {waits:?}");
        // An eighth of 20 slots is two, and five endpoints want one at the same time.
        let longest = if total < 8 * HEALTHY { Micros(2 * ANSWER.0) } else { Micros::ZERO };
        assert!(waits.proven <= longest && waits.unsent == 0, "{total} slots, {hanging} hanging: {waits:?}");
    }
}

#[test]
fn a_newcomer_is_served_within_50_ms_while_slots_are_left_to_find_out_who_hangs() {
    for hanging in [110, MANY] {
        let waits = World::new(1024, hanging, 20, None).run();
        assert!(waits.are_short(), "{hanging} hanging: {waits:?}");
    }
}

#[test]
fn every_bug_lets_healthy_endpoints_wait() {
    for bug in [Bug::OverdueIgnored, Bug::LatencyIgnored, Bug::NoCap] {
        let waits = World::new(1024, MANY, 20, Some(bug)).run();
        println!("{bug:?}: {waits:?}");
        assert!(!waits.are_short(), "{bug:?} was not noticed: {waits:?}");
    }
    let waits = World::new(1024, 2_000, 3, Some(Bug::OneClass)).run();
    assert!(waits.proven > Micros::from_secs(1), "one class was not noticed: {waits:?}");
}
