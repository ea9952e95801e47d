//! GraphCast's official files as one: the checkpoint (`.npz`) and the statistics that its inputs and outputs are scaled by.
//!
//! The checkpoint's own names are kept, without `params:`. Statistics are three netCDF files (`mean_by_level.nc`, `stddev_by_level.nc`,
//! `diffs_stddev_by_level.nc`) with the 37 levels of ERA5, of which those of the model are taken, or one safetensors file with
//! tensors `mean.V`, `std.V` and `diffs_std.V`, which has the model's levels already.

use super::{Checkpoint, ImportOptions, Imported};
use crate::error::{Context, Error, Result};
use crate::field::Values;
use crate::forecast::graphcast::{Config, ModelConfig, ON_LEVELS, TaskConfig};
use crate::forecast::weights::{About, Planned, Weights};
use crate::io::{self, OpenOptions, Source};
use safetensors::Dtype;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Weights of a checkpoint; `None` if it is none of GraphCast's.
pub(crate) fn import<'a>(checkpoint: &'a Checkpoint, options: &ImportOptions) -> Result<Option<Imported<'a>>> {
    const PREFIX: &str = "params:";
    if !checkpoint.tensors().keys().any(|name| name.starts_with("params:grid2mesh_gnn/")) {
        return Ok(None);
    }
    let mut config = json!(config_of(checkpoint).context(|| "configuration")?);
    if let Some(given) = &options.config {
        merge(&mut config, given);
    }
    let parsed: Config =
        serde_json::from_value(config.clone()).map_err(|e| Error::input(format!("configuration: {e}")))?;
    // Every tensor that the configuration asks for, in its shape; what else there is comes along.
    for (name, shape) in parsed.parameters().context(|| "configuration")? {
        let meta = checkpoint.meta(&format!("{PREFIX}{name}"))?;
        let is_float = [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::BF16].contains(&meta.dtype);
        if meta.shape != shape || !is_float {
            let (dtype, found) = (meta.dtype, &meta.shape);
            return Err(Error::input(format!(
                "{name:?} is {dtype:?} of shape {found:?}, not floats of shape {shape:?}"
            )));
        }
    }
    let mut tensors = Vec::new();
    for name in checkpoint.tensors().keys() {
        if let Some(ours) = name.strip_prefix(PREFIX) {
            tensors.push((ours.to_string(), checkpoint.copy(name)?));
        }
    }
    if !options.statistics.is_empty() {
        for (name, values) in Statistics::read(&options.statistics, &parsed.task_config)?.of_model(&parsed)? {
            let shape = vec![values.len()];
            let bytes = move || Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect());
            tensors.push((name, Planned { dtype: Dtype::F32, shape, bytes: Box::new(bytes) }));
        }
    }
    config["variant"] = variant(&parsed).into();
    let text = |name: &str| checkpoint.texts().get(name).cloned().unwrap_or_default();
    let about = About { model: "graphcast".into(), config, licence: text("license"), source: checkpoint.file_name() };
    Ok(Some(Imported { about, tensors }))
}

/// What the authors call the published models that have these sizes.
fn variant(config: &Config) -> &'static str {
    let levels = config.task_config.pressure_levels.len();
    let has_rain = config.task_config.input_variables.iter().any(|v| v == "total_precipitation_6hr");
    match (config.model_config.resolution, levels, has_rain) {
        (0.25, 37, true) => "GraphCast",
        (0.25, 13, false) => "GraphCast_operational",
        (1.0, 13, true) => "GraphCast_small",
        _ => "other sizes",
    }
}

