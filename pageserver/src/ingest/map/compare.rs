//! Against a cluster that was shut down: control file, SLRU pages, sizes of forks.
//!
//! Pure: the caller brings both sides. What PostgreSQL itself allows to differ is left out here and nowhere else.
//!
//! Source: PostgreSQL 14-18, `CreateCheckPoint` in `xlog.c`, `TrimMultiXact` in `multixact.c`.

use pgformat::checkpoint::CheckPoint;
use pgformat::control::ControlFile;
use pgformat::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page};
use pgformat::rel::RelFork;
use pgformat::slru::{SEGMENT_PAGES, Slru};

use super::control::ControlState;

/// A field that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Difference {
    /// Which field, or which page and the first byte in it.
    pub(crate) what: String,
    /// As ingest has it.
    pub(crate) ours: String,
    /// As the cluster has it.
    pub(crate) theirs: String,
}

/// The fields of two checkpoints that differ, but for what a checkpoint alone knows: its redo position and time.
pub(crate) fn counters(ours: &CheckPoint, theirs: &CheckPoint) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut field = |what: &str, ours: u64, theirs: u64| {
        if ours != theirs {
            found.push(Difference { what: what.into(), ours: ours.to_string(), theirs: theirs.to_string() });
        }
    };
    field("timeline", ours.tli.0.into(), theirs.tli.0.into());
    field("full_page_writes", ours.full_page_writes.into(), theirs.full_page_writes.into());
    field("wal_level", ours.wal_level as u64, theirs.wal_level as u64);
    field("next transaction", ours.next_xid, theirs.next_xid);
    field("next oid", ours.next_oid.into(), theirs.next_oid.into());
    field("next multixact", ours.next_multi.into(), theirs.next_multi.into());
    field("next multixact offset", ours.next_multi_offset.into(), theirs.next_multi_offset.into());
    field("oldest transaction", ours.oldest_xid.into(), theirs.oldest_xid.into());
    field("its database", ours.oldest_xid_db.into(), theirs.oldest_xid_db.into());
    field("oldest multixact", ours.oldest_multi.into(), theirs.oldest_multi.into());
    field("its database", ours.oldest_multi_db.into(), theirs.oldest_multi_db.into());
    field("oldest commit timestamp", ours.oldest_commit_ts_xid.into(), theirs.oldest_commit_ts_xid.into());
    field("newest commit timestamp", ours.newest_commit_ts_xid.into(), theirs.newest_commit_ts_xid.into());
    found
}

/// What differs between the state and the control file of the cluster, shut down at the state's position.
pub(crate) fn control(state: &ControlState, file: &ControlFile) -> Vec<Difference> {
    let mut found = counters(&state.live, &file.checkpoint_copy);
    let mut field = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            found.push(Difference { what: what.into(), ours, theirs });
        }
    };
    let ours = &state.file;
    field("last checkpoint", ours.checkpoint.to_string(), file.checkpoint.to_string());
    field("its body", format!("{:?}", ours.checkpoint_copy), format!("{:?}", file.checkpoint_copy));
    field("settings", format!("{:?}", ours.parameters), format!("{:?}", file.parameters));
    field("system identifier", ours.system_id.to_string(), file.system_id.to_string());
    field("version", ours.version.to_string(), file.version.to_string());
    field("checksums", ours.data_checksum_version.to_string(), file.data_checksum_version.to_string());
    found
}

/// What differs between a segment's pages and its file. `page` gives our page by its number; the file may be shorter
/// only by pages of zeros, because a server writes pages when it needs the memory.
///
/// # Errors
/// Whatever `page` says.
pub(crate) fn segment<E>(
    slru: Slru,
    segment: u32,
    ours: u32,
    file: &[u8],
    mut page: impl FnMut(u32) -> Result<Option<Box<Page>>, E>,
) -> Result<Vec<Difference>, E> {
    let mut found = Vec::new();
    let theirs = (file.len() / PAGE_SIZE) as u32;
    for index in 0..ours.max(theirs) {
        let number = segment * SEGMENT_PAGES + index;
        let at = index as usize * PAGE_SIZE;
        let zeros = [0; PAGE_SIZE];
        let theirs = file.get(at..at + PAGE_SIZE).unwrap_or(&zeros);
        let ours = page(number)?.unwrap_or_default();
        if let Some(byte) = (0..PAGE_SIZE).find(|b| ours.0[*b] != theirs[*b]) {
            found.push(Difference {
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
pub(crate) fn size<E>(
    fork: RelFork,
    ours: Option<u32>,
    theirs: Option<u32>,
    mut page: impl FnMut(u32) -> Result<Box<Page>, E>,
) -> Result<Option<Difference>, E> {
    let mut differ = ours != theirs;
    if let Some(theirs) = theirs.filter(|theirs| ours.unwrap_or(0) < *theirs) {
        differ = false;
        for blk in ours.unwrap_or(0)..theirs {
            differ |= page(blk)?.0[PAGE_HEADER_LEN..].iter().any(|b| *b != 0);
        }
    }
    let blocks = |n: Option<u32>| n.map_or_else(|| "no such fork".into(), |n| format!("{n} blocks"));
    Ok(differ.then(|| Difference { what: fork.to_string(), ours: blocks(ours), theirs: blocks(theirs) }))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use pgformat::rel::{Fork, RelFileLocator};
    use pgformat::slru::Slru;
    use pgformat::{Lsn, PgMajor, Tli};

    use super::super::tests::control_file;
    use super::*;

    fn named(found: &[Difference]) -> Vec<&str> {
        found.iter().map(|d| d.what.as_str()).collect()
    }

    #[test]
    fn each_field_of_the_control_file_counts() {
        let file = control_file(PgMajor::ALL[4], Lsn::new(0x0100_0028));
        let state = ControlState::of_file(file.clone(), true);
        assert_eq!(control(&state, &file), []);
        let plant = |change: &dyn Fn(&mut CheckPoint)| {
            let mut live = file.checkpoint_copy;
            change(&mut live);
            named(&counters(&live, &file.checkpoint_copy)).join(" ")
        };
        let planted: [(&dyn Fn(&mut CheckPoint), &str); 12] = [
            (&|c| c.next_xid += 1, "next transaction"),
            (&|c| c.next_xid += 1 << 32, "next transaction"),
            (&|c| c.next_oid += 1, "next oid"),
            (&|c| c.next_multi += 1, "next multixact"),
            (&|c| c.next_multi_offset += 1, "next multixact offset"),
            (&|c| c.oldest_xid += 1, "oldest transaction"),
            (&|c| c.oldest_multi_db += 1, "its database"),
            (&|c| c.oldest_commit_ts_xid += 1, "oldest commit timestamp"),
            (&|c| c.newest_commit_ts_xid += 1, "newest commit timestamp"),
            (&|c| c.tli = Tli(2), "timeline"),
            (&|c| c.full_page_writes = false, "full_page_writes"),
            (&|c| c.redo = Lsn::new(5), ""),
        ];
        for (change, what) in planted {
            assert_eq!(plant(change), what);
        }
        let mut other = file.clone();
        (other.checkpoint, other.parameters.max_connections) = (Lsn::new(8), 9);
        assert_eq!(named(&control(&state, &other)), ["last checkpoint", "settings"]);
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
}
