//! What both directions have in common, on the CPU: an image, lattice by lattice, phase by phase; blocks of rows are the tasks. `course.rs`
//! goes from image to image. What happens to rows once they are predicted is up to an [`End`]: [`super::encode`] or [`super::decode`].

use super::lattice::{A, B1, B2, K, Plane, RowBlock, block_limit};
use super::plan::{BASE_BESIDE, BASE_CHAIN};
use super::rows::{self, Rows};
use super::schedule::{Image, Schedule};
use super::site::{Planes, Room, Site, Taps, Weights};
use crate::awake;
use crate::scratch::Unfilled;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Rows one after the other, of a phase mostly: where their values lie in the tile, and where in a run.
#[derive(Clone, Copy)]
pub(super) struct Strip {
    /// Place in the tile of the first value.
    pub start: usize,
    /// From a row to the next there.
    pub dy: usize,
    /// From a column to the next there.
    pub dx: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// From a row to the next in a run.
    pub stride: usize,
}

impl Strip {
    /// Length of a run: rows with what lies between them.
    pub fn len(&self) -> usize {
        (self.rows - 1) * self.stride + self.columns
    }

    /// Of each row, the place in the tile and the span of a run.
    pub fn each(self) -> impl Iterator<Item = (usize, Range<usize>)> {
        (0..self.rows).map(move |k| (self.start + k * self.dy, k * self.stride..k * self.stride + self.columns))
    }
}

/// One end of the codec: what happens to rows once they are predicted.
pub(super) trait End<T>: Send {
    /// Whether it wants to know how large codes are guessed to be.
    fn needs_buckets(&self) -> bool {
        true
    }

    /// `run` holds predictions and becomes what is decoded; `buckets` say how large codes are guessed to be; `codes` are written. What lies between rows
    /// may become anything.
    fn rows(&mut self, strip: Strip, run: &mut [T], buckets: &[u8], codes: &mut [i32]);
}

/// An end with what its rows need; on lines of memory of its own, as lanes are at work side by side.
#[repr(align(128))]
pub(super) struct Lane<E> {
    pub end: E,
    room: Room,
}

impl<E> Lane<E> {
    pub fn new(end: E) -> Self {
        Self { end, room: Room::default() }
    }
}

/// Who knows the weights of a phase before it is predicted: those of the plan, or a fit to what was decoded so far.
pub(super) trait Teacher<T: Rows>: Send {
    /// Weights of `pass` in `image`; `site` has none yet.
    fn weights(&mut self, image: usize, pass: usize, site: &Site<'_, T>) -> &Weights<T>;
}

impl<T: Rows> Teacher<T> for &[Weights<T>] {
    fn weights(&mut self, _: usize, pass: usize, _: &Site<'_, T>) -> &Weights<T> {
        &self[pass]
    }
}

/// What both ends know of a tile.
pub(super) struct Tile<'a, T: Rows> {
    pub schedule: &'a Schedule,
    pub taps: &'a [Arc<Taps>],
    pub wrap: bool,
    pub base: T,
    pub step: T,
}

/// The lattices of an image, finest first. They come coarsest first, and images that have it beside them, on another thread, follow lattice by
/// lattice.
pub(super) struct Pyramid<T: Rows> {
    levels: Vec<OnceLock<Planes<T>>>,
    /// Whether whoever makes it has ended by a panic.
    is_left: AtomicBool,
}

impl<T: Rows> Pyramid<T> {
    /// Without any of its lattices.
    pub fn new(n_levels: usize) -> Self {
        Self { levels: (0..n_levels).map(|_| OnceLock::new()).collect(), is_left: AtomicBool::new(false) }
    }

    /// A lattice that is there, or that another thread is about to make.
    ///
    /// # Panics
    /// If that thread panicked.
    pub fn level(&self, level: usize) -> &Planes<T> {
        let mut n_looks = 0;
        loop {
            if let Some(planes) = self.levels[level].get() {
                return planes;
            }
            assert!(!self.is_left.load(Ordering::Relaxed), "the image has been left");
            awake::pause(&mut n_looks);
        }
    }

    /// Puts a lattice there, once.
    pub fn put(&self, level: usize, planes: Planes<T>) {
        assert!(self.levels[level].set(planes).is_ok(), "lattices are made once");
    }

    /// To be held while it is made.
    pub fn leaving(&self) -> impl Drop {
        struct Leaving<'a>(&'a AtomicBool);
        impl Drop for Leaving<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
        }
        Leaving(&self.is_left)
    }
}

