//! The fits: taps and weights by least squares, and the guess of code sizes. Class: `EncoderOnly`; results are written to the archive.

use super::rows::{self, Rows};
use super::site::{Room, Site, Taps, Weights};
use crate::awake;
use crate::quantize::Quantizer;
use crate::quantize::log::log2;
use crate::scratch::Buffer;
use std::ops::Range;

/// Bands of rows at most.
pub const MAX_BANDS: usize = 8;
/// Bits of a tap's place and of its head, about.
const TAP_PRICE: f64 = 13.0;

/// A tap fits the noise of the sample too: what that seems to gain for each value that stands behind one sampled, in bits.
const NOISE_PRICE: f64 = 3.0;

/// Normal equations, in bins: products of taps' deviations from the near mean, and of the value's, which comes last.
#[derive(Clone, Debug, Default)]
pub struct Equations {
    /// Lower triangle row by row.
    g: Vec<f64>,
    /// Rows of values in it.
    n: f64,
}

impl Equations {
    fn add(&mut self, other: &Self) {
        if self.g.is_empty() {
            self.g = vec![0.0; other.g.len()];
        }
        self.g.iter_mut().zip(&other.g).for_each(|(a, b)| *a += b);
        self.n += other.n;
    }
}

/// Values whose products are taken at once; the sums of a batch are in single precision.
const BATCH: usize = 256;
/// Threads that a batch is worth, where there is one at a time.
const SHARES: usize = 2;

/// Adds [`rows::products`] of `x`, batches of so many columns each, one after the other, in so many shares of about equal work.
fn multiply(x: &[&[f32]], n_rows: usize, stride: usize, lens: &[usize], mut g: &mut [f64], n_shares: usize) {
    let batches = || x.iter().zip(lens);
    if n_shares < 2 {
        return batches().for_each(|(x, &len)| rows::products(x, n_rows, stride, len, g));
    }
    // Row `a` has `a` products, so that the first pair goes with the last.
    let pairs =
        (0..n_rows).step_by(2).filter_map(|a| g.split_off_mut(..rows::pair_len(n_rows, a)).map(|pair| (a, pair)));
    let mut shares: Vec<Vec<(usize, &mut [f64])>> = (0..n_shares).map(|_| vec![]).collect();
    for (k, pair) in pairs.enumerate() {
        let turn = k % (2 * n_shares);
        shares[turn.min(2 * n_shares - 1 - turn)].push(pair);
    }
    awake::for_each(shares, n_shares, |mut pairs| {
        for (x, &len) in batches() {
            pairs.iter_mut().for_each(|(a, pair)| rows::products_of_pair(x, n_rows, stride, len, *a, pair));
        }
    });
}

/// What is known of a phase (of images with the same kinds of side images) from samples.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Equations of the bands of rows.
    bands: Vec<Equations>,
    /// Features, and sizes of codes last: `most_guess` of each.
    features: Buffer<u16>,
    /// Samples of the guess, at most.
    most_guess: usize,
    /// How many there are.
    n_guess: usize,
    /// Of the pieces of equations, every so many serves for the guess.
    guess_every: usize,
    /// Pieces so far.
    n_pieces: usize,
    /// How many values the phase has for each one sampled.
    share: f64,
    /// How often the tile was sampled.
    n_rounds: usize,
    /// Taps to choose from.
    candidates: Vec<u8>,
}

/// What a number of samples is enough for.
pub struct Extent {
    /// Bands of rows.
    pub n_bands: usize,
    /// Samples of the guess, at most.
    pub most_guess: usize,
    /// Of the pieces of equations, every so many serves for the guess.
    pub guess_every: usize,
}

impl Extent {
    /// Of about `n` samples.
    pub fn of(n: f64) -> Self {
        let n_bands = ((n / SAMPLES_PER_BAND) as usize + 1).min(MAX_BANDS).next_power_of_two();
        let n_bands = if n_bands as f64 * SAMPLES_PER_BAND > n && n_bands > 1 { n_bands / 2 } else { n_bands };
        let guess_every = ((n / GUESS_SAMPLES as f64) as usize).max(1);
        Self { n_bands, most_guess: (n as usize).clamp(64, GUESS_SAMPLES), guess_every }
    }
}

