//! Reads all there is of an input file, within reason.

use residuum::io::{OpenOptions, Source};
use std::path::Path;

/// Values read of a variable at most: hostile headers may promise more than a fuzzer has time for.
const MAX_VALUES: u64 = 1 << 16;

/// The fuzzer aborts at any panic, caught or not. Panics inside the Zarr library are caught and become errors: let them.
#[allow(dead_code)] // not every target needs it
pub fn allow_caught_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|_| ())));
}

pub fn read_everything(path: &Path) {
    let Ok(mut source) = residuum::io::open(path, &OpenOptions::default()) else { return };
    let variables = source.schema().variables.clone();
    for (i, v) in variables.iter().enumerate() {
        let mut left = MAX_VALUES;
        let corner: Vec<_> = v
            .shape
            .iter()
            .rev()
            .map(|&n| {
                let take = n.min(left.max(1));
                left /= take.max(1);
                0..take
            })
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        let _ = read(&mut *source, i, &corner);
    }
}

fn read(
    source: &mut dyn Source,
    variable: usize,
    region: &[std::ops::Range<u64>],
) -> residuum::Result<residuum::Values> {
    source.read(variable, region)
}
