//! What is in memory, read at the start.

use std::sync::Arc;

use super::{
    Config, Directory, OpenError, Shards, SharedRoutes, api_keys, db::Conn, endpoints, news, tenants,
    tx::Reroute,
};
use crate::domain::{Pos, Timestamp};

/// A store's memory as it starts.
pub(super) struct Loaded {
    pub conn: Conn,
    pub position: Pos,
    pub latest: Timestamp,
    pub compacted: Pos,
    pub incarnation: u32,
    pub routes: Arc<SharedRoutes>,
    pub directory: Arc<Directory>,
    pub shards: Arc<Shards>,
    /// Deliveries in open states.
    pub open: i64,
}

/// Reads it all; blocks.
pub(super) fn load(conn: Conn, config: &Config) -> impl FnOnce() -> Result<Loaded, OpenError> + use<> {
    let (vault, me) = (config.vault.clone(), config.instance);
    move || {
        let shared = conn.is_shared();
        conn.begin_loading()?;
        let routes = Arc::new(SharedRoutes::default());
        routes.apply(endpoints::all(&conn, &vault)?.into_iter().map(Reroute::Put).collect());
        let directory = Arc::new(Directory::default());
        directory.apply(tenants::all(&conn)?);
        directory.apply(api_keys::all(&conn)?);
        let fact = |name| conn.fact(name).map(Option::unwrap_or_default);
        let (compacted, incarnation) = (Pos(fact("compacted")?.cast_unsigned()), fact("incarnation")? as u32);
        let (shards, position, latest, open);
        if shared {
            shards = Shards::shared(me);
            let standing = news::standing(&conn, &shards, &directory)?;
            (position, latest) = (standing.position, standing.latest);
            open = directory.all_usage().iter().map(|(_, usage)| usage.open).sum();
        } else {
            shards = Shards::alone(me);
            position = Pos(fact("position")?.cast_unsigned());
            latest = Timestamp(conn.number("SELECT max(at) FROM marks", &[])?.unwrap_or(0));
            open = conn.number("SELECT count(*) FROM deliveries WHERE state < 2", &[])?.unwrap_or(0);
        }
        conn.end_loading()?;
        let shards = Arc::new(shards);
        Ok(Loaded { conn, position, latest, compacted, incarnation, routes, directory, shards, open })
    }
}
