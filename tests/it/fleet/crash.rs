//! What any instance acknowledged is delivered, though instances and the database are
//! killed at any moment.
//!
//! The claim of `crash.rs`, made of a fleet. What is more here: a publisher that lost its
//! instance sends the same event to another one, and what was in flight somewhere is
//! taken up by somebody else.

use std::{env, time::Duration};

use hookwire::grpc::pb;

use super::Fleet;
use crate::{
    kept::{compare, repeats},
    support::{
        Answer, Cluster, Database, Dice, Load, Received, Receiver, alone, create_stubborn, eventually,
    },
};

const ENDPOINTS: usize = 4;
/// Attempts of an endpoint that a killed instance may have had in flight or not yet
/// recorded, at most: see `crash.rs`.
const CUT_OFF_MAX: usize = 16 + 512;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_altered_or_doubled_by_kill_9_of_instances_and_of_the_database() {
    let kills: u64 = env::var("HOOKWIRE_KILLS").map_or(30, |text| text.parse().expect("a number"));
    let _alone = alone().await;
    let mut dice = Dice::of("fleet crash");
    let cluster = Cluster::new(&[]);
    // Publishers are held up by this when deliveries wait for somebody to take over, so
    // that what waits in the end does not depend on how fast the machine is.
    let mut fleet = Fleet::with(Database::on(&cluster), &[("HOOKWIRE_MAX_QUEUE", "3000")]).await;
    // Some first attempts fail, so that retries are waiting when an instance dies.
    let flaky = |request: &Received| match request.number % 17 {
        3 => Answer::status(503),
        _ => Answer::ok().after(Duration::from_millis(request.number as u64 % 7)),
    };
    let receiver = Receiver::answering(flaky).await;
    let api = fleet.members[0].api();
    create_stubborn(&api, &receiver, ENDPOINTS).await;

    let load = Load::start(&fleet.ports(), "crash.test", u64::MAX, [8, 4, 4]);
    let progress = async |dice: &mut Dice, when: &str| {
        let mark = load.ledger.count() + usize::try_from(dice.roll(50, 250)).expect("small");
        eventually(Duration::from_secs(60), &format!("work goes on {when}"), async || {
            let acked = load.ledger.count();
            if acked >= mark { Ok(()) } else { Err(format!("{acked} of {mark} acknowledged")) }
        })
        .await;
    };
    let (mut died, mut databases) = (0, 0);
    for kill in 1..=kills {
        progress(&mut dice, &format!("before kill {kill}")).await;
        tokio::time::sleep(Duration::from_micros(dice.roll(0, 30_000))).await;
        if kill % 4 == 0 {
            cluster.kill9();
            cluster.start();
            databases += 1;
            continue;
        }
        let first = usize::try_from(dice.roll(0, 3)).expect("small");
        let victims: Vec<_> =
            (0..dice.roll(1, 3)).map(|next| (first + usize::try_from(next).expect("small")) % 3).collect();
        for victim in &victims {
            fleet.members[*victim].kill9();
            died += 1;
        }
        // Sometimes the others have to do without it for a while.
        if dice.roll(0, 2) == 0 {
            progress(&mut dice, &format!("after kill {kill}")).await;
        }
        for victim in victims {
            fleet.members[victim].restart().await;
        }
    }
    let ledger = load.stop(Duration::from_secs(120)).await;
    api.all_final(Duration::from_secs(180)).await;

    let requests = compare(&ledger, &receiver, ENDPOINTS);
    let repeats = repeats(&api.all_deliveries(pb::DeliveryFilter::default()).await, &requests);
    println!(
        "fleet crash: {} acknowledged, {died} kills of instances, {databases} of the database, \
         {repeats} requests repeated",
        ledger.count()
    );
    // Whoever is without the database loses its shares like one that died.
    let claimed = CUT_OFF_MAX * ENDPOINTS * (died + databases);
    assert!(
        repeats <= claimed,
        "{repeats} repeats, but only {claimed} can have been in flight or unrecorded"
    );
}
