//! From values to codes: fits, the run that counts, contexts. Class of all but that run: `EncoderOnly`.

use super::cpu::{End, Place, Pyramid, Tile};
use super::fit::{self, Samples};
use super::lattice::{A, B2};
use super::open::open_samples;
use super::plan::{self, Plan};
use super::rows::{N_BUCKETS, Rows};
use super::sample::Sampler;
use super::schedule::Schedule;
use crate::encode::bytes;
use crate::encode::rans::stream::{self, Table};
use crate::encode::rans::{family, token};
use crate::predict::choose::CodeCost;
use crate::predict::collect_misses;
use crate::quantize::Quantizer;
use crate::quantize::outlier::Outliers;
use rayon::prelude::*;

/// Decisions and codes of a tile.
pub struct Encoded {
    /// Decisions.
    pub plan: Plan,
    /// Coded streams.
    pub bytes: Vec<u8>,
    /// Values that codes miss.
    pub outliers: Outliers,
}

/// How much work the fits may be.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often the tile is run through to fit to what comes out, before the run that counts.
    pub rounds: usize,
    /// Whether those runs go through all images, or the first ones.
    pub all_images: bool,
    /// Share of the values that are sampled.
    pub share: f64,
    /// Samples at most.
    pub most: f64,
}

impl Effort {
    /// One trial run over the first images, a tenth of the values as samples.
    pub const BALANCED: Self = Self { rounds: 1, all_images: false, share: 0.1, most: 2e5 };
    /// Three runs over all images, half of the values: some four times slower, a few per cent smaller.
    pub const BEST: Self = Self { rounds: 3, all_images: true, share: 0.5, most: 2e6 };
}

/// Values (NaN in marked places) to decisions and bytes.
pub fn encode<T: Rows>(
    values: &[T],
    marks: Option<&[bool]>,
    shape: &[usize],
    base: T,
    q: &Quantizer<T>,
    wrap: bool,
    effort: Effort,
) -> Encoded {
    let schedule = Schedule::new(shape);
    let taps = plan::taps(&schedule);
    let n_images = schedule.images.len();
    let n_trial = if effort.all_images { n_images } else { schedule.n_trial() };
    let mut plan = Plan { wrap, n_streams: n_streams(values.len()), ..Plan::default() };
    let run = |plan: &Plan, n_images: usize, finished: &mut dyn FnMut(usize, &[Pyramid<T>])| {
        let tile = Tile { schedule: &schedule, taps: &taps, weights: plan.weights(&taps), wrap, base, step: q.step };
        let n_codes = values.len() / plan.n_streams + 1024;
        let mut ends: Vec<Encoder<'_, T>> =
            (0..plan.n_streams).map(|_| Encoder::new(values, marks, *q, n_codes)).collect();
        tile.run(n_images, &mut ends, finished);
        ends
    };

    // 1. Fit the taps in open loop: to the values with noise.
    let open = open_samples(values, &schedule, &taps, wrap, q, effort, n_trial);
    plan.taps = open.par_iter().map(fit::fit).collect();
    plan.guesses = (0..taps.len()).map(|pass| vec![0; guess_len(&schedule, pass)]).collect();
    // 2. Run through the tile or its first images, and fit taps and guesses to what comes out. A fit that follows its own errors may
    //    run away at loose bounds: the equations of all rounds are summed, and the cheapest round is kept.
    let counts = pass_counts(&schedule, n_images);
    let trial = pass_counts(&schedule, n_trial);
    let every = sampling(&counts, &trial, effort);
    let sampler = Sampler {
        schedule: &schedule,
        taps: &taps,
        values,
        inverse: T::from_f64(1.0 / q.step.to_f64()),
        every: &every,
    };
    let mut best: Option<(u64, Plan, Vec<usize>)> = None;
    let mut sum: Option<Vec<Samples>> = None;
    for _ in 0..effort.rounds {
        let (samples, ends) = {
            let mut samples: Vec<Samples> = (0..taps.len())
                .map(|pass| Samples::new(trial[pass] / every[pass] as f64, taps[pass].all.len()))
                .collect();
            let weights = plan.weights(&taps);
            let ends = run(&plan, n_trial, &mut |image, pyramids| {
                sampler.image(image, &|i| &pyramids[i], Some(&weights), &mut samples);
            });
            samples.par_iter_mut().for_each(Samples::flush);
            set_shares(&mut samples, &counts);
            (samples, ends)
        };
        plan.guesses =
            samples.par_iter().enumerate().map(|(pass, s)| fit::fit_guess(s, guess_len(&schedule, pass) - 1)).collect();
        let lens: Vec<usize> = ends.iter().map(|e| e.codes.len()).collect();
        let cost = cost_of(&ends, &lens);
        if best.as_ref().is_none_or(|b| cost < b.0) {
            best = Some((cost, plan.clone(), lens));
        }
        let mut all = sum.take().unwrap_or_else(|| open.clone());
        all.iter_mut().zip(&samples).for_each(|(a, s)| a.mix(s));
        plan.taps = all.par_iter().map(fit::fit).collect();
        sum = Some(all);
    }
    // 3. The run that counts.
    let mut ends = run(&plan, n_images, &mut |_, _| {});
    if let Some((cost, cheapest, lens)) = best
        && cost < cost_of(&ends, &lens)
    {
        plan = cheapest;
        ends = run(&plan, n_images, &mut |_, _| {});
    }
    // 4. Contexts and their distributions, then bytes.
    choose_contexts(&mut plan, &ends);
    let contexts = plan.contexts();
    let tables: Vec<Table> = plan.distributions.par_iter().map(|&d| Table::new(usize::from(d))).collect();
    let code = |end: &Encoder<'_, T>| {
        let contexts: Vec<u8> = end.buckets.iter().map(|&b| contexts[usize::from(b)]).collect();
        let mut out = vec![];
        stream::encode(&end.codes, &contexts, &tables, &mut out);
        out
    };
    let streams: Vec<Vec<u8>> = ends.par_iter().map(code).collect();
    let mut bytes = vec![];
    streams.iter().for_each(|s| bytes::put_bytes(&mut bytes, s));
    let misses = ends.into_iter().flat_map(|e| e.misses).collect();
    Encoded { plan, bytes, outliers: Outliers::from_unsorted(misses) }
}

