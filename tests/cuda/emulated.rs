//! What runs on the software driver, each in a process of its own that `main.rs` starts.

#[path = "emulated_c.rs"]
mod c;
#[cfg(feature = "forecast")]
#[path = "emulated_forecasts.rs"]
mod forecasts;

use crate::registry::{BOUNDS, CONTENTS, ENTRIES, FILL, Random, SHAPES, content};
use residuum::decompress::inspect_tile;
use residuum::device::Gpu;
use residuum::device::cudarc::driver::safe::{profiler_start, profiler_stop};
use residuum::predict::fitted::Rows;
use residuum::{Archive, Bound, Config, Effort, Field, Kind, PredictorChoice, compress, decompress};
use std::io::Cursor;

/// A float type under test.
trait TestFloat: Rows + residuum::device::cudarc::driver::DeviceRepr {}
impl TestFloat for f32 {}
impl TestFloat for f64 {}

/// Archive and values from the device are those of the CPU. Returns the archive.
fn same<T: TestFloat>(
    gpu: &mut Gpu,
    values: &[f64],
    shape: &[usize],
    fill: Option<f64>,
    config: &Config,
    what: &str,
) -> Vec<u8> {
    let values: Vec<T> = values.iter().map(|&v| T::from_f64(v)).collect();
    let fill = fill.map(T::from_f64);
    let field = Field::new(&values, shape).unwrap();
    let field = fill.map_or(field, |f| field.with_fill(f));
    let expected = compress(&field, config).unwrap();
    let what = format!("{what} {shape:?} {}", T::DTYPE);

    let (archive, restored) = through(gpu, &values, shape, fill, config, &expected, &what);
    if archive != expected {
        let at = archive.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(archive.len().min(expected.len()));
        panic!("{what}: archive of {} bytes instead of {}, different from byte {at} on", archive.len(), expected.len());
    }
    let (wanted, _) = decompress::<T>(&expected).unwrap();
    let differs = restored.iter().zip(&wanted).position(|(a, b)| a.to_bits() != b.to_bits());
    assert!(differs.is_none() && restored.len() == wanted.len(), "{what}: value {differs:?} differs");
    archive
}

/// Whether guesses of sizes have offsets in the first tile of an archive.
fn has_offsets(archive: &[u8]) -> bool {
    let mut archive = Archive::open(Cursor::new(archive)).unwrap();
    let (tiling, dtype) = (archive.variable(0).unwrap().plan.tiling.clone(), archive.schema().variables[0].dtype);
    let tile = archive.coded_tile(0, 0).unwrap();
    inspect_tile(&tile, dtype, &tiling.region(0)).unwrap().predictor.contains("guesses by rows")
}

fn through<T: TestFloat>(
    gpu: &mut Gpu,
    values: &[T],
    shape: &[usize],
    fill: Option<T>,
    config: &Config,
    archive: &[u8],
    what: &str,
) -> (Vec<u8>, Vec<T>) {
    let stream = gpu.stream().clone();
    // One more, as no memory of no bytes can be had.
    let padded = [values, &[T::default()]].concat();
    let on_device = stream.clone_htod(&padded).unwrap();
    let compressed = gpu.compress(&on_device.slice(..values.len()), shape, fill, config);
    let compressed = compressed.unwrap_or_else(|e| panic!("{what}: {e}"));
    let (restored, got) = gpu.decompress::<T>(archive).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(got, shape);
    let mut restored = stream.clone_dtoh(&restored).unwrap();
    restored.truncate(values.len());
    (compressed, restored)
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
                    // Other efforts look again at some tiles on the host; without a predictor of their own they try the fitted one too.
                    let effort = [Effort::Fast, Effort::Balanced, Effort::Best][random.below(3)];
                    let config = Config::new(*bound).with_predictor(predictor).with_effort(effort);
                    let what = format!("{name} {kind} {bound_name} {effort:?}");
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
        for (k, kind) in ["smooth", "fill", "spikes", "mixed signs", "noise", "fill that stays", "rough below"]
            .into_iter()
            .enumerate()
        {
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
            let effort = if k % 2 == 0 { Effort::Balanced } else { Effort::Fast };
            let config = Config::new(bounds[(i + 2 * k) % 5]).with_predictor(predictor).with_effort(effort);
            let config = if k == 2 { config.with_tile_bytes(1 << 16) } else { config };
            let fill = kind.contains("fill").then_some(FILL);
            let what = format!("{predictor:?} {kind} {}", config.bound);
            if (i + k) % 2 == 0 {
                same::<f32>(&mut gpu, &values, shape, fill, &config, &what);
            } else {
                same::<f64>(&mut gpu, &values, shape, fill, &config, &what);
            }
        }
    }
}

