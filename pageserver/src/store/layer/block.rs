//! A data block: versions sorted by (key, LSN); keys and LSNs in a directory in front, values behind.
//!
//! On disk the directory is small (shared key prefixes, LSN differences), in memory it is arrays for binary search, so
//! a block is decoded once and then kept in the cache. docs/formats.md gives the bytes.

use bytes::Bytes;
use pgformat::Lsn;

use super::super::history::{Gather, Version};
use crate::cluster::key::{KEY_LEN, Key};
use crate::cluster::value::ValueKind;

/// Bits of a version's number that hold its [`ValueKind`]; the rest is the value's length.
const KIND_BITS: u32 = 3;

/// A version in a decoded block.
#[derive(Clone, Copy, Debug)]
struct BlockEntry {
    lsn: Lsn,
    at: u32,
    len: u32,
    kind: ValueKind,
}

/// A decoded block.
#[derive(Debug)]
pub(crate) struct Block {
    /// Directory and values.
    raw: Bytes,
    /// Each key with the number of its first entry, ascending.
    chains: Vec<(Key, u32)>,
    /// Versions by (key, LSN).
    entries: Vec<BlockEntry>,
}

impl Block {
    /// Decodes the uncompressed bytes; the error says what is wrong with them.
    pub(super) fn decode(raw: Bytes) -> Result<Block, &'static str> {
        let mut chains = Vec::new();
        let mut entries: Vec<BlockEntry> = Vec::new();
        let mut dir = Directory(&raw);
        let base = dir.number()?;
        let count = dir.number()?;
        let mut key = [0; KEY_LEN];
        let mut values = 0_u64;
        for _ in 0..count {
            let parsed = dir.key(&mut key)?;
            if chains.last().is_some_and(|(before, _)| *before >= parsed) {
                return Err("the keys of a block are out of order");
            }
            let first = entries.len();
            chains.push((parsed, small(first as u64)?));
            let mut lsn = base;
            for i in 0..dir.number()? {
                let step = dir.number()?;
                if i > 0 && step == 0 {
                    return Err("a key has two versions at one LSN");
                }
                lsn = lsn.checked_add(step).ok_or("an LSN is too large")?;
                let number = dir.number()?;
                let len = small(number >> KIND_BITS)?;
                let kind = ValueKind::new((number & ((1 << KIND_BITS) - 1)) as u8).ok_or("unknown kind of value")?;
                entries.push(BlockEntry { lsn: Lsn::new(lsn), at: small(values)?, len, kind });
                values += u64::from(len);
            }
            if entries.len() == first {
                return Err("a key has no versions");
            }
        }
        if dir.0.len() as u64 != values || chains.is_empty() {
            return Err("the values of a block do not fit its directory");
        }
        let start = small((raw.len() - dir.0.len()) as u64)?;
        for e in &mut entries {
            e.at = e.at.checked_add(start).ok_or("a value is too far out")?;
        }
        Ok(Block { raw, chains, entries })
    }

    /// Memory that it takes, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.raw.len()
            + self.chains.capacity() * size_of::<(Key, u32)>()
            + self.entries.capacity() * size_of::<BlockEntry>()
            + size_of::<Block>()
    }

    /// First key and LSN.
    pub(super) fn first(&self) -> (Key, Lsn) {
        (self.chains[0].0, self.entries[0].lsn)
    }

    /// Adds the versions of the gathered key that are here, newest first. Says whether those of the block before are
    /// needed, if the key's chain begins there.
    pub(super) fn gather(&self, into: &mut Gather) -> bool {
        let Ok(chain) = self.chains.binary_search_by_key(&into.key(), |c| c.0) else {
            return false;
        };
        let (from, to) = self.chain(chain);
        let known = self.entries[from..to].partition_point(|e| e.lsn <= into.lsn());
        let mut versions = self.entries[from..from + known].iter().rev();
        let all_needed = versions.all(|e| into.add(self.version(e)));
        all_needed && chain == 0
    }

    /// Number of versions.
    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of the first version whose key is not smaller than `key`.
    pub(super) fn seek(&self, key: Key) -> usize {
        let chain = self.chains.partition_point(|c| c.0 < key);
        self.chains.get(chain).map_or(self.entries.len(), |c| c.1 as usize)
    }

    /// Version `entry`; `chain` is the chain of the version before (0 at first) and is moved on.
    pub(super) fn at(&self, entry: usize, chain: &mut usize) -> (Key, Version) {
        while self.chain(*chain).1 <= entry {
            *chain += 1;
        }
        (self.chains[*chain].0, self.version(&self.entries[entry]))
    }

    /// Entries of a chain.
    fn chain(&self, i: usize) -> (usize, usize) {
        let end = self.chains.get(i + 1).map_or(self.entries.len(), |next| next.1 as usize);
        (self.chains[i].1 as usize, end)
    }

    fn version(&self, e: &BlockEntry) -> Version {
        let at = e.at as usize;
        Version { lsn: e.lsn, kind: e.kind, value: self.raw.slice(at..at + e.len as usize) }
    }
}

