//! Advection: what a field will be if it is carried along by the winds of now, and nothing else happens. A forecaster without weights.
//!
//! Semi-Lagrangian (A. Staniforth and J. Côté 1991, doi:10.1175/1520-0493(1991)119<2206:SLISFA>2.0.CO;2), on the sphere in Cartesian coordinates
//! (H. Ritchie 1987, doi:10.1175/1520-0493(1987)115<0608:SLAOAS>2.0.CO;2): a point `r` comes from `d = 2 (r·m) m − r`, with the middle of its way
//! `m = r − V Δt / 2a` (made a unit vector again), first with the wind `V` at `r`, then with that at `m`. Winds at `m` are interpolated
//! linearly, fields at `d` with cubic polynomials. Wind is carried along as a vector. Rows go on beyond the poles, where they are complete.
//!
//! Class: `BitExact`. All is f64 of add, subtract, multiply, divide and square root in a fixed order; angles have series of our own. So forecasts
//! are the same to the last bit everywhere, and no list is needed for encoder and decoder to agree.

use super::group::Group;
use super::{Forecaster, Frame, Grid, GridNeed, Key, Needs};
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Name of the model in archives. What it computes never changes under this name.
pub const NAME: &str = "advection";

/// Radius of the Earth, m.
const RADIUS: f64 = 6_371_229.0;
/// Faster winds (m/s) are no winds.
const MAX_WIND: f64 = 1e3;
/// Rows and columns around a field.
const MARGIN: usize = 2;

/// Fields carried along by the winds of their level.
pub struct Advection {
    needs: Needs,
    globe: Globe,
}

impl Advection {
    /// For the levels of a group that have both winds, `u` and `v`; steps are as long as most are.
    ///
    /// # Errors
    /// `Input` if no level has, or there is one step only.
    pub fn new(group: &Group) -> Result<Self> {
        let keys: Vec<&Key> = group.members.iter().flat_map(|m| m.keys.iter().flatten()).collect();
        let has = |name: &str, level| keys.iter().filter(|k| k.name == name && k.level_hpa == level).count() == 1;
        let has_winds = |key: &Key| has("u", key.level_hpa) && has("v", key.level_hpa);
        let gives: Vec<Key> = keys.iter().filter(|k| has_winds(k)).map(|&k| k.clone()).collect();
        let fields: Vec<Key> = gives.iter().filter(|k| k.name == "u" || k.name == "v").cloned().collect();
        let step_s = usual_step(&group.times);
        let (Some(step_s), false) = (step_s, fields.is_empty()) else {
            return Err(Error::input("no level has both winds, u and v, at more than one time"));
        };
        // Turned as frames will be.
        let (rows, columns) = group.grid.shape();
        let mut frame = Frame::new(0, group.grid.clone());
        if columns > 1 && group.grid.lon[1] < group.grid.lon[0] {
            frame = frame.flipped(false, true)?;
        }
        frame = frame.with_longitudes_from_zero()?;
        if rows < 2 || columns < 4 {
            return Err(Error::input(format!("{} is too small for winds to carry anything along", group.grid)));
        }
        let globe = Globe::new(&frame.grid);
        let (statics, forcings, grid) = (vec![], vec![], GridNeed::Exact(frame.grid));
        Ok(Self { needs: Needs { history: 1, step_s, fields, statics, forcings, gives, grid }, globe })
    }
}

/// The most frequent time from one step to the next, the shortest of such.
fn usual_step(times: &[i64]) -> Option<i64> {
    let mut counts = BTreeMap::new();
    times.windows(2).map(|w| w[1] - w[0]).filter(|&s| s > 0).for_each(|s| *counts.entry(s).or_insert(0) += 1);
    counts.into_iter().max_by_key(|&(s, n)| (n, std::cmp::Reverse(s))).map(|(s, _)| s)
}

impl Forecaster for Advection {
    fn needs(&self) -> &Needs {
        &self.needs
    }

