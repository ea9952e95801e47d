//! Runs through the images of a tile, on the CPU: one after the other, or the two chains of [`Schedule`] side by side.

use super::cpu::{End, Lane, Pyramid, Teacher, Tile};
use super::lattice::block_limit;
use super::rows::Rows;
use super::schedule::Schedule;
use crate::awake;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Images that later ones have beside them, for as long as they do: decoded ones, then those that both ends know beforehand.
pub(super) struct Shelf<T: Rows> {
    slots: Vec<Mutex<Option<Arc<Pyramid<T>>>>>,
    /// Images to come that have it beside them.
    n_uses: Vec<AtomicUsize>,
    /// Whether two threads are at work, one of which may wait for the other,
    is_shared: AtomicBool,
    /// and one has left its chain by a panic.
    is_left: AtomicBool,
}

impl<T: Rows> Shelf<T> {
    /// For a run through `images`.
    pub fn new(schedule: &Schedule, images: impl Iterator<Item = usize>) -> Self {
        let n = 2 * schedule.images.len();
        let mut n_uses = vec![0; n];
        images.for_each(|image| schedule.images[image].sides.iter().for_each(|&s| n_uses[s] += 1));
        let slots = (0..n).map(|_| Mutex::new(None)).collect();
        let n_uses = n_uses.into_iter().map(AtomicUsize::new).collect();
        Self { slots, n_uses, is_shared: AtomicBool::new(false), is_left: AtomicBool::new(false) }
    }

    fn slot(&self, image: usize) -> MutexGuard<'_, Option<Arc<Pyramid<T>>>> {
        self.slots[image].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An image that is on the shelf, or that another thread is about to put there.
    ///
    /// # Panics
    /// If that thread panicked, or there is none.
    pub fn get(&self, image: usize) -> Arc<Pyramid<T>> {
        let mut n_looks = 0;
        loop {
            if let Some(pyramid) = &*self.slot(image) {
                return pyramid.clone();
            }
            assert!(self.is_shared.load(Ordering::Relaxed), "side images come first");
            assert!(!self.is_left.load(Ordering::Relaxed), "the other chain has ended early");
            awake::pause(&mut n_looks);
        }
    }

    /// An image, made now if nobody has.
    pub fn get_or_make(&self, image: usize, make: impl FnOnce() -> Pyramid<T>) -> Arc<Pyramid<T>> {
        self.slot(image).get_or_insert_with(|| Arc::new(make())).clone()
    }

    /// Puts an image there that is decoded, or about to be, if any has it beside it.
    pub fn put(&self, image: usize, pyramid: Arc<Pyramid<T>>) {
        if self.n_uses[image].load(Ordering::Relaxed) > 0 {
            *self.slot(image) = Some(pyramid);
        }
    }

    /// What lay beside an image does so no more.
    pub fn leave(&self, schedule: &Schedule, image: usize) {
        for &s in &schedule.images[image].sides {
            if self.n_uses[s].fetch_sub(1, Ordering::Relaxed) == 1 {
                *self.slot(s) = None;
            }
        }
    }

    /// Has `visit` called for all `images` with the lanes that its codes go to and the worker of its chain: in the order given where there is one lane or
    /// one chain, else, ascending, on two threads where they do not follow from each other. If `in_order`, images that belong to all streams are on
    /// their own, so that their codes come one after the other.
    pub fn walk<E: Send, W: Send>(
        &self,
        schedule: &Schedule,
        images: &[usize],
        in_order: bool,
        lanes: &mut [Lane<E>],
        workers: [&mut W; 2],
        visit: impl Fn(&mut W, usize, &mut [Lane<E>]) + Sync,
    ) {
        /// Says so on the way out if `visit` panics.
        struct Leaving<'a>(&'a AtomicBool);
        impl Drop for Leaving<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
        }
        let [first, second] = workers;
        let n_lanes = lanes.len();
        if n_lanes == 1 || schedule.n_before == 0 {
            for &image in images {
                visit(if schedule.images[image].chain == 0 { first } else { second }, image, lanes);
            }
            return;
        }
        // Both chains go on from the first two steps.
        let (begin, rest) = images.split_at(images.partition_point(|&image| image < 2 * schedule.n_fast));
        let (shared, begin) = begin.split_at(begin.partition_point(|&image| in_order && schedule.is_shared(image)));
        for &image in shared {
            visit(if schedule.images[image].chain == 0 { first } else { second }, image, lanes);
        }
        let (of_first, of_second) = lanes.split_at_mut(block_limit(n_lanes, 1, 2));
        self.is_shared.store(true, Ordering::Relaxed);
        let go = |chain: usize, images: &[usize], worker: &mut W, lanes: &mut [Lane<E>]| {
            let _leaving = Leaving(&self.is_left);
            let is_here = |image: &&usize| schedule.images[**image].chain == chain;
            images.iter().filter(is_here).for_each(|&image| visit(worker, image, lanes));
        };
        // Chain 1 follows from the first step of chain 0, which is begun at once and waits for none; chain 0 goes on from that of chain 1, which it
        // does itself if nobody has begun it: who waits, waits for an image that is at work.
        let second = Mutex::new((second, of_second, false));
        let begin_second = |(worker, lanes, has_begun): &mut (&mut W, &mut [Lane<E>], bool)| {
            if !std::mem::replace(has_begun, true) {
                go(1, begin, worker, lanes);
            }
        };
        awake::halves(
            || {
                go(0, begin, first, of_first);
                if let Ok(mut second) = second.try_lock() {
                    begin_second(&mut second);
                }
                go(0, rest, first, of_first);
            },
            || {
                let mut second = second.lock().unwrap_or_else(PoisonError::into_inner);
                begin_second(&mut second);
                let (worker, lanes, _) = &mut *second;
                go(1, rest, worker, lanes);
            },
        );
    }
}

