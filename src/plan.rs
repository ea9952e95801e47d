//! What was decided for a variable; stored in the archive. [`crate::config`] has what was asked.

use crate::bound::{Bound, Resolved, Stats};
use crate::error::{Error, Result};
use crate::tile::Tiling;
use minicbor::{Decode, Encode};

/// How a variable is stored.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Plan {
    /// Index into the schema's variables.
    #[n(0)]
    pub variable: u32,
    /// Within which bound.
    #[n(1)]
    pub treatment: Treatment,
    /// In which tiles.
    #[n(2)]
    pub tiling: Tiling,
    /// The model that forecasts it, together with others, if one does.
    #[n(3)]
    pub forecast: Option<Beside>,
}

/// A model whose forecasts a variable is coded beside, or that looks at the variable.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Beside {
    /// Name of the model in the registry.
    #[n(0)]
    pub model: String,
    /// SHA-256 of its weights; empty for a model without.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub digest: Vec<u8>,
    /// What each level is to the model, one entry for a variable without levels: name, and pressure in hPa if it has one. `None` for those
    /// that the model does not know.
    #[n(2)]
    pub levels: Vec<Option<(String, Option<u32>)>>,
    /// Steps that are restored together: a whole number of tiles. The first of them have no forecast, but from a codec of frames.
    #[n(3)]
    pub interval: u64,
    /// Program and library that made the forecasts, and the device if others may make slightly different ones.
    #[n(4)]
    pub made_on: Option<String>,
}

/// Exactly or within a bound.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Treatment {
    /// Bit for bit.
    #[n(0)]
    Exact,
    /// Within a bound.
    #[n(1)]
    Lossy {
        /// The bound as asked for.
        #[n(0)]
        asked: Bound,
        /// What it means for these values.
        #[n(1)]
        resolved: Resolved,
        /// Bits of the fill value.
        #[n(2)]
        fill: Option<u64>,
        /// Statistics of the values, where the bound needed them.
        #[n(3)]
        stats: Option<Stats>,
    },
}

impl Plan {
    /// Refuses plans, read from an archive, that are out of range.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn check(&self, max_tile_values: u64) -> Result<()> {
        self.tiling.check(max_tile_values)?;
        let Some(beside) = &self.forecast else { return Ok(()) };
        let Tiling { axis, len, steps, .. } = self.tiling;
        if axis != 0 || steps.is_some() || beside.interval == 0 || !beside.interval.is_multiple_of(len.max(1)) {
            return Err(Error::corrupt("intervals of forecasts that are no whole tiles"));
        }
        Ok(())
    }
}
