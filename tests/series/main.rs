//! Time series beside forecasts: the loop is closed, archives are portable, and what does not fit is refused.
//! The models here are a few lines long; the trained one is tested in `tests/weights.rs`.

mod codec;
mod command;
mod data;
#[path = "../parity/fixture.rs"]
#[allow(dead_code)]
mod fixture;
mod real;
mod vaeformer;

use data::{Seer, Series, archive, decoded, finish, open, worst};
use residuum::compress::Done;
use residuum::container::{Archive, Writer};
use residuum::forecast::{Forecaster, Frame, Key, Model, Needs, series};
use residuum::io::{Attribute, AttributeValue};
use residuum::{Bound, Config, Kind, PredictorChoice, Result, Values};
use std::io::Cursor;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

#[test]
fn every_value_is_within_its_bound_and_archives_are_smaller() {
    for rel in [1e-2, 1e-3, 1e-4] {
        let series = Series::new(24, 2);
        let config = Config::new(Bound::rel(rel)).with_verify(true);
        let with = archive(&series, &config, Some(Seer::default()), Some(12));
        let without = archive(&series, &config, None, Some(12));
        let restored = decoded(&with, Some(Seer::default())).unwrap();
        assert!(worst(&series, &restored, rel as f32) <= 1.0);
        assert!(with.len() < without.len(), "{rel}: {} bytes with forecasts, {} without", with.len(), without.len());
    }
}

#[test]
fn archives_do_not_depend_on_threads() {
    let series = Series::new(16, 2);
    let config = Config::new(Bound::rel(1e-3));
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| archive(&series, &config, Some(Seer::default()), Some(8)))
    };
    let one = on(1);
    assert!(one == on(2));
    assert!(one == on(3));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let alone = pool.install(|| decoded(&one, Some(Seer::default())).unwrap());
    assert!(alone == decoded(&one, Some(Seer::default())).unwrap());
}

#[test]
fn forecasts_that_differ_by_less_than_the_tolerance_give_the_same_bits() {
    let series = Series::new(6, 1);
    for rel in [1e-2, 1e-3] {
        let coded = archive(&series, &Config::new(Bound::rel(rel)), Some(Seer::default()), Some(6));
        let expected = decoded(&coded, Some(Seer::default())).unwrap();
        for seed in 1..=500 {
            let other = Seer { noise: 0.9, seed, ..Seer::default() };
            assert!(decoded(&coded, Some(other)).unwrap() == expected, "seed {seed}");
        }
    }
}

#[test]
fn forecasts_that_differ_by_more_are_noticed() {
    let series = Series::new(6, 1);
    let coded = archive(&series, &Config::new(Bound::rel(1e-3)), Some(Seer::default()), Some(6));
    for seed in 1..=1000 {
        let other = Seer { noise: 10.0, seed, ..Seer::default() };
        let e = decoded(&coded, Some(other)).map(|_| ()).unwrap_err();
        assert_eq!(e.kind(), Kind::Disagreement, "{e}");
        // The first step that has a forecast, its time, who made it and who reads it.
        let here = format!("here it is machine {seed};");
        for part in ["step 2 (2020-01-01 12:00:00 UTC)", "variable \"", "made by machine 0;", &here, "seer"] {
            assert!(e.to_string().contains(part), "{part}: {e}");
        }
    }
}

