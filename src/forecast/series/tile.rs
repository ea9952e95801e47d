//! The bytes of a tile that was coded beside forecasts. Layout in `container/format.md`.

use super::latents;
use crate::compress::method;
use crate::config::Config;
use crate::decompress::{TileBytes, TileReport, check_bins};
use crate::encode::bytes::{self, Reader};
use crate::error::{Error, Result};
use crate::forecast::agreement::{Agreement, Sides, read_sides, write_sides};
use crate::predict::fitted::{Layout, Plan, Rows, is_worthwhile};
use crate::quantize::outlier::Outliers;
use crate::quantize::special::Specials;

/// Predictors of such tiles.
mod predictor {
    /// Fitted, with the forecasts among its side images.
    pub const FITTED: u8 = 0;
    /// The forecast itself.
    pub const BARE: u8 = 1;
}

/// What a tile consists of.
pub(super) struct Parts<'a, T> {
    pub base: T,
    pub step: T,
    pub specials: Specials,
    pub outliers: Outliers,
    pub agreement: Agreement,
    /// Whether each image has a forecast.
    pub has_forecast: Vec<bool>,
    /// Digests of the forecasts of the steps that have any; none in tiles of exact models that the first builds wrote.
    pub digests: Vec<u16>,
    /// Digest of all forecasts.
    pub digest: u32,
    pub sides: Sides,
    /// Decisions of the fitted predictor; `None` if forecasts are predictions.
    pub plan: Option<Plan>,
    pub codes: &'a [u8],
}

/// Number of steps that have a forecast.
fn n_with_forecast(has_forecast: &[bool], levels: usize) -> usize {
    has_forecast.chunks(levels.max(1)).filter(|l| l.contains(&true)).count()
}

impl<'a, T: Rows> Parts<'a, T> {
    /// The coded tile of `shape`, without latents; what is stored apart is packed as in tiles without forecasts.
    pub fn write(&self, shape: &[usize], config: &Config) -> Vec<u8> {
        let is_packed = config.looks_again() && self.outliers.are_many(shape.iter().product());
        let mut bins = vec![];
        for number in [self.base, self.step] {
            bins.extend_from_slice(&number.to_bits().to_le_bytes()[..T::BYTES]);
        }
        let plan = self.plan.as_ref().map(|plan| {
            let mut bytes = vec![];
            plan.write(&mut bytes);
            bytes
        });
        let coded = Coded {
            bins: &bins,
            specials: &self.specials.to_bytes(shape),
            outliers: &self.outliers.to_bytes::<T>(is_packed),
            plan: plan.as_deref(),
            codes: self.codes,
        };
        let forecasts = Agreed {
            agreement: &self.agreement,
            has_forecast: &self.has_forecast,
            digests: &self.digests,
            digest: self.digest,
            sides: &self.sides,
        };
        assembled(&coded, &forecasts)
    }

    /// Reads a tile of `[steps, levels, ny, nx]`; the method was read before. Gives its layout too.
    pub fn read(reader: &mut Reader<'a>, shape: [usize; 4]) -> Result<(Self, Layout)> {
        let [steps, levels, ny, nx] = shape;
        let n = steps * levels * ny * nx;
        if n == 0 {
            return Err(Error::corrupt("forecasts of no values"));
        }
        let mut float = || {
            let mut bits = [0; 8];
            bits[..T::BYTES].copy_from_slice(reader.take(T::BYTES)?);
            Ok::<T, Error>(T::from_bits(u64::from_le_bytes(bits)))
        };
        let (base, step) = (float()?, float()?);
        check_bins(base, step)?;
        let specials = Specials::from_bytes(reader.bytes()?, &shape)?;
        let outliers = Outliers::from_bytes::<T>(reader.bytes()?, n)?;
        let step_of_agreement = f64::from_le_bytes(array(reader)?);
        if !(step_of_agreement >= 0.0 && step_of_agreement.is_finite()) {
            return Err(Error::corrupt("forecasts rounded to what is no step"));
        }
        let is_exact = step_of_agreement == 0.0;
        let has_digests = !is_exact || step_of_agreement.is_sign_negative();
        let mut agreement = Agreement { step: step_of_agreement.abs(), ..Agreement::EXACT };
        for _ in 0..if is_exact { 0 } else { levels } {
            agreement.tolerances.push(f32::from_le_bytes(array(reader)?));
        }
        let bits = reader.packed((steps * levels).div_ceil(8))?;
        if bits.len() != (steps * levels).div_ceil(8) {
            return Err(Error::corrupt("list of forecasts is damaged"));
        }
        let has_forecast: Vec<bool> = (0..steps * levels).map(|i| bits[i / 8] >> (i % 8) & 1 == 1).collect();
        let mut digests = vec![];
        for _ in 0..if has_digests { n_with_forecast(&has_forecast, levels) } else { 0 } {
            digests.push(u16::from_le_bytes(array(reader)?));
        }
        let digest = u32::from_le_bytes(array(reader)?);
        let sides = read_sides(reader, n)?;
        if sides.iter().any(|&(place, _)| !has_forecast[place as usize / (ny * nx)]) {
            return Err(Error::corrupt("a place on the list where there is no forecast"));
        }
        let layout = Layout::new(shape, &has_forecast);
        let plan = match reader.byte()? {
            predictor::FITTED if is_worthwhile(&shape) => Some(layout.read_plan(reader)?),
            predictor::BARE => None,
            id => {
                return Err(Error::unsupported(format!("predictor {id} beside forecasts; a newer residuum reads it")));
            }
        };
        let codes = reader.rest();
        let parts =
            Self { base, step, specials, outliers, agreement, has_forecast, digests, digest, sides, plan, codes };
        Ok((parts, layout))
    }
}

