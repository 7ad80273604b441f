//! A secret goes to the receiver it was given for and nowhere else.
//!
//! Every secret of a run is a text that stands nowhere else, and afterwards all that
//! the server wrote and said is searched for it, in every spelling that something on
//! the way might have given it. The other half is the master key: what happens
//! without it, and how it is replaced.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use bytes::Bytes;
use hookwire::grpc::pb::{self, DeliveryStatus};
use http::Method;
use http_body_util::BodyExt as _;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use url::form_urlencoded::byte_serialize;

use crate::support::{
    Answer, Api, Authority, Dice, Receiver, Server, event, eventually, http, http_stream, open_endpoint,
};

const SOON: Duration = Duration::from_secs(30);
const JSON: (&str, &str) = ("content-type", "application/json");

/// A secret that stands nowhere else.
struct Canary {
    name: &'static str,
    spellings: Vec<Vec<u8>>,
}

impl Canary {
    fn of(name: &'static str, secret: &[u8]) -> Self {
        let mut spellings =
            vec![secret.to_vec(), hex::encode(secret).into(), hex::encode_upper(secret).into()];
        spellings.push(byte_serialize(secret).collect::<String>().into());
        for engine in [&STANDARD, &URL_SAFE] {
            for before in 0..3 {
                // What stands before and after it in the same text decides the ends.
                let text = engine.encode([&vec![0; before], secret, &[0; 3]].concat());
                spellings.push(text.as_bytes()[4..text.len() - 8].to_vec());
            }
        }
        Self { name, spellings }
    }

    /// `lossy` is the same text, in which whatever is text is found faster.
    fn is_in(&self, text: &[u8], lossy: &str) -> bool {
        self.spellings.iter().any(|spelling| match str::from_utf8(spelling) {
            Ok(spelling) => lossy.contains(spelling),
            Err(_) => text.windows(spelling.len()).any(|window| window == spelling.as_slice()),
        })
    }
}

/// A text nobody guesses, with characters that are spelled differently in URLs.
fn secret(dice: &mut Dice, name: &str) -> String {
    format!("{name}/{:016x}+{:016x}", dice.roll(1, u64::MAX), dice.roll(1, u64::MAX))
}

/// Everything the server said and wrote, by where it was.
#[derive(Default)]
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    async fn call(&mut self, server: &Server, method: Method, target: &str, body: &Value) -> Value {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let reply = http(server.port, method, target, &[JSON], text).await;
        let head = format!("{:?}", reply.headers);
        self.0.push((format!("answer of {target}"), [head.as_bytes(), &reply.body].concat()));
        serde_json::from_slice(&reply.body).unwrap_or_default()
    }

    fn files(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() && path.extension().is_none_or(|ending| ending != "key") {
                self.0.push((path.display().to_string(), fs::read(&path).expect("the file")));
            }
        }
    }

    fn found(&self, canaries: &[Canary]) -> Vec<String> {
        let mut found = Vec::new();
        for (place, text) in &self.0 {
            let lossy = String::from_utf8_lossy(text);
            for canary in canaries.iter().filter(|canary| canary.is_in(text, &lossy)) {
                found.push(format!("{} in {place}", canary.name));
            }
        }
        found
    }
}

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
    let (good, bad) = (Receiver::ok().await, Receiver::answering(|_| Answer::status(500)).await);
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

    // Made: the answer shows the signing secret once, and nothing else.
    let mut said = Said::default();
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

    said.files(&server.data_dir());
    assert!(server.terminate(SOON).await.success());
    said.files(&server.data_dir());
    let log = fs::read(server.log()).expect("the log");
    assert!(log.len() > 10_000, "the log says a lot at that level");
    said.0.push(("the log".to_owned(), log));
    assert_eq!(said.found(&canaries), Vec::<String>::new());

    // And yet all of them arrived.
    let heads = |receiver: &Receiver| {
        let text = |request: &crate::support::Received| {
            format!("{:?} {:?}", spelled(&request.headers), request.body)
        };
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

/// Runs the program to its end, with nothing in its environment but what is given.
fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookwire"));
    command.env_remove("HOOKWIRE_MASTER_KEY").args(args).envs(env.iter().copied()).output().expect("it runs")
}

/// What it says when it refuses: one sentence.
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1, "one sentence: {text}");
    lines[0].to_owned()
}

