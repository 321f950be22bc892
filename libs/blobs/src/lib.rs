//! Named bytes in a directory or a bucket: immutable, durable once created, in folders that can be listed.
//!
//! [`Storage`] is a place for many sets of blobs, named by a URL; a set belongs to one owner, such as a timeline.
//! [`Blobs`] defines the operations on a set and the guarantees after a crash. There are three implementations: a local
//! directory ([`LocalBlobs`]), a bucket of an S3-compatible service, and memory ([`MemoryBlobs`]).
//!
//! All calls block: they run on threads that may wait for a disk or a network.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use blobs::{BlobErrorKind, Creation, Storage};
//! use bytes::Bytes;
//! use disk::FsDisk;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let storage = Storage::local(dir.path().to_owned(), Arc::new(FsDisk));
//! let blobs = storage.blobs(&["some-tenant", "some-timeline"], &["layers"])?;
//!
//! // The first creation wins, and its bytes stay.
//! assert_eq!(blobs.create("layers/one", &[Bytes::from("first")])?, Creation::New);
//! assert_eq!(blobs.create("layers/one", &[Bytes::from("second")])?, Creation::AlreadyExists);
//! assert_eq!(blobs.get("layers/one")?, "first");
//!
//! let names: Vec<String> = blobs.list("layers")?.into_iter().map(|entry| entry.name).collect();
//! assert_eq!(names, ["layers/one"]);
//!
//! blobs.delete("layers/one")?;
//! let error = blobs.get("layers/one").expect_err("nothing has this name any more");
//! assert_eq!(error.kind, BlobErrorKind::NotFound);
//! # Ok(())
//! # }
//! ```

mod contract;
mod error;
mod local;
mod memory;
mod names;
mod s3;
mod storage;

pub use contract::{BlobEntry, Blobs, Creation, ReadAt};
pub use error::{BlobError, BlobErrorKind};
pub use local::LocalBlobs;
pub use memory::MemoryBlobs;
pub use storage::{BadStorageUrl, Storage};
