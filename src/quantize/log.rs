//! Logarithms, for bounds relative to each value: an absolute bound on `log2 |x|` is a relative one on `x`.
//!
//! The encoder may take any logarithm, since it checks what the decoder makes of it. The decoder raises 2 to a power with a
//! polynomial: f64 additions and multiplications in a fixed order, the same bits everywhere. Of signs the places are stored where they change.

use super::special::IN_BLOCKS;
use crate::encode::bytes::{self, Reader};
use crate::encode::numbers;
use crate::error::{Error, Result};
use crate::field::Float;
use rayon::prelude::*;

/// Relative error of [`exp2`] and of the logarithm, with room to spare.
const POLYNOMIAL_ERROR: f64 = 1e-13;

/// The bound on `log2 |x|` that keeps the relative error of `x` below `relative`, after rounding to `T`. The width of a bin follows of it, so
/// that it has to have the same bits everywhere, which the maths libraries of systems do not promise.
pub fn bound<T: Float>(relative: f64) -> f64 {
    let rounding = if T::BYTES == 4 { 0.5 * f64::from(f32::EPSILON) } else { 0.5 * f64::EPSILON };
    libm::log1p(relative - rounding - POLYNOMIAL_ERROR) / std::f64::consts::LN_2
}

/// `log2 |x|`; NaN where `skip` says so.
pub fn forward<T: Float>(values: &[T], skip: &[bool]) -> Vec<f64> {
    values
        .par_iter()
        .enumerate()
        .map(|(i, v)| if skip.get(i) == Some(&true) { f64::NAN } else { log2(v.to_f64().abs()) })
        .collect()
}

/// `2^y`, rounded to `T`.
pub fn inverse<T: Float>(y: f64) -> T {
    T::from_f64(exp2(y))
}

/// `2 / (ln 2 · (2k + 1))`, for k from 11 down to 0.
const LOG2: [f64; 12] = [
    0.125_451_742_685_996_82,
    0.137_399_527_703_710_8,
    0.151_862_635_883_045_87,
    0.169_728_828_339_878_04,
    0.192_359_338_785_195_12,
    0.221_953_083_213_686_67,
    0.262_308_189_252_538_8,
    0.320_598_897_975_325_2,
    0.412_198_583_111_132_4,
    0.577_078_016_355_585_3,
    0.961_796_693_925_975_6,
    2.885_390_081_777_926_8,
];