/// Streams are tasks of the decoder, and each costs some 70 bytes.
fn n_streams(n_values: usize) -> usize {
    const VALUES: usize = 1 << 18;
    (n_values / VALUES).clamp(1, 8).next_power_of_two()
}

/// Estimated size of the first codes of each stream, in 1/1024 bits.
fn cost_of<T: Rows>(ends: &[Encoder<'_, T>], lens: &[usize]) -> u64 {
    let cost = |(end, &n): (&Encoder<'_, T>, &usize)| {
        let mut cost = CodeCost::default();
        cost.add::<T>(&end.codes[..n], 0);
        cost
    };
    let costs: Vec<CodeCost> = ends.par_iter().zip(lens).map(cost).collect();
    costs.iter().fold(CodeCost::default(), CodeCost::merged).total()
}

/// The end that has the values.
struct Encoder<'a, T> {
    values: &'a [T],
    marks: Option<&'a [bool]>,
    quantizer: Quantizer<T>,
    truth: Vec<T>,
    codes: Vec<i32>,
    buckets: Vec<u8>,
    misses: Vec<(u32, u64)>,
}

impl<'a, T: Rows> Encoder<'a, T> {
    fn new(values: &'a [T], marks: Option<&'a [bool]>, quantizer: Quantizer<T>, n_codes: usize) -> Self {
        let (codes, buckets) = (Vec::with_capacity(n_codes), Vec::with_capacity(n_codes));
        Self { values, marks, quantizer, truth: vec![], codes, buckets, misses: vec![] }
    }
}

impl<T: Rows> End<T> for Encoder<'_, T> {
    fn row(&mut self, place: Place, row: &mut [T], buckets: &[u8], codes: &mut [i32]) {
        let n = row.len();
        self.truth.resize(self.truth.len().max(n), T::default());
        let truth = &mut self.truth[..n];
        let q = &self.quantizer;
        if place.stride == 1 {
            truth.copy_from_slice(&self.values[place.start..place.start + n]);
        } else {
            T::gather(&self.values[place.start..], place.stride, truth);
        }
        if T::quantize(row, truth, q.step, q.inverse(), q.within(), codes) {
            collect_misses(q, truth, |i| row[i], |i| place.start + i * place.stride, &mut self.misses);
        }
        match self.marks {
            None => {
                self.codes.extend_from_slice(codes);
                self.buckets.extend_from_slice(buckets);
            }
            Some(marks) => {
                for i in (0..n).filter(|&i| !marks[place.start + i * place.stride]) {
                    self.codes.push(codes[i]);
                    self.buckets.push(buckets[i]);
                }
            }
        }
    }
}

fn guess_len(schedule: &Schedule, pass: usize) -> usize {
    plan::n_features(schedule.sides_of_kind[pass / (3 * schedule.lattices.levels)]) + 1
}

