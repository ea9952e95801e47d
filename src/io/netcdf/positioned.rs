//! Reads and writes at a place in a file.

use crate::error::Result;
use std::fs::File;
#[cfg(not(unix))]
use std::io::{Read, Seek, SeekFrom, Write};

/// Fills `bytes` from `offset` on.
pub fn read_at(file: &mut File, offset: u64, bytes: &mut [u8]) -> Result<()> {
    #[cfg(unix)]
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)?;
    #[cfg(not(unix))]
    {
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(bytes)?;
    }
    Ok(())
}

/// Writes `bytes` at `offset`.
pub fn write_at(file: &mut File, offset: u64, bytes: &[u8]) -> Result<()> {
    #[cfg(unix)]
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)?;
    #[cfg(not(unix))]
    {
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)?;
    }
    Ok(())
}
