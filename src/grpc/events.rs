//! `EventService`; its stream is in [`super::publish_stream`].

use std::sync::Arc;

use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert::{self, Checks, Root, Shown, events::Intake},
    pb::{self, event_service_server::EventService},
    publish_stream,
    status::Caller,
};
use crate::{
    app::{App, Error, Invalid, Principal, Show},
    domain::{NewEvent, Rule, Violations},
};

type Answer<T> = Result<Response<T>, Status>;

/// Events in one batch at most.
const BATCH_MAX: usize = 1000;
/// Metadata key that stands in for `Event.idempotency_key`.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// `EventService` over the use cases.
#[derive(Clone, Debug)]
pub(super) struct Events(pub Arc<App>);

/// What every event that comes in now has in common.
pub(super) fn intake(app: &App, who: &Principal) -> Intake {
    Intake { tenant: who.tenant(), now: app.now(), payload_max: app.limits().payload_bytes_max }
}

impl Events {
    async fn publish(
        &self,
        who: &Principal,
        request: pb::PublishEventRequest,
        key: Option<String>,
    ) -> Result<pb::PublishEventResponse, Error> {
        let pb::PublishEventRequest { mut event, include_deliveries } = request;
        if let (Some(event), Some(key)) = (&mut event, key)
            && event.idempotency_key.is_empty()
        {
            event.idempotency_key = key;
        }
        let event = intake(&self.0, who).required(Root::Field("event"), "event", event)?;
        let published = self.0.publish(vec![event], false).await?.into_iter().next();
        let published = published.ok_or_else(|| Error::Internal("an event was not answered".into()))??;
        Ok(convert::events::response(published, include_deliveries))
    }

    async fn batch(
        &self,
        who: &Principal,
        request: pb::BatchPublishEventsRequest,
    ) -> Result<pb::BatchPublishEventsResponse, Error> {
        let pb::BatchPublishEventsRequest { events, atomic } = request;
        self.check_size(&events)?;
        let intake = intake(&self.0, who);
        let event = |(index, event)| intake.event(Root::Item("events", index), event);
        let events: Vec<_> = events.into_iter().enumerate().map(event).collect();
        let outcomes = if atomic {
            self.0.publish(all_or_nothing(events)?, true).await?
        } else {
            self.0.publish_batch(events).await?
        };
        let results: Vec<_> = outcomes.into_iter().map(convert::events::result).collect();
        let count = |fits: fn(&pb::PublishEventResult) -> bool| {
            results.iter().filter(|result| fits(result)).count() as i32
        };
        Ok(pb::BatchPublishEventsResponse {
            published_count: count(|it| it.error.is_none() && !it.duplicate),
            duplicate_count: count(|it| it.error.is_none() && it.duplicate),
            failed_count: count(|it| it.error.is_some()),
            results,
        })
    }

    fn check_size(&self, events: &[pb::Event]) -> Result<(), Error> {
        let mut checks = Checks::new();
        checks.check(!events.is_empty(), "events", Rule::Required, "must have at least one event");
        checks.check(events.len() <= BATCH_MAX, "events", Rule::TooMany, "must have at most 1000 events");
        let bytes: usize = events.iter().map(payload_bytes).sum();
        if bytes > self.0.limits().batch_bytes_max {
            checks.too_large("events", self.0.limits().batch_bytes_max, bytes);
        }
        checks.finish()
    }

    async fn list(
        &self,
        who: &Principal,
        request: pb::ListEventsRequest,
    ) -> Result<pb::ListEventsResponse, Error> {
        let bound = pb::ListEventsRequest { page_size: 0, page_token: String::new(), ..request.clone() };
        let pb::ListEventsRequest { page_size, page_token, filter, view, payload_format, order } = request;
        let mut checks = Checks::new();
        let page = convert::page(&mut checks, page_size, page_token, order, &bound);
        let filter = convert::events::filter(&mut checks, filter);
        let show = convert::show(&mut checks, view, Show::Basic);
        let shown = Shown::asked(&mut checks, payload_format);
        checks.finish()?;
        let (found, next_page_token) = self.0.events(who.tenant(), &filter, show, &page).await?;
        let tenant_id = who.tenant_id().to_string();
        let event = |found| convert::events::event(found, tenant_id.clone(), show, shown);
        Ok(pb::ListEventsResponse { events: found.into_iter().map(event).collect(), next_page_token })
    }

