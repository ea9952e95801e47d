//! From values to codes: fits, the run that counts, contexts. Class of all but that run: `EncoderOnly`.

use super::course::Shelf;
use super::cpu::{End, Lane, Pyramid, RUN, Strip, Tile};
use super::lattice::{A, B2, block_limit};
use super::learn::{Budget, Learner};
use super::plan::{self, Plan};
use super::rows::{N_BUCKETS, Rows};
use super::schedule::Schedule;
use super::site::FEATURE_SIDES;
use super::stand_in::stand_in;
use crate::awake;
use crate::encode::bytes;
use crate::encode::rans::stream::{self, Table};
use crate::encode::rans::{family, token};
use crate::predict::choose::CodeCost;
use crate::predict::collect_misses;
use crate::quantize::Quantizer;
use crate::quantize::outlier::Outliers;
use crate::scratch::Buffer;
use crate::stages::{self, Stage};
use std::collections::BTreeMap;
use std::sync::Arc;

pub use beside::{Encoding, Known, Turn};

mod beside;

/// Images of a tile from which on fits that follow all of them may end in weights that let errors grow along the series, so that those of a
/// short trial are tried too.
const LONG_SERIES: usize = 100;

/// Decisions and codes of a tile.
pub struct Encoded {
    /// Decisions.
    pub plan: Plan,
    /// Coded streams.
    pub bytes: Vec<u8>,
    /// Values that codes miss.
    pub outliers: Outliers,
}

/// Values (NaN in marked places) to decisions and bytes.
pub fn encode<T: Rows>(
    values: &[T],
    marks: Option<&[bool]>,
    shape: &[usize],
    base: T,
    q: &Quantizer<T>,
    wrap: bool,
    budget: Budget,
) -> Encoded {
    let predicting = stages::begin(Stage::Predict);
    let schedule = Schedule::new(shape, true);
    let taps = plan::taps(&schedule);
    let (lattices, n_streams) = (schedule.lattices, n_streams(&schedule));
    let pixels = lattices.ny * lattices.nx;
    let tile = Tile { schedule: &schedule, taps: &taps, wrap, base, step: q.step };
    let is_outwards = schedule.n_before > 0;
    let mut plan = Plan { is_outwards, wrap, n_streams, ..Plan::default() };
    let beside =
        |s: usize| stand_in(&values[schedule.images[s].place * pixels..][..pixels], s, lattices, wrap, q.step.to_f64());
    let encoders = |keep: bool| encoders(&schedule, n_streams, values, marks, *q, keep);
    let is_final = is_final(&schedule);
    let budgets = budgets(&schedule, budget);
    let is_only = budgets.iter().map(|b| b.rounds).sum::<usize>() == 1;
    let mut cheapest = Cheapest { is_only, cost: u64::MAX, plan: Plan::default(), lanes: vec![] };
    for budget in budgets {
        // 1. A trial, which fits as it goes. Where each image is the only one of its kind, it is the run that counts.
        let images = budget.images(&schedule);
        let mut learners = Learner::of_chains(&schedule, &taps, values, *q, &images, budget, is_final);
        let mut lanes = encoders(is_final);
        trial(&tile, &images, &beside, &mut learners, &mut lanes);
        Learner::finish(&mut learners, &mut plan, budget.rounds == 1);
        if is_final {
            cheapest.offer(&mut plan, lanes);
            continue;
        }
        // 2. More trials, through all images, with the fit of the one before: their codes might do.
        for round in 1..budget.rounds {
            learners.iter_mut().for_each(|learner| learner.again(&plan));
            let mut lanes = encoders(true);
            tile.run(learners.each_mut(), &mut lanes, vec![(); schedule.images.len()], |(), _| {});
            cheapest.offer(&mut plan, lanes);
            Learner::finish(&mut learners, &mut plan, round + 1 == budget.rounds);
        }
        // 3. A run with the last fit.
        let mut lanes = encoders(true);
        let weights = plan.weights(&taps);
        tile.run([&mut &weights[..], &mut &weights[..]], &mut lanes, vec![(); schedule.images.len()], |(), _| {});
        cheapest.offer(&mut plan, lanes);
    }
    drop(predicting);
    stages::time(Stage::Encode, || to_bytes(cheapest.plan, cheapest.lanes))
}

