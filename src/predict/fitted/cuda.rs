//! The fitted predictor on a GPU. Twins: [`super::cpu`], [`super::course`], [`super::decode`]; encoding is in [`encode`]. Kernels: `fitted_*.cu`.

use super::Plan;
use super::fit::Fitted;
use super::lattice::{A, B2};
use super::sample::MAX_BANDS;
use super::schedule::Schedule;
use super::site::{GUESS_BANDS, Guess};
use crate::device::Run;
use crate::device::layout::{
    self, BLOCK, COARSE, FIT_WEIGHTS_BYTES, Fit, FitPass, NO_IMAGE, RANS_TABLE_BYTES, Site, WIDE,
};
use crate::encode::rans;
use crate::error::Result;

#[cfg(feature = "forecast")]
pub(crate) mod beside;
pub(crate) mod encode;

/// Images of a launch.
#[derive(Clone, Copy)]
struct Images {
    first: usize,
    /// Of the other chain.
    other: Option<usize>,
    /// So many from each on.
    n: usize,
}

impl Images {
    fn one(image: usize) -> Self {
        Self { first: image, other: None, n: 1 }
    }

    /// All images of a tile, by launches: where it has chains, an image of each at once.
    fn of_launches(schedule: &Schedule, n_streams: usize) -> Vec<Self> {
        let (n, n_fast) = (schedule.images.len(), schedule.n_fast);
        let is_coarse = fine_levels(schedule).next().is_none();
        if schedule.n_before == 0 || n_streams == 1 {
            return if is_coarse { vec![Self { n, ..Self::one(0) }] } else { (0..n).map(Self::one).collect() };
        }
        // The first two steps, of which the second is beside the first.
        let begin = 2 * n_fast;
        if is_coarse {
            return vec![Self { n: begin, ..Self::one(0) }, Self { first: begin, other: Some(begin + n_fast), n }];
        }
        let with = |first, other: Option<usize>| Self { other: other.filter(|&other| other < n), ..Self::one(first) };
        let mut launches: Vec<Self> = match n_fast {
            1 => (0..2).map(Self::one).collect(),
            _ => (0..n_fast).map(|f| with(f, f.checked_sub(1).map(|before| n_fast + before))).collect(),
        };
        if n_fast > 1 {
            launches.push(Self::one(begin - 1));
        }
        let of_step = |step: usize| (step * n_fast..(step + 1) * n_fast).map(move |image| (image, image + n_fast));
        launches.extend((2..n / n_fast).step_by(2).flat_map(of_step).map(|(first, other)| with(first, Some(other))));
        launches
    }

    /// Says so to kernels. Gives how many chains there are.
    fn put(self, run: &mut Run<'_>) -> u32 {
        let site = &mut run.args.site;
        (site.image, site.n_here) = (self.first as u32, self.n as u32);
        site.other = self.other.map_or(NO_IMAGE, |other| other as u32);
        1 + u32::from(self.other.is_some())
    }
}

/// The images of a tile, as kernels know them.
fn site(schedule: &Schedule, n_streams: usize) -> Site {
    let lattices = schedule.lattices;
    Site {
        ny: lattices.ny as u32,
        nx: lattices.nx as u32,
        levels: lattices.levels as u32,
        n_images: schedule.images.len() as u32,
        n_fast: schedule.n_fast as u32,
        n_before: schedule.n_before as u32,
        n_streams: n_streams as u32,
        other: NO_IMAGE,
        ..Site::default()
    }
}

// Kernels and this side speak of the same bands.
const _: () = assert!(layout::GUESS_BANDS == GUESS_BANDS && layout::FIT_BANDS == MAX_BANDS);

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
        let of_pass = |(fitted, guess): (&Fitted, &Guess)| {
            let mut pass: FitPass = bytemuck::Zeroable::zeroed();
            (pass.shift, pass.n_bands) = (u32::from(fitted.shift), fitted.bands.len() as u32);
            for (b, band) in fitted.bands.iter().enumerate() {
                pass.n[b] = band.len() as u8;
                band.iter().enumerate().for_each(|(k, &(tap, w))| (pass.tap[b][k], pass.weight[b][k]) = (tap, w));
            }
            pass.guess.iter_mut().zip(&guess.weights).for_each(|(to, &g)| *to = g);
            pass.offsets.iter_mut().zip(&guess.offsets).for_each(|(to, &o)| *to = o);
            pass
        };
        (fit, self.taps.iter().zip(&self.guesses).map(of_pass).collect())
    }
}

/// Coded streams (at `run.args.coded`, `data` on the host) to values at `run.args.decoded`; marks of values in runs are in place.
///
/// One launch for the weights, one for the tables, one at the end; for each image, or one of each chain, one, and six for each lattice of more than
/// [`COARSE`] values; without such lattices one or two for all images.
///
/// # Errors
/// `Corrupt` if lengths do not fit; `Device`.
pub(crate) fn decode(run: &mut Run<'_>, plan: &Plan, shape: &[usize], data: &[u8]) -> Result<()> {
    let schedule = Schedule::new(shape, plan.is_outwards);
    start_decoding(run, plan, &schedule, data)?;
    for images in Images::of_launches(&schedule, plan.n_streams) {
        decode_images(run, &schedule, images)?;
    }
    run.once("fitted_decode_finish", 64)
}

/// Weights and tables.
fn start_decoding(run: &mut Run<'_>, plan: &Plan, schedule: &Schedule, data: &[u8]) -> Result<()> {
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
    run.args.site = site(schedule, plan.n_streams);
    run.args.step.all_passes = 1;
    let weights = format!("fitted_weights_{}", run.work);
    run.gpu.launch(&weights, (passes.len() as u32, 1), 32, &run.args)?;
    run.gpu.launch("rans_tables", (plan.distributions.len() as u32, 1), 64, &run.args)
}

/// More images of a chain than one only where coarse lattices are all there are.
fn decode_images(run: &mut Run<'_>, schedule: &Schedule, images: Images) -> Result<()> {
    let [coarse, predict, restore] = ["fitted_decode_coarse", "fitted_decode_predict", "fitted_decode_restore"]
        .map(|name| format!("{name}_{}", run.work));
    let n_chains = images.put(run);
    run.gpu.launch(&coarse, (n_chains, 1), WIDE, &run.args)?;
    for level in fine_levels(schedule) {
        for phase in A..=B2 {
            let (rows, columns) = schedule.lattices.plane_size(level, phase);
            if rows * columns == 0 {
                continue;
            }
            (run.args.site.level, run.args.site.phase) = (level as u32, u32::from(phase));
            let blocks = ((rows * columns) as u32).div_ceil(BLOCK).min(16 * run.gpu.multiprocessors());
            run.gpu.launch(&predict, (blocks, n_chains), BLOCK, &run.args)?;
            run.gpu.launch(&restore, (run.args.site.n_streams, 1), 32, &run.args)?;
        }
    }
    Ok(())
}