/// `log2 x` of a finite number above 0, to 1e-14: an odd series in `(m − 1) / (m + 1)` for a mantissa `m` near 1. Not the maths
/// library's, so that a GPU gives the same bits.
pub(crate) fn log2(x: f64) -> f64 {
    const TWO_POW_54: f64 = 18_014_398_509_481_984.0;
    let (x, mut exponent) = if x < f64::MIN_POSITIVE { (x * TWO_POW_54, -54) } else { (x, 0) };
    exponent += (x.to_bits() >> 52) as i64 - 1023;
    let mut m = f64::from_bits(x.to_bits() & ((1 << 52) - 1) | 1023 << 52);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let p = LOG2[1..].iter().fold(LOG2[0], |p, c| p * z + c);
    exponent as f64 + s * p
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

/// The places where the sign is another than at the place before; before the first all is positive. Empty if there are none.
pub fn signs_to_bytes<T: Float>(values: &[T]) -> Vec<u8> {
    let sign_bit = 1u64 << (8 * T::BYTES - 1);
    let mut changes = Vec::new();
    let mut negative = false;
    for (i, v) in values.iter().enumerate() {
        let now = v.to_bits() & sign_bit != 0;
        if now != negative {
            changes.push(i as u32);
            negative = now;
        }
    }
    let mut out = Vec::new();
    if !changes.is_empty() {
        out.push(IN_BLOCKS);
        bytes::put_varint(&mut out, changes.len() as u64);
        // Positive and negative runs have lengths of their own.
        let mut lengths = numbers::between(&changes);
        if lengths.len() % 2 == 1 {
            lengths.push(0);
        }
        out.extend(numbers::encode(&lengths, 2));
    }
    out
}

/// Gives `values` the signs that [`signs_to_bytes`] wrote.
///
/// # Errors
/// `Corrupt` if the list is damaged.
pub fn apply_signs<T: Float>(data: &[u8], values: &mut [T]) -> Result<()> {
    let sign_bit = 1u64 << (8 * T::BYTES - 1);
    let changes = changes_of_signs(data, values.len())?;
    for negative in changes.chunks(2) {
        let end = negative.get(1).map_or(values.len(), |&e| e as usize);
        values[negative[0] as usize..end].iter_mut().for_each(|v| *v = T::from_bits(v.to_bits() | sign_bit));
    }
    Ok(())
}

/// Where the sign changes, as [`signs_to_bytes`] wrote it for `n` values: ascending, before the first it is positive.
///
/// # Errors
/// `Corrupt` if the list is damaged.
pub fn changes_of_signs(data: &[u8], n: usize) -> Result<Vec<u32>> {
    if data.is_empty() {
        return Ok(Vec::new());
    }
    let bad = || Error::corrupt("list of signs is damaged");
    let mut reader = Reader::new(data);
    if data[0] == IN_BLOCKS {
        reader.byte()?;
        let count = usize::try_from(reader.varint()?).ok().filter(|&c| (1..=n).contains(&c)).ok_or_else(bad)?;
        let mut lengths = numbers::decode(reader.rest(), count.div_ceil(2), 2)?;
        if lengths.len() > count && lengths.pop() != Some(0) {
            return Err(bad());
        }
        return numbers::places(&lengths, n).ok_or_else(bad);
    }
    // As older archives have them: bytes, perhaps behind zstd.
    let runs = reader.packed(n.saturating_mul(2) + 16)?;
    let mut runs = Reader::new(&runs);
    let mut changes = Vec::new();
    let mut at = 0usize;
    while !runs.is_empty() {
        let len = usize::try_from(runs.varint()?).map_err(|_| bad())?;
        at = at.checked_add(len).filter(|&e| e <= n).ok_or_else(bad)?;
        changes.push(at as u32);
    }
    // The last run ends where the values do.
    if changes.pop() == Some(n as u32) && reader.is_empty() { Ok(changes) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_accurate() {
        let mut x = 5e-324;
        while x < 1e308 {
            for v in [x, x * 1.000_001, x * 1.41, x * 1.42, x * 1.999_999] {
                let (ours, std) = (log2(v), v.log2());
                assert!((ours - std).abs() <= 2e-16 * (1.0 + std.abs()), "log2 {v:e}: {ours} instead of {std}");
            }
            x *= 1.7;
        }
        assert_eq!(log2(1.0).to_bits(), 0);
    }

    #[test]
    fn bounds_have_the_same_bits_everywhere() {
        // glibc 2.36 has other last bits for all of them.
        let bits = [(0.2556, 0x3fd5_0420_b01b_8e37), (0.3467, 0x3fdb_7bc1_af1b_cfb9), (0.3617, 0x3fdc_8194_4e63_0f3b)];
        for (relative, bits) in bits {
            assert_eq!(bound::<f64>(relative).to_bits(), bits, "{relative}");
        }
    }

    #[test]
    fn signs_come_back() {
        for len in [0usize, 1, 2, 3, 63, 500, 9000] {
            for step in [1usize, 2, 3, 50, 10_000] {
                for first in [1.0f32, -1.0] {
                    let sign = |i: usize| if (i / step + i * i / 1000).is_multiple_of(2) { first } else { -first };
                    let values: Vec<f32> = (0..len).map(sign).collect();
                    let bytes = signs_to_bytes(&values);
                    let mut restored = vec![1.0f32; len];
                    apply_signs(&bytes, &mut restored).unwrap();
                    assert_eq!(restored, values);
                    for cut in 1..bytes.len() {
                        assert!(changes_of_signs(&bytes[..cut], len).is_err());
                    }
                    // As older archives have them.
                    let mut runs = vec![];
                    let mut start = 0;
                    for end in changes_of_signs(&bytes, len).unwrap().into_iter().chain([len as u32]) {
                        bytes::put_varint(&mut runs, u64::from(end - start));
                        start = end;
                    }
                    let mut old = vec![];
                    bytes::put_packed(&mut old, &runs);
                    assert_eq!(changes_of_signs(&old, len).unwrap(), changes_of_signs(&bytes, len).unwrap());
                }
            }
        }
    }

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
