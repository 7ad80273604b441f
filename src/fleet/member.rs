//! One member: its signs of life, its shares, and what it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    peers::{Fleet, Mail},
    plan::{Plan, plan},
};
use crate::{
    clock::Clock,
    domain::{InstanceId, Micros, Shard, Timestamp},
    engine::{self, Lease},
    store::{Ears, Error, Member, Membership, Store},
};

/// Between signs of life.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// How long after a sign of life that the database confirmed this process may still send,
/// counted from before it was sent. Beyond a slow answer of the database.
const LEASE: Micros = Micros::from_millis(2_500);
/// How long a share rests whose owner did not hand it over: its lease may go on for as
/// long, and a little for the difference of two clocks' pace.
const REST: Micros = Micros::from_millis(2_600);
/// A member that is silent for so long is thrown out: it is frozen, or cut off in a way
/// that its session does not show.
const SILENCE_MS: i64 = 8_000;
/// Between notifications, so that a busy writer does not send one for each transaction.
const NOTIFY_EVERY: Duration = Duration::from_millis(10);
/// Before a session that was lost is opened again.
const AGAIN_AFTER: Duration = Duration::from_millis(300);

/// What a member works with.
#[derive(Debug)]
pub struct Config {
    /// The store that the fleet shares.
    pub store: Arc<Store>,
    /// Who sends.
    pub engine: engine::Handle,
    /// How long it may.
    pub lease: Arc<Lease>,
    /// The time.
    pub clock: Clock,
}

