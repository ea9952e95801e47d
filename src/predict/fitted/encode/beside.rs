//! A tile beside forecasts, which come one step at a time: each is made of what was decoded of the steps before.

use super::{Encoded, Encoder, encoders, n_streams, to_bytes};
use crate::predict::fitted::Layout;
use crate::predict::fitted::course::Course;
use crate::predict::fitted::cpu::{Lane, Teacher, Tile};
use crate::predict::fitted::learn::{Budget, Learner};
use crate::predict::fitted::plan::Plan;
use crate::predict::fitted::rows::Rows;
use crate::predict::fitted::site::Weights;
use crate::quantize::Quantizer;

/// The weights of a run whose codes count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Fits as they were early in the run that fits, when errors were small still.
    Early,
    /// Fits to all that was seen; samples go on being taken.
    Again,
    /// Fits to all that was seen.
    Last,
    /// Those of the run whose codes took the least.
    Cheapest,
}

/// A tile's values on their way to codes, step by step, in several runs: one that fits as it goes, then those whose codes count.
pub struct Encoding<'a, T: Rows> {
    layout: &'a Layout,
    known: Known<'a, T>,
    tile: Tile<'a, T>,
    plan: Plan,
    /// Of the chains, of which there is one.
    learners: [Learner<'a, T>; 2],
    /// Those of the plan; none while samples are taken.
    weights: Option<Vec<Weights<T>>>,
    lanes: Vec<Lane<Encoder<'a, T>>>,
    course: Course<T>,
    /// Steps to go until fits count as early; `None` if they are those of the whole run.
    until_early: Option<usize>,
    early: Option<Plan>,
    /// Size of the codes and plan of the cheapest run.
    cheapest: Option<(usize, Plan)>,
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
    /// At the first step of the run that fits; [`Layout::trial_steps`] are enough for it.
    pub fn new(layout: &'a Layout, known: Known<'a, T>, budget: Budget) -> Self {
        let Known { values, base, quantizer, wrap, .. } = known;
        let (schedule, taps) = (&layout.schedule, &layout.taps[..]);
        let tile = Tile { schedule, taps, wrap, base, step: quantizer.step };
        let plan = Plan { wrap, n_streams: n_streams(schedule), ..Plan::default() };
        let images: Vec<usize> = (0..layout.trial_steps(budget) * layout.shape[1]).collect();
        let learners = Learner::of_chains(schedule, taps, values, quantizer, &images, budget, false);
        let lanes = encoders(schedule, plan.n_streams, values, known.marks, quantizer, false);
        let course = Course::new(schedule);
        let n_early = layout.trial_steps(Budget::BALANCED);
        let until_early = (n_early < layout.trial_steps(budget)).then_some(n_early);
        Self {
            layout,
            known,
            tile,
            plan,
            learners,
            weights: None,
            lanes,
            course,
            until_early,
            early: None,
            cheapest: None,
        }
    }

    /// Back to the first step.
    pub fn rewind(&mut self, turn: Turn) {
        let Known { values, marks, quantizer, .. } = self.known;
        match (turn, &self.early, &self.cheapest) {
            (Turn::Early, Some(plan), _) | (Turn::Cheapest, _, Some((_, plan))) => self.plan = plan.clone(),
            _ => Learner::finish(&mut self.learners, &mut self.plan, false),
        }
        self.weights = (turn != Turn::Again).then(|| self.plan.weights(&self.layout.taps));
        if turn == Turn::Again {
            self.learners[0].again(&self.plan);
        }
        let schedule = &self.layout.schedule;
        self.lanes = encoders(schedule, self.plan.n_streams, values, marks, quantizer, true);
        self.course = Course::new(schedule);
    }

    /// Codes the next step beside the forecasts of its levels, in order, those that have one. Gives what is decoded, but for values stored apart.
    pub fn step(&mut self, forecasts: &[Option<Vec<T>>]) -> Vec<T> {
        let Self { layout, tile, learners, weights, lanes, course, .. } = self;
        let mut given;
        let teacher: &mut dyn Teacher<T> = match weights {
            Some(weights) => {
                given = &weights[..];
                &mut given
            }
            None => &mut learners[0],
        };
        let decoded = layout.step(course, tile, teacher, lanes, forecasts);
        if let Some(n) = &mut self.until_early {
            *n -= 1;
            if *n == 0 {
                self.until_early = None;
                Learner::finish(&mut self.learners, &mut self.plan, false);
                self.early = Some(self.plan.clone());
            }
        }
        decoded
    }

    /// Plan and bytes, after the last step of a run.
    pub fn finish(&mut self) -> Encoded {
        let encoded = to_bytes(self.plan.clone(), std::mem::take(&mut self.lanes));
        if self.cheapest.as_ref().is_none_or(|c| encoded.bytes.len() < c.0) {
            self.cheapest = Some((encoded.bytes.len(), encoded.plan.clone()));
        }
        encoded
    }
}
