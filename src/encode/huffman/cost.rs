//! What each code of a coded section took.

use super::CHUNK;
use super::cpu::Head;
use super::token::N_CONTEXTS;
use super::tokenize::{CONTEXT_SIZE, Placed, tokenize};
use crate::error::Result;
use crate::scratch::Buffer;

/// Bits of each of `codes`, which [`super::cpu::decode`] made of `data`. The token of a run is shared out among its zeros, and what zstd saved
/// or books and directory took among all codes, so that the sum is that of the section.
///
/// # Errors
/// `Corrupt` if the section is not that of as many codes.
pub fn bits(data: &[u8], codes: &[i32]) -> Result<Vec<f32>> {
    let head = Head::read(data, codes.len())?;
    let lengths: Vec<Vec<u32>> = head.books.iter().map(|b| b.iter().flat_map(|l| l.codes()).collect()).collect();
    debug_assert!(lengths.iter().all(|l| l.len() == N_CONTEXTS * CONTEXT_SIZE));
    let mut out = Vec::with_capacity(codes.len());
    let mut room = Buffer::<Placed>::new(codes.len());
    let chunks = tokenize(codes, head.contexts, &mut room, |tokens| tokens);
    for ((chunk, tokens), place) in codes.chunks(CHUNK).zip(&chunks).zip(&head.places) {
        let lengths = &lengths[place.book];
        for part in &tokens.parts {
            for &token in part.tokens {
                let n_bits = (lengths[token.index()] >> 24) as f32;
                // The codes from here on that this token stands for.
                let at = out.len() % CHUNK;
                let end = super::tokenize::part_end(chunk.len(), at);
                let n = chunk[at..end].iter().take_while(|&&c| c == 0).count().max(1);
                out.extend(std::iter::repeat_n(n_bits / n as f32, n));
            }
        }
    }
    let sum: f64 = out.iter().map(|&b| f64::from(b)).sum();
    let total = data.len() as f64 * 8.0;
    if sum > 0.0 {
        let factor = (total / sum) as f32;
        out.iter_mut().for_each(|b| *b *= factor);
    } else {
        out.fill((total / codes.len().max(1) as f64) as f32);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::cpu::{Packing, encode};
    use super::*;

    #[test]
    fn bits_are_the_sections_and_rare_codes_take_more() {
        for n in [1, 5, 1000, CHUNK, CHUNK + 1, 2 * CHUNK + 77] {
            let codes: Vec<i32> =
                (0..n).map(|i: usize| if i.is_multiple_of(97) { (i / 97) as i32 } else { 0 }).collect();
            let data = encode(&codes, Packing::Zstd);
            let bits = bits(&data, &codes).unwrap();
            assert_eq!(bits.len(), n);
            let sum: f64 = bits.iter().map(|&b| f64::from(b)).sum();
            assert!((sum - data.len() as f64 * 8.0).abs() < 1e-3 * sum, "{sum} {}", data.len());
            if n >= 1000 {
                // A run of 96 zeros shares one token.
                assert!(bits[97] > 20.0 * bits[98] && bits[98] > 0.0 && bits[98] == bits[99], "{:?}", &bits[97..100]);
            }
        }
    }
}
