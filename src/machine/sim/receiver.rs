//! The other side: answers as receivers do, well and badly.

use super::chance::Chance;
use crate::domain::{Answer, Cause, Fault, Micros, Outcome, RetryPolicy, Timestamp, Timings};

/// How the receiver of one endpoint behaves.
pub struct Receiver {
    /// Share of each kind of answer.
    shares: [(Kind, f64); 7],
    /// Fails every request in the first part of each period.
    flaps: Option<(Micros, Micros)>,
    /// Slowest answer, in milliseconds.
    slowest: i64,
}

/// A kind of answer.
#[derive(Clone, Copy)]
enum Kind {
    Success,
    ServerError,
    ClientError,
    Gone,
    Slower,
    Silence,
    Network,
}

/// What a receiver did, and how long it asked us to wait, as it meant it.
pub struct Reaction {
    /// What the attempt observed.
    pub outcome: Outcome,
    /// What it asked for, before any ceiling.
    pub asked: Option<Micros>,
}

impl Receiver {
    /// A receiver with habits of its own.
    pub fn random(chance: &mut Chance) -> Self {
        let good = if chance.happens(0.4) { 20.0 } else { 2.0 };
        let gone = if chance.happens(0.2) { 0.02 } else { 0.0 };
        let shares = [
            (Kind::Success, good * chance.unit()),
            (Kind::ServerError, chance.weight(1.0)),
            (Kind::ClientError, chance.weight(0.3)),
            (Kind::Gone, gone),
            (Kind::Slower, chance.weight(0.7)),
            (Kind::Silence, chance.weight(0.3)),
            (Kind::Network, chance.weight(0.6)),
        ];
        let flaps = chance.happens(0.4).then(|| {
            let period = chance.millis(2_000, 90_000);
            (period, Micros(chance.within(0, period.0)))
        });
        Self { shares, flaps, slowest: chance.pick(&[5, 50, 500, 5_000]) }
    }

    /// Answers promptly and well from now on.
    pub fn heal(&mut self) {
        self.shares =
            self.shares.map(|(kind, _)| (kind, if matches!(kind, Kind::Success) { 1.0 } else { 0.0 }));
        (self.flaps, self.slowest) = (None, 50);
    }

    /// Receives a request.
    pub fn react(&self, now: Timestamp, chance: &mut Chance) -> Reaction {
        let mut duration = chance.millis(0, self.slowest);
        let mut asked = None;
        let result = match self.kind(now, chance) {
            Kind::Success => Ok(status(chance.pick(&[200, 201, 204]))),
            Kind::ServerError => Ok(status(chance.pick(&[500, 502, 503, 504]))),
            Kind::ClientError => Ok(status(chance.pick(&[301, 400, 404, 408, 422, 425, 600]))),
            Kind::Gone => Ok(status(410)),
            Kind::Slower => {
                let answer = slower(chance, &mut asked);
                Ok(answer)
            }
            Kind::Silence => {
                duration = Micros::from_secs(chance.pick(&[1, 10, 30]));
                Err(chance.pick(&[Cause::ConnectTimeout, Cause::ResponseTimeout]))
            }
            Kind::Network => Err(chance.pick(&[
                Cause::Dns,
                Cause::Connect,
                Cause::Tls,
                Cause::ConnectionReset,
                Cause::MalformedResponse,
                Cause::TargetForbidden,
                Cause::InvalidRequest,
            ])),
        };
        let result = result.map_err(|cause| Fault { cause, message: String::new() });
        Reaction {
            outcome: Outcome { started_at: now, duration, timings: Timings::default(), result },
            asked,
        }
    }

    fn kind(&self, now: Timestamp, chance: &mut Chance) -> Kind {
        if self.flaps.is_some_and(|(period, down)| now.0.rem_euclid(period.0) < down.0) {
            return Kind::ServerError;
        }
        let total: f64 = self.shares.iter().map(|(_, share)| share).sum();
        let mut left = chance.unit() * total;
        for (kind, share) in self.shares {
            left -= share;
            if left < 0.0 {
                return kind;
            }
        }
        Kind::Success
    }
}

impl Reaction {
    /// How long to wait as far as the policy lets the receiver ask.
    pub fn wait(&self, policy: &RetryPolicy) -> Option<Micros> {
        self.asked.filter(|_| !policy.ignore_retry_after).map(|wait| wait.min(policy.max_retry_after))
    }
}

fn status(status: u16) -> Answer {
    Answer { status, ..Answer::default() }
}

fn slower(chance: &mut Chance, asked: &mut Option<Micros>) -> Answer {
    let mut answer = status(chance.pick(&[429, 503]));
    let seconds = chance.pick(&[1, 2, 7, 30, 90]);
    match chance.below(4) {
        0 => {}
        1 => answer.retry_after = Some(chance.pick(&["soon", "-5", "0", "1e9", ""]).to_owned()),
        2 => {
            // By a clock of its own, which has nothing to do with ours.
            let minute =
                |second: i64| format!("Sun, 06 Nov 1994 08:{:02}:{:02} GMT", 10 + second / 60, second % 60);
            (answer.date, answer.retry_after) = (Some(minute(0)), Some(minute(seconds)));
            *asked = Some(Micros::from_secs(seconds));
        }
        _ => {
            answer.retry_after = Some(seconds.to_string());
            *asked = Some(Micros::from_secs(seconds));
        }
    }
    answer
}
