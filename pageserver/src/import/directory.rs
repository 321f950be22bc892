//! The files of a cluster that is stopped, straight from its data directory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use pgformat::control::ControlFile;
use pgformat::{Lsn, PgMajor};

use super::backup::{BackupEvent, Tablespace};
pub(crate) use super::load::LoadError;
use super::load::Loader;
use crate::store::Store;

/// Bytes that are read at once: whole pages, and a batch of the loader.
const READ_BYTES: usize = 1 << 20;
/// Symbolic links to tablespaces.
const TABLESPACES: &str = "pg_tblspc";
/// No page and no setting is in there, and it may be large.
const WAL: &str = "pg_wal";

/// Brings every page below `dir` into `store` as of `lsn`. Nobody may write the directory meanwhile.
///
/// # Errors
/// A file that cannot be read or is damaged, and those of storage.
pub(crate) fn load(dir: &Path, store: Arc<Store>, version: PgMajor, lsn: Lsn) -> Result<ControlFile, LoadError> {
    let mut loader = Loader::new(store, version, lsn);
    let spaces = tablespaces(&dir.join(TABLESPACES)).map_err(|e| failed(&dir.join(TABLESPACES), &e))?;
    walk(dir, "", None, &mut loader)?;
    for space in &spaces {
        walk(Path::new(&space.path), "", space.oid, &mut loader)?;
    }
    loader.finish(&spaces)
}

fn failed(path: &Path, e: &io::Error) -> LoadError {
    LoadError::File(format!("{}: {e}", path.display()))
}

fn tablespaces(dir: &Path) -> io::Result<Vec<Tablespace>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(oid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            let path = fs::canonicalize(entry.path())?;
            found.push(Tablespace { oid: Some(oid), path: path.to_string_lossy().into_owned() });
        }
    }
    Ok(found)
}

/// Takes the files of a directory in the order of their names, so that the segments of a fork come in turn.
fn walk(dir: &Path, below: &str, spc: Option<u32>, loader: &mut Loader) -> Result<(), LoadError> {
    let entries = fs::read_dir(dir).and_then(|list| list.map(|e| e.map(|e| e.path())).collect());
    let mut entries: Vec<PathBuf> = entries.map_err(|e| failed(dir, &e))?;
    entries.sort();
    for path in entries {
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        let inner = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        if spc.is_none() && (inner == WAL || inner == TABLESPACES) {
            continue;
        }
        if path.is_dir() {
            walk(&path, &inner, spc, loader)?;
        } else {
            file(&path, inner, spc, loader)?;
        }
    }
    Ok(())
}

fn file(path: &Path, inner: String, spc: Option<u32>, loader: &mut Loader) -> Result<(), LoadError> {
    let mut source = File::open(path).map_err(|e| failed(path, &e))?;
    let len = source.metadata().map_err(|e| failed(path, &e))?.len();
    loader.take(BackupEvent::File { spc, path: inner, len })?;
    loop {
        let mut piece = Vec::with_capacity(READ_BYTES);
        let n = (&mut source).take(READ_BYTES as u64).read_to_end(&mut piece).map_err(|e| failed(path, &e))?;
        if n == 0 {
            return loader.take(BackupEvent::End);
        }
        loader.take(BackupEvent::Content(Bytes::from(piece)))?;
    }
}
