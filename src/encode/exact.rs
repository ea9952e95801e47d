//! Exact storage.
