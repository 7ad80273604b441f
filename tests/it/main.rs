//! What Hookwire promises, claimed against the real binary: every test starts
//! the server as its own process, publishes to it as a stranger would, and
//! believes only what its own receiver wrote down.
//!
//! Nothing here reaches into the server's modules; only the generated messages
//! are shared. So a claim that holds here holds for any client.

mod access;
mod bad_frames;
mod bad_input;
mod bench;
mod bodies;
mod crash;
mod door;
mod fleet;
mod health;
mod hostile_clients;
mod hostile_receivers;
mod idempotency;
mod isolation;
mod kept;
mod keys;
mod limits;
mod logs;
mod master_key;
mod ops;
mod probes;
mod reflection;
mod refused;
mod rest;
mod retry;
mod secrets;
mod shutdown;
mod support;
mod targets;
mod tls;
mod trespass;
mod wall;
mod watch;
