//! What others have committed, read for this process's memory.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Error, Shards, api_keys,
    db::{Conn, params},
    directory::{Directory, Entry},
    endpoints, journal, shards, tenants,
    tx::Reroute,
};
use crate::{
    domain::{EndpointKey, Pos, TenantKey, Timestamp, Usage},
    vault::Vault,
};

/// What entries of the journal mean for what is in memory.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub entries: Vec<Entry>,
    pub reroutes: Vec<Reroute>,
    /// Deliveries by which those in open states became more.
    pub opened: i64,
}

/// Reads the rows that entries name, as they are now. `position` is where memory stands.
pub(super) fn read(
    conn: &Conn,
    news: &[journal::Entry],
    position: Pos,
    vault: &Vault,
    directory: &Directory,
) -> Result<Read, Error> {
    let mut read = Read::default();
    let (mut tenants, mut keys, mut endpoints) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut stands = position;
    for entry in news {
        if entry.base != stands {
            // Entries are kept for an hour. A process that was away for longer cannot
            // know what it missed.
            let why = format!("the journal has nothing between {} and {}", stands.0, entry.base.0);
            return Err(Error::Lost(why.into()));
        }
        stands = entry.pos;
        tenants.extend(&entry.note.tenants);
        keys.extend(&entry.note.keys);
        endpoints.extend(&entry.note.endpoints);
    }
    for key in &tenants {
        let key = TenantKey(*key);
        read.entries.push(match tenants::one(conn, key)? {
            Some(tenant) => Entry::Tenant(Arc::new(tenant)),
            None => Entry::NoTenant(key),
        });
    }
    for number in &keys {
        read.entries.extend(api_keys::one(conn, *number)?.map(|key| Entry::Key(Box::new(key))));
    }
    for key in &endpoints {
        let key = EndpointKey(*key);
        read.reroutes.push(match endpoints::one(conn, key, vault)? {
            Some(endpoint) => Reroute::Put(Arc::new(endpoint)),
            None => Reroute::Remove(key),
        });
    }
    read.reroutes.extend(tenants.iter().map(|key| Reroute::Tenant(TenantKey(*key))));
    read.usage(news, directory);
    Ok(read)
}

impl Read {
    fn usage(&mut self, news: &[journal::Entry], directory: &Directory) {
        let mut latest: Vec<(TenantKey, Usage)> = Vec::new();
        for (key, day, events, open, queued_bytes) in news.iter().flat_map(|entry| &entry.note.usage) {
            let (key, usage) = (
                TenantKey(*key),
                Usage { day: *day, events: *events, open: *open, queued_bytes: *queued_bytes },
            );
            match latest.iter_mut().find(|(known, _)| *known == key) {
                Some((_, before)) => *before = usage,
                None => latest.push((key, usage)),
            }
        }
        for (key, usage) in latest {
            self.opened += usage.open - directory.usage(key).open;
            self.entries.push(Entry::Usage(key, usage));
        }
    }
}

/// How a store of several processes stands, read at one instant, for the start.
#[derive(Debug)]
pub(super) struct Standing {
    pub position: Pos,
    pub latest: Timestamp,
}

/// Reads how the journal stands and what tenants use by it; call in a transaction that
/// sees one state of the tables.
pub(super) fn standing(conn: &Conn, shards: &Shards, directory: &Directory) -> Result<Standing, Error> {
    let folded = conn.fact("folded")?.unwrap_or(0);
    let sql = "SELECT pos, base, latest, origin, note FROM commits WHERE pos > $1 ORDER BY pos";
    let since = conn.rows(sql, &params![folded], journal::Entry::read)?;
    let mut read = Read::default();
    read.usage(&since, directory);
    directory.apply(read.entries);
    let sql = "SELECT pos, base, latest, origin, note FROM commits ORDER BY pos DESC LIMIT 1";
    let last = conn.row(sql, &[], journal::Entry::read)?;
    let (position, latest) = last.map_or((Pos(0), Timestamp(0)), |last| (last.pos, last.latest));
    shards.apply(&shards::all(conn)?, position);
    Ok(Standing { position, latest })
}
