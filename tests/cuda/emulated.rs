//! What runs on the software driver, each in a process of its own that `main.rs` starts.

use crate::registry::{BOUNDS, CONTENTS, ENTRIES, FILL, Random, SHAPES, content};
use residuum::device::Gpu;
use residuum::device::cudarc::driver::safe::{profiler_start, profiler_stop};
use residuum::predict::fitted::Rows;
use residuum::{Bound, Config, Effort, Field, Kind, PredictorChoice, compress, decompress};

/// A float type under test.
trait TestFloat: Rows + residuum::device::cudarc::driver::DeviceRepr {}
impl TestFloat for f32 {}
impl TestFloat for f64 {}

/// Archive and values from the device are those of the CPU.
fn same<T: TestFloat>(gpu: &mut Gpu, values: &[f64], shape: &[usize], fill: Option<f64>, config: &Config, what: &str) {
    let values: Vec<T> = values.iter().map(|&v| T::from_f64(v)).collect();
    let fill = fill.map(T::from_f64);
    let field = Field::new(&values, shape).unwrap();
    let field = fill.map_or(field, |f| field.with_fill(f));
    let expected = compress(&field, config).unwrap();
    let what = format!("{what} {shape:?} {}", T::DTYPE);

    let stream = gpu.stream().clone();
    let (restored, got) = gpu.decompress::<T>(&expected).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(got, shape);
    let mut restored = stream.clone_dtoh(&restored).unwrap();
    // No memory of no bytes can be had.
    restored.truncate(values.len());
    let (wanted, _) = decompress::<T>(&expected).unwrap();
    let differs = restored.iter().zip(&wanted).position(|(a, b)| a.to_bits() != b.to_bits());
    assert!(differs.is_none() && restored.len() == wanted.len(), "{what}: value {differs:?} differs");
    let padded = [&values[..], &[T::default()]].concat();
    let on_device = stream.clone_htod(&padded).unwrap();
    let archive = gpu.compress(&on_device.slice(..values.len()), shape, fill, config);
    let archive = archive.unwrap_or_else(|e| panic!("{what}: {e}"));
    if archive != expected {
        let at = archive.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(archive.len().min(expected.len()));
        panic!("{what}: archive of {} bytes instead of {}, different from byte {at} on", archive.len(), expected.len());
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Entries, or the one of `ENTRY`.
fn entries() -> impl Iterator<Item = (&'static str, PredictorChoice)> {
    let only = std::env::var("ENTRY").ok();
    let wanted = move |name: &str| only.as_ref().is_none_or(|o| o == name);
    ENTRIES.iter().filter(move |e| wanted(e.name)).map(|e| (e.name, e.predictor))
}

/// Every entry, content and bound; the shapes in turn. Of all cases each `PARITY_SLICES`th, from `PARITY_SLICE` on.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn parity() {
    let mut gpu = Gpu::open(0).unwrap();
    let (slices, slice) = (number("PARITY_SLICES", 1), number("PARITY_SLICE", 0));
    let mut random = Random(5 + slice);
    let (mut case, mut n) = (0, 0);
    for (name, predictor) in entries() {
        for (b, (bound, bound_name)) in BOUNDS.iter().enumerate() {
            for (k, kind) in CONTENTS.iter().enumerate() {
                for turn in 0..2 {
                    case += 1;
                    if case % slices != slice % slices {
                        continue;
                    }
                    let shape = SHAPES[(case as usize * 7 + b + 3 * k + slice as usize) % SHAPES.len()];
                    let values = content(kind, shape, &mut random);
                    let fill = kind.contains("fill").then_some(FILL);
                    let effort = if case % 3 == 0 { Effort::Fast } else { Effort::Balanced };
                    let config = Config::new(*bound).with_predictor(predictor).with_effort(effort);
                    let what = format!("{name} {kind} {bound_name}");
                    if turn == 0 {
                        same::<f32>(&mut gpu, &values, shape, fill, &config, &what);
                    } else {
                        same::<f64>(&mut gpu, &values, shape, fill, &config, &what);
                    }
                    n += 1;
                }
            }
        }
    }
    println!("{n} archives");
    assert!(n >= 20 || std::env::var("ENTRY").is_ok());
}

/// Several chunks, sets of books, tiles, and levels with launches of their own; many patterns of special values.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn larger_fields() {
    let mut gpu = Gpu::open(0).unwrap();
    let mut random = Random(77);
    let shapes: [&[usize]; 5] = [&[150_001], &[260, 311], &[7, 90, 121], &[3, 5, 60, 64], &[2, 3, 4, 40, 50]];
    for (i, shape) in shapes.into_iter().enumerate() {
        for (k, kind) in ["smooth", "fill", "spikes", "mixed signs", "noise"].into_iter().enumerate() {
            let mut values = content(kind, shape, &mut random);
            if k == 1 {
                // More bit patterns than a mask has.
                values
                    .iter_mut()
                    .step_by(997)
                    .enumerate()
                    .for_each(|(j, v)| *v = f64::from_bits(0x7ff8_0000_0000_0000 | (j as u64) << 32));
            }
            // Half of it calm, so that chunks differ.
            let half = values.len() / 2;
            values[half..].iter_mut().for_each(|v| {
                if v.is_finite() {
                    *v *= 0.001
                }
            });
            let bounds = [Bound::rel(1e-3), Bound::abs(0.5), Bound::pw_rel(1e-2), Bound::psnr(60.0), Bound::rel(1e-5)];
            let (_, predictor) = entries().nth((i + k) % entries().count()).unwrap();
            let config = Config::new(bounds[(i + 2 * k) % 5]).with_predictor(predictor);
            let config = if k == 2 { config.with_tile_bytes(1 << 16) } else { config };
            let fill = (kind == "fill").then_some(FILL);
            let what = format!("{predictor:?} {kind} {}", config.bound);
            if (i + k) % 2 == 0 {
                same::<f32>(&mut gpu, &values, shape, fill, &config, &what);
            } else {
                same::<f64>(&mut gpu, &values, shape, fill, &config, &what);
            }
        }
    }
}

