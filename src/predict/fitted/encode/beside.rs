//! A tile beside forecasts, which come one step at a time: each is made of what was decoded of the steps before.

use super::{Encoded, Encoder, encoders, n_streams, to_bytes, trial};
use crate::predict::fitted::Layout;
use crate::predict::fitted::cpu::{Course, Lane, Pyramid, Tile};
use crate::predict::fitted::learn::{Budget, Learner};
use crate::predict::fitted::plan::Plan;
use crate::predict::fitted::rows::Rows;
use crate::predict::fitted::site::Weights;
use crate::predict::fitted::stand_in::{pyramid, stand_in};
use crate::quantize::Quantizer;

/// A tile's values on their way to codes, step by step.
pub struct Encoding<'a, T: Rows> {
    layout: &'a Layout,
    tile: Tile<'a, T>,
    plan: Plan,
    weights: Vec<Weights<T>>,
    lanes: Vec<Lane<T, Encoder<'a, T>>>,
    course: Course<T>,
}

/// What is known of a tile.
#[derive(Clone, Copy)]
pub struct Known<'a, T: Rows> {
    /// Values, NaN in marked places.
    pub values: &'a [T],
    /// Values that are stored apart.
    pub marks: Option<&'a [bool]>,
    /// Where codes of values without neighbours count from.
    pub base: T,
    /// Bins.
    pub quantizer: Quantizer<T>,
    /// Columns are a circle.
    pub wrap: bool,
}

impl<'a, T: Rows> Encoding<'a, T> {
    /// Fits the tile. `likely` gives forecasts that are much like those that will come, of the images that [`Layout::trial_images`] names.
    pub fn new(layout: &'a Layout, known: Known<'a, T>, budget: Budget, likely: &dyn Fn(usize) -> Vec<T>) -> Self {
        let Known { values, marks, base, quantizer, wrap } = known;
        let (schedule, taps) = (&layout.schedule, &layout.taps[..]);
        let lattices = schedule.lattices;
        let pixels = lattices.ny * lattices.nx;
        let tile = Tile { schedule, taps, wrap, base, step: quantizer.step };
        let streams = n_streams(schedule);
        let mut plan = Plan { wrap, n_streams: streams, ..Plan::default() };
        let images = layout.trial_images(budget);
        let mut learner = Learner::new(schedule, taps, values, quantizer, &images, budget, false);
        let beside = |s: usize| -> Pyramid<T> {
            match s.checked_sub(schedule.given()) {
                None => stand_in(&values[s * pixels..][..pixels], s, lattices, wrap, quantizer.step.to_f64()),
                Some(image) => pyramid(&likely(image), lattices, wrap),
            }
        };
        let lanes = |keep| encoders(schedule, streams, values, marks, quantizer, keep);
        trial(&tile, &images, &beside, &mut learner, &mut lanes(false));
        let lanes = lanes(true);
        learner.finish(&mut plan);
        let weights = plan.weights(taps);
        Self { layout, tile, plan, weights, lanes, course: Course::new(schedule) }
    }

    /// Codes the next step beside the forecasts of its levels, in order, those that have one. Gives what is decoded, but for values stored apart.
    pub fn step(&mut self, forecasts: &[Option<Vec<T>>]) -> Vec<T> {
        let Self { layout, tile, weights, lanes, course, .. } = self;
        layout.step(course, tile, weights, lanes, forecasts)
    }

    /// Plan and bytes, after the last step.
    pub fn finish(self) -> Encoded {
        to_bytes(self.plan, self.lanes)
    }
}
