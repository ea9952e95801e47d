//! Semi-Lagrangian advection: each point takes the value from where the winds brought it.
//!
//! Winds are extrapolated to the middle of the step, 3/2 of the last less 1/2 of those before; the departure point is found by two fixed-point
//! iterations with bilinear winds; values are interpolated by Lagrange's cubics in rows and columns (Staniforth and Côté, Monthly Weather
//! Review 119, 1991). Beyond a pole lie the rows across it, where winds point the other way.

use super::Layout;
use crate::error::Result;
use crate::forecast::Weights;
use rayon::prelude::*;

/// Rows across a pole that trajectories may see.
const BEYOND: usize = 4;
/// Rows that a trajectory may cross in a step.
const MOST_ROWS: f32 = 2.0;

/// Winds to trajectories to values.
pub struct Advection {
    layout: Layout,
    /// Columns that an eastward wind of 1 m/s crosses in a step, of each row.
    columns: Vec<f32>,
    /// Rows that a northward wind of 1 m/s crosses in a step, of each row; negative if rows run southward.
    rows: Vec<f32>,
}

impl Advection {
    pub fn new(weights: &Weights, layout: Layout) -> Result<Self> {
        let columns = weights.f32s("advection.columns", &[layout.rows])?;
        let rows = weights.f32s("advection.rows", &[layout.rows])?;
        Ok(Self { layout, columns, rows })
    }

    /// The advected variables' levels, as they would be if only carried along.
    pub fn run(&self, before: &[f32], now: &[f32]) -> Vec<f32> {
        let points = self.layout.points();
        let levels = self.layout.wind[0].len();
        let carried: Vec<Vec<f32>> = (0..levels).into_par_iter().map(|level| self.level(before, now, level)).collect();
        let variables = self.layout.advected.len();
        let mut out = Vec::with_capacity(variables * levels * points);
        for variable in 0..variables {
            for level in &carried {
                out.extend_from_slice(&level[variable * points..][..points]);
            }
        }
        out
    }

    /// All variables of a level.
    fn level(&self, before: &[f32], now: &[f32], level: usize) -> Vec<f32> {
        let (h, w) = (self.layout.rows, self.layout.columns);
        let of = |all: &[f32], channel: usize| all[channel * h * w..][..h * w].to_vec();
        let [mut dx, mut dy] = [0, 1].map(|i| {
            let channel = self.layout.wind[i].start + level;
            let (before, now) = (of(before, channel), of(now, channel));
            now.iter().zip(&before).map(|(x, y)| 1.5 * x - 0.5 * y).collect::<Vec<f32>>()
        });
        let most_columns = w as f32 / 4.0;
        for row in 0..h {
            for at in row * w..(row + 1) * w {
                dx[at] = (dx[at] * self.columns[row]).clamp(-most_columns, most_columns);
                dy[at] = (dy[at] * self.rows[row]).clamp(-MOST_ROWS, MOST_ROWS);
            }
        }
        let flow = [self.extended(&dx, -1.0), self.extended(&dy, -1.0)];
        for _ in 0..2 {
            for at in 0..h * w {
                let (row, column) = ((at / w) as f32, (at % w) as f32);
                let (j, fy) = cell(row - 0.5 * dy[at]);
                let (i, fx) = cell(column - 0.5 * dx[at]);
                let [x, y] = [0, 1].map(|k| {
                    let corner = |a: isize, e: isize| flow[k][self.place(j + a, i + e)];
                    let south = corner(0, 0) + fx * (corner(0, 1) - corner(0, 0));
                    let north = corner(1, 0) + fx * (corner(1, 1) - corner(1, 0));
                    south + fy * (north - south)
                });
                (dx[at], dy[at]) = (x, y);
            }
        }
        let fields: Vec<Vec<f32>> = (self.layout.advected.iter())
            .map(|channels| {
                let is_wind = self.layout.wind.contains(channels);
                self.extended(&of(now, channels.start + level), if is_wind { -1.0 } else { 1.0 })
            })
            .collect();
        let mut out = vec![0.0; fields.len() * h * w];
        for at in 0..h * w {
            let (j, fy) = cell((at / w) as f32 - dy[at]);
            let (i, fx) = cell((at % w) as f32 - dx[at]);
            let (wx, wy) = (cubic(fx), cubic(fy));
            let columns = [-1, 0, 1, 2].map(|e| self.place(0, i + e));
            for (field, out) in fields.iter().zip(out.chunks_exact_mut(h * w)) {
                let mut sum = 0.0;
                for (a, wy) in (-1..).zip(wy) {
                    let row = self.place(j + a, 0);
                    let first = row - self.place(0, 0);
                    let mut line = 0.0;
                    for (column, wx) in columns.iter().zip(wx) {
                        line += wx * field[first + column];
                    }
                    sum += wy * line;
                }
                out[at] = sum;
            }
        }
        out
    }

    /// A field with the rows beyond the poles, times `sign` there.
    fn extended(&self, field: &[f32], sign: f32) -> Vec<f32> {
        let (h, w) = (self.layout.rows, self.layout.columns);
        let across = |row: usize| (0..w).map(move |i| field[row * w + (i + w / 2) % w] * sign);
        let south = (0..BEYOND).rev().flat_map(across);
        let north = (h - BEYOND..h).rev().flat_map(across);
        south.chain(field.iter().copied()).chain(north).collect()
    }

    /// Index into such a field. Rows are those that displacements, which are clamped, lead to; not so if they are no numbers.
    fn place(&self, row: isize, column: isize) -> usize {
        let (h, w) = (self.layout.rows as isize, self.layout.columns as isize);
        let beyond = BEYOND as isize;
        (row.clamp(-beyond, h + beyond - 1) + beyond) as usize * w as usize + column.rem_euclid(w) as usize
    }
}

/// The cell that a position is in, and the place within.
fn cell(position: f32) -> (isize, f32) {
    let cell = position.floor();
    (cell as isize, position - cell)
}

/// Lagrange's weights for the points -1, 0, 1, 2.
fn cubic(f: f32) -> [f32; 4] {
    let (a, b, c, d) = (f + 1.0, f, f - 1.0, f - 2.0);
    [b * c * d * (-1.0 / 6.0), a * c * d * 0.5, a * b * d * -0.5, a * b * c * (1.0 / 6.0)]
}
