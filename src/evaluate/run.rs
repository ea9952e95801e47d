//! Runs the cells of a suite: one dataset file, variable, bound, method and repetition each; a line of JSON for each.
//!
//! A variable is copied to a raw file once; each method makes an archive of that and restores it to another raw file, and all figures
//! are computed from these two, block by block: memory does not grow with the data, disk does. Times are of reading raw values from
//! a file (likely cached) and writing the archive, and the reverse.

use super::metrics::Metrics;
use super::structure::Structure;
use super::suite::{CommandTemplate, Dataset, Kind, Method, Suite, parse_range};
use crate::bound::{Bound, Resolved, Stats};
use crate::compress::{compress_source, plan_treatment, statistics};
use crate::container::Archive;
use crate::decompress::decompress_to;
use crate::error::{Context, Error, Result};
use crate::field::{DType, Float, Values};
use crate::io::unpack::UnpackedSource;
use crate::io::{self, Format, OpenOptions, Schema, Source};
use crate::plan::Treatment;
use crate::tile::Tiling;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// Values read at once.
const BLOCK_VALUES: u64 = 1 << 22;
/// Images whose structure is measured.
const MAX_IMAGES: u64 = 32;
/// Bins of the error, to a side of the bound.
const ERROR_BINS: f64 = 8.0;

/// What became of the cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Run now, successfully.
    pub done: usize,
    /// Failed now.
    pub failed: usize,
    /// Done before.
    pub known: usize,
}

/// Runs all cells that `results` has no line of yet, and appends theirs. `suite_path` is where relative paths start; `command` is recorded.
///
/// # Errors
/// `Io` if results can not be read or written. A cell that fails is a line with `error`.
pub fn run(
    suite: &Suite,
    suite_path: &Path,
    results: &Path,
    command: &str,
    say: &mut dyn FnMut(&str),
) -> Result<Summary> {
    let folder = suite_path.parent().unwrap_or(Path::new(""));
    let known = known(results)?;
    let mut out = std::fs::OpenOptions::new().create(true).append(true).open(results)?;
    let host = host();
    let mut summary = Summary::default();
    for dataset in &suite.dataset {
        for path in &dataset.paths {
            let file = folder.join(path);
            let names = match variables(dataset, &file) {
                Ok(names) => names,
                // Each of its cells fails for this reason, and is recorded under the names there are.
                Err(_) if dataset.variables.is_empty() => vec![String::new()],
                Err(_) => dataset.variables.clone(),
            };
            for name in &names {
                let mut data: Option<Result<Data, String>> = None;
                for (bound, bound_text) in suite.bounds()?.into_iter().zip(&suite.bounds) {
                    for method in &suite.method {
                        for repetition in 0..suite.repetitions {
                            let cell = json!({
                                "dataset": dataset.name,
                                "path": path,
                                "variable": name,
                                "ranges": dataset.ranges,
                                "unpack": dataset.unpack,
                                "bound": bound_text,
                                "method": method.name,
                                "options": method,
                                "repetition": repetition,
                                "seed": suite.seed,
                                "version": env!("CARGO_PKG_VERSION"),
                                "source_bytes": std::fs::metadata(&file).map(|m| m.len()).ok(),
                            });
                            let key = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(cell.to_string().as_bytes()));
                            if known.contains(&key) {
                                summary.known += 1;
                                continue;
                            }
                            let data =
                                data.get_or_insert_with(|| Data::new(dataset, &file, name).map_err(|e| e.to_string()));
                            let result = match data {
                                Ok(data) => data.cell(bound, method, suite.seed),
                                Err(e) => Err(Error::input(e.clone())),
                            };
                            let mut line = cell;
                            line["key"] = json!(key);
                            line["host"] = host.clone();
                            line["command"] = json!(command);
                            match result {
                                Ok(figures) => {
                                    line["result"] = figures;
                                    summary.done += 1;
                                }
                                Err(e) => {
                                    say(&format!("{name}, {bound_text}, {}: {e}", method.name));
                                    line["error"] = json!(e.to_string());
                                    summary.failed += 1;
                                }
                            }
                            writeln!(out, "{line}")?;
                            out.flush()?;
                        }
                    }
                }
            }
        }
    }
    Ok(summary)
}

