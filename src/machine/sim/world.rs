//! Time, and everything that happens in it.

use std::sync::Arc;

use super::{
    agenda::{Agenda, Happening},
    bugs::Bug,
    chance::Chance,
    checks::Checks,
    engine::Engine,
    receiver::Receiver,
    scenario::{self, Faults, Scenario},
    store::{Store, Write},
};
use crate::domain::{Endpoint, Micros, Now, Pos, Steps, Timestamp};

/// After the faults have ended, everything is to be final within this time: the
/// longest schedules, silences and backlogs at the lowest rate fit several times.
const PATIENCE: Micros = Micros::from_secs(6 * 3600);

/// Rushes of urgent events in one story; each brings more pages, and so could
/// bring another.
const RUSHES_MAX: u32 = 3;

/// Everything there is.
pub struct World {
    /// On the steady line.
    pub now: Timestamp,
    /// How far the wall clock is ahead of it.
    pub offset: Micros,
    /// Steps of the wall clock that the engine alive has seen.
    pub steps: Steps,
    pub chance: Chance,
    pub faults: Faults,
    pub agenda: Agenda,
    pub store: Store,
    pub receivers: Vec<Receiver>,
    pub checks: Checks,
    pub bug: Option<Bug>,
    /// The engine, while it lives.
    pub engine: Option<Engine>,
    /// Lives so far.
    pub life: u32,
    /// Endpoints as the engine was last told.
    pub told: Vec<Arc<Endpoint>>,
    /// A look at the feed is planned.
    pub tailing: bool,
    /// Pages read.
    pub pages: u64,
    /// Deliveries that a lane may hold while it flows.
    pub room: usize,
    /// Rushes that may still come.
    pub rushes: u32,
    /// Handed to the writer and not known to be committed.
    pub pending: Vec<Write>,
    /// A commit is planned.
    pub committing: bool,
    /// Events published so far, each under a key of its own.
    pub keys: u64,
    /// When the faults ended.
    pub healed_at: Option<Timestamp>,
    tracing: bool,
    happenings: u64,
}

/// What a story amounted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Things that happened.
    pub happenings: u64,
    /// Deliveries made.
    pub deliveries: u64,
    /// Requests sent.
    pub requests: u64,
    /// Pages read.
    pub pages: u64,
    /// Crashes.
    pub crashes: u64,
}

/// Tells the story of a seed. The error is the first promise broken.
pub fn run(seed: u64, bug: Option<Bug>, tracing: bool) -> Result<Tally, String> {
    let mut world = World::new(seed, bug, tracing);
    while world.checks.violation.is_none() {
        let Some((at, happening)) = world.agenda.next() else { break };
        world.now = at;
        world.happenings += 1;
        if world.late() {
            let open = world.store.open_count();
            world.checks.fail(format!("{open} deliveries are still open long after all faults have ended"));
        } else if world.chance.happens(world.faults.crash) {
            world.crash();
        }
        world.happen(happening);
    }
    world.end()
}

impl World {
    fn new(seed: u64, bug: Option<Bug>, tracing: bool) -> Self {
        let mut chance = Chance::new(seed);
        let Scenario { endpoints, faults, agenda } = Scenario::random(&mut chance);
        let room = chance.pick(&[0, 300, 5_000]);
        let receivers = endpoints.iter().map(|_| Receiver::random(&mut chance)).collect();
        Self {
            now: scenario::BEGIN,
            offset: Micros::ZERO,
            steps: Steps::none(Micros::ZERO),
            chance,
            faults,
            agenda,
            told: endpoints.clone(),
            store: Store::new(endpoints),
            receivers,
            checks: Checks::default(),
            bug,
            engine: None,
            life: 0,
            tailing: false,
            pages: 0,
            room,
            rushes: RUSHES_MAX,
            pending: Vec::new(),
            committing: false,
            keys: 0,
            healed_at: None,
            tracing,
            happenings: 0,
        }
    }

