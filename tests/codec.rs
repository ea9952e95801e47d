//! Every registered predictor, every bound, every hard input: the bound holds, damage is noticed, threads change nothing.
//!
//! The check of the bound is written out here once more; it shares nothing with the crate.

mod registry;

use registry::{BOUNDS, CONTENTS, ENTRIES, FILL, Random, SHAPES, content};
use residuum::{Bound, Config, Error, Field, Kind, PredictorChoice, bound::Mode, compress, decompress};

/// A float type under test.
trait TestFloat: residuum::predict::fitted::Rows {
    const NAME: &'static str;
}
impl TestFloat for f32 {
    const NAME: &'static str = "f32";
}
impl TestFloat for f64 {
    const NAME: &'static str = "f64";
}

fn check<T: TestFloat>(original: &[T], restored: &[T], bound: Bound, fill: Option<T>, what: &str) {
    assert_eq!(original.len(), restored.len(), "{what}: length");
    let is_fill = |v: T| fill.is_some_and(|f| f.to_bits() == v.to_bits());
    let finite: Vec<f64> =
        original.iter().filter(|v| !is_fill(**v)).map(|v| v.to_f64()).filter(|v| v.is_finite()).collect();
    let (lo, hi) = finite.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    let range = if finite.is_empty() { 0.0 } else { hi - lo };
    let mut squares = 0.0;
    for (i, (&x, &y)) in original.iter().zip(restored).enumerate() {
        let (v, w) = (x.to_f64(), y.to_f64());
        let is_special = |v: T| {
            let number = v.to_f64();
            !number.is_finite() || is_fill(v) || (number == 0.0 && number.is_sign_negative())
        };
        let special = is_special(x);
        assert!(special || !is_special(y), "{what}: value {i}, {x:?} became {y:?}, which is special");
        let allowed = match bound.mode {
            _ if special || bound.is_lossless() => {
                assert_eq!(x.to_bits(), y.to_bits(), "{what}: value {i}, {x:?} became {y:?}");
                continue;
            }
            Mode::Abs => bound.value,
            Mode::Rel => bound.value * range,
            Mode::PwRel => bound.value * v.abs(),
            Mode::Psnr => {
                squares += (w - v) * (w - v);
                continue;
            }
        };
        assert!(
            (w - v).abs() <= allowed,
            "{what}: value {i}, {x:?} became {y:?}, off by {:e}, allowed {allowed:e}",
            (w - v).abs()
        );
    }
    assert!(squares.is_finite(), "{what}: the errors have no mean square");
    if squares > 0.0 {
        let psnr = 20.0 * (range / (squares / finite.len() as f64).sqrt()).log10();
        assert!(psnr >= bound.value, "{what}: {psnr} dB");
    }
}

fn round_trip<T: TestFloat>(values: &[f64], shape: &[usize], config: &Config, with_fill: bool, what: &str) {
    let original: Vec<T> = values.iter().map(|&v| T::from_f64(v)).collect();
    let fill = with_fill.then(|| T::from_f64(FILL));
    let field = Field::new(&original, shape).unwrap();
    let field = if let Some(f) = fill { field.with_fill(f) } else { field };
    let archive = match compress(&field, config) {
        Ok(archive) => archive,
        Err(e) => panic!("{what} {}: {e}", T::NAME),
    };
    let (restored, got) = decompress::<T>(&archive).unwrap_or_else(|e| panic!("{what} {}: {e}", T::NAME));
    assert_eq!(got, shape, "{what}");
    check(&original, &restored, config.bound, fill, &format!("{what} {}", T::NAME));
    let raw = std::mem::size_of_val(&original[..]);
    assert!(archive.len() <= raw + 512, "{what} {}: {} bytes from {raw}", T::NAME, archive.len());
}

