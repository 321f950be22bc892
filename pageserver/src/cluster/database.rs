//! What is stored of a database's directory: one byte that says how it came to be.

/// A database's directory holds relations only: the database itself is in another tablespace.
pub(crate) const ONLY_RELATIONS: u8 = 0;
/// A database's own directory, with its version file.
pub(crate) const WHOLE: u8 = 1;
/// The same of one that was made page by page through the log (`STRATEGY wal_log`), or copied from such a one: its
/// visibility maps came without bits.
pub(crate) const LOGGED: u8 = 2;
