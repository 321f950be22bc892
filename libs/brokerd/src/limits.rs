//! The embedded broker's bounds on the memory and disk that clients can make it use. `docs/operations.md`, "Limits",
//! has the table. Where etcd has a bound, ours is the same.

use std::time::Duration;

use etcd_client::proto::{PbKeyValue, PbPutRequest, PbTxnOpRequest, PbTxnRequest};

/// Bytes of keys, values and leases unless configured, as etcd has it.
pub const QUOTA_BYTES: u64 = 2 << 30;

/// Connections at once unless configured: a node keeps a handful open.
pub const CONNECTIONS_MAX: usize = 1024;

/// What a key or a lease counts beside its own bytes: its place in memory.
pub(super) const ENTRY_BYTES: u64 = 256;

/// Bytes of all keys' names: one deletion of all of them must fit one frame of the log.
pub(super) const KEY_BYTES_MAX: u64 = 128 << 20;

/// Bytes of a request, as etcd has it.
pub(super) const REQUEST_BYTES_MAX: usize = 3 << 19;

/// Bytes of a message before it is decoded: a request and what surrounds it.
pub(super) const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// Bytes of an answer. Every record of a fabric with 30,000 timelines fits.
pub(super) const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Operations and comparisons of one list of a transaction, as etcd has it.
pub(super) const TXN_OPS_MAX: usize = 128;

/// Operations and comparisons of a transaction with all its inner ones, whose number etcd does not bound.
pub(super) const TXN_OPS_TOTAL_MAX: usize = 1024;

/// Leases at once; a node has one. One more ends the oldest that have no keys.
pub(super) const LEASES_MAX: usize = 100_000;

/// Watches of one stream, and of all streams; a node has a handful for each timeline.
pub(super) const WATCHES_MAX: (usize, usize) = (4096, 65_536);

/// Bytes of the keys of all watches.
pub(super) const WATCH_KEY_BYTES_MAX: usize = 32 << 20;

/// Requests at once, from the first byte of the request to the last byte of the answer. Others wait.
pub(super) const CALLS_MAX: usize = 64;

/// How long such a request may take: one that is sent, or whose answer is read, without haste is cut.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Streams (watches, keep-alives) at once.
pub(super) const STREAMS_MAX: usize = 4096;

/// Requests and streams of one connection.
pub(super) const CONNECTION_STREAMS_MAX: u32 = 256;

/// Bytes that a connection may send ahead of what is read from it.
pub(super) const WINDOW_BYTES: u32 = 256 << 10;

/// A new connection has said that it speaks HTTP/2 after so long.
pub(super) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// A watcher that does not take what it is told for so long is cut.
pub(super) const SLOW_WATCHER_LIMIT: Duration = Duration::from_secs(30);

/// What an operator may set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BrokerLimits {
    /// Bytes of keys, values and leases, each with 256 more for its place in memory. Beyond it the broker takes no
    /// writes until space is made and the alarm disarmed.
    pub quota_bytes: u64,
    /// Connections at once; one more is closed.
    pub connections_max: usize,
}

impl Default for BrokerLimits {
    fn default() -> BrokerLimits {
        BrokerLimits { quota_bytes: QUOTA_BYTES, connections_max: CONNECTIONS_MAX }
    }
}

/// Bytes that an entry counts for.
pub(super) fn entry_bytes(key: &[u8], value: &[u8]) -> u64 {
    ENTRY_BYTES + length_of(key) + length_of(value)
}

/// Bytes of an entry in an answer, numbers included.
pub(super) fn shown_bytes(kv: &PbKeyValue, keys_only: bool) -> u64 {
    64 + length_of(&kv.key) + if keys_only { 0 } else { length_of(&kv.value) }
}

pub(super) fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

pub(super) fn put_request_bytes(put: &PbPutRequest) -> usize {
    put.key.len() + put.value.len()
}

/// Bytes of keys and values of a transaction, inner ones included.
pub(super) fn txn_request_bytes(txn: &PbTxnRequest) -> usize {
    let compares: usize = txn.compare.iter().map(|compare| compare.key.len() + compare.range_end.len()).sum();
    let ops = txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref());
    let op_bytes = |op: &PbTxnOpRequest| match op {
        PbTxnOpRequest::RequestRange(range) => range.key.len() + range.range_end.len(),
        PbTxnOpRequest::RequestPut(put) => put_request_bytes(put),
        PbTxnOpRequest::RequestDeleteRange(delete) => delete.key.len() + delete.range_end.len(),
        PbTxnOpRequest::RequestTxn(inner) => txn_request_bytes(inner),
    };
    compares + ops.map(op_bytes).sum::<usize>()
}