/// A model that has the same bits everywhere: the step and the versions are named all the same.
#[test]
fn forecasts_of_exact_models_that_differ_are_noticed() {
    let series = Series::new(9, 2);
    let exact = |seer: Seer| Seer { is_exact: true, ..seer }.forecasts();
    let mut source = series.source();
    let config = Config::new(Bound::rel(1e-3)).with_verify(true);
    let done = series::compress(&mut source, &config, &exact(Seer::default()), Some(9), &mut |_| ()).unwrap();
    let coded = finish(&mut source, &config, done);
    let read = |seer: Seer| {
        let mut a = Archive::open(Cursor::new(&coded[..])).unwrap();
        a.set_forecasts(exact(seer)).unwrap();
        data::all(&mut a)
    };
    assert!(worst(&series, &read(Seer::default()).unwrap(), 1e-3) <= 1.0);
    // In a part of what others may differ by, at one step.
    let e = read(Seer { noise: 0.5, seed: 1, wrong_step: Some(5), ..Seer::default() }).map(|_| ()).unwrap_err();
    assert_eq!(e.kind(), Kind::Disagreement, "{e}");
    let version = format!("made by residuum {}, candle ", env!("CARGO_PKG_VERSION"));
    let parts =
        ["step 5 (2020-01-02 06:00:00 UTC)", "variable \"", "on every device", &version, "here it is machine 1;"];
    for part in parts {
        assert!(e.to_string().contains(part), "{part}: {e}");
    }
}

/// A field that never changes and is kept exactly, as it is constant but for missing values: both ends take those for 0.
#[test]
fn missing_values_of_static_fields_are_the_same_to_both_ends() {
    let series = Series { land: true, ..Series::new(12, 1) };
    let seer = || {
        let mut seer = Seer::default();
        seer.needs.statics = vec![Key::surface("lsm")];
        seer
    };
    for (fill, relative) in [(1e20, true), (-999.0, true), (1e20, false)] {
        let mut source = series.source();
        let lsm = source.schema.variables.iter().position(|v| v.name() == "lsm").unwrap();
        let value = AttributeValue::F32(vec![fill]);
        source.schema.variables[lsm].attributes.push(Attribute { name: "_FillValue".into(), value });
        let Values::F32(land) = &mut source.values[lsm] else { panic!("f32") };
        land.iter_mut().enumerate().for_each(|(i, v)| *v = if i % 5 == 0 { fill } else { 1.0 });
        let config = Config::new(Bound::rel(1e-3)).with_verify(true);
        let config = if relative { config } else { config.with_bound("lsm", Bound::abs(0.1)) };
        let done = series::compress(&mut source, &config, &seer().forecasts(), Some(12), &mut |_| ()).unwrap();
        assert!(done.values().filter(|d| d.plan.forecast.is_some()).count() == 3);
        let coded = finish(&mut source, &config, done);
        assert!(worst(&series, &decoded(&coded, Some(seer())).unwrap(), 1e-3) <= 1.0, "{fill}");
    }
}

/// A model that changes its mind once it was asked so many times.
struct Fickle {
    seer: Seer,
    other: Seer,
    sound: usize,
}

impl Forecaster for Fickle {
    fn needs(&self) -> &Needs {
        &self.seer.needs
    }

    fn step(&self, history: &[Frame], forcings: Option<&Frame>, step: usize) -> Result<Frame> {
        let model = if self.seer.calls.load(Relaxed) < self.sound { &self.seer } else { &self.other };
        model.step(history, forcings, step)
    }

    fn tolerance(&self) -> f64 {
        self.seer.tolerance()
    }
}

/// Verification restores what was coded as its reader will, forecasts and all.
#[test]
fn an_archive_that_could_not_be_restored_is_not_made() {
    let series = Series::new(12, 2);
    let config = Config::new(Bound::rel(1e-3)).with_tile_bytes(4 * 2 * 24 * 32 * 4);
    let compressed = |sound: usize, verify: bool| {
        let (seer, other) = (Seer::default(), Seer { noise: 50.0, seed: 1, ..Seer::default() });
        let calls = seer.calls.clone();
        let fickle = Fickle { seer, other, sound };
        let forecasts = series::Forecasts { model: Model::Forecaster(Box::new(fickle)), ..Seer::default().forecasts() };
        let (config, mut source) = (config.clone().with_verify(verify), series.source());
        let done = series::compress(&mut source, &config, &forecasts, Some(12), &mut |_| ());
        (done.map(|done| finish(&mut source, &config, done)), calls.load(Relaxed))
    };
    let (coded, n_coding) = compressed(usize::MAX, false);
    assert!(decoded(&coded.unwrap(), Some(Seer::default())).is_ok());
    // One forecast more of each step that has one: ten.
    let (coded, n_verifying) = compressed(usize::MAX, true);
    assert_eq!((coded.is_ok(), n_verifying), (true, n_coding + 10));
    // The last tile is verified last; its forecasts are the last four.
    let e = compressed(n_verifying - 4, true).0.unwrap_err();
    assert_eq!(e.kind(), Kind::Disagreement, "{e}");
    for part in ["made again", "tile 2", "verification", "step 8 (2020-01-03 00:00:00 UTC)", "variable \""] {
        assert!(e.to_string().contains(part), "{part}: {e}");
    }
}