#[test]
fn bounds_hold_for_every_entry_and_hard_input() {
    let mut random = Random(1);
    for entry in ENTRIES {
        for shape in SHAPES {
            for kind in CONTENTS {
                let values = content(kind, shape, &mut random);
                for (bound, name) in BOUNDS {
                    let config = Config::new(*bound).with_predictor(entry.predictor).with_verify(true);
                    let what = format!("{} {kind} {shape:?} {name}", entry.name);
                    let with_fill = kind.contains("fill");
                    round_trip::<f32>(&values, shape, &config, with_fill, &what);
                    round_trip::<f64>(&values, shape, &config, with_fill, &what);
                }
            }
        }
    }
}

/// The 10,000 generated fields: any type, shape, content, bound and tile size, one after the other from a seed.
#[test]
fn ten_thousand_generated_fields_keep_their_bounds() {
    const FIELDS: u64 = 10_000;
    for seed in 0..FIELDS {
        let mut r = Random(seed);
        let n_axes = 1 + r.below(5);
        let longest = [2000, 60, 16, 9, 6][n_axes - 1];
        let shape: Vec<usize> = (0..n_axes).map(|_| if r.below(60) == 0 { 0 } else { 1 + r.below(longest) }).collect();
        let mut values = content(CONTENTS[r.below(CONTENTS.len())], &shape, &mut r);
        if r.below(3) == 0 {
            // A patch of something else.
            let other = content(CONTENTS[r.below(CONTENTS.len())], &shape, &mut r);
            let (a, b) = (r.below(values.len() + 1), r.below(values.len() + 1));
            let range = a.min(b)..a.max(b);
            values[range.clone()].copy_from_slice(&other[range]);
        }
        let magnitude = 10f64.powf(-r.unit() * 8.0);
        let bound = match r.below(6) {
            0 => Bound::abs(magnitude * 100.0),
            1 | 2 => Bound::rel(magnitude * 0.5),
            3 => Bound::pw_rel(magnitude * 0.5),
            4 => Bound::psnr(20.0 + r.unit() * 120.0),
            _ => Bound::LOSSLESS,
        };
        let predictor = ENTRIES[r.below(ENTRIES.len())].predictor;
        let tile_bytes = if r.below(4) == 0 { 1 } else { 1 << 25 };
        let config = Config::new(bound).with_predictor(predictor).with_tile_bytes(tile_bytes);
        let what = format!("seed {seed} {shape:?} {bound}");
        if r.below(2) == 0 {
            round_trip::<f32>(&values, &shape, &config, true, &what);
        } else {
            round_trip::<f64>(&values, &shape, &config, true, &what);
        }
    }
}

/// Tiles of several streams, each of more rows than are done at once, with values that are stored apart.
#[test]
fn bounds_hold_for_several_streams_with_marked_values() {
    let mut random = Random(11);
    let config = Config::new(Bound::rel(1e-3)).with_predictor(PredictorChoice::Fitted).with_verify(true);
    for shape in [&[70, 64, 64][..], &[4, 300, 256], &[3, 9000, 11]] {
        for kind in ["nan patch", "fill", "infinities", "spikes", "smooth"] {
            let values = content(kind, shape, &mut random);
            let (what, with_fill) = (format!("{kind} {shape:?}"), kind.contains("fill"));
            round_trip::<f32>(&values, shape, &config, with_fill, &what);
            round_trip::<f64>(&values, shape, &config, with_fill, &what);
        }
    }
}

/// Small archives that between them use every stage.
fn small_archives() -> Vec<(String, Vec<u8>)> {
    let mut random = Random(7);
    let mut archives = Vec::new();
    for entry in ENTRIES {
        for (bound, name) in BOUNDS {
            for kind in ["smooth", "nan patch", "spikes", "mixed signs"] {
                let shape = [5, 12];
                let values: Vec<f32> = content(kind, &shape, &mut random).iter().map(|&v| v as f32).collect();
                let config = Config::new(*bound).with_predictor(entry.predictor);
                let archive = compress(&Field::new(&values, &shape).unwrap(), &config).unwrap();
                archives.push((format!("{} {name} {kind}", entry.name), archive));
            }
        }
    }
    archives
}

