//! Fits in the course of a trial: before a phase is predicted, samples of it are taken beside what was decoded so far, and its weights
//! fitted to all samples of the pass. So the fit of a first image is that of what is really decoded, and nothing has to be guessed
//! or repeated. Class: `EncoderOnly`; results are written to the archive.

use super::cpu::Teacher;
use super::fit::{self, Fitted};
use super::guess;
use super::lattice::{A, B2};
use super::plan::{Plan, n_features};
use super::rows::Rows;
use super::sample::{self, Extent, MAX_BANDS, SampleRoom, Samples};
use super::schedule::Schedule;
use super::site::{Guess, Site, Taps, Weights};
use crate::awake;
use crate::quantize::Quantizer;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

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

    /// The images of a trial, ascending: of each kind and chain the first ones, which are beside decoded ones, and some spread over the rest where there
    /// is more than one.
    pub fn images(self, schedule: &Schedule) -> Vec<usize> {
        if self.all_images {
            return (0..schedule.images.len()).collect();
        }
        let mut chosen = vec![];
        for (all, enough) in self.enough(schedule) {
            // Beside images that were decoded fits are better than beside stand-ins.
            let n_first = (enough * 0.75).ceil().max(2.0) as usize;
            let n_spread = (enough * 0.25).ceil().max(1.0) as usize;
            // As many of each chain, of other levels as far as there are such.
            let n_chains = schedule.chains_of_kind(schedule.images[all[0]].kind);
            let n = ((n_first + n_spread) / n_chains).max(1);
            for chain in 0..2 {
                let of_chain = all.iter().copied().filter(|&image| schedule.images[image].chain == chain);
                let mut rest: Vec<usize> = of_chain.collect();
                let n_spread = ((n_spread + chain * (n_chains - 1)) / n_chains).min(n - 1);
                let n_first = (n - n_spread).min(rest.len());
                let step = |image: usize| image / schedule.n_fast;
                let n_levels = rest.iter().take_while(|&&image| step(image) == step(rest[0])).count();
                let skip = n_first.min(n_levels.saturating_sub(n_first)) * chain * (n_chains - 1);
                chosen.extend(rest.drain(skip..skip + n_first));
                let n_spread = n_spread.min(rest.len());
                chosen.extend((0..n_spread).map(|k| rest[(2 * k + 1) * rest.len() / (2 * n_spread)]));
            }
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
            let all: Vec<usize> = (0..images.len()).filter(|&i| images[i].kind == kind).collect();
            let share = all.len() as f64 / images.len() as f64;
            let enough = self.samples(pixels * images.len() as f64, false) * share * ROOM / pixels;
            (all, enough)
        })
    }
}

/// Takes samples of each phase of a trial's images of one chain before it is predicted, and gives it weights.
pub(super) struct Learner<'a, T: Rows> {
    schedule: &'a Schedule,
    taps: &'a [Arc<Taps>],
    values: &'a [T],
    quantizer: Quantizer<T>,
    /// None of kinds that the chain does not have.
    passes: Vec<Option<Pass<T>>>,
    chain: usize,
    cuts: Arc<Cuts>,
    /// Whether weights follow the samples, or stay as they are.
    follows: bool,
    /// Whether the codes count, so that guesses are wanted at once.
    is_final: bool,
    rooms: [SampleRoom<T>; sample::GUESS_TASKS],
    /// Whether codes of the side images of the image at work are known.
    pub knows_sizes: bool,
}

/// The cut to [`MOST_TAPS`] of a pass that both chains have: chain 0 makes it, and chain 1 makes the same before the next image after as many,
/// so that their samples are of the same taps and it hardly waits.
#[derive(Default)]
struct Cut {
    /// Images of the pass in chain 0,
    n_images: usize,
    /// and those that it has had.
    n_had: AtomicUsize,
    /// After how many images there was one, and the taps left.
    kept: OnceLock<(usize, Vec<u8>)>,
}

/// The cuts of all passes, as both chains know them.
struct Cuts {
    of_passes: Vec<Cut>,
    /// Whether chain 0 has ended by a panic.
    is_left: AtomicBool,
}

impl Cuts {
    /// Chain 0 has had `n_images` of a pass; these taps are left, if there was a cut now.
    fn had(&self, pass: usize, n_images: usize, kept: Option<&[u8]>) {
        let cut = &self.of_passes[pass];
        if let Some(kept) = kept {
            // There is one at most.
            let _ = cut.kept.set((n_images, kept.to_vec()));
        }
        cut.n_had.store(n_images, Ordering::Release);
    }

    /// What is left after `n_images`, as chain 0 has it or is about to.
    fn after(&self, pass: usize, n_images: usize) -> Option<&[u8]> {
        let cut = &self.of_passes[pass];
        let mut n_looks = 0;
        while cut.n_had.load(Ordering::Acquire) < n_images.min(cut.n_images) {
            assert!(!self.is_left.load(Ordering::Relaxed), "the other chain has ended early");
            awake::pause(&mut n_looks);
        }
        cut.kept.get().filter(|kept| kept.0 <= n_images).map(|kept| &kept.1[..])
    }
}

