//! A member's tile on its way to code beside forecasts, step by step.

use super::machine::On;
use super::tile::Parts;
use super::{bare, in_a_row, on_host, spread};
use crate::bound::{Resolved, Stats};
use crate::compress::{Tile, bins, mark, statistics};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::forecast::agreement::{Agreement, Digest, Sides, sum_in_lanes};
use crate::plan::Treatment;
use crate::predict;
use crate::predict::fitted::encode::{Encoding, Known, Turn};
use crate::predict::fitted::learn::Budget;
use crate::predict::fitted::{Layout, Rows};
use crate::quantize::Quantizer;
use crate::quantize::outlier::Outliers;
use crate::quantize::special::{Found, Specials};
use crate::stages::{Stage, time};
use candle_core::Tensor;

/// A member's tile that may be coded beside forecasts.
pub(super) trait Candidate {
    /// At the first step of the run that fits.
    ///
    /// # Errors
    /// Those of the device that codes.
    fn start<'a>(&'a self, budget: Budget) -> Result<Box<dyn Run + 'a>>;
}

/// A member's tile at work: in a run that fits as it goes, then in those that count. Errors are those of the device that codes, and of the model's.
pub(super) trait Run {
    /// Steps of the run that fits, at least.
    fn n_first(&self) -> usize;
    /// Codes a step; gives what is decoded, as the model takes it.
    fn step(&mut self, step: usize, forecast: Option<&[Option<Tensor>]>) -> Result<Tensor>;
    /// After the run that fits: fixes how forecasts are rounded that may differ by a part of their spread; whether they can be of use at all.
    fn agree(&mut self, tolerance: f64) -> Result<bool>;
    /// Back to the first step.
    fn rewind(&mut self, turn: Turn) -> Result<()>;
    /// The coded tile, after the last step of a run that counts.
    fn finish(&mut self, config: &Config) -> Result<Vec<u8>>;
}

/// Runs of the members; `None` for those without forecasts.
pub(super) type Runs<'a> = Vec<Option<Box<dyn Run + 'a>>>;

/// What was asked for a tile.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    /// All that was asked; for runs on a GPU.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there are none"))]
    pub config: &'a Config,
    /// For the variable.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "for runs on a GPU"))]
    pub treatment: &'a Treatment,
    /// The GPU that codes, if one does.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is none"))]
    pub on: Option<On<'a>>,
    /// The bound, absolute.
    pub bound: f64,
    /// The same, as it is checked.
    pub resolved: Resolved,
    /// Whether forecasts are predictions, without the fitted predictor.
    pub is_bare: bool,
}

/// Such a tile, ready to be coded.
pub(super) struct Ready<'v, T: Rows> {
    pub values: &'v [T],
    pub fill: Option<T>,
    pub asked: Asked<'v>,
    found: Option<Found>,
    /// Values with NaN in marked places, if there are such.
    work: Option<Vec<T>>,
    marks: Option<Vec<bool>>,
    base: T,
    quantizer: Quantizer<T>,
    pub stats: Stats,
    pub layout: Layout,
    pub has_forecast: Vec<bool>,
}

impl<'v, T: Rows> Ready<'v, T> {
    /// `None` if no image of `[steps, levels, ny, nx]` has a forecast, or the bound can not be met by bins.
    pub fn new(
        values: &'v [T],
        shape: [usize; 4],
        fill: Option<T>,
        asked: Asked<'v>,
        has_forecast: &[bool],
    ) -> Option<Self> {
        if !has_forecast.contains(&true) {
            return None;
        }
        let stats = statistics(values, fill);
        let found = if stats.n == values.len() as u64 { None } else { Specials::find(values, fill, false) };
        let (base, quantizer) = bins::<T>(&stats, asked.bound)?;
        let work = found.as_ref().map(|f| mark(values, &f.marks));
        let marks = found.as_ref().filter(|f| !f.specials.is_empty()).map(|f| f.specials.marks(values.len()));
        let layout = Layout::new(shape, has_forecast);
        let has_forecast = has_forecast.to_vec();
        Some(Self { values, fill, asked, found, work, marks, base, quantizer, stats, layout, has_forecast })
    }
}

impl<T: Rows> Candidate for Ready<'_, T> {
    fn start<'a>(&'a self, budget: Budget) -> Result<Box<dyn Run + 'a>> {
        #[cfg(feature = "cuda")]
        if let Some(on) = self.asked.on.filter(|_| !self.asked.is_bare) {
            return Ok(Box::new(super::gpu::Running::start(self, on, budget)?));
        }
        let values = self.work.as_deref().unwrap_or(self.values);
        let wrap = predict::choose::is_circle(values, &self.layout.shape);
        let (marks, base, quantizer) = (self.marks.as_deref(), self.base, self.quantizer);
        let known = Known { values, marks, base, quantizer, wrap };
        let encoding = if self.asked.is_bare {
            Coder::Bare(bare::Encoding::new(known, self.layout.pixels()))
        } else {
            Coder::Fitted(Box::new(Encoding::new(&self.layout, known, budget)))
        };
        let (n_first, levels) = (self.layout.trial_steps(budget), self.layout.shape[1]);
        Ok(Box::new(Running {
            ready: self,
            n_first,
            encoding,
            seen: Seen::new(levels),
            agreement: Agreement::EXACT,
            sides: vec![],
            digests: vec![],
            digest: Digest::default(),
            decoded: vec![],
        }))
    }
}

