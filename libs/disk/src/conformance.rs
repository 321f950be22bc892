//! What every [`Disk`] does alike, so that what holds on the fake one holds on the real one.
//!
//! [`check`] runs all of it in a directory that is there, is empty, and belongs to nobody else.

use std::io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotFound};
use std::path::Path;

use bytes::Bytes;

use crate::{DirEntry, Disk, OpenMode, create_dir_durably, read, write_durably};

/// Runs every check.
///
/// # Panics
/// When the disk does something else than the others do.
pub fn check(disk: &dyn Disk, dir: &Path) {
    check_opening(disk, &dir.join("opening"));
    check_bytes(disk, &dir.join("bytes"));
    check_lengths(disk, &dir.join("lengths"));
    check_names(disk, &dir.join("names"));
    check_links(disk, &dir.join("links"));
    check_directories(disk, &dir.join("directories"));
    check_durable(disk, &dir.join("durable/deep"));
    disk.sync_all(dir).expect("everything can be synced");
    assert!(disk.free(dir).expect("the space is known") > 0);
}

fn made(disk: &dyn Disk, dir: &Path) {
    disk.create_dir_all(dir).expect("a directory");
    disk.create_dir_all(dir).expect("no error when it is there");
}

/// A file with these bytes.
fn put(disk: &dyn Disk, path: &Path, bytes: &'static [u8]) {
    let file = disk.open(path, OpenMode::CreateNew).expect("a new file");
    file.write_at(0, &[Bytes::from_static(bytes)]).expect("written");
    file.fsync().expect("synced");
}

fn content(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    read(disk, path).expect("it is there")
}

fn check_opening(disk: &dyn Disk, dir: &Path) {
    made(disk, dir);
    let path = dir.join("file");
    for mode in [OpenMode::Read, OpenMode::Write] {
        assert_eq!(disk.open(&path, mode).expect_err("nothing is there").kind(), NotFound);
    }
    let nowhere = dir.join("missing").join("file");
    assert_eq!(disk.open(&nowhere, OpenMode::CreateNew).expect_err("no directory").kind(), NotFound);
    put(disk, &path, b"first");
    let taken = disk.open(&path, OpenMode::CreateNew).expect_err("an existing file is not taken over");
    assert_eq!(taken.kind(), AlreadyExists);
    assert_eq!(content(disk, &path), b"first");
}

fn check_bytes(disk: &dyn Disk, dir: &Path) {
    made(disk, dir);
    let file = disk.open(&dir.join("file"), OpenMode::CreateNew).expect("a new file");
    // More slices than one call of the operating system takes, of odd lengths.
    let bufs: Vec<Bytes> = (0..2500u32).map(|i| Bytes::from(vec![i as u8; (i % 7) as usize])).collect();
    let flat = bufs.concat();
    file.write_at(4093, &bufs).expect("written");
    file.fdatasync().expect("synced");
    let mut back = vec![1; flat.len()];
    assert_eq!(file.read_at(4093, &mut back).expect("read"), flat.len());
    assert_eq!(back, flat);
    let mut hole = vec![1; 4093];
    assert_eq!(file.read_at(0, &mut hole).expect("read"), 4093);
    assert!(hole.iter().all(|b| *b == 0), "what was never written reads as zeros");
    file.zero_range(4093, 10).expect("zeroed");
    file.zero_range(0, 0).expect("nothing is zeroed");
    file.read_at(4093, &mut back).expect("read");
    assert!(back[..10].iter().all(|b| *b == 0) && back[10..] == flat[10..]);
    let end = 4093 + flat.len() as u64;
    assert_eq!(file.read_at(end - 3, &mut back).expect("read"), 3, "the file ends");
    assert_eq!(file.read_at(end + 3, &mut back).expect("read"), 0, "nothing lies behind the end");
    file.write_at(0, &[]).expect("nothing to write is no error");
}

fn check_lengths(disk: &dyn Disk, dir: &Path) {
    made(disk, dir);
    let file = disk.open(&dir.join("file"), OpenMode::CreateNew).expect("a new file");
    let len = || file.len().expect("a length");
    assert_eq!(len(), 0);
    file.allocate(10_000).expect("there is room");
    assert_eq!(len(), 10_000);
    file.allocate(10).expect("there is room");
    assert_eq!(len(), 10_000, "an allocation takes nothing away");
    file.write_at(0, &[Bytes::from(vec![7; 9_000])]).expect("written");
    file.set_len(5_000).expect("cut");
    assert_eq!(len(), 5_000);
    file.set_len(9_000).expect("extended");
    let mut all = vec![1; 9_000];
    assert_eq!(file.read_at(0, &mut all).expect("read"), 9_000);
    assert!(all[..5_000].iter().all(|b| *b == 7) && all[5_000..].iter().all(|b| *b == 0), "what was cut is gone");
    file.zero_range(8_990, 20).expect("zeroed");
    assert_eq!(len(), 9_010, "zeros behind the end extend the file");
    file.fsync().expect("synced");
}

