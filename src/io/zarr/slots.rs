//! Decoded chunks that are needed again: chunks of which a box took a part, or to which it gave a part.
//!
//! They stay in memory up to a limit and in a temporary file beyond it, so that chunks which reach across many boxes
//! are coded once, however small the boxes are. A reader's file is where the system has temporary files (`TMPDIR`), a
//! writer's beside what it writes.

use super::super::raw::Runs;
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// Bytes of chunks that stay in memory.
const MEMORY_BYTES: usize = 16 << 20;

/// Bytes of chunks that are kept at all for a reader, which can decode them again.
const MAX_KEPT_BYTES: u64 = 16 << 30;

/// Chunks of one array, by their indices.
pub(super) struct Slots {
    slot_bytes: usize,
    entries: HashMap<Vec<u64>, Entry>,
    /// Indices of the chunks by age, oldest first.
    ages: BTreeMap<u64, Vec<u64>>,
    next_age: u64,
    memory_bytes: usize,
    /// Folder of the temporary file; the system's if none.
    folder: Option<PathBuf>,
    file: Option<File>,
    file_bytes: u64,
    free: Vec<u64>,
}

struct Entry {
    place: Place,
    /// Elements that boxes have not taken or given yet.
    left: u64,
    age: u64,
}

enum Place {
    Memory(Vec<u8>),
    /// First byte in the temporary file.
    Disk(u64),
}

impl Slots {
    /// No chunks yet, each will have `slot_bytes`.
    pub fn new(slot_bytes: usize, folder: Option<PathBuf>) -> Self {
        Self {
            slot_bytes,
            entries: HashMap::new(),
            ages: BTreeMap::new(),
            next_age: 0,
            memory_bytes: 0,
            folder,
            file: None,
            file_bytes: 0,
            free: vec![],
        }
    }

