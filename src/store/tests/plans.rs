//! How the databases go about what they are asked.

use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{House, NOW, TENANT};
use crate::{
    domain::{EventId, Order, Pos, State, TimeRange, Uid},
    store::{
        DeliveryFilter, EventFilter, LetterFilter,
        db::{Dialect, Readers},
        deliveries, letters, lists, mentioned, publish, scan, waiting,
    },
};

/// Every query that a list, a lane or the feed runs finds its rows by an index.
pub(super) async fn every_query_uses_an_index(house: House) {
    let dialect = house.store.readers.dialect();
    let range = TimeRange { start: Some(NOW), end: Some(NOW) };
    let mut queries = vec![
        (waiting::WAITING.to_owned(), true),
        (waiting::PAGE.to_owned(), true),
        (waiting::select_payloads(dialect, vec![1]).sql().to_owned(), false),
        (waiting::ENDPOINTS_WAITING.to_owned(), false),
        (lists::FEED_MADE.to_owned(), true),
        (lists::FEED_LATER.to_owned(), true),
        (lists::ATTEMPTS.to_owned(), false),
        (lists::EVENT_SUMMARY.to_owned(), false),
        (deliveries::PAST_END.to_owned(), true),
    ];
    let id = EventId(Uid::new(NOW, 1, Pos(1)));
    let filters = [
        DeliveryFilter::default(),
        DeliveryFilter { events: Some(vec![id]), ..Default::default() },
        DeliveryFilter { endpoints: Some(vec!["one".into()]), ..Default::default() },
        DeliveryFilter { states: vec![State::Delivered], created: range, ..Default::default() },
    ];
    for order in [Order::NewestFirst, Order::OldestFirst] {
        for filter in &filters {
            let mut query = lists::select_deliveries(dialect, TENANT, filter);
            scan::order(&mut query, "d.pos", None, order, 50);
            queries.push((query.sql().to_owned(), filter.endpoints.is_none() && filter.events.is_none()));
        }
        for key in [None, Some("k".to_owned())] {
            let filter = EventFilter { idempotency_key: key, created: range, ..EventFilter::default() };
            let mut query = lists::select_events(dialect, TENANT, &filter, true);
            scan::order(&mut query, "e.pos", None, order, 50);
            queries.push((query.sql().to_owned(), true));
        }
        for endpoints in [None, Some(vec![1])] {
            let filter = LetterFilter { endpoints, states: vec![1], ..LetterFilter::default() };
            let mut query = letters::select(dialect, TENANT);
            letters::narrow(&mut query, &filter);
            scan::order(&mut query, "l.delivery", None, order, 50);
            queries.push((query.sql().to_owned(), true));
        }
    }
    if dialect == Dialect::Postgres {
        queries.push((mentioned::RUNS.to_owned(), false));
    }
    queries.push((mentioned::NUMBERED.of(dialect).to_owned(), false));
    for (sql, ordered) in queries {
        match &house.store.readers {
            Readers::Sqlite(_) => on_the_file(&house, &sql, ordered).await,
            Readers::Postgres(_) => on_the_server(&house, &sql, ordered).await,
        }
    }
    let (updates, keys) =
        ([deliveries::UPDATE, deliveries::END, deliveries::UPDATE_OVER], publish::KNOWN_KEYS);
    match &house.store.readers {
        Readers::Sqlite(_) => {
            on_the_file(&house, updates[0].sqlite, true).await;
            on_the_file(&house, keys.sqlite, true).await;
        }
        Readers::Postgres(_) => {
            let arrays = |kinds: &[&str]| {
                let arrays = kinds.iter().enumerate().map(|(at, kind)| format!("${}::{kind}[]", at + 1));
                format!("UNNEST({})", arrays.collect::<Vec<_>>().join(","))
            };
            let mut kinds = ["int8"; 14];
            kinds[12] = "text";
            let rows = format!("{} WITH ORDINALITY", arrays(&kinds));
            for update in updates {
                on_the_server(&house, &update.postgres.replace("{rows}", &rows), true).await;
            }
            let rows = arrays(&["int8", "text"]);
            on_the_server(&house, &keys.postgres.replace("{rows}", &rows), false).await;
        }
    }
}

async fn on_the_file(house: &House, sql: &str, ordered: bool) {
    let Readers::Sqlite(pool) = &house.store.readers else { unreachable!("it is a file") };
    let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = sqlx::query(explain).fetch_all(pool).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get::<String, _>(3)).collect();
    let text = plan.join("\n");
    for step in &plan {
        // The recursion's own few rows are scanned, tables never.
        let scans = step.starts_with("SCAN")
            && !step.ends_with(" w")
            && !step.ends_with(" chain")
            && !step.ends_with(" v")
            && !step.contains("SCAN j ");
        assert!(!scans || step.contains("CONSTANT ROW"), "{sql}\n{text}");
        assert!(!ordered || !step.contains("TEMP B-TREE"), "{sql}\n{text}");
    }
}

async fn on_the_server(house: &House, sql: &str, ordered: bool) {
    let Readers::Postgres(pool) = &house.store.readers else { unreachable!("it is a server") };
    let mut conn = pool.acquire().await.unwrap();
    let run = |sql: String| sqlx::raw_sql(AssertSqlSafe(sql));
    // As it would be for any values. What a recursion starts from has no other type.
    let kinds = if sql == lists::ATTEMPTS { "(int8)" } else { "" };
    let prepare = format!("SET plan_cache_mode = force_generic_plan; PREPARE it {kinds} AS {sql}");
    conn.execute(run(prepare)).await.unwrap();
    let values = (1..).take_while(|at| sql.contains(&format!("${at}"))).map(|_| "NULL");
    let values = values.collect::<Vec<_>>().join(", ");
    let values = if values.is_empty() { values } else { format!("({values})") };
    let rows = conn.fetch_all(run(format!("EXPLAIN EXECUTE it {values}"))).await.unwrap();
    conn.execute(run("DEALLOCATE it".to_owned())).await.unwrap();
    let text = rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n");
    assert!(!text.contains("Seq Scan"), "{sql}\n{text}");
    assert!(!ordered || !text.contains("->  Sort"), "{sql}\n{text}");
}
