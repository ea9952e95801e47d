//! No prediction on a GPU. Twin: [`super::cpu`]. Kernels: `predict_direct.cu`.

use crate::device::Run;
use crate::device::layout::BLOCK;
use crate::error::Result;

/// Values to codes, or with Lorenzo counts to codes: the state says which.
pub(crate) fn encode(run: &mut Run<'_>) -> Result<()> {
    run.over_work("direct_codes", run.args.n, BLOCK)
}

/// Codes to values.
pub(crate) fn decode(run: &mut Run<'_>) -> Result<()> {
    run.over_work("direct_values", run.args.n, BLOCK)
}
