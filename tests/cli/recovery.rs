//! Killed runs and damaged archives.

use crate::support::*;
use residuum::Values;

#[test]
#[cfg(unix)]
fn a_killed_run_leaves_no_archive_but_what_it_had() {
    let folder = Folder::new();
    let bytes = noise(8 << 20);
    folder.put("n.f32", &bytes);
    let mut command = folder.residuum();
    command.args("compress n.f32 --shape 8192,1024 --dtype f32 --pw-rel 1e-3 --tile-mib 1 --threads 1 -q".split(' '));
    let mut child = command.spawn().unwrap();
    let part = loop {
        let parts = std::fs::read_dir(folder.root()).unwrap().map(|e| e.unwrap().path());
        let part = parts.into_iter().find(|p| p.extension().is_some_and(|e| e == "part"));
        if let Some(part) = part.filter(|p| std::fs::metadata(p).is_ok_and(|m| m.len() > 2 << 20)) {
            break part;
        }
        assert!(child.try_wait().unwrap().is_none(), "it was done before it could be killed");
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.path("n.f32.rsd").exists());
    assert!(part.file_name().unwrap().to_str().unwrap().starts_with(".n.f32.rsd."));

    std::fs::rename(part, folder.path("left.rsd")).unwrap();
    let output = folder.run("decompress left.rsd --recover -o left.bin");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("of 8192 along its first dimension"), "{said}");
    let left = floats(&folder.bytes("left.bin"));
    assert!(left.len() >= 1 << 18 && left.len().is_multiple_of(1024));
    let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= a.abs() * 1e-3;
    assert!(floats(&bytes).iter().zip(&left).all(is_near));
}

#[test]
fn what_is_whole_of_a_cut_archive_comes_back() {
    let folder = Folder::new();
    netcdf(&folder.path("a.nc"));
    folder.works("compress a.nc --abs 0.01");
    let archive = folder.bytes("a.nc.rsd");
    let json: serde_json::Value = serde_json::from_str(&folder.works("inspect a.nc.rsd --json")).unwrap();
    let tail: u64 = [4, 5].map(|i: usize| json["variables"][i]["stored_bytes"].as_u64().unwrap()).iter().sum();
    folder.put("cut.rsd", &archive[..archive.len() - tail as usize]);
    let output = folder.run("decompress cut.rsd --recover -o b.nc");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("variable \"packed\" is left out"), "{said}");
    let (_, Values::F32(t)) = read(&folder.path("b.nc"), "t") else { panic!("f32") };
    assert_eq!(t.len(), 1200);
    folder.fails("decompress cut.rsd --recover --var packed --format raw -o p", 4, "nothing");
}

#[test]
fn a_damaged_tile_costs_itself_only() {
    let folder = Folder::new();
    folder.put("n.f32", noise(1 << 20));
    folder.works("compress n.f32 --shape 1024,1024 --dtype f32 --abs 1 --tile-mib 1");
    let path = folder.path("n.f32.rsd");
    let mut archive = std::fs::read(&path).unwrap();
    let middle = archive.len() * 3 / 8;
    archive[middle] ^= 1;
    std::fs::write(&path, &archive).unwrap();
    folder.fails("decompress n.f32.rsd -o b.f32", 4, "variable \"n\": tile 1: checksum");
    folder.fails("decompress n.f32.rsd -o b.f32", 4, "--recover");
    let output = folder.run("decompress n.f32.rsd -o b.f32 --recover");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("tile 1 is damaged") && said.contains("256:512,0:1024"), "{said}");
    let restored = floats(&folder.bytes("b.f32"));
    let original = floats(&folder.bytes("n.f32"));
    let (tile, rest) = (1 << 18..1 << 19, 1 << 19..1 << 20);
    assert!(restored[tile].iter().all(|v| v.is_nan()));
    assert_within(&original[rest.clone()], &restored[rest], 1.0);
    assert_within(&original[..1 << 18], &restored[..1 << 18], 1.0);
}
