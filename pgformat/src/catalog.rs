//! Rows of two catalogs: the columns that tell which files a cluster has.
//!
//! Only columns at fixed offsets are read: they are never null, and no column of variable length precedes them.
//!
//! Source: PostgreSQL 14-18, `pg_class.h`, `pg_database.h`, `htup_details.h`.

use crate::PgMajor;
use crate::page::items::ItemState;
use crate::page::{Page, PageError};
use crate::slru::FIRST_NORMAL_XID;

/// `pg_class`, a mapped relation of each database.
pub const PG_CLASS: u32 = 1259;
/// `pg_database`, a mapped relation that all databases share.
pub const PG_DATABASE: u32 = 1262;
/// Where the state of the inserting transaction is known without asking: `HEAP_XMIN_FROZEN`.
const XMIN_FROZEN: u16 = 0x0300;
/// Offsets in a tuple's header, and its least length.
const INFOMASK: usize = 20;
const HOFF: usize = 22;
const HEADER_LEN: usize = 23;

/// Who inserted a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserter {
    /// Somebody long ago, who committed.
    Frozen,
    /// This transaction, whose end is in `pg_xact`.
    Xid(u32),
}

/// A row of `pg_class`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassRow {
    /// Who inserted it.
    pub by: Inserter,
    /// File number; 0: the relation map has it, or there is no file.
    pub filenode: u32,
    /// Tablespace; 0: the database's own.
    pub spc: u32,
}

/// A row of `pg_database`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatabaseRow {
    /// Who inserted it.
    pub by: Inserter,
    /// Oid of the database, which names its directory in each of its tablespaces.
    pub oid: u32,
    /// Its own tablespace.
    pub spc: u32,
}

/// All rows of `pg_class` on a page, deleted ones too.
///
/// # Errors
/// When the page contradicts itself, or a row is too short.
pub fn class_rows(page: &Page) -> Result<Vec<ClassRow>, PageError> {
    // oid, relname (64), then five oids.
    const FILENODE: usize = 88;
    let row = |by, filenode, spc| ClassRow { by, filenode, spc };
    rows(page, |by, at| Ok(row(by, page.u32_at(at + FILENODE)?, page.u32_at(at + FILENODE + 4)?)))
}

/// All rows of `pg_database` on a page, deleted ones too.
///
/// # Errors
/// As [`class_rows`].
pub fn database_rows(page: &Page, version: PgMajor) -> Result<Vec<DatabaseRow>, PageError> {
    // 14 has the locale in two names of 64 bytes, and the last system oid.
    let spc = if version.get() <= 14 { 224 } else { 92 };
    rows(page, |by, at| Ok(DatabaseRow { by, oid: page.u32_at(at)?, spc: page.u32_at(at + spc)? }))
}

/// What `read` makes of each tuple: of who inserted it, and of where its columns begin.
fn rows<T>(page: &Page, read: impl Fn(Inserter, usize) -> Result<T, PageError>) -> Result<Vec<T>, PageError> {
    let mut found = Vec::new();
    if page.is_new() {
        return Ok(found);
    }
    page.check_pointers()?;
    for off in 1..=page.max_offset() {
        let id = page.item_id(off)?;
        if id.state != ItemState::Normal {
            continue;
        }
        page.bytes(usize::from(id.off), HEADER_LEN)?;
        let at = usize::from(id.off);
        let (xmin, mask) = (page.u32_at(at)?, page.u16_at(at + INFOMASK)?);
        let frozen = xmin < FIRST_NORMAL_XID || mask & XMIN_FROZEN == XMIN_FROZEN;
        let by = if frozen { Inserter::Frozen } else { Inserter::Xid(xmin) };
        found.push(read(by, at + usize::from(page.0[at + HOFF]))?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(xmin: u32, mask: u16, columns: &[(usize, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; 32 + 240];
        bytes[..4].copy_from_slice(&xmin.to_le_bytes());
        bytes[INFOMASK..INFOMASK + 2].copy_from_slice(&mask.to_le_bytes());
        bytes[HOFF] = 32;
        for (at, value) in columns {
            bytes[32 + at..36 + at].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn rows_are_read_with_who_inserted_them() {
        let mut page = Page::default();
        assert_eq!(class_rows(&page), Ok(vec![]), "a page that was never used");
        page.init(0);
        page.add_item(&tuple(700, 0x0100, &[(0, 1), (88, 16384), (92, 0)])).expect("space");
        page.add_item(&tuple(701, XMIN_FROZEN, &[(88, 16385), (92, 1700)])).expect("space");
        page.add_item(&tuple(1, 0, &[(88, 0)])).expect("space");
        let class = |by, filenode, spc| ClassRow { by, filenode, spc };
        assert_eq!(
            class_rows(&page),
            Ok(vec![
                class(Inserter::Xid(700), 16384, 0),
                class(Inserter::Frozen, 16385, 1700),
                class(Inserter::Frozen, 0, 0)
            ])
        );
        let mut page = Page::default();
        page.init(0);
        page.add_item(&tuple(700, 0, &[(0, 5), (92, 1663), (224, 1700)])).expect("space");
        let spcs = PgMajor::ALL.map(|major| database_rows(&page, major).expect("a row")[0].spc);
        assert_eq!(spcs, [1700, 1663, 1663, 1663, 1663]);
    }

    #[test]
    fn a_page_that_contradicts_itself_is_refused() {
        let mut page = Page::default();
        page.init(0);
        page.add_item(&tuple(700, 0, &[])).expect("space");
        let at = usize::from(page.item_id(1).expect("an item").off);
        page.0[at + HOFF] = 255;
        let end = page.item_id(1).map(|id| usize::from(id.off) + 255 + 96).expect("an item");
        assert_eq!(class_rows(&page).is_err(), end > 8192, "columns end behind the page");
        page.set_upper(9000);
        assert!(class_rows(&page).is_err());
    }
}
