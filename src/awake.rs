//! Keeps the thread pool awake while a tile is at work.
//!
//! A tile is some dozens of parallel steps of 20 to 500 µs with short serial ones between. A thread that falls asleep in such a gap
//! needs 10 to 20 µs to wake up, as long as many a step. So each thread of the pool gets a task that looks for work until the
//! tile is done. It waits in vain no longer than the serial steps take.

use std::sync::atomic::{AtomicBool, Ordering};

/// Runs `f` in the pool.
pub fn scope<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    /// Sets the flag on the way out, also when `f` panics: the scope waits for its tasks.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    rayon::scope(|scope| {
        for _ in 1..rayon::current_num_threads() {
            scope.spawn(|_| {
                while !done.load(Ordering::Relaxed) {
                    if rayon::yield_now() != Some(rayon::Yield::Executed) {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        let _done = Done(&done);
        f()
    })
}
