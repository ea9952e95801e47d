//! The parts of an HDF5 file as bytes: superblock, object headers and their messages.
//!
//! Versions are those of HDF5 1.8, which every reader of NetCDF-4 knows. Addresses and lengths have 8 bytes.

use crate::error::{Error, Result};
use crate::field::DType;
use hdf5_core::jenkins_lookup3;

/// The address of what is not there.
pub const NOWHERE: u64 = u64::MAX;

/// Size of the superblock, with which a file begins.
pub const SUPERBLOCK_BYTES: u64 = 48;

/// Superblock, version 2.
pub fn superblock(root: u64, end: u64) -> Vec<u8> {
    let mut b = b"\x89HDF\r\n\x1a\n\x02\x08\x08\x00".to_vec();
    for address in [0, NOWHERE, end, root] {
        b.extend(address.to_le_bytes());
    }
    with_checksum(b)
}

fn with_checksum(mut b: Vec<u8>) -> Vec<u8> {
    b.extend(jenkins_lookup3(&b).to_le_bytes());
    b
}

/// A message of an object header.
pub struct Message {
    kind: u8,
    /// Place among the attributes of the object.
    order: u16,
    body: Vec<u8>,
}

impl Message {
    fn new(kind: u8, body: Vec<u8>) -> Self {
        Self { kind, order: 0, body }
    }
}

/// An object header, version 2, that keeps the order of attributes.
pub fn object_header(messages: &[Message]) -> Result<Vec<u8>> {
    const SIZE_HAS_4_BYTES: u8 = 0x02;
    const ORDER_KEPT_AND_INDEXED: u8 = 0x0C;
    let mut body = vec![];
    for m in messages {
        let len = u16::try_from(m.body.len())
            .map_err(|_| Error::usage("a name or value of more than 64 KiB does not fit a NetCDF-4 header"))?;
        body.push(m.kind);
        body.extend(len.to_le_bytes());
        body.push(0);
        body.extend(m.order.to_le_bytes());
        body.extend_from_slice(&m.body);
    }
    let mut b = b"OHDR\x02".to_vec();
    b.push(SIZE_HAS_4_BYTES | ORDER_KEPT_AND_INDEXED);
    let len = u32::try_from(body.len()).map_err(|_| Error::usage("a NetCDF-4 header can not have more than 4 GiB"))?;
    b.extend(len.to_le_bytes());
    b.extend(body);
    Ok(with_checksum(b))
}

/// Types of arrays and attributes.
#[derive(Clone, Copy)]
pub enum Type {
    /// A type that variables have.
    Of(DType),
    /// A text of so many bytes.
    FixedText { bytes: u32, utf8: bool },
    /// What the NetCDF library gives dimensions without a variable: big-endian f32.
    Scale,
    /// Lists of objects.
    ObjectLists,
    /// Pairs of an object and an axis.
    BackReference,
}

impl Type {
    /// Bytes of one element in the file.
    pub fn size(self) -> u32 {
        match self {
            Type::Of(DType::Text) | Type::ObjectLists | Type::BackReference => 16,
            Type::Of(dtype) => dtype.size() as u32,
            Type::FixedText { bytes, .. } => bytes,
            Type::Scale => 4,
        }
    }

    fn encode(self) -> Vec<u8> {
        let head = |class: u8, flags: [u8; 3]| {
            let mut b = vec![0x10 | class];
            b.extend(flags);
            b.extend(self.size().to_le_bytes());
            b
        };
        match self {
            Type::Of(DType::F32) => float(head(1, [0x20, 31, 0]), 23, 8, 127),
            Type::Scale => float(head(1, [0x21, 31, 0]), 23, 8, 127),
            Type::Of(DType::F64) => float(head(1, [0x20, 63, 0]), 52, 11, 1023),
            Type::Of(DType::Char) => head(3, [0, 0, 0]),
            Type::FixedText { utf8, .. } => head(3, [if utf8 { 0x10 } else { 0 }, 0, 0]),
            // Text of any length, ended by a zero, in UTF-8; of bytes.
            Type::Of(DType::Text) => [head(9, [0x01, 0x01, 0]), Type::Of(DType::U8).encode()].concat(),
            Type::ObjectLists => [head(9, [0, 0, 0]), reference()].concat(),
            Type::BackReference => {
                // Two members; names padded to 8 bytes, then offset, and 28 bytes for array dimensions not used.
                let mut b = head(6, [2, 0, 0]);
                for (name, offset, member) in [
                    (&b"dataset\0"[..], 0u32, reference()),
                    (b"dimension\0\0\0\0\0\0\0", 8, Type::Of(DType::U32).encode()),
                ] {
                    b.extend_from_slice(name);
                    b.extend(offset.to_le_bytes());
                    b.extend([0; 28]);
                    b.extend(member);
                }
                b
            }
            Type::Of(dtype) => {
                let signed = matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64);
                let mut b = head(0, [if signed { 0x08 } else { 0 }, 0, 0]);
                b.extend(0u16.to_le_bytes());
                b.extend((8 * dtype.size() as u16).to_le_bytes());
                b
            }
        }
    }
}

