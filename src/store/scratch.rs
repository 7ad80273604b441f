//! Databases for measurements and tests, to be thrown away.

use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{Error, PostgresError, Server};

/// A database of one's own on somebody's server, made for a measurement or a test. It stays: the
/// server is expected to be thrown away, too.
#[derive(Debug)]
pub struct Scratch {
    url: String,
    server: u32,
}

impl Scratch {
    /// Makes one beside the database of a URL.
    pub async fn make(url: &str) -> Result<Self, MakeError> {
        let mut conn = Server::new(url, false)?.connect("bench").await?;
        let name: String =
            conn.fetch_one("SELECT 'bench_' || replace(gen_random_uuid()::text, '-', '')").await?.get(0);
        conn.execute(sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))).await?;
        let pid: i32 = conn.fetch_one("SELECT pg_backend_pid()").await?.get(0);
        let mut url = url::Url::parse(url).map_err(|_| MakeError::Elsewhere)?;
        url.set_path(&name);
        // A session is a child of the server's first process.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| MakeError::Elsewhere)?;
        let parent = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(1));
        let server = parent.and_then(|pid| pid.parse().ok()).ok_or(MakeError::Elsewhere)?;
        Ok(Self { url: url.into(), server })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's first process, of which all others are children.
    pub fn server(&self) -> u32 {
        self.server
    }
}

/// Why a database could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The server cannot be used.
    #[error(transparent)]
    Server(#[from] PostgresError),
    /// The server refused.
    #[error(transparent)]
    Refused(Error),
    /// What it uses cannot be seen.
    #[error("the server is not on this machine, so that what it uses cannot be measured")]
    Elsewhere,
}

impl From<sqlx::Error> for MakeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Refused(error.into())
    }
}
