//! Hookwire delivers webhooks.

pub mod clock;
pub mod content;
pub mod domain;
pub mod egress;
pub mod entropy;
pub mod grpc;
pub mod signing;