impl<T: Rows> Tile<'_, T> {
    fn inverse(&self) -> T {
        T::from_f64(1.0 / self.step.to_f64())
    }

    /// An image that is yet to be decoded.
    pub fn pyramid(&self) -> Pyramid<T> {
        Pyramid::new(self.schedule.lattices.levels)
    }

    /// Predicts, codes and decodes an image beside the lattices of its side images, to `pyramid`.
    pub fn image<E: End<T>>(
        &self,
        image: usize,
        sides: &[Arc<Pyramid<T>>],
        teacher: &mut dyn Teacher<T>,
        lanes: &mut [Lane<E>],
        pyramid: &Pyramid<T>,
    ) {
        let _leaving = pyramid.leaving();
        let lattices = self.schedule.lattices;
        let Image { place, kind, is_backwards, .. } = self.schedule.images[image];
        let offset = place * lattices.ny * lattices.nx;
        let wraps = |level: usize| lattices.wraps(level, self.wrap);
        let (mut known, mut known_sizes) = self.base_lattice(offset, sides, &mut lanes[0].end);
        known.fill_margins(wraps(lattices.levels - 1));
        known_sizes.fill_margins(wraps(lattices.levels - 1));
        for level in (0..lattices.levels).rev() {
            let wrap = wraps(level);
            let mut planes = Planes::default();
            planes.values[usize::from(K)] = known;
            planes.sizes[usize::from(K)] = known_sizes;
            let side_planes: Vec<&Planes<T>> = sides.iter().map(|s| s.level(level)).collect();
            for phase in A..=B2 {
                let size = lattices.plane_size(level, phase);
                let stride = lattices.stride(level);
                let (mut values, mut sizes) = (Plane::new(size, stride), Plane::new(size, stride));
                if values.is_empty() {
                    continue;
                }
                let pass = self.schedule.pass(kind, level, phase);
                let no_weights = Weights::default();

                let (start, dy, dx) = lattices.raster(level, phase);
                let strip = Strip { start: offset + start, dy, dx, rows: size.0, columns: size.1, stride };
                let site = Site {
                    phase,
                    own: &planes,
                    sides: &side_planes,
                    taps: &self.taps[pass],
                    is_backwards,
                    weights: &no_weights,
                    size,
                    stride,
                    start: 0,
                    len: 0,
                    inverse: self.inverse(),
                };
                let site = Site { weights: teacher.weights(image, pass, &site), ..site };
                Self::phase(&site, strip, wrap, &mut values, &mut sizes, lanes);
                planes.values[usize::from(phase)] = values;
                planes.sizes[usize::from(phase)] = sizes;
            }
            pyramid.put(level, planes);
            if level == 0 {
                break;
            }
            let (size, stride) = (lattices.size(level), lattices.stride(level - 1));
            (known, known_sizes) = interleaved(pyramid.level(level), size, stride, wraps(level - 1));
        }
    }

    /// The base lattice: from the first side image where there is one, else each value from the one before.
    fn base_lattice<E: End<T>>(&self, offset: usize, sides: &[Arc<Pyramid<T>>], end: &mut E) -> (Plane<T>, Plane<u8>) {
        let lattices = self.schedule.lattices;
        let (rows, columns) = lattices.size(lattices.levels);
        let (h, stride) = (1 << lattices.levels, lattices.stride(lattices.levels - 1));
        let (mut values, mut sizes) = (Plane::new((rows, columns), stride), Plane::new((rows, columns), stride));
        let mut codes = vec![0; columns];
        let beside = sides.first().map(|s| &s.level(lattices.levels - 1).values[usize::from(K)]);
        let mut last = self.base;
        for i in 0..rows {
            let start = offset + i * h * lattices.nx;
            let row = values.row_mut(i);
            let strip = Strip { start, dy: 0, dx: h, rows: 1, columns, stride: 0 };
            match beside {
                Some(beside) => {
                    row.copy_from_slice(beside.row(i));
                    end.rows(strip, row, &vec![BASE_BESIDE; columns], &mut codes);
                }
                None => {
                    for j in 0..columns {
                        row[j] = last;
                        let strip = Strip { start: start + j * h, columns: 1, ..strip };
                        end.rows(strip, &mut row[j..=j], &[BASE_CHAIN], &mut codes[j..=j]);
                        last = row[j];
                    }
                }
            }
            rows::sizes(&codes, sizes.row_mut(i));
        }
        (values, sizes)
    }

    /// Predicts, codes and decodes a phase; blocks of rows, one an end, are the tasks.
    fn phase<E: End<T>>(
        site: &Site<'_, T>,
        strip: Strip,
        wrap: bool,
        values: &mut Plane<T>,
        sizes: &mut Plane<u8>,
        lanes: &mut [Lane<E>],
    ) {
        let (n_rows, columns) = site.size;
        let n_blocks = lanes.len();
        let rows = || (0..n_blocks).map(|b| block_limit(n_rows, b, n_blocks)..block_limit(n_rows, b + 1, n_blocks));
        let planes = values.blocks_mut(rows()).zip(sizes.blocks_mut(rows()));
        let blocks = planes.zip(lanes).zip(rows()).map(|(((values, sizes), lane), rows)| Block {
            values,
            sizes,
            lane,
            rows,
            wrap,
        });
        awake::for_each(blocks, n_rows * columns / ENOUGH, |block| block.work(site, strip));
        values.fill_outer_rows();
        sizes.fill_outer_rows();
    }
}

