//! A small forecaster of our own: advection along the winds, a ridge regression for each row, and a U-Net for what is left.
//!
//! ```text
//! frames t-1, t ─┬─ advection ─┬─ ridge regression of the row ─┬─ + ─ change ─ frame t+1
//!                └─────────────┴──── normalised ──────── U-Net ┘
//! ```
//!
//! * **Advection** (semi-Lagrangian): each point takes the value from where the winds of its level brought it.
//! * **Regression**: the change at a point as a linear function of the state there, its last change, what advection says, the four neighbours,
//!   and the time of the day and of the year; weights of its own for each row of the grid.
//! * **U-Net**: blocks of a depthwise convolution and two layers (Liu et al., arXiv:2201.03545) on a half and a quarter of the rows and columns. It sees
//!   the state, what the regression says, the time, and learned values of each place.
//!
//! Grid, variables and widths are in the weights' metadata, so that the recipe (`weights/recipe`) serves other grids too; its `model.py` is
//! the twin of this file. Everything runs on the CPU in [`exact`] arithmetic, whatever device is asked for: forecasts have the same
//! bits everywhere, and archives need no list of doubtful values.

mod advection;
mod network;

use super::exact::{self, Packed, Rows};
use super::{
    Checkpoint, Entry, Forecaster, Frame, Grid, GridNeed, ImportOptions, Imported, Key, Model, Needs, Options, Weights,
};
use crate::error::{Error, Result};
use advection::Advection;
use network::Network;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Its line of the registry.
pub const ENTRY: Entry = Entry { name: "unet", open, is_exact_on_cpu: true, import };

fn open(weights: &Weights, _options: &Options) -> Result<Model> {
    Ok(Model::Forecaster(Box::new(UNet::new(weights)?)))
}

/// Weights come from the recipe, not from a checkpoint.
fn import<'a>(_: &'a Checkpoint, _: &ImportOptions) -> Result<Option<Imported<'a>>> {
    Ok(None)
}

/// Hyper-parameters.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Config {
    /// Seconds of a step.
    pub step_s: i64,
    /// Latitude of each row, degrees north.
    pub lat: Vec<f64>,
    /// Longitude of each column, degrees east: all around the globe, evenly.
    pub lon: Vec<f64>,
    /// Variables, in the order of channels.
    pub variables: Vec<Variable>,
    /// Names of the eastward and the northward wind.
    pub wind: [String; 2],
    /// Features of a point on half, and on a quarter of the rows and columns.
    pub widths: [usize; 2],
    /// Blocks on the way down, below, and on the way up.
    pub blocks: [usize; 3],
    /// Rows and columns that a convolution spans, on half and on a quarter.
    pub kernels: [usize; 2],
    /// Learned values of each place.
    pub statics: usize,
}

/// A variable that goes in and comes out.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Variable {
    /// Name.
    pub name: String,
    /// Levels, hPa or thousandths of the surface pressure; none for a field of the surface.
    pub levels: Vec<u32>,
}

/// Sine and cosine of the local solar time, of twice it, and of the time of the year.
const TIMES: usize = 6;
const YEAR_S: i64 = 31_556_952;
/// Largest accepted of sizes; those of the model in `weights/` are 96 columns, 41 channels, 224 features.
const MAX_SIDE: usize = 4096;
const MAX_WIDTH: usize = 4096;
const MAX_BLOCKS: usize = 64;
const MAX_KERNEL: usize = 15;
/// Values of the largest array of a step.
const MAX_VALUES: usize = 1 << 28;

/// Numbers that follow from a configuration.
#[derive(Clone, Debug)]
struct Layout {
    rows: usize,
    columns: usize,
    channels: usize,
    /// Channels of the winds' levels.
    wind: [Range<usize>; 2],
    /// Channels of each variable that has the winds' levels.
    advected: Vec<Range<usize>>,
}

