//! From coded tiles to values.

use super::bare;
use super::latents::Latents;
use super::machine::On;
use super::member::wanted_of;
use super::tile::{Parts, shape_of};
use super::{Forecasts, Machine, Past, check_size, in_a_row, of_step, on_host};
use crate::codes::{TileCodes, tile_codes};
use crate::compress::method;
use crate::encode::bytes::Reader;
use crate::error::{Context, Error, Kind, Result};
use crate::field::{DType, Values};
use crate::forecast::Model;
use crate::forecast::agreement::Digest;
use crate::forecast::group::Group;
use crate::forecast::names::Key;
use crate::plan::Treatment;
use crate::predict::fitted::decode::{Coding, Decoding};
use crate::predict::fitted::{Layout, Rows};
use crate::quantize::Quantizer;
use crate::spool::Spool;
use crate::stages::{Stage, time};
use crate::tile::{Tiling, region_len};
use candle_core::Tensor;
use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Decodes tiles, of all members at once, and keeps them: variables are asked for one after the other. Forecasts are its own, or lent.
pub struct Decoder<F = Forecasts> {
    forecasts: F,
    group: Group,
    statics: Vec<(Key, Tensor)>,
    /// Steps of an interval.
    interval: u64,
    /// What made the forecasts, if the archive says so.
    made_on: Option<String>,
    /// Values of all members of the tiles decoded so far.
    spool: Spool,
    /// Which of those are a member's of a tile, and how many of its steps are whole.
    places: HashMap<(usize, u64), (usize, usize)>,
    /// What the model saw last in a tile: the place of each step's first member, the others follow.
    ends: HashMap<u64, Vec<(usize, usize)>>,
    /// Whether what was just coded is restored, and there is no archive yet.
    pub(super) is_trial: bool,
}

/// What the archive has of a member.
pub struct CodedMember {
    /// The coded tile; `None` if it is lost.
    pub coded: Option<Vec<u8>>,
    /// Type of the values.
    pub dtype: DType,
    /// How they are stored.
    pub treatment: Treatment,
    /// How tiles are cut.
    pub tiling: Tiling,
    /// One value that stands for those that are lost. If there is none, an error ends it all.
    pub filler: Option<Values>,
}

impl<F: Borrow<Forecasts>> Decoder<F> {
    /// For an archive of this `group`; `statics` are the decoded values of its static fields. Intervals have so many steps, and the encoder's
    /// forecasts were `made_on` that machine.
    ///
    /// # Errors
    /// `Device` if the fields can not be put where the model is.
    pub fn new(
        forecasts: F,
        group: Group,
        statics: Vec<(Key, Tensor)>,
        interval: u64,
        made_on: Option<String>,
    ) -> Result<Self> {
        let (spool, places, ends) = (Spool::default(), HashMap::new(), HashMap::new());
        let there = |(key, field): (Key, Tensor)| Ok((key, field.to_device(forecasts.borrow().device())?));
        let statics = statics.into_iter().map(there).collect::<Result<_>>()?;
        Ok(Self { forecasts, group, statics, interval, made_on, spool, places, ends, is_trial: false })
    }

    /// What the CPU took over, and why.
    pub fn notes(&self) -> Vec<String> {
        self.forecasts.borrow().machine.notes()
    }

    /// Variables that are decoded together.
    pub fn members(&self) -> Vec<usize> {
        self.group.members.iter().map(|m| m.variable).collect()
    }

    /// The tiles that have to be decoded for a tile of `len` steps: from the first of its interval on, those that were not yet.
    pub fn missing(&self, tile: u64, len: u64) -> Vec<u64> {
        let a_interval = (self.interval / len.max(1)).max(1);
        let Some(first) = self.group.members.first() else { return vec![] };
        (tile - tile % a_interval..=tile).filter(|&t| !self.places.contains_key(&(first.variable, t))).collect()
    }

