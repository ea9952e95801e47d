//! What a model needs, and whether a frame has it.

use super::frame::{Frame, Grid};
use super::names::Key;
use crate::error::{Error, Result};
use std::fmt;

/// Grids that a model works on.
#[derive(Clone, Debug)]
pub enum GridNeed {
    /// This one only, up to the rounding of stored coordinates.
    Exact(Grid),
    /// Any whose rows run from north to south and columns from west to east in [0, 360), with whole patches of `patch` x `patch`
    /// points; one row more is let go, the last.
    Patches {
        /// Points along a patch's side.
        patch: usize,
    },
}

/// Degrees by which coordinates may be off: f32 near 360 has an ulp of 3e-5.
const GRID_TOLERANCE: f64 = 1e-3;

impl GridNeed {
    /// Rows that the model uses of a grid that it works on.
    ///
    /// # Errors
    /// `Input` that says what was found and what is needed.
    pub fn check(&self, found: &Grid) -> Result<usize> {
        let (h, w) = found.shape();
        let fits = match self {
            GridNeed::Exact(needed) => needed.agrees(found, GRID_TOLERANCE),
            GridNeed::Patches { patch } => {
                let down = found.lat.windows(2).all(|x| x[1] < x[0]);
                let along = found.lon.windows(2).all(|x| x[1] > x[0]);
                let within = found.lon.iter().all(|x| (0.0..360.0).contains(x));
                let p = (*patch).max(1);
                h >= p && w >= p && h % p <= 1 && w % p == 0 && down && along && within
            }
        };
        if !fits {
            return Err(Error::input(format!("found {found}, but the model needs {self}")));
        }
        Ok(match self {
            GridNeed::Exact(_) => h,
            GridNeed::Patches { patch } => h - h % (*patch).max(1),
        })
    }
}

impl fmt::Display for GridNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GridNeed::Exact(grid) => grid.fmt(f),
            GridNeed::Patches { patch } => write!(
                f,
                "rows from north to south and columns from west to east in [0, 360), both in multiples of {patch} (one row more is dropped)"
            ),
        }
    }
}

/// What a model needs.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Frames that a step looks back on, `step_s` apart.
    pub history: usize,
    /// Seconds that a step goes forward.
    pub step_s: i64,
    /// Fields of every frame of the history.
    pub fields: Vec<Key>,
    /// Fields that never change; the last frame of the history must have them.
    pub statics: Vec<Key>,
    /// Fields known ahead (solar radiation), for the frame to be forecast and the history; the model computes those that are not given.
    pub forcings: Vec<Key>,
    /// Fields that a step, or a decoder, gives.
    pub gives: Vec<Key>,
    /// Where values must lie.
    pub grid: GridNeed,
}

/// A variable that a file offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its name in the file.
    pub name: String,
    /// Its CF standard name.
    pub standard_name: Option<String>,
    /// Its pressure level, hPa.
    pub level_hpa: Option<u32>,
}

impl Needs {
    /// For each field and static field needed, in this order, the index of the offer that is it.
    ///
    /// # Errors
    /// `Input` that lists what is missing and what was found, or names a field that is offered twice.
    pub fn select(&self, offers: &[Offer]) -> Result<Vec<(Key, usize)>> {
        let keys: Vec<Key> =
            offers.iter().map(|o| Key::of_variable(&o.name, o.standard_name.as_deref(), o.level_hpa)).collect();
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for need in self.fields.iter().chain(&self.statics) {
            let mut here = keys.iter().enumerate().filter(|(_, k)| *k == need).map(|(i, _)| i);
            match (here.next(), here.next()) {
                (None, _) => missing.push(need.to_string()),
                (Some(i), None) => found.push((need.clone(), i)),
                (Some(i), Some(j)) => {
                    let (a, b) = (&offers[i].name, &offers[j].name);
                    return Err(Error::input(format!("both {a:?} and {b:?} are {need}: name one of them")));
                }
            }
        }
        if missing.is_empty() { Ok(found) } else { Err(missing_fields(&missing, keys.iter())) }
    }

    /// A history as the model wants it: oldest first, the last [`Needs::history`] frames of it, turned to the model's order of rows and columns,
    /// cropped to the rows it uses, complete.
    ///
    /// # Errors
    /// `Input` that lists what was found and what is needed, if fields are missing, the grid is another or times are not `step_s` apart.
    pub fn prepare(&self, history: &[Frame]) -> Result<Vec<Frame>> {
        let Some(start) = history.len().checked_sub(self.history) else {
            return Err(Error::input(format!(
                "the model looks back on {} frames, there are {}",
                self.history,
                history.len()
            )));
        };
        let frames = history[start..].iter().map(|f| self.oriented(f)).collect::<Result<Vec<_>>>()?;
        for pair in frames.windows(2) {
            let step = pair[1].time_unix_s - pair[0].time_unix_s;
            if step != self.step_s {
                return Err(Error::input(format!("frames are {step} s apart, but the model needs {} s", self.step_s)));
            }
        }
        for (i, frame) in frames.iter().enumerate() {
            let statics = if i + 1 == frames.len() { &self.statics[..] } else { &[] };
            let missing: Vec<String> =
                self.fields.iter().chain(statics).filter(|k| frame.get(k).is_none()).map(Key::to_string).collect();
            if !missing.is_empty() {
                return Err(missing_fields(&missing, frame.fields().map(|(k, _)| k)));
            }
        }
        if let [first, .., last] = &frames[..]
            && !first.grid.agrees(&last.grid, GRID_TOLERANCE)
        {
            return Err(Error::input(format!("frames lie on different grids: {} and {}", first.grid, last.grid)));
        }
        Ok(frames)
    }

    /// A frame with rows and columns in the model's order, cropped to the rows it uses.
    ///
    /// # Errors
    /// `Input` that says what was found and what is needed.
    pub fn oriented(&self, frame: &Frame) -> Result<Frame> {
        let rises = |v: &[f64]| v.len() > 1 && v[1] > v[0];
        let (lat_rises, lon_rises) = match &self.grid {
            GridNeed::Exact(grid) => (rises(&grid.lat), rises(&grid.lon)),
            GridNeed::Patches { .. } => (false, true),
        };
        let has_rows = frame.grid.lat.len() > 1;
        let has_columns = frame.grid.lon.len() > 1;
        let flip_lat = has_rows && rises(&frame.grid.lat) != lat_rises;
        let flip_lon = has_columns && rises(&frame.grid.lon) != lon_rises;
        let mut turned = if flip_lat || flip_lon { frame.flipped(flip_lat, flip_lon)? } else { frame.clone() };
        if turned.grid.lon.iter().any(|x| !(0.0..360.0).contains(x)) {
            turned = turned.with_longitudes_from_zero()?;
        }
        let rows = self.grid.check(&turned.grid)?;
        turned.cropped(rows)
    }
}

fn missing_fields<'a>(missing: &[String], found: impl Iterator<Item = &'a Key>) -> Error {
    let found: Vec<String> = found.map(Key::to_string).collect();
    let found = if found.is_empty() { "nothing".to_string() } else { found.join(", ") };
    Error::input(format!("the model needs {}, which is missing; found: {found}", missing.join(", ")))
}