/// Rows of a phase that one end codes.
struct Block<'a, T: Rows, E> {
    values: RowBlock<'a, T>,
    sizes: RowBlock<'a, u8>,
    lane: &'a mut Lane<E>,
    rows: Range<usize>,
    wrap: bool,
}

impl<T: Rows, E: End<T>> Block<'_, T, E> {
    /// `all` are the rows of the phase.
    fn work(mut self, site: &Site<'_, T>, all: Strip) {
        let rows_a_run = RUN.div_ceil(all.stride).min(self.rows.len());
        let Lane { end, room } = self.lane;
        room.grow(RUN.max(rows_a_run * all.stride));
        let mut first = self.rows.start;
        while first < self.rows.end {
            // Rows with the same weights.
            let band = site.band(first);
            let n = (first..self.rows.end).take(rows_a_run).take_while(|&i| site.band(i) == band).count();
            let strip = Strip { start: all.start + first * all.dy, rows: n, ..all };
            let len = strip.len();
            let site = site.at(first, 0, len);
            let run = self.values.run_mut(first, len);
            site.predict(band, run);
            if end.needs_buckets() {
                site.guess(first..first + n, run, room);
            }
            let codes = &mut room.codes[..len];
            end.rows(strip, run, &room.buckets[..len], codes);
            rows::sizes(codes, self.sizes.run_mut(first, len));
            for i in first..first + n {
                self.values.fill_margins(i, self.wrap);
                self.sizes.fill_margins(i, self.wrap);
            }
            first += n;
        }
    }
}

/// Values of a phase that are worth a thread.
const ENOUGH: usize = 1 << 8;

/// Values of a run, about: long enough to hide what a kernel costs, short enough for the first cache.
pub(super) const RUN: usize = 1 << 10;

/// The four planes of values, and of sizes, put together to the lattice that they are the parts of.
fn interleaved<T: Rows>(planes: &Planes<T>, size: (usize, usize), stride: usize, wrap: bool) -> (Plane<T>, Plane<u8>) {
    /// Values of a task.
    const TASK: usize = 1 << 12;
    let (mut values, mut sizes) = (Plane::new(size, stride), Plane::new(size, stride));
    let (n_rows, rows_a_task) = (size.0, TASK.div_ceil(size.1.max(1)));
    let rows = || (0..n_rows).step_by(rows_a_task).map(|first| first..n_rows.min(first + rows_a_task));
    let blocks = values.blocks_mut(rows()).zip(sizes.blocks_mut(rows())).zip(rows());
    awake::for_each(blocks, usize::MAX, |((mut values, mut sizes), rows)| {
        for i in rows {
            let (even, odd) = if i % 2 == 0 { (K, B2) } else { (B1, A) };
            interleave_row(&planes.values, even, odd, i / 2, values.row_mut(i));
            interleave_row(&planes.sizes, even, odd, i / 2, sizes.row_mut(i));
            values.fill_margins(i, wrap);
            sizes.fill_margins(i, wrap);
        }
    });
    values.fill_outer_rows();
    sizes.fill_outer_rows();
    (values, sizes)
}

/// The values of an image of rows of `nx`.
pub(super) fn whole<T: Rows>(pyramid: &Pyramid<T>, nx: usize, out: Unfilled<'_, T>) {
    const ROWS: usize = 16;
    awake::for_each(out.chunks(ROWS * nx).enumerate(), usize::MAX, |(k, rows)| {
        for (i, row) in (ROWS * k..).zip(rows.fill(T::default()).chunks_exact_mut(nx)) {
            let (even, odd) = if i % 2 == 0 { (K, B2) } else { (B1, A) };
            interleave_row(&pyramid.level(0).values, even, odd, i / 2, row);
        }
    });
}

fn interleave_row<T: bytemuck::Pod>(planes: &[Plane<T>; 4], even: u8, odd: u8, i: usize, out: &mut [T]) {
    let even = &planes[usize::from(even)];
    let even = even.row(i);
    let odd = &planes[usize::from(odd)];
    let odd = if odd.is_empty() { &[] } else { odd.row(i) };
    let (pairs, rest) = out.as_chunks_mut::<2>();
    for ((pair, &e), &o) in pairs.iter_mut().zip(even).zip(odd) {
        *pair = [e, o];
    }
    if let ([last], [.., e]) = (rest, even) {
        *last = *e;
    }
}
