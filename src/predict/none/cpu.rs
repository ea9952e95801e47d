//! Constant prediction on the CPU, in independent blocks.

use crate::awake;
use crate::predict::{Coded, collect_misses};
use crate::quantize::Quantizer;
use crate::quantize::cpu::Kernels;
use crate::quantize::outlier::Outliers;
use crate::scratch::{Buffer, filled};

/// Values a task: long enough to hide the cost of a task, short enough for the cache.
const BLOCK: usize = 1 << 15;

/// Values to codes.
pub fn encode<T: Kernels>(values: &[T], base: T, q: &Quantizer<T>) -> Coded {
    let mut codes = Buffer::new(values.len());
    let blocks = codes.chunks_mut(BLOCK).zip(values.chunks(BLOCK)).enumerate().collect();
    let misses = awake::map(blocks, usize::MAX, |(block, (codes, values))| {
        let mut misses = Vec::new();
        if T::constant_encode(base, q, values, codes) {
            let mut decoded = vec![base; values.len()];
            T::constant_decode(base, q.step, codes, &mut decoded);
            collect_misses(q, values, |i| decoded[i], |i| block * BLOCK + i, &mut misses);
        }
        misses
    });
    Coded { codes, outliers: Outliers::from_unsorted(misses.into_iter().flatten().collect()) }
}

/// Codes to values.
pub fn decode<T: Kernels>(codes: &[i32], base: T, q: &Quantizer<T>) -> Vec<T> {
    filled(codes.len(), |values| {
        let blocks = values.chunks(BLOCK).zip(codes.chunks(BLOCK));
        awake::for_each(blocks, usize::MAX, |(values, codes)| {
            T::constant_decode(base, q.step, codes, values.fill(base))
        });
    })
}
