//! Encoding: the order of launches. Twins: [`super::super::learn`], [`super::super::encode`].
//!
//! The host knows how a tile falls into images, lattices and phases and which parts of them are sampled, as that is geometry; what comes of the
//! samples stays on the device. Nothing is copied and nobody waits.

use super::super::fit::{Extent, MAX_BANDS, pieces};
use super::super::lattice::{A, B2};
use super::super::learn::{Budget, Sampling};
use super::super::plan;
use super::super::schedule::Schedule;
use super::super::site::FEATURE_SIDES;
use super::fine_levels;
use crate::device::Run;
use crate::device::layout::{
    BATCH, BLOCK, COUNTS_BYTES, FEATURE_ROWS, FIT_WEIGHTS_BYTES, FITTING_BYTES, Fit, FitPass, FitStream, GUESS_SAMPLES,
    MAX_PAIRS, PLACES_BYTES, PLAN_BYTES_A_PASS, RANS_TABLE_BYTES, Site, Step, WIDE,
};
use crate::encode::rans;
use crate::error::Result;
use std::collections::HashSet;

/// Contexts of a tile at most, with those of the base lattice.
const MAX_DISTRIBUTIONS: usize = plan::MAX_CONTEXTS + 2;

/// Whether a tile of `shape` has one trial at most besides the run that counts, which is what there are kernels for.
pub(crate) fn is_single_trial(shape: &[usize], budget: Budget) -> bool {
    let schedule = Schedule::new(shape);
    budget.rounds == 1 || schedule.images.len() == schedule.sides_of_kind.len()
}

/// Encoding of tiles of one shape.
pub(crate) struct Encoder {
    schedule: Schedule,
    site: Site,
    budget: Budget,
    /// Images of the trial, and whether it is the run that counts.
    images: Vec<usize>,
    is_final: bool,
    /// By pass: how it is sampled, its taps.
    samplings: Vec<Sampling>,
    n_taps: Vec<usize>,
    n_streams: usize,
    /// Batches of samples of a phase at most.
    n_batches: usize,
}

/// What was sampled of a pass so far.
#[derive(Clone, Copy, Default)]
struct Sampled {
    n_images: usize,
    n_pieces: usize,
    n_guess: usize,
}

impl Encoder {
    /// For tiles of `shape`.
    pub fn new(shape: &[usize], budget: Budget) -> Self {
        let schedule = Schedule::new(shape);
        let taps = plan::taps(&schedule);
        let images = budget.images(&schedule);
        let is_final = schedule.images.len() == schedule.sides_of_kind.len();
        let samplings = Sampling::of_passes(&schedule, &images, budget, is_final);
        let n_streams = super::super::encode::n_streams(&schedule);
        let mut encoder = Self {
            site: super::site(&schedule, shape, n_streams),
            n_taps: taps.iter().map(|t| t.all.len()).collect(),
            schedule,
            budget,
            images,
            is_final,
            samplings,
            n_streams,
            n_batches: 0,
        };
        encoder.n_batches = encoder.most_batches();
        encoder
    }

    /// Makes room for a tile in `run.args`.
    ///
    /// # Errors
    /// `Device`.
    pub fn give_rooms(&self, run: &mut Run<'_>) -> Result<()> {
        run.args.site = self.site;
        rans::cuda::family(run)?;
        let (n, n_passes, n_batches) = (run.args.n as usize, self.samplings.len(), self.n_batches);
        let (args, gpu) = (&mut run.args, &mut *run.gpu);
        args.fit = gpu.room("fit", size_of::<Fit>())?;
        args.fit_passes = gpu.room("fitted passes", n_passes * size_of::<FitPass>())?;
        args.fit_weights = gpu.room("fitted weights", n_passes * FIT_WEIGHTS_BYTES)?;
        args.fit_streams = gpu.room("fitted streams", plan::MAX_STREAMS * size_of::<FitStream>())?;
        args.tables = gpu.room("tables of contexts", MAX_DISTRIBUTIONS * RANS_TABLE_BYTES)?;
        args.sizes = gpu.room("sizes of codes", n)?;
        args.buckets = gpu.room("buckets of codes", n)?;
        args.fittings = gpu.room("fits", n_passes * FITTING_BYTES)?;
        args.products = gpu.room("products of taps", n_batches * MAX_PAIRS * 4)?;
        args.products_there = gpu.room("samples of batches", n_batches * 4)?;
        args.features = gpu.room("samples of guesses", n_passes * FEATURE_ROWS * GUESS_SAMPLES * 2)?;
        args.places = gpu.room("places in streams", PLACES_BYTES)?;
        args.counts = gpu.room("counts of tokens", COUNTS_BYTES)?;
        args.words = gpu.room("words of streams", 2 * n)?;
        // A word of slack for each stream.
        args.plain = gpu.room("plain bits of streams", 4 * (n + plan::MAX_STREAMS + 1))?;
        args.plan = gpu.room("plan", (n_passes + 2) * PLAN_BYTES_A_PASS)?;
        args.row_ends = gpu.room("ends of rows", 8 * args.site.ny as usize)?;
        Ok(())
    }

