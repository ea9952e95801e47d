//! Rows of values to rows of codes and back: the kernels that every CPU predictor calls.
//!
//! Four neighbours `a b | c d` of each value stand in four slices; the prediction is `w1·(b + c) − w0·(a + d)`, in exactly this
//! order, rounded after each operation. A prediction that is not finite becomes 0, so that no overflow spreads.
//! Loops have no branches and no calls; the compiler turns them into vector code for each instruction set in the list.
//! Rust never contracts `a·b + c`, so that every instruction set gives the same bits.

// `!(a < b)` is meant: it is true for NaN.
#![allow(clippy::neg_cmp_op_on_partial_ord)]

use super::Quantizer;
use crate::field::Float;
use multiversion::multiversion;

/// The weights of a four-point interpolation: `inner` for the two nearest values, `outer` (subtracted) for the next two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights<T> {
    /// Weight of the sum of the nearest two.
    pub inner: T,
    /// Weight of the sum of the next two.
    pub outer: T,
}

/// Four rows of neighbours of equal length.
#[derive(Clone, Copy, Debug)]
pub struct Neighbours<'a, T> {
    /// Three places before.
    pub a: &'a [T],
    /// One place before.
    pub b: &'a [T],
    /// One place after.
    pub c: &'a [T],
    /// Three places after.
    pub d: &'a [T],
}

/// The row kernels for one element type.
pub trait Kernels: Float {
    /// Quantizes `values` against their interpolation: writes `codes` and the `decoded` values. Values that are NaN (marked
    /// special before) get code 0 and their prediction. Returns whether any value may be outside the bound: the caller then
    /// looks at each.
    fn interpolate_encode(
        n: Neighbours<'_, Self>,
        w: Weights<Self>,
        q: &Quantizer<Self>,
        values: &[Self],
        codes: &mut [i32],
        decoded: &mut [Self],
    ) -> bool;