    fn step(&self, history: &[Frame], _: Option<&Frame>, _: usize) -> Result<Frame> {
        let history = self.needs.prepare(history)?;
        let Some(last) = history.last() else { return Err(Error::input("no frame to start from")) };
        let mut out = Frame::new(last.time_unix_s + self.needs.step_s, last.grid.clone());
        for wind in self.needs.gives.iter().filter(|k| k.name == "u") {
            let level = wind.level_hpa;
            let north = Key { name: "v".into(), level_hpa: level };
            let [u, v] = [last.values(wind)?, last.values(&north)?].map(|w| self.globe.padded(&w, -1.0));
            let from = self.globe.departures(&u, &v, self.needs.step_s as f64);
            let [u, v] = self.globe.carried_wind(&u, &v, &from);
            out.insert_values(wind.clone(), u)?;
            out.insert_values(north.clone(), v)?;
            let others = self.needs.gives.iter().filter(|k| k.level_hpa == level && *k != wind && **k != north);
            for key in others.filter(|k| last.get(k).is_some()) {
                let field = self.globe.padded(&last.values(key)?, 1.0);
                out.insert_values(key.clone(), self.globe.carried(&field, &from))?;
            }
        }
        Ok(out)
    }

    fn tolerance(&self) -> f64 {
        0.0
    }
}

type Vector = [f64; 3];

fn dot(a: Vector, b: Vector) -> f64 {
    (a[0] * b[0] + a[1] * b[1]) + a[2] * b[2]
}

fn sum(a: Vector, x: f64, b: Vector, y: f64) -> Vector {
    [a[0] * x + b[0] * y, a[1] * x + b[1] * y, a[2] * x + b[2] * y]
}

/// Where a value comes from: the cell of the grid, of padded fields, and the place in it.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    column: usize,
    down: f64,
    along: f64,
    /// The point itself, as a unit vector.
    at: Vector,
}

/// A latitude-longitude grid with its margins.
struct Globe {
    rows: usize,
    columns: usize,
    /// Of rows with their margins, degrees, going one way.
    latitudes: Vec<f64>,
    /// Of columns, and one more to close the circle; rising.
    longitudes: Vec<f64>,
    /// For each row, margins and all, the row that it is and whether it lies beyond a pole.
    sources: Vec<(usize, bool)>,
    is_circle: bool,
    /// Sine and cosine of each row's latitude and column's longitude.
    row_angles: Vec<(f64, f64)>,
    column_angles: Vec<(f64, f64)>,
}

impl Globe {
    fn new(grid: &Grid) -> Self {
        let (rows, columns) = grid.shape();
        let mut longitudes: Vec<f64> = grid.lon.to_vec();
        // Columns go round if the gap between the last and the first is like the others.
        let a_column = (longitudes[columns - 1] - longitudes[0]) / (columns - 1) as f64;
        let gap = longitudes[0] + 360.0 - longitudes[columns - 1];
        let is_circle = (gap - a_column).abs() < 0.01 * a_column;
        longitudes.push(if is_circle { longitudes[0] + 360.0 } else { longitudes[columns - 1] + a_column });

        let lat = &grid.lat;
        let mut sources: Vec<(usize, bool)> = (0..rows).map(|i| (i, false)).collect();
        let mut latitudes = lat.to_vec();
        for end in 0..2 {
            let (edge, next) = if end == 0 { (0, 1) } else { (rows - 1, rows - 2) };
            let a_row = (lat[edge] - lat[next]).abs();
            let pole = if lat[edge] > lat[next] { 90.0 } else { -90.0 };
            let to_pole = (pole - lat[edge]).abs();
            // Half turns need the column on the other side.
            let goes_on = is_circle && columns.is_multiple_of(2) && to_pole < 0.75 * a_row;
            for k in 1..=MARGIN {
                let inwards = |k: usize| if end == 0 { k.min(rows - 1) } else { (rows - 1).saturating_sub(k) };
                let (latitude, source) = if goes_on {
                    // A row on the pole is its own other side.
                    let row = inwards(if to_pole < 0.05 * a_row { k } else { k - 1 });
                    (2.0 * pole - lat[row], (row, true))
                } else {
                    (lat[edge] + (lat[edge] - lat[next]) * k as f64, (edge, false))
                };
                if end == 0 {
                    latitudes.insert(0, latitude);
                    sources.insert(0, source);
                } else {
                    latitudes.push(latitude);
                    sources.push(source);
                }
            }
        }
        let row_angles = lat.iter().map(|&x| sin_cos(x)).collect();
        let column_angles = grid.lon.iter().map(|&x| sin_cos(x)).collect();
        Self { rows, columns, latitudes, longitudes, sources, is_circle, row_angles, column_angles }
    }

