//! REST over the gRPC services: JSON and HTTP paths as `google.api.http` in the
//! protos says.
//!
//! Nothing here knows a single method. Routes, field names and types come from the
//! descriptors, and every call goes through the same tower stack as one that came
//! in over gRPC, so limits, validation, idempotency and errors exist once.
//!
//! A request passes through [`Rest::handle`]: `route` finds the binding and `call` calls
//! the gRPC services in this process. Once they have let the caller in by its headers,
//! they ask for the `message`: `body` reads what was sent within bounds, and `request`
//! makes it out of path, query (`query`, `json`) and body (`transcode`, `free`).
//! `render`, `stream` or [`Problem`] writes the answer.

mod body;
mod call;
#[cfg(test)]
pub(crate) mod fake;
mod free;
mod hint;
mod json;
mod linger;
mod media_type;
mod message;
mod problem;
mod query;
mod render;
mod request;
mod route;
mod service;
mod stream;
mod template;
#[cfg(test)]
mod tests;
mod transcode;
mod wrap;

pub use body::BODY_BYTES_MAX;
pub use problem::{FieldError, Problem};
pub use route::Error;
pub use service::{Rest, router};
