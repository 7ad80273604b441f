//! Several processes, one database: who does what, and how they hear of each other.
//!
//! Each process is a member with a session of its own at the database. The session holds a
//! lock for each share of the work, so at most one process has a share, and a dead one has
//! none. A share whose last owner did not hand it over is let rest for as long as that
//! might still send; then it is claimed under a new epoch, which voids whatever its last
//! owner records later. Who loses its session sends nothing until it has another; if
//! nobody claimed its shares meanwhile, it goes on with them as if nothing had been. Sharing out is each member's own decision ([`plan`]), from the
//! number of members alone.
//!
//! What members tell each other travels as notifications of the database. They only say
//! "look", or ask what only the home of an endpoint knows; none is needed for
//! correctness: each member also looks by itself, at every sign of life.

mod member;
mod peers;
mod plan;
mod skew;

pub use self::{
    member::{Config, run},
    peers::Fleet,
    skew::{SKEW_MAX, Skew},
};

#[cfg(test)]
mod tests;
