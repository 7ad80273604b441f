//! The one writer: gathers, commits in batches, and when told of a failure writes
//! the same again, as it cannot know whether that is true.

use super::{agenda::Happening, bugs::Bug, store::Write, world::World};

impl World {
    /// Hands a write to the writer; while the process is down, to another's.
    pub fn write(&mut self, write: Write) {
        if let Write::Publish { key, .. } = write
            && self.bug == Some(Bug::AckBeforeCommit)
        {
            self.checks.accepted(key);
        }
        self.pending.push(write);
        match &self.engine {
            None => self.apply(),
            Some(_) if self.committing => {}
            Some(engine) => {
                self.committing = true;
                let (life, delay) = (engine.life, self.delay());
                self.agenda.add(self.now.plus(delay), Happening::Commit { life });
            }
        }
    }

    /// Commits what has gathered, as one batch.
    pub fn commit(&mut self) {
        self.committing = false;
        let Some(engine) = &self.engine else { return };
        let life = engine.life;
        let (fails, lies) =
            (self.chance.happens(self.faults.commit_fails), self.chance.happens(self.faults.commit_lies));
        self.trace(|| format!("commit of {} fails: {fails}, lies: {lies}", self.pending.len()));
        if fails && self.bug == Some(Bug::BatchDropped) {
            self.pending.clear();
        } else if fails || lies {
            // The same again, with whatever gathers meanwhile.
            let batch = if fails { Vec::new() } else { self.pending.clone() };
            batch.iter().for_each(|write| self.store_one(write, life));
            self.committing = true;
            let delay = self.delay();
            self.agenda.add(self.now.plus(delay), Happening::Commit { life });
        } else {
            self.apply();
        }
        self.look();
    }

    fn apply(&mut self) {
        let life = self.life;
        for write in std::mem::take(&mut self.pending) {
            self.store_one(&write, life);
            if let Write::Publish { key, .. } = write
                && self.bug != Some(Bug::AckBeforeCommit)
                && self.store.made(key).is_some()
            {
                self.checks.accepted(key);
            }
        }
    }

    fn store_one(&mut self, write: &Write, life: u32) {
        let before: Vec<_> = self.store.endpoints.iter().map(|endpoint| endpoint.version).collect();
        let from = self.store.feed.len();
        self.store.commit(write, self.wall(), self.bug, &mut self.checks);
        for entry in &self.store.feed[from..] {
            let delivery = &entry.delivery;
            let (pos, revision) = (delivery.id.pos().0, delivery.revision);
            self.trace(|| {
                format!("  stored {pos} revision {revision}: {:?} due {}", delivery.state, delivery.due_at)
            });
        }
        for (endpoint, version) in before.into_iter().enumerate() {
            if self.store.endpoints[endpoint].version != version {
                let delay = self.delay();
                self.trace(|| format!("  endpoint {endpoint} {:?}", self.store.endpoints[endpoint].state));
                self.agenda.add(self.now.plus(delay), Happening::Told { life, endpoint });
            }
        }
    }
}
