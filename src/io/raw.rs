//! Raw binary files: the values of one variable, little-endian, C order, nothing else.
//!
//! Shape and element type come from the caller; the variable is named after the file. What other formats need of
//! flat files stands here too: positioned reads and writes of boxes (`FlatValues`).

use super::part::{PartFile, Purpose};
use super::{Format, OpenOptions, Schema, Sink, Source, Variable};
use crate::error::{Error, Result};
use crate::field::{DType, Values};
use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

/// A raw file to read from.
pub struct RawSource {
    schema: Schema,
    flat: FlatValues,
}

impl RawSource {
    /// Opens `path` as values of the shape and type that `options` give.
    ///
    /// # Errors
    /// `Usage` if the shape or the type is missing or does not fit the file's size, `Io` if the file can not be read.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        let (shape, dtype) = match (&options.shape, options.dtype) {
            (Some(shape), Some(dtype)) => (shape, dtype),
            (None, Some(_)) => return Err(Error::usage("a raw file needs its shape: give --shape")),
            (Some(_), None) => return Err(Error::usage("a raw file needs its element type: give --dtype")),
            (None, None) => return Err(Error::usage("a raw file needs its shape and type: give --shape and --dtype")),
        };
        let file = File::open(path)?;
        let found = file.metadata()?.len();
        let expected = bytes_of(shape, dtype).ok_or_else(|| {
            Error::usage(format!("{} of {dtype} is not a shape that a file can hold", shape_text(shape)))
        })?;
        if found != expected {
            return Err(Error::usage(format!(
                "{} of {dtype} takes {expected} bytes, the file has {found}",
                shape_text(shape)
            )));
        }
        let schema = Schema::single(Format::Raw, &name_of(path), dtype, shape);
        Ok(Self { schema, flat: FlatValues { file, start: 0, shape: shape.clone(), dtype, big_endian: false } })
    }
}

impl Source for RawSource {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        only_variable(variable)?;
        self.flat.read(region)
    }
}

/// A raw file to write to.
pub struct RawSink {
    part: PartFile,
    flat: FlatValues,
}

impl RawSink {
    /// Creates a raw file at `path` for the one variable of `schema`.
    ///
    /// # Errors
    /// `Usage` if the schema has not exactly one variable or it is text, `Io` if the file can not be created.
    pub fn create(path: &Path, schema: &Schema, force: bool) -> Result<Self> {
        let variable = single_variable(schema, "a raw file")?;
        let part = PartFile::create(path, Purpose::Restored, force)?;
        let flat = FlatValues::create(part.file()?, 0, variable)?;
        Ok(Self { part, flat })
    }
}

impl Sink for RawSink {
    fn write(&mut self, variable: usize, region: &[Range<u64>], values: &Values) -> Result<()> {
        only_variable(variable)?;
        self.flat.write(region, values)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.part.finish()
    }
}

/// Values in C order somewhere in a file, read and written box by box.
pub(crate) struct FlatValues {
    pub(super) file: File,
    /// Byte where the values begin.
    pub(super) start: u64,
    pub(super) shape: Vec<u64>,
    pub(super) dtype: DType,
    pub(super) big_endian: bool,
}

impl FlatValues {
    /// Room for the values of `variable` in `file`, from byte `start`.
    pub(crate) fn create(file: File, start: u64, variable: &Variable) -> Result<Self> {
        let bytes = bytes_of(&variable.shape, variable.dtype)
            .and_then(|n| n.checked_add(start))
            .ok_or_else(|| Error::usage(format!("variable {:?} is too large for a file", variable.name())))?;
        file.set_len(bytes)?;
        Ok(Self { file, start, shape: variable.shape.clone(), dtype: variable.dtype, big_endian: false })
    }

    /// The values in the box `region`.
    pub(super) fn read(&mut self, region: &[Range<u64>]) -> Result<Values> {
        let runs = Runs::new(&self.shape, region)?;
        let n = runs.elements()?;
        self.read_runs(runs, n)
    }

    /// `n` values in C order from the value with the index `start` on.
    pub(crate) fn read_run(&mut self, start: u64, n: u64) -> Result<Values> {
        self.read_runs([(start, n)], n as usize)
    }

    fn read_runs(&mut self, runs: impl IntoIterator<Item = (u64, u64)>, n: usize) -> Result<Values> {
        let size = self.dtype.size();
        let mut values = Values::zeros(self.dtype, n);
        let mut rest = values.as_bytes_mut();
        for (element, elements) in runs {
            let (run, after) = rest.split_at_mut(elements as usize * size);
            self.file.seek(SeekFrom::Start(self.start + element * size as u64))?;
            self.file.read_exact(run).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => Error::input("the file ends before its values do"),
                _ => e.into(),
            })?;
            rest = after;
        }
        if self.big_endian != cfg!(target_endian = "big") && size > 1 {
            values.as_bytes_mut().chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        Ok(values)
    }

    /// Puts `values` into the box `region`.
    pub(crate) fn write(&mut self, region: &[Range<u64>], values: &Values) -> Result<()> {
        let runs = Runs::new(&self.shape, region)?;
        check_values(&runs, self.dtype, values)?;
        let size = self.dtype.size();
        let bytes = le_bytes(values);
        let mut rest = &bytes[..];
        for (element, elements) in runs {
            let (run, after) = rest.split_at(elements as usize * size);
            self.file.seek(SeekFrom::Start(self.start + element * size as u64))?;
            self.file.write_all(run)?;
            rest = after;
        }
        Ok(())
    }
}