impl<T: Rows> Tile<'_, T> {
    /// Runs through all images; `finished` is given each with its item of `items`.
    pub fn run<E: End<T>, W: Teacher<T>, I: Send>(
        &self,
        teachers: [&mut W; 2],
        lanes: &mut [Lane<E>],
        items: Vec<I>,
        finished: impl Fn(I, &Pyramid<T>) + Sync,
    ) {
        let images: Vec<usize> = (0..self.schedule.images.len()).collect();
        let shelf = Shelf::new(self.schedule, images.iter().copied());
        let items: Vec<Mutex<Option<I>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        shelf.walk(self.schedule, &images, true, lanes, teachers, |teacher, image, lanes| {
            let pyramid = self.next(&shelf, image, teacher, lanes);
            if let Some(item) = items[image].lock().unwrap_or_else(PoisonError::into_inner).take() {
                finished(item, &pyramid);
            }
        });
    }

    /// Codes and decodes an image whose side images are on the shelf, or come there.
    fn next<E: End<T>>(
        &self,
        shelf: &Shelf<T>,
        image: usize,
        teacher: &mut dyn Teacher<T>,
        lanes: &mut [Lane<E>],
    ) -> Arc<Pyramid<T>> {
        let sides: Vec<_> = self.schedule.images[image].sides.iter().map(|&s| shelf.get(s)).collect();
        let pyramid = Arc::new(self.pyramid());
        shelf.put(image, pyramid.clone());
        self.image(image, &sides, teacher, lanes, &pyramid);
        shelf.leave(self.schedule, image);
        pyramid
    }
}

/// A run through the images of a tile, step by step.
pub(super) struct Course<T: Rows> {
    shelf: Shelf<T>,
    next: usize,
}

impl<T: Rows> Course<T> {
    pub fn new(schedule: &Schedule) -> Self {
        Self { shelf: Shelf::new(schedule, 0..schedule.images.len()), next: 0 }
    }

    /// Takes in the forecast of the next image.
    pub fn give(&mut self, schedule: &Schedule, forecast: Pyramid<T>) {
        self.shelf.put(schedule.given() + self.next, Arc::new(forecast));
    }

    /// Codes and decodes the next image.
    pub fn next<E: End<T>>(
        &mut self,
        tile: &Tile<'_, T>,
        teacher: &mut dyn Teacher<T>,
        lanes: &mut [Lane<E>],
    ) -> Arc<Pyramid<T>> {
        self.next += 1;
        tile.next(&self.shelf, self.next - 1, teacher, lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::site::Planes;
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Whoever waits for a chain that panicked does so too.
    #[test]
    fn a_panic_ends_both_chains() {
        for (shape, in_order) in [(&[8, 3, 24, 24][..], true), (&[8, 24, 24], true), (&[8, 24, 24], false)] {
            a_panic_ends_both(&Schedule::new(shape, true), in_order);
        }
    }

    fn a_panic_ends_both(schedule: &Schedule, in_order: bool) {
        let images: Vec<usize> = (0..schedule.images.len()).collect();
        for n_threads in [1, 2, 4] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            // At the first step, for which chain 1 waits, and in either chain later.
            for bad in [0, 1, 2, 4, 9, 20].into_iter().filter(|bad| images.contains(bad)) {
                let run = || {
                    awake::scope(|| {
                        let shelf = Shelf::<f32>::new(schedule, images.iter().copied());
                        let mut lanes = [Lane::new(()), Lane::new(())];
                        shelf.walk(schedule, &images, in_order, &mut lanes, [&mut (), &mut ()], |(), image, _| {
                            let pyramid = Arc::new(Pyramid::new(1));
                            shelf.put(image, pyramid.clone());
                            let _leaving = pyramid.leaving();
                            for &s in &schedule.images[image].sides {
                                assert!(shelf.get(s).level(0).values[0].is_empty());
                            }
                            assert_ne!(image, bad, "as it shall");
                            pyramid.put(0, Planes::default());
                            shelf.leave(schedule, image);
                        });
                    });
                };
                assert!(pool.install(|| catch_unwind(AssertUnwindSafe(run))).is_err(), "image {bad}");
            }
        }
    }
}
