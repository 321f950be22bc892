//! The size of the store, updated with every key and lease.

use super::super::limits::{ENTRY_BYTES, entry_bytes, length_of};

/// What the store holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Usage {
    /// What counts for the quota.
    pub(super) bytes: u64,
    /// Bytes of the keys' names.
    pub(super) key_bytes: u64,
}

impl Usage {
    pub(super) fn add_key(&mut self, key: &[u8], value: &[u8]) {
        self.bytes += entry_bytes(key, value);
        self.key_bytes += length_of(key);
    }

    pub(super) fn remove_key(&mut self, key: &[u8], value: &[u8]) {
        self.bytes -= entry_bytes(key, value);
        self.key_bytes -= length_of(key);
    }

    pub(super) fn add_lease(&mut self) {
        self.bytes += ENTRY_BYTES;
    }

    pub(super) fn remove_lease(&mut self) {
        self.bytes -= ENTRY_BYTES;
    }
}
