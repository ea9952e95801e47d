//! What can be said on the command line, with the help texts.

use super::help::{COMPRESS_EXAMPLES, DECOMPRESS_EXAMPLES, EXAMPLES, EXIT_STATUS, INSPECT_GLOSSARY};
use crate::bound::Bound;
use crate::config::{Effort, PredictorChoice};
use crate::device::Choice;
use crate::field::DType;
use crate::io::Format;
use crate::io::select::NamedRange;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Error-bounded lossy compression of scientific fields: every value comes back within the bound you name.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_STATUS}"), subcommand_required = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Compress(CompressArgs),
    Decompress(DecompressArgs),
    Inspect(InspectArgs),
    Verify(VerifyArgs),
    Suggest(SuggestArgs),
    Evaluate(EvaluateArgs),
    #[command(hide = true)]
    EvaluateStep(StepArgs),
    #[cfg(feature = "forecast")]
    Weights(WeightsArgs),
    Doctor(DoctorArgs),
}

/// Look at the GPU: what there is, whether it writes the CPU's bytes, and how fast. Prints a report to send along with a question.
///
/// With --forecast, measure how far a model's forecasts differ from one way of running it to another, on the first steps of a file.
///
/// Exit status 7 if there is no GPU that works, 1 if it writes other bytes than the CPU, or if forecasts differ by more than the tolerance.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Weights of a model: its forecast of FILE in f32, with one thread, in f64 (an upper estimate of what another machine does), and on the GPU where this build
    /// runs models there.
    #[cfg(feature = "forecast")]
    #[arg(long, value_name = "WEIGHTS", requires = "file")]
    pub forecast: Option<PathBuf>,
    /// The tolerance that the differences are held against [default: the model's].
    #[cfg(feature = "forecast")]
    #[arg(long, value_name = "T", requires = "forecast", value_parser = tolerance)]
    pub tolerance: Option<f64>,
    /// File with steps to make a forecast of.
    #[cfg(feature = "forecast")]
    #[arg(value_name = "FILE", requires = "forecast")]
    pub file: Option<PathBuf>,
    /// Number of the GPU.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gpu: usize,
    /// Size of the field that is timed.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub mib: u64,
}

fn device(text: &str) -> Result<Choice, String> {
    text.parse().map_err(|e: crate::Error| e.to_string())
}

fn tolerance(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    if (0.0..1.0).contains(&value) { Ok(value) } else { Err("a part of a field's spread is meant: from 0 to 1".into()) }
}

