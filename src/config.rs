//! What the user asks for: bounds, predictor, tile size. [`crate::plan`] has what was decided.

use crate::bound::Bound;
use crate::container::limits;
use crate::error::{Context, Error, Result};
use crate::field::DType;
use crate::io::{Schema, Variable};
use crate::tile;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Which predictors may be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PredictorChoice {
    /// The cheapest on samples of each tile.
    #[default]
    Auto,
    /// No prediction.
    None,
    /// Lorenzo: the corner of a box from its other corners.
    Lorenzo,
    /// Multi-level interpolation.
    Interp,
    /// Fitted stencils with contexts, for tiles whose last two axes have at least 512 values; the cheaper of [`Self::Lorenzo`] and
    /// [`Self::Interp`] for smaller ones, which the fits would make larger. `inspect` shows which it was.
    Fitted,
    /// The forecast of a model itself, without any step in space: how forecasts were put in front of SZ3 in arXiv 2606.14353. For comparison only; variables
    /// that the model does not forecast are coded as with [`Self::Auto`].
    Forecast,
}

/// How hard to try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Lorenzo or interpolation, then Huffman: several times faster than the others.
    Fast,
    /// Fitted predictor and contexts, fitted once to a sample.
    #[default]
    Balanced,
    /// The same, fitted to more of the data: a few per cent smaller, some three times slower to compress.
    Best,
}

impl std::str::FromStr for Effort {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "fast" => Ok(Self::Fast),
            "balanced" => Ok(Self::Balanced),
            "best" => Ok(Self::Best),
            _ => Err(Error::usage(format!("{text:?} is no effort; there are fast, balanced, best"))),
        }
    }
}

impl std::str::FromStr for PredictorChoice {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            "lorenzo" => Ok(Self::Lorenzo),
            "interp" => Ok(Self::Interp),
            "fitted" => Ok(Self::Fitted),
            "forecast" => Ok(Self::Forecast),
            _ => Err(Error::usage(format!(
                "{text:?} is no predictor; there are auto, none, lorenzo, interp, fitted, forecast"
            ))),
        }
    }
}

/// What to do, with a default for everything but the bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Bound of all variables that have none of their own.
    pub bound: Bound,
    /// Bounds by variable name.
    pub bounds: BTreeMap<String, Bound>,
    /// Which predictors may be chosen.
    pub predictor: PredictorChoice,
    /// How hard to try.
    pub effort: Effort,
    /// Bytes of values in a tile, about: more compress better and take more memory.
    pub tile_bytes: u64,
    /// Whether every tile is decoded and compared with its values before it is written.
    pub verify: bool,
}

/// Why else a variable is kept bit for bit, which its values tell.
pub(crate) const UNWRITTEN: &str = "values that were never written are among those missing, with another value";

/// Default size of a tile: with all working copies some ten times as much is in memory.
pub const DEFAULT_TILE_BYTES: u64 = 32 << 20;

impl Config {
    /// Compress within `bound`.
    pub fn new(bound: Bound) -> Self {
        Self {
            bound,
            bounds: BTreeMap::new(),
            predictor: PredictorChoice::Auto,
            effort: Effort::default(),
            tile_bytes: DEFAULT_TILE_BYTES,
            verify: false,
        }
    }

    /// A bound for one variable.
    pub fn with_bound(mut self, variable: impl Into<String>, bound: Bound) -> Self {
        self.bounds.insert(variable.into(), bound);
        self
    }

    /// Use only this predictor.
    pub fn with_predictor(mut self, predictor: PredictorChoice) -> Self {
        self.predictor = predictor;
        self
    }

    /// Try as hard as this.
    pub fn with_effort(mut self, effort: Effort) -> Self {
        self.effort = effort;
        self
    }

    /// Bytes of values in a tile, about.
    pub fn with_tile_bytes(mut self, bytes: u64) -> Self {
        self.tile_bytes = bytes;
        self
    }

