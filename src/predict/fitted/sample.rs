//! What fits are made of: pieces of rows of a phase, as normal equations, and features beside sizes of codes. Class: `EncoderOnly`.

use super::rows::{self, Rows};
use super::site::{GUESS_BANDS, Room, Site};
use crate::awake;
use crate::quantize::Quantizer;
use crate::scratch::Buffer;
use std::cell::RefCell;
use std::ops::Range;

/// Bands of rows at most.
pub const MAX_BANDS: usize = 8;

/// Normal equations, in bins: products of taps' deviations from the near mean, and of the value's, which comes last.
#[derive(Clone, Debug, Default)]
pub struct Equations {
    /// Lower triangle row by row; empty before the first.
    pub(super) g: Buffer<f64>,
    /// Rows of values in it.
    pub(super) n: f64,
}

impl Equations {
    pub(super) fn add(&mut self, other: &Self) {
        if self.g.is_empty() {
            self.g = Buffer::zeros(other.g.len());
        }
        self.g.iter_mut().zip(&*other.g).for_each(|(a, b)| *a += b);
        self.n += other.n;
    }
}

/// Values whose products are taken at once; the sums of a batch are in single precision.
const BATCH: usize = 256;
/// Adds [`rows::products`] of a batch of `len` columns.
fn multiply(x: &[f32], n_rows: usize, len: usize, g: &mut [f64]) {
    thread_local! {
        /// Zeros once: making them anew would take as long as the products of a short batch.
        static ROOM: RefCell<(rows::Quarters, rows::Columns)> =
            const { RefCell::new((rows::NO_QUARTERS, rows::NO_COLUMNS)) };
    }
    ROOM.with_borrow_mut(|(quarters, columns)| match len {
        rows::LANES => rows::products_of_few(x, n_rows, BATCH, g, columns),
        _ => rows::products(x, n_rows, BATCH, len, g, quarters),
    });
}

/// What is known of a phase (of images with the same kinds of side images) from samples.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Equations of the bands of rows.
    pub(super) bands: Vec<Equations>,
    /// Features, and sizes of codes last: `most_guess` of each.
    pub(super) features: Buffer<u16>,
    /// Samples of the guess, at most.
    pub(super) most_guess: usize,
    /// How many there are.
    pub(super) n_guess: usize,
    /// The bands of rows that they are of, one after the other, each with the end of its samples.
    pub(super) guess_bands: Vec<(usize, usize)>,
    /// Of the pieces of equations, every so many serves for the guess.
    guess_every: usize,
    /// Pieces so far.
    n_pieces: usize,
    /// How many values the phase has for each one sampled.
    pub(super) share: f64,
    /// How often the tile was sampled.
    pub(super) n_rounds: usize,
    /// Taps to choose from.
    pub(super) candidates: Vec<u8>,
}

/// What a number of samples is enough for.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Bands of rows.
    pub n_bands: usize,
    /// Samples of the guess, at most.
    pub most_guess: usize,
    /// Of the pieces of equations, every so many serves for the guess.
    pub guess_every: usize,
}

impl Extent {
    /// Of about `n` samples, of which threads share `n_shared` of an image.
    pub fn of(n: f64, n_shared: f64) -> Self {
        /// Samples that are worth a thread.
        const ENOUGH: f64 = 200.0;
        let n_bands = ((n / SAMPLES_PER_BAND) as usize + 1).min(MAX_BANDS).next_power_of_two();
        let n_bands = if n_bands as f64 * SAMPLES_PER_BAND > n && n_bands > 1 { n_bands / 2 } else { n_bands };
        let n_bands = if n_shared >= 2.0 * ENOUGH { n_bands.max(2) } else { n_bands };
        let guess_every = ((n / GUESS_SAMPLES as f64) as usize).max(1);
        Self { n_bands, most_guess: (n as usize).clamp(64, GUESS_SAMPLES), guess_every }
    }
}

impl Samples {
    /// For samples of a phase with `n_taps` taps, at most `most_guess` of them for the guess.
    pub fn new(extent: Extent, most_guess: usize, n_taps: usize) -> Self {
        let Extent { n_bands, guess_every, .. } = extent;
        Self {
            bands: vec![Equations::default(); n_bands],
            features: Buffer::default(),
            most_guess,
            n_guess: 0,
            guess_bands: Vec::with_capacity(4 * GUESS_BANDS),
            guess_every,
            n_pieces: 0,
            share: 1.0,
            n_rounds: 1,
            candidates: (0..n_taps as u8).collect(),
        }
    }

