//! Decompression on a GPU. Twin: [`mod@crate::decompress`].
//!
//! The host reads what stands before the streams, with the CPU's own readers, and copies lists and streams to the device: what is on its way
//! is the coded tile, not its values.

use super::gpu::{During, Gpu, Run};
use super::layout::{self, Args, BLOCK, State, predictor};
use crate::compress::method;
use crate::container::Archive;
use crate::decompress::Parts;
use crate::encode::bytes::Reader;
use crate::encode::{exact, huffman};
use crate::error::{Context, Error, Result};
use crate::field::{DType, Values};
use crate::io::raw::Runs;
use crate::plan::{Plan, Treatment};
use crate::predict::fitted::{self, Rows};
use crate::predict::{self, Method, interp, none};
use crate::quantize::log;
use crate::quantize::outlier::Outliers;
use crate::quantize::special::Specials;
use crate::tile;
use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr};
use std::io::Cursor;
use std::marker::PhantomData;
use std::ops::Range;

/// A variable of an archive, of type `T`.
pub(crate) struct Stored<'a, T> {
    archive: Archive<Cursor<&'a [u8]>>,
    variable: usize,
    plan: Plan,
    n_tiles: u64,
    pub shape: Vec<usize>,
    pub n_values: usize,
    values: PhantomData<T>,
}

impl<'a, T: Rows> Stored<'a, T> {
    pub fn open(archive: &'a [u8], variable: usize) -> Result<Self> {
        let archive = Archive::open(Cursor::new(archive))?;
        let dtype = archive.schema().variables.get(variable).map_or(T::DTYPE, |v| v.dtype);
        if dtype != T::DTYPE {
            return Err(Error::usage(format!("the archive holds {dtype}, not {}", T::DTYPE)));
        }
        let stored = archive.variable(variable)?;
        let (plan, n_tiles) = (stored.plan.clone(), stored.n_tiles());
        let shape: Vec<usize> = plan.tiling.shape.iter().map(|&n| n as usize).collect();
        let n_values = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let n_values = n_values.ok_or_else(|| Error::usage("more values than there can be"))?;
        Ok(Self { archive, variable, plan, n_tiles, shape, n_values, values: PhantomData })
    }
}

impl Gpu {
    /// Restores the first variable of an archive into device memory, with its shape: the values that
    /// [`crate::decompress`](crate::decompress()) gives. The values are there once work launched on this device's stream so far is done.
    ///
    /// # Errors
    /// As there; `Device` if the device fails.
    #[allow(unsafe_code)]
    pub fn decompress<T: Rows + DeviceRepr>(&mut self, archive: &[u8]) -> Result<(CudaSlice<T>, Vec<usize>)> {
        let mut stored = Stored::<T>::open(archive, 0)?;
        // A tile is at least a section, so that an archive can not promise more values than it could hold.
        let what = "taking memory of the GPU for the values";
        // SAFETY: every value is written below: tiles cover the variable, in order.
        let mut out = unsafe { self.stream.alloc::<T>(stored.n_values.max(1)) }.during(what)?;
        let at = out.device_ptr_mut(&self.stream.clone()).0;
        self.restore_all(&mut stored, at)?;
        Ok((out, stored.shape))
    }

    /// The same into memory that the caller has; gives the shape. There may be more room than values.
    ///
    /// # Errors
    /// As [`Gpu::decompress`]; `Usage` if there is too little room, and then nothing is written.
    pub fn decompress_into<T: Rows, V: DevicePtrMut<T>>(
        &mut self,
        archive: &[u8],
        values: &mut V,
    ) -> Result<Vec<usize>> {
        let mut stored = Stored::<T>::open(archive, 0)?;
        if stored.n_values > values.len() {
            let (needs, has) = (stored.n_values, values.len());
            return Err(Error::usage(format!("the archive has {needs} values; there is room for {has}")));
        }
        let stream = self.stream.clone();
        let (at, _guard) = values.device_ptr_mut(&stream);
        self.restore_all(&mut stored, at)?;
        Ok(stored.shape)
    }

    /// The same from an archive in device memory. It is copied to the host, which reads what stands before the streams.
    ///
    /// # Errors
    /// As [`Gpu::decompress_into`].
    pub fn decompress_from<T: Rows, A: DevicePtr<u8>, V: DevicePtrMut<T>>(
        &mut self,
        archive: &A,
        values: &mut V,
    ) -> Result<Vec<usize>> {
        let mut bytes = vec![0; archive.len()];
        let stream = self.stream.clone();
        let (at, _guard) = archive.device_ptr(&stream);
        self.copy_out(at, &mut bytes)?;
        self.decompress_into(&bytes, values)
    }

