//! API keys: one row each. All of them are in memory in the
//! [`Directory`](super::Directory), so reads never come here.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Error,
    db::{Columns, Conn, params},
    directory::Entry,
    tx::Tx,
};
use crate::domain::{ApiKey, ApiKeyId, RateLimit, Scope, TenantKey, Timestamp, TokenHash, Uid};

/// Keys as [`decode`] reads them.
const ALL: &str = "SELECT id, tenant, hash, previous, previous_ends, created_at, expires_at, revoked_at, \
     last_used_at, config, number FROM api_keys";

/// What the column `config` holds.
#[derive(Serialize, Deserialize)]
struct Config {
    name: String,
    scopes: Vec<String>,
    call_rate: Option<RateLimit>,
    networks: Vec<IpNet>,
    certificates: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    required_certificates: Vec<String>,
}

/// Writes a key, new or changed; a new one is given its number here.
pub(super) fn put(tx: &mut Tx<'_>, mut key: ApiKey) -> Result<(), Error> {
    let sql = "INSERT INTO api_keys (id, tenant, hash, previous, previous_ends, created_at, expires_at, \
         revoked_at, last_used_at, config) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO UPDATE SET \
         hash = excluded.hash, previous = excluded.previous, previous_ends = excluded.previous_ends, \
         expires_at = excluded.expires_at, revoked_at = excluded.revoked_at, config = excluded.config \
         RETURNING number";
    let config = Config {
        name: key.name.clone(),
        scopes: key.scopes.iter().map(Scope::to_string).collect(),
        call_rate: key.call_rate,
        networks: key.networks.clone(),
        certificates: key.certificates.iter().map(hex::encode).collect(),
        required_certificates: key.required_certificates.iter().map(hex::encode).collect(),
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
    let number =
        tx.conn.number(sql, &row)?.ok_or_else(|| Error::Corrupt("a key got no number".to_owned()))?;
    key.number = number.cast_unsigned();
    tx.enter(Entry::Key(Box::new(key)));
    Ok(())
}

/// Notes when keys were last used.
pub(super) fn used(tx: &mut Tx<'_>, uses: &[(ApiKeyId, Timestamp)]) -> Result<(), Error> {
    // Instances hear of different uses.
    let sql = "UPDATE api_keys SET last_used_at = $1 WHERE id = $2 AND coalesce(last_used_at, 0) < $1";
    for (id, at) in uses {
        tx.conn.execute(sql, &params![at, id.0.to_bytes()])?;
    }
    Ok(())
}

/// All keys.
pub(super) fn all(conn: &Conn) -> Result<Vec<Entry>, Error> {
    conn.rows(ALL, &[], |row| decode(row).map(|key| Entry::Key(Box::new(key))))
}

/// A key by its number.
pub(super) fn one(conn: &Conn, number: i64) -> Result<Option<ApiKey>, Error> {
    conn.row(const_format::concatcp!(ALL, " WHERE number = $1"), &params![number], decode)
}

fn decode(row: &dyn Columns) -> Result<ApiKey, Error> {
    let bad = |what: &str| Error::Corrupt(format!("an API key has a bad {what}"));
    let hash =
        |column| row.bytes(column)?.map(|it| TokenHash::try_from(it).map_err(|_| bad("hash"))).transpose();
    let config: Config = serde_json::from_str(row.word(9)?)?;
    let id = row.bytes(0)?.and_then(Uid::from_bytes).ok_or_else(|| bad("id"))?;
    let certificate = |text: &String| {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map(|()| bytes).map_err(|_| bad("certificate"))
    };
    let certificates = |texts: &[String]| texts.iter().map(certificate).collect::<Result<_, _>>();
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
        certificates: certificates(&config.certificates)?,
        required_certificates: certificates(&config.required_certificates)?,
        revoked_at: row.time_if(7)?,
        hash: hash(2)?.ok_or_else(|| bad("hash"))?,
        previous: hash(3)?.zip(row.time_if(4)?),
        created_at: row.time(5)?,
        last_used_at: row.time_if(8)?,
    })
}
