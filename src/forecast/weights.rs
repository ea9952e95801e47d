//! A model's weights: one safetensors file, with the model's name and its hyper-parameters in the metadata.
//!
//! | metadata | |
//! |---|---|
//! | `residuum.model` | name in the registry of [`crate::forecast`] |
//! | `residuum.config` | hyper-parameters, a JSON object; which ones is the model's affair |
//! | `residuum.licence` | licence of the weights |
//! | `residuum.source` | name of the checkpoint they were imported from |
//!
//! Files are not trusted. The header has at most 64 MiB and must account for every byte of the file; tensors are read one by one, when a
//! model asks for them by name *and shape*, so that no more memory is asked for than the file has bytes.

use crate::error::{Context, Error, Kind, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Largest header. That of Aurora (some 700 tensors) has 80 kB.
const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Most tensors.
const MAX_TENSORS: usize = 1 << 16;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;

const MODEL: &str = "residuum.model";
const CONFIG: &str = "residuum.config";
const LICENCE: &str = "residuum.licence";
const SOURCE: &str = "residuum.source";

/// What is said about weights beside the tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct About {
    /// Name of the model in the registry.
    pub model: String,
    /// Hyper-parameters.
    pub config: Value,
    /// Licence of the weights; empty if nobody said.
    pub licence: String,
    /// Name of the checkpoint they come from; empty if nobody said.
    pub source: String,
}

/// A safetensors file, open for reading.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    file: Mutex<File>,
    data_start: u64,
    metadata: Metadata,
    about: About,
}

