//! Logs and metrics.

mod foreign;

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use self::foreign::ForeignLimit;
use crate::clock::Clock;

/// Buckets of durations in seconds: from a receiver on the same machine to the
/// longest timeout, 120 s.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// Why telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter is malformed.
    #[error("LOG_LEVEL `{0}` is not a level or a filter: use error, warn, info, debug or trace")]
    LogLevel(String),
    /// Metrics cannot be recorded.
    #[error("metrics cannot be set up")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// Sends logs to standard error: text on a terminal, JSON otherwise.
pub fn init_logs(level: &str) -> Result<(), Error> {
    let refused = || Error::LogLevel(level.to_owned());
    // A lone word that is no level would pass for a module and silence everything.
    let is_filter = level.contains(['=', ',']) || level.parse::<tracing::Level>().is_ok() || level == "off";
    let filter = EnvFilter::try_new(level).ok().filter(|_| is_filter).ok_or_else(refused)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would be said on the very same way, and a closed one would end the process.
        .log_internal_errors(false);
    let limit = ForeignLimit::new(Clock::system());
    if std::io::stderr().is_terminal() {
        builder.finish().with(limit).init();
    } else {
        builder.json().flatten_event(true).finish().with(limit).init();
    }
    Ok(())
}

/// Records metrics for the whole process; the handle writes them out.
pub fn init_metrics() -> Result<PrometheusHandle, Error> {
    let builder =
        PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?;
    let handle = builder.install_recorder()?;
    metrics::describe_counter!("webhook_events_total", "Events accepted, by tenant and type.");
    metrics::describe_counter!("webhook_deliveries_total", "Deliveries that came into a status.");
    metrics::describe_histogram!("webhook_delivery_duration_seconds", "Duration of attempts.");
    metrics::describe_gauge!("webhook_queue_size", "Deliveries not in a final status.");
    metrics::describe_gauge!("webhook_endpoints_total", "Endpoints registered.");
    metrics::describe_counter!("hookwire_attempts_total", "Attempts recorded.");
    metrics::describe_counter!(
        "hookwire_refused_credentials_total",
        "Calls with a credential that was refused."
    );
    metrics::describe_counter!("hookwire_commits_total", "Transactions committed since the start.");
    metrics::describe_gauge!("hookwire_feed_position", "Last number of the feed.");
    metrics::describe_gauge!(
        "hookwire_pending_bytes",
        "Bytes on their way to the store; an event counts as 8 KiB more, a delivery as 1 KiB."
    );
    Ok(handle)
}
