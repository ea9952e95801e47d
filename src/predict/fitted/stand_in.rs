//! Stand-ins for side images that the trial leaves out: their true values with noise like that of decoding. Class: `EncoderOnly`.

use super::cpu::Pyramid;
use super::lattice::{B2, K, Lattices, Plane};
use super::rows::Rows;
use super::site::Planes;
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
                let size = lattices.plane_size(level, plane);
                let mut p = Plane::new(size, lattices.stride(level));
                let (start, dy, dx) = lattices.raster(level, plane);
                for i in 0..p.rows {
                    T::gather(&image[start + i * dy..], dx, p.row_mut(i));
                }
                p.fill_margins(lattices.wraps(level, wrap));
                planes.values[usize::from(plane)] = p;
                let mut sizes = Plane::new(size, lattices.stride(level));
                sizes.clear();
                planes.sizes[usize::from(plane)] = sizes;
            }
            planes
        })
        .collect()
}
