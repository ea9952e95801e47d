//! Interpolation on the CPU.
//!
//! The known lattice is kept compact, so that neighbours on any axis are contiguous rows and the kernels read without gathers;
//! each pass makes the next lattice from it. Rows are independent of each other: blocks of rows are the tasks.

use super::lattice::{self, Pass};
use super::{Interp, Order};
use crate::awake;
use crate::predict::{Coded, collect_misses};
use crate::quantize::Quantizer;
use crate::quantize::cpu::{Kernels, Neighbours};
use crate::quantize::outlier::Outliers;
use crate::scratch::{Buffer, filled};

/// Values a task works on: long enough to hide its cost, short enough for the first cache.
const BLOCK: usize = 1 << 13;

/// Values of a pass that are worth a thread.
const ENOUGH: usize = 1 << 11;

/// A value outside the bound: raster position and bits.
type Miss = (u32, u64);

/// Values to codes.
pub fn encode<T: Kernels>(plan: &Interp, values: &[T], shape: &[usize], base: T, q: &Quantizer<T>) -> Coded {
    let mut codes = Buffer::new(values.len());
    let mut misses = Vec::new();
    let n_anchors = lattice::anchor_count(shape, plan.active);
    let passes = lattice::passes(plan, shape);
    // Nobody needs the last lattice: its place stays empty.
    let known_passes = &passes[..passes.len().saturating_sub(1)];
    let (long, short) = lattice_lens(n_anchors, known_passes);
    let (mut long, mut short) = (Buffer::new(long), Buffer::new(short));
    let (mut known, mut next) = in_turn(&mut long, &mut short, known_passes.len());
    let (now, mut rest) = codes.split_at_mut(n_anchors);
    encode_anchors(plan, values, shape, base, q, now, known, &mut misses);
    let mut n_known = n_anchors;
    for (i, pass) in passes.iter().enumerate() {
        let (now, later) = rest.split_at_mut(pass.n_codes());
        rest = later;
        let q = q.narrowed(plan.narrowing(pass.level));
        let n_next = if i < known_passes.len() { pass.n_after() } else { 0 };
        encode_pass(pass, &known[..n_known], values, &q, now, &mut next[..n_next], &mut misses);
        std::mem::swap(&mut known, &mut next);
        n_known = n_next;
    }
    Coded { codes, outliers: Outliers::from_unsorted(misses) }
}

/// Decodes as many lattices as `first` has codes for, see [`Predictor::begin`](crate::predict::Predictor::begin).
pub fn begin<T: Kernels>(plan: &Interp, first: &[i32], shape: &[usize], base: T, q: &Quantizer<T>) -> Option<Begun<T>> {
    let n_anchors = lattice::anchor_count(shape, plan.active);
    let (of_anchors, rest) = first.split_at_checked(n_anchors)?;
    let passes = lattice::passes(plan, shape);
    // The last lattice is what comes out.
    let known_passes = &passes[..passes.len().saturating_sub(1)];
    let (long, short) = lattice_lens(n_anchors, known_passes);
    let (long, short) = (Buffer::new(long), Buffer::new(short));
    let (mut known, next) = if known_passes.len().is_multiple_of(2) { (long, short) } else { (short, long) };
    let step = q.narrowed(plan.narrowing(plan.levels.len() + 1)).step;
    let mut last = [base];
    for (value, &code) in known.iter_mut().zip(of_anchors) {
        T::constant_decode(last[0], step, &[code], &mut last);
        *value = last[0];
    }
    let mut begun = Begun { known, next, n_known: n_anchors, n_passes: 0, n_codes: n_anchors };
    begun.go_on(plan, known_passes, rest, q);
    Some(begun)
}

/// Codes to values, of which some lattices may be there.
pub fn finish<T: Kernels>(
    plan: &Interp,
    begun: Option<Begun<T>>,
    codes: &[i32],
    shape: &[usize],
    base: T,
    q: &Quantizer<T>,
) -> Vec<T> {
    let passes = lattice::passes(plan, shape);
    // All lattices but the last, which is what comes out.
    let begun = match begun {
        Some(mut begun) => {
            begun.go_on(plan, &passes[..passes.len().saturating_sub(1)], &codes[begun.n_codes..], q);
            Some(begun)
        }
        None => begin(plan, codes, shape, base, q),
    };
    let Some(begun) = begun else { unreachable!("a tile has as many codes as values, and anchors are some of them") };
    let Some(pass) = passes.last() else { return begun.known[..begun.n_known].to_vec() };
    let (known, codes) = (&begun.known[..begun.n_known], &codes[begun.n_codes..]);
    let step = q.narrowed(plan.narrowing(pass.level)).step;
    filled(pass.n_after(), |values| decode_pass(pass, known, step, codes, |n| values.chunks(n), |rows| rows.fill(base)))
}

