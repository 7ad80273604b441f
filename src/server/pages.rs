//! The plain pages: liveness, readiness and metrics.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Extension, Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;

use super::readiness::Readiness;
use crate::{app::App, grpc, peer::Peer, rest::Problem, store::Store};

/// What a key must be allowed to read the metrics.
const METRICS: &str = "ops:read";

/// The pages, as routes. Liveness and readiness are for everybody, metrics for
/// administrators.
pub(super) fn routes(
    app: Arc<App>,
    store: Arc<Store>,
    metrics: PrometheusHandle,
    readiness: Readiness,
) -> Router {
    let metrics = Router::new().route("/metrics", get(scrape)).with_state(Facts { app, store, metrics });
    probes(readiness).merge(metrics)
}

/// Liveness and readiness.
pub(super) fn probes(readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(alive))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/health", get(healthy))
        .with_state(readiness)
}

/// What the metrics are made of.
#[derive(Clone)]
struct Facts {
    app: Arc<App>,
    store: Arc<Store>,
    metrics: PrometheusHandle,
}

/// No cache may answer for the server.
const UNCACHED: [(axum::http::HeaderName, &str); 1] = [(CACHE_CONTROL, "no-store")];

/// The process answers, so it lives, whatever became of the store.
async fn alive() -> impl IntoResponse {
    (UNCACHED, "ok\n")
}

/// Whether the server should be given work; if not, which conditions do not hold.
async fn ready(State(readiness): State<Readiness>) -> impl IntoResponse {
    let conditions = readiness.now();
    let text = if conditions.hold() { "ok\n".to_owned() } else { format!("{}\n", conditions.problems()) };
    (code(conditions.hold()), UNCACHED, text)
}

/// All conditions.
async fn healthy(State(readiness): State<Readiness>) -> impl IntoResponse {
    let conditions = readiness.now();
    (code(conditions.hold()), UNCACHED, Json(conditions.json()))
}

fn code(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn scrape(State(facts): State<Facts>, peer: Option<Extension<Peer>>, headers: HeaderMap) -> Response {
    if let Err(status) = grpc::admits(&facts.app, &headers, peer.map(|it| it.0), METRICS) {
        let id = headers.get("x-request-id");
        return Problem::from_status(&status).with_request_id(id).into_response();
    }
    let gauges = facts.store.gauges();
    metrics::gauge!("webhook_queue_size").set(gauges.open.load(Ordering::Relaxed) as f64);
    metrics::gauge!("webhook_endpoints_total").set(facts.store.routes().len() as f64);
    metrics::counter!("hookwire_commits_total").absolute(gauges.commits.load(Ordering::Relaxed));
    metrics::counter!("hookwire_void_results_total").absolute(gauges.void.load(Ordering::Relaxed));
    metrics::gauge!("hookwire_shares").set(facts.store.shards().owned() as f64);
    metrics::gauge!("hookwire_feed_position").set(facts.store.recent().position().0 as f64);
    metrics::gauge!("hookwire_pending_bytes").set(facts.store.pending_bytes() as f64);
    ([("content-type", "text/plain; version=0.0.4")], facts.metrics.render()).into_response()
}