    /// Equations of both chains, of the taps that both still look at; no samples of the guess.
    pub fn of_both(first: &Self, second: &Self) -> Self {
        let mut kept = first.candidates.clone();
        kept.retain(|tap| second.candidates.contains(tap));
        let [mut both, others] = [first, second].map(|of_chain| {
            let (bands, candidates) = (of_chain.bands.clone(), of_chain.candidates.clone());
            let (features, guess_bands) = (Buffer::default(), vec![]);
            let mut equations = Self { bands, features, guess_bands, candidates, ..*of_chain };
            equations.keep(&kept);
            equations
        });
        both.bands.iter_mut().zip(&others.bands).for_each(|(band, other)| band.add(other));
        both
    }

    /// Leaves only these taps to choose from, ascending.
    pub(super) fn keep(&mut self, kept: &[u8]) {
        if self.candidates == kept {
            return;
        }
        let n_taps = self.candidates.len();
        let place = |tap: &u8| self.candidates.iter().position(|t| t == tap).unwrap_or(n_taps);
        // The value comes last.
        let places: Vec<usize> = kept.iter().map(place).chain([n_taps]).collect();
        for band in self.bands.iter_mut().filter(|band| !band.g.is_empty()) {
            // Places ascend, so that each product moves towards the front.
            let pairs = places.iter().enumerate().flat_map(|(k, &i)| places[..=k].iter().map(move |&j| (i, j)));
            pairs.enumerate().for_each(|(to, (i, j))| band.g[to] = band.g[i * (i + 1) / 2 + j]);
            band.g.truncate(places.len() * (places.len() + 1) / 2);
        }
        self.candidates = kept.to_vec();
    }

    /// Gives back the room: what is said of the samples is known.
    pub fn give_back(&mut self) {
        self.bands.iter_mut().for_each(|band| band.g = Buffer::default());
        self.features = Buffer::default();
    }

    /// What follows repeats what was sampled before: equations count alike, the guess is made anew.
    pub fn next_round(&mut self) {
        self.n_rounds += 1;
        self.n_guess = 0;
        self.guess_bands.clear();
    }

    /// Closes the equations for a fit: they stand for `count` values.
    pub fn close(&mut self, count: f64) {
        let n: f64 = self.bands.iter().map(|band| band.n).sum();
        self.share = count * self.n_rounds as f64 / n.max(1.0);
    }
}

/// Samples of a guess, at most.
const GUESS_SAMPLES: usize = 8192;

/// A band of rows is worth as many samples.
pub(super) const SAMPLES_PER_BAND: f64 = 1200.0;

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
        sample_band(site, truth, &pieces[first..last], &samples.candidates, band);
    };
    awake::for_each(samples.bands.iter_mut().enumerate(), n_threads, of_band);
}

/// A part of a row that goes into a batch.
struct Part {
    row: usize,
    column: usize,
    /// Its places in the batch.
    places: Range<usize>,
}

/// Pieces in batches of [`BATCH`] values, of which each begins at place 0; long ones are taken part by part.
fn parts(pieces: &[(usize, Range<usize>)]) -> Vec<Part> {
    let n_values: usize = pieces.iter().map(|piece| piece.1.len()).sum();
    let mut parts = Vec::with_capacity(pieces.len() + n_values / BATCH);
    let mut n = 0;
    for (row, span) in pieces {
        let mut column = span.start;
        while column < span.end {
            let len = (span.end - column).min(BATCH - n);
            parts.push(Part { row: *row, column, places: n..n + len });
            column += len;
            n = (n + len) % BATCH;
        }
    }
    parts
}

/// Adds products of the pieces to the equations of their band.
fn sample_band<T: Rows>(
    site: &Site<'_, T>,
    truth: &dyn Fn(usize, usize, &mut [T]),
    pieces: &[(usize, Range<usize>)],
    candidates: &[u8],
    band: &mut Equations,
) {
    if pieces.is_empty() {
        return;
    }
    let n_rows = candidates.len() + 1;
    if band.g.is_empty() {
        band.g = Buffer::zeros(n_rows * (n_rows + 1) / 2);
    }
    let mut x = Buffer::<f32>::new(n_rows * BATCH);
    for batch in parts(pieces).chunk_by(|_, next| next.places.start > 0) {
        band.n += deviations(site, truth, batch, candidates, &mut x) as f64;
        multiply(&x, n_rows, len_of(batch).next_multiple_of(rows::LANES), &mut band.g);
    }
}

/// Values of a batch, of which the parts come one after the other.
fn len_of(batch: &[Part]) -> usize {
    batch.last().map_or(0, |part| part.places.end)
}

