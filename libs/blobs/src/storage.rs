//! A place for many sets of blobs: a local directory or `s3://bucket/prefix`, from a URL.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use disk::Disk;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use tokio::runtime::Handle;

use crate::contract::Blobs;
use crate::error::BlobError;
use crate::local::LocalBlobs;
use crate::names::is_part;
use crate::s3::S3Blobs;

/// One request, from its first byte to the answer's last: a layer of 64 MiB at 1 MB/s, and an end to a dead connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Connecting: three lost SYN packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After so long in all a call fails, and its caller (flush, compaction) says so and tries again later.
const RETRY_TIMEOUT: Duration = Duration::from_secs(120);
/// Repetitions of one request.
const RETRIES_MAX: usize = 5;

/// A place for sets of blobs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Storage(StoragePlace);

#[derive(Clone, Debug)]
enum StoragePlace {
    Local { root: PathBuf, disk: Arc<dyn Disk> },
    S3 { store: Arc<dyn ObjectStore>, bucket: String, prefix: String, runtime: Handle },
}

/// A URL that names no storage.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("storage {url:?}: {problem}")]
pub struct BadStorageUrl {
    /// The URL that was given.
    pub url: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl Storage {
    /// Storage below a local directory, which must exist.
    pub fn local(root: PathBuf, disk: Arc<dyn Disk>) -> Storage {
        Storage(StoragePlace::Local { root, disk })
    }

    /// Storage at `file:///dir` or `s3://bucket/prefix`. Of the environment (`variables`), names that begin with
    /// `AWS_` say the rest: endpoint, region, keys, whether HTTP without TLS is allowed.
    ///
    /// # Errors
    /// When the URL or a variable is of no use. No connection is made.
    pub fn from_url(
        url: &str,
        variables: impl IntoIterator<Item = (String, String)>,
        disk: Arc<dyn Disk>,
        runtime: Handle,
    ) -> Result<Storage, BadStorageUrl> {
        let bad = |problem: String| BadStorageUrl { url: url.to_owned(), problem };
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
        Ok(Storage(StoragePlace::S3 { store, bucket: bucket.into(), prefix: prefix.into(), runtime }))
    }

    /// The set of blobs below the directories or prefix `below`, with the folders `folders`.
    ///
    /// # Errors
    /// When a part of the name is none, or the local directories cannot be made.
    pub fn blobs(&self, below: &[&str], folders: &[&str]) -> Result<Arc<dyn Blobs>, BlobError> {
        if let Some(bad) = below.iter().chain(folders).find(|part| !is_part(part)) {
            return Err(BlobError::bad_name(bad));
        }
        match &self.0 {
            StoragePlace::Local { root, disk } => Ok(Arc::new(LocalBlobs::new(disk.clone(), root, below, folders)?)),
            StoragePlace::S3 { store, bucket, prefix, runtime } => {
                let parts = Some(prefix.as_str()).into_iter().filter(|p| !p.is_empty()).chain(below.iter().copied());
                let prefix = parts.collect::<Vec<_>>().join("/");
                Ok(Arc::new(S3Blobs::new(store.clone(), format!("s3://{bucket}"), prefix, runtime.clone())))
            }
        }
    }

    /// Deletes a set of blobs, folder by folder in the order of `folders`. Repeating it after an error goes on where it
    /// stopped.
    ///
    /// # Errors
    /// Those of the file system or the service.
    pub fn remove(&self, below: &[&str], folders: &[&str]) -> Result<(), BlobError> {
        let blobs = self.blobs(below, folders)?;
        for folder in folders {
            blobs.clean(folder)?;
            for entry in blobs.list(folder)? {
                blobs.delete(&entry.name)?;
            }
        }
        if let StoragePlace::Local { root, disk } = &self.0 {
            let dir = below.iter().fold(root.clone(), |dir, part| dir.join(part));
            for folder in folders {
                // Empty folders do no harm: one that cannot be removed stays.
                let _ = disk.remove_dir(&dir.join(folder));
            }
            let _ = disk.remove_dir(&dir);
        }
        Ok(())
    }
}

fn s3(
    bucket: &str,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    // The library's own default would build another implementation. An error says that one was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
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