/// Is a member of the fleet until told to stop; then it hands its shares over.
pub async fn run(
    config: Config,
    fleet: Fleet,
    mut mail: mpsc::UnboundedReceiver<Mail>,
    stop: CancellationToken,
) {
    let listening = CancellationToken::new();
    let ears = tokio::spawn(listen(Arc::clone(&config.store), fleet, listening.clone()));
    let mut leaving = false;
    loop {
        let ended = match config.store.join().await {
            Ok(membership) => Session::new(&config, membership).run(&mut mail, &stop).await,
            Err(error) => Err(error),
        };
        config.lease.end();
        match ended {
            Ok(()) => break,
            Err(error) => tracing::warn!(%error, "not a member of the fleet at the moment; sending nothing"),
        }
        // Somebody else has to do without a word of goodbye, then.
        leaving |= stop.is_cancelled();
        if leaving {
            break;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    listening.cancel();
    let _ = ears.await;
}

/// Takes in what others tell, for as long as the process runs.
async fn listen(store: Arc<Store>, fleet: Fleet, stop: CancellationToken) {
    let hear = async |ears: &mut Ears| -> Result<(), Error> {
        loop {
            match ears.hear().await? {
                Some(text) => fleet.told(&store, &text),
                // Some of it was missed, of which each sign of life takes in what counts.
                None => store.refresh().await?,
            }
        }
    };
    let work = async {
        loop {
            let ended = match store.listen().await {
                Ok(mut ears) => hear(&mut ears).await,
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::warn!(%error, "not heard by the fleet at the moment");
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

/// What ended a wait.
enum Event {
    Beat,
    Committed,
    Letter(Mail),
    Left(Vec<Shard>),
    Stop,
}

/// A session and the shares under it.
struct Session<'c> {
    config: &'c Config,
    membership: Membership,
    /// Locks held, and from when on their shares may be claimed.
    held: BTreeMap<Shard, Timestamp>,
    claimed: BTreeSet<Shard>,
    leaving: BTreeSet<Shard>,
    left: (mpsc::UnboundedSender<Vec<Shard>>, mpsc::UnboundedReceiver<Vec<Shard>>),
    draining: bool,
}

impl<'c> Session<'c> {
    fn new(config: &'c Config, membership: Membership) -> Self {
        Self {
            config,
            membership,
            held: BTreeMap::new(),
            claimed: BTreeSet::new(),
            leaving: BTreeSet::new(),
            left: mpsc::unbounded_channel(),
            draining: false,
        }
    }

    /// Until told to stop, or the session is lost.
    async fn run(
        mut self,
        mail: &mut mpsc::UnboundedReceiver<Mail>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let mut beats = tokio::time::interval(BEAT_EVERY);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut hands = self.config.store.shards().subscribe();
        loop {
            let event = tokio::select! {
                _ = beats.tick() => Event::Beat,
                Ok(()) = hands.changed() => Event::Beat,
                () = self.config.store.committed() => Event::Committed,
                Some(letter) = mail.recv() => Event::Letter(letter),
                Some(shards) = self.left.1.recv() => Event::Left(shards),
                () = stop.cancelled(), if !self.draining => Event::Stop,
            };
            match event {
                Event::Beat => self.beat().await?,
                Event::Committed => {
                    let me = self.config.store.shards().me();
                    self.membership.tell(None, &Mail::committed(me)).await?;
                    // What is committed meanwhile is told of together.
                    tokio::time::sleep(NOTIFY_EVERY).await;
                }
                Event::Letter(letter) => self.membership.tell(Some(letter.to), &letter.text).await?,
                Event::Left(shards) => self.hand_over(shards).await?,
                Event::Stop => {
                    self.draining = true;
                    self.beat().await?;
                }
            }
            if self.draining && self.held.is_empty() {
                return self.membership.leave().await;
            }
        }
    }

    /// A sign of life, and what follows from who else gives one.
    async fn beat(&mut self) -> Result<(), Error> {
        let config = self.config;
        let before = config.clock.now();
        let members = self.membership.beat(self.draining).await?;
        let now = config.clock.now();
        config.lease.renew(before.plus(LEASE), now);
        if let Err(error) = config.store.refresh().await {
            // The session is well all the same.
            tracing::debug!(%error, "what others committed is taken in later");
        }
        let me = config.store.shards().me();
        for silent in members.iter().filter(|it| it.silent_ms > SILENCE_MS && it.id != me) {
            tracing::warn!(
                member = silent.id.0,
                silent_ms = silent.silent_ms,
                "a member is silent; its session is ended"
            );
            self.membership.throw_out(silent.id).await?;
        }
        let wanting = |it: &&Member| !it.draining && it.silent_ms <= SILENCE_MS;
        let members: Vec<InstanceId> = members.iter().filter(wanting).map(|it| it.id).collect();
        let held: BTreeSet<Shard> =
            self.held.keys().filter(|it| !self.leaving.contains(it)).copied().collect();
        let Plan { take, give } = plan(me, &members, &held);
        self.take(take, now).await?;
        self.give(give);
        self.claim(now).await
    }

    /// Takes locks that are free, so many of them.
    async fn take(&mut self, (candidates, count): (Vec<Shard>, usize), now: Timestamp) -> Result<(), Error> {
        if count == 0 {
            return Ok(());
        }
        let mut got = Vec::new();
        for some in candidates.chunks(count) {
            got.extend(self.membership.lock(some).await?);
            if got.len() >= count {
                break;
            }
        }
        let surplus = got.split_off(count.min(got.len()));
        if !surplus.is_empty() {
            self.membership.unlock(&surplus).await?;
        }
        if got.is_empty() {
            return Ok(());
        }
        // Who had them last is certain only now that nobody else can claim them.
        if let Err(error) = self.config.store.refresh().await {
            tracing::debug!(%error, "shares of the work are let go again");
            return self.membership.unlock(&got).await;
        }
        let shards = self.config.store.shards();
        for shard in got {
            let owner = shards.tenure(shard).owner;
            if owner == Some(shards.me()) {
                // Nobody had it while this process had no session: it just goes on.
                self.claimed.insert(shard);
            }
            let rests = owner.is_some_and(|owner| owner != shards.me());
            self.held.insert(shard, if rests { now.plus(REST) } else { now });
        }
        Ok(())
    }

    /// Claims shares that have rested.
    async fn claim(&mut self, now: Timestamp) -> Result<(), Error> {
        let ready = |(shard, at): (&Shard, &Timestamp)| {
            (*at <= now && !self.claimed.contains(shard)).then_some(*shard)
        };
        let shards: Vec<Shard> = self.held.iter().filter_map(ready).collect();
        if shards.is_empty() {
            return Ok(());
        }
        match self.config.store.claim(shards.clone()).await {
            Ok(()) => self.claimed.extend(shards),
            // Whether it was committed or not, under the same locks the next try is as good.
            Err(error) => tracing::warn!(%error, "shares of the work cannot be claimed yet"),
        }
        Ok(())
    }

    /// Lets the engine finish with shares that go to others.
    fn give(&mut self, shards: Vec<Shard>) {
        if shards.is_empty() {
            return;
        }
        self.leaving.extend(&shards);
        let (engine, left) = (self.config.engine.clone(), self.left.0.clone());
        tokio::spawn(async move {
            engine.leave(shards.iter().copied().collect()).await;
            let _ = left.send(shards);
        });
    }

    /// Nothing of these shares is in flight any more: others may have them.
    async fn hand_over(&mut self, shards: Vec<Shard>) -> Result<(), Error> {
        if let Err(error) = self.config.store.release(shards.clone()).await {
            tracing::warn!(%error, "shares of the work cannot be handed over yet");
            let left = self.left.0.clone();
            tokio::spawn(async move {
                tokio::time::sleep(AGAIN_AFTER).await;
                left.send(shards)
            });
            return Ok(());
        }
        self.membership.unlock(&shards).await?;
        for shard in &shards {
            self.held.remove(shard);
            self.claimed.remove(shard);
            self.leaving.remove(shard);
        }
        Ok(())
    }
}
