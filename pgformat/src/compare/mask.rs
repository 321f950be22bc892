//! PostgreSQL's mask functions: they blank what may differ between a page that redo made and the primary's page.
//!
//! [`mask`] is called for both pages. It keeps `pd_lsn`: the caller decides about that. It is stricter than PostgreSQL
//! in three points. Visibility map pages keep their bits, because their images are whole. Heap pages keep
//! PD_ALL_VISIBLE, because we apply every record once and in order. GiST pages of files keep their NSN.
//!
//! Source: PostgreSQL 15, `src/backend/access/common/bufmask.c` and the `*_mask` functions of `heapam.c`, `nbtxlog.c`,
//! `hash_xlog.c`, `ginxlog.c`, `gistxlog.c`, `spgxlog.c`, `brin_xlog.c`, `sequence.c`, `generic_xlog.c`.

use crate::page::items::{ItemId, ItemState};
use crate::page::{PAGE_HEADER_LEN, PAGE_SIZE, PD_HAS_FREE_LINES, PD_PAGE_FULL, Page, PageError, maxalign};
use crate::redo::rmid;
use crate::rel::{BlockTag, Fork};

/// What a page belongs to, as far as its mask depends on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A table, and what else has its layout: catalogs, TOAST, materialised views.
    Heap,
    /// A visibility map.
    Map,
    /// A B-tree index.
    Btree,
    /// A hash index.
    Hash,
    /// A GIN index.
    Gin,
    /// A GiST index.
    Gist,
    /// An SP-GiST index.
    SpGist,
    /// A BRIN index.
    Brin,
    /// A sequence: one page with one tuple.
    Sequence,
    /// Something that writes generic records.
    Generic,
}

impl Kind {
    /// The kind's name in reports, which count pages by it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Heap => "heap",
            Kind::Map => "visibility map",
            Kind::Btree => "btree",
            Kind::Hash => "hash",
            Kind::Gin => "gin",
            Kind::Gist => "gist",
            Kind::SpGist => "spgist",
            Kind::Brin => "brin",
            Kind::Sequence => "sequence",
            Kind::Generic => "generic",
        }
    }

    /// By the resource manager of a record that changes the page; `None` when it has no mask.
    pub fn of_record(rmid: u8, tag: BlockTag) -> Option<Kind> {
        match rmid {
            rmid::HEAP | rmid::HEAP2 if tag.fork.fork == Fork::Vm => Some(Kind::Map),
            rmid::HEAP | rmid::HEAP2 => Some(Kind::Heap),
            rmid::BTREE => Some(Kind::Btree),
            rmid::HASH => Some(Kind::Hash),
            rmid::GIN => Some(Kind::Gin),
            rmid::GIST => Some(Kind::Gist),
            rmid::SEQ => Some(Kind::Sequence),
            rmid::SPGIST => Some(Kind::SpGist),
            rmid::BRIN => Some(Kind::Brin),
            rmid::GENERIC => Some(Kind::Generic),
            _ => None,
        }
    }

    /// By the content of the page: each access method marks its special space. `None` for no known one.
    pub fn of_page(page: &Page, fork: Fork) -> Option<Kind> {
        if fork == Fork::Vm {
            return Some(Kind::Map);
        }
        let last = page.u16_at(PAGE_SIZE - 2).ok()?;
        match PAGE_SIZE.checked_sub(page.special())? {
            0 => Some(Kind::Heap),
            16 if last == 0xFF80 => Some(Kind::Hash),
            16 if last == 0xFF81 => Some(Kind::Gist),
            16 => Some(Kind::Btree),
            8 if last == 0xFF82 => Some(Kind::SpGist),
            8 if last == 0xFF83 => Some(Kind::Generic),
            8 if (0xF091..=0xF093).contains(&last) => Some(Kind::Brin),
            8 if page.u32_at(PAGE_SIZE - 8).ok()? == 0x1717 => Some(Kind::Sequence),
            8 => Some(Kind::Gin),
            _ => None,
        }
    }
}

/// What a page is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Against {
    /// The image of a record, taken before the page got the record's LSN: LSNs are not compared.
    Image,
    /// The primary's file after a clean shutdown.
    File,
}

/// What stands for a byte that does not count.
const MASKED: u8 = 0;

/// Overwrites everything in `page` that redo need not reproduce, but for `pd_lsn`.
///
/// # Errors
/// When the page's header contradicts itself.
pub fn mask(page: &mut Page, kind: Kind, tag: BlockTag, against: Against) -> Result<(), PageError> {
    page.set_checksum(0);
    match kind {
        Kind::Sequence | Kind::Generic => return unused(page),
        Kind::Map | Kind::Heap | Kind::Btree | Kind::Hash | Kind::Gin | Kind::Gist | Kind::SpGist | Kind::Brin => {}
    }
    page.change_flags(PD_HAS_FREE_LINES | PD_PAGE_FULL, 0);
    page.set_prune_xid(0);
    match kind {
        Kind::Heap => heap(page, tag.blk),
        Kind::Btree => btree(page),
        Kind::Hash => hash(page),
        Kind::Gin => gin(page),
        Kind::Gist => gist(page, against),
        Kind::Brin => brin(page),
        Kind::SpGist if page.lower() >= PAGE_HEADER_LEN => unused(page),
        Kind::SpGist | Kind::Map | Kind::Sequence | Kind::Generic => Ok(()),
    }
}

/// The space between line pointers and items (`mask_unused_space`).
fn unused(page: &mut Page) -> Result<(), PageError> {
    page.check_pointers()?;
    let (lower, upper) = (page.lower(), page.upper());
    page.0[lower..upper].fill(MASKED);
    Ok(())
}

