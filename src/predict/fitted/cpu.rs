//! Both directions on the CPU: images one after the other, phases one after the other; blocks of rows are the tasks.

use super::fit::{self, Samples};
use super::lattice::{A, B1, B2, K, Plane, RowBlock};
use super::plan::{self, BASE_BESIDE, BASE_CHAIN, Plan};
use super::rows::{self, N_BUCKETS, Rows};
use super::schedule::Schedule;
use super::site::{Planes, Room, Site, Taps, Weights};
use crate::encode::bytes::{self, Reader};
use crate::encode::rans::stream::{self, Decoder, Table};
use crate::encode::rans::{family, token};
use crate::error::{Error, Result};
use crate::predict::choose::CodeCost;
use crate::predict::collect_misses;
use crate::quantize::Quantizer;
use crate::quantize::outlier::Outliers;
use crate::scratch::Buffer;
use rayon::prelude::*;

/// Where the values of a row lie in the tile.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    stride: usize,
}

/// One end of the codec: what happens to a row once it is predicted.
trait End<T>: Send {
    /// `row` holds predictions and becomes what is decoded; `buckets` say how large codes are guessed to be.
    fn row(&mut self, place: Place, row: &mut [T], buckets: &[u8], codes: &mut [i32]);
}

/// What both ends know of a tile.
struct Tile<'a, T: Rows> {
    schedule: &'a Schedule,
    taps: &'a [Taps],
    weights: Vec<Weights<T>>,
    wrap: bool,
    base: T,
    step: T,
}

/// The lattices of an image, finest first.
type Pyramid<T> = Vec<Planes<T>>;