/// Lists longer than a block of threads takes at once, odd and even, in which long distances stand among short ones.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn lists() {
    let mut gpu = Gpu::open(0).unwrap();
    let mut random = Random(21);
    let shape = [500_001];
    for (case, bound) in
        [(0, Bound::abs(0.5)), (1, Bound::abs(0.5)), (2, Bound::pw_rel(1e-2)), (3, Bound::pw_rel(1e-2))]
    {
        let mut values: Vec<f64> = (0..shape[0]).map(|i| 20.0 + (i as f64 * 1e-3).sin()).collect();
        let (mut at, mut n) = (random.below(100), 0);
        while at < values.len() {
            let end = (at + 1 + random.below(5)).min(values.len());
            match case {
                0 => values[at..end].fill(f64::NAN),
                // Both far off.
                1 => values[at..at + 1].fill(1e30 * (1.0 + random.unit())),
                2 => values[at..end].fill(-21.0),
                // To the end: an odd number of changes.
                _ => values[at..].fill([21.0, -21.0][n % 2]),
            }
            n += 1;
            let is_far = n % 700 == 650;
            at = end + 1 + random.below(3) + if is_far { 140_000 + random.below(9000) } else { 0 };
        }
        assert!(n > 1500);
        let config = Config::new(bound).with_predictor(PredictorChoice::Lorenzo).with_effort(Effort::Fast);
        same::<f32>(&mut gpu, &values, &shape, None, &config, &format!("lists {case}"));
    }
}

/// Several trials, of which the cheapest counts; series so long that a short trial is one of them.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn best() {
    let mut gpu = Gpu::open(0).unwrap();
    let mut random = Random(12);
    let shapes: [&[usize]; 4] = [&[7, 40, 52], &[3, 4, 36, 31], &[2, 190, 120], &[102, 24, 27]];
    let mut n_offsets = 0;
    for (i, shape) in shapes.into_iter().enumerate() {
        for (k, kind) in ["smooth", "fill", "spikes", "nan patch", "rough below"].into_iter().enumerate() {
            if i == 3 && (k % 2 == 1 || k == 4) {
                continue; // Long ones take their time.
            }
            let values = content(kind, shape, &mut random);
            let bounds = [Bound::rel(1e-3), Bound::psnr(55.0), Bound::pw_rel(1e-2), Bound::rel(1e-2)];
            let config =
                Config::new(bounds[(i + k) % 4]).with_predictor(PredictorChoice::Fitted).with_effort(Effort::Best);
            let fill = (kind == "fill").then_some(FILL);
            let what = format!("{kind} {}", config.bound);
            let archive = match k {
                0 => same::<f64>(&mut gpu, &values, shape, fill, &config, &what),
                _ => same::<f32>(&mut gpu, &values, shape, fill, &config, &what),
            };
            n_offsets += usize::from(has_offsets(&archive));
        }
    }
    assert!(n_offsets > 0, "no offsets of guesses");
}

/// Tiles whose steps are coded in two chains of several streams, with levels that have launches of their own.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn chains() {
    let mut gpu = Gpu::open(0).unwrap();
    let mut random = Random(31);
    // The first has two streams for each chain.
    let shapes: [&[usize]; 5] =
        [&[11, 270, 271], &[5, 3, 131, 140], &[4, 2, 180, 190], &[180, 38, 39], &[4, 2, 180, 190]];
    let kinds = ["nan patch", "smooth", "rough below", "spikes", "fill"];
    for (i, (shape, kind)) in shapes.into_iter().zip(kinds).enumerate() {
        let values = content(kind, shape, &mut random);
        let effort = if i == 1 { Effort::Best } else { Effort::Balanced };
        let predictor = PredictorChoice::Fitted;
        let config = Config::new(Bound::rel([1e-3, 1e-2][i % 2])).with_predictor(predictor).with_effort(effort);
        let fill = (kind == "fill").then_some(FILL);
        let archive = match i {
            2 | 4 => same::<f64>(&mut gpu, &values, shape, fill, &config, kind),
            _ => same::<f32>(&mut gpu, &values, shape, fill, &config, kind),
        };
        assert!(kind != "rough below" || has_offsets(&archive), "no offsets of guesses");
    }
}

