//! Wire to domain and back, one file per aggregate.
//!
//! On the way in every field is taken out by name, so that a field added to a
//! message does not compile until somebody has thought about it, and every
//! violation is noted, so that a caller is told all of them at once. On the way
//! out conversions are total. Numbers of enums are matched, never cast.

mod checks;
pub(super) mod dead_letters;
pub(super) mod deliveries;
mod endpoint_in;
mod endpoint_mask;
mod endpoint_out;
pub(super) mod events;
mod ids;
mod lists;
pub(super) mod operations;
mod payload;
mod policies;
mod time;

pub(super) mod endpoints {
    //! Endpoints, in and out.
    pub use super::{
        endpoint_in::{endpoint_filter, new_endpoint, rotation, test_event},
        endpoint_mask::Patch,
        endpoint_out::{endpoint, secret},
        ids::endpoint_id,
    };
}
pub(super) use self::{
    checks::{Checks, Root},
    ids::{parse, parse_pair},
    lists::{page, show},
    payload::Shown,
    time::{out_span, out_time},
};