    fn stride(&self) -> usize {
        self.columns + 2 * MARGIN
    }

    /// A field with margins; beyond the poles its values have `sign`. What is no number is 0.
    fn padded(&self, field: &[f32], sign: f64) -> Vec<f64> {
        let mut out = Vec::with_capacity(self.sources.len() * self.stride());
        for &(row, is_beyond) in &self.sources {
            let row = &field[row * self.columns..][..self.columns];
            let n = self.columns as isize;
            for j in -(MARGIN as isize)..n + MARGIN as isize {
                let shift = if is_beyond { n / 2 } else { 0 };
                let j = if self.is_circle { (j + shift).rem_euclid(n) } else { j.clamp(0, n - 1) };
                let value = f64::from(row[j as usize]);
                let value = if value.is_finite() { value } else { 0.0 };
                out.push(if is_beyond { sign * value } else { value });
            }
        }
        out
    }

    /// Unit vectors at a point of the grid: upwards, east, north.
    fn frame(&self, row: usize, column: usize) -> [Vector; 3] {
        axes(self.row_angles[row], self.column_angles[column])
    }

    /// Finds the cell that a point, a unit vector, lies in.
    fn place(&self, at: Vector) -> Place {
        let round = (at[0] * at[0] + at[1] * at[1]).sqrt();
        let latitude = degrees(at[2], round);
        let longitude = degrees(at[1], at[0]);
        let mut longitude = if longitude < 0.0 { longitude + 360.0 } else { longitude };
        if longitude < self.longitudes[0] && self.is_circle {
            longitude += 360.0;
        }
        let (column, along) = cell(&self.longitudes, longitude, 0, self.columns - usize::from(!self.is_circle));
        let (row, down) = cell(&self.latitudes, latitude, MARGIN - 1, self.latitudes.len() - MARGIN);
        Place { row, column: column + MARGIN, down, along, at }
    }

    /// The wind at a place between four points, as a vector.
    fn wind(&self, u: &[f64], v: &[f64], p: &Place) -> Vector {
        let linear = |field: &[f64]| {
            let at = p.row * self.stride() + p.column;
            let (above, below) = (&field[at..at + 2], &field[at + self.stride()..][..2]);
            let above = above[0] * (1.0 - p.along) + above[1] * p.along;
            let below = below[0] * (1.0 - p.along) + below[1] * p.along;
            above * (1.0 - p.down) + below * p.down
        };
        let [_, east, north] = axes_at(p.at);
        sum(east, sound(linear(u)), north, sound(linear(v)))
    }

    /// Where the value of each point comes from.
    fn departures(&self, u: &[f64], v: &[f64], seconds: f64) -> Vec<Place> {
        let reach = seconds / RADIUS;
        let half = |r: Vector, wind: Vector| {
            let m = sum(r, 1.0, wind, -0.5 * reach);
            let len = dot(m, m).sqrt();
            [m[0] / len, m[1] / len, m[2] / len]
        };
        let of_point = |row: usize, column: usize| {
            let [r, east, north] = self.frame(row, column);
            let at = (row + MARGIN) * self.stride() + column + MARGIN;
            let here = sum(east, sound(u[at]), north, sound(v[at]));
            let middle = self.place(half(r, here));
            let m = half(r, self.wind(u, v, &middle));
            self.place(sum(m, 2.0 * dot(r, m), r, -1.0))
        };
        let rows = (0..self.rows).into_par_iter();
        rows.flat_map_iter(|row| (0..self.columns).map(move |column| of_point(row, column))).collect()
    }