/// Archives of earlier builds, whose series are coded forwards, and of all ways to code images.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn golden() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    fn bits<T: TestFloat>(gpu: &mut Gpu, archive: &[u8]) -> Vec<u8> {
        let (restored, shape) = gpu.decompress::<T>(archive).unwrap();
        let mut restored = gpu.stream().clone_dtoh(&restored).unwrap();
        restored.truncate(shape.iter().product());
        bytemuck::cast_slice(&restored).to_vec()
    }
    let mut gpu = Gpu::open(0).unwrap();
    let mut n = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("fitted-") || !name.ends_with(".rsd") {
            continue;
        }
        let archive = std::fs::read(&path).unwrap();
        let got = match name.ends_with("-f64.rsd") {
            true => bits::<f64>(&mut gpu, &archive),
            false => bits::<f32>(&mut gpu, &archive),
        };
        let wanted = zstd::decode_all(&*std::fs::read(path.with_extension("bits")).unwrap()).unwrap();
        assert!(got == wanted, "{name}");
        n += 1;
    }
    assert!(n >= 28, "only {n} archives");
}

/// A few small fields that come by every kernel, for the slow builds.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn few() {
    let mut gpu = Gpu::open(0).unwrap();
    let mut random = Random(3);
    // The build that looks for races takes a second a launch of many threads.
    let fewer = number("FEWER", 0) == 1;
    for (kind, bound, predictor, effort) in [
        ("fill", Bound::rel(1e-3), PredictorChoice::Auto, Effort::Fast),
        ("nan patch", Bound::abs(0.01), PredictorChoice::Lorenzo, Effort::Fast),
        ("mixed signs", Bound::pw_rel(1e-3), PredictorChoice::Interp, Effort::Fast),
        ("near fill", Bound::psnr(50.0), PredictorChoice::None, Effort::Fast),
        ("spikes", Bound::abs(0.1), PredictorChoice::Interp, Effort::Fast),
        ("fill", Bound::abs(0.1), PredictorChoice::Fitted, Effort::Best),
        // In both ways, side images and land that stays.
        ("fill that stays", Bound::abs(0.1), PredictorChoice::Auto, Effort::Balanced),
    ] {
        let config = Config::new(bound).with_predictor(predictor).with_effort(effort);
        let shapes: [&[usize]; 2] = match (predictor, effort) {
            (PredictorChoice::Fitted, _) => [&[23, 24], &[4, 19, 31]],
            (_, Effort::Balanced) => [&[3, 17, 31], &[2, 2, 23, 24]],
            _ => [&[33, 65], &[5, 7, 11]],
        };
        for shape in shapes {
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

/// Counters of what `work` did.
fn counted<R>(work: impl FnOnce() -> R) -> (R, std::collections::BTreeMap<String, u64>) {
    profiler_start().unwrap();
    let result = work();
    (result, counters())
}

/// Launches of a tile at most, and with a mean square error.
const LAUNCHES: [u64; 2] = [64, 204];
/// The same with the fitted predictor, where a tile has up to nine images.
const LAUNCHES_OF_FITS: [u64; 2] = [1000, 6000];
/// The same where several fits are tried.
const LAUNCHES_OF_BEST_FITS: [u64; 2] = [3000, 18_000];

#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn residency() {
    let _ = std::fs::remove_file(std::env::var("CUEMU_REPORT").unwrap());
    let mut gpu = Gpu::open(0).unwrap();
    let stream = gpu.stream().clone();
    let mut random = Random(8);
    let shape = [24, 90, 121];
    let n: usize = shape.iter().product();
    let of = |kind: &str, random: &mut Random| -> Vec<f32> {
        content(kind, &shape, random).iter().map(|&v| v as f32).collect()
    };
    // The last has codes larger than the values, which are then stored as they are.
    let noise: Vec<f32> = (0..n).map(|_| f32::from_bits(random.below(1 << 32) as u32)).collect();
    let usual = [Bound::rel(1e-3), Bound::abs(0.01), Bound::psnr(60.0), Bound::pw_rel(1e-3)];
    let tight = [Bound::abs(1e-30), Bound::pw_rel(1e-6), Bound::rel(1e-12), Bound::abs(1.0)];
    let fields = [
        (of("smooth", &mut random), usual),
        (of("fill", &mut random), usual),
        (of("spikes", &mut random), usual),
        (vec![7.5; n], usual),
        (noise, tight),
    ];
    let mut n_efforts = [0; 3];
    for (i, (values, bounds)) in fields.iter().enumerate() {
        let on_device = stream.clone_htod(values).unwrap();
        let fill = (i == 1).then_some(FILL as f32);
        for (b, &bound) in bounds.iter().enumerate() {
            for (p, (name, predictor)) in entries().enumerate() {
                // All predictors on the first field, one in turn on the others; with effort fast, and on the first three with another one in turn.
                let in_turn = |step: usize| (i + b + p) % step == 0;
                if i > 0 && !in_turn(4) {
                    continue;
                }
                let other = match i {
                    // What takes half of its bytes in codes is looked at again on the host.
                    _ if predictor == PredictorChoice::None => None,
                    0..=2 if in_turn(8) => Some(Effort::Best),
                    0..=2 if in_turn(2) => Some(Effort::Balanced),
                    _ => None,
                };
                for effort in [Some(Effort::Fast), other].into_iter().flatten() {
                    n_efforts[effort as usize] += 1;
                    // Three tiles.
                    let config =
                        Config::new(bound).with_predictor(predictor).with_effort(effort).with_tile_bytes(400 << 10);
                    let field = Field::new(values, &shape).unwrap();
                    let expected = compress(&fill.map_or(field, |f| field.with_fill(f)), &config).unwrap();
                    let mut room = unsafe { stream.alloc::<u8>(n * 4 + 4096) }.unwrap();
                    let is_fitted = predictor == PredictorChoice::Fitted
                        || predictor == PredictorChoice::Auto && effort != Effort::Fast;
                    let of_tile = match effort {
                        Effort::Best if is_fitted => LAUNCHES_OF_BEST_FITS,
                        _ if is_fitted => LAUNCHES_OF_FITS,
                        _ => LAUNCHES,
                    };
                    let launches = 3 * of_tile[usize::from(bound.mode == residuum::bound::Mode::Psnr)] + 3;
                    for round in 0..2 {
                        let (archive, c) = counted(|| gpu.compress(&on_device, &shape, fill, &config).unwrap());
                        let what = format!("{i} {name} {bound} {effort:?}: {c:?}, archive of {} bytes", archive.len());
                        println!("{what}");
                        assert!(archive == expected, "{what}");
                        assert_eq!(c["htod"], 0, "{what}");
                        assert!(c["dtoh"] <= archive.len() as u64 + 4096, "{what}");
                        assert!(c["syncs"] <= 2, "{what}");
                        assert!(c["launches"] <= launches, "{what}");
                        // Working memory is taken once.
                        assert!(round == 0 || c["allocs"] == 0, "{what}");
                    }
                    // The archive stays there: next to nothing moves.
                    let (len, c) = counted(|| gpu.compress_into(&on_device, &shape, fill, &config, &mut room).unwrap());
                    let what = format!("{i} {name} {bound} to the device: {c:?}, archive of {len} bytes");
                    assert!(c["dtoh"] <= 1024 && c["htod"] <= 4096 && c["syncs"] <= 1 && c["allocs"] == 0, "{what}");
                    assert!(stream.clone_dtoh(&room.slice(..len)).unwrap() == expected, "{what}");
                    // Decompression copies the archive in, and nothing but a tile's state out.
                    let (restored, c) = counted(|| gpu.decompress::<f32>(&expected).unwrap());
                    assert!(c["dtoh"] <= 3 * 1024, "{name} {bound}: {c:?}");
                    drop(restored);
                }
            }
        }
    }
    println!("archives by effort: {n_efforts:?}");
    assert!(n_efforts.iter().all(|&n| n >= 3), "{n_efforts:?}");
}

/// An archive whose tiles are boxes of several steps: no runs of the variable.
fn boxes(gpu: &mut Gpu) {
    use residuum::io::{Format, Schema};
    use residuum::tile::{Tiling, copy_overlap, region_len};
    let shape = [6u64, 4, 10, 12];
    let tiling = Tiling::in_steps(&shape, 720).unwrap();
    let (dtype, config) = (residuum::DType::F32, Config::new(Bound::abs(0.01)).with_effort(Effort::Fast));
    let values: Vec<f32> = content("smooth", &[6, 4, 10, 12], &mut Random(6)).iter().map(|&v| v as f32).collect();
    let treatment = residuum::compress::plan_treatment(config.bound, None, dtype, None).unwrap();
    let plan = residuum::Plan { variable: 0, treatment, tiling, forecast: None };
    let mut writer = residuum::Writer::new(Vec::new(), &Schema::single(Format::Raw, "data", dtype, &shape)).unwrap();
    writer.begin(&plan).unwrap();
    let whole: Vec<_> = shape.iter().map(|&n| 0..n).collect();
    for i in 0..plan.tiling.count() {
        let region = plan.tiling.region(i);
        let mut part = vec![0f32; region_len(&region) as usize];
        copy_overlap(&values, &whole, &mut part, &region);
        let tile = residuum::compress::compress_tile(&part, &region, &plan.treatment, &config).unwrap();
        writer.tile(&tile).unwrap();
    }
    let archive = writer.finish().unwrap();
    assert!(plan.tiling.steps.is_some() && plan.tiling.count() > 2);
    let (restored, _) = gpu.decompress::<f32>(&archive).unwrap();
    assert!(gpu.stream().clone_dtoh(&restored).unwrap() == decompress::<f32>(&archive).unwrap().0);
}

/// Batches, streams, places of the caller's.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn fields_of_many() {
    use residuum::device::DeviceField;
    let mut gpu = Gpu::open(0).unwrap();
    let stream = gpu.stream().clone();
    let shapes: [&[usize]; 5] = [&[7, 90, 121], &[0, 4], &[33, 65], &[1], &[3, 4, 5, 6, 7]];
    for bound in [Bound::rel(1e-3), Bound::LOSSLESS, Bound::psnr(50.0), Bound::pw_rel(1e-2)] {
        let config = Config::new(bound).with_effort(Effort::Fast).with_tile_bytes(1 << 16);
        let mut random = Random(12);
        let of = |shape: &&[usize]| {
            let values = content("fill", shape, &mut random);
            values.iter().map(|&v| v as f32).chain([0.0]).collect::<Vec<f32>>()
        };
        let values: Vec<Vec<f32>> = shapes.iter().map(of).collect();
        let n = |i: usize| values[i].len() - 1;
        let expected: Vec<Vec<u8>> = (0..shapes.len())
            .map(|i| {
                let field = Field::new(&values[i][..n(i)], shapes[i]).unwrap().with_fill(FILL as f32);
                compress(&field, &config).unwrap()
            })
            .collect();
        let on_device: Vec<_> = values.iter().map(|v| stream.clone_htod(v).unwrap()).collect();
        let views: Vec<_> = on_device.iter().enumerate().map(|(i, v)| v.slice(..n(i))).collect();
        let fields: Vec<_> = (0..shapes.len())
            .map(|i| DeviceField { values: &views[i], shape: shapes[i], fill: Some(FILL as f32) })
            .collect();
        let (archives, c) = counted(|| gpu.compress_batch(&fields, &config).unwrap());
        assert!(archives == expected, "{bound}");
        // All of them wait as often as one; what is kept exactly comes to the host by itself.
        assert!(bound.is_lossless() || c["syncs"] <= 2, "{bound}: {c:?}");

        // Into places on the device, and from there.
        let mut rooms: Vec<_> = expected.iter().map(|e| stream.alloc_zeros::<u8>(e.len()).unwrap()).collect();
        let mut places: Vec<_> = rooms.iter_mut().collect();
        let sizes = gpu.compress_batch_into(&fields, &config, &mut places).unwrap();
        for (i, room) in rooms.iter().enumerate() {
            assert_eq!(sizes[i], expected[i].len());
            assert!(stream.clone_dtoh(room).unwrap() == expected[i], "{bound}");
            let mut restored = stream.alloc_zeros::<f32>(n(i) + 3).unwrap();
            assert_eq!(gpu.decompress_from::<f32, _, _>(room, &mut restored).unwrap(), shapes[i]);
            let restored = stream.clone_dtoh(&restored).unwrap();
            let wanted = decompress::<f32>(&expected[i]).unwrap().0;
            assert!(restored.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits()));
            assert_eq!(restored[n(i)..], [0.0; 3], "written beyond the values");
        }
        // Too little room: said, and not a byte written.
        let mut small = stream.alloc_zeros::<u8>(expected[0].len() - 1).unwrap();
        let e = gpu.compress_into(&views[0], shapes[0], Some(FILL as f32), &config, &mut small).unwrap_err();
        assert!(e.kind() == Kind::Usage && e.to_string().contains(&expected[0].len().to_string()), "{e}");
        assert!(stream.clone_dtoh(&small).unwrap().iter().all(|&b| b == 0));
        let mut few = stream.alloc_zeros::<f32>(n(0) - 1).unwrap();
        let e = gpu.decompress_into::<f32, _>(&expected[0], &mut few).unwrap_err();
        assert!(e.kind() == Kind::Usage && e.to_string().contains(&n(0).to_string()), "{e}");
        assert_eq!(gpu.compress(&views[0], &[5, 5], None, &config).unwrap_err().kind(), Kind::Usage);

        // Reserved memory is enough.
        if !bound.is_lossless() {
            let mut reserved = gpu.another(stream.context().new_stream().unwrap()).unwrap();
            reserved.reserve::<f32>(shapes[0], &config).unwrap();
            let (_, c) = counted(|| reserved.compress(&views[0], shapes[0], None, &config).unwrap());
            assert_eq!(c["allocs"], 0, "{bound}");
        }
    }
    boxes(&mut gpu);
    // Several streams at once, each in a thread of its own, behind the stream that made the values.
    let config = Config::new(Bound::rel(1e-4)).with_effort(Effort::Fast);
    let values: Vec<f32> = content("smooth", shapes[0], &mut Random(4)).iter().map(|&v| v as f32).collect();
    let expected = compress(&Field::new(&values, shapes[0]).unwrap(), &config).unwrap();
    let on_device = stream.clone_htod(&values).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let mut beside = gpu.another(stream.context().new_stream().unwrap()).unwrap();
            beside.follow(&stream).unwrap();
            let (on_device, config, expected) = (&on_device, &config, &expected);
            scope.spawn(move || {
                for _ in 0..2 {
                    assert!(beside.compress(on_device, &[7, 90, 121], None, config).unwrap() == *expected);
                }
                let (restored, _) = beside.decompress::<f32>(expected).unwrap();
                let wanted = decompress::<f32>(expected).unwrap().0;
                assert!(beside.stream().clone_dtoh(&restored).unwrap() == wanted);
            });
        }
    });
}