/// 200 steps in one interval, in tiles of 20: each tile goes on where the one before ended.
#[test]
fn nothing_drifts() {
    let series = Series::new(200, 1);
    for rel in [1e-2, 1e-3] {
        let config = Config::new(Bound::rel(rel)).with_tile_bytes(20 * 24 * 32 * 4);
        let coded = archive(&series, &config, Some(Seer::default()), Some(200));
        let restored = decoded(&coded, Some(Seer::default())).unwrap();
        assert!(worst(&series, &restored, rel as f32) <= 1.0);
        // The error of late steps is that of early ones.
        let t = (&series.variables["t"], &restored["t"]);
        let n = t.0.len() / 200;
        let rmse = |steps: Range<usize>| {
            let range = steps.start * n..steps.end * n;
            let sum: f64 = t.0[range.clone()].iter().zip(&t.1[range]).map(|(x, y)| f64::from(x - y).powi(2)).sum();
            (sum / (steps.len() * n) as f64).sqrt()
        };
        let (early, late) = (rmse(10..30), rmse(180..200));
        assert!(late < 1.05 * early && late > 0.9 * early, "{early} {late}");
        // So is their size.
        let mut a = Archive::open(Cursor::new(&coded)).unwrap();
        let t = a.find("t").unwrap();
        assert_eq!(a.variable(t).unwrap().plan.tiling.count(), 10);
        let mut size = |tiles: Range<u64>| tiles.map(|i| a.coded_tile(t, i).unwrap().len()).sum::<usize>() as f64;
        let (early, late) = (size(1..4), size(7..10));
        assert!(late < 1.05 * early, "{early} {late}");
    }
}

/// A step costs no more forecasts than its interval has steps, and less if it comes early.
#[test]
fn a_step_costs_its_interval() {
    let series = Series::new(48, 1);
    let config = Config::new(Bound::rel(1e-3)).with_tile_bytes(6 * 24 * 32 * 4);
    let coded = archive(&series, &config, Some(Seer::default()), Some(24));
    let whole = decoded(&coded, Some(Seer::default())).unwrap();
    for (step, n_tiles) in [(3u64, 1usize), (20, 4), (24, 1), (31, 2), (47, 4)] {
        let seer = Seer::default();
        let calls = seer.calls.clone();
        let mut a = open(&coded, Some(seer)).unwrap();
        let t = a.find("t").unwrap();
        let Values::F32(values) = a.read(t, &[step..step + 1, 0..1, 0..24, 0..32]).unwrap() else { panic!("f32") };
        assert!(values == whole["t"][step as usize * 768..][..768]);
        let most = 6 * n_tiles - 2;
        assert!(calls.load(Relaxed) <= most, "step {step}: {} forecasts", calls.load(Relaxed));
        // The other variable was decoded along.
        let before = calls.load(Relaxed);
        let sp = a.find("sp").unwrap();
        a.read(sp, &[step..step + 1, 0..24, 0..32]).unwrap();
        assert_eq!(calls.load(Relaxed), before);
    }
}