impl Layout {
    fn new(c: &Config) -> Result<Self> {
        let mut next = 0;
        let channels = c.variables.iter().map(|v| {
            let first = next;
            next += v.levels.len().max(1);
            first..next
        });
        let all: Vec<(&Variable, Range<usize>)> = c.variables.iter().zip(channels.collect::<Vec<_>>()).collect();
        let of = |name: &String| {
            let found = all.iter().find(|(v, _)| v.name == *name && !v.levels.is_empty());
            found.ok_or_else(|| Error::input(format!("configuration of the U-Net: no wind {name:?} on levels")))
        };
        let (u, v) = (of(&c.wind[0])?, of(&c.wind[1])?);
        if u.0.levels != v.0.levels {
            return Err(Error::input("configuration of the U-Net: the winds are on different levels"));
        }
        let advected = all.iter().filter(|(x, _)| x.levels == u.0.levels).map(|(_, at)| at.clone()).collect();
        let wind = [u.1.clone(), v.1.clone()];
        Ok(Self { rows: c.lat.len(), columns: c.lon.len(), channels: next, wind, advected })
    }

    fn points(&self) -> usize {
        self.rows * self.columns
    }

    /// Channels that advection gives.
    fn moved(&self) -> usize {
        self.advected.iter().map(Range::len).sum()
    }

    /// Features of the regression.
    fn features(&self) -> usize {
        1 + TIMES + 6 * self.channels + self.moved()
    }

    /// Features of a point that the network sees.
    fn inputs(&self, statics: usize) -> usize {
        3 * self.channels + self.moved() + TIMES + statics
    }
}

impl Config {
    /// Refuses what no model has, before anything is computed from it.
    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::input(format!("configuration of the U-Net: {what}")));
        let (h, w) = (self.lat.len(), self.lon.len());
        // Two halvings, and half a turn of the coarsest grid.
        if !(8..=MAX_SIDE).contains(&h) || !(8..=MAX_SIDE).contains(&w) || h % 4 != 0 || w % 8 != 0 {
            return wrong("rows are a multiple of 4 and columns one of 8, from 8 to 4096");
        }
        let step = 360.0 / w as f64;
        if self.lon.windows(2).any(|x| (x[1] - x[0] - step).abs() > 1e-3) {
            return wrong("longitudes do not go evenly around the globe");
        }
        let channels: usize = self.variables.iter().map(|v| v.levels.len().max(1)).sum();
        let sizes = [self.widths[0], self.widths[1], channels];
        if sizes.iter().any(|n| !(1..=MAX_WIDTH).contains(n)) || self.statics > MAX_WIDTH {
            return wrong("a width is zero or beyond 4096");
        }
        let kernel = |k: usize, side: usize| k % 2 == 1 && k <= MAX_KERNEL && k / 2 <= side;
        let side = h.min(w);
        if !kernel(self.kernels[0], side / 2) || !kernel(self.kernels[1], side / 4) {
            return wrong("a convolution spans an odd number of points, at most 15");
        }
        if self.blocks.iter().any(|&n| n > MAX_BLOCKS) {
            return wrong("there are more than 64 blocks");
        }
        if !(1..=86_400 * 366).contains(&self.step_s) {
            return wrong("a step is from a second to a year");
        }
        let keys = self.keys();
        if keys.iter().enumerate().any(|(i, k)| keys[..i].contains(k)) {
            return wrong("a variable is listed twice");
        }
        let layout = Layout::new(self)?;
        let widest = layout.features().max(2 * layout.inputs(self.statics)).max(self.widths[0]).max(self.widths[1]);
        if widest * h * w > MAX_VALUES {
            return wrong("the grid is too large");
        }
        Ok(())
    }

    /// Channels, in order.
    fn keys(&self) -> Vec<Key> {
        let of = |v: &Variable| match &v.levels[..] {
            [] => vec![Key::surface(&v.name)],
            levels => levels.iter().map(|&l| Key::level(&v.name, l)).collect(),
        };
        self.variables.iter().flat_map(of).collect()
    }
}

