//! Element types and attributes of HDF5 files.

use super::super::super::{Attribute, AttributeValue};
use super::super::values;
use crate::error::{Context, Error, Kind, Result};
use crate::field::{DType, Values};
use hdf5_reader::{Datatype, StringSize, VarLenKind};

/// An error of the HDF5 reader as one of ours.
pub fn error(e: hdf5_reader::error::Error) -> Error {
    use hdf5_reader::error::Error as E;
    let message = e.to_string();
    let mut cause = &e;
    while let E::Context { source, .. } = cause {
        cause = source;
    }
    match cause {
        E::Io(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => Error::new(crate::error::Kind::Io, message),
        E::UnsupportedFilter(_) => Error::unsupported(format!(
            "{message}; this build reads deflate, shuffle, fletcher32, szip, lz4, n-bit and scale-offset: \
             rewrite the file with one of them, for example `nccopy -F none`"
        )),
        E::UnsupportedEncoding(_)
        | E::UnsupportedSuperblockVersion(_)
        | E::UnsupportedLayoutVersion(_)
        | E::UnsupportedOffsetSize(_)
        | E::UnsupportedLengthSize(_)
        | E::UnsupportedDatatypeClass(_)
        | E::ResourceLimit(_) => Error::unsupported(message),
        _ => Error::input(message),
    }
}

/// Our name for an HDF5 type.
pub fn dtype(datatype: &Datatype) -> Result<DType> {
    Ok(match datatype {
        Datatype::FixedPoint { size: 1, signed: true, .. } => DType::I8,
        Datatype::FixedPoint { size: 2, signed: true, .. } => DType::I16,
        Datatype::FixedPoint { size: 4, signed: true, .. } => DType::I32,
        Datatype::FixedPoint { size: 8, signed: true, .. } => DType::I64,
        Datatype::FixedPoint { size: 1, .. } => DType::U8,
        Datatype::FixedPoint { size: 2, .. } => DType::U16,
        Datatype::FixedPoint { size: 4, .. } => DType::U32,
        Datatype::FixedPoint { size: 8, .. } => DType::U64,
        Datatype::FloatingPoint { size: 4, .. } => DType::F32,
        Datatype::FloatingPoint { size: 8, .. } => DType::F64,
        Datatype::String { size: StringSize::Fixed(1), .. } => DType::Char,
        Datatype::String { .. } => DType::Text,
        Datatype::VarLen { base, kind: VarLenKind::String, .. } if base.is_vlen_string_base() => DType::Text,
        other => {
            let class = match other {
                Datatype::Compound { .. } => "compound",
                Datatype::Enum { .. } => "enum",
                Datatype::VarLen { .. } => "variable-length",
                Datatype::Opaque { .. } => "opaque",
                Datatype::Array { .. } => "array",
                Datatype::Reference { .. } => "reference",
                Datatype::Bitfield { .. } => "bit field",
                Datatype::FloatingPoint { size, .. } => {
                    return Err(Error::unsupported(format!("floating-point values of {size} bytes are not supported")));
                }
                _ => "unusual integer",
            };
            return Err(Error::unsupported(format!("values of {class} types are not supported")));
        }
    })
}

/// The attributes of the object called `place`, but for those named `reserved`, and those of types that there is no place for.
pub fn attributes(
    found: Vec<hdf5_reader::Attribute>,
    reserved: &[&str],
    place: &str,
    warnings: &mut Vec<String>,
) -> Result<Vec<Attribute>> {
    let mut out = vec![];
    for a in found.iter().filter(|a| !reserved.contains(&a.name.as_str())) {
        match value(a) {
            Ok(value) => {
                if is_text_of_other_encoding(a, &value) {
                    warnings.push(format!("{place}: attribute {:?} {}", a.name, values::NOT_UTF8));
                }
                out.push(Attribute { name: a.name.clone(), value });
            }
            Err(e) if e.kind() == Kind::Unsupported => {
                warnings.push(format!("{place}: attribute {:?} is left out: {e}", a.name));
            }
            Err(e) => return Err(e).context(|| format!("attribute {:?}", a.name)),
        }
    }
    Ok(out)
}

fn is_text_of_other_encoding(a: &hdf5_reader::Attribute, value: &AttributeValue) -> bool {
    match (&a.datatype, value) {
        (Datatype::String { size: StringSize::Fixed(_), .. }, _) => std::str::from_utf8(&a.raw_data).is_err(),
        // Of texts elsewhere in the file only what the reader made of them is left.
        (_, AttributeValue::Texts(texts)) => texts.iter().any(|t| t.contains(char::REPLACEMENT_CHARACTER)),
        _ => false,
    }
}

fn value(a: &hdf5_reader::Attribute) -> Result<AttributeValue> {
    let n = a.num_elements().map_err(error)?;
    if let Datatype::String { size: StringSize::Fixed(_), .. } = a.datatype {
        // One text of fixed length is what NetCDF calls characters. None at all is how it stores an empty text.
        return Ok(match n {
            0 => AttributeValue::Text(String::new()),
            1 => AttributeValue::Text(values::text(a.raw_data.clone())),
            _ => AttributeValue::Texts(a.read_strings().map_err(error)?),
        });
    }
    Ok(match dtype(&a.datatype)? {
        DType::Char | DType::Text if n == 0 => AttributeValue::Texts(vec![]),
        DType::Char | DType::Text => match &a.decoded_strings {
            Some(texts) if texts.len() as u64 == n => AttributeValue::Texts(texts.clone()),
            _ => return Err(Error::input("the texts can not be read")),
        },
        DType::F32 => AttributeValue::F32(a.read_1d().map_err(error)?),
        DType::F64 => AttributeValue::F64(a.read_1d().map_err(error)?),
        DType::I8 => AttributeValue::I8(a.read_1d().map_err(error)?),
        DType::I16 => AttributeValue::I16(a.read_1d().map_err(error)?),
        DType::I32 => AttributeValue::I32(a.read_1d().map_err(error)?),
        DType::I64 => AttributeValue::I64(a.read_1d().map_err(error)?),
        DType::U8 => AttributeValue::U8(a.read_1d().map_err(error)?),
        DType::U16 => AttributeValue::U16(a.read_1d().map_err(error)?),
        DType::U32 => AttributeValue::U32(a.read_1d().map_err(error)?),
        DType::U64 => AttributeValue::U64(a.read_1d().map_err(error)?),
    })
}

/// One character.
#[derive(Clone, Copy)]
pub struct Octet(pub u8);

impl hdf5_reader::H5Type for Octet {
    fn hdf5_type() -> Datatype {
        <u8 as hdf5_reader::H5Type>::hdf5_type()
    }

    fn from_bytes(bytes: &[u8], _: &Datatype) -> hdf5_reader::error::Result<Self> {
        Ok(Octet(bytes.first().copied().unwrap_or(0)))
    }

    fn element_size(_: &Datatype) -> usize {
        1
    }

    fn decode_vec(raw: &[u8], _: &Datatype, count: usize) -> Option<hdf5_reader::error::Result<Vec<Self>>> {
        (raw.len() >= count).then(|| Ok(raw[..count].iter().map(|&b| Octet(b)).collect()))
    }
}

/// The bytes of one text: itself if of fixed length, else where it is.
#[derive(Clone)]
pub struct TextBytes(pub Vec<u8>);

impl hdf5_reader::H5Type for TextBytes {
    fn hdf5_type() -> Datatype {
        <u8 as hdf5_reader::H5Type>::hdf5_type()
    }

    fn from_bytes(bytes: &[u8], _: &Datatype) -> hdf5_reader::error::Result<Self> {
        Ok(TextBytes(bytes.to_vec()))
    }

    fn element_size(datatype: &Datatype) -> usize {
        match datatype {
            Datatype::String { size: StringSize::Fixed(n), .. } => *n as usize,
            // Length, address and index in the heap, where addresses have 8 bytes, as they do in all NetCDF-4 files.
            _ => 16,
        }
    }
}

/// A text that ends with its bytes or with the first zero.
pub fn until_zero(mut bytes: Vec<u8>) -> String {
    if let Some(end) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(end);
    }
    values::text(bytes)
}

/// Characters as values.
pub fn characters(octets: Vec<Octet>) -> Values {
    Values::Char(octets.into_iter().map(|o| o.0).collect())
}
