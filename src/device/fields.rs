//! Fields in device memory to archives, in memory of the host or of the device.
//!
//! Tiles come off the device's kernels as the archive has them, with their checksums. The host writes what stands between them: header,
//! schema, plan, heads of sections, index. So what is copied from the device is the archive and 96 bytes a tile, and if the archive
//! stays there those 96 bytes alone, while some hundred bytes and 20 a tile go to it.

use super::encode::{Job, NOT_WANTED, Outcomes, TileOf};
use super::gpu::{Gpu, uninit};
use super::layout::{self, Outcome};
use crate::bound::{Comparison, Stats};
use crate::compress::{plan_treatment, saves_enough, smaller_or_exact, store_exactly};
use crate::config::Config;
use crate::container::Writer;
use crate::error::{Error, Kind, Result};
use crate::field::{Float, MAX_FIELD_DIMS};
use crate::io::{Format, Schema};
use crate::plan::{Plan, Treatment};
use crate::predict::fitted::Rows;
use crate::tile::{self, Tiling};
use cudarc::driver::{DevicePtr, DevicePtrMut};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Why a tile is left to the CPU: it had no room.
const NO_ROOM: u32 = 2;

/// A field in device memory.
#[derive(Debug)]
pub struct DeviceField<'a, T, V> {
    /// Its values in C order: a slice or a view of cudarc's.
    pub values: &'a V,
    /// Its lengths, the slowest first.
    pub shape: &'a [usize],
    /// The value that stands for missing data, if one does.
    pub fill: Option<T>,
}

/// The same by its address.
pub(crate) struct At<'a, T> {
    pub address: u64,
    pub shape: &'a [usize],
    pub fill: Option<T>,
}