/// The model.
pub struct UNet {
    config: Config,
    layout: Layout,
    needs: Needs,
    /// Mean of each channel at each point, of the period of training.
    climate: Vec<f32>,
    /// Deviation of each channel from it.
    scale: Vec<f32>,
    /// Deviation of each channel's change in a step.
    change: Vec<f32>,
    advection: Advection,
    /// Of each row: features by channels.
    ridge: Vec<Packed>,
    network: Network,
}

/// Fields of a step before the network, for those who compare implementations.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// What advection alone gives, (channel, row, column).
    pub moved: Vec<f32>,
    /// What the regression gives, in units of the change, (row, column, channel).
    pub linear: Vec<f32>,
}

impl UNet {
    /// Reads weights.
    ///
    /// # Errors
    /// `Input` if a tensor is missing or of another shape, or the configuration is one that no model has.
    pub fn new(weights: &Weights) -> Result<Self> {
        let config: Config = weights.config()?;
        config.check()?;
        let layout = Layout::new(&config)?;
        let (h, w, n) = (layout.rows, layout.columns, layout.channels);
        let features = layout.features();
        let ridge = weights.f32s("ridge", &[h, features, n])?;
        let keys = config.keys();
        let needs = Needs {
            history: 2,
            step_s: config.step_s,
            fields: keys.clone(),
            statics: vec![],
            forcings: vec![],
            gives: keys,
            grid: GridNeed::Exact(Grid::new(config.lat.clone(), config.lon.clone())?),
        };
        Ok(Self {
            climate: weights.f32s("climate", &[n, h, w])?,
            scale: weights.f32s("scale", &[n])?,
            change: weights.f32s("change", &[n])?,
            advection: Advection::new(weights, layout.clone())?,
            ridge: ridge.chunks_exact(features * n).map(|row| Packed::from_matrix(row, features, n)).collect(),
            network: Network::new(weights, &config, layout.inputs(config.statics), n)?,
            config,
            layout,
            needs,
        })
    }

    /// The next frame, and what led to it.
    ///
    /// # Errors
    /// As [`Forecaster::step`].
    pub fn step_with_parts(&self, history: &[Frame]) -> Result<(Frame, Parts)> {
        let history = self.needs.prepare(history)?;
        let [before, now] = &history[..] else { return Err(Error::input("the model looks back on two frames")) };
        let stacked = |frame: &Frame| {
            let mut all = Vec::with_capacity(self.layout.channels * self.layout.points());
            for key in &self.needs.fields {
                all.extend(frame.values(key)?);
            }
            Ok::<_, Error>(all)
        };
        let (before, last) = (stacked(before)?, stacked(now)?);
        let (moved, linear, change) = self.change(&before, &last, &self.times(now.time_unix_s));
        let mut next = Frame::new(now.time_unix_s + self.config.step_s, now.grid.clone());
        let n = self.layout.channels;
        for (c, (key, last)) in self.needs.gives.iter().zip(last.chunks_exact(self.layout.points())).enumerate() {
            let changes = change.data.iter().skip(c).step_by(n);
            let values = last.iter().zip(changes).map(|(x, d)| x + d * self.change[c]).collect();
            next.insert_values(key.clone(), values)?;
        }
        Ok((next, Parts { moved, linear: linear.data }))
    }

    /// Time features of each column.
    fn times(&self, unix_s: i64) -> Vec<[f32; TIMES]> {
        use std::f64::consts::PI;
        let year = 2.0 * PI * unix_s.rem_euclid(YEAR_S) as f64 / YEAR_S as f64;
        let day = 2.0 * PI * unix_s.rem_euclid(86_400) as f64 / 86_400.0;
        let of = |lon: &f64| {
            let local = day + lon.to_radians();
            // Of libm, which has the same bits everywhere.
            [local, local * 2.0, year].map(|x| [libm::sin(x) as f32, libm::cos(x) as f32]).concat().try_into()
        };
        self.config.lon.iter().map(|lon| of(lon).unwrap_or_default()).collect()
    }