/// Of several runs the one whose codes take the least.
struct Cheapest<'a, T: Rows> {
    /// Whether there is but one, whose cost nobody needs.
    is_only: bool,
    cost: u64,
    /// The plan that it followed, and its codes.
    plan: Plan,
    lanes: Vec<Lane<Encoder<'a, T>>>,
}

impl<'a, T: Rows> Cheapest<'a, T> {
    fn offer(&mut self, plan: &mut Plan, lanes: Vec<Lane<Encoder<'a, T>>>) {
        if self.is_only {
            (self.plan, self.lanes) = (std::mem::take(plan), lanes);
            return;
        }
        let cost = cost_of(&lanes);
        if cost <= self.cost {
            (self.cost, self.plan, self.lanes) = (cost, plan.clone(), lanes);
        }
    }
}

/// Whether a trial is the run that counts.
pub(super) fn is_final(schedule: &Schedule) -> bool {
    schedule.images.len() == schedule.sides_of_kind.len()
}

/// What is spent on the trials of a tile, one after the other; their number of rounds is the number of runs whose codes might do. Of these
/// the cheapest counts, of equal ones the last.
pub(super) fn budgets(schedule: &Schedule, budget: Budget) -> Vec<Budget> {
    if is_final(schedule) {
        return vec![Budget { rounds: 1, ..budget }];
    }
    let is_long = budget.rounds > 1 && schedule.images.len() > LONG_SERIES;
    if is_long { vec![Budget::BALANCED, budget] } else { vec![budget] }
}

/// A run through some `images`, which fits as it goes; `stand_in` makes the side images that are not among them.
fn trial<T: Rows>(
    tile: &Tile<'_, T>,
    images: &[usize],
    stand_in: &(dyn Fn(usize) -> Pyramid<T> + Sync),
    learners: &mut [Learner<'_, T>; 2],
    lanes: &mut [Lane<Encoder<'_, T>>],
) {
    let schedule = tile.schedule;
    let shelf = Shelf::new(schedule, images.iter().copied());
    let is_coded = |image: usize| images.binary_search(&image).is_ok();
    // Chain 1 waits for what chain 0 found out after fewer images.
    let mut by_chain = images.to_vec();
    if lanes.len() == 1 {
        by_chain.sort_by_key(|&image| schedule.turn_of_chain(image));
    }
    shelf.walk(schedule, &by_chain, false, lanes, learners.each_mut(), |learner, image, lanes| {
        let _leaving = learner.leaving();
        let sides = &schedule.images[image].sides;
        let has_sizes = |&s: &usize| s >= schedule.given() || is_coded(s);
        learner.knows_sizes = sides.iter().take(FEATURE_SIDES).all(has_sizes);
        let side = |&s: &usize| if is_coded(s) { shelf.get(s) } else { shelf.get_or_make(s, || stand_in(s)) };
        let beside: Vec<_> = sides.iter().map(side).collect();
        let pyramid = Arc::new(tile.pyramid());
        shelf.put(image, pyramid.clone());
        tile.image(image, &beside, learner, lanes, &pyramid);
        shelf.leave(schedule, image);
    });
}

/// Encoders of the streams; those of a trial do not `keep` codes.
fn encoders<'a, T: Rows>(
    schedule: &Schedule,
    n_streams: usize,
    values: &'a [T],
    marks: Option<&'a [bool]>,
    quantizer: Quantizer<T>,
    keep: bool,
) -> Vec<Lane<Encoder<'a, T>>> {
    let n_codes = stream_lens(schedule, n_streams);
    n_codes.iter().map(|&n| Lane::new(Encoder::new(values, marks, quantizer, if keep { n } else { 0 }))).collect()
}

