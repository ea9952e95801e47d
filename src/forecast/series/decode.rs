//! From coded intervals to values.

use super::tile::{Parts, shape_of};
use super::{Forecasts, Past, of_step};
use crate::compress::method;
use crate::encode::bytes::Reader;
use crate::error::{Context, Error, Kind, Result};
use crate::field::{DType, Values};
use crate::forecast::agreement::Digest;
use crate::forecast::group::Group;
use crate::forecast::names::Key;
use crate::plan::Treatment;
use crate::predict::fitted::decode::{Coding, Decoding};
use crate::predict::fitted::{Layout, Rows};
use crate::quantize::Quantizer;
use crate::tile::Tiling;
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};
use tempfile::SpooledTempFile;

/// Decodes intervals, of all members at once, and keeps them: variables are asked for one after the other.
pub struct Decoder {
    forecasts: Forecasts,
    group: Group,
    statics: Vec<(Key, Vec<f32>)>,
    /// Values of all members of the intervals decoded so far, in memory as long as they are few.
    spool: SpooledTempFile,
    /// Where those of a member's interval are.
    places: HashMap<(usize, u64), u64>,
}

/// Bytes of decoded values that are kept in memory; more go to a temporary file.
const SPOOL_IN_MEMORY: usize = 256 << 20;

/// What the archive has of a member.
pub struct CodedMember {
    /// The coded tile.
    pub coded: Vec<u8>,
    /// Type of the values.
    pub dtype: DType,
    /// How they are stored.
    pub treatment: Treatment,
    /// How tiles are cut.
    pub tiling: Tiling,
}

impl Decoder {
    /// For an archive of this `group`; `statics` are the decoded values of its static fields.
    pub fn new(forecasts: Forecasts, group: Group, statics: Vec<(Key, Vec<f32>)>) -> Self {
        let spool = SpooledTempFile::new(SPOOL_IN_MEMORY);
        Self { forecasts, group, statics, spool, places: HashMap::new() }
    }

    /// Variables that are decoded together.
    pub fn members(&self) -> Vec<usize> {
        self.group.members.iter().map(|m| m.variable).collect()
    }

    /// The model at work.
    pub fn forecasts(&self) -> &Forecasts {
        &self.forecasts
    }

    /// The values of a variable in an interval decoded before.
    pub fn kept(&mut self, variable: usize, interval: u64, dtype: DType, n: usize) -> Result<Option<Values>> {
        let Some(&place) = self.places.get(&(variable, interval)) else { return Ok(None) };
        self.spool.seek(SeekFrom::Start(place))?;
        let mut bytes = vec![0; n * dtype.size()];
        self.spool.read_exact(&mut bytes)?;
        Ok(Some(match dtype {
            DType::F64 => Values::F64(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()),
            _ => Values::F32(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        }))
    }

    /// Decodes an interval of all members, in the group's order.
    ///
    /// # Errors
    /// `Corrupt` if bytes are damaged; `Device` if a forecast is not the encoder's: the message names step and variable. What was decoded
    /// of the interval before is lost with it.
    pub fn decode(&mut self, interval: u64, members: &[CodedMember]) -> Result<()> {
        let decoded = self.interval(interval, members)?;
        for (member, values) in self.group.members.iter().zip(decoded) {
            let place = self.spool.seek(SeekFrom::End(0))?;
            self.spool.write_all(&values.as_bytes())?;
            self.places.insert((member.variable, interval), place);
        }
        Ok(())
    }

    fn interval(&self, interval: u64, members: &[CodedMember]) -> Result<Vec<Values>> {
        let first = members.iter().map(|m| m.tiling.region(interval)).find_map(|r| r.first().map(|r| r.start));
        let first = first.ok_or_else(|| Error::corrupt("an interval without members"))? as usize;
        // 1. Whatever has no forecasts is decoded at once.
        let mut opened: Vec<Box<dyn Member + '_>> = vec![];
        let mut n_steps = usize::MAX;
        for member in members {
            let region = member.tiling.region(interval);
            let shape = shape_of(&region)?;
            if region[0].start as usize != first || (n_steps != usize::MAX && n_steps != shape[0]) {
                return Err(Error::corrupt("intervals of the variables differ"));
            }
            n_steps = shape[0];
            let fill = match &member.treatment {
                Treatment::Lossy { fill, .. } => *fill,
                Treatment::Exact => None,
            };
            opened.push(match (member.coded.first(), member.dtype) {
                (Some(&method::BESIDE_FORECASTS), DType::F32) => Box::new(Coded::<f32>::open(&member.coded, shape)?),
                (Some(&method::BESIDE_FORECASTS), DType::F64) => Box::new(Coded::<f64>::open(&member.coded, shape)?),
                _ => {
                    let values =
                        crate::decompress::decompress_tile(&member.coded, member.dtype, &member.treatment, &region)?;
                    Box::new(Plain { values, fill, n: shape[1] * shape[2] * shape[3], step: 0 })
                }
            });
        }
        if first + n_steps > self.group.times.len() {
            return Err(Error::corrupt("more steps than times"));
        }
        // 2. Step by step, each beside its forecast.
        let mut past = Past::new(&*self.forecasts.model, &self.group, first, &self.statics);
        let mut runs = opened.iter_mut().map(|m| m.start()).collect::<Result<Vec<_>>>()?;
        for k in 0..n_steps {
            let step = first + k;
            let forecast = if runs.iter().any(|r| r.needs_forecast(k)) { past.forecast(step)? } else { None };
            let mut frame = vec![];
            for (m, run) in runs.iter_mut().enumerate() {
                let of_member = forecast.as_ref().map(|f| &f[m][..]);
                frame.push(run.step(k, of_member).context(|| format!("step {step}, member {m}"))?);
            }
            past.see(step, &frame)?;
        }
        runs.into_iter().map(|run| run.finish()).collect()
    }
}

/// A member's tile of an interval.
trait Member {
    fn start(&mut self) -> Result<Box<dyn Run + '_>>;
}

/// A member's tile at work.
trait Run {
    fn needs_forecast(&self, step: usize) -> bool;
    /// The values of the next step, as the model takes them.
    fn step(&mut self, step: usize, forecast: Option<&[Option<Vec<f32>>]>) -> Result<Vec<f32>>;
    fn finish(self: Box<Self>) -> Result<Values>;
}

/// A tile that has no forecasts.
struct Plain {
    values: Values,
    fill: Option<u64>,
    n: usize,
    step: usize,
}

impl Member for Plain {
    fn start(&mut self) -> Result<Box<dyn Run + '_>> {
        let values = std::mem::replace(&mut self.values, Values::F32(vec![]));
        Ok(Box::new(Plain { values, ..*self }))
    }
}

