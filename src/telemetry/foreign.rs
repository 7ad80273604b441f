//! Limits how often other crates may log.
//!
//! A peer can make a library log a line for each frame that it sends, such as `h2` for
//! each stream that is reset. So each crate but our own may log a few lines per window;
//! the first line of a later window is preceded by the count of those left out.

use std::{collections::HashMap, sync::Mutex};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::{
    clock::Clock,
    domain::{Micros, Timestamp},
};

/// Lines of one crate within a window.
const LINES_MAX: u64 = 10;
/// Length of a window.
const WINDOW: Micros = Micros::from_secs(10);
/// The crate that is not limited.
const OWN: &str = env!("CARGO_PKG_NAME");

/// Leaves out what is beyond the limit.
pub(super) struct ForeignLimit {
    clock: Clock,
    windows: Mutex<HashMap<String, Window>>,
}

/// The current window of a crate.
#[derive(Clone, Copy)]
struct Window {
    start: Timestamp,
    lines: u64,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// It is written; before it, so many were left out.
    Written { left_out: u64 },
    /// It is left out.
    LeftOut,
}

impl ForeignLimit {
    pub fn new(clock: Clock) -> Self {
        Self { clock, windows: Mutex::default() }
    }

    /// Decides on a line of a crate.
    fn decide(&self, source: &str) -> Line {
        let now = self.clock.now();
        let mut windows = self.windows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fresh = Window { start: now, lines: 0 };
        let window = match windows.get_mut(source) {
            Some(window) => window,
            None => windows.entry(source.to_owned()).or_insert(fresh),
        };
        let before = *window;
        // A clock that was set back does not make a window last longer.
        if !(Micros::ZERO..WINDOW).contains(&now.since(before.start)) {
            *window = fresh;
        }
        window.lines += 1;
        if window.lines > LINES_MAX {
            return Line::LeftOut;
        }
        let ended = if window.lines == 1 { before.lines } else { 0 };
        Line::Written { left_out: ended.saturating_sub(LINES_MAX) }
    }
}

impl<S: Subscriber> Layer<S> for ForeignLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let source = event.metadata().target().split("::").next().unwrap_or_default();
        // Lines for debugging are there only where somebody asked for them.
        if source == OWN || *event.metadata().level() > Level::INFO {
            return true;
        }
        match self.decide(source) {
            Line::LeftOut => false,
            Line::Written { left_out } => {
                if left_out > 0 {
                    tracing::warn!(source, left_out, "lines of a library were left out of the log");
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Counts the lines that are written.
    struct Count(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_flood_of_lines_of_a_library_is_cut_short_and_counted() {
        let clock = Clock::manual(Timestamp(0));
        let limit = ForeignLimit::new(clock.clone());
        let flood = |source: &str| (0..340).filter(|_| limit.decide(source) != Line::LeftOut).count();
        assert_eq!((flood("h2"), flood("h2"), flood("hyper")), (10, 0, 10));
        clock.advance(WINDOW);
        assert_eq!(limit.decide("h2"), Line::Written { left_out: 670 });
        assert_eq!(limit.decide("h2"), Line::Written { left_out: 0 });
        clock.advance(WINDOW);
        assert_eq!(limit.decide("h2"), Line::Written { left_out: 0 });
    }

    #[test]
    fn our_own_lines_are_all_written() {
        let written = Arc::new(AtomicUsize::new(0));
        let lines = tracing_subscriber::registry()
            .with(Count(Arc::clone(&written)))
            .with(ForeignLimit::new(Clock::system()));
        tracing::subscriber::with_default(lines, || {
            for _ in 0..50 {
                tracing::warn!("our own");
                tracing::warn!(target: "h2::proto::streams", "of a library");
            }
        });
        assert_eq!(written.load(Ordering::Relaxed), 50 + LINES_MAX as usize);
    }
}
