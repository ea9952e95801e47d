//! Tokens: small alphabets for codes of any size and runs of any length.
//!
//! A number is a token and, beyond the direct range, a count of plain bits: the leading bits name the token, the
//! rest is nearly uniform and is stored as it is.

use super::CHUNK;

/// Run lengths of 1 to 16 have tokens of their own.
const RUN_DIRECT_LOG2: u32 = 4;
const RUN_MANTISSA_BITS: u32 = 1;
/// Values −64 to 64 have tokens of their own.
const VALUE_DIRECT_LOG2: u32 = 7;
const VALUE_MANTISSA_BITS: u32 = 2;

/// Tokens of zero runs: lengths up to a whole chunk.
pub const N_RUN: usize = n_tokens(RUN_DIRECT_LOG2, RUN_MANTISSA_BITS, CHUNK.trailing_zeros());
/// All tokens: runs first, then values of up to 32 bits.
pub const N_TOKENS: usize = N_RUN + n_tokens(VALUE_DIRECT_LOG2, VALUE_MANTISSA_BITS, 32);

/// Number of contexts.
pub const N_CONTEXTS: usize = 4;

const fn n_tokens(direct_log2: u32, mantissa_bits: u32, n_bits: u32) -> usize {
    (1 << direct_log2) + (((n_bits - direct_log2) as usize) << mantissa_bits)
}

/// A token and the bits that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Id, below [`N_TOKENS`].
    pub id: u16,
    /// How many plain bits follow.
    pub n_extra: u8,
    /// The plain bits.
    pub extra: u32,
}

#[inline]
fn split(n: u32, direct_log2: u32, mantissa_bits: u32) -> (u32, u32, u32) {
    if n < 1 << direct_log2 {
        return (n, 0, 0);
    }
    let log2 = n.ilog2();
    let n_extra = log2 - mantissa_bits;
    let mantissa = n >> n_extra & ((1 << mantissa_bits) - 1);
    ((1 << direct_log2) + ((log2 - direct_log2) << mantissa_bits) + mantissa, n_extra, n & ((1 << n_extra) - 1))
}

/// Smallest number of a token, and how many plain bits follow it.
fn join(id: u32, direct_log2: u32, mantissa_bits: u32) -> (u32, u32) {
    if id < 1 << direct_log2 {
        return (id, 0);
    }
    let above = id - (1 << direct_log2);
    let log2 = direct_log2 + (above >> mantissa_bits);
    let n_extra = log2 - mantissa_bits;
    let mantissa = above & ((1 << mantissa_bits) - 1);
    ((1 << log2) + (mantissa << n_extra), n_extra)
}

/// The token of a run of `len` (1 to a chunk) zeros.
#[inline]
pub fn of_run(len: usize) -> Token {
    let (id, n_extra, extra) = split(len as u32 - 1, RUN_DIRECT_LOG2, RUN_MANTISSA_BITS);
    Token { id: id as u16, n_extra: n_extra as u8, extra }
}

/// The token of a code other than zero.
#[inline]
pub fn of_value(code: i32) -> Token {
    let (id, n_extra, extra) = split(fold(code).wrapping_sub(1), VALUE_DIRECT_LOG2, VALUE_MANTISSA_BITS);
    Token { id: N_RUN as u16 + id as u16, n_extra: n_extra as u8, extra }
}

/// Values with folded codes up to this have tokens of their own.
pub const DIRECT_VALUES: u32 = 1 << VALUE_DIRECT_LOG2;
/// The largest number that [`of_small`] takes.
pub const MAX_SMALL: u32 = (1 << 24) - 1;

/// As [`of_value`], for a folded code less 1, at most [`MAX_SMALL`]: the token, counted from the first value token, and how
/// many plain bits follow. Exponent and leading mantissa bits of a float are what names the token, so that this has no
/// branches and becomes vector code.
#[inline(always)]
pub fn of_small(number: u32) -> (u32, u32) {
    const BIAS: u32 = 127;
    let bits = (number as i32 as f32).to_bits();
    let log2 = (bits >> 23).wrapping_sub(BIAS);
    let named = (bits >> (23 - VALUE_MANTISSA_BITS)).wrapping_sub((BIAS + VALUE_DIRECT_LOG2) << VALUE_MANTISSA_BITS);
    if number < DIRECT_VALUES {
        (number, 0)
    } else {
        (named.wrapping_add(DIRECT_VALUES), log2.wrapping_sub(VALUE_MANTISSA_BITS))
    }
}

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A run of zeros of this length plus the plain bits.
    Run {
        /// Length if the plain bits are 0.
        shortest: u32,
        /// Number of plain bits.
        n_extra: u32,
    },
    /// A code, folded (0, −1, 1, −2, …), of this number plus the plain bits.
    Value {
        /// Folded code if the plain bits are 0.
        smallest: u32,
        /// Number of plain bits.
        n_extra: u32,
    },
}

/// What the token `id` (below [`N_TOKENS`]) stands for.
pub fn meaning(id: usize) -> Meaning {
    if id < N_RUN {
        let (n, n_extra) = join(id as u32, RUN_DIRECT_LOG2, RUN_MANTISSA_BITS);
        Meaning::Run { shortest: n + 1, n_extra }
    } else {
        let (n, n_extra) = join((id - N_RUN) as u32, VALUE_DIRECT_LOG2, VALUE_MANTISSA_BITS);
        Meaning::Value { smallest: n + 1, n_extra }
    }
}

/// Codes folded to 0, −1, 1, −2, …
#[inline]
pub fn fold(code: i32) -> u32 {
    ((code << 1) ^ (code >> 31)) as u32
}

/// The inverse of [`fold`].
#[inline]
pub fn unfold(folded: u32) -> i32 {
    (folded >> 1) as i32 ^ -((folded & 1) as i32)
}

/// Which context follows a token: 0 after a run, then 1 to 3 by the size of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contexts {
    /// First value tokens (counted from the first value token) of contexts 2 and 3, ascending.
    pub thresholds: [u16; 2],
}

impl Contexts {
    /// Context at the start of a stream.
    pub const FIRST: usize = 1;

    /// The context after token `id`.
    #[inline]
    pub fn after(&self, id: u16) -> usize {
        if usize::from(id) < N_RUN {
            return 0;
        }
        let v = id - N_RUN as u16;
        1 + usize::from(v >= self.thresholds[0]) + usize::from(v >= self.thresholds[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_bring_back_every_number() {
        let codes = (-70_000..70_000).chain([
            i32::MIN + 1,
            i32::MIN,
            i32::MAX,
            1 << 22,
            (1 << 23) - 1,
            1 << 23,
            -(1 << 23),
            -(1 << 30),
        ]);
        for code in codes.filter(|&c| c != 0) {
            let t = of_value(code);
            let Meaning::Value { smallest, n_extra } = meaning(usize::from(t.id)) else {
                panic!("{code} became a run")
            };
            assert_eq!(n_extra, u32::from(t.n_extra));
            let number = fold(code).wrapping_sub(1);
            if number <= MAX_SMALL {
                assert_eq!(of_small(number), (u32::from(t.id) - N_RUN as u32, n_extra));
            }
            assert_eq!(unfold(smallest.wrapping_add(t.extra)), code);
        }
        for len in 1..=CHUNK {
            let t = of_run(len);
            assert!(usize::from(t.id) < N_RUN);
            let Meaning::Run { shortest, n_extra } = meaning(usize::from(t.id)) else { panic!("{len} became a value") };
            assert_eq!((shortest + t.extra, n_extra), (len as u32, u32::from(t.n_extra)));
        }
    }
}
