//! NumPy `.npy` files: one variable, named after the file.
//!
//! The header is parsed here, by a parser that knows only what headers of plain arrays hold, so that nothing in a
//! hostile file is evaluated, nested or allocated by its word. Little- and big-endian numbers, C and Fortran order
//! are read; the writer writes little-endian C order. Booleans are read as `u8`.

use super::part::{PartFile, Purpose};
use super::raw::{self, FlatValues};
use super::{Format, Schema, Sink, Source};
use crate::error::{Error, Result};
use crate::field::{DType, Values};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Longest header that is read; NumPy refuses longer ones too.
const MAX_HEADER_BYTES: u64 = 10_000;

/// NumPy starts the values at a multiple of this.
const ALIGN_BYTES: usize = 64;

/// Bytes of a piece of a Fortran-order file that is transposed at once.
const TRANSPOSE_BYTES: u64 = 32 << 20;

/// A `.npy` file to read from.
pub struct NpySource {
    schema: Schema,
    flat: FlatValues,
    /// Whether `flat` is the file itself in Fortran order, whose dimensions it has reversed; the first read replaces
    /// it by a temporary copy in C order, because boxes of leading dimensions would touch single values all over it.
    fortran: bool,
}

impl NpySource {
    /// Opens the `.npy` file at `path`.
    ///
    /// # Errors
    /// `Input` if the header is damaged or does not fit the file, `Unsupported` if it names an element type that is
    /// not read, `Io` if the file can not be read.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        let mut start = [0u8; 12];
        let cut = |_| Error::input("the file ends within its .npy header");
        file.read_exact(&mut start[..10]).map_err(cut)?;
        if !start.starts_with(MAGIC) {
            return Err(Error::input("not a .npy file: its first bytes are not \\x93NUMPY"));
        }
        let (prefix, header_bytes) = match start[6] {
            1 => (10, u64::from(u16::from_le_bytes([start[8], start[9]]))),
            2 | 3 => {
                file.read_exact(&mut start[10..]).map_err(cut)?;
                (12, u64::from(u32::from_le_bytes([start[8], start[9], start[10], start[11]])))
            }
            v => return Err(Error::unsupported(format!(".npy format version {v}; 1, 2 and 3 are read"))),
        };
        if header_bytes > MAX_HEADER_BYTES {
            return Err(Error::input(format!(
                "the .npy header claims {header_bytes} bytes, headers have at most {MAX_HEADER_BYTES}"
            )));
        }
        let mut text = vec![0; header_bytes as usize];
        file.read_exact(&mut text).map_err(cut)?;
        let header = Header::parse(&text)?;

        let (expected, found) =
            (raw::bytes_of(&header.shape, header.dtype), file_bytes.saturating_sub(prefix + header_bytes));
        if expected != Some(found) {
            return Err(Error::input(format!(
                "{} of {} takes {} bytes, the file has {found} after its header",
                raw::shape_text(&header.shape),
                header.dtype,
                expected.map_or_else(|| "too many".into(), |n| n.to_string()),
            )));
        }
        let schema = Schema::single(Format::Npy, &raw::name_of(path), header.dtype, &header.shape);
        // With fewer than two dimensions both orders are the same.
        let fortran = header.fortran && header.shape.len() > 1;
        let mut shape = header.shape;
        if fortran {
            shape.reverse();
        }
        let flat = FlatValues {
            file,
            start: prefix + header_bytes,
            shape,
            dtype: header.dtype,
            big_endian: header.big_endian,
        };
        Ok(Self { schema, flat, fortran })
    }

    /// Replaces the file by a temporary copy in C order, block by block of some `block_bytes`.
    fn transpose(&mut self, block_bytes: u64) -> Result<()> {
        let variable = &self.schema.variables[0];
        let mut copy = FlatValues::create(tempfile::tempfile()?, 0, variable)?;
        let shape = &variable.shape;
        let lens = block(shape, variable.dtype.size() as u64, block_bytes);
        let mut at = vec![0; shape.len()];
        let mut is_left = !variable.is_empty();
        while is_left {
            let of_axis = |d: usize| at[d]..(at[d] + lens[d]).min(shape[d]);
            let mut region: Vec<Range<u64>> = (0..shape.len()).rev().map(of_axis).collect();
            let values = self.flat.read(&region)?;
            region.reverse();
            copy.write(&region, &reverse_dimensions(&values, &region))?;
            // Odometer: the last dimension turns fastest.
            is_left = (0..shape.len()).rev().any(|d| {
                at[d] = if region[d].end < shape[d] { region[d].end } else { 0 };
                at[d] > 0
            });
        }
        self.flat = copy;
        self.fortran = false;
        Ok(())
    }
}