fn is_clean(e: &Error) -> bool {
    matches!(e.kind(), Kind::Corrupt | Kind::Input | Kind::Unsupported)
}

/// A damaged archive gives a clean error or exactly what the whole one gives.
fn must_be_noticed(damaged: &[u8], whole: &[u32], what: &str) {
    match decompress::<f32>(damaged) {
        Ok((values, _)) => {
            let bits: Vec<u32> = values.iter().map(|v| v.to_bits()).collect();
            assert_eq!(bits, whole, "{what}: other values without an error");
        }
        Err(e) => assert!(is_clean(&e), "{what}: {:?} {e}", e.kind()),
    }
}

#[test]
fn every_bit_flip_and_truncation_is_noticed() {
    for (name, archive) in small_archives() {
        let whole: Vec<u32> = decompress::<f32>(&archive).unwrap().0.iter().map(|v| v.to_bits()).collect();
        for len in 0..archive.len() {
            must_be_noticed(&archive[..len], &whole, &format!("{name} cut to {len}"));
        }
        let mut damaged = archive.clone();
        for bit in 0..archive.len() * 8 {
            damaged[bit / 8] ^= 1 << (bit % 8);
            must_be_noticed(&damaged, &whole, &format!("{name} bit {bit}"));
            damaged[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// Behind the checksums: a tile whose bytes were made to deceive may decode to anything, but never panics or hangs.
#[test]
fn hostile_tiles_do_not_panic() {
    let mut random = Random(3);
    for entry in ENTRIES {
        for (bound, _) in BOUNDS {
            for shape in [&[5usize, 12][..], &[300], &[3, 4, 5, 6, 7], &[24, 25]] {
                let region: Vec<_> = shape.iter().map(|&n| 0..n as u64).collect();
                let kind = ["smooth", "nan patch", "spikes", "mixed signs", "rough below"][random.below(5)];
                let values: Vec<f32> = content(kind, shape, &mut random).iter().map(|&v| v as f32).collect();
                let config = Config::new(*bound).with_predictor(entry.predictor);
                let stats = residuum::compress::statistics(&values, None);
                let treatment =
                    residuum::compress::plan_treatment(*bound, Some(stats), residuum::DType::F32, None).unwrap();
                let tile = residuum::compress::compress_tile(&values, &region, &treatment, &config).unwrap();
                let restore = |bytes: &[u8]| {
                    let _ = residuum::decompress::decompress_tile(bytes, residuum::DType::F32, &treatment, &region);
                };
                for bit in 0..tile.len() * 8 {
                    let mut damaged = tile.clone();
                    damaged[bit / 8] ^= 1 << (bit % 8);
                    restore(&damaged);
                }
                for len in 0..tile.len() {
                    restore(&tile[..len]);
                }
                for _ in 0..200 {
                    let mut damaged = tile.clone();
                    for _ in 0..1 + random.below(8) {
                        let at = random.below(damaged.len());
                        damaged[at] = random.next() as u8;
                    }
                    restore(&damaged);
                }
            }
        }
    }
}

/// Found by fuzzing: a box without values is no reason to panic.
#[test]
fn tiles_without_values_restore_to_nothing() {
    let treatment = residuum::compress::plan_treatment(Bound::abs(1.0), None, residuum::DType::F32, None).unwrap();
    let tile = [1, 0, 0, 0, 0, 205, 204, 204, 0, 2, 2, 0, 61, 26, 0, 0, 0, 0, 0, 0];
    let values = residuum::decompress::decompress_tile(&tile, residuum::DType::F32, &treatment, &[0..2, 0..0]).unwrap();
    assert!(values.is_empty());
}

#[test]
fn archives_do_not_depend_on_the_number_of_threads() {
    let shape = [9, 120, 251];
    let mut random = Random(11);
    for kind in ["smooth", "nan patch", "noise", "rough below"] {
        let values: Vec<f32> = content(kind, &shape, &mut random).iter().map(|&v| v as f32).collect();
        let field = Field::new(&values, &shape).unwrap();
        for entry in ENTRIES {
            for bound in [Bound::rel(1e-2), Bound::rel(1e-4), Bound::pw_rel(1e-3)] {
                let config = Config::new(bound).with_predictor(entry.predictor);
                let with = |n: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
                    pool.install(|| compress(&field, &config).unwrap())
                };
                let one = with(1);
                assert!(one == with(2) && one == with(7), "{} {kind} {bound}", entry.name);
                let restored = |n: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
                    let values = pool.install(|| decompress::<f32>(&one).unwrap().0);
                    values.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                };
                assert!(restored(1) == restored(3), "{} {kind} {bound}", entry.name);
            }
        }
    }
}

#[test]
fn bounds_that_mean_nothing_are_refused() {
    let values = [1.0f32, 2.0];
    let field = Field::new(&values, &[2]).unwrap();
    let refused =
        [Bound::abs(-1.0), Bound::abs(f64::NAN), Bound::abs(f64::INFINITY), Bound::abs(1e-60), Bound::abs(1e60)];
    for bound in refused.into_iter().chain([Bound::rel(1.0), Bound::pw_rel(-0.1), Bound::psnr(0.0)]) {
        let e = compress(&field, &Config::new(bound)).unwrap_err();
        assert_eq!(e.kind(), Kind::Usage, "{bound}: {e}");
    }
    assert!(compress(&field, &Config::new(Bound::abs(1e-45))).is_ok());
    for text in ["abs", "abs:", "abs:x", "relative:1", "rel:2", "psnr:-1", ""] {
        assert!(text.parse::<Bound>().is_err(), "{text}");
    }
    for bound in [Bound::abs(0.01), Bound::rel(1e-7), Bound::pw_rel(1e-3), Bound::psnr(80.0), Bound::LOSSLESS] {
        assert_eq!(bound.to_string().parse::<Bound>().unwrap(), bound);
    }
}

/// Texts made as they are asked for.
struct Texts {
    schema: residuum::io::Schema,
    bytes: usize,
}

impl residuum::io::Source for Texts {
    fn schema(&self) -> &residuum::io::Schema {
        &self.schema
    }

    fn read(&mut self, _: usize, region: &[std::ops::Range<u64>]) -> residuum::Result<residuum::Values> {
        let text = |i: u64| char::from(b'a' + (i % 26) as u8).to_string().repeat(self.bytes);
        Ok(residuum::Values::Text(region[0].clone().map(text).collect()))
    }
}

#[test]
fn tiles_of_text_are_cut_by_bytes() {
    let compressed = |n: u64, bytes: usize| {
        let schema = residuum::io::Schema::single(residuum::io::Format::Zarr3, "s", residuum::DType::Text, &[n]);
        let config = Config::new(Bound::LOSSLESS);
        residuum::compress::compress_source(&mut Texts { schema, bytes }, Vec::new(), &config, &mut |_| ())
    };
    // More than a reader takes at once.
    let archive = compressed(300, 1 << 20).unwrap();
    let mut archive = residuum::Archive::open(std::io::Cursor::new(archive)).unwrap();
    let n_tiles = archive.variable(0).unwrap().n_tiles();
    assert!(n_tiles >= 5, "{n_tiles}");
    for t in 0..n_tiles {
        let (region, values) = archive.tile(0, t).unwrap();
        let residuum::Values::Text(texts) = values else { panic!("text") };
        for (i, text) in region[0].clone().zip(texts) {
            assert!(text.len() == 1 << 20 && text.as_bytes()[0] == b'a' + (i % 26) as u8);
        }
    }
    let e = compressed(1, 1 << 28).unwrap_err();
    assert!(e.kind() == Kind::Unsupported && e.to_string().contains("variable \"s\""), "{e}");
}
