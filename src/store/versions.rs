//! The version that each endpoint's sealed row must have.
//!
//! A sealed row is bound to the version of its endpoint. So that an older sealed value
//! cannot be put back unseen, the current versions stand elsewhere, sealed as well: one
//! parent row for each 64 endpoints. A row that is of another version than its parent
//! says does not open.

use std::collections::BTreeMap;

use super::{
    Error,
    db::{Conn, params},
};
use crate::{
    domain::{EndpointKey, TenantKey},
    vault::{Place, Vault},
};

/// Endpoints of one parent row.
const PAGE: i64 = 64;
/// Bytes of a version.
const LEN: usize = 8;

/// What is recorded of an endpoint's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    /// The version.
    Version(u64),
    /// None: the endpoint was sealed before there was a record.
    None,
    /// The record does not open.
    Unreadable,
}

/// The versions of the endpoints of a parent row; 0 for none. `None`: it does not open.
type Versions = Option<Vec<u64>>;

/// All that is recorded.
pub(super) struct Record(BTreeMap<i64, Versions>);

impl Record {
    /// Reads the record.
    pub fn load(conn: &Conn, vault: &Vault) -> Result<Self, Error> {
        let read = conn.rows("SELECT page, sealed FROM endpoint_versions", &[], |row| {
            let page = row.number(0)?;
            Ok::<_, Error>((page, open(vault, page, row.bytes(1)?.unwrap_or_default())))
        });
        Ok(Self(read?.into_iter().collect()))
    }

    /// What is recorded of an endpoint.
    pub fn of(&self, key: EndpointKey) -> Recorded {
        match self.0.get(&page(key)) {
            None => Recorded::None,
            Some(versions) => recorded(versions.as_deref(), key),
        }
    }
}

/// What is recorded of one endpoint.
pub(super) fn of(conn: &Conn, vault: &Vault, key: EndpointKey) -> Result<Recorded, Error> {
    Ok(match read(conn, vault, page(key))? {
        None => Recorded::None,
        Some(versions) => recorded(versions.as_deref(), key),
    })
}

/// Records the version of an endpoint. Call in the transaction that seals its row.
pub(super) fn set(conn: &Conn, vault: &Vault, key: EndpointKey, version: u64) -> Result<(), Error> {
    let page = page(key);
    let versions = read(conn, vault, page)?.unwrap_or_else(|| Some(Vec::new()));
    // One that does not open is begun anew: the other endpoints of it stay closed.
    let mut versions = versions.unwrap_or_default();
    versions.resize(PAGE as usize, 0);
    versions[slot(key)] = version;
    write(conn, vault, page, &versions)
}

/// Seals what is recorded under the current key, where it is under another.
pub(super) fn reseal(conn: &Conn, vault: &Vault) -> Result<(), Error> {
    let sql = "SELECT page FROM endpoint_versions WHERE substr(sealed, 2, 8) <> $1";
    for page in conn.rows(sql, &params![vault.current().0], |row| row.number(0))? {
        if let Some(Some(versions)) = read(conn, vault, page)? {
            write(conn, vault, page, &versions)?;
        }
    }
    Ok(())
}

fn page(key: EndpointKey) -> i64 {
    key.0.div_euclid(PAGE)
}

fn slot(key: EndpointKey) -> usize {
    key.0.rem_euclid(PAGE) as usize
}

fn recorded(versions: Option<&[u64]>, key: EndpointKey) -> Recorded {
    match versions.map(|versions| versions.get(slot(key)).copied().unwrap_or(0)) {
        None => Recorded::Unreadable,
        Some(0) => Recorded::None,
        Some(version) => Recorded::Version(version),
    }
}

fn read(conn: &Conn, vault: &Vault, page: i64) -> Result<Option<Versions>, Error> {
    let sql = "SELECT sealed FROM endpoint_versions WHERE page = $1";
    conn.row(sql, &params![page], |row| Ok(open(vault, page, row.bytes(0)?.unwrap_or_default())))
}

fn write(conn: &Conn, vault: &Vault, page: i64, versions: &[u64]) -> Result<(), Error> {
    let bytes: Vec<u8> = versions.iter().flat_map(|version| version.to_be_bytes()).collect();
    let sealed = vault.seal(place(&page.to_string()), &bytes);
    let sql = "INSERT INTO endpoint_versions VALUES ($1, $2) ON CONFLICT (page) DO UPDATE SET sealed = excluded.sealed";
    conn.execute(sql, &params![page, sealed])?;
    Ok(())
}

fn open(vault: &Vault, page: i64, sealed: &[u8]) -> Versions {
    match vault.open(place(&page.to_string()), sealed) {
        Ok(bytes) => {
            Some(bytes.as_chunks::<LEN>().0.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect())
        }
        Err(error) => {
            tracing::error!(page, %error, "a record of endpoint versions does not open: restore a backup");
            None
        }
    }
}

fn place(page: &str) -> Place<'_> {
    Place { tenant: TenantKey(0), kind: "endpoint versions", id: page, version: 0 }
}