    /// The value of a field at a place: cubic polynomials through four rows of four.
    fn cubic(&self, field: &[f64], p: &Place) -> f64 {
        let (wy, wx) = (lagrange(p.down), lagrange(p.along));
        let mut of_rows = [0.0; 4];
        for (k, out) in of_rows.iter_mut().enumerate() {
            let at = (p.row + k - 1) * self.stride() + p.column - 1;
            let x = &field[at..at + 4];
            *out = (x[0] * wx[0] + x[1] * wx[1]) + (x[2] * wx[2] + x[3] * wx[3]);
        }
        (of_rows[0] * wy[0] + of_rows[1] * wy[1]) + (of_rows[2] * wy[2] + of_rows[3] * wy[3])
    }

    /// A field carried along.
    fn carried(&self, field: &[f64], from: &[Place]) -> Vec<f32> {
        from.par_iter().with_min_len(1 << 10).map(|p| self.cubic(field, p) as f32).collect()
    }

    /// Winds carried along as vectors: what was east there is another direction here.
    fn carried_wind(&self, u: &[f64], v: &[f64], from: &[Place]) -> [Vec<f32>; 2] {
        let of_point = |(i, p): (usize, &Place)| {
            let [_, east, north] = axes_at(p.at);
            let wind = sum(east, self.cubic(u, p), north, self.cubic(v, p));
            let [_, east, north] = self.frame(i / self.columns, i % self.columns);
            (dot(wind, east) as f32, dot(wind, north) as f32)
        };
        let (u, v) = from.par_iter().enumerate().with_min_len(1 << 10).map(of_point).unzip();
        [u, v]
    }
}

/// A wind, m/s, or none.
fn sound(wind: f64) -> f64 {
    if wind.abs() < MAX_WIND { wind } else { 0.0 }
}

/// Upwards, east and north, of sine and cosine of latitude and longitude.
fn axes((sin_lat, cos_lat): (f64, f64), (sin_lon, cos_lon): (f64, f64)) -> [Vector; 3] {
    [
        [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat],
        [-sin_lon, cos_lon, 0.0],
        [-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat],
    ]
}

/// The same, of a point as a unit vector.
fn axes_at(at: Vector) -> [Vector; 3] {
    let round = (at[0] * at[0] + at[1] * at[1]).sqrt();
    let longitude = if round > 1e-12 { (at[1] / round, at[0] / round) } else { (0.0, 1.0) };
    axes((at[2], round), longitude)
}

/// The cell between two of `edges`, monotonic, that `x` lies in, from cell `first` to before `last`, and the place in it; at the ends where it lies
/// beyond.
fn cell(edges: &[f64], x: f64, first: usize, last: usize) -> (usize, f64) {
    let rises = edges[last] > edges[first];
    let is_before = |edge: f64| if rises { edge <= x } else { edge >= x };
    let (mut low, mut high) = (first, last);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if is_before(edges[middle]) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let share = (x - edges[low]) / (edges[low + 1] - edges[low]);
    // Not `clamp`, which keeps what is no number.
    (low, if share > 0.0 { if share < 1.0 { share } else { 1.0 } } else { 0.0 })
}

/// Weights of the values at −1, 0, 1 and 2 for the place `x` between 0 and 1.
fn lagrange(x: f64) -> [f64; 4] {
    let (a, b, c) = (x + 1.0, x - 1.0, x - 2.0);
    [x * b * c * (-1.0 / 6.0), a * b * c * 0.5, a * x * c * -0.5, a * x * b * (1.0 / 6.0)]
}

const RADIANS: f64 = std::f64::consts::PI / 180.0;