fn small(n: u64) -> Result<u32, &'static str> {
    u32::try_from(n).map_err(|_| "a length of a block is too large")
}

/// What is left of a directory.
struct Directory<'a>(&'a [u8]);

impl Directory<'_> {
    fn byte(&mut self) -> Result<u8, &'static str> {
        let (first, rest) = self.0.split_first().ok_or("the directory of a block is cut off")?;
        self.0 = rest;
        Ok(*first)
    }

    /// A number in LEB128: seven bits a byte, the lowest first.
    fn number(&mut self) -> Result<u64, &'static str> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number in a block's directory is too long")
    }

    /// How many bytes are as in the key before, and the others.
    fn key(&mut self, key: &mut [u8; KEY_LEN]) -> Result<Key, &'static str> {
        let shared = usize::from(self.byte()?);
        let other = key.get_mut(shared..).ok_or("a key is longer than keys are")?;
        let (bytes, rest) = self.0.split_at_checked(other.len()).ok_or("the directory of a block is cut off")?;
        other.copy_from_slice(bytes);
        self.0 = rest;
        Key::from_bytes(key).ok_or("unknown kind of key")
    }
}

/// Room in front of the values of a block, for its directory: then nothing is moved when the block ends. A directory
/// of blocks of the usual size fits.
const ROOM_BYTES: usize = 16 << 10;

/// Memory that is kept from block to block, however large a value was.
const KEPT_BYTES: usize = 4 << 20;

/// Collects the versions of one block.
#[derive(Default, Debug)]
pub(super) struct BlockBuilder {
    /// Each key with the number of its versions.
    chains: Vec<(Key, u32)>,
    /// LSN, and length with kind.
    versions: Vec<(Lsn, u64)>,
    /// Room, and the values.
    raw: Vec<u8>,
    directory: Vec<u8>,
}

impl BlockBuilder {
    /// Adds a version; the caller keeps the order.
    pub(super) fn push(&mut self, key: Key, lsn: Lsn, kind: ValueKind, value: &[u8]) {
        match self.chains.last_mut() {
            Some((last, versions)) if *last == key => *versions += 1,
            _ => self.chains.push((key, 1)),
        }
        self.versions.push((lsn, (value.len() as u64) << KIND_BITS | kind as u64));
        if self.raw.is_empty() {
            self.raw.resize(ROOM_BYTES, 0);
        }
        self.raw.extend_from_slice(value);
    }

    /// About how many bytes the block will have uncompressed.
    pub(super) const fn size(&self) -> usize {
        self.raw.len().saturating_sub(ROOM_BYTES) + self.versions.len() * 6 + self.chains.len() * 4
    }

    /// First key and LSN, if there is a version.
    pub(super) fn first(&self) -> Option<(Key, Lsn)> {
        Some((self.chains.first()?.0, self.versions.first()?.0))
    }

    /// The encoded block. [`BlockBuilder::clear`] begins the next one.
    pub(super) fn finish(&mut self) -> &[u8] {
        let out = &mut self.directory;
        out.clear();
        let base = self.versions.iter().map(|v| v.0).min().unwrap_or(Lsn::new(0));
        put_number(base.get(), out);
        put_number(self.chains.len() as u64, out);
        let mut before = [0; KEY_LEN];
        let mut rest = &self.versions[..];
        for (key, count) in &self.chains {
            let key = key.to_bytes();
            let shared = key.iter().zip(&before).take_while(|(a, b)| a == b).count();
            out.push(shared as u8);
            out.extend_from_slice(&key[shared..]);
            before = key;
            put_number(u64::from(*count), out);
            let (chain, others) = rest.split_at(*count as usize);
            rest = others;
            let mut last = base;
            for (lsn, number) in chain {
                put_number(lsn.bytes_since(last), out);
                put_number(*number, out);
                last = *lsn;
            }
        }
        match ROOM_BYTES.checked_sub(out.len()) {
            Some(start) => {
                self.raw[start..ROOM_BYTES].copy_from_slice(out);
                &self.raw[start..]
            }
            None => {
                out.extend_from_slice(&self.raw[ROOM_BYTES..]);
                &self.directory
            }
        }
    }

    /// Forgets the block's versions.
    pub(super) fn clear(&mut self) {
        self.chains.clear();
        self.versions.clear();
        self.raw.truncate(ROOM_BYTES);
        self.raw.shrink_to(KEPT_BYTES);
    }
}

fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
