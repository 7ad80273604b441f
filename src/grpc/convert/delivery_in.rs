//! Which deliveries are meant, and how they are to be watched.

use std::time::Duration;

use super::{Checks, checks::Root, ids, lists::patterns, policies, time};
use crate::{
    app::{Error, Watch, WatchStart},
    domain::{Micros, Rule, State},
    grpc::pb::{self, DeliveryStatus, watch_deliveries_request::Start},
    store::DeliveryFilter,
};

/// Silence of a watch unless asked otherwise.
const PROGRESS: Micros = Micros::from_secs(10);
/// Changes in one response unless asked otherwise, and at most.
const BATCH: u32 = 100;
const BATCH_MAX: u32 = 1000;

/// Which deliveries are listed or watched.
pub fn filter(checks: &mut Checks, given: Option<pb::DeliveryFilter>) -> DeliveryFilter {
    let pb::DeliveryFilter { event_ids, endpoint_ids, event_types, statuses, create_time } =
        given.unwrap_or_default();
    checks.enter(Root::Field("filter"));
    let events = ids::list(checks, "event_ids", &event_ids);
    let endpoints = ids::endpoints(checks, "endpoint_ids", endpoint_ids);
    let (states, scheduled) = states(checks, &statuses);
    let filter = DeliveryFilter {
        events: (!event_ids.is_empty()).then_some(events),
        endpoints: (!endpoints.is_empty()).then_some(endpoints),
        event_types: patterns(checks, "event_types", &event_types),
        states,
        scheduled,
        created: time::range(checks, "create_time", create_time),
    };
    checks.enter(Root::Request);
    filter
}

/// The stored states behind statuses, and which kind of pending is meant if only
/// one is.
fn states(checks: &mut Checks, statuses: &[i32]) -> (Vec<State>, Option<bool>) {
    let (mut states, mut pending, mut scheduled) = (Vec::new(), false, false);
    for (index, number) in statuses.iter().enumerate() {
        let state = match DeliveryStatus::try_from(*number) {
            Ok(DeliveryStatus::Pending) => {
                pending = true;
                State::Pending
            }
            Ok(DeliveryStatus::Scheduled) => {
                scheduled = true;
                State::Pending
            }
            Ok(DeliveryStatus::Retrying) => State::Retrying,
            Ok(DeliveryStatus::Delivered) => State::Delivered,
            Ok(DeliveryStatus::Failed) => State::Failed,
            Ok(DeliveryStatus::DeadLetter) => State::DeadLetter,
            Ok(DeliveryStatus::Cancelled) => State::Cancelled,
            Ok(DeliveryStatus::Expired) => State::Expired,
            Ok(DeliveryStatus::Unspecified | DeliveryStatus::InProgress | DeliveryStatus::RateLimited)
            | Err(_) => {
                checks.add(format_args!("statuses[{index}]"), Rule::UnknownValue, "cannot be selected");
                continue;
            }
        };
        if !states.contains(&state) {
            states.push(state);
        }
    }
    (states, (pending != scheduled).then_some(scheduled))
}

/// What is to be watched.
pub fn watch(request: pb::WatchDeliveriesRequest) -> Result<Watch, Error> {
    let pb::WatchDeliveriesRequest {
        filter,
        start,
        include_attempts,
        progress_interval,
        max_batch_delay,
        max_batch_size,
        coalesce,
    } = request;
    let mut checks = Checks::new();
    let filter = self::filter(&mut checks, filter);
    let start = match start {
        None | Some(Start::Earliest(false)) => WatchStart::Now,
        Some(Start::ResumeToken(token)) => WatchStart::Token(token),
        Some(Start::StartTime(at)) => WatchStart::At(time::time(&mut checks, "start_time", at)),
        Some(Start::Earliest(true)) => WatchStart::Earliest,
    };
    let limits = (Micros::from_secs(1), Micros::from_secs(60));
    let progress = time::span_in(&mut checks, "progress_interval", progress_interval, limits, PROGRESS);
    let limits = (Micros::ZERO, Micros::from_secs(1));
    let gather = time::span_in(&mut checks, "max_batch_delay", max_batch_delay, limits, Micros::ZERO);
    let batch = policies::count(&mut checks, "max_batch_size", max_batch_size, BATCH_MAX, BATCH);
    checks.into_result(Watch {
        filter,
        start,
        attempts: include_attempts,
        progress: progress.to_std(),
        gather: gather.to_std(),
        batch_max: batch as usize,
        coalesce,
    })
}

/// How long a caller means to wait, at most.
pub fn wait(
    checks: &mut Checks,
    field: &str,
    given: Option<prost_types::Duration>,
    most: Duration,
) -> Duration {
    let limits = (Micros::ZERO, Micros::from_secs(365 * 24 * 3600));
    time::span_in(checks, field, given, limits, Micros::from(most)).to_std().min(most)
}