/// The lattices of a tile so far.
pub struct Begun<T: Kernels> {
    /// The last one,
    known: Buffer<T>,
    n_known: usize,
    /// and room for the next.
    next: Buffer<T>,
    n_passes: usize,
    /// Codes that were used.
    n_codes: usize,
}

impl<T: Kernels> Begun<T> {
    /// Goes through those of `passes`, all but the last, that `codes`, the next ones, are enough for.
    fn go_on(&mut self, plan: &Interp, passes: &[Pass], mut codes: &[i32], q: &Quantizer<T>) {
        for pass in &passes[self.n_passes..] {
            let Some((now, later)) = codes.split_at_checked(pass.n_codes()) else { return };
            codes = later;
            let step = q.narrowed(plan.narrowing(pass.level)).step;
            let (known, next) = (&self.known[..self.n_known], &mut self.next[..pass.n_after()]);
            decode_pass(pass, known, step, now, |n| next.chunks_mut(n), |rows| rows);
            std::mem::swap(&mut self.known, &mut self.next);
            self.n_known = pass.n_after();
            self.n_passes += 1;
            self.n_codes += pass.n_codes();
        }
    }
}

/// Lengths of two rooms that serve for the anchors and all lattices in turn; the first takes the last lattice.
fn lattice_lens(n_anchors: usize, passes: &[Pass]) -> (usize, usize) {
    let len = |back: usize| match passes.len().checked_sub(back) {
        Some(0) => n_anchors,
        Some(i) => passes[i - 1].n_after(),
        None => 0,
    };
    (len(0), len(1))
}

/// The rooms in the order in which `n_passes` passes use them: where the anchors go, and where the first pass puts its lattice.
fn in_turn<'a, T>(long: &'a mut [T], short: &'a mut [T], n_passes: usize) -> (&'a mut [T], &'a mut [T]) {
    if n_passes.is_multiple_of(2) { (long, short) } else { (short, long) }
}

/// Anchors follow each other: each is predicted by the one before.
#[expect(clippy::too_many_arguments, reason = "as encode_pass")]
pub(super) fn encode_anchors<T: Kernels>(
    plan: &Interp,
    values: &[T],
    shape: &[usize],
    base: T,
    q: &Quantizer<T>,
    codes: &mut [i32],
    lattice: &mut [T],
    misses: &mut Vec<Miss>,
) {
    let q = q.narrowed(plan.narrowing(plan.levels.len() + 1));
    let mut last = base;
    for ((position, code), decoded) in lattice::anchors(shape, plan.active).zip(codes).zip(lattice) {
        let value = [values[position]];
        let missed = T::constant_encode(last, &q, &value, std::slice::from_mut(code));
        T::constant_decode(last, q.step, std::slice::from_ref(code), std::slice::from_mut(decoded));
        last = *decoded;
        if missed {
            collect_misses(&q, &value, |_| last, |_| position, misses);
        }
    }
}

/// Rows a block of a pass over `n` values, and threads that are worth it: some blocks of short passes too, if they are shared, as each has its room to make.
fn sharing(n: usize, row_len: usize) -> (usize, usize) {
    let n_threads = n / ENOUGH;
    let block = if n_threads < 2 { BLOCK } else { BLOCK.min(n / 4) };
    ((block / row_len).max(1), n_threads)
}

/// A block of rows of new values.
struct Task<'a, T> {
    first_row: usize,
    codes: &'a mut [i32],
    /// The next lattice, from position `start` on to where the next task's begins.
    next: &'a mut [T],
    start: usize,
}

/// Encodes one pass. Makes the next lattice too, unless `next` is empty.
pub(super) fn encode_pass<T: Kernels>(
    pass: &Pass,
    known: &[T],
    values: &[T],
    q: &Quantizer<T>,
    codes: &mut [i32],
    next: &mut [T],
    misses: &mut Vec<Miss>,
) {
    let row_len = pass.row_len();
    let (rows_a_block, n_threads) = sharing(codes.len(), row_len);
    let (n_next, next_row_len) = (next.len(), pass.after[pass.n_axes - 1]);
    if n_next > 0 && !pass.is_on_last_axis() {
        copy_known(pass, known, next);
    }
    let mut tasks = Vec::with_capacity(codes.len().div_ceil(rows_a_block * row_len));
    let (mut rest, mut start) = (next, 0);
    for (block, codes) in codes.chunks_mut(rows_a_block * row_len).enumerate() {
        let first_row = block * rows_a_block;
        let after = first_row + rows_a_block;
        let is_last = after * row_len >= pass.n_codes();
        let end = if is_last { n_next } else { (Cursor::odd(pass, after).next_row() * next_row_len).min(n_next) };
        let (here, later) = rest.split_at_mut(end - start);
        rest = later;
        tasks.push(Task { first_row, codes, next: here, start });
        start = end;
    }
    let found = awake::map(tasks, n_threads, |task| encode_rows(pass, known, values, q, task));
    misses.extend(found.into_iter().flatten());
}

