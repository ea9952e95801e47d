//! Any values, any bound: what comes back keeps the bound.
#![no_main]
use libfuzzer_sys::fuzz_target;
use residuum::bound::{Comparison, Resolved};
use residuum::{Bound, Config, Field};

fuzz_target!(|data: &[u8]| {
    let Some((head, values)) = data.split_at_checked(4) else { return };
    let values: Vec<f32> = values.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let width = usize::from(head[0]).max(1);
    let shape = if values.len() % width == 0 { vec![values.len() / width, width] } else { vec![values.len()] };
    let size = 10f64.powi(i32::from(head[1] as i8) / 4);
    let (bound, resolved) = match head[2] % 3 {
        0 => (Bound::abs(size), Resolved::Absolute(size)),
        1 => (Bound::pw_rel((size / 10.0).min(0.9)), Resolved::PointWise((size / 10.0).min(0.9))),
        _ => (Bound::LOSSLESS, Resolved::Exact),
    };
    let field = Field::new(&values, &shape).expect("shape fits");
    let Ok(archive) = residuum::compress(&field, &Config::new(bound)) else { return };
    let (restored, _) = residuum::decompress::<f32>(&archive).expect("own archive");
    let mut comparison = Comparison::default();
    comparison.add(&values, &restored, &resolved, None);
    assert_eq!(comparison.violations, 0);
});
