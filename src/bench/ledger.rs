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

    /// From the first publish call to the last arrival.
    pub fn seconds(&self) -> f64 {
        let first = self.events.iter().map(|event| event.sent_at.load(Relaxed)).min().unwrap_or(0);
        let last =
            self.deliveries.iter().map(|delivery| delivery.arrived_at.load(Relaxed)).max().unwrap_or(0);
        last.saturating_sub(first) as f64 / 1e6
    }

    /// Microseconds from publish calls to their acknowledgements, sorted.
    pub fn ack_micros(&self) -> Vec<u64> {
        let span = |event: &Event| event.acked_at.load(Relaxed).saturating_sub(event.sent_at.load(Relaxed));
        sorted(self.events.iter().map(span))
    }

    /// Microseconds from publish calls to the last arrival of each delivery, sorted.
    pub fn delivery_micros(&self) -> Vec<u64> {
        let span = |(place, delivery): (usize, &Delivery)| {
            let sent_at = self.events[place / self.endpoints].sent_at.load(Relaxed);
            delivery.arrived_at.load(Relaxed).saturating_sub(sent_at)
        };
        sorted(self.deliveries.iter().enumerate().map(span))
    }
}

fn micros(at: Timestamp) -> u64 {
    u64::try_from(at.0).unwrap_or(0)
}

fn sorted(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_as_it_should_is_accepted_and_measured() {
        let ledger = Ledger::new(2, 2, 1);
        for number in 0..2 {
            ledger.sent(number, Timestamp(1_000_000));
            ledger.acked(number, Timestamp(1_000_010));
            for endpoint in 0..2 {
                assert_eq!(ledger.arrived(Some(number), endpoint, Timestamp(1_000_020 + number as i64)), 0);
            }
        }
        ledger.check().unwrap();
        assert_eq!((ledger.requests(), ledger.expected()), (4, 4));
        assert_eq!(ledger.ack_micros(), [10, 10]);
        assert_eq!(ledger.delivery_micros(), [20, 20, 21, 21]);
        assert!((ledger.seconds() - 21e-6).abs() < 1e-9);
    }

    #[test]
    fn lost_doubled_and_stray_requests_are_each_counted() {
        let ledger = Ledger::new(3, 1, 1);
        ledger.arrived(Some(0), 0, Timestamp(1));
        ledger.arrived(Some(0), 0, Timestamp(2));
        ledger.arrived(Some(1), 0, Timestamp(3));
        ledger.arrived(Some(3), 0, Timestamp(4));
        ledger.arrived(Some(1), 1, Timestamp(5));
        ledger.arrived(None, 0, Timestamp(6));
        let sentence = ledger.check().unwrap_err().to_string();
        assert!(
            sentence.starts_with("1 of 3 deliveries were lost, 1 came more often")
                && sentence.contains("3 requests"),
            "{sentence}"
        );
    }

    #[test]
    fn a_delivery_that_should_come_twice_is_lost_when_it_came_once() {
        let ledger = Ledger::new(1, 1, 2);
        assert_eq!(ledger.arrived(Some(0), 0, Timestamp(1)), 0);
        assert!(ledger.check().is_err());
        assert_eq!(ledger.arrived(Some(0), 0, Timestamp(2)), 1);
        ledger.check().unwrap();
        assert_eq!(ledger.arrived(Some(0), 0, Timestamp(3)), 2);
        assert!(ledger.check().is_err());
    }
}
