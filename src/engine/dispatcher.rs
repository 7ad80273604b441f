//! The dispatcher: one task that owns every lane.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    attempt::{self, Context},
    caller::Caller,
    handle::{Ask, Circuit, Handle},
    observe::Observer,
};
use crate::{
    clock::Clock,
    domain::{Change, Delivery, Endpoint, EndpointKey, EndpointState, Live, Micros, Pos, Tenant, Timestamp},
    egress::{Client, Policy},
    entropy::Entropy,
    feed::{self, Cursor, Start},
    machine::{
        breaker::{Position, Signal},
        lane::{Lane, Step, WINDOW},
        retry_after::quiet_until,
        share::Share,
    },
    store::{Finish, Store},
};

/// Changes taken from the feed before lanes are asked again.
const BATCH: usize = 512;
/// Waiting deliveries held in memory over all lanes, beyond the window of each:
/// some 16 MB. What comes faster than it goes out need not be read back.
const ROOM: usize = 32 * 1024;
/// Questions waiting at most.
const ASKS_MAX: usize = 1024;
/// Lanes whose pages are read at once.
const PAGE_READERS: usize = 2;
/// How often lanes with nothing to remember are let go.
const SWEEP_EVERY: Micros = Micros::from_secs(30);
/// A store that cannot be read is asked again after this.
const PAUSE: Duration = Duration::from_millis(200);

/// How the engine is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Attempts in flight at once, over all endpoints.
    pub in_flight_max: usize,
    /// What targets are allowed.
    pub policy: Policy,
    /// How long attempts in flight may take to end after the stop.
    pub grace: Duration,
}

/// Starts the engine. `stop` ends it: no attempt starts any more, those in flight
/// end within the grace. The task fails only if the feed cannot be followed.
pub async fn start(
    config: Config,
    store: Arc<Store>,
    client: Client,
    clock: Clock,
    entropy: Entropy,
    stop: CancellationToken,
) -> Result<(Handle, tokio::task::JoinHandle<Result<(), feed::Error>>), feed::Error> {
    // The position first: what is committed while the lanes are found comes after.
    let cursor = Cursor::open(Arc::clone(&store), Start::Now).await?;
    let waiting = store.endpoints_waiting().await?;
    let (asks, questions) = mpsc::channel(ASKS_MAX);
    let (pages_out, pages) = mpsc::unbounded_channel();
    let (landings_out, landings) = mpsc::unbounded_channel();
    let now = clock.now();
    let context = Arc::new(Context { store: Arc::clone(&store), client, clock: clock.clone(), entropy });
    let mut dispatcher = Dispatcher {
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
        tasks: TaskTracker::new(),
        lanes: FxHashMap::default(),
        beyond: 0,
        timers: BTreeSet::new(),
        ready: Share::default(),
        flying: FxHashSet::default(),
        swept_at: now,
        observer: Observer::default(),
        page_readers: Arc::new(Semaphore::new(PAGE_READERS)),
    };
    for key in waiting {
        if let Some(endpoint) = dispatcher.store.routes().get(key) {
            dispatcher.open_lane(&endpoint, true, now);
            dispatcher.wake(key);
        }
    }
    Ok((Handle { asks }, tokio::spawn(dispatcher.run(stop))))
}

/// A page that a lane asked for.
type PageRead = (EndpointKey, usize, Result<Vec<Arc<Delivery>>, crate::store::Error>);

struct Dispatcher {
    config: Config,
    store: Arc<Store>,
    clock: Clock,
    context: Arc<Context>,
    cursor: Cursor,
    questions: mpsc::Receiver<Ask>,
    pages: mpsc::UnboundedReceiver<PageRead>,
    pages_out: mpsc::UnboundedSender<PageRead>,
    /// Results of attempts; as many as may be in flight at most.
    landings: mpsc::UnboundedReceiver<Finish>,
    landings_out: mpsc::UnboundedSender<Finish>,
    /// What goes to the writer next.
    finished: Vec<Finish>,
    tasks: TaskTracker,
    lanes: FxHashMap<EndpointKey, Slot>,
    /// Waiting deliveries held beyond the window of their lane, over all lanes.
    beyond: usize,
    /// When lanes want to be asked again.
    timers: BTreeSet<(Timestamp, EndpointKey)>,
    /// Lanes to ask, each once: one step a turn, so that none waits for another, and
    /// no tenant for another beyond its share.
    ready: Share<EndpointKey>,
    /// Deliveries whose attempt is not recorded yet.
    flying: FxHashSet<Pos>,
    swept_at: Timestamp,
    observer: Observer,
    /// Pages read at once at most, so that many lanes, as after a start, leave
    /// readers to the callers.
    page_readers: Arc<Semaphore>,
}

struct Slot {
    lane: Lane,
    caller: Arc<Caller>,
    /// Share of its tenant.
    weight: u32,
    timer: Option<Timestamp>,
    is_ready: bool,
}

