//! The command: a NetCDF file there and back beside forecasts.

use super::data::{Series, archive};
use residuum::{Bound, Config};
use std::path::Path;
use std::process::Command;

pub fn run(folder: &Path, line: &str) -> (i32, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_residuum")).current_dir(folder).args(line.split(' ')).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

pub fn works(folder: &Path, line: &str) -> String {
    let (status, text) = run(folder, line);
    assert_eq!(status, 0, "{line}: {text}");
    text
}

#[test]
fn a_file_goes_there_and_back_beside_advection() {
    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path();
    let plain = archive(&Series::windy(12, 2), &Config::new(Bound::LOSSLESS), None, None);
    std::fs::write(folder.join("x.nc.rsd"), plain).unwrap();
    works(folder, "decompress x.nc.rsd -o x.nc");
    works(folder, "compress x.nc --rel 1e-2 -o without.rsd");
    works(folder, "compress x.nc --rel 1e-2 --forecast advection --keyframe 6 -o with.rsd");
    let len = |name: &str| std::fs::metadata(folder.join(name)).unwrap().len();
    assert!(len("with.rsd") < len("without.rsd"), "{} {}", len("with.rsd"), len("without.rsd"));
    let shown = works(folder, "inspect with.rsd");
    assert!(
        shown.contains("beside forecasts of") && shown.contains("forecasts of advection, in intervals of 6 steps"),
        "{shown}"
    );
    let json: serde_json::Value = serde_json::from_str(&works(folder, "inspect with.rsd --json")).unwrap();
    assert_eq!(json["forecasts"]["model"], "advection");
    works(folder, "verify x.nc with.rsd");
    works(folder, "decompress with.rsd -o y.nc");
    works(folder, "decompress with.rsd -o part.nc --var t --range time=7:9");
    works(folder, "compress x.nc --rel 1e-2 --forecast advection --predictor forecast -o bare.rsd");
    works(folder, "verify x.nc bare.rsd");
    // A tile that is damaged costs its interval, and what is filled in is said.
    let mut bytes = std::fs::read(folder.join("with.rsd")).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle] ^= 1;
    std::fs::write(folder.join("damaged.rsd"), bytes).unwrap();
    let (status, said) = run(folder, "decompress damaged.rsd -o z.nc");
    assert!(status == 4 && said.contains("--recover"), "{said}");
    let said = works(folder, "decompress damaged.rsd -o z.nc --recover");
    assert!(said.contains("are filled in"), "{said}");

    let (status, said) = run(folder, "compress x.nc --rel 1e-2 --predictor forecast -o a.rsd");
    assert!(status == 2 && said.contains("--forecast"), "{said}");
    let (status, said) = run(folder, "compress x.nc --rel 1e-2 --forecast none.safetensors -o a.rsd");
    assert_eq!(status, 6, "{said}");
    works(folder, "compress x.nc --rel 1e-2 --exclude u -o b.rsd");
    let (status, said) = run(folder, "compress x.nc --rel 1e-2 --exclude u --forecast advection -o a.rsd");
    assert!(status == 3 && said.contains("winds"), "{said}");
}
