//! Bit streams, least significant bit first.

/// Writes bits to a byte vector.
#[derive(Default)]
pub struct BitWriter {
    /// Longer than what is written, so that whole words can be stored.
    out: Vec<u8>,
    at: usize,
    pending: u64,
    n_pending: u32,
}

impl BitWriter {
    /// With room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { out: vec![0; capacity + 8], at: 0, pending: 0, n_pending: 0 }
    }

    /// Appends the low `n` (at most 56) bits of `bits`; the others must be 0.
    #[inline(always)]
    pub fn put(&mut self, bits: u64, n: u32) {
        self.pending |= bits << self.n_pending;
        self.n_pending += n;
        match self.out.get_mut(self.at..self.at + 8) {
            Some(word) => word.copy_from_slice(&self.pending.to_le_bytes()),
            None => self.grow(),
        }
        self.at += (self.n_pending >> 3) as usize;
        self.pending >>= self.n_pending & 56;
        self.n_pending &= 7;
    }

    #[cold]
    fn grow(&mut self) {
        self.out.resize(2 * self.at + 64, 0);
        self.out[self.at..][..8].copy_from_slice(&self.pending.to_le_bytes());
    }

    /// Goes on at the next whole byte; returns where that is.
    pub fn align(&mut self) -> usize {
        if self.n_pending > 0 {
            self.put(0, 8 - self.n_pending);
        }
        self.at
    }

    /// Ends the stream at the next whole byte.
    pub fn finish(mut self) -> Vec<u8> {
        self.align();
        self.out.truncate(self.at);
        self.out
    }
}

/// Reads bits from a part of a byte slice. Beyond the part it reads what stands there (0 beyond the slice):
/// [`BitReader::is_within`] tells at the end whether that happened.
#[derive(Clone)]
pub struct BitReader<'a> {
    data: &'a [u8],
    next: usize,
    end: usize,
    pending: u64,
    n_pending: u32,
}

impl<'a> BitReader<'a> {
    /// Reads `data[start..end]`.
    pub fn new(data: &'a [u8], start: usize, end: usize) -> Self {
        Self { data, next: start, end, pending: 0, n_pending: 0 }
    }

    /// Makes at least 56 bits available.
    #[inline(always)]
    pub fn refill(&mut self) {
        let word = match self.data.get(self.next..self.next + 8) {
            Some(bytes) => u64::from_le_bytes(bytes.try_into().unwrap_or([0; 8])),
            None => self.last_word(),
        };
        self.pending |= word << self.n_pending;
        self.next += ((63 - self.n_pending) >> 3) as usize;
        self.n_pending |= 56;
    }

    #[cold]
    fn last_word(&self) -> u64 {
        let mut bytes = [0; 8];
        let rest = self.data.get(self.next..).unwrap_or(&[]);
        bytes[..rest.len()].copy_from_slice(rest);
        u64::from_le_bytes(bytes)
    }

    /// The next `n` bits (at most 56 since the last refill), without taking them.
    #[inline(always)]
    pub fn peek(&self, n: u32) -> u64 {
        self.pending & ((1 << n) - 1)
    }

    /// Takes `n` bits.
    #[inline(always)]
    pub fn skip(&mut self, n: u32) {
        self.pending >>= n;
        self.n_pending -= n;
    }

    /// Takes and returns `n` (at most 32) bits, refilling first.
    #[inline]
    pub fn take(&mut self, n: u32) -> u32 {
        self.refill();
        let bits = self.peek(n) as u32;
        self.skip(n);
        bits
    }

    /// Whether all bits taken so far lay within the part.
    pub fn is_within(&self) -> bool {
        self.next as u64 * 8 <= self.end as u64 * 8 + u64::from(self.n_pending)
    }
}
