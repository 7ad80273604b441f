//! Master keys: which ones the store needs, and moving it to the current one.
//!
//! The table `vault` lists every key that something may be sealed under. A key is
//! added at the start, before anything is sealed under it, and the others go in the
//! transaction that finds nothing left under them. So however often the process is
//! killed in between, the table says which keys are still needed.

use const_format::concatcp;

use super::{
    Error, OpenError,
    db::{Conn, params},
    endpoints::{self, PLAIN},
    private::place,
    tx::Tx,
};
use crate::{
    domain::{EndpointKey, TenantKey},
    vault::{KeyId, Place, Vault, key_of},
};

/// Rows sealed anew in one transaction, so that no publish waits long.
const PAGE: i64 = 64;
/// What is sealed to know a key by.
const PROOF: &[u8] = b"hookwire";

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resealed {
    /// Rows sealed under the current key.
    pub rows: usize,
    /// The last of them; nothing: all are, and the other keys are needed no more.
    pub last: Option<EndpointKey>,
}

/// Checks that the ring has every key that the store needs, and notes the current
/// one. Says whether there is anything to seal anew.
pub(super) fn unlock(conn: &Conn, vault: &Vault) -> Result<bool, OpenError> {
    let bytes = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
    let keys = conn.rows("SELECT key, proof FROM vault", &[], |row| {
        Ok::<_, Error>((bytes(row.bytes(0)?), bytes(row.bytes(1)?)))
    })?;
    for (key, proof) in &keys {
        let key = key_of(proof).filter(|id| id.0.as_slice() == key).ok_or(OpenError::KeyProof)?;
        if !vault.knows(key) {
            return Err(OpenError::OtherKey { key });
        }
        vault.open(proof_of(&key.to_string()), proof).map_err(|_| OpenError::KeyProof)?;
    }
    let current = vault.current();
    if !keys.iter().any(|(key, _)| key.as_slice() == current.0) {
        let proof = vault.seal(proof_of(&current.to_string()), PROOF);
        // Another process may do the same at this moment.
        conn.execute("INSERT INTO vault VALUES ($1, $2) ON CONFLICT DO NOTHING", &params![current.0, proof])?;
    }
    let plain = conn.number(concatcp!("SELECT 1 FROM endpoints WHERE ", PLAIN, " LIMIT 1"), &[])?.is_some();
    if plain && !conn.is_shared() {
        // What stands in the open is overwritten where it stood, not just let go. Only
        // old files have any.
        conn.script("PRAGMA secure_delete = ON".to_owned())?;
    }
    // Another process may have sealed something under its own key after all was done.
    let other =
        conn.is_shared() && !conn.rows(STALE, &params![0, current.0, 1], |_| Ok::<_, Error>(()))?.is_empty();
    Ok(plain || other || keys.iter().any(|(key, _)| key.as_slice() != current.0))
}

fn proof_of(id: &str) -> Place<'_> {
    Place { tenant: TenantKey(0), kind: "vault", id }
}

/// Seals the next rows after `from` that are not sealed under the current key.
pub(super) fn step(tx: &mut Tx<'_>, from: EndpointKey) -> Result<Resealed, Error> {
    let current = tx.vault.current();
    let rows = stale(tx.conn, current, from)?;
    let last = rows.last().map(|row| row.key);
    for row in &rows {
        match &row.sealed {
            Some(sealed) => again(tx, row, sealed)?,
            None => endpoints::seal_plain(tx, row.key, row.tenant, &row.id)?,
        }
    }
    if last.is_none() {
        tx.conn.execute("DELETE FROM vault WHERE key <> $1", &params![current.0])?;
    }
    Ok(Resealed { rows: rows.len(), last })
}

/// Rows that are not sealed under a key. Bytes 2 to 9 of a blob are the id of its key.
const STALE: &str = concatcp!(
    "SELECT key, tenant, id, sealed FROM endpoints WHERE key > $1 AND (",
    PLAIN,
    " OR length(sealed) > 0 AND substr(sealed, 2, 8) <> $2) ORDER BY key LIMIT $3"
);

struct Row {
    key: EndpointKey,
    tenant: TenantKey,
    id: String,
    sealed: Option<Vec<u8>>,
}

fn stale(conn: &Conn, current: KeyId, from: EndpointKey) -> Result<Vec<Row>, Error> {
    conn.rows(STALE, &params![from, current.0, PAGE], |row| {
        Ok(Row {
            key: EndpointKey(row.number(0)?),
            tenant: TenantKey(row.number(1)?),
            id: row.word(2)?.to_owned(),
            sealed: row.bytes(3)?.map(<[u8]>::to_vec),
        })
    })
}

/// Seals what was sealed under another key.
fn again(tx: &Tx<'_>, row: &Row, sealed: &[u8]) -> Result<(), Error> {
    let place = place(row.tenant, &row.id);
    let opened = tx
        .vault
        .open(place, sealed)
        .map_err(|why| Error::Corrupt(format!("the secrets of endpoint {} do not open: {why}", row.id)))?;
    let sql = "UPDATE endpoints SET sealed = $1 WHERE key = $2";
    tx.conn.execute(sql, &params![tx.vault.seal(place, &opened), row.key])?;
    Ok(())
}
