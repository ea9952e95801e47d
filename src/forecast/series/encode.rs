//! From values to coded intervals.

use super::latents::Encoder;
use super::machine::On;
use super::member::{Asked, Candidate, Ready, Runs};
use super::tile::shape_of;
use super::verify::Verifier;
use super::{Forecasts, MAX_VALUES, Machine, Past, check_size, in_a_row, is_given, of_step, static_of, versions};
use crate::bound::Resolved;
use crate::compress::{Done, Progress, plan_of, tiling_of};
use crate::config::{Config, Effort, PredictorChoice};
use crate::container::limits;
use crate::error::{Context, Error, Kind, Result};
use crate::field::Values;
use crate::forecast::Model;
use crate::forecast::group::{Group, Role};
use crate::forecast::names::Key;
use crate::io::{Schema, Source};
use crate::plan::{Beside, Plan, Treatment};
use crate::predict::fitted;
use crate::predict::fitted::encode::Turn;
use crate::predict::fitted::learn::Budget;
use crate::spool::Spool;
use crate::tile::{Tiling, region_len};
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::ops::Range;

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
    let (needs, machine) = (forecasts.model.needs(), &forecasts.machine);
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
        let made_on = if forecasts.model.tolerance() > 0.0 { forecasts.made_on.clone() } else { versions() };
        Some(Beside { model, digest, levels, interval, made_on: Some(made_on) })
    };
    // 2. Static fields, whole; the model sees what a decoder will.
    let mut done = BTreeMap::new();
    let mut statics: Vec<(Key, Tensor)> = vec![];
    for (variable, key) in &group.statics {
        let v = &schema.variables[*variable];
        let place = || format!("variable {:?}", v.name());
        let tiling =
            Tiling { shape: v.shape.clone(), axis: 0, len: v.shape.first().copied().unwrap_or(1), steps: None };
        let mut plan = plan_of(source, *variable, tiling, config).context(place)?;
        plan.forecast = beside(&vec![Some(key.clone())], plan.tiling.len);
        let region = plan.tiling.region(0);
        let values = source.read(*variable, &region).context(place)?;
        let coded = machine.compress(&values, &region, &plan.treatment, config).context(place)?;
        let decoded = machine.decompress(&coded, v.dtype, &plan.treatment, &region)?;
        statics.push((key.clone(), static_of(&group, &schema, *variable, &decoded)?.to_device(forecasts.device())?));
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
    let mut verifier = None;
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
            verifier = config.verify.then(|| Verifier::new(forecasts, &group, &statics, interval)).transpose()?;
        }
        let mut values = vec![];
        for plan in &plans {
            values.push(source.read(plan.variable as usize, &plan.tiling.region(t))?);
        }
        if let Some(latents) = &mut latents {
            past.latents = latents.tile(&values, start, (len as usize).min(n_steps - start))?;
        }
        let mut work = Work::new(&group, &plans, t, &values, config, forecasts);
        let mut coded = match work.compress(&mut past) {
            Err(e) if machine.takes_over(&e) || work.leaves_gpu(&e) => {
                work.on = None;
                work.compress(&mut past)
            }
            coded => coded,
        }
        .context(|| format!("tile {t}"))?;
        if latents.is_some() {
            past.latents.put_into(&mut coded);
        }
        let (coded, without): (Vec<_>, Vec<_>) = coded
            .into_iter()
            .map(|(beside, without)| {
                (beside.or_else(|| without.clone()).unwrap_or_default(), without.unwrap_or_default())
            })
            .unzip();
        if let Some(verifier) = &mut verifier {
            verifier.check(t, &plans, &coded, &values).context(|| format!("tile {t}"))?;
        }
        for (m, (coded, without)) in coded.iter().zip(&without).enumerate() {
            tiles[m].push(coded)?;
            plain[m].push(without)?;
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
            without.push(usual(source, plan, plain, config, machine)?);
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
fn usual(
    source: &mut dyn Source,
    plan: &Plan,
    plain: Spool,
    config: &Config,
    machine: &Machine,
) -> Result<(Plan, Spool)> {
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
            let values = source.read(variable, &region)?;
            tiles.push(&machine.compress(&values, &region, &plan.treatment, config)?)?;
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
    if keyframe == Some(0) {
        return Err(Error::usage("intervals of no steps"));
    }
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
    check_size(all, 1)?;
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

/// One tile of all members.
struct Work<'a> {
    group: &'a Group,
    plans: &'a [Plan],
    config: &'a Config,
    forecasts: &'a Forecasts,
    /// The GPU that codes beside forecasts, if one does.
    on: Option<On<'a>>,
    values: &'a [Values],
    /// Where the tile lies in each member.
    regions: Vec<Vec<Range<u64>>>,
    first: usize,
    n_steps: usize,
}

/// A member's tile beside forecasts, if it is smaller so, and without.
pub(super) type Coded = (Option<Vec<u8>>, Option<Vec<u8>>);

impl<'a> Work<'a> {
    fn new(
        group: &'a Group,
        plans: &'a [Plan],
        tile: u64,
        values: &'a [Values],
        config: &'a Config,
        forecasts: &'a Forecasts,
    ) -> Self {
        let regions: Vec<_> = plans.iter().map(|p| p.tiling.region(tile)).collect();
        let steps = regions.first().map_or(0..0, |region| region[0].clone());
        let (first, n_steps) = (steps.start as usize, (steps.end - steps.start) as usize);
        let on = forecasts.machine.on(forecasts.device());
        Self { group, plans, config, forecasts, on, values, regions, first, n_steps }
    }

    /// Whether the GPU leaves the tile to the CPU; the next is the GPU's again.
    fn leaves_gpu(&self, e: &Error) -> bool {
        let does = self.on.is_some() && e.kind() == Kind::Unsupported;
        if does {
            self.forecasts.machine.note(e);
        }
        does
    }

    /// Codes the tile of each member; `past` goes on to its end.
    fn compress(&self, past: &mut Past<'_>) -> Result<Vec<Coded>> {
        let is_bare = self.config.predictor == PredictorChoice::Forecast;
        // 1. Which can have forecasts.
        let candidates = self.candidates(past)?;
        // 2. Without forecasts, as other variables: no tile may be larger than that.
        let wanted = candidates.iter().map(|candidate| candidate.is_none() || !is_bare);
        let plain = wanted.enumerate().map(|(m, wanted)| wanted.then(|| self.plain(m)).transpose());
        let mut others = Others { plain: plain.collect::<Result<_>>()?, decoded: vec![None; self.plans.len()] };
        // 3. A first run in a closed loop, which fits as it goes, beside the forecasts that come of that.
        // Weights that follow a long run may end where errors are large and forecasts poor, those of a short one know less.
        let (budget, mut turns): (_, &[Turn]) = match self.config.effort {
            Effort::Best if !is_bare => (Budget::BEST, &[Turn::Early, Turn::Again, Turn::Last, Turn::Cheapest]),
            _ => (Budget::BALANCED, &[Turn::Last]),
        };
        let mut runs: Runs<'_> = vec![];
        for candidate in &candidates {
            runs.push(candidate.as_ref().map(|c| c.start(budget)).transpose()?);
        }
        others.decode(&runs, self)?;
        let n_first = runs.iter().flatten().map(|run| run.n_first()).max().unwrap_or(0);
        self.closed_loop(&mut runs, &others, &mut past.clone(), n_first)?;
        for slot in &mut runs {
            if let Some(run) = slot
                && !run.agree(self.forecasts.tolerance)?
            {
                *slot = None;
            }
        }
        // 4. Runs whose codes count, until no tile is larger than without.
        loop {
            others.decode(&runs, self)?;
            let (mut coded, mut seen) = self.counting_run(&mut runs, &others, past, turns[0])?;
            for &turn in &turns[1..] {
                let next = self.counting_run(&mut runs, &others, past, turn)?;
                let size = |coded: &[Option<Vec<u8>>]| coded.iter().flatten().map(Vec::len).sum::<usize>();
                if size(&next.0) <= size(&coded) {
                    (coded, seen) = next;
                }
            }
            if let [_, rest @ ..] = turns
                && !rest.is_empty()
            {
                turns = rest;
            }
            let mut is_final = true;
            for ((run, coded), plain) in runs.iter_mut().zip(&coded).zip(&others.plain) {
                if let (Some(coded), Some(plain)) = (coded, plain)
                    && coded.len() >= plain.len()
                {
                    *run = None;
                    is_final = false;
                }
            }
            if is_final {
                *past = seen;
                return Ok(coded.into_iter().zip(others.plain).collect());
            }
        }
    }

    /// The tile of a member without forecasts.
    fn plain(&self, m: usize) -> Result<Vec<u8>> {
        let machine = &self.forecasts.machine;
        machine.compress(&self.values[m], &self.regions[m], &self.plans[m].treatment, self.config)
    }

    /// Members that may have forecasts in the tile.
    fn candidates(&self, past: &Past<'_>) -> Result<Vec<Option<Box<dyn Candidate + 'a>>>> {
        let needs = past.model.needs();
        let has_history: Vec<bool> = (0..self.n_steps).map(|k| past.has_forecast(self.first + k)).collect();
        let of_member = |m: usize| {
            let given: Vec<bool> = self.group.members[m].keys.iter().map(|k| is_given(needs, k)).collect();
            let has: Vec<bool> = has_history.iter().flat_map(|&h| given.iter().map(move |&g| h && g)).collect();
            self.candidate(m, &has)
        };
        (0..self.plans.len()).map(of_member).collect()
    }

    fn candidate(&self, m: usize, has_forecast: &[bool]) -> Result<Option<Box<dyn Candidate + 'a>>> {
        let treatment = &self.plans[m].treatment;
        let &Treatment::Lossy { resolved: resolved @ Resolved::Absolute(bound), fill, .. } = treatment else {
            return Ok(None);
        };
        let shape = shape_of(&self.regions[m])?;
        let is_bare = self.config.predictor == PredictorChoice::Forecast;
        if !is_bare && !fitted::is_worthwhile(&shape) {
            return Ok(None);
        }
        let asked = Asked { config: self.config, treatment, on: self.on, bound, resolved, is_bare };
        Ok(match &self.values[m] {
            Values::F32(v) => Ready::new(v, shape, fill.map(|b| f32::from_bits(b as u32)), asked, has_forecast)
                .map(|r| Box::new(r) as Box<dyn Candidate>),
            Values::F64(v) => Ready::new(v, shape, fill.map(f64::from_bits), asked, has_forecast)
                .map(|r| Box::new(r) as Box<dyn Candidate>),
            _ => None,
        })
    }

    /// A run through all steps whose codes might do. Gives coded tiles, and what the model has seen then.
    fn counting_run<'p>(
        &self,
        runs: &mut Runs<'_>,
        others: &Others,
        past: &Past<'p>,
        turn: Turn,
    ) -> Result<(Vec<Option<Vec<u8>>>, Past<'p>)> {
        runs.iter_mut().flatten().try_for_each(|run| run.rewind(turn))?;
        let mut past = past.clone();
        self.closed_loop(runs, others, &mut past, self.n_steps)?;
        let coded = runs.iter_mut().map(|run| run.as_mut().map(|run| run.finish(self.config)).transpose());
        Ok((coded.collect::<Result<_>>()?, past))
    }

    /// Takes all runs through the first `n` steps, beside forecasts made of what was decoded.
    fn closed_loop(&self, runs: &mut Runs<'_>, others: &Others, past: &mut Past<'_>, n: usize) -> Result<()> {
        for k in 0..n {
            let has_use = runs.iter().any(Option::is_some);
            let forecast = if has_use { past.forecast(self.first + k)? } else { None };
            let mut frame = vec![];
            for (m, run) in runs.iter_mut().enumerate() {
                frame.push(match (run, &others.decoded[m]) {
                    (Some(run), _) => run.step(k, forecast.as_ref().map(|f| &f[m][..]))?,
                    (None, Some(values)) => {
                        in_a_row(of_step(values, fill_of(&self.plans[m].treatment), k, values.len() / self.n_steps))?
                    }
                    (None, None) => in_a_row(vec![])?,
                });
            }
            past.see(self.first + k, &frame)?;
        }
        Ok(())
    }
}

/// The tiles without forecasts.
struct Others {
    /// `None` where none is wanted.
    plain: Vec<Option<Vec<u8>>>,
    /// What is decoded of those that have no run.
    decoded: Vec<Option<Values>>,
}

impl Others {
    /// Makes sure of what is decoded of members that have no run.
    fn decode(&mut self, runs: &Runs<'_>, work: &Work<'_>) -> Result<()> {
        for (m, run) in runs.iter().enumerate() {
            if run.is_some() || self.decoded[m].is_some() {
                continue;
            }
            let plain = match self.plain[m].take() {
                Some(plain) => plain,
                None => work.plain(m)?,
            };
            let (dtype, treatment) = (work.values[m].dtype(), &work.plans[m].treatment);
            let machine = &work.forecasts.machine;
            self.decoded[m] = Some(machine.decompress(&plain, dtype, treatment, &work.regions[m])?);
            self.plain[m] = Some(plain);
        }
        Ok(())
    }
}
