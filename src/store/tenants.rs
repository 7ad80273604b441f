//! Tenants: one row each, what is set for them as JSON. All of them are in memory
//! in the [`Directory`](super::Directory), so reads never come here.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Error,
    db::{Columns, Conn, params},
    directory::Entry,
    tx::{Reroute, Tx},
};
use crate::domain::{EndpointKey, Quota, RateLimit, Tenant, TenantKey, Timestamp, Usage};

/// Endpoints of a deleted tenant that are removed in one transaction.
const ENDPOINTS_AT_ONCE: usize = 500;

/// Tenants that are not deleted, as [`decode`] reads them.
const ALL: &str =
    "SELECT key, id, version, created_at, updated_at, config FROM tenants WHERE deleted_at IS NULL";

/// What the column `config` holds.
#[derive(Serialize, Deserialize)]
struct Config {
    name: String,
    suspended: bool,
    call_rate: Option<RateLimit>,
    endpoints: u64,
    events_per_day: u64,
    queued_bytes: u64,
    weight: u32,
    metadata: BTreeMap<String, String>,
}

/// What became of a change of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// It is there.
    Done(Arc<Tenant>),
    /// There is no such tenant.
    NotFound,
    /// It is of another version, this one.
    Version(u64),
    /// The id is or was in use.
    IdTaken,
    /// It has endpoints, so many.
    InUse(u64),
}

/// Makes a tenant; its key is given here.
pub(super) fn create(tx: &mut Tx<'_>, mut tenant: Tenant) -> Result<Changed, Error> {
    let sql = "INSERT INTO tenants (id, created_at, updated_at, version, config) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (id) DO NOTHING RETURNING key";
    let values = params![
        &tenant.id,
        tenant.created_at,
        tenant.updated_at,
        tenant.version.cast_signed(),
        config(&tenant)
    ];
    let key = tx.conn.number(sql, &values)?;
    let Some(key) = key else { return Ok(Changed::IdTaken) };
    tenant.key = TenantKey(key);
    Ok(Changed::Done(put(tx, tenant)))
}

/// Changes a tenant. `version` is the one it must have, if any.
pub(super) fn edit(
    tx: &mut Tx<'_>,
    key: TenantKey,
    version: Option<u64>,
    now: Timestamp,
    change: impl FnOnce(&mut Tenant),
) -> Result<Changed, Error> {
    let Some(current) = tx.tenant(key) else { return Ok(Changed::NotFound) };
    if version.is_some_and(|version| version != current.version) {
        return Ok(Changed::Version(current.version));
    }
    let mut next = (*current).clone();
    change(&mut next);
    if next == *current {
        return Ok(Changed::Done(current));
    }
    next.version += 1;
    next.updated_at = now;
    let sql = "UPDATE tenants SET version = $1, updated_at = $2, config = $3 WHERE key = $4";
    let values = params![next.version.cast_signed(), next.updated_at, config(&next), next.key];
    tx.conn.execute(sql, &values)?;
    if (next.suspended, next.weight) != (current.suspended, current.weight) {
        tx.reroute(Reroute::Tenant(key));
    }
    Ok(Changed::Done(put(tx, next)))
}

/// Deletes a tenant with its keys. Its endpoints go afterwards, in pages; without
/// `force` there may be none.
pub(super) fn delete(
    tx: &mut Tx<'_>,
    key: TenantKey,
    version: Option<u64>,
    force: bool,
    now: Timestamp,
) -> Result<Changed, Error> {
    let Some(current) = tx.tenant(key) else { return Ok(Changed::NotFound) };
    if version.is_some_and(|version| version != current.version) {
        return Ok(Changed::Version(current.version));
    }
    let endpoints = tx.routes.count(key);
    if endpoints > 0 && !force {
        return Ok(Changed::InUse(endpoints));
    }
    tx.conn.execute("UPDATE tenants SET deleted_at = $1 WHERE key = $2", &params![now, key])?;
    tx.conn.execute("DELETE FROM api_keys WHERE tenant = $1", &params![key])?;
    tx.enter(Entry::NoTenant(key));
    Ok(Changed::Done(current))
}

