//! The dispatcher: one task that owns every lane.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::AbortHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    attempt::{self, Context},
    caller::Caller,
    fetches::{Fetched, Wanted},
    handle::{Ask, Circuit, Handle},
    lease::Lease,
    observe::Observer,
    starts::Starts,
    tenures::{Found, Leaving, Tenures},
};
use crate::{
    clock::Clock,
    domain::{
        self, Change, Delivery, Endpoint, EndpointKey, EndpointState, Live, Micros, Now, Pos, Shard, Tenant,
        TenantKey, Timestamp,
    },
    egress::{Client, Policy},
    entropy::Entropy,
    feed::{self, Cursor, Start},
    machine::{
        breaker::Signal,
        lane::{Kept, Lane, Step, WINDOW},
        latency::{Class, HANGING_AFTER, Latency},
        retry_after::quiet_until,
        share::Share,
        slots::Slots,
    },
    store::{BreakerCommand, Finish, Store},
};

/// Changes taken from the feed before lanes are asked again.
pub(super) const BATCH: usize = 512;
/// Waiting deliveries held in memory over all lanes, beyond the window of each:
/// some 16 MB. What comes faster than it goes out need not be read back.
pub(super) const ROOM: usize = 32 * 1024;
/// Questions waiting at most.
const ASKS_MAX: usize = 1024;
/// Lanes whose pages are read at once.
const PAGE_READERS: usize = 2;
/// A step of the wall clock is noticed after this at the latest.
const STEP_NOTICED: Micros = Micros::from_secs(1);
/// How often lanes with nothing to remember are let go.
const SWEEP_EVERY: Micros = Micros::from_secs(30);
/// A store that cannot be read is asked again after this.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// How the engine is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Attempts in flight at once, over all endpoints.
    pub in_flight_max: usize,
    /// What targets are allowed.
    pub policy: Policy,
    /// How long attempts in flight may take to end after the stop.
    pub grace: Duration,
    /// Whether the log gets a line for people about each delivery that ends.
    pub lines_for_people: bool,
}

/// A page that a lane asked for.
type PageRead = (EndpointKey, u64, usize, Result<Vec<Arc<Delivery>>, crate::store::Error>);

/// The engine: it follows the feed, asks the lanes, sends, and has results recorded.
pub struct Dispatcher {
    config: Config,
    pub(super) store: Arc<Store>,
    pub(super) clock: Clock,
    context: Arc<Context>,
    pub(super) cursor: Cursor,
    questions: mpsc::Receiver<Ask>,
    pages: mpsc::UnboundedReceiver<PageRead>,
    pages_out: mpsc::UnboundedSender<PageRead>,
    /// Results of attempts; as many as may be in flight at most.
    landings: mpsc::UnboundedReceiver<Finish>,
    landings_out: mpsc::UnboundedSender<Finish>,
    /// What goes to the writer next.
    finished: Vec<Finish>,
    pub(super) tasks: TaskTracker,
    /// The shares of the work that are this process's.
    pub(super) tenures: Tenures,
    /// Tells when shares change hands.
    pub(super) hands: watch::Receiver<u64>,
    lease: Arc<Lease>,
    pub(super) leaving: Vec<Leaving>,
    found: mpsc::UnboundedReceiver<Found>,
    pub(super) found_out: mpsc::UnboundedSender<Found>,
    /// What others made or changed, to be read, by number.
    pub(super) wanted: BTreeMap<Pos, Wanted>,
    /// How many of such are being read, all at once.
    pub(super) fetching: usize,
    fetched: mpsc::UnboundedReceiver<Fetched>,
    pub(super) fetched_out: mpsc::UnboundedSender<Fetched>,
    /// How lanes stand, for the store.
    kept_out: mpsc::UnboundedSender<(EndpointKey, Option<Kept>)>,
    pub(super) lanes: FxHashMap<EndpointKey, Slot>,
    /// Waiting deliveries held beyond the window of their lane, over all lanes.
    pub(super) beyond: usize,
    /// When lanes want to be asked again.
    timers: BTreeSet<(Timestamp, EndpointKey)>,
    /// Lanes to ask, each once: one step a turn, so that none waits for another, and
    /// no tenant for another beyond its share.
    pub(super) ready: Share<EndpointKey>,
    /// Attempts that are not recorded yet.
    pub(super) slots: Slots<Flight>,
    /// Attempts whose start may have to be written.
    pub(super) starts: Starts,
    /// Latencies of endpoints whose lanes were dropped.
    latencies: FxHashMap<EndpointKey, Latency>,
    swept_at: Timestamp,
    /// The clock as it was last read, to see whether it stepped since.
    read: Now,
    observer: Observer,
    /// Pages read at once at most, so that many lanes, as after a start, leave
    /// readers to the callers.
    page_readers: Arc<Semaphore>,
}