/// Everything behind the header, and where the free space is (`mask_page_content`).
fn content(page: &mut Page) {
    page.0[PAGE_HEADER_LEN..].fill(MASKED);
    page.set_lower(0);
    page.set_upper(0);
}

/// Flags of line pointers, which mark dead items without a record (`mask_lp_flags`).
fn line_pointer_flags(page: &mut Page) -> Result<(), PageError> {
    for off in 1..=page.max_offset() {
        let id = page.item_id(off)?;
        if id.is_used() {
            page.set_item_id(off, ItemId { state: ItemState::Unused, ..id })?;
        }
    }
    Ok(())
}

/// As `heap_mask` does in `heapam.c` (18: `heapam_xlog.c`): hint bits, command ids, speculative tids, padding.
fn heap(page: &mut Page, blk: u32) -> Result<(), PageError> {
    const INFOMASK: usize = 20;
    const XMIN_FROZEN: u16 = 0x0300;
    const XACT_HINTS: u16 = 0xFFF0;
    const XMAX_HINTS: u16 = 0x0C00;
    const SPECULATIVE: u16 = 0xFFFE;
    unused(page)?;
    for off in 1..=page.max_offset() {
        let id = page.item_id(off)?;
        let at = usize::from(id.off);
        if id.state == ItemState::Normal {
            let info = page.u16_at(at + INFOMASK)?;
            let hints = if info & XMIN_FROZEN == XMIN_FROZEN { XMAX_HINTS } else { XACT_HINTS };
            page.put_u16(at + INFOMASK, info & !hints)?;
            // The command's number, which redo does not know.
            page.put_u32(at + 8, 0)?;
            if page.u16_at(at + 16)? == SPECULATIVE {
                page.put_u16(at + 12, (blk >> 16) as u16)?;
                page.put_u16(at + 14, (blk & 0xFFFF) as u16)?;
                page.put_u16(at + 16, off)?;
            }
        }
        if id.has_storage() {
            let len = usize::from(id.len);
            page.bytes_mut(at + len, maxalign(len) - len)?.fill(MASKED);
        }
    }
    Ok(())
}

/// As `btree_mask` does in `nbtxlog.c`: line pointers' flags on leaves, garbage and split-end flags, cycle id.
fn btree(page: &mut Page) -> Result<(), PageError> {
    const LEAF: u16 = 1;
    const SPLIT_END_OR_HAS_GARBAGE: u16 = 0x60;
    unused(page)?;
    let special = page.special();
    let flags = page.u16_at(special + 12)?;
    if flags & LEAF != 0 {
        line_pointer_flags(page)?;
    }
    page.put_u16(special + 12, flags & !SPLIT_END_OR_HAS_GARBAGE)?;
    page.put_u16(special + 14, 0)
}

/// As `hash_mask` does in `hash_xlog.c`: an unused page whole, line pointers' flags, the hint of dead tuples.
fn hash(page: &mut Page) -> Result<(), PageError> {
    const PAGE_TYPE: u16 = 0x0F;
    const BUCKET_OR_OVERFLOW: u16 = 0x03;
    const HAS_DEAD_TUPLES: u16 = 0x80;
    unused(page)?;
    let special = page.special();
    let flags = page.u16_at(special + 12)?;
    if flags & PAGE_TYPE == 0 {
        content(page);
        // There, the special space counts as content.
        return Ok(());
    }
    if flags & BUCKET_OR_OVERFLOW != 0 {
        line_pointer_flags(page)?;
    }
    page.put_u16(special + 12, flags & !HAS_DEAD_TUPLES)
}

/// As `gin_mask` does in `ginxlog.c`: a deleted page whole, of others the unused space.
fn gin(page: &mut Page) -> Result<(), PageError> {
    const DELETED: u16 = 0x04;
    if page.u16_at(page.special() + 6)? & DELETED != 0 {
        content(page);
        return Ok(());
    }
    if page.lower() > PAGE_HEADER_LEN { unused(page) } else { Ok(()) }
}

/// As `gist_mask` does in `gistxlog.c`: the page's NSN, follow-right and garbage flags, line pointers' flags on leaves.
fn gist(page: &mut Page, against: Against) -> Result<(), PageError> {
    const LEAF: u16 = 0x01;
    const FOLLOW_RIGHT: u16 = 0x08;
    const HAS_GARBAGE: u16 = 0x10;
    unused(page)?;
    let special = page.special();
    let flags = page.u16_at(special + 12)?;
    if flags & LEAF != 0 {
        line_pointer_flags(page)?;
    }
    // The primary finishes a split after logging it, so its file shows the finished split.
    if against == Against::File {
        return page.put_u16(special + 12, flags & !HAS_GARBAGE);
    }
    page.bytes_mut(special, 8)?.fill(MASKED);
    page.put_u16(special + 12, (flags | FOLLOW_RIGHT) & !HAS_GARBAGE)
}

/// As `brin_mask` does in `brin_xlog.c`: unused space, and the flag of a page that is being evacuated.
fn brin(page: &mut Page) -> Result<(), PageError> {
    const REGULAR: u16 = 0xF093;
    const META: u16 = 0xF091;
    const EVACUATE: u16 = 0x01;
    let kind = page.u16_at(PAGE_SIZE - 2)?;
    if kind == REGULAR || kind == META && page.lower() > PAGE_HEADER_LEN {
        unused(page)?;
    }
    let flags = page.u16_at(PAGE_SIZE - 4)?;
    page.put_u16(PAGE_SIZE - 4, flags & !EVACUATE)
}
