//! Who changed what.

use std::{net::IpAddr, sync::Arc};

use super::{ApiKeyId, Timestamp};

/// One call that changed something, or calls that were refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its number; zero until it is stored.
    pub sequence: u64,
    /// When it was answered.
    pub at: Timestamp,
    /// The key that called, if one was recognised.
    pub key: Option<ApiKeyId>,
    /// Id of the tenant it acted for; empty if no key was recognised.
    pub tenant: Arc<str>,
    /// The method, `hookwire.v1.Service/Method`.
    pub method: String,
    /// What the call was about; empty if it names nothing.
    pub resource: String,
    /// The gRPC code it ended with.
    pub code: i32,
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// Id of the request.
    pub request_id: String,
    /// How many calls it stands for: more than one only of calls that were denied. It
    /// then describes the last of them.
    pub calls: u64,
}
