//! What a cluster is at an LSN: what there can be, under which key, in which bytes.
//!
//! Pure, and below everything else: the mapping of WAL writes these forms, the store keeps them by key and LSN, and
//! reads give them back. Nothing in here knows of layers, of files, or of a stream.
//!
//! | module | what |
//! |---|---|
//! | [`key`] | the ordered key of every block and every piece of metadata |
//! | [`value`] | what is stored under a key at an LSN: a page, a change of one, metadata |
//! | [`extent`] | how long a fork or a segment is, and where pages need no version |
//! | [`database`] | how a database's directory came to be |
//! | [`state`] | the control state: what PostgreSQL keeps in its control file and in shared memory |
//! | [`xacts`], [`records`], [`leb`] | how transactions ended and where records are, as chunks of numbers |
//! | [`look`], [`error`] | what is asked of whatever holds all that, and why it may have no answer |
//! | [`compare`] | the control state against a cluster that was shut down |

pub(crate) mod compare;
pub(crate) mod database;
pub(crate) mod error;
pub(crate) mod extent;
pub(crate) mod key;
mod leb;
pub(crate) mod look;
pub(crate) mod records;
pub(crate) mod state;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod value;
pub(crate) mod xacts;
