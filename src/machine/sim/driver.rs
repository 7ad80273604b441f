//! Does what lanes ask for: attempts, pages, expirations, waiting.

use std::sync::Arc;

use super::{
    agenda::Happening,
    bugs::Bug,
    checks,
    receiver::Reaction,
    store::{Flight, Write},
    world::World,
};
use crate::{
    domain::{Delivery, Timestamp},
    machine::{
        breaker::Position,
        lane::{Page, Step},
    },
};

/// Steps a lane may take without time passing: far more than a window.
const STEPS_MAX: u32 = 10_000;

impl World {
    /// Does what a lane asks for until it has nothing to ask.
    pub fn drive(&mut self, at: usize) {
        for _ in 0..STEPS_MAX {
            let (now, reading) = (self.clock(), self.reading());
            let Some(engine) = &mut self.engine else { return };
            let (life, place) = (engine.life, &mut engine.lanes[at]);
            let Some(lane) = &mut place.lane else { return };
            let step = lane.next(self.room, &reading);
            match step {
                Step::Send(delivery) => {
                    self.checks.sent(&delivery, lane, &self.store.rows, &now);
                    if self.bug == Some(Bug::TwoProbes) && lane.breaker().position() == Position::HalfOpen {
                        lane.reset();
                    }
                    self.send(at, life, delivery);
                }
                Step::Expire(_) if self.bug == Some(Bug::ExpiredNeverFires) => {}
                Step::Expire(delivery) => {
                    self.checks.watches[at].expires(&delivery);
                    self.trace(|| format!("  expire {}", delivery.id.pos().0));
                    if delivery.expires_at.is_none_or(|end| end > now.wall) {
                        self.checks.fail("expired before its end");
                    }
                    self.write(Write::Expire(delivery));
                }
                Step::Page(page) => {
                    if std::mem::replace(&mut place.paging, true) {
                        self.checks.fail("two pages asked for at once");
                    }
                    self.read(at, life, page);
                }
                Step::Wait(until) => return self.rest(at, life, until),
            }
        }
        self.checks.fail(format!("lane {at} does not come to rest"));
    }

    fn send(&mut self, at: usize, life: u32, before: Arc<Delivery>) {
        let Reaction { outcome, asked } = self.receivers[at].react(self.now, &mut self.chance);
        self.trace(|| {
            let (number, span) = (before.attempts + 1, outcome.duration.0);
            let answer = outcome.result.as_ref().map(|answer| answer.status).map_err(|fault| fault.cause);
            format!(
                "  send {} attempt {number} to {at}: {answer:?} after {span} us, asks {asked:?}",
                before.id.pos().0
            )
        });
        let (pos, number) = (before.id.pos(), before.attempts + 1);
        if let Some(engine) = &mut self.engine {
            engine.flying.insert(pos, (number, self.now));
        }
        let known_at = self.now.plus(self.chance.millis(40, checks::KNOWN_AFTER.0 / 1000));
        self.agenda.add(known_at, Happening::Begun { life, pos });
        let over = self.now.plus(outcome.duration);
        let flight = Box::new(Flight { before, outcome, asked });
        self.agenda.add(over, Happening::Ended { life, flight });
    }

    /// Reads a page: taken now, here a little later.
    fn read(&mut self, at: usize, life: u32, asked: Page) {
        let Some(engine) = &mut self.engine else { return };
        let fails = self.chance.happens(self.faults.page_fails);
        let fresh = self.store.page(at, asked);
        let (mut page, last) = match &engine.lanes[at].last_page {
            Some(old) if self.bug == Some(Bug::StalePage) => old.clone(),
            _ => fresh.clone(),
        };
        engine.lanes[at].last_page = (self.bug == Some(Bug::StalePage)).then_some(fresh);
        if self.bug == Some(Bug::CrashLosesRetrying) {
            page.retain(|delivery| delivery.attempts == 0);
        }
        self.pages += 1;
        self.trace(|| {
            format!("  page of {} for {at}: {} rows, last {last}, fails {fails}", asked.limit, page.len())
        });
        let page = (!fails).then_some(page);
        let slow = self.chance.happens(self.faults.slow_page);
        let delay = if slow { self.chance.millis(0, 5_000) } else { self.delay() };
        if asked.from.0 > Timestamp(i64::MIN) && self.rushes > 0 && self.chance.happens(self.faults.rush) {
            self.rushes -= 1;
            let count = self.chance.within(260, 400) as usize;
            self.agenda.add(self.now, Happening::Publish { endpoint: at, count, urgent: true });
        }
        self.agenda.add(self.now.plus(delay), Happening::Paged { life, endpoint: at, page, last });
    }

    fn rest(&mut self, at: usize, life: u32, until: Option<Timestamp>) {
        let Some(engine) = &mut self.engine else { return };
        let place = &mut engine.lanes[at];
        let Some(lane) = &mut place.lane else { return };
        if let Err(message) = self.checks.watches[at].rests(lane, self.room) {
            self.checks.fail(message);
        }
        if let Some(until) = until.filter(|_| place.wake_at != until) {
            if until <= self.now {
                self.checks.fail(format!("lane {at} waits for the past"));
            }
            self.agenda.add(until, Happening::Wake { life, endpoint: at, at: until });
        }
        place.wake_at = until;
        if lane.is_idle(self.now) && self.chance.happens(0.3) {
            place.lane = None;
        }
        self.prompt(at);
    }

    /// A lane at rest leaves nothing that is due and that nothing holds back.
    pub fn prompt(&mut self, at: usize) {
        let now = self.clock();
        let Some(lane) = self.engine.as_mut().and_then(|engine| engine.lanes[at].lane.as_mut()) else {
            return;
        };
        if lane.gate(now.steady).is_none()
            && let Some(pos) = self.checks.watches[at].kept_waiting(lane, &now)
        {
            self.checks.fail(format!("delivery {} is due and not sent", pos.0));
        }
    }
}
