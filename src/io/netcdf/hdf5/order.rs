//! The order in which an object's attributes were made.
//!
//! The HDF5 reader gives attributes in the order of their messages in the header. That is nearly always the same, but the
//! HDF5 library puts a new attribute into the gap that a deleted one left, and gives each its number besides.

use hdf5_reader::{Attribute, Storage};
use std::collections::HashMap;

/// Headers that are continued more often than this stay as they are.
const MAX_BLOCKS: usize = 256;

const ATTRIBUTE: u8 = 0x0C;
const CONTINUATION: u8 = 0x10;

/// `attributes` of the object whose header is at `address`, in the order in which they were made, if that is known.
pub fn as_made(mut attributes: Vec<Attribute>, storage: &dyn Storage, address: u64) -> Vec<Attribute> {
    // The reader has read the header already and complained about whatever is wrong; here there is nothing to report.
    if let Some(numbers) = numbers(storage, address) {
        attributes.sort_by_key(|a| numbers.get(a.name.as_bytes()).copied().unwrap_or(u16::MAX));
    }
    attributes
}

/// Numbers of the attributes in a header of version 2.
fn numbers(storage: &dyn Storage, address: u64) -> Option<HashMap<Vec<u8>, u16>> {
    const ORDER_KEPT: u8 = 0x04;
    const PHASES: u8 = 0x10;
    const TIMES: u8 = 0x20;
    let head = storage.read_range(address, 6).ok()?;
    let flags = match head[..] {
        [b'O', b'H', b'D', b'R', 2, flags] if flags & ORDER_KEPT != 0 => flags,
        _ => return None,
    };
    let skipped = 6 + if flags & TIMES != 0 { 16 } else { 0 } + if flags & PHASES != 0 { 4 } else { 0 };
    let width = 1usize << (flags & 3);
    let at = address.checked_add(skipped)?;
    let len = number(&storage.read_range(at, width).ok()?);
    let mut blocks = vec![(at.checked_add(width as u64)?, len)];
    let mut numbers = HashMap::new();
    let mut i = 0;
    while let Some(&(at, len)) = blocks.get(i) {
        let block = storage.read_range(at, usize::try_from(len).ok()?).ok()?;
        let mut rest = &block[..];
        // Type, size, flags, number; then the message.
        while let [kind, size_low, size_high, _, number_low, number_high, tail @ ..] = rest {
            let size = usize::from(u16::from_le_bytes([*size_low, *size_high]));
            let body = tail.get(..size)?;
            rest = &tail[size..];
            match *kind {
                ATTRIBUTE => {
                    let number = u16::from_le_bytes([*number_low, *number_high]);
                    numbers.insert(name(body)?.to_vec(), number);
                }
                CONTINUATION if blocks.len() < MAX_BLOCKS => {
                    // An address and a length; the block has a signature before and a checksum after its messages.
                    let at = self::number(body.get(..8)?).checked_add(4)?;
                    blocks.push((at, self::number(body.get(8..16)?).checked_sub(8)?));
                }
                CONTINUATION => return None,
                _ => {}
            }
        }
        i += 1;
    }
    Some(numbers)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
}

/// The name in a message of an attribute: after version, flags and three sizes, in version 3 also a character set.
fn name(body: &[u8]) -> Option<&[u8]> {
    let start = if body.first() == Some(&3) { 9 } else { 8 };
    let len = usize::try_from(number(body.get(2..4)?)).ok()?;
    let name = body.get(start..start + len)?;
    name.split(|&b| b == 0).next()
}