impl Samples {
    /// For about `n` samples of a phase with `n_taps` taps.
    pub fn new(n: f64, n_taps: usize) -> Self {
        let Extent { n_bands, most_guess, guess_every } = Extent::of(n);
        let n_rows = n_taps + 1;
        let equations = Equations { g: vec![0.0; n_rows * (n_rows + 1) / 2], n: 0.0 };
        Self {
            bands: vec![equations; n_bands],
            features: Buffer::default(),
            most_guess,
            n_guess: 0,
            guess_every,
            n_pieces: 0,
            share: 1.0,
            n_rounds: 1,
            candidates: (0..n_taps as u8).collect(),
        }
    }

    /// What follows repeats what was sampled before: equations count alike, the guess is made anew.
    pub fn next_round(&mut self) {
        self.n_rounds += 1;
        self.n_guess = 0;
    }

    /// Closes the equations for a fit: they stand for `count` values.
    pub fn close(&mut self, count: f64) {
        let n: f64 = self.bands.iter().map(|band| band.n).sum();
        self.share = count * self.n_rounds as f64 / n.max(1.0);
    }
}

impl Samples {
    /// Leaves only the `most` taps that seem to gain the most, so that what follows costs less. To be called after [`Samples::close`].
    pub fn keep_best_taps(&mut self, most: usize) {
        let n_taps = self.candidates.len();
        // Fewer samples than that would choose by chance.
        let enough = 40.0 * n_taps as f64;
        if n_taps <= most || self.bands.iter().map(|b| b.n).sum::<f64>() < enough {
            return;
        }
        let system = System::new(&self.sum(), n_taps);
        let mut kept = system.select(most, |_, _| true).order;
        kept.sort_unstable();
        for band in &mut self.bands {
            // The value comes last.
            let rows = kept.iter().copied().chain([n_taps]).enumerate();
            let g = rows.flat_map(|(k, i)| kept[..k.min(kept.len())].iter().copied().chain([i]).map(move |j| (i, j)));
            band.g = g.map(|(i, j)| band.g[i * (i + 1) / 2 + j]).collect();
        }
        self.candidates = kept.iter().map(|&k| self.candidates[k]).collect();
    }

    fn sum(&self) -> Equations {
        let mut sum = Equations::default();
        self.bands.iter().for_each(|b| sum.add(b));
        sum
    }
}

/// Samples of a guess, at most.
const GUESS_SAMPLES: usize = 8192;

/// A band of rows is worth as many samples.
const SAMPLES_PER_BAND: f64 = 800.0;

/// A turn's share of `n`, rounded down.
fn part_of(turn: u32, n: usize) -> usize {
    ((u64::from(turn) * n as u64) >> 32) as usize
}

/// Which part of a phase is sampled: pieces of rows, as neighbours say much the same. Which ones is up to the image's [`turn`](super::schedule::Schedule::turn).
pub fn pieces(n_rows: usize, n_columns: usize, every: usize, turn: u32) -> Vec<(usize, Range<usize>)> {
    const SHORTEST: usize = 48;
    // Of every third row a part, of short rows more rows whole.
    let of_columns = (every / 3).clamp(1, (n_columns / SHORTEST).max(1));
    let of_rows = every.div_ceil(of_columns).max(1);
    let len = n_columns.div_ceil(of_columns);
    let first = part_of(turn, of_rows);
    (first..n_rows)
        .step_by(of_rows)
        .map(|i| {
            // Golden ratio: evenly spread, whatever the number of rows.
            let turn = turn.wrapping_add(((i / of_rows) as u32).wrapping_mul(0x9e37_79b9));
            let start = part_of(turn, n_columns - len + 1);
            (i, start..start + len)
        })
        .collect()
}

/// Takes pieces of a phase into the normal equations; bands are tasks. `truth` gives the true values of a row from a column on, NaN where
/// there is none. Values whose codes are likely to be large count less.
pub fn sample_equations<T: Rows>(
    site: &Site<'_, T>,
    truth: &(dyn Fn(usize, usize, &mut [T]) + Sync),
    pieces: &[(usize, Range<usize>)],
    samples: &mut Samples,
) {
    /// Samples that are worth a thread.
    const ENOUGH: usize = 128;
    let (n_rows, n_bands) = (site.size.0, samples.bands.len());
    let n_threads = pieces.iter().map(|p| p.1.len()).sum::<usize>() / ENOUGH;
    let of_band = |(k, band): (usize, &mut Equations)| {
        let first = pieces.partition_point(|p| p.0 * n_bands / n_rows < k);
        let last = pieces.partition_point(|p| p.0 * n_bands / n_rows <= k);
        let n_shares = if n_bands == 1 { n_threads.min(SHARES).min(rayon::current_num_threads()) } else { 1 };
        sample_band(site, truth, &pieces[first..last], &samples.candidates, band, n_shares);
    };
    awake::for_each(samples.bands.iter_mut().enumerate().collect(), n_threads, of_band);
}

