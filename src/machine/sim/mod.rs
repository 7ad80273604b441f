//! A seeded simulator of the delivery logic.
