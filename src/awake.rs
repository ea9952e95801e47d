//! Keeps the thread pool awake while a tile is at work, and shares out steps too short for what a sleeping thread costs.
//!
//! A tile is some dozens of parallel steps of 20 to 500 µs with short serial ones between. A thread that falls asleep in such a gap
//! needs 10 to 20 µs to wake up, as long as many a step. So each thread of the pool gets a task, a watch, that looks for work until
//! the tile is done: on a board, where the tile puts its steps, and now and then in the pool's lists. It waits in vain no longer than the
//! serial steps take.
//!
//! With several tiles at work there is work enough, and no watch: one that takes up another tile returns only when that is done,
//! and its own tile would wait for it. So tiles that come while another is at work get none, and the watches there are end.
//!
//! No two tiles can wait for each other, nor a tile for itself. What a thread takes up while it waits is newer than what it waits for, but for a
//! watch, which waits for a tile begun before. That tile waits for others only once a thread has taken a part of it. From the pool's lists
//! threads take a tile's watches before its parts, as those are newer and taken last: whatever the tile waits for was taken up after the watch.
//! And nothing is put on the board before all its watches have begun, so that who takes part in that finds none to take up while it waits.
//!
//! A tile may fall into two [`halves`], of which the second may wait for the first, and the first for the second once that has begun. The first is begun at
//! once by the thread that calls for both, and a thread at a half, or at a part of its steps, looks for no other work: so no half waits below another on a
//! stack. Steps of a half are shared on a board of its own, or done where they come up; once the other half is done, its threads take part in them.

use std::cell::Cell;
use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

mod board;

/// On lines of memory of its own: what one thread looks at again and again shall not lie beside what another one writes.
#[repr(align(128))]
struct Apart<T>(T);

/// Tiles at work in the process.
static AT_WORK: Apart<AtomicUsize> = Apart(AtomicUsize::new(0));
/// Watches that have not begun.
static N_PENDING: Apart<AtomicUsize> = Apart(AtomicUsize::new(0));
/// Halves at work in the process.
static N_HALVES: Apart<AtomicUsize> = Apart(AtomicUsize::new(0));
/// Threads that [`linger`], or are about to.
static N_LINGERING: Apart<AtomicUsize> = Apart(AtomicUsize::new(0));
/// Looks in vain that a thread does at once, some 20 µs: what most steps last.
const AT_ONCE: usize = 1000;

/// Runs `f`, a tile's work, in the pool.
pub fn scope<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    /// Says so on the way out, also when `f` panics: the scope waits for its watches.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
            AT_WORK.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let done = Apart(AtomicBool::new(false));
    let (is_alone, result) = rayon::scope(|scope| {
        let is_alone = AT_WORK.0.fetch_add(1, Ordering::Relaxed) == 0;
        let _done = Done(&done.0);
        let _suspended = board::Suspended::new();
        let _within = Within::new(false);
        if is_alone {
            let n_watches = rayon::current_num_threads() - 1;
            N_PENDING.0.fetch_add(n_watches, Ordering::Relaxed);
            for _ in 0..n_watches {
                scope.spawn(|_| watch(&done.0));
            }
        }
        (is_alone, f())
    });
    let n_others = if is_alone { rayon::current_num_threads() - 1 } else { 0 };
    if n_others > 0 && N_LINGERING.0.compare_exchange(0, n_others, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        let here = rayon::current_thread_index();
        (0..n_others).for_each(|_| rayon::spawn(move || linger(here)));
    }
    result
}