/// A part of a row that goes into a batch.
struct Part {
    row: usize,
    column: usize,
    /// Its places in the batch.
    places: Range<usize>,
}

/// Pieces in batches of [`BATCH`] values; long ones are taken part by part.
fn batches(pieces: &[(usize, Range<usize>)]) -> Vec<Vec<Part>> {
    let mut batches: Vec<Vec<Part>> = vec![];
    let mut n = BATCH;
    for (row, span) in pieces {
        let mut column = span.start;
        while column < span.end {
            if n == BATCH {
                batches.push(vec![]);
                n = 0;
            }
            let len = (span.end - column).min(BATCH - n);
            if let Some(batch) = batches.last_mut() {
                batch.push(Part { row: *row, column, places: n..n + len });
            }
            column += len;
            n += len;
        }
    }
    batches
}

/// Adds products of the pieces to the equations of their band, on so many threads.
fn sample_band<T: Rows>(
    site: &Site<'_, T>,
    truth: &(dyn Fn(usize, usize, &mut [T]) + Sync),
    pieces: &[(usize, Range<usize>)],
    candidates: &[u8],
    band: &mut Equations,
    n_shares: usize,
) {
    /// Batches that are made before they are multiplied: threads meet twice for all of them, and they stay in the second cache.
    const GROUP: usize = 4;
    let n_rows = candidates.len() + 1;
    let batches = batches(pieces);
    let mut x = Buffer::<f32>::new(batches.len().min(GROUP) * n_rows * BATCH);
    for group in batches.chunks(GROUP) {
        // Halves of the rows of a batch are tasks.
        let n_first = if n_shares > 1 { n_rows / 2 } else { n_rows };
        let halves = group.iter().zip(x.chunks_exact_mut(n_rows * BATCH)).flat_map(|(batch, x)| {
            let (first, second) = x.split_at_mut(n_first * BATCH);
            [(batch, 0, first), (batch, n_first, second)]
        });
        let fill = |(batch, from, x): (&Vec<Part>, usize, &mut [f32])| {
            let n_there = deviations(site, truth, batch, candidates, from, x);
            if from == 0 { n_there } else { 0 }
        };
        let n_there = awake::map(halves.filter(|h| !h.2.is_empty()).collect(), n_shares, fill);
        band.n += n_there.iter().sum::<usize>() as f64;
        let x: Vec<&[f32]> = x.chunks_exact(n_rows * BATCH).take(group.len()).collect();
        let lens: Vec<usize> = group.iter().map(|batch| len_of(batch).next_multiple_of(rows::LANES)).collect();
        multiply(&x, n_rows, BATCH, &lens, &mut band.g, n_shares);
    }
}

/// Values of a batch, of which the parts come one after the other.
fn len_of(batch: &[Part]) -> usize {
    batch.last().map_or(0, |part| part.places.end)
}

