//! Whether this process should be given work, and if not, why.
//!
//! Readiness is a set of named conditions. Each is set by whoever watches it, and the
//! server is ready while all of them hold. `/readyz`, `/health` and gRPC health show it.
//! Liveness is something else: a process that answers at all lives, and an outage of
//! its database is no reason to restart it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    domain::Micros,
    engine::Lease,
    fleet::{SKEW_MAX, Skew},
    grpc::Health,
    store::Store,
};

/// The store can be read, and written if the last write was refused.
pub(super) const STORE: &str = "store";
/// The database confirmed not long ago that this process lives. Always so alone.
pub(super) const LEASE: &str = "lease";
/// This machine's clock is near the database's. Always so alone.
pub(super) const CLOCK: &str = "clock";
/// The server was not asked to stop.
pub(super) const DRAIN: &str = "drain";

/// Between two looks at the store and the lease.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A store that has not answered for this long counts as out of reach. Longer than a slow
/// disk takes for a sync under load.
const PATIENCE: Duration = Duration::from_secs(3);

/// The conditions, each with what is wrong, or `None` if it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions(BTreeMap<&'static str, Option<String>>);

impl Conditions {
    /// Sets one; says whether that changed anything.
    fn set(&mut self, name: &'static str, problem: Option<String>) -> bool {
        self.0.insert(name, problem.clone()) != Some(problem)
    }

    /// Whether all of them hold.
    pub fn hold(&self) -> bool {
        self.0.values().all(Option::is_none)
    }

    /// Those that do not hold, as `name: what is wrong`.
    pub fn problems(&self) -> String {
        let failed =
            |(name, problem): (&&str, &Option<String>)| Some(format!("{name}: {}", problem.as_ref()?));
        self.0.iter().filter_map(failed).collect::<Vec<_>>().join("; ")
    }

