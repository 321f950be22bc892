//! The closed list of differences that PostgreSQL causes itself: its own replay would produce our page.
//!
//! Each entry removes one kind of difference from both pages, under a condition that it checks. Any difference that
//! remains is a mismatch.

use crate::Lsn;
use crate::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page};
use crate::rel::{BlockNumber, BlockTag, Fork};

use super::mask::{Against, Kind};

/// What the conditions depend on.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What the page is compared with.
    pub against: Against,
    /// The block that is compared: its fork and its number decide on some entries.
    pub tag: BlockTag,
    /// What it belongs to.
    pub kind: Kind,
    /// Whether its database was created with `STRATEGY wal_log`.
    pub logged_database: bool,
}

/// One entry of the list.
pub struct Allowed {
    /// What differs, as reports name it.
    pub name: &'static str,
    /// Why that is right.
    pub why: &'static str,
    /// Makes ours and the primary's page equal in this respect, both masked.
    settle: fn(&mut Page, &mut Page, &Case),
}

/// Every difference that is right, in the order in which [`judge`] settles them.
pub const ALLOWED: [Allowed; 8] = [
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
        name: INIT_FORK_LSN,
        why: "B-tree, SP-GiST and bloom write the page to the file before they log it",
        settle: init_fork_lsn,
    },
    Allowed {
        name: "page LSN of a sorted GiST build",
        why: "the build writes its pages with LSN 1 and logs them afterwards",
        settle: gist_build_lsn,
    },
    Allowed {
        name: SPGIST_UNUSED,
        why: "a page that is taken and not used is initialised without a record; nothing is on it, here and there",
        settle: spgist_unused,
    },
];

/// An init fork's page whose LSN in the file is 0.
pub const INIT_FORK_LSN: &str = "page LSN of an init fork";
/// Name of the entry for pages of which [`is_unused_spgist`] holds.
pub const SPGIST_UNUSED: &str = "SP-GiST page that was initialised and not used";

/// Whether a page of an init fork, of a kind that is not known, differs in no more than that its file has no LSN:
/// access methods of extensions do as B-tree does, and write the page before they log it.
pub fn is_init_before_log(ours: &Page, theirs: &Page, fork: Fork) -> bool {
    // The checksum lies between LSN and flags.
    fork == Fork::Init && theirs.lsn() == Lsn::new(0) && !theirs.is_new() && ours.0[10..] == theirs.0[10..]
}

/// Whether a page of a file is as SP-GiST initialises it (`SpGistInitPage`), without items and without an LSN: its
/// index has taken it and not used it, and no record says so.
pub fn is_unused_spgist(page: &Page, blk: BlockNumber) -> bool {
    /// Metapage, root, and the root of nulls are never taken.
    const LAST_FIXED_BLK: BlockNumber = 2;
    const LEAF_OR_NULLS: u16 = 0x04 | 0x08;
    const PAGE_ID: u16 = 0xFF82;
    let mut unused = Page::zeroed();
    unused.init(8);
    let special = unused.special();
    let Ok(flags) = page.u16_at(special) else { return false };
    let written = unused.put_u16(special, flags & LEAF_OR_NULLS).and(unused.put_u16(PAGE_SIZE - 2, PAGE_ID));
    blk > LAST_FIXED_BLK && written.is_ok() && page.0[..8] == unused.0[..8] && page.0[10..] == unused.0[10..]
}

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
        // A page without a special space is no GiST page: its difference stays.
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
    // Eight pairs of block number and free space, after the magic number.
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
        // When a later record changes a bit that we lack, nothing happens here, and no LSN is set.
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
    // Up to 15, Bloom has the mark of generic records.
    let kind = matches!(case.kind, Kind::Btree | Kind::SpGist | Kind::Generic);
    if kind && case.tag.fork.fork == Fork::Init && theirs.lsn() == Lsn::new(0) {
        take(ours, theirs, 0, 8);
    }
}

fn gist_build_lsn(ours: &mut Page, theirs: &mut Page, case: &Case) {
    if case.kind == Kind::Gist && case.against == Against::File && theirs.lsn() == Lsn::new(1) {
        take(ours, theirs, 0, 8);
    }
}

fn spgist_unused(ours: &mut Page, theirs: &mut Page, case: &Case) {
    const PAGE_ID: u16 = 0xFF82;
    let is_file = case.kind == Kind::SpGist && case.against == Against::File && case.tag.fork.fork == Fork::Main;
    let special = PAGE_SIZE - 8;
    let is_spgist = ours.special() == special && ours.u16_at(PAGE_SIZE - 2) == Ok(PAGE_ID);
    // The page's own counts say that it has no redirections and no placeholders.
    let is_empty = ours.is_empty() && ours.u32_at(special + 2) == Ok(0);
    let holds_nothing = ours.is_zero() || is_spgist && is_empty;
    if is_file && holds_nothing && is_unused_spgist(theirs, case.tag.blk) {
        take(ours, theirs, 0, PAGE_SIZE);
    }
}