/// Makes rows of a batch, `from` the first: deviations of the taps from the near mean, and of the value, which comes last; all by their
/// weights. Zeros up to a multiple of [`rows::LANES`]. Returns how many values are there.
fn deviations<T: Rows>(
    site: &Site<'_, T>,
    truth: &dyn Fn(usize, usize, &mut [T]),
    batch: &[Part],
    candidates: &[u8],
    from: usize,
    x: &mut [f32],
) -> usize {
    let (mut mean, mut values) = ([T::default(); BATCH], [T::default(); BATCH]);
    let (mut near, mut weights, mut last) = ([0; BATCH], [0.0; BATCH], [0.0; BATCH]);
    let mut n_there = 0;
    for part in batch {
        let len = part.places.len();
        let site = site.at(part.row, part.column, len);
        let (mean, values) = (&mut mean[..len], &mut values[..len]);
        let (near, weights, last) = (&mut near[..len], &mut weights[..len], &mut last[..len]);
        site.mean(mean);
        truth(part.row, part.column, values);
        T::deviation(values, mean, site.inverse, last);
        site.near_sizes(near);
        rows::weights_of_sizes(near, site.taps.n_near as f32, weights);
        // What is missing has no weight; neither have values that no number of bins describes.
        for (w, t) in weights.iter_mut().zip(&*last) {
            let is_there = t.abs() < 1e9;
            *w = if is_there { *w } else { 0.0 };
            n_there += usize::from(is_there);
        }
        for (k, x) in (from..).zip(x.chunks_exact_mut(BATCH)) {
            let x = &mut x[part.places.clone()];
            match candidates.get(k) {
                Some(&tap) => T::deviation(site.values(site.taps.all[usize::from(tap)]), mean, site.inverse, x),
                None => x.copy_from_slice(last),
            }
            rows::weigh(x, weights);
        }
    }
    let len = len_of(batch);
    x.chunks_exact_mut(BATCH).for_each(|row| row[len..len.next_multiple_of(rows::LANES)].fill(0.0));
    n_there
}

/// Takes pieces into the samples of the guess: features, and sizes of the codes that the weights of `site` will give.
pub fn sample_sizes<T: Rows>(
    site: &Site<'_, T>,
    truth: &(dyn Fn(usize, usize, &mut [T]) + Sync),
    q: &Quantizer<T>,
    pieces: &[(usize, Range<usize>)],
    rooms: &mut [Room<T>; GUESS_TASKS],
    samples: &mut Samples,
) {
    /// Samples that are worth a thread.
    const ENOUGH: usize = 256;
    let most = samples.most_guess;
    let n = site.n_features();
    if samples.features.is_empty() {
        samples.features = Buffer::new((n + 1) * most);
    }
    let begin = samples.n_guess;
    let mut taken: Vec<(usize, Range<usize>)> = vec![];
    for (i, span) in pieces {
        samples.n_pieces += 1;
        let len = span.len().min(most - samples.n_guess);
        if len > 0 && samples.n_pieces.is_multiple_of(samples.guess_every) {
            taken.push((*i, span.start..span.start + len));
            samples.n_guess += len;
        }
    }
    // Some pieces a task, each with its columns of the table.
    let mut rest: Vec<&mut [u16]> =
        samples.features.chunks_exact_mut(most).map(|f| &mut f[begin..samples.n_guess]).collect();
    let mut tasks = vec![];
    for (pieces, room) in taken.chunks(taken.len().div_ceil(GUESS_TASKS).max(1)).zip(rooms) {
        let len = pieces.iter().map(|p| p.1.len()).sum();
        let columns = rest.iter_mut().filter_map(|row| row.split_off_mut(..len));
        tasks.push((pieces, room, columns.collect::<Vec<_>>()));
    }
    awake::for_each(tasks, (samples.n_guess - begin) / ENOUGH, |(pieces, room, mut out)| {
        let longest = pieces.iter().map(|p| p.1.len()).max().unwrap_or(0);
        room.grow(longest);
        let (mut values, mut sizes) = (vec![T::default(); longest], vec![0; longest]);
        for (i, span) in pieces {
            let len = span.len();
            let site = site.at(*i, span.start, len);
            let (values, sizes) = (&mut values[..len], &mut sizes[..len]);
            site.predict(site.band(*i), &mut room.predicted[..len]);
            site.features(room, len);
            truth(*i, span.start, values);
            let (row, codes) = (&mut room.predicted[..len], &mut room.codes[..len]);
            T::quantize(row, values, q.step, q.inverse(), q.within(), codes);
            rows::sizes(codes, sizes);
            let mut out = out.iter_mut().filter_map(|row| row.split_off_mut(..len));
            for (features, out) in room.features.chunks_exact(len).zip(out.by_ref().take(n)) {
                out.copy_from_slice(features);
            }
            out.for_each(|out| out.iter_mut().zip(&*sizes).for_each(|(o, &s)| *o = u16::from(s)));
        }
    });
}

/// Tasks that samples of the guess are taken in.
pub const GUESS_TASKS: usize = 4;

/// Taps and weights of a phase as integers: what is written to the archive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fitted {
    /// Fraction bits of the weights.
    pub shift: u8,
    /// For each band `(tap, weight · 2^shift)`, taps ascending.
    pub bands: Vec<Vec<(u8, i16)>>,
}

