//! A board on which a thread puts work that those who watch it take part in, for a fraction of a microsecond: what a tile's steps of some
//! µs are shared by. A scope of rayon costs several times that where cores have their third-level caches apart, as each line of memory that
//! one thread wrote and another reads takes some 0.2 µs.
#![allow(unsafe_code)] // A borrowed closure is shown to other threads for as long as the borrow lasts; argued below.

use super::Apart;
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Work on the board: called with the rank of each thread that takes part.
type Work<'a> = &'a (dyn Fn(usize) + Sync + 'a);

/// A board. There are two, as a tile may have two halves at work, whose steps come at any time.
struct Board {
    /// Whether somebody uses it.
    taken: AtomicBool,
    /// How often something was put on it or taken off: there is work while it is odd.
    epoch: AtomicUsize,
    /// Of the work with that epoch: index in the pool of the thread that has rank 0,
    leader: AtomicUsize,
    /// and what ranks are below. Who reads both of other work misses nothing but what is over.
    n_ranks: AtomicUsize,
    /// Threads that look at `work` or are at it, but for the leader.
    n_inside: AtomicUsize,
    /// Written by who holds `taken` while `epoch` is even and no thread inside has found it odd; read by threads inside that have.
    work: UnsafeCell<Option<Work<'static>>>,
    /// What a thread that took part panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is the only part that is not Sync. It is written while nobody reads, see there, and may go to other threads, as what it
// borrows is Sync.
unsafe impl Sync for Board {}

static BOARDS: [Apart<Board>; 2] = [const {
    Apart(Board {
        taken: AtomicBool::new(false),
        epoch: AtomicUsize::new(0),
        leader: AtomicUsize::new(0),
        n_ranks: AtomicUsize::new(0),
        n_inside: AtomicUsize::new(0),
        work: UnsafeCell::new(None),
        panic: Mutex::new(None),
    })
}; 2];
/// Threads that watch the boards.
static N_WATCHING: Apart<AtomicUsize> = Apart(AtomicUsize::new(0));
thread_local! {
    /// Those of this thread that count there.
    static WATCHES: Cell<usize> = const { Cell::new(0) };
}

/// Calls `work(0)` here, and `work(k)` for some ranks `k` below `n_ranks` on threads that watch the board: each rank on one thread of this pool,
/// on others too where they watch. Returns when all have returned. Does nothing and returns false if nobody watches, not all
/// who shall have begun to (see [`mod@super`]), or the board, that of `half` 0 or 1, is in use.
pub fn share(half: usize, n_ranks: usize, work: &(dyn Fn(usize) + Sync)) -> bool {
    /// Takes the work off the board, also when it panics here.
    struct Posted<'a>(&'a Board);
    impl Drop for Posted<'_> {
        fn drop(&mut self) {
            self.0.epoch.fetch_add(1, Ordering::SeqCst);
            let mut n_looks = 0;
            while self.0.n_inside.load(Ordering::SeqCst) > 0 {
                super::pause(&mut n_looks);
            }
        }
    }
    let Some(leader) = rayon::current_thread_index() else { return false };
    let board = &BOARDS[half].0;
    let is_free = N_WATCHING.0.load(Ordering::Relaxed) > 0
        && super::N_PENDING.0.load(Ordering::Relaxed) == 0
        && board.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
    if !is_free {
        return false;
    }
    // SAFETY: the lifetime is only claimed: `work` is called by threads that are inside, `Posted` waits for these before this function ends,
    // however it ends, and none comes in later (see `take_part`).
    let work_for_now = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
    board.leader.store(leader, Ordering::Relaxed);
    board.n_ranks.store(n_ranks, Ordering::Relaxed);
    // SAFETY: `taken` is ours and the epoch is even: the last `Posted` waited for all who had found it odd. A thread that comes in now finds it
    // even, or no longer what it was, and does not read.
    unsafe { *board.work.get() = Some(work_for_now) };
    board.epoch.fetch_add(1, Ordering::SeqCst);
    let posted = Posted(board);
    let result = catch_unwind(AssertUnwindSafe(|| work(0)));
    drop(posted);
    let panic = board.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    board.taken.store(false, Ordering::Release);
    if let Some(panic) = result.err().or(panic) {
        resume_unwind(panic);
    }
    true
}

/// A thread that watches the boards.
pub struct Watch {
    /// The last work on each that it took part in.
    seen: [usize; 2],
}

