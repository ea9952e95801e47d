//! Runs a method: archive, and back. Each direction is a process of its own, so that its memory is its own, and one that crashes is a
//! cell that failed.

use super::extract::{Extract, Field, ORIGINAL};
use super::figures::{Codes, Place, absolute, figures};
use super::maps::Maps;
use super::suite::{CommandTemplate, Kind, Method};
use crate::bound::{Bound, Resolved};
use crate::compress::plan_treatment;
use crate::container::Archive;
use crate::error::{Context, Error, Result};
use crate::io::{self, OpenOptions, Source};
use crate::plan::Treatment;
use serde_json::{Value, json};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Names in the folder of an extract.
const ARCHIVE: &str = "archive.rsd";
const RESTORED: &str = "restored.nc";
const RAW: &str = "original.raw";
const RESTORED_RAW: &str = "restored.raw";
const REPORT: &str = "report.json";

/// What runs methods.
pub struct Worker {
    /// This program.
    pub program: PathBuf,
    /// Where options are at home: the suite's folder.
    pub folder: PathBuf,
    /// Threads, if not all.
    pub threads: Option<usize>,
}

/// A variable, or several together, compressed and restored.
pub struct Outcome {
    archive_bytes: u64,
    /// Of the model that is needed to restore.
    weight_bytes: Option<u64>,
    timings: Value,
    /// Bytes that were compressed together in that time.
    timed_bytes: u64,
    codes: CodesOf,
    /// Whether the restored file is raw.
    is_raw: bool,
}

/// Whose codes can be looked at.
#[derive(Clone)]
enum CodesOf {
    /// Our archive's, made with these weights if with any.
    Archive(Option<PathBuf>),
    /// SZ3's, replayed.
    Replay,
    /// Nobody's.
    Nothing,
}

/// Variables that were compressed together.
pub struct Together {
    outcome: Outcome,
}

impl Together {
    /// What became of one of them.
    ///
    /// # Errors
    /// If it is not in the archive.
    pub fn of(&self, data: &Extract, field: &Field) -> Result<Outcome> {
        let archive_bytes = archive_bytes(&data.path(ARCHIVE), &field.name)?;
        let Outcome { weight_bytes, timings, timed_bytes, codes, is_raw, .. } = &self.outcome;
        let (timings, codes) = (timings.clone(), codes.clone());
        Ok(Outcome {
            archive_bytes,
            weight_bytes: *weight_bytes,
            timings,
            timed_bytes: *timed_bytes,
            codes,
            is_raw: *is_raw,
        })
    }
}

/// What a variable takes of an archive: its sections, and its share of what is there for all, coordinates left out.
fn archive_bytes(path: &Path, name: &str) -> Result<u64> {
    let archive = Archive::open(BufReader::new(File::open(path)?))?;
    let coordinates = archive.schema().coordinates();
    // Weights are counted apart, wherever they are.
    let mut shared = archive.file_len() - archive.weights_bytes();
    let mut n_fields = 0;
    for (i, is_coordinate) in coordinates.iter().enumerate() {
        shared = shared.saturating_sub(archive.variable(i)?.stored_bytes);
        n_fields += u64::from(!is_coordinate);
    }
    Ok(archive.variable(archive.find(name)?)?.stored_bytes + shared / n_fields.max(1))
}

/// A bound as an option.
fn option(bound: Bound) -> Vec<String> {
    match bound.to_string().split_once(':') {
        Some((mode, value)) => vec![format!("--{mode}"), value.to_string()],
        None => vec!["--lossless".to_string()],
    }
}

impl Worker {
    /// Compresses and restores a variable.
    ///
    /// # Errors
    /// What the method says; `Usage` for bounds that it has not.
    pub fn variable(&self, data: &Extract, field: &Field, bound: Bound, method: &Method, seed: u64) -> Result<Outcome> {
        tidy(data)?;
        match method.kind()? {
            Kind::Residuum(options) => self.residuum(data, Some(field), bound, options, None),
            Kind::Peer(peer) => self.peer(data, field, &resolved(field, bound)?, peer),
            Kind::Command(template) => command(data, field, template, &resolved(field, bound)?, seed),
        }
    }

    /// Compresses and restores all variables together.
    ///
    /// # Errors
    /// What the command says.
    pub fn together(&self, data: &Extract, bound: Bound, method: &Method) -> Result<Together> {
        tidy(data)?;
        let Kind::Residuum(options) = method.kind()? else {
            return Err(Error::usage("only residuum compresses variables together"));
        };
        Ok(Together { outcome: self.residuum(data, None, bound, options, method.forecast())? })
    }

