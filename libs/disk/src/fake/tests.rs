//! Each way in which a fake disk forgets, fails or lies happens, and leaves everything else alone.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;

use super::*;
use crate::{Disk, DiskFile, OpenMode};

const OLD: u8 = 1;
const NEW: u8 = 2;
/// Three pages.
const LEN: usize = 12 << 10;

fn path() -> &'static Path {
    Path::new("/data/file")
}

/// A file of [`OLD`] bytes, durable with its name.
fn durable(lies: &[Lie]) -> (FakeDisk, Arc<dyn DiskFile>) {
    let disk = FakeDisk::new(1);
    let file = disk.open(path(), OpenMode::CreateNew).expect("a new file");
    file.write_at(0, &[Bytes::from(vec![OLD; LEN])]).expect("written");
    file.fsync().expect("synced");
    disk.fsync_dir(Path::new("/data")).expect("synced");
    disk.set_lies(lies);
    (disk, file)
}

/// [`NEW`] bytes over all of it, not synced.
fn overwrite(file: &dyn DiskFile) {
    file.write_at(0, &[Bytes::from(vec![NEW; LEN])]).expect("written");
}

fn content(disk: &FakeDisk) -> Vec<u8> {
    disk.content(path()).expect("the file is there")
}

/// Whether some loss of power, of many, leaves what `is` says.
fn some_loss(disk: &FakeDisk, is: impl Fn(&FakeDisk) -> bool) -> bool {
    let mut rng = Rng::with_seed(3);
    (0..200).any(|_| is(&disk.after_power_loss(&mut rng)))
}

#[test]
fn what_was_not_synced_is_lost_kept_or_torn_within_a_page() {
    let (disk, file) = durable(&[]);
    overwrite(&*file);
    assert!(content(&disk.after_kill()).iter().all(|b| *b == NEW), "a kill loses nothing");
    assert!(some_loss(&disk, |d| content(d).iter().all(|b| *b == OLD)), "lost");
    assert!(some_loss(&disk, |d| content(d).iter().all(|b| *b == NEW)), "written back just in time");
    let torn = |d: &FakeDisk| content(d).chunks(4096).any(|page| page.contains(&OLD) && page.contains(&NEW));
    assert!(some_loss(&disk, torn), "torn within a page");
    file.fdatasync().expect("synced");
    assert!(!some_loss(&disk, |d| content(d).contains(&OLD)), "a sync holds");
}

#[test]
fn names_that_were_not_synced_are_lost_or_kept_and_a_rename_may_lose_both() {
    let (disk, _file) = durable(&[]);
    let to = Path::new("/data/renamed");
    disk.rename(path(), to).expect("renamed");
    let there = |d: &FakeDisk| (d.content(path()).is_some(), d.content(to).is_some());
    for left in [(true, false), (false, true), (true, true), (false, false)] {
        assert!(some_loss(&disk, |d| there(d) == left), "{left:?}");
    }
    disk.fsync_dir(Path::new("/data")).expect("synced");
    assert!(!some_loss(&disk, |d| there(d) != (false, true)), "a sync holds");
}

#[test]
fn a_failed_sync_leaves_pages_that_show_and_are_never_written() {
    let (disk, file) = durable(&[]);
    overwrite(&*file);
    disk.fail_next(IoFault::Sync);
    assert!(file.fdatasync().is_err());
    file.fdatasync().expect("the next one finds nothing to do");
    assert!(content(&disk).iter().all(|b| *b == NEW));
    assert!(some_loss(&disk, |d| content(d).contains(&OLD)), "what the next sync said is not true");
    let evicted = (0..20).any(|_| {
        disk.process_kill();
        content(&disk).contains(&OLD)
    });
    assert!(evicted, "the cache gives up pages that it believes to be clean");
    // Written again, they count again.
    let file = disk.open(path(), OpenMode::Write).expect("it is there");
    overwrite(&*file);
    file.fdatasync().expect("synced");
    assert!(!some_loss(&disk, |d| content(d).contains(&OLD)));
}

#[test]
fn a_failed_directory_sync_leaves_names_that_show_and_are_never_written() {
    let (disk, _file) = durable(&[]);
    disk.remove(path()).expect("removed");
    disk.fail_nth(IoFault::SyncDir, 1);
    assert!(disk.fsync_dir(Path::new("/data")).is_err());
    disk.fsync_dir(Path::new("/data")).expect("the next one finds nothing to do");
    assert!(!disk.exists(path()).expect("known"));
    assert!(some_loss(&disk, |d| d.content(path()).is_some()), "it is back");
}

#[test]
fn faults_strike_the_calls_that_were_named() {
    let (disk, file) = durable(&[]);
    disk.fail_nth(IoFault::Write, 2);
    overwrite(&*file);
    assert!(file.write_at(0, &[Bytes::from(vec![3; LEN])]).is_err());
    assert!(content(&disk).contains(&NEW), "it ended half way");
    disk.fail_times(IoFault::Sync, 2);
    assert!([file.fdatasync(), file.fsync()].iter().all(io::Result::is_err) && file.fsync().is_ok());
    let other = Path::new("/data/other");
    disk.fail_next(IoFault::Link);
    assert!(disk.link(path(), other).is_err() && disk.link(path(), other).is_ok());
    disk.fail_next(IoFault::Remove);
    assert!(disk.remove(other).is_err() && disk.remove(other).is_ok());
    assert_eq!(disk.take_fired(), 5);
    disk.fail_next(IoFault::Sync);
    disk.no_faults();
    file.fsync().expect("nothing is planned any more");
}

