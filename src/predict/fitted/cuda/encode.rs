//! Encoding: the order of launches. Twins: [`super::super::learn`], [`super::super::encode`].
//!
//! The host knows how a tile falls into images, lattices and phases and which parts of them are sampled, as that is geometry; what comes of the
//! samples stays on the device. Nothing is copied and nobody waits.

use super::super::lattice::{A, B2};
use super::super::learn::Budget;
use super::super::plan;
use super::super::schedule::Schedule;
use super::{Images, fine_levels};
use crate::device::Run;
use crate::device::layout::{
    BLOCK, COUNTS_BYTES, FEATURE_ROWS, FIT_WEIGHTS_BYTES, FITTING_BYTES, Fit, FitPass, FitStream, GUESS_SAMPLES,
    MAX_PAIRS, PLACES_BYTES, PLAN_BYTES_A_PASS, RANS_TABLE_BYTES, Site, Step, WIDE,
};
use crate::encode::rans;
use crate::error::Result;
use crate::quantize;

#[cfg(feature = "forecast")]
mod beside;
mod learn;

#[cfg(feature = "forecast")]
pub(crate) use beside::Encoding;
use learn::{Round, Sampled, Trial};

/// Contexts of a tile at most, with those of the base lattice.
const MAX_DISTRIBUTIONS: usize = plan::MAX_CONTEXTS + 2;

/// Encoding of tiles of one shape.
pub(crate) struct Encoder {
    schedule: Schedule,
    site: Site,
    trials: Vec<Trial>,
    /// Whether a trial is the run that counts.
    is_final: bool,
    /// By pass.
    n_taps: Vec<usize>,
    n_streams: usize,
    /// Batches of samples of a phase at most.
    n_batches: usize,
}

impl Encoder {
    /// For tiles of `shape`.
    pub fn new(shape: &[usize], budget: Budget) -> Self {
        let schedule = Schedule::new(shape, true);
        let is_final = super::super::encode::is_final(&schedule);
        let budgets = super::super::encode::budgets(&schedule, budget);
        let trials = budgets.into_iter().map(|b| Trial::new(&schedule, b.images(&schedule), b, is_final)).collect();
        Self::of(schedule, trials, is_final)
    }

    fn of(schedule: Schedule, trials: Vec<Trial>, is_final: bool) -> Self {
        let n_streams = super::super::encode::n_streams(&schedule);
        let mut encoder = Self {
            site: super::site(&schedule, n_streams),
            trials,
            is_final,
            n_taps: plan::taps(&schedule).iter().map(|t| t.all.len()).collect(),
            schedule,
            n_streams,
            n_batches: 0,
        };
        encoder.n_batches = encoder.trials.iter().map(|t| encoder.most_batches(t)).max().unwrap_or(0);
        encoder
    }

    /// Chains whose samples are taken apart.
    fn n_chains(&self) -> usize {
        if self.schedule.n_before == 0 { 1 } else { 2 }
    }

    /// Number of runs of which the cheapest counts.
    fn n_candidates(&self) -> usize {
        self.trials.iter().map(|t| t.budget.rounds).sum()
    }