impl Run for Plain {
    fn needs_forecast(&self, _: usize) -> bool {
        false
    }

    fn step(&mut self, step: usize, _: Option<&[Option<Vec<f32>>]>) -> Result<Vec<f32>> {
        self.step = step + 1;
        Ok(of_step(&self.values, self.fill, step, self.n))
    }

    fn finish(self: Box<Self>) -> Result<Values> {
        Ok(self.values)
    }
}

/// A tile coded beside forecasts.
struct Coded<'a, T: Rows> {
    parts: Parts<'a, T>,
    layout: Layout,
    coding: Coding,
    marks: Option<Vec<bool>>,
}

impl<'a, T: Rows> Coded<'a, T> {
    fn open(coded: &'a [u8], shape: [usize; 4]) -> Result<Self> {
        let (parts, layout) = Parts::<T>::read(&mut Reader::new(&coded[1..]), shape)?;
        let coding = parts.plan.coding();
        let marks = (!parts.specials.is_empty()).then(|| parts.specials.marks(shape.iter().product()));
        Ok(Self { parts, layout, coding, marks })
    }
}

impl<T: Rows> Member for Coded<'_, T> {
    fn start(&mut self) -> Result<Box<dyn Run + '_>> {
        let Parts { plan, codes, base, step, .. } = &self.parts;
        let quantizer = Quantizer::with_step(0.0, *step);
        let decoding =
            Decoding::new(&self.layout, plan, &self.coding, codes, self.marks.as_deref(), *base, &quantizer, false)?;
        let n = self.layout.shape.iter().product();
        Ok(Box::new(Decoded {
            tile: self,
            decoding,
            sides: &self.parts.sides,
            n_digests: 0,
            out: Vec::with_capacity(n),
        }))
    }
}

struct Decoded<'a, T: Rows> {
    tile: &'a Coded<'a, T>,
    decoding: Decoding<'a, T>,
    sides: &'a [(u32, bool)],
    n_digests: usize,
    out: Vec<T>,
}

impl<T: Rows> Run for Decoded<'_, T> {
    fn needs_forecast(&self, step: usize) -> bool {
        let levels = self.tile.layout.shape[1];
        self.tile.parts.has_forecast[step * levels..][..levels].contains(&true)
    }

    fn step(&mut self, step: usize, forecast: Option<&[Option<Vec<f32>>]>) -> Result<Vec<f32>> {
        let [_, levels, ny, nx] = self.tile.layout.shape;
        let parts = &self.tile.parts;
        let mut agreed: Vec<Option<Vec<T>>> = vec![];
        let mut digest = Digest::default();
        for level in 0..levels {
            let image = step * levels + level;
            agreed.push(match forecast.and_then(|f| f[level].as_ref()) {
                _ if !parts.has_forecast[image] => None,
                None => return Err(Error::corrupt("a forecast where the model can give none")),
                Some(forecast) => {
                    let values = parts.agreement.recover::<T>(forecast, image * ny * nx, &mut self.sides);
                    digest.add(&values);
                    Some(values)
                }
            });
        }
        if self.needs_forecast(step) {
            let expected = parts.digests.get(self.n_digests).copied();
            self.n_digests += 1;
            if expected != Some(digest.finish()) {
                return Err(Error::new(
                    Kind::Device,
                    "the forecast is not the one that the archive was made with: it differs by more than was allowed for",
                ));
            }
        }
        let values = self.decoding.step(&agreed);
        let seen = values.iter().map(|v| v.to_f64() as f32).collect();
        self.out.extend(values);
        Ok(seen)
    }

    fn finish(self: Box<Self>) -> Result<Values> {
        self.decoding.finish()?;
        let mut out = self.out;
        self.tile.parts.specials.apply(&mut out);
        self.tile.parts.outliers.apply(&mut out);
        Ok(T::values(out))
    }
}