fn encode_rows<T: Kernels>(pass: &Pass, known: &[T], values: &[T], q: &Quantizer<T>, task: Task<'_, T>) -> Vec<Miss> {
    let Task { first_row, codes, next, start: next_start } = task;
    let (row_len, stride) = (pass.row_len(), pass.row_stride());
    let (next_row_len, n_before) = (pass.after[pass.n_axes - 1], pass.before[pass.axis]);
    let (on_last_axis, keep) = (pass.is_on_last_axis(), !next.is_empty());
    let weights = pass.order.weights::<T>();
    let mut scratch = Scratch::new(pass);
    let mut gathered = vec![T::default(); if stride == 1 { 0 } else { row_len }];
    let mut row = vec![T::default(); if on_last_axis || !keep { row_len } else { 0 }];
    let mut cursor = Cursor::odd(pass, first_row);
    let mut misses = Vec::new();
    for codes in codes.chunks_exact_mut(row_len) {
        let start = cursor.start;
        let values = if stride == 1 {
            &values[start..start + row_len]
        } else {
            T::gather(&values[start..], stride, &mut gathered);
            &gathered
        };
        let next_row =
            if keep { &mut next[cursor.next_row() * next_row_len - next_start..][..next_row_len] } else { &mut [] };
        let decoded = if on_last_axis || !keep { &mut row } else { &mut *next_row };
        let around = scratch.neighbours(pass, known, cursor.outer, cursor.on_axis, cursor.mid);
        if T::interpolate_encode(around, weights, q, values, codes, decoded) {
            collect_misses(q, values, |i| decoded[i], |i| start + i * stride, &mut misses);
        }
        if on_last_axis && keep {
            T::interleave(&known[cursor.outer * n_before..][..n_before], &row, next_row);
        }
        cursor.advance();
    }
    misses
}

/// Copies what was known to its places in the next lattice; the axis is not the last.
fn copy_known<T: Kernels>(pass: &Pass, known: &[T], next: &mut [T]) {
    let (n_before, n_after, inner) = (pass.before[pass.axis], pass.after[pass.axis], pass.n_inner());
    let (n_planes, n_threads) = (BLOCK.div_ceil(inner), next.len() / ENOUGH);
    let blocks = next.chunks_mut(n_planes * inner).enumerate();
    awake::for_each(blocks, n_threads, |(block, planes)| {
        for (p, plane) in (block * n_planes..).zip(planes.chunks_exact_mut(inner)) {
            let (outer, i) = (p / n_after, p % n_after);
            if i % 2 == 0 {
                plane.copy_from_slice(&known[(outer * n_before + i / 2) * inner..][..inner]);
            }
        }
    });
}

/// Decodes one pass: makes the next lattice, which `blocks` cuts into blocks of so many values, and `rows` gives a thread that is about to write one.
fn decode_pass<'a, T: Kernels, B: Send, I: Iterator<Item = B>>(
    pass: &Pass,
    known: &[T],
    step: T,
    codes: &[i32],
    blocks: impl FnOnce(usize) -> I,
    rows: impl Fn(B) -> &'a mut [T] + Sync,
) {
    let weights = pass.order.weights::<T>();
    let (n_before, n_odd) = (pass.before[pass.axis], pass.n_odd());
    let row_len = pass.after[pass.n_axes - 1];
    let (rows_a_block, n_threads) = sharing(pass.n_after(), row_len);
    let blocks = blocks(rows_a_block * row_len).enumerate();
    if pass.is_on_last_axis() {
        awake::for_each(blocks, n_threads, |(k, block)| {
            let mut scratch = Scratch::new(pass);
            let mut odd = vec![T::default(); n_odd];
            for (r, row) in (k * rows_a_block..).zip(rows(block).chunks_exact_mut(row_len)) {
                let around = scratch.neighbours(pass, known, r, 0, 0);
                T::interpolate_decode(around, weights, step, &codes[r * n_odd..][..n_odd], &mut odd);
                T::interleave(&known[r * n_before..][..n_before], &odd, row);
            }
        });
    } else {
        let n_mid = pass.n_inner() / row_len;
        awake::for_each(blocks, n_threads, |(k, block)| {
            let mut scratch = Scratch::new(pass);
            let mut cursor = Cursor::all(pass, k * rows_a_block);
            for row in rows(block).chunks_exact_mut(row_len) {
                let (outer, i, mid) = (cursor.outer, cursor.on_axis, cursor.mid);
                if i % 2 == 0 {
                    row.copy_from_slice(&known[((outer * n_before + i / 2) * n_mid + mid) * row_len..][..row_len]);
                } else {
                    let around = scratch.neighbours(pass, known, outer, i / 2, mid);
                    let code_row = (outer * n_odd + i / 2) * n_mid + mid;
                    T::interpolate_decode(around, weights, step, &codes[code_row * row_len..][..row_len], row);
                }
                cursor.advance();
            }
        });
    }
}