    /// Restores all tiles to `at`, which has room for them.
    pub(crate) fn restore_all<T: Rows>(&mut self, stored: &mut Stored<'_, T>, at: u64) -> Result<()> {
        let tiling = &stored.plan.tiling;
        for t in 0..stored.n_tiles {
            let tile = || format!("tile {t}");
            let coded = stored.archive.coded_tile(stored.variable, t).context(tile)?;
            let region = tiling.region(t);
            let mut runs = Runs::new(&tiling.shape, &region)?;
            // A tile is one run of the variable, or a box of several, which is restored elsewhere first.
            let is_box = tiling.steps.is_some();
            let bytes = |n: u64| n * size_of::<T>() as u64;
            let place = match is_box {
                true => self.room("values of a box", bytes(tile::region_len(&region)) as usize)?,
                false => at + runs.next().map_or(0, |(start, _)| bytes(start)),
            };
            self.decompress_tile::<T>(&coded, &stored.plan.treatment, &region, place).context(tile)?;
            let mut from = place;
            for (start, n) in runs.filter(|_| is_box) {
                self.copy_within(at + bytes(start), from, bytes(n))?;
                from += bytes(n);
            }
        }
        Ok(())
    }

    /// Restores a tile into memory of the host.
    pub(super) fn decompress_host_tile(
        &mut self,
        coded: &[u8],
        dtype: DType,
        treatment: &Treatment,
        region: &[Range<u64>],
    ) -> Result<Values> {
        let n = tile::region_len(region) as usize;
        if n == 0 || coded.first() == Some(&method::EXACT) || !matches!(treatment, Treatment::Lossy { .. }) {
            return crate::decompress::decompress_tile(coded, dtype, treatment, region);
        }
        fn restored<T: Rows>(
            gpu: &mut Gpu,
            coded: &[u8],
            treatment: &Treatment,
            region: &[Range<u64>],
            n: usize,
        ) -> Result<Vec<T>> {
            let at = gpu.room("values", n * size_of::<T>())?;
            gpu.decompress_tile::<T>(coded, treatment, region, at)?;
            let mut values = vec![T::default(); n];
            gpu.copy_out(at, bytemuck::cast_slice_mut(&mut values))?;
            Ok(values)
        }
        match dtype {
            DType::F32 => restored(self, coded, treatment, region, n).map(Values::F32),
            DType::F64 => restored(self, coded, treatment, region, n).map(Values::F64),
            _ => crate::decompress::decompress_tile(coded, dtype, treatment, region),
        }
    }

    /// Restores a tile to `at`, which has room for its values. Waits once, to see whether the codes were sound.
    fn decompress_tile<T: Rows>(
        &mut self,
        coded: &[u8],
        treatment: &Treatment,
        region: &[Range<u64>],
        at: u64,
    ) -> Result<()> {
        let n = tile::region_len(region) as usize;
        if n == 0 {
            return Ok(());
        }
        let mut reader = Reader::new(coded);
        let shape = tile::coding_shape(region);
        let lossy = matches!(treatment, Treatment::Lossy { .. });
        match reader.byte()? {
            // Exact values have a coder on the host only.
            method::EXACT => {
                let values = exact::decode(reader.rest(), T::DTYPE, n)?;
                self.copy_in(at, values.as_bytes())
            }
            _ if !lossy => Err(Error::corrupt("exact variable with a lossy tile")),
            method::DIRECT => {
                let parts = Parts::<T, T>::read(reader, false, &shape, n)?;
                self.restore(&parts, &shape, n, at, false)
            }
            method::LOG => {
                let parts = Parts::<f64, T>::read(reader, true, &shape, n)?;
                self.restore(&parts, &shape, n, at, true)
            }
            // Others have no kernels, or are not known: the host's answer is the answer.
            _ => {
                let values = crate::decompress::decompress_tile(coded, T::DTYPE, treatment, region)?;
                self.copy_in(at, values.as_bytes())
            }
        }
    }

