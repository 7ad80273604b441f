//! One HTTP request: one deadline, one typed outcome.
//!
//! What goes out is decided elsewhere. Here a request is made to arrive, or is
//! found to have failed for a reason that can be told from all others.
//!
//! - **One attempt is one request.** Nothing is followed, decoded or sent again.
//!   A connection that turns out to be dead before it took up the request is
//!   replaced; one that breaks later is an outcome, because nobody can know what
//!   the endpoint did with the request.
//! - **Everything has a limit**: the whole attempt, connecting, the size of the
//!   head, the number of its headers and of informational responses, and what is
//!   read of the body. The limits are constants beside the code that keeps them.
//! - **Success is decided by the head.** A complete head is an answer, whatever
//!   becomes of the body.
//! - **Each to its own TLS.** An endpoint may bring its own authorities and demand a
//!   certificate of us; connections are shared by equal options only.
//! - **Cancel safe.** Dropping [`Client::send`] closes its connection.
//!
//! - **Only where it may go.** [`vet`] is the one way to a [`Target`], and the [`Policy`]
//!   it was vetted under judges every address again between resolving and connecting.
//!
//! The pool and the resolver are our own, because that check must lie between the URL and
//! the socket, with nothing that looks the name up a second time.

mod address;
mod answer;
mod client;
mod connect;
mod exchange;
mod fault;
mod link;
mod policy;
mod pool;
mod proxy;
mod race;
mod resolver;
mod target;
#[cfg(test)]
pub(crate) mod tests;
mod tls;

pub use client::{Client, Config, Request, SetupError};
pub use policy::{Allow, NotANetwork, Policy};
pub use pool::Sender;
pub use proxy::{NotAProxy, Proxy};
pub use target::{Forbidden, Target, URL_LEN_MAX, vet};
pub use tls::{BadTls, Tls, check_tls};
