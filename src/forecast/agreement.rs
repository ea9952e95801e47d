//! How encoder and decoder come to the same forecast though the last bits of theirs differ.
//!
//! A forecast is rounded to multiples of Δ. Where it lies within τ of the middle between two of them, the encoder lists the place and the side
//! that it took. A decoder whose forecast differs by less than τ takes the same multiple everywhere: off the list it is on the same side of every
//! middle, on the list it looks the side up. A digest of what came out tells whether that was so.

use crate::encode::bytes::{self, Reader};
use crate::error::{Error, Result};
use crate::field::Float;

/// Multiples of which forecasts are rounded to, and how far forecasts may differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Δ, in the units of the variable; 0 if forecasts are the same to the last bit, which are taken as they are.
    pub step: f64,
    /// τ.
    pub tolerance: f64,
}

/// Most of the values that may be listed: where there would be more, forecasts cost more than they are worth.
const MAX_LISTED: f64 = 1.0 / 16.0;
/// Cost of rounding is next to nothing below this part of the bound.
const FINEST: f64 = 0.25;
/// And too high above this.
const COARSEST: f64 = 2.0;

/// Places near the middle of two multiples, ascending, and whether the upper one was taken.
pub type Sides = Vec<(u32, bool)>;

impl Agreement {
    /// Forecasts are the same to the last bit.
    pub const EXACT: Self = Self { step: 0.0, tolerance: 0.0 };

    /// For a `bound` (absolute) and forecasts that may differ by `tolerance`; `None` if listing would cost more than forecasts are worth.
    pub fn new(bound: f64, tolerance: f64) -> Option<Self> {
        if tolerance == 0.0 {
            return Some(Self::EXACT);
        }
        // A share of 2τ/Δ of all values is within τ of a middle. Each costs some bits, a coarser Δ costs all of them a little.
        let steps = [FINEST, 0.5, 1.0, COARSEST].map(|part| part * bound);
        let few = |limit: f64| steps.iter().copied().find(|&step| 2.0 * tolerance <= limit * step);
        let step = few(MAX_LISTED / 16.0).or_else(|| few(MAX_LISTED / 4.0)).or_else(|| few(MAX_LISTED))?;
        Some(Self { step, tolerance })
    }

    /// Rounds a forecast; lists the places, from `first` on, that a decoder might see otherwise.
    pub fn agree<T: Float>(&self, forecast: &[f32], first: usize, sides: &mut Sides) -> Vec<T> {
        let near = self.tolerance / self.step;
        let value = |(i, &f): (usize, &f32)| {
            if self.step == 0.0 || !f.is_finite() {
                return T::from_f64(if f.is_finite() { f64::from(f) } else { 0.0 });
            }
            let x = f64::from(f) / self.step;
            let (below, is_upper) = split(x);
            // Not `<`: what can not be told apart is listed.
            if !((x - (below + 0.5)).abs() > near) {
                sides.push(((first + i) as u32, is_upper));
            }
            self.multiple(below, is_upper)
        };
        forecast.iter().enumerate().map(value).collect()
    }

    /// Rounds a decoder's forecast to what [`Agreement::agree`] made of the encoder's. `sides` are those left of the list.
    pub fn recover<T: Float>(&self, forecast: &[f32], first: usize, sides: &mut &[(u32, bool)]) -> Vec<T> {
        let value = |(i, &f): (usize, &f32)| {
            let listed = sides.first().filter(|s| s.0 as usize == first + i).map(|s| s.1);
            if listed.is_some() {
                *sides = &sides[1..];
            }
            if self.step == 0.0 || !f.is_finite() {
                return T::from_f64(if f.is_finite() { f64::from(f) } else { 0.0 });
            }
            let (below, is_upper) = match listed {
                None => split(f64::from(f) / self.step),
                // The nearest middle, not the interval that it happens to be in.
                Some(upper) => ((f64::from(f) / self.step - 0.5).round_ties_even(), upper),
            };
            self.multiple(below, is_upper)
        };
        forecast.iter().enumerate().map(value).collect()
    }