/// A few small fields that come by every kernel, for the slow builds.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn few() {
    let mut gpu = Gpu::open(0).unwrap();
    let mut random = Random(3);
    // The build that looks for races takes a second a launch of many threads.
    let fewer = number("FEWER", 0) == 1;
    for (kind, bound, predictor) in [
        ("fill", Bound::rel(1e-3), PredictorChoice::Auto),
        ("nan patch", Bound::abs(0.01), PredictorChoice::Lorenzo),
        ("mixed signs", Bound::pw_rel(1e-3), PredictorChoice::Interp),
        ("near fill", Bound::psnr(50.0), PredictorChoice::None),
        ("spikes", Bound::abs(0.1), PredictorChoice::Interp),
        ("fill", Bound::abs(0.1), PredictorChoice::Fitted),
    ] {
        let config = Config::new(bound).with_predictor(predictor).with_effort(Effort::Fast);
        let is_fitted = predictor == PredictorChoice::Fitted;
        for shape in if is_fitted { [&[23usize, 24][..], &[4, 19, 31]] } else { [&[33, 65][..], &[5, 7, 11]] } {
            let values = content(kind, shape, &mut random);
            let fill = kind.contains("fill").then_some(FILL);
            same::<f32>(&mut gpu, &values, shape, fill, &config, kind);
            if fewer {
                break;
            }
            same::<f64>(&mut gpu, &values, shape, fill, &config, kind);
        }
    }
}

/// The driver's counters since `profiler_start`.
fn counters() -> std::collections::BTreeMap<String, u64> {
    profiler_stop().unwrap();
    let report = std::fs::read_to_string(std::env::var("CUEMU_REPORT").unwrap()).unwrap();
    let line = report.lines().last().unwrap();
    line.split(' ').filter_map(|w| w.split_once('=')).map(|(k, v)| (k.to_string(), v.parse().unwrap())).collect()
}