impl Slot {
    /// Waiting deliveries held beyond a window.
    fn beyond(&self) -> usize {
        self.lane.held().saturating_sub(WINDOW)
    }

    /// Does something with the lane and keeps the account of what is held.
    fn change<T>(&mut self, beyond: &mut usize, work: impl FnOnce(&mut Lane) -> T) -> T {
        let before = self.beyond();
        let done = work(&mut self.lane);
        *beyond = *beyond + self.beyond() - before;
        done
    }
}

impl Dispatcher {
    async fn run(mut self, stop: CancellationToken) -> Result<(), feed::Error> {
        while !stop.is_cancelled() {
            let now = self.clock.now();
            let moved = self.follow(now).await?;
            self.land(now);
            self.reroute(now);
            self.fire(now);
            self.pump(now);
            self.record();
            self.sweep(now);
            if moved {
                // More may be there; give the attempts just started their turn, and
                // those who ask too.
                self.serve();
                tokio::task::yield_now().await;
                continue;
            }
            let pause = self.timers.first().map_or(SWEEP_EVERY, |(at, _)| at.since(self.clock.now()));
            tokio::select! {
                () = stop.cancelled() => {}
                _ = self.cursor.wait() => {}
                Some(ask) = self.questions.recv() => self.answer(ask),
                Some(page) = self.pages.recv() => self.take_page(page),
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
            while self.follow(self.clock.now()).await? {}
            self.land(self.clock.now());
            self.record();
            if self.flying.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = &mut grace => {
                    tracing::warn!(attempts = self.flying.len(), "stopping with attempts in flight; they will be repeated");
                    return Ok(());
                }
                open = self.cursor.wait() => if !open { return Ok(()) },
                Some(ask) = self.questions.recv() => self.answer(ask),
                _ = self.landings.recv_many(&mut self.finished, BATCH) => {}
            }
        }
    }

    /// Takes what attempts have come to.
    fn land(&mut self, now: Timestamp) {
        while let Ok(finish) = self.landings.try_recv() {
            self.finished.push(finish);
        }
        for at in 0..self.finished.len() {
            let finish = &self.finished[at];
            let (key, pos) = (finish.after.endpoint, finish.after.id.pos());
            let (Some(attempt), Some(slot)) = (&finish.attempt, self.lanes.get_mut(&key)) else { continue };
            let signal = Signal::of(attempt.failure.as_ref().map(|failure| failure.cause));
            let quiet = quiet_until(&slot.lane.endpoint().retry, attempt);
            slot.lane.land(pos, signal, quiet, now);
            self.wake(key);
        }
    }

    /// Hands results and expirations to the writer.
    fn record(&mut self) {
        if !self.finished.is_empty()
            && let Err(error) = self.store.finish(std::mem::take(&mut self.finished))
        {
            tracing::error!(%error, "results were not recorded; their attempts will be repeated");
        }
    }

    /// Takes a batch from the feed; says whether the cursor moved.
    async fn follow(&mut self, now: Timestamp) -> Result<bool, feed::Error> {
        let before = self.cursor.position();
        match self.cursor.ready(BATCH).await {
            Ok(changes) => changes.iter().for_each(|change| self.learn(change, now)),
            Err(feed::Error::Store(error)) => {
                tracing::warn!(%error, "the feed could not be read; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error @ (feed::Error::Compacted { .. } | feed::Error::Ahead)) => return Err(error),
        }
        Ok(self.cursor.position() != before)
    }

    fn learn(&mut self, change: &Change, now: Timestamp) {
        self.observer.change(change, self.store.directory());
        let (delivery, key) = (&change.delivery, change.delivery.endpoint);
        if change.attempt.is_some() && self.flying.remove(&delivery.id.pos()) {
            self.ready.end(delivery.tenant);
        }
        if !self.lanes.contains_key(&key) {
            let Some(endpoint) = self.store.routes().get(key) else { return };
            self.open_lane(&endpoint, false, now);
        }
        let Some(slot) = self.lanes.get_mut(&key) else { return };
        if change.attempt.is_some() {
            slot.lane.recorded(delivery.id.pos());
        }
        // Beyond the window only what has its event at hand: the others come with it in
        // a page, where alone each would have to read its own.
        let held = slot.lane.held();
        let free = ROOM.saturating_sub(self.beyond);
        let far = held < WINDOW || self.store.hot().has(delivery.event.pos());
        let room = held.max(WINDOW) + if far { free } else { 0 };
        slot.change(&mut self.beyond, |lane| lane.offer(Arc::clone(delivery), room, now));
        self.wake(key);
    }

    /// Takes over changes of endpoints.
    fn reroute(&mut self, now: Timestamp) {
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
                slot.lane.set_endpoint(endpoint, now);
                self.wake(key);
            }
        }
    }

