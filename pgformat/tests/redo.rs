//! Redo of every kind of change, from recordings on servers of 14-18 that PostgreSQL itself has judged.
//!
//! `proof all --golden` writes the files in `redo/` (format: crate `oracle`, module `golden`). They hold pages before
//! and after a change, recorded where the page equalled PostgreSQL's own image.

use std::collections::BTreeSet;
use std::path::Path;

use pgformat::page::{PAGE_SIZE, Page};
use pgformat::read::{Short, Take};
use pgformat::redo::{self, Change, Context};
use pgformat::rel::Fork;
use pgformat::{Lsn, PgMajor};

struct Example {
    version: PgMajor,
    after_image: bool,
    fork: Fork,
    blk: u32,
    end: Lsn,
    stored: Vec<u8>,
    before: Box<Page>,
    after: Box<Page>,
}

impl Example {
    fn take(take: &mut Take<'_>) -> Result<Example, Short> {
        let version = PgMajor::new(u32::from(take.u8()?)).ok_or(Short)?;
        let after_image = take.bool()?;
        let fork = Fork::new(take.u8()?).ok_or(Short)?;
        let (blk, end) = (take.u32()?, Lsn::new(take.u64()?));
        let len = take.u32()?;
        let stored = take.bytes(len as usize)?.to_vec();
        let mut page = || Page::from_slice(take.bytes(PAGE_SIZE)?).ok_or(Short);
        Ok(Example { version, after_image, fork, blk, end, stored, before: page()?, after: page()? })
    }

    fn change(&self) -> Change<'_> {
        Change::decode(&self.stored, self.fork, self.blk).expect("a change that was written")
    }

    fn redo(&self, page: &mut Page, change: &Change<'_>) -> Result<(), redo::RedoError> {
        let ctx = Context { version: self.version, end: self.end };
        if self.after_image { redo::after_image(page, change, &ctx) } else { redo::redo(page, change, &ctx) }
    }
}

fn examples() -> Vec<(String, Example)> {
    let mut found = Vec::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/redo");
    for entry in std::fs::read_dir(&folder).expect("the folder of examples") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let file = std::fs::File::open(&path).expect("a file of examples");
        let bytes = zstd::stream::decode_all(file).expect("a zstd frame");
        let mut take = Take::new(&bytes);
        while take.left() > 0 {
            found.push((name.clone(), Example::take(&mut take).expect("a whole example")));
        }
    }
    found
}

/// Goal: redo gives the very bytes that it gave when PostgreSQL judged it. Method: every example of every server.
#[test]
fn every_example_is_redone_to_the_byte() {
    let (mut majors, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for (server, example) in examples() {
        let change = example.change();
        let mut page = example.before.clone();
        let what = format!("{server}: {}/{:#04x} block {} at {}", change.rmid, change.info, change.block, example.end);
        example.redo(&mut page, &change).unwrap_or_else(|e| panic!("{what}: {e}"));
        let differing = page.0.iter().zip(&example.after.0).position(|(a, b)| a != b);
        assert_eq!(differing, None, "{what}: the first byte that differs");
        majors.insert(example.version);
        kinds.insert((change.rmid, change.info, change.block));
    }
    assert_eq!(majors.into_iter().collect::<Vec<_>>(), PgMajor::ALL);
    assert!(kinds.len() > 150, "only {} kinds of changes", kinds.len());
}

/// Goal: redo of a page made from nothing does not read what was there. Method: the same on a page of other bytes.
#[test]
fn a_page_made_from_nothing_ignores_what_was_there() {
    let init = examples().into_iter().filter(|(_, example)| example.change().init);
    let mut count = 0;
    for (server, example) in init {
        let change = example.change();
        let mut page = Page::zeroed();
        page.0.fill(0xA5);
        example.redo(&mut page, &change).unwrap_or_else(|e| panic!("{server} {}: {e}", example.end));
        assert!(page == example.after, "{server}: {}/{:#04x} block {}", change.rmid, change.info, change.block);
        count += 1;
    }
    assert!(count > 100, "only {count} changes make a page from nothing");
}

/// Goal: damage is refused or redone to something, never a panic. Method: every change cut off at several lengths, and
/// on an empty page.
#[test]
fn damaged_changes_do_not_panic() {
    for (_, example) in examples() {
        for cut in [1, 2, 5, 9] {
            let Some(len) = example.stored.len().checked_sub(cut) else { continue };
            if let Ok(change) = Change::decode(&example.stored[..len], example.fork, example.blk) {
                let mut page = example.before.clone();
                let _ = example.redo(&mut page, &change);
            }
        }
        let mut page = Page::zeroed();
        page.init(16);
        let _ = example.redo(&mut page, &example.change());
    }
}
