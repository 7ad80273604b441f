//! The composition root: builds the house, opens the door, and closes it in order.

pub mod administrator;
mod data_dir;
mod door;
mod egress;
mod keys;
mod pages;
mod readiness;
mod rekey;
mod stores;
mod waiting;
mod welcome;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusHandle;
use rustls::pki_types::pem;
use tokio::{net::TcpListener, runtime::Handle, sync::Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::readiness::{CLOCK, DRAIN, LEASE, Readiness, STORE};
pub use self::{
    keys::KeyError,
    rekey::{keygen, rekey},
};
use crate::{
    app::{self, App},
    clock::Clock,
    config::{self, Dev, Serve},
    domain::Micros,
    egress::{Client, NotANetwork, NotAProxy, SetupError},
    engine,
    entropy::Entropy,
    fleet::{self, Fleet},
    front, grpc, receiver, store,
    telemetry::LogFilter,
};

/// The cool-down of circuit breakers on a development server, so that an app on a laptop that
/// comes back is served soon.
const DEV_BREAKER_COOLDOWN: Micros = Micros::from_secs(5);
/// How long attempts and calls in flight may take to end after the stop.
const GRACE: Duration = Duration::from_secs(30);
/// Time between tidyings of the metrics; what the library does by itself where it
/// runs a thread of its own.
const KEEP_UP_EVERY: Duration = Duration::from_secs(5);
/// How long finished operations are kept: 7 days.
const OPERATION_RETENTION: Micros = Micros::from_secs(7 * 86_400);

/// Which server.
#[derive(Clone, Debug)]
pub enum Profile {
    /// For development: loopback only, no keys, targets by http and on loopback allowed.
    Dev(Dev),
    /// For production.
    Serve(Serve),
}

impl Profile {
    /// What both can be told.
    pub fn server(&self) -> &config::Server {
        match self {
            Self::Dev(dev) => &dev.server,
            Self::Serve(serve) => &serve.server,
        }
    }

    fn host(&self) -> IpAddr {
        match self {
            Self::Dev(dev) => dev.host,
            Self::Serve(serve) => serve.host,
        }
    }

    /// How long the server is not ready before it stops.
    fn drain_delay(&self) -> Duration {
        match self {
            Self::Dev(dev) => dev.drain_delay.to_std(),
            Self::Serve(serve) => serve.drain_delay.to_std(),
        }
    }

    fn is_dev(&self) -> bool {
        matches!(self, Self::Dev(_))
    }
}

/// Why the server did not start or did not go on. Each sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `dev` has no keys, so it stays on loopback.
    #[error(
        "hookwire dev listens on loopback only, because it asks for no keys: use --host 127.0.0.1 or ::1"
    )]
    NotLoopback,
    /// Clear text beyond loopback was not asked for.
    #[error(
        "keys and events would cross the network in clear text on {0}: give --tls-cert and --tls-key, or --plaintext if a proxy in front does TLS"
    )]
    Plaintext(IpAddr),
    /// One option makes no sense without another.
    #[error("{0} was given without {1}: give both or neither")]
    HalfOfTls(&'static str, &'static str),
    /// Two options that exclude each other.
    #[error("--plaintext and --tls-cert exclude each other: give one of them")]
    TlsAndPlaintext,
    /// The files for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] front::tls::Error),
    /// The port cannot be had.
    #[error("cannot listen on {address}: is another server there? choose another --port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A network that is allowed.
    #[error("--allow-target cannot be used")]
    AllowTarget(#[source] NotANetwork),
    /// A name server.
    #[error("--dns-server {0} is not an address: write it as 10.0.0.2, 10.0.0.2:53 or [fd00::53]:53")]
    DnsServer(String),
    /// Certificate authorities for calls to endpoints.
    #[error("--egress-ca {} has no certificates that can be read: give a file of PEM certificates", file.display())]
    EgressCa {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: Option<pem::Error>,
    },
    /// The proxy for calls to endpoints.
    #[error("--egress-proxy cannot be used")]
    EgressProxy(#[source] NotAProxy),
    /// Requests to endpoints cannot be made.
    #[error("requests to endpoints cannot be made")]
    Egress(#[from] SetupError),
    /// The data directory cannot be used.
    #[error("{0}")]
    DataDir(String),
    /// There is no usable master key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is nothing to seal anew.
    #[error("there is no database in {path}: check --data-dir")]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// A server uses the store that is to be sealed anew.
    #[error(
        "a server runs on {path}: restart it with the new key and --old-master-key-file for the one it has now, \
         and it seals everything anew by itself, or stop it first"
    )]
    RekeyRunning {
        /// The directory.
        path: PathBuf,
    },
    /// Sealing anew came to an end half way.
    #[error(
        "not everything could be sealed anew: run it again with the same keys, it goes on where it stopped"
    )]
    Reseal(#[source] store::Error),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// Nobody could administer it.
    #[error(transparent)]
    Administrator(#[from] administrator::Error),
    /// The feed cannot be followed.
    #[error("the feed cannot be followed")]
    Feed(#[from] crate::feed::Error),
    /// A part could not be started: a bug.
    #[error("a part of the server could not be started")]
    Start(#[source] tokio::task::JoinError),
    /// The API descriptors are bad: a bug.
    #[error("the REST edge cannot be built")]
    Rest(#[from] crate::rest::Error),
    /// The API descriptors are bad: a bug.
    #[error("the services cannot be put together")]
    Services(#[from] grpc::Error),
    /// The store can no longer be trusted.
    #[error("the store failed and nothing more is acknowledged: check the disk, then start again")]
    StoreLost(#[source] Option<store::Error>),
    /// The store could not be closed in order; nothing acknowledged is lost.
    #[error("the store could not be closed in order; the next start checks it")]
    Close(#[source] store::Error),
}

/// What a server is told while it runs.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Stop in order.
    pub stop: CancellationToken,
    /// Read the TLS files again.
    pub reload: Arc<Notify>,
}

/// Runs a server until `signals.stop` is cancelled: then nothing new is taken and what is
/// in flight ends. `print` writes to the standard output and flushes it: the first
/// administrator's token, which must arrive there, and once the server is ready what to
/// type next. Deliveries run on a runtime of their own, `delivery`; the calls on the one
/// that this runs on.
pub async fn run(
    profile: Profile,
    metrics: PrometheusHandle,
    logs: LogFilter,
    delivery: &Handle,
    signals: Signals,
    print: impl Fn(&str) -> std::io::Result<()>,
) -> Result<(), Error> {
    if profile.is_dev() && !profile.host().is_loopback() {
        return Err(Error::NotLoopback);
    }
    let config = profile.server();
    let tls = door::tls(&profile)?;
    let outbound = egress::settings(&config.egress, profile.is_dev())?;
    // Where data are to be kept is looked at before anything is made there.
    stores::location(&config.data_dir, &config.store)?;
    if let Some(problem) = data_dir::problem(&config.data_dir)
        && (config.store.store.is_none() || profile.is_dev())
    {
        return Err(Error::DataDir(problem));
    }
    let address = SocketAddr::new(profile.host(), config.port);
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;

    let (clock, entropy) = (Clock::system(), Entropy::from_os());
    let own = profile.is_dev().then_some(config.data_dir.as_path());
    let open_store = async || {
        if let Some(data_dir) = own
            && keys::draws(&config.keys, data_dir)
            && let Some(key) = stores::location(data_dir, &config.store)?.sealed_under().await?
            // Another server may have made both meanwhile: the key first.
            && keys::draws(&config.keys, data_dir)
        {
            return Err(KeyError::Lost { key, data_dir: data_dir.to_owned() }.into());
        }
        let vault = keys::vault(&config.keys, own, &entropy)?;
        let store_config = store::Config {
            queue_max: config.max_queue,
            mark_every: (feed_retention(config).0 / 10).clamp(1_000, 10_000_000),
            crash_after_publishes: config.crash_after_commit,
            ..stores::config(&config.data_dir, &config.store, Some(local), vault, &clock, &entropy)?
        };
        Ok(delivery.spawn(store::Store::open(store_config)).await.map_err(Error::Start)??)
    };
    let readiness = Readiness::new(&[STORE, LEASE, CLOCK]);
    let (listener, twin) = twins(listener).map_err(failed)?;
    let door_config = door::config(config, tls.clone());
    let room = || {
        let (config, clock, entropy) = (door_config.clone(), clock.clone(), entropy.clone());
        let (readiness, loopback_only) = (readiness.clone(), profile.is_dev());
        Ok(waiting::Room { listener: twin, config, clock, entropy, readiness, loopback_only })
    };
    let opened = waiting::open(open_store, config.store_grace.to_std(), room, &signals).await?;
    let Some((store, mut writer)) = opened else { return Ok(()) };
    // The servers of a fleet go by one clock.
    let asked = clock.ask();
    if let Some(time) = store.server_time().await.map_err(store::OpenError::from)? {
        clock.follow(asked, time);
    }

    let policy = outbound.policy(&profile, local);
    let client = Client::new(outbound.client, clock.clone(), entropy.clone())?;
    let in_flight_max = config.max_in_flight as usize;
    let engine_config = engine::Config {
        in_flight_max,
        policy: policy.clone(),
        grace: GRACE,
        lines_for_people: profile.is_dev(),
    };
    let lease = Arc::new(if store.is_shared() { engine::Lease::none() } else { engine::Lease::forever() });
    let engine_stop = CancellationToken::new();
    let opening = delivery.spawn(engine::Dispatcher::open(
        engine_config,
        Arc::clone(&store),
        client,
        clock.clone(),
        entropy.clone(),
        Arc::clone(&lease),
    ));
    let (dispatcher, handle) = opening.await.map_err(Error::Start)??;
    let mut dispatcher = delivery.spawn(dispatcher.run(engine_stop.clone()));

    let fleet_stop = CancellationToken::new();
    let (fleet, member) = if store.is_shared() {
        let (fleet, mail) = Fleet::shared(Arc::clone(&store), handle.clone());
        let (store, lease) = (Arc::clone(&store), Arc::clone(&lease));
        let config = fleet::Config { store, engine: handle, lease, clock: clock.clone() };
        let member = fleet::run(config, fleet.clone(), mail, fleet_stop.clone());
        (fleet, Some(delivery.spawn(member)))
    } else {
        (Fleet::alone(Arc::clone(&store), handle), None)
    };

    let drain = CancellationToken::new();
    let mut endpoints = app::EndpointRules { targets: policy, ..app::EndpointRules::default() };
    if profile.is_dev() {
        endpoints.breaker_cooldown = DEV_BREAKER_COOLDOWN;
    }
    let limits = app::Limits {
        keys_required: !profile.is_dev(),
        key_rate: door::key_rate(&config.clients),
        endpoints,
        ..app::Limits::default()
    };
    let app =
        App::new(Arc::clone(&store), fleet, clock.clone(), entropy.clone(), limits, logs, drain.clone());
    let app = Arc::new(app);
    if let Profile::Serve(serve) = &profile {
        administrator::admit(&app, serve.administrator.admin_key_file.as_deref(), &print).await?;
    }
    let tasks = background(&app, config, &drain);
    if store.is_stale() {
        let (store, crash_after, stop) = (Arc::clone(&store), config.keys.crash_after_reseal, drain.clone());
        tasks.spawn(async move { rekey::run(&store, crash_after, stop).await });
    }
    tasks.spawn(keep_up(metrics.clone(), drain.clone()));

    let (services, health) = grpc::services(Arc::clone(&app)).await?;
    readiness.set(DRAIN, None);
    tasks.spawn(readiness.clone().watch(Arc::clone(&store), lease, clock.clone(), drain.clone()));
    tasks.spawn(readiness.clone().publish(health, drain.clone()));
    let pages = pages::routes(Arc::clone(&app), Arc::clone(&store), metrics, readiness.clone());
    let extra = if profile.is_dev() { pages.merge(receiver::router(clock.clone())) } else { pages };
    let house = front::app(services, extra, grpc::pb::DESCRIPTORS)?;
    let house = front::loopback_only(house, profile.is_dev());
    let door = front::door(house, clock.clone(), entropy.clone());
    let encrypted = tls.is_some();
    if let Some(tls) = &tls {
        tasks.spawn(Arc::clone(tls).keep_current(signals.reload, drain.clone()));
    }
    let door_stop = CancellationToken::new();
    let mut door = tokio::spawn(front::serve(listener, door, door_config, entropy, door_stop.clone()));

    let announcing = async {
        readiness.reached().await;
        // Whoever closed our output wants the server all the same.
        let _ = print(&welcome::text(&profile, local, encrypted));
        tracing::info!(address = %local, data_dir = %config.data_dir.display(), "ready");
        std::future::pending::<()>().await;
    };
    // Not ready first, so that load balancers turn to other servers while this one still
    // answers; then the stop.
    let stopping = async {
        signals.stop.cancelled().await;
        readiness.set(DRAIN, Some("the server is about to stop".to_owned()));
        let delay = profile.drain_delay();
        if !delay.is_zero() {
            tracing::info!(seconds = delay.as_secs_f64(), "about to stop: not ready, and still working");
            tokio::time::sleep(delay).await;
        }
    };
    // A store or a feed that is lost ends everything at once: nothing more may be
    // acknowledged.
    let lost = tokio::select! {
        () = announcing => None,
        () = stopping => None,
        ended = &mut writer => Some(Error::StoreLost(ended.ok().and_then(Result::err))),
        ended = &mut dispatcher => Some(match ended {
            Ok(Err(error)) => Error::Feed(error),
            Ok(Ok(())) | Err(_) => Error::StoreLost(None),
        }),
    };
    if let Some(lost) = lost {
        tracing::error!(error = %lost, "stopping");
        return Err(lost);
    }

    tracing::info!("stopping: no new work, ending what is in flight");
    drain.cancel();
    door_stop.cancel();
    fleet_stop.cancel();
    if let Some(member) = member
        && tokio::time::timeout(GRACE, member).await.is_err()
    {
        // Others take over what this process did, once nothing of it is in flight. What
        // still is has had its time.
        tracing::warn!("stopping with attempts in flight; they will be repeated");
        dispatcher.abort();
    }
    engine_stop.cancel();
    let _ = tokio::join!(&mut door, &mut dispatcher);
    tasks.close();
    let _ = tokio::time::timeout(GRACE, tasks.wait()).await;
    if let Err(error) = app.enter_last_denials().await {
        tracing::warn!(%error, "denied calls cannot be entered in the audit log");
    }
    store.close().await.map_err(Error::Close)?;
    tracing::info!("stopped");
    Ok(())
}

/// The same socket twice: for the time before the store is open, and after.
fn twins(listener: TcpListener) -> std::io::Result<(TcpListener, TcpListener)> {
    let listener = listener.into_std()?;
    let twin = listener.try_clone()?;
    Ok((TcpListener::from_std(listener)?, TcpListener::from_std(twin)?))
}

/// What goes on without being asked.
fn background(app: &Arc<App>, config: &config::Server, stop: &CancellationToken) -> TaskTracker {
    let retention = app::RetentionConfig {
        feed: feed_retention(config),
        // The feed reads its changes from the history.
        history: Micros::from_secs(i64::from(config.retention_days) * 86_400).max(feed_retention(config)),
        operations: OPERATION_RETENTION,
        audit: Micros::from_secs(i64::from(config.audit_retention_days) * 86_400),
    };
    let tasks = TaskTracker::new();
    let [operations, janitor, steward, sweeper] = std::array::from_fn(|_| (Arc::clone(app), stop.clone()));
    tasks.spawn(async move { operations.0.run_operations(operations.1).await });
    tasks.spawn(async move { janitor.0.run_janitor(janitor.1, retention).await });
    tasks.spawn(async move { steward.0.resume_sweeps(steward.1).await });
    tasks.spawn(async move { sweeper.0.sweep_deleted(sweeper.1).await });
    tasks
}

/// Sorts measured durations into their buckets; until then each is kept in memory.
async fn keep_up(metrics: PrometheusHandle, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(KEEP_UP_EVERY)).await.is_some() {
        metrics.run_upkeep();
    }
}

fn feed_retention(config: &config::Server) -> Micros {
    match config.feed_retention_ms {
        Some(millis) => Micros::from_millis(i64::from(millis)),
        None => Micros::from_secs(i64::from(config.feed_retention_hours) * 3600),
    }
}