fn float(mut head: Vec<u8>, mantissa_bits: u8, exponent_bits: u8, bias: u32) -> Vec<u8> {
    head.extend(0u16.to_le_bytes());
    head.extend((u16::from(mantissa_bits) + u16::from(exponent_bits) + 1).to_le_bytes());
    head.extend([mantissa_bits, exponent_bits, 0, mantissa_bits]);
    head.extend(bias.to_le_bytes());
    head
}

/// The type of references to objects.
fn reference() -> Vec<u8> {
    vec![0x17, 0, 0, 0, 8, 0, 0, 0]
}

/// Shape of an array; none for an attribute without elements.
fn dataspace(shape: Option<&[u64]>, unlimited: &[bool]) -> Vec<u8> {
    let Some(shape) = shape else { return vec![2, 0, 0, 2] };
    let grows = unlimited.contains(&true);
    let mut b = vec![2, shape.len() as u8, u8::from(grows), u8::from(!shape.is_empty())];
    b.extend(shape.iter().flat_map(|n| n.to_le_bytes()));
    if grows {
        b.extend(shape.iter().zip(unlimited).flat_map(|(&n, &u)| if u { u64::MAX } else { n }.to_le_bytes()));
    }
    b
}

/// Shape of an array, and whether axes may grow.
pub fn shape_message(shape: &[u64], unlimited: &[bool]) -> Message {
    Message::new(0x01, dataspace(Some(shape), unlimited))
}

/// Element type of an array.
pub fn type_message(t: Type) -> Message {
    Message::new(0x03, t.encode())
}

/// Value of elements never written; and that space is allocated piece by piece (`chunked`) or at the first write.
pub fn fill_message(value: &[u8], chunked: bool) -> Message {
    const WRITE_IF_SET: u8 = 2 << 2;
    const DEFINED: u8 = 1 << 5;
    let mut b = vec![3, if chunked { 3 } else { 2 } | WRITE_IF_SET];
    if !value.is_empty() {
        b[1] |= DEFINED;
        b.extend((value.len() as u32).to_le_bytes());
        b.extend_from_slice(value);
    }
    Message::new(0x05, b)
}

/// Values in one piece.
pub fn contiguous_message(address: u64, bytes: u64) -> Message {
    let mut b = vec![3, 1];
    b.extend(address.to_le_bytes());
    b.extend(bytes.to_le_bytes());
    Message::new(0x08, b)
}

/// Values in chunks, found in the tree at `index`.
pub fn chunked_message(index: u64, chunk: &[u64], element_bytes: u32) -> Message {
    let mut b = vec![3, 2, chunk.len() as u8 + 1];
    b.extend(index.to_le_bytes());
    b.extend(chunk.iter().flat_map(|&n| (n as u32).to_le_bytes()));
    b.extend(element_bytes.to_le_bytes());
    Message::new(0x08, b)
}

/// That a group's links keep their order; there are `n`.
pub fn link_info_message(n: usize) -> Message {
    let mut b = vec![0, 3];
    b.extend((n as u64).to_le_bytes());
    b.extend([0xFF; 24]);
    Message::new(0x02, b)
}

/// Nothing special about a group.
pub fn group_info_message() -> Message {
    Message::new(0x0A, vec![0, 0])
}

/// A link of a group to an object.
pub fn link_message(name: &str, order: usize, address: u64) -> Message {
    const LENGTH_HAS_4_BYTES: u8 = 0x02;
    const ORDER: u8 = 0x04;
    const CHARACTER_SET: u8 = 0x10;
    let mut b = vec![1, LENGTH_HAS_4_BYTES | ORDER | CHARACTER_SET];
    b.extend((order as u64).to_le_bytes());
    b.push(u8::from(!name.is_ascii()));
    b.extend((name.len() as u32).to_le_bytes());
    b.extend_from_slice(name.as_bytes());
    b.extend(address.to_le_bytes());
    Message::new(0x06, b)
}

/// That an object's attributes keep their order; there are `n`.
pub fn attribute_info_message(n: u16) -> Message {
    let mut b = vec![0, 3];
    b.extend(n.to_le_bytes());
    b.extend([0xFF; 24]);
    Message::new(0x15, b)
}

/// An attribute.
pub fn attribute_message(name: &str, t: Type, shape: Option<&[u64]>, data: &[u8], order: u16) -> Message {
    let (t, space) = (t.encode(), dataspace(shape, &[]));
    let mut b = vec![3, 0];
    // A name of more than 64 KiB makes the message too long, which is noticed when the header is put together.
    for n in [name.len() + 1, t.len(), space.len()] {
        b.extend((n as u16).to_le_bytes());
    }
    b.push(u8::from(!name.is_ascii()));
    b.extend_from_slice(name.as_bytes());
    b.push(0);
    b.extend(t);
    b.extend(space);
    b.extend_from_slice(data);
    Message { kind: 0x0C, order, body: b }
}