#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn faults() {
    let _ = std::fs::remove_file(std::env::var("CUEMU_REPORT").unwrap());
    lives([9, 33], PredictorChoice::Auto);
    lives([23, 24], PredictorChoice::Fitted);
}

/// Every call of a kind fails in turn.
fn lives(shape: [usize; 2], predictor: PredictorChoice) {
    let values: Vec<f32> = content("fill", &shape, &mut Random(8)).iter().map(|&v| v as f32).collect();
    let config = Config::new(Bound::rel(1e-3)).with_effort(Effort::Fast).with_predictor(predictor);
    let field = Field::new(&values, &shape).unwrap().with_fill(FILL as f32);
    let expected = compress(&field, &config).unwrap();
    // A whole life: open, compress, restore, drop.
    let life = || -> residuum::Result<Vec<u8>> {
        let mut gpu = Gpu::open(0)?;
        let refused = |_| residuum::Error::new(Kind::Device, "the test's own copy failed");
        let on_device = gpu.stream().clone_htod(&values).map_err(refused)?;
        let archive = gpu.compress(&on_device, &shape, Some(FILL as f32), &config)?;
        let (mut restored, _) = gpu.decompress::<f32>(&expected)?;
        assert_eq!(restored.len(), values.len());
        // The same on another stream, to a place on the device and back.
        let other = gpu.stream().context().new_stream().map_err(refused)?;
        let mut beside = gpu.another(other)?;
        beside.follow(gpu.stream())?;
        let mut room = gpu.stream().alloc_zeros::<u8>(2 * expected.len()).map_err(refused)?;
        let len = beside.compress_into(&on_device, &shape, Some(FILL as f32), &config, &mut room)?;
        beside.precede(gpu.stream())?;
        gpu.decompress_from::<f32, _, _>(&room.slice(..len), &mut restored)?;
        assert!(gpu.stream().clone_dtoh(&restored).map_err(refused)?.len() == values.len());
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
        for n in 1.. {
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
        let region = shape.map(|n| 0..n as u64);
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
