//! The closed list of differences that are PostgreSQL's own doing: its replay would give the same page as ours.
//!
//! Each entry makes one kind of difference disappear from both pages, under a condition that it checks. What is left
//! after all of them is a mismatch. Nothing else may differ.

use pgformat::Lsn;
use pgformat::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page};
use pgformat::rel::{BlockTag, Fork};

use crate::mask::Kind;

/// What a page is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    /// The image of a record, taken before the page got the record's LSN: LSNs are not compared.
    Image,
    /// The primary's file after a clean shutdown.
    File,
}

/// What the conditions depend on.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What the page is compared with.
    pub against: Against,
    /// Which page.
    pub tag: BlockTag,
    /// What it belongs to.
    pub kind: Kind,
    /// Whether its database was created with `STRATEGY wal_log`.
    pub logged_database: bool,
}

/// One entry of the list.
pub struct Allowed {
    /// What differs.
    pub name: &'static str,
    /// Why that is right.
    pub why: &'static str,
    /// Makes ours and the primary's page equal in this respect, both masked.
    settle: fn(&mut Page, &mut Page, &Case),
}

/// The list.
pub const ALLOWED: [Allowed; 7] = [
    Allowed {
        name: "GiST flag F_TUPLES_DELETED",
        why: "minors differ in when redo sets it; nothing reads it",
        settle: gist_tuples_deleted,
    },
    Allowed {
        name: "sequence: last_value, log_cnt, is_called",
        why: "the log runs ahead of the primary by up to 32 values",
        settle: sequence_values,
    },
    Allowed {
        name: "SP-GiST metadata page: last used pages",
        why: "a cache that is written without a record",
        settle: spgist_last_used,
    },
    Allowed {
        name: "visibility map of a wal_log database",
        why: "its pages are logged with a hole where their bits are; we have a subset of the bits, never more",
        settle: map_subset,
    },
    Allowed {
        name: "visibility map page that was never logged",
        why: "until 15 a map is extended with pages that have a header and nothing else; ours reads as zeros",
        settle: map_extended,
    },
    Allowed {
        name: "page LSN of an init fork",
        why: "B-tree and SP-GiST write the page to the file before they log it",
        settle: init_fork_lsn,
    },
    Allowed {
        name: "page LSN of a sorted GiST build",
        why: "the build writes its pages with LSN 1 and logs them afterwards",
        settle: gist_build_lsn,
    },
];

/// What is left of a comparison.
pub struct Verdict {
    /// Entries of [`ALLOWED`] that made a difference disappear.
    pub used: Vec<usize>,
    /// Positions of bytes that still differ.
    pub left: Vec<usize>,
}

/// Compares two masked pages.
pub fn judge(ours: &mut Page, theirs: &mut Page, case: &Case) -> Verdict {
    if case.against == Against::Image {
        ours.set_lsn(Lsn::new(0));
        theirs.set_lsn(Lsn::new(0));
    }
    let mut verdict = Verdict { used: Vec::new(), left: Vec::new() };
    if ours.0 == theirs.0 {
        return verdict;
    }
    let mut differing = differences(ours, theirs).count();
    for (n, allowed) in ALLOWED.iter().enumerate() {
        (allowed.settle)(ours, theirs, case);
        let now = differences(ours, theirs).count();
        if now < differing {
            verdict.used.push(n);
        }
        differing = now;
    }
    verdict.left = differences(ours, theirs).collect();
    verdict
}

fn differences<'a>(ours: &'a Page, theirs: &'a Page) -> impl Iterator<Item = usize> + 'a {
    ours.0.iter().zip(&theirs.0).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at)
}

/// Copies `at..end` of theirs over ours.
fn take(ours: &mut Page, theirs: &Page, at: usize, end: usize) {
    if let (Some(to), Some(from)) = (ours.0.get_mut(at..end), theirs.0.get(at..end)) {
        to.copy_from_slice(from);
    }
}

fn gist_tuples_deleted(ours: &mut Page, theirs: &mut Page, case: &Case) {
    const TUPLES_DELETED: u16 = 0x04;
    if case.kind != Kind::Gist {
        return;
    }
    for page in [ours, theirs] {
        // A page without a special space is no GiST page, and keeps its difference.
        let at = page.special() + 12;
        if let Ok(flags) = page.u16_at(at) {
            let _ = page.put_u16(at, flags & !TUPLES_DELETED);
        }
    }
}

fn sequence_values(ours: &mut Page, theirs: &mut Page, case: &Case) {
    // last_value, log_cnt, is_called.
    const LEN: usize = 8 + 8 + 1;
    if case.kind != Kind::Sequence || case.against != Against::File {
        return;
    }
    let Ok(id) = theirs.item_id(1) else { return };
    let Ok(hoff) = theirs.item(1).map(|tuple| usize::from(tuple.get(22).copied().unwrap_or_default())) else { return };
    let at = usize::from(id.off) + hoff;
    if ours.item_id(1) == Ok(id) && hoff + LEN == usize::from(id.len) {
        take(ours, theirs, at, at + LEN);
    }
}

fn spgist_last_used(ours: &mut Page, theirs: &mut Page, case: &Case) {
    // Eight pairs of block number and free space, behind the magic number.
    const AT: usize = PAGE_HEADER_LEN + 4;
    if case.kind == Kind::SpGist && case.tag.blk == 0 && case.against == Against::File {
        take(ours, theirs, AT, AT + 8 * 8);
    }
}

fn map_subset(ours: &mut Page, theirs: &mut Page, case: &Case) {
    if case.kind != Kind::Map || !case.logged_database {
        return;
    }
    let subset = ours.0.iter().zip(&theirs.0).skip(PAGE_HEADER_LEN).all(|(a, b)| a & !b == 0);
    if subset {
        take(ours, theirs, PAGE_HEADER_LEN, PAGE_SIZE);
        // A later change of a bit that we lack does not happen here, and sets no LSN.
        if ours.lsn() <= theirs.lsn() {
            take(ours, theirs, 0, 8);
        }
    }
}

fn map_extended(ours: &mut Page, theirs: &mut Page, case: &Case) {
    let empty = theirs.lsn() == Lsn::new(0) && theirs.0[PAGE_HEADER_LEN..].iter().all(|b| *b == 0);
    if case.kind == Kind::Map && case.against == Against::File && empty && ours.is_zero() {
        take(ours, theirs, 0, PAGE_HEADER_LEN);
    }
}

fn init_fork_lsn(ours: &mut Page, theirs: &mut Page, case: &Case) {
    let kind = matches!(case.kind, Kind::Btree | Kind::SpGist);
    if kind && case.tag.fork.fork == Fork::Init && theirs.lsn() == Lsn::new(0) {
        take(ours, theirs, 0, 8);
    }
}

fn gist_build_lsn(ours: &mut Page, theirs: &mut Page, case: &Case) {
    if case.kind == Kind::Gist && case.against == Against::File && theirs.lsn() == Lsn::new(1) {
        take(ours, theirs, 0, 8);
    }
}