impl Weights {
    /// Opens weights that `residuum weights import` wrote.
    ///
    /// # Errors
    /// `Io` if the file can not be read, `Input` if it is no safetensors file, or not one of ours.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path, None).context(|| path.display())
    }

    /// Opens a safetensors file that lacks our metadata, which the caller supplies.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn open_as(path: &Path, model: &str, config: Value) -> Result<Self> {
        let about = About { model: model.into(), config, licence: String::new(), source: String::new() };
        Self::read(path, Some(about)).context(|| path.display())
    }

    fn read(path: &Path, about: Option<About>) -> Result<Self> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut n = [0; 8];
        let short = |_| Error::input("not a safetensors file: too short for its header");
        file.read_exact(&mut n).map_err(short)?;
        let header_bytes = u64::from_le_bytes(n);
        if header_bytes > MAX_HEADER_BYTES || header_bytes > len.saturating_sub(8) {
            return Err(Error::input(format!(
                "not a safetensors file: a header of {header_bytes} bytes in a file of {len} (at most {MAX_HEADER_BYTES})"
            )));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(short)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| Error::input(format!("not a safetensors file: {e}")))?;
        let data_start = 8 + header_bytes;
        let found = len - data_start;
        if metadata.data_len() as u64 != found {
            let needed = metadata.data_len();
            return Err(Error::input(format!("the file should hold {needed} bytes of tensors, but holds {found}")));
        }
        let tensors = metadata.tensors();
        let deep = tensors.values().any(|t| t.shape.len() > MAX_DIMS);
        if tensors.len() > MAX_TENSORS || deep {
            let n = tensors.len();
            return Err(Error::unsupported(format!(
                "{n} tensors, or one of more than {MAX_DIMS} dimensions (at most {MAX_TENSORS})"
            )));
        }
        let about = match about {
            Some(about) => about,
            None => about_of(&metadata)?,
        };
        Ok(Self { path: path.to_path_buf(), file: Mutex::new(file), data_start, metadata, about })
    }

    /// Model, hyper-parameters, licence.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The hyper-parameters as a model's own type.
    ///
    /// # Errors
    /// `Input` if one is missing or of the wrong type.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.about.config)
            .map_err(|e| Error::input(format!("configuration of {:?}: {e}", self.about.model)))
            .context(|| self.path.display())
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.metadata.offset_keys();
        names.sort();
        names
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.metadata.info(name).is_some()
    }

    /// Element type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<(Dtype, &[usize])> {
        self.metadata.info(name).map(|i| (i.dtype, &i.shape[..]))
    }

    /// Number of elements of all floating-point tensors.
    pub fn parameters(&self) -> u64 {
        let floats = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];
        let tensors = self.metadata.tensors();
        tensors.values().filter(|t| floats.contains(&t.dtype)).map(|t| t.shape.iter().product::<usize>() as u64).sum()
    }

    /// A tensor's bytes, little-endian, in C order.
    ///
    /// # Errors
    /// `Input` if there is none of this name, `Io` if it can not be read.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.find(name)?;
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        file.seek(SeekFrom::Start(self.data_start + start as u64))?;
        file.read_exact(&mut bytes).map_err(|e| Error::new(Kind::Io, format!("tensor {name:?}: {e}")))?;
        Ok(bytes)
    }

    /// A floating-point tensor of exactly this shape, as `dtype` on `device`.
    ///
    /// # Errors
    /// `Input` if there is none of this name, or it has another shape or is not floating-point.
    pub fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let info = self.checked(name, shape)?;
        let stored = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(self.wrong(format!("tensor {name:?} is of type {other:?}, not floating-point"))),
        };
        let tensor = Tensor::from_raw_buffer(&self.bytes(name)?, stored, shape, &Device::Cpu)?;
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }

    /// The values of a floating-point tensor of exactly this shape, in host memory.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn f32s(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(self.tensor(name, shape, DType::F32, &Device::Cpu)?.flatten_all()?.to_vec1()?)
    }

    /// The values of a tensor of 32-bit integers of exactly this shape.
    ///
    /// # Errors
    /// `Input` if there is none of this name, or it has another shape or type.
    pub fn i32s(&self, name: &str, shape: &[usize]) -> Result<Vec<i32>> {
        let info = self.checked(name, shape)?;
        if info.dtype != Dtype::I32 {
            return Err(self.wrong(format!("tensor {name:?} is of type {:?}, not I32", info.dtype)));
        }
        Ok(self.bytes(name)?.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn checked(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo> {
        let info = self.find(name)?;
        if info.shape != shape {
            return Err(
                self.wrong(format!("tensor {name:?} has shape {:?}, the configuration says {shape:?}", info.shape))
            );
        }
        Ok(info)
    }

    fn find(&self, name: &str) -> Result<&TensorInfo> {
        self.metadata.info(name).ok_or_else(|| self.wrong(format!("there is no tensor {name:?}")))
    }

    fn wrong(&self, message: String) -> Error {
        let e: Result<()> = Err(Error::input(message));
        e.context(|| self.path.display()).unwrap_err()
    }
}

fn about_of(metadata: &Metadata) -> Result<About> {
    let empty = HashMap::new();
    let texts = metadata.metadata().as_ref().unwrap_or(&empty);
    let text = |key: &str| texts.get(key).cloned().unwrap_or_default();
    let (Some(model), Some(config)) = (texts.get(MODEL), texts.get(CONFIG)) else {
        return Err(Error::input(
            "the metadata does not name a model and its configuration: make the file with `residuum weights import CHECKPOINT`",
        ));
    };
    let config: Value =
        serde_json::from_str(config).map_err(|e| Error::input(format!("configuration of {model:?}: {e}")))?;
    Ok(About { model: model.clone(), config, licence: text(LICENCE), source: text(SOURCE) })
}

/// A tensor to be written: type, shape, and a function that gives its bytes when its turn comes.
pub struct Planned<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Gives the bytes, little-endian, in C order.
    pub bytes: Box<dyn Fn() -> Result<Vec<u8>> + 'a>,
}

/// Writes weights to `path`, tensors sorted by name, never more than one of them in memory. The same input gives the same bytes.
/// Nothing stands under the final name before all is written and `check` has looked at it.
///
/// # Errors
/// `Usage` if `path` exists and `force` is not set, `Io` if the disk refuses, or what a tensor's function says.
pub fn write(
    path: &Path,
    about: &About,
    tensors: &[(String, Planned<'_>)],
    force: bool,
    check: impl FnOnce(&Weights) -> Result<()>,
) -> Result<()> {
    if path.exists() && !force {
        return Err(Error::usage(format!("{}: exists already; --force overwrites it", path.display())));
    }
    let mut order: Vec<&(String, Planned<'_>)> = tensors.iter().collect();
    order.sort_by(|a, b| a.0.cmp(&b.0));
    let mut header = Map::new();
    let texts = [
        (MODEL, about.model.clone()),
        (CONFIG, about.config.to_string()),
        (LICENCE, about.licence.clone()),
        (SOURCE, about.source.clone()),
    ];
    let texts: Map<String, Value> = texts.into_iter().map(|(k, v)| (k.to_string(), Value::from(v))).collect();
    header.insert("__metadata__".into(), texts.into());
    let mut at = 0usize;
    for (name, t) in &order {
        let bytes = byte_len(t.dtype, &t.shape).and_then(|n| at.checked_add(n).map(|end| (n, end)));
        let (_, end) = bytes.ok_or_else(|| Error::input(format!("tensor {name:?} is too large: {:?}", t.shape)))?;
        let entry = json!({ "dtype": t.dtype, "shape": t.shape, "data_offsets": [at, end] });
        if header.insert(name.clone(), entry).is_some() {
            return Err(Error::input(format!("two tensors are called {name:?}")));
        }
        at = end;
    }
    let mut header = Value::Object(header).to_string();
    // Tensors start at a multiple of 8 bytes, as the format asks of writers.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = tempfile::Builder::new().prefix(".weights.").suffix(".tmp").tempfile_in(folder)?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for (name, t) in &order {
        let bytes = (t.bytes)().context(|| format!("tensor {name:?}"))?;
        if Some(bytes.len()) != byte_len(t.dtype, &t.shape) {
            return Err(Error::input(format!("tensor {name:?} has {} bytes, not those of {:?}", bytes.len(), t.shape)));
        }
        out.write_all(&bytes)?;
    }
    let temporary = out.into_inner().map_err(|e| Error::new(Kind::Io, e.to_string()))?;
    temporary.as_file().sync_all()?;
    let mut written = Weights::open(temporary.path())?;
    written.path = path.to_path_buf();
    check(&written)?;
    drop(written);
    let done = if force { temporary.persist(path).map(drop) } else { temporary.persist_noclobber(path).map(drop) };
    done.map_err(|e| Error::new(Kind::Io, format!("{}: {}", path.display(), e.error)))
}

/// Bytes of a tensor; `None` beyond what can be addressed.
pub(crate) fn byte_len(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.bitsize() / 8, |n, &d| n.checked_mul(d))
}

/// SHA-256 of a file, in hexadecimal: what `sha256sum` prints.
///
/// # Errors
/// `Io` if it can not be read.
pub fn digest(path: &Path) -> Result<String> {
    Ok(sha256(path)?.iter().map(|b| format!("{b:02x}")).collect())
}

/// SHA-256 of a file.
///
/// # Errors
/// `Io` if it can not be read.
pub fn sha256(path: &Path) -> Result<[u8; 32]> {
    let mut file = File::open(path).context(|| path.display())?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().into())
}