/// Values of each pass in the first `n_images` images.
pub(super) fn pass_counts(schedule: &Schedule, n_images: usize) -> Vec<f64> {
    let mut counts = vec![0.0; schedule.n_passes()];
    for (_, kind) in &schedule.images[..n_images] {
        for level in 0..schedule.lattices.levels {
            for phase in A..=B2 {
                let (rows, columns) = schedule.lattices.plane_size(level, phase);
                counts[schedule.pass(*kind, level, phase)] += (rows * columns) as f64;
            }
        }
    }
    counts
}

pub(super) fn set_shares(samples: &mut [Samples], counts: &[f64]) {
    for (s, &count) in samples.iter_mut().zip(counts) {
        let n: f64 = s.equations.iter().map(fit::Equations::count).sum();
        s.share = count / n.max(1.0);
    }
}

/// Which part of the values of each pass is sampled: of `there`, every so many. What a fit loses is inverse to the number of samples and
/// counts for all values of the pass, so that samples go with the root of their number.
pub(super) fn sampling(counts: &[f64], there: &[f64], effort: Effort) -> Vec<usize> {
    const LEAST: f64 = 40_000.0;
    let budget = (counts.iter().sum::<f64>() * effort.share).clamp(LEAST, effort.most);
    let roots: f64 = counts.iter().map(|n| n.sqrt()).sum();
    counts
        .iter()
        .zip(there)
        .map(|(n, there)| (there * roots / (budget * n.sqrt().max(1.0))).max(1.0) as usize)
        .collect()
}

/// Cuts buckets into contexts of about equal numbers of codes, and chooses each context's distribution.
fn choose_contexts<T: Rows>(plan: &mut Plan, ends: &[Encoder<'_, T>]) {
    let counts: Vec<Vec<u32>> = ends
        .par_iter()
        .map(|end| {
            let mut counts = vec![0u32; (N_BUCKETS + 2) * token::N_TOKENS];
            for (&bucket, &code) in end.buckets.iter().zip(&end.codes) {
                counts[usize::from(bucket) * token::N_TOKENS + token::split(code).0] += 1;
            }
            counts
        })
        .collect();
    let mut sum = vec![0u64; (N_BUCKETS + 2) * token::N_TOKENS];
    counts
        .iter()
        .flatten()
        .enumerate()
        .for_each(|(i, &c)| sum[i % ((N_BUCKETS + 2) * token::N_TOKENS)] += u64::from(c));
    let by_bucket: Vec<&[u64]> = sum.chunks_exact(token::N_TOKENS).collect();
    let totals: Vec<u64> = by_bucket[..N_BUCKETS].iter().map(|b| b.iter().sum()).collect();
    let total: u64 = totals.iter().sum();
    plan.thresholds.clear();
    let mut seen = 0;
    for (bucket, n) in totals.iter().enumerate() {
        let next = plan.thresholds.len() as u64 + 1;
        if bucket > 0 && seen * plan::MAX_CONTEXTS as u64 >= total * next && next < plan::MAX_CONTEXTS as u64 {
            plan.thresholds.push(bucket as u8);
        }
        seen += n;
    }
    let contexts = plan.contexts();
    let mut of_context = vec![[0u64; token::N_TOKENS]; plan.thresholds.len() + 3];
    for (bucket, counts) in by_bucket.iter().enumerate() {
        let sum = &mut of_context[usize::from(contexts[bucket])];
        sum.iter_mut().zip(*counts).for_each(|(s, &c)| *s += c);
    }
    plan.distributions = of_context.par_iter().map(|counts| best_distribution(counts) as u16).collect();
}

fn best_distribution(counts: &[u64; token::N_TOKENS]) -> usize {
    /// Exponential in the magnitude.
    const MIDDLE_SHAPE: usize = 3;
    let costs = family::costs();
    let cost = |id: usize| counts.iter().zip(&costs[id]).map(|(&n, &c)| n * u64::from(c)).sum::<u64>();
    let of_shape = |shape: usize, scales: std::ops::Range<usize>| {
        scales.map(|s| shape * family::N_SCALES + s).map(|id| (cost(id), id)).min().unwrap_or((u64::MAX, 0))
    };
    let (_, id) = of_shape(MIDDLE_SHAPE, 0..family::N_SCALES);
    let scale = id % family::N_SCALES;
    let around = scale.saturating_sub(14)..(scale + 14).min(family::N_SCALES);
    (0..family::N_SHAPES).map(|shape| of_shape(shape, around.clone())).min().map_or(0, |b| b.1)
}
