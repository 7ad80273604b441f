//! What can be set, its names and its defaults. The only reader of arguments and
//! of the environment.

mod bench;
mod clients;
mod egress;
mod keys;
mod log_level;
mod status;
mod store;
mod tls;
mod vault;

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::domain::{Micros, NotASpan};

pub use self::{
    bench::{Bench, BenchRaw, Scenario},
    clients::Clients,
    egress::Egress,
    keys::{AdminKey, Administrator},
    log_level::LogLevel,
    status::{Remote, Status},
    store::Store,
    tls::Tls,
    vault::{Keygen, KeysInEnv, MasterKeys, Rekey},
};

/// Delivers webhooks: events in over gRPC, stored durably, brought to every
/// subscribed endpoint over HTTP.
#[derive(Debug, Parser)]
#[command(name = "hookwire", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a server for development: loopback only, no keys, targets by http and on
    /// loopback allowed, a test receiver at `/test/webhook`.
    Dev(Dev),
    /// Run a server for production.
    Serve(Serve),
    /// Make an administrator's key: prints its token, once, and writes what
    /// `serve --admin-key-file` is told of it.
    AdminKey(AdminKey),
    /// Print a new master key for `serve`: 32 random bytes in base64.
    Keygen(Keygen),
    /// Seal the secrets of a stopped server under another master key. A running one
    /// does so by itself when started with the new key and --old-master-key-file.
    Rekey(Rekey),
    /// Ask a running server which instances there are, what each owns and how it is.
    Status(Status),
    /// Change what a running server logs, until it restarts.
    LogLevel(LogLevel),
    /// Measure a server on this machine: what a delivery costs it, beside what the
    /// bare HTTP request costs, and how long things take.
    Bench(Bench),
    /// The bare HTTP requests that `bench` compares with; started by it.
    #[command(hide = true)]
    BenchRaw(BenchRaw),
}

/// How the development server is set up.
#[derive(Clone, Debug, Args)]
pub struct Dev {
    /// Address to listen on; loopback only.
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// How long the server is not ready, and still answers, between the signal to stop and
    /// the stop.
    #[arg(long, env = "HOOKWIRE_DRAIN_DELAY", value_name = "DURATION", default_value = "0s", value_parser = up_to_an_hour)]
    pub drain_delay: Micros,
    /// What it shares with a server for production.
    #[command(flatten)]
    pub server: Server,
}

/// How a server for production is set up.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Address to listen on.
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// How clients reach it.
    #[command(flatten)]
    pub tls: Tls,
    /// Allow endpoints by plain http, where payloads can be read on the way.
    #[arg(
        long,
        env = "HOOKWIRE_ALLOW_HTTP_TARGETS",
        value_parser = clap::builder::BoolishValueParser::new(),
        help_heading = "Targets"
    )]
    pub allow_http_targets: bool,
    /// How long the server is not ready, and still answers, between the signal to stop and
    /// the stop: time for load balancers to turn to other servers. Such as 5s or 1m.
    #[arg(long, env = "HOOKWIRE_DRAIN_DELAY", value_name = "DURATION", default_value = "5s", value_parser = up_to_an_hour)]
    pub drain_delay: Micros,
    /// What it shares with a development server.
    #[command(flatten)]
    pub server: Server,
    /// Who administers it.
    #[command(flatten)]
    pub administrator: Administrator,
}

/// What every server can be told.
#[derive(Clone, Debug, Args)]
pub struct Server {
    /// Port for everything: gRPC, grpc-web, REST, metrics. 0 takes a free one.
    #[arg(long, env = "PORT", default_value_t = 8000)]
    pub port: u16,
    /// Directory of the database, unless that is elsewhere by --store; made if it is not
    /// there.
    #[arg(long, env = "HOOKWIRE_DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// Where events are kept.
    #[command(flatten)]
    pub store: Store,
    /// How long a start waits for a PostgreSQL that is away before it gives up; 0s: not at
    /// all. The server lives and is not ready meanwhile. At most 1h.
    #[arg(long, env = "HOOKWIRE_STORE_GRACE", value_name = "DURATION", default_value = "1m", value_parser = up_to_an_hour)]
    pub store_grace: Micros,
    /// What secrets are sealed under.
    #[command(flatten)]
    pub keys: MasterKeys,
    /// What is logged: error, warn, info, debug, trace, or a filter by module.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Attempts in flight at once, over all endpoints.
    #[arg(long, env = "HOOKWIRE_MAX_IN_FLIGHT", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_in_flight: u32,
    /// Open deliveries at most; publishing is refused beyond.
    #[arg(long, env = "HOOKWIRE_MAX_QUEUE", default_value_t = 10_000_000)]
    pub max_queue: u64,
    /// Hours that changes can be watched from the past.
    #[arg(long, env = "HOOKWIRE_FEED_RETENTION_HOURS", default_value_t = 72, value_parser = clap::value_parser!(u32).range(1..=8760))]
    pub feed_retention_hours: u32,
    /// Days that finished deliveries and their events are kept.
    #[arg(long, env = "HOOKWIRE_RETENTION_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub retention_days: u32,
    /// Days that entries of the audit log are kept.
    #[arg(long, env = "HOOKWIRE_AUDIT_RETENTION_DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub audit_retention_days: u32,
    /// Who may connect.
    #[command(flatten)]
    pub clients: Clients,
    /// Where requests may go.
    #[command(flatten)]
    pub egress: Egress,
    /// For tests of compaction: milliseconds instead of hours.
    #[arg(long, env = "HOOKWIRE_FEED_RETENTION_MS", hide = true)]
    pub feed_retention_ms: Option<u32>,
    /// For tests of recovery: abort once so many publish transactions are
    /// committed, before they are answered.
    #[arg(long, env = "HOOKWIRE_CRASH_AFTER_COMMIT", hide = true)]
    pub crash_after_commit: Option<u64>,
}

/// The longest of such durations.
const HOUR: Micros = Micros::from_secs(3600);

fn up_to_an_hour(text: &str) -> Result<Micros, String> {
    let span: Micros = text.parse().map_err(|error: NotASpan| error.to_string())?;
    if span < Micros::ZERO || span > HOUR {
        return Err("must be 0s to 1h".to_owned());
    }
    Ok(span)
}

/// The program that runs, to be started once more.
pub fn this_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}
