//! One member: its signs of life, its shares, and what it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
    time::Duration,
};

use metrics::{Gauge, gauge};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    peers::{Fleet, Mail},
    plan::{Plan, plan},
    skew::Skew,
};
use crate::{
    clock::Clock,
    domain::{InstanceId, Micros, Shard, Timestamp},
    engine::{self, Lease},
    store::{Beat, Ears, Error, Member, Membership, Store},
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
/// How long the writer may take for what a sign of life brings with it: the next must not
/// wait for it.
const PATIENCE: Duration = Duration::from_millis(700);
/// Between notifications, so that a busy writer does not send one for each transaction.
const NOTIFY_EVERY: Duration = Duration::from_millis(10);
/// Signs of life after which a member says that it gets no share although nobody else is
/// there: 3 s.
const LOCKED_OUT_BEATS: u32 = 6;
/// Before a session that was lost is opened again.
const AGAIN_AFTER: Duration = Duration::from_millis(300);

static SKEW: LazyLock<Gauge> = LazyLock::new(|| gauge!("hookwire_clock_skew_seconds"));

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
    let (mut leaving, mut given) = (false, BTreeSet::new());
    loop {
        let skew = config.clock.skew().unwrap_or_default();
        let ended = match config.store.join(skew).await {
            Ok(membership) => Session::new(&config, membership, &mut given).run(&mut mail, &stop).await,
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
    Left(Shard),
    Stop,
}

/// A lock that is held for a share.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// When it may be claimed.
    ready_at: Timestamp,
    /// What it has to be of, then.
    epoch: u64,
}

/// A session and the shares under it.
struct Session<'c> {
    config: &'c Config,
    membership: Membership,
    held: BTreeMap<Shard, Held>,
    claimed: BTreeSet<Shard>,
    leaving: BTreeSet<Shard>,
    /// Shares that the engine has been told to finish with, also by an earlier session: it
    /// takes them up only under another epoch.
    given: &'c mut BTreeSet<Shard>,
    left: (mpsc::UnboundedSender<Shard>, mpsc::UnboundedReceiver<Shard>),
    draining: bool,
    /// Signs of life in a row with no share, and no other member listed.
    locked_out: u32,
    /// What the log was told of how far the clock is off.
    skew: Skew,
}

