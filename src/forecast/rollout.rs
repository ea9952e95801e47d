//! Forecasts of forecasts: each step's prediction becomes the next one's latest frame.

use super::frame::Frame;
use super::names::Key;
use super::{Forecaster, Needs};
use crate::error::{Error, Result};

/// A roll-out of a model from a history, one frame each time [`Rollout::step`] is called.
///
/// After a step the history is the former one without its oldest frame, then the prediction, in physical units. Whoever knows the
/// true frame by then (a decoder, after correction) may put it there with [`Rollout::correct`].
pub struct Rollout<'a> {
    model: &'a dyn Forecaster,
    history: Vec<Frame>,
    steps: usize,
}

impl<'a> Rollout<'a> {
    /// Starts from `history`, oldest first, of at least the frames that the model looks back on.
    ///
    /// # Errors
    /// `Input` that lists what was found and what is needed, if the model can not work on it.
    pub fn new(model: &'a dyn Forecaster, history: &[Frame]) -> Result<Self> {
        Ok(Self { model, history: model.needs().prepare(history)?, steps: 0 })
    }

    /// The next frame. Static fields are carried along in it.
    ///
    /// # Errors
    /// As [`Forecaster::step`].
    pub fn step(&mut self, target: Option<&Frame>) -> Result<Frame> {
        let frame = self.model.step(&self.history, target, self.steps)?;
        let frame = carried(self.model.needs(), &self.history, frame)?;
        self.history.remove(0);
        self.history.push(frame.clone());
        self.steps += 1;
        Ok(frame)
    }

    /// Puts `frame`, of the same time, in the place of the last prediction, and lets the roll-out index start at 0 again: what comes next is a
    /// first step from what is known. Static fields may be left out.
    ///
    /// # Errors
    /// `Input` if it does not fit.
    pub fn correct(&mut self, frame: &Frame) -> Result<()> {
        let frame = carried(self.model.needs(), &self.history, self.model.needs().oriented(frame)?)?;
        let expected = self.history.last().map(|f| f.time_unix_s);
        if expected != Some(frame.time_unix_s) {
            let found = frame.time_unix_s;
            return Err(Error::usage(format!("a correction is of time {found}, the last frame of {expected:?}")));
        }
        self.history.pop();
        self.history.push(frame);
        self.history = self.model.needs().prepare(&self.history)?;
        self.steps = 0;
        Ok(())
    }

    /// Steps since the start, or the last correction.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The frames that the next step looks back on, oldest first.
    pub fn history(&self) -> &[Frame] {
        &self.history
    }
}

/// `frame` with the static fields of the history that it lacks.
fn carried(needs: &Needs, history: &[Frame], mut frame: Frame) -> Result<Frame> {
    let missing: Vec<&Key> = needs.statics.iter().filter(|k| frame.get(k).is_none()).collect();
    if let Some(last) = history.last() {
        for key in missing {
            let field = last.require(key)?.clone();
            frame.insert(key.clone(), field)?;
        }
    }
    Ok(frame)
}
