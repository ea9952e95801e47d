//! The registry: each predictor with the inputs that are hard for it. A line in [`ENTRIES`] buys round-trip, bound, thread,
//! corruption and garbage tests (`codec.rs`).

use residuum::{Bound, PredictorChoice};

/// A predictor under test.
pub struct Entry {
    pub name: &'static str,
    pub predictor: PredictorChoice,
}

pub const ENTRIES: &[Entry] = &[
    Entry { name: "auto", predictor: PredictorChoice::Auto },
    Entry { name: "none", predictor: PredictorChoice::None },
    Entry { name: "lorenzo", predictor: PredictorChoice::Lorenzo },
    Entry { name: "interp", predictor: PredictorChoice::Interp },
    Entry { name: "fitted", predictor: PredictorChoice::Fitted },
];

pub const BOUNDS: &[(Bound, &str)] = &[
    (Bound { mode: residuum::bound::Mode::Abs, value: 0.01 }, "abs"),
    (Bound { mode: residuum::bound::Mode::Rel, value: 1e-3 }, "rel"),
    (Bound { mode: residuum::bound::Mode::Rel, value: 1e-6 }, "rel-tight"),
    (Bound { mode: residuum::bound::Mode::PwRel, value: 1e-3 }, "pw-rel"),
    (Bound { mode: residuum::bound::Mode::Psnr, value: 70.0 }, "psnr"),
    (Bound::LOSSLESS, "lossless"),
];

/// A small generator (SplitMix64), so that inputs are the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Shapes that are hard: empty, one element, primes, lengths around powers of two, all numbers of axes.
#[allow(dead_code)] // not every test file uses all
pub const SHAPES: &[&[usize]] = &[
    &[0],
    &[3, 0],
    &[1],
    &[2],
    &[1, 1, 1],
    &[17],
    &[1025],
    &[1, 31],
    &[31, 1],
    &[13, 29],
    &[33, 65],
    &[3, 7, 11],
    &[5, 1, 37],
    &[2, 3, 5, 7],
    &[2, 2, 3, 5, 9],
    &[2, 1, 3, 1, 64],
    // Large enough for images of the fitted predictor.
    &[1021],
    &[23, 29],
    &[4, 3, 200],
    &[3, 17, 41],
    &[3, 3, 19, 31],
    &[2, 2, 2, 24, 25],
    // Narrow ones: several hundred rows, more margin than columns.
    &[300, 2],
    &[2, 3, 260, 3],
];

/// Kinds of content, in f64; `fill` stands for missing values in some.
#[allow(dead_code)]
pub const CONTENTS: &[&str] = &[
    "smooth",
    "noise",
    "rough below",
    "constant",
    "zeros",
    "steps",
    "nan patch",
    "all nan",
    "infinities",
    "denormals",
    "huge range",
    "negative zeros",
    "fill",
    "fill that stays",
    "spikes",
    "mixed signs",
    "near fill",
];

pub const FILL: f64 = -999.0;

/// Values of a kind for a shape.
pub fn content(kind: &str, shape: &[usize], r: &mut Random) -> Vec<f64> {
    let n: usize = shape.iter().product();
    let nx = shape.last().copied().unwrap_or(1).max(1);
    let ny = shape.iter().rev().nth(1).copied().unwrap_or(1).max(1);
    let smooth = |i: usize| {
        let (x, y) = ((i % nx) as f64, (i / nx) as f64);
        250.0 + 30.0 * (x * 0.13).sin() + 10.0 * (y * 0.31 + x * 0.05).cos()
    };
    (0..n)
        .map(|i| match kind {
            "smooth" => smooth(i),
            "noise" => r.unit() * 100.0,
            // What coarse lattices say of the fine ones is another thing in each half.
            "rough below" => {
                if 2 * (i / nx % ny) < ny {
                    smooth(i)
                } else {
                    r.unit() * 100.0
                }
            }
            "constant" => 273.15,
            "zeros" => 0.0,
            "steps" => (i / 7 % 5) as f64,
            "nan patch" => {
                if i % nx > nx / 2 {
                    f64::NAN
                } else {
                    smooth(i)
                }
            }
            "all nan" => f64::NAN,
            "infinities" => match r.below(50) {
                0 => f64::INFINITY,
                1 => f64::NEG_INFINITY,
                _ => smooth(i),
            },
            "denormals" => r.unit() * 1e-42,
            "huge range" => (r.unit() - 0.5) * 2.0 * 10f64.powf(r.unit() * 38.0),
            "negative zeros" => {
                if r.below(3) == 0 {
                    -0.0
                } else {
                    (r.unit() - 0.5) * 0.1
                }
            }
            // Land: the same at every step, another on every level.
            "fill that stays" => {
                let place = i % (n / shape[0].max(1)).max(1);
                if Random(place as u64 / 5).below(3) == 0 { FILL } else { smooth(i) + r.unit() }
            }
            "fill" => {
                if r.below(4) == 0 {
                    FILL
                } else {
                    smooth(i)
                }
            }
            "spikes" => {
                if r.below(40) == 0 {
                    3e38 * (r.unit() - 0.5)
                } else {
                    smooth(i)
                }
            }
            "mixed signs" => 1e-6 + (r.unit() - 0.5) * 10f64.powf(r.unit() * 8.0 - 4.0),
            "near fill" => FILL + (r.below(9) as f64 - 4.0) * 0.003,
            other => panic!("no content {other}"),
        })
        .collect()
}
