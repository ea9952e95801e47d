//! Tokens: 64 symbols for codes of any size.
//!
//! Tokens 0 to 30 are the codes 0, 1, −1, …, 15, −15. Tokens 31 to 62 are ranges of magnitudes, two an octave from 16 to 2^20, whose
//! sign and lower bits follow as plain bits: within half an octave they are nearly uniform. Token 63 escapes to 32 plain bits.

use multiversion::multiversion;

/// Number of tokens.
pub const N_TOKENS: usize = 64;
/// The token for what has no other.
pub const ESCAPE: usize = 63;
/// Codes of up to this magnitude have a token of their own.
const DIRECT: u32 = 15;
/// The first token of a range of magnitudes.
pub const FIRST_RANGE: usize = 31;
const FIRST_LOG2: u32 = 4;
/// The codes of the first tokens.
pub const DIRECT_CODES: [i32; FIRST_RANGE] = {
    let mut codes = [0; FIRST_RANGE];
    let mut token = 1;
    while token < FIRST_RANGE {
        let magnitude = token.div_ceil(2) as i32;
        codes[token] = if token % 2 == 0 { -magnitude } else { magnitude };
        token += 1;
    }
    codes
};
/// Codes from here on are escaped.
const LIMIT_LOG2: u32 = 20;

/// Token, number of plain bits, plain bits.
#[inline]
pub fn split(code: i32) -> (usize, u32, u32) {
    let magnitude = code.unsigned_abs();
    let negative = u32::from(code < 0);
    if magnitude <= DIRECT {
        return ((2 * magnitude).saturating_sub(1 - negative) as usize, 0, 0);
    }
    let log2 = magnitude.ilog2();
    if log2 >= LIMIT_LOG2 {
        return (ESCAPE, 32, code as u32);
    }
    let half = magnitude >> (log2 - 1) & 1;
    let low = magnitude & ((1 << (log2 - 1)) - 1);
    (FIRST_RANGE + (2 * (log2 - FIRST_LOG2) + half) as usize, log2, low << 1 | negative)
}

/// Tokens of codes, as [`split`] has them.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2", "aarch64+neon"))]
pub fn of_codes(codes: &[i32], tokens: &mut [u8]) {
    /// What the upper bits of 16.0 say.
    const FIRST_BITS: u32 = (127 + FIRST_LOG2) << 1;
    for (token, &code) in tokens.iter_mut().zip(codes) {
        // Zigzag of −code: 0, 1, −1, 2, … become 0, 1, 2, 3, …
        let negated = code.wrapping_neg();
        let direct = (negated << 1 ^ negated >> 31) as u32;
        // Exponent and upper bit of the mantissa; magnitudes below 2^24 are exact.
        let magnitude = code.unsigned_abs();
        let range = (((magnitude.min(1 << LIMIT_LOG2) as i32) as f32).to_bits() >> 22).wrapping_sub(FIRST_BITS);
        let large = (FIRST_RANGE as u32).wrapping_add(range);
        let large = if magnitude < 1 << LIMIT_LOG2 { large } else { ESCAPE as u32 };
        *token = if magnitude <= DIRECT { direct } else { large } as u8;
    }
}

/// Codes of tokens that have no plain bits. Whether there are others, whose codes mean nothing.
#[inline]
pub fn to_codes(tokens: &[u8], codes: &mut [i32]) -> bool {
    let mut largest = 0;
    for (code, &token) in codes.iter_mut().zip(tokens) {
        largest = largest.max(token);
        let magnitude = i32::from(token.div_ceil(2));
        *code = if token % 2 == 0 { -magnitude } else { magnitude };
    }
    usize::from(largest) >= FIRST_RANGE
}

/// Number of plain bits after a token.
#[inline]
pub fn n_plain(token: usize) -> u32 {
    match token {
        ESCAPE => 32,
        t if t < FIRST_RANGE => 0,
        t => FIRST_LOG2 + (t - FIRST_RANGE) as u32 / 2,
    }
}

/// The code of a token and its plain bits.
#[inline]
pub fn join(token: usize, plain: u32) -> i32 {
    if token < FIRST_RANGE {
        return DIRECT_CODES[token];
    }
    if token == ESCAPE {
        return plain as i32;
    }
    let log2 = n_plain(token);
    let half = (token - FIRST_RANGE) as u32 & 1;
    let magnitude = ((2 | half) << (log2 - 1) | plain >> 1) as i32;
    if plain & 1 == 1 { -magnitude } else { magnitude }
}

/// Smallest magnitude of a token other than [`ESCAPE`].
pub fn smallest(token: usize) -> u32 {
    join(token, 0).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_bring_back_every_code() {
        let large = [1 << 19, (1 << 20) - 1, 1 << 20, -(1 << 20), i32::MAX, i32::MIN, 1 - (1 << 20)];
        for code in (-5000..5000).chain(large) {
            let (token, n, plain) = split(code);
            assert!(token < N_TOKENS && n == n_plain(token) && u64::from(plain) < 1 << n);
            assert_eq!(join(token, plain), code);
            let mut one = [0];
            of_codes(&[code], &mut one);
            assert_eq!(usize::from(one[0]), token);
            let mut back = [0];
            let has_plain = to_codes(&one, &mut back);
            assert!(if has_plain { n > 0 } else { n == 0 && back == [code] });
        }
    }
}
