//! Events, in and out.

use std::sync::Arc;

use super::{
    Checks,
    checks::Root,
    headers,
    lists::patterns,
    out_time,
    payload::{self, Shown},
    time,
};
use crate::{
    app::{Error, Found, Show},
    domain::{DeliveryId, EventSummary, Micros, NewEvent, Rule, TenantKey, Timestamp},
    grpc::{
        pb::{
            self,
            event::{Expiration, Schedule},
        },
        status,
    },
    store::{EventFilter, Published},
};

/// Longest type, longest key, and bytes of metadata.
const TYPE_BYTES_MAX: usize = 128;
const KEY_BYTES_MAX: usize = 255;
const METADATA_BYTES_MAX: usize = 8 << 10;
/// How far ahead an event may be scheduled.
const AHEAD_MAX: Micros = Micros::from_secs(90 * 24 * 3600);
/// How long after its acceptance an event may expire: far within the years that can
/// be written in JSON.
const LIFE_MAX: Micros = Micros::from_secs(365 * 24 * 3600);
/// Deliveries listed in one answer.
const LISTED_MAX: usize = 1000;

/// What every event of a call has in common.
#[derive(Clone, Copy, Debug)]
pub struct Intake {
    /// Owner.
    pub tenant: TenantKey,
    /// Acceptance.
    pub now: Timestamp,
    /// Bytes of one payload at most.
    pub payload_max: usize,
}

impl Intake {
    /// A new event. `root` is where it lies in the request.
    pub fn event(&self, root: Root, given: pb::Event) -> Result<NewEvent, Error> {
        let pb::Event {
            id: _,
            event_type,
            payload,
            idempotency_key,
            priority,
            schedule,
            expiration,
            metadata,
            tenant_id: _,
            create_time: _,
            payload_size_bytes: _,
            delivery_summary: _,
        } = given;
        let mut checks = Checks::under(root);
        self::event_type(&mut checks, "event_type", &event_type);
        let payload = payload::payload(&mut checks, payload, self.payload_max);
        let good = idempotency_key.len() <= KEY_BYTES_MAX;
        checks.check(good, "idempotency_key", Rule::TooLong, "must have at most 255 bytes");
        let good = !idempotency_key.contains('\0');
        checks.check(good, "idempotency_key", Rule::BadFormat, "must not contain NUL");
        let good = (-100..=100).contains(&priority);
        checks.check(good, "priority", Rule::OutOfRange, "must be -100 to 100");
        let deliver_at = schedule.map(|schedule| self.deliver_at(&mut checks, schedule));
        let expires_at = expiration.map(|it| self.expires_at(&mut checks, it, deliver_at));
        let metadata = headers::metadata(&mut checks, metadata, METADATA_BYTES_MAX);
        checks.into_result(NewEvent {
            tenant: self.tenant,
            event_type: event_type.into(),
            payload,
            idempotency_key,
            priority: i8::try_from(priority).unwrap_or(0),
            deliver_at: deliver_at.filter(|at| *at > self.now),
            expires_at,
            metadata,
        })
    }

    fn deliver_at(&self, checks: &mut Checks, schedule: Schedule) -> Timestamp {
        let (field, at, good) = match schedule {
            Schedule::DeliverTime(at) => ("deliver_time", time::time(checks, "deliver_time", at), true),
            Schedule::Delay(span) => {
                let span = time::span(checks, "delay", span);
                ("delay", self.now.plus(span), span >= Micros::ZERO)
            }
        };
        let good = good && at.since(self.now) <= AHEAD_MAX;
        checks.check(good, field, Rule::OutOfRange, "must be at most 90 days ahead, and not negative");
        at
    }

    fn expires_at(&self, checks: &mut Checks, given: Expiration, deliver_at: Option<Timestamp>) -> Timestamp {
        let (field, at) = match given {
            Expiration::ExpireTime(at) => ("expire_time", time::time(checks, "expire_time", at)),
            Expiration::Ttl(span) => ("ttl", self.now.plus(time::span(checks, "ttl", span))),
        };
        if checks.check(at > self.now, field, Rule::OutOfRange, "must lie in the future") {
            let good = deliver_at.is_none_or(|deliver_at| at > deliver_at);
            checks.check(good, field, Rule::Conflict, "must lie after the event is due");
            let good = at.since(self.now) <= LIFE_MAX;
            checks.check(good, field, Rule::OutOfRange, "must be at most 365 days after acceptance");
        }
        at
    }

    /// An event that a request must have.
    pub fn required(&self, root: Root, name: &str, given: Option<pb::Event>) -> Result<NewEvent, Error> {
        match given {
            Some(event) => self.event(root, event),
            None => Err(Error::invalid(name, Rule::Required, "is needed")),
        }
    }
}

/// Checks a type that a publisher chose.
pub fn event_type(checks: &mut Checks, field: &str, text: &str) {
    event_type_form(checks, field, text);
    let reserved = text.starts_with("hookwire.");
    checks.check(!reserved, field, Rule::Forbidden, "must not begin with `hookwire.`");
}

/// Checks the form of a type.
pub fn event_type_form(checks: &mut Checks, field: &str, text: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if text.is_empty() {
        checks.add(field, Rule::Required, "is needed");
    } else if text.len() > TYPE_BYTES_MAX {
        checks.add(field, Rule::TooLong, "must have at most 128 characters");
    } else if !text.split('.').all(|segment| !segment.is_empty() && segment.bytes().all(plain)) {
        checks.add(field, Rule::BadFormat, "must be segments of `[A-Za-z0-9_-]`, joined by dots");
    }
}

