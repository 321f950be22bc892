//! All pages of a cluster in memory, on top of a copy of its data directory from before the log began, if there is one.
//!
//! Owns the pages' current state. Invariant: a block is looked up in the base only until something in the log removes
//! it there.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::Result;
use pgformat::page::{PAGE_SIZE, Page};
use pgformat::rel::{BlockNumber, BlockTag, Fork, PG_DEFAULT, PG_GLOBAL, RelFileLocator, RelFork};

use crate::files::relation_files;

/// Blocks of one file of a fork (`RELSEG_SIZE`).
pub const BLOCKS_PER_FILE: u32 = 131_072;

/// A data directory of a stopped cluster.
#[derive(Clone, Debug)]
pub struct DataDir(pub PathBuf);

impl DataDir {
    /// The file that holds block `blk` of `fork`, for relations outside of tablespaces.
    fn file(&self, fork: RelFork, segment: u32) -> Option<PathBuf> {
        let name = format!("{}{}", fork.rel.rel, fork.fork.suffix());
        let name = if segment == 0 { name } else { format!("{name}.{segment}") };
        match fork.rel.spc {
            PG_GLOBAL => Some(self.0.join("global").join(name)),
            PG_DEFAULT => Some(self.0.join("base").join(fork.rel.db.to_string()).join(name)),
            _ => None,
        }
    }

    fn blocks(&self, fork: RelFork) -> u32 {
        let mut total = 0;
        for segment in 0.. {
            let len = self.file(fork, segment).and_then(|f| std::fs::metadata(f).ok()).map_or(0, |m| m.len());
            total += (len / PAGE_SIZE as u64) as u32;
            if len < u64::from(BLOCKS_PER_FILE) * PAGE_SIZE as u64 {
                break;
            }
        }
        total
    }

    fn page(&self, tag: BlockTag) -> Option<Box<Page>> {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::File::open(self.file(tag.fork, tag.blk / BLOCKS_PER_FILE)?).ok()?;
        let mut page = Page::zeroed();
        file.read_exact_at(&mut page.0, u64::from(tag.blk % BLOCKS_PER_FILE) * PAGE_SIZE as u64).ok()?;
        Some(page)
    }
}

/// A fork and the number of its file from a file's name; `None` for files of another purpose.
pub fn parse_file_name(name: &str, spc: u32, db: u32) -> Option<(RelFork, u32)> {
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) => (name, segment.parse().ok()?),
        None => (name, 0),
    };
    let fork: RelFork = format!("{spc}/{db}/{name}").parse().ok()?;
    Some((fork, segment))
}

#[derive(Default)]
struct ForkPages {
    /// `None`: redo failed, the content is not known.
    pages: HashMap<BlockNumber, Option<Box<Page>>>,
    /// How many of the base's blocks are still there.
    base_blocks: u32,
}

/// The pages.
#[derive(Default)]
pub struct Pages {
    base: Option<DataDir>,
    forks: HashMap<RelFork, ForkPages>,
    /// Databases (tablespace, database) that the base has but the log dropped.
    dropped: Vec<(u32, u32)>,
}

impl Pages {
    /// Over `base`, or nothing.
    pub fn new(base: Option<&Path>) -> Pages {
        Pages { base: base.map(|b| DataDir(b.to_path_buf())), ..Pages::default() }
    }

    /// Whether pages from before the log are known.
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    fn fork(&mut self, fork: RelFork) -> &mut ForkPages {
        let gone = self.dropped.contains(&(fork.rel.spc, fork.rel.db));
        let base = self.base.as_ref().filter(|_| !gone);
        self.forks
            .entry(fork)
            .or_insert_with(|| ForkPages { pages: HashMap::new(), base_blocks: base.map_or(0, |b| b.blocks(fork)) })
    }

    /// A page, if it is known.
    pub fn get(&mut self, tag: BlockTag) -> Option<&mut Box<Page>> {
        let base = self.base.clone();
        let fork = self.fork(tag.fork);
        if tag.blk < fork.base_blocks && !fork.pages.contains_key(&tag.blk) {
            let page = base.and_then(|b| b.page(tag))?;
            fork.pages.insert(tag.blk, Some(page));
        }
        fork.pages.get_mut(&tag.blk)?.as_mut()
    }

    /// Sets a page.
    pub fn put(&mut self, tag: BlockTag, page: Box<Page>) {
        self.fork(tag.fork).pages.insert(tag.blk, Some(page));
    }

    /// Forgets a page that cannot be trusted any more.
    pub fn forget(&mut self, tag: BlockTag) {
        self.fork(tag.fork).pages.insert(tag.blk, None);
    }

    /// Drops the blocks from `from` on: the fork is cut, or with 0 created or dropped.
    pub fn cut(&mut self, fork: RelFork, from: BlockNumber) {
        let fork = self.fork(fork);
        fork.pages.retain(|blk, _| *blk < from);
        fork.base_blocks = fork.base_blocks.min(from);
    }

    /// Drops all forks of a relation.
    pub fn drop_relation(&mut self, rel: RelFileLocator) {
        for fork in Fork::ALL {
            self.cut(RelFork { rel, fork }, 0);
        }
    }

    /// Drops a database in one tablespace.
    pub fn drop_database(&mut self, spc: u32, db: u32) {
        self.forks.retain(|fork, _| (fork.rel.spc, fork.rel.db) != (spc, db));
        self.dropped.push((spc, db));
    }

    /// Copies a database as files: (tablespace, database) to another.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn copy_database(&mut self, from: (u32, u32), to: (u32, u32)) -> Result<()> {
        for fork in self.all_forks()?.into_iter().filter(|f| (f.rel.spc, f.rel.db) == from) {
            for blk in 0..self.fork(fork).base_blocks {
                self.get(BlockTag { fork, blk });
            }
            let copied = self.fork(fork).pages.clone();
            let rel = RelFileLocator { spc: to.0, db: to.1, rel: fork.rel.rel };
            self.forks.insert(RelFork { rel, fork: fork.fork }, ForkPages { pages: copied, base_blocks: 0 });
        }
        Ok(())
    }

    /// Whether redo of the page failed before, and nothing has restored it since.
    pub fn is_spoilt(&mut self, tag: BlockTag) -> bool {
        matches!(self.fork(tag.fork).pages.get(&tag.blk), Some(None))
    }

    /// How many blocks of `fork` are known, counted to the last.
    pub fn blocks(&mut self, fork: RelFork) -> u32 {
        let fork = self.fork(fork);
        fork.pages.keys().map(|blk| blk + 1).max().unwrap_or(0).max(fork.base_blocks)
    }

    /// The forks that the base or the log has.
    ///
    /// # Errors
    /// When the base cannot be listed.
    pub fn all_forks(&self) -> Result<BTreeSet<RelFork>> {
        let mut forks: BTreeSet<RelFork> = self.forks.keys().copied().collect();
        if let Some(base) = &self.base {
            forks.extend(relation_files(&base.0)?.into_keys().map(|(fork, _)| fork));
        }
        Ok(forks)
    }
}
