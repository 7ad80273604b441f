//! Wire to domain and back, one file per aggregate.
//!
//! On the way in every field is taken out by name, so that a field added to a
//! message does not compile until somebody has thought about it, and every
//! violation is noted, so that a caller is told all of them at once. On the way
//! out conversions are total. Numbers of enums are matched, never cast.

mod access;
pub mod api_keys;
pub mod attempts;
mod checks;
pub mod dead_letters;
pub mod deliveries;
pub mod delivery_in;
pub mod endpoint_in;
pub mod endpoint_mask;
pub mod endpoint_out;
pub mod events;
mod headers;
mod ids;
mod lists;
pub mod operations;
pub mod ops;
mod payload;
mod policies;
pub mod tenants;
mod time;

pub(super) use self::{
    checks::{Checks, Root},
    ids::{endpoint_id, parse, parse_pair},
    lists::{page, show},
    payload::Shown,
    time::{out_span, out_time},
};
