//! The entropy models of VAEformer, its rANS coder and its `.bin` container, byte for byte those of the original.
//!
//! Both models are those of Ballé et al. (arXiv:1802.01436) as CompressAI implements them: a factorised prior with one table of cumulative
//! frequencies per channel for z, and a Gaussian whose scale selects one of 64 tables for y. Frequencies are integers of 16 bits. Symbols outside
//! a table escape to digits of 4 bits.
//!
//! The coder has a 64-bit state x >= 2^31 and writes 32-bit little-endian words:
//!
//! | | |
//! |---|---|
//! | put (start, f) | if x >= f * 2^47, emit x mod 2^32 and shift x by 32; x = floor(x / f) * 2^16 + x mod f + start |
//! | get | c = x mod 2^16; the symbol is where start <= c < start + f; x = f * floor(x / 2^16) + c - start; if x < 2^31, take in a word |
//!
//! Symbols are put last first and words are stored last first, so that reading runs forwards. The encoder starts at x = 2^31, where a
//! reader must end, with no word left: damage survives that if it only turns digits of escaped symbols, else seldom.
//!
//! ## What decides a symbol
//! The table of a symbol of y is chosen by a float: the index is that of the first scale of the table which is not below the computed one.
//! A reader whose scale lies on the other side of a boundary, by one bit of rounding, decodes garbage from there on. That is a property of `.bin` files; those of
//! this crate are safe among its own builds because scales and means come from [`VaeFormer::hyper`](super::VaeFormer::hyper), which has the same bits on every CPU and never runs on a GPU.
//! Latents as integers ([`crate::forecast::FieldCodec::encode`]) do not depend on tables at all.

use crate::error::{Error, Result};

/// Bits of a frequency.
const PRECISION: u32 = 16;
/// Bits of a digit of an escaped symbol.
const BYPASS: u32 = 4;
/// Most entries of tables that are computed: the official ones have 256 x some tens.
const MAX_ENTRIES: usize = 1 << 24;
/// Least state of the coder.
const LOWER: u64 = 1 << 31;
/// Digits of an escaped symbol: 32 bits.
const MAX_DIGITS: u32 = 8;

/// Tables of cumulative frequencies, one row per index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    width: usize,
    cdf: Vec<u32>,
    lengths: Vec<usize>,
    offsets: Vec<i32>,
}

impl Tables {
    /// Tables as checkpoints hold them: `cdf` has a row of equal width for each index, of which the first `lengths` entries count (frequencies + 1);
    /// symbol `offsets` has the first of them, the last is the escape.
    ///
    /// # Errors
    /// `Input` if a row is not a rising sequence from 0 to 2^16.
    pub fn new(cdf: &[i32], lengths: &[i32], offsets: &[i32]) -> Result<Self> {
        let rows = lengths.len();
        let width = cdf.len().checked_div(rows).unwrap_or(0);
        if rows == 0 || width * rows != cdf.len() || offsets.len() != rows {
            return Err(Error::input(format!(
                "tables of an entropy model: {} frequencies, {rows} lengths, {} offsets",
                cdf.len(),
                offsets.len()
            )));
        }
        for (i, (row, &length)) in cdf.chunks_exact(width).zip(lengths).enumerate() {
            let row = usize::try_from(length).ok().filter(|n| *n >= 3).and_then(|n| row.get(..n));
            let rises =
                row.is_some_and(|r| r[0] == 0 && r[r.len() - 1] == 1 << PRECISION && r.windows(2).all(|w| w[0] < w[1]));
            if !rises || offsets[i].unsigned_abs() > 1 << 24 {
                return Err(Error::input(format!("table {i} of an entropy model is damaged")));
            }
        }
        Ok(Self {
            width,
            cdf: cdf.iter().map(|x| *x as u32).collect(),
            lengths: lengths.iter().map(|n| *n as usize).collect(),
            offsets: offsets.to_vec(),
        })
    }

