//! gRPC: wire in and out.

pub mod pb;
