//! A phase of an image at work: what is predicted there, and how large the codes are guessed to be.

use super::lattice::{Plane, Tap, own_taps, side_taps};
use super::rows::{self, Rows};
use crate::scratch::Buffer;
use std::ops::Range;

/// Values and code sizes of the four planes of a lattice.
#[derive(Clone, Debug)]
pub struct Planes<T: Rows> {
    /// Values.
    pub values: [Plane<T>; 4],
    /// Sizes of codes, see [`rows::SIZE_SCALE`].
    pub sizes: [Plane<u8>; 4],
}

impl<T: Rows> Default for Planes<T> {
    fn default() -> Self {
        Self { values: std::array::from_fn(|_| Plane::default()), sizes: std::array::from_fn(|_| Plane::default()) }
    }
}

/// Features of a guess: four of the image itself, and four of each of at most two side images.
pub const OWN_FEATURES: usize = 4;
/// Features that a side image adds.
pub const SIDE_FEATURES: usize = 4;
/// Side images that have features.
pub const FEATURE_SIDES: usize = 2;

/// Candidate taps of a phase, the near ones first.
pub struct Taps {
    /// Taps of image 0, then those of side images.
    pub all: Vec<Tap>,
    /// The same, each at the opposite place.
    pub turned: Vec<Tap>,
    /// How many are near: 2 or 4.
    pub n_near: usize,
    /// How many belong to image 0.
    pub n_own: usize,
    /// Of each side image with features: the place itself, and its neighbours on the axes, as far as there are such.
    around: Vec<(Tap, [Tap; 4])>,
}

impl Taps {
    /// The taps of `phase` with `n_sides` side images, where planes of `is_empty` have none.
    pub fn new(phase: u8, n_sides: usize, is_empty: impl Fn(u8) -> bool) -> Self {
        let (near, far) = own_taps(phase);
        let there = |t: &&Tap| !is_empty(t.plane);
        let mut all: Vec<Tap> = Vec::with_capacity(near.len() + far.len() + n_sides * side_taps(phase).len());
        all.extend(near.iter().filter(there));
        let n_near = all.len();
        all.extend(far.iter().filter(there));
        let n_own = all.len();
        let mut around = vec![];
        for side in 1..=n_sides as u8 {
            let taps = side_taps(phase).map(|t| Tap { image: side, ..t });
            all.extend(taps.iter().filter(there));
            if around.len() < FEATURE_SIDES {
                let axes: Vec<Tap> = taps[1..5].iter().filter(there).copied().collect();
                let axis = |k: usize| if axes.is_empty() { taps[0] } else { axes[k % axes.len()] };
                around.push((taps[0], std::array::from_fn(axis)));
            }
        }
        let turned = all.iter().map(|tap| tap.turned(phase)).collect();
        Self { all, turned, n_near, n_own, around }
    }
}

/// One phase of one image.
#[derive(Clone)]
pub struct Site<'a, T: Rows> {
    /// The phase.
    pub phase: u8,
    /// Planes of the image; those of phases to come have no meaning yet.
    pub own: &'a Planes<T>,
    /// Planes of its side images.
    pub sides: &'a [&'a Planes<T>],
    /// Candidate taps.
    pub taps: &'a Taps,
    /// See [`Image::is_backwards`](super::schedule::Image::is_backwards).
    pub is_backwards: bool,
    /// What the fit made of the phase.
    pub weights: &'a Weights<T>,
    /// Rows and columns of the phase.
    pub size: (usize, usize),
    /// Distance of rows in all planes.
    pub stride: usize,
    /// The run at work: where it starts (see [`Plane::at`]),
    pub start: usize,
    /// and how many values it has.
    pub len: usize,
    /// `1 / step`.
    pub inverse: T,
}

/// What the fit made of a phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights<T> {
    /// For each band of rows `(index of the tap, weight)`.
    pub bands: Vec<Vec<(u8, T)>>,
    /// How large codes are guessed to be.
    pub guess: Guess,
}

/// Bands of rows of a guess.
pub const GUESS_BANDS: usize = 8;

/// The guess of a phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guess {
    /// Weights of the features in 1/1024, and a constant in 1/64.
    pub weights: Vec<i16>,
    /// For each of [`GUESS_BANDS`] bands of rows what is added to the bucket, of which eight are an octave; empty where nothing is.
    pub offsets: Vec<i8>,
}

impl Guess {
    /// What is added to buckets of row `i` of `n_rows`.
    fn offset(&self, i: usize, n_rows: usize) -> i32 {
        self.offsets.get(i * self.offsets.len() / n_rows).map_or(0, |&offset| i32::from(offset))
    }
}

/// Room for what a run needs.
#[derive(Default)]
pub struct Room {
    /// Features, one run after the other.
    pub features: Buffer<u16>,
    guesses: Buffer<i32>,
    /// How large codes are guessed to be.
    pub buckets: Buffer<u8>,
    /// Codes.
    pub codes: Buffer<i32>,
    zeros: Buffer<u8>,
}

impl Room {
    /// Makes room for runs of up to `len` values.
    pub fn grow(&mut self, len: usize) {
        if self.zeros.len() < len {
            self.features = Buffer::zeros(len * (OWN_FEATURES + FEATURE_SIDES * SIDE_FEATURES));
            self.guesses = Buffer::zeros(len);
            self.buckets = Buffer::zeros(len);
            self.codes = Buffer::zeros(len);
            self.zeros = Buffer::zeros(len);
        }
    }
}