fn new_key() -> String {
    let output = run(&["keygen"], &[]);
    let key = String::from_utf8(output.stdout).expect("text").trim().to_owned();
    assert_eq!(STANDARD.decode(&key).expect("base64").len(), 32);
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_right_master_key_does_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, file) = (folder.path().join("data"), folder.path().join("key"));
    let (data, file) = (data.to_str().expect("text"), file.to_str().expect("text"));
    let serve = |more: &[&str], env: &[(&str, &str)]| {
        refusal(&run(&[&["serve", "--port", "0", "--data-dir", data], more].concat(), env))
    };
    assert!(serve(&[], &[]).contains("no master key was given"));
    let short = serve(&[], &[("HOOKWIRE_MASTER_KEY", "AAAA")]);
    assert!(short.contains("HOOKWIRE_MASTER_KEY") && short.contains("3 bytes instead of 32"), "{short}");
    assert!(serve(&["--master-key-file", file], &[]).contains("cannot read the master key"));

    assert!(run(&["keygen", "--out", file], &[]).status.success());
    assert!(refusal(&run(&["keygen", "--out", file], &[])).contains("is not overwritten"));
    let mode = |path: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(path).expect("the file").permissions().mode() & 0o777
    };
    assert_eq!(mode(file), 0o600);
    let twice = serve(&["--master-key-file", file], &[("HOOKWIRE_MASTER_KEY", &new_key())]);
    assert!(twice.contains("given twice"), "{twice}");
    assert!(Command::new("chmod").args(["644", file]).status().expect("chmod").success());
    assert!(serve(&["--master-key-file", file], &[]).contains("chmod 600"));
    assert!(!serve(&["--master-key-file", file], &[]).contains(fs::read_to_string(file).expect("it").trim()));

    // A store of another key.
    let mut server = Server::start().await;
    let own = server.data_dir().join("master.key");
    assert_eq!(mode(own.to_str().expect("text")), 0o600);
    server.terminate(SOON).await;
    let used = server.data_dir();
    let args = ["serve", "--port", "0", "--data-dir", used.to_str().expect("text")];
    let other = refusal(&run(&args, &[("HOOKWIRE_MASTER_KEY", &new_key())]));
    assert!(
        other.contains("is sealed under master key") && other.contains("--old-master-key-file"),
        "{other}"
    );
    let rekey = ["rekey", "--data-dir", data];
    let nothing = refusal(&run(&rekey, &[("HOOKWIRE_MASTER_KEY", &new_key())]));
    assert!(nothing.contains("there is no database"), "{nothing}");
}

async fn make_endpoints(api: &Api, count: usize) {
    for number in 0..count {
        let request = pb::CreateEndpointRequest {
            endpoint: Some(pb::Endpoint {
                sensitive_headers: [("x-number".to_owned(), format!("secret-{number}"))].into(),
                ..open_endpoint("http://127.0.0.1:9/")
            }),
            endpoint_id: format!("e{number}"),
        };
        api.endpoints.clone().create_endpoint(request).await.expect("an endpoint");
    }
}

fn keys_in_use(data: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let conn = Connection::open(data.join("hookwire.db")).expect("the database");
    let column = |sql: &str| -> BTreeSet<String> {
        let mut query = conn.prepare(sql).expect("a query");
        let rows = query.query_map([], |row| row.get(0)).expect("rows");
        rows.collect::<Result<_, _>>().expect("texts")
    };
    (column("SELECT hex(substr(sealed, 2, 8)) FROM endpoints"), column("SELECT hex(key) FROM vault"))
}

