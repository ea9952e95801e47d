//! Tiles of steps and levels, some of whose images have forecasts: what both directions share.

use super::course::Course;
use super::cpu::{End, Lane, Teacher, Tile, whole};
use super::learn::Budget;
use super::plan::{self, Plan};
use super::rows::Rows;
use super::schedule::Schedule;
use super::site::Taps;
use super::stand_in::pyramid;
use crate::encode::bytes::Reader;
use crate::error::Result;
use crate::scratch::filled;
use std::sync::Arc;

/// The images of a tile and what may be beside each.
pub struct Layout {
    /// Steps, levels, rows, columns.
    pub shape: [usize; 4],
    pub(super) schedule: Schedule,
    pub(super) taps: Vec<Arc<Taps>>,
}

impl Layout {
    /// For a tile of `[steps, levels, ny, nx]` in which some images, by their index, have a forecast.
    pub fn new(shape: [usize; 4], has_forecast: &[bool]) -> Self {
        let schedule = Schedule::with_forecasts(shape, has_forecast);
        let taps = plan::taps(&schedule);
        Self { shape, schedule, taps }
    }

    /// Reads the decisions of such a tile.
    ///
    /// # Errors
    /// `Corrupt` if anything is out of range.
    pub fn read_plan(&self, reader: &mut Reader<'_>) -> Result<Plan> {
        Plan::read_for(reader, &self.schedule, &self.taps)
    }

    /// Values of an image.
    pub fn pixels(&self) -> usize {
        self.shape[2] * self.shape[3]
    }

    /// Steps that the run which fits goes through.
    pub fn trial_steps(&self, budget: Budget) -> usize {
        budget.first_images(&self.schedule).div_ceil(self.shape[1].max(1))
    }

    /// Codes or decodes the next step; `forecasts` has one for each level, or none.
    pub(super) fn step<T: Rows, E: End<T>>(
        &self,
        course: &mut Course<T>,
        tile: &Tile<'_, T>,
        teacher: &mut dyn Teacher<T>,
        lanes: &mut [Lane<E>],
        forecasts: &[Option<Vec<T>>],
    ) -> Vec<T> {
        let [_, levels, ny, nx] = self.shape;
        filled(levels * ny * nx, |out| {
            for (level, image) in out.chunks(ny * nx).enumerate() {
                if let Some(Some(forecast)) = forecasts.get(level) {
                    course.give(&self.schedule, pyramid(forecast, self.schedule.lattices, tile.wrap));
                }
                whole(&course.next(tile, teacher, lanes), nx, image);
            }
        })
    }
}
