//! Endpoints: one row each, their configuration as JSON and beside it, sealed, what
//! of it may be secret. All of them are in memory in the routing table, opened, so
//! reads never come here and publishing opens nothing.

use std::{collections::BTreeMap, sync::Arc};

use const_format::concatcp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    Error, OpenError, circuits,
    db::{Columns, Conn, params},
    private::{Private, place},
    tx::{Reroute, Tx},
    versions::{self, Record, Recorded},
};
use crate::{
    domain::{
        BreakerPolicy, DeadLetterPolicy, Endpoint, EndpointKey, EndpointState, Envelope, HttpOptions,
        Pattern, RateLimit, RetryPolicy, Signing, TenantKey, Timestamp,
    },
    vault::{self, Vault, is_versioned},
};

/// Rows of before there was a vault: their secrets stand in the open.
pub(super) const PLAIN: &str = "sealed IS NULL";

/// Endpoints that are not deleted, as [`decode`] reads them.
const ALL: &str = "SELECT key, tenant, id, version, created_at, updated_at, config, secrets, sealed \
     FROM endpoints WHERE deleted_at IS NULL";

/// What the column `config` holds.
#[derive(Serialize, Deserialize)]
struct Config {
    name: String,
    description: String,
    url: String,
    state: EndpointState,
    state_reason: String,
    event_types: Vec<Pattern>,
    /// Of rows of before; sealed since.
    #[serde(default, skip_serializing)]
    headers: BTreeMap<String, String>,
    http: HttpOptions,
    envelope: Envelope,
    signing: Signing,
    retry: RetryPolicy,
    rate_limit: RateLimit,
    max_in_flight: u32,
    breaker: BreakerPolicy,
    dead_letters: DeadLetterPolicy,
    metadata: BTreeMap<String, String>,
}

/// What became of the making of an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Created {
    /// It is there.
    Done(Arc<Endpoint>),
    /// The id is or was in use.
    IdTaken,
    /// The tenant has as many as it may, this many.
    Quota(u64),
    /// The tenant is gone.
    NoTenant,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Edited<E> {
    /// It is there.
    Done(Arc<Endpoint>),
    /// There is no such endpoint.
    NotFound,
    /// It is of another version, this one.
    Version(u64),
    /// It is quarantined: what it is cannot be read as a whole.
    Quarantined,
    /// The change does not fit what is there.
    Refused(E),
}

/// Makes an endpoint; its key is given here.
pub(super) fn create(tx: &mut Tx<'_>, mut endpoint: Endpoint) -> Result<Created, Error> {
    let Some(tenant) = tx.tenant(endpoint.tenant) else { return Ok(Created::NoTenant) };
    let limit = tenant.quota.endpoints;
    if limit > 0 && tx.endpoints_of(endpoint.tenant) >= limit {
        return Ok(Created::Quota(limit));
    }
    let (config, sealed) = (encode(&endpoint), seal(tx.vault, &endpoint));
    let sql = "INSERT INTO endpoints (tenant, id, version, created_at, updated_at, config, secrets, sealed) \
         VALUES ($1, $2, $3, $4, $5, $6, '[]', $7) ON CONFLICT (tenant, id) DO NOTHING RETURNING key";
    let values = params![
        endpoint.tenant,
        &endpoint.id,
        endpoint.version.cast_signed(),
        endpoint.created_at,
        endpoint.updated_at,
        config,
        sealed,
    ];
    let key = tx.conn.number(sql, &values)?;
    let Some(key) = key else { return Ok(Created::IdTaken) };
    endpoint.key = EndpointKey(key);
    versions::set(tx.conn, tx.vault, endpoint.key, endpoint.version)?;
    let endpoint = Arc::new(endpoint);
    tx.reroute(Reroute::Put(Arc::clone(&endpoint)));
    Ok(Created::Done(endpoint))
}