impl Fitted {
    /// Weights as the kernels take them: each band's taps ascending, the near ones with the share that is left.
    pub fn weights<T: Rows>(&self, guess: &[i16], taps: &Taps) -> Weights<T> {
        let scale = f64::from(1u32 << self.shift);
        let of_band = |band: &Vec<(u8, i16)>| {
            let sum: f64 = band.iter().map(|&(_, w)| f64::from(w) / scale).sum();
            let share = (1.0 - sum) / taps.n_near as f64;
            let mut weights: Vec<(u8, f64)> = (0..taps.n_near as u8).map(|t| (t, share)).collect();
            for &(tap, weight) in band {
                let weight = f64::from(weight) / scale;
                match weights.get_mut(usize::from(tap)).filter(|_| usize::from(tap) < taps.n_near) {
                    Some(near) => near.1 += weight,
                    None => weights.push((tap, weight)),
                }
            }
            weights.into_iter().map(|(t, w)| (t, T::from_f64(w))).collect()
        };
        Weights { bands: self.bands.iter().map(of_band).collect(), guess: guess.to_vec() }
    }
}

/// Fits the taps of a phase: 1, 2, 4 or 8 bands (at most `most_bands`), whatever costs the least.
pub fn fit(samples: &Samples, most_bands: usize) -> Fitted {
    let mut best: Option<(f64, Fitted)> = None;
    let mut n_bands = 1;
    let rounds = samples.n_rounds as f64;
    let total: f64 = samples.bands.iter().map(|b| b.n).sum::<f64>() / rounds;
    let mut numbers = vec![];
    // Few values can not pay for many bands.
    while n_bands <= samples.bands.len().clamp(1, most_bands)
        && (n_bands == 1 || total >= SAMPLES_PER_BAND * n_bands as f64)
    {
        numbers.push(n_bands);
        n_bands *= 2;
    }
    let groups_of = |n_bands: usize| samples.bands.chunks((samples.bands.len() / n_bands).max(1));
    let groups: Vec<&[Equations]> = numbers.iter().flat_map(|&n| groups_of(n)).collect();
    let mut solved = awake::map(groups, usize::MAX, |group| {
        let mut sum = Equations::default();
        group.iter().for_each(|b| sum.add(b));
        System::new(&sum, samples.candidates.len()).solve(samples.share, rounds)
    })
    .into_iter();
    for n_bands in numbers {
        let mut cost = 0.0;
        let mut bands = Vec::new();
        for (weights, bits) in solved.by_ref().take(groups_of(n_bands).len()) {
            cost += bits;
            bands.push(weights.into_iter().map(|(t, w)| (samples.candidates[t], w)).collect::<Vec<_>>());
        }
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, to_integers(&bands)));
        }
    }
    best.map(|b| b.1).unwrap_or_else(|| Fitted { shift: 0, bands: vec![vec![]] })
}

/// Weights in 1/2^shift: at most 14 bits of fraction, fewer where weights are large.
fn to_integers(bands: &[Vec<(u8, f64)>]) -> Fitted {
    let largest = bands.iter().flatten().map(|w| w.1.abs()).fold(0.0, f64::max);
    // Ten bits of fraction: what finer ones would gain is below their cost.
    let mut shift = 10u8;
    while shift > 0 && largest * f64::from(1u32 << shift) > 32_000.0 {
        shift -= 1;
    }
    let scale = f64::from(1u32 << shift);
    let integers = |band: &Vec<(u8, f64)>| {
        let mut band: Vec<(u8, i16)> = band
            .iter()
            .map(|&(t, w)| (t, (w * scale).round_ties_even().clamp(-32_000.0, 32_000.0) as i16))
            .filter(|w| w.1 != 0)
            .collect();
        band.sort_unstable();
        band
    };
    Fitted { shift, bands: bands.iter().map(integers).collect() }
}

/// A least-squares problem.
struct System {
    a: Vec<f64>,
    b: Vec<f64>,
    yy: f64,
    n: f64,
    n_taps: usize,
}