/// A forecast goes wrong at one step: what comes before is there, and so is everything from the next keyframe on.
#[test]
fn what_comes_before_and_after_is_salvaged() {
    let series = Series::new(32, 2);
    for tile_steps in [16usize, 8] {
        // So that no tile goes without forecasts because it is small.
        let config = Config::new(Bound::rel(1e-3)).with_predictor(PredictorChoice::Forecast);
        let config = config.with_tile_bytes(tile_steps as u64 * 2 * 24 * 32 * 4);
        let coded = archive(&series, &config, Some(Seer::default()), Some(16));
        let expected = decoded(&coded, Some(Seer::default())).unwrap();
        let wrong = Seer { noise: 50.0, seed: 3, wrong_step: Some(5), ..Seer::default() };
        let e = decoded(&coded, Some(wrong.clone())).map(|_| ()).unwrap_err();
        assert!(e.kind() == Kind::Disagreement && e.to_string().contains("step 5 (2020-01-02 06:00:00 UTC)"), "{e}");
        let mut a = Archive::recover(Cursor::new(&coded)).unwrap();
        a.set_forecasts(wrong.forecasts()).unwrap();
        for name in ["t", "sp"] {
            let variable = a.find(name).unwrap();
            let Values::F32(values) = a.read_all(variable).unwrap() else { panic!("f32") };
            let n = values.len() / 32;
            for (step, (got, expected)) in values.chunks(n).zip(expected[name].chunks(n)).enumerate() {
                let is_lost = (5..16).contains(&step);
                // NetCDF's own fill value stands for what is lost.
                let is_filled = got.iter().all(|v| *v == 9.969_21e36);
                assert!(if is_lost { is_filled } else { got == expected }, "{name} {step}");
            }
        }
        // Two variables; the first tile from its step 5 on, and those that go on from it.
        let damaged: Vec<(u64, u64)> = a.damaged().map(|(_, tile, whole)| (tile, whole)).collect();
        let one = if tile_steps == 16 { vec![(0, 5)] } else { vec![(0, 5), (1, 0)] };
        assert_eq!(damaged, [one.clone(), one].concat());
    }
}

#[test]
fn a_lost_tile_costs_its_interval() {
    let series = Series::new(32, 1);
    let config = Config::new(Bound::rel(1e-3));
    let mut coded = archive(&series, &config, Some(Seer::default()), Some(16));
    let expected = decoded(&coded, Some(Seer::default())).unwrap();
    // A byte of the first tile of `sp`, which `t` is forecast from.
    let mut a = Archive::open(Cursor::new(&coded)).unwrap();
    let sp = a.find("sp").unwrap();
    let tile = a.coded_tile(sp, 0).unwrap();
    let at = coded.windows(tile.len()).position(|w| w == tile).unwrap();
    coded[at + tile.len() / 2] ^= 1;
    assert_eq!(decoded(&coded, Some(Seer::default())).map(|_| ()).unwrap_err().kind(), Kind::Corrupt);
    let mut a = Archive::recover(Cursor::new(&coded)).unwrap();
    a.set_forecasts(Seer::default().forecasts()).unwrap();
    let t = a.find("t").unwrap();
    let Values::F32(values) = a.read_all(t).unwrap() else { panic!("f32") };
    let n = values.len() / 32;
    assert!(values[..2 * n] == expected["t"][..2 * n] && values[16 * n..] == expected["t"][16 * n..]);
}

/// The pipeline that forecasts were measured in before. (What is left here is white noise, which has no structure that it could miss.)
#[test]
fn forecasts_can_be_predictions() {
    let mut series = Series::new(24, 2);
    series.variables.get_mut("t").unwrap()[100..140].fill(f32::NAN);
    let config = Config::new(Bound::rel(1e-3)).with_verify(true);
    let without = archive(&series, &config, None, None);
    let config = config.with_predictor(PredictorChoice::Forecast);
    let bare = archive(&series, &config, Some(Seer::default()), Some(12));
    let restored = decoded(&bare, Some(Seer::default())).unwrap();
    assert!(restored["t"][100..140].iter().all(|v| v.is_nan()));
    assert!(worst(&series, &restored, 1e-3) <= 1.0);
    assert!(bare.len() < without.len(), "{} bytes, {} without", bare.len(), without.len());
    let e = decoded(&bare, Some(Seer { noise: 50.0, seed: 1, ..Seer::default() })).map(|_| ()).unwrap_err();
    assert_eq!(e.kind(), Kind::Disagreement, "{e}");
}

