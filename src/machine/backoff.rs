//! How long to wait before trying again.

use crate::domain::{Micros, RetryPolicy};

/// The delay between attempt number `attempt` (from 1) and the next one.
///
/// The explicit schedule if there is one, else exponential growth up to the
/// ceiling; then spread by the jitter ratio. `jitter` is a number in [0, 1). The
/// spread comes after the ceiling, so that deliveries at the ceiling spread too.
/// Never nothing, even fully spread: a retry comes after its failure.
pub fn delay(policy: &RetryPolicy, attempt: u32, jitter: f64) -> Micros {
    let step = attempt.max(1) - 1;
    let base = match policy.schedule.as_slice() {
        [] => exponential(policy, step),
        schedule => schedule[(step as usize).min(schedule.len() - 1)].0 as f64,
    };
    let spread = 1.0 + policy.jitter_ratio * (2.0 * jitter - 1.0);
    Micros((base * spread).max(1.0) as i64)
}

fn exponential(policy: &RetryPolicy, step: u32) -> f64 {
    let growth = policy.multiplier.powi(i32::try_from(step).unwrap_or(i32::MAX));
    (policy.initial_delay.0 as f64 * growth).min(policy.max_delay.0 as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_waits_1_2_4_8_seconds() {
        let delays: Vec<_> = (1..=4).map(|attempt| delay(&RetryPolicy::default(), attempt, 0.5)).collect();
        assert_eq!(delays, [1, 2, 4, 8].map(Micros::from_secs));
    }

    #[test]
    fn the_last_step_of_a_schedule_repeats() {
        let schedule = vec![Micros::from_secs(5), Micros::from_secs(60)];
        let policy = RetryPolicy { schedule, jitter_ratio: 0.0, ..RetryPolicy::default() };
        let delays: Vec<_> = (1..=4).map(|attempt| delay(&policy, attempt, 0.9)).collect();
        assert_eq!(delays, [5, 60, 60, 60].map(Micros::from_secs));
    }

    proptest! {
        #[test]
        fn delays_stay_within_the_spread_around_the_capped_step(
            attempt in 1u32..60, jitter in 0.0f64..1.0, ratio in 0.0f64..=1.0,
            initial in 10_000i64..86_400_000_000, multiplier in 1.0f64..=10.0,
        ) {
            let policy = RetryPolicy {
                initial_delay: Micros(initial), multiplier, jitter_ratio: ratio, ..RetryPolicy::default()
            };
            let plain = delay(&RetryPolicy { jitter_ratio: 0.0, ..policy.clone() }, attempt, 0.0).0 as f64;
            let actual = delay(&policy, attempt, jitter).0 as f64;
            prop_assert!(plain <= policy.max_delay.0 as f64);
            prop_assert!(actual >= plain * (1.0 - ratio) - 1.0 && actual <= plain * (1.0 + ratio) + 1.0);
        }
    }
}
