//! Values in memory: element types, typed buffers, and [`Field`], a borrowed array with shape and fill value.

use crate::error::{Error, Result};

/// Most dimensions a floating-point field may have.
pub const MAX_FIELD_DIMS: usize = 5;

/// Element type of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum DType {
    /// IEEE 754 binary32.
    #[n(0)]
    F32,
    /// IEEE 754 binary64.
    #[n(1)]
    F64,
    /// Signed 8-bit integer.
    #[n(2)]
    I8,
    /// Signed 16-bit integer.
    #[n(3)]
    I16,
    /// Signed 32-bit integer.
    #[n(4)]
    I32,
    /// Signed 64-bit integer.
    #[n(5)]
    I64,
    /// Unsigned 8-bit integer.
    #[n(6)]
    U8,
    /// Unsigned 16-bit integer.
    #[n(7)]
    U16,
    /// Unsigned 32-bit integer.
    #[n(8)]
    U32,
    /// Unsigned 64-bit integer.
    #[n(9)]
    U64,
    /// One byte of text (`NC_CHAR`).
    #[n(10)]
    Char,
    /// Text of any length (`NC_STRING`), UTF-8.
    #[n(11)]
    Text,
}

impl DType {
    /// Bytes of one element; 0 for text of any length.
    pub fn size(self) -> usize {
        match self {
            DType::I8 | DType::U8 | DType::Char => 1,
            DType::I16 | DType::U16 => 2,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::Text => 0,
        }
    }

    /// Whether values of this type are coded within a bound.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64)
    }

    /// The name used on the command line and in `inspect`: `f32`, `i16`, `char`, `text`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::I8 => "i8",
            DType::I16 => "i16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::U8 => "u8",
            DType::U16 => "u16",
            DType::U32 => "u32",
            DType::U64 => "u64",
            DType::Char => "char",
            DType::Text => "text",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// An owned buffer of one element type, in C order.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // one variant per `DType`
pub enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    Char(Vec<u8>),
    Text(Vec<String>),
}

/// Runs `$body` with `$v` bound to the typed vector of a [`Values`], for all variants but text of any length.
#[macro_export]
#[doc(hidden)]
macro_rules! with_numbers {
    ($values:expr, $v:ident => $body:expr, text => $text:expr) => {
        match $values {
            $crate::Values::F32($v) => $body,
            $crate::Values::F64($v) => $body,
            $crate::Values::I8($v) => $body,
            $crate::Values::I16($v) => $body,
            $crate::Values::I32($v) => $body,
            $crate::Values::I64($v) => $body,
            $crate::Values::U8($v) => $body,
            $crate::Values::U16($v) => $body,
            $crate::Values::U32($v) => $body,
            $crate::Values::U64($v) => $body,
            $crate::Values::Char($v) => $body,
            $crate::Values::Text(_) => $text,
        }
    };
}

impl Values {
    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Values::F32(_) => DType::F32,
            Values::F64(_) => DType::F64,
            Values::I8(_) => DType::I8,
            Values::I16(_) => DType::I16,
            Values::I32(_) => DType::I32,
            Values::I64(_) => DType::I64,
            Values::U8(_) => DType::U8,
            Values::U16(_) => DType::U16,
            Values::U32(_) => DType::U32,
            Values::U64(_) => DType::U64,
            Values::Char(_) => DType::Char,
            Values::Text(_) => DType::Text,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Values::Text(v) => v.len(),
            other => with_numbers!(other, v => v.len(), text => 0),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first element, if it is an integer.
    pub fn first_integer(&self) -> Option<i128> {
        match self {
            Values::F32(_) | Values::F64(_) | Values::Char(_) | Values::Text(_) => None,
            Values::I8(v) => v.first().map(|&x| x.into()),
            Values::I16(v) => v.first().map(|&x| x.into()),
            Values::I32(v) => v.first().map(|&x| x.into()),
            Values::I64(v) => v.first().map(|&x| x.into()),
            Values::U8(v) => v.first().map(|&x| x.into()),
            Values::U16(v) => v.first().map(|&x| x.into()),
            Values::U32(v) => v.first().map(|&x| x.into()),
            Values::U64(v) => v.first().map(|&x| x.into()),
        }
    }

    /// The elements as bytes in this machine's order; empty for text of any length.
    pub fn as_bytes(&self) -> &[u8] {
        with_numbers!(self, v => bytemuck::cast_slice(v), text => &[])
    }

    /// `len` elements of `dtype`, all zero bits (empty text for text).
    pub fn zeros(dtype: DType, len: usize) -> Self {
        match dtype {
            DType::F32 => Values::F32(vec![0.0; len]),
            DType::F64 => Values::F64(vec![0.0; len]),
            DType::I8 => Values::I8(vec![0; len]),
            DType::I16 => Values::I16(vec![0; len]),
            DType::I32 => Values::I32(vec![0; len]),
            DType::I64 => Values::I64(vec![0; len]),
            DType::U8 => Values::U8(vec![0; len]),
            DType::U16 => Values::U16(vec![0; len]),
            DType::U32 => Values::U32(vec![0; len]),
            DType::U64 => Values::U64(vec![0; len]),
            DType::Char => Values::Char(vec![0; len]),
            DType::Text => Values::Text(vec![String::new(); len]),
        }
    }

    /// The same, where `len` comes from a file: no memory for so many is an error, where [`Values::zeros`] would end the process.
    ///
    /// # Errors
    /// `Unsupported`.
    pub(crate) fn try_zeros(dtype: DType, len: usize) -> Result<Self> {
        let size = if dtype == DType::Text { size_of::<String>() } else { dtype.size() };
        // Asked for and given back: there is no zeroed allocation that may fail, and this one costs nothing.
        let mut room = Vec::<u8>::new();
        let is_there = len.checked_mul(size).is_some_and(|bytes| room.try_reserve_exact(bytes).is_ok());
        // Or the compiler may take it for granted.
        drop(std::hint::black_box(room));
        if !is_there {
            return Err(Error::unsupported(format!("there is no memory for {len} values of {dtype} at once")));
        }
        Ok(Values::zeros(dtype, len))
    }