/// Walks rows in order without dividing: which combination of the axes before, index on the axis, combination of the axes
/// between it and the last, and the raster position of the row's first value.
struct Cursor<'a> {
    pass: &'a Pass,
    index: [usize; lattice::MAX_AXES],
    limit: [usize; lattice::MAX_AXES],
    row_stride: [usize; lattice::MAX_AXES],
    n_mid: usize,
    outer: usize,
    on_axis: usize,
    mid: usize,
    start: usize,
}

impl<'a> Cursor<'a> {
    /// Over the rows of new values; `row` is the first.
    fn odd(pass: &'a Pass, row: usize) -> Self {
        let mut cursor = Self::new(pass, row, pass.n_odd());
        cursor.row_stride[pass.axis] *= 2;
        cursor.start = pass.row_start(row);
        cursor
    }

    /// Over all rows of the next lattice; positions are not followed.
    fn all(pass: &'a Pass, row: usize) -> Self {
        Self::new(pass, row, pass.after[pass.axis])
    }

    fn new(pass: &'a Pass, row: usize, n_on_axis: usize) -> Self {
        let last = pass.n_axes - 1;
        let mut limit = pass.after;
        limit[pass.axis] = n_on_axis;
        let mut index = [0; lattice::MAX_AXES];
        let mut rest = row;
        for k in (0..last).rev() {
            index[k] = rest % limit[k];
            rest /= limit[k];
        }
        let combine = |axes: std::ops::Range<usize>| axes.fold(0, |i, k| i * limit[k] + index[k]);
        let (outer, on_axis, mid, n_mid) = if pass.is_on_last_axis() {
            (row, 0, 0, 1)
        } else {
            let between = pass.axis + 1..last;
            let n_mid = limit[between.clone()].iter().product();
            (combine(0..pass.axis), index[pass.axis], combine(between), n_mid)
        };
        Self { pass, index, limit, row_stride: pass.stride, n_mid, outer, on_axis, mid, start: 0 }
    }

    /// Of a cursor over new values: the row of the next lattice that takes them.
    fn next_row(&self) -> usize {
        if self.pass.is_on_last_axis() {
            return self.outer;
        }
        (self.outer * self.pass.after[self.pass.axis] + 2 * self.on_axis + 1) * self.n_mid + self.mid
    }

    /// `start` wraps where it is not followed (see [`Cursor::all`]).
    fn advance(&mut self) {
        let last = self.pass.n_axes - 1;
        for k in (0..last).rev() {
            self.index[k] += 1;
            self.start = self.start.wrapping_add(self.row_stride[k]);
            if self.index[k] < self.limit[k] {
                break;
            }
            self.start = self.start.wrapping_sub(self.row_stride[k] * self.limit[k]);
            self.index[k] = 0;
        }
        if self.pass.is_on_last_axis() {
            self.outer += 1;
            return;
        }
        self.mid += 1;
        if self.mid == self.n_mid {
            self.mid = 0;
            self.on_axis += 1;
            if self.on_axis == self.limit[self.pass.axis] {
                self.on_axis = 0;
                self.outer += 1;
            }
        }
    }
}

/// Room for the neighbours beyond the ends of an axis.
struct Scratch<T> {
    /// On the last axis: the row with one value before and two after. On others: three rows of such values.
    buffer: Vec<T>,
}

impl<T: Kernels> Scratch<T> {
    fn new(pass: &Pass) -> Self {
        let len = if pass.is_on_last_axis() { pass.before[pass.axis] + 3 } else { 3 * pass.after[pass.n_axes - 1] };
        Self { buffer: vec![T::default(); len] }
    }

