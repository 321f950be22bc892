//! Blobs on the S3 service of the tests.

use std::sync::Arc;

use proto::id::TenantTimelineId;

use super::{Blobs, RealDisk, Storage};

pub(crate) use ::s3_server::{S3Server, variables};

/// What it is for here.
pub(crate) trait Serves {
    /// Blobs of a timeline below a prefix, which is made unique.
    fn blobs(&self, prefix: &str, id: TenantTimelineId) -> Arc<dyn Blobs>;
}

impl Serves for S3Server {
    fn blobs(&self, prefix: &str, id: TenantTimelineId) -> Arc<dyn Blobs> {
        let url = format!("s3://bucket/{prefix}{:016x}", fastrand::u64(..));
        let (disk, runtime) = (Arc::new(RealDisk), self.runtime.handle().clone());
        let storage = Storage::from_url(&url, variables(&self.url), disk, runtime).expect("a good URL");
        storage.timeline(id).expect("nothing to make")
    }
}
