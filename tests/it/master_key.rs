//! The master key: what happens without it, how it is replaced though the process is
//! killed half way, and what a sealed row is bound to.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hookwire::grpc::pb::{self, DeliveryStatus};
use rusqlite::{Connection, params};
use serde_json::json;

use crate::support::{
    Api, Canary, Dice, Receiver, Said, Server, event, eventually, open_endpoint, reason_of, secret,
};

const SOON: Duration = Duration::from_secs(30);

/// Runs the program to its end, with nothing in its environment but what is given.
fn run(args: &[impl AsRef<OsStr>], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookwire"));
    command.env_remove("HOOKWIRE_MASTER_KEY").args(args).envs(env.iter().copied()).output().expect("it runs")
}

/// Arguments for a command on the data of a server.
fn at(server: &Server, args: &[&str]) -> Vec<String> {
    args.iter().map(|argument| (*argument).to_owned()).chain(server.place()).collect()
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
    let mode = |path: &str| fs::metadata(path).expect("the file").permissions().mode() & 0o777;
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
    let args = at(&server, &["serve", "--port", "0"]);
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

/// The file of a server that has its data in one.
fn open(server: &Server) -> Connection {
    Connection::open(server.data_dir().join("hookwire.db")).expect("the database")
}

/// A column of texts, from wherever a server has its data.
fn column(server: &Server, sql: &str) -> BTreeSet<String> {
    if let Some(database) = server.database() {
        return database.query(sql).lines().map(str::to_owned).collect();
    }
    let conn = open(server);
    let mut query = conn.prepare(sql).expect("a query");
    let rows = query.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<Result<_, _>>().expect("texts")
}

/// The keys that rows are sealed under, and those that are said to be needed.
fn keys_in_use(server: &Server) -> (BTreeSet<String>, BTreeSet<String>) {
    let hex = |column: &str| match server.database() {
        Some(_) => format!("encode({column}, 'hex')"),
        None => format!("hex({column})"),
    };
    let used = format!("SELECT {} FROM endpoints", hex("substr(sealed, 2, 8)"));
    let needed = format!("SELECT {} FROM vault", hex("key"));
    (column(server, &used), column(server, &needed))
}

/// Changes rows behind the server's back; how many.
fn change(server: &Server, sql: &str) -> usize {
    match server.database() {
        Some(database) => database.change(sql),
        None => open(server).execute(sql, params![]).expect(sql),
    }
}

/// Runs a statement behind the server's back.
fn script(server: &Server, sql: &str) {
    match server.database() {
        Some(database) => drop(database.query(sql)),
        None => open(server).execute_batch(sql).expect(sql),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sealing_anew_survives_five_kills_on_line_and_off_line() {
    // Pages have 64 rows.
    const ENDPOINTS: usize = 64 * 6 + 10;
    let (first, second, third) = (new_key(), new_key(), new_key());
    let mut server = Server::build().env("HOOKWIRE_MASTER_KEY", &first).start().await;
    make_endpoints(&server.api(), ENDPOINTS).await;
    let (offline, online) = (at(&server, &["rekey"]), at(&server, &["dev", "--port", "0"]));
    let rekey = |env: &[(&str, &str)]| run(&offline, env);
    let keys = [("HOOKWIRE_MASTER_KEY", second.as_str()), ("HOOKWIRE_OLD_MASTER_KEYS", first.as_str())];
    let running = refusal(&rekey(&keys));
    assert!(running.contains("a server runs on"), "{running}");
    server.kill9();

    for kill in 1..=5 {
        let output = rekey(&[&keys[..], &[("HOOKWIRE_CRASH_AFTER_RESEAL", "1")]].concat());
        assert!(!output.status.success(), "kill {kill}");
        assert_eq!(keys_in_use(&server).0.len(), 2, "half way after kill {kill}");
        assert!(refusal(&rekey(&keys[..1])).contains("which was not given"), "the old key is still needed");
    }
    let output = rekey(&keys);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains(&format!("{} endpoints", ENDPOINTS - 5 * 64)), "{told} {output:?}");
    let (used, needed) = keys_in_use(&server);
    assert_eq!((used.len(), &used), (1, &needed));

    // The same by a running server, which is killed as often.
    let keys = [("HOOKWIRE_MASTER_KEY", third.as_str()), ("HOOKWIRE_OLD_MASTER_KEYS", second.as_str())];
    for _ in 1..=5 {
        let output = run(&online, &[&keys[..], &[("HOOKWIRE_CRASH_AFTER_RESEAL", "1")]].concat());
        assert!(!output.status.success());
        assert_eq!(keys_in_use(&server).0.len(), 2, "half way");
    }
    server.restart_with(&keys).await;
    eventually(SOON, "everything is under the new key", async || {
        let (used, needed) = keys_in_use(&server);
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

/// A change of an endpoint that has no effect on whether it is called.
async fn rename(api: &Api, id: &str) -> Result<(), tonic::Status> {
    let endpoint = pb::Endpoint { id: id.to_owned(), name: "renamed".to_owned(), ..Default::default() };
    let request = pb::UpdateEndpointRequest { endpoint: Some(endpoint), update_mask: None };
    api.endpoints.clone().update_endpoint(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_row_opens_nowhere_else_and_one_that_does_not_open_stops_nobody_else() {
    let mut server = Server::start().await;
    make_endpoints(&server.api(), 2).await;
    server.terminate(SOON).await;
    let altered = match server.database() {
        Some(_) => r"substr(sealed, 1, 40) || '\x0000000000000000' || substr(sealed, 49)",
        None => "CAST(substr(sealed, 1, 40) || x'0000000000000000' || substr(sealed, 49) AS BLOB)",
    };
    // Before and after a change.
    script(&server, "CREATE TABLE older AS SELECT * FROM endpoints");
    server.restart().await;
    rename(&server.api(), "e0").await.expect("UpdateEndpoint");
    server.terminate(SOON).await;
    script(&server, "CREATE TABLE newest AS SELECT * FROM endpoints");
    let from = |table: &str, columns: &str| {
        format!("({columns}) = (SELECT {columns} FROM {table} WHERE {table}.id = endpoints.id)")
    };
    for wrong in [
        "sealed = (SELECT other.sealed FROM endpoints AS other WHERE other.id = 'e1')".to_owned(),
        format!("sealed = {altered}"),
        from("older", "sealed, version"),
        from("older", "sealed, config"),
    ] {
        assert_eq!(change(&server, &format!("UPDATE endpoints SET {wrong} WHERE id = 'e0'")), 1);
        server.restart().await;
        let api = server.api();
        let broken = api.endpoint("e0").await;
        assert_eq!(broken.state(), pb::endpoint::State::AutoDisabled, "{wrong}");
        assert!(broken.state_reason.contains("its stored secrets cannot be read"), "{}", broken.state_reason);
        let refused = rename(&api, "e0").await.expect_err("it cannot be changed");
        assert_eq!(reason_of(&refused), "ENDPOINT_INACTIVE", "{refused:?}");
        let test = pb::TestEndpointRequest { id: "e0".to_owned(), ..Default::default() };
        let refused = api.endpoints.clone().test_endpoint(test).await.expect_err("it cannot be called");
        assert_eq!(reason_of(&refused), "ENDPOINT_INACTIVE", "{refused:?}");
        assert_eq!(api.endpoint("e1").await.state(), pb::endpoint::State::Active);
        rename(&api, "e1").await.expect("the other goes on");
        let log = server.log();
        assert!(log.contains("the stored secrets of an endpoint do not open"), "{log}");
        server.terminate(SOON).await;
        script(
            &server,
            &format!("UPDATE endpoints SET {} WHERE id = 'e0'", from("newest", "sealed, version, config")),
        );
    }
    server.restart().await;
    let api = server.api();
    rename(&api, "e0").await.expect("restored, it is as it was");
    assert_eq!(api.endpoint("e0").await.sensitive_headers["x-number"], "***");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_restored_without_its_key_gets_no_new_one() {
    let mut server = Server::start().await;
    make_endpoints(&server.api(), 1).await;
    server.terminate(SOON).await;
    let (key, aside) = (server.data_dir().join("master.key"), server.data_dir().join("aside"));
    fs::rename(&key, &aside).expect("the key is put aside");
    let told = refusal(&run(&at(&server, &["dev", "--port", "0"]), &[("LOG_LEVEL", "off")]));
    assert!(
        told.contains("the database is sealed under master key") && told.contains("--master-key-file"),
        "{told}"
    );
    assert!(!key.exists(), "no key is made that opens nothing");
    fs::rename(&aside, &key).expect("the key is put back");
    server.restart().await;
    rename(&server.api(), "e0").await.expect("UpdateEndpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_stored_in_the_open_is_sealed() {
    let mut dice = Dice::of("older");
    let (signing, header) = (secret(&mut dice, "signing"), secret(&mut dice, "header"));
    let canaries = [Canary::of("signing", signing.as_bytes()), Canary::of("header", header.as_bytes())];
    // Those versions knew files only.
    let mut server = Server::build().in_files().start().await;
    let receiver = Receiver::ok().await;
    let api = server.api();
    let make = pb::CreateEndpointRequest {
        endpoint: Some(open_endpoint(receiver.at("/"))),
        endpoint_id: "old".to_owned(),
    };
    api.endpoints.clone().create_endpoint(make).await.expect("an endpoint");
    server.terminate(SOON).await;
    // As the version before wrote it.
    let conn = open(&server);
    let secrets = json!([{
        "id": "0".repeat(32), "value": signing, "created_at": 1, "primary_at": null, "expires_at": null,
    }]);
    let sql = "UPDATE endpoints SET secrets = ?, sealed = NULL, \
               config = json_set(config, '$.headers', json(?))";
    conn.execute(sql, params![secrets.to_string(), json!({ "x-old": header }).to_string()]).expect("a row");
    conn.execute_batch("DELETE FROM vault; DELETE FROM endpoint_versions; PRAGMA wal_checkpoint(TRUNCATE)")
        .expect("as before");
    drop(conn);
    let mut said = Said::default();
    said.files(&server.data_dir());
    assert_eq!(said.found(&canaries).len(), 2, "both stand in the open");

    server.restart().await;
    let id = api.publish_to_one(event("user.created", "{}")).await;
    api.delivery_in(&id, DeliveryStatus::Delivered, SOON).await;
    assert_eq!(receiver.ledger()[0].header("x-old"), header);
    eventually(SOON, "the row is sealed", async || {
        let (used, _) = keys_in_use(&server);
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