/// The configuration that a checkpoint holds.
fn config_of(checkpoint: &Checkpoint) -> Result<Config> {
    let number = |name: &str| checkpoint.number(&format!("model_config:{name}"));
    let whole = |name: &str| -> Result<usize> { as_whole(name, number(name)?) };
    let factor = "mesh2grid_edge_normalization_factor";
    let has_factor = checkpoint.tensors().contains_key(&format!("model_config:{factor}"));
    let text = |name: String| checkpoint.texts().get(&name).cloned();
    let list = |name: &str| -> Result<Vec<String>> {
        let items: Vec<String> = (0..).map_while(|i| text(format!("task_config:{name}:{i}"))).collect();
        let count = checkpoint.texts().keys().filter(|k| k.starts_with(&format!("task_config:{name}:"))).count();
        if count != items.len() {
            return Err(Error::input(format!("{name} is not numbered from 0 without a gap")));
        }
        Ok(items)
    };
    let mut pressure_levels = Vec::new();
    while let name = format!("task_config:pressure_levels:{}", pressure_levels.len())
        && checkpoint.tensors().contains_key(&name)
    {
        pressure_levels.push(as_whole(&name, checkpoint.number(&name)?)? as u32);
    }
    Ok(Config {
        model_config: ModelConfig {
            resolution: number("resolution")?,
            mesh_size: whole("mesh_size")?,
            latent_size: whole("latent_size")?,
            gnn_msg_steps: whole("gnn_msg_steps")?,
            hidden_layers: whole("hidden_layers")?,
            radius_query_fraction_edge_length: number("radius_query_fraction_edge_length")?,
            mesh2grid_edge_normalization_factor: if has_factor { Some(number(factor)?) } else { None },
        },
        task_config: TaskConfig {
            input_variables: list("input_variables")?,
            target_variables: list("target_variables")?,
            forcing_variables: list("forcing_variables")?,
            pressure_levels,
            input_duration: text("task_config:input_duration".into())
                .ok_or_else(|| Error::input("there is no task_config:input_duration"))?,
        },
    })
}

fn as_whole(name: &str, x: f64) -> Result<usize> {
    if x.fract() == 0.0 && (0.0..=1e6).contains(&x) {
        Ok(x as usize)
    } else {
        Err(Error::input(format!("{name} is {x}, not a whole number in range")))
    }
}

/// Puts what `given` has into `config`, object by object.
fn merge(config: &mut Value, given: &Value) {
    match (config, given) {
        (Value::Object(config), Value::Object(given)) => {
            for (key, value) in given {
                merge(config.entry(key).or_insert(Value::Null), value);
            }
        }
        (config, given) => *config = given.clone(),
    }
}

/// Kinds of statistics: our name, a word that tells its file by its name (the first that is there), and what the official file is called.
const KINDS: [(&str, &str, &str); 3] = [
    ("diffs_std", "diffs", "diffs_stddev_by_level.nc"),
    ("std", "std", "stddev_by_level.nc"),
    ("mean", "mean", "mean_by_level.nc"),
];

/// Most values of one variable's statistics: levels.
const MAX_LEVELS: u64 = 1 << 10;

/// Values by kind and variable, those of the model's levels.
struct Statistics {
    values: BTreeMap<String, Vec<f32>>,
}