    /// Number of tables.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Cumulative frequencies, lengths and offsets, as [`Tables::new`] takes them.
    pub fn parts(&self) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
        let cdf = self.cdf.iter().map(|x| *x as i32).collect();
        (cdf, self.lengths.iter().map(|n| *n as i32).collect(), self.offsets.clone())
    }

    fn row(&self, index: usize) -> &[u32] {
        &self.cdf[index * self.width..][..self.lengths[index]]
    }

    /// From probabilities of symbols `offset..`, and of the escape last, for each index.
    fn of_probabilities(rows: &[(i32, Vec<f32>)]) -> Self {
        let width = rows.iter().map(|r| r.1.len() + 1).max().unwrap_or(0);
        let mut cdf = vec![0; width * rows.len()];
        for ((_, p), row) in rows.iter().zip(cdf.chunks_exact_mut(width.max(1))) {
            let c = cumulative(p);
            row[..c.len()].copy_from_slice(&c);
        }
        Self {
            width,
            cdf,
            lengths: rows.iter().map(|r| r.1.len() + 1).collect(),
            offsets: rows.iter().map(|r| r.0).collect(),
        }
    }

    /// The tables of a Gaussian of each scale.
    ///
    /// They are those of the original up to single frequencies, which hang on the last bit of erfc: where a checkpoint holds tables, those count.
    pub fn gaussian(scales: &[f32]) -> Self {
        /// -Φ⁻¹(m / 2) for a mass m of 1e-9 beyond the ends of a table.
        const TAIL: f32 = 6.109_410_2;
        let phi = |x: f32| 0.5 * libm::erfc(f64::from(-std::f32::consts::FRAC_1_SQRT_2 * x)) as f32;
        let rows = scales.iter().map(|&s| {
            let center = (s * TAIL).ceil() as i32;
            let lower = |x: f32| phi((-0.5 - x) / s);
            let mut p: Vec<f32> =
                (0..=2 * center).map(|j| (j - center).abs() as f32).map(|x| phi((0.5 - x) / s) - lower(x)).collect();
            p.push(2.0 * lower(center as f32));
            (-center, p)
        });
        Self::of_probabilities(&rows.collect::<Vec<_>>())
    }

    /// The tables of the factorised prior, one per channel. See [`Tables::gaussian`] on the last bit.
    ///
    /// # Errors
    /// `Input` if quantiles are not finite or more than 2^16 apart.
    pub fn factorised(prior: &Factorised) -> Result<Self> {
        let spans = prior.quantiles.iter().map(|q| {
            let (minimum, maximum) = ((q[1] - q[0]).ceil().max(0.0), (q[2] - q[1]).ceil().max(0.0));
            let sound = q.iter().all(|x| x.is_finite()) && minimum + maximum < 65000.0;
            sound.then_some((minimum, maximum))
        });
        let spans: Vec<(f32, f32)> = spans
            .collect::<Option<_>>()
            .ok_or_else(|| Error::input("quantiles of the factorised prior are not finite, or far apart"))?;
        let longest = spans.iter().map(|(a, b)| a + b + 1.0).fold(0.0, f32::max);
        if longest as usize * spans.len() > MAX_ENTRIES {
            return Err(Error::input("tables of the factorised prior would be too large"));
        }
        let sigmoid = |x: f32| (1.0 / (1.0 + (-f64::from(x)).exp())) as f32;
        let rows = spans.iter().enumerate().map(|(channel, (minimum, maximum))| {
            let start = prior.quantiles[channel][1] - minimum;
            let logits = |i: f32, half: f32| prior.logits(channel, (i + start) + half);
            let length = (minimum + maximum) as usize + 1;
            let mut p: Vec<f32> =
                (0..length).map(|i| i as f32).map(|i| sigmoid(logits(i, 0.5)) - sigmoid(logits(i, -0.5))).collect();
            // The upper end is that of the longest table, for every channel: so does the original.
            p.push(sigmoid(logits(0.0, -0.5)) + sigmoid(-logits(longest - 1.0, 0.5)));
            (-(*minimum as i32), p)
        });
        Ok(Self::of_probabilities(&rows.collect::<Vec<_>>()))
    }

    /// Codes symbols, each with the table of its index.
    ///
    /// # Errors
    /// `Usage` if an index has no table or numbers differ.
    pub fn encode(&self, symbols: &[i32], indexes: &[u16]) -> Result<Vec<u8>> {
        if symbols.len() != indexes.len() || indexes.iter().any(|i| usize::from(*i) >= self.len()) {
            return Err(Error::usage("symbols and indexes of an entropy model do not fit"));
        }
        let mut rans = Writer { x: LOWER, words: Vec::new() };
        let mut digits = Vec::new();
        // Last first, and so are the digits of a symbol.
        for (&symbol, &index) in symbols.iter().zip(indexes).rev() {
            let row = self.row(index.into());
            let escape = row.len() as i64 - 2;
            let value = i64::from(symbol) - i64::from(self.offsets[usize::from(index)]);
            let place = if (0..escape).contains(&value) { value } else { escape };
            if place == escape {
                let raw = if value < 0 { -2 * value - 1 } else { 2 * (value - escape) } as u64;
                let n = (64 - raw.leading_zeros()).div_ceil(BYPASS);
                digits.clear();
                let mut count = n;
                while count >= 15 {
                    digits.push(15);
                    count -= 15;
                }
                digits.push(u64::from(count));
                digits.extend((0..n).map(|j| (raw >> (j * BYPASS)) & 15));
                digits.iter().rev().for_each(|d| rans.put_digit(*d));
            }
            let (start, end) = (row[place as usize], row[place as usize + 1]);
            rans.put(start.into(), (end - start).into());
        }
        Ok(rans.finish())
    }

    /// Reads as many symbols as there are indexes.
    ///
    /// # Errors
    /// `Corrupt` if the bytes end early, hold more, or say what no encoder writes.
    pub fn decode(&self, bytes: &[u8], indexes: &[u16]) -> Result<Vec<i32>> {
        let mut rans = Reader::new(bytes)?;
        let symbols = indexes.iter().map(|&index| {
            let index = usize::from(index);
            if index >= self.len() {
                return Err(Error::usage("an index of an entropy model has no table"));
            }
            let row = self.row(index);
            let at = (rans.x & 0xffff) as u32;
            let place = row.partition_point(|start| *start <= at) - 1;
            rans.take(row[place].into(), (row[place + 1] - row[place]).into())?;
            let escape = row.len() - 2;
            let mut value = place as i64;
            if place == escape {
                let mut n = rans.take_digit()?;
                let mut last = n;
                while last == 15 && n <= MAX_DIGITS.into() {
                    last = rans.take_digit()?;
                    n += last;
                }
                // One digit more than 32 bits: a symbol far below a table doubles.
                if n > u64::from(MAX_DIGITS) + 1 {
                    return Err(damaged("a symbol of too many digits"));
                }
                let mut raw = 0u64;
                for j in 0..n {
                    raw |= rans.take_digit()? << (4 * j);
                }
                value = (raw >> 1) as i64;
                value = if raw & 1 == 1 { -value - 1 } else { value + escape as i64 };
            }
            i32::try_from(value + i64::from(self.offsets[index])).map_err(|_| damaged("a symbol beyond 32 bits"))
        });
        let symbols = symbols.collect::<Result<Vec<_>>>()?;
        rans.finish()?;
        Ok(symbols)
    }
}