/// Contexts and their distributions, then bytes.
fn to_bytes<T: Rows>(mut plan: Plan, lanes: Vec<Lane<Encoder<'_, T>>>) -> Encoded {
    let mut ends: Vec<Encoder<'_, T>> = lanes.into_iter().map(|lane| lane.end).collect();
    choose_contexts(&mut plan, &ends);
    let contexts = plan.contexts();
    let tables = awake::map(plan.distributions.clone(), usize::MAX, |d| Table::new(usize::from(d)));
    let code = |end: &mut Encoder<'_, T>| {
        let mut out = vec![];
        let (codes, n) = (&end.codes[..end.n_codes], end.n_codes);
        stream::encode(codes, &mut end.tokens[..n], &mut end.buckets[..n], &contexts, &tables, &mut out);
        out
    };
    let size = |end: &&mut Encoder<'_, T>| end.n_codes;
    let streams: Vec<Vec<u8>> = awake::map_uneven(ends.iter_mut().collect(), size, code);
    /// More than most plans take, which a tile has before its codes.
    const BEFORE: usize = 4096;
    let mut bytes = Vec::with_capacity(streams.iter().map(|s| s.len() + size_of::<u64>()).sum::<usize>() + BEFORE);
    streams.iter().for_each(|s| bytes::put_bytes(&mut bytes, s));
    let misses = ends.into_iter().flat_map(|e| e.misses).collect();
    Encoded { plan, bytes, outliers: Outliers::from_unsorted(misses) }
}

/// Streams are tasks of the decoder, and each costs some 100 bytes: two where phases are long enough to be shared or there are
/// two chains, more in large tiles.
pub(super) fn n_streams(schedule: &Schedule) -> usize {
    const VALUES: usize = 1 << 18;
    /// Pixels of images whose finest phases two threads can share, where there are no two chains.
    const SHARED: usize = 1 << 12;
    let pixels = schedule.lattices.ny * schedule.lattices.nx;
    let n_values = pixels * schedule.images.len();
    let least = if (pixels >= SHARED || schedule.n_before > 0) && n_values >= VALUES { 2 } else { 1 };
    (n_values / VALUES).clamp(least, plan::MAX_STREAMS).next_power_of_two()
}

/// Most codes of each stream.
fn stream_lens(schedule: &Schedule, n_streams: usize) -> Vec<usize> {
    let lattices = schedule.lattices;
    let (rows, columns) = lattices.size(lattices.levels);
    // Images that go to the same streams have as many codes there.
    let mut n_images: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for image in 0..schedule.images.len() {
        let streams = schedule.streams(image, n_streams);
        *n_images.entry((streams.start, streams.end)).or_default() += 1;
    }
    let mut lens = vec![0; n_streams];
    for ((start, end), n_images) in n_images {
        let lens = &mut lens[start..end];
        lens[0] += n_images * rows * columns;
        for (level, phase) in (0..lattices.levels).flat_map(|level| (A..=B2).map(move |phase| (level, phase))) {
            let (rows, columns) = lattices.plane_size(level, phase);
            for (b, len) in lens.iter_mut().enumerate() {
                *len +=
                    n_images * (block_limit(rows, b + 1, end - start) - block_limit(rows, b, end - start)) * columns;
            }
        }
    }
    lens
}

/// Estimated size of the codes, in 1/1024 bits.
fn cost_of<T: Rows>(lanes: &[Lane<Encoder<'_, T>>]) -> u64 {
    let cost = |lane: &Lane<Encoder<'_, T>>| {
        let mut cost = CodeCost::default();
        cost.add::<T>(lane.end.codes(), 0);
        cost
    };
    let costs = awake::map(lanes.iter().collect(), usize::MAX, cost);
    let mut sum = CodeCost::default();
    costs.iter().for_each(|cost| sum.add_all(cost));
    sum.total()
}

/// The end that has the values.
struct Encoder<'a, T> {
    values: &'a [T],
    marks: Option<&'a [bool]>,
    quantizer: Quantizer<T>,
    truth: Vec<T>,
    /// Empty where codes are not wanted.
    codes: Buffer<i32>,
    tokens: Buffer<u8>,
    buckets: Buffer<u8>,
    n_codes: usize,
    misses: Vec<(u32, u64)>,
}

impl<'a, T: Rows> Encoder<'a, T> {
    fn new(values: &'a [T], marks: Option<&'a [bool]>, quantizer: Quantizer<T>, n_codes: usize) -> Self {
        let codes = Buffer::new(n_codes);
        let (tokens, buckets) = (Buffer::new(n_codes), Buffer::new(n_codes));
        Self {
            values,
            marks,
            quantizer,
            // As much as most rows need, see `rows`: made here, not side by side with other lanes.
            truth: Vec::with_capacity(2 * RUN),
            codes,
            tokens,
            buckets,
            n_codes: 0,
            misses: vec![],
        }
    }

    fn codes(&self) -> &[i32] {
        &self.codes[..self.n_codes]
    }

    fn tokens(&self) -> &[u8] {
        &self.tokens[..self.n_codes]
    }

