//! The new directory: what it takes, what it refuses, and that nothing is left of one that was not finished.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use bytes::Bytes;
use proto::backup::tar::TarEntry;

use super::directory::NewDirectory;
use super::receive::DirectoryEvent;

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Files, directories (a slash behind the path) and what ends the stream.
fn take(directory: &mut NewDirectory, entries: &[(&str, &str)]) -> Result<()> {
    for (path, content) in entries {
        let entry = match path.strip_suffix('/') {
            Some(path) => TarEntry::directory(path),
            None => TarEntry::file(*path, content.len() as u64),
        };
        directory.take(DirectoryEvent::Entry(entry))?;
        for piece in content.as_bytes().chunks(2) {
            directory.take(DirectoryEvent::Content(Bytes::copy_from_slice(piece)))?;
        }
        directory.take(DirectoryEvent::End)?;
    }
    Ok(())
}

const CLUSTER: [(&str, &str); 5] = [
    ("global/", ""),
    ("pg_tblspc/", ""),
    ("PG_VERSION", "15\n"),
    ("global/1262", "pages"),
    ("global/pg_control", "ctl"),
];

fn names(dir: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(dir).map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect());
    let mut names: Vec<String> = entries.unwrap_or_default();
    names.sort();
    names
}

/// Goal: the control file is what makes a directory of files a cluster, so it comes when all else is on disk. Method:
/// the whole stream is taken, and looked at before and after the end.
#[test]
fn the_control_file_appears_at_the_end() -> Result<()> {
    let dir = temp();
    let root = dir.path().join("data");
    let mut directory = NewDirectory::make(&root, &[])?;
    directory.take(DirectoryEvent::Tablespace(1700, "/old/place".to_owned()))?;
    take(&mut directory, &[("PG_15_202209061/", ""), ("PG_15_202209061/1", "page")])?;
    directory.take(DirectoryEvent::Base)?;
    take(&mut directory, &CLUSTER)?;
    assert_eq!(names(&root.join("global")), ["1262"]);

    let (bytes, spaces) = directory.finish()?;
    assert_eq!(bytes, 4 + 3 + 5 + 3);
    let space = dir.path().join("data_tablespaces/1700");
    assert_eq!(spaces, std::slice::from_ref(&space));
    assert_eq!(fs::read_link(root.join("pg_tblspc/1700"))?, space);
    assert_eq!(fs::read_to_string(root.join("pg_tblspc/1700/PG_15_202209061/1"))?, "page");
    assert_eq!(fs::read_to_string(root.join("global/pg_control"))?, "ctl");
    for (path, mode) in [(root.clone(), 0o700), (space, 0o700), (root.join("global/1262"), 0o600)] {
        assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, mode, "{}", path.display());
    }
    Ok(())
}

/// Goal: a tablespace goes where the caller says. Method: a mapping of its former directory.
#[test]
fn a_tablespace_goes_where_it_is_mapped() -> Result<()> {
    let dir = temp();
    let (root, mapped) = (dir.path().join("data"), dir.path().join("fast"));
    let mut directory = NewDirectory::make(&root, &[(PathBuf::from("/old/place"), mapped.clone())])?;
    directory.take(DirectoryEvent::Tablespace(1700, "/old/place".to_owned()))?;
    take(&mut directory, &[("x", "y")])?;
    directory.take(DirectoryEvent::Base)?;
    take(&mut directory, &CLUSTER)?;
    directory.finish()?;
    assert_eq!(names(dir.path()), ["data", "fast"]);
    assert_eq!(fs::read_link(root.join("pg_tblspc/1700"))?, mapped);
    Ok(())
}

/// Goal: a path from outside never leads out of the directory, and nothing is written over. Method: paths that would.
#[test]
fn paths_that_lead_elsewhere_are_refused() -> Result<()> {
    let dir = temp();
    let mut directory = NewDirectory::make(&dir.path().join("data"), &[])?;
    for path in ["../outside", "/etc/outside", "a/../../outside", "", "."] {
        assert!(take(&mut directory, &[(path, "x")]).is_err(), "{path:?}");
    }
    let link = DirectoryEvent::Entry(TarEntry::link("pg_tblspc/1", "/etc"));
    assert!(directory.take(link).is_err(), "the links are ours");
    take(&mut directory, &[("once", "x")])?;
    assert!(take(&mut directory, &[("once", "y")]).is_err(), "it is there already");
    assert!(directory.take(DirectoryEvent::Content(Bytes::from_static(b"x"))).is_err(), "no file is open");
    assert_eq!(names(dir.path()), ["data"]);
    Ok(())
}

/// Goal: nothing is left of a backup that was not finished, and nothing of others is touched. Method: one that is
/// dropped half-way, in a directory of its own and in an empty one that was there.
#[test]
fn what_was_not_finished_is_removed() -> Result<()> {
    let dir = temp();
    let root = dir.path().join("data");
    for was_there in [false, true] {
        if was_there {
            fs::create_dir(&root)?;
        }
        let mut directory = NewDirectory::make(&root, &[])?;
        directory.take(DirectoryEvent::Tablespace(1700, "/old/place".to_owned()))?;
        take(&mut directory, &[("x", "y")])?;
        directory.take(DirectoryEvent::Base)?;
        take(&mut directory, &CLUSTER)?;
        drop(directory);
        assert_eq!(names(dir.path()), if was_there { vec!["data"] } else { Vec::new() });
        assert_eq!(names(&root), Vec::<String>::new());
    }
    // Without a control file it is no cluster.
    let mut directory = NewDirectory::make(&root, &[])?;
    take(&mut directory, &CLUSTER[..4])?;
    assert!(directory.finish().is_err());
    assert_eq!(names(&root), Vec::<String>::new());

    fs::write(root.join("mine"), "kept")?;
    let refused = NewDirectory::make(&root, &[]).map(drop).expect_err("it is not empty");
    assert!(refused.is::<crate::usage::UsageError>(), "{refused}");
    assert_eq!(names(&root), ["mine"]);
    Ok(())
}
