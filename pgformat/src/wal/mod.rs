//! Write-ahead log: pages, records, and a decoder that follows record boundaries in a stream.
//!
//! Pure and sans-IO: the caller feeds bytes and asks for positions. A decoder owns its state and nothing else; the
//! caller owns the bytes. Layouts are those of PostgreSQL 14-18, which differ only in the page magic and in the set of
//! resource managers.
//!
//! | module | content |
//! |---|---|
//! | [`page`] | page headers |
//! | `stream` | [`StreamConfig`]: what a stream must look like |
//! | [`record`] | record headers, the records that change how the stream is read |
//! | [`body`] | block references and data of a record |
//! | [`image`] | full-page images |
//! | [`decoder`] | [`WalDecoder`]: checks a stream and finds its record boundaries |
//! | [`scan`] | the end of a written log |
//! | [`prehistory`] | the first segment's bytes before the log's start |
//! | [`build`] | [`WalBuilder`]: valid WAL by hand, for simulators and tests |
//! | [`error`] | typed errors of a stream |
//!
//! **Boundary** means: the 8-aligned end of a record, before any page header that follows; after a SWITCH record the
//! start of the next segment.

pub mod body;
pub mod build;
pub mod decoder;
pub mod error;
pub mod image;
pub mod page;
pub mod prehistory;
pub mod record;
pub mod scan;
mod stream;

pub use build::{BuiltRecord, WalBuilder};
pub use decoder::{Unfinished, WalDecoder};
pub use error::{ErrorKind, WalError};
pub use page::next_record_start;
pub use prehistory::{check_prehistory, synthetic_prehistory};
pub use record::{Record, RecordHeader, RecordRef};
pub use scan::{EndReason, ScanEnd, find_end_of_wal};
pub use stream::StreamConfig;

#[cfg(test)]
mod tests;
