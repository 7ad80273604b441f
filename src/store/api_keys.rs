//! API keys: one row each. All of them are in memory in the
//! [`Directory`](super::Directory), so reads never come here.

use ipnet::IpNet;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::{Error, directory::Entry, row::Columns, tx::Tx};
use crate::domain::{ApiKey, ApiKeyId, RateLimit, Scope, TenantKey, Timestamp, TokenHash, Uid};

/// What the column `config` holds.
#[derive(Serialize, Deserialize)]
struct Config {
    name: String,
    scopes: Vec<String>,
    call_rate: Option<RateLimit>,
    networks: Vec<IpNet>,
    certificates: Vec<String>,
}

/// Writes a key, new or changed; a new one is given its number here.
pub(super) fn put(tx: &mut Tx<'_>, mut key: ApiKey) -> Result<(), Error> {
    let sql = "INSERT INTO api_keys (id, tenant, hash, previous, previous_ends, created_at, expires_at, \
         revoked_at, last_used_at, config) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET \
         hash = excluded.hash, previous = excluded.previous, previous_ends = excluded.previous_ends, \
         expires_at = excluded.expires_at, revoked_at = excluded.revoked_at, config = excluded.config \
         RETURNING number";
    let config = Config {
        name: key.name.clone(),
        scopes: key.scopes.iter().map(Scope::to_string).collect(),
        call_rate: key.call_rate,
        networks: key.networks.clone(),
        certificates: key.certificates.iter().map(hex::encode).collect(),
    };
    let row = params![
        key.id.0.to_bytes(),
        key.tenant,
        key.hash,
        key.previous.map(|(hash, _)| hash),
        key.previous.map(|(_, ends)| ends),
        key.created_at,
        key.expires_at,
        key.revoked_at,
        key.last_used_at,
        serde_json::to_string(&config)?,
    ];
    let number: i64 = tx.conn.prepare_cached(sql)?.query_row(row, |row| row.get(0))?;
    key.number = number.cast_unsigned();
    tx.enter(Entry::Key(Box::new(key)));
    Ok(())
}

/// Notes when keys were last used.
pub(super) fn used(tx: &mut Tx<'_>, uses: &[(ApiKeyId, Timestamp)]) -> Result<(), Error> {
    let mut update = tx.conn.prepare_cached("UPDATE api_keys SET last_used_at = ? WHERE id = ?")?;
    for (id, at) in uses {
        update.execute(params![at, id.0.to_bytes()])?;
    }
    Ok(())
}

/// All keys.
pub(super) fn all(conn: &Connection) -> Result<Vec<Entry>, Error> {
    let mut query = conn.prepare(
        "SELECT id, tenant, hash, previous, previous_ends, created_at, expires_at, revoked_at, last_used_at, \
         config, number FROM api_keys",
    )?;
    query.query_and_then([], |row| decode(row).map(|key| Entry::Key(Box::new(key))))?.collect()
}

fn decode(row: &impl Columns) -> Result<ApiKey, Error> {
    let bad = |what: &str| Error::Corrupt(format!("an API key has a bad {what}"));
    let hash =
        |column| row.bytes(column)?.map(|it| TokenHash::try_from(it).map_err(|_| bad("hash"))).transpose();
    let config: Config = serde_json::from_str(row.word(9)?)?;
    let id = row.bytes(0)?.and_then(Uid::from_bytes).ok_or_else(|| bad("id"))?;
    let certificate = |text: &String| {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map(|()| bytes).map_err(|_| bad("certificate"))
    };
    Ok(ApiKey {
        number: row.count(10)?,
        id: ApiKeyId(id),
        name: config.name,
        tenant: row.integer(1)?.map(TenantKey),
        scopes: config
            .scopes
            .iter()
            .map(|text| text.parse().map_err(|_| bad("scope")))
            .collect::<Result<_, _>>()?,
        expires_at: row.time_if(6)?,
        call_rate: config.call_rate,
        networks: config.networks,
        certificates: config.certificates.iter().map(certificate).collect::<Result<_, _>>()?,
        revoked_at: row.time_if(7)?,
        hash: hash(2)?.ok_or_else(|| bad("hash"))?,
        previous: hash(3)?.zip(row.time_if(4)?),
        created_at: row.time(5)?,
        last_used_at: row.time_if(8)?,
    })
}
