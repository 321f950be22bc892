//! The immutable layer file: one format for all levels.
//!
//! Versions by (key, LSN) in compressed blocks, then a filter, an index, and a footer; the versions of a key lie
//! together. Every byte is under a CRC: the index has those of the blocks, the footer those of index, filter and
//! header. Damage is an error that names file, offset and keys; blocks that are whole stay readable.

mod block;
mod filter;
mod format;
mod iter;
mod writer;

use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use blobs::ReadAt;
use bytes::Bytes;
use pgformat::Lsn;

pub(super) use block::Block;
pub(super) use filter::KeyHash;
pub(crate) use iter::{FileIter, Through};
#[cfg(test)]
pub(crate) use writer::Compression;
pub(crate) use writer::{LayerWriter, WriteOptions};

use self::filter::Filter;
use self::format::{FOOTER_BYTES, Footer, HEADER_BYTES, LayerBlockRef, LayerRefusal};
use super::cache::{BlockCache, LayerId};
use super::error::{Damage, KeyBounds, StoreError};
use super::history::Gather;
use crate::cluster::key::Key;

/// How much of a file's end is read at once when it is opened.
const TAIL_READ_BYTES: u64 = 256 * 1024;

/// What a layer holds: known without reading a block, and returned by the writer for the manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LayerSummary {
    /// Smallest and largest key.
    pub(crate) keys: KeyBounds,
    /// Oldest version's LSN.
    pub(crate) first_lsn: Lsn,
    /// Newest version's LSN, included.
    pub(crate) last_lsn: Lsn,
    /// Number of versions.
    pub(crate) versions: u64,
    /// Number of different keys.
    pub(crate) chains: u64,
    /// Bytes of the values, before compression.
    pub(crate) value_bytes: u64,
    /// Bytes of the file.
    pub(crate) file_bytes: u64,
    /// CRC-32C of the footer, which contains the CRCs of index and filter, and the index those of the blocks: this
    /// number stands for the file's content. The manifest keeps it, so that a file in the wrong place is noticed.
    pub(crate) crc: u32,
}

/// An open layer file. Index and filter stay in memory: about 0.2 % of the file and 10 bits per key.
pub(crate) struct Layer {
    source: Arc<dyn ReadAt>,
    cache: Arc<BlockCache>,
    id: LayerId,
    summary: LayerSummary,
    index: Vec<LayerBlockRef>,
    filter: Filter,
    /// Why nothing of it can be read.
    damage: Option<Damage>,
}

/// Where the bytes of a layer would be that cannot be opened.
struct Nowhere(String);

impl ReadAt for Nowhere {
    fn read_at(&self, _offset: u64, _len: usize) -> io::Result<Bytes> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn len(&self) -> u64 {
        0
    }

    fn name(&self) -> &str {
        &self.0
    }
}

impl Layer {
    /// Opens a layer: reads and checks header, footer, index and filter. Blocks are checked when they are read.
    ///
    /// # Errors
    /// Damage, an unknown version or feature, or what reading says.
    pub(crate) fn open(source: Arc<dyn ReadAt>, cache: &Arc<BlockCache>) -> Result<Arc<Layer>, StoreError> {
        let file_bytes = source.len();
        let refuse = |offset: u64, refusal: LayerRefusal| match refusal {
            LayerRefusal::Damaged(what) => {
                StoreError::Damaged(Damage { file: source.name().to_owned(), offset, keys: None, what })
            }
            LayerRefusal::Unsupported(what) => StoreError::Unsupported { file: source.name().to_owned(), what },
        };
        if file_bytes < (HEADER_BYTES + FOOTER_BYTES) as u64 {
            return Err(refuse(file_bytes, LayerRefusal::Damaged("the file is shorter than header and footer")));
        }
        let header = read(&*source, 0, HEADER_BYTES)?;
        let header_crc = format::check_header(&header).map_err(|r| refuse(0, r))?;
        // Most often one read is all: index and filter of a layer of some 100 MiB.
        let guess = file_bytes.min(TAIL_READ_BYTES);
        let mut tail = read(&*source, file_bytes - guess, guess as usize)?;
        let footer_at = file_bytes - FOOTER_BYTES as u64;
        let footer =
            Footer::decode(&tail[tail.len() - FOOTER_BYTES..], file_bytes).map_err(|r| refuse(footer_at, r))?;
        if footer.header_crc != header_crc {
            return Err(refuse(footer_at, LayerRefusal::Damaged("the footer belongs to another header")));
        }
        let start = file_bytes - footer.tail_bytes();
        tail = if footer.tail_bytes() > guess {
            read(&*source, start, footer.tail_bytes() as usize)?
        } else {
            tail.slice(tail.len() - footer.tail_bytes() as usize..)
        };
        let filter = tail.split_to(footer.filter_bytes() as usize);
        let index_at = start + filter.len() as u64;
        let index = format::index(&tail.slice(..tail.len() - FOOTER_BYTES), footer.index_crc, start)
            .map_err(|r| refuse(index_at, r))?;
        if crc32c::crc32c(&filter) != footer.filter_crc {
            return Err(refuse(start, LayerRefusal::Damaged("the filter's checksum is wrong")));
        }
        Ok(Arc::new(Layer {
            filter: Filter::decode(&filter),
            index,
            summary: footer.summary,
            id: cache.layer_id(),
            cache: cache.clone(),
            source,
            damage: None,
        }))
    }