/// Which events a list shows.
pub fn filter(checks: &mut Checks, given: Option<pb::EventFilter>) -> EventFilter {
    let pb::EventFilter { event_types, create_time, idempotency_key } = given.unwrap_or_default();
    checks.enter(Root::Field("filter"));
    let event_types = patterns(checks, "event_types", &event_types);
    let created = time::range(checks, "create_time", create_time);
    checks.enter(Root::Request);
    let idempotency_key = Some(idempotency_key).filter(|key| !key.is_empty());
    EventFilter { event_types, created, idempotency_key }
}

/// An event as read.
pub fn event(found: Found, tenant_id: String, show: Show, shown: Shown) -> pb::Event {
    let Found { event: it, size, summary } = found;
    pb::Event {
        id: it.id.to_string(),
        event_type: it.event_type.as_ref().to_owned(),
        payload: (show == Show::Full).then(|| shown.payload(it.payload)),
        idempotency_key: it.idempotency_key,
        priority: it.priority.into(),
        schedule: it.deliver_at.map(|at| Schedule::DeliverTime(out_time(at))),
        expiration: it.expires_at.map(|at| Expiration::ExpireTime(out_time(at))),
        metadata: it.metadata.into_iter().collect(),
        tenant_id,
        create_time: Some(out_time(it.created_at)),
        payload_size_bytes: size.cast_signed(),
        delivery_summary: Some(self::summary(summary)),
    }
}

fn summary(summary: EventSummary) -> pb::EventDeliverySummary {
    let EventSummary { total, open, delivered, unsuccessful } = summary;
    pb::EventDeliverySummary {
        total: total.cast_signed(),
        open: open.cast_signed(),
        delivered: delivered.cast_signed(),
        unsuccessful: unsuccessful.cast_signed(),
    }
}

/// What became of one event of a batch or stream.
pub fn result(outcome: Result<Published, Error>) -> pb::PublishEventResult {
    match outcome {
        Ok(Published { event, duplicate, matched, deliveries: _ }) => pb::PublishEventResult {
            event_id: event.to_string(),
            duplicate,
            matched_endpoints: matched.cast_signed(),
            error: None,
        },
        Err(error) => pb::PublishEventResult {
            error: Some(status::item_error(error)),
            ..pb::PublishEventResult::default()
        },
    }
}

/// What became of one event on its own.
pub fn response(published: Published, list: bool) -> pb::PublishEventResponse {
    let Published { event, duplicate, matched, deliveries } = published;
    let listed = if list { deliveries } else { Vec::new() };
    let delivery = |(id, endpoint): (DeliveryId, Arc<str>)| pb::PublishedDelivery {
        delivery_id: id.to_string(),
        endpoint_id: endpoint.as_ref().to_owned(),
    };
    pb::PublishEventResponse {
        event_id: event.to_string(),
        duplicate,
        matched_endpoints: matched.cast_signed(),
        deliveries: listed.into_iter().take(LISTED_MAX).map(delivery).collect(),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::{Duration, Timestamp as PbTimestamp};

    use super::*;

    const NOW: Timestamp = Timestamp(1_768_996_800_000_000);
    const YEAR: i64 = 365 * 24 * 3600;

    fn fields(schedule: Option<Schedule>, expiration: Option<Expiration>) -> Vec<(String, Rule)> {
        let intake = Intake { tenant: TenantKey::DEFAULT, now: NOW, payload_max: 1000 };
        let event = pb::Event { event_type: "a".to_owned(), schedule, expiration, ..Default::default() };
        match intake.event(Root::Request, event) {
            Ok(_) => Vec::new(),
            Err(Error::Invalid { violations, .. }) => {
                violations.0.into_iter().map(|it| (it.field, it.rule)).collect()
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn out_of_range(field: &str) -> Vec<(String, Rule)> {
        vec![(field.to_owned(), Rule::OutOfRange)]
    }

    #[test]
    fn an_event_expires_within_a_year() {
        let ttl = |seconds, nanos| fields(None, Some(Expiration::Ttl(Duration { seconds, nanos })));
        assert_eq!(ttl(1, 0), []);
        assert_eq!(ttl(YEAR, 0), []);
        // Up to the longest span there is, which would end beyond the year 9999.
        for (seconds, nanos) in [(YEAR, 1000), (315_576_000_000, 999_999_999), (0, 0), (-1, 0)] {
            assert_eq!(ttl(seconds, nanos), out_of_range("ttl"), "{seconds}");
        }
        let at = |seconds| {
            let at = PbTimestamp { seconds: NOW.seconds() + seconds, nanos: 0 };
            fields(None, Some(Expiration::ExpireTime(at)))
        };
        assert_eq!(at(YEAR), []);
        assert_eq!(at(YEAR + 1), out_of_range("expire_time"));
        assert_eq!(at(253_402_300_799 - NOW.seconds()), out_of_range("expire_time"));
    }

    #[test]
    fn an_event_is_due_within_90_days() {
        let delay = |seconds| fields(Some(Schedule::Delay(Duration { seconds, nanos: 0 })), None);
        assert_eq!(delay(90 * 24 * 3600), []);
        assert_eq!(delay(90 * 24 * 3600 + 1), out_of_range("delay"));
        assert_eq!(delay(315_576_000_000), out_of_range("delay"));
        let at = PbTimestamp { seconds: 253_402_300_799, nanos: 999_999_999 };
        assert_eq!(fields(Some(Schedule::DeliverTime(at)), None), out_of_range("deliver_time"));
    }
}
