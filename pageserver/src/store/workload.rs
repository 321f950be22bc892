//! A made-up timeline for tests of the store: records with versions of pages and metadata, and what reads must give.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blobs::{BlobError, Blobs, LocalBlobs};
use bytes::Bytes;
use disk::FakeDisk;
use pgformat::page::Page;
use pgformat::redo::{Change, rmid};
use pgformat::rel::Fork;
use pgformat::{Lsn, PgMajor, SegSize};
use proto::api::AttachRequest;
use proto::id::{SystemId, TenantId, TenantTimelineId, TimelineId};

use super::config::{StoreConfig, StoreShared};
use super::manifest::{Clock, FOLDER, Manifest};
use super::redo::materialise;
use super::testing::Model;
use super::{AppendError, Batch, BlockCache, History, LAYERS, Position, Snapshot, Store, WriteOptions};
use crate::cluster::key::{Key, KeyKind};
use crate::cluster::value::{ValueKind, encode_page};

/// Where the log starts.
pub(crate) const START: u64 = 0x1000;

/// One record.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// Where it starts and ends.
    pub(crate) position: Position,
    /// What it changes.
    pub(crate) versions: Vec<(Key, ValueKind, Bytes)>,
}

/// Records, and what they come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workload {
    /// In their order.
    pub(crate) records: Vec<Record>,
    /// Of all records.
    pub(crate) model: Model,
}

/// What a read sees of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Nothing.
    Absent,
    /// Metadata.
    Blob(Bytes),
    /// A page, by its checksum.
    Page(u32),
    /// A page that cannot be rebuilt.
    Broken(String),
}

fn block(blk: u32) -> Key {
    Key { spc: 1663, db: 5, rel: 16384 + blk % 2, blk, ..Key::first(KeyKind::Block) }
}

/// A change that sets some bytes of a page, so that order and completeness show.
fn change(rng: &mut fastrand::Rng, init: bool) -> Bytes {
    let at = 7000 + rng.u16(..40) * 8;
    let len = rng.u16(1..40);
    let mut data = Vec::new();
    if init {
        // pd_lower 24, pd_upper 7000, pd_special 8192, size and version.
        data.extend_from_slice(&[12, 0, 8, 0, 24, 0, 0x58, 0x1B, 0, 0x20, 4, 0x20]);
    }
    data.extend_from_slice(&[at.to_le_bytes(), len.to_le_bytes()].concat());
    data.extend((0..len).map(|_| rng.u8(..)));
    let refs = Default::default();
    let (info, xid, fork) = (0, 0, Fork::Main);
    let change = Change {
        rmid: rmid::GENERIC,
        info,
        xid,
        block: 0,
        fork,
        blk: 0,
        init,
        hint_lsn: false,
        refs,
        data: &data,
        main: &[],
    };
    let mut out = Vec::new();
    change.encode(&mut out);
    out.into()
}

fn image(rng: &mut fastrand::Rng) -> Bytes {
    let mut page = Page::default();
    page.init(16);
    page.0[14..16].copy_from_slice(&7000_u16.to_le_bytes());
    page.0[7000..7400].iter_mut().for_each(|b| *b = rng.u8(..));
    let mut out = Vec::new();
    encode_page(&page, &mut out);
    out.into()
}

impl Workload {
    /// `count` records over so many blocks.
    pub(crate) fn new(seed: u64, count: usize, blocks: u32) -> Workload {
        let mut work = Workload::default();
        work.write(&mut fastrand::Rng::with_seed(seed), count, blocks, START);
        work
    }

    /// The pages of so many blocks as an import copies them, all versions at `at`, and `count` records behind.
    pub(crate) fn imported(seed: u64, count: usize, blocks: u32, at: Lsn) -> Workload {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut versions: Vec<_> = (0..blocks).map(|blk| (block(blk), ValueKind::Image, image(&mut rng))).collect();
        versions.push((Key::first(KeyKind::Control), ValueKind::Blob, Bytes::from_static(b"imported")));
        let mut work = Workload::default();
        work.put(Record { position: Position { end: at, start: None }, versions });
        work.write(&mut rng, count, blocks, at.get());
        work
    }

    fn put(&mut self, record: Record) {
        for (key, kind, value) in &record.versions {
            self.model.0.insert((*key, record.position.end), (*kind, value.clone()));
        }
        self.records.push(record);
    }

    fn write(&mut self, rng: &mut fastrand::Rng, count: usize, blocks: u32, mut end: u64) {
        let is_block = |key: &Key| key.kind == KeyKind::Block;
        let mut exists: std::collections::BTreeSet<u32> =
            self.model.0.keys().filter(|(key, _)| is_block(key)).map(|(key, _)| key.blk).collect();
        for number in 0..count {
            let start = end + 24 * rng.u64(0..2);
            end = start + 8 * rng.u64(4..20);
            let (lsn, start) = (Lsn::new(end), Lsn::new(start));
            let mut versions = Vec::new();
            for _ in 0..rng.usize(1..4) {
                let blk = rng.u32(..blocks);
                // One page gets more than its share.
                let blk = if rng.u8(..4) == 0 { 0 } else { blk };
                let version = match rng.u8(..40) {
                    0..3 => (block(blk), ValueKind::Image, image(rng)),
                    5 => (block(blk), ValueKind::Tombstone, Bytes::new()),
                    6..=9 => {
                        let key = Key { blk: 0, kind: KeyKind::RelSize, ..block(blk) };
                        (key, ValueKind::Blob, Bytes::from(vec![number as u8; 4]))
                    }
                    // Redo refuses a change to a page that does not exist.
                    10 => (block(blk), ValueKind::Init, change(rng, true)),
                    _ if !exists.contains(&blk) => (block(blk), ValueKind::Init, change(rng, true)),
                    _ => (block(blk), ValueKind::Change, change(rng, false)),
                };
                if !versions.iter().any(|(key, _, _)| *key == version.0) {
                    match version.1 {
                        ValueKind::Tombstone => drop(exists.remove(&blk)),
                        ValueKind::Blob => {}
                        _ => drop(exists.insert(blk)),
                    }
                    versions.push(version);
                }
            }
            versions.push((Key::first(KeyKind::Control), ValueKind::Blob, Bytes::from(number.to_le_bytes().to_vec())));
            self.put(Record { position: Position { end: lsn, start: Some(start) }, versions });
        }
    }

