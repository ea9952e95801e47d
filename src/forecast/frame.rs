//! Fields of one moment, as models take and give them.

use super::names::Key;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A latitude-longitude grid, in degrees.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Latitude of each row, degrees north.
    pub lat: Arc<[f64]>,
    /// Longitude of each column, degrees east.
    pub lon: Arc<[f64]>,
}

impl Grid {
    /// A grid of the given rows and columns.
    ///
    /// # Errors
    /// `Input` if there are none, if a latitude is beyond a pole, or if rows or columns are not strictly monotonic.
    pub fn new(lat: impl Into<Arc<[f64]>>, lon: impl Into<Arc<[f64]>>) -> Result<Self> {
        let grid = Self { lat: lat.into(), lon: lon.into() };
        let monotonic = |v: &[f64]| v.windows(2).all(|w| w[1] > w[0]) || v.windows(2).all(|w| w[1] < w[0]);
        let finite = grid.lat.iter().chain(grid.lon.iter()).all(|x| x.is_finite());
        // 1e-3: coordinates stored as f32 may pass the pole by their rounding.
        let sound =
            finite && grid.lat.iter().all(|x| x.abs() <= 90.001) && !grid.lat.is_empty() && !grid.lon.is_empty();
        if !sound || !monotonic(&grid.lat) || !monotonic(&grid.lon) {
            return Err(Error::input(format!("{grid} is not a latitude-longitude grid")));
        }
        Ok(grid)
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.lat.len(), self.lon.len())
    }

    /// The grid whose first `rows` rows these are.
    pub fn cropped(&self, rows: usize) -> Self {
        Self { lat: self.lat[..rows.min(self.lat.len())].into(), lon: self.lon.clone() }
    }

    /// Whether every row and column lies within `tolerance` degrees of `other`'s.
    pub fn agrees(&self, other: &Grid, tolerance: f64) -> bool {
        let near =
            |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= tolerance);
        near(&self.lat, &other.lat) && near(&self.lon, &other.lon)
    }
}

impl std::fmt::Display for Grid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ends = |v: &[f64]| match v {
            [] => "none".to_string(),
            [one] => format!("{one}"),
            [first, .., last] => format!("{first} to {last}"),
        };
        let (h, w) = self.shape();
        write!(f, "a grid of {h} x {w} (latitude {}, longitude {})", ends(&self.lat), ends(&self.lon))
    }
}

/// The fields of one moment on one grid. A copy shares the values.
///
/// Each field is a tensor of shape (rows, columns) and type f32, in the variable's own units (those of ERA5), on any device.
/// Fields that never change (orography, masks) are in every frame too.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Valid time, seconds since 1970-01-01 00:00 UTC.
    pub time_unix_s: i64,
    /// Where the values lie.
    pub grid: Grid,
    fields: BTreeMap<Key, Tensor>,
}

impl Frame {
    /// A frame without fields.
    pub fn new(time_unix_s: i64, grid: Grid) -> Self {
        Self { time_unix_s, grid, fields: BTreeMap::new() }
    }

    /// Puts in a field, or replaces it. It becomes f32.
    ///
    /// # Errors
    /// `Input` if its shape is not the grid's.
    pub fn insert(&mut self, key: Key, field: Tensor) -> Result<()> {
        let shape = self.grid.shape();
        if field.dims() != [shape.0, shape.1] {
            return Err(Error::input(format!("{key} has shape {:?}, not that of {}", field.dims(), self.grid)));
        }
        self.fields.insert(key, field.to_dtype(DType::F32)?);
        Ok(())
    }

    /// Puts in a field from host memory, in C order.
    ///
    /// # Errors
    /// `Input` if the number of values is not the grid's.
    pub fn insert_values(&mut self, key: Key, values: Vec<f32>) -> Result<()> {
        let (h, w) = self.grid.shape();
        if h.checked_mul(w) != Some(values.len()) {
            return Err(Error::input(format!("{key} has {} values, not those of {}", values.len(), self.grid)));
        }
        self.insert(key, Tensor::from_vec(values, (h, w), &Device::Cpu)?)
    }

    /// A field.
    pub fn get(&self, key: &Key) -> Option<&Tensor> {
        self.fields.get(key)
    }

    /// A field, or an error that lists what there is.
    ///
    /// # Errors
    /// `Input` if it is not there.
    pub fn require(&self, key: &Key) -> Result<&Tensor> {
        self.fields.get(key).ok_or_else(|| {
            let found: Vec<String> = self.fields.keys().map(Key::to_string).collect();
            Error::input(format!("there is no {key} among the fields: {}", found.join(", ")))
        })
    }

    /// A field's values in host memory, in C order.
    ///
    /// # Errors
    /// `Input` if it is not there, or the device does not give it.
    pub fn values(&self, key: &Key) -> Result<Vec<f32>> {
        Ok(self.require(key)?.flatten_all()?.to_vec1::<f32>()?)
    }

    /// All fields, by name and level.
    pub fn fields(&self) -> impl Iterator<Item = (&Key, &Tensor)> {
        self.fields.iter()
    }

    /// The first `rows` rows of every field.
    ///
    /// # Errors
    /// `Input` if there are fewer rows.
    pub fn cropped(&self, rows: usize) -> Result<Self> {
        if rows == self.grid.lat.len() {
            return Ok(self.clone());
        }
        let mut out = Frame::new(self.time_unix_s, self.grid.cropped(rows));
        for (key, field) in &self.fields {
            out.fields.insert(key.clone(), field.narrow(0, 0, rows)?.contiguous()?);
        }
        Ok(out)
    }

    /// The same fields with rows (`lat`) or columns (`lon`) in the opposite order.
    ///
    /// # Errors
    /// `Input` if the device refuses.
    pub fn flipped(&self, lat: bool, lon: bool) -> Result<Self> {
        let turn = |v: &Arc<[f64]>, yes: bool| if yes { v.iter().rev().copied().collect() } else { v.clone() };
        let grid = Grid { lat: turn(&self.grid.lat, lat), lon: turn(&self.grid.lon, lon) };
        let mut out = Frame::new(self.time_unix_s, grid);
        let axes: Vec<usize> = [(lat, 0), (lon, 1)].iter().filter(|a| a.0).map(|a| a.1).collect();
        for (key, field) in &self.fields {
            out.fields.insert(key.clone(), field.flip(&axes)?);
        }
        Ok(out)
    }

    /// The same fields with columns turned round the globe so that longitudes rise from the least one in [0, 360).
    ///
    /// # Errors
    /// `Input` if the device refuses.
    pub fn with_longitudes_from_zero(&self) -> Result<Self> {
        let lon: Vec<f64> = self.grid.lon.iter().map(|x| x.rem_euclid(360.0)).collect();
        let first = lon.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
        let turned: Vec<f64> = lon[first..].iter().chain(&lon[..first]).copied().collect();
        let mut out = Frame::new(self.time_unix_s, Grid { lat: self.grid.lat.clone(), lon: turned.into() });
        for (key, field) in &self.fields {
            let n = field.dim(1)?;
            let turned = match first {
                0 => field.clone(),
                k => Tensor::cat(&[field.narrow(1, k, n - k)?, field.narrow(1, 0, k)?], 1)?,
            };
            out.fields.insert(key.clone(), turned);
        }
        Ok(out)
    }
}