    fn residuum(
        &self,
        data: &Extract,
        field: Option<&Field>,
        bound: Bound,
        options: &[String],
        weights: Option<&str>,
    ) -> Result<Outcome> {
        let path = |name: &str| data.path(name).display().to_string();
        let mut compress = vec!["residuum".into(), "compress".into(), path(ORIGINAL), "-o".into(), path(ARCHIVE)];
        let mut decompress = vec!["residuum".into(), "decompress".into(), path(ARCHIVE), "-o".into(), path(RESTORED)];
        compress.extend(option(bound));
        compress.extend(options.iter().cloned());
        if let Some(field) = field {
            compress.extend(["--var".into(), field.name.clone()]);
            decompress.extend(["--var".into(), field.name.clone()]);
        }
        // A name that is no file is that of a model without weights: the archive knows it.
        let weights = weights.filter(|w| self.folder.join(w).is_file());
        if let Some(weights) = weights {
            decompress.extend(["--forecast".into(), weights.to_string()]);
        }
        let weights = weights.map(|w| self.folder.join(w));
        for arguments in [&mut compress, &mut decompress] {
            arguments.push("--quiet".into());
            if let Some(threads) = self.threads
                && !options.iter().any(|o| o.starts_with("--threads"))
            {
                arguments.extend(["--threads".into(), threads.to_string()]);
            }
        }
        let timings = json!({ "compress": self.step(data, &compress)?, "decompress": self.step(data, &decompress)? });
        let archive_bytes = match field {
            Some(field) => archive_bytes(&data.path(ARCHIVE), &field.name)?,
            None => std::fs::metadata(data.path(ARCHIVE))?.len(),
        };
        let timed_bytes = match field {
            Some(field) => field.bytes(),
            None => data.fields.iter().filter_map(|f| f.1.as_ref().ok()).map(Field::bytes).sum(),
        };
        let weight_bytes = weights.as_ref().map(|w| std::fs::metadata(w).map(|m| m.len())).transpose()?;
        Ok(Outcome {
            archive_bytes,
            weight_bytes,
            timings,
            timed_bytes,
            codes: CodesOf::Archive(weights),
            is_raw: false,
        })
    }

    fn peer(&self, data: &Extract, field: &Field, resolved: &Resolved, peer: &str) -> Result<Outcome> {
        data.write_raw(RAW, field)?;
        let shape = field.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let path = |name: &str| data.path(name).display().to_string();
        let arguments = |direction: &str, from: &str, to: &str| -> Result<Vec<String>> {
            let absolute = absolute(resolved)?.to_string();
            let start = ["peer", peer, direction].map(String::from);
            Ok(start
                .into_iter()
                .chain([path(from), path(to), shape.clone(), field.dtype.name().into(), absolute])
                .collect())
        };
        let timings = json!({
            "compress": self.step(data, &arguments("compress", RAW, ARCHIVE)?)?,
            "decompress": self.step(data, &arguments("decompress", ARCHIVE, RESTORED_RAW)?)?,
        });
        let codes = if peer == "sz3" { CodesOf::Replay } else { CodesOf::Nothing };
        raw_outcome(data, field, timings, codes)
    }

    /// Runs one direction in a process of its own; what it reports.
    fn step(&self, data: &Extract, arguments: &[String]) -> Result<Value> {
        let report = data.path(REPORT);
        let mut all = vec![self.program.display().to_string(), "evaluate-step".into(), report.display().to_string()];
        all.extend(arguments.iter().cloned());
        execute(&all, &self.folder, data, None)?;
        let report = std::fs::read_to_string(report)?;
        serde_json::from_str(&report).map_err(|e| Error::input(format!("report of a step: {e}")))
    }
}

