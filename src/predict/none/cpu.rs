//! Constant prediction on the CPU, in independent blocks.

use crate::predict::{Coded, collect_misses};
use crate::quantize::Quantizer;
use crate::quantize::cpu::Kernels;
use crate::quantize::outlier::Outliers;
use crate::scratch::Buffer;
use rayon::prelude::*;

/// Values a task: long enough to hide the cost of a task, short enough for the cache.
const BLOCK: usize = 1 << 15;

/// Values to codes.
pub fn encode<T: Kernels>(values: &[T], base: T, q: &Quantizer<T>) -> Coded {
    let mut codes = Buffer::new(values.len());
    let misses = codes
        .par_chunks_mut(BLOCK)
        .zip(values.par_chunks(BLOCK))
        .enumerate()
        .map(|(block, (codes, values))| {
            let mut misses = Vec::new();
            if T::constant_encode(base, q, values, codes) {
                let mut decoded = vec![base; values.len()];
                T::constant_decode(base, q.step, codes, &mut decoded);
                collect_misses(q, values, |i| decoded[i], |i| block * BLOCK + i, &mut misses);
            }
            misses
        })
        .reduce(Vec::new, |mut all, mut more| {
            all.append(&mut more);
            all
        });
    Coded { codes, outliers: Outliers::from_unsorted(misses) }
}

/// Codes to values.
pub fn decode<T: Kernels>(codes: &[i32], base: T, q: &Quantizer<T>) -> Vec<T> {
    let mut values = vec![base; codes.len()];
    values
        .par_chunks_mut(BLOCK)
        .zip(codes.par_chunks(BLOCK))
        .for_each(|(values, codes)| T::constant_decode(base, q.step, codes, values));
    values
}
