//! What `hookwire bench` can be asked for.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum, value_parser};
use secrecy::SecretString;

/// Least bytes of a payload: room for the event's number and the frame around it.
const PAYLOAD_MIN: i64 = 32;
/// Most bytes of a payload that the server takes.
const PAYLOAD_MAX: i64 = 1 << 20;

/// What is measured, and how much of it.
#[derive(Clone, Debug, Args)]
pub struct Bench {
    /// What to measure; everything but `watches`, `overload` and `idle` if none is named.
    #[arg(value_enum)]
    pub scenarios: Vec<Scenario>,
    /// Events of a round instead of the scenario's own number.
    #[arg(long, value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub events: Option<u32>,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 512, value_parser = value_parser!(u32).range(PAYLOAD_MIN..=PAYLOAD_MAX))]
    pub payload: u32,
    /// Rounds of each scenario; what is told is their median and their spread.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Endpoints that each event of `fanout` goes to.
    #[arg(long, default_value_t = 100, value_parser = value_parser!(u32).range(1..=1000))]
    pub fanout: u32,
    /// Deliveries that wait for dead endpoints in `backlog`.
    #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(u32).range(100..=100_000_000))]
    pub waiting: u32,
    /// Endpoints registered in `endpoints`.
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u32).range(10..=1_000_000))]
    pub endpoints: u32,
    /// How long `overload` goes on.
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Deliveries that the server of `overload` lets wait at most, instead of its
    /// own limit.
    #[arg(long)]
    pub max_queue: Option<u64>,
    /// Directory in which the temporary stores are made, instead of the system's.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Measure on PostgreSQL: URL of a database of a server on this machine, in which a
    /// database is made for each round. What the server's processes use counts as the
    /// store's.
    #[arg(long, value_name = "URL", value_parser = super::egress::secret)]
    pub postgres: Option<SecretString>,
    /// Servers that share the database; clients are spread over them.
    #[arg(long, default_value_t = 1, requires = "postgres", value_parser = value_parser!(u32).range(1..=16))]
    pub instances: u32,
    /// Measure a server for production, which asks for a key with every call, instead
    /// of one for development.
    #[arg(long)]
    pub serve: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// One way of loading a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Four streams with up to 512 unacknowledged events each.
    Stream,
    /// Four calls in flight with 100 events each.
    Batch,
    /// 256 calls in flight with one event each, over eight connections.
    Unary,
    /// 100 events a second on one connection: how long it takes at rest.
    Trickle,
    /// Each event to many endpoints.
    Fanout,
    /// Every delivery fails once and is tried again.
    Retry,
    /// The streams again, beside deliveries that wait for dead endpoints, after a
    /// restart.
    Backlog,
    /// The trickle again, beside endpoints that answer after 10 s only.
    Neighbours,
    /// The batches again, with many endpoints registered that want other types.
    Endpoints,
    /// Reads beside 400 watches from the earliest position that nobody reads.
    Watches,
    /// Five times what the server can deliver: what it accepts, what it refuses and
    /// how soon.
    Overload,
    /// A server that has nothing to do, and one that lets deliveries wait.
    Idle,
}

impl Scenario {
    /// What is measured when nothing is named.
    pub const DEFAULT: [Self; 9] = [
        Self::Stream,
        Self::Batch,
        Self::Unary,
        Self::Trickle,
        Self::Fanout,
        Self::Retry,
        Self::Backlog,
        Self::Neighbours,
        Self::Endpoints,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Batch => "batch",
            Self::Unary => "unary",
            Self::Trickle => "trickle",
            Self::Fanout => "fanout",
            Self::Retry => "retry",
            Self::Backlog => "backlog",
            Self::Neighbours => "neighbours",
            Self::Endpoints => "endpoints",
            Self::Watches => "watches",
            Self::Overload => "overload",
            Self::Idle => "idle",
        }
    }
}

/// Bare requests to a receiver.
#[derive(Clone, Debug, Args)]
pub struct BenchRaw {
    /// Where the receiver listens.
    #[arg(long)]
    pub to: SocketAddr,
    /// Requests in all.
    #[arg(long)]
    pub requests: u64,
    /// Bytes of a payload.
    #[arg(long)]
    pub payload: u32,
    /// Connections, with one request at a time each.
    #[arg(long)]
    pub connections: u32,
}
