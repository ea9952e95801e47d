//! Maps of an image: the values, and for each archive what was left after prediction, what it cost and what it got wrong. Small PNG files
//! with a palette, whose scales are the same for all methods, so that maps can be compared.

use png::{BitDepth, ColorType, Encoder};

/// Pixels across, at most.
const WIDTH: usize = 360;
/// Codes from this magnitude on have the last colour.
pub const MAX_CODE: f64 = 8.0;
/// Bits a value that have the first and the last colour; on a logarithmic scale.
pub const BITS: [f64; 2] = [0.0625, 16.0];

/// Colours of values, dark to light (in the manner of viridis).
const SEQUENTIAL: [[u8; 3]; 6] =
    [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];
/// Colours of what has a sign: blue below, red above (ColorBrewer's RdBu, turned round).
const DIVERGING: [[u8; 3]; 7] =
    [[33, 102, 172], [103, 169, 207], [209, 229, 240], [247, 247, 247], [253, 219, 199], [239, 138, 98], [178, 24, 43]];
/// Colour of what is not there.
const NOTHING: [u8; 3] = [128, 128, 128];

/// PNG files of an image.
#[derive(Default)]
pub struct Maps {
    /// Values.
    pub original: Option<Vec<u8>>,
    /// Codes.
    pub residual: Option<Vec<u8>>,
    /// Bits that codes took.
    pub bits: Option<Vec<u8>>,
    /// Errors in parts of the bound.
    pub error: Option<Vec<u8>>,
}

impl Maps {
    /// Draws an image of rows of `width` values; `error` in eighths of the bound; codes and their bits.
    pub fn fill(
        &mut self,
        width: usize,
        upside_down: bool,
        original: &[f64],
        error: Option<&[i32]>,
        codes: Option<(&[i32], Option<&[f32]>)>,
    ) {
        let finite = original.iter().copied().filter(|x| x.is_finite());
        let (low, high) = finite.fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
        let plane = Plane { width, height: original.len() / width.max(1), upside_down };
        self.original = plane.png(&SEQUENTIAL, |i| (original[i] - low) / (high - low).max(f64::MIN_POSITIVE));
        let signed = |x: i32, most: f64| (f64::from(x) / most + 1.0) / 2.0;
        self.error = error.and_then(|e| plane.png(&DIVERGING, |i| signed(e[i], 8.0)));
        let Some((codes, bits)) = codes else { return };
        // Signs and sizes on a scale that shows ones well: the root of the magnitude.
        let root = |c: i32| (f64::from(c).abs() / MAX_CODE).sqrt().copysign(f64::from(c));
        self.residual = plane.png(&DIVERGING, |i| (root(codes[i]) + 1.0) / 2.0);
        let Some(bits) = bits else { return };
        // A value alone says little of what a place costs: the mean of those around it.
        let height = plane.height;
        let around = |i: usize| {
            const REACH: usize = 4;
            let (y, x) = (i / width, i % width);
            let rows = y.saturating_sub(REACH)..(y + REACH + 1).min(height);
            let columns = x.saturating_sub(REACH)..(x + REACH + 1).min(width);
            let n = rows.len() * columns.len();
            let sum: f64 =
                rows.map(|r| bits[r * width..][columns.clone()].iter().map(|&b| f64::from(b)).sum::<f64>()).sum();
            sum / n as f64
        };
        let octaves = (BITS[1] / BITS[0]).log2();
        self.bits = plane.png(&SEQUENTIAL, |i| (around(i) / BITS[0]).max(1e-9).log2() / octaves);
    }
}

/// How values lie: rows of `width`, the last of them the northernmost if `upside_down`.
struct Plane {
    width: usize,
    height: usize,
    upside_down: bool,
}

impl Plane {
    /// Every value, or one of several, drawn: `at` gives 0 to 1 by its index, or NaN. `None` if there is nothing to draw.
    fn png(&self, anchors: &[[u8; 3]], at: impl Fn(usize) -> f64) -> Option<Vec<u8>> {
        let step = self.width.div_ceil(WIDTH).max(1);
        let (rows, columns) = (self.height / step, self.width / step);
        if rows < 2 || columns < 2 {
            return None;
        }
        let color = |row: usize, column: usize| {
            let row = if self.upside_down { rows - 1 - row } else { row };
            let x = at(row * step * self.width + column * step);
            if x.is_nan() { N_COLORS as u8 - 1 } else { (x.clamp(0.0, 1.0) * (N_COLORS - 2) as f64).round() as u8 }
        };
        let pixels: Vec<u8> =
            (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))).map(|(r, c)| color(r, c)).collect();
        let mut out = vec![];
        let mut encoder = Encoder::new(&mut out, columns as u32, rows as u32);
        encoder.set_color(ColorType::Indexed);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_palette(palette(anchors));
        let mut writer = encoder.write_header().ok()?;
        writer.write_image_data(&pixels).ok()?;
        writer.finish().ok()?;
        Some(out)
    }
}

/// Colours of a palette; the last is that of nothing.
const N_COLORS: usize = 64;

fn palette(anchors: &[[u8; 3]]) -> Vec<u8> {
    let mut out = vec![];
    for i in 0..N_COLORS - 1 {
        let at = i as f64 / (N_COLORS - 2) as f64 * (anchors.len() - 1) as f64;
        let k = (at as usize).min(anchors.len() - 2);
        let share = at - k as f64;
        out.extend(
            (0..3).map(|c| {
                (f64::from(anchors[k][c]) * (1.0 - share) + f64::from(anchors[k + 1][c]) * share).round() as u8
            }),
        );
    }
    out.extend(NOTHING);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_the_colours_of_its_values() {
        let (width, height) = (40usize, 20usize);
        let mut original: Vec<f64> = (0..width * height).map(|i| (i / width) as f64).collect();
        original[0] = f64::NAN;
        let codes: Vec<i32> = (0..width * height).map(|i| (i % width) as i32 - 20).collect();
        let mut maps = Maps::default();
        maps.fill(width, true, &original, None, Some((&codes, Some(&vec![1.0; width * height]))));
        let decode = |png: &[u8]| {
            let mut decoder = png::Decoder::new(std::io::Cursor::new(png.to_vec()));
            decoder.set_transformations(png::Transformations::EXPAND);
            let mut reader = decoder.read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            assert_eq!((info.width, info.height), (40, 20));
            pixels
        };
        let pixels = decode(maps.original.as_ref().unwrap());
        let at = |row: usize, column: usize| &pixels[(row * width + column) * 3..][..3];
        // The last row is drawn first, and what is not there is grey.
        assert_eq!((at(0, 0), at(19, 1), at(19, 0)), (&SEQUENTIAL[5][..], &SEQUENTIAL[0][..], &NOTHING[..]));
        let pixels = decode(maps.residual.as_ref().unwrap());
        let at = |column: usize| &pixels[column * 3..][..3];
        assert_eq!((at(0), at(39)), (&DIVERGING[0][..], &DIVERGING[6][..]));
        assert!(at(20).iter().all(|&c| c > 240));
        assert!(maps.error.is_none() && maps.bits.is_some());
    }
}