    /// Makes room for a tile in `run.args`.
    ///
    /// # Errors
    /// `Device`.
    pub fn give_rooms(&self, run: &mut Run<'_>) -> Result<()> {
        run.args.site = self.site;
        rans::cuda::family(run)?;
        let (n, n_passes, n_batches) = (run.args.n as usize, self.n_taps.len(), self.n_batches);
        let (args, gpu) = (&mut run.args, &mut *run.gpu);
        args.fit = gpu.room("fit", size_of::<Fit>())?;
        args.fit_passes = gpu.room("fitted passes", n_passes * size_of::<FitPass>())?;
        args.fit_weights = gpu.room("fitted weights", n_passes * FIT_WEIGHTS_BYTES)?;
        args.fit_streams = gpu.room("fitted streams", plan::MAX_STREAMS * size_of::<FitStream>())?;
        args.tables = gpu.room("tables of contexts", MAX_DISTRIBUTIONS * RANS_TABLE_BYTES)?;
        args.sizes = gpu.room("sizes of codes", n)?;
        args.buckets = gpu.room("buckets of codes", n)?;
        // Of both chains, then of both together.
        let n_slots = if self.n_chains() == 1 { n_passes } else { 3 * n_passes };
        args.fittings = gpu.room("fits", n_slots * FITTING_BYTES)?;
        args.products = gpu.room("products of taps", n_batches * MAX_PAIRS * 4)?;
        args.products_there = gpu.room("samples of batches", n_batches * 4)?;
        args.features = gpu.room("samples of guesses", n_passes * FEATURE_ROWS * GUESS_SAMPLES * 2)?;
        args.places = gpu.room("places in streams", PLACES_BYTES)?;
        args.counts = gpu.room("counts of tokens", COUNTS_BYTES)?;
        args.words = gpu.room("words of streams", 2 * n)?;
        // A word of slack for each stream.
        args.plain = gpu.room("plain bits of streams", 4 * (n + plan::MAX_STREAMS + 1))?;
        args.plan = gpu.room("plan", (n_passes + 2) * PLAN_BYTES_A_PASS)?;
        args.row_ends = gpu.room("ends of rows", 8 * args.site.ny as usize)?;
        if self.n_candidates() > 1 {
            args.cheapest = gpu.room("plan of the cheapest run", 8 + n_passes * size_of::<FitPass>())?;
        }
        Ok(())
    }

    fn lattice_phases(&self) -> impl Iterator<Item = (usize, u8)> {
        let lattices = self.schedule.lattices;
        let is_there = move |&(level, phase): &(usize, u8)| {
            let (rows, columns) = lattices.plane_size(level, phase);
            rows * columns > 0
        };
        (0..lattices.levels).rev().flat_map(|level| (A..=B2).map(move |phase| (level, phase))).filter(is_there)
    }

    /// Values to decoded values, codes, buckets: trials and their fits, and the run that counts.
    ///
    /// For each phase of an image of a trial 3 to 8 launches (2 to 4 where weights do not follow), and at most 6 for each image besides; then 5 or 6
    /// for the fits of all passes, and for each image of the tile, or one of each chain, one, and 3 for each lattice of more than `COARSE` values
    /// (without such lattices one or two for all images). Of several runs 2 each for their cost, and 2 for the cheapest plan, with which a last run is made.
    ///
    /// # Errors
    /// `Device`.
    pub fn attempt(&self, run: &mut Run<'_>) -> Result<()> {
        let n_passes = self.n_taps.len() as u32;
        let n_slots = self.n_chains() as u32 * n_passes;
        let mut n_offered = 0;
        for trial in &self.trials {
            run.args.step = Step { n_passes, ..Step::default() };
            run.over_work("fitted_start", 1 + n_slots, 1)?;
            let mut sampled = vec![Sampled::default(); n_slots as usize];
            self.learn_images(run, Round::new(trial, 1), &mut sampled)?;
            if self.is_final {
                return Ok(());
            }
            self.fit_all(run, 1)?;
            for number in 2..=trial.budget.rounds as u32 {
                run.args.step = Step { n_passes: n_slots, ..Step::default() };
                run.over("fitted_again", n_slots, BLOCK)?;
                sampled.iter_mut().for_each(|s| s.n_guess = 0);
                self.learn_images(run, Round::new(trial, number), &mut sampled)?;
                self.offer(run, &mut n_offered)?;
                self.fit_all(run, number)?;
            }
            self.run_all(run)?;
            self.offer(run, &mut n_offered)?;
        }
        if n_offered > 0 {
            run.gpu.launch("fitted_take", (n_passes, 1), BLOCK, &run.args)?;
            run.args.step = Step { all_passes: 1, ..Step::default() };
            self.weights(run, n_passes)?;
            // Marks of runs that do not count.
            quantize::cuda::clear_missed(run)?;
            self.run_all(run)?;
        }
        Ok(())
    }