#[test]
fn a_full_disk_grows_no_file_and_takes_what_needs_no_room() {
    let (disk, file) = durable(&[]);
    disk.limit(Some(100));
    assert_eq!(disk.free(path()).expect("known"), 100);
    assert_eq!(file.allocate(LEN as u64 + 101).expect_err("no room").kind(), io::ErrorKind::StorageFull);
    let e = file.write_at(LEN as u64, &[Bytes::from(vec![NEW; 200])]).expect_err("no room");
    assert_eq!((e.kind(), file.len().expect("known")), (io::ErrorKind::StorageFull, LEN as u64 + 100));
    overwrite(&*file);
    disk.limit(None);
    file.allocate(LEN as u64 + 101).expect("there is room again");
}

#[test]
fn the_node_goes_down_in_the_middle_of_a_call_and_its_handles_are_dead() {
    let (disk, file) = durable(&[]);
    disk.die_at(disk.operations() + 1);
    file.fdatasync().expect("one call is left");
    assert!(file.write_at(0, &[Bytes::from(vec![NEW; LEN])]).is_err() && disk.is_down());
    assert!(file.len().is_err() && disk.exists(path()).is_err(), "nothing works");
    disk.process_kill();
    assert!(!disk.is_down() && file.len().is_err(), "a handle of the life before");
    let torn = content(&disk);
    assert!(torn.len() == LEN && torn.iter().all(|b| [OLD, NEW].contains(b)));
    disk.die_in(1);
    assert!(disk.remove(path()).is_err() && disk.is_down());
}

#[test]
fn an_image_is_all_that_was_there_and_rot_is_on_the_medium_too() {
    let (disk, file) = durable(&[]);
    overwrite(&*file);
    let image = disk.image();
    disk.remove(path()).expect("removed");
    disk.restore(Some(image));
    assert!(content(&disk).iter().all(|b| *b == NEW));
    assert_eq!(disk.medium(path(), 0, LEN), Some(vec![OLD; LEN]), "and what was durable is so still");
    assert!(disk.rot(path(), 5) && !disk.rot(Path::new("/data/none"), 0));
    assert_eq!((content(&disk)[5], disk.medium(path(), 5, 1)), (NEW ^ 0x10, Some(vec![OLD ^ 0x10])));
    assert_eq!(disk.files(), [path()]);
    disk.restore(None);
    assert!(disk.files().is_empty());
}

#[test]
fn syncs_that_lie_leave_everything_at_the_mercy_of_the_power() {
    type Sync = fn(&dyn DiskFile) -> io::Result<()>;
    let data = Path::new("/data");
    let syncs: [(Lie, Sync); 2] = [(Lie::NoFdatasync, |f| f.fdatasync()), (Lie::NoFsync, |f| f.fsync())];
    for (lie, sync) in syncs {
        let (disk, file) = durable(&[lie]);
        overwrite(&*file);
        sync(&*file).expect("it says so");
        assert!(some_loss(&disk, |d| content(d).contains(&OLD)), "{lie:?}");
    }
    let (disk, file) = durable(&[Lie::NoSyncAll]);
    overwrite(&*file);
    disk.sync_all(data).expect("it says so");
    assert!(some_loss(&disk, |d| content(d).contains(&OLD)));
    let (disk, _file) = durable(&[Lie::NoDirSync]);
    disk.remove(path()).expect("removed");
    disk.fsync_dir(data).and_then(|()| disk.sync_all(data)).expect("it says so");
    assert!(some_loss(&disk, |d| d.content(path()).is_some()));
}

#[test]
fn calls_that_lie_change_nothing_or_too_much() {
    let (disk, file) = durable(&[Lie::NoZeroing]);
    file.zero_range(0, 100).expect("it says so");
    assert!(content(&disk).iter().all(|b| *b == OLD));
    let (disk, _file) = durable(&[Lie::NoRemoval]);
    disk.remove(path()).expect("it says so");
    assert!(disk.exists(path()).expect("known"));
    let (disk, _file) = durable(&[Lie::LinkReplaces]);
    let other = Path::new("/data/other");
    disk.open(other, OpenMode::CreateNew).expect("a new file");
    disk.link(path(), other).expect("it says so");
    assert_eq!(disk.content(other).map(|c| c.len()), Some(LEN));
    // What a failed sync left is written again, and the lie takes it for clean.
    let (disk, file) = durable(&[Lie::NoRewrite]);
    overwrite(&*file);
    disk.fail_next(IoFault::Sync);
    assert!(file.fdatasync().is_err());
    overwrite(&*file);
    file.fdatasync().expect("synced");
    assert!(some_loss(&disk, |d| content(d).contains(&OLD)));
}