/// Called after each phase: image, level, the site (with the phase's plane in its `own` planes), the pass.
type Visitor<'a, T> = &'a mut dyn FnMut(usize, usize, &Site<'_, T>, usize);

impl<T: Rows> Tile<'_, T> {
    fn inverse(&self) -> T {
        T::from_f64(1.0 / self.step.to_f64())
    }

    /// Runs through a tile. `finished` is given each image's lattices.
    fn run<E: End<T>>(
        &self,
        n_images: usize,
        ends: &mut [E],
        visit: Visitor<'_, T>,
        finished: &mut dyn FnMut(usize, &Planes<T>),
    ) {
        let last_use = self.schedule.last_use();
        let mut pyramids: Vec<Pyramid<T>> = vec![];
        for image in 0..n_images {
            let pyramid = self.image(image, &pyramids, ends, visit);
            finished(image, &pyramid[0]);
            pyramids.push(pyramid);
            for old in 0..=image {
                if last_use[old] == image || last_use[old] < image {
                    pyramids[old] = vec![];
                }
            }
        }
    }

    fn image<E: End<T>>(
        &self,
        image: usize,
        before: &[Pyramid<T>],
        ends: &mut [E],
        visit: Visitor<'_, T>,
    ) -> Pyramid<T> {
        let lattices = self.schedule.lattices;
        let (sides, kind) = &self.schedule.images[image];
        let offset = image * lattices.ny * lattices.nx;
        let mut pyramid: Pyramid<T> = (0..lattices.levels).map(|_| Planes::default()).collect();
        let (mut known, mut known_sizes) = self.base_lattice(offset, sides, before, &mut ends[0]);
        for level in (0..lattices.levels).rev() {
            let wrap = lattices.wraps(level, self.wrap);
            known.fill_margins(wrap);
            known_sizes.fill_margins(wrap);
            let planes = &mut pyramid[level];
            planes.values[usize::from(K)] = known;
            planes.sizes[usize::from(K)] = known_sizes;
            for phase in A..=B2 {
                let size = lattices.plane_size(level, phase);
                let stride = lattices.stride(level);
                let (mut values, mut sizes) = (Plane::new(size, stride), Plane::new(size, stride));
                if values.is_empty() {
                    continue;
                }
                let pass = self.schedule.pass(*kind, level, phase);
                let side_planes: Vec<&Planes<T>> = sides.iter().map(|&s| &before[s][level]).collect();
                let (taps, inverse) = (&self.taps[pass], self.inverse());

                let (start, dy, dx) = lattices.raster(level, phase);
                let place = |i: usize| Place { start: offset + start + i * dy, stride: dx };
                let site =
                    Site { phase, own: &pyramid[level], sides: &side_planes, taps, size, start: 0, len: 0, inverse };
                self.phase(&site, stride, pass, place, &mut values, &mut sizes, ends);
                values.fill_margins(wrap);
                sizes.fill_margins(wrap);
                let planes = &mut pyramid[level];
                planes.values[usize::from(phase)] = values;
                planes.sizes[usize::from(phase)] = sizes;
                let site =
                    Site { phase, own: &pyramid[level], sides: &side_planes, taps, size, start: 0, len: 0, inverse };
                visit(image, level, &site, pass);
            }
            if level == 0 {
                break;
            }
            known = interleaved(&pyramid[level].values, lattices.size(level), lattices.stride(level - 1));
            known_sizes = interleaved(&pyramid[level].sizes, lattices.size(level), lattices.stride(level - 1));
        }
        pyramid
    }

    /// The base lattice: from the first side image where there is one, else each value from the one before.
    fn base_lattice<E: End<T>>(
        &self,
        offset: usize,
        sides: &[usize],
        before: &[Pyramid<T>],
        end: &mut E,
    ) -> (Plane<T>, Plane<u8>) {
        let lattices = self.schedule.lattices;
        let (rows, columns) = lattices.size(lattices.levels);
        let (h, stride) = (1 << lattices.levels, lattices.stride(lattices.levels - 1));
        let (mut values, mut sizes) = (Plane::new((rows, columns), stride), Plane::new((rows, columns), stride));
        let mut codes = vec![0; columns];
        let beside = sides.first().map(|&s| &before[s][lattices.levels - 1].values[usize::from(K)]);
        let mut last = self.base;
        for i in 0..rows {
            let start = offset + i * h * lattices.nx;
            let row = values.row_mut(i);
            match beside {
                Some(beside) => {
                    row.copy_from_slice(beside.row(i));
                    end.row(Place { start, stride: h }, row, &vec![BASE_BESIDE; columns], &mut codes);
                }
                None => {
                    for j in 0..columns {
                        row[j] = last;
                        let place = Place { start: start + j * h, stride: h };
                        end.row(place, &mut row[j..=j], &[BASE_CHAIN], &mut codes[j..=j]);
                        last = row[j];
                    }
                }
            }
            rows::sizes(&codes, sizes.row_mut(i));
        }
        (values, sizes)
    }

    fn phase<E: End<T>>(
        &self,
        site: &Site<'_, T>,
        stride: usize,
        pass: usize,
        place: impl Fn(usize) -> Place + Sync,
        values: &mut Plane<T>,
        sizes: &mut Plane<u8>,
        ends: &mut [E],
    ) {
        let (n_rows, columns) = site.size;
        let weights = &self.weights[pass];
        let band = |i: usize| i * weights.bands.len() / n_rows;
        let limits: Vec<usize> = (0..=ends.len()).map(|b| n_rows * b / ends.len()).collect();
        let blocks =
            values.blocks_mut(&limits).into_iter().zip(sizes.blocks_mut(&limits)).zip(ends).zip(limits.windows(2));
        let work =
            |(((mut values, mut sizes), end), limits): (((RowBlock<'_, T>, RowBlock<'_, u8>), &mut E), &[usize])| {
                let rows_a_run = RUN.div_ceil(stride);
                let mut room = Room::new(rows_a_run * stride);
                let mut predicted = vec![T::default(); rows_a_run * stride];
                let mut buckets = vec![0; rows_a_run * stride];
                let mut codes = vec![0; columns];
                let mut first = limits[0];
                while first < limits[1] {
                    // Rows with the same weights.
                    let n = (first..limits[1]).take(rows_a_run).take_while(|&i| band(i) == band(first)).count();
                    let len = (n - 1) * stride + columns;
                    let site = site.at(Plane::<T>::at(stride, first, 0), len);
                    let (predicted, buckets) = (&mut predicted[..len], &mut buckets[..len]);
                    site.predict(weights, band(first), predicted);
                    site.guess(weights, predicted, &mut room, buckets);
                    for (k, i) in (first..first + n).enumerate() {
                        let row = values.row_mut(i);
                        row.copy_from_slice(&predicted[k * stride..][..columns]);
                        end.row(place(i), row, &buckets[k * stride..][..columns], &mut codes);
                        rows::sizes(&codes, sizes.row_mut(i));
                    }
                    first += n;
                }
            };
        if n_rows * columns < SERIAL {
            blocks.for_each(work);
        } else {
            blocks.collect::<Vec<_>>().into_par_iter().for_each(work);
        }
    }
}

/// Phases of fewer values are one task.
const SERIAL: usize = 1 << 11;