/// Keys of the lines there are. A last line that was cut short is taken away.
fn known(results: &Path) -> Result<HashSet<String>> {
    if !results.exists() {
        return Ok(HashSet::new());
    }
    let text = std::fs::read_to_string(results)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        std::fs::OpenOptions::new().write(true).open(results)?.set_len(whole as u64)?;
    }
    let key = |line: &str| serde_json::from_str::<Value>(line).ok()?["key"].as_str().map(String::from);
    Ok(text[..whole].lines().filter_map(key).collect())
}

/// What the figures were measured on.
fn host() -> Value {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).map(|m| m.trim_start_matches([' ', '\t', ':']));
    json!({
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "cpu": model,
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "threads": rayon::current_num_threads(),
    })
}

fn open(dataset: &Dataset, file: &Path) -> Result<Box<dyn Source>> {
    let source = io::open(file, &OpenOptions::default())?;
    Ok(if dataset.unpack { Box::new(UnpackedSource::new(source)?) } else { source })
}

/// Names of the variables to measure.
fn variables(dataset: &Dataset, file: &Path) -> Result<Vec<String>> {
    if !dataset.variables.is_empty() {
        return Ok(dataset.variables.clone());
    }
    let source = open(dataset, file)?;
    let coordinates = source.schema().coordinates();
    let fields = source.schema().variables.iter().zip(coordinates);
    let fields = fields.filter(|(v, c)| v.dtype.is_float() && v.shape.len() > 1 && !c);
    Ok(fields.map(|(v, _)| v.name().to_string()).collect())
}

/// A variable as a raw file.
struct Data {
    folder: tempfile::TempDir,
    /// Of the one variable, with its attributes.
    schema: Schema,
    shape: Vec<u64>,
    dtype: DType,
    fill: Option<u64>,
    stats: Stats,
    /// Weights of rows by the cosine of their latitude.
    latitude_weights: Option<Vec<f64>>,
}

impl Data {
    fn new(dataset: &Dataset, file: &Path, name: &str) -> Result<Self> {
        let mut source = open(dataset, file)?;
        let i = source.schema().find(name)?;
        let schema = source.schema().clone();
        let v = &schema.variables[i];
        if !v.dtype.is_float() {
            return Err(Error::usage(format!("{name} is stored as {}, which is kept exactly", v.dtype)));
        }
        let dimension = |axis: usize| v.dimensions.get(axis).map(|&d| io::leaf(&schema.dimensions[d as usize].path));
        let mut region: Vec<Range<u64>> = v.shape.iter().map(|&n| 0..n).collect();
        for (wanted, range) in &dataset.ranges {
            let axis = (0..v.shape.len()).find(|&a| dimension(a) == Some(wanted.as_str()) || a.to_string() == *wanted);
            let axis = axis.ok_or_else(|| Error::usage(format!("{name} has no dimension {wanted:?}")))?;
            let (start, end) = parse_range(range).unwrap_or((0, None));
            let end = end.unwrap_or(v.shape[axis]);
            if start >= end || end > v.shape[axis] {
                return Err(Error::usage(format!("{wanted} has the indices 0:{}, not {range}", v.shape[axis])));
            }
            region[axis] = start..end;
        }
        let shape: Vec<u64> = region.iter().map(|r| r.end - r.start).collect();
        let latitude_weights = shape.len().checked_sub(2).and_then(|axis| {
            let name = dimension(axis).filter(|n| n.to_lowercase().starts_with("lat"))?;
            let own = schema.variables.iter().position(|c| io::leaf(&c.path) == name && c.shape.len() == 1)?;
            let degrees = match source.read(own, std::slice::from_ref(&region[axis])).ok()? {
                Values::F32(v) => v.into_iter().map(f64::from).collect(),
                Values::F64(v) => v,
                _ => return None,
            };
            Some(degrees.into_iter().map(|d: f64| d.to_radians().cos().max(0.0)).collect())
        });
        let fill = schema.fill_bits(i);
        let folder = tempfile::tempdir()?;
        // The variable's own attributes, which say what a fill value is.
        let mut one = Schema::single(schema.format, "data", v.dtype, &shape);
        one.variables[0].attributes = v.attributes.clone();
        let mut sink = io::create(&folder.path().join("original.raw"), &one, Format::Raw, true)?;
        let tiling = Tiling::new(&shape, BLOCK_VALUES);
        let mut stats = Stats::default();
        for t in 0..tiling.count() {
            let part = tiling.region(t);
            let there: Vec<_> = part.iter().zip(&region).map(|(p, r)| r.start + p.start..r.start + p.end).collect();
            let values = source.read(i, &there)?;
            stats = stats.merged(match &values {
                Values::F32(v) => statistics(v, fill.map(Float::from_bits)),
                Values::F64(v) => statistics(v, fill.map(Float::from_bits)),
                _ => Stats::default(),
            });
            sink.write(0, &part, &values)?;
        }
        sink.finish()?;
        let dtype = v.dtype;
        Ok(Self { folder, schema: one, shape, dtype, fill, stats, latitude_weights })
    }

