//! Tiles that were coded beside a model's forecasts.

use super::Archive;
use crate::codes::TileCodes;
use crate::error::{Context, Error, Kind, Result};
use crate::field::Values;
use crate::forecast::group::{Group, Role};
use crate::forecast::series::{CodedMember, Decoder, Forecasts, Machine};
use crate::forecast::{Key, advection, series};
use crate::plan::Beside;
use std::io::{Read, Seek};

impl<R: Read + Seek> Archive<R> {
    /// Has `forecasts` repeat those that variables were coded beside. Without, such variables are refused.
    ///
    /// # Errors
    /// `Usage` if the archive was made with another model, or none; else as [`Archive::tile`].
    pub fn set_forecasts(&mut self, forecasts: Forecasts) -> Result<()> {
        for beside in self.variables.iter().flatten().filter_map(|s| s.plan.forecast.as_ref()) {
            if beside.digest != forecasts.digest || beside.model != forecasts.name {
                let (made, given) = (hex(&beside.digest), hex(&forecasts.digest));
                let (model, name) = (&beside.model, &forecasts.name);
                return Err(Error::usage(format!(
                    "made with weights of {model} whose SHA-256 is {made:?}; those given, of {name}, have {given:?}"
                )));
            }
        }
        self.repeat(|_| Ok(forecasts))
    }

    /// Has the forecasts repeated on a machine, once a variable is read that needs them: if the model is at hand ([`Archive::find_forecasts`]). It is
    /// the CPU by default.
    pub fn set_machine(&mut self, machine: Machine) {
        self.machine = machine;
    }

    /// Opens the model that the archive needs, if it is at hand, on a machine: it needs no weights, or they are in the archive. Reading a variable does
    /// so too.
    ///
    /// # Errors
    /// As [`Forecasts::of_bytes`] and [`Archive::set_forecasts`].
    pub fn find_forecasts(&mut self, machine: Machine) -> Result<()> {
        match self.forecasts_needed() {
            None => return Ok(()),
            Some(beside) if beside.model == advection::NAME => {
                return self.repeat(|group| Ok(Forecasts::advection(group)?.on(machine)));
            }
            Some(_) => {}
        }
        match self.weights()? {
            Some(weights) => self.set_forecasts(Forecasts::of_bytes(&weights, machine)?),
            None => Ok(()),
        }
    }

    /// What a GPU left to the CPU beside forecasts, and why.
    pub fn forecast_notes(&self) -> Vec<String> {
        self.forecasts.as_ref().map_or_else(Vec::new, Decoder::notes)
    }

    /// Has the forecasts of a model repeated, which may depend on the group of variables.
    fn repeat(&mut self, forecasts: impl FnOnce(&Group) -> Result<Forecasts>) -> Result<()> {
        let mut roles: Vec<(usize, Role)> = vec![];
        for (i, stored) in self.variables.iter().enumerate() {
            if let Some(beside) = stored.as_ref().and_then(|s| s.plan.forecast.as_ref()) {
                roles.push((i, beside.levels.iter().map(|level| level.as_ref().map(key)).collect()));
            }
        }
        if roles.is_empty() {
            return Err(Error::usage("the archive was made without forecasts"));
        }
        let schema = self.schema.clone();
        let mut read = |i: usize| self.read_all(i);
        let group = Group::new(&schema, &roles, &mut read)?;
        let mut series: Option<Beside> = None;
        for member in &group.members {
            let beside = self.variable(member.variable)?.plan.forecast.clone();
            let beside = beside.ok_or_else(|| Error::corrupt("a variable without the forecasts of the others"))?;
            if series.get_or_insert_with(|| beside.clone()).interval != beside.interval {
                return Err(Error::corrupt("intervals of the variables differ"));
            }
        }
        let Some(Beside { interval, made_on, .. }) = series else {
            return Err(Error::corrupt("forecasts of nothing that changes"));
        };
        let mut statics = vec![];
        for (variable, key) in &group.statics {
            let values = self.read_all(*variable)?;
            statics.push((key.clone(), series::static_of(&group, &self.schema, *variable, &values)?));
        }
        let forecasts = forecasts(&group)?;
        self.forecasts = Some(Decoder::new(forecasts, group, statics, interval, made_on)?);
        Ok(())
    }

    /// The values of such a tile, and how many of its steps are whole.
    pub(super) fn beside_forecasts(&mut self, variable: usize, tile: u64) -> Result<(Values, u64)> {
        // Once: looking for it reads coordinates, which an archive made to deceive may have beside forecasts.
        if self.forecasts.is_none() && !std::mem::replace(&mut self.has_looked, true) {
            let machine = std::mem::take(&mut self.machine);
            self.find_forecasts(machine)?;
        }
        let Some(mut decoder) = self.forecasts.take() else {
            let beside = self.forecasts_needed();
            let (model, digest) = beside.map_or_else(Default::default, |b| (b.model.clone(), hex(&b.digest)));
            return Err(Error::usage(format!(
                "made with forecasts of {model}: name its weights (SHA-256 {digest}) with --forecast"
            )));
        };
        let values = self.by(&mut decoder, variable, tile);
        self.forecasts = Some(decoder);
        values
    }

    /// The codes of such a tile.
    pub(super) fn codes_beside_forecasts(&mut self, variable: usize, tile: u64) -> Result<Option<TileCodes>> {
        // What comes before it in its interval has to be there.
        self.beside_forecasts(variable, tile)?;
        let members = match &self.forecasts {
            Some(decoder) => decoder.members(),
            None => return Ok(None),
        };
        let coded = members.iter().map(|&m| self.coded_member(m, tile)).collect::<Result<Vec<_>>>()?;
        let member = members.iter().position(|&m| m == variable);
        match (&mut self.forecasts, member) {
            (Some(decoder), Some(member)) => decoder.codes(tile, &coded, member),
            _ => Ok(None),
        }
    }

    /// What the archive has of a tile of a member.
    fn coded_member(&mut self, member: usize, tile: u64) -> Result<CodedMember> {
        let name = self.schema.variables[member].name().to_string();
        let coded = match self.coded_tile(member, tile) {
            Err(e) if self.recovers && e.kind() == Kind::Corrupt => None,
            coded => Some(coded.context(|| format!("which variable {name:?} goes into"))?),
        };
        let plan = &self.variable(member)?.plan;
        let (treatment, tiling) = (plan.treatment.clone(), plan.tiling.clone());
        let filler = self.recovers.then(|| self.fillers(member, 1));
        let dtype = self.schema.variables[member].dtype;
        Ok(CodedMember { coded, dtype, treatment, tiling, filler })
    }

    fn by(&mut self, decoder: &mut Decoder, variable: usize, tile: u64) -> Result<(Values, u64)> {
        let dtype = self.schema.variables[variable].dtype;
        let len = self.variable(variable)?.plan.tiling.len;
        for t in decoder.missing(tile, len) {
            let members = decoder.members().into_iter().map(|m| self.coded_member(m, t)).collect::<Result<Vec<_>>>()?;
            decoder.decode(t, &members)?;
        }
        let kept = decoder.kept(variable, tile, dtype)?;
        let (values, whole) = kept.ok_or_else(|| Error::corrupt("variable takes no part in forecasts"))?;
        Ok((values, whole as u64))
    }
}

fn key((name, level_hpa): &(String, Option<u32>)) -> Key {
    Key { name: name.clone(), level_hpa: *level_hpa }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