fn damaged(what: &str) -> Error {
    Error::corrupt(format!("an entropy-coded string: {what}"))
}

/// Parameters of the factorised prior: a small monotonic network per channel, from a value to the logit of its cumulative probability.
#[derive(Clone, Debug)]
pub struct Factorised {
    /// For each channel the 2^-30 quantile, the median and the 1 - 2^-30 quantile, or near.
    pub quantiles: Vec<[f32; 3]>,
    /// Layers.
    pub layers: Vec<FactorisedLayer>,
}

/// A layer: logits <- softplus(matrix) logits + bias, then + tanh(factor) tanh(logits) but for the last.
#[derive(Clone, Debug)]
pub struct FactorisedLayer {
    /// Outputs.
    pub outputs: usize,
    /// Inputs.
    pub inputs: usize,
    /// Channel, output, input.
    pub matrix: Vec<f32>,
    /// Channel, output.
    pub bias: Vec<f32>,
    /// Channel, output; none for the last layer.
    pub factor: Option<Vec<f32>>,
}

impl Factorised {
    /// Medians, by which symbols of z are shifted.
    pub fn medians(&self) -> Vec<f32> {
        self.quantiles.iter().map(|q| q[1]).collect()
    }

    fn logits(&self, channel: usize, x: f32) -> f32 {
        // As torch: beyond 20, softplus is the identity.
        let softplus = |x: f32| if x > 20.0 { x } else { f64::from(x).exp().ln_1p() as f32 };
        let tanh = |x: f32| f64::from(x).tanh() as f32;
        let mut logits = vec![x];
        for layer in &self.layers {
            let next = (0..layer.outputs).map(|o| {
                let at = channel * layer.outputs + o;
                let row = &layer.matrix[at * layer.inputs..][..layer.inputs];
                let sum = row.iter().zip(&logits).fold(0f32, |sum, (m, x)| sum + softplus(*m) * x);
                let y = sum + layer.bias[at];
                layer.factor.as_ref().map_or(y, |f| y + tanh(f[at]) * tanh(y))
            });
            logits = next.collect();
        }
        logits[0]
    }
}

