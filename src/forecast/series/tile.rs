//! The bytes of a tile that was coded beside forecasts. Layout in `container/format.md`.

use crate::compress::method;
use crate::decompress::{TileBytes, TileReport};
use crate::encode::bytes::{self, Reader};
use crate::error::{Error, Result};
use crate::forecast::agreement::{Agreement, Sides, read_sides, write_sides};
use crate::predict::fitted::{Layout, Plan, Rows};
use crate::quantize::outlier::Outliers;
use crate::quantize::special::Specials;

/// What a tile consists of.
pub(super) struct Parts<'a, T> {
    pub base: T,
    pub step: T,
    pub specials: Specials,
    pub outliers: Outliers,
    pub agreement: Agreement,
    /// Whether each image has a forecast.
    pub has_forecast: Vec<bool>,
    /// Digests of the forecasts of the steps that have any.
    pub digests: Vec<u32>,
    pub sides: Sides,
    pub plan: Plan,
    pub codes: &'a [u8],
}

impl<'a, T: Rows> Parts<'a, T> {
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.codes.len() + 1024);
        out.push(method::BESIDE_FORECASTS);
        out.extend_from_slice(&self.base.to_bits().to_le_bytes()[..T::BYTES]);
        out.extend_from_slice(&self.step.to_bits().to_le_bytes()[..T::BYTES]);
        bytes::put_bytes(&mut out, &self.specials.to_bytes());
        bytes::put_bytes(&mut out, &self.outliers.to_bytes::<T>());
        out.extend_from_slice(&self.agreement.step.to_le_bytes());
        out.extend_from_slice(&self.agreement.tolerance.to_le_bytes());
        let mut bits = vec![0u8; self.has_forecast.len().div_ceil(8)];
        self.has_forecast.iter().enumerate().for_each(|(i, &f)| bits[i / 8] |= u8::from(f) << (i % 8));
        bytes::put_packed(&mut out, &bits);
        self.digests.iter().for_each(|d| out.extend_from_slice(&d.to_le_bytes()));
        write_sides(&self.sides, &mut out);
        self.plan.write(&mut out);
        out.extend_from_slice(self.codes);
        out
    }

    /// Reads a tile of `[steps, levels, ny, nx]`; the method was read before. Gives its layout too.
    pub fn read(reader: &mut Reader<'a>, shape: [usize; 4]) -> Result<(Self, Layout)> {
        let [steps, levels, ny, nx] = shape;
        let n = steps * levels * ny * nx;
        let mut float = || {
            let mut bits = [0; 8];
            bits[..T::BYTES].copy_from_slice(reader.take(T::BYTES)?);
            Ok::<T, Error>(T::from_bits(u64::from_le_bytes(bits)))
        };
        let (base, step) = (float()?, float()?);
        let specials = Specials::from_bytes(reader.bytes()?, n)?;
        let outliers = Outliers::from_bytes::<T>(reader.bytes()?, n)?;
        let number = |reader: &mut Reader<'_>| {
            let mut bits = [0; 8];
            bits.copy_from_slice(reader.take(8)?);
            Ok::<f64, Error>(f64::from_le_bytes(bits))
        };
        let agreement = Agreement { step: number(reader)?, tolerance: number(reader)? };
        let bits = reader.packed((steps * levels).div_ceil(8))?;
        if bits.len() != (steps * levels).div_ceil(8) {
            return Err(Error::corrupt("list of forecasts is damaged"));
        }
        let has_forecast: Vec<bool> = (0..steps * levels).map(|i| bits[i / 8] >> (i % 8) & 1 == 1).collect();
        let n_digests = has_forecast.chunks(levels.max(1)).filter(|l| l.contains(&true)).count();
        let mut digests = vec![];
        for _ in 0..n_digests {
            let mut digest = [0; 4];
            digest.copy_from_slice(reader.take(4)?);
            digests.push(u32::from_le_bytes(digest));
        }
        let sides = read_sides(reader, n)?;
        let layout = Layout::new(shape, &has_forecast);
        let plan = layout.read_plan(reader)?;
        let codes = reader.rest();
        Ok((Self { base, step, specials, outliers, agreement, has_forecast, digests, sides, plan, codes }, layout))
    }
}

/// `[steps, levels, ny, nx]` of a box of a variable of three or four axes.
///
/// # Errors
/// `Corrupt` for other boxes.
pub(super) fn shape_of(region: &[std::ops::Range<u64>]) -> Result<[usize; 4]> {
    let lens: Vec<usize> = region.iter().map(|r| (r.end - r.start) as usize).collect();
    match lens[..] {
        [steps, ny, nx] => Ok([steps, 1, ny, nx]),
        [steps, levels, ny, nx] => Ok([steps, levels, ny, nx]),
        _ => Err(Error::corrupt("forecasts of a variable that is not on a grid")),
    }
}

/// What such a tile consists of, for `inspect`; the method was read before.
///
/// # Errors
/// `Corrupt`.
pub fn report<T: Rows>(coded: &[u8], region: &[std::ops::Range<u64>]) -> Result<TileReport> {
    let shape = shape_of(region)?;
    let (parts, layout) = Parts::<T>::read(&mut Reader::new(&coded[1..]), shape)?;
    let n_forecasts = parts.has_forecast.iter().filter(|&&f| f).count();
    let specials = parts.specials.to_bytes().len();
    let outliers = parts.outliers.to_bytes::<T>().len();
    let bytes = TileBytes {
        head: coded.len() - specials - outliers - parts.codes.len(),
        specials,
        outliers,
        codes: parts.codes.len(),
        ..TileBytes::default()
    };
    Ok(TileReport {
        method: "direct",
        predictor: format!("{} beside forecasts of {n_forecasts} images", parts.plan.describe()),
        base: parts.base.to_f64(),
        step: parts.step.to_f64(),
        n_values: layout.shape.iter().product::<usize>() as u64,
        n_special: parts.specials.len() as u64,
        n_outliers: parts.outliers.positions.len() as u64,
        bytes,
    })
}
