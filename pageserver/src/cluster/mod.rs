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

pub(crate) mod extent;
pub(crate) mod key;
pub(crate) mod value;
