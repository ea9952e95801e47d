//! Sections: the units of an archive file. Layout in `format.md`.

use super::checksum;
use crate::encode::bytes;
use crate::error::{Error, Result};
use std::io::{ErrorKind, Read, Write};

/// What starts every archive. The first byte is no text, and the line ends show whether a transfer changed them.
pub const MAGIC: [u8; 8] = *b"\x93RSD\r\n\x1a\n";
/// What ends every complete archive.
pub const END_MAGIC: [u8; 8] = *b"RSD.end\n";
/// Version of the format that this code writes, but for archives with weights.
pub const VERSION: u16 = 1;
/// Version of archives with weights. This code reads all versions up to it.
pub const VERSION_WITH_WEIGHTS: u16 = 2;
/// Bytes before the first section.
pub const HEADER_BYTES: u64 = 12;
/// Bytes after the last: offset of the index, its length, checksum of both, end magic.
pub const FOOTER_BYTES: u64 = 32;

/// Kinds of section.
pub mod kind {
    /// What the file holds: [`crate::io::Schema`].
    pub const SCHEMA: u8 = 1;
    /// What was decided for a variable: [`crate::Plan`]. Its tiles follow.
    pub const PLAN: u8 = 2;
    /// Values of a tile.
    pub const TILE: u8 = 3;
    /// Where everything lies.
    pub const INDEX: u8 = 4;
    /// Weights of a model.
    pub const WEIGHTS: u8 = 5;
}

/// Writes the header.
pub fn write_header(out: &mut impl Write, version: u16) -> Result<()> {
    out.write_all(&MAGIC)?;
    out.write_all(&version.to_le_bytes())?;
    out.write_all(&[0; 2])?;
    Ok(())
}

/// Reads and checks the header; gives the version.
///
/// # Errors
/// `Input` if it is no archive, `Unsupported` if it is of a later version.
pub fn read_header(input: &mut impl Read) -> Result<u16> {
    let mut header = [0; HEADER_BYTES as usize];
    input.read_exact(&mut header).map_err(|e| at_end(e, Error::input("not a residuum archive: too short")))?;
    if header[..8] != MAGIC {
        return Err(Error::input("not a residuum archive (its first bytes differ)"));
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version == 0 || header[10..] != [0; 2] {
        return Err(Error::corrupt("header is damaged"));
    }
    if version > VERSION_WITH_WEIGHTS {
        return Err(Error::unsupported(format!(
            "archive of format version {version}; this residuum reads up to {VERSION_WITH_WEIGHTS}: install a newer one"
        )));
    }
    Ok(version)
}

/// `cut` if there is nothing more to read; else what the system says: a file that can not be read is not damaged.
fn at_end(e: std::io::Error, cut: Error) -> Error {
    if e.kind() == ErrorKind::UnexpectedEof { cut } else { e.into() }
}

/// Writes a section and returns its length in the file.
pub fn write(out: &mut impl Write, kind: u8, payload: &[u8]) -> Result<u64> {
    let len = write_head(out, kind, payload.len() as u64, checksum::of_section(kind, payload))?;
    out.write_all(payload)?;
    Ok(len)
}

/// Writes what stands before a payload of `len` bytes, and returns the length of both.
pub fn write_head(out: &mut impl Write, kind: u8, len: u64, checksum: u64) -> Result<u64> {
    let mut head = vec![kind];
    bytes::put_varint(&mut head, len);
    head.extend(checksum.to_le_bytes());
    out.write_all(&head)?;
    Ok(head.len() as u64 + len)
}

/// Reads the next section of at most `max_payload` bytes: its kind, payload and length in the file.
///
/// # Errors
/// `Corrupt` if it is cut, too long or its checksum differs.
pub fn read(input: &mut impl Read, max_payload: u64) -> Result<(u8, Vec<u8>, u64)> {
    let cut = |e| at_end(e, Error::corrupt("section is cut short"));
    let mut byte = || {
        let mut b = [0];
        input.read_exact(&mut b).map(|()| b[0]).map_err(cut)
    };
    let kind = byte()?;
    let mut head = vec![];
    loop {
        head.push(byte()?);
        if head[head.len() - 1] & 0x80 == 0 || head.len() == 10 {
            break;
        }
    }
    let len = bytes::Reader::new(&head).varint()?;
    if len > max_payload {
        return Err(Error::corrupt(format!("section of {len} bytes where at most {max_payload} are allowed")));
    }
    let mut sum = [0; 8];
    input.read_exact(&mut sum).map_err(cut)?;
    /// Room to begin with.
    const ROOM: u64 = 1 << 20;
    // Grows as bytes arrive, so that a false length costs next to nothing.
    let mut payload = Vec::with_capacity(len.min(ROOM) as usize);
    input.take(len).read_to_end(&mut payload)?;
    if payload.len() as u64 != len {
        return Err(Error::corrupt("section is cut short"));
    }
    if checksum::of_section(kind, &payload) != u64::from_le_bytes(sum) {
        return Err(Error::corrupt("checksum of a section differs: the file is damaged"));
    }
    Ok((kind, payload, 1 + head.len() as u64 + 8 + len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    /// Some bytes, then an error of the disk's.
    struct Failing<'a>(&'a [u8]);

    impl Read for Failing<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(out)? {
                0 if !out.is_empty() => Err(std::io::Error::other("disk on fire")),
                n => Ok(n),
            }
        }
    }

    #[test]
    fn what_the_system_refuses_is_no_damage() {
        let mut file = Vec::new();
        write_header(&mut file, VERSION).unwrap();
        write(&mut file, kind::TILE, &[7; 300]).unwrap();
        for len in 0..file.len() {
            let read = |input: &mut dyn Read| {
                let mut input = input;
                read_header(&mut input).and_then(|_| super::read(&mut input, 1000)).unwrap_err()
            };
            let e = read(&mut Failing(&file[..len]));
            assert_eq!((e.kind(), e.to_string()), (Kind::Io, "disk on fire".into()), "{len}");
            let e = read(&mut &file[..len]);
            assert_eq!(e.kind(), if len < HEADER_BYTES as usize { Kind::Input } else { Kind::Corrupt }, "{len}");
        }
        assert_eq!(super::read(&mut &file[HEADER_BYTES as usize..], 1000).unwrap().1, [7; 300]);
    }
}