impl<T: Rows> Site<'_, T> {
    fn planes(&self, image: u8) -> &Planes<T> {
        if image == 0 { self.own } else { self.sides[usize::from(image) - 1] }
    }

    /// The same site at the run of `len` values from column `j` of row `i` on.
    pub fn at(&self, i: usize, j: usize, len: usize) -> Self {
        Self { start: Plane::<T>::at(self.stride, i, j), len, ..self.clone() }
    }

    /// The band that row `i` belongs to.
    pub fn band(&self, i: usize) -> usize {
        i * self.weights.bands.len() / self.size.0
    }

    /// Values of a tap beside the run.
    pub fn values(&self, tap: Tap) -> &[T] {
        self.planes(tap.image).values[usize::from(tap.plane)].run(self.start, tap.di, tap.dj, self.len)
    }

    /// Values of a tap by its index.
    pub fn tap(&self, tap: u8) -> &[T] {
        let taps = if self.is_backwards { &self.taps.turned } else { &self.taps.all };
        self.values(taps[usize::from(tap)])
    }

    fn sizes(&self, tap: Tap) -> &[u8] {
        self.planes(tap.image).sizes[usize::from(tap.plane)].run(self.start, tap.di, tap.dj, self.len)
    }

    /// Runs of the nearest four; where there are two, both twice.
    fn near(&self) -> [&[T]; 4] {
        std::array::from_fn(|k| self.values(self.taps.all[k % self.taps.n_near]))
    }

    /// Mean of the nearest.
    pub fn mean(&self, mean: &mut [T]) {
        T::mean(self.near(), mean);
    }

    /// Sums of the sizes of the nearest codes.
    pub fn near_sizes(&self, sum: &mut [u16]) {
        let n_near = self.taps.n_near;
        rows::sum_sizes(sum, std::array::from_fn(|k| self.sizes(self.taps.all[k % n_near])), false);
    }

    /// Number of features.
    pub fn n_features(&self) -> usize {
        OWN_FEATURES + SIDE_FEATURES * self.sides.len().min(FEATURE_SIDES)
    }

    /// Predictions of the run, with the weights of `band`: `Σ weight · tap`, one after the other.
    pub fn predict(&self, band: usize, row: &mut [T]) {
        let value = |&(tap, _): &(u8, T)| self.tap(tap);
        let Some((first, rest)) = self.weights.bands[band].split_first() else { return row.fill(T::default()) };
        T::scaled(row, first.1, value(first));
        let (eights, rest) = rest.as_chunks::<8>();
        eights.iter().for_each(|eight| T::add_scaled_8(row, eight.map(|t| t.1), eight.each_ref().map(value)));
        let (fours, rest) = rest.as_chunks::<4>();
        fours.iter().for_each(|four| T::add_scaled_4(row, four.map(|t| t.1), four.each_ref().map(value)));
        rest.iter().for_each(|t| T::add_scaled(row, t.1, value(t)));
    }

    /// Features of the run, which is predicted as `row`.
    pub fn features(&self, row: &[T], room: &mut Room) {
        let n = row.len();
        let (taps, n_near, n_own) = (&self.taps.all, self.taps.n_near, self.taps.n_own);
        let zeros = &room.zeros[..n];
        let mut features = room.features.chunks_exact_mut(n);
        let mut next = || features.next().unwrap_or_default();
        self.near_sizes(next());
        let far = &taps[n_near..n_own];
        let far_sizes = |k: usize| far.get(k).map_or(zeros, |&t| self.sizes(t));
        let sum = next();
        rows::sum_sizes(sum, std::array::from_fn(far_sizes), false);
        rows::sum_sizes(sum, std::array::from_fn(|k| far_sizes(k + 4)), true);
        T::spread_and_distance(self.near(), row, self.inverse, next(), next());
        for &(place, axes) in &self.taps.around {
            rows::sum_sizes(next(), [self.sizes(place), zeros, zeros, zeros], false);
            rows::sum_sizes(next(), axes.map(|t| self.sizes(t)), false);
            let axes = axes.map(|t| self.values(t));
            T::spread_and_difference(axes, self.values(place), row, self.inverse, next(), next());
        }
    }

    /// Buckets of the guessed sizes of the run, which is predicted as `row` and has these rows of the phase.
    pub fn guess(&self, rows: Range<usize>, row: &[T], room: &mut Room) {
        let n = row.len();
        self.features(row, room);
        let buckets = &mut room.buckets[..n];
        let guess = &self.weights.guess;
        let Some((&constant, of_features)) = guess.weights.split_last() else { return buckets.fill(0) };
        let guesses = &mut room.guesses[..n];
        guesses.fill(i32::from(constant) << 4);
        for (weights, features) in of_features.as_chunks::<4>().0.iter().zip(room.features.chunks_exact(4 * n)) {
            rows::add_weighted_4(guesses, weights.map(i32::from), features);
        }
        let (first, last) = (rows.start, rows.end - 1);
        let mut from = 0;
        for i in rows {
            // Rows with the same offset at once.
            let offset = guess.offset(i, self.size.0);
            if i == last || guess.offset(i + 1, self.size.0) != offset {
                let end = if i == last { n } else { (i + 1 - first) * self.stride };
                rows::buckets(&guesses[from..end], offset, &mut buckets[from..end]);
                from = end;
            }
        }
    }
}