#[tokio::test(flavor = "multi_thread")]
async fn sealing_anew_survives_five_kills_on_line_and_off_line() {
    // Pages have 64 rows.
    const ENDPOINTS: usize = 64 * 6 + 10;
    let (first, second, third) = (new_key(), new_key(), new_key());
    let mut server = Server::build().env("HOOKWIRE_MASTER_KEY", &first).start().await;
    make_endpoints(&server.api(), ENDPOINTS).await;
    let data = server.data_dir();
    let dir = data.to_str().expect("text").to_owned();
    let rekey = |env: &[(&str, &str)]| run(&["rekey", "--data-dir", &dir], env);
    let keys = [("HOOKWIRE_MASTER_KEY", second.as_str()), ("HOOKWIRE_OLD_MASTER_KEYS", first.as_str())];
    let running = refusal(&rekey(&keys));
    assert!(running.contains("a server runs on"), "{running}");
    server.kill9();

    for kill in 1..=5 {
        let output = rekey(&[&keys[..], &[("HOOKWIRE_CRASH_AFTER_RESEAL", "1")]].concat());
        assert!(!output.status.success(), "kill {kill}");
        assert_eq!(keys_in_use(&data).0.len(), 2, "half way after kill {kill}");
        assert!(refusal(&rekey(&keys[..1])).contains("which was not given"), "the old key is still needed");
    }
    let output = rekey(&keys);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains(&format!("{} endpoints", ENDPOINTS - 5 * 64)), "{told} {output:?}");
    let (used, needed) = keys_in_use(&data);
    assert_eq!((used.len(), &used), (1, &needed));

    // The same by a running server, which is killed as often.
    let keys = [("HOOKWIRE_MASTER_KEY", third.as_str()), ("HOOKWIRE_OLD_MASTER_KEYS", second.as_str())];
    for _ in 1..=5 {
        let output = run(
            &["dev", "--port", "0", "--data-dir", &dir],
            &[&keys[..], &[("HOOKWIRE_CRASH_AFTER_RESEAL", "1")]].concat(),
        );
        assert!(!output.status.success());
        assert_eq!(keys_in_use(&data).0.len(), 2, "half way");
    }
    server.restart_with(&keys).await;
    eventually(SOON, "everything is under the new key", async || {
        let (used, needed) = keys_in_use(&data);
        if used.len() == 1 && used == needed && needed.len() == 1 {
            Ok(())
        } else {
            Err(format!("{used:?} {needed:?}"))
        }
    })
    .await;
    server.terminate(SOON).await;
    server.restart_with(&keys[..1]).await;
    let receiver = Receiver::ok().await;
    let moved = pb::Endpoint { id: "e17".to_owned(), url: receiver.at("/"), ..Default::default() };
    let request = pb::UpdateEndpointRequest { endpoint: Some(moved), update_mask: None };
    let api = server.api();
    api.endpoints.clone().update_endpoint(request).await.expect("UpdateEndpoint");
    let test = pb::TestEndpointRequest { id: "e17".to_owned(), ..Default::default() };
    api.endpoints.clone().test_endpoint(test).await.expect("TestEndpoint");
    assert_eq!(receiver.ledger()[0].header("x-number"), "secret-17");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_row_opens_nowhere_else() {
    let mut server = Server::start().await;
    make_endpoints(&server.api(), 2).await;
    server.terminate(SOON).await;
    let data = server.data_dir();
    let dir = data.to_str().expect("text").to_owned();
    let refused = |change: &str, back: &str| {
        let conn = Connection::open(data.join("hookwire.db")).expect("the database");
        assert_eq!(conn.execute(change, params![]).expect(change), 1);
        let told = refusal(&run(&["dev", "--port", "0", "--data-dir", &dir], &[("LOG_LEVEL", "off")]));
        conn.execute_batch(back).expect(back);
        told
    };
    let conn = Connection::open(data.join("hookwire.db")).expect("the database");
    conn.execute_batch("CREATE TABLE kept AS SELECT key, sealed FROM endpoints").expect("a copy");
    conn.execute_batch("INSERT INTO tenants VALUES (2, 'other', 0)").expect("a tenant");
    let restore =
        "UPDATE endpoints SET tenant = 1, sealed = (SELECT sealed FROM kept WHERE kept.key = endpoints.key)";
    for change in [
        "UPDATE endpoints SET sealed = (SELECT sealed FROM endpoints WHERE id = 'e1') WHERE id = 'e0'",
        "UPDATE endpoints SET tenant = 2 WHERE id = 'e0'",
        "UPDATE endpoints SET sealed = CAST(substr(sealed, 1, 40) || x'0000000000000000' || substr(sealed, 49) AS BLOB) WHERE id = 'e0'",
    ] {
        let told = refused(change, restore);
        assert!(told.contains("the secrets of endpoint e0") && told.contains("do not open"), "{told}");
    }
    conn.execute_batch("DROP TABLE kept").expect("dropped");
    server.restart().await;
    assert_eq!(server.api().endpoint("e0").await.sensitive_headers["x-number"], "***");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_stored_in_the_open_is_sealed() {
    let mut dice = Dice::of("older");
    let (signing, header) = (secret(&mut dice, "signing"), secret(&mut dice, "header"));
    let canaries = [Canary::of("signing", signing.as_bytes()), Canary::of("header", header.as_bytes())];
    let mut server = Server::start().await;
    let receiver = Receiver::ok().await;
    let api = server.api();
    let make = pb::CreateEndpointRequest {
        endpoint: Some(open_endpoint(receiver.at("/"))),
        endpoint_id: "old".to_owned(),
    };
    api.endpoints.clone().create_endpoint(make).await.expect("an endpoint");
    server.terminate(SOON).await;
    // As the version before wrote it.
    let conn = Connection::open(server.data_dir().join("hookwire.db")).expect("the database");
    let secrets = json!([{
        "id": "0".repeat(32), "value": signing, "created_at": 1, "primary_at": null, "expires_at": null,
    }]);
    let sql = "UPDATE endpoints SET secrets = ?, sealed = NULL, \
               config = json_set(config, '$.headers', json(?))";
    conn.execute(sql, params![secrets.to_string(), json!({ "x-old": header }).to_string()]).expect("a row");
    conn.execute_batch("DELETE FROM vault; PRAGMA wal_checkpoint(TRUNCATE)").expect("as before");
    drop(conn);
    let mut said = Said::default();
    said.files(&server.data_dir());
    assert_eq!(said.found(&canaries).len(), 2, "both stand in the open");

    server.restart().await;
    let id = api.publish_to_one(event("user.created", "{}")).await;
    api.delivery_in(&id, DeliveryStatus::Delivered, SOON).await;
    assert_eq!(receiver.ledger()[0].header("x-old"), header);
    eventually(SOON, "the row is sealed", async || {
        let (used, _) = keys_in_use(&server.data_dir());
        if used.iter().all(|key| key.len() == 16) { Ok(()) } else { Err(format!("{used:?}")) }
    })
    .await;
    assert!(server.terminate(SOON).await.success());
    let mut said = Said::default();
    said.files(&server.data_dir());
    assert_eq!(said.found(&canaries), Vec::<String>::new());
    server.restart().await;
    let test = pb::TestEndpointRequest { id: "old".to_owned(), ..Default::default() };
    api.endpoints.clone().test_endpoint(test).await.expect("TestEndpoint");
    assert_eq!(receiver.ledger()[1].header("x-old"), header);
}
