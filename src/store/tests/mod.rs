//! What the store promises, checked on real files and a real server.
//!
//! One list of claims for both; see [`both`].

mod claims;
mod figures;
mod instances;
mod plans;
mod sealed;
mod server;
mod shared;

use std::{collections::BTreeMap, sync::Arc};

use sqlx::Executor as _;

use super::{Config, Created, Finish, Location, Publish, Store};
use crate::{
    domain::{
        Cause, DeadLetterPolicy, Delivery, DeliveryId, Endpoint, EndpointKey, Failure, Fault, InstanceId,
        Micros, NewEvent, Order, Outcome, Page, Pattern, Payload, Pos, RetryPolicy, Shard, TenantKey,
        Timestamp, Timings,
    },
    machine::judge,
};

pub(super) const TENANT: TenantKey = TenantKey::DEFAULT;
pub(super) const PAGE: Page = Page { size: 1000, after: None, order: Order::OldestFirst };
pub(super) const NOW: Timestamp = Timestamp(1_768_996_800_000_000);

/// Checks each claim on either store.
macro_rules! both {
    ($($module:ident: $claim:ident,)+) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $claim() {
                super::$module::$claim(super::House::on_sqlite().await).await;
            })+
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $claim() {
                super::$module::$claim(super::House::on_postgres().await).await;
            })+
        }
    };
}

both! {
    claims: an_event_goes_to_those_who_want_it_and_reads_back_as_it_was,
    claims: a_key_seen_before_answers_with_the_first_event_also_within_a_call_and_after_a_restart,
    claims: an_atomic_call_publishes_all_or_nothing,
    claims: what_is_announced_is_what_the_tables_say,
    claims: attempts_are_listed_first_to_last_and_a_failed_delivery_becomes_a_dead_letter,
    claims: a_replay_ends_its_dead_letter_or_opens_it_again,
    claims: a_result_that_comes_late_or_twice_changes_no_state,
    claims: an_endpoint_that_is_gone_is_disabled_with_the_result,
    claims: operations_handle_each_item_once_and_finish,
    claims: what_is_too_old_is_forgotten_and_nothing_else,
    claims: dead_letters_and_what_waits_keep_their_history,
    claims: pages_follow_each_other_without_gap_or_repeat,
    claims: one_transaction_with_two_endings_of_a_delivery_records_one,
    claims: what_waited_long_and_has_just_ended_is_kept_and_what_is_past_its_end_is_ended,
    claims: changes_of_one_key_in_one_transaction_build_on_each_other,
    claims: an_attempt_that_was_cut_off_counts_once,
    claims: an_attempt_with_a_result_is_not_cut_off,
    claims: a_read_that_finds_no_free_connection_says_so,
    figures: the_default_tenant_is_as_old_as_its_store,
    figures: only_shares_of_endpoints_are_counted,
    instances: instances_are_those_seen_lately_each_with_what_it_owns,
    plans: every_query_uses_an_index,
    sealed: a_row_that_is_put_back_or_altered_is_quarantined_alone,
    sealed: without_the_record_of_versions_no_row_opens_and_new_ones_do,
    sealed: rows_of_the_form_before_open_once_and_are_sealed_anew,
}

/// A store with nothing in it.
pub(super) struct House {
    pub store: Arc<Store>,
    location: Location,
    /// Of the file.
    _folder: Option<tempfile::TempDir>,
}