/// Takes away what the cell before left.
fn tidy(data: &Extract) -> Result<()> {
    for left in [ARCHIVE, RESTORED, RAW, RESTORED_RAW, REPORT] {
        match std::fs::remove_file(data.path(left)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    Ok(())
}

fn resolved(field: &Field, bound: Bound) -> Result<Resolved> {
    Ok(match plan_treatment(bound, Some(field.stats), field.dtype, field.fill)? {
        Treatment::Exact => Resolved::Exact,
        Treatment::Lossy { resolved, .. } => resolved,
    })
}

fn raw_outcome(data: &Extract, field: &Field, timings: Value, codes: CodesOf) -> Result<Outcome> {
    let archive_bytes = std::fs::metadata(data.path(ARCHIVE))?.len();
    Ok(Outcome { archive_bytes, weight_bytes: None, timings, timed_bytes: field.bytes(), codes, is_raw: true })
}

impl Outcome {
    /// All figures of a variable.
    ///
    /// # Errors
    /// If what was restored can not be read.
    pub fn figures(&self, data: &Extract, field: &Field, bound: Bound, maps: Option<&mut Maps>) -> Result<Value> {
        let resolved = resolved(field, bound)?;
        let mut original = data.original()?;
        let mut restored: Box<dyn Source> = match self.is_raw {
            true => data.raw(RESTORED_RAW, field)?,
            false => io::open(&data.path(RESTORED), &OpenOptions::default())?,
        };
        let index = if self.is_raw { 0 } else { restored.schema().find(&field.name)? };
        if restored.schema().variables[index].shape != field.shape {
            return Err(Error::input("values of another shape came back"));
        }
        let codes = match &self.codes {
            CodesOf::Archive(weights) => {
                let mut archive = Archive::open(BufReader::new(File::open(data.path(ARCHIVE))?))?;
                set_forecasts(&mut archive, weights.as_deref())?;
                let variable = archive.find(&field.name)?;
                Some(Codes::of_archive(archive, variable))
            }
            CodesOf::Replay => Some(Codes::replayed(data.raw(RESTORED_RAW, field)?, field, &resolved)),
            CodesOf::Nothing => None,
        };
        let original = Place { source: original.as_mut(), index: field.index };
        let restored = Place { source: restored.as_mut(), index };
        let mut out = figures(field, &resolved, original, restored, codes, maps)?;
        let (n, bytes) = (field.n_values(), field.bytes());
        let archive_bytes = self.archive_bytes.max(1) as f64;
        out["n_values"] = json!(n);
        out["value_bytes"] = json!(bytes);
        out["archive_bytes"] = json!(self.archive_bytes);
        out["weight_bytes"] = json!(self.weight_bytes);
        out["ratio"] = json!(bytes as f64 / archive_bytes);
        out["bits_per_value"] = json!(archive_bytes * 8.0 / n.max(1) as f64);
        out["timings"] = self.timings.clone();
        for direction in ["compress", "decompress"] {
            if let Some(seconds) = self.timings[direction]["seconds"].as_f64() {
                out["timings"][direction]["mb_per_s"] = json!(self.timed_bytes as f64 / 1e6 / seconds.max(1e-9));
            }
        }
        Ok(out)
    }
}

#[cfg(feature = "forecast")]
fn set_forecasts(archive: &mut Archive<BufReader<File>>, weights: Option<&Path>) -> Result<()> {
    use crate::forecast::{Options, series::Forecasts, series::Machine};
    match weights {
        Some(weights) => archive.set_forecasts(Forecasts::open(weights, &Options::default())?),
        None => archive.find_forecasts(Machine::default()),
    }
}

#[cfg(not(feature = "forecast"))]
fn set_forecasts(_: &mut Archive<BufReader<File>>, _: Option<&Path>) -> Result<()> {
    Ok(())
}

/// Runs the commands of a template.
fn command(
    data: &Extract,
    field: &Field,
    template: &CommandTemplate,
    resolved: &Resolved,
    seed: u64,
) -> Result<Outcome> {
    data.write_raw(RAW, field)?;
    let limit = Some(Duration::from_secs(template.timeout_s));
    let folder = data.folder.path();
    let direction =
        |template: &[String]| execute(&arguments(data, field, template, resolved, seed)?, folder, data, limit);
    let timings = json!({ "compress": direction(&template.compress)?, "decompress": direction(&template.decompress)? });
    raw_outcome(data, field, timings, CodesOf::Nothing)
}

fn arguments(
    data: &Extract,
    field: &Field,
    template: &[String],
    resolved: &Resolved,
    seed: u64,
) -> Result<Vec<String>> {
    let mut out = Vec::new();
    for argument in template {
        let dims = field.shape.iter().map(u64::to_string);
        match argument.as_str() {
            "{dims}" => out.extend(dims),
            "{dims_fastest_first}" => out.extend(dims.rev()),
            _ => {
                let file = |name: &str| data.path(name).display().to_string();
                let mut text = argument.replace("{input}", &file(RAW));
                text = text.replace("{archive}", &file(ARCHIVE)).replace("{output}", &file(RESTORED_RAW));
                text = text.replace("{dtype}", field.dtype.name()).replace("{seed}", &seed.to_string());
                text = text.replace("{n}", &field.n_values().to_string());
                if text.contains("{abs}") {
                    text = text.replace("{abs}", &format!("{:e}", absolute(resolved)?));
                }
                out.push(text);
            }
        }
    }
    Ok(out)
}

/// Runs a program to its end; how long it took, and the most memory that it was seen to have.
fn execute(arguments: &[String], folder: &Path, data: &Extract, limit: Option<Duration>) -> Result<Value> {
    let (program, arguments) = arguments.split_first().ok_or_else(|| Error::usage("no program"))?;
    let said = data.path("said");
    let mut command = std::process::Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null());
    if !folder.as_os_str().is_empty() {
        command.current_dir(folder);
    }
    command.stdout(std::process::Stdio::null()).stderr(File::create(&said)?);
    let start = Instant::now();
    let mut child = command.spawn().context(|| program)?;
    let mut peak = None;
    loop {
        peak = peak_bytes(&child.id().to_string()).or(peak);
        if let Some(status) = child.try_wait()? {
            let time = start.elapsed();
            if status.success() {
                return Ok(json!({ "seconds": time.as_secs_f64(), "peak_bytes": peak }));
            }
            let said = std::fs::read(&said).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            // The folder has another name each time; what fails must say the same.
            let said = said.replace(&format!("{}/", data.folder.path().display()), "");
            let said: String = said.trim().chars().take(300).collect();
            return Err(Error::input(format!("{status}: {said}")));
        }
        if limit.is_some_and(|limit| start.elapsed() > limit) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::input(format!("{program} took longer than {} s", limit.unwrap_or_default().as_secs())));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The most memory that a process (`self`, or its number) had resident so far; where Linux says so.
pub fn peak_bytes(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}