/// Advection needs neither weights nor a word when the archive is read, and its forecasts are the same whatever the number of threads.
#[test]
fn winds_carry_fields_along() {
    let series = Series::windy(24, 2);
    let with = |config: &Config, keyframe: Option<u64>| {
        let mut source = series.source();
        let forecasts = series::advection(&mut source).unwrap().unwrap();
        let done = series::compress(&mut source, config, &forecasts, keyframe, &mut |_| ()).unwrap();
        data::finish(&mut source, config, done)
    };
    for rel in [1e-2, 1e-3] {
        let config = Config::new(Bound::rel(rel)).with_verify(true);
        let (coded, without) = (with(&config, None), archive(&series, &config, None, None));
        let restored = data::restored(&coded);
        assert!(worst(&series, &restored, rel as f32) <= 1.0);
        assert!((coded.len() as f64) < 0.9 * without.len() as f64, "{} bytes, {} without", coded.len(), without.len());
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert!(one.install(|| with(&config, None)) == coded);
        assert!(one.install(|| data::restored(&coded)) == restored);
    }
    // In tiles and intervals.
    let config = Config::new(Bound::rel(1e-2)).with_tile_bytes(4 * 2 * 24 * 32 * 4);
    assert!(worst(&series, &data::restored(&with(&config, Some(8))), 1e-2) <= 1.0);
    assert!(series::advection(&mut Series::new(8, 1).source()).unwrap().is_none());
}

/// Where forecasts are of no use, they cost nothing.
#[test]
fn archives_are_never_larger() {
    let mut series = Series::new(20, 2);
    let mut noise = data::uniform(5);
    series.variables.get_mut("t").unwrap().iter_mut().for_each(|v| *v = 200.0 + noise() as f32);
    let n = series.variables["sp"].len();
    series.variables.insert("sp".into(), (0..n).map(|_| 9e4 + noise() as f32).collect());
    for rel in [1e-1, 1e-3] {
        let config = Config::new(Bound::rel(rel));
        let without = archive(&series, &config, None, None);
        for keyframe in [None, Some(4)] {
            let with = archive(&series, &config, Some(Seer::default()), keyframe);
            assert!(with.len() <= without.len(), "{} bytes with forecasts, {} without", with.len(), without.len());
        }
    }
}

#[test]
fn what_the_archive_needs_is_said() {
    let series = Series::new(8, 1);
    let coded = archive(&series, &Config::new(Bound::rel(1e-3)), Some(Seer::default()), Some(8));
    let e = decoded(&coded, None).map(|_| ()).unwrap_err();
    assert_eq!(e.kind(), Kind::Usage);
    assert!(e.to_string().contains("made with forecasts of seer") && e.to_string().contains("--forecast"), "{e}");
    let mut a = Archive::open(Cursor::new(&coded)).unwrap();
    assert_eq!(a.forecasts_needed().unwrap().model, "seer");
    let e = a.set_forecasts(Seer { id: 7, ..Seer::default() }.forecasts()).unwrap_err();
    assert!(e.to_string().contains("those given"), "{e}");
    let plain = archive(&series, &Config::new(Bound::rel(1e-3)), None, Some(8));
    let mut a = Archive::open(Cursor::new(&plain)).unwrap();
    assert!(a.set_forecasts(Seer::default().forecasts()).unwrap_err().to_string().contains("without forecasts"));
}