/// What is coded of a tile, in bytes.
pub(super) struct Coded<'a> {
    /// Base and step.
    pub bins: &'a [u8],
    pub specials: &'a [u8],
    pub outliers: &'a [u8],
    /// With its length.
    pub plan: Option<&'a [u8]>,
    pub codes: &'a [u8],
}

/// What is known of its forecasts.
pub(super) struct Agreed<'a> {
    pub agreement: &'a Agreement,
    pub has_forecast: &'a [bool],
    pub digests: &'a [u16],
    pub digest: u32,
    pub sides: &'a Sides,
}

/// The bytes of a tile, without latents.
pub(super) fn assembled(coded: &Coded<'_>, forecasts: &Agreed<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(coded.codes.len() + 1024);
    out.push(method::BESIDE_FORECASTS);
    out.extend_from_slice(coded.bins);
    bytes::put_bytes(&mut out, coded.specials);
    bytes::put_bytes(&mut out, coded.outliers);
    // The sign of 0 says that there are digests of steps.
    let step = if forecasts.agreement.step == 0.0 { -0.0 } else { forecasts.agreement.step };
    out.extend_from_slice(&f64::to_le_bytes(step));
    forecasts.agreement.tolerances.iter().for_each(|t| out.extend_from_slice(&t.to_le_bytes()));
    let mut bits = vec![0u8; forecasts.has_forecast.len().div_ceil(8)];
    forecasts.has_forecast.iter().enumerate().for_each(|(i, &f)| bits[i / 8] |= u8::from(f) << (i % 8));
    bytes::put_packed(&mut out, &bits);
    forecasts.digests.iter().for_each(|d| out.extend_from_slice(&d.to_le_bytes()));
    out.extend_from_slice(&forecasts.digest.to_le_bytes());
    write_sides(forecasts.sides, &mut out);
    match coded.plan {
        Some(plan) => {
            out.push(predictor::FITTED);
            out.extend_from_slice(plan);
        }
        None => out.push(predictor::BARE),
    }
    out.extend_from_slice(coded.codes);
    out
}

fn array<const N: usize>(reader: &mut Reader<'_>) -> Result<[u8; N]> {
    let mut out = [0; N];
    out.copy_from_slice(reader.take(N)?);
    Ok(out)
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
    let mut reader = Reader::new(coded);
    let latents = match reader.byte()? {
        method::WITH_LATENTS => latents::skip(&mut reader, shape[0])?,
        _ => 0,
    };
    let mut lists = reader.clone();
    lists.take(2 * T::BYTES)?;
    let (specials, outliers) = (lists.bytes()?.len(), lists.bytes()?.len());
    let (parts, layout) = Parts::<T>::read(&mut reader, shape)?;
    let n_forecasts = parts.has_forecast.iter().filter(|&&f| f).count();
    let bytes = TileBytes {
        head: coded.len() - latents - specials - outliers - parts.codes.len(),
        specials,
        outliers,
        codes: parts.codes.len(),
        latents,
        ..TileBytes::default()
    };
    let rounding = match parts.agreement.step {
        0.0 => String::new(),
        step => format!(", in steps of {step:.3e}, {} listed", parts.sides.len()),
    };
    let predictor = match &parts.plan {
        Some(plan) => format!("{} beside forecasts of {n_forecasts} images{rounding}", plan.describe()),
        None => format!("forecasts of {n_forecasts} images{rounding}"),
    };
    Ok(TileReport {
        method: "direct",
        predictor,
        base: parts.base.to_f64(),
        step: parts.step.to_f64(),
        n_values: layout.shape.iter().product::<usize>() as u64,
        n_special: parts.specials.len() as u64,
        n_outliers: parts.outliers.positions.len() as u64,
        bytes,
    })
}
