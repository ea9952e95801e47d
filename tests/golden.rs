//! Golden archives: written once by the version that introduced a format, read forever.
//!
//! `tests/golden/vN/NAME.rsd` with the values expected from it in `NAME.bits` (little-endian bytes of each variable, one after the other,
//! behind zstd). New files, for a new version only: `RESIDUUM_WRITE_GOLDEN=1 cargo test --release --test golden`; files that
//! are there are never written again.

mod registry;
#[cfg(feature = "forecast")]
#[path = "series/data.rs"]
#[allow(dead_code)]
mod series;

use registry::{BOUNDS, ENTRIES, FILL, Random, content};
use residuum::compress::compress_source;
use residuum::io::{Attribute, AttributeValue, Dimension, Format, Group, Schema, Source, Variable};
use residuum::{Archive, Bound, Config, DType, Field, PredictorChoice, Result, Values, compress};
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Its fields hang on the system's sine, which the tolerance covers.
#[cfg(feature = "forecast")]
fn painter() -> series::painter::Painter {
    series::painter::Painter { tolerance: 1e-5, ..Default::default() }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// With the double of a codec, which archives with latents need.
fn all_bits(archive: &[u8]) -> Vec<u8> {
    let mut archive = Archive::open(Cursor::new(archive)).unwrap();
    #[cfg(feature = "forecast")]
    if archive.forecasts_needed().is_some_and(|f| f.model == "painter") {
        archive.set_forecasts(painter().forecasts()).unwrap();
    }
    let mut bits = Vec::new();
    for i in 0..archive.schema().variables.len() {
        match archive.read_all(i).unwrap() {
            Values::Text(texts) => bits.extend(texts.join("\0").into_bytes()),
            values => bits.extend_from_slice(values.as_bytes()),
        }
    }
    bits
}

#[test]
#[cfg(target_endian = "little")]
fn golden_archives_read_as_ever() {
    let mut n = 0;
    for version in std::fs::read_dir(folder()).unwrap() {
        for file in std::fs::read_dir(version.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let needs_models = path.to_string_lossy().contains("beside-");
            if path.extension().is_none_or(|e| e != "rsd") || needs_models && !cfg!(feature = "forecast") {
                continue;
            }
            let expected = zstd::decode_all(&*std::fs::read(path.with_extension("bits")).unwrap()).unwrap();
            let got = all_bits(&std::fs::read(&path).unwrap());
            assert!(got == expected, "{} reads differently", path.display());
            n += 1;
        }
    }
    assert!(n >= 66, "only {n} golden archives");
}

/// All that a schema can say, in the manner of a NetCDF-4 file; no NaN, which is not equal to itself.
fn whole_schema() -> Schema {
    let attribute = |name: &str, value| Attribute { name: name.into(), value };
    let text = |name: &str, value: &str| attribute(name, AttributeValue::Text(value.into()));
    let lens = [4u64, 6, 8, 5, 3];
    let dimension = |path: &str, i: usize, unlimited| Dimension { path: path.into(), len: lens[i], unlimited };
    let variable = |path: &str, dtype, dimensions: &[u32], attributes, chunks: Option<&[u64]>| Variable {
        path: path.into(),
        dtype,
        shape: dimensions.iter().map(|&d| lens[d as usize]).collect(),
        dimensions: dimensions.to_vec(),
        attributes,
        chunks: chunks.map(<[u64]>::to_vec),
    };
    let globals = vec![
        text("title", "ä whole schema"),
        text("empty", ""),
        attribute("texts", AttributeValue::Texts(vec!["one".into(), "".into(), "三".into()])),
        attribute("f32", AttributeValue::F32(vec![0.1, f32::INFINITY])),
        attribute("f64", AttributeValue::F64(vec![-0.1])),
        attribute("i8", AttributeValue::I8(vec![i8::MIN, 1])),
        attribute("i16", AttributeValue::I16(vec![i16::MIN, 1])),
        attribute("i32", AttributeValue::I32(vec![i32::MIN, 1])),
        attribute("i64", AttributeValue::I64(vec![i64::MIN, 1])),
        attribute("u8", AttributeValue::U8(vec![u8::MAX, 1])),
        attribute("u16", AttributeValue::U16(vec![u16::MAX, 1])),
        attribute("u32", AttributeValue::U32(vec![u32::MAX, 1])),
        attribute("u64", AttributeValue::U64(vec![u64::MAX, 1])),
        attribute("json", AttributeValue::Json("{\"a\":[1,null]}".into())),
        attribute("none", AttributeValue::I32(vec![])),
    ];
    let fill = |value: f32| vec![attribute("_FillValue", AttributeValue::F32(vec![value])), text("units", "K")];
    let group = |path: &str, attributes| Group { path: path.into(), attributes };
    let mut variables = vec![
        variable("/time", DType::F64, &[0], vec![text("units", "days since 2000-01-01")], Some(&[1])),
        variable("/lat", DType::F32, &[1], vec![], None),
        variable("/t", DType::F32, &[0, 1, 2], fill(-999.0), Some(&[1, 6, 8])),
        variable("/q", DType::F64, &[0, 1, 2], vec![text("coordinates", "lat")], None),
        variable("/forecast/w", DType::F32, &[0, 1, 2], vec![], None),
        variable("/forecast/surface/p", DType::F32, &[1, 4], vec![], None),
        variable("/name", DType::Text, &[3], vec![], None),
        variable("/letters", DType::Char, &[3, 1], vec![], None),
        variable("/crs", DType::I32, &[], vec![text("grid_mapping_name", "latitude_longitude")], None),
    ];
    use DType::{I8, I16, I32, I64, U8, U16, U32, U64};
    for dtype in [I8, I16, I32, I64, U8, U16, U32, U64] {
        variables.push(variable(&format!("/numbers_{dtype}"), dtype, &[1, 2], vec![], None));
    }
    Schema {
        format: Format::NetCdf4,
        groups: vec![group("/", globals), group("/forecast", vec![]), group("/forecast/surface", vec![text("a", "b")])],
        dimensions: vec![
            dimension("/time", 0, true),
            dimension("/lat", 1, false),
            dimension("/lon", 2, false),
            dimension("/station", 3, false),
            dimension("/forecast/surface/x", 4, false),
        ],
        variables,
    }
}

/// Made-up values for [`whole_schema`].
struct Whole(Schema);

impl Source for Whole {
    fn schema(&self) -> &Schema {
        &self.0
    }

    fn read(&mut self, variable: usize, region: &[Range<u64>]) -> Result<Values> {
        let v = &self.0.variables[variable];
        let whole: Vec<Range<u64>> = v.shape.iter().map(|&n| 0..n).collect();
        assert_eq!(region, whole, "variables this small are one tile");
        let wave = |i: u64| 280.0 + 10.0 * (i as f64 * 0.37).sin();
        Ok(match v.dtype {
            DType::F32 if v.name() == "t" => {
                Values::F32((0..v.len()).map(|i| if i % 7 == 0 { -999.0 } else { wave(i) as f32 }).collect())
            }
            DType::F32 => Values::F32((0..v.len()).map(|i| wave(i) as f32).collect()),
            DType::F64 => Values::F64((0..v.len()).map(wave).collect()),
            DType::Text => Values::Text((0..v.len()).map(|i| "é".repeat(i as usize)).collect()),
            dtype => {
                let bytes: Vec<u8> = (0..v.len() as usize * dtype.size()).map(|i| (i * 37 % 251) as u8).collect();
                Values::from_le_bytes(dtype, &bytes)?
            }
        })
    }
}

#[test]
fn the_schema_of_a_whole_file_reads_as_ever() {
    let archive = std::fs::read(folder().join("v1/whole-file.rsd")).unwrap();
    let mut archive = Archive::open(Cursor::new(&archive[..])).unwrap();
    let schema = whole_schema();
    assert_eq!(*archive.schema(), schema);
    let mut source = Whole(schema.clone());
    for (i, v) in schema.variables.iter().enumerate() {
        let lossy = matches!(archive.variable(i).unwrap().plan.treatment, residuum::plan::Treatment::Lossy { .. });
        assert_eq!(lossy, ["t", "q", "forecast/w", "forecast/surface/p"].contains(&v.name()), "{}", v.name());
        if !lossy {
            let whole: Vec<Range<u64>> = v.shape.iter().map(|&n| 0..n).collect();
            assert_eq!(archive.read_all(i).unwrap(), source.read(i, &whole).unwrap(), "{}", v.name());
        }
    }
}

/// Steps that are more alike than their levels, too many for one tile.
struct Levels(Schema);

impl Levels {
    fn new() -> Self {
        Self(Schema::single(Format::Raw, "t", DType::F32, &[9, 5, 24, 32]))
    }
}

impl Source for Levels {
    fn schema(&self) -> &Schema {
        &self.0
    }

    fn read(&mut self, _: usize, region: &[Range<u64>]) -> Result<Values> {
        let mut values = vec![];
        for step in region[0].clone() {
            for level in region[1].clone() {
                let at = |y: u64, x: u64| ((y * 3 + level * 40) as f32 * 0.1).sin() * ((x + step) as f32 * 0.2).cos();
                values.extend(region[2].clone().flat_map(|y| region[3].clone().map(move |x| at(y, x))));
            }
        }
        Ok(Values::F32(values))
    }
}

#[test]
fn steps_that_are_more_alike_than_levels_share_tiles() {
    let archive = std::fs::read(folder().join("v1/boxes-of-steps.rsd")).unwrap();
    let mut archive = Archive::open(Cursor::new(&archive[..])).unwrap();
    let tiling = archive.variable(0).unwrap().plan.tiling.clone();
    assert_eq!((tiling.axis, tiling.len, tiling.steps), (1, 1, Some(5)));
    let region = [3..8, 1..3, 2..20, 5..6];
    let (Values::F32(got), Values::F32(expected)) =
        (archive.read(0, &region).unwrap(), Levels::new().read(0, &region).unwrap())
    else {
        panic!("of another type")
    };
    assert_eq!(got.len(), expected.len());
    assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-3));
}