    /// The values of a variable in a tile decoded before, and how many of its steps are whole.
    ///
    /// # Errors
    /// `Io` if the disk refuses.
    pub fn kept(&mut self, variable: usize, tile: u64, dtype: DType) -> Result<Option<(Values, usize)>> {
        let Some(&(place, whole)) = self.places.get(&(variable, tile)) else { return Ok(None) };
        Ok(Some((Values::from_le_bytes(dtype, &self.spool.get(place)?)?, whole)))
    }

    /// Decodes a tile of all members, in the group's order; those before it in its interval were decoded before.
    ///
    /// # Errors
    /// `Corrupt` if bytes are damaged; `Disagreement` if a forecast is not the encoder's: the message names time and variable. Neither for members
    /// that have a filler: what they lack is filled. `Device`.
    pub fn decode(&mut self, tile: u64, members: &[CodedMember]) -> Result<()> {
        let before = self.before(tile, members)?;
        let decoded = self.restore(tile, members, &before)?;
        let mut ends = vec![];
        for (step, frame) in decoded.end {
            ends.push((step, self.spool.len()));
            for values in frame {
                self.spool.push(bytemuck::cast_slice(&on_host(&values)?))?;
            }
        }
        self.ends.insert(tile, ends);
        for (member, (values, whole)) in self.group.members.iter().zip(decoded.members) {
            self.places.insert((member.variable, tile), (self.spool.len(), whole));
            self.spool.push(values.as_bytes())?;
        }
        Ok(())
    }

    /// As [`Decoder::decode`], but keeps nothing: the model has seen what was `before`.
    pub(super) fn restore(&mut self, tile: u64, members: &[CodedMember], before: &Seen) -> Result<Decoded> {
        match self.tile(tile, members, None, before) {
            Err(e) if self.forecasts.borrow().machine.takes_over(&e) => self.tile(tile, members, None, before),
            decoded => decoded,
        }
    }

