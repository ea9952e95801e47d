//! How large an archive can become: for who must have the room before it is written.

use super::section::{FOOTER_BYTES, HEADER_BYTES};
use crate::config::Config;
use crate::field::DType;
use crate::tile::Tiling;

/// Kind, length and checksum of a section, at most.
const SECTION_BYTES: u64 = 1 + 10 + 8;
/// Payloads of schema and plan of a field of at most five dimensions, at most; a test has the largest.
const DESCRIPTION_BYTES: u64 = 512;
/// Method and submethod of values stored exactly, in front of the values as they are.
const EXACT_HEAD_BYTES: u64 = 2;
/// A length in the index, at most.
const INDEX_ENTRY_BYTES: u64 = 10;

/// Bytes that the archive of a field of `dtype` and `shape` has at most under `config`, whatever its values: a little more than the
/// values themselves, as no tile is larger than its exact storage. `None` if that is more than can be counted.
pub fn max_archive_bytes(dtype: DType, shape: &[u64], config: &Config) -> Option<u64> {
    let n_values = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
    let n_tiles = Tiling::new(shape, config.max_tile_values(dtype, shape)).count();
    let values = n_values.checked_mul(dtype.size() as u64)?;
    let tiles = n_tiles.checked_mul(SECTION_BYTES + EXACT_HEAD_BYTES + INDEX_ENTRY_BYTES)?;
    // Schema, plan, index: the lengths of the first two stand in the index too.
    let rest = HEADER_BYTES + FOOTER_BYTES + DESCRIPTION_BYTES + 3 * SECTION_BYTES + 4 * INDEX_ENTRY_BYTES;
    values.checked_add(tiles)?.checked_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bound, Field};

    #[test]
    fn no_archive_is_larger() {
        // Noise in every bit, which no code makes smaller; many tiles, and descriptions as long as they get.
        let noise =
            |n: u64| (0..n).map(|i| f64::from_bits((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)));
        let config = |bound| Config::new(bound).with_tile_bytes(1);
        for shape in [&[0usize, 7][..], &[1], &[20_000], &[3, 70, 90], &[5, 4, 3, 11, 40]] {
            let values: Vec<f64> = noise(shape.iter().product::<usize>() as u64).collect();
            let singles: Vec<f32> = values.iter().map(|v| f32::from_bits((v.to_bits() >> 32) as u32)).collect();
            let lens: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
            for bound in
                [Bound::LOSSLESS, Bound::abs(1e-30), Bound::rel(1e-9), Bound::pw_rel(1e-12), Bound::psnr(400.0)]
            {
                let config = config(bound);
                let doubles = Field::new(&values, shape).unwrap().with_fill(f64::MIN_POSITIVE);
                let n = crate::compress(&doubles, &config).unwrap().len() as u64;
                assert!(n <= max_archive_bytes(DType::F64, &lens, &config).unwrap(), "{shape:?} {bound}");
                let n = crate::compress(&Field::new(&singles, shape).unwrap(), &config).unwrap().len() as u64;
                let most = max_archive_bytes(DType::F32, &lens, &config).unwrap();
                assert!(n <= most && most <= 4 * lens.iter().product::<u64>() * 102 / 100 + 1024, "{shape:?} {bound}");
            }
        }
        assert_eq!(max_archive_bytes(DType::F64, &[1 << 40, 1 << 41], &config(Bound::LOSSLESS)), None);
    }

    #[test]
    fn descriptions_have_room() {
        use crate::bound::{Resolved, Stats};
        use crate::plan::{Plan, Treatment};
        let shape = [u64::MAX; crate::field::MAX_FIELD_DIMS];
        let schema = crate::io::Schema::single(crate::io::Format::Raw, "data", DType::F64, &shape);
        let plan = Plan {
            variable: u32::MAX,
            treatment: Treatment::Lossy {
                asked: Bound::psnr(1.0 / 3.0),
                resolved: Resolved::MeanSquare { absolute: 1.0 / 3.0, max_mse: 1.0 / 3.0 },
                fill: Some(u64::MAX),
                stats: Some(Stats { min: 1.0 / 3.0, max: 2.0 / 3.0, n: u64::MAX }),
            },
            tiling: Tiling { shape: shape.to_vec(), axis: u32::MAX, len: u64::MAX, steps: Some(u64::MAX) },
            forecast: None,
        };
        // A packed section adds a varint in front.
        let n = minicbor::to_vec(&schema).unwrap().len() + minicbor::to_vec(&plan).unwrap().len() + 10;
        assert!(n as u64 <= DESCRIPTION_BYTES, "{n}");
    }
}
