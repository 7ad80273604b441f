//! The route that a client may have meant.

use http::Method;

use super::{route::Table, template::Path};

/// Longest path that is compared with the routes.
const PATH_BYTES_MAX: usize = 128;
/// Edits that a path may be away from a route.
const EDITS_MAX: usize = 4;

/// The nearest route to a request that has none, as `POST /v1/endpoints/ID:pause`.
pub(super) fn nearest(table: &Table, method: &Method, path: &str) -> Option<String> {
    let given = Path::split(path).filter(|_| path.len() <= PATH_BYTES_MAX)?;
    let distances = table.routes().map(|route| {
        let edits = strsim::levenshtein(path, &route.template.filled(&given));
        (edits, route.http != method, route)
    });
    let (edits, _, route) = distances.min_by_key(|(edits, differs, _)| (*edits, *differs))?;
    let is_near = edits <= EDITS_MAX.min(path.len() / 2);
    is_near.then(|| format!("{} {}", route.http, route.template))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb;

    #[test]
    fn a_slip_leads_to_the_route_that_was_meant() {
        let table = Table::new(pb::DESCRIPTORS).unwrap();
        for (method, path, expected) in [
            (Method::POST, "/v1/endpoints/ep_1/pause", Some("POST /v1/endpoints/ID:pause")),
            (Method::GET, "/v1/endpoint/ep_1", Some("GET /v1/endpoints/ID")),
            (Method::GET, "/v1/Endpoints", Some("GET /v1/endpoints")),
            (Method::POST, "/v1/endpoints/", Some("POST /v1/endpoints")),
            (Method::POST, "/endpoints", Some("POST /v1/endpoints")),
            (Method::DELETE, "/v1/endpoints/ep_1/", Some("DELETE /v1/endpoints/ID")),
            (Method::GET, "/favicon.ico", None),
            (Method::GET, "/", None),
            (Method::GET, "/v2", None),
        ] {
            assert_eq!(nearest(&table, &method, path).as_deref(), expected, "{method} {path}");
        }
        assert_eq!(nearest(&table, &Method::GET, &format!("/v1/endpoints/{}/x", "x".repeat(200))), None);
    }
}
