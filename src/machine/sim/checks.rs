//! The promises, checked at every step. What must hold across crashes is kept
//! here, what one life of the engine owes an endpoint in [`super::watch`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    rules,
    store::Store,
    watch::{Rows, Watch},
};
use crate::{
    domain::{Attempt, Cause, Delivery, Endpoint, Micros, Now, Pos, State, Timestamp},
    machine::lane::Lane,
};

/// The promises, and the first one broken.
#[derive(Default)]
pub struct Checks {
    /// The first broken promise.
    pub violation: Option<String>,
    /// What the engine alive owes each endpoint.
    pub watches: Vec<Watch>,
    /// Requests sent.
    pub requests: u64,
    /// Attempts recorded.
    pub recorded: u64,
    /// Crashes.
    pub crashes: u32,
    lost: u64,
    accounts: HashMap<Pos, Account>,
    accepted: Vec<u64>,
}

/// A request that goes on for longer is known to the store, or about to be.
pub const KNOWN_AFTER: Micros = Micros::from_millis(60);

/// What is known of one delivery.
#[derive(Clone, Copy, Default)]
struct Account {
    requests: u32,
    recorded: u32,
    /// On the steady line.
    not_before: Timestamp,
    /// The attempt whose start is stored.
    known: Option<u32>,
    /// Attempts cut off in a row.
    cut_off: u32,
}

impl Checks {
    /// A promise was broken.
    pub fn fail(&mut self, message: impl Into<String>) {
        self.violation.get_or_insert(message.into());
    }

    /// A promise about a delivery.
    fn hold(&mut self, holds: bool, pos: Pos, message: &str) {
        if !holds {
            self.fail(format!("delivery {}: {message}", pos.0));
        }
    }

    /// The publisher was told that its event is safe.
    pub fn accepted(&mut self, key: u64) {
        self.accepted.push(key);
    }

    /// The engine started.
    pub fn started(&mut self, store: &Store, now: Timestamp, offset: Micros) {
        self.watches = store.endpoints.iter().map(|it| Watch::new(Arc::clone(it), now)).collect();
        // A process that starts has nothing but the time of day to go by.
        for (pos, row) in store.rows.iter().filter(|(_, row)| row.is_open()) {
            let account = self.accounts.entry(*pos).or_default();
            account.not_before = account.not_before.min(row.due_at.minus(offset));
        }
    }

    /// The engine died: what it sent and had not recorded is sent once more. Of requests
    /// under way those that have gone on for long are known, if the writer had time.
    pub fn crashed(&mut self, flying: &BTreeMap<Pos, (u32, Timestamp)>, pending: &[Pos], now: Timestamp) {
        self.crashes += 1;
        self.lost = self.requests.saturating_sub(self.recorded);
        for (pos, (number, began)) in flying {
            let known = self.accounts.get(pos).is_some_and(|account| account.known == Some(*number));
            let is_young = began.plus(KNOWN_AFTER) >= now;
            self.hold(known || is_young || pending.contains(pos), *pos, "a long request is not known");
        }
    }

    /// The start of an attempt is stored.
    pub fn known(&mut self, pos: Pos, number: u32) {
        let account = self.accounts.entry(pos).or_default();
        account.known = (account.recorded < number).then_some(number);
    }

    /// What was known of the life before has been counted.
    pub fn all_counted(&mut self) {
        let forgotten: Vec<Pos> = self
            .accounts
            .iter()
            .filter(|(_, account)| account.known.is_some())
            .map(|(pos, _)| *pos)
            .collect();
        for pos in forgotten {
            self.hold(false, pos, "a request that was cut off is not counted");
        }
    }

    /// A request goes out.
    pub fn sent(&mut self, delivery: &Delivery, lane: &Lane, rows: &Rows, now: &Now) {
        let pos = delivery.id.pos();
        self.requests += 1;
        let account = self.accounts.entry(pos).or_default();
        account.requests += 1;
        let account = *account;
        self.hold(
            now.steady >= account.not_before,
            pos,
            "sent earlier than its retry policy and its receiver allow",
        );
        self.hold(delivery.attempts < delivery.max_attempts, pos, "sent more often than allowed");
        if let Err(message) = self.watches[delivery.endpoint.0 as usize - 1].sent(delivery, lane, rows, now) {
            self.fail(format!("delivery {}: {message}", pos.0));
        }
    }