/// Looks for work a little longer than the pool's threads do before they sleep: tiles come one after the other, and to wake a thread up takes the one that
/// does it 20 µs on some machines, and that thread twice as long. `not_on` is the thread that has other things to do.
fn linger(not_on: Option<usize>) {
    /// Looks in vain until it may sleep: some 100 µs.
    const PATIENCE: usize = 1000;
    /// Says so on the way out, also when what it found panics.
    struct Lingering;
    impl Drop for Lingering {
        fn drop(&mut self) {
            N_LINGERING.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let _lingering = Lingering;
    let mut n_looks = 0;
    while n_looks < PATIENCE && rayon::current_thread_index() != not_on {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            n_looks = 0;
        }
        pause(&mut n_looks);
    }
}

/// Takes part in the steps of a tile until it is `done`, or another is at work too.
fn watch(done: &AtomicBool) {
    /// Looks at the board for each at the pool's lists: those that fill the lists are disturbed by it.
    const AT_THE_BOARD: usize = 16;
    N_PENDING.0.fetch_sub(1, Ordering::Relaxed);
    let mut board = board::Watch::new();
    let mut n_looks = 0;
    while !done.load(Ordering::Relaxed) && AT_WORK.0.load(Ordering::Relaxed) == 1 {
        // Watches that have not begun are for threads that are about to wake up.
        let may_take = n_looks % AT_THE_BOARD == 0 && N_PENDING.0.load(Ordering::Relaxed) == 0 || n_looks >= AT_ONCE;
        if board.take_part() || may_take && rayon::yield_now() == Some(rayon::Yield::Executed) {
            n_looks = 0;
        }
        pause(&mut n_looks);
    }
}

/// Does `work` on all `items`, on at most `n_threads` threads. Each begins at its own part of the list, the same each time, so that what it
/// made in the step before is still near, and goes on with what others have not begun.
///
/// By the board if there are watches and no other step is on it; else in one of two [`halves`] here alone, and elsewhere as rayon's parallel
/// iterators, but for the end: a thread that waits there looks for other work and does not fall asleep soon, as those do after some 10 µs.
pub fn for_each<I: Send>(items: impl IntoIterator<Item = I>, n_threads: usize, work: impl Fn(I) + Sync) {
    share_out(items, n_threads, Use::Shared, work);
}

/// What the board is to a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It is shared there.
    Shared,
    /// The same, of one list instead of a part for each thread.
    OneList,
    /// It is left to its own steps, which are long; whoever is done takes part in those of the other.
    Left,
}

/// The same, with such a use of the board.
fn share_out<I: Send>(items: impl IntoIterator<Item = I>, n_threads: usize, with: Use, work: impl Fn(I) + Sync) {
    /// Looks for work until the thread may sleep: some milliseconds.
    const PATIENCE: usize = 10_000;
    /// Items for each thread from which on steps within the work on one are not shared: there is always another item.
    const ENOUGH: usize = 4;
    let n_threads = at_most(n_threads);
    if n_threads < 2 {
        return items.into_iter().for_each(work);
    }
    let mut items: Vec<I> = items.into_iter().collect();
    let n_threads = n_threads.min(items.len());
    if n_threads < 2 {
        return items.into_iter().for_each(work);
    }
    let is_posted = matches!(with, Use::Shared | Use::OneList);
    let has_enough = is_posted && items.len() >= ENOUGH * n_threads;
    // Each thread's part on a line of its own: looking whether anything is left of another's costs one exchange of it.
    let begin_of = |k: usize, n: usize| if with == Use::OneList && k > 0 { n } else { k * n / (k + 1) };
    let part_of = |k: usize| Apart(Mutex::new(items.split_off(begin_of(k, items.len())).into_iter()));
    let mut parts: Vec<_> = (0..n_threads).rev().map(part_of).collect();
    parts.reverse();
    let worker = |k: usize| {
        let _within = has_enough.then(|| Within::new(true));
        let (before, after) = parts.split_at(k);
        for part in after.iter().chain(before) {
            let next = || part.0.lock().unwrap_or_else(PoisonError::into_inner).next();
            while let Some(item) = next() {
                work(item);
            }
        }
    };
    match SHARE.get() {
        (half, usize::MAX) => {
            if is_posted && board::share(half, n_threads, &worker) {
                return;
            }
        }
        // Any thread may be at the other half, so that all are asked.
        (half, share) => {
            let work = |k: usize| {
                let _share = Share::of(half, share);
                worker(k % n_threads);
            };
            if !board::share(half, rayon::current_num_threads(), &work) {
                worker(0);
            }
            return;
        }
    }
    let n_others = AtomicUsize::new(n_threads - 1);
    rayon::in_place_scope(|scope| {
        for k in 1..n_threads {
            let (worker, n_others) = (&worker, &n_others);
            scope.spawn(move |_| {
                worker(k);
                n_others.fetch_sub(1, Ordering::Release);
            });
        }
        worker(0);
        let mut watch = (with == Use::Left).then(board::Watch::new);
        let mut n_looks = 0;
        while n_others.load(Ordering::Acquire) > 0 && n_looks < PATIENCE {
            // Those of other tiles are for the threads that have none.
            watch = watch.filter(|_| AT_WORK.0.load(Ordering::Relaxed) == 1);
            let took_part = watch.as_mut().is_some_and(board::Watch::take_part);
            if took_part || rayon::yield_now() == Some(rayon::Yield::Executed) {
                n_looks = 0;
            }
            pause(&mut n_looks);
        }
    });
}

thread_local! {
    /// Which of two [`halves`] is at work here, and for how many threads its steps are: half of them, and only by its board. Whoever looked for
    /// other work while it waits could find the other half, which may wait for this one.
    static SHARE: Cell<(usize, usize)> = const { Cell::new((0, usize::MAX)) };
}

