//! The size of the store, the alarm when it is too large, and the size of an answer.
//!
//! As in etcd, the alarm stays until somebody disarms it: a store that is nearly full would otherwise take one write
//! and refuse the next. Deletions, compactions, reads and keep-alives still work. A restart also disarms the alarm; the
//! next write beyond the quota raises it again.

use etcd_client::proto::{PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp};

use super::super::limits::{ANSWER_BYTES_MAX, ENTRY_BYTES, KEY_BYTES_MAX, entry_bytes, length_of, shown_bytes};
use super::{KeyRange, KeyStore, RequestRefusal};

impl KeyStore {
    pub(crate) fn set_quota(&mut self, quota_bytes: u64) {
        self.quota_bytes = quota_bytes;
    }

    pub(crate) fn quota_bytes(&self) -> u64 {
        self.quota_bytes
    }

    /// Bytes that count for the quota.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.usage.bytes
    }

    /// Whether the alarm is raised.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Raises or disarms the alarm; whether that changed something.
    pub(crate) fn set_full(&mut self, full: bool) -> bool {
        std::mem::replace(&mut self.full, full) != full
    }

    /// Refuses what would add `bytes` when the alarm is raised, or raises it because they are too many.
    pub(super) fn claim(&mut self, bytes: u64) -> Result<(), RequestRefusal> {
        if bytes > 0 && self.usage.bytes.saturating_add(bytes) > self.quota_bytes {
            self.full = true;
        }
        if bytes > 0 && self.full { Err(RequestRefusal::NoSpace) } else { Ok(()) }
    }

    /// Refuses keys whose names would make all names together too long.
    pub(super) fn check_key_bytes(&self, bytes: u64) -> Result<(), RequestRefusal> {
        if self.usage.key_bytes.saturating_add(bytes) > KEY_BYTES_MAX {
            Err(RequestRefusal::KeysTooLong)
        } else {
            Ok(())
        }
    }

    /// Bytes of a range's answer as the store is now.
    pub(super) fn range_bytes(&self, request: &PbRangeRequest) -> u64 {
        if request.count_only {
            return 0;
        }
        self.select(request).kvs.iter().map(|kv| shown_bytes(kv, request.keys_only)).sum()
    }

    /// Bytes of a deletion's answer as the store is now.
    pub(super) fn delete_bytes(&self, request: &PbDeleteRequest) -> u64 {
        if !request.prev_kv {
            return 0;
        }
        let range = KeyRange::new(&request.key, &request.range_end);
        self.matching(&range).map(|kv| shown_bytes(kv, false)).sum()
    }

    /// Bytes of a put's answer as the store is now.
    pub(super) fn put_bytes(&self, request: &PbPutRequest) -> u64 {
        let prev = self.keys.get(&request.key).filter(|_| request.prev_kv);
        prev.map_or(0, |prev| shown_bytes(prev, false))
    }
}

/// Refuses an answer of so many bytes when they are too many.
pub(super) fn check_answer(bytes: u64) -> Result<(), RequestRefusal> {
    if bytes > ANSWER_BYTES_MAX { Err(RequestRefusal::AnswerTooLarge) } else { Ok(()) }
}

/// What a transaction may add at most, whichever list runs: as etcd counts it.
pub(super) fn txn_cost(request: &PbTxnRequest) -> u64 {
    let cost = |ops: &[PbTxnRequestOp]| -> u64 {
        let ops = ops.iter().filter_map(|op| op.request.as_ref());
        ops.map(|op| match op {
            PbTxnOpRequest::RequestPut(put) => entry_bytes(&put.key, &put.value),
            PbTxnOpRequest::RequestTxn(inner) => txn_cost(inner),
            PbTxnOpRequest::RequestRange(_) | PbTxnOpRequest::RequestDeleteRange(_) => 0,
        })
        .sum()
    };
    cost(&request.success).max(cost(&request.failure))
}

/// The answer of a transaction in the making: what its operations will show at most.
#[derive(Default)]
pub(super) struct Expected<'a> {
    puts: Vec<&'a PbPutRequest>,
    key_bytes: u64,
    bytes: u64,
}

impl<'a> Expected<'a> {
    /// Adds an operation that will run. A range also shows what the operations before it put.
    pub(super) fn add(&mut self, store: &KeyStore, op: &'a PbTxnOpRequest) -> Result<(), RequestRefusal> {
        self.bytes += ENTRY_BYTES;
        match op {
            PbTxnOpRequest::RequestRange(range) => {
                self.bytes += store.range_bytes(range) + self.put_before(range);
            }
            PbTxnOpRequest::RequestPut(put) => {
                self.bytes += store.put_bytes(put);
                self.key_bytes += length_of(&put.key);
                store.check_key_bytes(self.key_bytes)?;
                self.puts.push(put);
            }
            PbTxnOpRequest::RequestDeleteRange(delete) => self.bytes += store.delete_bytes(delete),
            PbTxnOpRequest::RequestTxn(_) => {}
        }
        check_answer(self.bytes)
    }

    fn put_before(&self, range: &PbRangeRequest) -> u64 {
        if range.count_only {
            return 0;
        }
        let keys = KeyRange::new(&range.key, &range.range_end);
        let shown = self.puts.iter().filter(|put| keys.contains(&put.key));
        shown.map(|put| entry_bytes(&put.key, if range.keys_only { &[] } else { &put.value })).sum()
    }
}