/// The forecast of a level, of so many pixels, that is `wanted` of a step's.
///
/// # Errors
/// `Input` if the model gave none, or one on another grid.
pub(super) fn wanted_of(
    forecasts: Option<&[Option<Tensor>]>,
    level: usize,
    wanted: bool,
    pixels: usize,
) -> Result<Option<&Tensor>> {
    if !wanted {
        return Ok(None);
    }
    match forecasts.and_then(|f| f[level].as_ref()) {
        None => Err(Error::input("the model gave no forecast of a field that it says it gives")),
        Some(f) if f.elem_count() != pixels => Err(Error::input("the model gave a forecast on another grid")),
        forecast => Ok(forecast),
    }
}

/// What forecasts were like.
pub(super) struct Seen {
    /// The largest spread of each level; 0 if it has no forecasts.
    pub spreads: Vec<f64>,
    /// Sum of the squared errors of `n` values.
    pub error: f64,
    pub n: usize,
}

impl Seen {
    fn new(levels: usize) -> Self {
        Self { spreads: vec![0.0; levels], error: 0.0, n: 0 }
    }

    fn add<T: Rows>(&mut self, level: usize, forecast: &[f32], truth: &[T]) {
        const EVERY: usize = 7;
        self.spreads[level] = self.spreads[level].max(spread(forecast));
        let error = |k: usize| truth[EVERY * k].to_f64() - f64::from(forecast[EVERY * k]);
        let is_there = |k: &usize| error(*k).abs() < 1e15;
        let n = forecast.len().div_ceil(EVERY);
        self.error += sum_in_lanes(n, |k| if is_there(&k) { error(k) * error(k) } else { 0.0 });
        self.n += (0..n).filter(is_there).count();
    }

    /// How forecasts are rounded that may differ by a part of their spread; `None` if they can not be of use.
    pub fn agreement(&self, bound: f64, tolerance: f64) -> Option<Agreement> {
        let tolerances = self.spreads.iter().map(|s| (tolerance * s) as f32).collect();
        let error = self.error / self.n.max(1) as f64;
        Agreement::new(bound, tolerances, error).filter(|_| self.n > 0)
    }
}

enum Coder<'a, T: Rows> {
    Fitted(Box<Encoding<'a, T>>),
    Bare(bare::Encoding<'a, T>),
}

struct Running<'a, T: Rows> {
    ready: &'a Ready<'a, T>,
    n_first: usize,
    encoding: Coder<'a, T>,
    seen: Seen,
    agreement: Agreement,
    sides: Sides,
    digests: Vec<u16>,
    digest: Digest,
    decoded: Vec<T>,
}

impl<T: Rows> Run for Running<'_, T> {
    fn n_first(&self) -> usize {
        self.n_first
    }

    fn agree(&mut self, tolerance: f64) -> Result<bool> {
        let agreement = self.seen.agreement(self.ready.asked.bound, tolerance);
        let is_of_use = agreement.is_some();
        self.agreement = agreement.unwrap_or(Agreement::EXACT);
        Ok(is_of_use)
    }

    fn rewind(&mut self, turn: Turn) -> Result<()> {
        match &mut self.encoding {
            Coder::Fitted(encoding) => time(Stage::Predict, || encoding.rewind(turn)),
            Coder::Bare(encoding) => encoding.rewind(),
        }
        (self.sides, self.digests, self.digest, self.decoded) = (vec![], vec![], Digest::default(), vec![]);
        Ok(())
    }

    fn step(&mut self, step: usize, forecast: Option<&[Option<Tensor>]>) -> Result<Tensor> {
        let [_, levels, ny, nx] = self.ready.layout.shape;
        let mut agreed: Vec<Option<Vec<T>>> = vec![];
        for level in 0..levels {
            let image = step * levels + level;
            let wanted = self.ready.has_forecast[image];
            let Some(forecast) = wanted_of(forecast, level, wanted, ny * nx)?.map(on_host).transpose()? else {
                agreed.push(None);
                continue;
            };
            self.seen.add(level, &forecast, &self.ready.values[image * ny * nx..][..ny * nx]);
            let values = self.agreement.agree(&forecast, level, image * ny * nx, &mut self.sides);
            self.digest.add(&values);
            agreed.push(Some(values));
        }
        if agreed.iter().any(Option::is_some) {
            self.digests.push(self.digest.of_step());
        }
        let values = match &mut self.encoding {
            Coder::Fitted(encoding) => time(Stage::Predict, || encoding.step(&agreed)),
            Coder::Bare(encoding) => time(Stage::Predict, || encoding.step(step, &agreed)),
        };
        let seen = values.iter().map(|v| v.to_f64() as f32).collect();
        self.decoded.extend(values);
        in_a_row(seen)
    }

    fn finish(&mut self, config: &Config) -> Result<Vec<u8>> {
        let ready = self.ready;
        let (sides, digests) = (std::mem::take(&mut self.sides), std::mem::take(&mut self.digests));
        let mut decoded = std::mem::take(&mut self.decoded);
        let (plan, codes, mut outliers) = match &mut self.encoding {
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
        let tile = Tile { values: ready.values, stats: Some(ready.stats), shape, fill: ready.fill, config };
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
            agreement: self.agreement.clone(),
            has_forecast: ready.has_forecast.clone(),
            digests,
            digest: self.digest.finish(),
            sides,
            plan,
            codes: &codes,
        };
        Ok(parts.write(&ready.layout.shape, config))
    }
}
