//! How encoder and decoder come to the same forecast though the last bits of theirs differ.
//!
//! A forecast is rounded to multiples of Δ. Where it lies within τ of the middle between two of them, the encoder lists the place and the side
//! that it took. A decoder whose forecast differs by less than τ takes the same multiple everywhere: off the list it is on the same side of every
//! middle, on the list it looks the side up. A digest of what came out tells whether that was so.

use crate::encode::bits::{BitReader, BitWriter};
use crate::encode::bytes::{self, Reader};
use crate::error::{Error, Result};
use crate::field::Float;

#[cfg(feature = "cuda")]
pub(crate) mod cuda;

/// Multiples of which forecasts are rounded to, and how far forecasts may differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// Δ, in the units of the variable; 0 if forecasts are the same to the last bit, which are taken as they are.
    pub step: f64,
    /// τ of each level; none if Δ is 0. A decoder needs the list only; τ is for the record.
    pub tolerances: Vec<f32>,
}

/// Most of the values that may be listed: where there would be more, forecasts cost more than they are worth.
const MAX_LISTED: f64 = 1.0 / 8.0;

/// Twice τ, at most, in multiples: a decoder finds the middle that a listed place is near to as long as τ is less than a quarter of Δ.
const MAX_SHARE: f64 = 0.45;

/// Places near the middle of two multiples, ascending, and whether the upper one was taken.
pub type Sides = Vec<(u32, bool)>;

impl Agreement {
    /// Forecasts are the same to the last bit.
    pub const EXACT: Self = Self { step: 0.0, tolerances: vec![] };

    /// For values within `bound` (absolute), beside forecasts whose mean square error is `error` and that may differ by `tolerances`, one a
    /// level. Δ is where rounding and list together cost least; `None` if the list would be too long whatever Δ.
    ///
    /// A share of `s = 2τ/Δ` of the values is listed, at `log2(1/s)` bits and some three more each. Rounding adds `Δ²/12` to the square of what is
    /// coded. The constants of that are from measurements at bounds of 1e-2 and 1e-3 of the range: Δ of half the bound, the bound and twice the
    /// bound cost 2.6, 9 and 22 % of 0.38 bits, and up to 1.6 % of 1.6 bits.
    pub fn new(bound: f64, tolerances: Vec<f32>, error: f64) -> Option<Self> {
        if tolerances.iter().all(|&t| t == 0.0) {
            return Some(Self::EXACT);
        }
        let n = tolerances.len().max(1) as f64;
        let coded = 1.5 * bound * bound + error / 4.0;
        let cost = |step: f64| {
            let shares = tolerances.iter().map(|&t| (2.0 * f64::from(t) / step).min(1.0));
            let listed: f64 = shares.clone().sum::<f64>() / n;
            let list: f64 = shares.filter(|&s| s > 0.0).map(|s| s * (3.0 - s.log2())).sum::<f64>() / n;
            let rounding = 0.5 * std::f64::consts::LOG2_E * (step * step / 12.0 / coded).ln_1p();
            let is_clear = tolerances.iter().all(|&t| 2.0 * f64::from(t) <= MAX_SHARE * step);
            (listed <= MAX_LISTED && is_clear).then_some(list + rounding)
        };
        let steps = [0.0625, 0.125, 0.25, 0.5, 1.0, 2.0].map(|part| part * bound);
        let costs = steps.iter().filter_map(|&step| cost(step).map(|c| (c, step)));
        let (_, step) = costs.min_by(|a, b| a.0.total_cmp(&b.0))?;
        Some(Self { step, tolerances })
    }

    /// How near to the middle of two multiples a forecast of a level is listed, in multiples.
    fn near(&self, level: usize) -> f64 {
        let tolerance = f64::from(self.tolerances.get(level).copied().unwrap_or(0.0));
        // A step of at least an ulp of the forecast: rounding f64 to f32 (and what it is divided by) is within the margin.
        tolerance * (1.0 + 1e-6) / self.step
    }

