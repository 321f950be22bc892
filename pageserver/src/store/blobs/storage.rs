//! Where a pageserver keeps its timelines: a local directory or `s3://bucket/prefix`, from a URL.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use proto::id::TenantTimelineId;
use tokio::runtime::Handle;

use super::s3::S3Blobs;
use super::{BlobError, Blobs, Disk, LocalBlobs};
use crate::store::manifest;

/// One request, from its first byte to the answer's last: a layer of 64 MiB at 1 MB/s, and an end to a dead connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Connecting: three lost SYN packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After so long in all a call fails, and its caller (flush, compaction) says so and tries again later.
const RETRY_TIMEOUT: Duration = Duration::from_secs(120);
/// Repetitions of one request.
const RETRIES_MAX: usize = 5;

/// The backend of a pageserver.
#[derive(Clone, Debug)]
pub(crate) struct Storage(Place);

#[derive(Clone, Debug)]
enum Place {
    Local { root: PathBuf, disk: Arc<dyn Disk> },
    S3 { store: Arc<dyn ObjectStore>, bucket: String, prefix: String, runtime: Handle },
}

/// A URL that names no storage.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("storage {url:?}: {problem}")]
pub(crate) struct StorageError {
    /// What was given.
    pub(crate) url: String,
    /// What is wrong with it, and what would be right.
    pub(crate) problem: String,
}

impl Storage {
    /// Storage below a local directory, which must exist.
    pub(crate) fn local(root: PathBuf, disk: Arc<dyn Disk>) -> Storage {
        Storage(Place::Local { root, disk })
    }

    /// Storage at `file:///dir` or `s3://bucket/prefix`. Of the environment (`variables`), names that begin with
    /// `AWS_` say the rest: endpoint, region, keys, whether HTTP without TLS is allowed.
    ///
    /// # Errors
    /// When the URL or a variable is of no use. No connection is made.
    pub(crate) fn from_url(
        url: &str,
        variables: impl IntoIterator<Item = (String, String)>,
        disk: Arc<dyn Disk>,
        runtime: Handle,
    ) -> Result<Storage, StorageError> {
        let bad = |problem: String| StorageError { url: url.to_owned(), problem };
        if let Some(path) = url.strip_prefix("file://") {
            let root = PathBuf::from(path);
            if !root.is_absolute() {
                return Err(bad("give an absolute path, as in file:///dir".into()));
            }
            return Ok(Storage::local(root, disk));
        }
        let Some(rest) = url.strip_prefix("s3://") else {
            return Err(bad("is neither file:///dir nor s3://bucket/prefix".into()));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        if bucket.is_empty() || prefix.split('/').any(|part| part.is_empty() && !prefix.is_empty()) {
            return Err(bad("lacks a bucket, or a part of its prefix is empty".into()));
        }
        let store = s3(bucket, variables).map_err(|e| bad(e.to_string()))?;
        Ok(Storage(Place::S3 { store, bucket: bucket.into(), prefix: prefix.into(), runtime }))
    }

    /// The blobs of a timeline.
    ///
    /// # Errors
    /// When the local directories cannot be made.
    pub(crate) fn timeline(&self, id: TenantTimelineId) -> Result<Arc<dyn Blobs>, BlobError> {
        let (tenant, timeline) = (id.tenant_id.to_string(), id.timeline_id.to_string());
        match &self.0 {
            Place::Local { root, disk } => {
                let folders = [manifest::FOLDER, crate::store::LAYERS];
                Ok(Arc::new(LocalBlobs::new(disk.clone(), Path::new(root), &[&tenant, &timeline], &folders)?))
            }
            Place::S3 { store, bucket, prefix, runtime } => {
                let prefix = if prefix.is_empty() { tenant } else { format!("{prefix}/{tenant}") };
                let place = format!("s3://{bucket}");
                Ok(Arc::new(S3Blobs::new(store.clone(), place, format!("{prefix}/{timeline}"), runtime.clone())))
            }
        }
    }
}

impl Storage {
    /// Deletes everything that a timeline has in storage. Repeating it after an error goes on where it stopped.
    ///
    /// # Errors
    /// Those of the backend.
    pub(crate) fn remove_timeline(&self, id: TenantTimelineId) -> Result<(), BlobError> {
        let blobs = self.timeline(id)?;
        for folder in [crate::store::LAYERS, manifest::FOLDER] {
            blobs.clean(folder)?;
            for entry in blobs.list(folder)? {
                blobs.delete(&entry.name)?;
            }
        }
        if let Place::Local { root, .. } = &self.0 {
            let dir = root.join(id.tenant_id.to_string()).join(id.timeline_id.to_string());
            for folder in [crate::store::LAYERS, manifest::FOLDER] {
                // Empty folders do no harm: one that cannot be removed stays.
                let _ = std::fs::remove_dir(dir.join(folder));
            }
            let _ = std::fs::remove_dir(dir);
        }
        Ok(())
    }
}

fn s3(
    bucket: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    node::use_ring();
    let retry =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT };
    let client = ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
    let mut builder = AmazonS3Builder::new().with_client_options(client);
    for (name, value) in variables {
        let key = name.starts_with("AWS_").then(|| name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>());
        if let Some(Ok(key)) = key {
            builder = builder.with_config(key, value);
        }
    }
    Ok(Arc::new(builder.with_bucket_name(bucket).with_retry(retry).build()?))
}