    async fn get(
        &self,
        who: &Principal,
        request: pb::GetEventRequest,
    ) -> Result<pb::GetEventResponse, Error> {
        let pb::GetEventRequest { id, view, payload_format } = request;
        let mut checks = Checks::new();
        let show = convert::show(&mut checks, view, Show::Full);
        let shown = Shown::asked(&mut checks, payload_format);
        checks.finish()?;
        let found = self.0.event(who.tenant(), convert::parse("id", &id)?).await?;
        let event = convert::events::event(found, who.tenant_id().to_string(), show, shown);
        Ok(pb::GetEventResponse { event: Some(event) })
    }
}

/// Bytes of an event's payload as it came.
fn payload_bytes(event: &pb::Event) -> usize {
    match event.payload.as_ref().and_then(|payload| payload.body.as_ref()) {
        None => 0,
        Some(pb::payload::Body::Data(data)) => data.len(),
        Some(pb::payload::Body::Json(text)) => text.len(),
        Some(pb::payload::Body::Value(value)) => prost::Message::encoded_len(value),
    }
}

/// All events, or everything that is wrong with any.
fn all_or_nothing(events: Vec<Result<NewEvent, Error>>) -> Result<Vec<NewEvent>, Error> {
    let mut good = Vec::with_capacity(events.len());
    let (mut all, mut first) = (Violations::default(), None);
    for event in events {
        match event {
            Ok(event) => good.push(event),
            Err(Error::Invalid { violations, reason }) => {
                all.extend(violations);
                first.get_or_insert(reason);
            }
            Err(error) => return Err(error),
        }
    }
    let reason = first.unwrap_or(Invalid::Field);
    all.into_result(good).map_err(|violations| Error::Invalid { violations, reason })
}

#[tonic::async_trait]
impl EventService for Events {
    type PublishEventStreamStream = BoxStream<'static, Result<pb::PublishEventStreamResponse, Status>>;

    async fn publish_event(
        &self,
        request: Request<pb::PublishEventRequest>,
    ) -> Answer<pb::PublishEventResponse> {
        let (caller, who) = Caller::of(&request)?;
        let key =
            request.metadata().get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok()).map(str::to_owned);
        caller.answer(self.publish(&who, request.into_inner(), key).await)
    }

    async fn batch_publish_events(
        &self,
        request: Request<pb::BatchPublishEventsRequest>,
    ) -> Answer<pb::BatchPublishEventsResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.batch(&who, request.into_inner()).await)
    }

    async fn publish_event_stream(
        &self,
        request: Request<Streaming<pb::PublishEventStreamRequest>>,
    ) -> Answer<Self::PublishEventStreamStream> {
        let (caller, who) = Caller::of_stream(&request)?;
        match self.0.publish_stream() {
            Ok(permit) => {
                let app = Arc::clone(&self.0);
                Ok(Response::new(publish_stream::serve(app, request.into_inner(), (caller, who), permit)))
            }
            Err(error) => Err(caller.refuse(error)),
        }
    }

    async fn get_event(&self, request: Request<pb::GetEventRequest>) -> Answer<pb::GetEventResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.get(&who, request.into_inner()).await)
    }

    async fn list_events(&self, request: Request<pb::ListEventsRequest>) -> Answer<pb::ListEventsResponse> {
        let (caller, who) = Caller::of(&request)?;
        caller.answer(self.list(&who, request.into_inner()).await)
    }

    async fn cancel_event(
        &self,
        request: Request<pb::CancelEventRequest>,
    ) -> Answer<pb::CancelEventResponse> {
        let (caller, who) = Caller::of(&request)?;
        let cancel = async {
            let pb::CancelEventRequest { id } = request.into_inner();
            let cancelled = self.0.cancel_event(who.tenant(), convert::parse("id", &id)?).await?;
            Ok(pb::CancelEventResponse { cancelled_count: cancelled.cast_signed() })
        };
        caller.answer(cancel.await)
    }
}
