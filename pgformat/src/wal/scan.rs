//! Finds the end of a written log, as a restart does.
//!
//! Pure: the caller supplies the bytes.

use bytes::Bytes;

use super::{StreamConfig, WalDecoder, WalError};
use crate::Lsn;

/// Where the valid part of a log ends, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanEnd {
    /// End of the last whole record, in the form of [`WalDecoder::boundary`].
    pub boundary: Lsn,
    /// Start of that record; what the scan was given when it found none.
    pub last_record_start: Option<Lsn>,
    /// Why the scan stopped.
    pub reason: EndReason,
}

/// Why a scan stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The reader had no more bytes from here on.
    NoMoreBytes(Lsn),
    /// The bytes do not continue the log. [`WalError::kind`] tells a normal end from damage.
    Invalid(WalError),
}

/// Reads the log from record boundary `start` on until it ends.
///
/// `read(at)` returns some bytes at `at`, any number, or none when there are none. `start` and `prev` as for
/// [`WalDecoder::new`].
///
/// # Errors
/// Whatever `read` returns.
pub fn find_end_of_wal<E>(
    cfg: StreamConfig,
    start: Lsn,
    prev: Option<Lsn>,
    mut read: impl FnMut(Lsn) -> Result<Bytes, E>,
) -> Result<ScanEnd, E> {
    let mut decoder = WalDecoder::new(cfg, start, prev);
    let reason = loop {
        let at = decoder.position();
        let bytes = read(at)?;
        if bytes.is_empty() {
            break EndReason::NoMoreBytes(at);
        }
        if let Err(e) = decoder.feed(at, &bytes) {
            break EndReason::Invalid(e);
        }
    };
    Ok(ScanEnd { boundary: decoder.boundary(), last_record_start: decoder.last_record_start(), reason })
}
