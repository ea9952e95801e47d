//! The first fit, before anything was decoded: to the values with noise like that of decoding.

use super::cpu::Pyramid;
use super::encode::{Effort, pass_counts, sampling, set_shares};
use super::fit::Samples;
use super::lattice::{A, B2, K, Plane};
use super::rows::Rows;
use super::sample::Sampler;
use super::schedule::Schedule;
use super::site::{Planes, Taps};
use crate::quantize::Quantizer;
use crate::scratch::Buffer;
use rayon::prelude::*;

/// Samples of the values themselves, with noise as decoding will add it, from a few images of each kind.
pub(super) fn open_samples<T: Rows>(
    values: &[T],
    schedule: &Schedule,
    taps: &[Taps],
    wrap: bool,
    q: &Quantizer<T>,
    effort: Effort,
    n_trial: usize,
) -> Vec<Samples> {
    const IMAGES: usize = 3;
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
        for level in 0..lattices.levels {
            for phase in A..=B2 {
                let (rows, columns) = lattices.plane_size(level, phase);
                there[schedule.pass(kind, level, phase)] += (rows * columns) as f64;
            }
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
    let mut samples: Vec<Samples> =
        taps.iter().zip(n_samples).map(|(taps, n)| Samples::new(n, taps.all.len())).collect();
    let sampler = Sampler { schedule, taps, values, inverse, every: &every };
    chosen.iter().for_each(|&image| sampler.image(image, &pyramid_of, None, &mut samples));
    samples.par_iter_mut().for_each(Samples::flush);
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
            }
            planes
        })
        .collect()
}
