//! Fits the interpolation to a tile: axes, formula and direction per level, in closed loop on samples.

use super::lattice::{self, MAX_AXES};
use super::{Interp, Level, Order, cpu};
use crate::predict::choose::{CodeCost, Sample};
use crate::quantize::Quantizer;
use crate::quantize::cpu::Kernels;

/// Narrower bins on coarse levels, in sixteenths, that are tried.
const NARROWINGS: [(u8, u8); 3] = [(16, 16), (20, 32), (24, 64)];

/// The best interpolation for the samples, with its cost in 1/1024 bits over all of them.
pub fn choose<T: Kernels>(samples: &[Sample<T>], shape: &[usize], base: T, q: &Quantizer<T>) -> (Interp, u64) {
    let candidates = active_sets(shape).into_iter().map(|active| choose_levels(samples, active, base, q));
    let Some((mut best, mut best_cost)) = candidates.min_by_key(|c| c.1) else {
        return (Interp::uniform(shape, 0, false, DEFAULT), 0);
    };
    for (alpha, beta) in NARROWINGS.into_iter().skip(1) {
        let plan = Interp { alpha_sixteenths: alpha, beta_sixteenths: beta, ..best.clone() };
        let cost = cost_of(&plan, samples, base, q);
        if cost < best_cost {
            (best, best_cost) = (plan, cost);
        }
    }
    // The tile may have more levels than the samples: the coarsest choice serves for them.
    let coarsest = best.levels.first().copied().unwrap_or(DEFAULT);
    while best.levels.len() < lattice::level_count(shape, best.active) {
        best.levels.insert(0, coarsest);
    }
    (best, best_cost)
}

const DEFAULT: Level = Level { order: Order::Cubic, permutation: 0 };

/// Sets of axes worth trying: all, and the last two or three (slices that have little to do with each other).
fn active_sets(shape: &[usize]) -> Vec<u8> {
    let n = shape.len();
    let last = |k: usize| ((1u16 << n) - (1u16 << (n - k))) as u8;
    let mut sets = vec![last(n)];
    sets.extend((2..n).filter(|&k| k < 4).map(last));
    sets
}

/// Orders of axes worth trying: each axis last, as the last one predicts most of the values.
fn permutations(n: usize, active: u8) -> Vec<u8> {
    let orders = (0..n).rev().filter(|k| active >> k & 1 == 1).map(|last| {
        let order: Vec<usize> = (0..n).filter(|&k| k != last).chain([last]).collect();
        lattice::permutation_index(&order)
    });
    // Six bits in the archive; what does not fit (some of five axes) is not tried.
    orders.filter(|&i| i < 64).map(|i| i as u8).collect()
}

/// Chooses level by level, coarse to fine, each on the decoded values of those before.
fn choose_levels<T: Kernels>(samples: &[Sample<T>], active: u8, base: T, q: &Quantizer<T>) -> (Interp, u64) {
    let shape = &samples[0].shape;
    let mut plan = Interp::uniform(shape, active, false, DEFAULT);
    let permutations = permutations(shape.len(), active);
    let mut lattices: Vec<Vec<T>> = samples
        .iter()
        .map(|s| {
            let mut codes = vec![0; lattice::anchor_count(shape, active)];
            cpu::encode_anchors(&plan, &s.values, shape, base, q, &mut codes, &mut Vec::new())
        })
        .collect();
    let mut total = 0;
    let n_levels = plan.levels.len();
    for level in (1..=n_levels).rev() {
        let mut run = |choice: Level| {
            plan.levels[n_levels - level] = choice;
            let mut cost = CodeCost::default();
            let next: Vec<Vec<T>> = samples
                .iter()
                .zip(&lattices)
                .map(|(s, known)| encode_level(&plan, s, level, known, q, &mut cost))
                .collect();
            (choice, cost.total(), next)
        };
        let first = permutations.first().copied().unwrap_or(0);
        let mut best = run(Level { order: Order::Cubic, permutation: first });
        let mut attempt = |choice: Level, best: &mut (Level, u64, Vec<Vec<T>>)| {
            let result = run(choice);
            if result.1 < best.1 {
                *best = result;
            }
        };
        for order in [Order::Linear, Order::Natural] {
            attempt(Level { order, permutation: first }, &mut best);
        }
        let order = best.0.order;
        for &permutation in &permutations[1..] {
            attempt(Level { order, permutation }, &mut best);
        }
        plan.levels[n_levels - level] = best.0;
        total += best.1;
        lattices = best.2;
    }
    (plan, total)
}

fn encode_level<T: Kernels>(
    plan: &Interp,
    sample: &Sample<T>,
    level: usize,
    known: &[T],
    q: &Quantizer<T>,
    cost: &mut CodeCost,
) -> Vec<T> {
    let q = q.narrowed(plan.narrowing(level));
    let mut lattice: Option<Vec<T>> = None;
    for pass in lattice::level_passes(plan, &sample.shape, level) {
        let known = lattice.as_deref().unwrap_or(known);
        let mut codes = vec![0; pass.n_codes()];
        let mut misses = Vec::new();
        let decoded = cpu::encode_pass(&pass, known, &sample.values, &q, &mut codes, &mut misses);
        cost.add::<T>(&codes, misses.len());
        lattice = Some(cpu::merge(&pass, known, &decoded));
    }
    lattice.unwrap_or_else(|| known.to_vec())
}

fn cost_of<T: Kernels>(plan: &Interp, samples: &[Sample<T>], base: T, q: &Quantizer<T>) -> u64 {
    let mut costs: [CodeCost; 2 * MAX_AXES + 24] = std::array::from_fn(|_| CodeCost::default());
    for s in samples {
        let mut codes = vec![0; lattice::anchor_count(&s.shape, plan.active)];
        let mut known = cpu::encode_anchors(plan, &s.values, &s.shape, base, q, &mut codes, &mut Vec::new());
        for level in (1..=plan.levels.len()).rev() {
            known = encode_level(plan, s, level, &known, q, &mut costs[level.min(24)]);
        }
    }
    costs.iter().map(CodeCost::total).sum()
}
