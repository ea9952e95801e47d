//! Where the time goes: wall time by stage of the pipeline, summed up over the process.
//!
//! A stage is what one thread waits for, however many work on it. A stage within a stage counts for the outer one.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Values out of a file, bytes out of an archive.
    Read,
    /// Choice of a predictor, or fit of its weights, with the prediction that goes along.
    Predict,
    /// Codes to bytes.
    Encode,
    /// What the decoder would make of it, compared with the values.
    Check,
    /// Bytes to codes.
    Decode,
    /// Codes to values; of the fitted predictor, bytes to values.
    Restore,
    /// A model's forecasts.
    Forecast,
    /// Bytes into an archive, values into a file.
    Write,
}

impl Stage {
    /// All of them, in the order in which they come.
    pub const ALL: [Stage; 8] = [
        Stage::Read,
        Stage::Forecast,
        Stage::Predict,
        Stage::Encode,
        Stage::Check,
        Stage::Decode,
        Stage::Restore,
        Stage::Write,
    ];

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Predict => "predict",
            Stage::Encode => "encode",
            Stage::Check => "check",
            Stage::Decode => "decode",
            Stage::Restore => "restore",
            Stage::Forecast => "forecast",
            Stage::Write => "write",
        }
    }
}

static NANOSECONDS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

thread_local! {
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` and counts its time for `stage`.
pub fn time<R>(stage: Stage, work: impl FnOnce() -> R) -> R {
    let _timing = begin(stage);
    work()
}

/// Counts the time until it is dropped for `stage`.
pub fn begin(stage: Stage) -> Timing {
    Timing { stage: (!BUSY.replace(true)).then_some((stage, Instant::now())), not_send: std::marker::PhantomData }
}

/// A stage under way.
#[must_use]
pub struct Timing {
    /// None within another stage.
    stage: Option<(Stage, Instant)>,
    /// It ends on the thread where it began.
    not_send: std::marker::PhantomData<*const ()>,
}

impl Drop for Timing {
    fn drop(&mut self) {
        if let Some((stage, start)) = self.stage {
            let taken = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            NANOSECONDS[stage as usize].fetch_add(taken, Ordering::Relaxed);
            BUSY.set(false);
        }
    }
}

/// Seconds by stage so far.
pub fn seconds() -> [(Stage, f64); 8] {
    Stage::ALL.map(|s| (s, NANOSECONDS[s as usize].load(Ordering::Relaxed) as f64 / 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_stages_count_for_the_outer() {
        let sleep = || std::thread::sleep(std::time::Duration::from_millis(5));
        time(Stage::Forecast, || time(Stage::Forecast, sleep));
        let of = |stage| seconds().into_iter().find(|s| s.0 == stage).map(|s| s.1);
        let taken = of(Stage::Forecast).unwrap();
        assert!((0.005..0.5).contains(&taken), "{taken}");
        time(Stage::Forecast, sleep);
        assert!(of(Stage::Forecast).unwrap() >= taken + 0.005);
    }
}