/// Changes an endpoint. `version` is the one it must have, if any.
pub(super) fn edit<E>(
    tx: &mut Tx<'_>,
    tenant: TenantKey,
    id: &str,
    version: Option<u64>,
    now: Timestamp,
    change: impl FnOnce(&mut Endpoint) -> Result<(), E>,
) -> Result<Edited<E>, Error> {
    let Some(current) = tx.find_endpoint(tenant, id) else { return Ok(Edited::NotFound) };
    if version.is_some_and(|version| version != current.version) {
        return Ok(Edited::Version(current.version));
    }
    if current.quarantined {
        return Ok(Edited::Quarantined);
    }
    let mut next = (*current).clone();
    if let Err(refusal) = change(&mut next) {
        return Ok(Edited::Refused(refusal));
    }
    if next == *current {
        return Ok(Edited::Done(current));
    }
    next.version += 1;
    next.updated_at = now;
    update(tx, next).map(Edited::Done)
}

fn update(tx: &mut Tx<'_>, endpoint: Endpoint) -> Result<Arc<Endpoint>, Error> {
    let (config, sealed) = (encode(&endpoint), seal(tx.vault, &endpoint));
    let sql = "UPDATE endpoints SET version = $1, updated_at = $2, config = $3, secrets = '[]', sealed = $4 \
         WHERE key = $5";
    let values = params![endpoint.version.cast_signed(), endpoint.updated_at, config, sealed, endpoint.key];
    tx.conn.execute(sql, &values)?;
    versions::set(tx.conn, tx.vault, endpoint.key, endpoint.version)?;
    let endpoint = Arc::new(endpoint);
    tx.reroute(Reroute::Put(Arc::clone(&endpoint)));
    Ok(endpoint)
}

/// Deletes an endpoint. Its open deliveries are cancelled afterwards, in pages.
pub(super) fn delete(
    tx: &mut Tx<'_>,
    tenant: TenantKey,
    id: &str,
    version: Option<u64>,
    now: Timestamp,
) -> Result<Edited<std::convert::Infallible>, Error> {
    let Some(current) = tx.find_endpoint(tenant, id) else { return Ok(Edited::NotFound) };
    if version.is_some_and(|version| version != current.version) {
        return Ok(Edited::Version(current.version));
    }
    remove(tx, current.key, now)?;
    Ok(Edited::Done(current))
}

/// The secrets go with it; the name stays for the history.
pub(super) fn remove(tx: &mut Tx<'_>, key: EndpointKey, now: Timestamp) -> Result<(), Error> {
    let Some(endpoint) = tx.endpoint(key) else { return Ok(()) };
    let sql = "UPDATE endpoints SET deleted_at = $1, config = $2, secrets = '[]', sealed = $3 WHERE key = $4";
    tx.conn.execute(sql, &params![now, encode(&endpoint), Vec::new(), key])?;
    circuits::forget(tx, key)?;
    // So that the row as it was before cannot be put back.
    versions::set(tx.conn, tx.vault, key, endpoint.version + 1)?;
    tx.reroute(Reroute::Remove(key));
    Ok(())
}

impl Tx<'_> {
    /// How many endpoints a tenant has, as this transaction leaves it.
    fn endpoints_of(&self, tenant: TenantKey) -> u64 {
        let known = |key: EndpointKey| self.routes.get(key).filter(|it| it.tenant == tenant).is_some();
        let change = |reroute: &Reroute| match reroute {
            Reroute::Put(endpoint) => i64::from(endpoint.tenant == tenant && !known(endpoint.key)),
            Reroute::Remove(key) => -i64::from(known(*key)),
            Reroute::Tenant(_) => 0,
        };
        self.routes.count(tenant).saturating_add_signed(self.reroutes().iter().map(change).sum())
    }

    /// An endpoint answered 410: nothing more is sent until someone says so. If it
    /// was changed since the request, the answer was not about what it is now.
    pub(super) fn disable_gone(
        &mut self,
        key: EndpointKey,
        version: u64,
        now: Timestamp,
    ) -> Result<(), Error> {
        let same = |endpoint: &Arc<Endpoint>| endpoint.receives() && endpoint.version == version;
        let Some(current) = self.endpoint(key).filter(same) else { return Ok(()) };
        let mut next = (*current).clone();
        next.state = EndpointState::AutoDisabled;
        "the endpoint answered 410 Gone".clone_into(&mut next.state_reason);
        next.version += 1;
        next.updated_at = now;
        update(self, next).map(drop)
    }
}

