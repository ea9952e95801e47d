//! Variable-length integers and length-prefixed byte strings, with a reader that never trusts a length.

use crate::error::{Error, Result};
use std::cell::RefCell;
use zstd::bulk::Compressor;

/// zstd level of small side sections: they are short, so time does not matter.
const SIDE_LEVEL: i32 = 12;

/// Appends an unsigned LEB128 integer.
pub fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Appends a length-prefixed byte string.
pub fn put_bytes(out: &mut Vec<u8>, data: &[u8]) {
    put_varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

/// Appends a byte string, zstd-compressed if that is shorter: varint `2 · length + compressed`, then the bytes.
pub fn put_packed(out: &mut Vec<u8>, data: &[u8]) {
    let packed = packed(data).unwrap_or_default();
    if !packed.is_empty() && packed.len() < data.len() {
        put_varint(out, packed.len() as u64 * 2 + 1);
        out.extend_from_slice(&packed);
    } else {
        put_varint(out, data.len() as u64 * 2);
        out.extend_from_slice(data);
    }
}

/// A zstd frame of small data.
fn packed(data: &[u8]) -> std::io::Result<Vec<u8>> {
    /// What is longer takes its time anyway, and room that nobody shall keep.
    const SHORT: usize = 1 << 12;
    thread_local! {
        /// One for all short strings: to make it takes four times as long as to use it.
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    }
    if data.len() > SHORT {
        return zstd::bulk::compress(data, SIDE_LEVEL);
    }
    COMPRESSOR.with_borrow_mut(|kept| {
        let mut compressor = kept.take().map_or_else(|| Compressor::new(SIDE_LEVEL), Ok)?;
        let packed = compressor.compress(data)?;
        *kept = Some(compressor);
        Ok(packed)
    })
}

/// Decompresses a zstd frame that holds at most `max_len` bytes.
///
/// # Errors
/// `Corrupt` if it is not a valid frame or holds more.
pub fn unzstd(data: &[u8], max_len: usize) -> Result<Vec<u8>> {
    use std::io::Read;
    let bad = |_| Error::corrupt("zstd frame is damaged");
    let mut out = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(data).map_err(bad)?.single_frame();
    decoder.take(max_len as u64 + 1).read_to_end(&mut out).map_err(bad)?;
    if out.len() > max_len {
        return Err(Error::corrupt(format!("zstd frame holds more than the {max_len} bytes allowed here")));
    }
    Ok(out)
}

/// Reads integers and byte strings from untrusted bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// `Corrupt` if fewer are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or_else(|| Error::corrupt("ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next byte.
    ///
    /// # Errors
    /// `Corrupt` at the end.
    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned LEB128 integer of at most 64 bits.
    ///
    /// # Errors
    /// `Corrupt` if it ends early or is too long.
    pub fn varint(&mut self) -> Result<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            let part = u64::from(b & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            v |= part << shift;
            if b & 0x80 == 0 {
                return Ok(v);
            }
        }
        Err(Error::corrupt("integer of more than 64 bits"))
    }

    /// A length-prefixed byte string.
    ///
    /// # Errors
    /// `Corrupt` if the length is not there.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.varint()?;
        self.take(usize::try_from(n).map_err(|_| Error::corrupt("length out of range"))?)
    }

    /// What [`put_packed`] wrote, of at most `max_len` bytes.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged or longer.
    pub fn packed(&mut self, max_len: usize) -> Result<Vec<u8>> {
        let n = self.varint()?;
        let data = self.take(usize::try_from(n / 2).map_err(|_| Error::corrupt("length out of range"))?)?;
        if n & 1 == 1 {
            unzstd(data, max_len)
        } else if data.len() <= max_len {
            Ok(data.to_vec())
        } else {
            Err(Error::corrupt("byte string is longer than allowed here"))
        }
    }
}
