//! What has to hold for the head of every request, whatever it is for.

use http::{HeaderMap, Request, Version, header, uri::Authority};
use tonic::Code;

use crate::rest::Problem;

/// What is wrong with the head of a request, if anything.
pub(super) fn fault<B>(request: &Request<B>) -> Option<Problem> {
    let invalid = |why| Some(Problem::new(Code::InvalidArgument, "HOST_INVALID", why));
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return invalid("the header `host` is given more than once"),
        (None, _) if request.version() == Version::HTTP_11 => {
            return invalid("the header `host` is missing; HTTP/1.1 needs it");
        }
        (Some(host), None) if !is_authority(host.as_bytes()) => {
            return invalid("the header `host` must be a host name or address, with a port or without");
        }
        (Some(_) | None, _) => {}
    }
    is_coded(headers).then(|| {
        let why = "no transfer coding but `chunked` is supported; send the body without `gzip` and its like";
        Problem::new(Code::Unimplemented, "TRANSFER_CODING_UNSUPPORTED", why)
    })
}

fn is_authority(host: &[u8]) -> bool {
    Authority::try_from(host)
        .is_ok_and(|authority| !authority.host().is_empty() && !authority.as_str().contains(['@', ',']))
}

/// Whether a body has a transfer coding besides `chunked`.
fn is_coded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    fn status(version: Version, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::post("/").version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        fault(&request.body(()).unwrap()).map_or(200, |problem| problem.into_response().status().as_u16())
    }

    #[test]
    fn http_1_1_has_one_valid_host() {
        let h1 = Version::HTTP_11;
        for host in ["localhost", "example.com:8000", "127.0.0.1", "[::1]:1", "a_b"] {
            assert_eq!(status(h1, &[("host", host)]), 200, "{host}");
        }
        for host in ["", ":80", "a b", "a,b", "user@host", "http://a/", "a/b", "[::1"] {
            assert_eq!(status(h1, &[("host", host)]), 400, "{host}");
        }
        assert_eq!(status(h1, &[]), 400);
        assert_eq!(status(h1, &[("host", "a"), ("host", "a")]), 400);
        assert_eq!(status(Version::HTTP_10, &[]), 200);
        assert_eq!(status(Version::HTTP_2, &[]), 200);
        assert_eq!(status(Version::HTTP_2, &[("host", "a"), ("host", "b")]), 400);
    }

    #[test]
    fn no_transfer_coding_but_chunked_is_undone() {
        let with = |coding| status(Version::HTTP_11, &[("host", "a"), ("transfer-encoding", coding)]);
        assert_eq!((with("chunked"), with("Chunked")), (200, 200));
        assert_eq!((with("gzip, chunked"), with("chunked, chunked"), with("identity")), (501, 501, 501));
    }
}