    /// Elements from little-endian bytes. Not for text of any length.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not a whole number of elements or `dtype` is text.
    pub fn from_le_bytes(dtype: DType, bytes: &[u8]) -> Result<Self> {
        if dtype == DType::Text || !bytes.len().is_multiple_of(dtype.size()) {
            return Err(Error::corrupt(format!("{} bytes are not a whole number of {dtype} values", bytes.len())));
        }
        let mut values = Values::zeros(dtype, bytes.len() / dtype.size());
        values.as_bytes_mut().copy_from_slice(bytes);
        if cfg!(target_endian = "big") {
            let size = dtype.size();
            values.as_bytes_mut().chunks_exact_mut(size).for_each(<[u8]>::reverse);
        }
        Ok(values)
    }

    /// The elements as mutable bytes in this machine's order; empty for text of any length.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        with_numbers!(self, v => bytemuck::cast_slice_mut(v), text => &mut [])
    }
}

/// A floating-point element: `f32` or `f64`.
///
/// Sealed. The associated items are what the numerics contract allows on a decode path (add, subtract, multiply
/// in a fixed order, round half to even) and what a bit-exact store needs.
pub trait Float:
    sealed::Sealed
    + bytemuck::Pod
    + PartialOrd
    + Send
    + Sync
    + Default
    + std::fmt::Debug
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
{
    /// The element type.
    const DTYPE: DType;
    /// Bytes of one element.
    const BYTES: usize;
    /// A quiet NaN, which marks special values in a working copy.
    const NAN: Self;
    /// Largest magnitude of a code; beyond it rounding by addition is not exact.
    const MAX_CODE: i32;
    /// To f64, exact.
    fn to_f64(self) -> f64;
    /// From f64, round to nearest, ties to even.
    fn from_f64(v: f64) -> Self;
    /// The bits, widened.
    fn to_bits(self) -> u64;
    /// From bits; the upper half is ignored for `f32`.
    fn from_bits(bits: u64) -> Self;
    /// Views a buffer of this type.
    fn values(v: Vec<Self>) -> Values;
    /// Borrows a buffer of this type.
    fn slice(v: &Values) -> Option<&[Self]>;
    /// Takes a buffer of this type; gives another back.
    fn into_vec(v: Values) -> Result<Vec<Self>, Values>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

impl Float for f32 {
    const DTYPE: DType = DType::F32;
    const BYTES: usize = 4;
    const NAN: Self = f32::NAN;
    const MAX_CODE: i32 = (1 << 22) - 1;
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(v: f64) -> Self {
        v as f32
    }
    fn to_bits(self) -> u64 {
        u64::from(f32::to_bits(self))
    }
    fn from_bits(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
    fn values(v: Vec<Self>) -> Values {
        Values::F32(v)
    }
    fn slice(v: &Values) -> Option<&[Self]> {
        if let Values::F32(v) = v { Some(v) } else { None }
    }
    fn into_vec(v: Values) -> Result<Vec<Self>, Values> {
        if let Values::F32(v) = v { Ok(v) } else { Err(v) }
    }
}

impl Float for f64 {
    const DTYPE: DType = DType::F64;
    const BYTES: usize = 8;
    const NAN: Self = f64::NAN;
    const MAX_CODE: i32 = (1 << 30) - 1;
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f64(v: f64) -> Self {
        v
    }
    fn to_bits(self) -> u64 {
        f64::to_bits(self)
    }
    fn from_bits(bits: u64) -> Self {
        f64::from_bits(bits)
    }
    fn values(v: Vec<Self>) -> Values {
        Values::F64(v)
    }
    fn slice(v: &Values) -> Option<&[Self]> {
        if let Values::F64(v) = v { Some(v) } else { None }
    }
    fn into_vec(v: Values) -> Result<Vec<Self>, Values> {
        if let Values::F64(v) = v { Ok(v) } else { Err(v) }
    }
}

/// A floating-point array in host memory, C order, with its shape and fill value.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a, T> {
    values: &'a [T],
    shape: &'a [usize],
    fill: Option<T>,
}

impl<'a, T: Float> Field<'a, T> {
    /// A field over `values` of `shape` (1 to 5 dimensions, slowest first; a dimension may be 0).
    ///
    /// # Errors
    /// `Usage` if the shape has no or too many dimensions, or does not match the number of values.
    pub fn new(values: &'a [T], shape: &'a [usize]) -> Result<Self> {
        if shape.is_empty() || shape.len() > MAX_FIELD_DIMS {
            return Err(Error::usage(format!(
                "a field has 1 to {MAX_FIELD_DIMS} dimensions, this one has {}",
                shape.len()
            )));
        }
        let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if n != Some(values.len()) {
            return Err(Error::usage(format!("shape {shape:?} does not match {} values", values.len())));
        }
        Ok(Self { values, shape, fill: None })
    }

    /// Values whose bits equal `fill` stand for missing data: they come back bit for bit and do not count towards ranges.
    pub fn with_fill(mut self, fill: T) -> Self {
        self.fill = Some(fill);
        self
    }

    /// The values in C order.
    pub fn values(&self) -> &'a [T] {
        self.values
    }

    /// Lengths of the dimensions, slowest first.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// The fill value, if any.
    pub fn fill(&self) -> Option<T> {
        self.fill
    }
}