    fn bytes(&self) -> u64 {
        self.shape.iter().product::<u64>() * self.dtype.size() as u64
    }

    fn raw(&self, name: &str) -> Result<Box<dyn Source>> {
        let options = OpenOptions { shape: Some(self.shape.clone()), dtype: Some(self.dtype) };
        io::open(&self.folder.path().join(name), &options)
    }

    /// One cell: archive, back, figures.
    fn cell(&self, bound: Bound, method: &Method, seed: u64) -> Result<Value> {
        let resolved = match plan_treatment(bound, Some(self.stats), self.dtype, self.fill)? {
            Treatment::Exact => Resolved::Exact,
            Treatment::Lossy { resolved, .. } => resolved,
        };
        for left in ["archive", "restored.raw"] {
            let path = self.folder.path().join(left);
            if path.exists() {
                std::fs::remove_file(path)?;
            }
        }
        let (compress, decompress) = match method.kind()? {
            Kind::Residuum(options) => self.residuum(&options.config(bound)?)?,
            Kind::Peer(_) => self.sz3(&resolved)?,
            Kind::Command(template) => self.command(template, &resolved, seed)?,
        };
        let archive_bytes = std::fs::metadata(self.folder.path().join("archive"))?.len();
        let mut figures = self.compare(&resolved)?;
        let rate = |time: Duration| self.bytes() as f64 / 1e6 / time.as_secs_f64().max(1e-9);
        let n = self.shape.iter().product::<u64>();
        figures["n_values"] = json!(n);
        figures["value_bytes"] = json!(self.bytes());
        figures["archive_bytes"] = json!(archive_bytes);
        figures["ratio"] = json!(self.bytes() as f64 / archive_bytes.max(1) as f64);
        figures["bits_per_value"] = json!(archive_bytes as f64 * 8.0 / n.max(1) as f64);
        figures["compress_mb_per_s"] = json!(rate(compress));
        figures["decompress_mb_per_s"] = json!(rate(decompress));
        Ok(figures)
    }

    fn residuum(&self, config: &crate::config::Config) -> Result<(Duration, Duration)> {
        let archive = self.folder.path().join("archive");
        let start = Instant::now();
        let mut source = Extracted { inner: self.raw("original.raw")?, schema: self.schema.clone() };
        let out = BufWriter::with_capacity(1 << 20, File::create(&archive)?);
        compress_source(&mut source, out, config, &mut |_| {})?.flush()?;
        let compress = start.elapsed();
        let start = Instant::now();
        let mut archive = Archive::open(BufReader::new(File::open(&archive)?))?;
        let schema = archive.schema().clone();
        let mut sink = io::create(&self.folder.path().join("restored.raw"), &schema, Format::Raw, true)?;
        let whole = self.shape.iter().map(|&n| 0..n).collect();
        decompress_to(&mut archive, &[(0, whole)], sink.as_mut(), &mut |_| {})?;
        sink.finish()?;
        Ok((compress, start.elapsed()))
    }