impl System {
    fn new(e: &Equations, n_taps: usize) -> Self {
        let mut a = vec![0.0; n_taps * n_taps];
        let at = |i: usize, j: usize| e.g[i * (i + 1) / 2 + j];
        let trace: f64 = (0..n_taps).map(|i| at(i, i)).sum();
        let ridge = 1e-6 * trace / n_taps as f64 + 1e-30;
        for i in 0..n_taps {
            for j in 0..=i {
                let v = at(i, j) + if i == j { ridge } else { 0.0 };
                a[i * n_taps + j] = v;
                a[j * n_taps + i] = v;
            }
        }
        Self { a, b: (0..n_taps).map(|j| at(n_taps, j)).collect(), yy: at(n_taps, n_taps), n: e.n, n_taps }
    }

    /// Bits for `n` values whose squared errors sum to `rss`, in bins: as for a Laplace distribution, never below 0.
    fn bits(n: f64, rss: f64) -> f64 {
        let sigma = (rss / n.max(1.0)).sqrt().max(1e-9);
        // log2 of about e σ √2 for large σ; linear towards 0 for small. Not the maths library's, so that a GPU chooses the same taps.
        n * log2(1.0 + 3.0 * sigma + 2.0 * sigma * sigma)
    }

    /// Forward selection while a tap pays; `share` values stand behind each of the samples, which `rounds` rounds repeat. Also gives
    /// the bits.
    fn solve(&self, share: f64, rounds: f64) -> (Vec<(usize, f64)>, f64) {
        let n = self.n * share / rounds;
        let price = TAP_PRICE + 6.0 + NOISE_PRICE * share;
        let bits = |rss: f64| Self::bits(n, rss * share / rounds);
        let chosen = self.select(self.n_taps, |rss, left| bits(rss) - bits(left) >= price);
        let Selection { order, columns, z, rss } = chosen;
        // Back substitution.
        let mut w = vec![0.0; order.len()];
        for k in (0..order.len()).rev() {
            let sum: f64 = (k + 1..order.len()).map(|j| columns[k][order[j]] * w[j]).sum();
            w[k] = (z[k] - sum) / columns[k][order[k]];
        }
        let cost = bits(rss) + order.len() as f64 * price;
        (order.into_iter().zip(w).collect(), cost)
    }

    /// Forward selection of at most `most` taps, as long as `pays` says so of the residual sums of squares before and after.
    fn select(&self, most: usize, pays: impl Fn(f64, f64) -> bool) -> Selection {
        let n_taps = self.n_taps;
        let mut d: Vec<f64> = (0..n_taps).map(|i| self.a[i * n_taps + i]).collect();
        let floor: Vec<f64> = d.iter().map(|d| 1e-7 * d).collect();
        let mut r = self.b.clone();
        let mut chosen = Selection { order: vec![], columns: vec![], z: vec![], rss: self.yy };
        while chosen.order.len() < most {
            // What is not a number gains nothing: its sign is the machine's.
            let gain = |t: usize| {
                let gain = r[t] * r[t] / d[t];
                if d[t] > floor[t] && gain > 0.0 { gain } else { 0.0 }
            };
            let Some((t, gained)) = (0..n_taps).map(|t| (t, gain(t))).max_by(|a, b| a.1.total_cmp(&b.1)) else { break };
            let left = (chosen.rss - gained).max(1e-9 * self.yy);
            if gained <= 0.0 || !pays(chosen.rss, left) {
                break;
            }
            let inverse = 1.0 / d[t].sqrt();
            let mut column = self.a[t * n_taps..][..n_taps].to_vec();
            for c in &chosen.columns {
                let at = c[t];
                column.iter_mut().zip(c).for_each(|(v, c)| *v -= c * at);
            }
            let zt = r[t] * inverse;
            for ((v, d), r) in column.iter_mut().zip(&mut d).zip(&mut r) {
                *v *= inverse;
                *d -= *v * *v;
                *r -= *v * zt;
            }
            // Never again.
            d[t] = 0.0;
            chosen.z.push(zt);
            chosen.columns.push(column);
            chosen.order.push(t);
            chosen.rss = left;
        }
        chosen
    }
}

/// Taps in the order in which they were selected, with the columns of the Cholesky factor, the right-hand side and what is left.
struct Selection {
    order: Vec<usize>,
    columns: Vec<Vec<f64>>,
    z: Vec<f64>,
    rss: f64,
}

