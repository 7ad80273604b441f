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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_reflect::{DescriptorPool, MethodDescriptor};
    use prost_types::method_options::IdempotencyLevel;
    use serde_json::Value;

    use super::DESCRIPTORS;

    /// Published events are stored once if they carry an idempotency key, so both methods may
    /// be retried although only their callers know whether they do.
    const PUBLISH: [&str; 2] =
        ["hookwire.v1.EventService/PublishEvent", "hookwire.v1.EventService/BatchPublishEvents"];

    fn may_be_retried(method: &MethodDescriptor) -> bool {
        let options = method.method_descriptor_proto().options.clone().unwrap_or_default();
        !method.is_server_streaming()
            && !method.is_client_streaming()
            && options.idempotency_level() != IdempotencyLevel::IdempotencyUnknown
    }

    #[test]
    fn the_service_config_retries_the_methods_that_are_safe_to_repeat_and_no_others() {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let name =
            |method: &MethodDescriptor| format!("{}/{}", method.parent_service().full_name(), method.name());
        let mut safe: BTreeSet<_> = pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .filter(may_be_retried)
            .map(|method| name(&method))
            .collect();
        safe.extend(PUBLISH.map(str::to_owned));

        let config: Value = serde_json::from_str(include_str!("../../proto/service-config.json")).unwrap();
        let parts = config["methodConfig"].as_array().unwrap();
        let named = |part: &Value| {
            let names = part["name"].as_array().unwrap().clone();
            let text = |it: &Value| it.as_str().unwrap().to_owned();
            names.into_iter().map(move |it| format!("{}/{}", text(&it["service"]), text(&it["method"])))
        };
        let retried: BTreeSet<_> =
            parts.iter().filter(|part| part.get("retryPolicy").is_some()).flat_map(named).collect();
        assert_eq!(retried, safe);
    }
}