    #[cfg(not(feature = "peers"))]
    fn sz3(&self, _: &Resolved) -> Result<(Duration, Duration)> {
        Err(Error::unsupported("SZ3 is built in with feature `peers` only"))
    }

    /// SZ3's interpolation and Lorenzo on slabs of up to 64 MiB with four axes at most, each behind its length.
    #[cfg(feature = "peers")]
    fn sz3(&self, resolved: &Resolved) -> Result<(Duration, Duration)> {
        use std::io::Read;
        let absolute = absolute(resolved)?;
        let tiling = Tiling::new(&self.shape, (64 << 20) / self.dtype.size() as u64);
        let archive = self.folder.path().join("archive");
        let failed = |e: &dyn std::fmt::Display| Error::input(format!("SZ3: {e}"));
        let start = Instant::now();
        let mut source = self.raw("original.raw")?;
        let mut out = BufWriter::new(File::create(&archive)?);
        macro_rules! compressed {
            ($values:expr, $axes:expr) => {{
                let mut builder = sz3::DimensionedData::build($values);
                for n in $axes {
                    builder = builder.dim(n).map_err(|e| failed(&e))?;
                }
                let data = builder.finish().map_err(|e| failed(&e))?;
                let config = sz3::Config::new(sz3::ErrorBound::Absolute(absolute))
                    .compression_algorithm(sz3::CompressionAlgorithm::interpolation_lorenzo());
                sz3::compress_with_config(&data, &config).map_err(|e| failed(&e))?
            }};
        }
        for t in 0..tiling.count() {
            let region = tiling.region(t);
            let mut axes = crate::tile::coding_shape(&region);
            while axes.len() > 4 {
                let slowest = axes.remove(0);
                axes[0] *= slowest;
            }
            let coded: Vec<u8> = match source.read(0, &region)? {
                Values::F32(v) => compressed!(&v, axes),
                Values::F64(v) => compressed!(&v, axes),
                other => return Err(Error::usage(format!("{} values", other.dtype()))),
            };
            out.write_all(&(coded.len() as u64).to_le_bytes())?;
            out.write_all(&coded)?;
        }
        out.flush()?;
        let compress = start.elapsed();
        let start = Instant::now();
        let mut input = BufReader::new(File::open(&archive)?);
        let mut sink = io::create(&self.folder.path().join("restored.raw"), &self.schema, Format::Raw, true)?;
        for t in 0..tiling.count() {
            let mut len = [0; 8];
            input.read_exact(&mut len)?;
            let mut coded = vec![0; u64::from_le_bytes(len) as usize];
            input.read_exact(&mut coded)?;
            let values = match self.dtype {
                DType::F32 => {
                    Values::F32(sz3::decompress::<f32, _>(&*coded).map_err(|e| failed(&e))?.1.data().to_vec())
                }
                _ => Values::F64(sz3::decompress::<f64, _>(&*coded).map_err(|e| failed(&e))?.1.data().to_vec()),
            };
            sink.write(0, &tiling.region(t), &values)?;
        }
        sink.finish()?;
        Ok((compress, start.elapsed()))
    }

    fn command(&self, template: &CommandTemplate, resolved: &Resolved, seed: u64) -> Result<(Duration, Duration)> {
        let limit = Duration::from_secs(template.timeout_s);
        let compress = execute(&self.arguments(&template.compress, resolved, seed)?, self.folder.path(), limit)?;
        let decompress = execute(&self.arguments(&template.decompress, resolved, seed)?, self.folder.path(), limit)?;
        Ok((compress, decompress))
    }

