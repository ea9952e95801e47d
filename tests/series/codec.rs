//! Frames beside what a codec makes of a few integers: those are in the archive, and each step stands for itself.

use super::data::painter::Painter;
use super::data::{Series, all, archive, finish, worst};
use residuum::compress::Done;
use residuum::container::{Archive, Writer};
use residuum::forecast::series;
use residuum::io::Source;
use residuum::{Bound, Config, DType, Error, Kind, PredictorChoice, Result, Values};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::atomic::Ordering::Relaxed;

/// First byte of tiles with latents, and of others beside forecasts.
const WITH_LATENTS: u8 = 4;
const BESIDE_FORECASTS: u8 = 3;

fn painted(series: &Series, config: &Config, painter: Painter, keyframe: Option<u64>) -> Vec<u8> {
    let mut source = series.source();
    let done = series::compress(&mut source, config, &painter.forecasts(), keyframe, &mut |_| ()).unwrap();
    finish(&mut source, config, done)
}

fn open(archive: &[u8], painter: Painter) -> Result<Archive<Cursor<&[u8]>>> {
    let mut archive = Archive::open(Cursor::new(archive))?;
    archive.set_forecasts(painter.forecasts())?;
    Ok(archive)
}

fn restored(archive: &[u8], painter: Painter) -> Result<BTreeMap<String, Vec<f32>>> {
    all(&mut open(archive, painter)?)
}

/// The tiles of a variable.
fn tiles(archive: &[u8], name: &str) -> Vec<Vec<u8>> {
    let mut archive = Archive::open(Cursor::new(archive)).unwrap();
    let variable = archive.find(name).unwrap();
    let n = archive.variable(variable).unwrap().plan.tiling.count();
    (0..n).map(|t| archive.coded_tile(variable, t).unwrap()).collect()
}

#[test]
fn every_value_is_within_its_bound_and_archives_are_smaller() {
    // One frame, several in a tile, and tiles of single frames.
    for (steps, keyframe) in [(1, None), (12, None), (12, Some(1)), (12, Some(5))] {
        let series = Series::new(steps, 2);
        for rel in [1e-2, 1e-3] {
            let config = Config::new(Bound::rel(rel)).with_verify(true);
            let with = painted(&series, &config, Painter::default(), keyframe);
            let without = archive(&series, &config, None, None);
            assert!(worst(&series, &restored(&with, Painter::default()).unwrap(), rel as f32) <= 1.0);
            assert!(with.len() < without.len(), "{steps} steps, {rel}: {} with, {} without", with.len(), without.len());
            // The first of both variables has the latents.
            let first = |name: &str| tiles(&with, name).iter().map(|t| t[0]).collect::<Vec<u8>>();
            let n = keyframe.map_or(1, |k| steps.div_ceil(k as usize));
            assert_eq!((first("sp"), first("t")), (vec![WITH_LATENTS; n], vec![BESIDE_FORECASTS; n]));
        }
    }
}

#[test]
fn archives_do_not_depend_on_threads() {
    let series = Series::new(6, 2);
    let config = Config::new(Bound::rel(1e-3));
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let coded = painted(&series, &config, Painter::default(), Some(3));
            let values = restored(&coded, Painter::default()).unwrap();
            (coded, values)
        })
    };
    let one = on(1);
    assert!(one == on(2) && one == on(3));
}

/// A step costs the latents of its tile, no others.
#[test]
fn a_step_costs_its_tile() {
    let series = Series::new(12, 2);
    let config = Config::new(Bound::rel(1e-3));
    for keyframe in [1u64, 4] {
        let coded = painted(&series, &config, Painter::default(), Some(keyframe));
        let whole = restored(&coded, Painter::default()).unwrap();
        for step in [0u64, 7, 11] {
            let painter = Painter::default();
            let n_decoded = painter.decoded.clone();
            let mut a = open(&coded, painter).unwrap();
            let t = a.find("t").unwrap();
            let Values::F32(values) = a.read(t, &[step..step + 1, 0..2, 0..24, 0..32]).unwrap() else { panic!("f32") };
            assert!(values == whole["t"][step as usize * 1536..][..1536]);
            assert_eq!(n_decoded.load(Relaxed) as u64, keyframe);
            // Shared by the other variable.
            let sp = a.find("sp").unwrap();
            a.read(sp, &[step..step + 1, 0..24, 0..32]).unwrap();
            assert_eq!(n_decoded.load(Relaxed) as u64, keyframe);
        }
    }
}