#[test]
fn what_does_not_fit_is_said() {
    let try_with = |series: &Series, keyframe: u64| {
        let config = Config::new(Bound::rel(1e-3));
        series::compress(&mut series.source(), &config, &Seer::default().forecasts(), Some(keyframe), &mut |_| ())
    };
    let mut hourly = Series::new(8, 1);
    hourly.hours = (0..8).map(f64::from).collect();
    let e = try_with(&hourly, 8).map(|_| ()).unwrap_err();
    assert!(e.to_string().contains("21600 s apart") && e.to_string().contains("3600 s apart"), "{e}");
    let e = try_with(&Series::new(8, 1), 2).map(|_| ()).unwrap_err();
    assert!(e.to_string().contains("intervals of 2"), "{e}");
    let mut nameless = Series::new(8, 1);
    let t = nameless.variables.remove("t").unwrap();
    nameless.variables.insert("mystery".into(), t);
    let e = try_with(&nameless, 8).map(|_| ()).unwrap_err();
    assert!(e.to_string().contains("t@850hPa") && e.to_string().contains("mystery"), "{e}");
    let mut noleap = Series::new(8, 1);
    noleap.calendar = "noleap";
    let e = try_with(&noleap, 8).map(|_| ()).unwrap_err();
    assert_eq!(e.kind(), Kind::Unsupported, "{e}");
}

#[test]
fn steps_after_a_gap_go_without() {
    let mut series = Series::new(16, 2);
    for (i, hour) in series.hours.iter_mut().enumerate() {
        *hour += if i >= 7 { 48.0 } else { 0.0 };
    }
    let config = Config::new(Bound::rel(1e-3));
    let coded = archive(&series, &config, Some(Seer::default()), Some(16));
    let restored = decoded(&coded, Some(Seer::default())).unwrap();
    assert!(worst(&series, &restored, 1e-3) <= 1.0);
    let mut a = Archive::open(Cursor::new(&coded)).unwrap();
    let t = a.find("t").unwrap();
    let tile = a.coded_tile(t, 0).unwrap();
    let plan = a.variable(t).unwrap().plan.clone();
    let report = residuum::decompress::inspect_tile(&tile, residuum::DType::F32, &plan.tiling.region(0)).unwrap();
    // Two levels; steps 2 to 6 and 9 to 15.
    assert!(report.predictor.contains("beside forecasts of 24 images"), "{}", report.predictor);
}

/// The series with values of `t` that are missing, and such that are far off.
fn with_special_values(mut series: Series) -> Series {
    for (i, v) in series.variables.get_mut("t").unwrap().iter_mut().enumerate() {
        if i % 768 < 40 {
            *v = f32::NAN;
        } else if i % 997 == 0 {
            *v = 1e30;
        }
    }
    series
}

#[test]
fn special_values_come_back() {
    let series = with_special_values(Series::new(24, 2));
    // All steps in a tile, and tiles of two steps: the forecasts of a tile's first steps look back on the tile before.
    let cases = [PredictorChoice::Auto, PredictorChoice::Forecast]
        .map(|predictor| [(predictor, 1 << 25, 1e-5), (predictor, 1 << 14, 1e-5), (predictor, 1 << 14, 0.0)]);
    for (predictor, tile_bytes, tolerance) in cases.concat() {
        let config = Config::new(Bound::abs(0.2)).with_bound("sp", Bound::abs(10.0)).with_verify(true);
        let config = config.with_predictor(predictor).with_tile_bytes(tile_bytes);
        let mut forecasts = Seer::default().forecasts();
        forecasts.tolerance = tolerance;
        let mut source = series.source();
        let done = series::compress(&mut source, &config, &forecasts, Some(24), &mut |_| ()).unwrap();
        let n_tiles: Vec<u64> = done.values().map(|d| d.plan.tiling.count()).collect();
        assert!(done.values().all(|d| d.plan.forecast.is_some()), "no forecasts");
        assert!(n_tiles.iter().all(|&n| (n > 1) == (tile_bytes < 1 << 20)), "{n_tiles:?}");
        let coded = finish(&mut source, &config, done);
        let restored = decoded(&coded, Some(Seer::default())).unwrap();
        for (name, values) in &series.variables {
            let bound = if name == "t" { 0.2 } else { 10.0 };
            for (x, y) in values.iter().zip(&restored[name]) {
                assert!(x.to_bits() == y.to_bits() || (x - y).abs() <= bound, "{name}: {x} {y}");
            }
        }
        // The last tile first, then the first of all, one of the middle.
        let mut a = open(&coded, Some(Seer::default())).unwrap();
        let t = a.find("t").unwrap();
        let all = a.read_all(t).unwrap();
        let mut b = open(&coded, Some(Seer::default())).unwrap();
        let n = b.variable(t).unwrap().plan.tiling.count();
        let per_tile = all.as_bytes().len() / n as usize;
        for tile in [n - 1, 0, n / 2] {
            let part = b.tile(t, tile).unwrap();
            assert!(part.1.as_bytes() == &all.as_bytes()[tile as usize * per_tile..][..per_tile], "tile {tile}");
        }
    }
}