/// Cumulative frequencies of 16 bits, each at least 1, from probabilities.
fn cumulative(p: &[f32]) -> Vec<u32> {
    let whole = 1u64 << PRECISION;
    let rounded: Vec<u64> = p.iter().map(|p| (f64::from(*p) * whole as f64).round().max(0.0) as u64).collect();
    let total = rounded.iter().sum::<u64>().max(1);
    let mut cdf = vec![0u32];
    let mut sum = 0u64;
    for f in &rounded {
        sum += whole * f / total;
        cdf.push(sum as u32);
    }
    let n = cdf.len();
    cdf[n - 1] = whole as u32;
    for i in 0..n - 1 {
        if cdf[i] != cdf[i + 1] {
            continue;
        }
        // Take one from the least frequency above 1, the first of them.
        let frequency = |j: usize| cdf[j + 1] - cdf[j];
        let Some(donor) = (0..n - 1).filter(|j| frequency(*j) > 1).min_by_key(|j| frequency(*j)) else { break };
        if donor < i {
            cdf[donor + 1..=i].iter_mut().for_each(|c| *c -= 1);
        } else {
            cdf[i + 1..=donor].iter_mut().for_each(|c| *c += 1);
        }
    }
    cdf
}

/// The scales of the 64 tables, where a checkpoint holds none: from 0.11 to 256, evenly spaced in the logarithm.
pub fn scale_table() -> Vec<f32> {
    let (low, high) = (0.11f64.ln() as f32, 256f64.ln() as f32);
    let step = (high - low) / 63.0;
    // As torch.linspace: from both ends.
    let at = |i: u8| if i < 32 { low + step * f32::from(i) } else { high - step * f32::from(63 - i) };
    (0..64).map(|i| f64::from(at(i)).exp() as f32).collect()
}

/// The index of the table for each computed scale: of the first entry not below it, the last table for all beyond.
///
/// Scales below `bound` are raised to it, which is the first entry, bit for bit: most scales of quiet regions sit there.
pub fn indexes(scales: &[f32], table: &[f32], bound: f32) -> Vec<u16> {
    let last = table.len().saturating_sub(1);
    let index = |s: &f32| {
        // Not f32::max, which would turn NaN into the bound; NaN goes to the last table, as in the original.
        let s = if *s < bound { bound } else { *s };
        table[..last].partition_point(|t| s > *t || s.is_nan()) as u16
    };
    scales.iter().map(index).collect()
}

struct Writer {
    x: u64,
    words: Vec<u32>,
}

impl Writer {
    fn put(&mut self, start: u64, frequency: u64) {
        if self.x >= frequency << (63 - PRECISION) {
            self.words.push(self.x as u32);
            self.x >>= 32;
        }
        self.x = ((self.x / frequency) << PRECISION) + self.x % frequency + start;
    }

    fn put_digit(&mut self, digit: u64) {
        if self.x >= 1 << (63 - BYPASS) {
            self.words.push(self.x as u32);
            self.x >>= 32;
        }
        self.x = (self.x << BYPASS) | digit;
    }