    /// A caller wants a delivery at once.
    pub fn hurried(&mut self, pos: Pos) {
        self.accounts.entry(pos).or_default().not_before = Timestamp::default();
    }

    /// An attempt is being recorded.
    pub fn recorded(
        &mut self,
        after: &Delivery,
        attempt: &Attempt,
        endpoint: &Endpoint,
        earliest: Timestamp,
    ) {
        let pos = after.id.pos();
        let account = self.accounts.entry(pos).or_default();
        account.recorded += 1;
        account.known = None;
        let is_lost = attempt.failure.as_ref().is_some_and(|failure| failure.cause == Cause::WorkerLost);
        account.cut_off = if is_lost { account.cut_off + 1 } else { 0 };
        if after.is_open() {
            account.not_before = earliest;
        }
        let distance = rules::shortest_distance(account.cut_off);
        let (expected, requests) = (account.recorded, account.requests);
        self.recorded += 1;
        if is_lost {
            self.lost = self.lost.saturating_sub(1);
        }
        self.hold(expected <= requests, pos, "more attempts recorded than requests sent");
        let keeps_distance = !after.is_open() || after.due_at >= after.updated_at.plus(distance);
        self.hold(keeps_distance, pos, "cut off again and again, and tried again soon");
        self.hold(attempt.number == expected, pos, "attempt numbers are not 1, 2, 3 …");
        self.hold(expected <= after.max_attempts, pos, "more attempts recorded than allowed");
        let failed = attempt.failure.is_some();
        self.hold(failed || after.state != State::Retrying, pos, "retried after a success");
        self.hold(attempt.retry_delay.is_none_or(|it| it > Micros::ZERO), pos, "retried without delay");
        let kept = !(endpoint.dead_letters.disabled && after.state == State::DeadLetter);
        self.hold(kept, pos, "kept as a dead letter although there are to be none");
    }

    /// A change is committed.
    pub fn committed(&mut self, before: Option<&Delivery>, after: &Delivery, attempt: bool) {
        let pos = after.id.pos();
        let Some(before) = before else {
            self.accounts.insert(pos, Account::default());
            return self.hold(after.revision == 1, pos, "does not begin at revision 1");
        };
        self.hold(after.revision == before.revision + 1, pos, "a revision is missing or used twice");
        self.hold(before.is_open() || after.state == before.state, pos, "left a final state");
        self.hold(after.attempts == before.attempts + u32::from(attempt), pos, "attempts miscounted");
    }

    /// The story is over: nothing is left, nothing was lost, nothing came twice
    /// without a crash.
    pub fn end(&mut self, store: &Store) {
        for key in std::mem::take(&mut self.accepted) {
            match store.made(key) {
                None => self.fail(format!("event {key} was accepted and is lost")),
                Some(delivery) => self.hold(!delivery.is_open(), delivery.id.pos(), "accepted and not final"),
            }
        }
        for (pos, delivery) in &store.rows {
            let account = self.accounts[pos];
            self.hold(account.recorded == delivery.attempts, *pos, "attempts recorded and counted differ");
            let repeated = account.requests.saturating_sub(account.recorded);
            self.hold(repeated <= self.crashes, *pos, "repeated more often than once per crash");
        }
        let unrecorded = self.requests - self.recorded;
        if unrecorded != self.lost {
            self.fail(format!("{unrecorded} requests unrecorded, {} lost in crashes", self.lost));
        }
    }
}

/// Before this instant no other attempt may follow.
pub fn earliest(endpoint: &Endpoint, number: u32, ended_at: Timestamp, wait: Option<Micros>) -> Timestamp {
    ended_at.plus(rules::shortest_delay(&endpoint.retry, number).max(wait.unwrap_or(Micros::ZERO)))
}