    /// The codes of a member (by its index) in a tile, for whoever studies them; the tile and those before it in its interval were decoded
    /// before. `None` if it is stored exactly.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn codes(&mut self, tile: u64, members: &[CodedMember], member: usize) -> Result<Option<TileCodes>> {
        let wanted = &members[member];
        match &wanted.coded {
            Some(coded) if !method::needs_model(coded) => tile_codes(coded, wanted.dtype, &wanted.tiling.region(tile)),
            Some(_) => {
                let before = self.before(tile, members)?;
                Ok(self.tile(tile, members, Some(member), &before)?.codes)
            }
            None => Ok(None),
        }
    }

    /// What the model has seen before a tile: as the encoder, it goes on with what codes said, not with what was stored apart.
    fn before(&mut self, tile: u64, members: &[CodedMember]) -> Result<Seen> {
        let mut seen = BTreeMap::new();
        let step = first_step(tile, members)?;
        if (step as u64).is_multiple_of(self.interval) || matches!(self.forecasts.borrow().model, Model::FieldCodec(_))
        {
            return Ok(seen);
        }
        let ends = tile.checked_sub(1).and_then(|before| self.ends.get(&before));
        for &(step, place) in ends.ok_or_else(|| Error::corrupt("tile is missing"))? {
            let of_member = |m: usize| in_a_row(bytemuck::pod_collect_to_vec(&self.spool.get(place + m)?));
            seen.insert(step, (0..members.len()).map(of_member).collect::<Result<_>>()?);
        }
        Ok(seen)
    }

    /// A tile of all members; also the codes of the one that is `studied`.
    fn tile(&mut self, tile: u64, members: &[CodedMember], studied: Option<usize>, before: &Seen) -> Result<Decoded> {
        let first = first_step(tile, members)?;
        let sizes = members.iter().map(|m| region_len(&m.tiling.region(tile)));
        check_size(sizes.sum(), members.first().map_or(0, |m| m.tiling.len))?;
        // 1. Whatever has no forecasts is decoded at once.
        let mut opened: Vec<Box<dyn Member + '_>> = vec![];
        let mut n_steps = usize::MAX;
        let mut latents = Latents::default();
        for (member, of_group) in members.iter().zip(&self.group.members) {
            let region = member.tiling.region(tile);
            let shape = shape_of(&region)?;
            if region[0].start as usize != first || (n_steps != usize::MAX && n_steps != shape[0]) {
                return Err(Error::corrupt("tiles of the variables differ"));
            }
            n_steps = shape[0];
            let name = || format!("variable {}", of_group.name);
            match (
                open(member, shape, &region, &mut latents, &self.forecasts.borrow().machine).context(name),
                &member.filler,
            ) {
                (Ok(member), _) => opened.push(member),
                (Err(e), Some(_)) if e.kind() == Kind::Corrupt => opened.push(Box::new(Lost { n: shape[0] })),
                (Err(e), _) => return Err(e),
            }
        }
        if first + n_steps > self.group.times.len() {
            return Err(Error::corrupt("more steps than times"));
        }
        // 2. Step by step, each beside its forecast.
        let start = first - first % self.interval as usize;
        let forecasts: &Forecasts = self.forecasts.borrow();
        let mut past = Past::new(&forecasts.model, &self.group, start, &self.statics);
        past.latents = latents;
        let mut last = BTreeMap::new();
        for (&step, frame) in before {
            past.see(step, frame)?;
            last.insert(step, frame.clone());
        }
        let mut runs = vec![];
        for (m, (member, coded)) in opened.iter_mut().zip(members).enumerate() {
            runs.push(match member.start(studied == Some(m), forecasts.machine.on(forecasts.device())) {
                Err(e) if coded.filler.is_some() && e.kind() == Kind::Corrupt => Box::new(Lost { n: n_steps }),
                run => run?,
            });
        }
        // The steps after which a member is lost.
        let mut whole = vec![n_steps; members.len()];
        for k in 0..n_steps {
            let step = first + k;
            let forecast = match runs.iter().any(|r| r.needs_forecast(k)).then(|| past.forecast(step)) {
                None => None,
                // Lost with its latent: so are the members that need it.
                Some(Err(e)) if members.iter().any(|m| m.filler.is_some()) && e.kind() == Kind::Corrupt => None,
                Some(forecast) => forecast.context(|| self.group.moment(step))?,
            };
            let mut frame = vec![];
            for (m, run) in runs.iter_mut().enumerate() {
                let n = members[m].tiling.shape[1..].iter().product::<u64>() as usize;
                if whole[m] < k {
                    frame.push(in_a_row(vec![0.0; n])?);
                    continue;
                }
                let place = || format!("{}, variable {}", self.group.moment(step), self.group.members[m].name);
                match run.step(k, forecast.as_ref().map(|f| &f[m][..])) {
                    Ok(values) => frame.push(values),
                    Err(e) if members[m].filler.is_some() && is_loss(&e) => {
                        whole[m] = k;
                        frame.push(in_a_row(vec![0.0; n])?);
                    }
                    Err(e) if e.kind() == Kind::Disagreement => return Err(self.differs()).context(place),
                    Err(e) => return Err(e).context(place),
                }
            }
            past.see(step, &frame)?;
            last.insert(step, frame);
            last.retain(|step, _| past.frames.contains_key(step));
        }
        let codes = studied.map(|m| runs[m].codes()).transpose()?.flatten();
        let mut out = vec![];
        for (m, run) in runs.into_iter().enumerate() {
            let n = crate::tile::region_len(&members[m].tiling.region(tile)) as usize;
            let name = || format!("variable {}", self.group.members[m].name);
            out.push(match (run.finish(n, whole[m] < n_steps, members[m].filler.as_ref()), &members[m].filler) {
                (Ok(values), _) => (values, whole[m]),
                (Err(e), Some(filler)) if is_loss(&e) => (filled(filler, n), 0),
                (Err(e), _) if e.kind() == Kind::Disagreement => return Err(self.differs()).context(name),
                (Err(e), _) => return Err(e).context(name),
            });
        }
        Ok(Decoded { members: out, codes, end: last })
    }

    /// Forecasts are not the encoder's.
    fn differs(&self) -> Error {
        let Forecasts { name, made_on: here, model, .. } = self.forecasts.borrow();
        if self.is_trial {
            return Error::disagreement(format!(
                "the forecast of {name} is another one when it is made again, by {here}: an archive could not be restored; \
                 a larger --tolerance may do, or no --forecast"
            ));
        }
        let there = self.made_on.as_deref().unwrap_or("an earlier version");
        let (exact, allowed) = match model.tolerance() {
            0.0 => (", which has the same bits on every device,", ""),
            _ => ("", " by more than was allowed for"),
        };
        let rest = "what comes before, and what follows the next keyframe, `residuum decompress --recover` restores";
        Error::disagreement(format!(
            "the forecast of {name}{exact} differs from the one that the archive was made with{allowed}: that was made by {there}; here it is {here}; \
             {rest}"
        ))
    }
}