impl House {
    /// In a file of its own.
    pub async fn on_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Directory(folder.path().to_owned());
        Self { store: open(&location, 1).await, location, _folder: Some(folder) }
    }

    /// In a database of its own, in the cluster of the run.
    pub async fn on_postgres() -> Self {
        let location = Location::scratch().await;
        Self { store: open(&location, 1).await, location, _folder: None }
    }

    /// Lets days of the server pass, as its history goes day by day: another process writes
    /// on the day after the next.
    pub async fn tomorrow(&self) {
        let Location::Server(server) = &self.location else { return };
        let mut conn = server.connect("test").await.unwrap();
        let sql = "INSERT INTO commits SELECT ((pos >> 32) + 2 << 32) + 1, pos, latest, 7, NULL FROM commits \
             ORDER BY pos DESC LIMIT 1";
        conn.execute(sql).await.unwrap();
    }

    /// Another process on the same database.
    pub async fn fellow(&self) -> Arc<Store> {
        open(&self.location, 2).await
    }

    /// Becomes the owner of an endpoint's shard; under which epoch.
    pub async fn own(&self, endpoint: EndpointKey) -> u64 {
        let shard = Shard::of(endpoint);
        let epoch = || self.store.shards().tenure(shard).epoch;
        if self.store.is_shared() {
            self.store.claim(vec![(shard, epoch())]).await.unwrap();
        }
        epoch()
    }

    pub async fn reopened(self) -> Self {
        self.store.close().await.unwrap();
        let Self { store, location, _folder } = self;
        drop(store);
        Self { store: open(&location, 3).await, location, _folder }
    }

    pub async fn endpoint(&self, id: &str) -> Arc<Endpoint> {
        match self.store.create_endpoint(endpoint(id)).await.unwrap() {
            Created::Done(endpoint) => endpoint,
            Created::IdTaken | Created::Quota(_) | Created::NoTenant => panic!("{id} was not made"),
        }
    }

    /// Publishes and returns the deliveries made.
    pub async fn publish(&self, events: Vec<NewEvent>) -> Vec<Delivery> {
        let answers = self.store.publish(publish(events)).await.unwrap();
        let mut made = Vec::new();
        for answer in answers {
            for (id, _) in answer.unwrap().deliveries {
                made.push(self.delivery(id).await);
            }
        }
        made
    }

    pub async fn delivery(&self, id: DeliveryId) -> Delivery {
        self.store.delivery(TENANT, id).await.unwrap().expect("the delivery is stored")
    }

    /// Records an attempt and waits until it is committed.
    pub async fn attempt(&self, delivery: &Delivery, result: Result<u16, Cause>, at: Timestamp) -> Delivery {
        let before = self.store.recent().position();
        self.store.finish(vec![finish(delivery, result, at)]).unwrap();
        self.store.recent().subscribe().wait_for(|position| *position > before).await.unwrap();
        self.delivery(delivery.id).await
    }

    pub async fn feed_of_the_tables(&self) -> Vec<Arc<crate::domain::Change>> {
        let upto = self.store.recent().position();
        let (mut all, mut after) = (Vec::new(), Pos(0));
        while after < upto {
            let (page, reached) = self.store.changes(after, upto, 7).await.unwrap();
            all.extend(page);
            after = reached;
        }
        all
    }
}

async fn open(location: &Location, instance: i64) -> Arc<Store> {
    let config = Config {
        instance: InstanceId(instance),
        name: format!("number {instance}"),
        started_at: NOW,
        ..Config::sample(location.clone())
    };
    let (store, _) = Store::open(config).await.unwrap();
    if store.is_shared() {
        store.claim(vec![(Shard::STEWARD, store.shards().tenure(Shard::STEWARD).epoch)]).await.unwrap();
    }
    store
}

pub(super) fn endpoint(id: &str) -> Endpoint {
    Endpoint {
        event_types: vec![Pattern::parse("user.*").unwrap()],
        retry: RetryPolicy { max_attempts: 2, ..RetryPolicy::default() },
        ..Endpoint::new(TENANT, id, "http://127.0.0.1:9/", NOW)
    }
}

pub(super) fn event(event_type: &str, key: &str, data: &str) -> NewEvent {
    NewEvent {
        tenant: TENANT,
        event_type: event_type.into(),
        payload: Payload { content_type: "application/json".into(), data: data.to_owned().into() },
        idempotency_key: key.to_owned(),
        priority: 0,
        deliver_at: None,
        expires_at: None,
        metadata: BTreeMap::new(),
    }
}

pub(super) fn publish(events: Vec<NewEvent>) -> Publish {
    Publish { events, atomic: false, in_turn: false, at: NOW, salt: 9 }
}

pub(super) fn finish(delivery: &Delivery, result: Result<u16, Cause>, at: Timestamp) -> Finish {
    let result = match result {
        Ok(status) => Ok(crate::domain::Answer { status, ..Default::default() }),
        Err(cause) => Err(Fault { cause, message: "it broke".to_owned() }),
    };
    let outcome = Outcome { started_at: at, duration: Micros(1_000), timings: Timings::default(), result };
    let policy = RetryPolicy { max_attempts: 2, ..RetryPolicy::default() };
    let verdict = judge::judge(delivery, &policy, &outcome, 0.5);
    let reason = match verdict.next {
        judge::Next::GiveUp(reason) => Some(reason),
        judge::Next::Delivered | judge::Next::RetryAt(_) | judge::Next::Expired => None,
    };
    let gone = matches!(&verdict.failure, Some(Failure { cause: Cause::Gone, .. })).then_some(1);
    let letters = DeadLetterPolicy::default();
    let (after, attempt) = judge::settle(delivery, outcome, verdict, letters);
    Finish {
        before: Arc::new(delivery.clone()),
        after,
        attempt: Some(attempt),
        reason,
        letters,
        gone,
        epoch: 0,
        started: false,
    }
}
