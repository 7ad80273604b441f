//! Which media type a request's body may have.
//!
//! A page of any site can make a browser send a body of plain text or of a form, without
//! asking the server first. So a body must say that it is JSON.

use http::{HeaderMap, header};
use mime::Mime;

use super::problem::Problem;

/// What a body must be.
const JSON: &str = "application/json";

/// Why a request with a body is refused, unless it says that the body is JSON in UTF-8.
pub(super) fn refuse(headers: &HeaderMap) -> Option<Problem> {
    let given = headers.get(header::CONTENT_TYPE);
    let media_type = given.and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<Mime>().ok());
    let Some(media_type) = media_type.filter(is_json) else {
        let shown = given.map_or("none".into(), |value| String::from_utf8_lossy(value.as_bytes()));
        let detail = format!(
            "the body must come with the header `content-type: application/json`, and its type is {shown}; \
             curl does so with --json instead of -d"
        );
        return Some(Problem::unsupported_media_type(detail, JSON));
    };
    match media_type.get_param(mime::CHARSET) {
        Some(charset) if !charset.as_str().trim_matches('"').eq_ignore_ascii_case("utf-8") => {
            let detail = format!("the body must be JSON in UTF-8, and not in {charset}");
            Some(Problem::unsupported_media_type(detail, JSON))
        }
        Some(_) | None => None,
    }
}

fn is_json(media_type: &Mime) -> bool {
    media_type.type_() == mime::APPLICATION
        && (media_type.subtype() == mime::JSON || media_type.suffix() == Some(mime::JSON))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_body_is_json_in_utf_8_or_it_is_refused_with_what_is_taken() {
        let checked = |media_type: Option<&str>| {
            let value = media_type.map(|text| HeaderValue::from_str(text).unwrap());
            refuse(&value.into_iter().map(|value| (header::CONTENT_TYPE, value)).collect())
        };
        let good = [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/merge-patch+json",
        ];
        for media_type in good {
            assert!(checked(Some(media_type)).is_none(), "{media_type}");
        }
        let bad = [
            None,
            Some(""),
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some("multipart/form-data; boundary=x"),
            Some("text/json"),
            Some("application/jsonp"),
            Some("application/json; charset=utf-16"),
            Some("application/json; charset=latin1"),
            Some("application/grpc"),
        ];
        for media_type in bad {
            let refused = checked(media_type).unwrap().into_response();
            assert_eq!(refused.status(), 415, "{media_type:?}");
            assert_eq!(refused.headers()["accept-post"], JSON, "{media_type:?}");
        }
    }
}
