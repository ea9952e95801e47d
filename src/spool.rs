//! Byte strings put aside until their turn to be written comes: in memory as long as they are few, else in a temporary file.

use crate::error::{Error, Result};
use std::io::{Read, Seek, SeekFrom, Write};
use tempfile::SpooledTempFile;

/// Bytes that stay in memory.
const IN_MEMORY: usize = 64 << 20;

/// Byte strings by the order in which they came.
pub struct Spool {
    file: SpooledTempFile,
    /// Where each ends.
    ends: Vec<u64>,
}

impl Default for Spool {
    fn default() -> Self {
        Self { file: SpooledTempFile::new(IN_MEMORY), ends: vec![] }
    }
}

impl Spool {
    /// Puts in one more.
    ///
    /// # Errors
    /// `Io` if the disk refuses.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.seek(SeekFrom::Start(self.len_bytes()))?;
        self.file.write_all(bytes)?;
        self.ends.push(self.len_bytes() + bytes.len() as u64);
        Ok(())
    }

    /// Takes one out again; it stays.
    ///
    /// # Errors
    /// `Usage` if there are not so many, `Io` if the disk refuses.
    pub fn get(&mut self, i: usize) -> Result<Vec<u8>> {
        self.part(i, 0, usize::MAX)
    }

    /// At most `len` bytes of one, from byte `start` on.
    ///
    /// # Errors
    /// As [`Spool::get`].
    pub fn part(&mut self, i: usize, start: u64, len: usize) -> Result<Vec<u8>> {
        let end = *self.ends.get(i).ok_or_else(|| Error::usage("no such byte string"))?;
        let start = end.min(start + i.checked_sub(1).map_or(0, |before| self.ends[before]));
        self.file.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![0; len.min((end - start) as usize)];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all together.
    pub fn len_bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let mut spool = Spool::default();
        for n in [3usize, 0, 5] {
            spool.push(&vec![n as u8; n]).unwrap();
        }
        assert_eq!((spool.len(), spool.len_bytes()), (3, 8));
        assert_eq!(spool.get(2).unwrap(), [5; 5]);
        assert!(spool.get(1).unwrap().is_empty());
        assert_eq!(spool.get(0).unwrap(), [3; 3]);
        assert_eq!(spool.part(2, 3, 9).unwrap(), [5; 2]);
        assert!(spool.get(3).is_err());
    }
}
