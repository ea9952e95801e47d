//! Trials: samples of phases, and what follows from them. Twin: [`crate::predict::fitted::learn`].

use super::{Encoder, Images};
use crate::device::Run;
use crate::device::layout::{BATCH, BLOCK, NO_SLOT, SELECTORS, Step, WIDE};
use crate::error::Result;
use crate::predict::fitted::learn::{Budget, MOST_TAPS, Sampling};
use crate::predict::fitted::sample::{Extent, MAX_BANDS, pieces};
use crate::predict::fitted::schedule::Schedule;
use crate::predict::fitted::site::FEATURE_SIDES;
use std::collections::HashSet;

/// A trial, and those that follow with its fit.
pub(super) struct Trial {
    pub budget: Budget,
    /// Images that it goes through.
    pub images: Vec<usize>,
    /// How passes are sampled.
    pub samplings: Vec<Sampling>,
}

impl Trial {
    pub fn new(schedule: &Schedule, images: Vec<usize>, budget: Budget, is_final: bool) -> Self {
        let samplings = Sampling::of_passes(schedule, &images, budget, is_final);
        Self { budget, images, samplings }
    }
}

/// Which round of which trial a phase is sampled in.
#[derive(Clone, Copy)]
pub(super) struct Round<'a> {
    trial: &'a Trial,
    /// The first is 1. Weights follow the samples of the first alone.
    number: u32,
    /// Whether codes of the side images of the image at work are known.
    knows_sizes: bool,
}

impl<'a> Round<'a> {
    pub fn new(trial: &'a Trial, number: u32) -> Self {
        Self { trial, number, knows_sizes: true }
    }
}

/// What was sampled of a pass of a chain so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Sampled {
    n_images: usize,
    n_pieces: usize,
    pub n_guess: usize,
}

impl Encoder {
    /// Samples of the bands of a phase of `image`.
    fn samples_of_bands(&self, trial: &Trial, image: usize, level: usize, phase: u8) -> Vec<usize> {
        let sampling = &trial.samplings[self.schedule.pass(self.schedule.images[image].kind, level, phase)];
        let (rows, columns) = self.schedule.lattices.plane_size(level, phase);
        let n_bands = sampling.extent.n_bands;
        let mut of_bands = vec![0; n_bands];
        for (row, span) in pieces(rows, columns, sampling.every, self.schedule.turn(image)) {
            of_bands[row * n_bands / rows] += span.len();
        }
        of_bands
    }

    /// Batches of samples of a phase of an image.
    fn batches(&self, trial: &Trial, image: usize, level: usize, phase: u8) -> usize {
        self.samples_of_bands(trial, image, level, phase).iter().map(|n| n.div_ceil(BATCH)).sum()
    }

    /// Those of `trial` at most. Further rounds go through all images.
    pub(super) fn most_batches(&self, trial: &Trial) -> usize {
        if trial.budget.rounds > 1 {
            return self.most_batches_of(trial, 0..self.schedule.images.len());
        }
        self.most_batches_of(trial, trial.images.iter().copied())
    }

    /// The same for some images.
    pub(super) fn most_batches_of(&self, trial: &Trial, images: impl Iterator<Item = usize>) -> usize {
        let of_image = |image: usize| {
            let n = |(level, phase)| self.batches(trial, image, level, phase);
            self.lattice_phases().map(n).max().unwrap_or(0)
        };
        images.map(of_image).max().unwrap_or(0)
    }

    /// A round of a trial: samples of each phase, then its codes.
    pub(super) fn learn_images(&self, run: &mut Run<'_>, round: Round<'_>, sampled: &mut [Sampled]) -> Result<()> {
        let is_first = round.number == 1;
        let all: Vec<usize> = (0..self.schedule.images.len()).collect();
        let images = if is_first { &round.trial.images } else { &all };
        // One chain after the other, once they follow from themselves alone: weights are those of the chain at work.
        let mut images = images.clone();
        images.sort_by_key(|&image| self.schedule.turn_of_chain(image));
        let (mut coded, mut stood_in) = (HashSet::new(), HashSet::new());
        for image in images {
            let sides = &self.schedule.images[image].sides;
            let knows_sizes = sides.iter().take(FEATURE_SIDES).all(|s| coded.contains(s));
            for &side in sides {
                if !coded.contains(&side) && stood_in.insert(side) {
                    self.stand_in(run, side)?;
                }
            }
            coded.insert(image);
            self.learn_image(run, Round { knows_sizes, ..round }, image, sampled)?;
        }
        Ok(())
    }

