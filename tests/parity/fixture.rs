//! Folders of fixtures.

use candle_core::{Device, Tensor};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where fixtures are, if there are any; says so if not.
pub fn oracles() -> Option<PathBuf> {
    let named = std::env::var_os("RESIDUUM_ORACLES").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/oracles"));
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no fixtures in {} (set RESIDUUM_ORACLES)", folder.display());
    None
}

/// A folder with `config.json` and tensors.
pub struct Fixture {
    pub path: PathBuf,
    pub config: Value,
}

impl Fixture {
    /// All fixtures of a model: the folder itself or those in it whose `config.json` names the model.
    pub fn all(model: &str) -> Vec<Fixture> {
        let Some(root) = oracles() else { return vec![] };
        let inner = std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().path());
        let mut found: Vec<Fixture> = [root.clone()]
            .into_iter()
            .chain(inner)
            .filter_map(|path| {
                let text = std::fs::read_to_string(path.join("config.json")).ok()?;
                let config: Value = serde_json::from_str(&text).unwrap();
                (config["model"] == model).then_some(Fixture { path, config })
            })
            .collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        if found.is_empty() {
            println!("skipped: no fixture of {model} in {}", root.display());
        }
        found
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// All tensors of a safetensors file.
    pub fn tensors(&self, name: &str) -> HashMap<String, Tensor> {
        candle_core::safetensors::load(self.file(name), &Device::Cpu).unwrap()
    }
}

/// Values of a tensor of floats.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference; infinite if lengths differ or anything is not finite.
pub fn worst(a: &[f32], b: &[f32]) -> f32 {
    let sound = a.len() == b.len() && a.iter().chain(b).all(|x| x.is_finite());
    if !sound {
        return f32::INFINITY;
    }
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}