/// Deletes some of the endpoints of tenants that are deleted; says which.
pub(super) fn sweep(tx: &mut Tx<'_>, now: Timestamp) -> Result<Vec<EndpointKey>, Error> {
    let sql = "SELECT e.key FROM endpoints e JOIN tenants t ON t.key = e.tenant \
         WHERE t.deleted_at IS NOT NULL AND e.deleted_at IS NULL LIMIT $1";
    let limit = params![ENDPOINTS_AT_ONCE as i64];
    let found = tx.conn.rows(sql, &limit, |row| row.number(0).map(EndpointKey))?;
    for key in &found {
        super::endpoints::remove(tx, *key, now)?;
    }
    Ok(found)
}

/// All tenants that are not deleted and what they use.
pub(super) fn all(conn: &Conn) -> Result<Vec<Entry>, Error> {
    let mut all = conn.rows(ALL, &[], |row| decode(row).map(|it| Entry::Tenant(Arc::new(it))))?;
    let sql = "SELECT tenant, day, events, open, queued_bytes FROM usage";
    let usage = conn.rows(sql, &[], |row| {
        let usage = Usage {
            day: row.number(1)?,
            events: row.count(2)?,
            open: row.number(3)?,
            queued_bytes: row.number(4)?,
        };
        Ok::<_, Error>(Entry::Usage(TenantKey(row.number(0)?), usage))
    })?;
    all.extend(usage);
    Ok(all)
}

/// A tenant, unless it is deleted.
pub(super) fn one(conn: &Conn, key: TenantKey) -> Result<Option<Tenant>, Error> {
    conn.row(const_format::concatcp!(ALL, " AND key = $1"), &params![key], decode)
}

/// Writes what tenants use.
pub(super) fn put_usage(conn: &Conn, usage: &[(TenantKey, Usage)]) -> Result<(), Error> {
    let row = |(tenant, it): &(TenantKey, Usage)| {
        params![*tenant, it.day, it.events.cast_signed(), it.open, it.queued_bytes]
    };
    let suffix = "ON CONFLICT (tenant) DO UPDATE SET day = excluded.day, events = excluded.events, \
         open = excluded.open, queued_bytes = excluded.queued_bytes";
    conn.insert("usage", suffix, usage.iter().map(row))
}

fn put(tx: &mut Tx<'_>, tenant: Tenant) -> Arc<Tenant> {
    let tenant = Arc::new(tenant);
    tx.enter(Entry::Tenant(Arc::clone(&tenant)));
    tenant
}

fn config(it: &Tenant) -> String {
    let config = Config {
        name: it.name.clone(),
        suspended: it.suspended,
        call_rate: it.call_rate,
        endpoints: it.quota.endpoints,
        events_per_day: it.quota.events_per_day,
        queued_bytes: it.quota.queued_bytes,
        weight: it.weight,
        metadata: it.metadata.clone(),
    };
    serde_json::to_string(&config).expect("plain data with text keys is JSON")
}

fn decode(row: &dyn Columns) -> Result<Tenant, Error> {
    let key = TenantKey(row.number(0)?);
    let plain = Tenant {
        version: row.count(2)?,
        updated_at: row.time(4)?,
        ..Tenant::new(key, row.word(1)?, row.time(3)?)
    };
    let Some(config) = row.text(5)? else { return Ok(plain) };
    let config: Config = serde_json::from_str(config)?;
    Ok(Tenant {
        name: config.name,
        suspended: config.suspended,
        call_rate: config.call_rate,
        quota: Quota {
            endpoints: config.endpoints,
            events_per_day: config.events_per_day,
            queued_bytes: config.queued_bytes,
        },
        weight: config.weight,
        metadata: config.metadata,
        ..plain
    })
}
