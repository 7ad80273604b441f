//! Which targets may be registered: what [`vet`] allows, in the words of a field.

use crate::{
    domain::Rule,
    egress::{Forbidden, Policy, vet},
};

/// Why a target is refused: the rule broken, a sentence, and the name of the rule
/// of [`vet`].
pub type UrlRefusal = (Rule, String, &'static str);

/// Checks a target; addresses are checked again when connecting.
pub fn check_url(text: &str, targets: &Policy) -> Result<(), UrlRefusal> {
    if text.is_empty() {
        return Err((Rule::Required, "a target is needed".to_owned(), ""));
    }
    let Err(Forbidden { rule, message }) = vet(text, targets) else { return Ok(()) };
    let broken = match rule {
        "url.length" => Rule::TooLong,
        "url.format" | "url.host" | "url.port" => Rule::BadFormat,
        _ => Rule::Forbidden,
    };
    Err((broken, message, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_http_with_a_host_and_nothing_hidden() {
        let targets = Policy::loopback();
        for good in ["https://example.com", "http://127.0.0.1:8000/hook?x=1", "https://[::1]/a"] {
            assert_eq!(check_url(good, &targets), Ok(()), "{good}");
        }
        let long = format!("https://example.com/{}", "a".repeat(2048));
        let cases = [
            ("", Rule::Required, ""),
            ("not a url", Rule::BadFormat, "url.format"),
            ("https://", Rule::BadFormat, "url.format"),
            ("ftp://example.com/", Rule::Forbidden, "url.scheme"),
            ("https://user@example.com/", Rule::Forbidden, "url.user_info"),
            ("https://:secret@example.com/", Rule::Forbidden, "url.user_info"),
            ("http://10.0.0.1/", Rule::Forbidden, "url.address"),
            ("https://example.com/#top", Rule::Forbidden, "url.fragment"),
            (long.as_str(), Rule::TooLong, "url.length"),
        ];
        for (bad, rule, name) in cases {
            let (broken, _, named) = check_url(bad, &targets).unwrap_err();
            assert_eq!((broken, named), (rule, name), "{bad}");
        }
    }
}
