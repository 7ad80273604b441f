//! Hookwire delivers webhooks: a program publishes an event over gRPC, Hookwire
//! stores it durably and brings it to every subscribed endpoint over HTTP.
//!
//! This page is the map of the house. A module uses only what stands above it, as
//! `tests/tidy.rs` checks. `docs/ARCHITECTURE.md` draws how an event moves through.
//!
//! **Words and rules**
//!
//! - [`domain`]: plain data and its rules: ids, events, endpoints, deliveries,
//!   attempts, policies, dead letters, operations. No I/O, no clock, no chance.
//! - [`clock`] and [`entropy`]: the only readers of the time and of randomness.
//! - [`explain`]: errors and their causes in words, without debug forms.
//! - [`signing`]: the signature headers of a request. *A new signature scheme goes
//!   here*, with its name in [`domain::Scheme`].
//! - [`content`]: the body of a request.
//! - [`machine`]: DECIDE. Which endpoints want an event, what of a lane may be sent
//!   now, what an answer means, when to try again. Pure. *A new retry rule goes
//!   into [`machine::judge`]*; a seeded simulator runs it all in virtual time.
//!
//! **Doing**
//!
//! - [`vault`]: seals secrets under the master key, each bound to its row.
//! - [`store`]: the only SQL. One writer that shares each sync among all callers,
//!   reads beside it, the newest changes in memory. Secrets are sealed in it and
//!   open in its memory.
//! - [`feed`]: following committed changes from a position, and the tokens for it.
//! - [`egress`]: one HTTP request, one deadline, one typed outcome; where requests may
//!   go, checked in the URL and at each connection; names, proxies, the connection pool.
//! - [`engine`]: DO. One dispatcher owns the lanes and follows the feed; an attempt
//!   is a task of its own.
//! - [`fleet`]: several processes on one database: signs of life, who does which share
//!   of the work, asking the home of an endpoint. *Who should have what is decided in
//!   `fleet/plan.rs`.*
//!
//! **Talking**
//!
//! - [`peer`]: who is at the other end of a connection, as `front` tells it.
//! - [`app`]: the use cases, one file per aggregate; watching; background work.
//! - [`grpc`]: wire in and out; who may call what, and the audit log of it. *A new
//!   RPC goes into `proto/` with its scope, `grpc/` and `app/` under its noun*; REST
//!   follows from its `google.api.http` option.
//! - [`rest`]: REST/JSON as a translation of the same RPCs.
//! - [`receiver`]: the test receiver at `/test/webhook`.
//! - [`front`]: the one port: TLS, connections and their limits, request ids, traces,
//!   the panic guard, who answers what. *A new limit of connections goes into
//!   `front/limits.rs`.*
//!
//! **Running**
//!
//! - [`telemetry`], [`config`]: logs and metrics; what can be set.
//! - [`server`]: the composition root: builds all of it and closes it in order.
//! - [`status`]: asks a server which instances there are, as any client could.
//! - [`mod@bench`]: measures a server from outside, as its clients and receivers do.

pub mod app;
pub mod bench;
pub mod clock;
pub mod config;
pub mod content;
pub mod domain;
pub mod egress;
pub mod engine;
pub mod entropy;
pub mod explain;
pub mod feed;
pub mod fleet;
pub mod front;
pub mod grpc;
pub mod machine;
pub mod peer;
pub mod receiver;
pub mod rest;
pub mod server;
pub mod signing;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod vault;