/// What a model looks back on, by step: the values of each member.
pub(super) type Seen = BTreeMap<usize, Vec<Tensor>>;

/// The first step of a tile.
fn first_step(tile: u64, members: &[CodedMember]) -> Result<usize> {
    let first = members.iter().map(|m| m.tiling.region(tile)).find_map(|r| r.first().map(|r| r.start));
    first.map(|first| first as usize).ok_or_else(|| Error::corrupt("a tile without members"))
}

/// A tile of all members.
pub(super) struct Decoded {
    /// Values of each, and how many of its steps are whole.
    pub members: Vec<(Values, usize)>,
    codes: Option<TileCodes>,
    /// What the model saw last.
    pub end: Seen,
}

/// Errors after which the rest of a tile is lost.
fn is_loss(e: &Error) -> bool {
    matches!(e.kind(), Kind::Corrupt | Kind::Disagreement)
}

fn fill_of(treatment: &Treatment) -> Option<u64> {
    match treatment {
        Treatment::Lossy { fill, .. } => *fill,
        Treatment::Exact => None,
    }
}

fn filled(filler: &Values, n: usize) -> Values {
    match filler {
        Values::F32(v) => Values::F32(vec![v.first().copied().unwrap_or(f32::NAN); n]),
        Values::F64(v) => Values::F64(vec![v.first().copied().unwrap_or(f64::NAN); n]),
        other => other.clone(),
    }
}

/// Opens a member's tile; `latents` take in those that it holds for all members.
fn open<'a>(
    member: &'a CodedMember,
    shape: [usize; 4],
    region: &[Range<u64>],
    latents: &mut Latents,
    machine: &Machine,
) -> Result<Box<dyn Member + 'a>> {
    let coded = member.coded.as_ref().ok_or_else(|| Error::corrupt("tile is lost"))?;
    let lossy = matches!(member.treatment, Treatment::Lossy { .. });
    let mut reader = Reader::new(coded);
    let method = reader.byte()?;
    if method == method::WITH_LATENTS {
        latents.read(&mut reader, region[0].start as usize, shape[0])?;
    }
    Ok(match (method::needs_model(coded), member.dtype) {
        (true, DType::F32) if lossy => Box::new(Coded::<f32>::open(reader, shape)?),
        (true, DType::F64) if lossy => Box::new(Coded::<f64>::open(reader, shape)?),
        _ => {
            let values = machine.decompress(coded, member.dtype, &member.treatment, region)?;
            let fill = fill_of(&member.treatment);
            Box::new(Plain { values, fill, n: shape[1] * shape[2] * shape[3] })
        }
    })
}

/// A member's tile.
trait Member {
    /// At its first step; on a GPU, if one decodes and codes need not be kept.
    fn start<'a>(&'a mut self, keeps_codes: bool, on: Option<On<'a>>) -> Result<Box<dyn Run + 'a>>;
}

/// A member's tile at work.
pub(super) trait Run {
    fn needs_forecast(&self, step: usize) -> bool;
    /// The values of the next step, as the model takes them.
    fn step(&mut self, step: usize, forecast: Option<&[Option<Tensor>]>) -> Result<Tensor>;
    /// The codes, after the last step, if they were to be kept.
    fn codes(&self) -> Result<Option<TileCodes>> {
        Ok(None)
    }
    /// All `n` values. `is_cut` after an error: the steps from there on are made of `filler`s.
    fn finish(self: Box<Self>, n: usize, is_cut: bool, filler: Option<&Values>) -> Result<Values>;
}

