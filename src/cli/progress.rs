//! A progress bar on a terminal, nothing elsewhere.

use crate::compress::Progress;
use crate::io::Schema;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// Shows how far a file is.
pub struct Bar {
    bar: ProgressBar,
    variable: String,
    start: Instant,
    bytes: u64,
}

impl Bar {
    /// For all values of `schema`. Shown only if standard error is a terminal.
    pub fn new(schema: &Schema, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(value_bytes(schema)), target);
        let style = "{wide_msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        // Some bounds need a first reading, during which no bytes are done.
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, variable: String::new(), start: Instant::now(), bytes: 0 }
    }

    /// Some bytes are done.
    pub fn step(&mut self, progress: Progress<'_>) {
        if self.variable != progress.variable {
            self.variable = progress.variable.to_string();
            self.bar.set_message(self.variable.clone());
        }
        self.bytes += progress.bytes;
        self.bar.inc(progress.bytes);
    }

    /// Clears the bar; gives the bytes done and the time that took.
    pub fn finish(self) -> (u64, Duration) {
        self.bar.finish_and_clear();
        (self.bytes, self.start.elapsed())
    }
}

/// Bytes of all values; text of any length counts as nothing.
pub fn value_bytes(schema: &Schema) -> u64 {
    schema.variables.iter().map(|v| v.len().saturating_mul(v.dtype.size() as u64)).fold(0, u64::saturating_add)
}