impl Statistics {
    fn read(files: &[impl AsRef<Path>], task: &TaskConfig) -> Result<Self> {
        let mut all = Self { values: BTreeMap::new() };
        let mut seen = Vec::new();
        for file in files {
            let file = file.as_ref();
            let place = || file.display().to_string();
            if file.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
                all.read_safetensors(file)?;
                continue;
            }
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let Some((kind, ..)) = KINDS.iter().find(|k| stem.contains(k.1)) else {
                let names = KINDS.map(|k| k.2).join(", ");
                return Err(Error::usage(format!("not one of GraphCast's statistics: {names}"))).context(place);
            };
            if seen.contains(kind) {
                return Err(Error::usage(format!("a second file of {kind}"))).context(place);
            }
            seen.push(*kind);
            let mut source = io::open(file, &OpenOptions::default()).context(place)?;
            all.read_netcdf(kind, source.as_mut(), task).context(place)?;
        }
        Ok(all)
    }

    fn read_safetensors(&mut self, file: &Path) -> Result<()> {
        let tensors = Weights::open_as(file, "statistics", Value::Null)?;
        for name in tensors.names() {
            let shape = tensors.info(&name).map(|i| i.1.to_vec()).unwrap_or_default();
            let n: usize = shape.iter().product();
            let named = KINDS.iter().any(|k| name.strip_prefix(k.0).is_some_and(|rest| rest.starts_with('.')));
            if named && shape.len() <= 1 && n as u64 <= MAX_LEVELS {
                self.values.insert(name.clone(), tensors.f32s(&name, &shape)?);
            }
        }
        Ok(())
    }

    /// Reads the variables of the task from a netCDF file.
    fn read_netcdf(&mut self, kind: &str, source: &mut dyn Source, task: &TaskConfig) -> Result<()> {
        let mut read = |name: &str| -> Result<Option<Vec<f64>>> {
            let Some(i) = source.schema().variables.iter().position(|v| v.name() == name) else { return Ok(None) };
            let variable = &source.schema().variables[i];
            if variable.shape.len() > 1 || variable.len() > MAX_LEVELS {
                return Err(Error::input(format!(
                    "{name:?} has shape {:?}, one value a level is expected",
                    variable.shape
                )));
            }
            let region: Vec<_> = variable.shape.iter().map(|&n| 0..n).collect();
            Ok(Some(floats(&source.read(i, &region)?).ok_or_else(|| Error::input(format!("{name:?} is not numbers")))?))
        };
        let levels = read("level")?;
        let names = task.input_variables.iter().chain(&task.target_variables).chain(&task.forcing_variables);
        for name in names {
            let Some(values) = read(name)? else { continue };
            let picked = if ON_LEVELS.contains(&name.as_str()) {
                let levels = levels.as_ref().ok_or_else(|| Error::input("there is no coordinate \"level\""))?;
                let at = |hpa: &u32| levels.iter().position(|&l| l == f64::from(*hpa)).and_then(|i| values.get(i));
                let pick =
                    |hpa| at(hpa).copied().ok_or_else(|| Error::input(format!("{name:?} has no value at level {hpa}")));
                task.pressure_levels.iter().map(pick).collect::<Result<Vec<f64>>>()?
            } else {
                values
            };
            self.values.insert(format!("{kind}.{name}"), picked.iter().map(|&v| v as f32).collect());
        }
        Ok(())
    }

    /// Those that the model uses, or an error that lists what is missing.
    fn of_model(mut self, config: &Config) -> Result<Vec<(String, Vec<f32>)>> {
        let needed: Vec<String> = config.statistics().into_iter().map(|s| s.0).collect();
        let missing: Vec<&String> = needed.iter().filter(|name| !self.values.contains_key(*name)).collect();
        if !missing.is_empty() {
            let missing: Vec<&str> = missing.into_iter().map(String::as_str).collect();
            let files = KINDS.map(|k| k.2).join(", ");
            let message = format!("the statistics lack {}; the three files {files} are needed", missing.join(", "));
            return Err(Error::input(message));
        }
        self.values.retain(|name, _| needed.contains(name));
        for (name, shape) in config.statistics() {
            let n = self.values[&name].len();
            if [n] != shape[..] {
                return Err(Error::input(format!("the statistics {name:?} have {n} values, {shape:?} are expected")));
            }
        }
        Ok(self.values.into_iter().collect())
    }
}

fn floats(values: &Values) -> Option<Vec<f64>> {
    Some(match values {
        Values::F32(v) => v.iter().map(|&x| x.into()).collect(),
        Values::F64(v) => v.clone(),
        Values::I16(v) => v.iter().map(|&x| x.into()).collect(),
        Values::I32(v) => v.iter().map(|&x| x.into()).collect(),
        Values::I64(v) => v.iter().map(|&x| x as f64).collect(),
        _ => return None,
    })
}