    /// The records behind a position.
    pub(crate) fn after(&self, lsn: Lsn) -> &[Record] {
        &self.records[self.records.partition_point(|r| r.position.end <= lsn)..]
    }

    /// Every key.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = self.model.0.keys().map(|(key, _)| *key).collect();
        keys.dedup();
        keys
    }

    /// The first key and LSN at which a snapshot differs from the model, of some LSNs up to `end` and at or above
    /// `from`, and `also`; nothing must be visible above `end`.
    pub(crate) fn difference(&self, snapshot: &Snapshot, from: Lsn, end: Lsn, also: &[Lsn]) -> Option<String> {
        let mut lsns: Vec<Lsn> =
            self.records.iter().map(|r| r.position.end).filter(|l| *l >= from && *l <= end).collect();
        let step = (lsns.len() / 12).max(1);
        lsns = lsns.into_iter().rev().step_by(step).chain(also.iter().copied()).chain([end]).collect();
        for key in self.keys() {
            for lsn in &lsns {
                let want = state(&self.model.history(key, *lsn));
                let have = snapshot.history(key, *lsn).map(|h| state(&h));
                if have.as_ref().ok() != Some(&want) {
                    return Some(format!("{key} at {lsn}: {have:?}, not {want:?}"));
                }
            }
            match snapshot.history(key, Lsn::MAX) {
                Ok(history) if history.newest().is_none_or(|v| v.lsn <= end) => {}
                other => return Some(format!("{key} above {end}: {other:?}")),
            }
        }
        None
    }
}

/// What a history comes to.
pub(crate) fn state(history: &History) -> State {
    match history.newest().map(|v| (v.kind, v.value.clone())) {
        None | Some((ValueKind::Tombstone, _)) => State::Absent,
        Some((ValueKind::Blob, value)) => State::Blob(value),
        Some(_) => match materialise(history, PgMajor::from_version_num(150_004).expect("supported")) {
            Ok(page) => State::Page(crc32c::crc32c(&page.0[..])),
            Err(e) => State::Broken(e.to_string()),
        },
    }
}

/// Appends and publishes records, a few at a time.
pub(crate) fn feed(store: &Store, records: &[Record]) -> Result<(), AppendError> {
    for chunk in records.chunks(5) {
        let mut batch = Batch::default();
        for record in chunk {
            for (key, kind, value) in &record.versions {
                batch.put(*key, record.position.end, *kind, |out| out.extend_from_slice(value));
            }
        }
        store.append(&mut batch)?;
        if let Some(last) = chunk.last() {
            store.publish(last.position);
        }
    }
    Ok(())
}

/// A clock that the test moves.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandClock(Arc<AtomicU64>);

impl HandClock {
    /// Moves it.
    pub(crate) fn move_on(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }

    /// What the store gets.
    pub(crate) fn clock(&self) -> Clock {
        let seconds = self.0.clone();
        Clock::new(move || Duration::from_secs(seconds.load(Ordering::Relaxed)))
    }
}

/// Settings for small tests: two overlapping layers are merged, files are tiny, chains are short.
pub(crate) fn small() -> StoreConfig {
    let write = WriteOptions { block_bytes: 1024, ..WriteOptions::default() };
    StoreConfig { fanout: 2, file_bytes: 4096, chain_versions: 4, chain_bytes: 4096, write, ..StoreConfig::default() }
}

/// What a store needs, with a clock of its own.
pub(crate) fn shared(config: StoreConfig) -> (StoreShared, HandClock) {
    let hand = HandClock::default();
    let clock = hand.clock();
    (StoreShared { clock, ..StoreShared::new(config, BlockCache::new(1 << 20)) }, hand)
}

/// A timeline of PostgreSQL 15 without anything in it.
pub(crate) fn empty() -> Manifest {
    let id = TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16]));
    let attach = AttachRequest {
        start_lsn: Lsn::new(START),
        pg_version_num: 150_004,
        system_id: SystemId(7),
        wal_seg_size: SegSize::new(16 << 20).expect("possible"),
        pg_history: vec![],
    };
    Manifest::new(id, &attach)
}

/// Blobs on a disk that forgets.
pub(crate) fn on(disk: &FakeDisk) -> Result<Arc<dyn Blobs>, BlobError> {
    let folders = [FOLDER, LAYERS];
    Ok(Arc::new(LocalBlobs::new(Arc::new(disk.clone()), Path::new("/data"), &["tenant", "timeline"], &folders)?))
}