thread_local! {
    /// Whether the thread is at a step of so many items that steps within are done where they come up.
    static IS_WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Says so, or that it is not, as long as it lives.
struct Within(bool);

impl Within {
    fn new(is_within: bool) -> Self {
        Self(IS_WITHIN.replace(is_within))
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        IS_WITHIN.set(self.0);
    }
}

/// Runs `f`, whose steps are not shared, for whoever has work for the other threads.
pub fn alone<R>(f: impl FnOnce() -> R) -> R {
    let _within = Within::new(true);
    f()
}

/// As long as it lives, what is at work here is a half.
struct Share((usize, usize));

/// As long as it lives, a half is at work, and its thread watches no board.
struct AtHalf {
    _share: Share,
    _suspended: board::Suspended,
}

impl AtHalf {
    fn new(half: usize, n_threads: usize) -> Self {
        N_HALVES.0.fetch_add(1, Ordering::Relaxed);
        Self { _share: Share::of(half, n_threads), _suspended: board::Suspended::new() }
    }
}

impl Drop for AtHalf {
    fn drop(&mut self) {
        N_HALVES.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Share {
    fn of(half: usize, n_threads: usize) -> Self {
        Self(SHARE.replace((half, n_threads)))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        SHARE.set(self.0);
    }
}

/// So many threads, or those there are. Whoever wants one need not ask.
fn at_most(n_threads: usize) -> usize {
    if n_threads < 2 || IS_WITHIN.get() {
        return n_threads.min(1);
    }
    // Once one half is done, all threads are there for the other.
    let share = if N_HALVES.0.load(Ordering::Relaxed) < 2 { usize::MAX } else { SHARE.get().1 };
    n_threads.min(rayon::current_num_threads()).min(share)
}

/// Between two looks at what other threads do. Who looks in vain again and again leaves the processor to other programs that want it.
pub fn pause(n_looks: &mut usize) {
    *n_looks += 1;
    if *n_looks < AT_ONCE {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// As [`for_each`], for results, in the order of the items.
pub fn map<I: Send, R: Send>(items: Vec<I>, n_threads: usize, work: impl Fn(I) -> R + Sync) -> Vec<R> {
    if items.len() < 2 || at_most(n_threads) < 2 {
        return items.into_iter().map(work).collect();
    }
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    for_each(items.into_iter().zip(&mut results), n_threads, |(item, result)| *result = Some(work(item)));
    results.into_iter().flatten().collect()
}

/// The same for few items of unlike `size`: the largest first, each by whoever is free.
pub fn map_uneven<I: Send, R: Send>(items: Vec<I>, size: impl Fn(&I) -> usize, work: impl Fn(I) -> R + Sync) -> Vec<R> {
    if items.len() < 2 || at_most(usize::MAX) < 2 {
        return items.into_iter().map(work).collect();
    }
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let mut items: Vec<_> = items.into_iter().zip(&mut results).collect();
    items.sort_by_key(|(item, _)| Reverse(size(item)));
    share_out(items, usize::MAX, Use::OneList, |(item, result)| *result = Some(work(item)));
    results.into_iter().flatten().collect()
}

/// Does two things at once, long ones with short steps of their own, to which the board is left. The first is begun here and now.
pub fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    both(a, b)
}

fn both<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    let (mut done_a, mut done_b) = (None, None);
    let a: Box<dyn FnOnce() + Send> = Box::new(|| done_a = Some(a()));
    let b: Box<dyn FnOnce() + Send> = Box::new(|| done_b = Some(b()));
    share_out(vec![a, b], 2, Use::Left, |work| work());
    match (done_a, done_b) {
        (Some(a), Some(b)) => (a, b),
        _ => unreachable!("for_each does all work"),
    }
}

/// The same for two halves of a work, whose steps share half of the threads each.
pub fn halves(a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
    let n_threads = at_most(usize::MAX).div_ceil(2);
    let work = |half: usize, work: Box<dyn FnOnce() + Send>| {
        let _at_half = AtHalf::new(half, n_threads);
        work();
    };
    if AT_WORK.0.load(Ordering::Relaxed) > 1 {
        // Other tiles are work enough.
        a();
        b();
    } else {
        both(|| work(0, Box::new(a)), || work(1, Box::new(b)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_done_once() {
        for n_threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| {
                scope(|| {
                    for n in [0, 1, 2, 7, 100] {
                        let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                        // Nested as well.
                        for_each(&counts, 5, |c| {
                            for_each(vec![(); 3], 2, |()| {
                                c.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 3));
                    }
                    assert_eq!(join(|| 1, || "b"), (1, "b"));
                    let items: Vec<usize> = (0..20).map(|i| i * 7 % 20).collect();
                    assert_eq!(map_uneven(items.clone(), |&i| i, |i| i), items);
                });
            });
        }
    }
}