impl<'c> Session<'c> {
    fn new(config: &'c Config, membership: Membership, given: &'c mut BTreeSet<Shard>) -> Self {
        Self {
            config,
            membership,
            held: BTreeMap::new(),
            claimed: BTreeSet::new(),
            leaving: BTreeSet::new(),
            given,
            left: mpsc::unbounded_channel(),
            draining: false,
            locked_out: 0,
            skew: Skew::default(),
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
                Some(shard) = self.left.1.recv() => Event::Left(shard),
                () = stop.cancelled(), if !self.draining => Event::Stop,
            };
            match self.answer(event).await {
                Ok(()) => {}
                // The session is well, and the next sign of life tries again.
                Err(error @ Error::Conflict(_)) => {
                    tracing::warn!(%error, "a statement of the fleet is repeated");
                }
                Err(error) => return Err(error),
            }
            if self.draining && self.held.is_empty() {
                return self.membership.leave().await;
            }
        }
    }

    async fn answer(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Beat => self.beat().await,
            Event::Committed => {
                let me = self.config.store.shards().me();
                self.membership.tell(None, &Mail::committed(me)).await?;
                // What is committed meanwhile is told of together.
                tokio::time::sleep(NOTIFY_EVERY).await;
                Ok(())
            }
            Event::Letter(letter) => self.membership.tell(Some(letter.to), &letter.text).await,
            Event::Left(shard) => {
                let mut shards = vec![shard];
                while let Ok(shard) = self.left.1.try_recv() {
                    shards.push(shard);
                }
                let done = self.hand_over(shards.clone()).await;
                if matches!(done, Err(Error::Conflict(_))) {
                    for shard in shards {
                        let _ = self.left.0.send(shard);
                    }
                }
                done
            }
            Event::Stop => {
                self.draining = true;
                self.beat().await
            }
        }
    }

    /// A sign of life, and what follows from who else gives one.
    async fn beat(&mut self) -> Result<(), Error> {
        let config = self.config;
        let (before, asked) = (config.clock.now(), config.clock.ask());
        let skew = config.clock.skew().unwrap_or_default();
        let Beat { members, time } = self.membership.beat(self.draining, skew).await?;
        config.clock.follow(asked, time);
        self.show_skew();
        let now = config.clock.now();
        config.lease.renew(before.plus(LEASE), now);
        match timeout(PATIENCE, config.store.refresh()).await {
            Ok(Ok(())) => self.look_after(now),
            // The session is well all the same.
            Ok(Err(_)) | Err(_) => tracing::debug!("what others committed is taken in later"),
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
        // Of itself a member knows better how it is.
        let wanting = |it: &&Member| !it.draining && (it.id == me || it.silent_ms <= SILENCE_MS);
        let members: Vec<InstanceId> = members.iter().filter(wanting).map(|it| it.id).collect();
        let held: BTreeSet<Shard> =
            self.held.keys().filter(|it| !self.leaving.contains(it)).copied().collect();
        let Plan { take, give } = plan(me, &members, &held);
        self.take(take).await?;
        self.notice_locked_out(members == [me]);
        self.give(give);
        self.claim().await;
        Ok(())
    }

    /// Says so if this member is the only one listed and somebody else has every lock.
    fn notice_locked_out(&mut self, alone: bool) {
        self.locked_out = if alone && self.held.is_empty() { self.locked_out + 1 } else { 0 };
        if self.locked_out == LOCKED_OUT_BEATS {
            tracing::error!(
                "this server gets no share of the work and sends nothing, although no other server is listed: some \
                 session of the database holds the advisory locks of this store; find it in pg_locks (locktype \
                 'advisory') and end it"
            );
        }
    }

    /// Shows how far this machine's clock is from the database's.
    fn show_skew(&mut self) {
        let skew = self.config.clock.skew().unwrap_or_default();
        SKEW.set(skew.as_secs_f64());
        let (before, now) = (std::mem::replace(&mut self.skew, Skew::of(skew)), Skew::of(skew));
        let seconds = skew.as_secs_f64();
        match now {
            _ if now == before => {}
            Skew::Small => tracing::info!(seconds, "this machine's clock agrees with the database's again"),
            Skew::Large => {
                tracing::warn!(
                    seconds,
                    "this machine's clock is ahead of the database's, or behind if negative: set it"
                );
            }
            Skew::TooLarge => tracing::error!(
                seconds,
                "this machine's clock is too far ahead of the database's, or behind if negative: the server is \
                 not ready until it is set"
            ),
        }
    }

    /// Shares that were claimed and are somebody else's by the journal: a claim that came
    /// late. They are claimed back, since their locks are here.
    fn look_after(&mut self, now: Timestamp) {
        let shards = self.config.store.shards();
        for shard in self.claimed.iter().copied().filter(|shard| !shards.owns(*shard)).collect::<Vec<_>>() {
            self.claimed.remove(&shard);
            self.held.insert(shard, Held { ready_at: now.plus(REST), epoch: shards.tenure(shard).epoch });
        }
    }

    /// Takes locks that are free, so many of them.
    async fn take(&mut self, (mut candidates, count): (Vec<Shard>, usize)) -> Result<(), Error> {
        // A lock could be taken twice, and would have to be given back twice.
        candidates.retain(|shard| !self.held.contains_key(shard));
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
        let Ok(Ok(())) = timeout(PATIENCE, self.config.store.refresh()).await else {
            return self.membership.unlock(&got).await;
        };
        let (shards, now) = (self.config.store.shards(), self.config.clock.now());
        for shard in got {
            let tenure = shards.tenure(shard);
            let own = tenure.owner == Some(shards.me());
            if own && !self.given.contains(&shard) {
                // Nobody had it while this process had no session: it just goes on.
                self.claimed.insert(shard);
            }
            let rests = tenure.owner.is_some() && !own;
            let ready_at = if rests { now.plus(REST) } else { now };
            self.held.insert(shard, Held { ready_at, epoch: tenure.epoch });
        }
        Ok(())
    }

    /// Claims shares that have rested, or need not, those just taken among them.
    async fn claim(&mut self) {
        let now = self.config.clock.now();
        let ready = |(shard, held): (&Shard, &Held)| {
            let due = held.ready_at <= now && !self.claimed.contains(shard) && !self.leaving.contains(shard);
            due.then_some((*shard, held.epoch))
        };
        let ready: Vec<(Shard, u64)> = self.held.iter().filter_map(ready).collect();
        if ready.is_empty() {
            return;
        }
        // Should the answer be late or lost, the next try finds the epoch moved on and does
        // nothing; what came of it, this process knows by then.
        if !matches!(timeout(PATIENCE, self.config.store.claim(ready.clone())).await, Ok(Ok(()))) {
            tracing::warn!("shares of the work cannot be claimed yet");
        }
        let shards = self.config.store.shards();
        for (shard, epoch) in ready {
            let tenure = shards.tenure(shard);
            if tenure.epoch > epoch && tenure.owner == Some(shards.me()) {
                self.claimed.insert(shard);
                self.given.remove(&shard);
            } else if tenure.epoch > epoch {
                // Somebody's claim came late; that has no lock, and will find out.
                self.held.insert(shard, Held { ready_at: now.plus(REST), epoch: tenure.epoch });
            }
        }
    }

    /// Lets the engine finish with shares that go to others.
    fn give(&mut self, shards: Vec<Shard>) {
        for shard in shards {
            self.leaving.insert(shard);
            self.given.insert(shard);
            let (engine, left) = (self.config.engine.clone(), self.left.0.clone());
            tokio::spawn(async move {
                // If it has stopped meanwhile, requests may be under way: the share rests.
                if engine.leave(shard).await {
                    let _ = left.send(shard);
                }
            });
        }
    }

    /// Nothing of these shares is in flight any more: others may have them.
    async fn hand_over(&mut self, shards: Vec<Shard>) -> Result<(), Error> {
        if !matches!(timeout(PATIENCE, self.config.store.release(shards.clone())).await, Ok(Ok(()))) {
            tracing::warn!("shares of the work cannot be handed over yet");
            let left = self.left.0.clone();
            tokio::spawn(async move {
                tokio::time::sleep(AGAIN_AFTER).await;
                for shard in shards {
                    let _ = left.send(shard);
                }
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
