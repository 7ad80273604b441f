//! One writer, group commit.
//!
//! Nobody but this thread writes. Callers hand it a write and await the answer; it
//! takes all that has gathered, writes it in one transaction, syncs once, and
//! answers everyone. So a sync is shared by all callers of the moment, no delay is
//! added when there is one caller, and a caller who goes away never leaves a
//! transaction open. It is a thread of its own because SQLite blocks, and because
//! a statement then costs its own work only: handed to another thread one by one,
//! statements took most of the time of a small transaction.
//!
//! Results of attempts and expirations need no answer and must not be lost: they
//! stay here until a transaction that holds them has committed. Since nobody waits
//! for them, they may wait a little for each other: a transaction costs about the
//! same for ten of them as for one.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};

use super::{
    Config, Directory, Error, Hot, Recent, Shards,
    db::Conn,
    deliveries::Finish,
    journal, news,
    publish::{Handed, Published, Refused},
    tx::{About, SharedRoutes, Tx},
};
use crate::{
    domain::{Pos, Start, Timestamp},
    explain,
};

/// Results taken into one transaction at most. Measured gains end at 1024 rows.
const BATCH_MAX: usize = 1024;
/// Weight of the writes taken into one transaction at most, or one write: some
/// thousand events, so that what comes next does not wait long.
const BATCH_WEIGHT: usize = 8 * 1024;

/// What became of events handed in together, in their order.
pub(super) type Answers = Vec<Result<Published, Refused>>;

/// Transactions refused in a row before the store counts as lost. A restart reads
/// everything anew; going on would only look healthy.
const REFUSALS_MAX: u32 = 100;

/// How long results wait for more of them, while they come in numbers: under load
/// this fills transactions, and it delays no answer.
const LINGER: Duration = Duration::from_millis(5);
/// How long until they are counted again meanwhile: each time wakes this thread up.
const GLANCE: Duration = Duration::from_millis(1);
/// Results in the last transaction from which on more are waited for. Below, there
/// is little load and nothing to gain.
const COMPANY: usize = 8;
/// Results that are not kept waiting any longer: while they are written there is room for as
/// many more to end, so that sending does not stop and go.
const ENOUGH: usize = 192;

/// A write, as handed over.
pub(super) enum Write {
    /// Events, with their answer.
    Publish(Handed, oneshot::Sender<Result<Answers, Error>>),
    /// Anything else.
    Call(Box<dyn Call>),
    /// Take in what other processes have committed.
    Look(oneshot::Sender<Result<(), Error>>),
    /// Stop after this.
    Close(oneshot::Sender<Result<(), Error>>),
}

/// Where writes come in.
pub(super) struct Inbox {
    /// Those that are answered.
    pub writes: mpsc::Receiver<Write>,
    /// Results of attempts and expirations.
    pub finishes: mpsc::UnboundedReceiver<Vec<Finish>>,
    /// Starts of attempts, each before its result.
    pub starts: mpsc::UnboundedReceiver<Vec<Start>>,
}

/// Writes that nobody waits for. They stay here until a transaction that holds them has
/// committed.
#[derive(Default)]
pub(super) struct Unanswered {
    pub finishes: Vec<Finish>,
    pub starts: Vec<Start>,
}

impl Unanswered {
    fn is_empty(&self) -> bool {
        self.finishes.is_empty() && self.starts.is_empty()
    }
}

impl Inbox {
    /// Waits for something to write and takes all that is there, up to what belongs
    /// into one transaction. False: nothing will come any more.
    async fn take(&mut self, writes: &mut Vec<Write>, unanswered: &mut Unanswered) -> bool {
        tokio::select! {
            write = self.writes.recv() => match write {
                Some(write) => writes.push(write),
                None => return false,
            },
            Some(more) = self.finishes.recv() => unanswered.finishes.extend(more),
            Some(more) = self.starts.recv() => unanswered.starts.extend(more),
        }
        self.drain(writes, unanswered);
        true
    }

