//! Lattices of images that were not decoded: forecasts; and stand-ins for side images that the trial leaves out, their true values with noise
//! like that of decoding (class: `EncoderOnly`).

use super::cpu::Pyramid;
use super::lattice::{B2, K, Lattices, Plane};
use super::rows::Rows;
use super::site::Planes;
use crate::awake;
use crate::scratch::Buffer;

/// The lattices of an image of `values`, with noise within half a `step`; `seed` turns it.
pub(super) fn stand_in<T: Rows>(values: &[T], seed: usize, lattices: Lattices, wrap: bool, step: f64) -> Pyramid<T> {
    let mut state = seed as u32 ^ 0x9e37_79b9;
    let noise: Vec<T> = (0..1024)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            T::from_f64((f64::from(state >> 8) / f64::from(1 << 23) - 1.0) * 0.5 * step)
        })
        .collect();
    // Twice, so that it is in a row from wherever a piece begins.
    let noise = noise.repeat(2);
    let mut image = Buffer::<T>::new(values.len());
    let noisy = |(k, (out, values)): (usize, (&mut [T], &[T]))| {
        let turned = &noise[k * 37 % 1024..];
        out.iter_mut().zip(values).zip(turned).for_each(|((out, &v), &noise)| *out = v + noise);
    };
    let pieces = image.chunks_mut(1024).zip(values.chunks(1024)).enumerate();
    awake::for_each(pieces, values.len() / ENOUGH, noisy);
    // Missing values are like the last that was there: far from everything they would spoil the fit.
    if values.iter().fold(false, |any, v| any | v.to_f64().is_nan()) {
        let mut last = values.iter().copied().find(|v| !v.to_f64().is_nan()).unwrap_or_default();
        for v in &mut *image {
            last = if v.to_f64().is_nan() { last } else { *v };
            *v = last;
        }
    }
    pyramid(&image, lattices, wrap)
}

/// Values that are worth a thread.
const ENOUGH: usize = 1 << 12;

/// The lattices of an image. It has no codes, so their sizes are 0.
pub(super) fn pyramid<T: Rows>(image: &[T], lattices: Lattices, wrap: bool) -> Pyramid<T> {
    let pyramid = Pyramid::new(lattices.levels);
    for level in 0..lattices.levels {
        let mut planes = Planes::default();
        let both = planes.values.iter_mut().zip(&mut planes.sizes).zip(K..=B2);
        let (rows, columns) = lattices.size(level);
        awake::for_each(both, rows * columns / ENOUGH, |((values, sizes), plane)| {
            let size = lattices.plane_size(level, plane);
            *values = Plane::new(size, lattices.stride(level));
            *sizes = Plane::new(size, lattices.stride(level));
            let (start, dy, dx) = lattices.raster(level, plane);
            for i in 0..values.rows {
                T::gather(&image[start + i * dy..], dx, values.row_mut(i));
            }
            values.fill_margins(lattices.wraps(level, wrap));
            sizes.clear();
        });
        pyramid.put(level, planes);
    }
    pyramid
}