    /// Rounds the forecast of a level; lists the places, from `first` on, that a decoder might see otherwise.
    pub fn agree<T: Float>(&self, forecast: &[f32], level: usize, first: usize, sides: &mut Sides) -> Vec<T> {
        let near = self.near(level);
        let value = |(i, &f): (usize, &f32)| {
            if self.step == 0.0 || !f.is_finite() {
                return T::from_f64(if f.is_finite() { f64::from(f) } else { 0.0 });
            }
            let x = f64::from(f) / self.step;
            let (below, is_upper) = split(x);
            // Not the opposite: what can not be told apart is listed.
            let is_clear = (x - (below + 0.5)).abs() > near;
            if !is_clear {
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

/// The sum of `n` terms in an order that many threads can keep: each of 512 lanes adds every 512th, then halves of the lanes are added up.
pub(super) fn sum_in_lanes(n: usize, term: impl Fn(usize) -> f64) -> f64 {
    const LANES: usize = 512;
    let mut lanes = [0.0; LANES];
    for start in (0..n).step_by(LANES) {
        for (lane, k) in lanes.iter_mut().zip(start..n) {
            *lane += term(k);
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        let (first, second) = lanes.split_at_mut(half);
        first.iter_mut().zip(&*second).for_each(|(a, b)| *a += b);
        half /= 2;
    }
    lanes[0]
}

/// Digest of the rounded forecasts of a tile so far.
#[derive(Default)]
pub struct Digest(xxhash_rust::xxh3::Xxh3);

impl Digest {
    /// Takes in values.
    pub fn add<T: Float>(&mut self, values: &[T]) {
        values.iter().for_each(|v| self.0.update(&v.to_bits().to_le_bytes()));
    }

    /// After a step: 16 bits, and as they are of all steps so far, what passes once is noticed with the next step or at the end.
    pub fn of_step(&self) -> u16 {
        self.0.digest() as u16
    }

    /// After the last step.
    pub fn finish(&self) -> u32 {
        (self.0.digest() >> 16) as u32
    }
}

/// Appends a list: count, and if there are any the Rice parameter and bits: for each the gap to the one before (quotient in zeros and a one,
/// remainder) and the side.
pub fn write_sides(sides: &Sides, out: &mut Vec<u8>) {
    bytes::put_varint(out, sides.len() as u64);
    let Some(&(last, _)) = sides.last() else { return };
    // Gaps are geometric: the best parameter is the logarithm of 0.69 times their mean.
    let mean = f64::from(last) / sides.len() as f64;
    let k = (0.69 * mean).max(1.0).log2().round() as u32;
    out.push(k as u8);
    let mut bits = BitWriter::default();
    let mut next = 0;
    for &(place, is_upper) in sides {
        let gap = place - next;
        let mut quotient = gap >> k;
        while quotient >= 32 {
            bits.put(0, 32);
            quotient -= 32;
        }
        bits.put(1 << quotient, quotient + 1);
        bits.put(u64::from(gap & ((1 << k) - 1)), k);
        bits.put(u64::from(is_upper), 1);
        next = place + 1;
    }
    bytes::put_bytes(out, &bits.finish());
}

/// Reads a list of places below `n`.
///
/// # Errors
/// `Corrupt`.
pub fn read_sides(reader: &mut Reader<'_>, n: usize) -> Result<Sides> {
    let bad = || Error::corrupt("list of doubtful forecasts is damaged");
    let count = usize::try_from(reader.varint()?).ok().filter(|&c| c <= n).ok_or_else(bad)?;
    if count == 0 {
        return Ok(vec![]);
    }
    let k = u32::from(reader.byte()?);
    let data = reader.bytes()?;
    // An entry has two bits at least.
    if k > 31 || count > data.len() * 4 {
        return Err(bad());
    }
    let mut bits = BitReader::new(data, 0, data.len());
    let mut sides = Vec::with_capacity(count);
    let mut next = 0u64;
    for _ in 0..count {
        let mut gap = 0u64;
        while bits.take(1) == 0 {
            gap += 1 << k;
            if gap > n as u64 {
                return Err(bad());
            }
        }
        let rest = if k == 0 { 0 } else { u64::from(bits.take(k)) };
        let place = next + gap + rest;
        if place >= n as u64 || !bits.is_within() {
            return Err(bad());
        }
        sides.push((place as u32, bits.take(1) == 1));
        next = place + 1;
    }
    if bits.is_within() { Ok(sides) } else { Err(bad()) }
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
            // Down to bounds at which the middles of neighbouring multiples are nearly as near as the forecasts may be apart.
            let bound = tolerance * 10f64.powf(1.4 + 1.6 * noise());
            let n_levels = [2, 13, 37][seed as usize % 3];
            let mut tolerances = vec![0.0; n_levels];
            tolerances[1] = tolerance as f32;
            let Some(agreement) = Agreement::new(bound, tolerances, bound * bound) else {
                assert!(bound < 16.0 * tolerance, "no step for {bound} and {tolerance}");
                continue;
            };
            assert!(tolerance < agreement.step / 4.0);
            let forecast: Vec<f32> = (0..2000).map(|_| (noise() * 30.0) as f32).collect();
            let mut sides = vec![];
            let agreed: Vec<f32> = agreement.agree(&forecast, 1, 7, &mut sides);
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
                // An ulp of f32 besides.
                assert!(f64::from((a - f).abs()) <= 0.5 * agreement.step + 4e-6);
            }
        }
    }

    #[test]
    fn a_list_that_costs_too_much_is_refused() {
        assert_eq!(Agreement::new(1.0, vec![0.0; 3], 1.0), Some(Agreement::EXACT));
        assert!(Agreement::new(1.0, vec![0.2], 1.0).is_none());
        // The looser the agreement, the coarser the steps.
        let steps = [1e-6, 1e-4, 1e-3, 1e-2].map(|t| Agreement::new(1.0, vec![t], 4.0).unwrap().step);
        assert!(steps.is_sorted() && steps[0] < 0.2 && steps[3] > 0.4, "{steps:?}");
    }

    #[test]
    fn lists_come_back() {
        for every in [1u32, 2, 7, 100, 30_000] {
            let sides: Sides = (0..100_000 / every).map(|i| (i * every + (i * i) % every, i % 3 == 0)).collect();
            let mut out = vec![];
            write_sides(&sides, &mut out);
            assert_eq!(read_sides(&mut Reader::new(&out), 100_000).unwrap(), sides);
            // Near the entropy of such a list.
            let share = 1.0 / f64::from(every);
            let entropy = if every == 1 { 0.0 } else { -share.log2() + 1.45 };
            assert!(out.len() as f64 * 8.0 < sides.len() as f64 * (entropy + 2.2) + 80.0, "{every}: {}", out.len());
            for cut in 0..out.len().min(40) {
                assert!(read_sides(&mut Reader::new(&out[..cut]), 100_000).is_err());
            }
            assert!(read_sides(&mut Reader::new(&out), sides.last().map_or(0, |s| s.0 as usize)).is_err());
        }
    }
}