/// The same beside advection, which is exact, and looks back on one step.
#[test]
fn special_values_come_back_beside_advection() {
    let series = with_special_values(Series::windy(13, 2));
    for tile_bytes in [1 << 25, 1 << 14] {
        let config = Config::new(Bound::abs(0.05)).with_tile_bytes(tile_bytes);
        let mut source = series.source();
        let forecasts = series::advection(&mut source).unwrap().unwrap();
        let mut done = series::compress(&mut source, &config, &forecasts, None, &mut |_| ()).unwrap();
        let n_beside =
            done.values_mut().map(|d| (0..d.tiles.len()).filter(|&k| d.tiles.get(k).unwrap()[0] == 3).count());
        let n_beside: Vec<usize> = n_beside.collect();
        assert!(tile_bytes > 1 << 20 || n_beside[0] > 1, "{n_beside:?}");
        let restored = decoded(&finish(&mut source, &config, done), None).unwrap();
        for (name, values) in &series.variables {
            for (x, y) in values.iter().zip(&restored[name]) {
                assert!(x.to_bits() == y.to_bits() || (x - y).abs() <= 0.05, "{name}: {x} {y}");
            }
        }
    }
}

/// Every byte of a tile damaged in turn, behind the checksums: an error or other values, never a panic.
#[test]
fn damaged_tiles_do_no_harm() {
    let series = Series::new(4, 1);
    let config = Config::new(Bound::rel(1e-2));
    let source = series.source();
    let forecasts = Seer::default().forecasts();
    let mut done = series::compress(&mut series.source(), &config, &forecasts, Some(4), &mut |_| ()).unwrap();
    let (&variable, Done { plan, tiles }) = done.iter_mut().find(|(_, d)| d.plan.forecast.is_some()).unwrap();
    let (plan, tile) = (plan.clone(), tiles.get(0).unwrap());
    assert_eq!(tile[0], 3, "coded beside forecasts");
    let schema = residuum::io::Source::schema(&source).clone();
    let whole = archive(&series, &config, Some(Seer::default()), Some(4));
    let mut a = Archive::open(Cursor::new(&whole)).unwrap();
    for k in (0..tile.len()).step_by(1 + tile.len() / 2000) {
        for flip in [1u8, 0x80, 0xff] {
            let mut damaged = tile.clone();
            damaged[k] ^= flip;
            let mut writer = Writer::new(vec![], &schema).unwrap();
            for i in 0..schema.variables.len() {
                let stored = a.variable(i).unwrap().plan.clone();
                writer.begin(if i == variable { &plan } else { &stored }).unwrap();
                if i == variable {
                    writer.tile(&damaged).unwrap();
                } else {
                    writer.tile(&a.coded_tile(i, 0).unwrap()).unwrap();
                }
            }
            let bytes = writer.finish().unwrap();
            let mut hostile = open(&bytes, Some(Seer::default())).unwrap();
            let n = series.variables[schema.variables[variable].name()].len();
            match hostile.read_all(variable) {
                Ok(Values::F32(v)) => assert_eq!(v.len(), n),
                Ok(_) => panic!("another type"),
                Err(_) => {}
            }
            let mut recovered = Archive::recover(Cursor::new(&bytes)).unwrap();
            recovered.set_forecasts(Seer::default().forecasts()).unwrap();
            match recovered.read_all(variable) {
                Ok(values) => assert_eq!(values.len(), n),
                Err(e) => assert_ne!(e.kind(), Kind::Corrupt, "{e}"),
            }
        }
    }
}

