//! Where in storage a timeline's blobs are: `<tenant>/<timeline>/`, with a folder of manifests and one of layers.

use std::sync::Arc;

use blobs::{BlobEntry, BlobError, Blobs, Creation, ReadAt, Storage};
use bytes::Bytes;
use proto::id::TenantTimelineId;

use super::LAYERS;
use super::manifest;
use super::order::assert_unlocked;

/// The blobs of a timeline.
///
/// # Errors
/// When the local directories cannot be made.
pub(crate) fn timeline(storage: &Storage, id: TenantTimelineId) -> Result<Arc<dyn Blobs>, BlobError> {
    let (tenant, timeline) = (id.tenant_id.to_string(), id.timeline_id.to_string());
    storage.blobs(&[&tenant, &timeline], &[manifest::FOLDER, LAYERS])
}

/// Deletes everything that a timeline has in storage, the manifests last. Repeating it after an error goes on where it
/// stopped.
///
/// # Errors
/// Those of storage.
pub(crate) fn remove_timeline(storage: &Storage, id: TenantTimelineId) -> Result<(), BlobError> {
    let (tenant, timeline) = (id.tenant_id.to_string(), id.timeline_id.to_string());
    storage.remove(&[&tenant, &timeline], &[LAYERS, manifest::FOLDER])
}

/// Blobs that no thread asks while it holds a lock of a store.
#[derive(Debug)]
struct UnlockedBlobs(Arc<dyn Blobs>);

/// The same blobs; a debug build asserts that who asks them holds no lock of a store.
pub(super) fn asked_without_locks(blobs: Arc<dyn Blobs>) -> Arc<dyn Blobs> {
    if cfg!(debug_assertions) { Arc::new(UnlockedBlobs(blobs)) } else { blobs }
}

impl Blobs for UnlockedBlobs {
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Creation, BlobError> {
        assert_unlocked();
        self.0.create(name, parts)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>, BlobError> {
        assert_unlocked();
        self.0.open(name)
    }

    fn get(&self, name: &str) -> Result<Bytes, BlobError> {
        assert_unlocked();
        self.0.get(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<BlobEntry>, BlobError> {
        assert_unlocked();
        self.0.list(folder)
    }

    fn delete(&self, name: &str) -> Result<(), BlobError> {
        assert_unlocked();
        self.0.delete(name)
    }

    fn clean(&self, folder: &str) -> Result<(), BlobError> {
        assert_unlocked();
        self.0.clean(folder)
    }
}
