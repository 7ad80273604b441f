//! The journal: what each transaction of a fleet changed that others must hear of.
//!
//! Every process keeps tenants, keys, endpoints and counts in memory, and its engine
//! the deliveries of its own endpoints. On PostgreSQL others change them too. So each
//! transaction adds an entry that says what it touched: not how it is now, which stands in
//! the tables, but where to look. A transaction reads the entries since its process last
//! looked before it does anything; so it decides on what holds, on any instance.
//!
//! On SQLite there is one process and no journal.

use serde::{Deserialize, Serialize};

use super::{Error, db::Columns};
use crate::domain::{Delivery, EndpointKey, InstanceId, Pos, Shard, Tenure, Timestamp, Trigger};

/// What a transaction did, as others are told.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The last number it took.
    pub pos: Pos,
    /// The position it began at: that of the entry before.
    pub base: Pos,
    /// The latest time of any change so far.
    pub latest: Timestamp,
    /// Who did it.
    pub origin: InstanceId,
    /// What it touched.
    pub note: Note,
}

/// What a transaction touched. Kept short: at its busiest, a fleet writes some hundred of
/// these a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Endpoints made, changed or deleted, by key.
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<i64>,
    /// Tenants made, changed or deleted, by key.
    #[serde(rename = "t", default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<i64>,
    /// API keys made or changed, by number.
    #[serde(rename = "k", default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<i64>,
    /// What tenants use afterwards: key, day, events, open, queued bytes.
    #[serde(rename = "u", default, skip_serializing_if = "Vec::is_empty")]
    pub usage: Vec<(i64, i64, u64, i64, i64)>,
    /// Deliveries made for endpoints of other homes.
    #[serde(rename = "d", default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<Made>,
    /// Deliveries of other homes that were changed, with their endpoints.
    #[serde(rename = "s", default, skip_serializing_if = "Vec::is_empty")]
    pub steered: Vec<(i64, i64)>,
    /// Shares that changed hands.
    #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<(Shard, Tenure)>,
    /// Endpoints whose circuit breakers were reset by hand.
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    pub resets: Vec<i64>,
    /// Endpoints whose open circuit breakers are to probe at once.
    #[serde(rename = "b", default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<i64>,
    /// Operations were accepted or stopped.
    #[serde(rename = "o", default, skip_serializing_if = "std::ops::Not::not")]
    pub operations: bool,
}

/// Deliveries made for an endpoint of another home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The endpoint, by key.
    #[serde(rename = "e")]
    endpoint: i64,
    /// The nearest turn of them.
    #[serde(rename = "t")]
    turn_at: i64,
    /// How often each is tried.
    #[serde(rename = "a")]
    max_attempts: u32,
    /// Their numbers: how far each is before that of the entry, and how far behind that of
    /// the event it was made of. 0: it is a replay, which its event does not tell all about.
    #[serde(rename = "n")]
    numbers: Vec<(u64, u64)>,
}

/// A delivery that an entry tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mention {
    /// Where it goes.
    pub endpoint: EndpointKey,
    /// Its number.
    pub pos: Pos,
    /// What it was made of, if that tells all about it; otherwise its row does.
    pub source: Option<Source>,
}

/// What publishing made a delivery of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The event.
    pub event: Pos,
    /// What the endpoint's retry policy said then.
    pub max_attempts: u32,
}

impl Note {
    /// Whether nobody else needs to hear of it soon: counts are not urgent.
    pub fn is_quiet(&self) -> bool {
        *self == Self { usage: self.usage.clone(), ..Self::default() }
    }

    /// Notes that a delivery was made for an endpoint of another home; the entry will have
    /// the number `at`.
    pub fn make(&mut self, it: &Delivery, at: Pos) {
        let (pos, endpoint, turn_at) = (it.id.pos().0, it.endpoint.0, it.turn_at.0);
        let behind = if it.trigger == Trigger::Event { pos - it.event.pos().0 } else { 0 };
        let number = (at.0 - pos, behind);
        // Most often several events go to the same few endpoints.
        let same = |made: &&mut Made| made.endpoint == endpoint && made.max_attempts == it.max_attempts;
        match self.made.iter_mut().rev().take(8).find(same) {
            Some(made) => {
                made.turn_at = turn_at.min(made.turn_at);
                made.numbers.push(number);
            }
            None => {
                let (max_attempts, numbers) = (it.max_attempts, vec![number]);
                self.made.push(Made { endpoint, turn_at, max_attempts, numbers });
            }
        }
    }
}

impl Entry {
    /// Endpoints of other homes that deliveries were made for, the nearest turn of these, and
    /// they themselves.
    pub fn made(&self) -> impl Iterator<Item = (EndpointKey, Timestamp, impl Iterator<Item = Mention>)> {
        self.note.made.iter().map(move |made| {
            let Made { max_attempts, endpoint, .. } = *made;
            let endpoint = EndpointKey(endpoint);
            let mentions = made.numbers.iter().map(move |(before, behind)| {
                let pos = Pos(self.pos.0.saturating_sub(*before));
                let event = Pos(pos.0.saturating_sub(*behind));
                Mention { endpoint, pos, source: (*behind > 0).then_some(Source { event, max_attempts }) }
            });
            (endpoint, Timestamp(made.turn_at), mentions)
        })
    }

    /// Deliveries of other homes that were changed.
    pub fn steered(&self) -> impl Iterator<Item = Mention> {
        let mention = |(pos, key): &(i64, i64)| Mention {
            endpoint: EndpointKey(*key),
            pos: Pos(pos.cast_unsigned()),
            source: None,
        };
        self.note.steered.iter().map(mention)
    }

    /// Reads the columns `pos, base, latest, origin, note`.
    pub(super) fn read(row: &dyn Columns) -> Result<Self, Error> {
        Ok(Self {
            pos: row.pos(0)?,
            base: row.pos(1)?,
            latest: row.time(2)?,
            origin: InstanceId(row.number(3)?),
            note: row.text(4)?.map(serde_json::from_str).transpose()?.unwrap_or_default(),
        })
    }

    /// The statement that adds it. Numbers and JSON only, so it needs no values, and goes
    /// together with the commit in one round trip.
    pub(super) fn insert(&self) -> String {
        let Self { pos, base, latest, origin, note } = self;
        let note = if *note == Note::default() {
            "NULL".to_owned()
        } else {
            let json = serde_json::to_string(note).expect("plain data is JSON");
            format!("'{}'", json.replace('\'', "''"))
        };
        format!("INSERT INTO commits VALUES ({}, {}, {}, {}, {note}); ", pos.0, base.0, latest.0, origin.0)
    }
}
