//! Logs and metrics.

mod foreign;

use std::{fmt, io::IsTerminal as _, sync::Arc};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

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
    #[error(
        "`{0}` is neither a level (error, warn, info, debug, trace, off) nor a filter such as \
         `info,hookwire::engine=debug`"
    )]
    LogLevel(String),
    /// The log is gone.
    #[error("the log filter cannot be changed")]
    Reload(#[from] reload::Error),
    /// Metrics cannot be recorded.
    #[error("metrics cannot be set up")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// What is logged, to be changed while the process runs. Cheap to clone.
#[derive(Clone)]
pub struct LogFilter(Arc<Inner>);

/// Puts another filter in place of the one in force.
type Reload = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

struct Inner {
    /// As the process was started with.
    configured: String,
    reload: Reload,
}

impl LogFilter {
    /// Sends logs to standard error: text on a terminal, JSON otherwise.
    pub fn init(level: &str) -> Result<Self, Error> {
        let builder = tracing_subscriber::fmt()
            .with_env_filter(read(level)?)
            .with_writer(std::io::stderr)
            // It would be said on the very same way, and a closed one would end the process.
            .log_internal_errors(false);
        let limit = ForeignLimit::new(Clock::system());
        let reload: Reload = if std::io::stderr().is_terminal() {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            builder.finish().with(limit).init();
            Box::new(move |filter| handle.reload(filter))
        } else {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.finish().with(limit).init();
            Box::new(move |filter| handle.reload(filter))
        };
        Ok(Self(Arc::new(Inner { configured: level.to_owned(), reload })))
    }

    /// Logs by these directives from now on, or as configured if there are none; those now
    /// in force.
    pub fn set(&self, directives: &str) -> Result<String, Error> {
        let directives = if directives.is_empty() { self.0.configured.as_str() } else { directives };
        (self.0.reload)(read(directives)?)?;
        Ok(directives.to_owned())
    }
}

/// One that is not connected to any log.
impl Default for LogFilter {
    fn default() -> Self {
        Self(Arc::new(Inner { configured: "info".to_owned(), reload: Box::new(|_| Ok(())) }))
    }
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogFilter")
    }
}

/// A level, or a filter by module.
fn read(level: &str) -> Result<EnvFilter, Error> {
    // A lone word that is no level would pass for a module and silence everything.
    let is_filter = level.contains(['=', ',']) || level.parse::<tracing::Level>().is_ok() || level == "off";
    let filter = EnvFilter::try_new(level).ok().filter(|_| is_filter);
    filter.ok_or_else(|| Error::LogLevel(level.to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_or_a_filter_is_taken_and_other_words_are_not() {
        for good in ["info", "off", "TRACE", "info,hookwire::engine=debug", "hookwire=warn"] {
            assert!(read(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "hookwire", "info,=,", "info,hookwire=loud"] {
            let refused = read(bad).unwrap_err().to_string();
            assert!(refused.contains("debug, trace, off"), "{bad}: {refused}");
        }
    }

    #[test]
    fn no_directives_mean_those_of_the_start() {
        let filter = LogFilter::default();
        assert_eq!(filter.set("debug").unwrap(), "debug");
        assert_eq!(filter.set("").unwrap(), "info");
        assert!(filter.set("loud").is_err());
    }
}
