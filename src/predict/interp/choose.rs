//! Fits the interpolation to a tile: axes, formula and direction per level, in closed loop on samples.
//!
//! Bins are never narrowed: what samples say of that does not hold for whole tiles, whose sizes it made larger.

use super::lattice;
use super::{Interp, Level, Order, cpu};
use crate::awake;
use crate::predict::choose::{CodeCost, Sample};
use crate::quantize::Quantizer;
use crate::quantize::cpu::Kernels;
use crate::scratch::Buffer;

/// The best interpolation for the samples, with its cost in 1/1024 bits over all of them.
pub fn choose<T: Kernels>(samples: &[Sample<T>], shape: &[usize], base: T, q: &Quantizer<T>) -> (Interp, u64) {
    // The set of axes first, with the same formula everywhere.
    let sets = active_sets(shape);
    let active = if sets.len() == 1 {
        sets[0]
    } else {
        let plans: Vec<_> =
            sets.into_iter().map(|active| Interp::uniform(&samples[0].shape, active, false, DEFAULT)).collect();
        let costs = by_sample(&plans, samples, true, |plan, s, _| (cost_of(plan, s, base, q), ()));
        let costs: Vec<_> = costs.into_iter().zip(&plans).map(|((cost, _), plan)| (cost, plan.active)).collect();
        costs.into_iter().min_by_key(|c| c.0).map_or(0, |c| c.1)
    };
    let (mut best, cost) = choose_levels(samples, active, base, q);
    // The tile may have more levels than the samples: the coarsest choice serves for them.
    let coarsest = best.levels.first().copied().unwrap_or(DEFAULT);
    while best.levels.len() < lattice::level_count(shape, best.active) {
        best.levels.insert(0, coarsest);
    }
    (best, cost)
}

/// Levels whose choices are tasks.
const PARALLEL_LEVELS: usize = 5;

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

/// A sample with the lattice that is known of it.
type Known<T> = Vec<Buffer<T>>;

/// Chooses level by level, coarse to fine, each on the decoded values of those before.
fn choose_levels<T: Kernels>(samples: &[Sample<T>], active: u8, base: T, q: &Quantizer<T>) -> (Interp, u64) {
    let shape = &samples[0].shape;
    let mut plan = Interp::uniform(shape, active, false, DEFAULT);
    let permutations = permutations(shape.len(), active);
    let first = permutations.first().copied().unwrap_or(0);
    let mut known: Known<T> = samples.iter().map(|s| anchors(&plan, s, base, q)).collect();
    let mut total = 0;
    let n_levels = plan.levels.len();
    for level in (1..=n_levels).rev() {
        let best_of = |choices: &[Level]| {
            let plans: Vec<Interp> = choices.iter().map(|&choice| plan.with_level(level, choice)).collect();
            let encode = |plan: &Interp, s: &Sample<T>, i: usize| {
                let mut cost = CodeCost::default();
                let next = encode_level(plan, s, level, &known[i], q, &mut cost);
                (cost, next)
            };
            // Coarser levels are done before another thread has them.
            let tried = by_sample(&plans, samples, level <= PARALLEL_LEVELS, encode);
            tried.into_iter().zip(choices).map(|((cost, next), &choice)| (choice, cost, next)).min_by_key(|c| c.1)
        };
        // The formula first, then the axes; of equal ones the first.
        let orders = [Order::Cubic, Order::Linear, Order::Natural];
        let Some(mut best) = best_of(&orders.map(|order| Level { order, permutation: first })) else { break };
        let order = best.0.order;
        // Coarser levels hardly count.
        let others = if level <= 2 { &permutations[1..] } else { &[] };
        let others: Vec<_> = others.iter().map(|&permutation| Level { order, permutation }).collect();
        if let Some(other) = best_of(&others)
            && other.1 < best.1
        {
            best = other;
        }
        plan.levels[n_levels - level] = best.0;
        total += best.1;
        known = best.2;
    }
    (plan, total)
}

fn anchors<T: Kernels>(plan: &Interp, sample: &Sample<T>, base: T, q: &Quantizer<T>) -> Buffer<T> {
    let n = lattice::anchor_count(&sample.shape, plan.active);
    let mut decoded = Buffer::new(n);
    cpu::encode_anchors(plan, &sample.values, &sample.shape, base, q, &mut vec![0; n], &mut decoded, &mut Vec::new());
    decoded
}

/// Adds the cost of a level; returns the lattice after it, or nothing useful for the finest level.
fn encode_level<T: Kernels>(
    plan: &Interp,
    sample: &Sample<T>,
    level: usize,
    known: &Buffer<T>,
    q: &Quantizer<T>,
    cost: &mut CodeCost,
) -> Buffer<T> {
    let q = q.narrowed(plan.narrowing(level));
    let passes = lattice::level_passes(plan, &sample.shape, level);
    let mut lattice: Option<Buffer<T>> = None;
    for (i, pass) in passes.iter().enumerate() {
        let known = lattice.as_deref().unwrap_or(known);
        let mut codes = Buffer::new(pass.n_codes());
        let mut misses = Vec::new();
        let is_last = level == 1 && i + 1 == passes.len();
        let mut next = Buffer::new(if is_last { 0 } else { pass.n_after() });
        cpu::encode_pass(pass, known, &sample.values, &q, &mut codes, &mut next, &mut misses);
        cost.add::<T>(&codes, misses.len());
        lattice = Some(next);
    }
    lattice.unwrap_or_else(|| known.clone())
}

fn cost_of<T: Kernels>(plan: &Interp, sample: &Sample<T>, base: T, q: &Quantizer<T>) -> CodeCost {
    let mut known = anchors(plan, sample, base, q);
    let mut cost = CodeCost::default();
    for level in (1..=plan.levels.len()).rev() {
        known = encode_level(plan, sample, level, &known, q, &mut cost);
    }
    cost
}

/// `f(plan, sample, its index)` for all pairs, each a task if `parallel`; by plan the cost over all samples, and what each gave.
fn by_sample<T: Kernels, R: Send>(
    plans: &[Interp],
    samples: &[Sample<T>],
    parallel: bool,
    f: impl Fn(&Interp, &Sample<T>, usize) -> (CodeCost, R) + Sync,
) -> Vec<(u64, Vec<R>)> {
    // Sample after sample: a thread has the same one each time, and another as much work.
    let n = plans.len();
    let run = |i: usize| f(&plans[i % n], &samples[i / n], i / n);
    let pairs = (0..n * samples.len()).collect();
    let results = awake::map(pairs, if parallel { usize::MAX } else { 1 }, run);
    let mut of_plans: Vec<(CodeCost, Vec<R>)> = plans.iter().map(|_| Default::default()).collect();
    for (i, (cost, result)) in results.into_iter().enumerate() {
        let (sum, of_samples) = &mut of_plans[i % n];
        sum.add_all(&cost);
        of_samples.push(result);
    }
    of_plans.into_iter().map(|(cost, of_samples)| (cost.total(), of_samples)).collect()
}
