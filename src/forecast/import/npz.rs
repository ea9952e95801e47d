//! NumPy archives (`.npz`): a zip archive of `.npy` files. Numbers become tensors, unicode scalars (`<U…`) texts.

use super::archive::Archive;
use super::{Reader, TensorMeta};
use crate::error::{Context, Error, Result};
use crate::forecast::weights::byte_len;
use safetensors::Dtype;
use std::collections::BTreeMap;

/// Longest header of a `.npy` file that is read; NumPy refuses longer ones too.
const MAX_HEADER_BYTES: usize = 10_000;
/// Longest text, in characters.
const MAX_TEXT: usize = 1 << 16;

pub(super) struct NpzFile {
    archive: Archive,
    /// Entry, and byte at which the values start.
    places: BTreeMap<String, (String, usize)>,
}

/// Everything an archive holds but the values.
pub(super) type Contents = (NpzFile, BTreeMap<String, TensorMeta>, BTreeMap<String, String>);

impl NpzFile {
    /// Reads all headers, and the texts.
    pub fn open(archive: Archive) -> Result<Contents> {
        let (mut places, mut metas, mut texts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (entry, size) in archive.entries() {
            let place = || format!("entry {entry:?}");
            let name = entry
                .strip_suffix(".npy")
                .ok_or_else(|| Error::input("not a .npy file, as every entry of a .npz should be"))
                .context(place)?;
            let start = archive.read_start(entry, (MAX_HEADER_BYTES + 12) as u64).context(place)?;
            let (header, values_at) = Header::parse(&start).context(place)?;
            let expected = match header.kind {
                NpyKind::Number(dtype) => byte_len(dtype, &header.shape),
                NpyKind::Unicode(chars) if header.shape.is_empty() && chars <= MAX_TEXT => Some(4 * chars),
                NpyKind::Unicode(_) => {
                    return Err(Error::input("an array of texts, or a long one; only single texts are read"))
                        .context(place);
                }
            };
            let found = size - values_at as u64;
            if expected.map(|n| n as u64) != Some(found) {
                return Err(Error::input(format!("shape {:?} does not fit {found} bytes of values", header.shape)))
                    .context(place);
            }
            match header.kind {
                NpyKind::Number(dtype) => {
                    metas.insert(name.to_string(), TensorMeta { dtype, shape: header.shape });
                    places.insert(name.to_string(), (entry.to_string(), values_at));
                }
                NpyKind::Unicode(_) => {
                    let bytes = archive.read(entry).context(place)?;
                    texts.insert(name.to_string(), utf32(&bytes[values_at..]).context(place)?);
                }
            }
        }
        Ok((Self { archive, places }, metas, texts))
    }
}

impl Reader for NpzFile {
    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let (entry, start) =
            self.places.get(name).ok_or_else(|| Error::input(format!("there is no array {name:?}")))?;
        let mut bytes = self.archive.read(entry)?;
        bytes.drain(..*start);
        Ok(bytes)
    }
}

/// UTF-32, little-endian, padded with zeros.
fn utf32(bytes: &[u8]) -> Result<String> {
    let codes = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let text: Option<String> = codes.map(char::from_u32).collect();
    let text = text.ok_or_else(|| Error::input("text that is not unicode"))?;
    Ok(text.trim_end_matches('\0').to_string())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum NpyKind {
    Number(Dtype),
    /// Text of so many characters.
    Unicode(usize),
}

#[derive(Debug, PartialEq)]
struct Header {
    kind: NpyKind,
    shape: Vec<usize>,
}

impl Header {
    /// The header, and where values start.
    fn parse(start: &[u8]) -> Result<(Self, usize)> {
        let wrong = || Error::input("not a .npy header");
        let cut = start.strip_prefix(b"\x93NUMPY").ok_or_else(wrong)?;
        let (n, prefix) = match *cut {
            [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([a, b])), 10),
            [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([a, b, c, d]) as usize, 12),
            _ => return Err(wrong()),
        };
        if n > MAX_HEADER_BYTES {
            return Err(Error::input(format!("a .npy header of {n} bytes; at most {MAX_HEADER_BYTES}")));
        }
        let text = start.get(prefix..prefix + n).and_then(|b| std::str::from_utf8(b).ok()).ok_or_else(wrong)?;
        // {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
        let body = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(wrong)?;
        let field = |key: &str| {
            let (_, after) = body.split_once(&format!("'{key}':"))?;
            Some(after.trim_start())
        };
        let descr =
            field("descr").and_then(|t| t.strip_prefix('\'')).and_then(|t| t.split_once('\'')).ok_or_else(wrong)?.0;
        let fortran = field("fortran_order").ok_or_else(wrong)?.starts_with("True");
        let shape =
            field("shape").and_then(|t| t.strip_prefix('(')).and_then(|t| t.split_once(')')).ok_or_else(wrong)?.0;
        let shape = shape.split(',').map(str::trim).filter(|t| !t.is_empty());
        let shape = shape.map(|t| t.parse::<usize>().map_err(|_| wrong())).collect::<Result<Vec<_>>>()?;
        if shape.len() > 8 || (fortran && shape.len() > 1) {
            return Err(Error::unsupported("an array in Fortran order, or of more than 8 dimensions"));
        }
        let kind = match descr {
            "<f4" => NpyKind::Number(Dtype::F32),
            "<f8" => NpyKind::Number(Dtype::F64),
            "<f2" => NpyKind::Number(Dtype::F16),
            "<i8" => NpyKind::Number(Dtype::I64),
            "<i4" => NpyKind::Number(Dtype::I32),
            "<i2" => NpyKind::Number(Dtype::I16),
            "|i1" => NpyKind::Number(Dtype::I8),
            "<u8" => NpyKind::Number(Dtype::U64),
            "<u4" => NpyKind::Number(Dtype::U32),
            "<u2" => NpyKind::Number(Dtype::U16),
            "|u1" => NpyKind::Number(Dtype::U8),
            "|b1" => NpyKind::Number(Dtype::BOOL),
            other => match other.strip_prefix("<U").and_then(|n| n.parse().ok()) {
                Some(chars) => NpyKind::Unicode(chars),
                None => return Err(Error::unsupported(format!("element type {other:?}"))),
            },
        };
        Ok((Self { kind, shape }, prefix + n))
    }
}
