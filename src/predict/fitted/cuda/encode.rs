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
use crate::quantize;
use std::collections::HashSet;

/// Contexts of a tile at most, with those of the base lattice.
const MAX_DISTRIBUTIONS: usize = plan::MAX_CONTEXTS + 2;

/// Encoding of tiles of one shape.
pub(crate) struct Encoder {
    schedule: Schedule,
    site: Site,
    trials: Vec<Trial>,
    /// Whether a trial is the run that counts.
    is_final: bool,
    /// By pass.
    n_taps: Vec<usize>,
    n_streams: usize,
    /// Batches of samples of a phase at most.
    n_batches: usize,
}

/// A trial, and those that follow with its fit.
struct Trial {
    budget: Budget,
    /// Images that it goes through.
    images: Vec<usize>,
    /// How passes are sampled.
    samplings: Vec<Sampling>,
}

/// Which round of which trial a phase is sampled in.
#[derive(Clone, Copy)]
struct Round<'a> {
    trial: &'a Trial,
    /// The first is 1. Weights follow the samples of the first alone.
    number: u32,
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
        let n_streams = super::super::encode::n_streams(&schedule);
        let is_final = super::super::encode::is_final(&schedule);
        let trial = |budget: Budget| {
            let images = budget.images(&schedule);
            let samplings = Sampling::of_passes(&schedule, &images, budget, is_final);
            Trial { budget, images, samplings }
        };
        let mut encoder = Self {
            site: super::site(&schedule, shape, n_streams),
            trials: super::super::encode::budgets(&schedule, budget).into_iter().map(trial).collect(),
            is_final,
            n_taps: taps.iter().map(|t| t.all.len()).collect(),
            schedule,
            n_streams,
            n_batches: 0,
        };
        encoder.n_batches = encoder.trials.iter().map(|t| encoder.most_batches(t)).max().unwrap_or(0);
        encoder
    }

    /// Number of runs of which the cheapest counts.
    fn n_candidates(&self) -> usize {
        self.trials.iter().map(|t| t.budget.rounds).sum()
    }

    /// Makes room for a tile in `run.args`.
    ///
    /// # Errors
    /// `Device`.
    pub fn give_rooms(&self, run: &mut Run<'_>) -> Result<()> {
        run.args.site = self.site;
        rans::cuda::family(run)?;
        let (n, n_passes, n_batches) = (run.args.n as usize, self.n_taps.len(), self.n_batches);
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
        if self.n_candidates() > 1 {
            args.cheapest = gpu.room("plan of the cheapest run", 8 + n_passes * size_of::<FitPass>())?;
        }
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
    fn samples_of_bands(&self, trial: &Trial, image: usize, level: usize, phase: u8) -> Vec<usize> {
        let sampling = &trial.samplings[self.schedule.pass(self.schedule.images[image].1, level, phase)];
        let (rows, columns) = self.schedule.lattices.plane_size(level, phase);
        let Extent { n_bands, .. } = Extent::of(sampling.n);
        let mut of_bands = vec![0; n_bands];
        for (row, span) in pieces(rows, columns, sampling.every, image) {
            of_bands[row * n_bands / rows] += span.len();
        }
        of_bands
    }

    /// Batches of samples of a phase of an image.
    fn batches(&self, trial: &Trial, image: usize, level: usize, phase: u8) -> usize {
        self.samples_of_bands(trial, image, level, phase).iter().map(|n| n.div_ceil(BATCH)).sum()
    }

    /// Those of `trial` at most. Further rounds go through all images.
    fn most_batches(&self, trial: &Trial) -> usize {
        let of_image = |image: usize| {
            let n = |(level, phase)| self.batches(trial, image, level, phase);
            self.lattice_phases().map(n).max().unwrap_or(0)
        };
        let all = 0..self.schedule.images.len();
        if trial.budget.rounds > 1 {
            return all.map(of_image).max().unwrap_or(0);
        }
        trial.images.iter().map(|&i| of_image(i)).max().unwrap_or(0)
    }

    /// Values to decoded values, codes, buckets: trials and their fits, and the run that counts.
    ///
    /// For each phase of an image of a trial 3 to 8 launches (2 to 4 where weights do not follow), and at most 6 for each image besides; then 5
    /// for the fits of all passes, and for each image of the tile one, and 3 for each lattice of more than `COARSE` values (without such
    /// lattices one for all images). Of several runs 2 each for their cost, and 2 for the cheapest plan, with which a last run is made.
    ///
    /// # Errors
    /// `Device`.
    pub fn attempt(&self, run: &mut Run<'_>) -> Result<()> {
        let n_passes = self.n_taps.len() as u32;
        let mut n_offered = 0;
        for trial in &self.trials {
            run.args.step = Step::default();
            run.over_work("fitted_start", 1 + n_passes, 1)?;
            let mut sampled = vec![Sampled::default(); n_passes as usize];
            self.learn_images(run, Round { trial, number: 1 }, &mut sampled)?;
            if self.is_final {
                return Ok(());
            }
            self.fit_all(run, 1)?;
            for number in 2..=trial.budget.rounds as u32 {
                run.args.step = Step { n_passes, ..Step::default() };
                run.over("fitted_again", n_passes, BLOCK)?;
                sampled.iter_mut().for_each(|s| s.n_guess = 0);
                self.learn_images(run, Round { trial, number }, &mut sampled)?;
                self.offer(run, &mut n_offered)?;
                self.fit_all(run, number)?;
            }
            self.run_all(run)?;
            self.offer(run, &mut n_offered)?;
        }
        if n_offered > 0 {
            run.gpu.launch("fitted_take", (n_passes, 1), BLOCK, &run.args)?;
            run.args.step = Step { all_passes: 1, ..Step::default() };
            self.weights(run, n_passes)?;
            // Marks of runs that do not count.
            quantize::cuda::clear_missed(run)?;
            self.run_all(run)?;
        }
        Ok(())
    }

    /// A round of a trial: samples of each phase, then its codes.
    fn learn_images(&self, run: &mut Run<'_>, round: Round<'_>, sampled: &mut [Sampled]) -> Result<()> {
        let is_first = round.number == 1;
        let all: Vec<usize> = (0..self.schedule.images.len()).collect();
        let images = if is_first { &round.trial.images } else { &all };
        let (mut coded, mut stood_in) = (HashSet::new(), HashSet::new());
        for &image in images {
            let sides = &self.schedule.images[image].0;
            let knows_sizes = sides.iter().take(FEATURE_SIDES).all(|s| coded.contains(s));
            for &side in sides {
                if !coded.contains(&side) && stood_in.insert(side) {
                    self.stand_in(run, side)?;
                }
            }
            coded.insert(image);
            run.args.step = Step { keep: u32::from(self.is_final || !is_first), base_only: 1, ..Step::default() };
            (run.args.site.image, run.args.site.n_here) = (image as u32, 1);
            self.once_work(run, "fitted_encode_coarse")?;
            for (level, phase) in self.lattice_phases() {
                let pass = self.schedule.pass(self.schedule.images[image].1, level, phase);
                self.learn(run, round, image, level, phase, &mut sampled[pass], knows_sizes)?;
                self.encode_phase(run, level, phase)?;
            }
        }
        Ok(())
    }

    /// Fits of all passes to all their samples.
    fn fit_all(&self, run: &mut Run<'_>, rounds: u32) -> Result<()> {
        let n_passes = self.n_taps.len() as u32;
        run.args.step = Step { all_passes: 1, most_bands: MAX_BANDS as u32, rounds, ..Step::default() };
        run.gpu.launch("fitted_reduce", (n_passes, 1), 64, &run.args)?;
        run.gpu.launch("fitted_systems", (2 * MAX_BANDS as u32 - 1, n_passes), 64, &run.args)?;
        run.gpu.launch("fitted_settle", (n_passes, 1), 32, &run.args)?;
        run.gpu.launch("fitted_guess", (n_passes, 1), WIDE, &run.args)?;
        self.weights(run, n_passes)
    }

    /// A run through all images with the weights there are.
    fn run_all(&self, run: &mut Run<'_>) -> Result<()> {
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

    /// What the codes of a run take, where it is one of several.
    fn offer(&self, run: &mut Run<'_>, n_offered: &mut usize) -> Result<()> {
        if self.n_candidates() == 1 {
            return Ok(());
        }
        let most = 4 * run.gpu.multiprocessors();
        run.args.step =
            Step { is_first: u32::from(*n_offered == 0), n_passes: self.n_taps.len() as u32, ..Step::default() };
        run.gpu.zero(run.args.counts, COUNTS_BYTES)?;
        run.over("fitted_cost", run.args.n.div_ceil(8 * BLOCK).min(most), 1)?;
        *n_offered += 1;
        run.once("fitted_offer", BLOCK)
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
        round: Round<'_>,
        image: usize,
        level: usize,
        phase: u8,
        sampled: &mut Sampled,
        knows_sizes: bool,
    ) -> Result<()> {
        let pass = self.schedule.pass(self.schedule.images[image].1, level, phase);
        let sampling = &round.trial.samplings[pass];
        let follows = round.number == 1;
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
            most_taps: if self.is_final { 0 } else { round.trial.budget.taps as u32 },
            guess_every: guess_every as u32,
            keep: u32::from(self.is_final || !follows),
            rounds: round.number,
            count: sampling.count,
            ..Step::default()
        };
        let n_batches = self.batches(round.trial, image, level, phase);
        if n_batches > 0 {
            let kernel = format!("fitted_products_{}", run.work);
            run.gpu.launch(&kernel, (n_batches as u32, 1), WIDE, &run.args)?;
        }
        let n_pairs = (self.n_taps[pass] + 1) * (self.n_taps[pass] + 2) / 2;
        run.gpu.launch("fitted_gather", ((n_pairs as u32).div_ceil(BLOCK), n_bands as u32), BLOCK, &run.args)?;
        sampled.n_images += 1;
        if follows && sampled.n_images.is_power_of_two() {
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
        run.once_for("rans_plan", 32, self.n_taps.len() as u32)?;
        run.once("tile_head", WIDE)?;
        run.once("rans_layout", 64)?;
        run.gpu.launch("rans_copy", (blocks, n_streams), BLOCK, &run.args)?;
        run.once("rans_finish", 32)
    }
}
