//! What an import was asked for: a file beside the timeline's control file, until the import is done.
//!
//! It holds a connection string, maybe with a password: nobody else may read it.

use std::io;
use std::path::Path;

use disk::{Disk, write_durably};
use serde::{Deserialize, Serialize};

const FILE_NAME: &str = "import.json";

/// The request as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptImport {
    /// libpq connection string of the running cluster.
    pub(crate) from: String,
}

impl std::fmt::Debug for KeptImport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptImport").field("from", &"(hidden)").finish()
    }
}

/// Keeps `request` in the timeline's directory.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write(disk: &dyn Disk, dir: &Path, request: &KeptImport) -> io::Result<()> {
    write_durably(disk, &dir.join(FILE_NAME), &serde_json::to_vec(request)?)
}

/// The request that is not done, if there is one.
///
/// # Errors
/// Those of the file system, and a file that is no request.
pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Option<KeptImport>> {
    match disk::read(disk, &dir.join(FILE_NAME)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// It is done.
///
/// # Errors
/// Those of the file system.
pub(crate) fn remove(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    disk.remove(&dir.join(FILE_NAME))?;
    disk.fsync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_kept_until_it_is_done() {
        use std::fs;
        use std::os::unix::fs::PermissionsExt;

        use disk::FsDisk;

        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(&FsDisk, dir.path()).expect("read"), None);
        let request = KeptImport { from: "host=a password=b".to_owned() };
        write(&FsDisk, dir.path(), &request).expect("written");
        assert_eq!(read(&FsDisk, dir.path()).expect("read"), Some(request));
        let mode = fs::metadata(dir.path().join(FILE_NAME)).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "for nobody else's eyes");
        remove(&FsDisk, dir.path()).expect("removed");
        assert_eq!(read(&FsDisk, dir.path()).expect("read"), None);
    }
}
