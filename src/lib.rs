//! Hookwire delivers webhooks.

pub mod app;
pub mod clock;
pub mod domain;
pub mod engine;
pub mod entropy;
pub mod feed;
pub mod front;
pub mod grpc;
pub mod machine;
pub mod receiver;
pub mod rest;
pub mod store;