    fn finish(self) -> Vec<u8> {
        let ends = [(self.x >> 32) as u32, self.x as u32];
        self.words.iter().chain(&ends).rev().flat_map(|w| w.to_le_bytes()).collect()
    }
}

struct Reader<'a> {
    x: u64,
    words: std::slice::Iter<'a, [u8; 4]>,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut words = words.iter();
        match (words.next(), words.next()) {
            (Some(low), Some(high)) if rest.is_empty() => {
                let x = u64::from(u32::from_le_bytes(*low)) | (u64::from(u32::from_le_bytes(*high)) << 32);
                // The encoder's state is below 2^63.
                if !(LOWER..1 << 63).contains(&x) {
                    return Err(damaged("a state that no encoder ends in"));
                }
                Ok(Self { x, words })
            }
            _ => Err(damaged("not two or more whole words")),
        }
    }

    fn refill(&mut self) -> Result<()> {
        if self.x < LOWER {
            let word = self.words.next().ok_or_else(|| damaged("it ends early"))?;
            self.x = (self.x << 32) | u64::from(u32::from_le_bytes(*word));
        }
        Ok(())
    }

    fn take(&mut self, start: u64, frequency: u64) -> Result<()> {
        self.x = frequency * (self.x >> PRECISION) + (self.x & 0xffff) - start;
        self.refill()
    }

    fn take_digit(&mut self) -> Result<u64> {
        let digit = self.x & 15;
        self.x >>= BYPASS;
        self.refill()?;
        Ok(digit)
    }

    fn finish(self) -> Result<()> {
        if self.x != LOWER || !self.words.as_slice().is_empty() {
            return Err(damaged("it does not end where its symbols do"));
        }
        Ok(())
    }
}

/// The original's `.bin` file: big-endian words, rows and columns of z, the number of strings (2), then for y and z the length and the string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bin {
    /// Rows and columns of z.
    pub z_shape: [usize; 2],
    /// Coded symbols of y.
    pub y: Vec<u8>,
    /// Coded symbols of z.
    pub z: Vec<u8>,
}

impl Bin {
    /// Reads a file. Nothing is allocated beyond its own length.
    ///
    /// # Errors
    /// `Corrupt` if it ends early or is longer than it says.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes;
        let word = |rest: &mut &[u8]| -> Result<usize> {
            let (head, tail) =
                rest.split_first_chunk::<4>().ok_or_else(|| Error::corrupt("a .bin latent that ends in its header"))?;
            *rest = tail;
            Ok(u32::from_be_bytes(*head) as usize)
        };
        let z_shape = [word(&mut rest)?, word(&mut rest)?];
        let strings = word(&mut rest)?;
        if strings != 2 {
            return Err(Error::corrupt(format!("a .bin latent of {strings} strings instead of 2")));
        }
        let string = |rest: &mut &[u8]| -> Result<Vec<u8>> {
            let n = word(rest)?;
            let (head, tail) = rest.split_at_checked(n).ok_or_else(|| {
                Error::corrupt(format!("a .bin latent whose string of {n} bytes has only {}", rest.len()))
            })?;
            *rest = tail;
            Ok(head.to_vec())
        };
        let (y, z) = (string(&mut rest)?, string(&mut rest)?);
        if !rest.is_empty() {
            return Err(Error::corrupt(format!("a .bin latent with {} bytes behind its strings", rest.len())));
        }
        Ok(Self { z_shape, y, z })
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// `Usage` beyond 4 GiB.
    pub fn write(&self) -> Result<Vec<u8>> {
        let word = |n: usize| -> Result<[u8; 4]> {
            u32::try_from(n).map(u32::to_be_bytes).map_err(|_| Error::usage("a .bin latent beyond 4 GiB"))
        };
        let mut out = Vec::with_capacity(20 + self.y.len() + self.z.len());
        for n in [self.z_shape[0], self.z_shape[1], 2] {
            out.extend(word(n)?);
        }
        for s in [&self.y, &self.z] {
            out.extend(word(s.len())?);
            out.extend(s);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Tables {
        Tables::gaussian(&scale_table())
    }

    /// Symbols of every table, inside and far outside.
    fn sample(n: usize) -> (Vec<i32>, Vec<u16>) {
        let mut state = 7u64;
        let mut next = |m: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % m
        };
        let far = [0, 1, -1, 5000, -5000, 1 << 24, -(1 << 24), i32::MAX, i32::MIN];
        (0..n)
            .map(|_| {
                let symbol = if next(20) == 0 { far[next(9) as usize] } else { next(9) as i32 - 4 };
                (symbol, next(64) as u16)
            })
            .unzip()
    }

    #[test]
    fn symbols_come_back() {
        let tables = tables();
        let (symbols, indexes) = sample(5000);
        let bytes = tables.encode(&symbols, &indexes).unwrap();
        assert_eq!(tables.decode(&bytes, &indexes).unwrap(), symbols);
        assert_eq!(tables.decode(&tables.encode(&[], &[]).unwrap(), &[]).unwrap(), Vec::<i32>::new());
    }

    #[test]
    fn damage_is_an_error_or_other_symbols_never_a_panic() {
        let tables = tables();
        let (symbols, indexes) = sample(200);
        let bytes = tables.encode(&symbols, &indexes).unwrap();
        let mut refused = 0;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match tables.decode(&flipped, &indexes) {
                Ok(other) => assert_eq!(other.len(), symbols.len()),
                Err(_) => refused += 1,
            }
        }
        // The rest turned digits of escaped symbols, which are plain bits.
        assert!(refused * 4 > bytes.len() * 8 * 3, "{refused} of {} flips found", bytes.len() * 8);
        for n in 0..bytes.len() {
            assert!(tables.decode(&bytes[..n], &indexes).is_err(), "cut to {n} bytes");
        }
    }