    fn arguments(&self, template: &[String], resolved: &Resolved, seed: u64) -> Result<Vec<String>> {
        let mut out = Vec::new();
        for argument in template {
            let dims = self.shape.iter().map(u64::to_string);
            match argument.as_str() {
                "{dims}" => out.extend(dims),
                "{dims_fastest_first}" => out.extend(dims.rev()),
                _ => {
                    let file = |name: &str| self.folder.path().join(name).display().to_string();
                    let mut text = argument.replace("{input}", &file("original.raw"));
                    text = text.replace("{archive}", &file("archive")).replace("{output}", &file("restored.raw"));
                    text = text.replace("{dtype}", self.dtype.name()).replace("{seed}", &seed.to_string());
                    text = text.replace("{n}", &self.shape.iter().product::<u64>().to_string());
                    if text.contains("{abs}") {
                        text = text.replace("{abs}", &format!("{:e}", absolute(resolved)?));
                    }
                    out.push(text);
                }
            }
        }
        Ok(out)
    }

    /// All figures of quality.
    fn compare(&self, resolved: &Resolved) -> Result<Value> {
        let (mut original, mut restored) = (self.raw("original.raw")?, self.raw("restored.raw")?);
        let tiling = Tiling::new(&self.shape, BLOCK_VALUES);
        let row_len = self.shape.last().copied().unwrap_or(1) as usize;
        let mut metrics = Metrics::default();
        let mut row = 0;
        for t in 0..tiling.count() {
            let region = tiling.region(t);
            // A block of part of a row has no neighbour across its end, which changes the autocorrelation by next to nothing.
            let len = region.last().map_or(1, |r| (r.end - r.start) as usize);
            let weight = |i: usize| self.latitude_weights.as_ref().map_or(1.0, |w| w[(row + i) % w.len()]);
            let (x, y) = (original.read(0, &region)?, restored.read(0, &region)?);
            match (&x, &y) {
                (Values::F32(x), Values::F32(y)) => {
                    metrics.add(x, y, len, resolved, self.fill.map(Float::from_bits), weight)
                }
                (Values::F64(x), Values::F64(y)) => {
                    metrics.add(x, y, len, resolved, self.fill.map(Float::from_bits), weight)
                }
                _ => return Err(Error::input("values of another type came back")),
            }
            if len == row_len {
                row += x.len() / row_len.max(1);
            }
        }
        let mut figures = metrics.to_json();
        figures["latitude_weighted"] = json!(self.latitude_weights.is_some());
        figures["ssim"] = self.ssim(original.as_mut(), restored.as_mut())?;
        figures["structure"] = self.structure(original.as_mut(), restored.as_mut(), resolved)?;
        Ok(figures)
    }

    /// Mean data SSIM of images spread over the variable.
    fn ssim(&self, original: &mut dyn Source, restored: &mut dyn Source) -> Result<Value> {
        let width = self.shape.last().copied().unwrap_or(1) as usize;
        let mut all = Vec::new();
        for index in self.images() {
            let region = self.image(index);
            let (x, y) = (original.read(0, &region)?, restored.read(0, &region)?);
            all.extend(super::ssim::ssim(&self.numbers(x), &self.numbers(y), width));
        }
        Ok(if all.is_empty() { Value::Null } else { json!(all.iter().sum::<f64>() / all.len() as f64) })
    }

    /// Values as f64, NaN where they are special.
    fn numbers(&self, values: Values) -> Vec<f64> {
        match values {
            Values::F32(v) => {
                let fill = self.fill.map(|bits| f32::from_bits(bits as u32));
                v.into_iter().map(|x| if fill == Some(x) { f64::NAN } else { x.into() }).collect()
            }
            Values::F64(v) => {
                let fill = self.fill.map(f64::from_bits);
                v.into_iter().map(|x| if fill == Some(x) { f64::NAN } else { x }).collect()
            }
            _ => vec![],
        }
    }

