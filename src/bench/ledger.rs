//! What was published and what arrived: every event, every endpoint, every time.
//!
//! It shares the processors with the server it observes, so there is nothing in it
//! but numbers that threads set without waiting for each other.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use anyhow::{Result, bail};

use crate::domain::Timestamp;

/// The book of one load.
pub struct Ledger {
    events: Vec<Event>,
    deliveries: Vec<Delivery>,
    endpoints: usize,
    times: u32,
    acks: AtomicU64,
    requests: AtomicU64,
    strays: AtomicU64,
}

#[derive(Default)]
struct Event {
    sent_at: AtomicU64,
    acked_at: AtomicU64,
    refused_at: AtomicU64,
}

#[derive(Default)]
struct Delivery {
    arrived_at: AtomicU64,
    times: AtomicU32,
}

impl Ledger {
    /// For so many events, each to come to so many endpoints so many times.
    pub fn new(events: u32, endpoints: u32, times: u32) -> Self {
        let endpoints = endpoints as usize;
        let deliveries = events as usize * endpoints;
        Self {
            events: std::iter::repeat_with(Event::default).take(events as usize).collect(),
            deliveries: std::iter::repeat_with(Delivery::default).take(deliveries).collect(),
            endpoints,
            times,
            acks: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            strays: AtomicU64::new(0),
        }
    }

    /// Deliveries that are to be made.
    pub fn deliveries(&self) -> u64 {
        self.deliveries.len() as u64
    }

    /// Requests that are to arrive.
    pub fn expected(&self) -> u64 {
        self.deliveries() * u64::from(self.times)
    }

    /// Events that are to be published.
    pub fn events(&self) -> u64 {
        self.events.len() as u64
    }

    /// Events that were acknowledged.
    pub fn acks(&self) -> u64 {
        self.acks.load(Relaxed)
    }

    /// Events that were published, with whatever answer.
    pub fn sents(&self) -> u64 {
        self.events.iter().filter(|event| event.sent_at.load(Relaxed) > 0).count() as u64
    }

    /// Requests that have arrived.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// An event is about to be published.
    pub fn sent(&self, number: u64, at: Timestamp) {
        if let Some(event) = self.events.get(number as usize) {
            event.sent_at.store(micros(at), Relaxed);
        }
    }

    /// An event was acknowledged.
    pub fn acked(&self, number: u64, at: Timestamp) {
        if let Some(event) = self.events.get(number as usize) {
            event.acked_at.store(micros(at), Relaxed);
            self.acks.fetch_add(1, Relaxed);
        }
    }

    /// An event was refused.
    pub fn refused(&self, number: u64, at: Timestamp) {
        if let Some(event) = self.events.get(number as usize) {
            event.refused_at.store(micros(at), Relaxed);
        }
    }

    /// A request has arrived. Says how often this delivery came before.
    pub fn arrived(&self, number: Option<u64>, endpoint: usize, at: Timestamp) -> u32 {
        let place = number.filter(|_| endpoint < self.endpoints);
        let place = place.map(|number| number as usize * self.endpoints + endpoint);
        let Some(delivery) = place.and_then(|place| self.deliveries.get(place)) else {
            self.strays.fetch_add(1, Relaxed);
            return 0;
        };
        delivery.arrived_at.store(micros(at), Relaxed);
        let before = delivery.times.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        before
    }

    /// Fails unless everything came exactly as often as it should.
    pub fn check(&self) -> Result<()> {
        let of = self.deliveries();
        let count = |wrong: fn(u32, u32) -> bool| {
            let times = self.deliveries.iter().map(|delivery| delivery.times.load(Relaxed));
            times.filter(|times| wrong(*times, self.times)).count()
        };
        let (lost, doubled) = (count(|times, wanted| times < wanted), count(|times, wanted| times > wanted));
        let strays = self.strays.load(Relaxed);
        if (lost, doubled, strays) == (0, 0, 0) {
            return Ok(());
        }
        let times =
            if self.times == 1 { String::new() } else { format!(" (each should come {} times)", self.times) };
        bail!(
            "{lost} of {of} deliveries were lost, {doubled} came more often than they should and {strays} \
             requests belonged to none{times}"
        )
    }

    /// Fails unless everything that was acknowledged came once, and nothing that was
    /// refused came. What was not answered may have come or not.
    pub fn check_accepted(&self) -> Result<()> {
        let count = |wrong: fn(&Event, u32) -> bool| {
            let deliveries = self.deliveries.iter().enumerate();
            deliveries.filter(|(place, it)| wrong(self.event_at(*place), it.times.load(Relaxed))).count()
        };
        let lost = count(|event, times| event.acked_at.load(Relaxed) > 0 && times == 0);
        let doubled = count(|_, times| times > 1);
        let ghosts = count(|event, times| event.refused_at.load(Relaxed) > 0 && times > 0);
        let strays = self.strays.load(Relaxed);
        if (lost, doubled, ghosts, strays) == (0, 0, 0, 0) {
            return Ok(());
        }
        bail!(
            "{lost} of {} accepted deliveries were lost, {doubled} came more than once, {ghosts} came although \
             they had been refused and {strays} requests belonged to none",
            self.acks()
        )
    }

    /// From the first publish call to the last arrival.
    pub fn seconds(&self) -> f64 {
        let sent = self.events.iter().map(|event| event.sent_at.load(Relaxed));
        let first = sent.filter(|at| *at > 0).min().unwrap_or(0);
        let arrived = self.deliveries.iter().map(|delivery| delivery.arrived_at.load(Relaxed));
        arrived.max().unwrap_or(0).saturating_sub(first) as f64 / 1e6
    }

    /// Microseconds from publish calls to their acknowledgements, sorted.
    pub fn ack_micros(&self) -> Vec<u64> {
        spans(self.events.iter().map(|event| (&event.sent_at, &event.acked_at)))
    }

    /// Microseconds from publish calls to their refusals, sorted.
    pub fn refusal_micros(&self) -> Vec<u64> {
        spans(self.events.iter().map(|event| (&event.sent_at, &event.refused_at)))
    }

    /// Microseconds from publish calls to the last arrival of each delivery, sorted.
    pub fn delivery_micros(&self) -> Vec<u64> {
        let deliveries = self.deliveries.iter().enumerate();
        spans(deliveries.map(|(place, it)| (&self.event_at(place).sent_at, &it.arrived_at)))
    }

    fn event_at(&self, place: usize) -> &Event {
        &self.events[place / self.endpoints]
    }
}

fn micros(at: Timestamp) -> u64 {
    u64::try_from(at.0).unwrap_or(0)
}

/// Microseconds from one instant to the other where there is one, sorted.
fn spans<'a>(pairs: impl Iterator<Item = (&'a AtomicU64, &'a AtomicU64)>) -> Vec<u64> {
    let pairs = pairs.map(|(from, to)| (from.load(Relaxed), to.load(Relaxed)));
    let mut spans: Vec<_> =
        pairs.filter(|(_, to)| *to > 0).map(|(from, to)| to.saturating_sub(from)).collect();
    spans.sort_unstable();
    spans
}

#[cfg(test)]
mod tests;
