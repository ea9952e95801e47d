//! Fourier codes of position, patch area, level and time (section "Fourier expansion" of the supplement of Bodnar et al. 2024).

use crate::error::{Error, Result};
use crate::forecast::Grid;
use safetensors::SafeTensors;

/// Roots of areas of the official grids' patches as the authors' software gives them: `areas` has a row for each row of patches, a column for each of
/// the few widths that rounding makes of one, and `columns` says which of these a column of patches has.
const OFFICIAL: &[u8] = include_bytes!("../../../weights/aurora/root_area.safetensors");

/// Name, rows (without the one that is dropped), columns, points along a patch's side of the official grids.
const OFFICIAL_GRIDS: [(&str, usize, usize, usize); 2] = [("0.25deg_p4", 720, 1440, 4), ("0.1deg_p10", 1800, 3600, 10)];

/// Shortest and longest wavelength of a code.
#[derive(Clone, Copy)]
pub(super) struct Range {
    name: &'static str,
    least: f64,
    most: f64,
    /// Whether other values than those within, and 0, are refused.
    checked: bool,
}

/// Degrees of latitude and longitude.
pub(super) const POSITION: Range = Range { name: "position", least: 0.01, most: 720.0, checked: true };
/// Root of a patch's area, km. The ends are the smallest patch of the authors' finest grid and the Earth's surface.
pub(super) const SCALE: Range =
    Range { name: "root of a patch's area", least: 1.0814085263058073e-4, most: 511207893.39581096, checked: true };
/// Hours ahead: a minute to three weeks.
pub(super) const LEAD_TIME: Range = Range { name: "lead time", least: 1.0 / 60.0, most: 504.0, checked: true };
/// Level, hPa.
pub(super) const LEVEL: Range = Range { name: "level", least: 0.01, most: 1e5, checked: true };
/// Hours since 1970: an hour to a year.
pub(super) const ABSOLUTE_TIME: Range = Range { name: "time", least: 1.0, most: 8766.0, checked: false };

/// For each value `width` numbers: width/2 sines, then width/2 cosines of 2π x / λ, wavelengths λ even in the logarithm. Computed in f64, given as f32.
///
/// # Errors
/// `Input` if a value is out of range.
pub(super) fn fourier(values: &[f64], width: usize, range: Range) -> Result<Vec<f32>> {
    let half = width / 2;
    let (low, high) = (range.least.log10(), range.most.log10());
    let step = if half > 1 { (high - low) / (half - 1) as f64 } else { 0.0 };
    let frequency: Vec<f64> = (0..half).map(|j| std::f64::consts::TAU / 10f64.powf(low + step * j as f64)).collect();
    let mut out = Vec::with_capacity(values.len() * width);
    for &x in values {
        let within = (range.least..=range.most).contains(&x.abs()) || x == 0.0;
        if !x.is_finite() || (range.checked && !within) {
            let Range { name, least, most, .. } = range;
            return Err(Error::input(format!("a {name} of {x}; the model's code knows {least} to {most}")));
        }
        out.extend(frequency.iter().map(|f| (x * f).sin() as f32));
        out.extend(frequency.iter().map(|f| (x * f).cos() as f32));
    }
    Ok(out)
}

/// Mean latitude and longitude of each patch, patches in rows from the first, in f32 as the authors' average pool.
pub(super) fn patch_means(grid: &Grid, patch: usize) -> Vec<(f32, f32)> {
    let mean = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |sum, x| sum + x) / (patch * patch) as f32;
    let (lat, lon) = (floats(&grid.lat), floats(&grid.lon));
    let mut out = Vec::with_capacity(lat.len() / patch * (lon.len() / patch));
    for rows in lat.chunks_exact(patch) {
        let north = mean(&mut rows.iter().flat_map(|&y| std::iter::repeat_n(y, patch)));
        for columns in lon.chunks_exact(patch) {
            let east = mean(&mut (0..patch).flat_map(|_| columns.iter().copied()));
            out.push((north, east));
        }
    }
    out
}

/// Root of each patch's area in km, between its outermost grid points, in f32: √(6371² π (sin φ₁ − sin φ₀) (λ₁ − λ₀)).
///
/// The factor π is the authors'. The shortest wavelength of the code of this number is about one ulp of it, so the code depends on the last bit
/// of f32 sines and roots, which libraries round differently: for the two official grids the authors' values come from a table, for others give them as
/// `aux.root_area` if they are known.
pub(super) fn root_area(grid: &Grid, patch: usize) -> Vec<f32> {
    if let Some(areas) = official(grid, patch) {
        return areas;
    }
    let widths = widths(grid, patch);
    let strips = floats(&grid.lat);
    let strips = strips.chunks_exact(patch).map(strip);
    strips.flat_map(|s| widths.iter().map(move |w| (s * w).sqrt())).collect()
}

/// The authors' values, if this is one of their grids.
fn official(grid: &Grid, patch: usize) -> Option<Vec<f32>> {
    let &(name, rows, columns, _) =
        OFFICIAL_GRIDS.iter().find(|g| (g.1, g.2, g.3) == (grid.lat.len(), grid.lon.len(), patch))?;
    let near = |values: &[f64], exact: &dyn Fn(f64) -> f64| {
        values.iter().enumerate().all(|(i, x)| (x - exact(i as f64)).abs() < 1e-5)
    };
    if !near(&grid.lat, &|i| 90.0 - 180.0 * i / rows as f64) || !near(&grid.lon, &|i| 360.0 * i / columns as f64) {
        return None;
    }
    let file = SafeTensors::deserialize(OFFICIAL).ok()?;
    let areas = file.tensor(&format!("{name}.areas")).ok()?;
    let kinds = *areas.shape().last()?;
    let areas: Vec<f32> = areas.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let columns = file.tensor(&format!("{name}.columns")).ok()?.data().to_vec();
    Some(areas.chunks_exact(kinds).flat_map(|row| columns.iter().map(move |&i| row[usize::from(i)])).collect())
}

/// 6371² π (sin φ₁ − sin φ₀) of a strip of rows.
fn strip(rows: &[f32]) -> f32 {
    /// 6371² π.
    const SPHERE: f32 = (6371.0 * 6371.0 * std::f64::consts::PI) as f32;
    let (most, least) = ends(rows);
    let sine = |degrees: f32| f64::from(radians(degrees)).sin() as f32;
    SPHERE * (sine(most) - sine(least))
}

/// Width of each column of patches, radians.
fn widths(grid: &Grid, patch: usize) -> Vec<f32> {
    let lon = floats(&grid.lon);
    let width = |columns: &[f32]| {
        let (most, least) = ends(columns);
        radians(most) - radians(least)
    };
    lon.chunks_exact(patch).map(width).collect()
}

fn radians(degrees: f32) -> f32 {
    degrees * (std::f64::consts::PI / 180.0) as f32
}

fn ends(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::NEG_INFINITY, f32::INFINITY), |(most, least), &x| (most.max(x), least.min(x)))
}

fn floats(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}
