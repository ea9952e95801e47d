//! From values to coded intervals.

use super::tile::{Parts, shape_of};
use super::{Forecast, Forecasts, Past, agreement, is_given, of_step};
use crate::bound::{Resolved, Stats};
use crate::compress::{Done, Progress, Tile, bins, compress_tile, mark, plan_of, statistics};
use crate::config::{Config, Effort};
use crate::container::limits;
use crate::error::{Context, Error, Result};
use crate::field::Values;
use crate::forecast::agreement::{Agreement, Digest, Sides};
use crate::forecast::group::{Group, Role};
use crate::forecast::names::Key;
use crate::io::Source;
use crate::plan::{Beside, Plan, Treatment};
use crate::predict;
use crate::predict::fitted::encode::{Encoding, Known};
use crate::predict::fitted::learn::Budget;
use crate::predict::fitted::{self, Layout, Rows};
use crate::quantize::Quantizer;
use crate::quantize::outlier::Outliers;
use crate::quantize::special::Found;
use crate::tile::{Tiling, region_len};
use std::collections::BTreeMap;
use std::ops::Range;

/// Values of an interval of all members together, at most: with codes and copies some eight times as many bytes are in memory.
const MAX_INTERVAL_VALUES: u64 = 1 << 28;

/// Compresses the variables that the model needs or gives, in intervals of at most `keyframe` steps. Gives plans and tiles by variable.
///
/// # Errors
/// `Input` that lists what was found and what is needed, if variables, grid or times are not those of the model; else as
/// [`crate::compress_source`].
pub fn compress(
    source: &mut dyn Source,
    config: &Config,
    forecasts: &Forecasts,
    keyframe: u64,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<BTreeMap<usize, Done>> {
    let schema = source.schema().clone();
    let needs = forecasts.model.needs();
    let mut read_all = |i: usize| {
        let region: Vec<Range<u64>> = schema.variables[i].shape.iter().map(|&n| 0..n).collect();
        source.read(i, &region)
    };
    let group = Group::find(&schema, needs, &mut read_all)?;
    let n_steps = group.times.len();
    // 1. Intervals: as many steps as fit.
    let per_step = |m: usize| schema.variables[group.members[m].variable].shape[1..].iter().product::<u64>().max(1);
    let largest = (0..group.members.len()).map(per_step).max().unwrap_or(1);
    let all: u64 = (0..group.members.len()).map(per_step).sum::<u64>().max(1);
    let len = keyframe.min(limits::MAX_TILE_VALUES / largest).min(MAX_INTERVAL_VALUES / all).min(n_steps as u64).max(1);
    let is_forecast = |t: usize| group.history(needs, t - t % len as usize, t).is_some();
    if !(0..n_steps).any(is_forecast) {
        return Err(unusable(&group, needs.history, needs.step_s, len));
    }
    let beside = |role: &Role| {
        let levels = role.iter().map(|k| k.as_ref().map(|k| (k.name.clone(), k.level_hpa))).collect();
        Some(Beside { model: forecasts.name.clone(), digest: forecasts.digest.to_vec(), levels })
    };
    // 2. Static fields, whole; the model sees what a decoder will.
    let mut done = BTreeMap::new();
    let mut statics: Vec<(Key, Vec<f32>)> = vec![];
    for (variable, key) in &group.statics {
        let v = &schema.variables[*variable];
        let place = || format!("variable {:?}", v.name());
        let tiling =
            Tiling { shape: v.shape.clone(), axis: 0, len: v.shape.first().copied().unwrap_or(1), steps: None };
        let mut plan = plan_of(source, *variable, tiling, config).context(place)?;
        plan.forecast = beside(&vec![Some(key.clone())]);
        let region = plan.tiling.region(0);
        let values = source.read(*variable, &region).context(place)?;
        let coded = compressed(&values, &region, &plan.treatment, config).context(place)?;
        let decoded = crate::decompress::decompress_tile(&coded, v.dtype, &plan.treatment, &region)?;
        statics.push((key.clone(), of_step(&decoded, fill_of(&plan.treatment), 0, decoded.len())));
        progress(Progress { variable: v.name(), bytes: region_len(&region) * v.dtype.size() as u64 });
        done.insert(*variable, Done { plan, tiles: vec![coded] });
    }
    // 3. Intervals of all members.
    let mut plans = vec![];
    for member in &group.members {
        let v = &schema.variables[member.variable];
        let tiling = Tiling { shape: v.shape.clone(), axis: 0, len, steps: None };
        let mut plan =
            plan_of(source, member.variable, tiling, config).context(|| format!("variable {:?}", v.name()))?;
        plan.forecast = beside(&member.keys);
        plans.push(plan);
    }
    let mut tiles: Vec<Vec<Vec<u8>>> = vec![vec![]; plans.len()];
    for interval in 0..n_steps as u64 / len + u64::from(!(n_steps as u64).is_multiple_of(len)) {
        let mut values = vec![];
        for plan in &plans {
            values.push(source.read(plan.variable as usize, &plan.tiling.region(interval))?);
        }
        let work = Interval { forecasts, group: &group, statics: &statics, plans: &plans, interval, config };
        for (m, coded) in work.compress(&values).context(|| format!("interval {interval}"))?.into_iter().enumerate() {
            tiles[m].push(coded);
            let (name, bytes) =
                (schema.variables[plans[m].variable as usize].name(), values[m].as_bytes().len() as u64);
            progress(Progress { variable: name, bytes });
        }
    }
    for (plan, tiles) in plans.into_iter().zip(tiles) {
        done.insert(plan.variable as usize, Done { plan, tiles });
    }
    Ok(done)
}

fn unusable(group: &Group, history: usize, step_s: i64, len: u64) -> Error {
    let mut gaps: Vec<i64> = group.times.windows(2).map(|w| w[1] - w[0]).collect();
    gaps.sort_unstable();
    gaps.dedup();
    let shown: Vec<String> = gaps.iter().take(5).map(|g| format!("{g}")).collect();
    Error::input(format!(
        "no step can be forecast: the model looks back on {history} steps {step_s} s apart; found {} steps, {} s apart, in intervals of {len}",
        group.times.len(),
        if shown.is_empty() { "0".to_string() } else { shown.join(", ") },
    ))
}

fn fill_of(treatment: &Treatment) -> Option<u64> {
    match treatment {
        Treatment::Lossy { fill, .. } => *fill,
        Treatment::Exact => None,
    }
}

fn compressed(values: &Values, region: &[Range<u64>], treatment: &Treatment, config: &Config) -> Result<Vec<u8>> {
    match values {
        Values::F32(v) => compress_tile(v, region, treatment, config),
        Values::F64(v) => compress_tile(v, region, treatment, config),
        _ => Err(Error::input("values are no floating-point numbers")),
    }
}

/// One interval of all members.
struct Interval<'a> {
    forecasts: &'a Forecasts,
    group: &'a Group,
    statics: &'a [(Key, Vec<f32>)],
    plans: &'a [Plan],
    interval: u64,
    config: &'a Config,
}

