//! What was published is what arrives, to the byte, and its signatures hold.
//!
//! A body that is parsed and written again looks right and is not: keys change
//! places, large integers lose their last digits, and a signature made over the
//! original is void. So the odd bodies are the ones that are sent here. The
//! signatures are checked by code that is not ours: the Rust and the Python
//! library of Standard Webhooks.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hookwire::grpc::pb::{self, Envelope, payload::Body, signature};
use serde_json::{Value, json};
use sha2::Sha256;
use standardwebhooks::Webhook;

use crate::support::{Api, Received, Receiver, Server, eventually, open_endpoint};

const MIB: usize = 1 << 20;

struct Case {
    name: &'static str,
    content_type: &'static str,
    bytes: Vec<u8>,
}

/// Bodies that are JSON.
fn texts() -> Vec<Case> {
    let long = format!("[\"{}\"]", "a".repeat(MIB - 4));
    [
        ("key-order", r#"{"zulu":1,"alpha":2,"mike":{"b":1,"a":2}}"#.to_owned()),
        ("white-space", "{ \"a\" :\t[ 1 ,2,\r\n  3 ] ,\n\"b\": { } }".to_owned()),
        ("white-space-around", " \n{\"a\":1}\n\t ".to_owned()),
        ("big-integers", r#"{"above":9007199254740993,"larger":123456789012345678901234567890}"#.to_owned()),
        ("number-spelling", r#"[1.0, 1e2, 1E+2, -0, 0.10, 1.000000000000000000001]"#.to_owned()),
        ("utf-8", r#"{"name":"Zoë Grönholm – 東京 🪝","escaped":"\u00e9\/\ud83e\ude9d"}"#.to_owned()),
        ("repeated-keys", r#"{"a":1,"a":2}"#.to_owned()),
        ("scalar", "true".to_owned()),
        ("one-mebibyte", long),
    ]
    .map(|(name, text)| Case { name, content_type: "application/json", bytes: text.into_bytes() })
    .into()
}

/// Bodies that are not.
fn blobs() -> Vec<Case> {
    let every_byte: Vec<u8> = (0..=u8::MAX).cycle().take(4096).collect();
    let large: Vec<u8> = (0..MIB).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    [
        ("binary", "application/octet-stream", every_byte),
        ("empty", "application/octet-stream", Vec::new()),
        ("binary-mebibyte", "application/x-anything; q=1", large),
        ("text", "text/plain; charset=utf-8", "not JSON: {\"a\":\r\n".into()),
        ("not-utf-8", "text/plain", vec![0xff, 0xfe, 0x00, 0x0d, 0x0a, 0xc3, 0x28]),
    ]
    .map(|(name, content_type, bytes)| Case { name, content_type, bytes })
    .into()
}

fn payload(content_type: &str, body: Body) -> Option<pb::Payload> {
    Some(pb::Payload { content_type: content_type.to_owned(), body: Some(body) })
}

async fn publish(api: &Api, event_type: &str, payload: Option<pb::Payload>) -> (String, String) {
    let event = pb::Event { event_type: event_type.to_owned(), payload, ..Default::default() };
    let response = api.publish(event).await;
    (response.event_id, response.deliveries[0].delivery_id.clone())
}

async fn received(receiver: &Receiver, delivery_id: &str) -> Arc<Received> {
    eventually(Duration::from_secs(10), &format!("{delivery_id} is received"), async || {
        let mut ledger = receiver.ledger().into_iter();
        let found = ledger.find(|request| request.delivery_id() == delivery_id);
        found.ok_or_else(|| format!("{} requests", receiver.count()))
    })
    .await
}

fn key_of(secret: &str) -> Vec<u8> {
    STANDARD.decode(secret.strip_prefix("whsec_").expect("a generated secret")).expect("base64")
}

fn hmac_hex(key: &[u8], parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    for part in parts {
        mac.update(part);
    }
    hex::encode(mac.finalize().into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_body_arrives_byte_for_byte() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    let endpoint = pb::Endpoint { envelope: Envelope::Raw.into(), ..open_endpoint(receiver.at("/raw")) };
    api.create_endpoint(endpoint).await;

    let mut sent = Vec::new();
    for case in texts() {
        let text = String::from_utf8(case.bytes.clone()).expect("text");
        let (_, id) = publish(&api, "odd.json", payload("", Body::Json(text))).await;
        sent.push((format!("{} as json", case.name), id, case.content_type, case.bytes.clone()));
        let data = Body::Data(Bytes::from(case.bytes.clone()));
        let (_, id) = publish(&api, "odd.data", payload(case.content_type, data)).await;
        sent.push((format!("{} as data", case.name), id, case.content_type, case.bytes));
    }
    for case in blobs() {
        let data = Body::Data(Bytes::from(case.bytes.clone()));
        let (_, id) = publish(&api, "odd.blob", payload(case.content_type, data)).await;
        sent.push((case.name.to_owned(), id, case.content_type, case.bytes));
    }
    let (_, id) = publish(&api, "odd.nothing", None).await;
    sent.push(("no payload at all".to_owned(), id, "application/octet-stream", Vec::new()));

    for (name, id, content_type, bytes) in sent {
        let request = received(&receiver, &id).await;
        assert_eq!(request.body.len(), bytes.len(), "{name}");
        assert!(request.body == bytes, "{name} was altered");
        assert_eq!(request.header("content-length"), bytes.len().to_string(), "{name}");
        assert_eq!(request.header("content-type"), content_type, "{name}");
    }
    assert_eq!(receiver.count(), 2 * texts().len() + blobs().len() + 1, "each was sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_envelope_carries_the_payload_verbatim() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    api.create_endpoint(open_endpoint(receiver.at("/event"))).await;

    for case in texts() {
        let data = Body::Data(Bytes::from(case.bytes.clone()));
        let (event_id, id) = publish(&api, "odd.json", payload("application/json", data)).await;
        let request = received(&receiver, &id).await;
        let text = std::str::from_utf8(&case.bytes).expect("text");
        let body = std::str::from_utf8(&request.body).expect("text");
        assert!(body.contains(text), "{} was altered", case.name);
        let envelope: Value = serde_json::from_str(body).expect("JSON");
        let names: Vec<_> = envelope.as_object().expect("an object").keys().collect();
        assert_eq!(names.len(), 4, "{}: {names:?}", case.name);
        assert_eq!((&envelope["id"], &envelope["event"]), (&json!(event_id), &json!("odd.json")));
        let get = pb::GetEventRequest { id: event_id, ..Default::default() };
        let stored = api.events.clone().get_event(get).await.expect("GetEvent");
        let stored = stored.into_inner().event.expect("the event");
        let created = stored.create_time.expect("a time").seconds;
        let stamp = envelope["timestamp"].as_str().expect("text");
        assert_eq!(stamp.len(), "2026-01-21T12:00:00.000Z".len(), "always as wide: {stamp}");
        let stamp: jiff::Timestamp = stamp.parse().expect("RFC 3339");
        assert_eq!(stamp.as_second(), created, "the time of acceptance");
        assert_eq!(request.header("content-type"), "application/json");
    }
    for case in blobs() {
        let data = Body::Data(Bytes::from(case.bytes.clone()));
        let (_, id) = publish(&api, "odd.blob", payload(case.content_type, data)).await;
        let request = received(&receiver, &id).await;
        assert!(request.body == case.bytes, "{}: what is not JSON is sent as it is", case.name);
        assert_eq!(request.header("content-type"), case.content_type, "{}", case.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signature_side_by_side_verifies() {
    use signature::{Content, Scheme};
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    let scheme = |scheme: Scheme, header: &str| pb::Signature {
        scheme: scheme.into(),
        header: header.to_owned(),
        ..Default::default()
    };
    let signatures = vec![
        scheme(Scheme::StandardWebhooks, ""),
        scheme(Scheme::Sha256Hex, ""),
        scheme(Scheme::Timestamped, "x-signed-with-time"),
        pb::Signature {
            content: Content::Body.into(),
            add_v2: true,
            ..scheme(Scheme::Timestamped, "x-signed-both-ways")
        },
    ];
    let endpoint = pb::Endpoint {
        envelope: Envelope::Raw.into(),
        signing: Some(pb::SigningConfig { signatures, disabled: false }),
        ..open_endpoint(receiver.at("/signed"))
    };
    let endpoint = api.create_endpoint(endpoint).await;
    let secret = &endpoint.secrets[0].value;
    let key = key_of(secret);
    let verifier = Webhook::from_bytes(key.clone()).expect("a key");

    for case in texts().into_iter().chain(blobs()) {
        let data = Body::Data(Bytes::from(case.bytes.clone()));
        let (_, id) = publish(&api, "signed", payload(case.content_type, data)).await;
        let request = received(&receiver, &id).await;
        let (body, name) = (&request.body[..], case.name);

        // The library wants text; what is not text is checked by its formula.
        if std::str::from_utf8(body).is_ok() {
            verifier.verify(body, &request.headers).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let stamp = request.header("webhook-timestamp");
        let head = format!("{}.{stamp}.", request.event_id());
        let mac = hex::decode(hmac_hex(&key, &[head.as_bytes(), body])).expect("hex");
        assert_eq!(request.header("webhook-signature"), format!("v1,{}", STANDARD.encode(mac)), "{name}");

        let over_body = hmac_hex(&key, &[body]);
        assert_eq!(request.header("x-webhook-signature"), format!("sha256={over_body}"), "{name}");

        let timed = request.header("x-signed-with-time");
        let (time, _) = timed.strip_prefix("t=").and_then(|rest| rest.split_once(',')).expect("t=…,v1=…");
        let over_both = hmac_hex(&key, &[time.as_bytes(), b".", body]);
        assert_eq!(timed, format!("t={time},v1={over_both}"), "{name}");
        assert_eq!(time, stamp, "{name}: one request, one time");
        let both = request.header("x-signed-both-ways");
        assert_eq!(both, format!("t={time},v1={over_body},v2={over_both}"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_independent_library_in_another_language_verifies_what_was_received() {
    let server = Server::start().await;
    let api = server.api();
    let receiver = Receiver::ok().await;
    let mut captured = Vec::new();
    for (path, envelope, secret) in [
        ("/event", Envelope::Event, None),
        ("/raw", Envelope::Raw, Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
    ] {
        let event_type = format!("py{}", path.replace('/', "."));
        let value = secret.unwrap_or_default().to_owned();
        let endpoint = pb::Endpoint {
            event_types: vec![event_type.clone()],
            envelope: envelope.into(),
            secrets: Vec::from_iter(
                secret.map(|_| pb::SigningSecret { value: value.clone(), ..Default::default() }),
            ),
            ..open_endpoint(receiver.at(path))
        };
        let endpoint = api.create_endpoint(endpoint).await;
        for case in texts() {
            let data = Body::Data(Bytes::from(case.bytes.clone()));
            let (_, id) = publish(&api, &event_type, payload("application/json", data)).await;
            let request = received(&receiver, &id).await;
            let headers: serde_json::Map<_, _> = request
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), json!(value.to_str().expect("text"))))
                .collect();
            captured.push(json!({
                "name": format!("{path} {}", case.name),
                "secret": endpoint.secrets[0].value,
                "headers": headers,
                "body_base64": STANDARD.encode(&request.body),
            }));
        }
    }
    let folder = tempfile::tempdir().expect("temporary directory");
    let file = folder.path().join("captured.json");
    fs::write(&file, Value::from(captured.clone()).to_string()).expect("write");

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = env::var_os("HOOKWIRE_PYTHON").map_or_else(|| root.join(".venv/bin/python"), PathBuf::from);
    assert!(
        python.exists(),
        "{} is missing: make a virtual environment there with the package `standardwebhooks`, \
         or name a Python that has it in HOOKWIRE_PYTHON",
        python.display()
    );
    let script = root.join("tests/verify_signatures.py");
    let output = Command::new(python).arg(script).arg(&file).output().expect("run Python");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    assert_eq!(said.trim(), format!("{} verified", captured.len()));
}