/// A schema that lies about the grid, and a coordinate that says it was coded beside forecasts, which reading it needs.
#[test]
fn archives_made_to_deceive_are_refused() {
    let series = Series::windy(6, 1);
    let config = Config::new(Bound::rel(1e-2)).with_predictor(PredictorChoice::Forecast);
    let mut source = series.source();
    let forecasts = series::advection(&mut source).unwrap().unwrap();
    let mut done = series::compress(&mut source, &config, &forecasts, None, &mut |_| ()).unwrap();
    let schema = residuum::io::Source::schema(&source).clone();
    let plain = archive(&series, &config, None, None);
    let mut a = Archive::open(Cursor::new(&plain)).unwrap();
    let mut write = |schema: &residuum::io::Schema, liar: Option<usize>| {
        let mut writer = Writer::new(vec![], schema).unwrap();
        for i in 0..schema.variables.len() {
            let mut plan = a.variable(i).unwrap().plan.clone();
            plan.tiling.shape.clone_from(&schema.variables[i].shape);
            let mut tile = a.coded_tile(i, 0).unwrap();
            if let Some(done) = done.get_mut(&i) {
                plan = done.plan.clone();
                tile = done.tiles.get(0).unwrap();
            }
            if liar == Some(i) {
                tile[0] = 3;
                plan.treatment = done.values().next().unwrap().plan.treatment.clone();
            }
            plan.tiling.len = plan.tiling.len.min(plan.tiling.shape.first().copied().unwrap_or(1)).max(1);
            writer.begin(&plan).unwrap();
            writer.tile(&tile).unwrap();
        }
        writer.finish().unwrap()
    };
    let read = |bytes: &[u8], name: &str| {
        let mut a = Archive::open(Cursor::new(bytes)).unwrap();
        let variable = a.find(name).unwrap();
        a.read_all(variable).map(|_| ())
    };
    read(&write(&schema, None), "t").unwrap();
    let lat = schema.variables.iter().position(|v| v.name() == "lat").unwrap();
    let e = read(&write(&schema, Some(lat)), "t").unwrap_err();
    assert!(e.to_string().contains("lat"), "{e}");
    assert!(read(&write(&schema, Some(lat)), "lat").is_err());
    let mut fewer = schema.clone();
    fewer.variables[lat].shape = vec![23];
    assert!(read(&write(&fewer, None), "t").is_err());
}

/// What a study of residuals looks at: as many codes as values, whose bits are those of the tile.
#[test]
fn codes_are_shown() {
    let series = Series::new(10, 2);
    for predictor in [PredictorChoice::Auto, PredictorChoice::Forecast] {
        let config = Config::new(Bound::rel(1e-3)).with_predictor(predictor);
        let coded = archive(&series, &config, Some(Seer::default()), Some(5));
        let mut archive = open(&coded, Some(Seer::default())).unwrap();
        let mut n_beside = 0;
        for variable in 0..archive.schema().variables.len() {
            let tiling = archive.variable(variable).unwrap().plan.tiling.clone();
            let dtype = archive.schema().variables[variable].dtype;
            // The last first: what comes before it in its interval is decoded for it.
            for t in (0..tiling.count()).rev() {
                let tile = archive.coded_tile(variable, t).unwrap();
                let codes = archive.codes(variable, t).unwrap();
                let report = residuum::decompress::inspect_tile(&tile, dtype, &tiling.region(t)).unwrap();
                let Some(codes) = codes else {
                    assert_eq!(report.method, "exact");
                    continue;
                };
                n_beside += usize::from(report.predictor.contains("forecast"));
                assert_eq!((codes.codes.len() as u64, codes.bits.len() as u64), (report.n_values, report.n_values));
                let sum: f64 = codes.bits.iter().map(|&b| f64::from(b)).sum();
                let expected = report.bytes.codes as f64 * 8.0;
                assert!((sum - expected).abs() < 1e-3 * expected, "{sum} {expected}");
                assert!(codes.codes.iter().any(|&c| c != 0));
            }
        }
        assert!(n_beside >= 2, "{n_beside}");
    }
}