    /// The same for an image, whose side images are there.
    pub(super) fn learn_image(
        &self,
        run: &mut Run<'_>,
        round: Round<'_>,
        image: usize,
        sampled: &mut [Sampled],
    ) -> Result<()> {
        let keeps = self.is_final || round.number > 1;
        run.args.step = Step { keep: u32::from(keeps), base_only: 1, ..Step::default() };
        Images::one(image).put(run);
        self.encode_coarse(run, 1)?;
        for (level, phase) in self.lattice_phases() {
            self.learn(run, round, image, level, phase, sampled)?;
            self.encode_phase(run, level, phase, 1)?;
        }
        Ok(())
    }

    /// Fits of all passes to all their samples, in use.
    pub(super) fn fit_all(&self, run: &mut Run<'_>, rounds: u32) -> Result<()> {
        self.settle_all(run, rounds)?;
        self.weights(run, self.n_taps.len() as u32)
    }

    /// Fits of all passes to all their samples; weights of taps in use stay.
    pub(super) fn settle_all(&self, run: &mut Run<'_>, rounds: u32) -> Result<()> {
        let n_passes = self.n_taps.len() as u32;
        let slot = 2 * n_passes * (self.n_chains() as u32 - 1);
        run.args.step = Step { all_passes: 1, slot, n_passes, most_bands: MAX_BANDS as u32, rounds, ..Step::default() };
        if self.n_chains() == 2 {
            run.gpu.launch("fitted_merge", (n_passes, 1), BLOCK, &run.args)?;
        }
        run.gpu.launch("fitted_reduce", (n_passes, 1), SELECTORS, &run.args)?;
        run.gpu.launch("fitted_systems", (2 * MAX_BANDS as u32 - 1, n_passes), SELECTORS, &run.args)?;
        run.gpu.launch("fitted_settle", (n_passes, 1), 32, &run.args)?;
        run.gpu.launch("fitted_guess", (n_passes, 1), WIDE, &run.args)
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
        sampled: &mut [Sampled],
    ) -> Result<()> {
        let n_passes = self.n_taps.len();
        let pass = self.schedule.pass(self.schedule.images[image].kind, level, phase);
        let sampling = &round.trial.samplings[pass];
        let follows = round.number == 1;
        let (rows, columns) = self.schedule.lattices.plane_size(level, phase);
        let Extent { n_bands, guess_every, .. } = sampling.extent;
        let pieces = pieces(rows, columns, sampling.every, self.schedule.turn(image));
        (run.args.site.image, run.args.site.level, run.args.site.phase) =
            (image as u32, level as u32, u32::from(phase));
        let (chain, is_alone) =
            (self.schedule.images[image].chain, self.schedule.chains_of_kind(self.schedule.kind_of_pass(pass)) == 1);
        let slot = chain * n_passes + pass;
        sampled[slot].n_images += 1;
        let n_had = sampled[slot].n_images;
        run.args.step = Step {
            pass: pass as u32,
            slot: slot as u32,
            first_slot: if chain == 0 || is_alone { NO_SLOT } else { pass as u32 },
            n_had: n_had as u32,
            every: sampling.every as u32,
            turn: self.schedule.turn(image),
            n_bands: n_bands as u32,
            most_bands: if self.is_final { MAX_BANDS as u32 } else { 1 },
            most_taps: if self.is_final { 0 } else { MOST_TAPS as u32 },
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
        if follows && n_had.is_power_of_two() {
            let n_systems = if self.is_final { 2 * n_bands as u32 - 1 } else { 1 };
            run.gpu.launch("fitted_reduce", (1, 1), SELECTORS, &run.args)?;
            run.gpu.launch("fitted_systems", (n_systems, 1), SELECTORS, &run.args)?;
            run.gpu.launch("fitted_settle", (1, 1), 32, &run.args)?;
            self.weights(run, 1)?;
        }
        if round.knows_sizes {
            // Of the pieces every so many, counted through all images, until there are enough.
            let of_both: usize = sampled.iter().skip(pass).step_by(n_passes).map(|s| s.n_guess).sum();
            let sampled = &mut sampled[slot];
            let before = sampled.n_pieces;
            sampled.n_pieces += pieces.len();
            let n_used = sampled.n_pieces / guess_every - before / guess_every;
            let len = pieces.first().map_or(0, |p| p.1.len());
            let n_new = (n_used * len).min(sampling.most_guess() - sampled.n_guess);
            if n_new > 0 {
                run.args.step.guess_first = (guess_every - 1 - before % guess_every) as u32;
                run.args.step.guess_from = of_both as u32;
                run.args.step.guess_new = n_new as u32;
                run.over_work("fitted_guess_samples", n_new as u32, BLOCK)?;
                sampled.n_guess += n_new;
            }
        }
        if self.is_final { run.once("fitted_guess", WIDE) } else { Ok(()) }
    }

    pub(super) fn weights(&self, run: &mut Run<'_>, n_passes: u32) -> Result<()> {
        let kernel = format!("fitted_weights_{}", run.work);
        run.gpu.launch(&kernel, (n_passes, 1), 32, &run.args)
    }
}
