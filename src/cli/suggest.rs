//! `residuum suggest`: what bounds would cost, from samples.

use super::args::SuggestArgs;
use super::table::{self, Table};
use super::{input, note, print, set_threads};
use crate::bound::{Bound, Comparison, Resolved, Stats};
use crate::compress::{compress_tile, has_bits, plan_treatment, statistics_of};
use crate::config::{Config, UNWRITTEN};
use crate::decompress::decompress_tile;
use crate::error::{Context, Error, Result};
use crate::evaluate::{lattice, sample};
use crate::field::{DType, Values};
use crate::io::unpack::UnpackedSource;
use crate::io::{OpenOptions, Source, Variable};
use crate::plan::Treatment;
use crate::predict::fitted::Rows;
use crate::tile::region_len;
use serde_json::{Value, json};
use std::ops::Range;
use std::process::ExitCode;

/// Relative bounds that are tried if none are named.
const RELATIVE: [f64; 4] = [1e-2, 1e-3, 1e-4, 1e-5];

/// Images that the range is taken from, at most, and their bytes together.
const RANGE_IMAGES: u64 = 24;
const RANGE_BYTES: u64 = 64 << 20;

/// Prints, for each variable, what bounds would cost.
pub fn run(args: &SuggestArgs) -> Result<ExitCode> {
    set_threads(args.threads)?;
    args.bound.iter().try_for_each(Bound::check)?;
    let name = || input::name_of(&args.input);
    let options = OpenOptions { shape: args.shape.clone(), dtype: args.dtype };
    let opened = input::open(&args.input, &options).context(name)?;
    let packings: Vec<Option<f64>> = opened.source.schema().variables.iter().map(scale).collect();
    // Packed integers are shown as what they stand for: kept as they are, they have no bound.
    let mut source = input::unpacked(opened.source).context(name)?;
    for u in source.unreadable() {
        note(&format!("note: {}: variable {:?} is left out: {}", name(), u.name, u.reason));
    }
    let wanted = args.var.iter().map(|n| source.schema().find(n)).collect::<Result<Vec<_>>>().context(name)?;
    let schema = source.schema().clone();
    let coordinates = schema.coordinates();
    let is_meant = |i: &usize| match wanted[..] {
        [] => schema.variables[*i].dtype.is_float() && schema.variables[*i].shape.len() > 1 && !coordinates[*i],
        _ => wanted.contains(i),
    };
    let config = Config::new(Bound::LOSSLESS).with_effort(args.effort).with_predictor(args.predictor);
    let mut reports = Vec::new();
    for i in (0..schema.variables.len()).filter(is_meant) {
        let place = || format!("{}: variable {:?}", name(), schema.variables[i].name());
        let packed = packings.get(i).copied().flatten();
        // As `compress` with one bound for all.
        let exact = config.why_exact(&schema.variables[i], coordinates[i]);
        reports.push(Report::of(source.as_mut(), i, packed, exact, &config, args).context(place)?);
    }
    if reports.is_empty() && !args.json {
        note(&format!("note: {}: no floating-point or packed fields; name variables with --var", name()));
    }
    if args.json {
        let variables: Vec<Value> = reports.iter().map(Report::to_json).collect();
        print(&format!("{:#}\n", json!({ "file": name(), "effort": effort(args), "variables": variables })))?;
    } else {
        let texts: Vec<String> = reports.iter().map(|r| r.to_text(args)).collect();
        print(&texts.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn effort(args: &SuggestArgs) -> String {
    format!("{:?}", args.effort).to_lowercase()
}

/// Bytes of an image of a variable: its last two axes.
fn image_bytes(v: &Variable) -> u64 {
    v.shape.iter().rev().take(2).product::<u64>().max(1) * v.dtype.size() as u64
}

/// The step of packed integers.
fn scale(v: &Variable) -> Option<f64> {
    let scale = v.attribute("scale_factor").and_then(|a| a.floats().first().copied()).unwrap_or(1.0);
    UnpackedSource::is_packed(v).then_some(scale.abs())
}

/// Where the values of a variable stand on a lattice.
enum Packing {
    /// Integers with this `scale_factor`.
    Integers(f64),
    /// Floats that were packed before, with the same step in all images that were looked at.
    Floats(f64),
    /// The same, but with another step in every image (or several): the smallest and the largest.
    Varying(f64, f64),
}

/// What a bound would give.
struct Estimate {
    bound: Bound,
    /// Largest error, in the units of the data; none for bounds that have no such thing.
    absolute: Option<f64>,
    bytes: u64,
    psnr: f64,
    max_error_over_bound: f64,
}

/// A variable with its estimates.
struct Report {
    name: String,
    dtype: DType,
    shape: Vec<u64>,
    units: Option<String>,
    n_values: u64,
    n_sampled: u64,
    n_boxes: usize,
    stats: Stats,
    packing: Option<Packing>,
    /// Why it is kept exactly, if it is.
    exact: Option<&'static str>,
    estimates: Vec<Estimate>,
}

impl Report {
    fn of(
        source: &mut dyn Source,
        i: usize,
        packed: Option<f64>,
        exact: Option<&'static str>,
        config: &Config,
        args: &SuggestArgs,
    ) -> Result<Self> {
        let v = source.schema().variables[i].clone();
        let fill = source.schema().fill_bits(i);
        if !v.dtype.is_float() {
            return Err(Error::usage(format!(
                "is stored as {}, which is kept exactly: there is no bound to choose",
                v.dtype
            )));
        }
        let max_values = (args.sample_mib << 20) / v.dtype.size() as u64;
        let boxes = sample::boxes(&v.shape, max_values);
        let samples = boxes.iter().map(|b| source.read(i, b)).collect::<Result<Vec<_>>>()?;
        let mut stats = samples.iter().fold(Stats::default(), |s, values| s.merged(statistics_of(values, fill)));
        if sample::len(&boxes) < v.len() {
            // A bound relative to the range of a few levels would be another bound.
            for image in sample::spread(&v.shape, (RANGE_BYTES / image_bytes(&v)).clamp(2, RANGE_IMAGES)) {
                stats = stats.merged(statistics_of(&source.read(i, &image)?, fill));
            }
        }
        let packing = match packed {
            Some(step) => Some(Packing::Integers(step)),
            None => float_packing(&samples, &boxes, fill),
        };
        let unwritten = source.schema().unwritten_bits(i).filter(|&u| fill != Some(u));
        let has_unwritten = |u| samples.iter().any(|values| has_bits(values, u));
        let exact = exact.or_else(|| unwritten.is_some_and(has_unwritten).then_some(UNWRITTEN));
        let bounds = match &args.bound[..] {
            _ if exact.is_some() => vec![Bound::LOSSLESS],
            [] => bounds(&stats, packing.as_ref(), v.dtype),
            named => named.to_vec(),
        };
        let parts: Vec<(&Values, &[Range<u64>])> = samples.iter().zip(boxes.iter().map(Vec::as_slice)).collect();
        let estimates = bounds.iter().map(|b| estimate(&parts, *b, &stats, v.dtype, fill, config));
        Ok(Self {
            name: v.name().to_string(),
            dtype: v.dtype,
            units: match v.attribute("units") {
                Some(crate::io::AttributeValue::Text(text)) if text != "1" => Some(text.clone()),
                _ => None,
            },
            n_values: v.len(),
            n_sampled: sample::len(&boxes),
            n_boxes: boxes.len(),
            stats,
            packing,
            exact,
            estimates: estimates.collect::<Result<_>>()?,
            shape: v.shape,
        })
    }

    fn ratio(&self, e: &Estimate) -> f64 {
        (self.n_sampled * self.dtype.size() as u64) as f64 / e.bytes as f64
    }

    fn bits(&self, e: &Estimate) -> f64 {
        e.bytes as f64 * 8.0 / self.n_sampled.max(1) as f64
    }

    fn to_text(&self, args: &SuggestArgs) -> String {
        let units = self.units.as_ref().map(|u| format!(" {}", u.replace(char::is_control, "?"))).unwrap_or_default();
        let mut text =
            format!("{} ({}, {}", self.name.replace(char::is_control, "?"), self.dtype, table::shape(&self.shape));
        if self.stats.n > 0 {
            text += &format!(", {} to {}{units}", table::number(self.stats.min), table::number(self.stats.max));
        }
        text += ")\n";
        let mut rows = Table::new(&["bound"], &["largest error", "ratio", "bits/value", "PSNR"]);
        for e in &self.estimates {
            rows.row(vec![
                e.bound.to_string(),
                e.absolute.map_or("-".into(), table::number),
                table::number(self.ratio(e)),
                table::number(self.bits(e)),
                if e.psnr.is_finite() { format!("{:.1} dB", e.psnr) } else { "exact".into() },
            ]);
        }
        text += &rows.to_string();
        text += &match self.n_sampled == self.n_values {
            true => format!("all {} values compressed, effort {}\n", self.n_values, effort(args)),
            false => format!(
                "estimated from {} boxes with {} of {} values ({} %), effort {}; the range is that of the sample and of images spread over all\n",
                self.n_boxes,
                self.n_sampled,
                self.n_values,
                table::number(100.0 * self.n_sampled as f64 / self.n_values as f64),
                effort(args),
            ),
        };
        if let Some(reason) = self.exact {
            text += &format!("kept exactly, whatever the bound: {reason}\n");
        }
        text + &self.packing.as_ref().map(|p| p.to_text(&units)).unwrap_or_default()
    }

    fn to_json(&self) -> Value {
        let of = |e: &Estimate| {
            json!({
                "bound": e.bound.to_string(),
                "absolute": e.absolute,
                "ratio": self.ratio(e),
                "bits_per_value": self.bits(e),
                "psnr": e.psnr,
                "max_error_over_bound": e.max_error_over_bound,
            })
        };
        let (kind, step) = match self.packing {
            None => (None, None),
            Some(Packing::Integers(step)) => (Some("integers"), Some([step; 2])),
            Some(Packing::Floats(step)) => (Some("floats"), Some([step; 2])),
            Some(Packing::Varying(a, b)) => (Some("floats"), Some([a, b])),
        };
        json!({
            "name": self.name,
            "dtype": self.dtype.name(),
            "shape": self.shape,
            "n_values": self.n_values,
            "n_sampled": self.n_sampled,
            "n_boxes": self.n_boxes,
            "min": (self.stats.n > 0).then_some(self.stats.min),
            "max": (self.stats.n > 0).then_some(self.stats.max),
            "kept_exactly": self.exact,
            "packed_as": kind,
            "packing_step": step,
            "estimates": self.estimates.iter().map(of).collect::<Vec<_>>(),
        })
    }
}

impl Packing {
    fn to_text(&self, units: &str) -> String {
        let advice = "tighter bounds keep nothing more of the source but take more room\n";
        match *self {
            Self::Integers(step) => format!(
                "packed integers, step {}{units}: they are kept exactly unless --unpack; a bound of {} (below half a step) keeps every one apart,\n{advice}",
                table::number(step),
                table::number_below(step / 2.0),
            ),
            Self::Floats(step) => format!(
                "the values lie on a lattice of step {}{units} (packed once): a bound of {} (below half a step) keeps every one apart,\n{advice}",
                table::number(step),
                table::number_below(step / 2.0),
            ),
            Self::Varying(least, most) => format!(
                "the values lie on lattices (packed once, image by image) of steps {} to {}{units}: a bound below half a step keeps every one apart,\n{advice}",
                table::number(least),
                table::number(most),
            ),
        }
    }
}

/// The bounds that are shown: relative ones, absolute ones of whole powers of ten in the same range, half a step.
fn bounds(stats: &Stats, packing: Option<&Packing>, dtype: DType) -> Vec<Bound> {
    let mut bounds: Vec<Bound> = RELATIVE.map(Bound::rel).to_vec();
    let range = stats.range();
    if range > 0.0 && range.is_finite() {
        let (low, high) = ((RELATIVE[3] * range).log10().ceil() as i32, (RELATIVE[0] * range).log10().floor() as i32);
        // Not 10 to the power of: 0.001 shall be 0.001 to the last digit.
        bounds.extend((low..=high).rev().filter_map(|e| format!("1e{e}").parse().ok()).map(Bound::abs));
    }
    let half = match packing {
        Some(Packing::Integers(step) | Packing::Floats(step)) => Some(step / 2.0),
        _ => None,
    };
    bounds.extend(half.filter(|h| *h > 0.0).map(Bound::abs));
    // None that `compress` would refuse.
    bounds.retain(|b| b.resolve(stats, dtype).is_ok());
    bounds
}

/// The lattices of the images (last two axes) of samples.
fn float_packing(samples: &[Values], boxes: &[Vec<Range<u64>>], fill: Option<u64>) -> Option<Packing> {
    const MAX_IMAGES: usize = 8;
    let mut steps = Vec::new();
    let mut n_images = 0;
    for (values, region) in samples.iter().zip(boxes) {
        let len = region.iter().rev().take(2).map(|r| (r.end - r.start) as usize).product::<usize>().max(1);
        for image in 0..(values.len() / len).min(MAX_IMAGES / samples.len()) {
            let part = match values {
                Values::F32(v) => Values::F32(v[image * len..][..len].to_vec()),
                Values::F64(v) => Values::F64(v[image * len..][..len].to_vec()),
                _ => return None,
            };
            n_images += 1;
            steps.extend(lattice::step(&part, fill));
        }
    }
    // An image without enough different values says nothing.
    if steps.len() * 2 <= n_images {
        return None;
    }
    let (least, most) = steps.iter().fold((f64::INFINITY, 0.0f64), |(l, m), &s| (l.min(s), m.max(s)));
    Some(if most - least <= 1e-3 * most { Packing::Floats(least) } else { Packing::Varying(least, most) })
}

fn estimate(
    samples: &[(&Values, &[Range<u64>])],
    bound: Bound,
    stats: &Stats,
    dtype: DType,
    fill: Option<u64>,
    config: &Config,
) -> Result<Estimate> {
    let treatment = plan_treatment(bound, Some(*stats), dtype, fill)?;
    let resolved = match &treatment {
        Treatment::Exact => Resolved::Exact,
        Treatment::Lossy { resolved, .. } => *resolved,
    };
    let mut bytes = 0;
    let mut comparison = Comparison::default();
    for (values, region) in samples {
        // A tile of its own, wherever it lies.
        let region: Vec<_> = region.iter().map(|r| 0..r.end - r.start).collect();
        bytes += match values {
            Values::F32(v) => one(v, &region, &treatment, &resolved, config, &mut comparison)?,
            Values::F64(v) => one(v, &region, &treatment, &resolved, config, &mut comparison)?,
            other => return Err(Error::usage(format!("{} values have no bound", other.dtype()))),
        };
    }
    let absolute = match resolved {
        Resolved::Absolute(a) | Resolved::MeanSquare { absolute: a, .. } => Some(a),
        Resolved::Exact => Some(0.0),
        Resolved::PointWise(_) => None,
    };
    let max_error_over_bound = comparison.max_error_over_bound;
    Ok(Estimate { bound, absolute, bytes: bytes.max(1), psnr: comparison.psnr(), max_error_over_bound })
}

/// Compresses a tile, restores it, compares; gives its bytes.
fn one<T: Rows>(
    values: &[T],
    region: &[Range<u64>],
    treatment: &Treatment,
    resolved: &Resolved,
    config: &Config,
    comparison: &mut Comparison,
) -> Result<u64> {
    debug_assert_eq!(region_len(region), values.len() as u64);
    let coded = compress_tile(values, region, treatment, config)?;
    let restored = decompress_tile(&coded, T::DTYPE, treatment, region)?;
    let fill = match treatment {
        Treatment::Lossy { fill, .. } => fill.map(T::from_bits),
        Treatment::Exact => None,
    };
    comparison.add(values, T::slice(&restored).unwrap_or_default(), resolved, fill);
    Ok(coded.len() as u64)
}
