//! Against the published vectors, our own, and a receiver's library.

use http::HeaderMap;

use super::*;
use crate::domain::{EndpointKey, Signing, TenantKey};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID_A: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const TIME_A: i64 = 1_614_265_330;
const BODY_C4: &[u8] = br#"{"id":"evt_0199a3c27b5e7d1c8a4f2e6b90d13c57","event":"user.created","timestamp":"2026-01-21T12:00:00Z","data":{"user_id":"12345"}}"#;
const TIME_C4: i64 = 1_768_996_800;

fn secret(value: &str) -> Secret {
    Secret {
        id: "0".repeat(32),
        value: value.into(),
        created_at: Timestamp(0),
        primary_at: None,
        expires_at: None,
    }
}

fn signature(scheme: Scheme, content: Content, add_v2: bool) -> Signature {
    Signature { scheme, header: "x-signature".to_owned(), content, add_v2 }
}

fn signer(secrets: Vec<Secret>, signatures: Vec<Signature>) -> Signer {
    Signer::new(&Endpoint {
        key: EndpointKey(1),
        signing: Signing { signatures },
        secrets,
        ..Endpoint::new(TenantKey::DEFAULT, "ep_1", "https://example.com/", Timestamp(0))
    })
}

fn at(seconds: i64) -> Timestamp {
    // Anywhere within the second: only whole seconds are signed.
    Timestamp(seconds * 1_000_000 + 999_999)
}

fn headers(signer: &Signer, id: &str, seconds: i64, body: &[u8]) -> HeaderMap {
    signer.sign(id, at(seconds), body).into_iter().collect()
}

fn standard(value: &str, id: &str, seconds: i64, body: &[u8]) -> String {
    let signer = signer(vec![secret(value)], vec![Signature::default()]);
    let headers = headers(&signer, id, seconds, body);
    assert_eq!(headers["webhook-id"], id);
    assert_eq!(headers["webhook-timestamp"], seconds.to_string());
    headers["webhook-signature"].to_str().unwrap().to_owned()
}

fn single(scheme: Scheme, content: Content, add_v2: bool) -> String {
    let signer = signer(vec![secret("test-secret")], vec![signature(scheme, content, add_v2)]);
    headers(&signer, "dlv_1", TIME_C4, BODY_C4)["x-signature"].to_str().unwrap().to_owned()
}