    /// Numbers of at most [`MAX_IMAGES`] images (the last two axes), spread evenly; none if images are too large to hold.
    fn images(&self) -> impl Iterator<Item = u64> + use<> {
        let n_leading = self.shape.len().saturating_sub(2);
        let n_images: u64 = self.shape[..n_leading].iter().product();
        let pixels: u64 = self.shape[n_leading..].iter().product();
        let n = if pixels == 0 || pixels > BLOCK_VALUES * 4 { 0 } else { n_images.min(MAX_IMAGES) };
        (0..n).map(move |k| (u128::from(k) * u128::from(n_images) / u128::from(n)) as u64)
    }

    /// The box of image `index`.
    fn image(&self, index: u64) -> Vec<Range<u64>> {
        let mut rest = index;
        let mut region: Vec<Range<u64>> = self.shape.iter().map(|&n| 0..n).collect();
        for axis in (0..self.shape.len().saturating_sub(2)).rev() {
            let i = rest % self.shape[axis];
            region[axis] = i..i + 1;
            rest /= self.shape[axis];
        }
        region
    }

    /// Structure of the error in eighths of the bound, on images spread over the variable, beside the one before along the first axis.
    fn structure(&self, original: &mut dyn Source, restored: &mut dyn Source, resolved: &Resolved) -> Result<Value> {
        let Ok(absolute) = absolute(resolved) else { return Ok(Value::Null) };
        let n_leading = self.shape.len().saturating_sub(2);
        let per_step: u64 = self.shape[..n_leading].iter().skip(1).product();
        let mut image = |index: u64| -> Result<Vec<i32>> {
            let region = self.image(index);
            let bin = |x: f64, y: f64| {
                let e = (y - x) / absolute * ERROR_BINS;
                // Saturates; NaN (special values) becomes 0.
                e.round() as i32
            };
            Ok(match (original.read(0, &region)?, restored.read(0, &region)?) {
                (Values::F32(x), Values::F32(y)) => x.iter().zip(&y).map(|(&x, &y)| bin(x.into(), y.into())).collect(),
                (Values::F64(x), Values::F64(y)) => x.iter().zip(&y).map(|(&x, &y)| bin(x, y)).collect(),
                _ => return Err(Error::input("values of another type came back")),
            })
        };
        let width = self.shape.last().copied().unwrap_or(1) as usize;
        let mut structure = Structure::default();
        for index in self.images() {
            let before = if n_leading > 0 && index >= per_step { Some(image(index - per_step)?) } else { None };
            structure.add(&image(index)?, width, before.as_deref());
        }
        Ok(structure.to_json("error in eighths of the bound"))
    }
}

/// The largest error that a bound allows everywhere.
fn absolute(resolved: &Resolved) -> Result<f64> {
    match *resolved {
        Resolved::Absolute(a) | Resolved::MeanSquare { absolute: a, .. } => Ok(a),
        Resolved::Exact | Resolved::PointWise(_) => Err(Error::unsupported("this needs a bound that is absolute")),
    }
}

/// Runs a program to its end; how long it took.
fn execute(arguments: &[String], folder: &Path, limit: Duration) -> Result<Duration> {
    let (program, arguments) = arguments.split_first().ok_or_else(|| Error::usage("no program"))?;
    let place = || program.clone();
    let said = folder.join("said");
    let mut command = std::process::Command::new(program);
    command.args(arguments).current_dir(folder).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::null()).stderr(File::create(&said)?);
    let start = Instant::now();
    let mut child = command.spawn().context(place)?;
    loop {
        if let Some(status) = child.try_wait()? {
            let time = start.elapsed();
            if status.success() {
                return Ok(time);
            }
            let said = std::fs::read(&said).unwrap_or_default();
            let said = String::from_utf8_lossy(&said[..said.len().min(300)]).trim().to_string();
            return Err(Error::input(format!("{status}: {said}"))).context(place);
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::input(format!("took longer than {} s", limit.as_secs()))).context(place);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Raw values with the schema they came from.
struct Extracted {
    inner: Box<dyn Source>,
    schema: Schema,
}

impl Source for Extracted {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        self.inner.read(variable, region)
    }
}
