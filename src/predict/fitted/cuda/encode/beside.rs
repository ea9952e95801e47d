//! A tile beside forecasts, which come one step at a time: the order of launches. Twin: [`crate::predict::fitted::encode::Encoding`].

use super::learn::{Round, Sampled, Trial};
use super::{Encoder, Images, Schedule};
use crate::device::Run;
use crate::device::layout::{BLOCK, FitPass, Step};
use crate::error::Result;
use crate::predict::fitted::Layout;
use crate::predict::fitted::cuda::beside;
use crate::predict::fitted::encode::Turn;
use crate::predict::fitted::learn::Budget;
use crate::quantize;

/// Encoding of a tile in several runs: one that fits as it goes, then those whose codes count.
pub(crate) struct Encoding {
    pub encoder: Encoder,
    levels: usize,
    has_forecast: Vec<bool>,
    sampled: Vec<Sampled>,
    /// How often samples were taken, the run under way included.
    rounds: u32,
    /// Whether the run under way takes samples.
    is_sampling: bool,
    /// Steps to go until fits count as early; `None` if they are those of the whole run.
    until_early: Option<usize>,
    has_early: bool,
    /// Size of the codes of the cheapest run.
    cheapest: Option<usize>,
}

impl Encoding {
    /// As [`crate::predict::fitted::encode::Encoding::new`].
    pub fn new(layout: &Layout, has_forecast: &[bool], budget: Budget) -> Self {
        let schedule = Schedule::with_forecasts(layout.shape, has_forecast);
        let levels = layout.shape[1];
        let n_trial = layout.trial_steps(budget);
        let trial = Trial::new(&schedule, (0..n_trial * levels).collect(), budget, false);
        let mut encoder = Encoder::of(schedule, vec![trial], false);
        // The run that fits goes on as long as that of any other variable does: also through images that are not of this trial.
        encoder.n_batches = encoder.most_batches_of(&encoder.trials[0], 0..encoder.schedule.images.len());
        let n_early = layout.trial_steps(Budget::BALANCED);
        Self {
            sampled: vec![Sampled::default(); encoder.n_taps.len()],
            encoder,
            levels,
            has_forecast: has_forecast.to_vec(),
            rounds: 1,
            is_sampling: true,
            until_early: (n_early < n_trial).then_some(n_early),
            has_early: false,
            cheapest: None,
        }
    }

    fn plan_bytes(&self) -> usize {
        self.encoder.n_taps.len() * size_of::<FitPass>()
    }

    /// Makes room for the tile in `run.args`, and tells kernels which image has what beside it.
    ///
    /// # Errors
    /// `Device`.
    pub fn give_rooms(&self, run: &mut Run<'_>) -> Result<()> {
        self.encoder.give_rooms(run)?;
        beside::give_rooms(run, &self.encoder.schedule, &self.has_forecast)
    }

    /// To the first step of the run that fits.
    ///
    /// # Errors
    /// `Device`.
    pub fn start(&self, run: &mut Run<'_>) -> Result<()> {
        self.begin(run, 1 + self.encoder.n_taps.len() as u32)
    }

    /// Bins and special values; of the kernel that starts fits so many blocks, of which the first does what every run needs.
    fn begin(&self, run: &mut Run<'_>, n_blocks: u32) -> Result<()> {
        run.gpu.zero(run.args.cursor, 8)?;
        quantize::cuda::start(run, 0)?;
        quantize::cuda::clear_missed(run)?;
        run.args.step = Step { n_passes: self.encoder.n_taps.len() as u32, ..Step::default() };
        run.over_work("fitted_start", n_blocks, 1)
    }

    /// Back to the first step.
    ///
    /// # Errors
    /// `Device`.
    pub fn rewind(&mut self, run: &mut Run<'_>, turn: Turn) -> Result<()> {
        let (n_passes, n_bytes) = (self.encoder.n_taps.len() as u32, self.plan_bytes());
        self.begin(run, 1)?;
        let kept = match turn {
            Turn::Early if self.has_early => Some("early plan"),
            Turn::Cheapest if self.cheapest.is_some() => Some("cheapest plan"),
            _ => None,
        };
        match kept {
            Some(room) => {
                let from = run.gpu.room(room, n_bytes)?;
                run.gpu.copy_within(run.args.fit_passes, from, n_bytes as u64)?;
                run.args.step = Step { all_passes: 1, ..Step::default() };
                self.encoder.weights(run, n_passes)?;
            }
            None => self.encoder.fit_all(run, self.rounds)?,
        }
        self.is_sampling = turn == Turn::Again;
        if self.is_sampling {
            self.rounds += 1;
            run.args.step = Step { n_passes, ..Step::default() };
            run.over("fitted_again", n_passes, BLOCK)?;
            self.sampled.iter_mut().for_each(|s| s.n_guess = 0);
        }
        Ok(())
    }

    /// Codes the next step; its forecasts are there.
    ///
    /// # Errors
    /// `Device`.
    pub fn step(&mut self, run: &mut Run<'_>, step: usize) -> Result<()> {
        for image in step * self.levels..(step + 1) * self.levels {
            if self.is_sampling {
                let round = Round::new(&self.encoder.trials[0], self.rounds);
                self.encoder.learn_image(run, round, image, &mut self.sampled)?;
            } else {
                self.encoder.run_images(run, Images::one(image))?;
            }
        }
        if let Some(n) = &mut self.until_early {
            *n -= 1;
            if *n == 0 {
                (self.until_early, self.has_early) = (None, true);
                self.encoder.settle_all(run, self.rounds)?;
                self.keep(run, "early plan")?;
            }
        }
        Ok(())
    }

    /// Keeps the plan of the run under way.
    fn keep(&self, run: &mut Run<'_>, room: &'static str) -> Result<()> {
        let n_bytes = self.plan_bytes();
        let to = run.gpu.room(room, n_bytes)?;
        run.gpu.copy_within(to, run.args.fit_passes, n_bytes as u64)
    }

    /// Says how many bytes the codes of a run took.
    ///
    /// # Errors
    /// `Device`.
    pub fn offer(&mut self, run: &mut Run<'_>, n_bytes: usize) -> Result<()> {
        if self.cheapest.is_none_or(|least| n_bytes < least) {
            self.cheapest = Some(n_bytes);
            self.keep(run, "cheapest plan")?;
        }
        Ok(())
    }
}
