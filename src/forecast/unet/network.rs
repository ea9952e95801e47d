//! The U-Net: points are rows of features.

use super::Config;
use crate::error::Result;
use crate::forecast::Weights;
use crate::forecast::exact::{self, Packed, Rows};
use rayon::prelude::*;

/// Added to variances.
const EPSILON: f32 = 1e-5;

/// A layer of weights and a bias.
struct Linear {
    weight: Packed,
    bias: Vec<f32>,
}

impl Linear {
    fn new(weights: &Weights, name: &str, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = weights.f32s(&format!("unet.{name}.weight"), &[outputs, inputs])?;
        let bias = weights.f32s(&format!("unet.{name}.bias"), &[outputs])?;
        Ok(Self { weight: Packed::from_linear(&weight, outputs, inputs), bias })
    }

    fn run(&self, x: &Rows, then: impl Fn(&mut [f32]) + Sync) -> Rows {
        exact::matmul(x, x.len(), &self.weight, &|_, out| {
            exact::add_bias(out, &self.bias);
            then(out);
        })
    }
}

/// A depthwise convolution, normalisation, two layers, added to what came in.
struct Block {
    kernel: usize,
    /// (row, column, feature).
    spatial: Vec<f32>,
    norm: [Vec<f32>; 2],
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(weights: &Weights, name: &str, width: usize, kernel: usize) -> Result<Self> {
        Ok(Self {
            kernel,
            spatial: weights.f32s(&format!("unet.{name}.spatial"), &[kernel, kernel, width])?,
            norm: norm(weights, &format!("{name}.norm"), width)?,
            up: Linear::new(weights, &format!("{name}.up"), width, 2 * width)?,
            down: Linear::new(weights, &format!("{name}.down"), 2 * width, width)?,
        })
    }

    fn run(&self, x: &mut Rows, grid: [usize; 2]) {
        let y = self.convolved(x, grid);
        let y = exact::layer_norm(&y, &self.norm[0], &self.norm[1], EPSILON);
        let y = self.down.run(&self.up.run(&y, exact::gelu), |_| {});
        x.data.iter_mut().zip(&y.data).for_each(|(x, y)| *x += y);
    }

    /// Columns wrap; beyond a pole lie the rows across it.
    fn convolved(&self, x: &Rows, [h, w]: [usize; 2]) -> Rows {
        let half = (self.kernel / 2) as isize;
        let mut out = Rows::zeros(h * w, x.n);
        out.data.par_chunks_mut(w * x.n).enumerate().for_each(|(row, out)| {
            for (a, taps) in (-half..).zip(self.spatial.chunks_exact(self.kernel * x.n)) {
                let (from, turn) = match row as isize + a {
                    r if r < 0 => (-1 - r, w / 2),
                    r if r >= h as isize => (2 * h as isize - 1 - r, w / 2),
                    r => (r, 0),
                };
                let from = &x.data[from as usize * w * x.n..][..w * x.n];
                for (e, tap) in (-half..).zip(taps.chunks_exact(x.n)) {
                    for (column, out) in out.chunks_exact_mut(x.n).enumerate() {
                        let column = (column as isize + e).rem_euclid(w as isize) as usize;
                        let from = &from[(column + turn) % w * x.n..][..x.n];
                        for ((out, x), tap) in out.iter_mut().zip(from).zip(tap) {
                            *out += x * tap;
                        }
                    }
                }
            }
        });
        out
    }
}

fn norm(weights: &Weights, name: &str, width: usize) -> Result<[Vec<f32>; 2]> {
    let of = |part: &str| weights.f32s(&format!("unet.{name}.{part}"), &[width]);
    Ok([of("weight")?, of("bias")?])
}

/// All layers.
pub struct Network {
    /// Learned values of each place, (row, column, value).
    pub places: Vec<f32>,
    enter: Linear,
    first: Vec<Block>,
    coarser: Linear,
    second: Vec<Block>,
    finer: Linear,
    third: Vec<Block>,
    norm: [Vec<f32>; 2],
    leave: Linear,
}

impl Network {
    pub fn new(weights: &Weights, c: &Config, inputs: usize, outputs: usize) -> Result<Self> {
        let ([w1, w2], [k1, k2]) = (c.widths, c.kernels);
        let blocks = |name: &str, n: usize, width: usize, kernel: usize| {
            (0..n).map(|i| Block::new(weights, &format!("{name}.{i}"), width, kernel)).collect::<Result<Vec<_>>>()
        };
        Ok(Self {
            places: weights.f32s("unet.places", &[c.lat.len(), c.lon.len(), c.statics])?,
            enter: Linear::new(weights, "enter", 4 * inputs, w1)?,
            first: blocks("first", c.blocks[0], w1, k1)?,
            coarser: Linear::new(weights, "coarser", 4 * w1, w2)?,
            second: blocks("second", c.blocks[1], w2, k2)?,
            finer: Linear::new(weights, "finer", w2, 4 * w1)?,
            third: blocks("third", c.blocks[2], w1, k1)?,
            norm: norm(weights, "norm", w1)?,
            leave: Linear::new(weights, "leave", w1, 4 * outputs)?,
        })
    }

    /// From the inputs of all points to their outputs.
    pub fn run(&self, x: Rows, [h, w]: [usize; 2]) -> Rows {
        let half = [h / 2, w / 2];
        let quarter = [h / 4, w / 4];
        let mut x = self.enter.run(&gathered(&x, [h, w]), |_| {});
        self.first.iter().for_each(|block| block.run(&mut x, half));
        let mut y = self.coarser.run(&gathered(&x, half), |_| {});
        self.second.iter().for_each(|block| block.run(&mut y, quarter));
        let y = spread(&self.finer.run(&y, |_| {}), quarter);
        x.data.iter_mut().zip(&y.data).for_each(|(x, y)| *x += y);
        self.third.iter().for_each(|block| block.run(&mut x, half));
        let x = exact::layer_norm(&x, &self.norm[0], &self.norm[1], EPSILON);
        spread(&self.leave.run(&x, |_| {}), half)
    }
}

/// Squares of 2 x 2 points as one, their features one after the other.
fn gathered(x: &Rows, [h, w]: [usize; 2]) -> Rows {
    let mut out = Vec::with_capacity(x.data.len());
    for (i, j) in (0..h).step_by(2).flat_map(|i| (0..w).step_by(2).map(move |j| (i, j))) {
        for row in [i, i + 1] {
            out.extend_from_slice(&x.data[(row * w + j) * x.n..][..2 * x.n]);
        }
    }
    Rows { n: 4 * x.n, data: out }
}

/// The opposite of [`gathered`], for a grid of `h` x `w` squares.
fn spread(x: &Rows, [h, w]: [usize; 2]) -> Rows {
    let n = x.n / 4;
    let mut out = Vec::with_capacity(x.data.len());
    for (i, row) in (0..h).flat_map(|i| [(i, 0), (i, 1)]) {
        for j in 0..w {
            out.extend_from_slice(&x.data[(i * w + j) * x.n + row * 2 * n..][..2 * n]);
        }
    }
    Rows { n, data: out }
}