/// The study's pipeline: the decoded field is the prediction.
#[test]
fn what_is_decoded_can_be_the_prediction() {
    let series = Series::new(4, 2);
    let config = Config::new(Bound::rel(1e-3)).with_predictor(PredictorChoice::Forecast).with_verify(true);
    let coded = painted(&series, &config, Painter::default(), None);
    assert!(worst(&series, &restored(&coded, Painter::default()).unwrap(), 1e-3) <= 1.0);
    let tile = &tiles(&coded, "t")[0];
    let report = residuum::decompress::inspect_tile(tile, DType::F32, &[0..4, 0..2, 0..24, 0..32]).unwrap();
    assert_eq!(report.predictor, "forecasts of 8 images");
    // Latents are shown: four integers and a length a step.
    let tile = &tiles(&coded, "sp")[0];
    let report = residuum::decompress::inspect_tile(tile, DType::F32, &[0..4, 0..24, 0..32]).unwrap();
    assert_eq!((report.bytes.latents, report.bytes.total()), (4 * 17, tile.len()));
}

#[test]
fn frames_that_differ_by_less_than_the_tolerance_give_the_same_bits() {
    let series = Series::new(4, 2);
    let painter = |noise, seed| Painter { tolerance: 1e-4, noise, seed, ..Painter::default() };
    let coded = painted(&series, &Config::new(Bound::rel(1e-3)), painter(0.0, 0), None);
    let expected = restored(&coded, painter(0.0, 0)).unwrap();
    for seed in 1..=100 {
        assert!(restored(&coded, painter(0.9, seed)).unwrap() == expected, "seed {seed}");
        let e = restored(&coded, painter(50.0, seed)).map(|_| ()).unwrap_err();
        assert!(e.kind() == Kind::Disagreement && e.to_string().contains("step 0 (2020-01-01"), "{e}");
    }
}

#[test]
fn archives_are_never_larger() {
    let mut series = Series::new(8, 2);
    let mut noise = super::data::uniform(5);
    for values in series.variables.values_mut() {
        values.iter_mut().for_each(|v| *v = 200.0 + noise() as f32);
    }
    for rel in [1e-1, 1e-3] {
        let config = Config::new(Bound::rel(rel));
        let without = archive(&series, &config, None, None);
        for keyframe in [None, Some(1)] {
            let with = painted(&series, &config, Painter::default(), keyframe);
            assert!(with.len() <= without.len(), "{} bytes with latents, {} without", with.len(), without.len());
        }
    }
}

