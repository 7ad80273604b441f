//! The command line: reads what was asked, runs it, and says in one sentence why
//! it did not work.

use std::{io::Write as _, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Parser as _;
use hookwire::{
    bench,
    clock::Clock,
    config::{self, Cli, Command},
    entropy::Entropy,
    explain,
    server::{self, Profile, Signals, administrator},
    status,
    telemetry::{self, LogFilter},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{runtime::Runtime, sync::Notify};
use tokio_util::sync::CancellationToken;

/// glibc's allocator took a sixth of the CPU of a delivery: much is allocated on one
/// thread and freed on another.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Dev(dev) => run_server(Profile::Dev(dev)),
        Command::Serve(serve) => run_server(Profile::Serve(serve)),
        Command::AdminKey(options) => {
            administrator::make(&options.out, &Clock::system(), &Entropy::from_os(), print)
                .map_err(anyhow::Error::from)
        }
        Command::Keygen(options) => say(server::keygen(&options)),
        Command::Rekey(options) => run_rekey(&options),
        Command::Status(options) => run_status(&options),
        Command::LogLevel(options) => run_log_level(&options),
        Command::Bench(options) => run_bench(options),
        Command::BenchRaw(options) => runtime().and_then(|runtime| bench::raw(&runtime, &options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hookwire: {}", explain::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run_server(profile: Profile) -> anyhow::Result<()> {
    let level = &profile.server().log_level;
    let logs = LogFilter::init(level).context("--log-level cannot be used")?;
    allow_open_files();
    forbid_core_dumps();
    let metrics = telemetry::init_metrics()?;
    let delivery = runtime()?;
    runtime()?.block_on(async {
        let signals = Signals::default();
        tokio::spawn(obey(signals.stop.clone()));
        if matches!(profile, Profile::Serve(_)) {
            tokio::spawn(reload_when_told(Arc::clone(&signals.reload)));
        }
        Ok(server::run(profile, metrics, logs, delivery.handle(), signals, print).await?)
    })
}

fn run_rekey(options: &config::Rekey) -> anyhow::Result<()> {
    LogFilter::init("warn")?;
    say(runtime()?.block_on(server::rekey(options)))
}

fn run_status(options: &config::Status) -> anyhow::Result<()> {
    say(runtime()?.block_on(status::status(options)))
}

fn run_log_level(options: &config::LogLevel) -> anyhow::Result<()> {
    say(runtime()?.block_on(status::log_level(options)))
}

/// Prints what a command has to say.
fn say<E: std::error::Error + Send + Sync + 'static>(text: Result<String, E>) -> anyhow::Result<()> {
    Ok(print(&text?)?)
}

/// Writes to the standard output; done only once it has arrived there.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn run_bench(options: config::Bench) -> anyhow::Result<()> {
    let program = config::this_program()?;
    let receiving = runtime()?;
    runtime()?.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(obey(stop.clone()));
        tokio::select! {
            result = bench::run(options, program, receiving.handle().clone()) => result,
            () = stop.cancelled() => anyhow::bail!("stopped before the end"),
        }
    })
}

/// A runtime with a thread for each core. The server has two, of which the system
/// shares out the cores: one for calls, one for deliveries. A flood of calls on the
/// same threads kept each step of a delivery waiting behind all of them.
fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Takes all the open files that the system allows: each attempt in flight, each
/// connection kept and each caller is one, and common defaults of 1024 are fewer.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_err() {
        tracing::warn!(limit = limit.current, "the limit of open files stays as it is");
    }
}

/// A crash leaves no image of the memory, where secrets are in the open.
fn forbid_core_dumps() {
    if setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).is_err() {
        tracing::warn!("a crash may leave a core file with secrets in it");
    }
}

/// The first signal asks for an orderly stop, the second ends at once.
async fn obey(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received; stop the server by SIGKILL");
        return;
    };
    let mut stops = 0;
    loop {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        stop.cancel();
        stops += 1;
        if stops > 1 {
            tracing::warn!("stopping at once; attempts in flight will be repeated");
            std::process::exit(130);
        }
    }
}

/// SIGHUP asks to read files again. Only of a server for production: to others it says
/// that their terminal is gone.
async fn reload_when_told(reload: Arc<Notify>) {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => {
            while hangup.recv().await.is_some() {
                reload.notify_one();
            }
        }
        Err(error) => tracing::error!(%error, "SIGHUP cannot be received"),
    }
}
