//! Predictors: how a value is guessed from values that the decoder already has.
//!
//! A new one is a folder here (`mod.rs` says what, `cpu.rs` how), an id below, a line in [`read`], an entry in
//! `tests/registry` and a paragraph in `container/format.md`. [`none`] is the living template: copy it.

pub mod choose;
pub mod fitted;
pub mod interp;
pub mod lorenzo;
pub mod none;

use crate::encode::bytes::Reader;
use crate::error::{Error, Result};
use crate::quantize::Quantizer;
use crate::quantize::cpu::Kernels;
use crate::quantize::outlier::Outliers;
use crate::scratch::Buffer;

/// Id of [`none::None`] in the archive. Ids never change.
pub const NONE: u8 = 0;
/// Id of [`lorenzo::Lorenzo`].
pub const LORENZO: u8 = 1;
/// Id of [`interp::Interp`].
pub const INTERP: u8 = 2;
/// Id of [`fitted`].
pub const FITTED: u8 = 3;

/// A tile of which some values are decoded.
pub use interp::cpu::Begun;

/// What a predictor makes of a tile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Coded {
    /// One code a value, in the predictor's coding order.
    pub codes: Buffer<i32>,
    /// Values that codes miss.
    pub outliers: Outliers,
}

/// A predictor with all its decisions made.
///
/// `shape` has no axes of length 1 and at least one axis; `values` has no value special enough to be stored apart: those are
/// NaN here, get code 0, and whatever the prediction says in `decode`. Both directions give the same bits on every machine,
/// whatever the number of threads.
pub trait Predictor<T: Kernels>: Send + Sync {
    /// Id in the archive.
    fn id(&self) -> u8;

    /// Appends the decisions, as [`read`] expects them.
    fn write(&self, out: &mut Vec<u8>);

    /// Values to codes.
    fn encode(&self, values: &[T], shape: &[usize], base: T, q: &Quantizer<T>) -> Coded;

    /// Codes (as many as values) to values.
    fn decode(&self, codes: &[i32], shape: &[usize], base: T, q: &Quantizer<T>) -> Vec<T> {
        self.finish(None, codes, shape, base, q)
    }

    /// Decodes what the `first` codes are enough for, while others are on their way; `None` if that is nothing.
    fn begin(&self, _first: &[i32], _shape: &[usize], _base: T, _q: &Quantizer<T>) -> Option<Begun<T>> {
        None
    }

    /// As [`Predictor::decode`], after what was begun with the first of the codes.
    fn finish(&self, begun: Option<Begun<T>>, codes: &[i32], shape: &[usize], base: T, q: &Quantizer<T>) -> Vec<T>;

    /// Calls `f(raster start, raster stride, length)` for runs of values in coding order; where that is raster order, for one.
    fn for_each_run(&self, shape: &[usize], f: &mut dyn FnMut(usize, usize, usize)) {
        f(0, 1, shape.iter().product());
    }

    /// Marks of values, in raster order, brought into coding order.
    fn in_coding_order(&self, marks: &[bool], shape: &[usize]) -> Vec<bool> {
        let mut out = Vec::with_capacity(marks.len());
        self.for_each_run(shape, &mut |start, stride, len| out.extend((0..len).map(|i| marks[start + i * stride])));
        out
    }

    /// One line for `inspect`.
    fn describe(&self) -> String;
}

/// A predictor and the coder that goes with it.
pub enum Method<T> {
    /// Codes in an order that does not depend on them, then Huffman.
    Huffman(Box<dyn Predictor<T>>),
    /// Codes in contexts that the predictor knows, range coded.
    Contexts(fitted::Plan),
}

impl<T: fitted::Rows> Method<T> {
    /// One line for `inspect`.
    pub fn describe(&self) -> String {
        match self {
            Self::Huffman(predictor) => predictor.describe(),
            Self::Contexts(plan) => plan.describe(),
        }
    }
}

/// Reads a predictor's id and decisions, for a tile of `shape` (axes of length 1 left out).
///
/// # Errors
/// `Unsupported` for an id of a later version, `Corrupt` for decisions out of range.
pub fn read<T: Kernels>(reader: &mut Reader<'_>, shape: &[usize]) -> Result<Method<T>> {
    match reader.byte()? {
        NONE => Ok(Method::Huffman(Box::new(none::None))),
        LORENZO => Ok(Method::Huffman(Box::new(lorenzo::Lorenzo::read(reader, shape)?))),
        INTERP => Ok(Method::Huffman(Box::new(interp::Interp::read(reader, shape)?))),
        FITTED => Ok(Method::Contexts(fitted::Plan::read(reader, shape)?)),
        id => {
            Err(Error::unsupported(format!("predictor {id} is not known to this version; a newer residuum reads it")))
        }
    }
}

/// Collects what a row's codes miss. `at(i)` gives the raster position of its value `i`.
pub(crate) fn collect_misses<T: Kernels>(
    q: &Quantizer<T>,
    values: &[T],
    decoded: impl Fn(usize) -> T,
    at: impl Fn(usize) -> usize,
    misses: &mut Vec<(u32, u64)>,
) {
    for (i, &x) in values.iter().enumerate() {
        if !x.to_f64().is_nan() && !q.holds(x, decoded(i)) {
            misses.push((at(i) as u32, x.to_bits()));
        }
    }
}