impl Interval<'_> {
    fn compress(&self, values: &[Values]) -> Result<Vec<Vec<u8>>> {
        let regions: Vec<_> = self.plans.iter().map(|p| p.tiling.region(self.interval)).collect();
        let first = regions[0][0].start as usize;
        let n_steps = (regions[0][0].end - regions[0][0].start) as usize;
        let model = &*self.forecasts.model;
        // 1. Without forecasts, as other variables: no tile may be larger than that.
        let mut plain = vec![];
        for ((values, region), plan) in values.iter().zip(&regions).zip(self.plans) {
            plain.push(compressed(values, region, &plan.treatment, self.config)?);
        }
        // 2. Which can have forecasts, and what those will be like: as from values with noise within the bound.
        let has_history: Vec<bool> =
            (0..n_steps).map(|k| self.group.history(model.needs(), first, first + k).is_some()).collect();
        let mut candidates: Vec<Option<Box<dyn Candidate + '_>>> = vec![];
        for (m, (values, region)) in values.iter().zip(&regions).enumerate() {
            let keys = &self.group.members[m].keys;
            let given: Vec<bool> = keys.iter().map(|k| is_given(model.needs(), k)).collect();
            let has: Vec<bool> = has_history.iter().flat_map(|&h| given.iter().map(move |&g| h && g)).collect();
            candidates.push(self.candidate(m, values, region, &has)?);
        }
        let budget = match self.config.effort {
            Effort::Best => Budget { rounds: 1, ..Budget::BEST },
            _ => Budget::BALANCED,
        };
        let likely = self.likely(values, &candidates, first, n_steps, budget)?;
        for (m, slot) in candidates.iter_mut().enumerate() {
            let agreed = slot.as_mut().is_some_and(|c| c.agree(model, &likely, m));
            if !agreed {
                *slot = None;
            }
        }
        // 3. In a closed loop, until none is larger than without.
        let mut decoded_plain: Vec<Option<Values>> = vec![None; values.len()];
        loop {
            for (m, candidate) in candidates.iter().enumerate() {
                if candidate.is_none() && decoded_plain[m].is_none() {
                    let plan = &self.plans[m];
                    let dtype = values[m].dtype();
                    let decoded = crate::decompress::decompress_tile(&plain[m], dtype, &plan.treatment, &regions[m])?;
                    decoded_plain[m] = Some(decoded);
                }
            }
            if candidates.iter().all(Option::is_none) {
                return Ok(plain);
            }
            let coded = self.closed_loop(&candidates, &decoded_plain, &likely, first, n_steps, budget)?;
            let mut is_final = true;
            for (m, coded) in coded.iter().enumerate() {
                if coded.as_ref().is_some_and(|c| c.len() >= plain[m].len()) {
                    candidates[m] = None;
                    is_final = false;
                }
            }
            if is_final {
                return Ok(coded.into_iter().zip(plain).map(|(coded, plain)| coded.unwrap_or(plain)).collect());
            }
        }
    }

    fn candidate<'v>(
        &self,
        m: usize,
        values: &'v Values,
        region: &[Range<u64>],
        has_forecast: &[bool],
    ) -> Result<Option<Box<dyn Candidate + 'v>>> {
        let Treatment::Lossy { resolved: resolved @ Resolved::Absolute(bound), fill, .. } = self.plans[m].treatment
        else {
            return Ok(None);
        };
        let shape = shape_of(region)?;
        if !fitted::is_worthwhile(&shape) {
            return Ok(None);
        }
        Ok(match values {
            Values::F32(v) => {
                Ready::new(v, shape, fill.map(|b| f32::from_bits(b as u32)), bound, resolved, has_forecast)
                    .map(|r| Box::new(r) as Box<dyn Candidate>)
            }
            Values::F64(v) => Ready::new(v, shape, fill.map(f64::from_bits), bound, resolved, has_forecast)
                .map(|r| Box::new(r) as Box<dyn Candidate>),
            _ => None,
        })
    }

    /// Forecasts of the steps that trials go through, from values with noise as decoding will have.
    fn likely(
        &self,
        values: &[Values],
        candidates: &[Option<Box<dyn Candidate + '_>>],
        first: usize,
        n_steps: usize,
        budget: Budget,
    ) -> Result<BTreeMap<usize, Forecast>> {
        let model = &*self.forecasts.model;
        let mut wanted: Vec<usize> =
            candidates.iter().flatten().flat_map(|c| c.trial_steps(budget)).filter(|&k| k < n_steps).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut likely = BTreeMap::new();
        for k in wanted {
            let Some(history) = self.group.history(model.needs(), first, first + k) else { continue };
            let mut past = Past::new(model, self.group, first, self.statics);
            for step in history {
                let noisy = |m: usize| {
                    let n = values[m].len() / n_steps;
                    let fill = fill_of(&self.plans[m].treatment);
                    let mut frame = of_step(&values[m], fill, step - first, n);
                    if let Treatment::Lossy { resolved: Resolved::Absolute(bound), .. } = self.plans[m].treatment {
                        add_noise(&mut frame, bound, step);
                    }
                    frame
                };
                let members: Vec<Vec<f32>> = (0..values.len()).map(noisy).collect();
                past.see(step, &members)?;
            }
            if let Some(forecast) = past.forecast(first + k)? {
                likely.insert(k, forecast);
            }
        }
        Ok(likely)
    }

    /// Codes all candidates step by step beside forecasts made of what was decoded.
    fn closed_loop(
        &self,
        candidates: &[Option<Box<dyn Candidate + '_>>],
        decoded_plain: &[Option<Values>],
        likely: &BTreeMap<usize, Forecast>,
        first: usize,
        n_steps: usize,
        budget: Budget,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let mut runs: Vec<Option<Box<dyn Run + '_>>> = vec![];
        for (m, candidate) in candidates.iter().enumerate() {
            runs.push(candidate.as_ref().map(|c| c.start(budget, likely, m)));
        }
        let mut past = Past::new(&*self.forecasts.model, self.group, first, self.statics);
        for k in 0..n_steps {
            let forecast = past.forecast(first + k)?;
            let mut frame = vec![];
            for (m, run) in runs.iter_mut().enumerate() {
                frame.push(match (run, &decoded_plain[m]) {
                    (Some(run), _) => run.step(k, forecast.as_ref().map(|f| &f[m][..])),
                    (None, Some(plain)) => of_step(plain, fill_of(&self.plans[m].treatment), k, plain.len() / n_steps),
                    (None, None) => vec![],
                });
            }
            past.see(first + k, &frame)?;
        }
        runs.into_iter().map(|run| run.map(|run| run.finish(self.config)).transpose()).collect()
    }
}

/// Adds noise within `bound`, that of `seed`.
fn add_noise(values: &mut [f32], bound: f64, seed: usize) {
    let mut state = seed as u32 ^ 0x9e37_79b9;
    for v in values {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *v += ((f64::from(state >> 8) / f64::from(1 << 23) - 1.0) * bound) as f32;
    }
}

/// A member's tile that may be coded beside forecasts.
trait Candidate {
    /// Steps that a trial goes through.
    fn trial_steps(&self, budget: Budget) -> Vec<usize>;
    /// Fixes how forecasts are rounded; whether they can be of use at all.
    fn agree(&mut self, model: &dyn crate::forecast::Forecaster, likely: &BTreeMap<usize, Forecast>, m: usize) -> bool;
    /// Fits, and starts to code. `likely` forecasts are those of all members, this is member `m`.
    fn start<'a>(&'a self, budget: Budget, likely: &'a BTreeMap<usize, Forecast>, m: usize) -> Box<dyn Run + 'a>;
}

/// A member's tile at work.
trait Run {
    /// Codes a step; gives what is decoded, as the model takes it.
    fn step(&mut self, step: usize, forecast: Option<&[Option<Vec<f32>>]>) -> Vec<f32>;
    /// The coded tile.
    fn finish(self: Box<Self>, config: &Config) -> Result<Vec<u8>>;
}

struct Ready<'v, T: Rows> {
    values: &'v [T],
    fill: Option<T>,
    resolved: Resolved,
    bound: f64,
    found: Option<Found>,
    /// Values with NaN in marked places, if there are such.
    work: Option<Vec<T>>,
    marks: Option<Vec<bool>>,
    base: T,
    quantizer: Quantizer<T>,
    stats: Stats,
    layout: Layout,
    has_forecast: Vec<bool>,
    agreement: Agreement,
}

