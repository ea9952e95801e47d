//! Size and speed against SZ3 3.3.2 on the same fields in the same run. Prints Markdown; `just bench` puts it into `BENCHMARKS.md`.
//!
//! `RESIDUUM_FIELDS=DIR` names a folder of f32 `.npy` files or NetCDF files (default `../shared/data/fields`), `RESIDUUM_EFFORTS` the
//! efforts (default `fast,balanced,best`), `RESIDUUM_REPEATS` how often all timings are taken in turn (default 3; of each the best counts, so that
//! what else a machine does for a while is not taken for a property of one line). SZ3's size is the best of three ways to hand it the field: every 2-D slice by itself,
//! whole (up to four axes, slower ones merged), and whole per leading index. Its speed is that of the whole field, its fastest way.

use rayon::{ThreadPool, ThreadPoolBuilder};
use residuum::bound::{Comparison, Resolved};
use residuum::io::{self, OpenOptions};
use residuum::{Bound, Config, DType, Effort, Field, Values};
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::time::Instant;

const BOUNDS: [f64; 3] = [1e-2, 1e-3, 1e-4];

/// Sizes, times and quality of one compressor on one field.
#[derive(Clone, Copy, Default)]
struct Outcome {
    bytes: usize,
    /// Of the archive.
    checksum: u64,
    compress_s: f64,
    decompress_s: f64,
    psnr: f64,
    max_error_over_bound: f64,
}

impl Outcome {
    /// With the shorter times of two measurements; the first need not have any.
    fn or_faster(self, other: Self) -> Self {
        let shorter = |a: f64, b: f64| if b > 0.0 { a.min(b) } else { a };
        Self {
            compress_s: shorter(self.compress_s, other.compress_s),
            decompress_s: shorter(self.decompress_s, other.decompress_s),
            ..self
        }
    }
}

