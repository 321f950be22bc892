//! Whom the shim calls: the primary, the safekeepers, and either of them for a stretch of WAL.

pub(crate) mod safekeeper;
pub(crate) mod upstream;
pub(crate) mod wal_reader;
