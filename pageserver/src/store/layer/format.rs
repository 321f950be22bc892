//! Header, index and footer of a layer file. docs/formats.md gives the bytes.

use bytes::Bytes;
use pgformat::Lsn;

use super::super::error::KeyBounds;
use super::LayerSummary;
use crate::cluster::key::{KEY_LEN, Key};
use crate::cluster::value::VALUE_BYTES_MAX;

/// Version that is written and read.
pub(super) const VERSION: u32 = 1;
/// Required feature: blocks may be compressed by LZ4.
pub(super) const FEATURE_LZ4: u32 = 1;
/// Every feature that this version can read.
const FEATURES: u32 = FEATURE_LZ4;
/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 20;
/// Bytes of an index entry.
pub(super) const INDEX_ENTRY_BYTES: usize = 39;
/// Bytes of the footer.
pub(super) const FOOTER_BYTES: usize = 116;
/// Largest block before compression, so that a wrong number does not ask for all memory.
pub(super) const BLOCK_BYTES_MAX: u32 = 1 << 30;
const _: () = assert!(VALUE_BYTES_MAX < BLOCK_BYTES_MAX as usize, "a value has room in a block of its own");

const MAGIC: &[u8; 8] = b"WFLAYER\0";
const END_MAGIC: &[u8; 8] = b"WFLAYEND";
/// The block begins in the middle of a key's chain.
const CONTINUED: u8 = 1;

/// Why header, index or footer is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LayerRefusal {
    /// Damaged: what is wrong.
    Damaged(&'static str),
    /// From another version of this program.
    Unsupported(String),
}

impl From<&'static str> for LayerRefusal {
    fn from(what: &'static str) -> LayerRefusal {
        LayerRefusal::Damaged(what)
    }
}

/// The header's bytes.
pub(super) fn header(features: u32) -> [u8; HEADER_BYTES] {
    let mut b = [0; HEADER_BYTES];
    b[..8].copy_from_slice(MAGIC);
    b[8..12].copy_from_slice(&VERSION.to_le_bytes());
    b[12..16].copy_from_slice(&features.to_le_bytes());
    let crc = crc32c::crc32c(&b[..16]);
    b[16..].copy_from_slice(&crc.to_le_bytes());
    b
}

/// Checks a header and returns its CRC.
pub(super) fn check_header(bytes: &[u8]) -> Result<u32, LayerRefusal> {
    let b: &[u8; HEADER_BYTES] = bytes.try_into().map_err(|_| "the header is cut off")?;
    let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    if &b[..8] != MAGIC {
        return Err("this is not a layer file".into());
    }
    if crc32c::crc32c(&b[..16]) != word(16) {
        return Err("the header's checksum is wrong".into());
    }
    if word(8) != VERSION {
        return Err(LayerRefusal::Unsupported(format!("layer format version {}, known is {VERSION}", word(8))));
    }
    match word(12) & !FEATURES {
        0 => Ok(word(16)),
        unknown => {
            Err(LayerRefusal::Unsupported(format!("needs features {unknown:#x}, which this version does not have")))
        }
    }
}

/// Where a block is and what it begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LayerBlockRef {
    /// Its first version.
    pub(super) first: (Key, Lsn),
    /// Where it is in the file.
    pub(super) offset: u64,
    /// Its bytes in the file.
    pub(super) stored: u32,
    /// Its bytes when decompressed; as many as stored: it is not compressed.
    pub(super) raw: u32,
    /// CRC-32C of the stored bytes.
    pub(super) crc: u32,
    /// Whether its first key has older versions in the block before.
    pub(super) continued: bool,
}

impl LayerBlockRef {
    /// Appends the index entry.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first.0.to_bytes());
        out.extend_from_slice(&self.first.1.get().to_le_bytes());
        out.extend_from_slice(&self.stored.to_le_bytes());
        out.extend_from_slice(&self.raw.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.push(if self.continued { CONTINUED } else { 0 });
    }

    fn decode(mut b: Bytes, offset: u64) -> Result<LayerBlockRef, LayerRefusal> {
        use bytes::Buf as _;
        let mut key = [0; KEY_LEN];
        b.copy_to_slice(&mut key);
        let key = Key::from_bytes(&key).ok_or("the index has an unknown kind of key")?;
        let first = (key, Lsn::new(b.get_u64_le()));
        let (stored, raw, crc) = (b.get_u32_le(), b.get_u32_le(), b.get_u32_le());
        let flags = b.get_u8();
        if flags & !CONTINUED != 0 || stored > raw || raw > BLOCK_BYTES_MAX {
            return Err("an index entry contradicts itself".into());
        }
        Ok(LayerBlockRef { first, offset, stored, raw, crc, continued: flags & CONTINUED != 0 })
    }
}