/// Fits the guess: relative errors count. Weights in 1/1024, the constant (in 1/64) last.
pub fn fit_guess(samples: &Samples, n_features: usize) -> Vec<i16> {
    let n = n_features + 1;
    let n_samples = samples.n_guess;
    let to_i16 = |w: f64| w.round_ties_even().clamp(-32_000.0, 32_000.0) as i16;
    let rows: Vec<&[u16]> = samples.features.chunks_exact(samples.most_guess).map(|row| &row[..n_samples]).collect();
    let mean = rows
        .last()
        .map_or(0.0, |sizes| sizes.iter().map(|&s| u32::from(s)).sum::<u32>() as f32 / n_samples.max(1) as f32);
    let mut w = vec![0.0; n];
    w[n_features] = f64::from(mean.max(1.0 / 64.0));
    if n_samples >= 64 {
        let len = n_samples.next_multiple_of(rows::LANES);
        // Features, one, size: each times the root of its weight.
        let mut x = vec![0f32; (n + 1) * len];
        for _ in 0..3 {
            let mut blocks: Vec<Vec<&mut [f32]>> = (0..n_samples.div_ceil(GUESS_BLOCK)).map(|_| vec![]).collect();
            for row in x.chunks_exact_mut(len) {
                let parts = row[..n_samples].chunks_mut(GUESS_BLOCK);
                blocks.iter_mut().zip(parts).for_each(|(block, part)| block.push(part));
            }
            awake::for_each(blocks.into_iter().enumerate().collect(), n_samples / GUESS_BLOCK, |(k, x)| {
                weigh_features(&rows, k * GUESS_BLOCK, &w, x);
            });
            let mut g = vec![0.0; (n + 1) * (n + 2) / 2];
            multiply(&[&x], n + 1, len, &[len], &mut g, (n_samples / GUESS_BLOCK).min(SHARES));
            let at = |i: usize, j: usize| g[i * (i + 1) / 2 + j];
            let trace: f64 = (0..n).map(|k| at(k, k)).sum();
            let mut a = vec![0.0; n * n];
            for i in 0..n {
                (0..=i).for_each(|j| a[i * n + j] = at(i, j) + if i == j { 1e-7 * trace + 1e-12 } else { 0.0 });
            }
            w = cholesky_solve(a, (0..n).map(|j| at(n, j)).collect(), n);
        }
    }
    let (constant, of_features) = w.split_last().map_or((0.0, &[][..]), |(c, f)| (*c, f));
    of_features.iter().map(|w| to_i16(w * 1024.0)).chain([to_i16(constant * 64.0)]).collect()
}

/// Samples of the guess that are a task.
const GUESS_BLOCK: usize = 1024;

/// Rows of the guess's equations, samples from `from` on: features, one, size, each times the root of its weight by the guess with weights `w`.
fn weigh_features(rows: &[&[u16]], from: usize, w: &[f64], mut x: Vec<&mut [f32]>) {
    let n_features = w.len() - 1;
    let mut guess = [0.0; GUESS_BLOCK];
    let guess = &mut guess[..x.first().map_or(0, |x| x.len())];
    let part = |k: usize| &rows[k][from..from + guess.len()];
    let parts: Vec<&[u16]> = (0..rows.len()).map(part).collect();
    guess.fill(w[n_features] as f32);
    for (row, &w) in parts.iter().zip(&w[..n_features]) {
        rows::add_feature(guess, w as f32, row);
    }
    rows::weights_of_guesses(guess);
    for (k, x) in x.iter_mut().enumerate() {
        match k.cmp(&n_features) {
            std::cmp::Ordering::Less => rows::weigh_feature(parts[k], guess, x),
            std::cmp::Ordering::Equal => x.copy_from_slice(guess),
            std::cmp::Ordering::Greater => rows::weigh_feature(parts[n_features], guess, x),
        }
    }
}

/// Solves a symmetric positive system given by its lower triangle.
fn cholesky_solve(mut a: Vec<f64>, mut b: Vec<f64>, n: usize) -> Vec<f64> {
    for j in 0..n {
        for k in 0..j {
            let ljk = a[j * n + k];
            for i in j..n {
                a[i * n + j] -= a[i * n + k] * ljk;
            }
        }
        let pivot = a[j * n + j].max(1e-12).sqrt();
        (j..n).for_each(|i| a[i * n + j] /= pivot);
    }
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| a[i * n + k] * b[k]).sum();
        b[i] = (b[i] - sum) / a[i * n + i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| a[k * n + i] * b[k]).sum();
        b[i] = (b[i] - sum) / a[i * n + i];
    }
    b
}
