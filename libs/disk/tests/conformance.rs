//! One suite for the real disk and the fake one.

use disk::{FakeDisk, FsDisk, conformance};

#[test]
fn the_operating_systems_files_do_what_is_expected() {
    let dir = tempfile::tempdir().expect("a directory");
    conformance::check(&FsDisk, dir.path());
}

#[test]
fn the_fake_disk_does_the_same() {
    conformance::check(&FakeDisk::new(1), "/data".as_ref());
}
