//! Blobs in memory: the plainest implementation of the contract, which tests of other crates use.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::contract::{BlobEntry, Blobs, Creation, ReadAt};
use crate::error::BlobError;
use crate::names::{is_part, split};

/// One set of blobs in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryBlobs(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl MemoryBlobs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        // Every change is one insertion or removal: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Flips a bit of the byte `at` of a blob, so that a test can damage it.
    ///
    /// # Panics
    /// When there is no such blob or byte.
    pub fn flip(&self, name: &str, at: usize) {
        let mut blobs = self.lock();
        let mut bytes = blobs[name].to_vec();
        bytes[at] ^= 0x10;
        blobs.insert(name.to_owned(), bytes.into());
    }
}

impl Blobs for MemoryBlobs {
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Creation, BlobError> {
        split(name)?;
        let mut blobs = self.lock();
        if blobs.contains_key(name) {
            return Ok(Creation::AlreadyExists);
        }
        blobs.insert(name.to_owned(), parts.concat().into());
        Ok(Creation::New)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>, BlobError> {
        let bytes = self.get(name)?;
        Ok(Arc::new(MemoryBlob { name: format!("memory:{name}"), bytes }))
    }

    fn get(&self, name: &str) -> Result<Bytes, BlobError> {
        split(name)?;
        let found = self.lock().get(name).cloned();
        found.ok_or_else(|| BlobError::io("open", name, &io::ErrorKind::NotFound.into()))
    }

    fn list(&self, folder: &str) -> Result<Vec<BlobEntry>, BlobError> {
        if !is_part(folder) {
            return Err(BlobError::bad_name(folder));
        }
        let within = |name: &str| name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let blobs = self.lock();
        let found = blobs.iter().filter(|(name, _)| within(name));
        Ok(found.map(|(name, bytes)| BlobEntry { name: name.clone(), len: bytes.len() as u64 }).collect())
    }

    fn delete(&self, name: &str) -> Result<(), BlobError> {
        split(name)?;
        self.lock().remove(name);
        Ok(())
    }

    fn clean(&self, _folder: &str) -> Result<(), BlobError> {
        Ok(())
    }
}

/// A blob that was opened.
#[derive(Debug)]
struct MemoryBlob {
    name: String,
    bytes: Bytes,
}

impl ReadAt for MemoryBlob {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        match start.checked_add(len).filter(|end| *end <= self.bytes.len()) {
            Some(end) => Ok(self.bytes.slice(start..end)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn name(&self) -> &str {
        &self.name
    }
}