/// Says so if chain 0 ends by a panic.
pub(super) struct Leaving(Option<Arc<Cuts>>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(cuts) = self.0.as_ref().filter(|_| std::thread::panicking()) {
            cuts.is_left.store(true, Ordering::Relaxed);
        }
    }
}

/// What is known of a pass.
struct Pass<T> {
    samples: Samples,
    /// Of so many values of the trial one is sampled.
    every: usize,
    /// Number of values in the tile.
    count: f64,
    n_images: usize,
    /// Whether the other chain has no such images.
    is_alone: bool,
    fitted: Fitted,
    guess: Guess,
    weights: Weights<T>,
}

impl<'a, T: Rows> Learner<'a, T> {
    /// One for the images of each chain in a trial over `images`.
    pub fn of_chains(
        schedule: &'a Schedule,
        taps: &'a [Arc<Taps>],
        values: &'a [T],
        quantizer: Quantizer<T>,
        images: &[usize],
        budget: Budget,
        is_final: bool,
    ) -> [Self; 2] {
        let samplings = Sampling::of_passes(schedule, images, budget, is_final);
        let mut n_first = vec![0; schedule.sides_of_kind.len()];
        let of_first = images.iter().map(|&image| &schedule.images[image]).filter(|image| image.chain == 0);
        of_first.for_each(|image| n_first[image.kind] += 1);
        let cut = |pass| Cut { n_images: n_first[schedule.kind_of_pass(pass)], ..Cut::default() };
        let of_passes = (0..taps.len()).map(cut).collect();
        let cuts = Arc::new(Cuts { of_passes, is_left: AtomicBool::new(false) });
        [0, 1].map(|chain| {
            let of_pass = |(pass, (taps, sampling)): (usize, (&Arc<Taps>, &Sampling))| Pass {
                samples: Samples::new(sampling.extent, sampling.most_guess(), taps.all.len()),
                every: sampling.every,
                count: sampling.count,
                n_images: 0,
                is_alone: schedule.chains_of_kind(schedule.kind_of_pass(pass)) == 1,
                fitted: Fitted { shift: 0, bands: vec![vec![]] },
                guess: Guess { weights: vec![0; n_features(schedule.sides_of_pass(pass)) + 1], offsets: vec![] },
                weights: Weights::default(),
            };
            let is_there = |pass: usize| schedule.is_in_chain(schedule.kind_of_pass(pass), chain);
            let passes = taps.iter().zip(&samplings).enumerate().map(|p| is_there(p.0).then(|| of_pass(p)));
            Self {
                schedule,
                taps,
                values,
                quantizer,
                passes: passes.collect(),
                chain,
                cuts: cuts.clone(),
                follows: true,
                is_final,
                rooms: Default::default(),
                knows_sizes: true,
            }
        })
    }

    /// For one more trial, with the weights of `plan`; its samples are added to those of the one before.
    pub fn again(&mut self, plan: &Plan) {
        self.follows = false;
        for (pass, weights) in self.passes.iter_mut().zip(plan.weights(self.taps)) {
            let Some(pass) = pass else { continue };
            pass.weights = weights;
            pass.samples.next_round();
            pass.n_images = 0;
        }
    }

    /// To be held while an image is learned from.
    pub fn leaving(&self) -> Leaving {
        Leaving((self.chain == 0).then(|| self.cuts.clone()))
    }

    /// Puts the fits to all samples of a trial into `plan`. They are kept if another follows.
    pub fn finish(chains: &mut [Self; 2], plan: &mut Plan, is_last: bool) {
        let [first, second] = chains;
        let is_final = first.is_final;
        let of_passes: Vec<_> = first.passes.iter_mut().zip(&mut second.passes).collect();
        let fit = |first: &mut Option<Pass<T>>, second: &mut Option<Pass<T>>| match (first, second) {
            (Some(p), None) | (None, Some(p)) if is_final => (p.fitted.clone(), p.guess.clone()),
            (Some(p), None) | (None, Some(p)) => {
                p.samples.close(p.count);
                (fit::fit(&p.samples, MAX_BANDS), guess::fit_guess(&[&p.samples], p.guess.weights.len() - 1, p.count))
            }
            (Some(p), Some(other)) => {
                let mut all = Samples::of_both(&p.samples, &other.samples);
                all.close(p.count);
                let guess = guess::fit_guess(&[&p.samples, &other.samples], p.guess.weights.len() - 1, p.count);
                (fit::fit(&all, MAX_BANDS), guess)
            }
            (None, None) => unreachable!("a kind is that of an image"),
        };
        let fits = awake::map(of_passes, usize::MAX, |(first, second)| {
            let fitted = fit(first, second);
            if is_last {
                // Here, where threads are at work side by side.
                [first, second].into_iter().flatten().for_each(|pass| pass.samples.give_back());
            }
            fitted
        });
        if is_last {
            chains.iter_mut().for_each(|chain| chain.passes.clear());
        }
        (plan.taps, plan.guesses) = fits.into_iter().unzip();
    }
}

