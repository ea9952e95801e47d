//! The heap of a file, which holds values of any length: texts, and lists of references.

/// A collection is closed at this size. Readers load collections whole.
const COLLECTION_BYTES: usize = 64 << 10;

/// The smallest that the HDF5 library accepts.
const MIN_COLLECTION_BYTES: usize = 4096;

const HEADER_BYTES: usize = 16;

/// Collections of objects, one after the other from an address on.
pub struct Heap {
    /// Address of the first byte of `closed`.
    address: u64,
    closed: Vec<u8>,
    open: Vec<u8>,
    /// Objects in the open collection.
    n: u16,
}

impl Heap {
    pub fn new(address: u64) -> Self {
        Self { address, closed: vec![], open: vec![], n: 0 }
    }

    /// Adds an object of `len` elements and returns the reference to it: length, address, index.
    pub fn insert(&mut self, len: u32, object: &[u8]) -> [u8; 16] {
        let bytes = HEADER_BYTES + object.len().next_multiple_of(8);
        if self.n == u16::MAX || self.n > 0 && self.open.len() + bytes + 2 * HEADER_BYTES > COLLECTION_BYTES {
            self.close();
        }
        self.n += 1;
        self.open.extend(self.n.to_le_bytes());
        self.open.extend([1, 0, 0, 0, 0, 0]);
        self.open.extend((object.len() as u64).to_le_bytes());
        self.open.extend_from_slice(object);
        self.open.resize(self.open.len().next_multiple_of(8), 0);
        let mut reference = [0; 16];
        reference[..4].copy_from_slice(&len.to_le_bytes());
        reference[4..12].copy_from_slice(&(self.address + self.closed.len() as u64).to_le_bytes());
        reference[12..].copy_from_slice(&u32::from(self.n).to_le_bytes());
        reference
    }

    /// A text. An empty one still gets an object, of one zero: without one it would read as a missing pointer.
    pub fn insert_text(&mut self, text: &str) -> [u8; 16] {
        let bytes = if text.is_empty() { &b"\0"[..] } else { text.as_bytes() };
        self.insert(bytes.len() as u32, bytes)
    }

    /// Ends the open collection: a header before the objects, free space, object 0, after them.
    pub fn close(&mut self) {
        if self.n == 0 {
            return;
        }
        let used = HEADER_BYTES + self.open.len();
        let bytes = (used + HEADER_BYTES).max(MIN_COLLECTION_BYTES);
        let end = self.closed.len() + bytes;
        self.closed.extend(b"GCOL\x01\0\0\0");
        self.closed.extend((bytes as u64).to_le_bytes());
        self.closed.append(&mut self.open);
        self.closed.extend([0; 8]);
        self.closed.extend(((bytes - used) as u64).to_le_bytes());
        self.closed.resize(end, 0);
        self.n = 0;
    }

    /// Bytes of closed collections that were not taken yet.
    pub fn len(&self) -> usize {
        self.closed.len()
    }

    /// The closed collections, and where they belong.
    pub fn take(&mut self) -> (u64, Vec<u8>) {
        let address = self.address;
        self.address += self.closed.len() as u64;
        (address, std::mem::take(&mut self.closed))
    }

    /// The address after all closed collections.
    pub fn end(&self) -> u64 {
        self.address + self.closed.len() as u64
    }
}
