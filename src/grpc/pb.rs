//! Code generated from `proto/`.
#![expect(clippy::all, clippy::allow_attributes, reason = "generated")]

/// Package `google.api`: the annotations that REST is made from.
pub mod google_api {
    include!(concat!(env!("OUT_DIR"), "/google.api.rs"));
}

include!(concat!(env!("OUT_DIR"), "/hookwire.v1.rs"));

/// Every descriptor in raw form, custom options included: for reflection and for
/// the REST edge.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hookwire.binpb"));