/// All endpoints that are not deleted. One whose secrets do not open is quarantined.
pub(super) fn all(conn: &Conn, vault: &Vault) -> Result<Vec<Arc<Endpoint>>, Error> {
    let record = Record::load(conn, vault)?;
    let decode = |row: &dyn Columns| {
        let (endpoint, unreadable) = decode(row, vault, record.of(EndpointKey(row.number(0)?)))?;
        Ok(Arc::new(match unreadable {
            None => endpoint,
            Some(why) => quarantine(endpoint, why),
        }))
    };
    conn.rows(ALL, &[], decode)
}

/// An endpoint, unless it is deleted. It is quarantined if its secrets do not open.
pub(super) fn one(conn: &Conn, key: EndpointKey, vault: &Vault) -> Result<Option<Endpoint>, Error> {
    let recorded = versions::of(conn, vault, key)?;
    let decode = |row: &dyn Columns| decode(row, vault, recorded);
    match conn.row(concatcp!(ALL, " AND key = $1"), &params![key], decode)? {
        None => Ok(None),
        Some((endpoint, None)) => Ok(Some(endpoint)),
        Some((endpoint, Some(why))) => {
            why.unless_key_is_missing(conn)?;
            Ok(Some(quarantine(endpoint, why)))
        }
    }
}

/// Why the sealed part of a row cannot be used.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{0}")]
    Open(#[from] vault::OpenError),
    #[error("they are not those of its current version")]
    Version,
    #[error("the record of its version was altered")]
    Record,
}

impl Unreadable {
    /// Fails if the row is under a master key that another process has: then the row is
    /// sound, and it is this process that cannot go on.
    pub fn unless_key_is_missing(self, conn: &Conn) -> Result<(), Error> {
        let Self::Open(vault::OpenError::UnknownKey(key)) = self else { return Ok(()) };
        let listed =
            conn.rows("SELECT 1 FROM vault WHERE key = $1", &params![key.0], |_| Ok::<_, Error>(()))?;
        if listed.is_empty() { Ok(()) } else { Err(Error::Corrupt(OpenError::OtherKey { key }.to_string())) }
    }
}

/// What is sealed in a row, opened.
pub(super) fn open(
    vault: &Vault,
    place: vault::Place<'_>,
    sealed: &[u8],
    recorded: Recorded,
) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let is_current = match recorded {
        Recorded::Version(version) => is_versioned(sealed) && version == place.version,
        // Sealed before there was a record.
        Recorded::None => !is_versioned(sealed),
        Recorded::Unreadable => return Err(Unreadable::Record),
    };
    // An altered row is told apart from an older one where it does not open at all.
    let opened = vault.open(place, sealed)?;
    if is_current { Ok(opened) } else { Err(Unreadable::Version) }
}

/// The endpoint as it is shown and held back while its secrets cannot be read.
fn quarantine(mut endpoint: Endpoint, why: Unreadable) -> Endpoint {
    tracing::error!(
        endpoint = &*endpoint.id,
        tenant = endpoint.tenant.0,
        error = %why,
        "the stored secrets of an endpoint do not open, so it is disabled: restore its row from a backup and \
         restart, or delete the endpoint and create it anew"
    );
    endpoint.quarantined = true;
    endpoint.state = EndpointState::AutoDisabled;
    endpoint.state_reason = format!(
        "its stored secrets cannot be read, because {why}: delete it and create it anew, or have its row \
         restored from a backup"
    );
    endpoint
}