    /// Says what happens, in a replay.
    pub fn trace(&self, line: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:>12} us  {}", self.now.since(scenario::BEGIN).0, line());
        }
    }

    /// The time of day.
    pub fn wall(&self) -> Timestamp {
        self.now.plus(self.offset)
    }

    /// The clock.
    pub fn clock(&self) -> Now {
        Now::new(self.now, self.wall(), self.steps)
    }

    /// The clock as the engine reads it.
    pub fn reading(&self) -> Now {
        match self.bug {
            Some(Bug::WallReadOnce) => {
                let first = self.steps.first();
                Now::new(self.now, self.now.plus(first), Steps::none(first))
            }
            Some(Bug::StepForgotten) => Now::new(self.now, self.wall(), Steps::none(self.offset)),
            _ => self.clock(),
        }
    }

    /// Somebody sets the wall clock.
    fn step(&mut self, by: Micros) {
        self.trace(|| format!("the wall clock steps by {} s", by.as_secs_f64()));
        let before = self.clock();
        self.checks.watches.iter_mut().for_each(|watch| watch.steps(&before));
        self.offset = self.offset.plus(by);
        self.steps.note(self.now, self.offset);
        let lanes = self.engine.as_ref().map_or(0, |engine| engine.lanes.len());
        for at in 0..lanes {
            if self.bug != Some(Bug::StepNotNoticed) {
                self.drive(at);
            }
            self.prompt(at);
        }
    }

    fn happen(&mut self, happening: Happening) {
        let alive = self.engine.as_ref().map(|engine| engine.life);
        match happening {
            Happening::Publish { endpoint, count, urgent } => self.publish(endpoint, count, urgent),
            Happening::Meddle => self.meddle(),
            Happening::Reconfigure => self.reconfigure(),
            Happening::Start if alive.is_none() => {
                self.trace(|| "start".to_owned());
                self.told.clone_from(&self.store.endpoints);
                self.start();
            }
            Happening::Crash if alive.is_some() => self.crash(),
            Happening::Told { life, endpoint } if alive == Some(life) => {
                self.told[endpoint] = Arc::clone(&self.store.endpoints[endpoint]);
                self.endpoint_told(endpoint);
            }
            Happening::Tail { life } if alive == Some(life) => self.tail(),
            Happening::Wake { life, endpoint, at } if alive == Some(life) => self.wake(endpoint, at),
            Happening::Paged { life, endpoint, page, last } if alive == Some(life) => {
                self.trace(|| format!("page for {endpoint} is here"));
                self.paged(endpoint, page, last);
            }
            Happening::Begun { life, pos } if alive == Some(life) => self.begun(pos),
            Happening::Ended { life, flight } if alive == Some(life) => self.ended(flight),
            Happening::Commit { life } if alive == Some(life) => self.commit(),
            Happening::Step { by } => self.step(by),
            Happening::Heal => self.heal(),
            Happening::Start
            | Happening::Crash
            | Happening::Told { .. }
            | Happening::Tail { .. }
            | Happening::Wake { .. }
            | Happening::Paged { .. }
            | Happening::Begun { .. }
            | Happening::Ended { .. }
            | Happening::Commit { .. } => {}
        }
    }

    /// A span that something inside the house takes.
    pub fn delay(&mut self) -> Micros {
        let slow = self.chance.happens(self.faults.slow);
        if slow { self.chance.millis(0, 1_000) } else { self.chance.millis(0, 10) }
    }

    /// Sees to it that the engine looks at the feed, soon.
    pub fn look(&mut self) {
        if let Some(engine) = &self.engine
            && !self.tailing
        {
            self.tailing = true;
            let (life, delay) = (engine.life, self.delay());
            self.agenda.add(self.now.plus(delay), Happening::Tail { life });
        }
    }

    fn crash(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.trace(|| "CRASH".to_owned());
            let pending: Vec<Pos> = self.pending.iter().filter_map(Write::start_of).collect();
            self.checks.crashed(&engine.flying, &pending, self.now);
            self.pending.clear();
            (self.committing, self.tailing) = (false, false);
            let down = self.chance.millis(0, 5_000);
            self.agenda.add(self.now.plus(down), Happening::Start);
        }
    }

    fn late(&self) -> bool {
        self.healed_at.is_some_and(|at| self.now > at.plus(PATIENCE))
    }

    fn end(mut self) -> Result<Tally, String> {
        if self.checks.violation.is_none() {
            self.checks.end(&self.store);
            let open = self.store.open_count();
            if open > 0 {
                self.checks.fail(format!("{open} deliveries are open and nothing more will happen"));
            }
            if !self.rested() {
                self.checks.fail("the engine waits for attempts that are over");
            }
        }
        match self.checks.violation {
            Some(violation) => Err(violation),
            None => Ok(Tally {
                happenings: self.happenings,
                deliveries: self.store.rows.len() as u64,
                requests: self.checks.requests,
                pages: self.pages,
                crashes: u64::from(self.checks.crashes),
            }),
        }
    }
}
