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
use crate::domain::{EndpointKey, InstanceId, Pos, Shard, Tenure, Timestamp};

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
    /// Endpoints of other homes that deliveries were made for, their nearest turn, and how
    /// far before the entry's own number theirs are.
    #[serde(rename = "m", default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<(i64, i64, Vec<u64>)>,
    /// Deliveries of other homes that were changed, with their endpoints.
    #[serde(rename = "s", default, skip_serializing_if = "Vec::is_empty")]
    pub steered: Vec<(i64, i64)>,
    /// Shares that changed hands.
    #[serde(rename = "h", default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<(Shard, Tenure)>,
    /// Endpoints whose circuit breakers were reset by hand.
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    pub resets: Vec<i64>,
    /// Operations were accepted or stopped.
    #[serde(rename = "o", default, skip_serializing_if = "std::ops::Not::not")]
    pub operations: bool,
}

impl Note {
    /// Whether nobody else needs to hear of it soon: counts are not urgent.
    pub fn is_quiet(&self) -> bool {
        *self == Self { usage: self.usage.clone(), ..Self::default() }
    }

    /// Notes that a delivery was made for an endpoint of another home, so far before the
    /// entry's own number.
    pub fn make(&mut self, endpoint: EndpointKey, turn_at: Timestamp, before: u64) {
        // Most often several events go to the same few endpoints.
        match self.made.iter_mut().rev().take(8).find(|(key, ..)| *key == endpoint.0) {
            Some((_, nearest, numbers)) => {
                *nearest = turn_at.0.min(*nearest);
                numbers.push(before);
            }
            None => self.made.push((endpoint.0, turn_at.0, vec![before])),
        }
    }
}

impl Entry {
    /// Endpoints of other homes that deliveries were made for, the nearest turn of these
    /// and their numbers.
    pub fn made(&self) -> impl Iterator<Item = (EndpointKey, Timestamp, impl Iterator<Item = Pos>)> {
        self.note.made.iter().map(|(key, turn_at, numbers)| {
            let numbers = numbers.iter().map(|before| Pos(self.pos.0.saturating_sub(*before)));
            (EndpointKey(*key), Timestamp(*turn_at), numbers)
        })
    }

    /// Deliveries of other homes that were changed.
    pub fn steered(&self) -> impl Iterator<Item = (EndpointKey, Pos)> {
        self.note.steered.iter().map(|(pos, key)| (EndpointKey(*key), Pos(pos.cast_unsigned())))
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
