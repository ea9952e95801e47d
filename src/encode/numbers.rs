//! Lists of numbers whose neighbours are of one size: lengths of runs, distances between places.
//!
//! An item is `period` numbers, each of a kind of its own (a distance, a length). Numbers are Exp-Golomb codes (J. Teuhola, "A compression method
//! for clustered bit-vectors", Inf. Process. Lett. 7, 1978), whose order is chosen anew for every block of items and each kind. Blocks start at whole bytes, so
//! that a GPU writes them side by side (`kernels/lists.cu`); there are no code books, so that short lists are short.

use super::bits::{BitReader, BitWriter};
use crate::error::{Error, Result};

/// Items in a block.
pub const BLOCK: usize = 64;

/// Bits that say the order of a block's codes of one kind.
const ORDER_BITS: u32 = 5;

/// Bits of the code of `v` of order `k`: an Elias gamma code of `v / 2^k + 1`, then the `k` bits below.
fn code_bits(v: u32, k: u32) -> u32 {
    2 * ((u64::from(v) >> k) + 1).ilog2() + 1 + k
}

/// The order in which `numbers` take the fewest bits; of several the smallest.
fn order_of(numbers: impl Iterator<Item = u32> + Clone) -> u32 {
    let bits = |k: &u32| numbers.clone().map(|v| u64::from(code_bits(v, *k))).sum::<u64>();
    let most = numbers.clone().max().map_or(0, |v| v.checked_ilog2().unwrap_or(0));
    (0..=most.min((1 << ORDER_BITS) - 1)).min_by_key(bits).unwrap_or(0)
}

/// Items of `period` numbers each to bytes.
pub fn encode(numbers: &[u32], period: usize) -> Vec<u8> {
    let mut out = BitWriter::with_capacity(numbers.len() * 2 + 8);
    for block in numbers.chunks(BLOCK * period) {
        let orders: Vec<u32> =
            (0..period).map(|kind| order_of(block.iter().skip(kind).step_by(period).copied())).collect();
        orders.iter().for_each(|&k| out.put(u64::from(k), ORDER_BITS));
        for item in block.chunks(period) {
            for (&v, &k) in item.iter().zip(&orders) {
                let head = (u64::from(v) >> k) + 1;
                let zeros = head.ilog2();
                out.put(1 << zeros, zeros + 1);
                out.put(head ^ 1 << zeros, zeros);
                out.put(u64::from(v) & ((1 << k) - 1), k);
            }
        }
        out.align();
    }
    out.finish()
}

/// All of `data` to `n_items` items of `period` numbers each.
///
/// # Errors
/// `Corrupt` if it is no list of as many items, or of numbers beyond 32 bits.
pub fn decode(data: &[u8], n_items: usize, period: usize) -> Result<Vec<u32>> {
    let bad = || Error::corrupt("list of numbers is damaged");
    // A code has a bit at least.
    if n_items.checked_mul(period).is_none_or(|n| n > data.len().saturating_mul(8)) {
        return Err(bad());
    }
    let mut numbers = Vec::with_capacity(n_items * period);
    let mut reader = BitReader::new(data, 0, data.len());
    let mut n_bits = 0u64;
    fn take(reader: &mut BitReader<'_>, n: u32, n_bits: &mut u64) -> u32 {
        *n_bits += u64::from(n);
        reader.take(n)
    }
    let mut orders = vec![0; period];
    for item in 0..n_items {
        if item % BLOCK == 0 {
            let odd = (n_bits % 8) as u32;
            if odd > 0 && take(&mut reader, 8 - odd, &mut n_bits) != 0 {
                return Err(bad());
            }
            orders.iter_mut().for_each(|k| *k = take(&mut reader, ORDER_BITS, &mut n_bits));
        }
        for &k in &orders {
            reader.refill();
            let zeros = reader.peek(33).trailing_zeros();
            if zeros > 32 {
                return Err(bad());
            }
            take(&mut reader, zeros + 1, &mut n_bits);
            let high = ((1u64 << zeros | u64::from(take(&mut reader, zeros, &mut n_bits))) - 1) << k;
            let v = high | u64::from(take(&mut reader, k, &mut n_bits));
            numbers.push(u32::try_from(v).map_err(|_| bad())?);
        }
    }
    let odd = (n_bits % 8) as u32;
    if odd > 0 && take(&mut reader, 8 - odd, &mut n_bits) != 0 || n_bits != 8 * data.len() as u64 {
        return Err(bad());
    }
    Ok(numbers)
}

/// How many places lie between each of these, ascending, and the one before it; before the first all that there are.
pub fn between(places: &[u32]) -> Vec<u32> {
    let before = std::iter::once(0).chain(places.iter().map(|p| p + 1));
    places.iter().zip(before).map(|(p, before)| p - before).collect()
}

/// The places again; `None` if not all are below `n`.
pub fn places(between: &[u32], n: usize) -> Option<Vec<u32>> {
    let mut next = 0u64;
    let mut place = |&skipped: &u32| {
        let place = Some(next + u64::from(skipped)).filter(|&p| p < n as u64)?;
        next = place + 1;
        Some(place as u32)
    };
    between.iter().map(&mut place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back() {
        let mut state = 1u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for period in 1..=3 {
            for n in [0, 1, 2, 63, 64, 65, 128, 1000] {
                for size in [0, 1, 4, 12, 31] {
                    let numbers: Vec<u32> = (0..n * period)
                        .map(|_| (random() >> 8) as u32 & ((1 << (random() % (size + 1))) - 1))
                        .collect();
                    let bytes = encode(&numbers, period);
                    assert_eq!(decode(&bytes, n, period).unwrap(), numbers);
                    // One item more has no room, or reads the padding.
                    assert!(n % BLOCK != 0 || decode(&bytes, n + 1, period).is_err());
                    if n > 0 {
                        assert!(decode(&bytes[..bytes.len() - 1], n, period).is_err());
                        assert!(decode(&[&bytes[..], &[0]].concat(), n, period).is_err());
                    }
                }
            }
        }
        assert_eq!(decode(&encode(&[u32::MAX, 0], 1), 2, 1).unwrap(), [u32::MAX, 0]);
    }

    #[test]
    fn like_numbers_take_little() {
        // 64 numbers around 1000: ten bits of order nine and a bit or two each.
        let numbers: Vec<u32> = (0..64).map(|i| 900 + 3 * i).collect();
        assert!(encode(&numbers, 1).len() <= 96);
        assert!(encode(&[0; 64], 1).len() <= 9);
    }

    #[test]
    fn damage_is_an_error_or_other_numbers() {
        let numbers: Vec<u32> = (0..200).map(|i| i * i % 977).collect();
        let bytes = encode(&numbers, 2);
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = decode(&damaged, 100, 2) {
                assert_ne!(other, numbers);
            }
        }
        assert!(decode(&bytes, usize::MAX, 2).is_err());
    }
}