impl<T: Rows> Teacher<T> for Learner<'_, T> {
    fn weights(&mut self, image: usize, pass: usize, site: &Site<'_, T>) -> &Weights<T> {
        let (level, phase) = (pass / 3 % self.schedule.lattices.levels, site.phase);
        let (start, dy, dx) = self.schedule.lattices.raster(level, phase);
        let start = start + self.schedule.images[image].place * self.schedule.lattices.ny * self.schedule.lattices.nx;
        let truth = |i: usize, j: usize, out: &mut [T]| T::gather(&self.values[start + i * dy + j * dx..], dx, out);
        let Some(p) = &mut self.passes[pass] else { unreachable!("the image is of this chain") };
        if self.follows
            && self.chain == 1
            && !p.is_alone
            && let Some(kept) = self.cuts.after(pass, p.n_images)
        {
            p.samples.keep(kept);
        }
        let pieces = sample::pieces(site.size.0, site.size.1, p.every, self.schedule.turn(image));
        sample::sample_equations(site, &truth, &pieces, &mut p.samples);
        p.n_images += 1;
        let mut is_cut = false;
        if self.follows && p.n_images.is_power_of_two() {
            p.samples.close(p.count);
            if !self.is_final && (self.chain == 0 || p.is_alone) {
                is_cut = p.samples.keep_best_taps(MOST_TAPS);
            }
            // The fit of all samples may have more bands.
            p.fitted = fit::fit(&p.samples, if self.is_final { MAX_BANDS } else { 1 });
            p.weights = p.fitted.weights(&p.guess, site.taps);
        }
        if self.chain == 0 {
            self.cuts.had(pass, p.n_images, is_cut.then_some(&p.samples.candidates[..]));
        }
        if self.knows_sizes {
            let site = Site { weights: &p.weights, ..site.clone() };
            sample::sample_sizes(&site, &truth, &self.quantizer, &pieces, &mut self.rooms, &mut p.samples);
        }
        if self.is_final {
            p.guess = guess::fit_guess(&[&p.samples], p.guess.weights.len() - 1, p.count);
            p.weights.guess.clone_from(&p.guess);
        }
        &p.weights
    }
}

/// How a pass is sampled.
pub(super) struct Sampling {
    /// Of so many values of the trial one is sampled.
    pub every: usize,
    /// What the samples are enough for.
    pub extent: Extent,
    /// Number of values in the tile.
    pub count: f64,
    /// Chains that have images of the kind.
    n_chains: usize,
}

impl Sampling {
    /// Samples of the guess that a chain takes, at most.
    pub fn most_guess(&self) -> usize {
        self.extent.most_guess.div_ceil(self.n_chains)
    }

    /// Of all passes, for a trial over `images`.
    pub fn of_passes(schedule: &Schedule, images: &[usize], budget: Budget, is_final: bool) -> Vec<Self> {
        let counts = pass_counts(schedule, 0..schedule.images.len());
        let there = pass_counts(schedule, images.iter().copied());
        // What a fit loses is inverse to the number of samples and counts for all values of the pass, so that samples go with the
        // root of their number.
        let samples = budget.samples(counts.iter().sum(), is_final);
        let roots: f64 = counts.iter().map(|n| n.sqrt()).sum();
        let mut n_of_kind = vec![0; schedule.sides_of_kind.len()];
        images.iter().for_each(|&image| n_of_kind[schedule.images[image].kind] += 1);
        let of_pass = |(pass, (&count, &there)): (usize, (&f64, &f64))| {
            let n_samples = samples * count.sqrt() / roots;
            let every = (there / n_samples.max(1.0)).max(1.0) as usize;
            let kind = schedule.kind_of_pass(pass);
            let n_chains = schedule.chains_of_kind(kind);
            let is_shared = |&image: &usize| schedule.images[image].kind == kind && schedule.is_shared(image);
            let n_shared = match images.iter().find(|image| is_shared(image)) {
                Some(_) => there / (n_of_kind[kind] * every) as f64,
                None => 0.0,
            };
            Self { every, extent: Extent::of(there / every as f64, n_shared), count, n_chains }
        };
        counts.iter().zip(&there).enumerate().map(of_pass).collect()
    }
}

/// Values of each pass in `images`.
fn pass_counts(schedule: &Schedule, images: impl Iterator<Item = usize>) -> Vec<f64> {
    let mut counts = vec![0.0; schedule.n_passes()];
    for image in images {
        for level in 0..schedule.lattices.levels {
            for phase in A..=B2 {
                let (rows, columns) = schedule.lattices.plane_size(level, phase);
                counts[schedule.pass(schedule.images[image].kind, level, phase)] += (rows * columns) as f64;
            }
        }
    }
    counts
}