/// Compress NetCDF, Zarr, .npy or raw files within an error bound.
#[derive(Debug, Args)]
#[command(after_help = COMPRESS_EXAMPLES)]
pub struct CompressArgs {
    /// Files or Zarr folders; - is standard input.
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Archive to write: a file, a folder, or - for standard output [default: INPUT.rsd].
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub default_bound: DefaultBound,
    /// Bound of one variable; MODE is abs, rel, pw-rel or psnr, or NAME=lossless. A coordinate that is named here is no longer kept exactly. Repeatable.
    #[arg(long, value_name = "NAME=MODE:VALUE", value_parser = named_bound, help_heading = "Bounds")]
    pub bound: Vec<(String, Bound)>,
    /// TOML file with bounds, see below. What the command line says wins.
    #[arg(long, value_name = "FILE", help_heading = "Bounds")]
    pub bounds: Option<PathBuf>,
    /// Compress only this variable, with its coordinates. Repeatable.
    #[arg(long, value_name = "NAME")]
    pub var: Vec<String>,
    /// Leave out this variable. Repeatable.
    #[arg(long, value_name = "NAME")]
    pub exclude: Vec<String>,
    /// Treat packed integers (scale_factor, add_offset) as the numbers they stand for, and compress those within the bound.
    #[arg(long)]
    pub unpack: bool,
    /// Shape of a raw input, slowest dimension first: 12,181,360.
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', requires = "dtype")]
    pub shape: Option<Vec<u64>>,
    /// Element type of a raw input, little-endian.
    #[arg(long, value_name = "TYPE", value_parser = dtypes(), requires = "shape")]
    pub dtype: Option<DType>,
    /// How hard to try: fast (interpolation and Huffman, several times faster), balanced (fitted predictor and contexts), best (fitted
    /// several times: a few per cent smaller, several times slower to compress).
    #[arg(long, value_name = "LEVEL", default_value = "balanced", value_parser = efforts())]
    pub effort: Effort,
    /// Predictor: the cheapest for each tile, or always the same. `fitted` needs images (the last two axes) of at least 512 values; smaller
    /// ones take the cheaper of lorenzo and interp. `forecast` is the forecast of --forecast itself, coded without any step in space: for comparison.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = predictors())]
    pub predictor: PredictorChoice,
    /// Size of the tiles that are compressed and read independently; they have at most 8 Mi values, that is 32 MiB of f32.
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub tile_mib: u64,
    /// Do not decode and compare every tile before it is written. Saves about a third of the time.
    #[arg(long)]
    pub no_verify: bool,
    /// Where tiles are coded: cpu, auto (a GPU where there is one, the CPU for what it can not do), cuda or cuda:N. The archive is the same; models of
    /// `--forecast` that run there too (feature candle-cuda) may make forecasts whose last bits differ.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    pub device: Choice,
    /// Weights of a model (safetensors, see `residuum weights`) whose forecasts of each step, made of the steps before as they will be
    /// restored, serve as side information; or of a codec of frames (VAEformer), whose few integers for each step are kept in the archive. Whoever
    /// restores the archive needs the same file. `advection` needs none: fields are carried along by the winds u and v of their level.
    #[arg(long, value_name = "WEIGHTS", help_heading = "Forecasts")]
    pub forecast: Option<PathBuf>,
    /// Steps that are restored together, at most: a step costs as many forecasts, and what is lost is lost up to the next such interval [default: those
    /// of a tile, and at least 32]. Beside a codec of frames it may be 1.
    #[arg(long, value_name = "N", requires = "forecast", help_heading = "Forecasts", value_parser = clap::value_parser!(u64).range(1..))]
    pub keyframe: Option<u64>,
    /// By how much forecasts may differ between the machines that write and that read the archive, as a part of a field's spread; `residuum doctor --forecast`
    /// measures it [default: the model's, with room to spare for f32 on any device; 0 for models that are exact].
    #[arg(long, value_name = "T", requires = "forecast", help_heading = "Forecasts", value_parser = tolerance)]
    pub tolerance: Option<f64>,
    /// Put the weights into the archive, so that nobody needs the file; at most 512 MiB.
    #[arg(long, requires = "forecast", help_heading = "Forecasts")]
    pub embed_weights: bool,
    /// Replace archives that are there already.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct DefaultBound {
    /// Largest error, in the units of the data.
    #[arg(long, value_name = "X", value_parser = number, allow_negative_numbers = true, help_heading = "Bounds")]
    abs: Option<f64>,
    /// Largest error as a fraction of the variable's range.
    #[arg(long, value_name = "X", value_parser = number, allow_negative_numbers = true, help_heading = "Bounds")]
    rel: Option<f64>,
    /// Largest error as a fraction of each value.
    #[arg(long, value_name = "X", value_parser = number, allow_negative_numbers = true, help_heading = "Bounds")]
    pw_rel: Option<f64>,
    /// Lowest peak signal-to-noise ratio.
    #[arg(long, value_name = "DB", value_parser = number, allow_negative_numbers = true, help_heading = "Bounds")]
    psnr: Option<f64>,
    /// Every bit back.
    #[arg(long, help_heading = "Bounds")]
    lossless: bool,
}

impl DefaultBound {
    /// The bound that was named, if any.
    pub fn get(&self) -> Option<Bound> {
        let numbers = [
            self.abs.map(Bound::abs),
            self.rel.map(Bound::rel),
            self.pw_rel.map(Bound::pw_rel),
            self.psnr.map(Bound::psnr),
            self.lossless.then_some(Bound::LOSSLESS),
        ];
        numbers.into_iter().flatten().next()
    }
}

/// Restore an archive, or a part of it, in any format.
#[derive(Debug, Args)]
#[command(after_help = DECOMPRESS_EXAMPLES)]
pub struct DecompressArgs {
    /// Archive; - is standard input.
    pub archive: PathBuf,
    /// File or Zarr folder to write, or - for standard output (.npy and raw) [default: ARCHIVE without .rsd].
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Format to write.
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    pub format: Option<Format>,
    /// Restore only this variable, with its coordinates where the format can hold them. Repeatable.
    #[arg(long, value_name = "NAME")]
    pub var: Vec<String>,
    /// Restore only these indices of a dimension, END excluded; unnamed dimensions by number, from 0. Repeatable.
    #[arg(long, value_name = "DIM=START:END", value_parser = named_range)]
    pub range: Vec<NamedRange>,
    /// Restore what is whole of an archive that is incomplete or damaged; fill values stand for tiles that are not. Warnings name what is lost;
    /// the exit status is 0 all the same.
    #[arg(long)]
    pub recover: bool,
    /// Where tiles are decoded: cpu, auto, cuda or cuda:N, as for compress. The values are the same.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    pub device: Choice,
    /// Weights of the model that the archive was made with, if it was made with one.
    #[arg(long, value_name = "WEIGHTS")]
    pub forecast: Option<PathBuf>,
    /// Replace an output that is there already.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub common: Common,
}

