//! Single stages on generated and real values: `cargo bench --bench stages`, under two minutes. Whole fields against SZ3: `against_sz3.rs`.
//!
//! Throughput is that of the values (4 bytes each), on all threads of the machine; `RAYON_NUM_THREADS=1` for one. The fits of the
//! fitted predictor and their use are one stage here: between them is nothing that could be called by itself.

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use residuum::bound::{Bound, Resolved};
use residuum::compress::{compress_tile, plan_treatment, statistics};
use residuum::decompress::decompress_tile;
use residuum::encode::huffman::cpu::Packing;
use residuum::encode::{exact, huffman};
use residuum::io::{self, OpenOptions};
use residuum::predict::{Predictor, choose};
use residuum::quantize::Quantizer;
use residuum::{Config, DType, Effort, PredictorChoice, Values};
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

/// A field with the bound that the stages are given.
struct Input {
    name: &'static str,
    values: Vec<f32>,
    shape: Vec<usize>,
}

const REL: f64 = 1e-3;

/// Waves on several scales and noise of about the bound: 4 images of 256 by 512.
fn generated() -> Input {
    let shape = vec![4, 256, 512];
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut values = Vec::new();
    for t in 0..4 {
        for y in 0..256 {
            for x in 0..512 {
                let (t, y, x) = (t as f32, y as f32, x as f32);
                let wave = |k: f32| (x * k + t * 0.3).sin() * (y * k * 0.7 - t * 0.2).cos() / k;
                values.push(wave(0.02) + wave(0.11) + wave(0.37) + 0.1 * noise());
            }
        }
    }
    Input { name: "generated", values, shape }
}

/// The largest variable of the sample in `samples/`.
fn sample() -> Input {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/era5_1deg.nc");
    let mut source = io::open(&path, &OpenOptions::default()).expect("sample");
    let variables = source.schema().variables.clone();
    let (i, v) = variables
        .iter()
        .enumerate()
        .filter(|(_, v)| v.dtype == DType::F32)
        .max_by_key(|(_, v)| v.len())
        .expect("a variable of f32");
    let region: Vec<_> = v.shape.iter().map(|&n| 0..n).collect();
    let Values::F32(values) = source.read(i, &region).expect("values") else { panic!("f32") };
    Input { name: "era5", values, shape: v.shape.iter().filter(|&&n| n > 1).map(|&n| n as usize).collect() }
}

fn stages(criterion: &mut Criterion) {
    for input in [generated(), sample()] {
        let mut group = criterion.benchmark_group(input.name);
        group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800));
        group.throughput(Throughput::Bytes(std::mem::size_of_val(&input.values[..]) as u64));
        of_input(&mut group, &input);
        group.finish();
    }
}

fn of_input(group: &mut BenchmarkGroup<'_, WallTime>, input: &Input) {
    let Input { values, shape, .. } = input;
    let stats = statistics(values, None);
    group.bench_function("scan", |b| b.iter(|| statistics(black_box(values), None)));

    let base = (stats.min / 2.0 + stats.max / 2.0) as f32;
    let quantizer = Quantizer::new(REL * stats.range(), stats.max_magnitude());
    for (name, asked) in
        [("none", PredictorChoice::None), ("lorenzo", PredictorChoice::Lorenzo), ("interp", PredictorChoice::Interp)]
    {
        let choose = || choose::choose(black_box(values), shape, base, &quantizer, asked);
        if asked != PredictorChoice::None {
            group.bench_function(format!("{name}/choose"), |b| b.iter(choose));
        }
        let predictor: Box<dyn Predictor<f32>> = choose();
        let codes = predictor.encode(values, shape, base, &quantizer).codes;
        let packed = huffman::cpu::encode(&codes, Packing::Plain);
        group.bench_function(format!("{name}/predict + quantize"), |b| {
            b.iter(|| predictor.encode(black_box(values), shape, base, &quantizer))
        });
        group.bench_function(format!("{name}/restore"), |b| {
            b.iter(|| predictor.decode(black_box(&codes), shape, base, &quantizer))
        });
        group.bench_function(format!("{name}/huffman encode"), |b| {
            b.iter(|| huffman::cpu::encode(black_box(&codes), Packing::Plain))
        });
        group.bench_function(format!("{name}/huffman decode"), |b| {
            b.iter(|| huffman::cpu::decode(black_box(&packed), codes.len()).expect("codes"))
        });
    }

    // Whole tiles: the stages above in a row, and the fitted predictor with its contexts.
    let region: Vec<_> = shape.iter().map(|&n| 0..n as u64).collect();
    let treatment = plan_treatment(Bound::rel(REL), Some(stats), DType::F32, None).expect("plan");
    assert!(matches!(treatment, residuum::plan::Treatment::Lossy { resolved: Resolved::Absolute(_), .. }));
    for (name, predictor, effort) in [
        ("fast", PredictorChoice::Auto, Effort::Fast),
        ("fitted, balanced", PredictorChoice::Fitted, Effort::Balanced),
        ("fitted, best", PredictorChoice::Fitted, Effort::Best),
    ] {
        let config = Config::new(Bound::rel(REL)).with_predictor(predictor).with_effort(effort);
        let compress = || compress_tile(black_box(values), &region, &treatment, &config).expect("tile");
        let tile = compress();
        group.bench_function(format!("{name}/compress a tile"), |b| b.iter(compress));
        group.bench_function(format!("{name}/restore a tile"), |b| {
            b.iter(|| decompress_tile(black_box(&tile), DType::F32, &treatment, &region).expect("tile"))
        });
    }

    let exactly = Values::F32(values.clone());
    let packed = exact::encode(&exactly);
    group.bench_function("exact/encode", |b| b.iter(|| exact::encode(black_box(&exactly))));
    group.bench_function("exact/decode", |b| {
        b.iter(|| exact::decode(black_box(&packed), DType::F32, values.len()).expect("values"))
    });
}

criterion_group!(benches, stages);
criterion_main!(benches);
