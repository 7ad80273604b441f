//! A member over a real store and engine.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Config, Fleet, SKEW_MAX, run};
use crate::{
    clock::Clock,
    domain::{Micros, Timestamp},
    egress::{self, Client, Policy},
    engine::{self, Dispatcher, Lease},
    entropy::Entropy,
    store::{self, Location, Store},
};

const HOUR: Micros = Micros::from_secs(3_600);

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_an_hour_ahead_goes_by_the_databases_and_says_so() {
    let (store, _) = Store::open(store::Config::sample(Location::scratch().await)).await.unwrap();
    let there = store.server_time().await.unwrap().expect("it has a server");
    let clock = Clock::manual(there.plus(HOUR));
    let (entropy, lease) = (Entropy::seeded(1), Arc::new(Lease::none()));
    let client = Client::new(egress::Config::default(), clock.clone(), entropy.clone()).unwrap();
    let config = engine::Config {
        in_flight_max: 8,
        policy: Policy::loopback(),
        grace: Duration::ZERO,
        lines_for_people: false,
    };
    let (dispatcher, handle) =
        Dispatcher::open(config, Arc::clone(&store), client, clock.clone(), entropy, Arc::clone(&lease))
            .await
            .unwrap();
    let (stop, engine_stop) = (CancellationToken::new(), CancellationToken::new());
    let engine = tokio::spawn(dispatcher.run(engine_stop.clone()));
    let (fleet, mail) = Fleet::shared(Arc::clone(&store), handle.clone());
    let config = Config { store: Arc::clone(&store), engine: handle, lease, clock: clock.clone() };
    let member = tokio::spawn(run(config, fleet, mail, stop.clone()));
    let told = async {
        loop {
            let all = store.instances(Timestamp(0)).await.unwrap();
            if let Some(instance) = all.into_iter().find(|it| it.skew > SKEW_MAX) {
                return instance;
            }
            tokio::task::yield_now().await;
        }
    };
    let instance =
        tokio::time::timeout(Duration::from_secs(60), told).await.expect("it says how far it is off");
    // This clock stands still while the database's goes on.
    assert!(instance.skew <= HOUR && clock.skew().is_some_and(|skew| skew <= HOUR && skew > SKEW_MAX));
    assert!(
        instance.started_at.0.abs() <= HOUR.0,
        "its start, at {:?}, is by the database's clock",
        instance.started_at
    );
    let (now, here) = (store.server_time().await.unwrap().unwrap(), clock.wall());
    assert!(here >= there && here <= now, "{here} is between {there} and {now}");
    stop.cancel();
    member.await.unwrap();
    engine_stop.cancel();
    engine.await.unwrap().unwrap();
}
