//! Values that were packed once: they lie on a lattice `offset + k · step` of integers `k`, as those of GRIB messages and of CF's
//! `scale_factor` do. Whoever chooses a bound should know the step: what lies between two points of the lattice is rounding only.

use crate::field::Values;

/// Different values needed, so that none are taken for a lattice by accident.
const MIN_DISTINCT: usize = 64;
/// A step of fewer units in the last place can not be told from the rounding of the numbers themselves.
const MIN_STEP_ULP: f64 = 6.0;
/// Values looked at.
const MAX_VALUES: usize = 1 << 16;

/// The step of the lattice on which the values (f32 or f64) lie, if they do; NaN, infinities and those with the bits `fill` aside.
///
/// The candidate is an approximate greatest common divisor of the gaps between neighbouring values, made exact by least squares over
/// ever longer distances; it counts if (nearly) all values lie within one unit in the last place of it.
pub fn step(values: &Values, fill: Option<u64>) -> Option<f64> {
    let (mut sorted, digits) = match values {
        Values::F32(v) => {
            let kept = v.iter().filter(|x| Some(u64::from(x.to_bits())) != fill && x.is_finite());
            (kept.take(MAX_VALUES).map(|&x| f64::from(x)).collect::<Vec<_>>(), 23)
        }
        Values::F64(v) => {
            let kept = v.iter().filter(|x| Some(x.to_bits()) != fill && x.is_finite());
            (kept.take(MAX_VALUES).copied().collect(), 52)
        }
        _ => return None,
    };
    sorted.sort_by(f64::total_cmp);
    sorted.dedup();
    if sorted.len() < MIN_DISTINCT {
        return None;
    }
    let largest = sorted[0].abs().max(sorted[sorted.len() - 1].abs());
    // Packed numbers of 32 bits and more are rounded when they are made, numbers of f64 often in f32 first.
    [digits, 23].into_iter().find_map(|digits| {
        let ulp = (largest.log2().floor() - f64::from(digits)).exp2();
        step_within(&sorted, ulp)
    })
}

fn step_within(sorted: &[f64], ulp: f64) -> Option<f64> {
    let mut gaps: Vec<f64> = sorted.windows(2).map(|w| w[1] - w[0]).filter(|&d| d > ulp).collect();
    gaps.sort_by(f64::total_cmp);
    let mut step = *gaps.first()?;
    gaps.retain(|&d| d <= 32.0 * step);
    // A remainder is a multiple of the step too, and smaller.
    const MAX_ROUNDS: usize = 8;
    for _ in 0..MAX_ROUNDS {
        let remainder = |&d: &f64| (d - (d / step).round() * step).abs();
        let significant = |&(d, r): &(f64, f64)| r > ulp * (1.5 + d / step);
        match gaps.iter().map(|d| (*d, remainder(d))).find(significant) {
            Some((_, r)) => step = r,
            None => break,
        }
    }
    if step < MIN_STEP_ULP * ulp {
        return None;
    }
    // Least squares over distances within reach of a step that is not exact yet.
    let fitted = |step: f64, distances: &mut dyn Iterator<Item = f64>| {
        let (products, squares) = distances.fold((0.0, 0.0), |(p, s), d| {
            let k = (d / step).round();
            (p + k * d, s + k * k)
        });
        if squares > 0.0 { products / squares } else { step }
    };
    // The smallest gap is a rounding error too small; gaps have errors of their own, which level out.
    for reach in [4.0, 8.0, 16.0, 32.0] {
        step = fitted(step, &mut gaps.iter().copied().take_while(|d| *d <= reach * step));
    }
    let first = sorted[0];
    let mut reach = 32.0;
    while reach * step <= 2.0 * (sorted[sorted.len() - 1] - first) {
        step = fitted(step, &mut sorted.iter().map(|v| v - first).take_while(|d| *d <= reach * step));
        reach *= 2.0;
    }
    let on_lattice = |v: &&f64| {
        let d = **v - first;
        (d - (d / step).round() * step).abs() <= 1.01 * ulp
    };
    let n = sorted.iter().filter(on_lattice).count();
    (n as f64 >= 0.999 * sorted.len() as f64 && step >= MIN_STEP_ULP * ulp).then_some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(step: f64, offset: f64, n: u64) -> Vec<f64> {
        (0..n).map(|i| offset + step * ((i * i * 7919) % 40_000) as f64).collect()
    }

    #[test]
    fn steps_of_packed_values_are_found() {
        for (step_is, offset) in [(0.001_537, 210.0), (0.125, 95_000.0), (3.7e-7, 0.0), (2.0, -1e4), (1e-3, 273.15)] {
            let numbers = packed(step_is, offset, 5000);
            let f32s = Values::F32(numbers.iter().map(|&x| x as f32).collect());
            for values in [f32s, Values::F64(numbers)] {
                let found = step(&values, None).unwrap_or_else(|| panic!("{step_is} {offset} {}", values.dtype()));
                assert!((found / step_is - 1.0).abs() < 1e-4, "{step_is}: {found}");
            }
        }
    }

    #[test]
    fn other_values_have_none() {
        let smooth: Vec<f32> = (0..5000).map(|i| 280.0 + 10.0 * (i as f32 * 0.0137).sin()).collect();
        assert_eq!(step(&Values::F32(smooth), None), None);
        let wide: Vec<f64> = (0..5000).map(|i| (f64::from(i) * 0.0137).sin().exp()).collect();
        assert_eq!(step(&Values::F64(wide), None), None);
        assert_eq!(step(&Values::F32(vec![1.0; 5000]), None), None);
        assert_eq!(step(&Values::F32(vec![f32::NAN; 5000]), None), None);
    }
}
