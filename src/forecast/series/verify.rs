//! What was coded beside forecasts is restored as whoever has the archive will, by the same [`Decoder`], and compared with what it was made of:
//! what the encoder believes to have decoded of what changes plays no part. Static fields are the encoder's, which it took from their coded tiles.

use super::decode::{CodedMember, Decoder, Seen};
use super::{Forecasts, Key};
use crate::bound::Comparison;
use crate::error::{Context, Error, Kind, Result};
use crate::field::Values;
use crate::forecast::group::Group;
use crate::plan::{Plan, Treatment};
use crate::stages::{Stage, begin};
use candle_core::Tensor;

/// Verifies the tiles of an interval, one after the other.
pub(super) struct Verifier<'a> {
    decoder: Decoder<&'a Forecasts>,
    /// What the model saw last.
    seen: Seen,
}

impl<'a> Verifier<'a> {
    /// At the first tile of an interval of so many steps.
    ///
    /// # Errors
    /// As [`Decoder::new`].
    pub fn new(forecasts: &'a Forecasts, group: &Group, statics: &[(Key, Tensor)], interval: u64) -> Result<Self> {
        let mut decoder = Decoder::new(forecasts, group.clone(), statics.to_vec(), interval, None)?;
        decoder.is_trial = true;
        Ok(Self { decoder, seen: Seen::new() })
    }

    /// Restores a tile from what was `coded` of all members, and compares it with its `values`.
    ///
    /// # Errors
    /// `BoundViolated` if a value is not within its bound, or can not be restored; `Disagreement` if the model does not say the same again; `Device`.
    pub fn check(&mut self, tile: u64, plans: &[Plan], coded: &[Vec<u8>], values: &[Values]) -> Result<()> {
        let member = |((plan, coded), values): ((&Plan, &Vec<u8>), &Values)| {
            let (treatment, tiling) = (plan.treatment.clone(), plan.tiling.clone());
            CodedMember { coded: Some(coded.clone()), dtype: values.dtype(), treatment, tiling, filler: None }
        };
        let _timing = begin(Stage::Check);
        let members: Vec<_> = plans.iter().zip(coded).zip(values).map(member).collect();
        let restored = match self.decoder.restore(tile, &members, &self.seen) {
            Err(e) if e.kind() == Kind::Corrupt => {
                let message =
                    format!("what was coded beside forecasts is not restored: {e}; this is a bug, please report it");
                Err(Error::new(Kind::BoundViolated, message))
            }
            restored => restored,
        };
        let restored = restored.context(|| "verification")?;
        self.seen = restored.end;
        for ((member, values), (restored, _)) in members.iter().zip(values).zip(restored.members) {
            let n = violations(values, &restored, &member.treatment);
            if n > 0 {
                let message = format!("{n} values left their bound beside forecasts; this is a bug, please report it");
                return Err(Error::new(Kind::BoundViolated, message));
            }
        }
        Ok(())
    }
}

/// Values that are not as they have to be.
fn violations(values: &Values, restored: &Values, treatment: &Treatment) -> u64 {
    let mut comparison = Comparison::default();
    match (treatment, values, restored) {
        (Treatment::Lossy { resolved, fill, .. }, Values::F32(values), Values::F32(restored)) => {
            comparison.add(values, restored, resolved, fill.map(|bits| f32::from_bits(bits as u32)));
        }
        (Treatment::Lossy { resolved, fill, .. }, Values::F64(values), Values::F64(restored)) => {
            comparison.add(values, restored, resolved, fill.map(f64::from_bits));
        }
        _ => {
            let (a, b) = (values.as_bytes(), restored.as_bytes());
            return (a.len().abs_diff(b.len()) + a.iter().zip(b).filter(|(a, b)| a != b).count()) as u64;
        }
    }
    comparison.violations
}