impl<'v, T: Rows> Ready<'v, T> {
    fn new(
        values: &'v [T],
        shape: [usize; 4],
        fill: Option<T>,
        bound: f64,
        resolved: Resolved,
        has_forecast: &[bool],
    ) -> Option<Self> {
        if !has_forecast.contains(&true) {
            return None;
        }
        let stats = statistics(values, fill);
        let found = if stats.n == values.len() as u64 {
            None
        } else {
            crate::quantize::special::Specials::find(values, fill, false)
        };
        let (base, quantizer) = bins::<T>(&stats, bound)?;
        let work = found.as_ref().map(|f| mark(values, &f.marks));
        let marks = found.as_ref().filter(|f| !f.specials.is_empty()).map(|f| f.specials.marks(values.len()));
        let layout = Layout::new(shape, has_forecast);
        let (has_forecast, agreement) = (has_forecast.to_vec(), Agreement::EXACT);
        Some(Self {
            values,
            fill,
            resolved,
            bound,
            found,
            work,
            marks,
            base,
            quantizer,
            stats,
            layout,
            has_forecast,
            agreement,
        })
    }
}

impl<T: Rows> Candidate for Ready<'_, T> {
    fn trial_steps(&self, budget: Budget) -> Vec<usize> {
        self.layout.trial_images(budget).iter().map(|i| i / self.layout.shape[1]).collect()
    }

    fn agree(&mut self, model: &dyn crate::forecast::Forecaster, likely: &BTreeMap<usize, Forecast>, m: usize) -> bool {
        let Some(first) = likely.values().next() else { return false };
        let levels: Vec<&[f32]> = first[m].iter().flatten().map(|v| &v[..]).collect();
        match agreement(model, self.bound, &levels) {
            Some(agreement) => self.agreement = agreement,
            None => return false,
        }
        true
    }

    fn start<'a>(&'a self, budget: Budget, likely: &'a BTreeMap<usize, Forecast>, m: usize) -> Box<dyn Run + 'a> {
        let [_, levels, ny, nx] = self.layout.shape;
        let values = self.work.as_deref().unwrap_or(self.values);
        let wrap = predict::choose::is_circle(values, &self.layout.shape);
        let (marks, base, quantizer) = (self.marks.as_deref(), self.base, self.quantizer);
        let known = Known { values, marks, base, quantizer, wrap };
        let of_image = |image: usize| -> Vec<T> {
            let forecast = likely.get(&(image / levels)).and_then(|f| f[m][image % levels].as_ref());
            match forecast {
                Some(f) => self.agreement.agree(f, 0, &mut vec![]),
                None => vec![T::default(); ny * nx],
            }
        };
        let encoding = Encoding::new(&self.layout, known, budget, &of_image);
        Box::new(Running { ready: self, encoding, sides: vec![], digests: vec![], decoded: vec![] })
    }
}

