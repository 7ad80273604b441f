//! Who shares the work.

use sqlx::{AssertSqlSafe, Executor as _};

use super::{House, NOW};
use crate::{
    domain::{Instance, InstanceId, Micros, Shard, Timestamp},
    store::Location,
};

pub(super) async fn instances_are_those_seen_lately_each_with_what_it_owns(house: House) {
    let Location::Server(server) = &house.location else {
        let alone = Instance { shards: Shard::all().collect(), ..house.store.this_instance(NOW) };
        assert_eq!((&*alone.name, alone.started_at), ("number 1", NOW));
        assert_eq!(house.store.instances(NOW).await.unwrap(), [alone]);
        return;
    };
    let mut conn = server.connect("test").await.unwrap();
    let clock = "(extract(epoch FROM clock_timestamp()) * 1000000)::int8";
    let row = |id: i64, name: &str, second: i64, draining: i64| {
        format!("({id}, '{name}', '0.1.0', 9, 5, {clock} - {second} * 1000000, {draining}, {id})")
    };
    let rows = [row(1, "one", 0, 0), row(2, "another", 5, 1), row(3, "gone", 16, 0)].join(", ");
    conn.execute(AssertSqlSafe(format!("INSERT INTO instances VALUES {rows}"))).await.unwrap();
    let fellow = house.fellow().await;
    house.store.refresh().await.unwrap();
    let steward = house.store.shards().tenure(Shard::STEWARD).epoch;
    let shares = vec![(Shard(0), 0), (Shard(63), 0), (Shard::STEWARD, steward)];
    house.store.claim(shares).await.unwrap();
    fellow.claim(vec![(Shard(1), 0), (Shard(63), 1)]).await.unwrap();
    house.store.refresh().await.unwrap();
    for store in [&house.store, &fellow] {
        let all = store.instances(NOW).await.unwrap();
        let told: Vec<_> = all.iter().map(|it| (it.id.0, &*it.name, it.draining, &it.shards[..])).collect();
        let expected = [
            (2, "another", true, &[Shard(1), Shard(63)][..]),
            (1, "one", false, &[Shard(0), Shard::STEWARD][..]),
        ];
        assert_eq!(told, expected);
        let one = &all[1];
        assert_eq!(one.skew, Micros(1));
        assert_eq!((one.id, &*one.version, one.started_at), (InstanceId(1), "0.1.0", Timestamp(5)));
        assert!(one.seen_at > all[0].seen_at);
    }
}
