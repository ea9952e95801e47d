//! Lorenzo prediction on a GPU. Twin: [`super::cpu`]. Kernels: `predict_direct.cu`.

use crate::device::Run;
use crate::device::layout::{Args, BLOCK};
use crate::error::Result;
use crate::predict::none;

/// Counts of values that have values stored apart among them; the codes come with [`none::cuda::encode`].
pub(crate) fn encode(run: &mut Run<'_>) -> Result<()> {
    let Args { n, n_axes, shape, .. } = run.args;
    run.over_work("lorenzo_counts", n, BLOCK)?;
    // A block a cube; how many there are depends on the axes that were chosen: at most as many as rows.
    let n_rows = n / shape[n_axes as usize - 1];
    run.over_work("lorenzo_fill", n_rows.min(4 * run.gpu.multiprocessors()), 1)
}

/// Codes to values, along the last `axes` axes.
pub(crate) fn decode(run: &mut Run<'_>, axes: u8) -> Result<()> {
    let Args { n, n_axes, shape, .. } = run.args;
    let len = |back: usize| shape[n_axes as usize - back];
    for axis in 1..=usize::from(axes) {
        run.args.level_or_pass = axis as u32;
        let (work, per_block) = if axis == 1 { (n / len(1), 1) } else { (n / len(axis), BLOCK) };
        run.over("lorenzo_sums", work, per_block)?;
    }
    none::cuda::decode(run)
}