/// What is kept with an attempt that is not recorded yet.
#[derive(Debug)]
pub(super) struct Flight {
    pub tenant: TenantKey,
    pub task: AbortHandle,
}

pub(super) struct Slot {
    pub lane: Lane,
    caller: Arc<Caller>,
    /// Share of its tenant.
    weight: u32,
    timer: Option<Timestamp>,
    latency: Latency,
    /// The queue in which it waits to be asked.
    queued: Option<Class>,
    /// What the store knows of how it stands.
    kept: Option<Kept>,
}

impl Slot {
    /// Waiting deliveries held, or being paged in, beyond a window.
    fn beyond(&self) -> usize {
        self.lane.claimed().saturating_sub(WINDOW)
    }

    /// How many waiting deliveries the lane may hold while it flows, if those of all lanes
    /// are so many beyond their windows.
    fn room(&self, beyond: usize) -> usize {
        self.lane.held().max(WINDOW) + ROOM.saturating_sub(beyond)
    }

    /// Does something with the lane and keeps the account of what is held.
    pub fn change<T>(&mut self, beyond: &mut usize, work: impl FnOnce(&mut Lane) -> T) -> T {
        let before = self.beyond();
        let done = work(&mut self.lane);
        *beyond = *beyond + self.beyond() - before;
        done
    }
}

impl Dispatcher {
    /// A dispatcher that does not run yet, and the handle that others ask it through. One that
    /// has the store for itself owns every shard and has begun to look for what waits.
    pub async fn open(
        config: Config,
        store: Arc<Store>,
        client: Client,
        clock: Clock,
        entropy: Entropy,
        lease: Arc<Lease>,
    ) -> Result<(Self, Handle), feed::Error> {
        if !store.is_shared() {
            report_lost(store.count_lost(clock.wall()).await?);
        }
        // The position first: what is committed while the lanes are found comes after.
        let cursor = Cursor::open(Arc::clone(&store), Start::Now).await?;
        let since = cursor.position();
        let shared = store.is_shared();
        let (asks, questions) = mpsc::channel(ASKS_MAX);
        let (pages_out, pages) = mpsc::unbounded_channel();
        let (landings_out, landings) = mpsc::unbounded_channel();
        let (found_out, found) = mpsc::unbounded_channel();
        let (fetched_out, fetched) = mpsc::unbounded_channel();
        let (kept_out, kept) = mpsc::unbounded_channel();
        let mut hands = store.shards().subscribe();
        // Also what came before this.
        hands.mark_changed();
        let tasks = TaskTracker::new();
        tasks.spawn(keep(Arc::clone(&store), kept));
        let read = clock.read();
        let now = read.steady;
        let lease_of_attempts = Arc::clone(&lease);
        let context = Context {
            store: Arc::clone(&store),
            client,
            clock: clock.clone(),
            entropy,
            lease: lease_of_attempts,
        };
        let context = Arc::new(context);
        let slots = Slots::new(config.in_flight_max);
        let observer = Observer::new(config.lines_for_people);
        let dispatcher = Self {
            config,
            store,
            clock,
            context,
            cursor,
            questions,
            pages,
            pages_out,
            landings,
            landings_out,
            finished: Vec::new(),
            tasks,
            tenures: if shared { Tenures::default() } else { Tenures::all(since, now) },
            hands,
            lease,
            leaving: Vec::new(),
            found,
            found_out,
            wanted: BTreeMap::new(),
            fetching: 0,
            fetched,
            fetched_out,
            kept_out,
            lanes: FxHashMap::default(),
            beyond: 0,
            timers: BTreeSet::new(),
            ready: Share::default(),
            slots,
            starts: Starts::default(),
            latencies: FxHashMap::default(),
            swept_at: now,
            read,
            observer,
            page_readers: Arc::new(Semaphore::new(PAGE_READERS)),
        };
        if !shared {
            dispatcher.find(Shard::all().map(|shard| (shard, 0)).collect());
        }
        Ok((dispatcher, Handle { asks }))
    }