    fn lattice_phases(&self) -> impl Iterator<Item = (usize, u8)> {
        let lattices = self.schedule.lattices;
        let is_there = move |&(level, phase): &(usize, u8)| {
            let (rows, columns) = lattices.plane_size(level, phase);
            rows * columns > 0
        };
        (0..lattices.levels).rev().flat_map(|level| (A..=B2).map(move |phase| (level, phase))).filter(is_there)
    }

    /// Samples of the bands of a phase of `image`.
    fn samples_of_bands(&self, image: usize, level: usize, phase: u8) -> Vec<usize> {
        let pass = self.schedule.pass(self.schedule.images[image].1, level, phase);
        let (rows, columns) = self.schedule.lattices.plane_size(level, phase);
        let Extent { n_bands, .. } = Extent::of(self.samplings[pass].n);
        let mut of_bands = vec![0; n_bands];
        for (row, span) in pieces(rows, columns, self.samplings[pass].every, image) {
            of_bands[row * n_bands / rows] += span.len();
        }
        of_bands
    }

    fn most_batches(&self) -> usize {
        let of_image = |&image: &usize| {
            let n = |(level, phase)| self.samples_of_bands(image, level, phase).iter().map(|n| n.div_ceil(BATCH)).sum();
            self.lattice_phases().map(n).max().unwrap_or(0)
        };
        self.images.iter().map(of_image).max().unwrap_or(0)
    }

    /// Values to decoded values, codes, buckets: the trial and its fits, and the run that counts.
    ///
    /// For each phase of an image of the trial 3 to 8 launches, and at most 6 for each image besides; then 5 for the fits of all passes, and for
    /// each image of the tile one, and 3 for each lattice of more than `COARSE` values (without such lattices one for all images).
    ///
    /// # Errors
    /// `Device`.
    pub fn attempt(&self, run: &mut Run<'_>) -> Result<()> {
        run.args.step = Step::default();
        let n_passes = self.samplings.len() as u32;
        run.over_work("fitted_start", 1 + n_passes, 1)?;
        let mut sampled = vec![Sampled::default(); n_passes as usize];
        let mut there = HashSet::new();
        for (k, &image) in self.images.iter().enumerate() {
            let sides = &self.schedule.images[image].0;
            let knows_sizes = sides.iter().take(FEATURE_SIDES).all(|s| self.images[..k].contains(s));
            for &side in sides {
                if there.insert(side) {
                    self.stand_in(run, side)?;
                }
            }
            there.insert(image);
            run.args.step = Step { keep: u32::from(self.is_final), base_only: 1, ..Step::default() };
            (run.args.site.image, run.args.site.n_here) = (image as u32, 1);
            self.once_work(run, "fitted_encode_coarse")?;
            for (level, phase) in self.lattice_phases() {
                let pass = self.schedule.pass(self.schedule.images[image].1, level, phase);
                self.learn(run, image, level, phase, &mut sampled[pass], knows_sizes)?;
                self.encode_phase(run, level, phase)?;
            }
        }
        if self.is_final {
            return Ok(());
        }
        run.args.step = Step { all_passes: 1, most_bands: MAX_BANDS as u32, ..Step::default() };
        run.gpu.launch("fitted_reduce", (n_passes, 1), 64, &run.args)?;
        run.gpu.launch("fitted_systems", (2 * MAX_BANDS as u32 - 1, n_passes), 64, &run.args)?;
        run.gpu.launch("fitted_settle", (n_passes, 1), 32, &run.args)?;
        run.gpu.launch("fitted_guess", (n_passes, 1), WIDE, &run.args)?;
        self.weights(run, n_passes)?;
        run.args.step = Step { keep: 1, ..Step::default() };
        let n_images = self.schedule.images.len();
        let images_a_launch = if fine_levels(&self.schedule).next().is_none() { n_images } else { 1 };
        for image in (0..n_images).step_by(images_a_launch) {
            (run.args.site.image, run.args.site.n_here) = (image as u32, images_a_launch as u32);
            self.once_work(run, "fitted_encode_coarse")?;
            let fine: Vec<usize> = fine_levels(&self.schedule).collect();
            for (level, phase) in self.lattice_phases().filter(|p| fine.contains(&p.0)) {
                self.encode_phase(run, level, phase)?;
            }
        }
        Ok(())
    }

    fn stand_in(&self, run: &mut Run<'_>, image: usize) -> Result<()> {
        run.args.site.image = image as u32;
        let most = 16 * run.gpu.multiprocessors();
        let rows = run.args.site.ny;
        run.over_work("fitted_stand_in", rows.min(most), 1)?;
        run.over_work("fitted_stand_in_missing", rows.div_ceil(BLOCK / 32).min(most), 1)
    }