/// The contiguous runs of elements that make up a box of a C-order array: (first element, elements), in C order.
///
/// Dimensions that the box covers whole are joined with the one before them, so that a box which is contiguous in
/// the array is one run.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    /// First index and number of indices per dimension that is stepped through.
    steps: Vec<(u64, u64)>,
    /// Elements from one index to the next, for each of them.
    strides: Vec<u64>,
    /// Position within `steps`; empty when done.
    at: Option<Vec<u64>>,
    run: u64,
    elements: u64,
}

impl Runs {
    /// The runs of `region` in an array of `shape`, whose element count the caller knows to fit u64.
    pub(crate) fn new(shape: &[u64], region: &[Range<u64>]) -> Result<Self> {
        let fits =
            shape.len() == region.len() && shape.iter().zip(region).all(|(&n, r)| r.start <= r.end && r.end <= n);
        if !fits {
            return Err(Error::usage(format!("box {region:?} is not inside the shape {}", shape_text(shape))));
        }
        let mut steps: Vec<(u64, u64)> = region.iter().map(|r| (r.start, r.end - r.start)).collect();
        let mut strides = vec![1u64; shape.len()];
        for d in (1..shape.len()).rev() {
            strides[d - 1] = strides[d] * shape[d].max(1);
        }
        let elements = steps.iter().map(|s| s.1).product();
        // A whole dimension is a longer step of the one before it: drop it, the run grows.
        while let (Some(&(0, n)), true) = (steps.last(), steps.len() > 1) {
            if n != shape[steps.len() - 1] {
                break;
            }
            steps.pop();
            strides.pop();
        }
        // What remains last is a range, and so contiguous as it is.
        let run = match (steps.last_mut(), strides.last()) {
            (Some(last), Some(stride)) => std::mem::replace(&mut last.1, 1) * stride,
            _ => 1,
        };
        let at = (elements > 0).then(|| vec![0; steps.len()]);
        Ok(Self { steps, strides, at, run, elements })
    }

    /// Elements of the box.
    pub(super) fn elements(&self) -> Result<usize> {
        usize::try_from(self.elements).map_err(|_| Error::unsupported("a box is too large for this machine's memory"))
    }
}

impl Iterator for Runs {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let at = self.at.as_mut()?;
        let first =
            at.iter().zip(&self.steps).zip(&self.strides).map(|((i, (start, _)), stride)| (start + i) * stride).sum();
        // Odometer: the last dimension turns fastest.
        let turned = (0..at.len()).rev().find(|&d| {
            at[d] += 1;
            let more = at[d] < self.steps[d].1;
            if !more {
                at[d] = 0;
            }
            more
        });
        if turned.is_none() {
            self.at = None;
        }
        Some((first, self.run))
    }
}

/// Checks that `values` are what a box of `runs` holds.
pub(super) fn check_values(runs: &Runs, dtype: DType, values: &Values) -> Result<()> {
    if values.dtype() != dtype || values.len() != runs.elements()? {
        return Err(Error::usage(format!(
            "{} values of {} do not fill a box of {} of {dtype}",
            values.len(),
            values.dtype(),
            runs.elements
        )));
    }
    Ok(())
}

/// The bytes of `values` in little-endian order.
pub(crate) fn le_bytes(values: &Values) -> Cow<'_, [u8]> {
    let bytes = values.as_bytes();
    if cfg!(target_endian = "big") {
        let mut bytes = bytes.to_vec();
        bytes.chunks_exact_mut(values.dtype().size().max(1)).for_each(<[u8]>::reverse);
        return Cow::Owned(bytes);
    }
    Cow::Borrowed(bytes)
}

/// Bytes of an array; none if they exceed what a file can hold. Counts a dimension of length 0 as 1 while checking, so
/// that products of parts of the shape do not overflow either.
pub(super) fn bytes_of(shape: &[u64], dtype: DType) -> Option<u64> {
    let most = shape.iter().try_fold(dtype.size().max(1) as u64, |n, &d| n.checked_mul(d.max(1)))?;
    let most = i64::try_from(most).ok()? as u64;
    Some(if shape.contains(&0) { 0 } else { most })
}

/// A shape as users write it: `721x1440`.
pub(super) fn shape_text(shape: &[u64]) -> String {
    if shape.is_empty() {
        return "a scalar".into();
    }
    shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}

/// A variable's name for a file that has none inside: the file's name without its ending.
pub(super) fn name_of(path: &Path) -> String {
    path.file_stem().map_or_else(|| "data".into(), |s| s.to_string_lossy().replace('/', "_"))
}

/// The one variable of a schema that goes into a format (`what`) which holds no more.
pub(super) fn single_variable<'a>(schema: &'a Schema, what: &str) -> Result<&'a Variable> {
    let [variable] = &schema.variables[..] else {
        let names: Vec<&str> = schema.variables.iter().map(Variable::name).collect();
        return Err(Error::usage(match names.len() {
            0 => format!("{what} holds one variable, and there is none to write"),
            n => format!("{what} holds one variable, and there are {n} ({}): pick one with --var", names.join(", ")),
        }));
    };
    if variable.dtype == DType::Text {
        return Err(Error::usage(format!("variable {:?} is text, which {what} can not hold", variable.name())));
    }
    Ok(variable)
}

/// Refuses any variable but the first.
pub(super) fn only_variable(variable: usize) -> Result<()> {
    if variable != 0 { Err(Error::usage(format!("variable {variable} of a file with one variable"))) } else { Ok(()) }
}