    /// Advected fields, what the regression says of the change, and the change, in units of the usual one, (point, channel).
    fn change(&self, before: &[f32], now: &[f32], times: &[[f32; TIMES]]) -> (Vec<f32>, Rows, Rows) {
        let (h, w, n) = (self.layout.rows, self.layout.columns, self.layout.channels);
        let (points, features) = (h * w, self.layout.features());
        let moved = self.advection.run(before, now);
        let inputs = self.layout.inputs(self.config.statics);
        let statics = &self.network.places;
        let mut linear = Rows::zeros(points, n);
        let mut network = Rows::zeros(points, inputs);
        let rows = linear.data.par_chunks_mut(w * n).zip(network.data.par_chunks_mut(w * inputs)).enumerate();
        rows.for_each(|(row, (linear, network))| {
            let mut x = Rows::zeros(w, features);
            for (column, x) in x.data.chunks_exact_mut(features).enumerate() {
                self.point(before, now, &moved, &times[column], row, column, x);
            }
            exact::matmul_into(&x, &self.ridge[row], linear, &|_, _| {});
            let seen = 2 * n + self.layout.moved();
            let of_points = x.data.chunks_exact(features).zip(linear.chunks_exact(n));
            let of_points = of_points.zip(statics[row * w * self.config.statics..].chunks(self.config.statics.max(1)));
            for (out, ((x, linear), statics)) in network.chunks_exact_mut(inputs).zip(of_points) {
                let (state, out) = out.split_at_mut(seen);
                state.copy_from_slice(&x[1 + TIMES..][..seen]);
                let (time, out) = out.split_at_mut(TIMES);
                time.copy_from_slice(&x[1..][..TIMES]);
                let (of_linear, out) = out.split_at_mut(n);
                of_linear.copy_from_slice(linear);
                out.copy_from_slice(&statics[..self.config.statics]);
            }
        });
        let mut change = self.network.run(network, [h, w]);
        change.data.iter_mut().zip(&linear.data).for_each(|(x, l)| *x += l);
        (moved, linear, change)
    }

    /// Features of a point.
    #[allow(clippy::too_many_arguments)]
    fn point(
        &self,
        before: &[f32],
        now: &[f32],
        moved: &[f32],
        times: &[f32; TIMES],
        row: usize,
        column: usize,
        out: &mut [f32],
    ) {
        let (h, w, n) = (self.layout.rows, self.layout.columns, self.layout.channels);
        let points = h * w;
        let at = row * w + column;
        let across = (column + w / 2) % w;
        let neighbours = [
            row * w + (column + 1) % w,
            row * w + (column + w - 1) % w,
            if row + 1 < h { at + w } else { row * w + across },
            if row > 0 { at - w } else { across },
        ];
        out[0] = 1.0;
        out[1..=TIMES].copy_from_slice(times);
        let (state, rest) = out[1 + TIMES..].split_at_mut(n);
        let (past, rest) = rest.split_at_mut(n);
        let (advected, around) = rest.split_at_mut(self.layout.moved());
        for c in 0..n {
            let value = now[c * points + at];
            state[c] = (value - self.climate[c * points + at]) / self.scale[c];
            past[c] = (value - before[c * points + at]) / self.change[c];
            for (k, &neighbour) in neighbours.iter().enumerate() {
                around[k * n + c] = (now[c * points + neighbour] - value) / self.change[c];
            }
        }
        for (k, c) in self.layout.advected.iter().flat_map(Range::clone).enumerate() {
            advected[k] = (moved[k * points + at] - now[c * points + at]) / self.change[c];
        }
    }
}

impl Forecaster for UNet {
    fn needs(&self) -> &Needs {
        &self.needs
    }

    fn step(&self, history: &[Frame], _target: Option<&Frame>, _rollout_step: usize) -> Result<Frame> {
        Ok(self.step_with_parts(history)?.0)
    }

    /// Exact arithmetic: the same bits everywhere.
    fn tolerance(&self) -> f64 {
        0.0
    }
}
