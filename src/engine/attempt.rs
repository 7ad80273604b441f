//! One attempt: request, judgement, record.

use std::{borrow::Cow, sync::Arc, time::Duration};

use super::{caller::Caller, lease::Lease, starts::Began};
use crate::{
    clock::Clock,
    domain::{
        Attempt, Cause, DeadLetterPolicy, Delivery, DeliveryId, Event, Fault, Micros, Outcome, Pos, State,
        Timestamp, Timings, Trigger, Uid,
    },
    egress::Client,
    entropy::Entropy,
    machine::judge::{Next, judge, settle},
    store::{Finish, Store},
};

/// Pause between tries at a store that does not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// The status that refuses a token.
const UNAUTHORIZED: u16 = 401;

/// What attempts share.
pub(super) struct Context {
    pub store: Arc<Store>,
    pub client: Client,
    pub clock: Clock,
    pub entropy: Entropy,
    pub lease: Arc<Lease>,
}

/// Makes an attempt under a tenure; how the delivery goes on after it.
pub(super) async fn run(
    context: &Context,
    caller: &Caller,
    delivery: Arc<Delivery>,
    epoch: u64,
    began: Began,
) -> Finish {
    let event = event(context, &delivery).await;
    // Reading it may have taken until after an outage.
    while !context.lease.holds(context.clock.now()) {
        tokio::time::sleep(PAUSE).await;
    }
    let (outcome, stale) = match &event {
        Some(event) => {
            began.now(&context.clock);
            send(context, caller, event, delivery.id).await
        }
        None => {
            let message = "the event is no longer stored".to_owned();
            (fault(context.clock.wall(), Fault { cause: Cause::InvalidRequest, message }), false)
        }
    };
    let mut retry = Cow::Borrowed(&caller.endpoint.retry);
    if stale {
        retry.to_mut().retry_statuses.push(UNAUTHORIZED);
    }
    let verdict = judge(&delivery, &retry, &outcome, context.entropy.unit());
    let is_gone = verdict.failure.as_ref().is_some_and(|failure| failure.cause == Cause::Gone);
    let gone = is_gone.then_some(caller.endpoint.version);
    let reason = match verdict.next {
        Next::GiveUp(reason) => Some(reason),
        Next::Delivered | Next::RetryAt(_) | Next::Expired => None,
    };
    let letters = caller.endpoint.dead_letters;
    let (after, attempt) = settle(&delivery, outcome, verdict, letters);
    if let (State::Retrying, Some(event)) = (after.state, event) {
        context.store.hot().keep(event);
    }
    Finish { before: delivery, after, attempt: Some(attempt), reason, letters, gone, epoch, started: false }
}

/// That a delivery's time is over.
pub(super) fn expired(delivery: Arc<Delivery>, epoch: u64, now: Timestamp) -> Finish {
    let mut after = (*delivery).clone();
    after.state = State::Expired;
    after.revision += 1;
    after.updated_at = now;
    let letters = DeadLetterPolicy::default();
    Finish {
        before: delivery,
        after,
        attempt: None,
        reason: None,
        letters,
        gone: None,
        epoch,
        started: false,
    }
}

/// Sends a test event: nothing is stored, nothing is counted.
pub(super) async fn test(context: &Context, caller: &Caller, event: &Event) -> Attempt {
    let id = DeliveryId(Uid::new(event.created_at, event.id.0.salt(), Pos(0)));
    let first = Delivery::first(event, &caller.endpoint, id);
    let delivery = Delivery { trigger: Trigger::Test, max_attempts: 1, ..first };
    let (outcome, _) = send(context, caller, event, delivery.id).await;
    let verdict = judge(&delivery, &caller.endpoint.retry, &outcome, 0.5);
    settle(&delivery, outcome, verdict, caller.endpoint.dead_letters).1
}

/// The event of a delivery: at hand, or read, for as long as it takes the store to
/// answer.
async fn event(context: &Context, delivery: &Delivery) -> Option<Arc<Event>> {
    if let Some(event) = context.store.hot().take(delivery.event.pos()) {
        return Some(event);
    }
    loop {
        match context.store.event(delivery.event).await {
            Ok(event) => return event.map(Arc::new),
            Err(error) => {
                tracing::warn!(%error, "an event could not be read; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Sends the request. Also says whether it was refused for a token that had been
/// good: then another attempt has a fresh one.
async fn send(context: &Context, caller: &Caller, event: &Event, delivery: DeliveryId) -> (Outcome, bool) {
    let Some(tokens) = &caller.tokens else {
        return match caller.request(event, delivery, context.clock.wall(), None) {
            Ok(request) => {
                let mut sent = context.client.send(request).await;
                if let Ok(answer) = &mut sent.result {
                    caller.redact(answer, None);
                }
                (sent, false)
            }
            Err(found) => (fault(context.clock.wall(), found), false),
        };
    };
    // Getting the token is part of the attempt and of its time.
    let (limit, begin) = (caller.endpoint.http.timeout, context.clock.now());
    let spent = || context.clock.now().since(begin);
    let ready = match tokens.header(&context.client, &context.clock, limit).await {
        Ok(token) => {
            let request = caller.request(event, delivery, context.clock.wall(), Some(token.clone()));
            request.map(|request| (request, token))
        }
        Err(found) => Err(found),
    };
    let (mut request, token) = match ready {
        Ok(ready) => ready,
        Err(found) => return (ended(&context.clock, spent(), fault(context.clock.wall(), found)), false),
    };
    request.timeout = Micros((limit.0 - spent().0).max(0));
    let mut sent = context.client.send(request).await;
    let mut stale = false;
    if let Ok(answer) = &mut sent.result {
        caller.redact(answer, Some(&token));
        stale = tokens.judged(&token, answer.status).await;
    }
    (ended(&context.clock, spent(), sent), stale)
}

/// An outcome as of now, after so long.
fn ended(clock: &Clock, duration: Micros, outcome: Outcome) -> Outcome {
    Outcome { started_at: clock.wall().minus(duration), duration, ..outcome }
}

fn fault(now: Timestamp, fault: Fault) -> Outcome {
    Outcome { started_at: now, duration: Micros::ZERO, timings: Timings::default(), result: Err(fault) }
}