/// Show what an archive holds: what was asked, what was decided, where the bytes go.
#[derive(Debug, Args)]
#[command(after_help = INSPECT_GLOSSARY)]
pub struct InspectArgs {
    /// Archive.
    pub archive: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Compare an archive with the original: every value against its bound, everything else bit for bit.
///
/// Exit status 1 if anything differs that should not. Shape and type of a raw original come from the archive, which may have been made of the same values
/// in memory or in an .npy file.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The file or Zarr folder that was compressed; - is standard input.
    pub original: PathBuf,
    /// The archive made of it; - is standard input.
    pub archive: PathBuf,
    /// Weights of the model that the archive was made with, if it was made with one.
    #[arg(long, value_name = "WEIGHTS")]
    pub forecast: Option<PathBuf>,
    /// Print JSON; an infinite PSNR (no error at all) is null.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub common: Common,
}

/// Prepare weights of forecast models, from official checkpoints that you have downloaded.
#[cfg(feature = "forecast")]
#[derive(Debug, Args)]
#[command(after_help = super::help::WEIGHTS_EXAMPLES)]
pub struct WeightsArgs {
    #[command(subcommand)]
    pub command: WeightsCommand,
}

#[cfg(feature = "forecast")]
#[derive(Debug, Subcommand)]
pub enum WeightsCommand {
    Import(WeightsImportArgs),
    Inspect(WeightsInspectArgs),
}

/// Turn a checkpoint (.ckpt, .pth, .npz) into one safetensors file with the model's configuration. Nothing in a checkpoint is executed, nothing is
/// fetched.
#[cfg(feature = "forecast")]
#[derive(Debug, Args)]
pub struct WeightsImportArgs {
    /// Checkpoint.
    pub checkpoint: PathBuf,
    /// File to write [default: CHECKPOINT with the ending .safetensors].
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// JSON file with hyper-parameters that the checkpoint does not hold; published variants need none.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// NetCDF file with statistics that the model normalises by (GraphCast has three). Repeatable.
    #[arg(long, value_name = "FILE")]
    pub statistics: Vec<PathBuf>,
    /// Replace a file that is there already.
    #[arg(long)]
    pub force: bool,
    /// Print nothing but errors and warnings.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Show what weights are: model, variant, parameters, licence, digest.
#[cfg(feature = "forecast")]
#[derive(Debug, Args)]
pub struct WeightsInspectArgs {
    /// Weights that `residuum weights import` wrote.
    pub weights: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Estimate, for each variable, what bounds would give: ratio, bits a value and quality, from samples.
///
/// Seconds a variable, however large it is. Packed integers are taken as the numbers they stand for. Where the values lie on a lattice,
/// packed or packed once, its step is pointed out.
#[derive(Debug, Args)]
pub struct SuggestArgs {
    /// File or Zarr folder; - is standard input.
    pub input: PathBuf,
    /// Only this variable. Repeatable [default: all floating-point and packed fields of two axes and more].
    #[arg(long, value_name = "NAME")]
    pub var: Vec<String>,
    /// Try this bound: abs, rel, pw-rel or psnr. Repeatable [default: rel 1e-2 to 1e-5, powers of ten in between, half a packing step].
    #[arg(long, value_name = "MODE:VALUE", value_parser = bound)]
    pub bound: Vec<Bound>,
    /// Values of each variable that are looked at, at most.
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub sample_mib: u64,
    /// Shape of a raw input, slowest dimension first: 12,181,360.
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', requires = "dtype")]
    pub shape: Option<Vec<u64>>,
    /// Element type of a raw input, little-endian.
    #[arg(long, value_name = "TYPE", value_parser = dtypes(), requires = "shape")]
    pub dtype: Option<DType>,
    /// How hard to try: fast, balanced or best.
    #[arg(long, value_name = "LEVEL", default_value = "balanced", value_parser = efforts())]
    pub effort: Effort,
    /// Predictor: the cheapest, or always the same.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = predictors())]
    pub predictor: PredictorChoice,
    /// Print JSON; an infinite PSNR (no error at all) is null.
    #[arg(long)]
    pub json: bool,
    /// Number of threads [default: all cores].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

/// Measure compressors on data as a suite file says, and write a report.
///
/// Each cell (file, variable, bound, method, repetition) is compressed, restored and compared; results.jsonl gets a line for it. Cells that
/// have a line are not run again, failed ones only with --retry-failed. report.html, report.md and its figures are written anew.
///
/// SZ3 and zfp do not stream: a slab of up to 64 MiB is in memory, several times over. Exit status 1 if cells were to be run and all of them failed.
#[derive(Debug, Args)]
#[command(after_help = super::help::EVALUATE_EXAMPLES)]
pub struct EvaluateArgs {
    /// Suite file (TOML), see below.
    pub suite: PathBuf,
    /// Folder for results and report. Cells that it has results of are not run again.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Run cells that failed before again, once what was missing is there.
    #[arg(long)]
    pub retry_failed: bool,
    /// Number of threads [default: all cores].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
}

/// One direction of a method of `evaluate`, run by it.
#[derive(Debug, Args)]
pub struct StepArgs {
    /// File for what it took.
    pub report: PathBuf,
    /// `residuum compress …`, or `peer …`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Common {
    /// Number of threads [default: all cores].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Print nothing but errors and warnings.
    #[arg(short, long)]
    pub quiet: bool,
}

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "a number is meant, such as 0.001 or 1e-3".to_string())
}

fn named_range(text: &str) -> Result<NamedRange, String> {
    let parse = || {
        let (dimension, range) = text.rsplit_once('=')?;
        let (start, end) = range.split_once(':')?;
        let start = if start.is_empty() { 0 } else { start.parse().ok()? };
        let end = if end.is_empty() { None } else { Some(end.parse().ok()?) };
        let sound = !dimension.is_empty() && end.is_none_or(|e| start < e);
        sound.then(|| NamedRange { dimension: dimension.to_string(), start, end })
    };
    parse().ok_or_else(|| "write DIM=START:END with START below END, such as time=0:24".to_string())
}

fn bound(text: &str) -> Result<Bound, String> {
    text.parse::<Bound>().map_err(|e| e.to_string())
}

fn named_bound(text: &str) -> Result<(String, Bound), String> {
    let (name, bound) = text.rsplit_once('=').ok_or("write NAME=MODE:VALUE, such as t=abs:0.01")?;
    let bound = bound.parse::<Bound>().map_err(|e| e.to_string())?;
    Ok((name.trim_start_matches('/').to_string(), bound))
}

fn threads(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1024).contains(n)).ok_or_else(|| "a number from 1 to 1024".to_string())
}

