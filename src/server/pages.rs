//! The plain pages: health and metrics.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Extension, Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{app::App, grpc, peer::Peer, rest::Problem, store::Store};

/// What a key must be allowed to read the metrics.
const METRICS: &str = "ops:read";

/// The pages, as routes. Health is told to everybody, metrics to administrators.
pub(super) fn routes(
    app: Arc<App>,
    store: Arc<Store>,
    metrics: PrometheusHandle,
    drain: CancellationToken,
) -> Router {
    Router::new().route("/health", get(healthy)).route("/metrics", get(scrape)).with_state(Facts {
        app,
        store,
        metrics,
        drain,
    })
}

/// What the plain pages tell of.
#[derive(Clone)]
struct Facts {
    app: Arc<App>,
    store: Arc<Store>,
    metrics: PrometheusHandle,
    drain: CancellationToken,
}

async fn healthy(State(facts): State<Facts>) -> impl IntoResponse {
    let draining = facts.drain.is_cancelled();
    let (code, status) =
        if draining { (StatusCode::SERVICE_UNAVAILABLE, "draining") } else { (StatusCode::OK, "healthy") };
    (code, Json(json!({"status": status, "version": env!("CARGO_PKG_VERSION")})))
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