    /// One word for all of them. An orderly stop is no illness.
    fn word(&self) -> &'static str {
        match self.0.iter().find(|(name, problem)| problem.is_some() && **name != DRAIN) {
            Some(_) => "unhealthy",
            None if self.hold() => "healthy",
            None => "draining",
        }
    }

    /// All of them, for programs.
    pub fn json(&self) -> Value {
        let check = |(name, problem): (&&str, &Option<String>)| {
            ((*name).to_owned(), json!(problem.as_deref().unwrap_or("ok")))
        };
        json!({
            "status": self.word(),
            "version": env!("CARGO_PKG_VERSION"),
            "checks": self.0.iter().map(check).collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// The conditions of this process, to be set and watched. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Readiness(Arc<watch::Sender<Conditions>>);

impl Readiness {
    /// With all conditions that must hold at the start; they hold as soon as they were seen
    /// to.
    pub fn new(names: &[&'static str]) -> Self {
        let yet = |name: &&'static str| (*name, Some("not checked yet".to_owned()));
        Self(Arc::new(watch::Sender::new(Conditions(names.iter().map(yet).collect()))))
    }

    /// Says how a condition stands: what is wrong, or `None` if it holds.
    pub fn set(&self, name: &'static str, problem: Option<String>) {
        self.0.send_if_modified(|conditions| conditions.set(name, problem));
    }

    /// How they stand now.
    pub fn now(&self) -> Conditions {
        self.0.borrow().clone()
    }

    /// Waits until all hold.
    pub async fn reached(&self) {
        // The sender lives in `self`.
        let _ = self.0.subscribe().wait_for(Conditions::hold).await;
    }

    /// Tells gRPC health and the log of each change, until `stop`.
    pub async fn publish(self, health: Health, stop: CancellationToken) {
        let mut conditions = self.0.subscribe();
        let mut was_ready = None;
        loop {
            let now = conditions.borrow_and_update().clone();
            let ready = now.hold();
            if was_ready != Some(ready) {
                health.set_serving(ready).await;
            }
            match (was_ready, ready) {
                (Some(false), true) => tracing::info!("ready for work"),
                (Some(true), false) => tracing::warn!(problems = now.problems(), "not ready for work"),
                (None | Some(_), _) => {}
            }
            was_ready = Some(ready);
            if !matches!(stop.run_until_cancelled(conditions.changed()).await, Some(Ok(()))) {
                return health.set_serving(false).await;
            }
        }
    }

    /// Looks at the store and the lease again and again, until `stop`.
    pub async fn watch(self, store: Arc<Store>, lease: Arc<Lease>, clock: Clock, stop: CancellationToken) {
        let look = async {
            loop {
                let alive = lease.holds(clock.now());
                let expired =
                    || "the database has not confirmed for seconds that this server lives".to_owned();
                self.set(LEASE, (!alive).then(expired));
                self.set(CLOCK, clock.skew().and_then(too_far));
                self.look_at_store(&store).await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        stop.run_until_cancelled(look).await;
    }

    /// One answer of the store, however long it takes, so that its return shows at once.
    async fn look_at_store(&self, store: &Store) {
        let check = store.check();
        tokio::pin!(check);
        let checked = match timeout(PATIENCE, &mut check).await {
            Ok(checked) => checked,
            Err(_) => {
                self.set(STORE, Some("the store does not answer".to_owned()));
                check.await
            }
        };
        self.set(STORE, checked.err().map(|error| error.to_string()));
    }
}

/// What is wrong with a clock that is so far ahead of the database's, if anything is.
fn too_far(skew: Micros) -> Option<String> {
    let (seconds, most) = (skew.0 / 1_000_000, SKEW_MAX.0 / 1_000_000);
    let side = if seconds > 0 { "ahead of" } else { "behind" };
    (Skew::of(skew) == Skew::TooLarge).then(|| {
        format!(
            "this machine's clock is {} s {side} the database's, more than {most} s: set it",
            seconds.abs()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_too_far_off_is_named() {
        let told =
            [3_600, -61, 10, -10, 0].map(|seconds| too_far(Micros::from_secs(seconds)).unwrap_or_default());
        assert_eq!(
            told,
            [
                "this machine's clock is 3600 s ahead of the database's, more than 10 s: set it",
                "this machine's clock is 61 s behind the database's, more than 10 s: set it",
                "",
                "",
                "",
            ]
        );
    }

    #[test]
    fn a_server_is_ready_once_every_condition_was_seen_to_hold() {
        let readiness = Readiness::new(&[STORE, LEASE]);
        assert!(!readiness.now().hold());
        assert_eq!(readiness.now().problems(), "lease: not checked yet; store: not checked yet");
        readiness.set(STORE, None);
        assert_eq!(readiness.now().problems(), "lease: not checked yet");
        readiness.set(LEASE, None);
        assert!(readiness.now().hold());
        readiness.set(STORE, Some("the database does not answer".to_owned()));
        assert_eq!(readiness.now().problems(), "store: the database does not answer");
    }

    #[test]
    fn one_word_tells_an_orderly_stop_from_an_illness() {
        let readiness = Readiness::new(&[]);
        readiness.set(STORE, None);
        readiness.set(DRAIN, None);
        assert_eq!(readiness.now().json()["status"], "healthy");
        readiness.set(DRAIN, Some("the server is stopping".to_owned()));
        let told = readiness.now().json();
        assert_eq!((&told["status"], &told["checks"]["store"]), (&json!("draining"), &json!("ok")));
        readiness.set(STORE, Some("away".to_owned()));
        let told = readiness.now().json();
        assert_eq!((&told["status"], &told["checks"]["store"]), (&json!("unhealthy"), &json!("away")));
    }

    #[tokio::test]
    async fn whoever_waits_for_readiness_is_woken_by_the_last_condition() {
        let readiness = Readiness::new(&[STORE, LEASE]);
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.reached().await }
        });
        readiness.set(STORE, None);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        readiness.set(LEASE, None);
        waiting.await.unwrap();
    }
}