    fn restore<C: Rows, T: Rows>(
        &mut self,
        parts: &Parts<'_, C, T>,
        shape: &[usize],
        n: usize,
        at: u64,
        is_log: bool,
    ) -> Result<()> {
        let head = &parts.head;
        let n_codes = n - head.specials.len();
        let section = match &head.method {
            Method::Huffman(_) => huffman::cuda::Section::read(parts.codes, n_codes)?,
            Method::Contexts(_) => huffman::cuda::Section::of_streams(parts.codes),
        };
        let signs = if is_log { log::changes_of_signs(parts.signs, n)? } else { Vec::new() };

        // What kernels will read of the tile.
        let mut state = State {
            base: head.base.to_f64(),
            step: head.quantizer.step.to_f64(),
            n_codes: n_codes as u32,
            thresholds: section.thresholds,
            n_chunks: section.chunks.len() as u32,
            ..bytemuck::Zeroable::zeroed()
        };
        state.n_runs = head.specials.ranges().count() as u32;
        head.specials.patterns().iter().zip(&mut state.patterns).for_each(|(&p, s)| *s = p);
        let mut plan = Vec::new();
        match &head.method {
            Method::Huffman(predictor) => {
                predictor.write(&mut plan);
                state.predictor = u32::from(predictor.id());
            }
            Method::Contexts(_) => state.predictor = predictor::FITTED,
        }
        let mut narrowing = 0;
        match (state.predictor as u8, &plan[..]) {
            (predict::LORENZO, &[axes]) => state.axes = u32::from(axes),
            (predict::INTERP, &[active, wrap, alpha, beta, ref levels @ ..]) => {
                state.active = u32::from(active);
                state.wrap = u32::from(wrap);
                narrowing = u32::from(alpha) | u32::from(beta) << 8;
                state.n_levels = levels.len() as u32;
                state.n_anchors = interp::lattice::anchor_count(shape, active) as u32;
                levels.iter().zip(&mut state.levels).for_each(|(&l, s)| *s = l);
            }
            _ => {}
        }
        let in_contexts = state.predictor == predictor::FITTED;
        let mut args = self.rooms_to_decode(n, size_of::<C>(), &section, in_contexts)?;
        args.n = n as u32;
        args.n_axes = shape.len() as u32;
        args.shape = [1; layout::MAX_AXES];
        shape.iter().zip(&mut args.shape).for_each(|(&n, s)| *s = n as u32);
        self.copy_in(args.state, bytemuck::bytes_of(&state))?;
        self.copy_in(args.chunks, bytemuck::cast_slice(&section.chunks))?;
        args.lists = self.put("lists", bytemuck::cast_slice(&section.lengths))?;
        args.coded = self.put("streams", &section.streams)?;
        args.count = section.streams.len() as u32;
        args.out = at;
        if !in_contexts {
            self.zero(if state.n_runs == 0 { args.codes } else { args.kept }, 4 * n_codes)?;
        }

        let (value, work) = (T::DTYPE.name(), C::DTYPE.name());
        let n_books = (section.lengths.len() / huffman::cuda::BOOK_WORDS) as u32;
        let mut run = Run { gpu: self, args, value, work };
        if !in_contexts {
            huffman::cuda::decode(&mut run, n_books, state.n_chunks)?;
        }
        if state.predictor == predictor::INTERP {
            run.once("interp_passes", 32)?;
        }
        let lists = Lists::put(&mut run, &head.specials, &parts.outliers, &signs)?;
        lists.mark(&mut run)?;
        if state.n_runs > 0 && !in_contexts {
            run.over("interp_order_marks", n as u32, 4 * BLOCK)?;
            run.over("kept_count", n as u32, layout::SEGMENT)?;
            run.once_for("kept_scan", layout::WIDE, (n as u32).div_ceil(layout::SEGMENT))?;
            run.over("kept_scatter", n as u32, layout::SEGMENT)?;
        }
        if !is_log {
            run.args.decoded = at;
        }
        match state.predictor {
            predictor::FITTED => {
                if let Method::Contexts(plan) = &head.method {
                    fitted::cuda::decode(&mut run, plan, shape, parts.codes)?;
                }
            }
            predictor::LORENZO => predict::lorenzo::cuda::decode(&mut run, state.axes as u8)?,
            predictor::INTERP => interp::cuda::decode(&mut run, state.active as u8, narrowing)?,
            _ => none::cuda::decode(&mut run)?,
        }
        if is_log {
            run.args.lists = lists.signs_at;
            run.args.count = signs.len() as u32;
            run.over_values("powers", n as u32, BLOCK)?;
        }
        lists.put_apart(&mut run)?;
        error_of(&run, if in_contexts { "stream" } else { "chunk" })
    }