    fn multiple<T: Float>(&self, below: f64, is_upper: bool) -> T {
        T::from_f64((below + if is_upper { 1.0 } else { 0.0 }) * self.step)
    }
}

/// The multiple below, and whether the one above is nearer.
fn split(x: f64) -> (f64, bool) {
    let below = x.floor();
    (below, x - below > 0.5)
}

/// Digest of a rounded forecast.
#[derive(Default)]
pub struct Digest(xxhash_rust::xxh3::Xxh3);

impl Digest {
    /// Takes in values.
    pub fn add<T: Float>(&mut self, values: &[T]) {
        values.iter().for_each(|v| self.0.update(&v.to_bits().to_le_bytes()));
    }

    /// 32 bits: a forecast that differs passes once in four thousand million times.
    pub fn finish(&self) -> u32 {
        self.0.digest() as u32
    }
}

/// Appends a list.
pub fn write_sides(sides: &Sides, out: &mut Vec<u8>) {
    let mut plain = vec![];
    let mut next = 0;
    for &(place, is_upper) in sides {
        bytes::put_varint(&mut plain, u64::from(place - next) << 1 | u64::from(is_upper));
        next = place;
    }
    bytes::put_varint(out, sides.len() as u64);
    bytes::put_packed(out, &plain);
}

/// Reads a list of places below `n`.
///
/// # Errors
/// `Corrupt`.
pub fn read_sides(reader: &mut Reader<'_>, n: usize) -> Result<Sides> {
    let bad = || Error::corrupt("list of doubtful forecasts is damaged");
    let count = usize::try_from(reader.varint()?).ok().filter(|&c| c <= n).ok_or_else(bad)?;
    // A gap has five bytes at most.
    let plain = reader.packed(5 * count)?;
    let mut entries = Reader::new(&plain);
    let mut sides = Vec::with_capacity(count.min(plain.len()));
    let mut place = 0u64;
    for k in 0..count {
        let entry = entries.varint()?;
        place =
            place.checked_add(entry >> 1).filter(|&p| p < n as u64 && (k == 0 || entry >> 1 > 0)).ok_or_else(bad)?;
        sides.push((place as u32, entry & 1 == 1));
    }
    if entries.is_empty() { Ok(sides) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sequence of numbers in -1..1 that looks random.
    fn noise(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        }
    }

    #[test]
    fn forecasts_within_the_tolerance_agree() {
        for seed in 0..200 {
            let mut noise = noise(seed);
            let tolerance = 10f64.powf(-2.0 + 2.0 * noise());
            let agreement = Agreement::new(tolerance * 40.0 * (1.5 + noise()).abs().max(1.0), tolerance).unwrap();
            let forecast: Vec<f32> = (0..2000).map(|_| (noise() * 30.0) as f32).collect();
            let mut sides = vec![];
            let agreed: Vec<f32> = agreement.agree(&forecast, 7, &mut sides);
            // f32 rounds what is added, by far less than a tenth of the tolerance.
            let other: Vec<f32> = forecast.iter().map(|&f| (f64::from(f) + 0.9 * tolerance * noise()) as f32).collect();
            let mut out = vec![];
            write_sides(&sides, &mut out);
            let read = read_sides(&mut Reader::new(&out), 2007).unwrap();
            assert_eq!(read, sides);
            let mut left = &read[..];
            assert_eq!(agreement.recover::<f32>(&other, 7, &mut left), agreed);
            assert!(left.is_empty());
            for (a, f) in agreed.iter().zip(&forecast) {
                assert!(f64::from((a - f).abs()) <= 0.5 * agreement.step * (1.0 + 1e-5));
            }
        }
    }

    #[test]
    fn a_list_that_costs_too_much_is_refused() {
        assert_eq!(Agreement::new(1.0, 0.0), Some(Agreement::EXACT));
        assert!(Agreement::new(1.0, 0.1).is_none());
        assert!(Agreement::new(1.0, 1e-3).is_some());
    }
}
