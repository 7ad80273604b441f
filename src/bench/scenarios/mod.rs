//! The scenarios, one file each: what is set up around a load, and what is told of
//! it besides.

mod backlog;
mod endpoints;
mod idle;
mod neighbours;
mod overload;
mod plain;
mod watches;

pub use self::{
    backlog::{Backlog, backlog},
    endpoints::{Registry, endpoints},
    idle::idle,
    neighbours::neighbours,
    overload::overload,
    plain::plain,
    watches::watches,
};
