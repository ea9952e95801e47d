//! Which images there are, and which of those before serve as side images of each.

use super::lattice::{Lattices, block_limit};
use std::ops::Range;

/// How far away a side image is: along the slower of the leading axes, and along the fastest of them.
pub type Offset = (u8, u8);

/// Side images of tiles with two or more leading axes (time and level, say): the step before, the level below, two steps before, the
/// level below a step before. Bit `k` of a kind says that image `k` of this list is there.
const TWO_AXES: [Offset; 4] = [(1, 0), (0, 1), (2, 0), (1, 1)];
/// With one leading axis: the two images before.
const ONE_AXIS: [Offset; 2] = [(1, 0), (2, 0)];
/// Bits of a kind for the forecasts of the image and of the level below.
const OWN_FORECAST: u8 = 4;
const FORECAST_BELOW: u8 = 5;

/// Steps from which on a tile is coded from its middle outwards.
const LEAST_STEPS: usize = 4;

/// An image of a tile.
pub struct Image {
    /// Its index in the tile.
    pub place: usize,
    /// Its side images: indices in coding order; from [`Schedule::given`] on those of images that both ends know beforehand: forecasts.
    pub sides: Vec<usize>,
    /// Which side images it has.
    pub kind: usize,
    /// Its chain: images of chain 1 follow from those of chain 0 at the first two steps, and then from each other alone.
    pub chain: usize,
    /// Whether its side images follow it in the tile: it is predicted with taps on the opposite sides, as in time and space turned round things
    /// are much the same.
    pub is_backwards: bool,
}

/// The images of a tile in coding order: from a step in the middle and the next one outwards, forwards and backwards in turn, so that two
/// threads can do a half each and the first fits are those of both; tiles of few steps, and beside forecasts, forwards.
pub struct Schedule {
    /// Lattices of an image.
    pub lattices: Lattices,
    /// The images.
    pub images: Vec<Image>,
    /// Number of side images of each kind.
    pub sides_of_kind: Vec<usize>,
    /// Which chains have images of each kind.
    chains_of_kind: Vec<[bool; 2]>,
    /// Images along the fastest of the leading axes.
    pub n_fast: usize,
    /// Steps before the one that is coded first.
    pub n_before: usize,
}

impl Schedule {
    /// For a tile of `shape` (axes of length 1 left out), from the middle outwards or forwards.
    pub fn new(shape: &[usize], is_outwards: bool) -> Self {
        let (leading, image) = shape.split_at(shape.len().saturating_sub(2));
        let (ny, nx) = if let [ny, nx] = image { (*ny, *nx) } else { (1, image.first().copied().unwrap_or(1)) };
        let (n_slow, n_fast, offsets): (usize, usize, &[Offset]) = match leading {
            [] => (1, 1, &[]),
            [n] => (*n, 1, &ONE_AXIS),
            [slow @ .., fast] => (slow.iter().product(), *fast, &TWO_AXES),
        };
        let n_before = if !is_outwards || n_slow < LEAST_STEPS { 0 } else { (n_slow - 2) / 2 };
        Self::build(Lattices::new(ny, nx), n_slow, n_fast, offsets, &[], n_before)
    }

    /// For a tile of `[steps, levels, ny, nx]` in which some images, by their index, have a forecast. It comes first among the side images of
    /// its image, and last is that of the level below: what is decoded there less what was forecast is news.
    pub fn with_forecasts(shape: [usize; 4], has_forecast: &[bool]) -> Self {
        let [steps, levels, ny, nx] = shape;
        let (n_slow, n_fast, offsets): (_, _, &[Offset]) =
            if levels == 1 { (steps, 1, &ONE_AXIS) } else { (steps, levels, &TWO_AXES) };
        Self::build(Lattices::new(ny, nx), n_slow, n_fast, offsets, has_forecast, 0)
    }

    fn build(
        lattices: Lattices,
        n_slow: usize,
        n_fast: usize,
        offsets: &[Offset],
        has_forecast: &[bool],
        n_before: usize,
    ) -> Self {
        let n = n_slow * n_fast;
        let is_forecast = |image: usize| has_forecast.get(image).is_some_and(|&f| f);
        let mut masks: Vec<u8> = vec![];
        let mut images = Vec::with_capacity(n);
        for slow in 0..n_slow {
            let (step, is_backwards) = step_of(slow, n_before);
            for fast in 0..n_fast {
                let image = slow * n_fast + fast;
                let mut mask = 0;
                let mut sides = vec![];
                if is_forecast(image) {
                    mask |= 1 << OWN_FORECAST;
                    sides.push(n + image);
                }
                for (bit, &(ds, df)) in offsets.iter().enumerate() {
                    let before = step_before(slow, ds, n_before);
                    if let (Some(s), Some(f)) = (before, fast.checked_sub(usize::from(df))) {
                        mask |= 1 << bit;
                        sides.push(s * n_fast + f);
                    }
                }
                if fast > 0 && is_forecast(image) && is_forecast(image - 1) {
                    mask |= 1 << FORECAST_BELOW;
                    sides.push(n + image - 1);
                }
                let kind = masks.iter().position(|&m| m == mask).unwrap_or_else(|| {
                    masks.push(mask);
                    masks.len() - 1
                });
                let chain = if n_before == 0 { 0 } else { slow % 2 };
                images.push(Image { place: step * n_fast + fast, sides, kind, chain, is_backwards });
            }
        }
        let sides_of_kind = masks.iter().map(|m| m.count_ones() as usize).collect();
        let mut chains_of_kind = vec![[false; 2]; masks.len()];
        images.iter().for_each(|image| chains_of_kind[image.kind][image.chain] = true);
        Self { lattices, images, sides_of_kind, chains_of_kind, n_fast, n_before }
    }