#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn residency() {
    let _ = std::fs::remove_file(std::env::var("CUEMU_REPORT").unwrap());
    let mut gpu = Gpu::open(0).unwrap();
    let mut random = Random(8);
    let shape = [24, 90, 121];
    let values: Vec<f32> = content("smooth", &shape, &mut random).iter().map(|&v| v as f32).collect();
    let on_device = gpu.stream().clone_htod(&values).unwrap();
    for bound in [Bound::rel(1e-3), Bound::abs(0.01), Bound::psnr(60.0), Bound::pw_rel(1e-3)] {
        for (name, predictor) in entries() {
            // Three tiles. (Tiles of this size come back both ways where the fitted predictor is tried beside others.)
            let config =
                Config::new(bound).with_predictor(predictor).with_effort(Effort::Fast).with_tile_bytes(400 << 10);
            let launches = if predictor == PredictorChoice::Fitted { 1000 } else { 60 };
            for round in 0..2 {
                profiler_start().unwrap();
                let archive = gpu.compress(&on_device, &shape, None, &config).unwrap();
                let c = counters();
                let what = format!("{name} {bound}: {c:?}, archive of {} bytes", archive.len());
                println!("{what}");
                assert_eq!(c["htod"], 0, "{what}");
                // zstd packs chunks and lists on the host, after they were copied: some archives shrink by that.
                let before_zstd = archive.len() as u64 * 4 / 3;
                assert!(c["dtoh"] <= before_zstd + 4096, "{what}");
                assert!(c["syncs"] <= 2, "{what}");
                let attempts = if bound.mode == residuum::bound::Mode::Psnr { 6 } else { 1 };
                assert!(c["launches"] <= 3 * launches * attempts + 3, "{what}");
                // Working memory is taken once.
                assert!(round == 0 || c["allocs"] == 0, "{what}");
                // Decompression copies the archive in, and nothing but a tile's state out.
                profiler_start().unwrap();
                let restored = gpu.decompress::<f32>(&archive).unwrap();
                let c = counters();
                assert!(c["dtoh"] <= 3 * 1024, "{name} {bound}: {c:?}");
                drop(restored);
            }
        }
    }
}

#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn faults() {
    let _ = std::fs::remove_file(std::env::var("CUEMU_REPORT").unwrap());
    // Every call of a short life fails in turn; of the many of the fitted predictor each so-manieth.
    lives(&[9, 33], PredictorChoice::Auto, 1);
    lives(&[23, 24], PredictorChoice::Fitted, 9);
}

fn lives(shape: &[usize], predictor: PredictorChoice, step: usize) {
    let values: Vec<f32> = content("fill", shape, &mut Random(8)).iter().map(|&v| v as f32).collect();
    let config = Config::new(Bound::rel(1e-3)).with_effort(Effort::Fast).with_predictor(predictor);
    let field = Field::new(&values, shape).unwrap().with_fill(FILL as f32);
    let expected = compress(&field, &config).unwrap();
    // A whole life: open, compress, restore, drop.
    let life = || -> residuum::Result<Vec<u8>> {
        let mut gpu = Gpu::open(0)?;
        let refused = |_| residuum::Error::new(Kind::Device, "the test's own copy failed");
        let on_device = gpu.stream().clone_htod(&values).map_err(refused)?;
        let archive = gpu.compress(&on_device, shape, Some(FILL as f32), &config)?;
        let (restored, _) = gpu.decompress::<f32>(&expected)?;
        assert_eq!(restored.len(), values.len());
        Ok(archive)
    };
    let set = |fault: &str| {
        // SAFETY: this process has one thread but for those of rayon, which read no environment by now.
        unsafe { std::env::set_var("CUEMU_FAIL", fault) };
        profiler_start().unwrap();
    };
    // The kernels' cache is there from now on.
    life().unwrap();
    for kind in ["alloc", "launch", "module", "copy", "sync", "lost"] {
        let mut n_failed = 0;
        for n in (1..).step_by(step) {
            set(&format!("{kind}:{n}"));
            let result = life();
            let c = counters();
            assert_eq!(c["live"], 0, "{kind} {n}: {c:?}");
            match result {
                // Kernels that do not load from the cache are compiled again: that is a completed call.
                Ok(archive) if kind == "module" && n == 1 => assert!(archive == expected),
                Ok(archive) => {
                    assert!(archive == expected);
                    break;
                }
                Err(e) => assert_eq!(e.kind(), Kind::Device, "{kind} {n}: {e}"),
            }
            n_failed += 1;
        }
        println!("{kind}: {n_failed} faults");
        assert!(n_failed >= 1, "{kind}");
    }
    // The coder of the command: the CPU takes over where it may, and says so.
    for n in [1, 5, 40] {
        let treatment = residuum::compress::plan_treatment(Bound::abs(0.1), None, residuum::DType::F32, None).unwrap();
        let region: Vec<_> = shape.iter().map(|&n| 0..n as u64).collect();
        let host = residuum::Values::F32(values.clone());
        set("none:1");
        let (mut coder, note) = residuum::device::open(residuum::device::Choice::Auto).unwrap();
        assert!(note.is_none());
        set(&format!("lost:{n}"));
        let bytes = coder.compress(&host, &region, &treatment, &config).unwrap();
        assert!(bytes == residuum::compress::compress_tile(&values, &region, &treatment, &config).unwrap());
        assert!(coder.notes().iter().any(|note| note.contains("the CPU took over")), "{:?}", coder.notes());
        drop(coder);
        assert_eq!(counters()["live"], 0);
    }
}