fn main() {
    if std::env::args().any(|a| a == "--test" || a == "--list") {
        return; // `cargo test --benches` only wants to know that it starts.
    }
    let folder =
        std::env::var_os("RESIDUUM_FIELDS").map_or_else(|| PathBuf::from("../shared/data/fields"), PathBuf::from);
    let efforts = std::env::var("RESIDUUM_EFFORTS").unwrap_or_else(|_| "fast,balanced,best".to_string());
    let named = |e| (e, str::parse(e).unwrap_or_else(|e| panic!("RESIDUUM_EFFORTS: {e}")));
    let efforts: Vec<(&str, Effort)> = efforts.split(',').map(named).collect();
    let repeats: usize = std::env::var("RESIDUUM_REPEATS").ok().and_then(|r| r.parse().ok()).unwrap_or(3).max(1);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}; RESIDUUM_FIELDS names the folder of .npy or .nc files", folder.display()))
        .map(|e| e.expect("folder entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "npy" || e == "nc"))
        .collect();
    files.sort();

    let fields: Vec<Input> = files.iter().flat_map(|f| load(f)).collect();
    // Kept for all fields, as a program keeps its threads.
    let pools = [1, 2].map(|n| ThreadPoolBuilder::new().num_threads(n).build().expect("thread pool"));
    let lines: Vec<(&Input, f64)> = fields.iter().flat_map(|f| BOUNDS.map(|rel| (f, rel))).collect();
    let mut sz3: Vec<Outcome> = lines.iter().map(|(f, rel)| sz3_on(&f.values, &f.shape, *rel)).collect();
    // By effort, line and number of threads.
    let mut ours = vec![vec![[Outcome::default(); 2]; lines.len()]; efforts.len()];
    for _ in 0..repeats {
        for (i, (field, rel)) in lines.iter().enumerate() {
            sz3[i] = sz3[i].or_faster(sz3_whole(&field.values, &field.shape, *rel));
            for (ours, (_, effort)) in ours.iter_mut().zip(&efforts) {
                for (ours, pool) in ours[i].iter_mut().zip(&pools) {
                    *ours = residuum_on(&field.values, &field.shape, *rel, *effort, pool).or_faster(*ours);
                }
                let [one, two] = ours[i];
                assert_eq!(
                    (one.bytes, one.checksum),
                    (two.bytes, two.checksum),
                    "{}: the archive depends on the number of threads",
                    field.name
                );
            }
        }
    }
    for (ours, (name, _)) in ours.iter().zip(&efforts) {
        println!("### Effort `{name}`\n");
        table(&fields, &sz3, ours);
        println!();
    }
}

fn table(fields: &[Input], sz3: &[Outcome], ours: &[[Outcome; 2]]) {
    println!(
        "| field | rel | residuum | SZ3 | SZ3 / size | bits/value | PSNR (SZ3) | max error / bound | compress MB/s (SZ3) | decompress MB/s (SZ3) | 2 threads |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut totals = [(0usize, 0usize); BOUNDS.len()];
    let mut worst = (f64::INFINITY, String::new());
    let mut worst_psnr = (f64::INFINITY, String::new());
    let mut psnr_sum = 0.0;
    let mut logs: Vec<[f64; 4]> = Vec::new();
    for (i, Input { name, values, .. }) in fields.iter().enumerate() {
        for (b, rel) in BOUNDS.into_iter().enumerate() {
            let [ours, two] = ours[i * BOUNDS.len() + b];
            let sz3 = sz3[i * BOUNDS.len() + b];
            let mb = values.len() as f64 * 4e-6;
            let gain = sz3.bytes as f64 / ours.bytes as f64;
            totals[b].0 += ours.bytes;
            totals[b].1 += sz3.bytes;
            if gain < worst.0 {
                worst = (gain, format!("{name} at {rel:e}"));
            }
            psnr_sum += ours.psnr - sz3.psnr;
            if ours.psnr - sz3.psnr < worst_psnr.0 {
                worst_psnr = (ours.psnr - sz3.psnr, format!("{name} at {rel:e}"));
            }
            if mb >= 1.0 {
                logs.push([
                    sz3.compress_s / ours.compress_s,
                    sz3.decompress_s / ours.decompress_s,
                    ours.compress_s / two.compress_s,
                    ours.decompress_s / two.decompress_s,
                ]);
            }
            println!(
                "| {name} | {rel:e} | {} | {} | {gain:.3} | {:.3} | {:.1} ({:.1}) | {:.4} | {:.0} ({:.0}) | {:.0} ({:.0}) | {:.2} × {:.2} × |",
                ours.bytes,
                sz3.bytes,
                ours.bytes as f64 * 8.0 / values.len() as f64,
                ours.psnr,
                sz3.psnr,
                ours.max_error_over_bound,
                mb / ours.compress_s,
                mb / sz3.compress_s,
                mb / ours.decompress_s,
                mb / sz3.decompress_s,
                ours.compress_s / two.compress_s,
                ours.decompress_s / two.decompress_s,
            );
        }
    }
    let mean = |k: usize| (logs.iter().map(|l| l[k].ln()).sum::<f64>() / logs.len() as f64).exp();
    println!();
    println!("| over all fields | 1e-2 | 1e-3 | 1e-4 |\n|---|---|---|---|");
    println!("| SZ3's best / size | {} |", totals.map(|t| format!("{:.3}", t.1 as f64 / t.0 as f64)).join(" | "));
    println!();
    println!("Worst field: {:.3} ({}).", worst.0, worst.1);
    println!(
        "PSNR against SZ3: {:+.2} dB on average, worst {:+.2} dB ({}).",
        psnr_sum / (fields.len() * BOUNDS.len()) as f64,
        worst_psnr.0,
        worst_psnr.1
    );
    println!(
        "Speed, fields of 1 MB and more, geometric means: compress {:.2} × SZ3, decompress {:.2} × SZ3 (one thread each); two threads against one: compress {:.2} ×, decompress {:.2} ×.",
        mean(0),
        mean(1),
        mean(2),
        mean(3)
    );
}

/// A field to compress.
struct Input {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The array of a `.npy` file; of a NetCDF file all f32 variables that are fields.
fn load(path: &Path) -> Vec<Input> {
    let mut source = io::open(path, &OpenOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file =
        path.file_stem().unwrap_or_default().to_string_lossy().split("__").next().unwrap_or_default().to_string();
    let schema = source.schema().clone();
    let mut fields = vec![];
    for (i, variable) in schema.variables.iter().enumerate().filter(|(_, v)| v.dtype == DType::F32 && v.shape.len() > 1)
    {
        let whole: Vec<_> = variable.shape.iter().map(|&n| 0..n).collect();
        let Ok(Values::F32(values)) = source.read(i, &whole) else { panic!("{}: can not be read", path.display()) };
        let name = if schema.variables.len() > 1 { format!("{file}.{}", variable.name()) } else { file.clone() };
        fields.push(Input { name, shape: variable.shape.iter().map(|&n| n as usize).collect(), values });
    }
    fields
}

fn checksum(archive: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(archive);
    hasher.finish()
}

fn range(values: &[f32]) -> f64 {
    let finite = values.iter().filter(|v| v.is_finite());
    let (lo, hi) = finite.fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    f64::from(hi) - f64::from(lo)
}

fn quality(values: &[f32], restored: &[f32], absolute: f64) -> (f64, f64) {
    let mut c = Comparison::default();
    c.add(values, restored, &Resolved::Absolute(absolute), None);
    (c.psnr(), c.max_error_over_bound)
}

/// The shortest of the runs of a tenth of a second, two at least: a system needs some time until threads that are new to the work have a core
/// each.
fn best_time<R>(mut f: impl FnMut() -> R) -> (f64, R) {
    const SECONDS: f64 = 0.1;
    let begin = Instant::now();
    let mut run = || {
        let start = Instant::now();
        let result = f();
        (start.elapsed().as_secs_f64(), result)
    };
    let mut best = run();
    let mut n = 1;
    while n < 2 || begin.elapsed().as_secs_f64() < SECONDS {
        let next = run();
        best = (best.0.min(next.0), next.1);
        n += 1;
    }
    best
}

fn residuum_on(values: &[f32], shape: &[usize], rel: f64, effort: Effort, pool: &ThreadPool) -> Outcome {
    let field = Field::new(values, shape).expect("field");
    let config = Config::new(Bound::rel(rel)).with_effort(effort);
    let (compress_s, archive) = pool.install(|| best_time(|| residuum::compress(&field, &config).expect("compress")));
    let (decompress_s, restored) =
        pool.install(|| best_time(|| residuum::decompress::<f32>(&archive).expect("decompress").0));
    let (psnr, max_error_over_bound) = quality(values, &restored, rel * range(values));
    assert!(max_error_over_bound <= 1.0, "bound violated");
    Outcome { bytes: archive.len(), checksum: checksum(&archive), compress_s, decompress_s, psnr, max_error_over_bound }
}

/// SZ3 on a whole field.
fn sz3_whole(values: &[f32], shape: &[usize], rel: f64) -> Outcome {
    const MOST_AXES: usize = 4;
    let axes: Vec<usize> = shape.iter().copied().filter(|&n| n > 1).collect();
    let split = axes.len().saturating_sub(MOST_AXES);
    let mut merged = axes[split..].to_vec();
    if split > 0 {
        merged[0] *= axes[..split].iter().product::<usize>();
    }
    let absolute = rel * range(values);
    let (compress_s, archive) = best_time(|| sz3_archive(values, &merged, absolute));
    let (decompress_s, restored) = best_time(|| sz3::decompress::<f32, _>(&*archive).expect("SZ3 decompress").1);
    let (psnr, max_error_over_bound) = quality(values, restored.data(), absolute);
    Outcome { bytes: archive.len(), checksum: checksum(&archive), compress_s, decompress_s, psnr, max_error_over_bound }
}

/// The same, with the size of the best way to hand it the field.
fn sz3_on(values: &[f32], shape: &[usize], rel: f64) -> Outcome {
    let axes: Vec<usize> = shape.iter().copied().filter(|&n| n > 1).collect();
    let absolute = rel * range(values);
    let whole = sz3_whole(values, shape, rel);
    let sizes = (2..axes.len().min(5)).map(|inner| {
        let part = &axes[axes.len() - inner..];
        values.chunks(part.iter().product()).map(|v| sz3_archive(v, part, absolute).len()).sum()
    });
    // Times are taken later.
    Outcome { bytes: sizes.fold(whole.bytes, usize::min), compress_s: f64::MAX, decompress_s: f64::MAX, ..whole }
}

fn sz3_archive(values: &[f32], axes: &[usize], absolute: f64) -> Vec<u8> {
    let data = axes.iter().fold(sz3::DimensionedData::build(&values), |data, &n| data.dim(n).expect("dimension"));
    let data = data.finish().expect("dimensions");
    let config = sz3::Config::new(sz3::ErrorBound::Absolute(absolute))
        .compression_algorithm(sz3::CompressionAlgorithm::interpolation_lorenzo());
    sz3::compress_with_config(&data, &config).expect("SZ3 compress")
}
