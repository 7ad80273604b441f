//! Do: drives lanes over store, feed and egress.

mod handle;

pub use handle::{Circuit, Handle};
