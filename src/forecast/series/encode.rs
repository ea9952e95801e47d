//! From values to coded intervals.

use super::bare;
use super::latents::Encoder;
use super::tile::{Parts, shape_of};
use super::{Forecast, Forecasts, Past, is_given, of_step, spread};
use crate::bound::{Resolved, Stats};
use crate::compress::{Done, Progress, Tile, bins, compress_tile, mark, plan_of, statistics, tiling_of};
use crate::config::{Config, Effort, PredictorChoice};
use crate::container::limits;
use crate::error::{Context, Error, Result};
use crate::field::Values;
use crate::forecast::Model;
use crate::forecast::agreement::{Agreement, Digest, Sides};
use crate::forecast::group::{Group, Role};
use crate::forecast::names::Key;
use crate::io::{Schema, Source};
use crate::plan::{Beside, Plan, Treatment};
use crate::predict;
use crate::predict::fitted::encode::{Encoding, Known};
use crate::predict::fitted::learn::Budget;
use crate::predict::fitted::{self, Layout, Rows};
use crate::quantize::Quantizer;
use crate::quantize::outlier::Outliers;
use crate::quantize::special::Found;
use crate::spool::Spool;
use crate::stages::{Stage, time};
use crate::tile::{Tiling, region_len};
use std::collections::BTreeMap;
use std::ops::Range;

/// Values of a tile of all members together, at most, unless one step has more.
pub(super) const MAX_VALUES: u64 = 1 << 26;

/// Steps of an interval at least, unless the caller says otherwise: tiles may be of a single step where fields are large.
const MIN_INTERVAL: u64 = 32;