    /// Streams that the codes of an image go to; each has a block of its rows.
    pub fn streams(&self, image: usize, n_streams: usize) -> Range<usize> {
        if self.is_shared(image) || n_streams == 1 {
            return 0..n_streams;
        }
        let limit = |chain| block_limit(n_streams, chain, 2);
        let chain = self.images[image].chain;
        limit(chain)..limit(chain + 1)
    }

    /// For an order of chain after chain: the first two steps, which both chains follow from, then chain 0, then chain 1.
    pub fn turn_of_chain(&self, image: usize) -> usize {
        if image < 2 * self.n_fast { 0 } else { 1 + self.images[image].chain }
    }

    /// Whether an image belongs to all streams.
    pub fn is_shared(&self, image: usize) -> bool {
        self.n_before == 0 || self.n_fast == 1 && image < 2
    }

    /// Whether images of a kind are in a chain.
    pub fn is_in_chain(&self, kind: usize, chain: usize) -> bool {
        self.chains_of_kind[kind][chain]
    }

    /// Number of chains with images of a kind.
    pub fn chains_of_kind(&self, kind: usize) -> usize {
        self.chains_of_kind[kind].iter().filter(|&&is_there| is_there).count()
    }

    /// A number for each image, those of neighbours on both leading axes far apart: what is sampled by it comes from everywhere on each level
    /// and at each step. (The additive sequence of Roberts for two dimensions, in 2^-32.)
    pub fn turn(&self, image: usize) -> u32 {
        let place = self.images[image].place;
        let (slow, fast) = ((place / self.n_fast) as u32, (place % self.n_fast) as u32);
        slow.wrapping_mul(0xc13f_a9a9).wrapping_add(fast.wrapping_mul(0x91e1_0da5))
    }

    /// Index of the first image that is given.
    pub fn given(&self) -> usize {
        self.images.len()
    }

    /// Number of passes: phases of the levels of each kind.
    pub fn n_passes(&self) -> usize {
        self.sides_of_kind.len() * self.lattices.levels * 3
    }

    /// Index of a pass. `phase` is 1 to 3.
    pub fn pass(&self, kind: usize, level: usize, phase: u8) -> usize {
        (kind * self.lattices.levels + level) * 3 + usize::from(phase) - 1
    }

    /// The kind of the images of a pass.
    pub fn kind_of_pass(&self, pass: usize) -> usize {
        pass / (3 * self.lattices.levels)
    }

    /// Number of side images in a pass.
    pub fn sides_of_pass(&self, pass: usize) -> usize {
        self.sides_of_kind[self.kind_of_pass(pass)]
    }
}

/// Which step of a tile the `slow`th in coding order is, and whether it is predicted backwards.
fn step_of(slow: usize, n_before: usize) -> (usize, bool) {
    match slow {
        _ if n_before == 0 => (slow, false),
        0 | 1 => (n_before + slow, false),
        _ if slow.is_multiple_of(2) => (n_before + 1 + slow / 2, false),
        _ => (n_before - (slow - 1) / 2, true),
    }
}

/// Of the `slow`th step in coding order the one next to it on the side that is decoded, or the one behind that (`n` = 2).
fn step_before(slow: usize, n: u8, n_before: usize) -> Option<usize> {
    match (slow, n) {
        (_, 0) => Some(slow),
        _ if n_before == 0 || slow < 2 => slow.checked_sub(usize::from(n)),
        // Forwards 0, 1, 2, 4, 6, …; backwards 1, 0, 3, 5, 7, …
        (2, _) => Some(usize::from(2 - n)),
        (3, _) => Some(usize::from(n - 1)),
        (4 | 5, 2) => Some(1 - slow % 2),
        _ => Some(slow - 2 * usize::from(n)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_images_are_the_nearest_that_are_known() {
        for n in 1..12 {
            for shape in [vec![n, 16, 16], vec![n, 3, 16, 16]] {
                let schedule = Schedule::new(&shape, true);
                let n_fast = schedule.n_fast;
                let mut places: Vec<usize> = schedule.images.iter().map(|i| i.place).collect();
                for (k, image) in schedule.images.iter().enumerate() {
                    let (step, level) = (image.place / n_fast, image.place % n_fast);
                    let side = |ds: usize, df: usize| {
                        let step = if image.is_backwards { step + ds } else { step.wrapping_sub(ds) };
                        let place = step.wrapping_mul(n_fast).wrapping_add(level).wrapping_sub(df);
                        let is_there = level >= df && step < n;
                        is_there.then(|| places[..k].iter().position(|&p| p == place)).flatten()
                    };
                    let offsets: &[Offset] = if n_fast == 1 { &ONE_AXIS } else { &TWO_AXES };
                    let expected = offsets.iter().filter_map(|o| side(usize::from(o.0), usize::from(o.1)));
                    assert_eq!(image.sides, expected.collect::<Vec<_>>(), "image {k} of {shape:?}");
                    // Chains meet at the first two steps alone.
                    let meets = |&&s: &&usize| s / n_fast > 1 && schedule.images[s].chain != image.chain;
                    assert_eq!(image.sides.iter().find(meets), None, "image {k} of {shape:?}");
                }
                places.sort_unstable();
                assert!(places.iter().copied().eq(0..n * n_fast), "{shape:?}");
                let of_chain = |chain| schedule.images.iter().filter(|i| i.chain == chain).count();
                if n >= LEAST_STEPS {
                    assert!(of_chain(0) - of_chain(1) <= 3 * n_fast, "{shape:?}");
                }
            }
        }
    }
}