/// A tile that is lost.
struct Lost {
    n: usize,
}

impl Member for Lost {
    fn start<'a>(&'a mut self, _: bool, _: Option<On<'a>>) -> Result<Box<dyn Run + 'a>> {
        Ok(Box::new(Lost { n: self.n }))
    }
}

impl Run for Lost {
    fn needs_forecast(&self, _: usize) -> bool {
        false
    }

    fn step(&mut self, _: usize, _: Option<&[Option<Tensor>]>) -> Result<Tensor> {
        Err(Error::corrupt("tile is lost"))
    }

    fn finish(self: Box<Self>, _: usize, _: bool, _: Option<&Values>) -> Result<Values> {
        Err(Error::corrupt("tile is lost"))
    }
}

/// A tile that has no forecasts.
struct Plain {
    values: Values,
    fill: Option<u64>,
    n: usize,
}

impl Member for Plain {
    fn start<'a>(&'a mut self, _: bool, _: Option<On<'a>>) -> Result<Box<dyn Run + 'a>> {
        let values = std::mem::replace(&mut self.values, Values::F32(vec![]));
        Ok(Box::new(Plain { values, ..*self }))
    }
}

impl Run for Plain {
    fn needs_forecast(&self, _: usize) -> bool {
        false
    }

    fn step(&mut self, step: usize, _: Option<&[Option<Tensor>]>) -> Result<Tensor> {
        in_a_row(of_step(&self.values, self.fill, step, self.n))
    }

    fn finish(self: Box<Self>, _: usize, _: bool, _: Option<&Values>) -> Result<Values> {
        Ok(self.values)
    }
}

/// A tile coded beside forecasts.
struct Coded<'a, T: Rows> {
    parts: Parts<'a, T>,
    layout: Layout,
    coding: Option<Coding>,
    marks: Option<Vec<bool>>,
}

impl<'a, T: Rows> Coded<'a, T> {
    fn open(mut reader: Reader<'a>, shape: [usize; 4]) -> Result<Self> {
        let (parts, layout) = Parts::<T>::read(&mut reader, shape)?;
        let coding = parts.plan.as_ref().map(|plan| plan.coding());
        let marks = (!parts.specials.is_empty()).then(|| parts.specials.marks(shape.iter().product()));
        Ok(Self { parts, layout, coding, marks })
    }
}

impl<T: Rows> Member for Coded<'_, T> {
    fn start<'a>(&'a mut self, keeps_codes: bool, on: Option<On<'a>>) -> Result<Box<dyn Run + 'a>> {
        #[cfg(feature = "cuda")]
        if let Some(on) = on.filter(|_| !keeps_codes)
            && let Some(decoded) = super::gpu::Decoded::start(on, &self.parts, &self.layout)?
        {
            return Ok(Box::new(decoded));
        }
        #[cfg(not(feature = "cuda"))]
        let _ = on;
        let Parts { plan, codes, base, step, sides, .. } = &self.parts;
        let marks = self.marks.as_deref();
        let [_, _, ny, nx] = self.layout.shape;
        let n = self.layout.shape.iter().product();
        let decoding = match (plan, &self.coding) {
            (Some(plan), Some(coding)) => {
                let quantizer = Quantizer::with_step(0.0, *step);
                let decoding = Decoding::new(&self.layout, plan, coding, codes, marks, *base, &quantizer, keeps_codes)?;
                Course::Fitted(decoding)
            }
            _ => Course::Bare(bare::Decoding::new(codes, n, marks, ny * nx, *base, *step)?),
        };
        let (digest, out) = (Digest::default(), Vec::with_capacity(n));
        Ok(Box::new(Restoring { tile: self, decoding, sides, digest, n_digests: 0, out }))
    }
}