    /// Works until `stop`: then no attempt starts any more, and those in flight end within the
    /// grace. Fails only if the feed cannot be followed.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), feed::Error> {
        while !stop.is_cancelled() {
            let now = self.clock.read();
            self.notice_step(&now);
            self.change_hands(now.steady);
            let moved = self.follow(&now).await?;
            self.land(&now);
            self.reroute(&now);
            self.fetch(now.steady);
            self.fire(now.steady);
            self.learn_overdue(now.steady);
            self.pump(&now);
            self.record(now.steady);
            self.see_off();
            self.sweep(now.steady);
            if moved {
                // More may be there; give the attempts just started their turn, and
                // those who ask too.
                self.serve();
                tokio::task::yield_now().await;
                continue;
            }
            let timer = self.timers.first().map(|(at, _)| *at);
            let next = [timer, self.slots.overdue_at(), self.starts.due_at()].into_iter().flatten().min();
            // A timer may stand for a time of day, which a step brings nearer.
            let pause = next.map_or(SWEEP_EVERY, |at| at.since(self.clock.now()).min(STEP_NOTICED));
            tokio::select! {
                () = stop.cancelled() => {}
                _ = self.cursor.wait() => {}
                Some(ask) = self.questions.recv() => self.answer(ask),
                Some(page) = self.pages.recv() => self.take_page(page),
                Some(found) = self.found.recv() => self.begin(found, &self.clock.read()),
                Some(fetched) = self.fetched.recv() => self.take_fetched(fetched),
                _ = self.hands.changed() => self.hands.mark_changed(),
                () = self.lease.begins() => {}
                _ = self.landings.recv_many(&mut self.finished, BATCH) => {}
                () = tokio::time::sleep(pause.min(SWEEP_EVERY).to_std()) => {}
            }
        }
        self.drain().await
    }

    /// Takes what has come in besides the feed, a little of it.
    fn serve(&mut self) {
        for _ in 0..BATCH {
            let Ok(page) = self.pages.try_recv() else { break };
            self.take_page(page);
        }
        while let Ok(found) = self.found.try_recv() {
            self.begin(found, &self.clock.read());
        }
        while let Ok(fetched) = self.fetched.try_recv() {
            self.take_fetched(fetched);
        }
        for _ in 0..BATCH {
            let Ok(ask) = self.questions.try_recv() else { break };
            self.answer(ask);
        }
    }

    /// Waits for attempts in flight to be recorded, and answers meanwhile.
    async fn drain(mut self) -> Result<(), feed::Error> {
        let grace = tokio::time::sleep(self.config.grace);
        tokio::pin!(grace);
        loop {
            while self.follow(&self.clock.read()).await? {}
            let now = self.clock.read();
            self.land(&now);
            self.record(now.steady);
            if self.slots.is_empty() {
                return Ok(());
            }
            let pause = self.starts.due_at().map_or(SWEEP_EVERY, |at| at.since(now.steady));
            tokio::select! {
                () = tokio::time::sleep(pause.to_std()) => {}
                () = &mut grace => {
                    tracing::warn!(attempts = self.slots.len(), "stopping with attempts in flight; they count as failed and will be repeated");
                    return Ok(());
                }
                open = self.cursor.wait() => if !open { return Ok(()) },
                Some(ask) = self.questions.recv() => self.answer(ask),
                _ = self.landings.recv_many(&mut self.finished, BATCH) => {}
            }
        }
    }

    /// Takes what attempts have come to.
    fn land(&mut self, now: &Now) {
        while let Ok(finish) = self.landings.try_recv() {
            self.finished.push(finish);
        }
        for at in 0..self.finished.len() {
            let finish = &self.finished[at];
            let (key, pos) = (finish.after.endpoint, finish.after.id.pos());
            self.finished[at].started = self.starts.end(pos);
            let finish = &self.finished[at];
            let (Some(attempt), Some(slot)) = (&finish.attempt, self.lanes.get_mut(&key)) else { continue };
            let signal = Signal::of(attempt.failure.as_ref().map(|failure| failure.cause));
            let quiet = quiet_until(&slot.lane.endpoint().retry, attempt);
            let quiet = quiet.map(|until| now.end_of_wait(attempt.ended_at(), until));
            slot.latency.observe(attempt.duration);
            self.slots.ended(pos);
            slot.lane.land(pos, signal, quiet, now.steady);
            self.keep(key, now);
            self.wake(key);
        }
    }

    /// Hands starts, results and expirations to the writer: the start of an attempt before its
    /// result.
    fn record(&mut self, now: Timestamp) {
        let starts = self.starts.due(now);
        if !starts.is_empty()
            && let Err(error) = self.store.begin_attempts(starts)
        {
            tracing::error!(%error, "starts of attempts were not recorded; a crash would not count them");
        }
        if !self.finished.is_empty()
            && let Err(error) = self.store.finish(std::mem::take(&mut self.finished))
        {
            tracing::error!(%error, "results were not recorded; their attempts will be repeated");
        }
    }

    /// Takes a batch from the feed; says whether the cursor moved.
    pub(super) async fn follow(&mut self, now: &Now) -> Result<bool, feed::Error> {
        let before = self.cursor.position();
        let heard = match self.cursor.step(BATCH).await {
            Ok(feed::Step::Changes(changes)) => {
                changes.iter().for_each(|change| self.learn(change, now));
                Ok(())
            }
            Ok(feed::Step::News(entry)) => match self.hear(&entry, now).await {
                Ok(()) => {
                    self.cursor.pass(&entry);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match heard {
            Ok(()) => {}
            Err(feed::Error::Store(error)) => {
                tracing::warn!(%error, "the feed could not be read; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error @ (feed::Error::Compacted { .. } | feed::Error::Ahead)) => return Err(error),
        }
        Ok(self.cursor.position() != before)
    }

    pub(super) fn learn(&mut self, change: &Change, now: &Now) {
        self.observer.change(change, self.store.directory(), now.steady);
        let (delivery, key) = (&change.delivery, change.delivery.endpoint);
        // What came before its share did is in the store as it is now.
        if self.tenures.of(key).is_none_or(|tenure| change.pos <= tenure.since) {
            return;
        }
        self.correct(delivery.id.pos());
        if change.attempt.is_some() && self.slots.release(delivery.id.pos()).is_some() {
            self.ready.end(delivery.tenant);
        }
        if !self.ensure_lane(key, now.steady) {
            return;
        }
        if let Some(slot) = self.lanes.get_mut(&key)
            && change.attempt.is_some()
        {
            slot.lane.recorded(delivery.id.pos());
        }
        self.offer(delivery, now);
    }

    /// Offers a delivery to its lane.
    pub(super) fn offer(&mut self, delivery: &Arc<Delivery>, now: &Now) {
        let key = delivery.endpoint;
        let Some(slot) = self.lanes.get_mut(&key) else { return };
        // Beyond the window only what has its event at hand: the others come with it in
        // a page, where alone each would have to read its own.
        let held = slot.lane.held();
        let far = held < WINDOW || self.store.hot().has(delivery.event.pos());
        let room = if far { slot.room(self.beyond) } else { held.max(WINDOW) };
        slot.change(&mut self.beyond, |lane| lane.offer(Arc::clone(delivery), room, now));
        self.wake(key);
    }

    /// Takes over changes of endpoints.
    fn reroute(&mut self, now: &Now) {
        for key in self.store.routes().take_changed() {
            let Some(endpoint) = self.store.routes().get(key) else {
                self.close_lane(key);
                continue;
            };
            let (endpoint, weight) = self.as_its_tenant_stands(&endpoint);
            let caller = Arc::new(self.caller(Arc::clone(&endpoint)));
            if let Some(slot) = self.lanes.get_mut(&key) {
                slot.caller = caller;
                slot.weight = weight;
                self.observer.endpoint(slot.lane.endpoint(), &endpoint);
                slot.lane.set_endpoint(endpoint, now.steady);
                self.keep(key, now);
                self.wake(key);
            }
        }
        self.command_breakers(now);
    }

    /// Does what callers asked of circuit breakers, on this instance or another.
    fn command_breakers(&mut self, now: &Now) {
        for (key, command) in self.store.routes().take_breaker_commands() {
            if let Some(slot) = self.lanes.get_mut(&key) {
                match command {
                    BreakerCommand::Close => slot.lane.reset(),
                    BreakerCommand::Probe => slot.lane.probe_now(now.steady),
                }
                self.keep(key, now);
                self.wake(key);
            }
        }
    }

    /// Has the store keep how a lane stands, for the next owner of its endpoint.
    fn keep(&mut self, key: EndpointKey, now: &Now) {
        let Some(slot) = self.lanes.get_mut(&key) else { return };
        self.observer.circuit(slot.lane.endpoint(), slot.lane.breaker(), now);
        let kept = slot.lane.kept(now.steady);
        if kept != slot.kept {
            slot.kept = kept;
            let _ = self.kept_out.send((key, kept.map(|kept| kept.moved(|at| now.wall_at(at)))));
        }
    }

    /// Learns from attempts that go on for long, before they end.
    fn learn_overdue(&mut self, now: Timestamp) {
        while let Some((key, age)) = self.slots.overdue(now) {
            if let Some(slot) = self.lanes.get_mut(&key) {
                slot.latency.at_least(age);
                self.wake(key);
            }
        }
    }

    /// After a step of the wall clock, lanes that wait for a time of day wait too long, or
    /// not long enough.
    fn notice_step(&mut self, now: &Now) {
        if now.stepped_since(&self.read) {
            let by = now.wall.since(self.read.wall_at(now.steady));
            tracing::warn!(
                seconds = by.as_secs_f64(),
                "the wall clock was set; what is due at a time of day follows it"
            );
            let waiting: Vec<_> = self.timers.iter().map(|(_, key)| *key).collect();
            waiting.into_iter().for_each(|key| self.wake(key));
        }
        self.read = *now;
    }

    fn fire(&mut self, now: Timestamp) {
        while let Some(&(at, key)) = self.timers.first() {
            if at > now {
                return;
            }
            self.wake(key);
        }
    }

    /// Asks queued lanes in turn, one step each, until all wait or their classes may hold
    /// no more slots.
    fn pump(&mut self, now: &Now) {
        // Once the lease goes on, the loop comes here again.
        while self.lease.holds(self.clock.now()) {
            let Some((class, key)) = self.ready.pop(|class| self.slots.may_begin(class)) else { return };
            let Some(slot) = self.lanes.get_mut(&key) else { continue };
            // Its class has changed since: it waits in another queue.
            if slot.queued != Some(class) {
                continue;
            }
            slot.queued = None;
            slot.lane.set_in_flight_cap(self.slots.in_flight_cap(class));
            if !self.tenures.is_active(key) {
                continue;
            }
            let epoch = self.tenures.of(key).map_or(0, |tenure| tenure.epoch);
            let room = slot.room(self.beyond);
            let step = slot.change(&mut self.beyond, |lane| lane.next(room, now));
            let caller = Arc::clone(&slot.caller);
            match step {
                Step::Send(delivery) => {
                    let (pos, tenant) = (delivery.id.pos(), delivery.tenant);
                    self.ready.begin(tenant);
                    let start = domain::Start {
                        delivery: delivery.id,
                        endpoint: key,
                        number: delivery.attempts + 1,
                        started_at: now.wall,
                        epoch,
                    };
                    let began = self.starts.begin(start, now.steady);
                    let (context, out) = (Arc::clone(&self.context), self.landings_out.clone());
                    // In a box: a task is moved each time its state changes, whatever its size.
                    let task = self.tasks.spawn(Box::pin(async move {
                        let _ = out.send(attempt::run(&context, &caller, delivery, epoch, began).await);
                    }));
                    self.slots.begin(
                        pos,
                        key,
                        class,
                        now.steady,
                        Flight { tenant, task: task.abort_handle() },
                    );
                    self.wake(key);
                }
                Step::Expire(delivery) => {
                    self.finished.push(attempt::expired(delivery, epoch, now.wall));
                    self.wake(key);
                }
                Step::Page(page) => {
                    let (store, out) = (Arc::clone(&self.store), self.pages_out.clone());
                    let readers = Arc::clone(&self.page_readers);
                    self.tasks.spawn(async move {
                        let _reader = readers.acquire_owned().await;
                        let found = store.waiting(key, page).await;
                        let _ = out.send((key, epoch, page.limit, found));
                    });
                    self.wake(key);
                }
                Step::Wait(until) => self.set_timer(key, until),
            }
        }
    }

    fn take_page(&mut self, (key, epoch, limit, page): PageRead) {
        let now = self.clock.read();
        if !self.tenures.is_current(key, epoch) {
            return;
        }
        let Some(slot) = self.lanes.get_mut(&key) else { return };
        match page {
            Ok(page) => {
                let last = page.len() < limit;
                slot.change(&mut self.beyond, |lane| lane.paged(page, last, &now));
                self.wake(key);
            }
            Err(error) => {
                tracing::warn!(%error, "waiting deliveries could not be read; trying again");
                slot.change(&mut self.beyond, Lane::page_failed);
                self.set_timer(key, Some(now.steady.plus(PAUSE.into())));
            }
        }
    }

    fn answer(&mut self, ask: Ask) {
        let now = self.clock.read();
        self.command_breakers(&now);
        match ask {
            Ask::Live(deliveries, reply) => {
                let live = deliveries.iter().map(|delivery| match self.lanes.get_mut(&delivery.endpoint) {
                    Some(slot) => slot.lane.live(delivery, &now),
                    None => {
                        self.store.routes().get(delivery.endpoint).map_or_else(Live::default, |endpoint| {
                            Lane::new(endpoint, None, now.steady).live(delivery, &now)
                        })
                    }
                });
                let shown =
                    |live: Live| Live { held_until: live.held_until.map(|at| now.wall_at(at)), ..live };
                let _ = reply.send(live.map(shown).collect());
            }
            Ask::Leave(shard, done) => self.leave((shard, done)),
            Ask::Circuits(keys, reply) => {
                let circuit = |key: &EndpointKey| {
                    self.lanes.get(key).map_or(Circuit::CLOSED, |slot| Circuit::of(slot.lane.breaker(), &now))
                };
                let _ = reply.send(keys.iter().map(circuit).collect());
            }
            Ask::Test(endpoint, event, reply) => {
                let caller = self.caller(endpoint);
                let context = Arc::clone(&self.context);
                self.tasks.spawn(async move {
                    let _ = reply.send(attempt::test(&context, &caller, &event).await);
                });
            }
        }
    }

    fn caller(&self, endpoint: Arc<Endpoint>) -> Caller {
        Caller::new(endpoint, &self.config.policy, &self.context.client)
    }

    /// Opens a lane of an endpoint, for which deliveries up to `stored` may wait.
    fn open_lane(&mut self, endpoint: &Arc<Endpoint>, stored: Option<Pos>, now: Timestamp) {
        let (endpoint, weight) = self.as_its_tenant_stands(endpoint);
        let caller = Arc::new(self.caller(Arc::clone(&endpoint)));
        let key = endpoint.key;
        let lane = match self.tenures.of(key) {
            Some(tenure) if self.read.steady_at(endpoint.created_at) < tenure.at => {
                Lane::inherited(endpoint, stored, tenure.at, now)
            }
            Some(_) | None => Lane::new(endpoint, stored, now),
        };
        let latency = self.latencies.remove(&key).unwrap_or_default();
        self.lanes.insert(key, Slot { lane, caller, weight, timer: None, latency, queued: None, kept: None });
    }

    /// Opens a lane for which something waits, or that stood in some way at its last home.
    pub(super) fn open_inherited(&mut self, endpoint: &Arc<Endpoint>, kept: Option<&Kept>, now: &Now) {
        let (key, tenure) = (endpoint.key, self.tenures.of(endpoint.key));
        if !self.lanes.contains_key(&key) {
            self.open_lane(endpoint, tenure.map(|it| it.since), now.steady);
        }
        let since = tenure.map_or(now.steady, |tenure| tenure.at);
        if let (Some(slot), Some(kept)) = (self.lanes.get_mut(&key), kept) {
            let kept = kept.moved(|at| now.steady_at(at));
            slot.lane.inherit(&kept, since);
            if kept.opened_at.is_some() {
                slot.latency.at_least(HANGING_AFTER);
            }
            slot.kept = Some(kept);
        }
    }

    /// Opens a lane if there is none; false: its endpoint is gone.
    pub(super) fn ensure_lane(&mut self, key: EndpointKey, now: Timestamp) -> bool {
        if !self.lanes.contains_key(&key) {
            let Some(endpoint) = self.store.routes().get(key) else { return false };
            self.open_lane(&endpoint, self.tenures.unfound(key), now);
        }
        true
    }

    /// The endpoint as its lane is to see it, and the weight of its tenant: while that
    /// is suspended, all of its endpoints are as if paused.
    fn as_its_tenant_stands(&self, endpoint: &Arc<Endpoint>) -> (Arc<Endpoint>, u32) {
        match self.store.directory().tenant(endpoint.tenant) {
            Some(tenant) if !tenant.suspended => (Arc::clone(endpoint), tenant.weight),
            // One that is gone takes its endpoints along soon.
            Some(_) | None if endpoint.state == EndpointState::Active => {
                let held = Endpoint { state: EndpointState::Paused, ..(**endpoint).clone() };
                (Arc::new(held), Tenant::WEIGHT)
            }
            Some(_) | None => (Arc::clone(endpoint), Tenant::WEIGHT),
        }
    }

    pub(super) fn close_lane(&mut self, key: EndpointKey) {
        self.latencies.remove(&key);
        let Some(slot) = self.lanes.remove(&key) else { return };
        self.observer.forget(key);
        self.beyond -= slot.beyond();
        if let Some(at) = slot.timer {
            self.timers.remove(&(at, key));
        }
    }

    /// Queues a lane to be asked, once.
    pub(super) fn wake(&mut self, key: EndpointKey) {
        self.set_timer(key, None);
        let active = self.tenures.is_active(key);
        let Some(slot) = self.lanes.get_mut(&key) else { return };
        let class = slot.latency.class();
        if slot.queued != Some(class) && active {
            slot.queued = Some(class);
            self.ready.push(slot.lane.endpoint().tenant, slot.weight, class, key);
        }
    }

    fn set_timer(&mut self, key: EndpointKey, at: Option<Timestamp>) {
        let Some(slot) = self.lanes.get_mut(&key) else { return };
        if let Some(old) = std::mem::replace(&mut slot.timer, at) {
            self.timers.remove(&(old, key));
        }
        if let Some(at) = at {
            self.timers.insert((at, key));
        }
    }

    /// Lets go of lanes that hold nothing and remember nothing.
    fn sweep(&mut self, now: Timestamp) {
        if now.since(self.swept_at) < SWEEP_EVERY {
            return;
        }
        self.swept_at = now;
        self.observer.flush(&self.store, now);
        self.lanes.retain(|key, slot| {
            let keeps = slot.timer.is_some() || slot.queued.is_some() || !slot.lane.is_idle(now);
            if !keeps {
                self.latencies.insert(*key, slot.latency);
            }
            keeps
        });
    }
}

/// Says how many attempts were cut off by the end of the server that made them.
pub(super) fn report_lost(attempts: usize) {
    if attempts > 0 {
        tracing::warn!(attempts, "attempts were cut off by the end of their server; they count as failed");
    }
}

/// Writes how lanes stand to the store, what has gathered at once, in order.
async fn keep(store: Arc<Store>, mut kept: mpsc::UnboundedReceiver<(EndpointKey, Option<Kept>)>) {
    let mut batch = Vec::new();
    while kept.recv_many(&mut batch, BATCH).await > 0 {
        while let Err(error) = store.keep_circuits(batch.clone()).await {
            tracing::warn!(%error, "circuit breakers could not be kept; trying again");
            tokio::time::sleep(PAUSE).await;
        }
        batch.clear();
    }
}
