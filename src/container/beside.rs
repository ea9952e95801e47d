//! Tiles that were coded beside a model's forecasts.

use super::Archive;
use crate::codes::TileCodes;
use crate::error::{Context, Error, Result};
use crate::field::Values;
use crate::forecast::group::{Group, Role};
use crate::forecast::series::{CodedMember, Decoder, Forecasts};
use crate::forecast::{Key, series};
use crate::tile;
use std::io::{Read, Seek};

impl<R: Read + Seek> Archive<R> {
    /// Has `forecasts` repeat those that variables were coded beside. Without, such variables are refused.
    ///
    /// # Errors
    /// `Usage` if the archive was made with another model, or none; else as [`Archive::tile`].
    pub fn set_forecasts(&mut self, forecasts: Forecasts) -> Result<()> {
        let mut roles: Vec<(usize, Role)> = vec![];
        for (i, stored) in self.variables.iter().enumerate() {
            let Some(beside) = stored.as_ref().and_then(|s| s.plan.forecast.as_ref()) else { continue };
            if beside.digest[..] != forecasts.digest {
                let (made, given) = (hex(&beside.digest), hex(&forecasts.digest));
                let (model, name) = (&beside.model, &forecasts.name);
                return Err(Error::usage(format!(
                    "made with weights of {model} whose SHA-256 is {made}; those given, of {name}, have {given}"
                )));
            }
            roles.push((i, beside.levels.iter().map(|level| level.as_ref().map(key)).collect()));
        }
        if roles.is_empty() {
            return Err(Error::usage("the archive was made without forecasts"));
        }
        let schema = self.schema.clone();
        let mut read = |i: usize| self.read_all(i);
        let group = Group::new(&schema, &roles, &mut read)?;
        let mut statics = vec![];
        for (variable, key) in &group.statics {
            let values = self.read_all(*variable)?;
            let fill = self.schema.fill_bits(*variable);
            statics.push((key.clone(), series::of_step(&values, fill, 0, values.len())));
        }
        self.forecasts = Some(Decoder::new(forecasts, group, statics));
        Ok(())
    }

    /// Name and SHA-256 of the weights that the archive needs, if it needs any.
    pub fn forecasts_needed(&self) -> Option<(String, String)> {
        let beside = self.variables.iter().flatten().find_map(|s| s.plan.forecast.as_ref())?;
        Some((beside.model.clone(), hex(&beside.digest)))
    }

    /// The values of such a tile.
    pub(super) fn beside_forecasts(&mut self, variable: usize, tile: u64) -> Result<Values> {
        let Some(mut decoder) = self.forecasts.take() else {
            let (model, digest) = self.forecasts_needed().unwrap_or_default();
            return Err(Error::usage(format!(
                "made with forecasts of {model}: name its weights (SHA-256 {digest}) with --forecast"
            )));
        };
        let values = self.by(&mut decoder, variable, tile);
        self.forecasts = Some(decoder);
        values
    }

    /// The codes of such a tile.
    pub(super) fn codes_beside_forecasts(&mut self, _: usize, _: u64) -> Result<Option<TileCodes>> {
        Ok(None)
    }

    fn by(&mut self, decoder: &mut Decoder, variable: usize, tile: u64) -> Result<Values> {
        let dtype = self.schema.variables[variable].dtype;
        let n = tile::region_len(&self.variable(variable)?.plan.tiling.region(tile)) as usize;
        if let Some(values) = decoder.kept(variable, tile, dtype, n)? {
            return Ok(values);
        }
        let mut members = vec![];
        for member in decoder.members() {
            let name = || format!("which variable {:?} goes into", self.schema.variables[member].name().to_string());
            let name = name();
            let coded = self.coded_tile(member, tile).context(|| name)?;
            let plan = &self.variable(member)?.plan;
            let (treatment, tiling) = (plan.treatment.clone(), plan.tiling.clone());
            members.push(CodedMember { coded, dtype: self.schema.variables[member].dtype, treatment, tiling });
        }
        decoder.decode(tile, &members)?;
        decoder.kept(variable, tile, dtype, n)?.ok_or_else(|| Error::corrupt("variable takes no part in forecasts"))
    }
}

fn key((name, level_hpa): &(String, Option<u32>)) -> Key {
    Key { name: name.clone(), level_hpa: *level_hpa }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