fn efforts() -> impl TypedValueParser<Value = Effort> {
    PossibleValuesParser::new(["fast", "balanced", "best"]).try_map(|name| name.parse())
}

fn predictors() -> impl TypedValueParser<Value = PredictorChoice> {
    PossibleValuesParser::new(["auto", "none", "lorenzo", "interp", "fitted", "forecast"]).try_map(|name| name.parse())
}

/// Types that a raw file may hold.
const NUMBERS: [DType; 10] = [
    DType::F32,
    DType::F64,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
];

/// The same by numpy's names.
const NUMPY: [&str; NUMBERS.len()] =
    ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"];

fn dtypes() -> impl TypedValueParser<Value = DType> {
    let both = || NUMBERS.into_iter().zip(NUMPY);
    let named = move |name: String| both().find(|(d, numpy)| d.name() == name || *numpy == name).map(|(d, _)| d);
    let values = both().map(|(d, numpy)| PossibleValue::new(d.name()).alias(numpy));
    PossibleValuesParser::new(values.collect::<Vec<_>>()).try_map(move |name| named(name).ok_or("no such type"))
}

const FORMATS: [(&str, Format); 8] = [
    ("netcdf4", Format::NetCdf4),
    ("netcdf3", Format::NetCdf3),
    ("netcdf3-64bit", Format::NetCdf3Offset64),
    ("netcdf5", Format::NetCdf5),
    ("zarr2", Format::Zarr2),
    ("zarr3", Format::Zarr3),
    ("npy", Format::Npy),
    ("raw", Format::Raw),
];

fn formats() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(FORMATS.map(|f| f.0))
        .try_map(|name| FORMATS.into_iter().find(|f| f.0 == name).map(|f| f.1).ok_or("no such format"))
}

/// The name of a format on the command line.
pub fn format_name(format: Format) -> &'static str {
    FORMATS.iter().find(|f| f.1 == format).map_or("unknown", |f| f.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ranges() {
        let range = |s: &str| named_range(s).map(|r| (r.dimension, r.start, r.end)).ok();
        assert_eq!(range("time=0:24"), Some(("time".into(), 0, Some(24))));
        assert_eq!(range("a=b=:3"), Some(("a=b".into(), 0, Some(3))));
        assert_eq!(range("0=5:"), Some(("0".into(), 5, None)));
        for wrong in ["time", "time=3", "time=3:3", "time=4:3", "=1:2", "time=-1:2", "time=1:2:3"] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }
}