/// Sine and cosine of an angle in degrees, to some 1e-15: Taylor's series within 45 degrees.
fn sin_cos(degrees: f64) -> (f64, f64) {
    let turns = (degrees / 90.0).round();
    let x = (degrees - turns * 90.0) * RADIANS;
    let xx = x * x;
    let (mut sin, mut cos) = (0.0, 0.0);
    for k in (0..10).rev() {
        let n = f64::from(2 * k);
        cos = 1.0 - xx / ((n + 1.0) * (n + 2.0)) * cos;
        sin = 1.0 - xx / ((n + 2.0) * (n + 3.0)) * sin;
    }
    let sin = x * sin;
    match turns.rem_euclid(4.0) as u8 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// The angle of the point (`x`, `y`) in degrees, −180 to 180, to some 1e-10 degrees: the arc tangent's series below tan(π/8).
fn degrees(y: f64, x: f64) -> f64 {
    const TAN_PI_8: f64 = 0.414_213_562_373_095_03;
    let (a, b) = (x.abs(), y.abs());
    let (small, large) = if a > b { (b, a) } else { (a, b) };
    let has_angle = large > 0.0;
    if !has_angle {
        return 0.0;
    }
    let t = small / large;
    let (start, t) = if t > TAN_PI_8 { (45.0, (t - 1.0) / (t + 1.0)) } else { (0.0, t) };
    let tt = t * t;
    let mut series = 0.0;
    for k in (0..15).rev() {
        series = 1.0 / f64::from(2 * k + 1) - tt * series;
    }
    let angle = start + t * series / RADIANS;
    let angle = if a > b { angle } else { 90.0 - angle };
    let angle = if x < 0.0 { 180.0 - angle } else { angle };
    if y < 0.0 { -angle } else { angle }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::group::Member;

    fn group(lat: Vec<f64>, lon: Vec<f64>) -> Group {
        let member = |name: &str| Member {
            variable: 0,
            name: name.into(),
            keys: vec![Some(Key { name: name.into(), level_hpa: Some(500) })],
        };
        let members = ["u", "v", "t"].map(member).into();
        let grid = Grid::new(lat, lon).unwrap();
        Group::at(members, grid, vec![0, 21_600, 43_200])
    }

    fn gaussian_like(n: usize) -> Vec<f64> {
        (0..n).map(|i| 90.0 - 180.0 * (i as f64 + 0.5) / n as f64).collect()
    }

    #[test]
    fn angles_are_right() {
        for i in -2000..2000 {
            let x = f64::from(i) * 0.37;
            let (sin, cos) = sin_cos(x);
            assert!((sin - (x * RADIANS).sin()).abs() < 1e-14 && (cos - (x * RADIANS).cos()).abs() < 1e-14, "{x}");
            let back = degrees(3.0 * sin, 3.0 * cos);
            let expected = (x + 180.0).rem_euclid(360.0) - 180.0;
            assert!((back - expected).abs() < 1e-9 || (back - expected).abs() > 360.0 - 1e-9, "{x}: {back} {expected}");
        }
        assert_eq!(degrees(0.0, 0.0), 0.0);
        assert_eq!(degrees(f64::NAN, 1.0), 0.0);
    }

    /// Solid rotation about an axis that is not the Earth's carries a field over the poles and across the date line.
    #[test]
    fn solid_rotation_carries_fields_and_winds_along() {
        for (rows, columns, from) in [(96, 192, 0.0), (97, 192, -180.0), (64, 128, 1.5)] {
            let lat = if rows % 2 == 1 {
                (0..rows).map(|i| -90.0 + 180.0 * i as f64 / (rows - 1) as f64).collect()
            } else {
                gaussian_like(rows)
            };
            let lon: Vec<f64> = (0..columns).map(|j| from + 360.0 * j as f64 / columns as f64).collect();
            let group = group(lat.clone(), lon.clone());
            let model = Advection::new(&group).unwrap();
            // A turn about this axis, rad/s: some 40 m/s at its equator.
            let axis = [0.6, 0.0, 0.8];
            let omega = 40.0 / RADIUS;
            let cross = |a: Vector, b: Vector| {
                [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
            };
            let field = |r: Vector| 3.0 * r[0] * r[1] + 2.0 * r[2] * r[2] * r[1] + r[0];
            let mut frame = Frame::new(0, group.grid.clone());
            let (mut u, mut v, mut t) = (vec![], vec![], vec![]);
            let (mut expected, mut winds) = (vec![], [vec![], vec![]]);
            for &y in &lat {
                for &x in &lon {
                    let [r, east, north] = axes(sin_cos(y), sin_cos(x));
                    let wind = cross(axis, r).map(|w| w * omega * RADIUS);
                    u.push(dot(wind, east) as f32);
                    v.push(dot(wind, north) as f32);
                    t.push(field(r) as f32);
                    // Turned back by the angle of six hours (Rodrigues).
                    let angle = -omega * 21_600.0;
                    let (s, c) = (angle.sin(), angle.cos());
                    let turned = sum(sum(r, c, cross(axis, r), s), 1.0, axis, dot(axis, r) * (1.0 - c));
                    expected.push(field(turned));
                    // The wind there, as a vector seen from here.
                    let wind = cross(axis, turned).map(|w| w * omega * RADIUS);
                    winds[0].push(dot(wind, east));
                    winds[1].push(dot(wind, north));
                }
            }
            for (name, values) in [("u", &u), ("v", &v), ("t", &t)] {
                frame.insert_values(Key { name: name.into(), level_hpa: Some(500) }, values.clone()).unwrap();
            }
            let out = model.step(&[frame], None, 0).unwrap();
            // Back to the file's order of columns.
            let shift = out.grid.lon.iter().position(|&x| (x - lon[0].rem_euclid(360.0)).abs() < 1e-9).unwrap();
            let get = |name: &str| {
                let values = out.values(&Key { name: name.into(), level_hpa: Some(500) }).unwrap();
                let turned = values.chunks(columns).flat_map(|r| [&r[shift..], &r[..shift]].concat());
                turned.collect::<Vec<f32>>()
            };
            let worst = |got: &[f32], expected: &[f64]| {
                got.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
            };
            let still = worst(&t, &expected);
            let error = worst(&get("t"), &expected);
            assert!(error < 0.01 * still, "{rows}: {error} of {still}");
            for (name, expected) in ["u", "v"].iter().zip(&winds) {
                let error = worst(&get(name), expected);
                assert!(error < 0.05, "{rows} {name}: {error}");
            }
        }
    }

    #[test]
    fn odd_grids_and_odd_winds_do_no_harm() {
        for (lat, lon) in [
            ((0..9).map(|i| 60.0 - 2.0 * i as f64).collect::<Vec<f64>>(), (0..7).map(|j| 350.0 + j as f64).collect()),
            (vec![-90.0, 90.0], vec![0.0, 90.0, 180.0, 270.0]),
            (gaussian_like(5), (0..5).map(|j| 72.0 * j as f64).collect::<Vec<f64>>()),
        ] {
            let lon: Vec<f64> = lon;
            let group = group(lat.clone(), lon.clone());
            let model = Advection::new(&group).unwrap();
            for wind in [0.0, f32::NAN, f32::INFINITY, 1e30, 999.0, -999.0] {
                let mut frame = Frame::new(0, group.grid.clone());
                for name in ["u", "v", "t"] {
                    let value = if name == "t" { 7.0 } else { wind };
                    let key = Key { name: name.into(), level_hpa: Some(500) };
                    frame.insert_values(key, vec![value; lat.len() * lon.len()]).unwrap();
                }
                let out = model.step(&[frame], None, 0).unwrap();
                let t = out.values(&Key { name: "t".into(), level_hpa: Some(500) }).unwrap();
                assert!(t.iter().all(|t| (t - 7.0).abs() < 1e-5), "{wind}: {t:?}");
            }
        }
    }

    #[test]
    fn it_says_what_it_lacks() {
        let mut none = group(gaussian_like(8), (0..16).map(|j| 22.5 * j as f64).collect());
        none.members.remove(0);
        assert!(Advection::new(&none).err().unwrap().to_string().contains("u and v"));
        assert_eq!(usual_step(&[0, 6, 12, 13, 14, 20]), Some(6));
        assert_eq!(usual_step(&[0, 6, 12, 13, 14]), Some(1));
        assert_eq!(usual_step(&[5]), None);
    }
}
