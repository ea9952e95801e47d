//! Golden archives: written once by the version that introduced a format, read forever.
//!
//! `tests/golden/vN/NAME.rsd` with the values expected from it in `NAME.bits` (little-endian bytes of each variable, one after the other,
//! behind zstd). New files, for a new version only: `RESIDUUM_WRITE_GOLDEN=1 cargo test --release --test golden`; files that
//! are there are never written again.

mod registry;

use registry::{BOUNDS, ENTRIES, FILL, Random, content};
use residuum::{Archive, Config, Field, Values, compress};
use std::io::Cursor;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn all_bits(archive: &[u8]) -> Vec<u8> {
    let mut archive = Archive::open(Cursor::new(archive)).unwrap();
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
            if path.extension().is_none_or(|e| e != "rsd") {
                continue;
            }
            let expected = zstd::decode_all(&*std::fs::read(path.with_extension("bits")).unwrap()).unwrap();
            let got = all_bits(&std::fs::read(&path).unwrap());
            assert!(got == expected, "{} reads differently", path.display());
            n += 1;
        }
    }
    assert!(n >= 20, "only {n} golden archives");
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
