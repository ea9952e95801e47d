//! Longer help texts, at most 100 columns wide: clap wraps them there.

/// Of the command; [`crate::Kind::exit_code`] gives the numbers.
pub const EXIT_STATUS: &str = "\
Exit status:
  0  success; decompress --recover: something was restored, warnings say what was not
  1  a value is beyond its bound, verify found another difference, or doctor one that is too large; evaluate: every cell failed
  2  the command line is wrong: an option, a bound, a shape, a file that is there already
  3  the input file is damaged or holds what can not be read
  4  the archive is damaged or incomplete
  5  the archive or input needs a feature or version that this build lacks
  6  the operating system refused: no such file, no permission, disk full
  7  the GPU, its driver or its compiler failed, or a forecast is not the one an archive was made with";

/// Below `residuum --help`.
pub const EXAMPLES: &str = "\
Examples:
  residuum compress era5.nc --rel 1e-3            each variable within a thousandth of its range
  residuum compress era5.nc --rel 1e-3 --bound t2m=abs:0.01 --bound q=pw-rel:1e-3
  residuum suggest era5.nc                        what bounds would give, from samples
  residuum verify era5.nc era5.nc.rsd             check every value against its bound
  residuum decompress era5.nc.rsd -o restored.nc
  residuum decompress era5.nc.rsd --var t2m --range time=0:24 -o t2m.nc
  residuum inspect era5.nc.rsd                    what is in there, and where the bytes go";

/// Below `residuum compress --help`.
pub const COMPRESS_EXAMPLES: &str = "\
Bounds (x the value, y what comes back):
  --abs X      |y - x| <= X, in the units of the data
  --rel X      |y - x| <= X * (max - min) of the variable's finite values,
               but for fill values and -0.0
  --pw-rel X   |y - x| <= X * |x| at every point
  --psnr DB    20 log10((max - min) / rmse) >= DB
  --lossless   every bit
NaN, infinities, -0.0 and fill values always come back bit for bit, as do integers, text, scalars
and coordinates.

Bounds file (TOML):
  bound = \"rel:1e-3\"
  [bounds]
  t2m = \"abs:0.01\"
  q = \"pw-rel:1e-3\"

Examples:
  residuum compress era5.nc --rel 1e-3                       makes era5.nc.rsd
  residuum compress run/*.nc --bounds bounds.toml -o out/    an archive for each, in a folder
  residuum compress packed.nc --unpack --abs 0.01            packed integers as the numbers they are
  residuum compress p.f32 --shape 256,384,384 --dtype f32 --abs 1e-4
  model | residuum compress - --shape 721,1440 --dtype f64 --psnr 80 -o - > step.rsd

An archive gets its name when it is complete. A killed run leaves .NAME.XXXXXX.part beside it, whose
whole tiles `residuum decompress --recover` restores.";

/// Below `residuum decompress --help`.
pub const DECOMPRESS_EXAMPLES: &str = "\
The format is --format, else what the output's ending names, else that of the source.

Examples:
  residuum decompress era5.nc.rsd                            makes era5.nc
  residuum decompress era5.nc.rsd -o era5.zarr
  residuum decompress era5.nc.rsd --var t2m --range latitude=0:90 -o north.nc
  residuum decompress p.f32.rsd --range 0=10:20 -o - --format raw | consumer
  residuum decompress killed.rsd --recover -o what_is_left.nc";

/// Below `residuum weights --help`.
#[cfg(feature = "forecast")]
pub const WEIGHTS_EXAMPLES: &str = "\
Examples:
  residuum weights import aurora-0.25-small-pretrained.ckpt -o aurora-small.safetensors
  residuum weights inspect aurora-small.safetensors";

/// Below `residuum evaluate --help`.
pub const EVALUATE_EXAMPLES: &str = "\
Suite file (TOML), paths relative to it:
  name = \"ERA5\"
  bounds = [\"rel:1e-2\", \"rel:1e-3\"]
  repetitions = 1
  [[dataset]]
  name = \"era5\"
  paths = [\"era5.nc\"]
  variables = [\"t2m\"]                 # all fields if left out
  ranges = { time = \"0:8\" }
  unpack = true
  [[method]]
  name = \"balanced\"
  residuum = [\"--effort\", \"balanced\"]   # any options of compress but bounds
  [[method]]
  name = \"Aurora\"
  residuum = [\"--forecast\", \"aurora.safetensors\"]
  [[method]]
  name = \"SZ3\"
  peer = \"sz3\"                       # or zfp; builds with feature `peers`, one thread
  [[method]]
  name = \"zstd\"
  command.compress = [\"zstd\", \"-q\", \"{input}\", \"-o\", \"{archive}\"]
  command.decompress = [\"zstd\", \"-dq\", \"{archive}\", \"-o\", \"{output}\"]

In commands {abs}, {dtype}, {seed}, the number of values (n, in braces) and the arguments {dims},
{dims_fastest_first} are filled in too. What is measured of a file is copied to the temporary folder
first; with --forecast all of its variables are compressed together. Maps are drawn of the middle one of the bounds.";

pub const INSPECT_GLOSSARY: &str = "\
What the words mean:
  tile       part of a variable that is compressed, and read, by itself; an image is its last two axes
  predictor  what values are guessed by: lorenzo and interp from neighbours, fitted from neighbours (taps),
             earlier steps and other levels with weights fitted to the data, `wrap` around the globe
  codes      how many steps (twice the bound, about) values are off their prediction, after coding;
             contexts are the groups of codes that have a distribution of their own
  specials   runs of NaN, infinities, fill values and -0.0, kept bit for bit
  outliers   values that no code brings back within the bound, kept bit for bit
  signs      where the sign changes (bounds relative to each value)
  plan       what was fitted: taps, weights, distributions
  head       all the rest of a tile";