enum Course<'a, T: Rows> {
    Fitted(Decoding<'a, T>),
    Bare(bare::Decoding<T>),
}

struct Restoring<'a, T: Rows> {
    tile: &'a Coded<'a, T>,
    decoding: Course<'a, T>,
    sides: &'a [(u32, bool)],
    digest: Digest,
    n_digests: usize,
    out: Vec<T>,
}

/// What a run says whose forecast is not the encoder's: the decoder knows who made it.
pub(super) fn differs() -> Error {
    Error::disagreement("the forecast differs")
}

/// The archive has forecasts that the model does not give.
pub(super) fn not_given(e: Error) -> Error {
    if e.kind() == Kind::Input { Error::corrupt(format!("a forecast where there is none: {e}")) } else { e }
}

/// `n` values: where those at hand end, `filler`s take their place, or NaN.
pub(super) fn filled_up<T: Rows>(mut values: Vec<T>, n: usize, filler: Option<&Values>) -> Vec<T> {
    let filler = filler.and_then(|f| T::slice(f)?.first().copied()).unwrap_or(T::NAN);
    values.resize(n, filler);
    values
}

impl<T: Rows> Run for Restoring<'_, T> {
    fn needs_forecast(&self, step: usize) -> bool {
        let levels = self.tile.layout.shape[1];
        self.tile.parts.has_forecast[step * levels..][..levels].contains(&true)
    }

    fn step(&mut self, step: usize, forecast: Option<&[Option<Tensor>]>) -> Result<Tensor> {
        let [_, levels, ny, nx] = self.tile.layout.shape;
        let parts = &self.tile.parts;
        let mut agreed: Vec<Option<Vec<T>>> = vec![];
        for level in 0..levels {
            let image = step * levels + level;
            let forecast = wanted_of(forecast, level, parts.has_forecast[image], ny * nx).map_err(not_given)?;
            agreed.push(match forecast {
                None => None,
                Some(forecast) => {
                    let values = parts.agreement.recover::<T>(&on_host(forecast)?, image * ny * nx, &mut self.sides);
                    self.digest.add(&values);
                    Some(values)
                }
            });
        }
        if self.needs_forecast(step) && !parts.digests.is_empty() {
            let expected = parts.digests.get(self.n_digests).copied();
            self.n_digests += 1;
            if expected != Some(self.digest.of_step()) {
                return Err(differs());
            }
        }
        let values = match &mut self.decoding {
            Course::Fitted(decoding) => time(Stage::Restore, || decoding.step(&agreed)),
            Course::Bare(decoding) => time(Stage::Restore, || decoding.step(step, &agreed)),
        };
        let seen = values.iter().map(|v| v.to_f64() as f32).collect();
        self.out.extend(values);
        in_a_row(seen)
    }

    fn codes(&self) -> Result<Option<TileCodes>> {
        let Parts { plan, codes: data, .. } = &self.tile.parts;
        match (&self.decoding, plan) {
            (Course::Fitted(decoding), Some(plan)) => {
                let (codes, bits) = decoding.codes(plan, data.len());
                Ok(Some(TileCodes { codes, bits }))
            }
            (Course::Bare(decoding), _) => decoding.codes(data, self.tile.marks.as_deref()).map(Some),
            _ => Ok(None),
        }
    }

    fn finish(self: Box<Self>, n: usize, is_cut: bool, filler: Option<&Values>) -> Result<Values> {
        let mut out = self.out;
        let whole = out.len();
        if is_cut {
            out.resize(n, T::NAN);
        } else {
            if self.digest.finish() != self.tile.parts.digest {
                return Err(differs());
            }
            if let Course::Fitted(decoding) = &self.decoding {
                decoding.finish()?;
            }
        }
        self.tile.parts.specials.apply(&mut out);
        self.tile.parts.outliers.apply(&mut out);
        // Also what was stored apart of the steps that are lost: nobody shall take a part for the whole.
        out.truncate(whole);
        Ok(T::values(filled_up(out, n, filler)))
    }
}
