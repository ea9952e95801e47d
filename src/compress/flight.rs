//! Tiles in flight: read one after the other, coded side by side, written in order. Many files have variables of a few MB at most, in
//! which no phase is long enough for many threads. The archive does not depend on which tiles are coded together.

use super::{Done, Progress};
use crate::config::Config;
use crate::container::Writer;
use crate::device::{Coder, Uncoded};
use crate::encode::exact;
use crate::error::{Context, Result};
use crate::plan::Plan;
use crate::stages::{Stage, time};
use std::io::Write;

/// What is yet to be written.
enum Step {
    /// The head of a variable.
    Plan(Box<Plan>),
    /// The next of the tiles in flight, of the variable of this name.
    Tile(String),
}

/// What was read and not written yet.
pub(super) struct Flight<'a, W: Write> {
    writer: Writer<W>,
    coder: &'a mut dyn Coder,
    config: &'a Config,
    progress: &'a mut dyn FnMut(Progress<'_>),
    steps: Vec<Step>,
    tiles: Vec<Uncoded>,
    /// Bytes of values in flight.
    bytes: u64,
}

impl<'a, W: Write> Flight<'a, W> {
    pub fn new(
        writer: Writer<W>,
        coder: &'a mut dyn Coder,
        config: &'a Config,
        progress: &'a mut dyn FnMut(Progress<'_>),
    ) -> Self {
        Self { writer, coder, config, progress, steps: vec![], tiles: vec![], bytes: 0 }
    }

    /// The next variable.
    pub fn begin(&mut self, plan: Plan) {
        self.steps.push(Step::Plan(Box::new(plan)));
    }

    /// A whole variable.
    pub fn done(&mut self, Done { plan, mut tiles }: Done) -> Result<()> {
        self.land()?;
        self.writer.begin(&plan)?;
        (0..tiles.len()).try_for_each(|t| self.writer.tile(&tiles.get(t)?))
    }

    /// The next tile of the variable `name`. Together those in flight have no more values than the largest tile may have alone, so that
    /// memory is what it would be for that one.
    pub fn tile(&mut self, name: &str, tile: Uncoded) -> Result<()> {
        let bytes = tile.bytes() + exact::text_bytes(&tile.values);
        if self.bytes + bytes > self.config.tile_bytes {
            self.land()?;
        }
        self.bytes += bytes;
        self.steps.push(Step::Tile(name.to_string()));
        self.tiles.push(tile);
        // Before another is read that would have to wait.
        if self.bytes + bytes > self.config.tile_bytes { self.land() } else { Ok(()) }
    }

    /// Codes and writes what is in flight.
    fn land(&mut self) -> Result<()> {
        let tiles = std::mem::take(&mut self.tiles);
        self.bytes = 0;
        let mut coded = self.coder.compress_all(&tiles, self.config).into_iter().zip(&tiles);
        for step in self.steps.drain(..) {
            match step {
                Step::Plan(plan) => self.writer.begin(&plan)?,
                Step::Tile(name) => {
                    let Some((coded, tile)) = coded.next() else { break };
                    let place = || format!("variable {name:?}");
                    let coded = coded.context(place)?;
                    time(Stage::Write, || self.writer.tile(&coded))?;
                    (self.progress)(Progress { variable: &name, bytes: tile.bytes() });
                }
            }
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<W> {
        self.land()?;
        self.writer.finish()
    }
}
