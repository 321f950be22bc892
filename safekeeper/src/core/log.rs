//! The log's ends. Owner of the decoder; knows positions, never bytes.
//!
//! Order, asserted: durable bytes <= written bytes, durable boundary <= written boundary. A boundary may lie ahead of
//! the bytes only behind a switch record, whose fill is zeros by definition.

use pgformat::Lsn;
use pgformat::wal::{StreamConfig, WalDecoder, WalError};

use super::state::LogEnd;

/// The log held here.
#[derive(Debug)]
pub(super) struct Log {
    /// End of the bytes given to storage: where the next append begins.
    pub(super) write_lsn: Lsn,
    /// Last whole record among the bytes given to storage.
    pub(super) written: LogEnd,
    /// End of the bytes that an emitted flush covers.
    pub(super) covered_lsn: Lsn,
    /// Last whole record among the durable bytes.
    pub(super) durable: LogEnd,
    /// Follows the written bytes; `None` before an election is adopted, and after a refusal that left it in the middle.
    decoder: Option<WalDecoder>,
}

impl Log {
    /// A log that ends so, everything durable.
    pub(super) fn at(end: LogEnd) -> Log {
        Log { write_lsn: end.flush_lsn, written: end, covered_lsn: end.flush_lsn, durable: end, decoder: None }
    }

    /// Whether nothing lies behind the durable boundary, so that a cut there needs no I/O.
    pub(super) fn ends_cleanly(&self) -> bool {
        self.write_lsn == self.durable.flush_lsn && self.covered_lsn == self.write_lsn
    }

    /// Readies the log for appends behind its end.
    pub(super) fn start_decoder(&mut self, stream: StreamConfig) {
        debug_assert!(self.ends_cleanly(), "appends start behind a clean end");
        self.decoder = Some(WalDecoder::new(stream, self.write_lsn, self.written.last_record_start));
    }

    /// Whether appends can be taken.
    pub(super) fn is_ready(&self) -> bool {
        self.decoder.is_some()
    }

    /// Checks that `wal` continues the log and counts it as written.
    ///
    /// # Errors
    /// When it does not; then nothing of it counts, and a new election is needed before the next append.
    pub(super) fn extend(&mut self, wal: &[u8]) -> Result<(), WalError> {
        let mut decoder = self.decoder.take().expect("the caller asked is_ready");
        decoder.feed(self.write_lsn, wal)?;
        self.write_lsn = self.write_lsn.add(wal.len() as u64);
        self.written = LogEnd { flush_lsn: decoder.boundary(), last_record_start: decoder.last_record_start() };
        self.decoder = Some(decoder);
        Ok(())
    }

    pub(super) fn assert_order(&self) {
        assert!(self.durable.flush_lsn <= self.written.flush_lsn, "durable beyond written");
        assert!(self.covered_lsn <= self.write_lsn, "a flush covers more than was written");
    }
}
