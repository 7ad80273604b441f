//! Master keys: which ones the store needs, and moving it to the current one and to the
//! current form of what is sealed.
//!
//! The table `vault` lists every key that something may be sealed under. A key is
//! added at the start, before anything is sealed under it, and the others go in the
//! transaction that finds nothing left under them. So however often the process is
//! killed in between, the table says which keys are still needed.

use const_format::concatcp;

use super::{
    Error, OpenError,
    db::{Conn, params},
    endpoints::{self, PLAIN, Unreadable},
    private::place,
    tx::Tx,
    versions::{self, Recorded},
};
use crate::{
    domain::{EndpointKey, TenantKey},
    vault::{self, KeyId, Place, Vault, key_of},
};

/// Rows sealed anew in one transaction, so that no publish waits long.
const PAGE: i64 = 64;
/// The form of a blob that is current, as its first byte.
const FORM: [u8; 1] = [vault::FORM];
/// What is sealed to know a key by.
const PROOF: &[u8] = b"hookwire";

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resealed {
    /// Rows sealed under the current key.
    pub rows: usize,
    /// Rows that do not open, and stay as they are.
    pub unreadable: usize,
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
    let plain = concatcp!("SELECT 1 FROM endpoints WHERE ", PLAIN, " LIMIT 1");
    let plain = !conn.rows(plain, &[], |_| Ok::<_, Error>(()))?.is_empty();
    if plain && !conn.is_shared() {
        // What stands in the open is overwritten where it stood, not just let go. Only
        // old files have any.
        conn.script("PRAGMA secure_delete = ON".to_owned())?;
    }
    // Rows of an earlier version; and another process may have sealed something under its
    // own key after all was done.
    let other = !conn.rows(STALE, &params![0, current.0, FORM, 1], |_| Ok::<_, Error>(()))?.is_empty();
    Ok(plain || other || keys.iter().any(|(key, _)| key.as_slice() != current.0))
}

fn proof_of(id: &str) -> Place<'_> {
    Place { tenant: TenantKey(0), kind: "vault", id, version: 0 }
}

/// Seals the next rows after `from` that are not sealed under the current key or in the
/// current form. Those that do not open stay as they are.
pub(super) fn step(tx: &mut Tx<'_>, from: EndpointKey) -> Result<Resealed, Error> {
    let current = tx.vault.current();
    let rows = stale(tx.conn, current, from)?;
    let last = rows.last().map(|row| row.key);
    let (mut sealed, mut unreadable) = (0, 0);
    for row in &rows {
        match again(tx, row)? {
            Ok(()) => sealed += 1,
            Err(why) => {
                why.unless_key_is_missing(tx.conn)?;
                unreadable += 1;
                tracing::error!(
                    endpoint = row.id,
                    tenant = row.tenant.0,
                    error = %why,
                    "the stored secrets of an endpoint do not open and are not sealed anew"
                );
            }
        }
    }
    if last.is_none() {
        versions::reseal(tx.conn, tx.vault)?;
        tx.conn.execute("DELETE FROM vault WHERE key <> $1", &params![current.0])?;
    }
    Ok(Resealed { rows: sealed, unreadable, last })
}

/// Rows that are not sealed under a key or not in a form: byte 1 of a blob is its form,
/// bytes 2 to 9 are the id of its key.
const STALE: &str = concatcp!(
    "SELECT key, tenant, id, version, sealed FROM endpoints WHERE key > $1 AND (",
    PLAIN,
    " OR length(sealed) > 0 AND (substr(sealed, 2, 8) <> $2 OR substr(sealed, 1, 1) <> $3)) \
     ORDER BY key LIMIT $4"
);

struct Row {
    key: EndpointKey,
    tenant: TenantKey,
    id: String,
    version: u64,
    sealed: Option<Vec<u8>>,
}

fn stale(conn: &Conn, current: KeyId, from: EndpointKey) -> Result<Vec<Row>, Error> {
    conn.rows(STALE, &params![from, current.0, FORM, PAGE], |row| {
        Ok(Row {
            key: EndpointKey(row.number(0)?),
            tenant: TenantKey(row.number(1)?),
            id: row.word(2)?.to_owned(),
            version: row.count(3)?,
            sealed: row.bytes(4)?.map(<[u8]>::to_vec),
        })
    })
}

/// Seals what was sealed under another key or in another form, or not at all.
fn again(tx: &Tx<'_>, row: &Row) -> Result<Result<(), Unreadable>, Error> {
    let recorded = versions::of(tx.conn, tx.vault, row.key)?;
    let Some(sealed) = &row.sealed else {
        if recorded != Recorded::None {
            return Ok(Err(Unreadable::Version));
        }
        return endpoints::seal_plain(tx, row.key, row.tenant, &row.id, row.version).map(Ok);
    };
    let place = place(row.tenant, &row.id, row.version);
    let opened = match endpoints::open(tx.vault, place, sealed, recorded) {
        Ok(opened) => opened,
        Err(why) => return Ok(Err(why)),
    };
    let sql = "UPDATE endpoints SET sealed = $1 WHERE key = $2";
    tx.conn.execute(sql, &params![tx.vault.seal(place, &opened), row.key])?;
    versions::set(tx.conn, tx.vault, row.key, row.version)?;
    Ok(Ok(()))
}