/// Seals a row of before. That of a deleted endpoint just loses its secrets.
pub(super) fn seal_plain(
    tx: &Tx<'_>,
    key: EndpointKey,
    tenant: TenantKey,
    id: &str,
    version: u64,
) -> Result<(), Error> {
    let sql = "SELECT config, secrets, deleted_at FROM endpoints WHERE key = $1";
    let row = tx.conn.row(sql, &params![key], |row| {
        let config: Config = serde_json::from_str(row.word(0)?)?;
        Ok((config, row.word(1)?.to_owned(), row.integer(2)?.is_some()))
    })?;
    let Some((mut config, secrets, deleted)) = row else { return Ok(()) };
    let headers = std::mem::take(&mut config.headers);
    let sealed = if deleted {
        Vec::new()
    } else {
        let private = Private::of_old(serde_json::from_str(&secrets)?, headers);
        versions::set(tx.conn, tx.vault, key, version)?;
        tx.vault.seal(place(tenant, id, version), &private.to_bytes())
    };
    let sql = "UPDATE endpoints SET config = $1, secrets = '[]', sealed = $2 WHERE key = $3";
    tx.conn.execute(sql, &params![text(&config), sealed, key])?;
    Ok(())
}

fn seal(vault: &Vault, endpoint: &Endpoint) -> Vec<u8> {
    let place = place(endpoint.tenant, &endpoint.id, endpoint.version);
    vault.seal(place, &Private::of(endpoint).to_bytes())
}

fn text(config: &Config) -> String {
    serde_json::to_string(config).expect("plain data with text keys is JSON")
}

fn encode(endpoint: &Endpoint) -> String {
    let it = endpoint.clone();
    let config = Config {
        name: it.name,
        description: it.description,
        url: it.url,
        state: it.state,
        state_reason: it.state_reason,
        event_types: it.event_types,
        headers: BTreeMap::new(),
        http: it.http,
        envelope: it.envelope,
        signing: it.signing,
        retry: it.retry,
        rate_limit: it.rate_limit,
        max_in_flight: it.max_in_flight,
        breaker: it.breaker,
        dead_letters: it.dead_letters,
        metadata: it.metadata,
    };
    text(&config)
}

/// An endpoint, without what is sealed if that cannot be read.
fn decode(
    row: &dyn Columns,
    vault: &Vault,
    recorded: Recorded,
) -> Result<(Endpoint, Option<Unreadable>), Error> {
    let config: Config = serde_json::from_str(row.word(6)?)?;
    let (tenant, id, version) = (TenantKey(row.number(1)?), row.word(2)?, row.count(3)?);
    let private = match row.bytes(8)? {
        Some(sealed) => match open(vault, place(tenant, id, version), sealed, recorded) {
            Ok(opened) => Ok(Private::from_bytes(&opened)?),
            Err(why) => Err(why),
        },
        None if recorded != Recorded::None => Err(Unreadable::Version),
        None => Ok(Private::of_old(serde_json::from_str(row.word(7)?)?, config.headers)),
    };
    let mut endpoint = Endpoint {
        key: EndpointKey(row.number(0)?),
        version,
        updated_at: row.time(5)?,
        name: config.name,
        description: config.description,
        state: config.state,
        state_reason: config.state_reason,
        event_types: config.event_types,
        http: config.http,
        envelope: config.envelope,
        signing: config.signing,
        retry: config.retry,
        rate_limit: config.rate_limit,
        max_in_flight: config.max_in_flight,
        breaker: config.breaker,
        dead_letters: config.dead_letters,
        metadata: config.metadata,
        ..Endpoint::new(tenant, id, config.url, row.time(4)?)
    };
    match private {
        Ok(private) => {
            private.into(&mut endpoint);
            Ok((endpoint, None))
        }
        Err(why) => Ok((endpoint, Some(why))),
    }
}
