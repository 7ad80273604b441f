//! Operations, in and out.

use super::{Checks, lists::known, out_time};
use crate::{
    app::OperationFilter,
    domain::{ItemFailure, Operation, OperationKind, OperationState},
    grpc::{
        facts::code_of,
        pb::{
            self, ErrorReason,
            operation::{Kind, State},
        },
    },
};

/// Which operations a list shows.
pub fn filter(checks: &mut Checks, kinds: &[i32], states: &[i32]) -> OperationFilter {
    OperationFilter {
        kinds: known(checks, "kinds", kinds, |number| match Kind::try_from(number) {
            Ok(Kind::ReplayDeadLetters) => Some(OperationKind::ReplayDeadLetters),
            Ok(Kind::PurgeDeadLetters) => Some(OperationKind::PurgeDeadLetters),
            Ok(Kind::Unspecified) | Err(_) => None,
        }),
        states: known(checks, "states", states, |number| match State::try_from(number) {
            Ok(State::Queued) => Some(OperationState::Queued),
            Ok(State::Running) => Some(OperationState::Running),
            Ok(State::Succeeded) => Some(OperationState::Succeeded),
            Ok(State::Cancelled) => Some(OperationState::Cancelled),
            Ok(State::Unspecified) | Err(_) => None,
        }),
    }
}

/// An operation as read.
pub fn operation(operation: Operation) -> pb::Operation {
    let it = operation;
    let kind = match it.kind {
        OperationKind::ReplayDeadLetters => Kind::ReplayDeadLetters,
        OperationKind::PurgeDeadLetters => Kind::PurgeDeadLetters,
    };
    let state = match it.state {
        OperationState::Queued => State::Queued,
        OperationState::Running => State::Running,
        OperationState::Succeeded => State::Succeeded,
        OperationState::Cancelled => State::Cancelled,
    };
    pb::Operation {
        id: it.id.to_string(),
        kind: kind.into(),
        state: state.into(),
        done: it.state.is_done(),
        create_time: Some(out_time(it.created_at)),
        update_time: Some(out_time(it.updated_at)),
        end_time: it.ended_at.map(out_time),
        total_count: it.total.cast_signed(),
        succeeded_count: it.succeeded.cast_signed(),
        failed_count: it.failed.cast_signed(),
        skipped_count: it.skipped.cast_signed(),
        sample_failures: it.failures.into_iter().map(failure).collect(),
    }
}

fn failure(failure: ItemFailure) -> pb::OperationItemFailure {
    let ItemFailure { item, reason, message } = failure;
    let reason = ErrorReason::from_str_name(&format!("ERROR_REASON_{reason}"));
    let reason = reason.unwrap_or(ErrorReason::Unspecified);
    let error = pb::ItemError {
        code: code_of(reason) as i32,
        reason: reason.into(),
        message,
        ..pb::ItemError::default()
    };
    pb::OperationItemFailure { item_id: item, error: Some(error) }
}