    /// The neighbours of a row of new values.
    fn neighbours<'a>(
        &'a mut self,
        pass: &Pass,
        known: &'a [T],
        outer: usize,
        j: usize,
        mid: usize,
    ) -> Neighbours<'a, T> {
        if pass.is_on_last_axis() {
            self.along_row(pass, known, outer)
        } else {
            self.across_rows(pass, known, outer, j, mid)
        }
    }

    fn along_row<'a>(&'a mut self, pass: &Pass, known: &[T], row: usize) -> Neighbours<'a, T> {
        let n = pass.before[pass.axis];
        let n_odd = pass.n_odd();
        let known = &known[row * n..][..n];
        self.buffer[1..=n].copy_from_slice(known);
        if pass.wrap {
            self.buffer[0] = known[n - 1];
            self.buffer[n + 1] = known[0];
            self.buffer[n + 2] = known[1 % n];
        } else {
            let order = effective_order(pass.order, n);
            let at = |i: usize| known[i.min(n - 1)];
            let back = |i: usize| known[(n - 1).saturating_sub(i)];
            self.buffer[0] = beyond(order, 1, at(0), at(1), at(2));
            self.buffer[n + 1] = beyond(order, 1, back(0), back(1), back(2));
            self.buffer[n + 2] = beyond(order, 2, back(0), back(1), back(2));
        }
        let b = &self.buffer;
        Neighbours { a: &b[..n_odd], b: &b[1..][..n_odd], c: &b[2..][..n_odd], d: &b[3..][..n_odd] }
    }

    fn across_rows<'a>(
        &'a mut self,
        pass: &Pass,
        known: &'a [T],
        outer: usize,
        j: usize,
        mid: usize,
    ) -> Neighbours<'a, T> {
        let row_len = pass.after[pass.n_axes - 1];
        let n_mid = pass.n_inner() / row_len;
        let n = pass.before[pass.axis];
        let row = |k: usize| &known[((outer * n + k.min(n - 1)) * n_mid + mid) * row_len..][..row_len];
        let back = |i: usize| row((n - 1).saturating_sub(i));
        let order = effective_order(pass.order, n);
        let (before, after) = self.buffer.split_at_mut(row_len);
        let (after, after_next) = after.split_at_mut(row_len);
        let fill = |out: &mut [T], step: u8, near: &[T], next: &[T], far: &[T]| {
            for (((o, &f0), &f1), &f2) in out.iter_mut().zip(near).zip(next).zip(far) {
                *o = beyond(order, step, f0, f1, f2);
            }
        };
        if j == 0 {
            fill(before, 1, row(0), row(1), row(2));
        }
        if j + 1 >= n {
            fill(after, 1, back(0), back(1), back(2));
        }
        if j + 2 > n {
            fill(after_next, 2, back(0), back(1), back(2));
        }
        Neighbours {
            a: if j == 0 { before } else { row(j - 1) },
            b: row(j),
            c: if j + 1 < n { row(j + 1) } else { after },
            d: match (j + 2).cmp(&n) {
                std::cmp::Ordering::Less => row(j + 2),
                std::cmp::Ordering::Equal => {
                    fill(after_next, 1, back(0), back(1), back(2));
                    after_next
                }
                std::cmp::Ordering::Greater => after_next,
            },
        }
    }
}

/// How far extrapolation may go with `n` known values.
#[derive(Clone, Copy, PartialEq)]
enum Extrapolation {
    Constant,
    Straight,
    Quadratic,
}

fn effective_order(order: Order, n: usize) -> Extrapolation {
    match (order, n) {
        (_, 1) => Extrapolation::Constant,
        (Order::Linear, _) | (_, 2) => Extrapolation::Straight,
        _ => Extrapolation::Quadratic,
    }
}

/// The value `step` places (1 or 2) beyond the end, from the last value `f0` and those before it.
#[inline]
fn beyond<T: Kernels>(order: Extrapolation, step: u8, f0: T, f1: T, f2: T) -> T {
    let k = |v: f64| T::from_f64(v);
    match (order, step) {
        (Extrapolation::Constant, _) => f0,
        (Extrapolation::Straight, 1) => k(2.0) * f0 - f1,
        (Extrapolation::Straight, _) => k(3.0) * f0 - k(2.0) * f1,
        (Extrapolation::Quadratic, 1) => (k(3.0) * f0 - k(3.0) * f1) + f2,
        (Extrapolation::Quadratic, _) => (k(6.0) * f0 - k(8.0) * f1) + k(3.0) * f2,
    }
}
