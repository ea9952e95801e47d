//! The quantization codes of a tile and what each took: what the structure of a residual is measured on.

use crate::compress::method;
use crate::decompress::{Parts, unknown_method};
use crate::encode::bytes::Reader;
use crate::encode::huffman;
use crate::error::{Error, Result};
use crate::field::DType;
use crate::predict::Method;
use crate::predict::fitted::{self, Rows};
use crate::tile;
use std::ops::Range;

/// Codes of a tile, one a value, in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct TileCodes {
    /// Distance of the value from its prediction in bins; 0 where a special value is stored apart.
    pub codes: Vec<i32>,
    /// Bits that each code took, by the tile's own code lengths or probabilities. A run of zeros that is one token is shared out among them,
    /// and what tables took among all, so that the sum is that of the coded codes; special values and outliers are not in it.
    pub bits: Vec<f32>,
}

/// The codes of a tile; `None` if it is stored exactly.
///
/// # Errors
/// As [`decompress_tile`](crate::decompress::decompress_tile).
pub fn tile_codes(coded: &[u8], dtype: DType, region: &[Range<u64>]) -> Result<Option<TileCodes>> {
    let mut reader = Reader::new(coded);
    let method = reader.byte()?;
    let n = tile::region_len(region) as usize;
    if method == method::EXACT || n == 0 {
        return Ok(None);
    }
    if method::needs_model(coded) {
        return Err(Error::usage("made beside a model's forecasts: its codes come with those of the whole interval"));
    }
    let shape = tile::coding_shape(region);
    match (method, dtype) {
        (method::DIRECT, DType::F32) => of(&Parts::<f32, f32>::read(reader, false, &shape, n)?, &shape),
        (method::DIRECT, DType::F64) => of(&Parts::<f64, f64>::read(reader, false, &shape, n)?, &shape),
        (method::LOG, DType::F32) => of(&Parts::<f64, f32>::read(reader, true, &shape, n)?, &shape),
        (method::LOG, DType::F64) => of(&Parts::<f64, f64>::read(reader, true, &shape, n)?, &shape),
        _ => Err(unknown_method(method, dtype)),
    }
    .map(Some)
}

fn of<C: Rows, T: Rows>(parts: &Parts<'_, C, T>, shape: &[usize]) -> Result<TileCodes> {
    let (head, data) = (&parts.head, parts.codes);
    let n = shape.iter().product();
    let marks = (!head.specials.is_empty()).then(|| head.specials.marks(n));
    let predictor = match &head.method {
        Method::Contexts(plan) => {
            let (codes, bits) = fitted::decode::codes(plan, data, marks.as_deref(), shape, head.base, &head.quantizer)?;
            return Ok(TileCodes { codes, bits });
        }
        Method::Huffman(predictor) => predictor,
    };
    let kept = huffman::cpu::decode(data, n - head.specials.len())?;
    let kept_bits = huffman::cost::bits(data, &kept)?;
    let mut kept = kept.iter().zip(&kept_bits);
    let (mut codes, mut bits) = (vec![0; n], vec![0.0; n]);
    predictor.for_each_run(shape, &mut |start, stride, len| {
        for at in (0..len).map(|i| start + i * stride) {
            if marks.as_ref().is_none_or(|m| !m[at])
                && let Some((&code, &bit)) = kept.next()
            {
                (codes[at], bits[at]) = (code, bit);
            }
        }
    });
    Ok(TileCodes { codes, bits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bound::Bound;
    use crate::compress::{compress_tile, plan_treatment};
    use crate::config::{Config, Effort, PredictorChoice};
    use crate::decompress::inspect_tile;

    /// For every predictor: bits add up, and codes of the predictor `none` are the values themselves in bins.
    #[test]
    fn codes_are_those_of_the_archive() {
        let (ny, nx) = (45, 80);
        let mut values: Vec<f32> = (0..3 * ny * nx)
            .map(|i| 250.0 + ((i % nx) as f32 * 0.2).sin() * 20.0 + (i * i % 97) as f32 * 0.01)
            .collect();
        values[77..90].fill(f32::NAN);
        let region = [0..3, 0..ny as u64, 0..nx as u64];
        let step = 0.02f64;
        for (name, predictor, effort) in [
            ("none", PredictorChoice::None, Effort::Fast),
            ("lorenzo", PredictorChoice::Lorenzo, Effort::Fast),
            ("interp", PredictorChoice::Interp, Effort::Fast),
            ("fitted", PredictorChoice::Fitted, Effort::Balanced),
        ] {
            let config = Config::new(Bound::abs(step / 2.0)).with_predictor(predictor).with_effort(effort);
            let treatment = plan_treatment(config.bound_of("x"), None, DType::F32, None).unwrap();
            let coded = compress_tile(&values, &region, &treatment, &config).unwrap();
            let report = inspect_tile(&coded, DType::F32, &region).unwrap();
            assert!(report.predictor.starts_with(name), "{}", report.predictor);
            let TileCodes { codes, bits } = tile_codes(&coded, DType::F32, &region).unwrap().unwrap();
            let sum: f64 = bits.iter().map(|&b| f64::from(b)).sum();
            assert!((sum / 8.0 - report.bytes.codes as f64).abs() < 0.02 * report.bytes.codes as f64, "{name}: {sum}");
            assert!(codes[77..90].iter().all(|&c| c == 0) && bits[77..90].iter().all(|&b| b == 0.0));
            if name == "none" {
                for (x, c) in values.iter().zip(&codes).filter(|(x, _)| !x.is_nan()) {
                    let expected = (f64::from(*x) - report.base) / report.step;
                    assert!((f64::from(*c) - expected).abs() <= 0.51, "{c} {expected}");
                }
            } else {
                assert!(codes.iter().map(|c| u64::from(c.unsigned_abs())).sum::<u64>() < 100 * codes.len() as u64);
            }
            assert!(tile_codes(&coded[..coded.len() - 20], DType::F32, &region).is_err(), "{name}");
        }
    }
}
