//! A timeline at one LSN.

mod files;

use std::ops::Range;

use bytes::Bytes;
use pgformat::page::{PAGE_SIZE, Page};
use pgformat::read::Take;
use pgformat::rel::{BlockNumber, BlockTag, Fork, PG_DEFAULT, PG_GLOBAL, RelFileLocator, RelFork};
use pgformat::slru::{SEGMENT_PAGES, Slru};
use pgformat::{Lsn, Tli};

use super::{FoundBlob, Io, Problem, Versions};
use crate::cluster::database::{LOGGED, ONLY_RELATIONS};
use crate::cluster::extent::Extent;
use crate::cluster::key::{Key, KeyKind};

/// A timeline at one LSN.
#[derive(Clone, Copy)]
pub(crate) struct ReadView<'a> {
    /// Where versions come from.
    pub(crate) versions: &'a dyn Versions,
    /// The LSN that is read.
    pub(crate) lsn: Lsn,
    /// The last LSN that is readable, for hints.
    pub(crate) latest: Lsn,
    /// Whether files may be touched.
    pub(crate) io: Io,
}

impl ReadView<'_> {
    /// Blocks of a fork.
    ///
    /// # Errors
    /// [`Problem::NoRelation`], [`Problem::Dropped`], and what the store says.
    pub(crate) fn rel_size(&self, fork: RelFork) -> Result<BlockNumber, Problem> {
        Ok(self.extent(fork)?.blocks)
    }

    fn extent(&self, fork: RelFork) -> Result<Extent, Problem> {
        let key = Key::rel_size(fork);
        match self.blob(key, self.lsn)? {
            FoundBlob::Value(_, bytes) => self.decode(key, &bytes),
            FoundBlob::Gone(dropped) => Err(Problem::Dropped { fork, lsn: self.lsn, dropped }),
            FoundBlob::Absent => {
                let created = match self.blob(key, self.latest)? {
                    FoundBlob::Value(lsn, _) => Some(lsn),
                    _ => None,
                };
                Err(Problem::NoRelation { fork, lsn: self.lsn, created })
            }
        }
    }

    /// Whether a fork exists.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn exists(&self, fork: RelFork) -> Result<bool, Problem> {
        Ok(matches!(self.blob(Key::rel_size(fork), self.lsn)?, FoundBlob::Value(..)))
    }

    /// A page, its checksum zero.
    ///
    /// # Errors
    /// As [`ReadView::rel_size`], [`Problem::BeyondEnd`], and what the store says.
    pub(crate) fn page(&self, tag: BlockTag) -> Result<Box<Page>, Problem> {
        let extent = self.extent(tag.fork)?;
        if tag.blk >= extent.blocks {
            return Err(Problem::BeyondEnd { tag, lsn: self.lsn, blocks: extent.blocks });
        }
        let mut page = self.stored(Key::block(tag), extent.since(tag.blk), &tag)?;
        page.set_checksum(0);
        Ok(page)
    }

    /// Pages of a fork from block `first` on, one behind the other, `count` of them; with checksums for a reader that
    /// has them.
    ///
    /// # Errors
    /// As [`ReadView::page`].
    pub(crate) fn pages(
        &self,
        fork: RelFork,
        (first, count): (BlockNumber, BlockNumber),
        checksums: bool,
    ) -> Result<Vec<u8>, Problem> {
        let extent = self.extent(fork)?;
        let end = first.saturating_add(count);
        if end > extent.blocks {
            let tag = BlockTag { fork, blk: end.saturating_sub(1) };
            return Err(Problem::BeyondEnd { tag, lsn: self.lsn, blocks: extent.blocks });
        }
        let mut out = Vec::with_capacity(count as usize * PAGE_SIZE);
        for blk in first..end {
            let tag = BlockTag { fork, blk };
            let mut page = self.stored(Key::block(tag), extent.since(blk), &tag)?;
            page.stamp_checksum(blk, checksums);
            out.extend_from_slice(&page.0);
        }
        Ok(out)
    }

    /// Directories of databases, and whether each is the database's own one, with a version file: (tablespace,
    /// database, own).
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn database_dirs(&self) -> Result<Vec<(u32, u32, bool)>, Problem> {
        let dirs = self.scan(Key::all_of(KeyKind::Database))?.into_iter();
        Ok(dirs.map(|(key, how)| (key.spc, key.db, how[..] != [ONLY_RELATIONS])).collect())
    }

    /// Tablespaces beside the two of every cluster, each with its directory on the server that made it.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn tablespace_dirs(&self) -> Result<Vec<(u32, String)>, Problem> {
        let found = self.scan(Key::all_of(KeyKind::Tablespace))?.into_iter();
        Ok(found.map(|(key, path)| (key.spc, String::from_utf8_lossy(&path).into_owned())).collect())
    }

    /// Tlis that began in the log, ascending: (tli, its beginning, the one before).
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn tli_switches(&self) -> Result<Vec<(Tli, Lsn, Tli)>, Problem> {
        let one = |(key, value): (Key, Bytes)| {
            let mut take = Take::new(&value);
            let read = take.u64().and_then(|since| Ok((Tli(key.blk), Lsn::new(since), Tli(take.u32()?))));
            read.map_err(|_| self.malformed(key, format!("a switch of {} bytes", value.len())))
        };
        self.scan(Key::all_of(KeyKind::TliHistory))?.into_iter().map(one).collect()
    }

    /// Every fork below a database's directories, or of the whole cluster, with its blocks.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn relations(&self, db: Option<u32>) -> Result<Vec<(RelFork, BlockNumber)>, Problem> {
        let ranges = match db {
            None => vec![Key::all_of(KeyKind::RelSize)],
            Some(db) => self.tablespaces()?.into_iter().map(|spc| database_sizes(spc, db)).collect(),
        };
        let mut found = Vec::new();
        for (key, size) in ranges.into_iter().map(|r| self.scan(r)).collect::<Result<Vec<_>, _>>()?.concat() {
            let Some(fork) = Fork::new(key.fork) else { continue };
            let rel = RelFileLocator { spc: key.spc, db: key.db, rel: key.rel };
            found.push((RelFork { rel, fork }, self.decode(key, &size)?.blocks));
        }
        Ok(found)
    }

    /// Databases that were made page by page through the log.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn logged_databases(&self) -> Result<Vec<u32>, Problem> {
        let dirs = self.scan(Key::all_of(KeyKind::Database))?.into_iter();
        Ok(dirs.filter(|(_, how)| how[..] == [LOGGED]).map(|(key, _)| key.db).collect())
    }

    /// Bytes of all relations of a database, as far as WAL describes them: without free space maps, which PostgreSQL
    /// counts as well.
    ///
    /// # Errors
    /// [`Problem::NoDatabase`], and what the store says.
    pub(crate) fn db_size(&self, db: u32) -> Result<u64, Problem> {
        let relations = self.relations(Some(db))?;
        if relations.is_empty() {
            return Err(Problem::NoDatabase { db, lsn: self.lsn });
        }
        Ok(relations.iter().map(|(_, blocks)| u64::from(*blocks) * PAGE_SIZE as u64).sum())
    }

    /// All pages of an SLRU segment, one behind the other.
    ///
    /// # Errors
    /// [`Problem::NoSegment`], and what the store says.
    pub(crate) fn slru_segment(&self, slru: Slru, segno: u32) -> Result<Vec<u8>, Problem> {
        let key = Key::numbered(KeyKind::SlruSegment, u32::from(slru as u8), segno);
        let FoundBlob::Value(_, bytes) = self.blob(key, self.lsn)? else {
            return Err(Problem::NoSegment { slru, segno, lsn: self.lsn });
        };
        let extent = self.decode(key, &bytes)?;
        let pages = extent.blocks;
        let first = segno.checked_mul(SEGMENT_PAGES).filter(|_| pages <= SEGMENT_PAGES);
        let Some(first) = first else {
            return Err(self.malformed(key, format!("a segment of {pages} pages")));
        };
        let mut segment = Vec::with_capacity(pages as usize * PAGE_SIZE);
        // The last page of the last segment has the highest number there is: no end of a range lies behind it.
        for index in 0..pages {
            let key = Key::numbered(KeyKind::SlruPage, u32::from(slru as u8), first + index);
            let page = self.stored(key, extent.since(index), &Shown(slru, first + index))?;
            segment.extend_from_slice(&page.0);
        }
        Ok(segment)
    }

    /// Segments of an SLRU with their pages.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn slru_segments(&self, slru: Slru) -> Result<Vec<(u32, u32)>, Problem> {
        let kind = u32::from(slru as u8);
        let range = Key::numbered(KeyKind::SlruSegment, kind, 0)..Key::numbered(KeyKind::SlruSegment, kind + 1, 0);
        self.scan(range)?.into_iter().map(|(key, pages)| Ok((key.blk, self.decode(key, &pages)?.blocks))).collect()
    }

    /// Tablespaces that a database may have relations in.
    fn tablespaces(&self) -> Result<Vec<u32>, Problem> {
        let mut all = vec![PG_DEFAULT, PG_GLOBAL];
        all.extend(self.scan(Key::all_of(KeyKind::Tablespace))?.into_iter().map(|(key, _)| key.spc));
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Within the size of its fork or segment every page has a version, or `since` says that it needs none: one without
    /// is damage, not a page of zeros.
    fn stored(&self, key: Key, since: Option<Lsn>, what: &dyn std::fmt::Display) -> Result<Box<Page>, Problem> {
        let page = self.versions.page(key, self.lsn, since, self.io);
        let page = page.map_err(|f| Problem::of_fault(f, what, self.lsn))?;
        page.or_else(|| since.map(|_| Page::zeroed())).ok_or_else(|| Problem::Damaged {
            what: what.to_string(),
            lsn: self.lsn,
            cause: "no version of it is stored, although it lies within the size".to_owned(),
        })
    }

    fn blob(&self, key: Key, lsn: Lsn) -> Result<FoundBlob, Problem> {
        self.versions.blob(key, lsn, self.io).map_err(|f| Problem::of_fault(f, key, lsn))
    }

    fn scan(&self, keys: Range<Key>) -> Result<Vec<(Key, Bytes)>, Problem> {
        if self.io == Io::Memory {
            return Err(Problem::NotInMemory);
        }
        let what = keys.start;
        self.versions.scan(keys, self.lsn).map_err(|f| Problem::of_fault(f, what, self.lsn))
    }

    fn decode(&self, key: Key, bytes: &[u8]) -> Result<Extent, Problem> {
        let malformed = |_| self.malformed(key, format!("{} bytes that are no size", bytes.len()));
        Extent::decode(bytes).map_err(malformed)
    }

    fn malformed(&self, key: Key, cause: String) -> Problem {
        Problem::Damaged { what: key.to_string(), lsn: self.lsn, cause }
    }
}

struct Shown(Slru, u32);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page {} of {}", self.1, self.0)
    }
}

/// Keys of the sizes of a database's relations in one tablespace.
fn database_sizes(spc: u32, db: u32) -> Range<Key> {
    let first = Key::of_database(KeyKind::RelSize, spc, db);
    let end = match db.checked_add(1) {
        Some(next) => Key { db: next, ..first },
        None => Key { spc: spc.saturating_add(1), db: 0, ..first },
    };
    first..end
}