impl Watch {
    /// From now on.
    pub fn new() -> Self {
        N_WATCHING.0.fetch_add(1, Ordering::Relaxed);
        WATCHES.set(WATCHES.get() + 1);
        Self { seen: [0; 2] }
    }

    /// Takes part in what is on a board; false if there is nothing, or it did already.
    pub fn take_part(&mut self) -> bool {
        self.take_part_in(0) || self.take_part_in(1)
    }

    fn take_part_in(&mut self, half: usize) -> bool {
        /// Says so on the way out.
        struct Inside<'a>(&'a Board);
        impl Drop for Inside<'_> {
            fn drop(&mut self) {
                self.0.n_inside.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let (board, seen) = (&BOARDS[half].0, &mut self.seen[half]);
        let epoch = board.epoch.load(Ordering::Acquire);
        if epoch.is_multiple_of(2) || epoch == *seen {
            return false;
        }
        *seen = epoch;
        // Who is not asked for stays out, so that the leader need not wait for it.
        let (leader, n_ranks) = (board.leader.load(Ordering::Relaxed), board.n_ranks.load(Ordering::Relaxed));
        let n_threads = rayon::current_num_threads();
        let rank = (rayon::current_thread_index().unwrap_or(leader) + n_threads - leader % n_threads) % n_threads;
        if rank == 0 || rank >= n_ranks {
            return false;
        }
        board.n_inside.fetch_add(1, Ordering::SeqCst);
        let _inside = Inside(board);
        // In the one order of all these operations we came in before the work was taken off, and whoever does that sees us; or after, and we
        // see that it was.
        if board.epoch.load(Ordering::SeqCst) != epoch {
            return false;
        }
        // SAFETY: the epoch is odd and we are inside, so that nobody writes until we are out, and what was written before it became odd is seen.
        let Some(work) = (unsafe { *board.work.get() }) else { return false };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(rank))) {
            board.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        true
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        N_WATCHING.0.fetch_sub(1, Ordering::Relaxed);
        WATCHES.set(WATCHES.get() - 1);
    }
}

/// As long as it lives, the watches below on this thread's stack do not count: the thread has a tile of its own to do first.
pub struct Suspended(usize);

impl Suspended {
    /// From now on.
    pub fn new() -> Self {
        let n = WATCHES.replace(0);
        if n > 0 {
            N_WATCHING.0.fetch_sub(n, Ordering::Relaxed);
        }
        Self(n)
    }
}

impl Drop for Suspended {
    fn drop(&mut self) {
        if self.0 > 0 {
            N_WATCHING.0.fetch_add(self.0, Ordering::Relaxed);
        }
        WATCHES.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `f` in a pool of three threads, of which the other two watch the board.
    fn watched<R: Send>(f: impl FnOnce() -> R + Send) -> R {
        /// Says so also when `f` panics.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let (done, n_begun) = (AtomicBool::new(false), AtomicUsize::new(0));
        pool.scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|_| {
                    let mut watch = Watch::new();
                    n_begun.fetch_add(1, Ordering::Relaxed);
                    while !done.load(Ordering::Relaxed) {
                        watch.take_part();
                        std::thread::yield_now();
                    }
                });
            }
            let _done = Done(&done);
            // Not before they are there.
            while n_begun.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
            f()
        })
    }

    /// Other tests use the board too.
    fn share_at_last(work: &(dyn Fn(usize) + Sync)) {
        while !share(0, 3, work) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn ranks_are_those_asked_for() {
        watched(|| {
            for _ in 0..1000 {
                let counts = [const { AtomicUsize::new(0) }; 3];
                share_at_last(&|k| {
                    counts[k].fetch_add(1, Ordering::Relaxed);
                });
                // Watches of other tests may have ranks 1 and 2 as well.
                assert_eq!(counts[0].load(Ordering::Relaxed), 1);
            }
        });
    }

    #[test]
    fn panics_come_back() {
        for rank in 0..3 {
            let caught = watched(|| {
                // Long enough for others to come.
                let work = |k: usize| {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    assert!(k != rank, "rank {k}");
                };
                catch_unwind(AssertUnwindSafe(|| share_at_last(&work))).is_err()
            });
            assert!(caught || rank > 0, "the leader always takes part");
        }
        // The board is free again.
        watched(|| share_at_last(&|_| {}));
    }
}
