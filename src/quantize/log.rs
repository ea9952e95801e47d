//! Logarithms, for bounds relative to each value: an absolute bound on `log2 |x|` is a relative one on `x`.
//!
//! The encoder may take any logarithm, since it checks what the decoder makes of it. The decoder raises 2 to a power with a
//! polynomial: f64 additions and multiplications in a fixed order, the same bits everywhere. Signs are stored as runs.

use crate::encode::bytes::{self, Reader};
use crate::error::{Error, Result};
use crate::field::Float;

/// Relative error of [`exp2`] and of the logarithm, with room to spare.
const POLYNOMIAL_ERROR: f64 = 1e-13;

/// The bound on `log2 |x|` that keeps the relative error of `x` below `relative`, after rounding to `T`.
pub fn bound<T: Float>(relative: f64) -> f64 {
    let rounding = if T::BYTES == 4 { 0.5 * f64::from(f32::EPSILON) } else { 0.5 * f64::EPSILON };
    (relative - rounding - POLYNOMIAL_ERROR).ln_1p() / std::f64::consts::LN_2
}

/// `log2 |x|`; NaN where `skip` says so.
pub fn forward<T: Float>(values: &[T], skip: &[bool]) -> Vec<f64> {
    values
        .iter()
        .enumerate()
        .map(|(i, v)| if skip.get(i) == Some(&true) { f64::NAN } else { v.to_f64().abs().log2() })
        .collect()
}

/// `2^y`, rounded to `T`.
pub fn inverse<T: Float>(y: f64) -> T {
    T::from_f64(exp2(y))
}

/// `ln(2)^k / k!`, for k from 13 down to 0.
const COEFFICIENTS: [f64; 14] = [
    1.369_148_885_390_412e-12,
    2.567_843_599_348_820_6e-11,
    4.445_538_271_870_811_5e-10,
    7.054_911_620_801_123e-9,
    1.017_808_600_923_969_9e-7,
    1.321_548_679_014_431e-6,
    1.525_273_380_405_984e-5,
    1.540_353_039_338_161e-4,
    1.333_355_814_642_844_4e-3,
    9.618_129_107_628_477e-3,
    5.550_410_866_482_158e-2,
    2.402_265_069_591_007e-1,
    std::f64::consts::LN_2,
    1.0,
];

/// `2^y` by a Taylor polynomial around the nearest integer.
fn exp2(y: f64) -> f64 {
    // Beyond these the result is 0 or infinite in f64; NaN becomes 0, which no encoder relies on.
    let y = if y > -1100.0 { if y < 1100.0 { y } else { 1100.0 } } else { -1100.0 };
    let whole = (y + 0.5).floor();
    let t = y - whole;
    let mut p = COEFFICIENTS[0];
    for c in &COEFFICIENTS[1..] {
        p = p * t + c;
    }
    // Two factors, as 2^whole alone may be no normal number.
    let half = whole as i64 / 2;
    p * power_of_two(half) * power_of_two(whole as i64 - half)
}

fn power_of_two(k: i64) -> f64 {
    f64::from_bits(((k + 1023) as u64) << 52)
}

/// Lengths of alternating runs of positive and negative values, the first positive (may be 0); empty if all are positive.
pub fn signs_to_bytes<T: Float>(values: &[T]) -> Vec<u8> {
    let sign_bit = 1u64 << (8 * T::BYTES - 1);
    let mut runs = Vec::new();
    let (mut negative, mut len) = (false, 0u64);
    for v in values {
        let now = v.to_bits() & sign_bit != 0;
        if now != negative {
            bytes::put_varint(&mut runs, len);
            (negative, len) = (now, 0);
        }
        len += 1;
    }
    let mut out = Vec::new();
    if !runs.is_empty() {
        bytes::put_varint(&mut runs, len);
        bytes::put_packed(&mut out, &runs);
    }
    out
}

/// Gives `values` the signs that [`signs_to_bytes`] wrote.
///
/// # Errors
/// `Corrupt` if the runs do not cover the values exactly.
pub fn apply_signs<T: Float>(data: &[u8], values: &mut [T]) -> Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    let bad = || Error::corrupt("list of signs is damaged");
    let sign_bit = 1u64 << (8 * T::BYTES - 1);
    let mut reader = Reader::new(data);
    let runs = reader.packed(values.len().saturating_mul(2) + 16)?;
    let mut runs = Reader::new(&runs);
    let (mut at, mut negative) = (0usize, false);
    while !runs.is_empty() {
        let len = usize::try_from(runs.varint()?).map_err(|_| bad())?;
        let end = at.checked_add(len).filter(|&e| e <= values.len()).ok_or_else(bad)?;
        if negative {
            values[at..end].iter_mut().for_each(|v| *v = T::from_bits(v.to_bits() | sign_bit));
        }
        (at, negative) = (end, !negative);
    }
    if at == values.len() && reader.is_empty() { Ok(()) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_accurate() {
        for i in -107_000..102_000 {
            let y = f64::from(i) * 0.01 + 0.001_234;
            let (ours, std) = (exp2(y), y.exp2());
            let tolerance = if std < f64::MIN_POSITIVE { 5e-324 } else { 1e-14 * std };
            assert!((ours - std).abs() <= tolerance, "2^{y}: {ours} instead of {std}");
        }
        assert_eq!(exp2(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp2(2000.0), f64::INFINITY);
    }
}
