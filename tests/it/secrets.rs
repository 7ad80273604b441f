//! A secret goes to the receiver it was given for and nowhere else.
//!
//! Every secret of a run is a text that stands nowhere else, and afterwards all that
//! the server wrote and said is searched for it, in every spelling that something on
//! the way might have given it.

use std::{collections::BTreeSet, fs, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use crate::support::{
    Answer, Authority, Canary, Dice, Received, Receiver, Said, Server, eventually, http_stream, secret,
};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn the_search_finds_every_spelling() {
    let secret = secret(&mut Dice::of("spellings"), "planted");
    let canary = [Canary::of("planted", secret.as_bytes())];
    let around = |spelled: &str| format!("before {spelled} after").into_bytes();
    let planted = [
        around(&secret),
        around(&hex::encode(&secret)),
        around(&STANDARD.encode(format!("me:{secret}"))),
        around(&URL_SAFE.encode(format!("x{secret}yz"))),
        around(&STANDARD.encode(format!("{secret}\n"))),
        around(&byte_serialize(secret.as_bytes()).collect::<String>()),
        around(&json!({ "a": secret }).to_string()),
    ];
    for text in planted {
        let shown = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(Said(vec![("here".to_owned(), text)]).found(&canary), ["planted in here"], "{shown}");
    }
    assert!(Said(vec![("here".to_owned(), around("planted/0"))]).found(&canary).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_logged_answered_or_stored_in_the_open() {
    let mut dice = Dice::of("secrets");
    let mut server = Server::build().env("LOG_LEVEL", "trace").start().await;
    // Both answer with the request they got, as some receivers do.
    let echo = |request: &Received| {
        let mut headers = request.headers.clone();
        headers.remove("x-plain");
        format!("{:?}", spelled(&headers))
    };
    let good =
        Receiver::answering(move |request| Answer::ok().header("x-echo", echo(request)).body(echo(request)))
            .await;
    let bad = Receiver::answering(move |request| Answer::status(500).body(echo(request))).await;
    let names = ["signing", "rotated", "header", "plain", "password", "bearer", "client", "access", "wrong"];
    let secrets = names.map(|name| secret(&mut dice, name));
    let [signing, rotated, header, plain, password, bearer, client, access, wrong] = &secrets;
    let token = json!({ "access_token": access, "token_type": "bearer", "expires_in": 600 }).to_string();
    let granting = Receiver::answering(move |_| Answer::ok().body(token.clone())).await;
    let authority = Authority::new();
    let secure = authority.receiver().await;
    let (certificate, key) = authority.issue("client");
    let key_text: String = key.lines().filter(|line| !line.starts_with("---")).collect();
    let key_bytes = STANDARD.decode(&key_text).expect("base64");
    let master = fs::read_to_string(server.data_dir().join("master.key")).expect("the key of dev");
    let master_bytes = STANDARD.decode(master.trim()).expect("base64");

    let mut canaries: Vec<_> =
        names.iter().zip(&secrets).map(|(name, secret)| Canary::of(name, secret.as_bytes())).collect();
    canaries.push(Canary::of("TLS key", &key_bytes[36..68]));
    canaries.push(Canary::of("TLS key as text", &key_text.as_bytes()[64..128]));
    canaries.push(Canary::of("master key", &master_bytes));
    canaries.push(Canary::of("master key as text", master.trim().as_bytes()));

    // A key of the API: its token is answered once, and then goes by in every call.
    let mut said = Said::default();
    let wanted = json!({ "name": "canary", "scopes": ["*"] });
    let made = Said::default().call(&server, Method::POST, "/v1/apiKeys", &wanted).await;
    let (id, api_token) = (made["api_key"]["id"].as_str(), made["token"].as_str());
    let (id, api_token) = (id.expect("an id").to_owned(), api_token.expect("a token").to_owned());
    let random = api_token.split('_').nth(2).expect("its random part").to_owned();
    canaries.push(Canary::of("API token", api_token.as_bytes()));
    canaries.push(Canary::of("random part of the API token", random.as_bytes()));
    canaries.push(Canary::of("bits of the API token", &hex::decode(&random).expect("hex")));
    let mangled = format!("{}0", &api_token[..api_token.len() - 1]);
    for token in [&api_token, &mangled] {
        said.call_as(&server, Some(token), Method::GET, "/v1/apiKeys", &Value::Null).await;
        said.call_as(&server, Some(token), Method::POST, "/v1/endpoints", &json!({ "url": "" })).await;
    }
    said.call(&server, Method::POST, &format!("/v1/apiKeys/{id}:revoke"), &json!({})).await;
    said.call_as(&server, Some(&api_token), Method::GET, "/v1/apiKeys", &Value::Null).await;

    // Made: the answer shows the signing secret once, and nothing else.
    let open = |url: String, more: Value| {
        let mut endpoint = json!({ "url": url, "rate_limit": { "disabled": true } });
        let fields = endpoint.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        endpoint
    };
    let endpoints = [
        open(
            good.at("/basic"),
            json!({
                "secrets": [{ "value": signing }],
                "headers": { "x-plain": plain },
                "sensitive_headers": { "x-key": header },
                "authentication": { "basic": { "username": "me", "password": password } },
            }),
        ),
        open(good.at("/bearer"), json!({ "authentication": { "bearer": { "token": bearer } } })),
        open(
            good.at("/oauth2"),
            json!({ "authentication": { "oauth2": {
            "token_url": granting.at("/token"), "client_id": "me", "client_secret": client,
        } } }),
        ),
        open(
            secure.url.clone(),
            json!({ "tls": {
            "ca_certificates_pem": authority.pem(), "client_certificate_pem": certificate, "client_key_pem": key,
        } }),
        ),
        open(
            bad.at("/bad"),
            json!({
                "sensitive_headers": { "x-key": header },
                "authentication": { "oauth2": {
                    "token_url": granting.at("/token"), "client_id": "me", "client_secret": client,
                    "client_authentication": "CLIENT_AUTHENTICATION_POST",
                } },
                "retry_policy": { "max_attempts": 1 },
            }),
        ),
    ];
    let mut ids = Vec::new();
    let mut once = Said::default();
    for endpoint in &endpoints {
        let made = once.call(&server, Method::POST, "/v1/endpoints", endpoint).await;
        ids.push(made["id"].as_str().unwrap_or_else(|| panic!("an endpoint: {made}")).to_owned());
    }
    let shown: BTreeSet<_> = once.found(&canaries).into_iter().collect();
    let expected = ["plain in answer of /v1/endpoints", "signing in answer of /v1/endpoints"];
    assert_eq!(shown, expected.map(str::to_owned).into(), "what was made shows once");
    let rotate = format!("/v1/endpoints/{}:rotateSecret", ids[0]);
    let mut once = Said::default();
    once.call(&server, Method::POST, &rotate, &json!({ "value": rotated })).await;
    let reveal = format!("/v1/endpoints/{}:revealSecrets", ids[0]);
    once.call(&server, Method::POST, &reveal, &json!({})).await;
    let shown = [
        format!("rotated in answer of {rotate}"),
        format!("signing in answer of {reveal}"),
        format!("rotated in answer of {reveal}"),
    ];
    assert_eq!(BTreeSet::from_iter(once.found(&canaries)), BTreeSet::from(shown), "what was asked for shows");

    // Changed, so that what was hidden is written back. A plain header is shown to who
    // reads its endpoint, and nowhere else.
    let mut reads = Said::default();
    for (index, id) in ids.iter().enumerate() {
        let (target, change) = (format!("/v1/endpoints/{id}"), json!({ "description": "changed" }));
        let said = if index == 0 { &mut reads } else { &mut said };
        said.call(&server, Method::PATCH, &target, &change).await;
        said.call(&server, Method::GET, &target, &Value::Null).await;
    }
    let shown: BTreeSet<_> = reads.found(&canaries).into_iter().collect();
    assert_eq!(shown, [format!("plain in answer of /v1/endpoints/{}", ids[0])].into());

    // Refused, with the secret in every place where it could be quoted.
    let url = good.at("/");
    let wrongs = [
        json!({ "url": url, "secrets": [{ "value": wrong }, { "value": wrong }] }),
        json!({ "url": url, "authentication": { "bearer": { "token": format!("{wrong} {wrong}") } } }),
        json!({ "url": url, "authentication": { "basic": { "username": ":", "password": wrong } } }),
        json!({ "url": url, "authentication": { "bearer": wrong } }),
        json!({ "url": url, "authentication": wrong }),
        json!({ "url": url, "sensitive_headers": { "host": wrong, "x-a": format!("{wrong}\n") } }),
        json!({ "url": url, "sensitive_headers": [wrong] }),
        json!({ "url": url, "secrets": [{ "value": [wrong] }] }),
        json!({ "url": "https://example.com/", "tls": { "client_certificate_pem": certificate, "client_key_pem": wrong } }),
        json!({ "url": format!("https://me:{wrong}@example.com/") }),
    ];
    for body in wrongs {
        let refused = said.call(&server, Method::POST, "/v1/endpoints", &body).await;
        assert_eq!(refused["status"], 400, "{refused}");
    }
    let refused =
        said.call(&server, Method::POST, &rotate, &json!({ "value": format!("whsec_{wrong}") })).await;
    assert_eq!(refused["status"], 400, "{refused}");

    // Delivered, failed, buried, repeated, listed, watched.
    let publish = json!({ "event_type": "user.created", "payload": { "value": { "n": 1 } } });
    said.call(&server, Method::POST, "/v1/events", &publish).await;
    let api = server.api();
    api.all_final(SOON).await;
    let letters = said.call(&server, Method::GET, "/v1/deadLetters", &Value::Null).await;
    let letter = letters["dead_letters"][0]["id"].as_str().expect("a dead letter").to_owned();
    said.call(&server, Method::POST, &format!("/v1/deadLetters/{letter}:replay"), &json!({})).await;
    api.all_final(SOON).await;
    let deliveries = said.call(&server, Method::GET, "/v1/deliveries", &Value::Null).await;
    let all = deliveries["deliveries"].as_array().expect("deliveries");
    assert_eq!(all.len(), endpoints.len() + 1);
    for delivery in all {
        let target =
            format!("/v1/deliveries/{}/attempts?view=VIEW_FULL", delivery["id"].as_str().expect("an id"));
        let attempts = said.call(&server, Method::GET, &target, &Value::Null).await;
        assert!(!attempts["attempts"].as_array().expect("attempts").is_empty(), "{attempts}");
    }
    for id in &ids {
        said.call(&server, Method::POST, &format!("/v1/endpoints/{id}:test"), &json!({})).await;
    }
    let none = format!("/v1/endpoints/{}?update_mask=headers", ids[0]);
    said.call(&server, Method::PATCH, &none, &json!({ "headers": {} })).await;
    for target in ["/v1/endpoints", "/metrics", "/v1/events", "/health"] {
        said.call(&server, Method::GET, target, &Value::Null).await;
    }
    let watch = "/v1/deliveries:watch?earliest=true&include_attempts=true";
    let mut stream = http_stream(server.port, Method::GET, watch, &[], Bytes::new()).await.into_body();
    let mut watched = Vec::new();
    eventually(SOON, "every delivery was watched to its end", async || {
        let frame = stream.frame().await.expect("a frame").expect("a whole one");
        watched.extend(frame.into_data().unwrap_or_default());
        let text = String::from_utf8_lossy(&watched);
        let ends = text.matches("DELIVERY_STATUS_DELIVERED").count() + text.matches("DEAD_LETTER").count();
        if ends > endpoints.len() { Ok(()) } else { Err(text.into_owned()) }
    })
    .await;
    said.0.push(("the watch".to_owned(), watched));

    said.stored(&server);
    assert!(server.terminate(SOON).await.success());
    said.stored(&server);
    let log = fs::read(server.log_file()).expect("the log");
    assert!(log.len() > 10_000, "the log says a lot at that level");
    said.0.push(("the log".to_owned(), log));
    assert_eq!(said.found(&canaries), Vec::<String>::new());

    // And yet all of them arrived.
    let heads = |receiver: &Receiver| {
        let text = |request: &Received| format!("{:?} {:?}", spelled(&request.headers), request.body);
        receiver.ledger().iter().map(|request| text(request)).collect::<String>()
    };
    let arrived = Said(vec![
        ("the receiver".to_owned(), heads(&good).into()),
        ("the failing receiver".to_owned(), heads(&bad).into()),
        ("the token URL".to_owned(), heads(&granting).into()),
    ]);
    let arrived: BTreeSet<_> = arrived.found(&canaries).into_iter().collect();
    let expected = [
        "header in the receiver",
        "plain in the receiver",
        "password in the receiver",
        "bearer in the receiver",
        "access in the receiver",
        "header in the failing receiver",
        "access in the failing receiver",
        "client in the token URL",
    ];
    assert_eq!(arrived, expected.map(str::to_owned).into());
    assert!(!secure.requests().is_empty(), "the TLS key was used");
}

/// Headers with the values that libraries would not print.
fn spelled(headers: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// Wherever the limit of what is kept of a body falls within an echo.
#[tokio::test(flavor = "multi_thread")]
async fn an_echo_at_the_limit_of_what_is_kept_shows_no_part_of_a_secret() {
    const KEPT: usize = 16 * 1024;
    const TELLING: usize = 8;
    let secret = "t0ken+of/the=receiver~0123456789";
    let spelled: [fn(char) -> String; 3] =
        [String::from, |char| format!("\\u{:04X}", char as u32), |char| format!("%{:02x}", char as u32)];
    let server = Server::start().await;
    let receiver = Receiver::ok().await;
    let authentication = json!({ "bearer": { "token": secret } });
    let endpoint = json!({ "url": receiver.at("/"), "authentication": authentication });
    let made = Said::default().call(&server, Method::POST, "/v1/endpoints", &endpoint).await;
    let test = format!("/v1/endpoints/{}:test", made["id"].as_str().expect("an id"));
    for spell in spelled {
        let echo: Vec<String> = secret.chars().map(spell).collect();
        for shown in (0..=echo.concat().len()).step_by(3) {
            let body = format!("{}{} after", "-".repeat(KEPT - shown), echo.concat());
            receiver.answer_with(move |_| Answer::ok().body(body.clone()));
            let tested = Said::default().call(&server, Method::POST, &test, &json!({})).await;
            let kept = tested["attempt"]["response"]["body"].as_str().expect("a body");
            let kept = String::from_utf8(STANDARD.decode(kept).expect("base64")).expect("text");
            assert!(kept.starts_with("----"), "{tested}");
            let part = echo.windows(TELLING).find(|part| kept.contains(&part.concat()));
            assert_eq!(part, None, "{shown} bytes of the echo were before the limit");
        }
    }
}
