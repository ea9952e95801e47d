//! Lorenzo prediction on the CPU.

use crate::awake;
use crate::predict::{Coded, none};
use crate::quantize::Quantizer;
use crate::quantize::cpu::Kernels;
use crate::scratch::Buffer;

/// Values a task works on at least.
const BLOCK: usize = 1 << 15;

/// Lengths of a tile seen as (independent blocks, slow, middle, fast): the last `axes` axes, padded with 1.
fn block_shape(axes: usize, shape: &[usize]) -> (usize, usize, usize) {
    let at = |back: usize| if back <= axes { shape[shape.len() - back] } else { 1 };
    (at(3), at(2), at(1))
}

/// Values to codes.
pub fn encode<T: Kernels>(axes: usize, values: &[T], shape: &[usize], base: T, q: &Quantizer<T>) -> Coded {
    let Coded { codes: mut counts, outliers } = none::cpu::encode(values, base, q);
    let (slow, middle, fast) = block_shape(axes, shape);
    // A value stored apart must have code 0, that is: the count that its neighbours predict. One after the other, as each may
    // be the neighbour of the next; only tiles that have such values pay for it.
    if values.iter().any(|v| v.to_f64().is_nan()) {
        for (block, values) in counts.chunks_mut(slow * middle * fast).zip(values.chunks(slow * middle * fast)) {
            for i in 0..values.len() {
                if values[i].to_f64().is_nan() {
                    block[i] = 0;
                    block[i] = difference(block, i, middle, fast).wrapping_neg();
                }
            }
        }
    }
    let mut codes = Buffer::new(counts.len());
    by_parts(&mut codes, fast, |row, out| {
        let (y, z) = (row % middle, row / middle % slow);
        let at = |back: usize| &counts[(row - back) * fast..][..fast];
        let here = at(0);
        match (y > 0, z > 0) {
            (false, false) => row_difference(out, |i| here[i]),
            (true, false) => {
                let north = at(1);
                row_difference(out, |i| here[i].wrapping_sub(north[i]));
            }
            (false, true) => {
                let below = at(middle);
                row_difference(out, |i| here[i].wrapping_sub(below[i]));
            }
            (true, true) => {
                let (north, below, both) = (at(1), at(middle), at(middle + 1));
                row_difference(out, |i| here[i].wrapping_sub(north[i]).wrapping_sub(below[i]).wrapping_add(both[i]));
            }
        }
    });
    Coded { codes, outliers }
}

/// `out[i] = f(i) − f(i−1)`
#[inline(always)]
fn row_difference(out: &mut [i32], f: impl Fn(usize) -> i32) {
    let Some((first, rest)) = out.split_first_mut() else { return };
    *first = f(0);
    for (i, out) in rest.iter_mut().enumerate() {
        *out = f(i + 1).wrapping_sub(f(i));
    }
}

/// The mixed difference at position `i` of a block.
fn difference(block: &[i32], i: usize, middle: usize, fast: usize) -> i32 {
    let (x, y, z) = (i % fast, i / fast % middle, i / (fast * middle));
    let mut sum = 0i32;
    for corner in 0..8 {
        let (dx, dy, dz) = (corner & 1, corner >> 1 & 1, corner >> 2);
        if dx <= x && dy <= y && dz <= z {
            let v = block[i - dx - (dy + dz * middle) * fast];
            sum = if (dx + dy + dz) % 2 == 0 { sum.wrapping_add(v) } else { sum.wrapping_sub(v) };
        }
    }
    sum
}

/// Codes to values.
pub fn decode<T: Kernels>(axes: usize, codes: &[i32], shape: &[usize], base: T, q: &Quantizer<T>) -> Vec<T> {
    let (slow, middle, fast) = block_shape(axes, shape);
    let mut counts = Buffer::new(codes.len());
    counts.copy_from_slice(codes);
    by_parts(&mut counts, fast, |_, row| {
        let mut sum = 0i32;
        for v in row {
            sum = sum.wrapping_add(*v);
            *v = sum;
        }
    });
    by_parts(&mut counts, middle * fast, |_, plane| add_previous(plane, fast));
    by_parts(&mut counts, slow * middle * fast, |_, block| add_previous(block, middle * fast));
    none::cpu::decode(&counts, base, q)
}

/// Does `work` on each part of `len` integers, given its index; blocks of parts are the tasks.
fn by_parts(data: &mut [i32], len: usize, work: impl Fn(usize, &mut [i32]) + Sync) {
    let n_parts = BLOCK.div_ceil(len);
    awake::for_each(data.chunks_mut(n_parts * len).enumerate(), usize::MAX, |(block, parts)| {
        parts.chunks_mut(len).enumerate().for_each(|(k, part)| work(block * n_parts + k, part));
    });
}

/// Adds to each part of `len` integers the one before: running sums across parts.
fn add_previous(data: &mut [i32], len: usize) {
    for at in (len..data.len()).step_by(len) {
        let (before, here) = data.split_at_mut(at);
        let add = |(here, before): (&mut [i32], &[i32])| {
            here.iter_mut().zip(before).for_each(|(v, &p)| *v = v.wrapping_add(p));
        };
        let (here, before) = (&mut here[..len], &before[at - len..]);
        if len < 2 * BLOCK {
            add((here, before));
        } else {
            awake::for_each(here.chunks_mut(BLOCK).zip(before.chunks(BLOCK)), usize::MAX, add);
        }
    }
}
