//! A bar on a terminal; nothing anywhere else.

use std::{sync::Mutex, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the clock beside the bar moves.
const TICK: Duration = Duration::from_millis(200);

/// Shows how far the run is, on standard error.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    stage: Mutex<String>,
}

impl Progress {
    /// Hidden unless standard error is a terminal.
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{elapsed:>4} {msg:<36} {wide_bar} {pos}/{len}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        Self { bar, stage: Mutex::default() }
    }

    /// Names what goes on.
    pub fn stage(&self, name: String) {
        self.bar.set_message(name.clone());
        *self.stage.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = name;
    }

    /// Names a part of it that has so many steps.
    pub fn part(&self, name: &str, steps: u64) {
        let stage = self.stage.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.bar.set_message(format!("{stage} {name}"));
        self.bar.set_length(steps);
        self.bar.set_position(0);
    }

    /// Steps made in the part.
    pub fn at(&self, step: u64) {
        self.bar.set_position(step);
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