/// Compresses the variables that the model needs or gives. Gives plans and tiles by variable; nothing if the archive would not become smaller.
///
/// An interval has at most `keyframe` steps; if that is `None`, those of a tile as they would be without forecasts, and at least 32.
///
/// # Errors
/// `Input` that lists what was found and what is needed, if variables, grid or times are not those of the model; else as
/// [`crate::compress_source`].
pub fn compress(
    source: &mut dyn Source,
    config: &Config,
    forecasts: &Forecasts,
    keyframe: Option<u64>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<BTreeMap<usize, Done>> {
    let schema = source.schema().clone();
    let needs = forecasts.model.needs();
    let mut read_all = |i: usize| {
        let region: Vec<Range<u64>> = schema.variables[i].shape.iter().map(|&n| 0..n).collect();
        source.read(i, &region)
    };
    let group = Group::find(&schema, needs, &mut read_all)?;
    let looks_back = matches!(forecasts.model, Model::Forecaster(_));
    if looks_back && !group.has_dates && !forecasts.digest.is_empty() {
        return Err(Error::unsupported("times are of a calendar of their own: models know the Gregorian one"));
    }
    let n_steps = group.times.len();
    // 1. Tiles and intervals.
    let (len, interval) = lengths(&schema, &group, config, keyframe, looks_back)?;
    let is_forecast = |t: usize| group.history(needs, t - t % interval as usize, t).is_some();
    if looks_back && !(0..n_steps).any(is_forecast) {
        return Err(unusable(&group, needs.history, needs.step_s, interval));
    }
    let beside = |role: &Role, interval: u64| {
        let levels = role.iter().map(|k| k.as_ref().map(|k| (k.name.clone(), k.level_hpa))).collect();
        let (model, digest) = (forecasts.name.clone(), forecasts.digest.clone());
        let made_on = (forecasts.model.tolerance() > 0.0).then(|| forecasts.made_on.clone());
        Some(Beside { model, digest, levels, interval, made_on })
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
        plan.forecast = beside(&vec![Some(key.clone())], plan.tiling.len);
        let region = plan.tiling.region(0);
        let values = source.read(*variable, &region).context(place)?;
        let coded = compressed(&values, &region, &plan.treatment, config).context(place)?;
        let decoded = crate::decompress::decompress_tile(&coded, v.dtype, &plan.treatment, &region)?;
        statics.push((key.clone(), of_step(&decoded, fill_of(&plan.treatment), 0, decoded.len())));
        progress(Progress { variable: v.name(), bytes: region_len(&region) * v.dtype.size() as u64 });
        let mut tiles = Spool::default();
        tiles.push(&coded)?;
        done.insert(*variable, Done { plan, tiles });
    }
    // 3. All members, tile by tile.
    let mut plans = vec![];
    for member in &group.members {
        let v = &schema.variables[member.variable];
        let tiling = Tiling { shape: v.shape.clone(), axis: 0, len, steps: None };
        let mut plan =
            plan_of(source, member.variable, tiling, config).context(|| format!("variable {:?}", v.name()))?;
        plan.forecast = beside(&member.keys, interval);
        plans.push(plan);
    }
    let mut tiles: Vec<Spool> = plans.iter().map(|_| Spool::default()).collect();
    // The same tiles without forecasts.
    let mut plain: Vec<Spool> = plans.iter().map(|_| Spool::default()).collect();
    let mut past = Past::new(&forecasts.model, &group, 0, &statics);
    let mut latents = match &forecasts.model {
        Model::Forecaster(_) => None,
        Model::FieldCodec(codec) => {
            let fills = group.members.iter().map(|m| schema.fill_bits(m.variable)).collect();
            Some(Encoder::new(&**codec, &group, &statics, fills)?)
        }
    };
    for t in 0..(n_steps as u64).div_ceil(len) {
        let start = (t * len) as usize;
        if (start as u64).is_multiple_of(interval) {
            past = Past::new(&forecasts.model, &group, start, &statics);
        }
        let mut values = vec![];
        for plan in &plans {
            values.push(source.read(plan.variable as usize, &plan.tiling.region(t))?);
        }
        if let Some(latents) = &mut latents {
            past.latents = latents.tile(&values, start, (len as usize).min(n_steps - start))?;
        }
        let work = Work { group: &group, plans: &plans, tile: t, config };
        let mut coded = work.compress(&values, &mut past).context(|| format!("tile {t}"))?;
        if latents.is_some() {
            past.latents.put_into(&mut coded);
        }
        for (m, (beside, without)) in coded.into_iter().enumerate() {
            tiles[m].push(beside.as_ref().or(without.as_ref()).map_or(&[], |c| &c[..]))?;
            plain[m].push(without.as_deref().unwrap_or_default())?;
            let name = schema.variables[plans[m].variable as usize].name();
            progress(Progress { variable: name, bytes: values[m].as_bytes().len() as u64 });
        }
    }
    latents.map_or(Ok(()), Encoder::finish)?;
    // 4. Is all that smaller than without? What is said of forecasts in the plans counts too.
    if config.predictor != PredictorChoice::Forecast {
        let plan_bytes = |plan: &Plan| minicbor::to_vec(plan).map_or(0, |p| p.len() as u64);
        let beside: u64 = plans.iter().zip(&tiles).map(|(p, t)| plan_bytes(p) + t.len_bytes()).sum();
        let mut without = vec![];
        for (plan, plain) in plans.iter().zip(plain) {
            without.push(usual(source, plan, plain, config)?);
        }
        if beside >= without.iter().map(|(p, t)| plan_bytes(p) + t.len_bytes()).sum() {
            (plans, tiles) = without.into_iter().unzip();
            done.values_mut().for_each(|done| done.plan.forecast = None);
        }
    }
    for (plan, tiles) in plans.into_iter().zip(tiles) {
        done.insert(plan.variable as usize, Done { plan, tiles });
    }
    Ok(done)
}

/// A variable without forecasts, in the tiles that it would have then; `plain` are those of `plan`.
fn usual(source: &mut dyn Source, plan: &Plan, plain: Spool, config: &Config) -> Result<(Plan, Spool)> {
    let variable = plan.variable as usize;
    let name = source.schema().variables[variable].name().to_string();
    let work = || -> Result<(Plan, Spool)> {
        let tiling = tiling_of(source, variable, config)?;
        let is_same = tiling == plan.tiling;
        let plan = Plan { tiling, forecast: None, ..plan.clone() };
        if is_same {
            return Ok((plan, plain));
        }
        let mut tiles = Spool::default();
        for t in 0..plan.tiling.count() {
            let region = plan.tiling.region(t);
            tiles.push(&compressed(&source.read(variable, &region)?, &region, &plan.treatment, config)?)?;
        }
        Ok((plan, tiles))
    };
    work().context(|| format!("variable {name:?}"))
}

/// Advection by the winds of a file; `None` if it has none.
///
/// # Errors
/// As [`Group::of_winds`] and [`Forecasts::advection`].
pub fn advection(source: &mut dyn Source) -> Result<Option<Forecasts>> {
    let schema = source.schema().clone();
    let mut read_all = |i: usize| {
        let region: Vec<Range<u64>> = schema.variables[i].shape.iter().map(|&n| 0..n).collect();
        source.read(i, &region)
    };
    Group::of_winds(&schema, &mut read_all)?.map(|group| Forecasts::advection(&group)).transpose()
}

/// Steps of a tile and of an interval.
fn lengths(
    schema: &Schema,
    group: &Group,
    config: &Config,
    keyframe: Option<u64>,
    looks_back: bool,
) -> Result<(u64, u64)> {
    let n_steps = group.times.len() as u64;
    let mut len = n_steps.max(1);
    let mut all = 0;
    for member in &group.members {
        let v = &schema.variables[member.variable];
        let a_step = v.shape[1..].iter().product::<u64>().max(1);
        if a_step > limits::MAX_TILE_VALUES {
            let message = format!("{a_step} values a step; at most {} can be forecast", limits::MAX_TILE_VALUES);
            return Err(Error::input(message)).context(|| format!("variable {:?}", v.name()));
        }
        all += a_step;
        // As tiles would be without forecasts, so that those cost nothing; single steps where not even they fit such a tile.
        let usual = Tiling::new(&v.shape, config.max_tile_values(v.dtype, &v.shape));
        len = len.min(if usual.axis == 0 { usual.len } else { 1 });
    }
    len = len.min(MAX_VALUES / all.max(1)).min(keyframe.unwrap_or(u64::MAX)).max(1);
    let interval = match keyframe {
        // Each tile stands for itself.
        _ if !looks_back => len,
        Some(keyframe) => keyframe - keyframe % len,
        None if len == n_steps => len,
        None => MIN_INTERVAL.div_ceil(len) * len,
    };
    Ok((len, interval))
}

fn unusable(group: &Group, history: usize, step_s: i64, interval: u64) -> Error {
    let mut gaps: Vec<i64> = group.times.windows(2).map(|w| w[1] - w[0]).collect();
    gaps.sort_unstable();
    gaps.dedup();
    let shown: Vec<String> = gaps.iter().take(5).map(|g| format!("{g}")).collect();
    Error::input(format!(
        "no step can be forecast: the model looks back on {history} steps {step_s} s apart; found {} steps, {} s apart, in intervals of {interval}",
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

/// One tile of all members.
struct Work<'a> {
    group: &'a Group,
    plans: &'a [Plan],
    tile: u64,
    config: &'a Config,
}

/// A member's tile beside forecasts, if it is smaller so, and without.
pub(super) type Coded = (Option<Vec<u8>>, Option<Vec<u8>>);

impl Work<'_> {
    /// Codes the tile of each member; `past` goes on to its end.
    fn compress(&self, values: &[Values], past: &mut Past<'_>) -> Result<Vec<Coded>> {
        let regions: Vec<_> = self.plans.iter().map(|p| p.tiling.region(self.tile)).collect();
        let first = regions[0][0].start as usize;
        let n_steps = (regions[0][0].end - regions[0][0].start) as usize;
        let needs = past.model.needs();
        let is_bare = self.config.predictor == PredictorChoice::Forecast;
        // 1. Which can have forecasts, and what those will be like: as from values with noise within the bound.
        let has_history: Vec<bool> = (0..n_steps).map(|k| past.has_forecast(first + k)).collect();
        let mut candidates: Vec<Option<Box<dyn Candidate + '_>>> = vec![];
        for (m, (values, region)) in values.iter().zip(&regions).enumerate() {
            let keys = &self.group.members[m].keys;
            let given: Vec<bool> = keys.iter().map(|k| is_given(needs, k)).collect();
            let has: Vec<bool> = has_history.iter().flat_map(|&h| given.iter().map(move |&g| h && g)).collect();
            candidates.push(self.candidate(m, values, region, &has)?);
        }
        let budget = match self.config.effort {
            Effort::Best => Budget { rounds: 1, ..Budget::BEST },
            _ => Budget::BALANCED,
        };
        let likely = self.likely(values, &candidates, past, first, n_steps, budget)?;
        for (m, slot) in candidates.iter_mut().enumerate() {
            let agreed = slot.as_mut().is_some_and(|c| c.agree(past.model.tolerance(), &likely, m));
            if !agreed {
                *slot = None;
            }
        }
        // 2. Without forecasts, as other variables: no tile may be larger than that.
        let mut plain: Vec<Option<Vec<u8>>> = vec![];
        for (m, candidate) in candidates.iter().enumerate() {
            let wanted = candidate.is_none() || !is_bare;
            let treatment = &self.plans[m].treatment;
            plain.push(wanted.then(|| compressed(&values[m], &regions[m], treatment, self.config)).transpose()?);
        }
        // 3. In a closed loop, until none is larger than without.
        let mut decoded_plain: Vec<Option<Values>> = vec![None; values.len()];
        loop {
            for (m, candidate) in candidates.iter().enumerate() {
                if let (None, None, Some(plain)) = (candidate, &decoded_plain[m], &plain[m]) {
                    let (dtype, treatment) = (values[m].dtype(), &self.plans[m].treatment);
                    decoded_plain[m] = Some(crate::decompress::decompress_tile(plain, dtype, treatment, &regions[m])?);
                }
            }
            let mut at_work = past.clone();
            let coded = self.closed_loop(&candidates, &decoded_plain, &likely, &mut at_work, first, n_steps, budget)?;
            let mut is_final = true;
            for (m, coded) in coded.iter().enumerate() {
                if let (Some(coded), Some(plain)) = (coded, &plain[m])
                    && coded.len() >= plain.len()
                {
                    candidates[m] = None;
                    is_final = false;
                }
            }
            if is_final {
                *past = at_work;
                return Ok(coded.into_iter().zip(plain).collect());
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
        let is_bare = self.config.predictor == PredictorChoice::Forecast;
        if !is_bare && !fitted::is_worthwhile(&shape) {
            return Ok(None);
        }
        let asked = Asked { bound, resolved, is_bare };
        Ok(match values {
            Values::F32(v) => Ready::new(v, shape, fill.map(|b| f32::from_bits(b as u32)), asked, has_forecast)
                .map(|r| Box::new(r) as Box<dyn Candidate>),
            Values::F64(v) => Ready::new(v, shape, fill.map(f64::from_bits), asked, has_forecast)
                .map(|r| Box::new(r) as Box<dyn Candidate>),
            _ => None,
        })
    }

    /// Forecasts of the steps that trials go through, from values with noise as decoding will have; what is before the tile was decoded.
    fn likely(
        &self,
        values: &[Values],
        candidates: &[Option<Box<dyn Candidate + '_>>],
        past: &Past<'_>,
        first: usize,
        n_steps: usize,
        budget: Budget,
    ) -> Result<BTreeMap<usize, Forecast>> {
        let mut wanted: Vec<usize> =
            candidates.iter().flatten().flat_map(|c| c.trial_steps(budget)).filter(|&k| k < n_steps).collect();
        if let Model::FieldCodec(_) = past.model {
            // Those of a codec are known already.
            let known = |k: usize| past.forecast(first + k).map(|forecast| forecast.map(|f| (k, f))).transpose();
            return wanted.into_iter().filter_map(known).collect();
        }
        wanted.sort_unstable();
        wanted.dedup();
        let mut likely = BTreeMap::new();
        for k in wanted {
            let history = self.group.history(past.model.needs(), past.first, first + k);
            let mut past = past.clone();
            for step in history.into_iter().flatten().filter(|&step| step >= first) {
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
    #[allow(clippy::too_many_arguments)]
    fn closed_loop(
        &self,
        candidates: &[Option<Box<dyn Candidate + '_>>],
        decoded_plain: &[Option<Values>],
        likely: &BTreeMap<usize, Forecast>,
        past: &mut Past<'_>,
        first: usize,
        n_steps: usize,
        budget: Budget,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let mut runs: Vec<Option<Box<dyn Run + '_>>> = vec![];
        for (m, candidate) in candidates.iter().enumerate() {
            runs.push(candidate.as_ref().map(|c| c.start(budget, likely, m)));
        }
        for k in 0..n_steps {
            let has_use = runs.iter().any(Option::is_some);
            let forecast = if has_use { past.forecast(first + k)? } else { None };
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
    /// Fixes how forecasts are rounded that may differ by a `tolerance`; whether they can be of use at all.
    fn agree(&mut self, tolerance: f64, likely: &BTreeMap<usize, Forecast>, m: usize) -> bool;
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

/// What was asked for a tile.
#[derive(Clone, Copy)]
struct Asked {
    bound: f64,
    resolved: Resolved,
    /// Whether forecasts are predictions, without the fitted predictor.
    is_bare: bool,
}

struct Ready<'v, T: Rows> {
    values: &'v [T],
    fill: Option<T>,
    asked: Asked,
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
    fn new(values: &'v [T], shape: [usize; 4], fill: Option<T>, asked: Asked, has_forecast: &[bool]) -> Option<Self> {
        if !has_forecast.contains(&true) {
            return None;
        }
        let stats = statistics(values, fill);
        let found = if stats.n == values.len() as u64 {
            None
        } else {
            crate::quantize::special::Specials::find(values, fill, false)
        };
        let (base, quantizer) = bins::<T>(&stats, asked.bound)?;
        let work = found.as_ref().map(|f| mark(values, &f.marks));
        let marks = found.as_ref().filter(|f| !f.specials.is_empty()).map(|f| f.specials.marks(values.len()));
        let layout = Layout::new(shape, has_forecast);
        let (has_forecast, agreement) = (has_forecast.to_vec(), Agreement::EXACT);
        Some(Self { values, fill, asked, found, work, marks, base, quantizer, stats, layout, has_forecast, agreement })
    }
}

impl<T: Rows> Candidate for Ready<'_, T> {
    fn trial_steps(&self, budget: Budget) -> Vec<usize> {
        self.layout.trial_images(budget).iter().map(|i| i / self.layout.shape[1]).collect()
    }

    fn agree(&mut self, tolerance: f64, likely: &BTreeMap<usize, Forecast>, m: usize) -> bool {
        let [_, levels, ny, nx] = self.layout.shape;
        let mut tolerances = vec![0f64; levels];
        let (mut error, mut n) = (0.0, 0usize);
        for (k, forecast) in likely {
            for (level, values) in forecast[m].iter().enumerate() {
                let Some(values) = values else { continue };
                tolerances[level] = tolerances[level].max(tolerance * spread(values));
                let truth = &self.values[(k * levels + level) * ny * nx..][..ny * nx];
                for (x, f) in truth.iter().zip(values).step_by(7) {
                    let e = x.to_f64() - f64::from(*f);
                    if e.is_finite() && e.abs() < 1e15 {
                        error += e * e;
                        n += 1;
                    }
                }
            }
        }
        let tolerances = tolerances.iter().map(|&t| t as f32).collect();
        match Agreement::new(self.asked.bound, tolerances, error / n.max(1) as f64) {
            Some(agreement) if !likely.is_empty() => self.agreement = agreement,
            _ => return false,
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
                Some(f) => self.agreement.agree(f, image % levels, 0, &mut vec![]),
                None => vec![T::default(); ny * nx],
            }
        };
        let encoding = if self.asked.is_bare {
            Coder::Bare(bare::Encoding::new(known, ny * nx))
        } else {
            Coder::Fitted(time(Stage::Predict, || Encoding::new(&self.layout, known, budget, &of_image)))
        };
        let digest = Digest::default();
        Box::new(Running { ready: self, encoding, sides: vec![], digests: vec![], digest, decoded: vec![] })
    }
}

enum Coder<'a, T: Rows> {
    Fitted(Encoding<'a, T>),
    Bare(bare::Encoding<'a, T>),
}

struct Running<'a, T: Rows> {
    ready: &'a Ready<'a, T>,
    encoding: Coder<'a, T>,
    sides: Sides,
    digests: Vec<u16>,
    digest: Digest,
    decoded: Vec<T>,
}

impl<T: Rows> Run for Running<'_, T> {
    fn step(&mut self, step: usize, forecast: Option<&[Option<Vec<f32>>]>) -> Vec<f32> {
        let [_, levels, ny, nx] = self.ready.layout.shape;
        let mut agreed: Vec<Option<Vec<T>>> = vec![];
        for level in 0..levels {
            let image = step * levels + level;
            let forecast = forecast.and_then(|f| f[level].as_ref()).filter(|_| self.ready.has_forecast[image]);
            agreed.push(forecast.map(|f| {
                let values = self.ready.agreement.agree(f, level, image * ny * nx, &mut self.sides);
                self.digest.add(&values);
                values
            }));
        }
        if agreed.iter().any(Option::is_some) && self.ready.agreement.step > 0.0 {
            self.digests.push(self.digest.of_step());
        }
        let values = match &mut self.encoding {
            Coder::Fitted(encoding) => time(Stage::Predict, || encoding.step(&agreed)),
            Coder::Bare(encoding) => time(Stage::Predict, || encoding.step(step, &agreed)),
        };
        let seen = values.iter().map(|v| v.to_f64() as f32).collect();
        self.decoded.extend(values);
        seen
    }

    fn finish(self: Box<Self>, config: &Config) -> Result<Vec<u8>> {
        let Self { ready, encoding, sides, digests, digest, mut decoded } = *self;
        let (plan, codes, mut outliers) = match encoding {
            Coder::Fitted(encoding) => {
                let coded = encoding.finish();
                (Some(coded.plan), coded.bytes, coded.outliers)
            }
            Coder::Bare(encoding) => {
                let (bytes, outliers) = encoding.finish();
                (None, bytes, outliers)
            }
        };
        let Asked { bound, resolved, .. } = ready.asked;
        let shape = ready.layout.shape.to_vec();
        let tile = Tile { values: ready.values, shape, fill: ready.fill, config };
        if let Some(found) = &ready.found {
            found.specials.apply(&mut decoded);
            found.outliers.apply(&mut decoded);
        }
        let near_fill =
            ready.fill.is_some_and(|f| (ready.stats.min - bound..=ready.stats.max + bound).contains(&f.to_f64()));
        if config.verify || near_fill {
            tile.keep_off_fill(&decoded, &mut outliers);
            tile.check(decoded, &outliers, &resolved)?;
        }
        let outliers = Outliers::merged(&outliers, ready.found.as_ref().map(|f| &f.outliers));
        let specials = ready.found.as_ref().map(|f| f.specials.clone()).unwrap_or_default();
        let parts = Parts {
            base: ready.base,
            step: ready.quantizer.step,
            specials,
            outliers,
            agreement: ready.agreement.clone(),
            has_forecast: ready.has_forecast.clone(),
            digests,
            digest: digest.finish(),
            sides,
            plan,
            codes: &codes,
        };
        Ok(parts.write())
    }
}
