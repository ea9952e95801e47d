//! PyTorch checkpoints (`.ckpt`, `.pth`): a zip archive with a pickle that describes tensors, and a record of raw bytes for each storage.

use super::archive::Archive;
use super::pickle::{self, MAX_PICKLE_BYTES, View};
use super::{Reader, TensorMeta};
use crate::error::{Context, Error, Result};
use crate::forecast::weights::byte_len;
use std::collections::BTreeMap;

pub(super) struct TorchFile {
    archive: Archive,
    /// The folder inside the archive, with its slash.
    root: String,
    views: BTreeMap<String, View>,
}

impl TorchFile {
    /// The folder with the pickle, if this archive is of PyTorch.
    pub fn root_of(archive: &Archive) -> Option<String> {
        archive.entries().find_map(|(name, _)| name.strip_suffix("data.pkl").map(str::to_string))
    }

    /// Reads what tensors there are.
    pub fn open(archive: Archive, root: String) -> Result<(Self, BTreeMap<String, TensorMeta>)> {
        let pickle = format!("{root}data.pkl");
        let size = archive.size(&pickle).unwrap_or(0);
        if size > MAX_PICKLE_BYTES {
            return Err(Error::input(format!(
                "a pickle of {size} bytes; those of tensors have at most {MAX_PICKLE_BYTES}"
            )));
        }
        let order = format!("{root}byteorder");
        if archive.size(&order).is_some_and(|n| n < 64) && archive.read(&order)? != b"little" {
            return Err(Error::unsupported("the checkpoint's numbers are not little-endian"));
        }
        let views = pickle::tensors(&archive.read(&pickle)?)?;
        for (name, view) in &views {
            let record = format!("{root}data/{}", view.storage);
            let expected = byte_len(view.dtype, &[view.storage_len]).map(|n| n as u64);
            let found = archive.size(&record);
            if found.is_none() || found != expected {
                let found = found.map_or("is not there".to_string(), |n| format!("has {n} bytes"));
                let n = view.storage_len;
                return Err(Error::input(format!("tensor {name:?}: its storage of {n} {:?} {found}", view.dtype)));
            }
        }
        let metas = views
            .iter()
            .map(|(name, v)| (name.clone(), TensorMeta { dtype: v.dtype, shape: v.shape.clone() }))
            .collect();
        Ok((Self { archive, root, views }, metas))
    }
}

impl Reader for TorchFile {
    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let view = self.views.get(name).ok_or_else(|| Error::input(format!("there is no tensor {name:?}")))?;
        let record = format!("{}data/{}", self.root, view.storage);
        let storage = self.archive.read(&record).context(|| format!("tensor {name:?}"))?;
        gather(view, storage)
    }
}

/// The elements of a view in C order. The view was checked against the length of the storage, and the storage's bytes against that.
fn gather(view: &View, storage: Vec<u8>) -> Result<Vec<u8>> {
    let size = view.dtype.bitsize() / 8;
    let elements: usize = view.shape.iter().product();
    let mut contiguous = 1;
    let is_contiguous = view.shape.iter().zip(&view.strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == contiguous;
        contiguous *= n.max(1);
        fits
    });
    let short = || Error::input("a tensor leaves its storage");
    if is_contiguous || elements == 0 {
        if view.offset == 0 && storage.len() == elements * size {
            return Ok(storage);
        }
        let start = if elements == 0 { 0 } else { view.offset * size };
        return storage.get(start..start + elements * size).map(<[u8]>::to_vec).ok_or_else(short);
    }
    let mut out = Vec::with_capacity(elements * size);
    let mut at = vec![0usize; view.shape.len()];
    let mut from = view.offset;
    for _ in 0..elements {
        out.extend_from_slice(storage.get(from * size..(from + 1) * size).ok_or_else(short)?);
        for d in (0..at.len()).rev() {
            at[d] += 1;
            from += view.strides[d];
            if at[d] < view.shape[d] {
                break;
            }
            from -= at[d] * view.strides[d];
            at[d] = 0;
        }
    }
    Ok(out)
}
