//! Coded tiles behind the checksums: the first bytes choose type and shape.
#![no_main]
use libfuzzer_sys::fuzz_target;
use residuum::bound::Resolved;
use residuum::plan::Treatment;
use residuum::{Bound, DType};

fuzz_target!(|data: &[u8]| {
    let Some((head, coded)) = data.split_at_checked(5) else { return };
    let dtype = [DType::F32, DType::F64, DType::I16, DType::U8, DType::Text][usize::from(head[0] % 5)];
    let region: Vec<_> = head[1..].iter().map(|&n| 0..u64::from(n % 24)).collect();
    let treatment = if head[0] < 128 {
        Treatment::Lossy { asked: Bound::abs(1.0), resolved: Resolved::Absolute(1.0), fill: None, stats: None }
    } else {
        Treatment::Exact
    };
    let _ = residuum::decompress::decompress_tile(coded, dtype, &treatment, &region);
});