    /// Takes what is there. Starts last: so of each result that was taken, the start was
    /// taken, too, now or before.
    fn drain(&mut self, writes: &mut Vec<Write>, unanswered: &mut Unanswered) {
        while unanswered.finishes.len() < BATCH_MAX
            && let Ok(more) = self.finishes.try_recv()
        {
            unanswered.finishes.extend(more);
        }
        while let Ok(more) = self.starts.try_recv() {
            unanswered.starts.extend(more);
        }
        let mut weight: usize = writes.iter().map(Write::weight).sum();
        while weight < BATCH_WEIGHT
            && let Ok(more) = self.writes.try_recv()
        {
            weight += more.weight();
            writes.push(more);
        }
    }
}

impl Write {
    fn weight(&self) -> usize {
        match self {
            Self::Publish(handed, _) => handed.weight(),
            Self::Call(_) | Self::Look(_) | Self::Close(_) => 1,
        }
    }

    /// Whether it needs a transaction.
    fn is_change(&self) -> bool {
        matches!(self, Self::Publish(..) | Self::Call(_))
    }
}

/// A write of one's own: runs inside the transaction, is answered after it.
pub(super) trait Call: Send {
    /// Runs. Decide first, then write: what was written is not taken back.
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Error>;
    /// Answers the caller.
    fn answer(self: Box<Self>, committed: Result<(), Error>);
}

/// What the writer counts, for limits and metrics.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Deliveries in open states.
    pub open: AtomicI64,
    /// Transactions committed.
    pub commits: AtomicU64,
    /// Results dropped because their share of the work had come to another process.
    pub void: AtomicU64,
    /// The last transaction was refused, and none has succeeded since.
    pub refusing: AtomicBool,
}

