//! Fits in the course of a trial: before a phase is predicted, samples of it are taken beside what was decoded so far, and its weights
//! fitted to all samples of the pass. So the fit of a first image is that of what is really decoded, and nothing has to be guessed
//! or repeated. Class: `EncoderOnly`; results are written to the archive.

use super::cpu::Teacher;
use super::fit::{self, Fitted};
use super::lattice::{A, B2};
use super::plan::{Plan, n_features};
use super::rows::Rows;
use super::sample::{self, MAX_BANDS, SampleRoom, Samples};
use super::schedule::Schedule;
use super::site::{Site, Taps, Weights};
use crate::awake;
use crate::quantize::Quantizer;

/// Taps that are looked at, at most, once there are samples enough to say which: products take time with the square of their number.
pub(super) const MOST_TAPS: usize = 32;

/// How much work the fits may be.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Trials: the first goes from image to image fitting as it goes, each other one starts from the fit of the one before.
    pub rounds: usize,
    /// Whether trials go through all images, or through some of each kind.
    pub all_images: bool,
    /// Share of the values that are sampled.
    pub share: f64,
    /// Samples at most.
    pub most: f64,
}

impl Budget {
    /// One trial over some images, a tenth of the values as samples.
    pub const BALANCED: Self = Self { rounds: 1, all_images: false, share: 0.1, most: 2e5 };
    /// Trials over all images, a quarter of the values: some three times slower, a few per cent smaller.
    pub const BEST: Self = Self { rounds: 2, all_images: true, share: 0.25, most: 2e6 };

    /// Samples of a tile of `n` values; `once` if one run both fits and counts, which leaves time for more.
    fn samples(self, n: f64, once: bool) -> f64 {
        const LEAST: f64 = 30_000.0;
        let more = if once { 2.5 } else { 1.0 };
        (n * self.share * more).clamp(LEAST, self.most * more)
    }

    /// The images of a trial, ascending: of each kind the first ones, which are beside decoded ones, and some spread over the rest.
    pub fn images(self, schedule: &Schedule) -> Vec<usize> {
        if self.all_images {
            return (0..schedule.images.len()).collect();
        }
        let mut chosen = vec![];
        for (all, enough) in self.enough(schedule) {
            // Beside images that were decoded fits are better than beside stand-ins.
            let n_first = (enough * 0.75).ceil().max(2.0) as usize;
            let n_spread = (enough * 0.25).ceil().max(1.0) as usize;
            let (first, rest) = all.split_at(n_first.min(all.len()));
            chosen.extend(first);
            let n_spread = n_spread.min(rest.len());
            chosen.extend((0..n_spread).map(|k| rest[(2 * k + 1) * rest.len() / (2 * n_spread)]));
        }
        chosen.sort_unstable();
        chosen
    }

    /// For a trial that can not leave out images: how many of the first ones it goes through.
    pub fn first_images(self, schedule: &Schedule) -> usize {
        if self.all_images {
            return schedule.images.len();
        }
        let last = |(all, enough): (Vec<usize>, f64)| all.into_iter().take(enough.ceil().max(3.0) as usize).next_back();
        self.enough(schedule).filter_map(last).max().map_or(0, |last| last + 1)
    }

    /// The images of each kind, and how many of them a trial should have.
    fn enough(self, schedule: &Schedule) -> impl Iterator<Item = (Vec<usize>, f64)> {
        /// How many values there should be for each that is sampled.
        const ROOM: f64 = 3.0;
        let (images, pixels) = (&schedule.images, (schedule.lattices.ny * schedule.lattices.nx) as f64);
        (0..schedule.sides_of_kind.len()).map(move |kind| {
            let all: Vec<usize> = (0..images.len()).filter(|&i| images[i].1 == kind).collect();
            let share = all.len() as f64 / images.len() as f64;
            let enough = self.samples(pixels * images.len() as f64, false) * share * ROOM / pixels;
            (all, enough)
        })
    }
}

/// Takes samples of each phase of a trial before it is predicted, and gives it weights.
pub(super) struct Learner<'a, T: Rows> {
    schedule: &'a Schedule,
    taps: &'a [Taps],
    values: &'a [T],
    quantizer: Quantizer<T>,
    passes: Vec<Pass<T>>,
    /// Whether weights follow the samples, or stay as they are.
    follows: bool,
    /// Whether the codes count, so that guesses are wanted at once.
    is_final: bool,
    rooms: [SampleRoom<T>; sample::GUESS_TASKS],
    /// Whether codes of the side images of the image at work are known.
    pub knows_sizes: bool,
}

/// What is known of a pass.
struct Pass<T> {
    samples: Samples,
    /// Of so many values of the trial one is sampled.
    every: usize,
    /// Number of values in the tile.
    count: f64,
    n_images: usize,
    fitted: Fitted,
    guess: Vec<i16>,
    weights: Weights<T>,
}