/// Missing values are filled in for the codec; a step without any value of a field, or that is refused, has no latent.
#[test]
fn steps_that_the_codec_can_not_have_go_without() {
    let mut series = Series::new(6, 2);
    let n = 2 * 768;
    let t = series.variables.get_mut("t").unwrap();
    t[n + 10..n + 200].fill(f32::NAN);
    t[2 * n + 768..3 * n].fill(f32::NAN);
    t[4 * n..4 * n + 30].fill(1e30);
    let config = Config::new(Bound::abs(0.2)).with_bound("sp", Bound::abs(10.0)).with_verify(true);
    for predictor in [PredictorChoice::Auto, PredictorChoice::Forecast] {
        let coded = painted(&series, &config.clone().with_predictor(predictor), Painter::default(), None);
        let restored = restored(&coded, Painter::default()).unwrap();
        for (name, values) in &series.variables {
            let bound = if name == "t" { 0.2 } else { 10.0 };
            for (x, y) in values.iter().zip(&restored[name]) {
                assert!(x.to_bits() == y.to_bits() || (x - y).abs() <= bound, "{name}: {x} {y}");
            }
        }
        let tile = &tiles(&coded, "t")[0];
        let report = residuum::decompress::inspect_tile(tile, DType::F32, &[0..6, 0..2, 0..24, 0..32]).unwrap();
        assert!(report.predictor.contains("forecasts of 8 images"), "{}", report.predictor);
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let config = Config::new(Bound::rel(1e-3));
    let refused = |series: &Series| -> Error {
        series::compress(&mut series.source(), &config, &Painter::default().forecasts(), None, &mut |_| ())
            .map(|_| ())
            .unwrap_err()
    };
    let e = refused(&Series::new(3, 1));
    assert!(e.kind() == Kind::Input && e.to_string().contains("t@500hPa"), "{e}");
    let mut far = Series::new(3, 2);
    far.variables.get_mut("sp").unwrap().fill(1e12);
    let e = refused(&far);
    let said = "the codec refuses every step: step 0 (2020-01-01 00:00:00 UTC): nobody paints such weather";
    assert_eq!(e.to_string(), said);
    // Days of a calendar of its own are no trouble: a frame is a frame.
    let mut noleap = Series::new(3, 2);
    noleap.calendar = "noleap";
    let coded = painted(&noleap, &config, Painter::default(), None);
    assert!(worst(&noleap, &restored(&coded, Painter::default()).unwrap(), 1e-3) <= 1.0);
    // Other weights, or none.
    let e = restored(&coded, Painter { id: 7, ..Painter::default() }).map(|_| ()).unwrap_err();
    assert!(e.kind() == Kind::Usage && e.to_string().contains("those given, of painter"), "{e}");
    let e = all(&mut Archive::open(Cursor::new(&coded[..])).unwrap()).map(|_| ()).unwrap_err();
    assert!(e.kind() == Kind::Usage && e.to_string().contains("made with forecasts of painter"), "{e}");
}

/// The archive of `series` with another tile of `sp`, behind sound checksums.
fn with_tile(series: &Series, coded: &[u8], done: &Done, variable: usize, tile: &[u8]) -> Vec<u8> {
    let schema = series.source().schema().clone();
    let mut a = Archive::open(Cursor::new(coded)).unwrap();
    let mut writer = Writer::new(vec![], &schema).unwrap();
    for i in 0..schema.variables.len() {
        let stored = a.variable(i).unwrap().plan.clone();
        writer.begin(if i == variable { &done.plan } else { &stored }).unwrap();
        let whole = a.coded_tile(i, 0).unwrap();
        writer.tile(if i == variable { tile } else { &whole }).unwrap();
    }
    writer.finish().unwrap()
}

/// Every bit of the latents turned, and every length and cut of them: an error, or what any other latent would give; never a panic.
#[test]
fn damaged_latents_do_no_harm() {
    let series = Series::new(3, 2);
    let config = Config::new(Bound::rel(1e-2));
    let forecasts = Painter::default().forecasts();
    let mut done = series::compress(&mut series.source(), &config, &forecasts, None, &mut |_| ()).unwrap();
    let coded = painted(&series, &config, Painter::default(), None);
    let expected = restored(&coded, Painter::default()).unwrap();
    let schema = series.source().schema().clone();
    let sp = schema.variables.iter().position(|v| v.name() == "sp").unwrap();
    let done = done.get_mut(&sp).unwrap();
    let tile = done.tiles.get(0).unwrap();
    assert_eq!(tile[0], WITH_LATENTS);
    let n_latents = 3 * 17;
    let mut damaged: Vec<Vec<u8>> = (8..(1 + n_latents) * 8)
        .map(|bit| {
            let mut bad = tile.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad
        })
        .collect();
    damaged.extend((1..=n_latents + 30).map(|cut| tile[..cut].to_vec()));
    // A length beyond all memory, no latent at all, and a latent for nobody.
    damaged.push([&[WITH_LATENTS][..], &[0xff; 9], &[1], &tile[1..]].concat());
    damaged.push([&[WITH_LATENTS, 0, 0, 0][..], &tile[1 + n_latents..]].concat());
    damaged.push([&[BESIDE_FORECASTS][..], &tile[1 + n_latents..]].concat());
    damaged.push([&[WITH_LATENTS][..], &tile[1..=n_latents], &tile[..]].concat());
    let mut kinds = BTreeMap::new();
    for bad in &damaged {
        let bytes = with_tile(&series, &coded, done, sp, bad);
        match restored(&bytes, Painter::default()) {
            // Bits of the seed beyond those of the weather's name.
            Ok(values) => assert!(values == expected),
            Err(e) => {
                assert!(matches!(e.kind(), Kind::Corrupt | Kind::Disagreement), "{e}");
                *kinds.entry(format!("{:?}", e.kind())).or_insert(0) += 1;
            }
        }
        let mut recovered = Archive::recover(Cursor::new(&bytes[..])).unwrap();
        recovered.set_forecasts(Painter::default().forecasts()).unwrap();
        for (name, n) in [("sp", 3 * 768), ("t", 3 * 1536)] {
            let variable = recovered.find(name).unwrap();
            assert_eq!(recovered.read_all(variable).unwrap().len(), n, "{name}");
        }
    }
    println!("{} damaged tiles: {kinds:?}", damaged.len());
    // Bits of a latent are noticed by the digest, its lengths by the codec.
    assert!(kinds["Disagreement"] > 300 && kinds["Corrupt"] > 60);
    // What a latent alone makes worthless is said with its step.
    let mut short = tile.clone();
    short[1 + 17] = 15;
    short.remove(1 + 18);
    let e = restored(&with_tile(&series, &coded, done, sp, &short), Painter::default()).map(|_| ()).unwrap_err();
    assert!(e.to_string().contains("step 1 (2020-01-01 06:00:00 UTC): a latent is no four integers"), "{e}");
}

/// The variable that holds the latents is lost, and with it what was coded beside them: up to the next tile.
#[test]
fn lost_latents_cost_their_tile() {
    let series = Series::new(6, 2);
    let mut coded = painted(&series, &Config::new(Bound::rel(1e-3)), Painter::default(), Some(2));
    let expected = restored(&coded, Painter::default()).unwrap();
    let tile = &tiles(&coded, "sp")[1];
    let at = coded.windows(tile.len()).position(|w| w == tile).unwrap();
    coded[at + tile.len() / 2] ^= 1;
    assert_eq!(restored(&coded, Painter::default()).map(|_| ()).unwrap_err().kind(), Kind::Corrupt);
    let mut a = Archive::recover(Cursor::new(&coded[..])).unwrap();
    a.set_forecasts(Painter::default().forecasts()).unwrap();
    for name in ["sp", "t"] {
        let variable = a.find(name).unwrap();
        let Values::F32(values) = a.read_all(variable).unwrap() else { panic!("f32") };
        let n = values.len() / 6;
        assert!(values[..2 * n] == expected[name][..2 * n] && values[4 * n..] == expected[name][4 * n..], "{name}");
        assert!(values[2 * n..4 * n].iter().all(|v| *v == 9.969_21e36), "{name}");
    }
    assert_eq!(a.damaged().map(|(_, tile, whole)| (tile, whole)).collect::<Vec<_>>(), [(1, 0), (1, 0)]);
}

#[test]
fn codes_are_shown() {
    let series = Series::new(4, 2);
    let config = Config::new(Bound::rel(1e-3));
    let coded = painted(&series, &config, Painter::default(), Some(2));
    let mut a = open(&coded, Painter::default()).unwrap();
    for name in ["sp", "t"] {
        let variable = a.find(name).unwrap();
        let codes = a.codes(variable, 1).unwrap().unwrap();
        let tile = a.coded_tile(variable, 1).unwrap();
        let region = a.variable(variable).unwrap().plan.tiling.region(1);
        let report = residuum::decompress::inspect_tile(&tile, DType::F32, &region).unwrap();
        let sum: f64 = codes.bits.iter().map(|&b| f64::from(b)).sum();
        assert!((sum - report.bytes.codes as f64 * 8.0).abs() < 1e-3 * sum, "{name}");
    }
}