    #[test]
    fn frequencies_rise_to_the_whole() {
        for rows in [tables(), Tables::gaussian(&[0.01, 1000.0])] {
            let (cdf, lengths, offsets) = rows.parts();
            assert_eq!(Tables::new(&cdf, &lengths, &offsets).unwrap(), rows);
        }
        assert_eq!(cumulative(&[0.0, 1.0, 0.0]), [0, 1, 65535, 65536]);
    }

    #[test]
    fn damaged_tables_are_refused() {
        let (cdf, lengths, offsets) = tables().parts();
        for (at, value) in [(0, 1), (1, 0), (2, -5), (2, 70000)] {
            let mut bad = cdf.clone();
            bad[at] = value;
            assert!(Tables::new(&bad, &lengths, &offsets).is_err());
        }
        for n in [-1, 0, 2, 1 << 30] {
            let mut bad = lengths.clone();
            bad[3] = n;
            assert!(Tables::new(&cdf, &bad, &offsets).is_err());
        }
        assert!(Tables::new(&cdf, &lengths, &offsets[1..]).is_err());
        assert!(Tables::new(&[], &[], &[]).is_err());
    }

    #[test]
    fn scales_on_a_boundary_take_the_lower_table() {
        let table = scale_table();
        let above = |x: f32| f32::from_bits(x.to_bits() + 1);
        let scales = [-3.0, 0.0, 0.11, table[0], above(table[0]), table[7], above(table[7]), 255.0, 1e9, f32::NAN];
        assert_eq!(indexes(&scales, &table, 0.11), [0, 0, 0, 0, 1, 7, 8, 63, 63, 63]);
    }

    #[test]
    fn bin_files_come_back_and_damage_is_refused() {
        let bin = Bin { z_shape: [3, 6], y: vec![1, 2, 3, 4, 5], z: vec![9; 7] };
        let bytes = bin.write().unwrap();
        assert_eq!(Bin::read(&bytes).unwrap(), bin);
        for n in 0..bytes.len() {
            assert!(Bin::read(&bytes[..n]).is_err());
        }
        let mut long = bytes.clone();
        long.push(0);
        assert!(Bin::read(&long).is_err());
        for at in [8, 12, 21] {
            let mut bad = bytes.clone();
            bad[at] = 0xff;
            assert!(Bin::read(&bad).is_err());
        }
    }
}
