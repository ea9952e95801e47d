//! From codes to values.

use super::course::Course;
use super::cpu::{End, Lane, RUN, Strip, Tile, whole};
use super::layout::Layout;
use super::plan::{self, Plan};
use super::rows::{N_BUCKETS, Rows};
use super::schedule::Schedule;
use super::site::Weights;
use crate::awake;
use crate::encode::bytes::Reader;
use crate::encode::rans;
use crate::encode::rans::stream::{Decoder, Table};
use crate::error::{Error, Result};
use crate::quantize::Quantizer;
use crate::scratch::{Unfilled, filled};

/// Bytes to values, with the decisions that were read before.
///
/// # Errors
/// `Corrupt` if the bytes are damaged.
pub fn decode<T: Rows>(
    plan: &Plan,
    data: &[u8],
    marks: Option<&[bool]>,
    shape: &[usize],
    base: T,
    q: &Quantizer<T>,
) -> Result<Vec<T>> {
    let schedule = Schedule::new(shape, plan.is_outwards);
    let taps = plan::taps(&schedule);
    let coding = plan.coding();
    let mut lanes = lanes(plan, data, marks, &coding, q.step, false)?;
    let tile = Tile { schedule: &schedule, taps: &taps, wrap: plan.wrap, base, step: q.step };
    let pixels = schedule.lattices.ny * schedule.lattices.nx;
    let weights = plan.weights(&taps);
    let values = filled(pixels * schedule.images.len(), |values| {
        let mut images: Vec<Option<Unfilled<'_, T>>> = values.chunks(pixels.max(1)).map(Some).collect();
        let in_coding_order = schedule.images.iter().map(|image| images[image.place].take()).collect();
        tile.run([&mut &weights[..], &mut &weights[..]], &mut lanes, in_coding_order, |image, pyramid| {
            if let Some(image) = image {
                whole(pyramid, schedule.lattices.nx, image);
            }
        });
    });
    lanes.iter().try_for_each(|lane| lane.end.decoder.finish())?;
    Ok(values)
}

/// The codes of a tile in raster order, and the bits that each took; arguments as for [`decode`].
///
/// # Errors
/// `Corrupt` if the bytes are damaged.
pub fn codes<T: Rows>(
    plan: &Plan,
    data: &[u8],
    marks: Option<&[bool]>,
    shape: &[usize],
    base: T,
    q: &Quantizer<T>,
) -> Result<(Vec<i32>, Vec<f32>)> {
    let schedule = Schedule::new(shape, plan.is_outwards);
    let taps = plan::taps(&schedule);
    let coding = plan.coding();
    let mut lanes = lanes(plan, data, marks, &coding, q.step, true)?;
    let tile = Tile { schedule: &schedule, taps: &taps, wrap: plan.wrap, base, step: q.step };
    let weights = plan.weights(&taps);
    tile.run([&mut &weights[..], &mut &weights[..]], &mut lanes, vec![(); schedule.images.len()], |(), _| {});
    lanes.iter().try_for_each(|lane| lane.end.decoder.finish())?;
    Ok(logged(plan, &lanes, data.len(), shape.iter().product()))
}

/// What the lanes logged, in raster order, with the bits of each code: by its probability, and scaled so that the sum is that of the streams.
fn logged<T: Rows>(plan: &Plan, lanes: &[Lane<Restorer<'_, T>>], n_bytes: usize, n: usize) -> (Vec<i32>, Vec<f32>) {
    let costs = rans::family::costs();
    let costs: Vec<_> = plan.distributions.iter().map(|&d| &costs[usize::from(d)]).collect();
    let (mut codes, mut bits) = (vec![0; n], vec![0.0f32; n]);
    let mut sum = 0.0;
    for log in lanes.iter().filter_map(|lane| lane.end.log.as_ref()) {
        for &Logged { at, code, context } in log {
            let cost = f32::from(costs[usize::from(context)][rans::token::split(code).0]) / 256.0;
            (codes[at as usize], bits[at as usize]) = (code, cost);
            sum += f64::from(cost);
        }
    }
    let factor = if sum > 0.0 { n_bytes as f64 * 8.0 / sum } else { 1.0 };
    bits.iter_mut().for_each(|b| *b *= factor as f32);
    (codes, bits)
}

/// A tile's bytes on their way to values, step by step, beside forecasts: the inverse of [`super::encode::Encoding`].
pub struct Decoding<'a, T: Rows> {
    layout: &'a Layout,
    tile: Tile<'a, T>,
    weights: Vec<Weights<T>>,
    lanes: Vec<Lane<Restorer<'a, T>>>,
    course: Course<T>,
}

impl<'a, T: Rows> Decoding<'a, T> {
    /// `coding` is the plan's. `keeps_codes` for [`Decoding::codes`].
    ///
    /// # Errors
    /// `Corrupt` if the bytes are damaged.
    #[expect(clippy::too_many_arguments, reason = "as for encoding, and what to keep")]
    pub fn new(
        layout: &'a Layout,
        plan: &Plan,
        coding: &'a Coding,
        data: &'a [u8],
        marks: Option<&'a [bool]>,
        base: T,
        q: &Quantizer<T>,
        keeps_codes: bool,
    ) -> Result<Self> {
        let lanes = lanes(plan, data, marks, coding, q.step, keeps_codes)?;
        let (schedule, taps) = (&layout.schedule, &layout.taps[..]);
        let tile = Tile { schedule, taps, wrap: plan.wrap, base, step: q.step };
        Ok(Self { layout, tile, weights: plan.weights(taps), lanes, course: Course::new(schedule) })
    }

