//! What is sent: the body of a request, made from an event.
//!
//! Pure, and exact to the byte: what was published is what is signed and sent.
//! A payload is never parsed and written again, which would round its numbers,
//! reorder its keys and lose its spaces.

mod envelope;

pub use envelope::{Body, body};