    pub(super) fn rooms_to_decode(
        &mut self,
        n: usize,
        work_bytes: usize,
        section: &huffman::cuda::Section<'_>,
        in_contexts: bool,
    ) -> Result<Args> {
        // Codes in contexts become values as they are read.
        let n_codes = if in_contexts { 0 } else { n };
        let n_books = section.lengths.len() / huffman::cuda::BOOK_WORDS;
        Ok(Args {
            state: self.room("states", size_of::<State>())?,
            codes: self.room("codes", 4 * n_codes)?,
            kept: self.room("kept codes", 4 * n_codes)?,
            decoded: self.room("decoded values", work_bytes * n)?,
            marks: self.room("marks", n)?,
            code_marks: self.room("marks in coding order", n_codes)?,
            sums: self.room("sums", 4 * n.div_ceil(layout::SEGMENT as usize))?,
            passes: self.room("passes", layout::MAX_PASSES * layout::PASS_BYTES)?,
            chunks: self.room("chunks", section.chunks.len() * size_of::<layout::Chunk>())?,
            coders: self.room("codes of books", n_books * huffman::cuda::TABLE_BYTES)?,
            ..bytemuck::Zeroable::zeroed()
        })
    }
}

/// Whether codes were sound: as the CPU says it. Waits.
pub(super) fn error_of(run: &Run<'_>, what: &str) -> Result<()> {
    let mut bytes = [0u8; size_of::<State>()];
    run.gpu.copy_out(run.args.state, &mut bytes)?;
    match bytemuck::pod_read_unaligned::<State>(&bytes).error {
        0 => Ok(()),
        _ => Err(Error::corrupt(format!("coded {what} is damaged"))),
    }
}

/// What is stored apart of a tile, in one room: starts, ends, patterns of runs; positions and bits of outliers; signs.
pub(super) struct Lists {
    n_runs: u32,
    n_outliers: u32,
    runs_at: u64,
    outliers_at: u64,
    signs_at: u64,
}

impl Lists {
    /// Copies them to the device.
    pub fn put(run: &mut Run<'_>, specials: &Specials, outliers: &Outliers, signs: &[u32]) -> Result<Self> {
        let runs: Vec<_> = specials.ranges().collect();
        let mut lists: Vec<u32> = runs.iter().map(|(r, _)| r.start).collect();
        lists.extend(runs.iter().map(|(r, _)| r.end));
        lists.extend(runs.iter().map(|(_, pattern)| u32::from(*pattern)));
        let outliers_at = lists.len();
        lists.extend(&outliers.positions);
        let value_bytes = if run.value == "f64" { 8 } else { 4 };
        let words = |&b: &u64| [b as u32, (b >> 32) as u32].into_iter().take(value_bytes / 4);
        lists.extend(outliers.bits.iter().flat_map(words));
        let signs_at = lists.len();
        lists.extend(signs);
        let at = run.gpu.put("runs and outliers", bytemuck::cast_slice(&lists))?;
        let place = |k: usize| at + 4 * k as u64;
        Ok(Self {
            n_runs: runs.len() as u32,
            n_outliers: outliers.positions.len() as u32,
            runs_at: at,
            outliers_at: place(outliers_at),
            signs_at: place(signs_at),
        })
    }

    /// Marks values in runs: they have no codes.
    pub fn mark(&self, run: &mut Run<'_>) -> Result<()> {
        if self.n_runs == 0 {
            return Ok(());
        }
        run.gpu.zero(run.args.marks, run.args.n as usize)?;
        self.put_runs(run, 0)
    }

    fn put_runs(&self, run: &mut Run<'_>, pass: u32) -> Result<()> {
        (run.args.lists, run.args.level_or_pass, run.args.count) = (self.runs_at, pass, self.n_runs);
        run.over_values("runs_put", 32 * self.n_runs, BLOCK)
    }

    /// What was stored apart comes last: no prediction depends on it.
    pub fn put_apart(&self, run: &mut Run<'_>) -> Result<()> {
        if self.n_runs > 0 {
            self.put_runs(run, 1)?;
        }
        if self.n_outliers > 0 {
            (run.args.lists, run.args.count) = (self.outliers_at, self.n_outliers);
            run.over_values("outliers_put", self.n_outliers, BLOCK)?;
        }
        Ok(())
    }
}