/// Makes rows of a batch: deviations of the taps from the near mean, and of the value, which comes last; all by their
/// weights. Zeros up to a multiple of [`rows::LANES`]. Returns how many values are there.
fn deviations<T: Rows>(
    site: &Site<'_, T>,
    truth: &dyn Fn(usize, usize, &mut [T]),
    batch: &[Part],
    candidates: &[u8],
    x: &mut [f32],
) -> usize {
    let (mut mean, mut values) = ([T::default(); BATCH], [T::default(); BATCH]);
    let (mut near, mut weights, mut last) = ([0; BATCH], [0.0; BATCH], [0.0; BATCH]);
    let mut n_there = 0;
    let end = len_of(batch).next_multiple_of(rows::LANES);
    x.chunks_exact_mut(BATCH).filter_map(|row| row[..end].last_chunk_mut()).for_each(|row| *row = [0.0; rows::LANES]);
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
        for (k, x) in x.chunks_exact_mut(BATCH).enumerate() {
            let x = &mut x[part.places.clone()];
            match candidates.get(k) {
                Some(&tap) => {
                    let tap = site.tap(tap);
                    T::weighed_deviation(tap, mean, site.inverse, weights, x);
                }
                None => {
                    x.copy_from_slice(last);
                    rows::weigh(x, weights);
                }
            }
        }
    }
    n_there
}

/// Room for the samples of a task.
#[derive(Default)]
pub struct SampleRoom<T: Rows> {
    run: Room,
    predicted: Buffer<T>,
    truth: Buffer<T>,
    sizes: Buffer<u8>,
}

impl<T: Rows> SampleRoom<T> {
    /// Makes room for pieces of up to `len` values.
    fn grow(&mut self, len: usize) {
        const LEAST: usize = 128;
        let len = len.max(LEAST);
        self.run.grow(len);
        if self.sizes.len() < len {
            self.predicted = Buffer::new(len);
            self.truth = Buffer::new(len);
            self.sizes = Buffer::new(len);
        }
    }
}

/// Takes pieces into the samples of the guess: features, and sizes of the codes that the weights of `site` will give.
pub fn sample_sizes<T: Rows>(
    site: &Site<'_, T>,
    truth: &(dyn Fn(usize, usize, &mut [T]) + Sync),
    q: &Quantizer<T>,
    pieces: &[(usize, Range<usize>)],
    rooms: &mut [SampleRoom<T>; GUESS_TASKS],
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
    let mut taken: Vec<(usize, Range<usize>)> = Vec::with_capacity(pieces.len() / samples.guess_every + 1);
    for (i, span) in pieces {
        samples.n_pieces += 1;
        let len = span.len().min(most - samples.n_guess);
        if len > 0 && samples.n_pieces.is_multiple_of(samples.guess_every) {
            taken.push((*i, span.start..span.start + len));
            samples.n_guess += len;
            let band = i * GUESS_BANDS / site.size.0;
            match samples.guess_bands.last_mut() {
                Some((last, end)) if *last == band => *end = samples.n_guess,
                _ => samples.guess_bands.push((band, samples.n_guess)),
            }
        }
    }
    // Some pieces a task, each with its columns of the table.
    let mut rest: Vec<&mut [u16]> =
        samples.features.chunks_exact_mut(most).map(|f| &mut f[begin..samples.n_guess]).collect();
    let mut tasks = Vec::with_capacity(GUESS_TASKS);
    for (pieces, room) in taken.chunks(taken.len().div_ceil(GUESS_TASKS).max(1)).zip(rooms) {
        let len = pieces.iter().map(|p| p.1.len()).sum();
        let mut columns = Vec::with_capacity(n + 1);
        columns.extend(rest.iter_mut().filter_map(|row| row.split_off_mut(..len)));
        tasks.push((pieces, room, columns));
    }
    awake::for_each(tasks, (samples.n_guess - begin) / ENOUGH, |(pieces, room, mut out)| {
        let longest = pieces.iter().map(|p| p.1.len()).max().unwrap_or(0);
        room.grow(longest);
        for (i, span) in pieces {
            let len = span.len();
            let site = site.at(*i, span.start, len);
            let (row, values, sizes) = (&mut room.predicted[..len], &mut room.truth[..len], &mut room.sizes[..len]);
            site.predict(site.band(*i), row);
            site.features(row, &mut room.run);
            truth(*i, span.start, values);
            let codes = &mut room.run.codes[..len];
            T::quantize(row, values, q.step, q.inverse(), q.within(), codes);
            rows::sizes(codes, sizes);
            let mut out = out.iter_mut().filter_map(|row| row.split_off_mut(..len));
            for (features, out) in room.run.features.chunks_exact(len).zip(out.by_ref().take(n)) {
                out.copy_from_slice(features);
            }
            out.for_each(|out| out.iter_mut().zip(&*sizes).for_each(|(o, &s)| *o = u16::from(s)));
        }
    });
}

/// Tasks that samples of the guess are taken in.
pub const GUESS_TASKS: usize = 4;
