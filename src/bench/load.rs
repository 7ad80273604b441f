//! One load on a running server, from the first publish call until the last
//! delivery is recorded.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail};
use tokio::time::sleep;

use super::{
    ledger::Ledger,
    publish::{Publisher, Way},
    receiver::{Manner, Receiver},
    run::Setup,
    sample::{self, Sample},
    server::Server,
    stats::percentile,
    usage::Usage,
};
use crate::grpc::pb;

/// The type of the events of a load.
pub const EVENT_TYPE: &str = "bench.load";
/// The least delay of a retry that the API allows: 10 ms.
const RETRY_DELAY_NANOS: i32 = 10_000_000;
/// How often arrivals are looked at, and whether all of them are recorded: what
/// asks the server adds to what it costs.
const LOOK: Duration = Duration::from_millis(20);
/// Nothing arrives for so long: the rest is lost.
const STALL: Duration = Duration::from_secs(30);

/// What is published, how, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How events are handed in.
    pub way: Way,
    /// How many.
    pub events: u32,
    /// Endpoints that each goes to.
    pub fanout: u32,
    /// How these answer.
    pub manner: Manner,
}

impl Load {
    /// Deliveries in all.
    pub fn deliveries(&self) -> u32 {
        self.events.saturating_mul(self.fanout)
    }

    /// Puts the load on a server that has been given nothing else to do.
    pub async fn run(&self, setup: &Setup, server: &Server) -> Result<Sample> {
        let times = if self.manner == Manner::FailsFirst { 2 } else { 1 };
        let ledger = Arc::new(Ledger::new(self.events, self.fanout, times));
        let receiver = Receiver::start(setup, Arc::clone(&ledger), self.manner).await?;
        let mut endpoints = Vec::new();
        for index in 0..self.fanout {
            endpoints.push(server.register(self.subscriber(receiver.url(index))).await?);
        }
        let publisher = Publisher::new(setup, &ledger, EVENT_TYPE);
        setup.progress.part("", ledger.expected());
        let waiting = server.queue_size().await?;
        let before = server.usage()?;
        tokio::try_join!(publisher.publish(server, self.way), arrival(setup, &ledger, ledger.expected()))?;
        recorded(server, waiting).await?;
        let after = server.usage()?;
        ledger.check()?;
        // What comes next on this server is not for them.
        for id in endpoints {
            server.remove(id).await?;
        }
        let mut sample = costs(&before, &after, ledger.deliveries());
        latencies(&mut sample, &ledger);
        sample.set("connections", receiver.connections() as f64);
        Ok(sample)
    }

    fn subscriber(&self, url: String) -> pb::Endpoint {
        let mut endpoint = subscriber(url, EVENT_TYPE);
        if self.manner == Manner::FailsFirst {
            let initial_delay = Some(prost_types::Duration { seconds: 0, nanos: RETRY_DELAY_NANOS });
            endpoint.retry_policy = Some(pb::RetryPolicy { initial_delay, ..Default::default() });
            endpoint.circuit_breaker = Some(pb::CircuitBreaker { disabled: true, ..Default::default() });
        }
        endpoint
    }
}

/// An endpoint that takes what it gets: no rate limit, 64 attempts in flight.
pub fn subscriber(url: String, event_type: &str) -> pb::Endpoint {
    pb::Endpoint {
        url,
        event_types: vec![event_type.to_owned()],
        rate_limit: Some(pb::RateLimit { disabled: true, ..Default::default() }),
        max_in_flight: 64,
        ..Default::default()
    }
}

/// Publishes events that are to wait, in batches of such a size, and shows how far
/// it is.
pub async fn fill(setup: &Setup, server: &Server, publisher: Publisher, batch: u64) -> Result<()> {
    let ledger = Arc::clone(&publisher.ledger);
    setup.progress.part("filling", ledger.events());
    let show = async {
        while ledger.acks() < ledger.events() {
            setup.progress.at(ledger.acks());
            sleep(LOOK).await;
        }
        Ok(())
    };
    tokio::try_join!(publisher.publish(server, Way::Batch(batch)), show)?;
    Ok(())
}

/// Waits until so many requests have arrived, or none arrives any more.
pub async fn arrival(setup: &Setup, ledger: &Ledger, wanted: u64) -> Result<()> {
    let (mut seen, mut since) = (0, setup.clock.now());
    loop {
        let (requests, now) = (ledger.requests(), setup.clock.now());
        setup.progress.at(requests);
        if requests >= wanted {
            return Ok(());
        }
        if requests > seen {
            (seen, since) = (requests, now);
        }
        if now.since(since).to_std() > STALL {
            let missing = wanted - requests;
            bail!("{missing} of {wanted} requests did not arrive, and none came for {} s", STALL.as_secs());
        }
        sleep(LOOK).await;
    }
}

/// Waits until the server has recorded what arrived: no more deliveries are open
/// than before.
pub async fn recorded(server: &Server, waiting: u64) -> Result<()> {
    let looks = STALL.as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        if server.queue_size().await? <= waiting {
            return Ok(());
        }
        sleep(LOOK).await;
    }
    bail!("everything arrived, but some deliveries are still open for the server")
}

/// What the server used for so many deliveries.
pub fn costs(before: &Usage, after: &Usage, deliveries: u64) -> Sample {
    let mut sample = Sample::default();
    let cpu = after.cpu_seconds - before.cpu_seconds;
    sample.set(sample::CPU, cpu * 10_000.0 / deliveries as f64);
    sample.set(sample::PEAK, after.peak_memory_bytes as f64);
    let written = after.written_bytes.saturating_sub(before.written_bytes);
    sample.set(sample::WRITTEN, written as f64 / deliveries as f64);
    sample
}

/// How fast and how soon things went.
fn latencies(sample: &mut Sample, ledger: &Ledger) {
    sample.set(sample::RATE, ledger.deliveries() as f64 / ledger.seconds());
    let (acks, deliveries) = (ledger.ack_micros(), ledger.delivery_micros());
    let ms = |sorted: &[u64], share| percentile(sorted, share) as f64 / 1000.0;
    sample.set(sample::ACK_P50, ms(&acks, 0.5));
    sample.set(sample::ACK_P99, ms(&acks, 0.99));
    sample.set(sample::DELIVERY_P50, ms(&deliveries, 0.5));
    sample.set(sample::DELIVERY_P99, ms(&deliveries, 0.99));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_differences_by_delivery_and_memory_is_not() {
        let at = |cpu_seconds, written_bytes| Usage {
            cpu_seconds,
            written_bytes,
            peak_memory_bytes: 900,
            memory_bytes: 800,
        };
        let sample = costs(&at(1.0, 1000), &at(3.0, 5000), 2000);
        let get = |name| sample.get(name).unwrap();
        assert!((get(sample::CPU) - 10.0).abs() < 1e-9);
        assert!((get(sample::WRITTEN) - 2.0).abs() < 1e-9);
        assert!((get(sample::PEAK) - 900.0).abs() < 1e-9);
    }
}
