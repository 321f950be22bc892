//! Which tenants' directories are known to be durable, so that only a tenant's first timeline pays for its name.
//!
//! Owner of that knowledge. A creation in a directory that another one made waits until its name is durable: a timeline
//! is found by way of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use disk::Disk;
use proto::id::TenantId;

use crate::storage::StorageError;
use crate::storage::shared_dir::SharedDir;
use crate::storage::timeline::make_parent;

#[derive(Debug)]
pub(super) struct Tenants {
    top: SharedDir,
    known: Mutex<BTreeMap<TenantId, Arc<Tenant>>>,
}

#[derive(Debug)]
struct Tenant {
    dir: Arc<SharedDir>,
    /// Whether its directory is durable. Locked while it is made.
    durable: Mutex<bool>,
}

impl Tenants {
    /// Below the data directory `top`.
    pub(super) fn new(top: PathBuf) -> Tenants {
        Tenants { top: SharedDir::new(top), known: Mutex::default() }
    }

    /// A timeline in it was found at start, after everything on disk was synced.
    pub(super) fn found(&self, tenant: TenantId) {
        *self.entry(tenant).durable.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Makes a tenant's directory, durably, unless it is. Blocks.
    pub(super) fn ensure(&self, disk: &dyn Disk, tenant: TenantId) -> Result<Arc<SharedDir>, StorageError> {
        let entry = self.entry(tenant);
        // Held over the sync on purpose: nobody goes on before the name is durable.
        let mut durable = entry.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if !*durable {
            make_parent(disk, &self.top, entry.dir.path())?;
            *durable = true;
        }
        Ok(Arc::clone(&entry.dir))
    }

    fn entry(&self, tenant: TenantId) -> Arc<Tenant> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let dir = Arc::new(SharedDir::new(self.top.path().join(tenant.to_string())));
            Arc::new(Tenant { dir, durable: Mutex::default() })
        };
        Arc::clone(known.entry(tenant).or_insert_with(new))
    }
}