/// As `hostile_tiles_do_not_panic`: every answer is the CPU's, be it an error.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn damage() {
    use residuum::device::{Choice, Coder, Cpu};
    let (mut gpu, _) = residuum::device::open(Choice::Cuda(0)).unwrap();
    let mut random = Random(3);
    for (name, predictor) in entries() {
        for (bound, bound_name) in BOUNDS {
            let shape = match predictor {
                PredictorChoice::Fitted => [&[23usize, 24][..], &[600], &[4, 19, 31]][random.below(3)],
                _ => [&[5usize, 12][..], &[300], &[3, 4, 5, 6, 7]][random.below(3)],
            };
            let region: Vec<_> = shape.iter().map(|&n| 0..n as u64).collect();
            let kind = ["smooth", "nan patch", "spikes", "mixed signs"][random.below(4)];
            let values: Vec<f32> = content(kind, shape, &mut random).iter().map(|&v| v as f32).collect();
            let config = Config::new(*bound).with_predictor(predictor).with_effort(Effort::Fast);
            let stats = residuum::compress::statistics(&values, None);
            let dtype = residuum::DType::F32;
            let treatment = residuum::compress::plan_treatment(*bound, Some(stats), dtype, None).unwrap();
            let tile = residuum::compress::compress_tile(&values, &region, &treatment, &config).unwrap();
            let mut same = |bytes: &[u8]| {
                let cpu = Cpu.decompress(bytes, dtype, &treatment, &region);
                let got = gpu.decompress(bytes, dtype, &treatment, &region);
                match (cpu, got) {
                    (Ok(a), Ok(b)) => assert!(a.as_bytes() == b.as_bytes(), "{name} {kind} {bound_name}"),
                    (Err(a), Err(b)) => assert_eq!(a.kind(), b.kind(), "{name} {kind} {bound_name}: {a}; {b}"),
                    (a, b) => panic!("{name} {kind} {bound_name}: {:?} and {:?}", a.err(), b.err()),
                }
            };
            same(&tile);
            for _ in 0..150 {
                let mut damaged = tile.clone();
                let at = random.below(damaged.len() * 8);
                damaged[at / 8] ^= 1 << (at % 8);
                same(&damaged);
                same(&tile[..random.below(tile.len())]);
            }
        }
    }
}

#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn no_compiler() {
    let e = Gpu::open(0).unwrap_err();
    assert_eq!(e.kind(), Kind::Device);
    assert!(e.to_string().contains("do not compile"), "{e}");
    let (_, note) = residuum::device::open(residuum::device::Choice::Auto).unwrap();
    assert!(note.unwrap().contains("do not compile"));
}