    /// Samples of a phase, and what follows from them. Leaves `run.args` at the phase.
    fn learn(
        &self,
        run: &mut Run<'_>,
        image: usize,
        level: usize,
        phase: u8,
        sampled: &mut Sampled,
        knows_sizes: bool,
    ) -> Result<()> {
        let pass = self.schedule.pass(self.schedule.images[image].1, level, phase);
        let sampling = &self.samplings[pass];
        let (rows, columns) = self.schedule.lattices.plane_size(level, phase);
        let Extent { n_bands, most_guess, guess_every } = Extent::of(sampling.n);
        let pieces = pieces(rows, columns, sampling.every, image);
        (run.args.site.image, run.args.site.level, run.args.site.phase) =
            (image as u32, level as u32, u32::from(phase));
        run.args.step = Step {
            pass: pass as u32,
            every: sampling.every as u32,
            n_bands: n_bands as u32,
            most_bands: if self.is_final { MAX_BANDS as u32 } else { 1 },
            most_taps: if self.is_final { 0 } else { self.budget.taps as u32 },
            guess_every: guess_every as u32,
            keep: u32::from(self.is_final),
            count: sampling.count,
            ..Step::default()
        };
        let n_batches: usize = self.samples_of_bands(image, level, phase).iter().map(|n| n.div_ceil(BATCH)).sum();
        if n_batches > 0 {
            let kernel = format!("fitted_products_{}", run.work);
            run.gpu.launch(&kernel, (n_batches as u32, 1), WIDE, &run.args)?;
        }
        let n_pairs = (self.n_taps[pass] + 1) * (self.n_taps[pass] + 2) / 2;
        run.gpu.launch("fitted_gather", ((n_pairs as u32).div_ceil(BLOCK), n_bands as u32), BLOCK, &run.args)?;
        sampled.n_images += 1;
        if sampled.n_images.is_power_of_two() {
            let n_systems = if self.is_final { 2 * n_bands as u32 - 1 } else { 1 };
            run.gpu.launch("fitted_reduce", (1, 1), 64, &run.args)?;
            run.gpu.launch("fitted_systems", (n_systems, 1), 64, &run.args)?;
            run.gpu.launch("fitted_settle", (1, 1), 32, &run.args)?;
            self.weights(run, 1)?;
        }
        if knows_sizes {
            // Of the pieces every so many, counted through all images, until there are enough.
            let before = sampled.n_pieces;
            sampled.n_pieces += pieces.len();
            let n_used = sampled.n_pieces / guess_every - before / guess_every;
            let len = pieces.first().map_or(0, |p| p.1.len());
            let n_new = (n_used * len).min(most_guess - sampled.n_guess);
            if n_new > 0 {
                run.args.step.guess_first = (guess_every - 1 - before % guess_every) as u32;
                run.args.step.guess_from = sampled.n_guess as u32;
                run.args.step.guess_new = n_new as u32;
                run.over_work("fitted_guess_samples", n_new as u32, BLOCK)?;
                sampled.n_guess += n_new;
            }
        }
        if self.is_final { run.once("fitted_guess", WIDE) } else { Ok(()) }
    }

    fn weights(&self, run: &mut Run<'_>, n_passes: u32) -> Result<()> {
        let kernel = format!("fitted_weights_{}", run.work);
        run.gpu.launch(&kernel, (n_passes, 1), 32, &run.args)
    }

    fn once_work(&self, run: &mut Run<'_>, kernel: &str) -> Result<()> {
        let kernel = format!("{kernel}_{}", run.work);
        run.once(&kernel, WIDE)
    }

    fn encode_phase(&self, run: &mut Run<'_>, level: usize, phase: u8) -> Result<()> {
        let (rows, columns) = self.schedule.lattices.plane_size(level, phase);
        (run.args.site.level, run.args.site.phase) = (level as u32, u32::from(phase));
        let blocks = ((rows * columns) as u32).div_ceil(BLOCK).min(16 * run.gpu.multiprocessors());
        run.over_work("fitted_encode", blocks, 1)
    }

    /// Codes and buckets to the tile: what stands before the streams, plan and lists, and the streams. 11 launches.
    ///
    /// # Errors
    /// `Device`.
    pub fn finish(&self, run: &mut Run<'_>) -> Result<()> {
        let most = 4 * run.gpu.multiprocessors();
        let (n, n_streams) = (run.args.n, self.n_streams as u32);
        run.gpu.zero(run.args.counts, COUNTS_BYTES)?;
        run.over("rans_count", n.div_ceil(8 * BLOCK).min(most), 1)?;
        run.once("rans_contexts", BLOCK)?;
        run.gpu.launch("rans_distributions", (MAX_DISTRIBUTIONS as u32, 1), 128, &run.args)?;
        run.gpu.launch("rans_tables", (MAX_DISTRIBUTIONS as u32, 1), 64, &run.args)?;
        let blocks = n.div_ceil(n_streams * 8 * BLOCK).clamp(1, 64);
        run.gpu.launch("rans_sizes", (blocks, n_streams), BLOCK, &run.args)?;
        run.gpu.launch("rans_encode", (n_streams, 1), 32, &run.args)?;
        run.once_for("rans_plan", 32, self.samplings.len() as u32)?;
        run.once("tile_head", WIDE)?;
        run.once("rans_layout", 64)?;
        run.gpu.launch("rans_copy", (blocks, n_streams), BLOCK, &run.args)?;
        run.once("rans_finish", 32)
    }
}
