//! Times and counts say what they are named for.

use super::{House, NOW, TENANT, endpoint, event, publish};
use crate::{
    domain::Shard,
    store::{Config, Error, Location, Store},
};

pub async fn the_default_tenant_is_as_old_as_its_store(house: House) {
    let tenant = house.store.directory().tenant(TENANT).expect("the default tenant");
    assert_eq!((tenant.created_at, tenant.updated_at), (NOW, NOW));
}

/// Alone a process owns all of them. In a fleet it has claimed only the leader's duties here.
pub async fn only_shares_of_endpoints_are_counted(house: House) {
    let shards = house.store.shards();
    assert!(shards.owns(Shard::STEWARD));
    assert_eq!(shards.owned(), if house.store.is_shared() { 0 } else { usize::from(Shard::COUNT) });
}

#[tokio::test]
async fn a_full_queue_tells_how_much_waits_and_how_much_may() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { queue_max: 2, ..Config::sample(Location::Directory(folder.path().to_owned())) };
    let (store, _) = Store::open(config).await.unwrap();
    store.create_endpoint(endpoint("one")).await.unwrap();
    for _ in 0..2 {
        store.publish(publish(vec![event("user.created", "", "1")])).await.unwrap();
    }
    let refused = store.publish(publish(vec![event("user.created", "", "1")])).await;
    assert!(matches!(refused, Err(Error::QueueFull { depth: 2, limit: 2 })), "{refused:?}");
}
