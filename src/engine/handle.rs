//! How the rest of the house asks the engine.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::{
    domain::{Attempt, Delivery, Endpoint, EndpointKey, Event, Live, Now, Shard, Timestamp},
    machine::breaker::{Breaker, Position},
};

/// A circuit breaker as it stands, in wall time.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circuit {
    /// Where it stands.
    pub position: Position,
    /// Failures in a row.
    pub failures: u32,
    /// When it last opened, if it is not closed.
    pub opened_at: Option<Timestamp>,
}

impl Circuit {
    /// One that never opened.
    pub const CLOSED: Self = Self { position: Position::Closed, failures: 0, opened_at: None };

    /// How a breaker stands now.
    pub(super) fn of(breaker: &Breaker, now: &Now) -> Self {
        let position = match breaker.position() {
            Position::Open { until } => Position::Open { until: now.wall_at(until) },
            position @ (Position::Closed | Position::HalfOpen) => position,
        };
        let opened_at = breaker.opened_at().map(|at| now.wall_at(at));
        Self { position, failures: breaker.failures(), opened_at }
    }
}

/// A question to the dispatcher.
#[derive(Debug)]
pub(super) enum Ask {
    Live(Vec<Delivery>, oneshot::Sender<Vec<Live>>),
    Circuits(Vec<EndpointKey>, oneshot::Sender<Vec<Circuit>>),
    Leave(Shard, oneshot::Sender<()>),
    Test(Arc<Endpoint>, Box<Event>, oneshot::Sender<Attempt>),
}

/// Asks the engine.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) asks: mpsc::Sender<Ask>,
}

impl Handle {
    /// What holds for each of these deliveries now; nothing known when the engine
    /// has stopped.
    pub async fn live(&self, deliveries: Vec<Delivery>) -> Vec<Live> {
        let count = deliveries.len();
        let (reply, answer) = oneshot::channel();
        let asked = self.asks.send(Ask::Live(deliveries, reply)).await;
        let answer = if asked.is_ok() { answer.await.ok() } else { None };
        answer.unwrap_or_else(|| vec![Live::default(); count])
    }

    /// The circuit breakers of these endpoints.
    pub async fn circuits(&self, endpoints: Vec<EndpointKey>) -> Vec<Circuit> {
        let count = endpoints.len();
        let (reply, answer) = oneshot::channel();
        let asked = self.asks.send(Ask::Circuits(endpoints, reply)).await;
        let answer = if asked.is_ok() { answer.await.ok() } else { None };
        answer.unwrap_or_else(|| vec![Circuit::CLOSED; count])
    }

    /// Sends no more for a share of the work, and returns once nothing of it is in flight
    /// or unrecorded; false: the engine has stopped before that.
    pub async fn leave(&self, shard: Shard) -> bool {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Leave(shard, reply)).await.is_ok() && answer.await.is_ok()
    }

    /// Sends one event to an endpoint now, past queue, limits, breaker and retries.
    /// Nothing is stored. Nothing: the engine has stopped.
    pub async fn test(&self, endpoint: Arc<Endpoint>, event: Event) -> Option<Attempt> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Test(endpoint, Box::new(event), reply)).await.ok()?;
        answer.await.ok()
    }
}