/// Lengths of the blocks that an array of `shape` is transposed in, of some `block_bytes`: long along the array's last dimension, which is
/// contiguous in the copy, and along its first, which is contiguous in the file, so that neither is read or written value by value.
fn block(shape: &[u64], size: u64, block_bytes: u64) -> Vec<u64> {
    /// Bytes that are read or written at once, at least, where there are as many.
    const RUN_BYTES: u64 = 4096;
    let run = (RUN_BYTES / size).min((block_bytes / size).isqrt()).max(1);
    let last = shape.len() - 1;
    let mut lens = vec![1; shape.len()];
    for d in [0, last] {
        // 1 where there are no values, too.
        lens[d] = shape[d].clamp(1, run);
    }
    // Whole dimensions, the last first, join runs.
    for d in (0..shape.len()).rev() {
        let rest = (block_bytes / size / lens.iter().product::<u64>()).max(1);
        lens[d] = shape[d].min(lens[d] * rest).max(1);
    }
    lens
}

/// Values in Fortran order of the box `region` put in C order.
fn reverse_dimensions(values: &Values, region: &[Range<u64>]) -> Values {
    let lens: Vec<usize> = region.iter().map(|r| (r.end - r.start) as usize).collect();
    let mut strides = vec![1usize; lens.len()];
    for d in 1..lens.len() {
        strides[d] = strides[d - 1] * lens[d - 1];
    }
    let size = values.dtype().size();
    let mut out = Values::zeros(values.dtype(), values.len());
    let source = values.as_bytes();
    let mut at = vec![0usize; lens.len()];
    let mut from = 0;
    for to in out.as_bytes_mut().chunks_exact_mut(size) {
        to.copy_from_slice(&source[from * size..][..size]);
        // Odometer over the C order, `from` following it with the strides of the Fortran order.
        for d in (0..lens.len()).rev() {
            at[d] += 1;
            from += strides[d];
            if at[d] < lens[d] {
                break;
            }
            from -= at[d] * strides[d];
            at[d] = 0;
        }
    }
    out
}

impl Source for NpySource {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        raw::only_variable(variable)?;
        if self.fortran {
            self.transpose(TRANSPOSE_BYTES)?;
        }
        self.flat.read(region)
    }
}

/// A `.npy` file to write to.
pub struct NpySink {
    part: PartFile,
    flat: FlatValues,
}

impl NpySink {
    /// Creates a `.npy` file at `path` for the one variable of `schema`.
    ///
    /// # Errors
    /// `Usage` if the schema has not exactly one variable or it is text, `Io` if the file can not be created.
    pub fn create(path: &Path, schema: &Schema, force: bool) -> Result<Self> {
        let variable = raw::single_variable(schema, "a .npy file")?;
        let header = header_bytes(variable.dtype, &variable.shape)?;
        let part = PartFile::create(path, Purpose::Restored, force)?;
        let mut file = part.file()?;
        file.write_all(&header)?;
        let flat = FlatValues::create(file, header.len() as u64, variable)?;
        Ok(Self { part, flat })
    }
}

impl Sink for NpySink {
    fn write(&mut self, variable: usize, region: &[Range<u64>], values: &Values) -> Result<()> {
        raw::only_variable(variable)?;
        self.flat.write(region, values)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.part.finish()
    }
}

/// A version 1.0 header, padded as NumPy pads it.
pub(crate) fn header_bytes(dtype: DType, shape: &[u64]) -> Result<Vec<u8>> {
    let descr = match dtype {
        DType::Char => "|S1",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I16 => "<i2",
        DType::U16 => "<u2",
        DType::I32 => "<i4",
        DType::U32 => "<u4",
        DType::I64 => "<i8",
        DType::U64 => "<u8",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::Text => return Err(Error::usage("a .npy file can not hold text")),
    };
    let mut dims: String = shape.iter().map(|n| format!("{n}, ")).collect();
    dims.truncate(dims.len().saturating_sub(if shape.len() == 1 { 1 } else { 2 }));
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    let prefix = MAGIC.len() + 4;
    while !(prefix + text.len() + 1).is_multiple_of(ALIGN_BYTES) {
        text.push(' ');
    }
    text.push('\n');
    let len = u16::try_from(text.len()).map_err(|_| Error::usage("too many dimensions for a .npy file"))?;
    Ok([&MAGIC[..], &[1, 0], &len.to_le_bytes(), text.as_bytes()].concat())
}

/// What a header says.
struct Header {
    dtype: DType,
    big_endian: bool,
    fortran: bool,
    shape: Vec<u64>,
}

impl Header {
    /// Parses `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, keys in any order.
    fn parse(text: &[u8]) -> Result<Self> {
        let mut p = Parser { rest: text };
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        p.expect(b'{')?;
        while !p.take(b'}') {
            let key = p.string()?;
            p.expect(b':')?;
            match key {
                "descr" => descr = Some(p.descr()?),
                "fortran_order" => fortran = Some(p.boolean()?),
                "shape" => shape = Some(p.tuple()?),
                other => return Err(Error::input(format!("unknown key {other:?} in the .npy header"))),
            }
            if !p.take(b',') {
                p.expect(b'}')?;
                break;
            }
        }
        let (Some((dtype, big_endian)), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
            return Err(Error::input("the .npy header lacks one of 'descr', 'fortran_order' and 'shape'"));
        };
        Ok(Self { dtype, big_endian, fortran, shape })
    }
}

/// Takes a header apart from the front.
struct Parser<'a> {
    rest: &'a [u8],
}

