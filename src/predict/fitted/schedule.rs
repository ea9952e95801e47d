//! Which images there are, and which of those before serve as side images of each.

use super::lattice::Lattices;

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

/// The images of a tile in coding order.
pub struct Schedule {
    /// Lattices of an image.
    pub lattices: Lattices,
    /// For each image its side images and its kind. Side images are indices of images; from [`Schedule::given`] on those of images that both
    /// ends know beforehand: forecasts.
    pub images: Vec<(Vec<usize>, usize)>,
    /// Number of side images of each kind.
    pub sides_of_kind: Vec<usize>,
    /// Images along the fastest of the leading axes.
    n_fast: usize,
}

impl Schedule {
    /// For a tile of `shape` (axes of length 1 left out).
    pub fn new(shape: &[usize]) -> Self {
        let (leading, image) = shape.split_at(shape.len().saturating_sub(2));
        let (ny, nx) = if let [ny, nx] = image { (*ny, *nx) } else { (1, image.first().copied().unwrap_or(1)) };
        let (n_slow, n_fast, offsets): (usize, usize, &[Offset]) = match leading {
            [] => (1, 1, &[]),
            [n] => (*n, 1, &ONE_AXIS),
            [slow @ .., fast] => (slow.iter().product(), *fast, &TWO_AXES),
        };
        Self::build(Lattices::new(ny, nx), n_slow, n_fast, offsets, &[])
    }

    /// For a tile of `[steps, levels, ny, nx]` in which some images, by their index, have a forecast. It comes first among the side images of
    /// its image, and last is that of the level below: what is decoded there less what was forecast is news.
    pub fn with_forecasts(shape: [usize; 4], has_forecast: &[bool]) -> Self {
        let [steps, levels, ny, nx] = shape;
        let (n_slow, n_fast, offsets): (_, _, &[Offset]) =
            if levels == 1 { (steps, 1, &ONE_AXIS) } else { (steps, levels, &TWO_AXES) };
        Self::build(Lattices::new(ny, nx), n_slow, n_fast, offsets, has_forecast)
    }

    fn build(lattices: Lattices, n_slow: usize, n_fast: usize, offsets: &[Offset], has_forecast: &[bool]) -> Self {
        let n = n_slow * n_fast;
        let is_forecast = |image: usize| has_forecast.get(image).is_some_and(|&f| f);
        let mut masks: Vec<u8> = vec![];
        let mut images = Vec::with_capacity(n);
        for slow in 0..n_slow {
            for fast in 0..n_fast {
                let image = slow * n_fast + fast;
                let mut mask = 0;
                let mut sides = vec![];
                if is_forecast(image) {
                    mask |= 1 << OWN_FORECAST;
                    sides.push(n + image);
                }
                for (bit, &(ds, df)) in offsets.iter().enumerate() {
                    if let (Some(s), Some(f)) = (slow.checked_sub(usize::from(ds)), fast.checked_sub(usize::from(df))) {
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
                images.push((sides, kind));
            }
        }
        let sides_of_kind = masks.iter().map(|m| m.count_ones() as usize).collect();
        Self { lattices, images, sides_of_kind, n_fast }
    }

    /// A number for each image, those of neighbours on both leading axes far apart: what is sampled by it comes from everywhere on each level
    /// and at each step. (The additive sequence of Roberts for two dimensions, in 2^-32.)
    pub fn turn(&self, image: usize) -> u32 {
        let (slow, fast) = ((image / self.n_fast) as u32, (image % self.n_fast) as u32);
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

    /// Number of side images in a pass.
    pub fn sides_of_pass(&self, pass: usize) -> usize {
        self.sides_of_kind[pass / (3 * self.lattices.levels)]
    }

    /// The image after which image `i`, decoded or given, is needed no more.
    pub fn last_use(&self) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.images.len()).chain(0..self.images.len()).collect();
        for (i, (sides, _)) in self.images.iter().enumerate() {
            sides.iter().for_each(|&s| last[s] = i);
        }
        last
    }
}
