//! One suite for the real disk and the fake one.

use std::path::Path;

use disk::{Disk, FakeDisk, FsDisk, conformance};

#[test]
fn the_operating_systems_files_do_what_is_expected() {
    let dir = tempfile::tempdir().expect("a directory");
    conformance::check(&FsDisk, dir.path());
}

#[test]
fn the_fake_disk_does_the_same() {
    conformance::check(&FakeDisk::new(1), "/data".as_ref());
}

#[test]
fn what_the_real_disk_creates_is_for_its_user_only() {
    use std::os::unix::fs::PermissionsExt;
    let base = tempfile::tempdir().expect("a directory");
    let (dir, file) = (base.path().join("a/b"), base.path().join("a/b/file"));
    FsDisk.create_dir_all(&dir).expect("made");
    disk::write_durably(&FsDisk, &file, b"secret").expect("written");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!([&base.path().join("a"), &dir, &file].map(|path| mode(path)), [0o700, 0o700, 0o600]);
}
