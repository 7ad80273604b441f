//! What comes from outside: callers of the API, and the end of all faults.

use std::sync::Arc;

use super::{
    agenda::Happening,
    receiver::Receiver,
    scenario::{self, Faults},
    store::Write,
    world::World,
};
use crate::domain::{EndpointState, Micros, Pos, Timestamp};

impl World {
    /// Events for one endpoint, in one go.
    pub fn publish(&mut self, endpoint: usize, count: usize, urgent: bool) {
        self.trace(|| format!("publish {count} for {endpoint}, urgent: {urgent}"));
        let scheduled = self.chance.weight(0.5);
        let expiring = self.chance.weight(0.5);
        let spread = self.chance.pick(&[0, 0, 3, 100]);
        let rising = self.chance.happens(0.5);
        for nth in 0..count {
            self.keys += 1;
            let mixed = if self.chance.happens(0.2) { self.chance.within(-spread, spread) as i8 } else { 0 };
            let priority = match (urgent, rising) {
                (false, _) => mixed,
                (true, false) => 100,
                (true, true) => (nth * 100 / count) as i8,
            };
            let due_at = self.chance.happens(scheduled).then(|| self.soon());
            let expires_at = self.chance.happens(expiring).then(|| self.soon());
            self.write(Write::Publish { key: self.keys, endpoint, priority, due_at, expires_at });
        }
    }

    fn soon(&mut self) -> Timestamp {
        let most = self.chance.pick(&[1_000, 20_000, 300_000]);
        self.wall().plus(self.chance.millis(1, most))
    }

    /// Someone cancels deliveries, or wants them at once.
    pub fn meddle(&mut self) {
        let cancel = self.chance.happens(0.5);
        for _ in 0..self.chance.pick(&[1, 3, 40]) {
            // Positions of later changes name no delivery; they are skipped.
            let pos = Pos(self.chance.below(self.store.feed.len() + 1) as u64);
            let Some((&pos, _)) = self.store.rows.range(pos..).next() else { continue };
            self.write(if cancel { Write::Cancel(pos) } else { Write::RetryNow(pos) });
        }
    }

    /// Someone changes an endpoint.
    pub fn reconfigure(&mut self) {
        let at = self.chance.below(self.store.endpoints.len());
        let mut endpoint = self.store.endpoints[at].as_ref().clone();
        match self.chance.below(8) {
            0 | 1 => endpoint.state = EndpointState::Paused,
            2 => endpoint.state = EndpointState::Disabled,
            3 | 4 => endpoint.state = EndpointState::Active,
            5 => endpoint.rate_limit = scenario::rate_limit(&mut self.chance),
            6 => endpoint.breaker = scenario::breaker(&mut self.chance),
            _ => {
                endpoint.retry = scenario::retry(&mut self.chance);
                endpoint.max_in_flight = self.chance.pick(&[1, 2, 10]);
            }
        }
        endpoint.version += 1;
        self.write(Write::Endpoint(Arc::new(endpoint)));
    }

    /// All faults end. Answers under way may still disable an endpoint, so
    /// someone looks again later.
    pub fn heal(&mut self) {
        self.trace(|| "heal".to_owned());
        self.faults = Faults::default();
        self.receivers.iter_mut().for_each(Receiver::heal);
        let first = self.healed_at.is_none();
        self.healed_at.get_or_insert(self.now);
        for endpoint in self.store.endpoints.clone() {
            if endpoint.state != EndpointState::Active {
                let mut endpoint = endpoint.as_ref().clone();
                endpoint.state = EndpointState::Active;
                endpoint.version += 1;
                self.write(Write::Endpoint(Arc::new(endpoint)));
            }
        }
        if first {
            let later = self.now.plus(Micros::from_secs(60));
            self.agenda.add(later, Happening::Heal);
        }
    }
}
