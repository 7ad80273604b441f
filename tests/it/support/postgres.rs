//! PostgreSQL: databases in the cluster of the run, and clusters that a test may
//! kill. `tests/postgres` makes them and does what is done to them.

use std::{
    collections::hash_map::RandomState,
    env,
    hash::{BuildHasher as _, Hasher as _},
    process::Command,
};

use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use url::Url;

/// A cluster of the test's own. Gone when dropped.
pub struct Cluster {
    folder: TempDir,
    settings: Vec<String>,
    url: String,
}

impl Cluster {
    /// A running one, with settings as `name=value` beside the usual ones.
    pub fn new(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("temporary directory");
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut cluster = Self { folder, settings, url: String::new() };
        cluster.url = cluster.ask("start");
        cluster
    }

    /// Of its database `postgres`; the same after each start.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts it again on the same data and the same port.
    pub fn start(&self) {
        self.ask("start");
    }

    /// Ends it in order.
    pub fn stop(&self) {
        self.ask("stop");
    }

    /// SIGKILL to all its processes; returns when they are gone.
    pub fn kill9(&self) {
        self.ask("kill");
    }

    /// Halts all its processes: connections stay open, and nobody answers.
    pub fn freeze(&self) {
        self.ask("freeze");
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.ask("thaw");
    }

    fn ask(&self, what: &str) -> String {
        let mut command = Command::new("tests/postgres");
        command.arg(what).arg(self.folder.path());
        if what == "start" {
            command.args(&self.settings);
        }
        said_by(&mut command).unwrap_or_else(|why| panic!("tests/postgres {what}: {why}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The test may be failing already.
        let _ = said_by(Command::new("tests/postgres").arg("stop").arg(self.folder.path()));
    }
}

/// A database of the test's own. Whatever is connected to it is cut off when it is dropped.
pub struct Database {
    cluster: Url,
    name: String,
}

impl Database {
    /// One in the cluster of the run.
    pub fn new() -> Self {
        let cluster = env::var("HOOKWIRE_TEST_POSTGRES").expect(
            "HOOKWIRE_TEST_POSTGRES is not set: run `make test`, or set it to the URL that \
             `tests/postgres start DIR` prints",
        );
        Self::at(&cluster)
    }

    /// One in a cluster of the test's own.
    pub fn on(cluster: &Cluster) -> Self {
        Self::at(cluster.url())
    }

    fn at(cluster: &str) -> Self {
        // Several runs may share a cluster, and one that was killed leaves its own.
        let name = format!("test_{:016x}", RandomState::new().build_hasher().finish());
        psql(cluster, &format!("CREATE DATABASE {name}")).expect("a database");
        Self { cluster: Url::parse(cluster).expect("a URL"), name }
    }

    /// What `--store` is told.
    pub fn url(&self) -> String {
        let mut url = self.cluster.clone();
        url.set_path(&self.name);
        url.into()
    }

    /// What a statement answers: a line for each row, with `|` between its columns.
    pub fn query(&self, sql: &str) -> String {
        psql(&self.url(), sql).unwrap_or_else(|why| panic!("{sql}: {why}"))
    }

    /// Runs a statement that changes rows; how many.
    pub fn change(&self, sql: &str) -> usize {
        let counted = format!("WITH changed AS ({sql} RETURNING 1) SELECT count(*) FROM changed");
        self.query(&counted).parse().expect("a number")
    }

    /// A connection of the test's own, for what takes more than one statement.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&self.url()).await
    }

    /// All that is in it, as text; bytes in hexadecimal.
    pub fn dump(&self) -> String {
        said_by(Command::new("pg_dump").arg("--dbname").arg(self.url())).expect("a dump")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // It goes with its cluster. Dropped now, it would make the server write out everything,
        // which keeps the commits of tests beside this one waiting for seconds.
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname =";
        let _ = psql(self.cluster.as_str(), &format!("{sql} '{}'", self.name));
    }
}

fn psql(url: &str, sql: &str) -> Result<String, String> {
    let quiet = ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"];
    // A frozen cluster takes connections and says nothing.
    said_by(Command::new("psql").args(quiet).args(["--command", sql, url]).env("PGCONNECT_TIMEOUT", "5"))
}

/// What a program says: on its output when all went well, else as an error.
fn said_by(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let said = if output.status.success() { &output.stdout } else { &output.stderr };
    let said = String::from_utf8_lossy(said).trim().to_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[test]
fn a_cluster_keeps_what_was_committed_through_whatever_is_done_to_it() {
    let cluster = Cluster::new(&["max_connections=50"]);
    let database = Database::on(&cluster);
    assert_eq!(database.query("SHOW max_connections"), "50");
    database
        .query("CREATE TABLE kept (number int, name text); INSERT INTO kept VALUES (1, 'one'), (2, 'two')");
    let kept = || database.query("SELECT * FROM kept ORDER BY number");
    cluster.freeze();
    cluster.thaw();
    assert_eq!(kept(), "1|one\n2|two");
    cluster.kill9();
    cluster.start();
    assert_eq!(kept(), "1|one\n2|two");
    cluster.freeze();
    cluster.kill9();
    cluster.start();
    cluster.stop();
    cluster.start();
    assert_eq!(kept(), "1|one\n2|two");
}
