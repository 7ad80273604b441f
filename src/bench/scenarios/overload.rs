//! Five times what a server can deliver, for a while.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Result;
use tokio::time::sleep;

use crate::bench::{
    flood::flood,
    floor::pulse,
    ledger::Ledger,
    load::{EVENT_TYPE, Load, arrival, costs, recorded, subscriber},
    publish::{Publisher, Way},
    receiver::{Manner, Receiver},
    rival::Rival,
    run::Setup,
    sample::{self, Sample},
    server::{Home, Server},
    stats::{percentile, ratio},
    tally::Tally,
};

/// Events by which the capacity is measured.
const CAPACITY_EVENTS: u32 = 20_000;
/// How many times the capacity is offered.
const TIMES: f64 = 5.0;
/// How often the server's memory is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Measures the capacity, floods the server, and waits until all that it accepted
/// has arrived.
pub async fn overload(setup: &Setup) -> Result<Sample> {
    let load = Load { way: Way::Batch(100), events: CAPACITY_EVENTS, fanout: 1, manner: Manner::Prompt };
    let rival = Rival::before(setup, load.deliveries()).await?;
    let home = Arc::new(Home::new(setup.options.store.as_deref())?);
    let flags = setup.options.max_queue.map(|most| format!("--max-queue={most}"));
    let server = Server::start(setup, home, flags.as_slice()).await?;
    let capacity = load.run(setup, &server).await?.get(sample::RATE).unwrap_or_default();

    let (per_second, seconds) = ((capacity * TIMES) as u64, u64::from(setup.options.seconds));
    let events = u32::try_from(per_second * seconds)?;
    let ledger = Arc::new(Ledger::new(events, 1, 1));
    let receiver = Receiver::start(setup, Arc::clone(&ledger), Manner::Prompt).await?;
    server.register(subscriber(receiver.url(0), EVENT_TYPE)).await?;
    let before = server.usage()?;
    let (start, publisher) = (setup.clock.now(), Publisher::new(setup, &ledger, EVENT_TYPE));
    setup.progress.part("offering", ledger.events());
    let (mut memory, mut pulses) = (Vec::new(), Vec::new());
    let flooded = async {
        let tally = tokio::select! {
            tally = Box::pin(flood(publisher, &server, per_second, seconds)) => tally?,
            Err(error) = pulse(&setup.clock, &server, usize::MAX, &mut pulses) => return Err(error),
        };
        let (taken, arrived) = (setup.clock.now().since(start).as_secs_f64(), ledger.requests());
        setup.progress.part("draining", ledger.acks());
        arrival(setup, &ledger, ledger.acks()).await?;
        recorded(&server, 0).await?;
        anyhow::Ok((tally, arrived as f64 / taken))
    };
    let (tally, rate) = tokio::select! {
        flooded = flooded => flooded?,
        gone = watch(setup, &server, &ledger, &mut memory) => {
            let Err(error) = gone;
            return Err(error);
        }
    };
    ledger.check_accepted()?;
    let mut sample = costs(&before, &server.usage()?, ledger.acks());
    server.stop().await?;

    rival.after(setup, &mut sample).await?;
    sample.set(sample::RATE, rate);
    tell(&mut sample, &ledger, &tally);
    pulses.sort_unstable();
    sample.set("empty_call_p50_ms", percentile(&pulses, 0.5) as f64 / 1000.0);
    sample.set("empty_call_p99_ms", percentile(&pulses, 0.99) as f64 / 1000.0);
    sample.set("capacity_per_second", capacity);
    sample.set("offered_to_capacity", ratio(ledger.sents() as f64 / seconds as f64, capacity));
    sample.set("least_memory_bytes", memory.iter().copied().fold(f64::INFINITY, f64::min));
    sample.set("greatest_memory_bytes", memory.iter().copied().fold(0.0, f64::max));
    Ok(sample)
}

/// Notes the server's memory every second, for as long as it is there.
async fn watch(setup: &Setup, server: &Server, ledger: &Ledger, memory: &mut Vec<f64>) -> Result<Infallible> {
    loop {
        memory.push(server.usage()?.memory_bytes as f64);
        setup.progress.at(ledger.acks());
        sleep(LOOK).await;
    }
}

fn tell(sample: &mut Sample, ledger: &Ledger, tally: &Tally) {
    let ms = |sorted: &[u64], share| percentile(sorted, share) as f64 / 1000.0;
    let (acks, deliveries, refusals) =
        (ledger.ack_micros(), ledger.delivery_micros(), ledger.refusal_micros());
    sample.set(sample::ACK_P50, ms(&acks, 0.5));
    sample.set(sample::ACK_P99, ms(&acks, 0.99));
    sample.set(sample::DELIVERY_P50, ms(&deliveries, 0.5));
    sample.set(sample::DELIVERY_P99, ms(&deliveries, 0.99));
    sample.set("accepted", acks.len() as f64);
    sample.set("refused", refusals.len() as f64);
    sample.set("not_offered", tally.held_back.load(Relaxed) as f64);
    if !refusals.is_empty() {
        sample.set("refusal_p50_ms", ms(&refusals, 0.5));
        sample.set("refusal_p99_ms", ms(&refusals, 0.99));
        sample.set("refusal_max_ms", ms(&refusals, 1.0));
    }
    let (failures, unadvised) = (tally.failures.load(Relaxed), tally.unadvised.load(Relaxed));
    sample.set("other_failures", failures as f64);
    if let Some(first) = tally.first_failure() {
        sample.complain(format!("{failures} calls failed by more than a refusal, the first: {first}"));
    } else if unadvised > 0 {
        sample.complain(format!("{unadvised} events were refused without a word on when to try again"));
    }
}