    /// Stands for a layer that is lost, or damaged where it says what it holds: what would have to be read from it is
    /// the error, everything else of the timeline stays readable. What it held is known from the manifest.
    pub(crate) fn damaged(damage: Damage, summary: LayerSummary, cache: &Arc<BlockCache>) -> Arc<Layer> {
        Arc::new(Layer {
            filter: Filter::decode(&Bytes::new()),
            index: Vec::new(),
            summary,
            id: cache.layer_id(),
            cache: cache.clone(),
            source: Arc::new(Nowhere(damage.file.clone())),
            damage: Some(damage),
        })
    }

    /// Why nothing of it can be read.
    pub(crate) const fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// What it holds.
    pub(crate) const fn summary(&self) -> &LayerSummary {
        &self.summary
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> &str {
        self.source.name()
    }

    /// First key of each of its blocks, ascending.
    pub(super) fn block_starts(&self) -> impl Iterator<Item = Key> {
        self.index.iter().map(|b| b.first.0)
    }

    /// Adds the versions that the gathered key has here; reads blocks that are not in the cache.
    pub(super) fn gather(&self, into: &mut Gather) -> Result<(), StoreError> {
        self.walk(into, |no| self.block(no).map(Some)).map(|_| ())
    }

    /// [`Layer::gather`] without reading; `false` when a block is not in the cache.
    pub(super) fn gather_cached(&self, into: &mut Gather) -> bool {
        self.walk(into, |no| Ok(self.cache.peek(self.id, no as u32))).unwrap_or(false)
    }

    /// All versions of the keys in `range`, by (key, LSN).
    pub(crate) fn iter(self: &Arc<Self>, range: impl RangeBounds<Key>, through: Through) -> FileIter {
        FileIter::new(self.clone(), range, through)
    }

    /// Visits the blocks that can have what is missing, newest first, until one has all, or `get` has none.
    fn walk(
        &self,
        into: &mut Gather,
        get: impl Fn(usize) -> Result<Option<Arc<Block>>, StoreError>,
    ) -> Result<bool, StoreError> {
        let s = &self.summary;
        let needed = into.needs(s.first_lsn, s.last_lsn) && s.keys.contains(into.key());
        if needed && let Some(damage) = &self.damage {
            return Err(StoreError::Damaged(damage.clone()));
        }
        if !needed || !self.filter.may_have(into.hash()) {
            return Ok(true);
        }
        let mut no = self.index.partition_point(|b| b.first <= (into.key(), into.lsn()));
        while no > 0 {
            no -= 1;
            let Some(block) = get(no)? else {
                return Ok(false);
            };
            if !block.gather(into) || !self.index[no].continued {
                break;
            }
        }
        Ok(true)
    }

    /// A block, out of the cache or the file.
    fn block(&self, no: usize) -> Result<Arc<Block>, StoreError> {
        self.cache.block(self.id, no as u32, || {
            let at = &self.index[no];
            self.decode(no, read(&*self.source, at.offset, at.stored as usize)?)
        })
    }

    /// Checks and decodes a block's stored bytes.
    fn decode(&self, no: usize, stored: Bytes) -> Result<Block, StoreError> {
        let at = &self.index[no];
        let damaged = |what| {
            let last = self.index.get(no + 1).map_or(self.summary.keys.last, |next| next.first.0);
            let keys = Some(KeyBounds { first: at.first.0, last });
            StoreError::Damaged(Damage { file: self.name().to_owned(), offset: at.offset, keys, what })
        };
        if crc32c::crc32c(&stored) != at.crc {
            return Err(damaged("a block's checksum is wrong"));
        }
        let raw = if at.stored == at.raw {
            stored
        } else {
            let raw = lz4::block::decompress(&stored, Some(at.raw as i32));
            raw.map(Bytes::from).map_err(|_| damaged("a block cannot be decompressed"))?
        };
        let block = if raw.len() == at.raw as usize { Block::decode(raw) } else { Err("a block has a wrong length") };
        match block.map_err(damaged)? {
            block if block.first() == at.first => Ok(block),
            _ => Err(damaged("a block begins with another version than the index says")),
        }
    }
}

/// Exactly `len` bytes; a file that ends earlier is damaged.
fn read(source: &dyn ReadAt, offset: u64, len: usize) -> Result<Bytes, StoreError> {
    let cut_off = || Damage { file: source.name().to_owned(), offset, keys: None, what: "the file is cut off" };
    match source.read_at(offset, len) {
        Ok(bytes) if bytes.len() == len => Ok(bytes),
        Ok(_) => Err(StoreError::Damaged(cut_off())),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(StoreError::Damaged(cut_off())),
        Err(source_error) => Err(StoreError::Io { file: source.name().to_owned(), offset, source: source_error }),
    }
}
