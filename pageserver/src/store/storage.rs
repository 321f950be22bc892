//! Where in storage a timeline's blobs are: `<tenant>/<timeline>/`, with a folder of manifests and one of layers.

use std::sync::Arc;

use blobs::{BlobError, Blobs, Storage};
use proto::id::TenantTimelineId;

use super::LAYERS;
use super::manifest;

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