/// Values of a run, about: long enough to hide what a kernel costs, short enough for the first cache.
const RUN: usize = 1 << 10;

/// The four planes put together to the lattice that they are the parts of, without its margins.
fn interleaved<T: bytemuck::Pod>(planes: &[Plane<T>; 4], size: (usize, usize), stride: usize) -> Plane<T> {
    let mut out = Plane::new(size, stride);
    for i in 0..size.0 {
        let (even, odd) = if i % 2 == 0 { (K, B2) } else { (B1, A) };
        interleave_row(planes, even, odd, i / 2, out.row_mut(i));
    }
    out
}

fn interleave_row<T: bytemuck::Pod>(planes: &[Plane<T>; 4], even: u8, odd: u8, i: usize, out: &mut [T]) {
    let even = &planes[usize::from(even)];
    let even = even.row(i);
    let odd = &planes[usize::from(odd)];
    let odd = if odd.is_empty() { &[] } else { odd.row(i) };
    let (pairs, rest) = out.as_chunks_mut::<2>();
    for ((pair, &e), &o) in pairs.iter_mut().zip(even).zip(odd) {
        *pair = [e, o];
    }
    if let ([last], [.., e]) = (rest, even) {
        *last = *e;
    }
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

/// The end that has the codes.
struct Restorer<'a, T> {
    decoder: Decoder<'a>,
    marks: Option<&'a [bool]>,
    contexts: &'a [u8; N_BUCKETS + 2],
    tables: &'a [Table],
    step: T,
    row: Vec<u8>,
    kept: Vec<i32>,
}

