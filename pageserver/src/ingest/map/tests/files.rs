//! Files of a cluster that was shut down against what the store has: SLRU segments, sizes of forks.
//!
//! Source: PostgreSQL 15, `RelationAddExtraBlocks` in `hio.c`, `vm_extend` in `visibilitymap.c`.

use std::convert::Infallible;

use pgformat::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page};
use pgformat::rel::{Fork, RelFileLocator, RelFork};
use pgformat::slru::{SEGMENT_PAGES, Slru};

use crate::cluster::compare::StateDifference;

/// What differs between a segment's pages and its file. `page` gives our page by its number; the file may be shorter
/// only by pages of zeros, because a server writes pages when it needs the memory.
///
/// # Errors
/// Whatever `page` says.
pub(super) fn segment<E>(
    slru: Slru,
    segment: u32,
    ours: u32,
    file: &[u8],
    mut page: impl FnMut(u32) -> Result<Option<Box<Page>>, E>,
) -> Result<Vec<StateDifference>, E> {
    let mut found = Vec::new();
    let theirs = (file.len() / PAGE_SIZE) as u32;
    for index in 0..ours.max(theirs) {
        let number = segment * SEGMENT_PAGES + index;
        let at = index as usize * PAGE_SIZE;
        let zeros = [0; PAGE_SIZE];
        let theirs = file.get(at..at + PAGE_SIZE).unwrap_or(&zeros);
        let ours = page(number)?.unwrap_or_default();
        if let Some(byte) = (0..PAGE_SIZE).find(|b| ours.0[*b] != theirs[*b]) {
            found.push(StateDifference {
                what: format!("{}, page {number}, byte {byte}", slru.path(segment)),
                ours: format!("{:02X}", ours.0[byte]),
                theirs: format!("{:02X}", theirs[byte]),
            });
        }
    }
    Ok(found)
}

/// What differs between the sizes of a fork, `None` where it does not exist. A server makes forks longer without
/// logging it, before it has something to log for the new blocks: they may hold nothing (`RelationAddExtraBlocks`,
/// `vm_extend`). `page` gives the cluster's page by its number.
///
/// # Errors
/// Whatever `page` says.
pub(super) fn size<E>(
    fork: RelFork,
    ours: Option<u32>,
    theirs: Option<u32>,
    mut page: impl FnMut(u32) -> Result<Box<Page>, E>,
) -> Result<Option<StateDifference>, E> {
    let mut differ = ours != theirs;
    if let Some(theirs) = theirs.filter(|theirs| ours.unwrap_or(0) < *theirs) {
        differ = false;
        for blk in ours.unwrap_or(0)..theirs {
            differ |= page(blk)?.0[PAGE_HEADER_LEN..].iter().any(|b| *b != 0);
        }
    }
    let blocks = |n: Option<u32>| n.map_or_else(|| "no such fork".into(), |n| format!("{n} blocks"));
    Ok(differ.then(|| StateDifference { what: fork.to_string(), ours: blocks(ours), theirs: blocks(theirs) }))
}

fn named(found: &[StateDifference]) -> Vec<&str> {
    found.iter().map(|d| d.what.as_str()).collect()
}

#[test]
fn each_byte_of_a_segment_counts() {
    let mut file = vec![0; 2 * PAGE_SIZE];
    file[PAGE_SIZE + 7] = 1;
    let run = |ours: u32, file: &[u8], byte: u8| {
        let page = |n: u32| {
            let mut page = Page::zeroed();
            page.0[7] = if n == 33 { byte } else { 0 };
            Ok::<_, Infallible>(Some(page))
        };
        let Ok(found) = segment(Slru::Xact, 1, ours, file, page);
        named(&found).join(" ")
    };
    assert_eq!(run(2, &file, 1), "");
    assert_eq!(run(2, &file, 3), "pg_xact/0001, page 33, byte 7");
    assert_eq!(run(2, &file[..PAGE_SIZE], 1), "pg_xact/0001, page 33, byte 7", "a page that the file has not");
    assert_eq!(run(2, &file[..PAGE_SIZE], 0), "");
    assert_eq!(run(0, &file, 0), "pg_xact/0001, page 33, byte 7", "a page that we have not");
}

#[test]
fn a_fork_is_longer_only_by_blocks_that_hold_nothing() {
    let fork = RelFork { rel: RelFileLocator { spc: 1663, db: 5, rel: 9 }, fork: Fork::Vm };
    let differs = |ours, theirs, byte: Option<usize>| {
        let page = |_| {
            let mut page = Page::zeroed();
            page.init(0);
            byte.iter().for_each(|b| page.0[*b] = 1);
            Ok::<_, Infallible>(page)
        };
        let Ok(found) = size(fork, ours, theirs, page);
        found.is_some()
    };
    assert!(!differs(Some(2), Some(2), Some(24)) && !differs(None, None, None));
    assert!(!differs(Some(2), Some(3), None) && !differs(None, Some(1), None));
    assert!(differs(Some(2), Some(3), Some(24)) && differs(None, Some(1), Some(8191)));
    assert!(differs(Some(3), Some(2), None) && differs(Some(0), None, None));
}