    /// Decodes the next step beside the forecasts of its levels, but for values stored apart.
    pub fn step(&mut self, forecasts: &[Option<Vec<T>>]) -> Vec<T> {
        let Self { layout, tile, weights, lanes, course } = self;
        layout.step(course, tile, &mut &weights[..], lanes, forecasts)
    }

    /// The codes so far in raster order, if they were kept, and the bits that each took.
    pub fn codes(&self, plan: &Plan, n_bytes: usize) -> (Vec<i32>, Vec<f32>) {
        logged(plan, &self.lanes, n_bytes, self.layout.shape.iter().product())
    }

    /// After the last step.
    ///
    /// # Errors
    /// `Corrupt` if bytes are left, or were not enough.
    pub fn finish(&self) -> Result<()> {
        self.lanes.iter().try_for_each(|lane| lane.end.decoder.finish())
    }
}

/// What plan says of codes, ready for use: the context of each bucket, the distribution of each context.
pub struct Coding {
    /// By bucket; as long as any byte may ask.
    contexts: [u8; 256],
    tables: Vec<Table>,
}

impl Plan {
    /// How codes are coded.
    pub fn coding(&self) -> Coding {
        let tables = awake::map(self.distributions.clone(), usize::MAX, |d| Table::new(usize::from(d)));
        let mut contexts = [0; 256];
        contexts[..N_BUCKETS + 2].copy_from_slice(&self.contexts());
        Coding { contexts, tables }
    }
}

/// Decoders of the streams.
fn lanes<'a, T: Rows>(
    plan: &Plan,
    data: &'a [u8],
    marks: Option<&'a [bool]>,
    coding: &'a Coding,
    step: T,
    keeps_codes: bool,
) -> Result<Vec<Lane<Restorer<'a, T>>>> {
    let mut reader = Reader::new(data);
    let mut lanes = Vec::with_capacity(plan.n_streams);
    // Room at once for rows that are not very long: lanes that grow lists side by side wait for each other in the allocator.
    const ROOM: usize = 2 * RUN;
    for _ in 0..plan.n_streams {
        let decoder = Decoder::new(&mut Reader::new(reader.bytes()?))?;
        let log = keeps_codes.then(Vec::new);
        lanes.push(Lane::new(Restorer {
            decoder,
            marks,
            coding,
            step,
            contexts: Vec::with_capacity(ROOM),
            kept: Vec::with_capacity(ROOM),
            log,
        }));
    }
    if !reader.is_empty() {
        return Err(Error::corrupt("bytes after the last coded stream"));
    }
    Ok(lanes)
}

/// The end that has the codes.
struct Restorer<'a, T> {
    decoder: Decoder<'a>,
    marks: Option<&'a [bool]>,
    coding: &'a Coding,
    step: T,
    /// Of the codes of a run,
    contexts: Vec<u8>,
    /// and these, without what lies between rows.
    kept: Vec<i32>,
    /// Codes as they come, if somebody wants to see them.
    log: Option<Vec<Logged>>,
}

/// A code that was read.
struct Logged {
    /// Its place in the tile: tiles have fewer than 2^32 values.
    at: u32,
    code: i32,
    context: u8,
}

impl<T: Rows> End<T> for Restorer<'_, T> {
    fn rows(&mut self, strip: Strip, run: &mut [T], buckets: &[u8], codes: &mut [i32]) {
        let Self { decoder, marks, coding, step, contexts, kept, log } = self;
        let is_there = |start: usize, i: usize| marks.is_none_or(|marks| !marks[start + i * strip.dx]);
        contexts.clear();
        for (start, span) in strip.each() {
            let of_row = buckets[span].iter().map(|&b| coding.contexts[usize::from(b)]);
            match marks {
                None => contexts.extend(of_row),
                Some(_) => contexts.extend(of_row.enumerate().filter(|&(i, _)| is_there(start, i)).map(|(_, c)| c)),
            }
        }
        kept.resize(contexts.len(), 0);
        decoder.read(contexts, &coding.tables, kept);
        let (mut rest, mut of_rest) = (&kept[..], &contexts[..]);
        for (start, span) in strip.each() {
            let codes = &mut codes[span];
            let n_kept = match marks {
                None => {
                    codes.copy_from_slice(&rest[..strip.columns]);
                    strip.columns
                }
                Some(_) => {
                    let mut n = 0;
                    for (i, code) in codes.iter_mut().enumerate() {
                        let is_there = is_there(start, i);
                        *code = if is_there { rest[n] } else { 0 };
                        n += usize::from(is_there);
                    }
                    n
                }
            };
            if let Some(log) = log {
                let at = (0..strip.columns).filter(|&i| is_there(start, i)).map(|i| (start + i * strip.dx) as u32);
                let entries = at.zip(&rest[..n_kept]).zip(&of_rest[..n_kept]);
                log.extend(entries.map(|((at, &code), &context)| Logged { at, code, context }));
            }
            (rest, of_rest) = (&rest[n_kept..], &of_rest[n_kept..]);
        }
        T::reconstruct(run, *step, codes);
    }
}
