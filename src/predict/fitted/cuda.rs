//! The fitted predictor on a GPU. Twins: [`super::cpu`], [`super::decode`]; encoding is in [`encode`]. Kernels: `fitted_*.cu`.

use super::Plan;
use super::lattice::{A, B2};
use super::schedule::Schedule;
use crate::device::Run;
use crate::device::layout::{BLOCK, COARSE, FIT_WEIGHTS_BYTES, Fit, FitPass, RANS_TABLE_BYTES, Site, WIDE};
use crate::encode::rans;
use crate::error::Result;

#[cfg(feature = "forecast")]
pub(crate) mod beside;
pub(crate) mod encode;

/// The images of a tile of `shape`, as kernels know them.
fn site(schedule: &Schedule, shape: &[usize], n_streams: usize) -> Site {
    let lattices = schedule.lattices;
    Site {
        ny: lattices.ny as u32,
        nx: lattices.nx as u32,
        levels: lattices.levels as u32,
        n_images: schedule.images.len() as u32,
        n_fast: if let [_, .., fast, _, _] = shape { *fast as u32 } else { 1 },
        n_streams: n_streams as u32,
        ..Site::default()
    }
}

/// Levels whose lattice is too large for the one block that does the coarser ones, coarse to fine.
fn fine_levels(schedule: &Schedule) -> impl Iterator<Item = usize> {
    let lattices = schedule.lattices;
    let is_fine = move |&level: &usize| {
        let (rows, columns) = lattices.size(level);
        rows * columns > COARSE
    };
    (0..lattices.levels).rev().filter(is_fine)
}

impl Plan {
    fn to_device(&self) -> (Fit, Vec<FitPass>) {
        let mut fit: Fit = bytemuck::Zeroable::zeroed();
        fit.wrap = u32::from(self.wrap);
        fit.n_distributions = self.distributions.len() as u32;
        fit.distributions.iter_mut().zip(&self.distributions).for_each(|(to, &d)| *to = d);
        fit.contexts.as_flattened_mut().iter_mut().zip(self.contexts()).for_each(|(to, c)| *to = c);
        let of_pass = |(fitted, guess): (&super::fit::Fitted, &Vec<i16>)| {
            let mut pass: FitPass = bytemuck::Zeroable::zeroed();
            (pass.shift, pass.n_bands) = (u32::from(fitted.shift), fitted.bands.len() as u32);
            for (b, band) in fitted.bands.iter().enumerate() {
                pass.n[b] = band.len() as u8;
                band.iter().enumerate().for_each(|(k, &(tap, w))| (pass.tap[b][k], pass.weight[b][k]) = (tap, w));
            }
            pass.guess.iter_mut().zip(guess).for_each(|(to, &g)| *to = g);
            pass
        };
        (fit, self.taps.iter().zip(&self.guesses).map(of_pass).collect())
    }
}

/// Coded streams (at `run.args.coded`, `data` on the host) to values at `run.args.decoded`; marks of values in runs are in place.
///
/// One launch for the weights, one for the tables, one at the end; for each image one, and six for each lattice of more than [`COARSE`]
/// values; without such lattices one for all images.
///
/// # Errors
/// `Corrupt` if lengths do not fit; `Device`.
pub(crate) fn decode(run: &mut Run<'_>, plan: &Plan, shape: &[usize], data: &[u8]) -> Result<()> {
    let schedule = Schedule::new(shape);
    start_decoding(run, plan, &schedule, shape, data)?;
    let n_images = schedule.images.len();
    let images_a_launch = if fine_levels(&schedule).next().is_none() { n_images } else { 1 };
    for image in (0..n_images).step_by(images_a_launch) {
        decode_images(run, &schedule, image, images_a_launch)?;
    }
    run.once("fitted_decode_finish", 64)
}

/// Weights and tables.
fn start_decoding(run: &mut Run<'_>, plan: &Plan, schedule: &Schedule, shape: &[usize], data: &[u8]) -> Result<()> {
    let streams = rans::cuda::read_streams(data, plan.n_streams)?;
    let (fit, passes) = plan.to_device();
    rans::cuda::family(run)?;
    let gpu = &mut *run.gpu;
    run.args.fit = gpu.put("fit", bytemuck::bytes_of(&fit))?;
    run.args.fit_passes = gpu.put("fitted passes", bytemuck::cast_slice(&passes))?;
    run.args.fit_streams = gpu.put("fitted streams", bytemuck::cast_slice(&streams))?;
    run.args.fit_weights = gpu.room("fitted weights", passes.len() * FIT_WEIGHTS_BYTES)?;
    run.args.tables = gpu.room("tables of contexts", plan.distributions.len() * RANS_TABLE_BYTES)?;
    run.args.sizes = gpu.room("sizes of codes", run.args.n as usize)?;
    run.args.site = site(schedule, shape, plan.n_streams);
    run.args.step.all_passes = 1;
    let weights = format!("fitted_weights_{}", run.work);
    run.gpu.launch(&weights, (passes.len() as u32, 1), 32, &run.args)?;
    run.gpu.launch("rans_tables", (plan.distributions.len() as u32, 1), 64, &run.args)
}

/// `n` images from `first` on: one, unless coarse lattices are all there are.
fn decode_images(run: &mut Run<'_>, schedule: &Schedule, first: usize, n: usize) -> Result<()> {
    let [coarse, predict, restore] = ["fitted_decode_coarse", "fitted_decode_predict", "fitted_decode_restore"]
        .map(|name| format!("{name}_{}", run.work));
    (run.args.site.image, run.args.site.n_here) = (first as u32, n as u32);
    run.once(&coarse, WIDE)?;
    for level in fine_levels(schedule) {
        for phase in A..=B2 {
            let (rows, columns) = schedule.lattices.plane_size(level, phase);
            if rows * columns == 0 {
                continue;
            }
            (run.args.site.level, run.args.site.phase) = (level as u32, u32::from(phase));
            let blocks = ((rows * columns) as u32).div_ceil(BLOCK).min(16 * run.gpu.multiprocessors());
            run.gpu.launch(&predict, (blocks, 1), BLOCK, &run.args)?;
            run.gpu.launch(&restore, (run.args.site.n_streams, 1), 32, &run.args)?;
        }
    }
    Ok(())
}