    /// Decode and compare every tile before it is written. Costs about half as much time again.
    pub fn with_verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Reads bounds from a TOML file:
    ///
    /// ```toml
    /// bound = "rel:1e-3"      # all variables but
    /// [bounds]
    /// t = "abs:0.01"
    /// q = "pw-rel:1e-3"
    /// ```
    ///
    /// # Errors
    /// `Usage` if the file says something that is not understood, `Io` if it can not be read.
    pub fn read_bounds(path: &Path) -> Result<(Option<Bound>, BTreeMap<String, Bound>)> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            bound: Option<String>,
            #[serde(default)]
            bounds: BTreeMap<String, String>,
        }
        let place = || path.display().to_string();
        let text = std::fs::read_to_string(path).context(place)?;
        let file: File = toml::from_str(&text).map_err(|e| Error::usage(e.to_string())).context(place)?;
        let bound = file.bound.map(|b| b.parse()).transpose().context(place)?;
        let bounds = file.bounds.into_iter().map(|(name, b)| Ok((name, b.parse()?))).collect::<Result<_>>();
        Ok((bound, bounds.context(place)?))
    }

    /// The bound of the variable `name` (without leading slash).
    pub fn bound_of(&self, name: &str) -> Bound {
        let own = self.bounds.get(name).or_else(|| self.bounds.get(&format!("/{name}")));
        *own.unwrap_or(&self.bound)
    }

    /// Refuses bounds for variables that are not there: a misspelt name must not mean another bound.
    ///
    /// # Errors
    /// `Usage`, with the names that there are.
    pub fn check_names(&self, schema: &Schema) -> Result<()> {
        self.bound.check()?;
        for (name, bound) in &self.bounds {
            bound.check().context(|| format!("variable {name:?}"))?;
            let wanted = name.trim_start_matches('/');
            let Some(variable) = schema.variables.iter().find(|v| v.name() == wanted) else {
                let names: Vec<_> = schema.variables.iter().map(Variable::name).collect();
                return Err(Error::usage(format!("a bound names {name:?}; there are: {}", names.join(", "))));
            };
            if !variable.dtype.is_float() && !bound.is_lossless() {
                return Err(Error::usage(format!(
                    "variable {name:?} is stored as {}, which is kept exactly; --unpack treats packed variables as floats",
                    variable.dtype
                )));
            }
        }
        Ok(())
    }

    /// Whether a floating-point variable is kept bit for bit: scalars, variables with several fill values, and, unless they have a bound
    /// of their own, coordinates and their bounds.
    pub fn is_kept_exact(&self, v: &Variable, is_coordinate: bool) -> bool {
        self.why_exact(v, is_coordinate).is_some()
    }

    /// Why a floating-point variable is kept bit for bit, if it is.
    pub(crate) fn why_exact(&self, v: &Variable, is_coordinate: bool) -> Option<&'static str> {
        let has_own_bound = || self.bounds.keys().any(|name| name.trim_start_matches('/') == v.name());
        match () {
            _ if v.shape.is_empty() => Some("it is a scalar"),
            _ if v.has_several_fill_values() => Some("it has several fill values"),
            _ if is_coordinate && !has_own_bound() => Some("it is a coordinate without a bound of its own"),
            _ => None,
        }
    }

    /// Whether tiles whose bound is near the resolution of their type are looked at again, as zstd finds more in them: values whose codes take more than half
    /// of their bytes may be smaller stored exactly, and the bits of those stored one by one, if they are many, may be packed. With effort fast they
    /// are not, so that a GPU's bytes are always final before they leave it.
    pub(crate) fn looks_again(&self) -> bool {
        self.effort != Effort::Fast
    }

    /// Values in a tile of a variable of `shape` at most.
    pub(crate) fn max_tile_values(&self, dtype: DType, shape: &[u64]) -> u64 {
        let most = (self.tile_bytes / dtype.size().max(1) as u64).clamp(1 << 12, limits::MAX_TILE_VALUES / 8);
        let is_fitted = match self.predictor {
            PredictorChoice::Fitted => true,
            PredictorChoice::Auto => self.effort != Effort::Fast,
            _ => false,
        };
        if is_fitted && dtype.is_float() { most.min(tile::most_of_series(shape)) } else { most }
    }
}