    /// The decoder's half of [`Kernels::interpolate_encode`].
    fn interpolate_decode(n: Neighbours<'_, Self>, w: Weights<Self>, step: Self, codes: &[i32], decoded: &mut [Self]);

    /// Quantizes `values` against the constant `base`; otherwise as [`Kernels::interpolate_encode`].
    fn constant_encode(base: Self, q: &Quantizer<Self>, values: &[Self], codes: &mut [i32]) -> bool;

    /// Smallest and largest value, and whether any is special (see [`crate::bound::is_special`]); then the two mean nothing.
    fn scan(values: &[Self], fill: Option<Self>) -> (Self, Self, bool);

    /// `base + code · step`.
    fn constant_decode(base: Self, step: Self, codes: &[i32], decoded: &mut [Self]);

    /// `from[0], from[stride], from[2 stride], …` to fill `to`.
    fn gather(from: &[Self], stride: usize, to: &mut [Self]);

    /// `even[0], odd[0], even[1], odd[1], …`; an even one is the last if `to` has room for it only.
    fn interleave(even: &[Self], odd: &[Self], to: &mut [Self]);
}

/// A row of `len` as whole vectors, and the last vector again if it is not whole: rows are short, and what does not fill a
/// vector would take as long as the rest. Doing some places twice changes nothing.
#[inline(always)]
fn whole_and_rest(len: usize) -> [std::ops::Range<usize>; 2] {
    const VECTOR: usize = 8;
    let whole = len / VECTOR * VECTOR;
    let rest = if whole < len { len.saturating_sub(VECTOR)..len } else { len..len };
    [0..whole, rest]
}

macro_rules! kernels {
    ($t:ident, $bits:ident, $magic:expr) => {
        mod $t {
            use super::*;

            /// 1.5 · 2^mantissa bits: adding it rounds to an integer, half to even, in the low bits of the sum.
            const MAGIC: $t = $magic;

            /// Running minima and maxima of a scan.
            const LANES: usize = 32;

            /// Nearest integer of `t`, as code and as float; 0 if it is beyond the largest code or NaN.
            #[inline(always)]
            fn round(t: $t) -> (i32, $t) {
                let t = if t.abs() <= $t::MAX_CODE as $t { t } else { 0.0 };
                let shifted = t + MAGIC;
                ((shifted.to_bits().wrapping_sub(MAGIC.to_bits())) as i32, shifted - MAGIC)
            }

            #[inline(always)]
            fn finite_or_zero(p: $t) -> $t {
                if p.abs() <= $t::MAX { p } else { 0.0 }
            }

            #[inline(always)]
            fn encode_span(
                n: Neighbours<'_, $t>,
                w: Weights<$t>,
                q: &Quantizer<$t>,
                values: &[$t],
                codes: &mut [i32],
                decoded: &mut [$t],
            ) -> $bits {
                let len = values.len();
                let (a, b, c, d) = (&n.a[..len], &n.b[..len], &n.c[..len], &n.d[..len]);
                let (codes, decoded) = (&mut codes[..len], &mut decoded[..len]);
                let (step, inverse, within) = (q.step, q.inverse_step, q.surely_within);
                let mut miss = 0;
                for i in 0..len {
                    let p = finite_or_zero(w.inner * (b[i] + c[i]) - w.outer * (a[i] + d[i]));
                    let (code, rounded) = round((values[i] - p) * inverse);
                    let r = p + rounded * step;
                    codes[i] = code;
                    decoded[i] = r;
                    // NaN is no miss: it is never equal to itself.
                    miss |= $bits::from(!((r - values[i]).abs() < within) & (values[i] == values[i]));
                }
                miss
            }

            #[inline(always)]
            fn decode_span(n: Neighbours<'_, $t>, w: Weights<$t>, step: $t, codes: &[i32], decoded: &mut [$t]) {
                let len = decoded.len();
                let (a, b, c, d, codes) = (&n.a[..len], &n.b[..len], &n.c[..len], &n.d[..len], &codes[..len]);
                for i in 0..len {
                    let p = finite_or_zero(w.inner * (b[i] + c[i]) - w.outer * (a[i] + d[i]));
                    decoded[i] = p + codes[i] as $t * step;
                }
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn interpolate_encode<'a>(
                n: Neighbours<'a, $t>,
                w: Weights<$t>,
                q: &Quantizer<$t>,
                values: &[$t],
                codes: &mut [i32],
                decoded: &mut [$t],
            ) -> bool {
                let mut miss = 0;
                for span in whole_and_rest(values.len()) {
                    let (from, to) = (span.start, span.end);
                    let n = Neighbours { a: &n.a[from..to], b: &n.b[from..to], c: &n.c[from..to], d: &n.d[from..to] };
                    miss |= encode_span(n, w, q, &values[from..to], &mut codes[from..to], &mut decoded[from..to]);
                }
                miss != 0
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn interpolate_decode<'a>(
                n: Neighbours<'a, $t>,
                w: Weights<$t>,
                step: $t,
                codes: &[i32],
                decoded: &mut [$t],
            ) {
                for span in whole_and_rest(decoded.len()) {
                    let (from, to) = (span.start, span.end);
                    let n = Neighbours { a: &n.a[from..to], b: &n.b[from..to], c: &n.c[from..to], d: &n.d[from..to] };
                    decode_span(n, w, step, &codes[from..to], &mut decoded[from..to]);
                }
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn constant_encode(base: $t, q: &Quantizer<$t>, values: &[$t], codes: &mut [i32]) -> bool {
                let codes = &mut codes[..values.len()];
                let (step, inverse, within) = (q.step, q.inverse_step, q.surely_within);
                let mut miss = 0;
                for (code, &x) in codes.iter_mut().zip(values) {
                    let (k, rounded) = round((x - base) * inverse);
                    let r = base + rounded * step;
                    *code = k;
                    miss |= $bits::from(!((r - x).abs() < within) & (x == x));
                }
                miss != 0
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn scan(values: &[$t], fill: Option<$t>) -> ($t, $t, bool) {
                // Without a fill value the test for it repeats the one for −0.0.
                let negative_zero = (-0.0 as $t).to_bits();
                let fill = fill.map_or(negative_zero, $t::to_bits);
                // Lanes of their own: one running minimum would wait for itself at every value.
                let mut min = [$t::INFINITY; LANES];
                let mut max = [$t::NEG_INFINITY; LANES];
                let mut special = [0; LANES];
                let mut look = |lane: usize, v: $t| {
                    min[lane] = if v < min[lane] { v } else { min[lane] };
                    max[lane] = if v > max[lane] { v } else { max[lane] };
                    let bits = v.to_bits();
                    let odd = !(v.abs() <= $t::MAX) | (bits == negative_zero) | (bits == fill);
                    special[lane] |= $bits::from(odd);
                };
                let (blocks, rest) = values.as_chunks::<LANES>();
                for block in blocks {
                    for lane in 0..LANES {
                        look(lane, block[lane]);
                    }
                }
                rest.iter().for_each(|&v| look(0, v));
                let min = min.into_iter().fold($t::INFINITY, $t::min);
                let max = max.into_iter().fold($t::NEG_INFINITY, $t::max);
                (min, max, special.into_iter().any(|s| s != 0))
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn constant_decode(base: $t, step: $t, codes: &[i32], decoded: &mut [$t]) {
                for (r, &k) in decoded.iter_mut().zip(codes) {
                    *r = base + k as $t * step;
                }
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn gather(from: &[$t], stride: usize, to: &mut [$t]) {
                if stride != 2 {
                    to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(t, &f)| *t = f);
                    return;
                }
                // The last one may have nothing behind it.
                let Some((last, to)) = to.split_last_mut() else { return };
                *last = from[2 * to.len()];
                for (t, pair) in to.iter_mut().zip(from.as_chunks::<2>().0) {
                    *t = pair[0];
                }
            }

            #[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
            pub fn interleave(even: &[$t], odd: &[$t], to: &mut [$t]) {
                let (pairs, rest) = to.as_chunks_mut::<2>();
                for ((pair, &e), &o) in pairs.iter_mut().zip(even).zip(odd) {
                    *pair = [e, o];
                }
                if let ([last], [.., e]) = (rest, even) {
                    *last = *e;
                }
            }
        }

        impl Kernels for $t {
            fn interpolate_encode(
                n: Neighbours<'_, Self>,
                w: Weights<Self>,
                q: &Quantizer<Self>,
                values: &[Self],
                codes: &mut [i32],
                decoded: &mut [Self],
            ) -> bool {
                $t::interpolate_encode(n, w, q, values, codes, decoded)
            }
            fn interpolate_decode(
                n: Neighbours<'_, Self>,
                w: Weights<Self>,
                step: Self,
                codes: &[i32],
                decoded: &mut [Self],
            ) {
                $t::interpolate_decode(n, w, step, codes, decoded);
            }
            fn constant_encode(base: Self, q: &Quantizer<Self>, values: &[Self], codes: &mut [i32]) -> bool {
                $t::constant_encode(base, q, values, codes)
            }
            fn scan(values: &[Self], fill: Option<Self>) -> (Self, Self, bool) {
                $t::scan(values, fill)
            }
            fn constant_decode(base: Self, step: Self, codes: &[i32], decoded: &mut [Self]) {
                $t::constant_decode(base, step, codes, decoded);
            }
            fn gather(from: &[Self], stride: usize, to: &mut [Self]) {
                $t::gather(from, stride, to);
            }
            fn interleave(even: &[Self], odd: &[Self], to: &mut [Self]) {
                $t::interleave(even, odd, to);
            }
        }
    };
}

kernels!(f32, u32, 12_582_912.0);
kernels!(f64, u64, 6_755_399_441_055_744.0);
