//! Hookwire delivers webhooks.

pub mod clock;
pub mod config;
pub mod content;
pub mod domain;
pub mod egress;
pub mod engine;
pub mod entropy;
pub mod feed;
pub mod front;
pub mod grpc;
pub mod machine;
pub mod receiver;
pub mod rest;
pub mod signing;
pub mod store;
pub mod telemetry;
