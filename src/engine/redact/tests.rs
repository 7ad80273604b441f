//! No part of a secret is recorded, however a receiver spells it and wherever its answer
//! is cut off.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use proptest::prelude::*;

use super::*;

/// Consecutive characters of a secret that may not be recorded.
const TELLING: usize = 8;

fn redacted(body: impl Into<Vec<u8>>, secrets: &[&str]) -> String {
    let mut response = Response { body: body.into(), ..Response::default() };
    Redactor::new(secrets.iter().map(|secret| secret.as_bytes())).redact(&mut response);
    String::from_utf8_lossy(&response.body).into_owned()
}

#[test]
fn an_echoed_secret_is_not_recorded() {
    let mut response = Response {
        headers: vec![("x-echo".to_owned(), "a s3cret b".to_owned())],
        body: b"s3crets3cret, t0ken-1 and 12345 s3cre\xfft".to_vec(),
        ..Response::default()
    };
    let secrets: [&[u8]; 4] = [b"s3cret", b"t0ken-1", b"12345", b""];
    Redactor::new(secrets.into_iter()).redact(&mut response);
    assert_eq!(response.body, b"******, *** and 12345 s3cre\xfft");
    assert_eq!(response.headers[0].1, "a *** b");
}

#[test]
fn an_escaped_secret_is_found() {
    let secret = "pa\"ss/w\\ord é😀 <+>";
    let json = serde_json::to_string(secret).unwrap();
    let in_string = serde_json::to_string(&format!("{{\"a\":{json}}}")).unwrap();
    let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let percent = encoded.replace('+', "%20").to_lowercase();
    let spelled = [
        json.trim_matches('"').to_owned(),
        in_string.replace("{\\\"a\\\":", "").replace('}', "").trim_matches(['"', '\\']).to_owned(),
        r#"pa\"ss\/w\\ord \u00E9\ud83D\ude00 \u003c+\u003E"#.to_owned(),
        r#"\x70a"ss/w\\ord \xc3\xa9\xf0\x9f\x98\x80 <+>"#.to_owned(),
        encoded.clone(),
        percent,
        "pa&quot;ss/w\\ord &#233;&#x1F600; &lt;+&gt;".to_owned(),
        "pa&#34;ss&#x2f;w\\\\ord é😀 \\u0026lt;+&gt;".to_owned(),
    ];
    for text in spelled {
        assert_eq!(redacted(format!("> {text}."), &[secret]), "> ***.", "{text}");
    }
    assert_eq!(redacted(r"C:\users\x %zz &amp; \u12 a+b", &[secret]), r"C:\users\x %zz &amp; \u12 a+b");
}

#[test]
fn a_secret_within_base64_is_found() {
    let secret = "k\u{7ff}?>?>?>?>-token";
    for before in ["", "a", "ab", "abc", "user:"] {
        for after in ["", "z", "yz"] {
            let text = format!("{before}{secret}{after}");
            for encoded in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
                let kept = redacted(encoded.clone(), &[secret]);
                let rest = kept.split("***").map(str::len).max().unwrap();
                assert!(kept.contains("***") && rest <= before.len() * 4 / 3 + 6, "{encoded}: {kept}");
            }
        }
    }
}

#[test]
fn a_secret_that_is_cut_off_is_found() {
    let secret = "s3cret-\"token\"";
    assert_eq!(redacted("a s3cret-\"", &[secret]), "a ***");
    assert_eq!(redacted(r#"a s3cret-\"tok"#, &[secret]), "a ***");
    assert_eq!(redacted(r"a s3cret-\u002", &[secret]), "a ***", "within an escape");
    assert_eq!(redacted("a s3cret-%2", &[secret]), "a ***");
    assert_eq!(redacted("a s3cre", &[secret]), "a s3cre", "as short as what stands in any text");
}

#[test]
fn overlapping_secrets_leave_nothing_between_them() {
    assert_eq!(redacted("-abababababababababab-", &["abababab"]), "-***-");
    assert_eq!(redacted("(one-two-three)", &["one-two", "two-three", "ne-two-thr"]), "(***)");
}

/// Spellings of one character.
fn spell(char: char, form: usize) -> String {
    let bytes = || char.encode_utf8(&mut [0; 4]).bytes().collect::<Vec<_>>();
    match form {
        1 if matches!(char, '"' | '\\' | '/') => format!("\\{char}"),
        1 | 2 => format!("\\u{:04x}", char as u32),
        3 => format!("\\u{:04X}", char as u32),
        4 => bytes().iter().map(|byte| format!("%{byte:02x}")).collect(),
        5 => bytes().iter().map(|byte| format!("%{byte:02X}")).collect(),
        6 => format!("&#{};", char as u32),
        7 => format!("&#x{:x};", char as u32),
        _ if char == '\\' => "\\\\".to_owned(),
        _ if char == '"' => "\\\"".to_owned(),
        _ => char.to_string(),
    }
}

proptest! {
    /// The forms that JSON allows mix within one text; the others stand for themselves.
    #[test]
    fn no_offset_of_the_cut_shows_a_part_of_a_secret(
        secret in "[a-zA-Z0-9\"\\\\/+=._~é-]{8,60}",
        family in prop::sample::select(vec![vec![0, 1, 2, 3], vec![4, 5], vec![6, 7]]),
        choices in prop::collection::vec(0..4_usize, 60),
        before in 0..40_usize,
        cut in 0..500_usize,
    ) {
        let spelled: Vec<_> = secret.chars().zip(&choices)
            .map(|(char, choice)| spell(char, family[choice % family.len()]))
            .collect();
        let mut body = format!("{}{}{}", "\n".repeat(before), spelled.concat(), "\n".repeat(40)).into_bytes();
        body.truncate(cut);
        let kept = redacted(body, &[&secret]);
        for part in spelled.windows(TELLING) {
            prop_assert!(!kept.contains(&part.concat()), "{kept:?} contains {part:?}");
        }
        let plain: Vec<_> = secret.chars().map(String::from).collect();
        for part in plain.windows(TELLING) {
            prop_assert!(!kept.contains(&part.concat()), "{kept:?} contains {part:?}");
        }
    }

    #[test]
    fn what_holds_no_secret_stays(body in "[ -~é\n]{0,200}") {
        prop_assert_eq!(redacted(body.clone(), &["\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}"]), body);
    }
}