#[test]
fn standard_webhooks_fits_the_published_vectors() {
    assert_eq!(
        standard(SECRET, ID_A, TIME_A, br#"{"test": 2432232314}"#),
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    );
    assert_eq!(
        standard(
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            br#"{"email":"test@example.com","username":"test_user"}"#,
        ),
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
    );
}

#[test]
fn empty_and_utf_8_bodies_fit_our_vectors() {
    assert_eq!(standard(SECRET, ID_A, TIME_A, b""), "v1,v48jdbgvh29KJz2Qc+ghw8G6vG3nAKnujWBg8oM/62A=");
    assert_eq!(
        standard(SECRET, ID_A, TIME_A, r#"{"name":"Zoë ☕"}"#.as_bytes()),
        "v1,KtH/QWV0lDGcNPxt7v8R3z2BnPNW1uKYdj87PZ3LNE4="
    );
}

#[test]
fn every_scheme_fits_the_vectors_of_the_api() {
    let over_body = "8e1395ab126b7828cc5c470a1e2353d000524f2050b26d3f4b848722dbeab2f5";
    let over_both = "ff614c70009ed58be7c9b1f154a5af9f26aedac36dc9caa1c9e2847c79c76c3a";
    assert_eq!(single(Scheme::Sha256Hex, Content::Body, false), format!("sha256={over_body}"));
    assert_eq!(single(Scheme::Sha256Hex, Content::TimestampBody, false), format!("sha256={over_both}"));
    assert_eq!(
        single(Scheme::Timestamped, Content::Body, true),
        format!("t={TIME_C4},v1={over_body},v2={over_both}")
    );
    assert_eq!(
        single(Scheme::Timestamped, Content::TimestampBody, false),
        format!("t={TIME_C4},v1={over_both}")
    );
    assert_eq!(
        standard(SECRET, "dlv_0199a3c27b5f7a3e9c41d2078be6f315", TIME_C4, BODY_C4),
        "v1,LAL0VEPYv7ebHuj3oXfiMttTanfw7aRCUBht9DwouHU="
    );
}

#[test]
fn during_a_rotation_every_live_secret_signs_and_one_is_the_primary() {
    let newest = Secret { primary_at: Some(at(200)), ..secret("new") };
    let older = Secret { expires_at: Some(at(300)), ..secret("old") };
    let gone = Secret { expires_at: Some(at(50)), ..secret("gone") };
    let all = vec![newest, older, gone];
    let formats = vec![Signature::default(), signature(Scheme::Sha256Hex, Content::Body, false)];
    let both = signer(all, formats.clone());
    let value = |signer: &Signer, seconds, name: &str| {
        headers(signer, "m", seconds, b"body")[name].to_str().unwrap().to_owned()
    };
    let alone =
        |text: &str, seconds, name: &str| value(&signer(vec![secret(text)], formats.clone()), seconds, name);

    for (seconds, primary) in [(100, "old"), (199, "old"), (200, "new"), (299, "new")] {
        let expected = ["new", "old"].map(|text| alone(text, seconds, "webhook-signature")).join(" ");
        assert_eq!(value(&both, seconds, "webhook-signature"), expected, "at {seconds}");
        assert_eq!(
            value(&both, seconds, "x-signature"),
            alone(primary, seconds, "x-signature"),
            "at {seconds}"
        );
    }
    // An expiry is exclusive.
    assert_eq!(value(&both, 300, "webhook-signature"), alone("new", 300, "webhook-signature"));
}

#[test]
fn the_primary_is_the_one_the_endpoint_names() {
    let waiting = |text, at| Secret { primary_at: Some(at), ..secret(text) };
    // Neither has come: the older one is used.
    let signer = signer(
        vec![waiting("b", at(20)), waiting("a", at(10))],
        vec![signature(Scheme::Sha256Hex, Content::Body, false)],
    );
    let alone = self::signer(vec![secret("a")], vec![signature(Scheme::Sha256Hex, Content::Body, false)]);
    assert_eq!(headers(&signer, "m", 5, b"x")["x-signature"], headers(&alone, "m", 5, b"x")["x-signature"]);
}

#[test]
fn id_and_time_go_with_any_signature_and_with_none_at_all_nothing_does() {
    let hex = signer(vec![secret("s")], vec![signature(Scheme::Sha256Hex, Content::Body, false)]);
    let names: Vec<_> = hex.sign("m", at(1), b"").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["webhook-id", "webhook-timestamp", "x-signature"]);

    assert!(signer(vec![secret("s")], Vec::new()).sign("m", at(1), b"").is_empty());

    // No usable secret: the message still has its id and time.
    for secrets in [vec![], vec![secret("whsec_")], vec![secret("")], vec![secret("whsec_!")]] {
        let unsigned = signer(secrets, vec![Signature::default()]);
        let names: Vec<_> = unsigned.sign("m", at(1), b"").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["webhook-id", "webhook-timestamp"]);
    }
}

#[test]
fn an_independent_receiver_accepts_every_live_secret() {
    // That library compares the timestamp with the real time.
    let now = crate::clock::Clock::system().now();
    let raw = "a plain text of more than twenty-four bytes";
    let both = signer(vec![secret(SECRET), secret(raw)], vec![Signature::default()]);
    let body = r#"{"name":"Zoë ☕","n":12345678901234567890}"#.as_bytes();
    let mut headers: HeaderMap = both.sign("dlv_1", now, body).into_iter().collect();

    let receivers = [
        standardwebhooks::Webhook::new(SECRET).unwrap(),
        standardwebhooks::Webhook::from_bytes(raw.as_bytes().to_vec()).unwrap(),
    ];
    for receiver in &receivers {
        receiver.verify(body, &headers).unwrap();
        assert!(receiver.verify(b"{}", &headers).is_err());
    }
    headers.insert(ID, HeaderValue::from_static("dlv_2"));
    assert!(receivers.iter().all(|receiver| receiver.verify(body, &headers).is_err()));
}