    /// A run through all images with the weights there are.
    fn run_all(&self, run: &mut Run<'_>) -> Result<()> {
        let launches = Images::of_launches(&self.schedule, self.n_streams);
        launches.into_iter().try_for_each(|images| self.run_images(run, images))
    }

    /// The same for some images: more of a chain than one only where coarse lattices are all there are.
    fn run_images(&self, run: &mut Run<'_>, images: Images) -> Result<()> {
        run.args.step = Step { keep: 1, ..Step::default() };
        let n_chains = images.put(run);
        self.encode_coarse(run, n_chains)?;
        let fine: Vec<usize> = fine_levels(&self.schedule).collect();
        for (level, phase) in self.lattice_phases().filter(|p| fine.contains(&p.0)) {
            self.encode_phase(run, level, phase, n_chains)?;
        }
        Ok(())
    }

    /// What the codes of a run take, where it is one of several.
    fn offer(&self, run: &mut Run<'_>, n_offered: &mut usize) -> Result<()> {
        if self.n_candidates() == 1 {
            return Ok(());
        }
        let most = 4 * run.gpu.multiprocessors();
        run.args.step =
            Step { is_first: u32::from(*n_offered == 0), n_passes: self.n_taps.len() as u32, ..Step::default() };
        run.gpu.zero(run.args.counts, COUNTS_BYTES)?;
        run.over("fitted_cost", run.args.n.div_ceil(8 * BLOCK).min(most), 1)?;
        *n_offered += 1;
        run.once("fitted_offer", BLOCK)
    }

    fn encode_coarse(&self, run: &mut Run<'_>, n_chains: u32) -> Result<()> {
        let kernel = format!("fitted_encode_coarse_{}", run.work);
        run.gpu.launch(&kernel, (n_chains, 1), WIDE, &run.args)
    }

    fn encode_phase(&self, run: &mut Run<'_>, level: usize, phase: u8, n_chains: u32) -> Result<()> {
        let (rows, columns) = self.schedule.lattices.plane_size(level, phase);
        (run.args.site.level, run.args.site.phase) = (level as u32, u32::from(phase));
        let blocks = ((rows * columns) as u32).div_ceil(BLOCK).min(16 * run.gpu.multiprocessors());
        let kernel = format!("fitted_encode_{}", run.work);
        run.gpu.launch(&kernel, (blocks, n_chains), BLOCK, &run.args)
    }

    /// Codes and buckets to the tile: what stands before the streams, plan and lists, and the streams. 11 launches.
    ///
    /// # Errors
    /// `Device`.
    pub fn finish(&self, run: &mut Run<'_>) -> Result<()> {
        let most = 4 * run.gpu.multiprocessors();
        let (n, n_streams) = (run.args.n, self.n_streams as u32);
        run.gpu.zero(run.args.counts, COUNTS_BYTES)?;
        run.over("rans_count", n.div_ceil(8 * BLOCK).min(most), 1)?;
        run.once("rans_contexts", BLOCK)?;
        run.gpu.launch("rans_distributions", (MAX_DISTRIBUTIONS as u32, 1), 128, &run.args)?;
        run.gpu.launch("rans_tables", (MAX_DISTRIBUTIONS as u32, 1), 64, &run.args)?;
        let blocks = n.div_ceil(n_streams * 8 * BLOCK).clamp(1, 64);
        run.gpu.launch("rans_sizes", (blocks, n_streams), BLOCK, &run.args)?;
        run.gpu.launch("rans_encode", (n_streams, 1), 32, &run.args)?;
        run.once_for("rans_plan", 32, self.n_taps.len() as u32)?;
        run.once("tile_head", WIDE)?;
        run.once("rans_layout", 64)?;
        run.gpu.launch("rans_copy", (blocks, n_streams), BLOCK, &run.args)?;
        run.once("rans_finish", 32)
    }
}