/// Shapes with all kinds of side images, and an axis that is a circle.
const FITTED: &[(&str, &[usize])] = &[
    ("image", &[61, 128]),
    ("series", &[5, 24, 64]),
    ("levels", &[3, 3, 24, 48]),
    ("line", &[4000]),
    ("outwards", &[7, 25, 64]),
    ("levels-outwards", &[6, 2, 24, 48]),
];

/// Waves around the last axis that move along the first, a little noise, and a patch without values.
fn waves(shape: &[usize]) -> Vec<f64> {
    let mut random = Random(7);
    let n: usize = shape.iter().product();
    let nx = shape[shape.len() - 1];
    (0..n)
        .map(|i| {
            let (x, rest) = (i % nx, i / nx);
            let turn = std::f64::consts::TAU * (x as f64 / nx as f64 * 3.0 + rest as f64 * 0.01);
            let noise = random.below(1000) as f64 * 1e-4;
            if i % 1000 < 12 { f64::NAN } else { 280.0 + 10.0 * turn.sin() * (rest as f64 * 0.07).cos() + noise }
        })
        .collect()
}

#[test]
fn write_missing_golden_archives_if_asked() {
    if std::env::var_os("RESIDUUM_WRITE_GOLDEN").is_none() {
        return;
    }
    let folder = folder().join(format!("v{}", residuum::container::VERSION));
    std::fs::create_dir_all(&folder).unwrap();
    let put = |name: String, archive: Vec<u8>| {
        let path = folder.join(format!("{name}.rsd"));
        if !path.exists() {
            std::fs::write(path.with_extension("bits"), zstd::encode_all(&*all_bits(&archive), 19).unwrap()).unwrap();
            std::fs::write(path, archive).unwrap();
        }
    };
    let config = Config::new(Bound::abs(0.01))
        .with_bound("q", Bound::rel(1e-3))
        .with_bound("forecast/w", Bound::pw_rel(1e-3))
        .with_bound("forecast/surface/p", Bound::psnr(60.0));
    let whole = compress_source(&mut Whole(whole_schema()), Vec::new(), &config, &mut |_| ()).unwrap();
    put("whole-file".into(), whole);
    let config = Config::new(Bound::abs(1e-3)).with_tile_bytes(1 << 14);
    put("boxes-of-steps".into(), compress_source(&mut Levels::new(), Vec::new(), &config, &mut |_| ()).unwrap());
    for (name, shape) in FITTED {
        let values = waves(shape);
        let small: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        let config = Config::new(Bound::rel(1e-3)).with_predictor(PredictorChoice::Fitted);
        put(format!("fitted-{name}-f32"), compress(&Field::new(&small, shape).unwrap(), &config).unwrap());
        put(format!("fitted-{name}-f64"), compress(&Field::new(&values, shape).unwrap(), &config).unwrap());
    }
    // Guesses with offsets.
    for (name, shape) in [("image", &[120, 128][..]), ("series", &[6, 48, 64])] {
        let values: Vec<f32> = content("rough below", shape, &mut Random(4)).iter().map(|&v| v as f32).collect();
        let config = Config::new(Bound::rel(2e-2)).with_predictor(PredictorChoice::Fitted);
        put(format!("fitted-offsets-{name}"), compress(&Field::new(&values, shape).unwrap(), &config).unwrap());
    }
    // Large enough for a stream a chain; land but for some rows, so that the file is small.
    for (name, shape) in [("chains", &[6, 216, 216][..]), ("chains-levels", &[5, 3, 140, 130])] {
        let rows = shape[shape.len() - 2];
        let is_land = |i: usize| i / shape[shape.len() - 1] % rows > 30;
        let values: Vec<f32> =
            waves(shape).iter().enumerate().map(|(i, &v)| if is_land(i) { f32::NAN } else { v as f32 }).collect();
        let config = Config::new(Bound::rel(1e-3)).with_predictor(PredictorChoice::Fitted);
        put(format!("fitted-{name}"), compress(&Field::new(&values, shape).unwrap(), &config).unwrap());
    }
    #[cfg(feature = "forecast")]
    {
        let windy = series::Series::windy(9, 2);
        for (name, predictor) in [("fitted", PredictorChoice::Auto), ("bare", PredictorChoice::Forecast)] {
            // Two tiles an interval, two intervals.
            let config = Config::new(Bound::rel(1e-2)).with_predictor(predictor).with_tile_bytes(3 * 2 * 24 * 32 * 4);
            let mut source = windy.source();
            let forecasts = residuum::forecast::series::advection(&mut source).unwrap().unwrap();
            let done =
                residuum::forecast::series::compress(&mut source, &config, &forecasts, Some(6), &mut |_| ()).unwrap();
            put(format!("beside-advection-{name}-2"), series::finish(&mut source, &config, done));
            // Steps that stand for themselves, one a tile, and two.
            let keyframe = if name == "fitted" { 2 } else { 1 };
            let mut source = series::Series::new(3, 2).source();
            let done = residuum::forecast::series::compress(
                &mut source,
                &config,
                &painter().forecasts(),
                Some(keyframe),
                &mut |_| (),
            );
            put(format!("beside-latents-{name}"), series::finish(&mut source, &config, done.unwrap()));
        }
    }
    // Lists of what is stored apart: runs in their three ways and of several patterns, signs, outliers.
    for (name, kind, bound, shape) in [
        ("image-before", "fill that stays", Bound::abs(0.01), &[6, 24, 25][..]),
        ("step-before", "fill that stays", Bound::abs(0.01), &[4, 3, 24, 25]),
        ("patterns", "infinities", Bound::abs(0.01), &[3, 24, 25]),
        ("signs", "mixed signs", Bound::pw_rel(1e-2), &[2, 30, 41]),
        ("outliers", "smooth", Bound::abs(2e-5), &[40, 50]),
    ] {
        let values: Vec<f32> = content(kind, shape, &mut Random(9)).iter().map(|&v| v as f32).collect();
        let field = Field::new(&values, shape).unwrap().with_fill(FILL as f32);
        put(format!("lists-{name}"), compress(&field, &Config::new(bound)).unwrap());
    }
    let mut random = Random(42);
    for entry in ENTRIES {
        for (bound, bound_name) in BOUNDS {
            let config = Config::new(*bound).with_predictor(entry.predictor).with_tile_bytes(1);
            let kind = ["smooth", "nan patch", "spikes", "mixed signs", "fill"][random.below(5)];
            let shape: &[usize] = [&[11, 13, 17][..], &[33, 61], &[2, 3, 5, 7, 11], &[5000]][random.below(4)];
            let values = content(kind, shape, &mut random);
            let name = format!("{}-{bound_name}-{}", entry.name, kind.replace(' ', "-"));
            let small: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            let field = Field::new(&small, shape).unwrap().with_fill(FILL as f32);
            put(format!("{name}-f32"), compress(&field, &config).unwrap());
            put(
                format!("{name}-f64"),
                compress(&Field::new(&values, shape).unwrap().with_fill(FILL), &config).unwrap(),
            );
        }
    }
}
