//! An attempt that has begun and has no result yet.

use super::{DeliveryId, EndpointKey, Timestamp};

/// An attempt whose request was under way when this was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// To which endpoint.
    pub endpoint: EndpointKey,
    /// 1 for the first attempt of the delivery.
    pub number: u32,
    /// When its request began.
    pub started_at: Timestamp,
    /// The tenure of its shard under which it began.
    pub epoch: u64,
}