    pub fn contains(&self, chunk: &[u64]) -> bool {
        self.entries.contains_key(chunk)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps a chunk, of which `left` elements are still to be taken or given.
    pub fn insert(&mut self, chunk: Vec<u64>, bytes: Vec<u8>, left: u64) -> Result<()> {
        let place = if self.memory_bytes + self.slot_bytes <= MEMORY_BYTES {
            self.memory_bytes += self.slot_bytes;
            Place::Memory(bytes)
        } else {
            let first = self.free.pop().unwrap_or(self.file_bytes);
            self.file_bytes = self.file_bytes.max(first + self.slot_bytes as u64);
            let file = self.open()?;
            file.seek(SeekFrom::Start(first))?;
            file.write_all(&bytes)?;
            Place::Disk(first)
        };
        let age = self.next_age;
        self.next_age += 1;
        self.ages.insert(age, chunk.clone());
        self.entries.insert(chunk, Entry { place, left, age });
        Ok(())
    }

    /// Forgets the oldest chunks while too many are kept; only for those who can make them again.
    pub fn shrink(&mut self) {
        while self.entries.len() as u64 * self.slot_bytes as u64 > MAX_KEPT_BYTES {
            let Some((_, chunk)) = self.ages.first_key_value() else { return };
            let chunk = chunk.clone();
            self.remove(&chunk);
        }
    }

    /// Forgets all chunks, and gives back what they took.
    pub fn clear(&mut self) {
        *self = Self::new(self.slot_bytes, self.folder.take());
    }

    /// Copies elements of `size` bytes in `runs` of a kept chunk to `target`.
    pub fn read(&mut self, chunk: &[u64], runs: Runs, size: usize, target: &mut [u8]) -> Result<()> {
        let Some(entry) = self.entries.get(chunk) else { return Err(not_kept()) };
        let mut rest = target;
        for (first, n) in runs {
            let (part, after) = rest.split_at_mut(n as usize * size);
            match (&entry.place, &mut self.file) {
                (Place::Memory(bytes), _) => part.copy_from_slice(&bytes[first as usize * size..][..part.len()]),
                (Place::Disk(start), Some(file)) => {
                    file.seek(SeekFrom::Start(start + first * size as u64))?;
                    file.read_exact(part)?;
                }
                (Place::Disk(_), None) => return Err(not_kept()),
            }
            rest = after;
        }
        Ok(())
    }

    /// Copies `source` to elements of `size` bytes in `runs` of a kept chunk.
    pub fn write(&mut self, chunk: &[u64], runs: Runs, size: usize, source: &[u8]) -> Result<()> {
        let Some(entry) = self.entries.get_mut(chunk) else { return Err(not_kept()) };
        let mut rest = source;
        for (first, n) in runs {
            let (part, after) = rest.split_at(n as usize * size);
            match (&mut entry.place, &mut self.file) {
                (Place::Memory(bytes), _) => bytes[first as usize * size..][..part.len()].copy_from_slice(part),
                (Place::Disk(start), Some(file)) => {
                    file.seek(SeekFrom::Start(*start + first * size as u64))?;
                    file.write_all(part)?;
                }
                (Place::Disk(_), None) => return Err(not_kept()),
            }
            rest = after;
        }
        Ok(())
    }

    /// Counts `elements` of a kept chunk as taken or given; true if none are left.
    pub fn spend(&mut self, chunk: &[u64], elements: u64) -> bool {
        self.entries.get_mut(chunk).is_some_and(|entry| {
            entry.left = entry.left.saturating_sub(elements);
            entry.left == 0
        })
    }

    /// The bytes of a kept chunk, which is kept no more.
    pub fn take(&mut self, chunk: &[u64]) -> Result<Vec<u8>> {
        match self.remove(chunk) {
            Some(Place::Memory(bytes)) => Ok(bytes),
            Some(Place::Disk(first)) => {
                let mut bytes = vec![0; self.slot_bytes];
                let file = self.open()?;
                file.seek(SeekFrom::Start(first))?;
                file.read_exact(&mut bytes)?;
                Ok(bytes)
            }
            None => Err(not_kept()),
        }
    }

    /// Keeps a chunk no more.
    pub fn forget(&mut self, chunk: &[u64]) {
        self.remove(chunk);
    }

    fn remove(&mut self, chunk: &[u64]) -> Option<Place> {
        let entry = self.entries.remove(chunk)?;
        self.ages.remove(&entry.age);
        match &entry.place {
            Place::Memory(_) => self.memory_bytes -= self.slot_bytes,
            Place::Disk(first) => self.free.push(*first),
        }
        Some(entry.place)
    }

    fn open(&mut self) -> Result<&mut File> {
        if self.file.is_none() {
            self.file = Some(match &self.folder {
                Some(folder) => tempfile::tempfile_in(folder)?,
                None => tempfile::tempfile()?,
            });
        }
        self.file.as_mut().ok_or_else(not_kept)
    }
}

fn not_kept() -> Error {
    Error::input("a chunk is missing from the temporary store")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_on_disk_are_as_those_in_memory() {
        let slot = MEMORY_BYTES / 2;
        let mut slots = Slots::new(slot, None);
        for i in 0..5u64 {
            slots.insert(vec![i], vec![i as u8; slot], 10).unwrap();
        }
        let runs = || Runs::new(&[4, slot as u64 / 4], &[1..3, 5..7]).unwrap();
        for i in 0..5u64 {
            slots.write(&[i], runs(), 1, &[7, 8, 9, i as u8 + 10]).unwrap();
            assert!(!slots.spend(&[i], 4));
        }
        for i in 0..5u64 {
            let mut got = [0; 4];
            slots.read(&[i], runs(), 1, &mut got).unwrap();
            assert_eq!(got, [7, 8, 9, i as u8 + 10]);
            assert!(slots.spend(&[i], 6));
            let bytes = slots.take(&[i]).unwrap();
            assert_eq!((bytes.len(), bytes[0], bytes[slot / 2 + 6]), (slot, i as u8, i as u8 + 10));
        }
        assert!(slots.is_empty() && slots.memory_bytes == 0 && slots.free.len() == 3);
    }
}
