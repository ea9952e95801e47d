//! Keeps the thread pool awake while a tile is at work.
//!
//! A tile is some dozens of parallel steps of 20 to 500 µs with short serial ones between. A thread that falls asleep in such a gap
//! needs 10 to 20 µs to wake up, as long as many a step. So each thread of the pool gets a task, a watch, that looks for work until
//! the tile is done. It waits in vain no longer than the serial steps take.
//!
//! With several tiles at work there is work enough, and no watch: one that takes up another tile returns only when that is done,
//! and its own tile would wait for it. So tiles that come while another is at work get none, and the watches there are end.
//!
//! No two tiles can wait for each other. What a thread takes up while it waits is newer than what it waits for, but for a watch, which waits
//! for a tile begun before. That tile waits for others only once a thread has taken a part of it, and threads take a tile's watches before
//! its parts, as those are newer and taken last: whatever the tile waits for was taken up after the watch.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Tiles at work in the process.
static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// Runs `f`, a tile's work, in the pool.
pub fn scope<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    /// Says so on the way out, also when `f` panics: the scope waits for its watches.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
            AT_WORK.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    rayon::scope(|scope| {
        let is_alone = AT_WORK.fetch_add(1, Ordering::Relaxed) == 0;
        let _done = Done(&done);
        if is_alone {
            for _ in 1..rayon::current_num_threads() {
                scope.spawn(|_| {
                    while !done.load(Ordering::Relaxed) && AT_WORK.load(Ordering::Relaxed) == 1 {
                        if rayon::yield_now() != Some(rayon::Yield::Executed) {
                            std::hint::spin_loop();
                        }
                    }
                });
            }
        }
        f()
    })
}
