//! What an import was asked for: a file beside the timeline's control file, until the import is done.
//!
//! It holds a connection string, maybe with a password: nobody else may read it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use node::datadir::sync_dir;
use serde::{Deserialize, Serialize};

const FILE_NAME: &str = "import.json";
const TMP_NAME: &str = "import.json.tmp";

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
pub(crate) fn write(dir: &Path, request: &KeptImport) -> io::Result<()> {
    let tmp = dir.join(TMP_NAME);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
    file.write_all(&serde_json::to_vec(request)?)?;
    file.sync_all()?;
    fs::rename(&tmp, dir.join(FILE_NAME))?;
    sync_dir(dir)
}

/// The request that is not done, if there is one.
///
/// # Errors
/// Those of the file system, and a file that is no request.
pub(crate) fn read(dir: &Path) -> io::Result<Option<KeptImport>> {
    match fs::read(dir.join(FILE_NAME)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// It is done.
///
/// # Errors
/// Those of the file system.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    fs::remove_file(dir.join(FILE_NAME))?;
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_kept_until_it_is_done() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()).expect("read"), None);
        let request = KeptImport { from: "host=a password=b".to_owned() };
        write(dir.path(), &request).expect("written");
        assert_eq!(read(dir.path()).expect("read"), Some(request));
        let mode = fs::metadata(dir.path().join(FILE_NAME)).expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "for nobody else's eyes");
        remove(dir.path()).expect("removed");
        assert_eq!(read(dir.path()).expect("read"), None);
    }
}