fn check_names(disk: &dyn Disk, dir: &Path) {
    made(disk, dir);
    let [a, b, c] = ["a", "b", "c"].map(|name| dir.join(name));
    put(disk, &a, b"first");
    put(disk, &b, b"second");
    disk.rename(&a, &b).expect("a file takes another one's name");
    assert!(!disk.exists(&a).expect("known") && disk.exists(&b).expect("known"));
    assert_eq!(content(disk, &b), b"first");
    assert_eq!(disk.rename(&a, &c).expect_err("it is gone").kind(), NotFound);
    let open = disk.open(&b, OpenMode::Read).expect("it is there");
    disk.remove(&b).expect("removed");
    assert_eq!(disk.remove(&b).expect_err("it is gone").kind(), NotFound);
    let mut bytes = [0; 5];
    assert_eq!(open.read_at(0, &mut bytes).expect("who has it open reads on"), 5);
    disk.fsync_dir(dir).expect("synced");
    assert_eq!(disk.fsync_dir(&c).expect_err("no such directory").kind(), NotFound);
}

fn check_links(disk: &dyn Disk, dir: &Path) {
    made(disk, dir);
    let [a, b, c] = ["a", "b", "c"].map(|name| dir.join(name));
    put(disk, &a, b"first");
    put(disk, &c, b"other");
    disk.link(&a, &b).expect("a second name");
    assert_eq!(disk.link(&a, &c).expect_err("it has one").kind(), AlreadyExists);
    assert_eq!(disk.link(&dir.join("missing"), &dir.join("d")).expect_err("nothing to name").kind(), NotFound);
    disk.remove(&a).expect("removed");
    assert_eq!((content(disk, &b), content(disk, &c)), (b"first".to_vec(), b"other".to_vec()));
}

fn check_directories(disk: &dyn Disk, dir: &Path) {
    let (old, new) = (dir.join("old"), dir.join("new"));
    made(disk, &old.join("deep/deeper"));
    put(disk, &old.join("file"), b"bytes");
    disk.rename(&old, &new).expect("a directory moves with what is in it");
    assert!(!disk.exists(&old).expect("known") && disk.exists(&new.join("deep/deeper")).expect("known"));
    let mut entries = disk.list(&new).expect("listed");
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let entry = |name: &str, is_dir, len| DirEntry { name: name.to_owned(), is_dir, len };
    assert_eq!(entries, [entry("deep", true, 0), entry("file", false, 5)]);
    made(disk, &old.join("full"));
    let onto = disk.rename(&new, &old).expect_err("a directory with content is not replaced");
    assert_eq!(onto.kind(), DirectoryNotEmpty);
    assert_eq!(disk.remove_dir(&new).expect_err("it is not empty").kind(), DirectoryNotEmpty);
    disk.remove_dir(&new.join("deep/deeper")).expect("removed");
    assert!(!disk.exists(&new.join("deep/deeper")).expect("known") && disk.exists(&new.join("deep")).expect("known"));
    assert_eq!(disk.remove_dir(&new.join("none")).expect_err("no such directory").kind(), NotFound);
    disk.remove_dir_all(&new).expect("removed with everything in it");
    disk.remove_dir_all(&new).expect("no error when it is gone");
    assert_eq!(disk.list(&new).expect_err("it is gone").kind(), NotFound);
}

fn check_durable(disk: &dyn Disk, dir: &Path) {
    create_dir_durably(disk, dir).expect("created with its parent");
    create_dir_durably(disk, dir).expect("no error when it is there");
    let (path, left_over) = (dir.join("file"), dir.join("file.tmp"));
    put(disk, &left_over, b"of a process that was killed");
    for bytes in [&b"first, and longer"[..], b"second", b""] {
        write_durably(disk, &path, bytes).expect("written");
        assert_eq!(content(disk, &path), bytes);
    }
    assert!(!disk.exists(&left_over).expect("known"));
}