/// The writing half of the store.
pub(super) struct Writer {
    pub conn: Conn,
    pub runtime: Handle,
    pub routes: Arc<SharedRoutes>,
    pub directory: Arc<Directory>,
    pub shards: Arc<Shards>,
    pub recent: Arc<Recent>,
    pub hot: Arc<Hot>,
    pub gauges: Arc<Gauges>,
    /// Told of commits that other processes want to hear of.
    pub notices: Arc<Notify>,
    /// Told of operations that were accepted or stopped.
    pub operations: Arc<Notify>,
    pub config: Config,
    pub position: Pos,
    pub latest: Timestamp,
    pub last_mark: Timestamp,
    /// Waiting for a transaction that commits.
    pub unanswered: Unanswered,
    /// How many results the last transaction had.
    pub company: usize,
    /// Told once all is written, after which nothing more is.
    pub closing: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Writer {
    /// Starts the thread. It ends when closed or when the store cannot be trusted any
    /// more; every later write then fails.
    pub fn start(self, inbox: Inbox) -> io::Result<oneshot::Receiver<Result<(), Error>>> {
        let (ended, end) = oneshot::channel();
        let run = move || {
            let _ = ended.send(self.run(inbox));
        };
        thread::Builder::new().name("writer".to_owned()).spawn(run)?;
        Ok(end)
    }

    fn run(mut self, mut inbox: Inbox) -> Result<(), Error> {
        let mut backoff = patience();
        let mut batch = Vec::new();
        let mut refusals = 0;
        loop {
            let pause = if self.unanswered.is_empty() { None } else { backoff.next_backoff() };
            let (runtime, mut unanswered) = (self.runtime.clone(), std::mem::take(&mut self.unanswered));
            let gathered = gather(&mut inbox, &mut batch, &mut unanswered, pause, self.company);
            let open = self.conn.wait(&runtime, gathered);
            self.unanswered = unanswered;
            if !open {
                return Ok(());
            }
            match self.commit(&mut inbox, &mut batch) {
                Ok(()) => (backoff, refusals) = (patience(), 0),
                Err(error @ Error::Lost(_)) => return Err(error),
                Err(Error::Full(_) | Error::Away(_) | Error::Conflict(_)) => {}
                Err(error) => {
                    refusals += 1;
                    if refusals >= REFUSALS_MAX {
                        return Err(error);
                    }
                }
            }
            if let Some(done) = self.closing.take() {
                let _ = done.send(self.conn.close());
                return Ok(());
            }
        }
    }

    /// One transaction for the whole batch; answers everyone.
    fn commit(&mut self, inbox: &mut Inbox, batch: &mut Vec<Write>) -> Result<(), Error> {
        let begun = if !self.unanswered.is_empty() || batch.iter().any(Write::is_change) {
            self.begin().map(Some)
        } else if batch.iter().any(|write| matches!(write, Write::Look(_))) {
            self.look().map(|()| None)
        } else {
            Ok(None)
        };
        if let Ok(Some(_)) = begun {
            // In a fleet a transaction waits for its turn, and meanwhile more has come.
            inbox.drain(batch, &mut self.unanswered);
        }
        self.company = self.unanswered.finishes.len();
        let (mut publishes, mut calls, mut looks) = (Vec::new(), Vec::new(), Vec::new());
        for write in batch.drain(..) {
            match write {
                Write::Publish(publish, reply) => publishes.push((publish, reply)),
                Write::Call(call) => calls.push(call),
                Write::Look(reply) => looks.push(reply),
                Write::Close(done) => self.closing = Some(done),
            }
        }
        let published = !publishes.is_empty();
        let changes = published || !calls.is_empty() || !self.unanswered.is_empty();
        let done = begun.and_then(|floor| match floor {
            Some(floor) => self.transact(floor, &publishes, &mut calls),
            None => Ok(Vec::new()),
        });
        match done {
            Ok(answers) => {
                if published && self.config.crash_after_publishes.as_mut().is_some_and(count_down) {
                    std::process::abort();
                }
                for ((_, reply), answer) in publishes.into_iter().zip(answers) {
                    let _ = reply.send(Ok(answer));
                }
                calls.into_iter().for_each(|call| call.answer(Ok(())));
                looks.into_iter().for_each(|reply| drop(reply.send(Ok(()))));
                Ok(())
            }
            Err(error) => {
                if changes {
                    tracing::error!(
                        error = explain::chain(&error),
                        waiting = self.unanswered.finishes.len(),
                        "a write failed"
                    );
                    self.gauges.refusing.store(true, Ordering::Relaxed);
                } else {
                    tracing::debug!(error = explain::chain(&error), "the journal could not be read");
                }
                self.conn.rollback();
                for (_, reply) in publishes {
                    let _ = reply.send(Err(error.told()));
                }
                calls.into_iter().for_each(|call| call.answer(Err(error.told())));
                looks.into_iter().for_each(|reply| drop(reply.send(Err(error.told()))));
                Err(error)
            }
        }
    }

    /// Begins a transaction, with what others have committed before it taken in. Returns
    /// the position it may number from.
    fn begin(&mut self) -> Result<Pos, Error> {
        let begun = self.conn.begin(self.position)?;
        self.take_in(begun.news)?;
        Ok(begun.floor)
    }

    fn transact(
        &mut self,
        floor: Pos,
        publishes: &[(Handed, oneshot::Sender<Result<Answers, Error>>)],
        calls: &mut [Box<dyn Call>],
    ) -> Result<Vec<Answers>, Error> {
        let (routes, directory, shards) = (&*self.routes, &*self.directory, &*self.shards);
        let about = About { routes, directory, shards, vault: &self.config.vault };
        let mut tx = Tx::new(&self.conn, about, (self.position, floor), self.latest);
        let answers = tx.publish(publishes.iter().map(|(publish, _)| publish))?;
        let Unanswered { finishes, starts } = &self.unanswered;
        let void = tx.finish(finishes)?;
        tx.begin_attempts(starts, finishes)?;
        for call in calls {
            call.run(&mut tx)?;
        }
        let effects = tx.commit(self.last_mark, self.config.mark_every)?;
        self.unanswered.finishes.clear();
        self.unanswered.starts.clear();
        self.gauges.commits.fetch_add(1, Ordering::Relaxed);
        self.gauges.refusing.store(false, Ordering::Relaxed);
        self.gauges.void.fetch_add(void, Ordering::Relaxed);
        (self.position, self.latest, self.last_mark) = (effects.position, effects.latest, effects.last_mark);
        self.gauges.open.fetch_add(effects.open, Ordering::Relaxed);
        self.hot.publish(effects.hot);
        self.directory.apply(effects.entries);
        self.routes.apply(effects.routes);
        self.routes.command_breakers(&effects.note);
        self.shards.apply(&effects.note.shards, effects.position);
        self.recent.push(effects.changes, effects.position);
        if effects.note.operations {
            self.operations.notify_one();
        }
        if !effects.note.is_quiet() {
            self.notices.notify_one();
        }
        Ok(answers)
    }

    /// Takes in what other processes have committed.
    fn look(&mut self) -> Result<(), Error> {
        let news = self.conn.news(self.position)?;
        self.take_in(news)
    }

    /// Brings what is in memory up to what others have committed. All is read before
    /// anything of it shows.
    fn take_in(&mut self, news: Vec<journal::Entry>) -> Result<(), Error> {
        let Some(last) = news.last() else { return Ok(()) };
        let (position, latest) = (last.pos, last.latest);
        let read = news::read(&self.conn, &news, self.position, &self.config.vault, &self.directory)?;
        self.gauges.open.fetch_add(read.opened, Ordering::Relaxed);
        self.directory.apply(read.entries);
        self.routes.apply(read.reroutes);
        for entry in news {
            self.routes.command_breakers(&entry.note);
            self.shards.apply(&entry.note.shards, entry.pos);
            if entry.note.operations {
                self.operations.notify_one();
            }
            self.recent.push_news(entry);
        }
        (self.position, self.latest) = (position, self.latest.max(latest));
        Ok(())
    }
}

/// Waits for something to write, or for a pause after which what is there is tried
/// again. False: nothing will come any more.
async fn gather(
    inbox: &mut Inbox,
    batch: &mut Vec<Write>,
    unanswered: &mut Unanswered,
    pause: Option<Duration>,
    company: usize,
) -> bool {
    match pause {
        None => {
            if !inbox.take(batch, unanswered).await {
                return false;
            }
        }
        Some(pause) => {
            let _ = timeout(pause, inbox.take(batch, unanswered)).await;
        }
    }
    if company >= COMPANY {
        let enough = async {
            while batch.is_empty() && unanswered.finishes.len() < ENOUGH {
                // Results that come meanwhile do not wake this thread one by one.
                match timeout(GLANCE, inbox.writes.recv()).await {
                    Ok(Some(write)) => batch.push(write),
                    Ok(None) => return,
                    Err(_) => {}
                }
                inbox.drain(batch, unanswered);
            }
        };
        let _ = timeout(LINGER, enough).await;
        inbox.drain(batch, unanswered);
    }
    true
}

/// Counts one; says whether that was the last.
fn count_down(left: &mut u64) -> bool {
    *left = left.saturating_sub(1);
    *left == 0
}

/// Spaces out the tries at a store that refuses writes: 10 ms growing to 1 s.
fn patience() -> ExponentialBackoff {
    ExponentialBackoffBuilder::new()
        .with_initial_interval(Duration::from_millis(10))
        .with_max_interval(Duration::from_secs(1))
        .with_max_elapsed_time(None)
        .build()
}

/// A call made of a closure.
pub(super) struct Closure<F, T> {
    work: Option<F>,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<F, T> Closure<F, T> {
    /// A call whose result goes to `reply`.
    pub fn new(work: F, reply: oneshot::Sender<Result<T, Error>>) -> Self {
        Self { work: Some(work), result: None, reply }
    }
}

impl<F, T> Call for Closure<F, T>
where
    F: FnOnce(&mut Tx<'_>) -> Result<T, Error> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Error> {
        self.result = self.work.take().map(|work| work(tx)).transpose()?;
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), Error>) {
        let Self { result, reply, .. } = *self;
        let _ = reply.send(committed.and_then(|()| result.ok_or(Error::Unavailable(None))));
    }
}