    fn buckets(&self) -> &[u8] {
        &self.buckets[..self.n_codes]
    }
}

impl<T: Rows> End<T> for Encoder<'_, T> {
    fn needs_buckets(&self) -> bool {
        !self.codes.is_empty()
    }

    fn rows(&mut self, strip: Strip, run: &mut [T], buckets: &[u8], codes: &mut [i32]) {
        let q = &self.quantizer;
        let room = run.len() + strip.stride;
        if self.truth.len() < room {
            self.truth.resize(room.max(2 * RUN), T::default());
        }
        for (start, span) in strip.each() {
            // NaN between rows, which misses nothing.
            self.truth[span.end..span.start + strip.stride.max(strip.columns)].fill(T::from_f64(f64::NAN));
            T::gather(&self.values[start..], strip.dx, &mut self.truth[span]);
        }
        let truth = &self.truth[..run.len()];
        let misses = T::quantize(run, truth, q.step, q.inverse(), q.within(), codes);
        if self.codes.is_empty() {
            return;
        }
        let from = self.n_codes;
        for (start, span) in strip.each() {
            if misses {
                let at = |i: usize| start + i * strip.dx;
                collect_misses(q, &truth[span.clone()], |i| run[span.start + i], at, &mut self.misses);
            }
            let (codes, buckets) = (&codes[span.clone()], &buckets[span]);
            match self.marks {
                None => {
                    let span = self.n_codes..self.n_codes + codes.len();
                    self.codes[span.clone()].copy_from_slice(codes);
                    self.buckets[span.clone()].copy_from_slice(buckets);
                    self.n_codes = span.end;
                }
                Some(marks) => {
                    for i in (0..codes.len()).filter(|i| !marks[start + i * strip.dx]) {
                        self.codes[self.n_codes] = codes[i];
                        self.buckets[self.n_codes] = buckets[i];
                        self.n_codes += 1;
                    }
                }
            }
        }
        token::of_codes(&self.codes[from..self.n_codes], &mut self.tokens[from..self.n_codes]);
    }
}

/// Cuts buckets into contexts of about equal weight, and chooses each context's distribution. Where nearly all codes are 0, the others cost nearly all
/// bits: they weigh as much as all zeros together and one each.
fn choose_contexts<T: Rows>(plan: &mut Plan, ends: &[Encoder<'_, T>]) {
    const N_COUNTS: usize = (N_BUCKETS + 2) * token::N_TOKENS;
    let size = |end: &&Encoder<'_, T>| end.n_codes;
    let counts = awake::map_uneven(ends.iter().collect(), size, |end: &Encoder<'_, T>| {
        // Neighbours are mostly alike, and a count that was just written takes time to be read: two take turns.
        let (mut counts, mut others) = (vec![0u32; N_COUNTS], vec![0u32; N_COUNTS]);
        let at = |bucket: u8, token: u8| usize::from(bucket) * token::N_TOKENS + usize::from(token);
        let (buckets, last_bucket) = end.buckets().as_chunks::<2>();
        let (tokens, last_token) = end.tokens().as_chunks::<2>();
        for (&[b0, b1], &[t0, t1]) in buckets.iter().zip(tokens) {
            counts[at(b0, t0)] += 1;
            others[at(b1, t1)] += 1;
        }
        last_bucket.iter().zip(last_token).for_each(|(&bucket, &token)| counts[at(bucket, token)] += 1);
        counts.iter_mut().zip(others).for_each(|(a, b)| *a += b);
        counts
    });
    let mut sum = vec![0u64; N_COUNTS];
    counts.iter().for_each(|counts| sum.iter_mut().zip(counts).for_each(|(s, &c)| *s += u64::from(c)));
    let by_bucket: Vec<&[u64]> = sum.chunks_exact(token::N_TOKENS).collect();
    let parts = |counts: &&[u64]| (counts[0], counts[1..].iter().sum::<u64>());
    let parts: Vec<(u64, u64)> = by_bucket[..N_BUCKETS].iter().map(parts).collect();
    let (zeros, others) = parts.iter().fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    let totals: Vec<u64> = parts.iter().map(|part| part.0 + (1 + zeros / others.max(1)) * part.1).collect();
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
    plan.distributions =
        awake::map(of_context, usize::MAX, |counts: [u64; token::N_TOKENS]| best_distribution(&counts) as u16);
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