    fn fire(&mut self, now: Timestamp) {
        while let Some(&(at, key)) = self.timers.first() {
            if at > now {
                return;
            }
            self.wake(key);
        }
    }

    /// Asks ready lanes in turn, one step each, until all wait or no more attempts
    /// may be in flight.
    fn pump(&mut self, now: Timestamp) {
        while self.flying.len() < self.config.in_flight_max {
            let Some(key) = self.ready.pop() else { return };
            let Some(slot) = self.lanes.get_mut(&key) else { continue };
            slot.is_ready = false;
            let step = slot.change(&mut self.beyond, |lane| lane.next(now));
            let caller = Arc::clone(&slot.caller);
            match step {
                Step::Send(delivery) => {
                    self.flying.insert(delivery.id.pos());
                    self.ready.begin(delivery.tenant);
                    let (context, out) = (Arc::clone(&self.context), self.landings_out.clone());
                    self.tasks.spawn(async move {
                        let _ = out.send(attempt::run(&context, &caller, delivery, 0).await);
                    });
                    self.wake(key);
                }
                Step::Expire(delivery) => {
                    self.finished.push(attempt::expired(delivery, 0, now));
                    self.wake(key);
                }
                Step::Page(from, limit) => {
                    let (store, out) = (Arc::clone(&self.store), self.pages_out.clone());
                    let readers = Arc::clone(&self.page_readers);
                    self.tasks.spawn(async move {
                        let _reader = readers.acquire_owned().await;
                        let page = store.waiting(key, from, limit).await;
                        let _ = out.send((key, limit, page));
                    });
                    self.wake(key);
                }
                Step::Wait(until) => self.set_timer(key, until),
            }
        }
    }

    fn take_page(&mut self, (key, limit, page): PageRead) {
        let now = self.clock.now();
        let Some(slot) = self.lanes.get_mut(&key) else { return };
        match page {
            Ok(page) => {
                let last = page.len() < limit;
                slot.change(&mut self.beyond, |lane| lane.paged(page, last, now));
                self.wake(key);
            }
            Err(error) => {
                tracing::warn!(%error, "waiting deliveries could not be read; trying again");
                slot.change(&mut self.beyond, Lane::page_failed);
                self.set_timer(key, Some(now.plus(PAUSE.into())));
            }
        }
    }

    fn answer(&mut self, ask: Ask) {
        let now = self.clock.now();
        match ask {
            Ask::Live(deliveries, reply) => {
                let live = deliveries.iter().map(|delivery| match self.lanes.get_mut(&delivery.endpoint) {
                    Some(slot) => slot.lane.live(delivery, now),
                    None => {
                        self.store.routes().get(delivery.endpoint).map_or_else(Live::default, |endpoint| {
                            Lane::new(endpoint, false, now).live(delivery, now)
                        })
                    }
                });
                let _ = reply.send(live.collect());
            }
            Ask::Circuits(keys, reply) => {
                let circuit = |key: &EndpointKey| {
                    self.lanes.get(key).map_or(
                        Circuit { position: Position::Closed, failures: 0, opened_at: None },
                        |slot| {
                            let breaker = slot.lane.breaker();
                            Circuit {
                                position: breaker.position(),
                                failures: breaker.failures(),
                                opened_at: breaker.opened_at(),
                            }
                        },
                    )
                };
                let _ = reply.send(keys.iter().map(circuit).collect());
            }
            Ask::Reset(key, reply) => {
                if let Some(slot) = self.lanes.get_mut(&key) {
                    slot.lane.reset();
                    self.wake(key);
                }
                let _ = reply.send(());
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

    fn open_lane(&mut self, endpoint: &Arc<Endpoint>, stored: bool, now: Timestamp) {
        let (endpoint, weight) = self.as_its_tenant_stands(endpoint);
        let caller = Arc::new(self.caller(Arc::clone(&endpoint)));
        let (key, lane) = (endpoint.key, Lane::new(endpoint, stored, now));
        self.lanes.insert(key, Slot { lane, caller, weight, timer: None, is_ready: false });
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

    fn close_lane(&mut self, key: EndpointKey) {
        let Some(slot) = self.lanes.remove(&key) else { return };
        self.beyond -= slot.beyond();
        if let Some(at) = slot.timer {
            self.timers.remove(&(at, key));
        }
    }

    /// Queues a lane to be asked, once.
    fn wake(&mut self, key: EndpointKey) {
        self.set_timer(key, None);
        let Some(slot) = self.lanes.get_mut(&key) else { return };
        if !slot.is_ready {
            slot.is_ready = true;
            self.ready.push(slot.lane.endpoint().tenant, slot.weight, key);
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
        self.lanes.retain(|_, slot| slot.timer.is_some() || slot.is_ready || !slot.lane.is_idle(now));
    }
}