impl<'a, T: Rows> Learner<'a, T> {
    /// For a trial over `images`.
    pub fn new(
        schedule: &'a Schedule,
        taps: &'a [Taps],
        values: &'a [T],
        quantizer: Quantizer<T>,
        images: &[usize],
        budget: Budget,
        is_final: bool,
    ) -> Self {
        let of_pass = |(pass, (taps, sampling)): (usize, (&Taps, Sampling))| Pass {
            samples: Samples::new(sampling.n, taps.all.len()),
            every: sampling.every,
            count: sampling.count,
            n_images: 0,
            fitted: Fitted { shift: 0, bands: vec![vec![]] },
            guess: vec![0; n_features(schedule.sides_of_pass(pass)) + 1],
            weights: Weights::default(),
        };
        let samplings = Sampling::of_passes(schedule, images, budget, is_final);
        let passes = taps.iter().zip(samplings).enumerate().map(of_pass).collect();
        Self {
            schedule,
            taps,
            values,
            quantizer,
            passes,
            follows: true,
            is_final,
            rooms: Default::default(),
            knows_sizes: true,
        }
    }

    /// For one more trial, with the weights of `plan`; its samples are added to those of the one before.
    pub fn again(&mut self, plan: &Plan) {
        self.follows = false;
        for (pass, weights) in self.passes.iter_mut().zip(plan.weights(self.taps)) {
            pass.weights = weights;
            pass.samples.next_round();
            pass.n_images = 0;
        }
    }

    /// Puts the fits to all samples into `plan`.
    pub fn finish(&mut self, plan: &mut Plan) {
        if !self.is_final {
            awake::for_each(&mut self.passes, usize::MAX, |p| {
                p.samples.close(p.count);
                p.fitted = fit::fit(&p.samples, MAX_BANDS);
                p.guess = fit::fit_guess(&p.samples, p.guess.len() - 1);
            });
        }
        plan.taps = self.passes.iter().map(|p| p.fitted.clone()).collect();
        plan.guesses = self.passes.iter().map(|p| p.guess.clone()).collect();
    }
}

impl<T: Rows> Teacher<T> for Learner<'_, T> {
    fn weights(&mut self, image: usize, pass: usize, site: &Site<'_, T>) -> &Weights<T> {
        let (level, phase) = (pass / 3 % self.schedule.lattices.levels, site.phase);
        let (start, dy, dx) = self.schedule.lattices.raster(level, phase);
        let start = start + image * self.schedule.lattices.ny * self.schedule.lattices.nx;
        let truth = |i: usize, j: usize, out: &mut [T]| T::gather(&self.values[start + i * dy + j * dx..], dx, out);
        let p = &mut self.passes[pass];
        let pieces = sample::pieces(site.size.0, site.size.1, p.every, self.schedule.turn(image));
        sample::sample_equations(site, &truth, &pieces, &mut p.samples);
        p.n_images += 1;
        let refit = self.follows && p.n_images.is_power_of_two();
        if refit {
            p.samples.close(p.count);
            if !self.is_final {
                p.samples.keep_best_taps(MOST_TAPS);
            }
            // The fit of all samples may have more bands.
            p.fitted = fit::fit(&p.samples, if self.is_final { MAX_BANDS } else { 1 });
            p.weights = p.fitted.weights(&p.guess, site.taps);
        }
        if self.knows_sizes {
            let site = Site { weights: &p.weights, ..site.clone() };
            sample::sample_sizes(&site, &truth, &self.quantizer, &pieces, &mut self.rooms, &mut p.samples);
        }
        if self.is_final {
            p.guess = fit::fit_guess(&p.samples, p.guess.len() - 1);
            p.weights.guess.clone_from(&p.guess);
        }
        &p.weights
    }
}

/// How a pass is sampled.
pub(super) struct Sampling {
    /// Of so many values of the trial one is sampled.
    pub every: usize,
    /// Number of samples, about.
    pub n: f64,
    /// Number of values in the tile.
    pub count: f64,
}

impl Sampling {
    /// Of all passes, for a trial over `images`.
    pub fn of_passes(schedule: &Schedule, images: &[usize], budget: Budget, is_final: bool) -> Vec<Self> {
        let counts = pass_counts(schedule, 0..schedule.images.len());
        let there = pass_counts(schedule, images.iter().copied());
        // What a fit loses is inverse to the number of samples and counts for all values of the pass, so that samples go with the
        // root of their number.
        let samples = budget.samples(counts.iter().sum(), is_final);
        let roots: f64 = counts.iter().map(|n| n.sqrt()).sum();
        let of_pass = |(&count, &there): (&f64, &f64)| {
            let n_samples = samples * count.sqrt() / roots;
            let every = (there / n_samples.max(1.0)).max(1.0) as usize;
            Self { every, n: there / every as f64, count }
        };
        counts.iter().zip(&there).map(of_pass).collect()
    }
}

/// Values of each pass in `images`.
fn pass_counts(schedule: &Schedule, images: impl Iterator<Item = usize>) -> Vec<f64> {
    let mut counts = vec![0.0; schedule.n_passes()];
    for image in images {
        for level in 0..schedule.lattices.levels {
            for phase in A..=B2 {
                let (rows, columns) = schedule.lattices.plane_size(level, phase);
                counts[schedule.pass(schedule.images[image].1, level, phase)] += (rows * columns) as f64;
            }
        }
    }
    counts
}
