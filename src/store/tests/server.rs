//! What a database server may be set up like, and what is said of it.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};

use crate::{
    domain::{InstanceId, Micros, Shard},
    store::{Config, Location, PostgresError, Server, Store, scratch::Scratch},
};

/// A database of its own, and its name.
async fn scratch() -> (Scratch, String) {
    let cluster = std::env::var("HOOKWIRE_TEST_POSTGRES").expect("a cluster, as `make test` has one");
    let scratch = Scratch::make(&cluster).await.unwrap();
    let name = scratch.url().rsplit_once('/').unwrap().1.to_owned();
    (scratch, name)
}

async fn execute(url: &str, sql: impl Into<String>) {
    let mut conn = Server::new(url, false).unwrap().connect("test").await.unwrap();
    conn.execute(sqlx::raw_sql(AssertSqlSafe(sql.into()))).await.unwrap();
    conn.close().await.unwrap();
}

fn config(url: &str, instance: i64) -> Config {
    let location = Location::Server(Box::new(Server::new(url, false).unwrap()));
    Config { instance: InstanceId(instance), ..Config::sample(location) }
}

#[tokio::test]
async fn sessions_state_what_they_need_whatever_the_database_sets() {
    let (scratch, name) = scratch().await;
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_deferrable = on",
        "statement_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "idle_session_timeout = '1ms'",
        "\"TimeZone\" = 'Asia/Kathmandu'",
    ] {
        execute(scratch.url(), format!("ALTER DATABASE {name} SET {setting}")).await;
    }
    let server = Server::new(scratch.url(), false).unwrap();
    let sql = "SELECT current_setting('transaction_isolation'), current_setting('transaction_deferrable'), \
         current_setting('statement_timeout'), current_setting('lock_timeout'), \
         current_setting('idle_session_timeout'), current_setting('TimeZone')";
    let expected = ["read committed", "off", "6s", "5s", "0", "UTC"];
    let row = server.connect("fleet 1").await.unwrap().fetch_one(sql).await.unwrap();
    assert_eq!(std::array::from_fn::<String, 6, _>(|column| row.get(column)), expected);
    let row = server.readers().fetch_one(sql).await.unwrap();
    assert_eq!(std::array::from_fn::<String, 6, _>(|column| row.get(column)), expected);
}

#[tokio::test]
async fn two_fleets_in_two_schemas_share_no_lock_and_no_channel() {
    let (scratch, _) = scratch().await;
    execute(scratch.url(), "CREATE SCHEMA first; CREATE SCHEMA second").await;
    let in_schema = |name: &str| format!("{}?options=-csearch_path%3D{name}", scratch.url());
    let (first, _) = Store::open(config(&in_schema("first"), 1)).await.unwrap();
    let (second, _) = Store::open(config(&in_schema("second"), 2)).await.unwrap();
    let (mut one, mut other) =
        (first.join(Micros::ZERO).await.unwrap(), second.join(Micros::ZERO).await.unwrap());
    let all: Vec<Shard> = Shard::all().collect();
    assert_eq!(one.lock(&all).await.unwrap(), all);
    assert_eq!(other.lock(&all).await.unwrap(), all, "those of the other fleet are other locks");
    for (membership, me) in [(&mut one, 1), (&mut other, 2)] {
        let members = membership.beat(false, Micros::ZERO).await.unwrap().members;
        assert_eq!(members.iter().map(|it| it.id).collect::<Vec<_>>(), [InstanceId(me)]);
    }
    let mut ears = second.listen().await.unwrap();
    one.tell(None, "of the first").await.unwrap();
    other.tell(None, "of the second").await.unwrap();
    assert_eq!(ears.hear().await.unwrap().as_deref(), Some("of the second"));
    // One member of the same fleet gets no lock that another has.
    let (fellow, _) = Store::open(config(&in_schema("first"), 3)).await.unwrap();
    let mut fellow = fellow.join(Micros::ZERO).await.unwrap();
    assert_eq!(fellow.lock(&all).await.unwrap(), []);
    one.unlock(&all[..2]).await.unwrap();
    assert_eq!(fellow.lock(&all).await.unwrap(), all[..2]);
}

#[tokio::test]
async fn servers_with_other_locks_are_not_joined() {
    let (scratch, _) = scratch().await;
    let (store, _) = Store::open(config(scratch.url(), 1)).await.unwrap();
    drop(store);
    let mut old = Server::new(scratch.url(), false).unwrap().connect("member 7").await.unwrap();
    old.execute(
        "INSERT INTO instances (id, name, version, backend, started_at, seen_at) VALUES (7, 'old', '0.1.0', \
         pg_backend_pid(), 0, 0)",
    )
    .await
    .unwrap();
    let refused = Store::open(config(scratch.url(), 2)).await.unwrap_err().to_string();
    assert!(refused.contains("stop all of them"), "{refused}");
    old.close().await.unwrap();
}

#[tokio::test]
async fn what_keeps_a_server_from_being_used_is_named() {
    let (scratch, name) = scratch().await;
    let role = format!("guest_of_{name}");
    execute(scratch.url(), format!("CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        .await;
    let as_role = scratch.url().replace("hookwire@", &format!("{role}@"));
    let refusal = async |url: &str| Store::open(config(url, 1)).await.unwrap_err().to_string();
    for (url, advice) in [
        (as_role.clone(), "lacks a privilege"),
        (format!("{}_that_is_not_there", scratch.url()), "no such database"),
        (format!("{}?options=-csearch_path%3Dnowhere", scratch.url()), "no schema of the search path"),
        (scratch.url().replace("hookwire@", "nobody_at_all@"), "refuses the user"),
        (
            format!("{}?options=-cdefault_transaction_read_only%3Don", scratch.url()),
            "default_transaction_read_only",
        ),
    ] {
        let told = refusal(&url).await;
        assert!(told.contains(advice), "{url}: {told}");
    }
    execute(scratch.url(), "CREATE TABLE tenants (mine INT)").await;
    let told = refusal(scratch.url()).await;
    assert!(told.contains("are not hookwire's"), "{told}");
}

#[test]
fn a_url_names_one_server_that_takes_writes() {
    let new = |url: &str| Server::new(url, false);
    for (url, host) in [
        ("postgres://me@[::1]:5432/db?sslmode=disable", "::1"),
        ("postgres://me@[::ffff:127.0.0.1]/db?sslmode=disable", "::ffff:127.0.0.1"),
        ("postgres://me@LOCALHOST/db?sslmode=disable", "localhost"),
        ("postgres://me@127.8.9.1/db?sslmode=disable&target_session_attrs=read-write", "127.8.9.1"),
    ] {
        let server = new(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(server.host().to_lowercase().replace("7f00:1", "127.0.0.1"), host);
    }
    let many = new("postgres://me@a:1,b:2/db?target_session_attrs=read-write");
    assert!(matches!(many, Err(PostgresError::Hosts)));
    assert!(matches!(new("postgres:///db?host=a,b"), Err(PostgresError::Hosts)));
    let standby = new("postgres://me@a/db?target_session_attrs=standby");
    assert!(matches!(standby, Err(PostgresError::Attributes(wanted)) if wanted == "standby"));
    assert!(matches!(new("postgres://me@10.0.0.1/db?sslmode=disable"), Err(PostgresError::Plaintext(_))));
}