struct Running<'a, T: Rows> {
    ready: &'a Ready<'a, T>,
    encoding: Encoding<'a, T>,
    sides: Sides,
    digests: Vec<u32>,
    decoded: Vec<T>,
}

impl<T: Rows> Run for Running<'_, T> {
    fn step(&mut self, step: usize, forecast: Option<&[Option<Vec<f32>>]>) -> Vec<f32> {
        let [_, levels, ny, nx] = self.ready.layout.shape;
        let mut agreed: Vec<Option<Vec<T>>> = vec![];
        let mut digest = Digest::default();
        for level in 0..levels {
            let image = step * levels + level;
            let forecast = forecast.and_then(|f| f[level].as_ref()).filter(|_| self.ready.has_forecast[image]);
            agreed.push(forecast.map(|f| {
                let values = self.ready.agreement.agree(f, image * ny * nx, &mut self.sides);
                digest.add(&values);
                values
            }));
        }
        if agreed.iter().any(Option::is_some) {
            self.digests.push(digest.finish());
        }
        let values = self.encoding.step(&agreed);
        let seen = values.iter().map(|v| v.to_f64() as f32).collect();
        self.decoded.extend(values);
        seen
    }

    fn finish(self: Box<Self>, config: &Config) -> Result<Vec<u8>> {
        let Self { ready, encoding, sides, digests, mut decoded } = *self;
        let coded = encoding.finish();
        let shape = ready.layout.shape.to_vec();
        let tile = Tile { values: ready.values, shape, fill: ready.fill, config };
        let mut outliers = coded.outliers;
        if let Some(found) = &ready.found {
            found.specials.apply(&mut decoded);
            found.outliers.apply(&mut decoded);
        }
        let near_fill = ready
            .fill
            .is_some_and(|f| (ready.stats.min - ready.bound..=ready.stats.max + ready.bound).contains(&f.to_f64()));
        if config.verify || near_fill {
            tile.keep_off_fill(&decoded, &mut outliers);
            tile.check(decoded, &outliers, &ready.resolved)?;
        }
        let outliers = Outliers::merged(&outliers, ready.found.as_ref().map(|f| &f.outliers));
        let specials = ready.found.as_ref().map(|f| f.specials.clone()).unwrap_or_default();
        let parts = Parts {
            base: ready.base,
            step: ready.quantizer.step,
            specials,
            outliers,
            agreement: ready.agreement,
            has_forecast: ready.has_forecast.clone(),
            digests,
            sides,
            plan: coded.plan,
            codes: &coded.bytes,
        };
        Ok(parts.write())
    }
}
