//! Official checkpoints, read as data: `.ckpt` and `.pth` of PyTorch, `.npz` of NumPy.
//!
//! A [`Checkpoint`] lists named tensors and texts, whatever the file's layout. Which model it is of, and what its tensors are called in our
//! safetensors file, each model says itself ([`crate::forecast::Entry::import`]). Pickles are parsed by an interpreter of the few
//! instructions that tensors need; nothing in them is ever executed.

mod archive;
pub(super) mod aurora;
mod npz;
mod pickle;
mod torch;

use super::weights::{self, About, Planned};
use super::{MODELS, Options, Weights};
use crate::error::{Context, Error, Result};
use archive::Archive;
use npz::NpzFile;
use safetensors::Dtype;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use torch::TorchFile;

/// What an import is told beside the checkpoint.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Hyper-parameters that checkpoints do not hold (numbers of heads, windows), which win over those known from published variants. A JSON object.
    pub config: Option<Value>,
    /// Files of statistics, netCDF.
    pub statistics: Vec<PathBuf>,
}

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMeta {
    /// Element type.
    pub dtype: Dtype,
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
}

/// What a checkpoint file gives; [`Checkpoint`] is its face.
pub(crate) trait Reader {
    /// A tensor's bytes, little-endian, in C order.
    fn bytes(&self, name: &str) -> Result<Vec<u8>>;
}

/// A checkpoint, open for reading: named tensors and texts.
pub struct Checkpoint {
    path: PathBuf,
    pub(crate) tensors: BTreeMap<String, TensorMeta>,
    pub(crate) texts: BTreeMap<String, String>,
    pub(crate) reader: Box<dyn Reader>,
}

/// What a model makes of a checkpoint.
pub struct Imported<'a> {
    /// Model, configuration, licence.
    pub about: About,
    /// Tensors under the names that the model uses.
    pub tensors: Vec<(String, Planned<'a>)>,
}

impl Checkpoint {
    /// Opens a checkpoint, by its content.
    ///
    /// # Errors
    /// `Input` if it is none, or damaged, or holds what no checkpoint of tensors does; `Io` if it can not be read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).context(|| path.display())
    }

    fn read(path: &Path) -> Result<Self> {
        let mut magic = [0; 4];
        let mut file = std::fs::File::open(path)?;
        let n = std::io::Read::read(&mut file, &mut magic)?;
        match &magic[..n] {
            b"PK\x03\x04" => {}
            // PROTO, then LONG1 of the magic number: torch.save before version 1.6.
            [0x80, 2, 0x8a, _] => {
                return Err(Error::unsupported(
                    "a checkpoint of PyTorch before 1.6: load it there and save it again with torch.save",
                ));
            }
            _ => return Err(Error::input("neither a PyTorch checkpoint nor a .npz file: it is no zip archive")),
        }
        let archive = Archive::open(path)?;
        let path = path.to_path_buf();
        match TorchFile::root_of(&archive) {
            Some(root) => {
                let (reader, tensors) = TorchFile::open(archive, root)?;
                Ok(Self { path, tensors, texts: BTreeMap::new(), reader: Box::new(reader) })
            }
            None => {
                let (reader, tensors, texts) = NpzFile::open(archive)?;
                Ok(Self { path, tensors, texts, reader: Box::new(reader) })
            }
        }
    }

    /// The file's name.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorMeta> {
        &self.tensors
    }

    /// Unicode scalars (`.npz`), by name: names of variables, licence, description.
    pub fn texts(&self) -> &BTreeMap<String, String> {
        &self.texts
    }

    /// A tensor's type and shape.
    ///
    /// # Errors
    /// `Input` if there is none of this name.
    pub fn meta(&self, name: &str) -> Result<&TensorMeta> {
        self.tensors.get(name).ok_or_else(|| Error::input(format!("there is no tensor {name:?}")))
    }

    /// A tensor's bytes, little-endian, in C order.
    ///
    /// # Errors
    /// `Input` if there is none of this name or the file is damaged.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        self.meta(name)?;
        self.reader.bytes(name)
    }

    /// A tensor of one number, as f64: hyper-parameters in `.npz` files.
    ///
    /// # Errors
    /// `Input` if it is not there, or no number.
    pub fn number(&self, name: &str) -> Result<f64> {
        let meta = self.meta(name)?;
        let bytes = self.bytes(name)?;
        let wrong = || Error::input(format!("{name:?} is not a number, but {:?} of {:?}", meta.dtype, meta.shape));
        if meta.shape.iter().product::<usize>() != 1 {
            return Err(wrong());
        }
        fn le<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.try_into().ok()
        }
        let value = match meta.dtype {
            Dtype::F64 => le(&bytes).map(f64::from_le_bytes),
            Dtype::F32 => le(&bytes).map(|b| f32::from_le_bytes(b).into()),
            Dtype::I64 => le(&bytes).map(|b| i64::from_le_bytes(b) as f64),
            Dtype::U64 => le(&bytes).map(|b| u64::from_le_bytes(b) as f64),
            Dtype::I32 => le(&bytes).map(|b| i32::from_le_bytes(b).into()),
            Dtype::U32 => le(&bytes).map(|b| u32::from_le_bytes(b).into()),
            Dtype::U8 | Dtype::BOOL => bytes.first().map(|&b| b.into()),
            _ => None,
        };
        value.ok_or_else(wrong)
    }

    /// A tensor as it is, to be written.
    ///
    /// # Errors
    /// `Input` if there is none of this name.
    pub fn copy(&self, name: &str) -> Result<Planned<'_>> {
        let meta = self.meta(name)?;
        let name = name.to_string();
        Ok(Planned { dtype: meta.dtype, shape: meta.shape.clone(), bytes: Box::new(move || self.bytes(&name)) })
    }
}

/// Turns a checkpoint into a safetensors file with its configuration in the metadata.
///
/// # Errors
/// `Input` if no model knows the checkpoint or something in it is wrong, `Usage` if `output` exists and `force` is not set, `Io` if the disk refuses.
pub fn import(checkpoint: &Path, output: &Path, options: &ImportOptions, force: bool) -> Result<About> {
    let place = || checkpoint.display().to_string();
    let opened = Checkpoint::open(checkpoint).context(place)?;
    for entry in MODELS {
        if let Some(imported) = (entry.import)(&opened, options).context(place)? {
            // Shapes are right if the model can be built.
            let check = |written: &Weights| super::open_weights(written, &Options::default()).map(drop);
            weights::write(output, &imported.about, &imported.tensors, force, check)?;
            return Ok(imported.about);
        }
    }
    let known: Vec<&str> = MODELS.iter().map(|e| e.name).collect();
    let message =
        format!("the names of its {} tensors are those of no model known: {}", opened.tensors.len(), known.join(", "));
    Err(Error::input(message)).context(place)
}