/// Where an archive is to go.
pub(crate) enum Target<'a> {
    /// Memory of the host that grows.
    Vector(&'a mut Vec<u8>),
    /// Memory of the host.
    Host(&'a mut [MaybeUninit<u8>]),
    /// Memory of the device.
    Device { at: u64, capacity: u64 },
}

/// A stretch of an archive.
pub(super) enum Piece {
    Host(Vec<u8>),
    /// On the device, with the checksum of its section.
    Device {
        at: u64,
        len: u64,
        checksum: u64,
    },
}

impl Piece {
    /// A tile in the output at `out`.
    pub fn of(out: u64, outcome: &Outcome) -> Self {
        Piece::Device { at: out + outcome.at, len: u64::from(outcome.bytes), checksum: outcome.checksum }
    }

    fn len(&self) -> u64 {
        match self {
            Piece::Host(bytes) => bytes.len() as u64,
            Piece::Device { len, .. } => *len,
        }
    }
}

impl Gpu {
    /// Compresses a field in device memory: the archive that [`crate::compress`](crate::compress()) makes of the same values, in memory of the host.
    ///
    /// `values` holds them in C order; work follows what was launched on this device's stream before. Waits twice a batch (tiles of 1 GiB
    /// of values). Nothing is copied to the device, and from it the archive and 96 bytes a tile. The exceptions, whose values
    /// are copied to the host, which has the only coder for them: a bound of 0 or one so tight that no bins are left, a signal-to-noise ratio that
    /// was not reached in six attempts, special values in more runs than a tile has room for, and `config.verify`; and, but with effort fast, tiles
    /// whose codes take more than half of the values' bytes or in which more than one value in 256 is stored exactly, as the host may make less of them.
    ///
    /// # Errors
    /// `Usage` as there; `Device` if the device fails.
    pub fn compress<T: Rows, V: DevicePtr<T>>(
        &mut self,
        values: &V,
        shape: &[usize],
        fill: Option<T>,
        config: &Config,
    ) -> Result<Vec<u8>> {
        self.compress_one(&DeviceField { values, shape, fill }, config)
    }

    pub(super) fn compress_one<T: Rows, V: DevicePtr<T>>(
        &mut self,
        field: &DeviceField<'_, T, V>,
        config: &Config,
    ) -> Result<Vec<u8>> {
        let mut archive = Vec::new();
        self.compress_slices(std::slice::from_ref(field), config, vec![Target::Vector(&mut archive)])?;
        Ok(archive)
    }

    /// Several fields at once, an archive each: as [`Gpu::compress`] for each, but waits twice a batch of tiles of all of them.
    ///
    /// # Errors
    /// As there. No archive is made if one fails.
    pub fn compress_batch<T: Rows, V: DevicePtr<T>>(
        &mut self,
        fields: &[DeviceField<'_, T, V>],
        config: &Config,
    ) -> Result<Vec<Vec<u8>>> {
        let mut archives = vec![Vec::new(); fields.len()];
        let targets = archives.iter_mut().map(Target::Vector).collect();
        self.compress_slices(fields, config, targets)?;
        Ok(archives)
    }

    /// Compresses a field in device memory to `archive`, which is device memory too; gives the bytes of the archive. It is there once the work
    /// launched on this device's stream so far is done. Waits once; 96 bytes a tile are copied from the device, and to it what stands between
    /// the tiles: below 4 KB for up to a hundred tiles (3 GiB of values), with the exceptions of [`Gpu::compress`].
    ///
    /// [`max_archive_bytes`](crate::container::max_archive_bytes) says how much room is always enough.
    ///
    /// # Errors
    /// As [`Gpu::compress`]; `Usage` if there is too little room.
    pub fn compress_into<T: Rows, V: DevicePtr<T>, A: DevicePtrMut<u8>>(
        &mut self,
        values: &V,
        shape: &[usize],
        fill: Option<T>,
        config: &Config,
        archive: &mut A,
    ) -> Result<usize> {
        let sizes = self.compress_batch_into(&[DeviceField { values, shape, fill }], config, &mut [archive])?;
        Ok(sizes[0])
    }

    /// Several fields at once, each to its place in device memory: [`Gpu::compress_batch`] and [`Gpu::compress_into`] in one.
    ///
    /// # Errors
    /// As those; `Usage` if there are not as many places as fields.
    pub fn compress_batch_into<T: Rows, V: DevicePtr<T>, A: DevicePtrMut<u8>>(
        &mut self,
        fields: &[DeviceField<'_, T, V>],
        config: &Config,
        archives: &mut [&mut A],
    ) -> Result<Vec<usize>> {
        let stream = self.stream.clone();
        let capacities: Vec<u64> = archives.iter().map(|a| a.len() as u64).collect();
        let guarded: Vec<_> = archives.iter_mut().map(|a| a.device_ptr_mut(&stream)).collect();
        let places = guarded.iter().zip(&capacities);
        let targets = places.map(|((at, _), &capacity)| Target::Device { at: *at, capacity }).collect();
        let sizes = self.compress_slices(fields, config, targets)?;
        for (&needs, &has) in sizes.iter().zip(&capacities) {
            if needs > has {
                return Err(Error::usage(format!("the archive has {needs} bytes; there is room for {has}")));
            }
        }
        Ok(sizes.into_iter().map(|n| n as usize).collect())
    }

    /// Takes the working memory for fields of this shape and loads the kernels' code, so that later calls take none.
    ///
    /// # Errors
    /// As [`Gpu::compress`].
    pub fn reserve<T: Rows>(&mut self, shape: &[usize], config: &Config) -> Result<()> {
        let shape: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        let bound = config.bound_of("data");
        bound.check()?;
        let known = if bound.needs_statistics() { None } else { Some(plan_treatment(bound, None, T::DTYPE, None)?) };
        let tiling = Tiling::new(&shape, config.max_tile_values(T::DTYPE, &shape));
        let jobs = [Job::new(0, tiling, &known, bound, None, T::DTYPE, config)];
        let tiles: Vec<TileOf> = (0..jobs[0].tiling.count()).map(|t| (0, t)).collect();
        let batch = &tiles[..Self::next_batch(&jobs, &tiles)];
        if !batch.is_empty() {
            let args = self.rooms_for::<T>(&jobs, batch, config)?;
            self.rooms_for_fits::<T>(&jobs, batch, config, args)?;
        }
        Ok(())
    }

    fn compress_slices<T: Rows, V: DevicePtr<T>>(
        &mut self,
        fields: &[DeviceField<'_, T, V>],
        config: &Config,
        targets: Vec<Target<'_>>,
    ) -> Result<Vec<u64>> {
        let stream = self.stream.clone();
        for f in fields {
            let n = f.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            if n != Some(f.values.len()) {
                return Err(Error::usage(format!("shape {:?} does not match {} values", f.shape, f.values.len())));
            }
        }
        // Until all work on them is launched.
        let guarded: Vec<_> = fields.iter().map(|f| f.values.device_ptr(&stream)).collect();
        let at = fields.iter().zip(&guarded).map(|(f, (at, _))| At { address: *at, shape: f.shape, fill: f.fill });
        self.compress_at(&at.collect::<Vec<_>>(), config, targets)
    }

    /// The same for values at device addresses. Gives the bytes of each archive, be there room for them or not.
    pub(crate) fn compress_at<T: Rows>(
        &mut self,
        fields: &[At<'_, T>],
        config: &Config,
        targets: Vec<Target<'_>>,
    ) -> Result<Vec<u64>> {
        if fields.len() != targets.len() {
            return Err(Error::usage(format!("{} fields for {} archives", fields.len(), targets.len())));
        }
        let bound = config.bound_of("data");
        bound.check()?;
        let mut jobs = Vec::new();
        let mut archives = Vec::new();
        let mut left: Vec<TileOf> = Vec::new();
        for (f, (field, target)) in fields.iter().zip(targets).enumerate() {
            let shape: Vec<u64> = field.shape.iter().map(|&n| n as u64).collect();
            if shape.is_empty() || shape.len() > MAX_FIELD_DIMS {
                return Err(Error::usage(format!("shape {shape:?}: there can be 1 to {MAX_FIELD_DIMS} dimensions")));
            }
            let tiling = Tiling::new(&shape, config.max_tile_values(T::DTYPE, &shape));
            let fill = field.fill.map(Float::to_bits);
            // What can be said without the values: a bound that does not need their range, or that is not lossy at all.
            let known = (!bound.needs_statistics() || tiling.count() == 0)
                .then(|| plan_treatment(bound, Some(Stats::default()), T::DTYPE, fill))
                .transpose()?;
            if !matches!(known, Some(Treatment::Exact)) {
                left.extend((0..tiling.count()).map(|t| (f, t)));
            }
            jobs.push(Job::new(field.address, tiling, &known, bound, fill, T::DTYPE, config));
            archives.push(ArchiveOf::new(target, known));
        }
        // Fields without tiles for the device: nothing in them, or kept exactly.
        for (job, archive) in jobs.iter().zip(&mut archives) {
            if let Some(known) = archive.known.clone().filter(|k| job.tiling.count() == 0 || *k == Treatment::Exact) {
                archive.begin::<T>(job, known)?;
                for t in 0..job.tiling.count() {
                    let values = self.values_of::<T>(job, t)?;
                    archive.add(Piece::Host(store_exactly(&values)))?;
                }
                archive.finish()?;
            }
        }
        let mut rest = &left[..];
        loop {
            let (batch, later) = rest.split_at(Self::next_batch(&jobs, rest));
            let (out, outcomes) = self.code_tiles::<T>(&jobs, batch, config)?;
            // What the host checks comes to it at once.
            let end = outcomes.iter().flatten().flatten().map(|o| o.at + u64::from(o.bytes)).max().unwrap_or(0);
            let mut fetched = vec![0; if config.verify { end as usize } else { 0 }];
            if !fetched.is_empty() {
                self.copy_out(out, &mut fetched)?;
            }
            for (&(f, t), ways) in batch.iter().zip(&outcomes) {
                let Some(outcome) = ways.iter().flatten().next() else { continue };
                let (job, archive) = (&jobs[f], &mut archives[f]);
                if t == 0 {
                    let layout::Range { min, max, n } = outcome.field;
                    let stats = Stats { min, max, n };
                    let planned = || plan_treatment(bound, Some(stats), T::DTYPE, job.fill);
                    let treatment = archive.known.clone().map_or_else(planned, Ok)?;
                    archive.begin::<T>(job, treatment)?;
                }
                let treatment = archive.treatment()?.clone();
                let coded = |outcome: &Outcome| {
                    let range = outcome.at as usize..(outcome.at + u64::from(outcome.bytes)) as usize;
                    match fetched.get(range) {
                        Some(bytes) => Piece::Host(bytes.to_vec()),
                        _ => Piece::of(out, outcome),
                    }
                };
                let piece = self.finish_tile::<T>(job, t, ways, coded, &treatment, config)?;
                archive.add(piece)?;
                if t + 1 == job.tiling.count() {
                    archive.finish()?;
                }
            }
            // All that the batch gave leaves the device at once.
            archives.iter_mut().try_for_each(|a| a.place(self))?;
            let to_host = archives.iter().any(|a| !matches!(a.target, Target::Device { .. }));
            if to_host && !batch.is_empty() {
                self.wait()?;
            }
            rest = later;
            if rest.is_empty() {
                return Ok(archives.iter().map(|a| a.placed).collect());
            }
        }
    }

    /// A tile's bytes: as the device `coded` them in one way or the other, or if it could not from its values.
    pub(super) fn finish_tile<T: Rows>(
        &mut self,
        job: &Job,
        tile: u64,
        ways: &Outcomes,
        coded: impl Fn(&Outcome) -> Piece,
        treatment: &Treatment,
        config: &Config,
    ) -> Result<Piece> {
        let region = job.tiling.region(tile);
        let n = tile::region_len(&region) as usize;
        let Some(outcome) = ways.iter().flatten().next() else { return Err(Error::usage("a tile that was not coded")) };
        let other = match ways {
            [Some(_), Some(other)] if other.left != NOT_WANTED && outcome.left == 0 => Some(other),
            _ => None,
        };
        if outcome.left != 0 || other.is_some_and(|o| o.left == NO_ROOM) {
            let layout::Range { min, max, n: n_usual } = outcome.field;
            let all: u64 = job.tiling.shape.iter().product();
            if *treatment == Treatment::Exact && n_usual == all && min == max {
                // A field of one value, which the host knows by now. (-0.0 is special, so that it is not among these.)
                return Ok(Piece::Host(store_exactly(&vec![T::from_f64(min); n])));
            }
            let values = self.values_of::<T>(job, tile)?;
            return Ok(Piece::Host(crate::compress::compress_tile(&values, &region, treatment, config)?));
        }
        let smaller = other.filter(|o| o.left == 0 && o.bytes < outcome.bytes).unwrap_or(outcome);
        // Values of which so much is left are looked at again by the host.
        let is_dense = config.looks_again() && !saves_enough(smaller.bytes as usize, n * size_of::<T>());
        if !is_dense && !config.verify {
            return Ok(coded(smaller));
        }
        let mut bytes = self.bytes_of(coded(smaller))?;
        if is_dense {
            bytes = smaller_or_exact(Some(bytes), &self.values_of::<T>(job, tile)?);
        }
        if config.verify {
            verify(&bytes, &self.values_of::<T>(job, tile)?, &region, treatment)?;
        }
        Ok(Piece::Host(bytes))
    }

    pub(super) fn bytes_of(&self, piece: Piece) -> Result<Vec<u8>> {
        match piece {
            Piece::Host(bytes) => Ok(bytes),
            Piece::Device { at, len, .. } => {
                let mut bytes = vec![0; len as usize];
                self.copy_out(at, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    fn values_of<T: Rows>(&self, job: &Job, tile: u64) -> Result<Vec<T>> {
        let mut values = vec![T::default(); tile::region_len(&job.tiling.region(tile)) as usize];
        let at = job.at + tile::start(&job.tiling, tile) * size_of::<T>() as u64;
        self.copy_out(at, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }
}

/// An archive on its way to where it goes.
struct ArchiveOf<'a> {
    target: Target<'a>,
    known: Option<Treatment>,
    writer: Option<Writer<Vec<u8>>>,
    treatment: Option<Treatment>,
    /// What is to follow what was placed.
    pieces: Vec<Piece>,
    placed: u64,
}

impl<'a> ArchiveOf<'a> {
    fn new(target: Target<'a>, known: Option<Treatment>) -> Self {
        Self { target, known, writer: None, treatment: None, pieces: Vec::new(), placed: 0 }
    }

    fn begin<T: Rows>(&mut self, job: &Job, treatment: Treatment) -> Result<()> {
        let schema = Schema::single(Format::Raw, "data", T::DTYPE, &job.tiling.shape);
        let mut writer = Writer::new(Vec::new(), &schema)?;
        let tiling = job.tiling.clone();
        writer.begin(&Plan { variable: 0, treatment: treatment.clone(), tiling, forecast: None })?;
        self.treatment = Some(treatment);
        self.writer = Some(writer);
        Ok(())
    }

    fn treatment(&self) -> Result<&Treatment> {
        self.treatment.as_ref().ok_or_else(|| Error::usage("a tile before its plan"))
    }

    /// Adds a tile.
    fn add(&mut self, piece: Piece) -> Result<()> {
        let writer = self.writer.as_mut().ok_or_else(|| Error::usage("a tile before its plan"))?;
        match &piece {
            Piece::Host(bytes) => return writer.tile(bytes),
            Piece::Device { len, checksum, .. } => writer.tile_elsewhere(*len, *checksum)?,
        }
        self.pieces.push(Piece::Host(std::mem::take(writer.output())));
        self.pieces.push(piece);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            self.pieces.push(Piece::Host(writer.finish()?));
        }
        Ok(())
    }

    /// Puts pieces where they go, if there is room; launched, not waited for.
    fn place(&mut self, gpu: &Gpu) -> Result<()> {
        let pieces = std::mem::take(&mut self.pieces);
        let mut at = self.placed;
        self.placed += pieces.iter().map(Piece::len).sum::<u64>();
        let placed = self.placed;
        let to_host = |room: &mut [MaybeUninit<u8>]| {
            let mut rest = room;
            for piece in &pieces {
                let (here, later) = rest.split_at_mut(piece.len() as usize);
                match piece {
                    Piece::Host(bytes) => here.iter_mut().zip(bytes).for_each(|(to, &from)| _ = to.write(from)),
                    Piece::Device { at, .. } => gpu.start_copy_out(*at, here)?,
                }
                rest = later;
            }
            Ok(())
        };
        match &mut self.target {
            Target::Vector(archive) => {
                archive.resize(placed as usize, 0);
                to_host(uninit(&mut archive[at as usize..]))
            }
            Target::Host(room) if placed <= room.len() as u64 => to_host(&mut room[at as usize..]),
            Target::Device { at: start, capacity } if placed <= *capacity => {
                for piece in &pieces {
                    match piece {
                        Piece::Host(bytes) => gpu.copy_in(*start + at, bytes)?,
                        Piece::Device { at: from, len, .. } => gpu.copy_within(*start + at, *from, *len)?,
                    }
                    at += piece.len();
                }
                Ok(())
            }
            // The caller learns how much there must be.
            _ => Ok(()),
        }
    }
}

/// Decodes a tile on the CPU and compares it with its values.
fn verify<T: Rows>(bytes: &[u8], values: &[T], region: &[Range<u64>], treatment: &Treatment) -> Result<()> {
    let Treatment::Lossy { resolved, fill, .. } = treatment else { return Ok(()) };
    let restored = crate::decompress::decompress_tile(bytes, T::DTYPE, treatment, region)?;
    let mut comparison = Comparison::default();
    comparison.add(values, T::slice(&restored).unwrap_or_default(), resolved, fill.map(T::from_bits));
    match comparison.violations {
        0 => Ok(()),
        n => Err(Error::new(
            Kind::BoundViolated,
            format!("{n} values left their bound on the GPU; this is a bug, please report it"),
        )),
    }
}
