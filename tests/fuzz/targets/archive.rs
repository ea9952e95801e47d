//! Whole archives: opened, recovered, every tile of them restored.
#![no_main]
use libfuzzer_sys::fuzz_target;
use residuum::Archive;
use std::io::Cursor;

fn restore(archive: residuum::Result<Archive<Cursor<&[u8]>>>) {
    let Ok(mut archive) = archive else { return };
    for i in 0..archive.schema().variables.len() {
        let n = archive.variable(i).map_or(0, |v| v.n_tiles());
        for tile in 0..n.min(4) {
            let _ = archive.tile(i, tile);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    restore(Archive::open(Cursor::new(data)));
    restore(Archive::recover(Cursor::new(data)));
});
