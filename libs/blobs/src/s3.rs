//! Blobs in a bucket of an S3-compatible service, through `object_store`.
//!
//! Creation is one conditional PUT (`If-None-Match: *`), which the service decides atomically. The library repeats
//! requests by itself, so a creation of ours that succeeded and whose answer was lost shows as `AlreadyExists`: the
//! caller compares what is there with what it wrote.
//!
//! The calls block and hand their work to a tokio runtime: they must not be made from one of its async tasks.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::runtime::Handle;

use crate::contract::{BlobEntry, Blobs, Creation, ReadAt};
use crate::error::{BlobError, BlobErrorKind};
use crate::names::{is_part, split};

/// One set of blobs below a prefix.
#[derive(Debug)]
pub(crate) struct S3Blobs {
    store: Arc<dyn ObjectStore>,
    /// What every name begins with, without a slash at its end.
    prefix: String,
    /// For messages: `s3://bucket`.
    place: String,
    runtime: Handle,
}

impl S3Blobs {
    /// Blobs of `store` below `prefix`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, place: String, prefix: String, runtime: Handle) -> S3Blobs {
        S3Blobs { store, prefix, place, runtime }
    }

    fn path(&self, name: &str) -> Result<Path, BlobError> {
        split(name)?;
        Ok(Path::from(format!("{}/{name}", self.prefix)))
    }

    fn error(&self, operation: &'static str, path: &Path, e: &Error) -> BlobError {
        let kind = match e {
            Error::NotFound { .. } => BlobErrorKind::NotFound,
            Error::NotSupported { .. } | Error::NotImplemented { .. } | Error::InvalidPath { .. } => {
                BlobErrorKind::Terminal
            }
            // Also a refused key: it heals when the operator has put it right.
            _ => BlobErrorKind::Retryable,
        };
        BlobError { kind, operation, name: format!("{}/{path}", self.place), detail: e.to_string() }
    }
}

impl Blobs for S3Blobs {
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Creation, BlobError> {
        let path = self.path(name)?;
        let payload: PutPayload = parts.iter().cloned().collect();
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.runtime.block_on(self.store.put_opts(&path, payload, options)) {
            Ok(_) => Ok(Creation::New),
            // The service also answers so (409) to a creation that ran at the same time and failed: the caller finds
            // nothing then and tries again.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Creation::AlreadyExists),
            Err(e) => Err(self.error("create", &path, &e)),
        }
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>, BlobError> {
        let path = self.path(name)?;
        let meta = self.runtime.block_on(self.store.head(&path)).map_err(|e| self.error("open", &path, &e))?;
        Ok(Arc::new(S3Blob {
            name: format!("{}/{path}", self.place),
            len: meta.size,
            path,
            store: self.store.clone(),
            runtime: self.runtime.clone(),
        }))
    }

    fn get(&self, name: &str) -> Result<Bytes, BlobError> {
        let path = self.path(name)?;
        let all = async { self.store.get(&path).await?.bytes().await };
        self.runtime.block_on(all).map_err(|e| self.error("read", &path, &e))
    }

    fn list(&self, folder: &str) -> Result<Vec<BlobEntry>, BlobError> {
        if !is_part(folder) {
            return Err(BlobError::bad_name(folder));
        }
        let path = Path::from(format!("{}/{folder}", self.prefix));
        let listing = self.store.list(Some(&path)).try_collect::<Vec<_>>();
        let found = self.runtime.block_on(listing).map_err(|e| self.error("list", &path, &e))?;
        let ours = found.into_iter().filter_map(|meta| {
            let name = meta.location.filename().filter(|name| is_part(name))?;
            let name = format!("{folder}/{name}");
            // Only the folder itself, no folders below it.
            (meta.location.as_ref() == format!("{}/{name}", self.prefix)).then_some(BlobEntry { name, len: meta.size })
        });
        let mut entries: Vec<BlobEntry> = ours.collect();
        entries.sort();
        Ok(entries)
    }

    fn delete(&self, name: &str) -> Result<(), BlobError> {
        let path = self.path(name)?;
        match self.runtime.block_on(self.store.delete(&path)) {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error("delete", &path, &e)),
        }
    }

    fn clean(&self, _folder: &str) -> Result<(), BlobError> {
        // A PUT that was interrupted leaves nothing.
        Ok(())
    }
}

/// An object, read in ranges.
#[derive(Debug)]
struct S3Blob {
    name: String,
    len: u64,
    path: Path,
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
}

impl ReadAt for S3Blob {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let range = offset..offset.saturating_add(len as u64);
        if len == 0 {
            return Ok(Bytes::new());
        }
        if range.end > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bytes = self.runtime.block_on(self.store.get_range(&self.path, range)).map_err(io::Error::other)?;
        if bytes.len() == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn name(&self) -> &str {
        &self.name
    }
}