#[cfg(test)]
mod tests {
    use crate::rel::{RelFileLocator, RelFork};

    use super::*;
    use crate::compare::mask::mask;

    fn case(kind: Kind, fork: Fork, against: Against) -> Case {
        let rel = RelFileLocator { spc: 1663, db: 5, rel: 16384 };
        Case { against, tag: BlockTag { fork: RelFork { rel, fork }, blk: 0 }, kind, logged_database: false }
    }

    fn page(special: usize) -> Page {
        let mut page = Page::default();
        page.init(special);
        page.set_lsn(Lsn::new(0x1000));
        page
    }

    /// Judges `theirs`, which differs from `ours` by `change`; then the same with one more byte changed, which no entry
    /// may excuse.
    fn excused(ours: &Page, case: &Case, change: impl Fn(&mut Page), also: usize) -> Option<&'static str> {
        let mut theirs = ours.clone();
        change(&mut theirs);
        let verdict = judge(&mut ours.clone(), &mut theirs.clone(), case);
        if !verdict.left.is_empty() {
            return None;
        }
        let mut worse = theirs.clone();
        worse.0[also] ^= 0x20;
        let verdict_of_worse = judge(&mut ours.clone(), &mut worse, case);
        assert!(!verdict_of_worse.left.is_empty(), "byte {also} may differ too");
        assert_eq!(verdict.used.len(), 1);
        Some(ALLOWED[verdict.used[0]].name)
    }

    #[test]
    fn every_entry_excuses_its_difference_and_no_other() {
        let file = Against::File;
        let gist = case(Kind::Gist, Fork::Main, file);
        let bit = excused(&page(16), &gist, |p| p.put_u16(8176 + 12, 4).expect("inside"), 8176 + 12);
        assert_eq!(bit, Some(ALLOWED[0].name));

        let mut sequence = page(8);
        let mut tuple = [0; 24 + 17];
        tuple[22] = 24;
        sequence.add_item(&tuple).expect("it fits");
        let at = usize::from(sequence.item_id(1).expect("an item").off);
        let value = |p: &mut Page| p.0[at + 24..at + 24 + 17].fill(7);
        let files_only = excused(&sequence, &case(Kind::Sequence, Fork::Main, file), value, at + 3);
        assert_eq!(files_only, Some(ALLOWED[1].name));
        let image = case(Kind::Sequence, Fork::Main, Against::Image);
        assert_eq!(excused(&sequence, &image, value, at), None, "an image has the values that were logged");

        let last_used = |p: &mut Page| p.0[28..28 + 64].fill(9);
        let meta = case(Kind::SpGist, Fork::Main, file);
        assert_eq!(excused(&page(8), &meta, last_used, 24), Some(ALLOWED[2].name));
        let other_block = Case { tag: BlockTag { blk: 1, ..meta.tag }, ..meta };
        assert_eq!(excused(&page(8), &other_block, last_used, 24), None);

        let map = case(Kind::Map, Fork::Vm, file);
        let logged = Case { logged_database: true, ..map };
        let mut ours = page(0);
        ours.0[100] = 0b0100;
        let more = |p: &mut Page| {
            p.0[100] = 0b1101;
            p.set_lsn(Lsn::new(0x2000));
        };
        assert_eq!(excused(&ours, &logged, more, 10), Some(ALLOWED[3].name));
        assert_eq!(excused(&ours, &map, more, 10), None, "not in other databases");
        assert_eq!(excused(&ours, &logged, |p| p.0[100] = 0b0001, 10), None, "we never have a bit that is not there");

        let extended = |p: &mut Page| {
            p.init(0);
        };
        assert_eq!(excused(&Page::default(), &map, extended, 200), Some(ALLOWED[4].name));

        let no_lsn = |p: &mut Page| p.set_lsn(Lsn::new(0));
        assert_eq!(excused(&page(16), &case(Kind::Btree, Fork::Init, file), no_lsn, 24), Some(ALLOWED[5].name));
        assert_eq!(excused(&page(8), &case(Kind::Generic, Fork::Init, file), no_lsn, 8184), Some(ALLOWED[5].name));
        for kind in [Kind::Btree, Kind::Generic] {
            assert_eq!(excused(&page(16), &case(kind, Fork::Main, file), no_lsn, 24), None);
        }
        assert_eq!(excused(&page(16), &case(Kind::Heap, Fork::Init, file), no_lsn, 24), None);

        let build = |p: &mut Page| p.set_lsn(Lsn::new(1));
        assert_eq!(excused(&page(16), &gist, build, 24), Some(ALLOWED[6].name));
        assert_eq!(excused(&page(16), &gist, |p| p.set_lsn(Lsn::new(2)), 24), None);
    }

    /// Goal: a page that SP-GiST took without a record is excused where nothing is on ours, and nowhere else.
    #[test]
    fn an_unused_spgist_page_is_excused_only_where_nothing_is_lost() {
        let fresh = |flags: u16| {
            let mut page = Page::default();
            page.init(8);
            page.put_u16(8184, flags).and(page.put_u16(8190, 0xFF82)).expect("inside");
            page
        };
        let at = |blk, fork, against| {
            let case = case(Kind::SpGist, fork, against);
            Case { tag: BlockTag { blk, ..case.tag }, ..case }
        };
        let main = at(7, Fork::Main, Against::File);
        let same = |ours: &Page, theirs: &Page, case: &Case| {
            let verdict = judge(&mut ours.clone(), &mut theirs.clone(), case);
            verdict.left.is_empty() && verdict.used == [7]
        };
        let mut empty = fresh(4);
        empty.set_lsn(Lsn::new(0x1000));
        let mut counted = empty.clone();
        counted.put_u16(8188, 1).expect("inside");
        let mut used = empty.clone();
        used.add_item(b"a tuple").expect("space");
        for theirs in [fresh(0), fresh(4), fresh(8), fresh(12)] {
            assert!([&empty, &Page::default()].iter().all(|ours| same(ours, &theirs, &main)));
            assert!(!same(&used, &theirs, &main), "something is on ours");
            assert!(!same(&counted, &theirs, &main), "ours says that something is on it");
            assert!(!same(&page(8), &theirs, &main), "ours is of another kind");
            assert!(!same(&empty, &theirs, &at(2, Fork::Main, Against::File)), "the root of nulls");
            assert!(!same(&empty, &theirs, &at(7, Fork::Init, Against::File)));
            assert!(!same(&empty, &theirs, &at(7, Fork::Main, Against::Image)));
            for byte in [4, 12, 16, 100, 8186, 8188] {
                let mut other = theirs.clone();
                other.0[byte] ^= 1;
                assert!(!same(&empty, &other, &main), "byte {byte} of the file");
            }
        }
        let mut logged = fresh(4);
        logged.set_lsn(Lsn::new(0x2000));
        assert!(!same(&Page::default(), &logged, &main), "a record has made it");
        assert!(!same(&empty, &fresh(2), &main), "a deleted page is not a new one");
    }

    /// Goal: of an init fork of any kind the LSN may be missing in the file, and no more.
    #[test]
    fn a_page_of_an_init_fork_may_lack_its_lsn() {
        let ours = page(8);
        let mut theirs = ours.clone();
        theirs.set_lsn(Lsn::new(0));
        theirs.set_checksum(77);
        assert!(is_init_before_log(&ours, &theirs, Fork::Init));
        assert!(!is_init_before_log(&ours, &theirs, Fork::Main));
        for byte in [10, 12, 100, 8191] {
            let mut other = theirs.clone();
            other.0[byte] ^= 1;
            assert!(!is_init_before_log(&ours, &other, Fork::Init), "byte {byte}");
        }
        theirs.set_lsn(Lsn::new(1));
        assert!(!is_init_before_log(&ours, &theirs, Fork::Init), "another LSN");
    }

    #[test]
    fn a_page_lsn_counts_against_files_only() {
        let (ours, mut theirs) = (page(0), page(0));
        theirs.set_lsn(Lsn::new(0x2000));
        let verdict = |against| judge(&mut ours.clone(), &mut theirs.clone(), &case(Kind::Heap, Fork::Main, against));
        assert!(verdict(Against::Image).left.is_empty());
        assert_eq!(verdict(Against::File).left, [5]);
    }

    #[test]
    fn masks_leave_out_hints_and_nothing_else() {
        let case = case(Kind::Heap, Fork::Main, Against::Image);
        let mut ours = page(0);
        // A tuple with a length that needs padding: xmin, xmax, command, ctid, then infomasks and the data.
        let mut tuple = [0; 29];
        tuple[22] = 24;
        ours.add_item(&tuple).expect("it fits");
        let at = usize::from(ours.item_id(1).expect("an item").off);
        let masked = |change: &dyn Fn(&mut Page)| {
            let mut changed = ours.clone();
            change(&mut changed);
            let mut original = ours.clone();
            mask(&mut changed, Kind::Heap, case.tag, case.against).expect("a sound page");
            mask(&mut original, Kind::Heap, case.tag, case.against).expect("a sound page");
            changed == original
        };
        type Hint<'a> = (&'a str, &'a dyn Fn(&mut Page));
        let hints: [Hint<'_>; 5] = [
            ("hint bits of the tuple", &|p| p.0[at + 21] |= 0x05),
            ("the command", &|p| p.0[at + 8] = 7),
            ("padding", &|p| p.0[at + 30] = 7),
            ("the hole", &|p| p.0[1000] = 7),
            ("hints in the header", &|p| p.change_flags(0, PD_HINTS)),
        ];
        for (what, change) in hints {
            assert!(masked(change), "{what} is masked");
        }
        for (what, byte) in
            [("xmin", at), ("xmax", at + 4), ("ctid", at + 12), ("data", at + 28), ("a line pointer", 26)]
        {
            assert!(!masked(&|p| p.0[byte] ^= 1), "{what} counts");
        }
    }

    const PD_HINTS: u16 = 3;
}
