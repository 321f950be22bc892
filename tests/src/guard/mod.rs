//! Guards of the hot paths: counts of allocations and instructions, which do not depend on the load of the machine.
//!
//! One table, [`PATHS`], lists every path with its operation and both limits. `tests/allocations.rs` counts allocations
//! under `cargo test`; `make guard` (`bin/hotpath.rs`) counts instructions under valgrind. Both measure the steady
//! state, without the cost of start-up.
//!
//! | module | what |
//! |---|---|
//! | `wal` | WAL to feed; the decoder's paths |
//! | `acceptor`, `proposer` | the consensus cores, each with a driver in miniature |
//! | `redo` | a change onto a page |
//! | `wire` | messages and libpq frames |
//! | [`instructions`] | counts and judges instructions |

mod acceptor;
pub mod instructions;
mod proposer;
mod redo;
mod wal;
mod wire;

/// Runs one operation per call.
pub type Load = Box<dyn FnMut()>;

/// A path that every commit, or every byte of WAL, takes.
#[derive(Debug)]
pub struct HotPath {
    /// How reports and the command line call it.
    pub name: &'static str,
    /// What one operation is.
    pub operation: &'static str,
    /// Readies a load that can run that many operations.
    pub start: fn(usize) -> Load,
    /// The most allocations per operation.
    pub allocations_max: f64,
    /// Where those come from.
    pub allocations_why: &'static str,
    /// The most instructions per operation: measured with the development profile on x86-64, plus 15 %.
    pub instructions_max: u64,
    /// Operations that the instructions are taken from: a few million instructions in all.
    pub operations: usize,
}

impl HotPath {
    /// The path of that name.
    pub fn named(name: &str) -> Option<&'static HotPath> {
        PATHS.iter().find(|p| p.name == name)
    }
}

/// Every path that is guarded. `make guard-print` prints what is measured now.
pub const PATHS: [HotPath; 14] = [
    HotPath {
        name: "decoder-chunk",
        operation: "128 KiB of WAL in records of 100 bytes through WalDecoder::feed",
        start: wal::chunk,
        allocations_max: 0.0,
        allocations_why: "positions only: the decoder keeps no bytes",
        instructions_max: 947_000,
        operations: 10,
    },
    HotPath {
        name: "decoder-record",
        operation: "one record of 100 bytes through WalDecoder::feed",
        start: wal::record,
        allocations_max: 0.0,
        allocations_why: "positions only: the decoder keeps no bytes",
        instructions_max: 922,
        operations: 5_000,
    },
    HotPath {
        name: "decoder-chunk-records",
        operation: "128 KiB of WAL in records of 100 bytes through WalDecoder::feed_records",
        start: wal::chunk_records,
        allocations_max: 3.0,
        allocations_why: "the buffer for records that cross a page, which grows to their size once",
        instructions_max: 974_000,
        operations: 10,
    },
    HotPath {
        name: "redo-insert",
        operation: "one inserted row of 40 bytes, from the stored change onto an empty page",
        start: redo::insert,
        allocations_max: 1.0,
        allocations_why: "the tuple, put together before it is known whether it fits",
        instructions_max: 11_100,
        operations: 2_000,
    },
    HotPath {
        name: "acceptor-append",
        operation: "one append of one record: message, write, flush, completion, reply",
        start: acceptor::append,
        allocations_max: 1.0,
        allocations_why: "the list of connections that are owed an answer",
        instructions_max: 4_360,
        operations: 2_000,
    },
    HotPath {
        name: "proposer-commit",
        operation: "one record: WAL at hand, three appends, three acknowledgements, commit",
        start: proposer::commit,
        allocations_max: 9.0,
        allocations_why: "three for each acknowledgement: the positions to sort, and the set of nodes by way of a list",
        instructions_max: 12_400,
        operations: 1_000,
    },
    HotPath {
        name: "append-request-encode",
        operation: "head of one AppendRequest, v3, into a buffer that is there",
        start: wire::encode_request,
        allocations_max: 0.0,
        allocations_why: "the head is written in place, the WAL is not touched",
        instructions_max: 596,
        operations: 10_000,
    },
    HotPath {
        name: "append-request-decode",
        operation: "one AppendRequest with one record, v3",
        start: wire::decode_request,
        allocations_max: 0.0,
        allocations_why: "the WAL is a slice of the message",
        instructions_max: 975,
        operations: 10_000,
    },
    HotPath {
        name: "append-response-encode",
        operation: "one AppendResponse without pageserver feedback, v3, into a buffer that is there",
        start: wire::encode_response,
        allocations_max: 0.0,
        allocations_why: "written in place",
        instructions_max: 665,
        operations: 10_000,
    },
    HotPath {
        name: "append-response-decode",
        operation: "one AppendResponse without pageserver feedback, v3",
        start: wire::decode_response,
        allocations_max: 0.0,
        allocations_why: "numbers only",
        instructions_max: 978,
        operations: 10_000,
    },
    HotPath {
        name: "xlog-data-encode",
        operation: "head of one XLogData, into a buffer that is there",
        start: wire::encode_xlog_data,
        allocations_max: 0.0,
        allocations_why: "the head is written in place, the WAL is not touched",
        instructions_max: 344,
        operations: 10_000,
    },
    HotPath {
        name: "xlog-data-decode",
        operation: "one XLogData with one record",
        start: wire::decode_xlog_data,
        allocations_max: 0.0,
        allocations_why: "the WAL is a slice of the message",
        instructions_max: 527,
        operations: 10_000,
    },
    HotPath {
        name: "frame-put",
        operation: "one CopyData frame of 100 bytes into a buffer that is there",
        start: wire::put,
        allocations_max: 0.0,
        allocations_why: "written in place",
        instructions_max: 324,
        operations: 10_000,
    },
    HotPath {
        name: "frame-take",
        operation: "one CopyData frame of 100 bytes received and taken off the buffer",
        start: wire::take,
        allocations_max: 0.0,
        allocations_why: "the body is a slice of the buffer, which is used again once the frame is gone",
        instructions_max: 352,
        operations: 10_000,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_runs_and_has_a_name_of_its_own() {
        for path in &PATHS {
            assert_eq!(PATHS.iter().filter(|p| p.name == path.name).count(), 1, "{}", path.name);
            let mut load = (path.start)(50);
            (0..50).for_each(|_| load());
        }
    }
}