impl<T: Rows> End<T> for Restorer<'_, T> {
    fn row(&mut self, place: Place, row: &mut [T], buckets: &[u8], codes: &mut [i32]) {
        self.row.clear();
        match self.marks {
            None => {
                self.row.extend(buckets.iter().map(|&b| self.contexts[usize::from(b)]));
                self.decoder.read(&self.row, self.tables, codes);
            }
            Some(marks) => {
                let there = |i: &usize| !marks[place.start + i * place.stride];
                self.row.extend((0..buckets.len()).filter(there).map(|i| self.contexts[usize::from(buckets[i])]));
                self.kept.resize(self.row.len(), 0);
                self.decoder.read(&self.row, self.tables, &mut self.kept);
                codes.fill(0);
                (0..buckets.len()).filter(there).zip(&self.kept).for_each(|(i, &c)| codes[i] = c);
            }
        }
        T::reconstruct(row, self.step, codes);
    }
}

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
    /// About as fast as the whole of other compressors.
    pub const BALANCED: Self = Self { rounds: 1, all_images: false, share: 0.1, most: 2e5 };
    /// Some times slower, a few per cent smaller.
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
    let run = |plan: &Plan, n_images: usize, visit: Visitor<'_, T>| {
        let tile = Tile { schedule: &schedule, taps: &taps, weights: plan.weights(&taps), wrap, base, step: q.step };
        let n_codes = values.len() / plan.n_streams + 1024;
        let mut ends: Vec<Encoder<'_, T>> =
            (0..plan.n_streams).map(|_| Encoder::new(values, marks, *q, n_codes)).collect();
        tile.run(n_images, &mut ends, visit, &mut |_, _| {});
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
    let mut best: Option<(u64, Plan, Vec<usize>)> = None;
    let mut sum: Option<Vec<Samples>> = None;
    for _ in 0..effort.rounds {
        let (samples, ends) = {
            let mut samples: Vec<Samples> = (0..taps.len())
                .map(|pass| Samples::new(trial[pass] / every[pass] as f64, taps[pass].all.len()))
                .collect();
            let weights = plan.weights::<T>(&taps);
            let pixels = schedule.lattices.ny * schedule.lattices.nx;
            let ends = run(&plan, n_trial, &mut |image, level, site, pass| {
                let pieces = fit::pieces(site.size.0, site.size.1, every[pass], image);
                let (start, dy, dx) = schedule.lattices.raster(level, site.phase);
                let truth = |i: usize, j: usize, out: &mut [T]| {
                    T::gather(&values[image * pixels + start + i * dy + j * dx..], dx, out);
                };
                let stride = schedule.lattices.stride(level);
                fit::sample_equations(site, stride, &truth, &pieces, true, &mut samples[pass]);
                fit::sample_sizes(site, stride, &weights[pass], &pieces, &mut samples[pass]);
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
    let mut ends = run(&plan, n_images, &mut |_, _, _, _| {});
    if let Some((cost, cheapest, lens)) = best
        && cost < cost_of(&ends, &lens)
    {
        plan = cheapest;
        ends = run(&plan, n_images, &mut |_, _, _, _| {});
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

/// Bytes to values, with the decisions that were read before.
///
/// # Errors
/// `Corrupt` if the bytes are damaged.
pub fn decode<T: Rows>(
    plan: &Plan,
    data: &[u8],
    marks: Option<&[bool]>,
    shape: &[usize],
    base: T,
    q: &Quantizer<T>,
) -> Result<Vec<T>> {
    let schedule = Schedule::new(shape);
    let taps = plan::taps(&schedule);
    let mut reader = Reader::new(data);
    let contexts = plan.contexts();
    let tables: Vec<Table> = plan.distributions.par_iter().map(|&d| Table::new(usize::from(d))).collect();
    let mut ends = Vec::with_capacity(plan.n_streams);
    for _ in 0..plan.n_streams {
        let decoder = Decoder::new(&mut Reader::new(reader.bytes()?))?;
        let (row, kept) = (vec![], vec![]);
        ends.push(Restorer { decoder, marks, contexts: &contexts, tables: &tables, step: q.step, row, kept });
    }
    if !reader.is_empty() {
        return Err(Error::corrupt("bytes after the last coded stream"));
    }
    let weights = plan.weights(&taps);
    let tile = Tile { schedule: &schedule, taps: &taps, weights, wrap: plan.wrap, base, step: q.step };
    let (ny, nx) = (schedule.lattices.ny, schedule.lattices.nx);
    let mut values = vec![T::default(); ny * nx * schedule.images.len()];
    tile.run(schedule.images.len(), &mut ends, &mut |_, _, _, _| {}, &mut |image, planes| {
        let out = &mut values[image * ny * nx..][..ny * nx];
        out.par_chunks_mut(nx).with_min_len(32).enumerate().for_each(|(i, row)| {
            let (even, odd) = if i % 2 == 0 { (K, B2) } else { (B1, A) };
            interleave_row(&planes.values, even, odd, i / 2, row);
        });
    });
    ends.iter().try_for_each(|e| e.decoder.finish())?;
    Ok(values)
}

fn guess_len(schedule: &Schedule, pass: usize) -> usize {
    plan::n_features(schedule.sides_of_kind[pass / (3 * schedule.lattices.levels)]) + 1
}

/// Values of each pass in the first `n_images` images.
fn pass_counts(schedule: &Schedule, n_images: usize) -> Vec<f64> {
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

fn set_shares(samples: &mut [Samples], counts: &[f64]) {
    for (s, &count) in samples.iter_mut().zip(counts) {
        let n: f64 = s.equations.iter().map(fit::Equations::count).sum();
        s.share = count / n.max(1.0);
    }
}

/// Which part of the values of each pass is sampled: of `there`, every so many. What a fit loses is inverse to the number of samples and
/// counts for all values of the pass, so that samples go with the root of their number.
fn sampling(counts: &[f64], there: &[f64], effort: Effort) -> Vec<usize> {
    const LEAST: f64 = 40_000.0;
    let budget = (counts.iter().sum::<f64>() * effort.share).clamp(LEAST, effort.most);
    let roots: f64 = counts.iter().map(|n| n.sqrt()).sum();
    counts
        .iter()
        .zip(there)
        .map(|(n, there)| (there * roots / (budget * n.sqrt().max(1.0))).max(1.0) as usize)
        .collect()
}

/// Samples of the values themselves, with noise as decoding will add it, from a few images of each kind.
fn open_samples<T: Rows>(
    values: &[T],
    schedule: &Schedule,
    taps: &[Taps],
    wrap: bool,
    q: &Quantizer<T>,
    effort: Effort,
    n_trial: usize,
) -> Vec<Samples> {
    const IMAGES: usize = 4;
    let lattices = schedule.lattices;
    let pixels = lattices.ny * lattices.nx;
    let counts = pass_counts(schedule, schedule.images.len());
    let mut chosen = vec![];
    for kind in 0..schedule.sides_of_kind.len() {
        let all: Vec<usize> = (0..schedule.images.len()).filter(|&i| schedule.images[i].1 == kind).collect();
        let n = all.len().min(IMAGES);
        chosen.extend((0..n).map(|k| all[(2 * k + 1) * all.len() / (2 * n)]));
    }
    let mut there = vec![0.0; taps.len()];
    for &image in &chosen {
        let kind = schedule.images[image].1;
        for pass in schedule.pass(kind, 0, A)..=schedule.pass(kind, lattices.levels - 1, B2) {
            let (rows, columns) = lattices.plane_size(pass / 3 % lattices.levels, A + (pass % 3) as u8);
            there[pass] += (rows * columns) as f64;
        }
    }
    let every = sampling(&counts, &there, effort);
    // As many bands as the samples of the run will have, whose equations are added to these.
    let trial = pass_counts(schedule, n_trial);
    let n_samples: Vec<f64> =
        sampling(&counts, &trial, effort).iter().zip(&trial).map(|(&e, n)| n / e as f64).collect();
    let mut needed: Vec<usize> = chosen.iter().flat_map(|&i| schedule.images[i].0.iter().copied().chain([i])).collect();
    needed.sort_unstable();
    needed.dedup();
    let noisy: Vec<Pyramid<T>> =
        needed.par_iter().map(|&i| noisy_pyramid(&values[i * pixels..][..pixels], i, schedule, wrap, q)).collect();
    let pyramid_of = |i: usize| &noisy[needed.binary_search(&i).unwrap_or(0)];
    let inverse = T::from_f64(1.0 / q.step.to_f64());
    let mut samples: Vec<Samples> = (0..taps.len())
        .into_par_iter()
        .map(|pass| {
            let (kind, level) = (pass / (3 * lattices.levels), pass / 3 % lattices.levels);
            let phase = A + (pass % 3) as u8;
            let size = lattices.plane_size(level, phase);
            let mut samples = Samples::new(n_samples[pass], taps[pass].all.len());
            if size.0 * size.1 == 0 {
                return samples;
            }
            for &image in chosen.iter().filter(|&&i| schedule.images[i].1 == kind) {
                let own = &pyramid_of(image)[level];
                let sides: Vec<_> = schedule.images[image].0.iter().map(|&s| &pyramid_of(s)[level]).collect();
                let site = Site { phase, own, sides: &sides, taps: &taps[pass], size, start: 0, len: 0, inverse };
                let pieces = fit::pieces(size.0, size.1, every[pass], image);
                let (start, dy, dx) = lattices.raster(level, phase);
                let truth = |i: usize, j: usize, out: &mut [T]| {
                    T::gather(&values[image * pixels + start + i * dy + j * dx..], dx, out);
                };
                fit::sample_equations(&site, lattices.stride(level), &truth, &pieces, false, &mut samples);
            }
            samples.flush();
            samples
        })
        .collect();
    set_shares(&mut samples, &counts);
    samples
}

fn noisy_pyramid<T: Rows>(values: &[T], seed: usize, schedule: &Schedule, wrap: bool, q: &Quantizer<T>) -> Pyramid<T> {
    let lattices = schedule.lattices;
    let mut state = seed as u32 ^ 0x9e37_79b9;
    let half = 0.5 * q.step.to_f64();
    let noise: Vec<T> = (0..1024)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            T::from_f64((f64::from(state >> 8) / f64::from(1 << 23) - 1.0) * half)
        })
        .collect();
    let mut image = Buffer::<T>::new(values.len());
    // Missing values are like the last that was there: far from everything they would spoil the fit.
    let mut last = values.iter().copied().find(|v| !v.to_f64().is_nan()).unwrap_or_default();
    for (k, (out, values)) in image.chunks_mut(1024).zip(values.chunks(1024)).enumerate() {
        let turn = k * 37 % 1024;
        for (i, (out, &v)) in out.iter_mut().zip(values).enumerate() {
            last = if v.to_f64().is_nan() { last } else { v };
            *out = last + noise[(i + turn) % 1024];
        }
    }
    (0..lattices.levels)
        .map(|level| {
            let mut planes = Planes::default();
            for plane in K..=B2 {
                let (rows, columns) = lattices.plane_size(level, plane);
                let mut p = Plane::new((rows, columns), lattices.stride(level));
                let (start, dy, dx) = lattices.raster(level, plane);
                for i in 0..p.rows {
                    T::gather(&image[start + i * dy..], dx, p.row_mut(i));
                }
                p.fill_margins(lattices.wraps(level, wrap));
                planes.values[usize::from(plane)] = p;
                let mut sizes = Plane::new((rows, columns), lattices.stride(level));
                for i in 0..sizes.rows {
                    sizes.row_mut(i).fill(0);
                }
                sizes.fill_margins(false);
                planes.sizes[usize::from(plane)] = sizes;
            }
            planes
        })
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
