//! Writes a layer file from versions in the order of (key, LSN).

use std::io::{self, Write};

use pgformat::Lsn;

use super::super::error::KeyBounds;
use super::LayerSummary;
use super::block::BlockBuilder;
use super::filter::{Filter, KeyHash};
use super::format::{self, FEATURE_LZ4, Footer, HEADER_BYTES, LayerBlockRef};
use crate::cluster::key::Key;
use crate::cluster::value::{VALUE_BYTES_MAX, ValueKind};

/// How blocks are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    /// As they are.
    None,
    /// Each block by LZ4, if that makes it smaller.
    Lz4,
}

/// How a layer is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WriteOptions {
    /// Bytes of a block before compression; a larger value makes a larger block. Larger blocks compress better, smaller
    /// ones are read faster.
    pub(crate) block_bytes: usize,
    /// How blocks are stored.
    pub(crate) compression: Compression,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions { block_bytes: 32 * 1024, compression: Compression::Lz4 }
    }
}

/// Writes one layer to `out`, from its beginning to its end. The memory it needs is 8 bytes per key, 56 per block, and
/// the block that is being filled.
pub(crate) struct LayerWriter<W: Write> {
    out: W,
    options: WriteOptions,
    header_crc: u32,
    block: BlockBuilder,
    /// Blocks written so far.
    index: Vec<LayerBlockRef>,
    keys: Vec<KeyHash>,
    first_key: Option<Key>,
    /// The last version taken.
    last: Option<(Key, Lsn)>,
    /// Whether the block being filled began in the middle of a chain.
    continued: bool,
    lsns: (Lsn, Lsn),
    versions: u64,
    value_bytes: u64,
    written: u64,
    compressed: Vec<u8>,
}

impl<W: Write> LayerWriter<W> {
    /// Begins a layer.
    ///
    /// # Errors
    /// What writing says.
    pub(crate) fn new(mut out: W, options: WriteOptions) -> io::Result<LayerWriter<W>> {
        let header = format::header(if options.compression == Compression::Lz4 { FEATURE_LZ4 } else { 0 });
        out.write_all(&header)?;
        Ok(LayerWriter {
            out,
            options,
            header_crc: u32::from_le_bytes([header[16], header[17], header[18], header[19]]),
            block: BlockBuilder::default(),
            index: Vec::new(),
            keys: Vec::new(),
            first_key: None,
            last: None,
            continued: false,
            lsns: (Lsn::MAX, Lsn::new(0)),
            versions: 0,
            value_bytes: 0,
            written: HEADER_BYTES as u64,
            compressed: Vec::new(),
        })
    }

    /// Adds a version; keys and, within a key, LSNs ascend.
    ///
    /// # Errors
    /// What writing says; `InvalidInput` for a version out of order or a value of more than 512 MiB. The layer cannot
    /// be finished then.
    pub(crate) fn push(&mut self, key: Key, lsn: Lsn, kind: ValueKind, value: &[u8]) -> io::Result<()> {
        if self.last.is_some_and(|last| last >= (key, lsn)) {
            return Err(refused("the versions of a layer are out of order"));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(refused("a value is too large for a layer"));
        }
        let same_key = self.last.is_some_and(|last| last.0 == key);
        if self.block.size() >= self.options.block_bytes {
            self.end_block()?;
            self.continued = same_key;
        }
        if !same_key {
            self.keys.push(KeyHash::of(key));
        }
        self.first_key.get_or_insert(key);
        self.last = Some((key, lsn));
        self.lsns = (self.lsns.0.min(lsn), self.lsns.1.max(lsn));
        self.versions += 1;
        self.value_bytes += value.len() as u64;
        self.block.push(key, lsn, kind, value);
        Ok(())
    }

    /// About how many bytes the file has so far, to end a layer by.
    pub(crate) const fn written(&self) -> u64 {
        self.written + self.block.size() as u64
    }

    /// Writes what is left, filter, index and footer; gives back the sink, neither flushed nor synced.
    ///
    /// # Errors
    /// What writing says; `InvalidInput` when there was no version.
    pub(crate) fn finish(mut self) -> io::Result<(LayerSummary, W)> {
        let (Some(first), Some((last, _))) = (self.first_key, self.last) else {
            return Err(refused("a layer without versions"));
        };
        self.end_block()?;
        let mut tail = Vec::new();
        let filter = Filter::of(&self.keys);
        filter.encode(&mut tail);
        let filter_bytes = tail.len();
        self.index.iter().for_each(|block| block.encode(&mut tail));
        let count = |n: usize| u32::try_from(n).map_err(|_| refused("a layer with too many blocks"));
        let mut footer = Footer {
            blocks: count(self.index.len())?,
            buckets: count(filter.buckets())?,
            index_crc: crc32c::crc32c(&tail[filter_bytes..]),
            filter_crc: crc32c::crc32c(&tail[..filter_bytes]),
            header_crc: self.header_crc,
            summary: LayerSummary {
                keys: KeyBounds { first, last },
                first_lsn: self.lsns.0,
                last_lsn: self.lsns.1,
                versions: self.versions,
                chains: self.keys.len() as u64,
                value_bytes: self.value_bytes,
                file_bytes: self.written + (tail.len() + format::FOOTER_BYTES) as u64,
                crc: 0,
            },
        };
        tail.extend_from_slice(&footer.encode());
        self.out.write_all(&tail)?;
        Ok((footer.summary, self.out))
    }

    fn end_block(&mut self) -> io::Result<()> {
        let Some(first) = self.block.first() else {
            return Ok(());
        };
        let raw = self.block.finish();
        let stored = match self.options.compression {
            Compression::None => raw,
            Compression::Lz4 => smaller(raw, &mut self.compressed),
        };
        self.out.write_all(stored)?;
        let small = |n: usize| u32::try_from(n).map_err(|_| refused("a block is too large"));
        self.index.push(LayerBlockRef {
            first,
            offset: self.written,
            stored: small(stored.len())?,
            raw: small(raw.len())?,
            crc: crc32c::crc32c(stored),
            continued: self.continued,
        });
        self.written += stored.len() as u64;
        self.continued = false;
        self.block.clear();
        Ok(())
    }
}

/// The block compressed, or as it is when that is not smaller.
fn smaller<'a>(raw: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    if scratch.len() < raw.len() {
        scratch.resize(raw.len(), 0);
    }
    // With a buffer as large as what goes in, a result that is not smaller is an error.
    match lz4::block::compress_to_buffer(raw, None, false, &mut scratch[..raw.len()]) {
        Ok(len) if len < raw.len() => &scratch[..len],
        _ => raw,
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
