//! Launches of the kernels that go with quantizing: ranges, bounds, special values, logarithms, checks, outliers. Twins: [`super::cpu`],
//! [`super::special`], [`super::outlier`], [`super::log`], [`super::square`].

use crate::device::Run;
use crate::device::layout::{Args, BLOCK, SEGMENT, SQUARE_BLOCK, WIDE, mode};
use crate::error::Result;

/// Ranges of all tiles of the field that `run.args.values` is, in one launch.
pub(crate) fn ranges(run: &mut Run<'_>) -> Result<()> {
    let kernel = format!("range_{}", run.value);
    run.gpu.launch(&kernel, (run.args.scan_blocks, run.args.n_tiles), BLOCK, &run.args)
}

/// Starts tile `tile`: bound, quantizer, special values, logarithms.
pub(crate) fn start(run: &mut Run<'_>, tile: u32) -> Result<()> {
    let n = run.args.n;
    run.args.level_or_pass = tile;
    let kernel = format!("setup_{}", run.value);
    run.once(&kernel, BLOCK)?;
    run.over_values("special_find", n, SEGMENT)?;
    run.once_for("special_merge", BLOCK, n.div_ceil(SEGMENT))?;
    run.over_values("runs_count", n, SEGMENT)?;
    run.once_for("runs_scan", WIDE, n.div_ceil(SEGMENT))?;
    run.over_values("runs_write", n, SEGMENT)?;
    if run.args.mode == mode::POINT_WISE {
        run.over_values("logs", n, BLOCK)?;
        let scan = Args { scan_blocks: n.div_ceil(BLOCK * 16).min(run.args.scan_blocks), ..run.args };
        run.gpu.launch("range_of_logs", (scan.scan_blocks, 1), BLOCK, &scan)?;
        run.gpu.launch("setup_logs", (1, 1), BLOCK, &scan)?;
        run.over_values("signs_count", n, SEGMENT)?;
        run.once_for("signs_scan", WIDE, n.div_ceil(SEGMENT))?;
        run.over_values("signs_write", n, SEGMENT)?;
    }
    Ok(())
}

/// Nothing is missed yet.
pub(crate) fn clear_missed(run: &mut Run<'_>) -> Result<()> {
    run.over("missed_clear", run.args.n.div_ceil(32), BLOCK)
}

/// Looks at what was quantized; after the `last` attempt at a mean square error there is no other.
pub(crate) fn check(run: &mut Run<'_>, last: bool) -> Result<()> {
    let n = run.args.n;
    if run.args.mode == mode::POINT_WISE {
        return run.over_values("logs_check", n, BLOCK);
    }
    run.over_values("set_apart", n, BLOCK)?;
    if run.args.mode == mode::MEAN_SQUARE {
        run.over_values("squares", n, SQUARE_BLOCK)?;
        run.once_for("squares_sum", BLOCK, n.div_ceil(SQUARE_BLOCK))?;
        run.args.level_or_pass = u32::from(last);
        let kernel = format!("judge_{}", run.value);
        run.once(&kernel, BLOCK)?;
    }
    Ok(())
}

/// The list of values stored one by one; then all lists as the archive has them.
pub(crate) fn list_outliers(run: &mut Run<'_>) -> Result<()> {
    let n = run.args.n;
    let n_words = n.div_ceil(32);
    run.over("outliers_count", n_words, BLOCK)?;
    run.once_for("outliers_scan", WIDE, n_words.div_ceil(BLOCK))?;
    run.over_values("outliers_write", n_words, BLOCK)?;
    run.gpu.launch("code_lists", (3, 1), WIDE, &run.args)
}

/// The codes without those of values in runs.
pub(crate) fn compact(run: &mut Run<'_>) -> Result<()> {
    let n = run.args.n;
    run.over("kept_count", n, SEGMENT)?;
    run.once_for("kept_scan", WIDE, n.div_ceil(SEGMENT))?;
    run.over("kept_gather", n, SEGMENT)
}
