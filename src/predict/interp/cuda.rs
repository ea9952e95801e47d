//! Interpolation on a GPU. Twin: [`super::cpu`]. Kernels: `predict_interp.cu`.

use super::lattice;
use crate::device::Run;
use crate::device::layout::{BLOCK, COARSE, WIDE};
use crate::error::Result;

/// Values to codes, by the plan in the state, which the host does not know: passes that the plan does not have do nothing.
pub(crate) fn encode(run: &mut Run<'_>) -> Result<()> {
    run.once("interp_passes", 32)?;
    let all = (1u8 << run.args.n_axes) - 1;
    let sets = (2..=run.args.n_axes).map(|k| all & !((1 << (run.args.n_axes - k)) - 1)).chain([all]);
    let shape = shape_of(run);
    let n_fine = sets.map(|active| n_fine_passes(&shape, active)).max().unwrap_or(0);
    passes(run, "interp_coarse", "interp_fine", n_fine)
}

/// Codes to values, by the plan in the state; `narrowing` is `alpha | beta << 8` in sixteenths.
pub(crate) fn decode(run: &mut Run<'_>, active: u8, narrowing: u32) -> Result<()> {
    run.args.count = narrowing;
    let n_fine = n_fine_passes(&shape_of(run), active);
    passes(run, "interp_decode_coarse", "interp_decode_fine", n_fine)
}

fn passes(run: &mut Run<'_>, coarse: &str, fine: &str, n_fine: u32) -> Result<()> {
    let coarse = format!("{coarse}_{}", run.work);
    run.once(&coarse, WIDE)?;
    let blocks = run.args.n.div_ceil(2 * BLOCK).min(16 * run.gpu.multiprocessors());
    for pass in 0..n_fine {
        run.args.level_or_pass = pass;
        run.over_work(fine, blocks, 1)?;
    }
    Ok(())
}

fn shape_of(run: &Run<'_>) -> Vec<usize> {
    run.args.shape[..run.args.n_axes as usize].iter().map(|&n| n as usize).collect()
}

/// Passes of the levels whose lattice has more than [`COARSE`] values, at most.
fn n_fine_passes(shape: &[usize], active: u8) -> u32 {
    let is_active = |k: usize| active >> k & 1 == 1;
    let n_values = |level: usize| {
        shape.iter().enumerate().map(|(k, &n)| if is_active(k) { n.div_ceil(1 << (level - 1)) } else { n }).product()
    };
    let refined = |level: usize| {
        let gains = |&(k, &n): &(usize, &usize)| is_active(k) && n.div_ceil(1 << (level - 1)) > n.div_ceil(1 << level);
        shape.iter().enumerate().filter(gains).count() as u32
    };
    (1..=lattice::level_count(shape, active))
        .filter(|&l| {
            let n: usize = n_values(l);
            n > COARSE
        })
        .map(refined)
        .sum()
}
