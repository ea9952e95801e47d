//! Wrong calls, and exit statuses.

use crate::support::*;

#[test]
fn wrong_calls_end_with_2_and_say_why() {
    let folder = Folder::new();
    npy(&folder.path("x.npy"), &[4, 4]);
    folder.put("b.toml", "bund = \"abs:1\"\n");
    for (arguments, part) in [
        ("", "Usage"),
        ("compress x.npy", "a bound is needed"),
        ("compress x.npy --abs 1 --rel 1", "cannot be used with"),
        ("compress x.npy --abs -1", "must not be negative"),
        ("compress x.npy --abs nan", "not a number"),
        ("compress x.npy --rel 2", "below 1"),
        ("compress x.npy --abs 1e-60", "can not be represented"),
        ("compress x.npy --abs 1 --bound x=1", "is not a bound"),
        ("compress x.npy --bounds b.toml", "bund"),
        ("compress x.npy --abs 1 --predictor magic", "possible values"),
        ("compress x.npy --abs 1 --threads 0", "1 to 1024"),
        ("compress x.npy --abs 1 --tile-mib 0", "0 is not in"),
        ("compress x.npy --abs 1 --dtype f32", "--shape"),
        ("compress x.npy --abs 1 -o nowhere/x.rsd", "there is no folder"),
        ("compress x.npy x.npy --abs 1 -o .", "several inputs"),
        ("compress x.npy b.toml --abs 1 -o both.rsd", "a folder that is there"),
        ("compress x.npy --abs 1 -o x.npy --force", "is an input"),
        ("decompress x.npy", "with -o"),
        ("decompress x.rsd --range time", "DIM=START:END"),
        ("decompress x.rsd --range time=3:2", "DIM=START:END"),
        ("decompress x.rsd --format grib", "possible values"),
    ] {
        folder.fails(arguments, 2, part);
    }
    assert_eq!(folder.count(), 2, "something was written");
}

#[test]
fn exit_statuses() {
    let folder = Folder::new();
    npy(&folder.path("x.npy"), &[30, 40]);
    folder.put("text", "not data at all");
    folder.fails("compress missing.nc --abs 1", 6, "error: missing.nc: ");
    folder.fails("compress text --abs 1", 3, "error: text: ");
    folder.fails("inspect text", 3, "not a residuum archive");
    folder.fails("decompress missing.rsd", 6, "error: missing.rsd: ");

    folder.works("compress x.npy --abs 0.01");
    let archive = folder.bytes("x.npy.rsd");
    let with = |name: &str, at: usize, byte: u8| {
        let mut archive = archive.clone();
        archive[at] ^= byte;
        folder.put(name, archive);
    };
    with("damaged.rsd", archive.len() / 2, 1);
    with("later.rsd", 8, 2);
    folder.put("cut.rsd", &archive[..archive.len() - 20]);
    folder.fails("decompress damaged.rsd -o y.npy", 4, "error: damaged.rsd: ");
    folder.fails("decompress later.rsd -o y.npy", 5, "newer");
    folder.fails("decompress cut.rsd -o y.npy", 4, "--recover");
    assert!(!folder.path("y.npy").exists());
    // Of several inputs, the good ones are done.
    std::fs::create_dir(folder.path("out")).unwrap();
    folder.fails("compress text x.npy missing --abs 1 -o out", 3, "error: missing: ");
    assert!(folder.path("out/x.npy.rsd").exists());
    let help = folder.works("--help");
    assert!(help.contains("Exit status") && help.contains("Examples"));
}