/// Reads the index, whose blocks begin behind the header and end at `end`.
pub(super) fn index(bytes: &Bytes, crc: u32, end: u64) -> Result<Vec<LayerBlockRef>, LayerRefusal> {
    if crc32c::crc32c(bytes) != crc {
        return Err("the index's checksum is wrong".into());
    }
    let mut offset = HEADER_BYTES as u64;
    let mut blocks: Vec<LayerBlockRef> = Vec::with_capacity(bytes.len() / INDEX_ENTRY_BYTES);
    for at in (0..bytes.len()).step_by(INDEX_ENTRY_BYTES) {
        let block = LayerBlockRef::decode(bytes.slice(at..at + INDEX_ENTRY_BYTES), offset)?;
        if blocks.last().is_some_and(|before| before.first >= block.first) {
            return Err("the index is out of order".into());
        }
        offset += u64::from(block.stored);
        blocks.push(block);
    }
    if offset == end { Ok(blocks) } else { Err("the index does not fit the file".into()) }
}

/// The footer: where the rest is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Footer {
    /// Number of blocks, at least one.
    pub(super) blocks: u32,
    /// Number of the filter's buckets, at least one.
    pub(super) buckets: u32,
    /// CRC-32C of the index.
    pub(super) index_crc: u32,
    /// CRC-32C of the filter.
    pub(super) filter_crc: u32,
    /// The header's own CRC.
    pub(super) header_crc: u32,
    /// Bounds and counts; its `crc` is the footer's.
    pub(super) summary: LayerSummary,
}

impl Footer {
    /// The footer's bytes; sets the summary's `crc`.
    pub(super) fn encode(&mut self) -> [u8; FOOTER_BYTES] {
        let s = &mut self.summary;
        let mut b = Vec::with_capacity(FOOTER_BYTES);
        for word in [self.blocks, self.buckets, self.index_crc, self.filter_crc, self.header_crc] {
            b.extend_from_slice(&word.to_le_bytes());
        }
        b.extend_from_slice(&s.keys.first.to_bytes());
        b.extend_from_slice(&s.keys.last.to_bytes());
        for number in [s.first_lsn.get(), s.last_lsn.get(), s.versions, s.chains, s.value_bytes, s.file_bytes] {
            b.extend_from_slice(&number.to_le_bytes());
        }
        s.crc = crc32c::crc32c(&b);
        b.extend_from_slice(&s.crc.to_le_bytes());
        b.extend_from_slice(END_MAGIC);
        b.try_into().expect("the fields above are 116 bytes")
    }

    /// Reads the footer of a file of `file_bytes` bytes.
    pub(super) fn decode(bytes: &[u8], file_bytes: u64) -> Result<Footer, LayerRefusal> {
        let b: &[u8; FOOTER_BYTES] = bytes.try_into().map_err(|_| "the file is shorter than a footer")?;
        if &b[FOOTER_BYTES - 8..] != END_MAGIC {
            return Err("the file does not end as a layer does".into());
        }
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| b[at + i]));
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| b[at + i]));
        let key = |at: usize| {
            let key = std::array::from_fn(|i| b[at + i]);
            Key::from_bytes(&key).ok_or("the footer has an unknown kind of key")
        };
        let crc = word(104);
        if crc32c::crc32c(&b[..104]) != crc {
            return Err("the footer's checksum is wrong".into());
        }
        let summary = LayerSummary {
            keys: KeyBounds { first: key(20)?, last: key(38)? },
            first_lsn: Lsn::new(number(56)),
            last_lsn: Lsn::new(number(64)),
            versions: number(72),
            chains: number(80),
            value_bytes: number(88),
            file_bytes: number(96),
            crc,
        };
        let footer = Footer {
            blocks: word(0),
            buckets: word(4),
            index_crc: word(8),
            filter_crc: word(12),
            header_crc: word(16),
            summary,
        };
        let needed = HEADER_BYTES as u64 + footer.tail_bytes();
        if summary.file_bytes != file_bytes || file_bytes < needed || footer.blocks == 0 || footer.buckets == 0 {
            return Err("the file has another length than its footer says".into());
        }
        Ok(footer)
    }

    /// Bytes of the filter.
    pub(super) fn filter_bytes(&self) -> u64 {
        u64::from(self.buckets) * super::filter::BUCKET_BYTES as u64
    }

    /// Bytes of the index.
    fn index_bytes(&self) -> u64 {
        u64::from(self.blocks) * INDEX_ENTRY_BYTES as u64
    }

    /// Bytes of filter, index and footer, which end the file.
    pub(super) fn tail_bytes(&self) -> u64 {
        self.filter_bytes() + self.index_bytes() + FOOTER_BYTES as u64
    }
}
