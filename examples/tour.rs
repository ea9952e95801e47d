//! Compresses, restores and verifies the real sample in `samples/`, and prints what became of each variable.
//!
//! `cargo run --release --example tour`

use residuum::bound::{Comparison, Resolved};
use residuum::io::{self, OpenOptions};
use residuum::plan::Treatment;
use residuum::{Archive, Bound, Config, Values};
use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

fn main() -> residuum::Result<()> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/samples/era5_1deg.nc"));
    println!("ERA5 at 1 degree, four time steps (contains modified Copernicus Climate Change Service information)\n");
    println!("| variable | bound | ratio | bits/value | PSNR dB | max error / bound | compress MB/s | restore MB/s |");
    println!("|---|---|---|---|---|---|---|---|");
    let mut violations = 0;
    for rel in [1e-2, 1e-3, 1e-4] {
        let config = Config::new(Bound::rel(rel));
        let names: Vec<String> = {
            let source = io::open(path, &OpenOptions::default())?;
            source.schema().variables.iter().map(|v| v.name().to_string()).collect()
        };
        let mut source = io::open(path, &OpenOptions::default())?;
        let archive = residuum::compress_source(&mut *source, Vec::new(), &config, &mut |_| ())?;
        let mut archive = Archive::open(Cursor::new(archive))?;
        for (i, name) in names.iter().enumerate() {
            let Treatment::Lossy { resolved, .. } = archive.variable(i)?.plan.treatment else { continue };
            let shape = archive.schema().variables[i].shape.clone();
            let whole: Vec<_> = shape.iter().map(|&n| 0..n).collect();
            let original = source.read(i, &whole)?;
            let start = Instant::now();
            let restored = archive.read_all(i)?;
            let restore_s = start.elapsed().as_secs_f64();
            let compress_s = time_to_compress(&original, &shape, resolved)?;
            let comparison = compare(&original, &restored, resolved);
            violations += comparison.violations;
            let raw = original.as_bytes().len() as f64;
            let stored = archive.variable(i)?.stored_bytes as f64;
            println!(
                "| {name} | rel {rel:e} | {:.1} | {:.3} | {:.1} | {:.4} | {:.0} | {:.0} |",
                raw / stored,
                stored * 8.0 / original.len() as f64,
                comparison.psnr(),
                comparison.max_error_over_bound,
                raw / compress_s * 1e-6,
                raw / restore_s * 1e-6,
            );
        }
    }
    println!("\nEvery value was compared with its original: {violations} left their bound.");
    std::process::exit(i32::from(violations > 0));
}

/// Compression alone: the file's own decompression is not our time.
fn time_to_compress(values: &Values, shape: &[u64], bound: Resolved) -> residuum::Result<f64> {
    let shape: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
    let Values::F32(values) = values else { return Ok(f64::NAN) };
    let start = Instant::now();
    residuum::compress(&residuum::Field::new(values, &shape)?, &Config::new(Bound::abs(bound.at(0.0))))?;
    Ok(start.elapsed().as_secs_f64())
}

fn compare(original: &Values, restored: &Values, bound: Resolved) -> Comparison {
    let mut comparison = Comparison::default();
    match (original, restored) {
        (Values::F32(a), Values::F32(b)) => comparison.add(a, b, &bound, None),
        (Values::F64(a), Values::F64(b)) => comparison.add(a, b, &bound, None),
        _ => comparison.violations = 1,
    }
    comparison
}
