//! Zip archives of uncompressed entries, as `torch.save` and `numpy.savez` write them.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Mutex;
use zip::{CompressionMethod, ZipArchive};

/// Most entries; Aurora's checkpoint has some 700.
const MAX_ENTRIES: usize = 1 << 16;

/// A zip archive whose entries are read whole, each as large as the file can hold it.
pub(super) struct Archive {
    zip: Mutex<ZipArchive<BufReader<File>>>,
    sizes: BTreeMap<String, (usize, u64)>,
}

impl Archive {
    /// Opens the archive and reads its directory.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let file_bytes = file.metadata()?.len();
        let mut zip = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
        if zip.len() > MAX_ENTRIES {
            return Err(Error::input(format!("{} entries in a zip archive; at most {MAX_ENTRIES}", zip.len())));
        }
        if zip.has_duplicate_names() {
            return Err(Error::input("two entries of the zip archive have the same name"));
        }
        let mut sizes = BTreeMap::new();
        for i in 0..zip.len() {
            let entry = zip.by_index_raw(i).map_err(damaged)?;
            let name = entry.name().map_err(damaged)?.into_owned();
            let size = entry.size();
            if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
                return Err(Error::unsupported(format!(
                    "entry {name:?} is compressed or encrypted; checkpoints are neither"
                )));
            }
            if size != entry.compressed_size() || size > file_bytes {
                return Err(Error::input(format!("entry {name:?} claims {size} bytes in a file of {file_bytes}")));
            }
            sizes.insert(name, (i, size));
        }
        Ok(Self { zip: Mutex::new(zip), sizes })
    }

    /// Names and sizes of all entries.
    pub fn entries(&self) -> impl Iterator<Item = (&str, u64)> {
        self.sizes.iter().map(|(name, &(_, size))| (name.as_str(), size))
    }

    /// The size of an entry.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.sizes.get(name).map(|s| s.1)
    }

    /// All bytes of an entry, its checksum compared.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        self.read_start(name, u64::MAX)
    }

    /// At most the first `limit` bytes of an entry; its checksum is only compared if that is all of it.
    pub fn read_start(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let &(index, size) =
            self.sizes.get(name).ok_or_else(|| Error::input(format!("the zip archive has no entry {name:?}")))?;
        let wanted = size.min(limit);
        let mut zip = self.zip.lock().unwrap_or_else(|e| e.into_inner());
        let entry = zip.by_index(index).map_err(damaged)?;
        let mut bytes = Vec::with_capacity(wanted as usize);
        // One byte more than there should be: the checksum is compared at the end of the entry.
        let read = entry.take(wanted.saturating_add(u64::from(limit > size))).read_to_end(&mut bytes);
        read.map_err(|e| Error::input(format!("entry {name:?}: {e}")))?;
        if bytes.len() as u64 != wanted {
            return Err(Error::input(format!("entry {name:?} has {} bytes of {size}", bytes.len())));
        }
        Ok(bytes)
    }
}

fn damaged(e: impl std::fmt::Display) -> Error {
    Error::input(format!("the zip archive is damaged: {e}"))
}
