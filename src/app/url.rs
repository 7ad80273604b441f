//! Which targets may be registered.

use crate::domain::Rule;

/// Longest target.
const URL_BYTES_MAX: usize = 2048;

/// Why a target is refused: the rule broken, a sentence, and the name of the
/// house's own rule where it is about what is allowed rather than about form.
pub type UrlRefusal = (Rule, String, &'static str);

/// Checks a target by its text alone; addresses are checked again when connecting.
pub fn check_url(text: &str) -> Result<(), UrlRefusal> {
    let refuse = |rule, why: &str, name| Err((rule, why.to_owned(), name));
    if text.is_empty() {
        return refuse(Rule::Required, "a target is needed", "");
    }
    if text.len() > URL_BYTES_MAX {
        return refuse(Rule::TooLong, "must have at most 2048 bytes", "");
    }
    let url = match url::Url::parse(text) {
        Ok(url) => url,
        Err(error) => return Err((Rule::BadFormat, format!("is not a URL: {error}"), "")),
    };
    if !matches!(url.scheme(), "http" | "https") {
        return refuse(Rule::Forbidden, "must begin with `https://` or `http://`", "scheme");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return refuse(Rule::BadFormat, "must name a host", "");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse(Rule::Forbidden, "must not carry a user name or password", "user_info");
    }
    if url.fragment().is_some() {
        return refuse(Rule::Forbidden, "must not have a fragment", "fragment");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_http_with_a_host_and_nothing_hidden() {
        for good in ["https://example.com", "http://127.0.0.1:8000/hook?x=1", "https://[::1]/a"] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
        let cases = [
            ("", Rule::Required, ""),
            ("not a url", Rule::BadFormat, ""),
            ("https://", Rule::BadFormat, ""),
            ("ftp://example.com/", Rule::Forbidden, "scheme"),
            ("https://user@example.com/", Rule::Forbidden, "user_info"),
            ("https://:secret@example.com/", Rule::Forbidden, "user_info"),
            ("https://example.com/#top", Rule::Forbidden, "fragment"),
            (long.as_str(), Rule::TooLong, ""),
        ];
        for (bad, rule, name) in cases {
            let (broken, _, named) = check_url(bad).unwrap_err();
            assert_eq!((broken, named), (rule, name), "{bad}");
        }
    }
}
