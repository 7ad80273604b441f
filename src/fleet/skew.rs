//! How far the clock of a server may be from the database's. Pure.
//!
//! Deliveries do not depend on it: the servers of a fleet go by the database's clock. What
//! does is certificates, which are checked by the machine's own, and an operator's trust in
//! what logs say.

use crate::domain::Micros;

/// Beyond this a server is not ready for work: somebody has to set its clock.
pub const SKEW_MAX: Micros = Micros::from_secs(10);
/// Beyond this it is worth a warning.
const SKEW_WARN: Micros = Micros::from_secs(1);

/// What a skew means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Skew {
    /// Nothing: clocks differ a little.
    #[default]
    Small,
    /// Worth a warning.
    Large,
    /// The server is not ready for work.
    TooLarge,
}

impl Skew {
    /// What it means to be so far ahead, or behind.
    pub fn of(skew: Micros) -> Self {
        match Micros(skew.0.saturating_abs()) {
            skew if skew > SKEW_MAX => Self::TooLarge,
            skew if skew > SKEW_WARN => Self::Large,
            _ => Self::Small,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ahead_or_behind_is_the_same() {
        for sign in [1, -1] {
            let of = |millis: i64| Skew::of(Micros::from_millis(sign * millis));
            assert_eq!([0, 1_000, 1_001, 10_000, 10_001].map(of), {
                use Skew::{Large, Small, TooLarge};
                [Small, Small, Large, Large, TooLarge]
            });
        }
        assert_eq!(Skew::of(Micros(i64::MIN)), Skew::TooLarge);
    }
}
