//! What all lists have in common.

use super::Checks;
use crate::{
    app::{PageQuery, Show},
    domain::{Order, Pattern, Rule},
    grpc::pb,
};

/// Patterns in one list at most.
pub const PATTERNS_MAX: usize = 256;

/// The page wanted. `rest` is the request without size and token: a token is bound
/// to it.
pub fn page(
    checks: &mut Checks,
    size: i32,
    token: String,
    order: i32,
    rest: &impl std::fmt::Debug,
) -> PageQuery {
    checks.check(size >= 0, "page_size", Rule::OutOfRange, "must not be negative");
    let order = match pb::ListOrder::try_from(order) {
        Ok(pb::ListOrder::Unspecified | pb::ListOrder::NewestFirst) => Order::NewestFirst,
        Ok(pb::ListOrder::OldestFirst) => Order::OldestFirst,
        Err(_) => {
            checks.add("order", Rule::UnknownValue, "is not a known order");
            Order::NewestFirst
        }
    };
    PageQuery { size: u32::try_from(size).unwrap_or(0), token, order, bound: format!("{rest:?}") }
}

/// How much of a resource is to be shown.
pub fn show(checks: &mut Checks, view: i32, default: Show) -> Show {
    match pb::View::try_from(view) {
        Ok(pb::View::Unspecified) => default,
        Ok(pb::View::Basic) => Show::Basic,
        Ok(pb::View::Full) => Show::Full,
        Err(_) => {
            checks.add("view", Rule::UnknownValue, "is not a known view");
            default
        }
    }
}

/// Patterns of event types.
pub fn patterns(checks: &mut Checks, field: &str, texts: &[String]) -> Vec<Pattern> {
    checks.check(texts.len() <= PATTERNS_MAX, field, Rule::TooMany, "must have at most 256 patterns");
    let mut patterns = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().take(PATTERNS_MAX).enumerate() {
        match Pattern::parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(why) => checks.add(format_args!("{field}[{index}]"), Rule::BadFormat, why),
        }
    }
    patterns
}

/// Values of an enum in a list, by what `known` makes of their numbers.
pub fn known<T>(
    checks: &mut Checks,
    field: &str,
    numbers: &[i32],
    known: impl Fn(i32) -> Option<T>,
) -> Vec<T> {
    let mut values = Vec::with_capacity(numbers.len());
    for (index, number) in numbers.iter().enumerate() {
        match known(*number) {
            Some(value) => values.push(value),
            None => checks.add(format_args!("{field}[{index}]"), Rule::UnknownValue, "cannot be selected"),
        }
    }
    values
}
