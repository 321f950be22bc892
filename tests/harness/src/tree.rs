//! Copies of directories that keep owners and permissions, which PostgreSQL checks.

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Copies a file, link or directory with all below it, owners and permissions included. `to` must not exist.
///
/// # Errors
/// Names the path that could not be copied.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy(from, to, false)
}

/// As [`copy_tree`], but regular files become second names of the same files: for trees that are only read or replaced.
///
/// # Errors
/// Names the path that could not be linked.
pub fn link_tree(from: &Path, to: &Path) -> Result<()> {
    copy(from, to, true)
}

/// Makes the directory `to` like `from` and copies what is in it, but for the entries that `keep` refuses by name.
///
/// # Errors
/// Names the path that could not be copied.
pub fn copy_entries(from: &Path, to: &Path, keep: impl Fn(&str) -> bool) -> Result<()> {
    std::fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let name = entry?.file_name();
        if keep(&name.to_string_lossy()) {
            copy(&from.join(&name), &to.join(&name), false)?;
        }
    }
    like(&std::fs::metadata(from)?, to)
}

fn copy(from: &Path, to: &Path, link: bool) -> Result<()> {
    let meta = std::fs::symlink_metadata(from).with_context(|| format!("cannot look at {}", from.display()))?;
    let kind = meta.file_type();
    let told = || format!("cannot copy {} to {}", from.display(), to.display());
    if kind.is_dir() {
        std::fs::create_dir(to).with_context(told)?;
        for entry in std::fs::read_dir(from).with_context(told)? {
            let name = entry?.file_name();
            copy(&from.join(&name), &to.join(&name), link)?;
        }
        like(&meta, to)
    } else if kind.is_symlink() {
        symlink(std::fs::read_link(from)?, to).with_context(told)?;
        lchown(to, Some(meta.uid()), Some(meta.gid())).with_context(told)
    } else if kind.is_file() && link {
        std::fs::hard_link(from, to).with_context(told)
    } else if kind.is_file() {
        std::fs::copy(from, to).with_context(told)?;
        like(&meta, to)
    } else {
        bail!("{} is neither a file nor a directory", from.display())
    }
}

/// Owner first: a change of owner may clear bits of the permissions.
fn like(meta: &Metadata, to: &Path) -> Result<()> {
    let told = || format!("cannot set owner and permissions of {}", to.display());
    lchown(to, Some(meta.uid()), Some(meta.gid())).with_context(told)?;
    std::fs::set_permissions(to, meta.permissions()).with_context(told)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_copy_has_everything_and_a_link_is_the_same_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to, second) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        std::fs::create_dir_all(from.join("sub")).expect("made");
        std::fs::write(from.join("sub/file"), b"bytes").expect("written");
        std::fs::set_permissions(from.join("sub"), std::fs::Permissions::from_mode(0o700)).expect("set");
        symlink("sub/file", from.join("link")).expect("made");
        copy_tree(&from, &to).expect("copied");
        link_tree(&from, &second).expect("linked");
        let inode = |p: &Path| std::fs::symlink_metadata(p).expect("it is there").ino();
        assert_eq!(std::fs::read(to.join("sub/file")).expect("read"), b"bytes");
        assert_eq!(std::fs::metadata(to.join("sub")).expect("it is there").mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_link(to.join("link")).expect("a link"), Path::new("sub/file"));
        assert_ne!(inode(&to.join("sub/file")), inode(&from.join("sub/file")));
        assert_eq!(inode(&second.join("sub/file")), inode(&from.join("sub/file")));
        assert!(copy_tree(&from, &to).is_err(), "it is there already");
    }

    #[test]
    fn entries_are_left_out_by_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&from).expect("made");
        std::fs::write(from.join("kept"), b"").expect("written");
        std::fs::write(from.join("left"), b"").expect("written");
        copy_entries(&from, &to, |name| name != "left").expect("copied");
        assert!(to.join("kept").exists() && !to.join("left").exists());
    }
}