impl<'a> Parser<'a> {
    /// Skips blanks, then `token` if it is next.
    fn take(&mut self, token: u8) -> bool {
        self.rest = self.rest.trim_ascii_start();
        let found = self.rest.first() == Some(&token);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn expect(&mut self, token: u8) -> Result<()> {
        if self.take(token) { Ok(()) } else { Err(damaged(&format!("{:?}", token as char))) }
    }

    fn string(&mut self) -> Result<&'a str> {
        let quote = if self.take(b'\'') { b'\'' } else { self.expect(b'"').map(|()| b'"')? };
        let end = self.rest.iter().position(|&b| b == quote).ok_or_else(|| damaged("a closing quote"))?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        std::str::from_utf8(text).map_err(|_| damaged("UTF-8 text"))
    }

    fn word(&mut self) -> &'a [u8] {
        self.rest = self.rest.trim_ascii_start();
        let end = self.rest.iter().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn boolean(&mut self) -> Result<bool> {
        match self.word() {
            b"True" => Ok(true),
            b"False" => Ok(false),
            _ => Err(damaged("True or False")),
        }
    }

    fn tuple(&mut self) -> Result<Vec<u64>> {
        let mut lens = vec![];
        self.expect(b'(')?;
        while !self.take(b')') {
            // Python 2 wrote long integers with an L.
            let word = self.word();
            let digits = word.strip_suffix(b"L").unwrap_or(word);
            let len =
                std::str::from_utf8(digits).ok().and_then(|s| s.parse().ok()).ok_or_else(|| damaged("a length"))?;
            lens.push(len);
            if !self.take(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(lens)
    }

    /// The element type, and whether it is big-endian.
    fn descr(&mut self) -> Result<(DType, bool)> {
        if self.take(b'[') {
            return Err(Error::unsupported("the .npy file holds records; save each field as an array of its own"));
        }
        let descr = self.string()?;
        let bare = descr.trim_start_matches(['<', '>', '|', '=']);
        let dtype = if bare == "b1" { Some(DType::U8) } else { dtype_of_name(bare) };
        let dtype = dtype.ok_or_else(|| {
            Error::unsupported(format!(
                "the .npy file holds elements of type {descr:?}; f4, f8, i1 to i8, u1 to u8, b1 and S1 are read"
            ))
        })?;
        Ok((dtype, descr.starts_with('>')))
    }
}

/// The element type that NumPy calls `name`, without the sign of its byte order.
pub(crate) fn dtype_of_name(name: &str) -> Option<DType> {
    Some(match name {
        "f4" => DType::F32,
        "f8" => DType::F64,
        "i1" => DType::I8,
        "i2" => DType::I16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "u1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "S1" => DType::Char,
        _ => return None,
    })
}

fn damaged(expected: &str) -> Error {
    Error::input(format!("damaged .npy header: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fortran_order_is_transposed_in_blocks_of_long_runs() {
        const BYTES: u64 = 32 << 20;
        for (shape, size) in [
            (&[250_000_000, 2][..], 4),
            (&[2, 250_000_000], 4),
            (&[8760, 721, 1440], 4),
            (&[8760, 100, 100], 8),
            (&[2, 1 << 30, 2], 1),
            (&[1 << 12, 1, 1 << 12], 2),
            (&[3, 5], 8),
            (&[4, 0, 5], 8),
            (&[0, 3], 4),
        ] {
            let lens = block(shape, size, BYTES);
            let n: u64 = lens.iter().product::<u64>() * size;
            assert!(n <= BYTES, "{shape:?}: {lens:?}");
            let run = |dims: &mut dyn Iterator<Item = (u64, u64)>| {
                let mut run = size;
                for (len, n) in dims {
                    run *= len;
                    if len < n {
                        break;
                    }
                }
                run
            };
            let in_file = run(&mut lens.iter().copied().zip(shape.iter().copied()));
            let in_copy = run(&mut lens.iter().rev().copied().zip(shape.iter().rev().copied()));
            let whole = shape.iter().product::<u64>() * size;
            assert!(in_file.min(in_copy) >= whole.min(4096), "{shape:?}: {lens:?}");
        }
    }

    #[test]
    fn blocks_of_any_size_put_an_array_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let shape = [4u64, 3, 5];
        let mut file = b"\x93NUMPY\x01\x00\x46\x00".to_vec();
        file.extend(format!("{:69}\n", "{'descr': '<i2', 'fortran_order': True, 'shape': (4, 3, 5), }").bytes());
        file.extend((0..60i16).flat_map(i16::to_le_bytes));
        std::fs::write(&path, file).unwrap();
        let in_c_order: Vec<i16> = (0..60).map(|i| i / 15 + i / 5 % 3 * 4 + i % 5 * 12).collect();
        for block_bytes in [1, 8, 30, 50, 1000] {
            let mut source = NpySource::open(&path).unwrap();
            source.transpose(block_bytes).unwrap();
            assert_eq!(source.read(0, &shape.map(|n| 0..n)).unwrap(), Values::I16(in_c_order.clone()), "{block_bytes}");
        }
    }
}
