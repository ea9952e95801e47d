//! Samples of an image for the fits; its passes are tasks.

use super::cpu::Pyramid;
use super::fit::{self, Samples};
use super::lattice::A;
use super::rows::Rows;
use super::schedule::Schedule;
use super::site::{Site, Taps, Weights};
use rayon::prelude::*;

/// Takes samples of images.
pub(super) struct Sampler<'a, T> {
    pub schedule: &'a Schedule,
    pub taps: &'a [Taps],
    /// The true values of the tile.
    pub values: &'a [T],
    /// `1 / step`
    pub inverse: T,
    /// By pass: how many values stand behind each that is sampled.
    pub every: &'a [usize],
}

impl<T: Rows> Sampler<'_, T> {
    /// Takes samples of all passes of `image`. With the `weights` of the run that made its lattices, values whose codes are large
    /// count less, and samples for the guess are taken too.
    pub fn image<'p>(
        &self,
        image: usize,
        pyramid_of: &(dyn Fn(usize) -> &'p Pyramid<T> + Sync),
        weights: Option<&[Weights<T>]>,
        samples: &mut [Samples],
    ) where
        T: 'p,
    {
        let lattices = self.schedule.lattices;
        let (sides, kind) = &self.schedule.images[image];
        let first = self.schedule.pass(*kind, 0, A);
        let own_values = &self.values[image * lattices.ny * lattices.nx..];
        let of_kind = &mut samples[first..first + 3 * lattices.levels];
        of_kind.par_iter_mut().enumerate().for_each(|(k, samples)| {
            let (pass, level, phase) = (first + k, k / 3, A + (k % 3) as u8);
            let size = lattices.plane_size(level, phase);
            if size.0 * size.1 == 0 {
                return;
            }
            let side_planes: Vec<_> = sides.iter().map(|&s| &pyramid_of(s)[level]).collect();
            let none = Weights::default();
            let site = Site {
                phase,
                own: &pyramid_of(image)[level],
                sides: &side_planes,
                taps: &self.taps[pass],
                weights: weights.map_or(&none, |w| &w[pass]),
                size,
                stride: lattices.stride(level),
                start: 0,
                len: 0,
                inverse: self.inverse,
            };
            let pieces = fit::pieces(size.0, size.1, self.every[pass], image);
            let (start, dy, dx) = lattices.raster(level, phase);
            let truth = |i: usize, j: usize, out: &mut [T]| T::gather(&own_values[start + i * dy + j * dx..], dx, out);
            fit::sample_equations(&site, &truth, &pieces, weights.is_some(), samples);
            if weights.is_some() {
                fit::sample_sizes(&site, &pieces, samples);
            }
        });
    }
}
