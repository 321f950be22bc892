//! Versions in a map: the reference that tests read from.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pgformat::page::Page;
use pgformat::rel::{BlockTag, RelFork};
use pgformat::{Lsn, SegSize};

use super::{Fault, FoundBlob, Io, LayerRow, TimelineReads, Versions, WantedEnd};
use crate::cluster::key::Key;
use crate::cluster::records::RecordSpan;
use crate::cluster::state::ClusterState;
use crate::cluster::xacts::XactEntry;

/// One version.
#[derive(Clone)]
enum Value {
    Blob(Bytes),
    Page(Box<Page>),
    Tombstone,
    Poison(String),
}

/// The map.
#[derive(Clone, Default)]
pub(crate) struct ModelVersions {
    versions: BTreeMap<(Key, Lsn), Value>,
    /// Keys whose files are damaged.
    damaged: BTreeSet<Key>,
    /// Keys that are not in memory.
    cold: BTreeSet<Key>,
}

impl ModelVersions {
    /// A fork's size from `lsn` on.
    pub(crate) fn size(&mut self, fork: RelFork, lsn: u64, blocks: u32) {
        self.put_blob(Key::rel_size(fork), lsn, blocks.to_le_bytes());
    }

    /// A piece of metadata from `lsn` on.
    pub(crate) fn put_blob(&mut self, key: Key, lsn: u64, bytes: impl AsRef<[u8]>) {
        self.versions.insert((key, Lsn::new(lsn)), Value::Blob(Bytes::copy_from_slice(bytes.as_ref())));
    }

    /// A key's end.
    pub(crate) fn end(&mut self, key: Key, lsn: u64) {
        self.versions.insert((key, Lsn::new(lsn)), Value::Tombstone);
    }

    /// A page from `lsn` on.
    pub(crate) fn put_page(&mut self, tag: BlockTag, lsn: u64, page: &Page) {
        self.put_page_at(Key::block(tag), lsn, page);
    }

    /// A page under any key from `lsn` on.
    pub(crate) fn put_page_at(&mut self, key: Key, lsn: u64, page: &Page) {
        self.versions.insert((key, Lsn::new(lsn)), Value::Page(Box::new(page.clone())));
    }

    /// A record that cannot be redone.
    pub(crate) fn poison(&mut self, tag: BlockTag, lsn: u64, cause: &str) {
        self.versions.insert((Key::block(tag), Lsn::new(lsn)), Value::Poison(cause.to_owned()));
    }

    /// The key's file is damaged.
    pub(crate) fn damage(&mut self, key: Key) {
        self.damaged.insert(key);
    }

    /// The key is not in memory.
    pub(crate) fn cool(&mut self, key: Key) {
        self.cold.insert(key);
    }

    fn find(&self, key: Key, lsn: Lsn, io: Io) -> Result<Option<(Lsn, &Value)>, Fault> {
        if io == Io::Memory && self.cold.contains(&key) {
            return Err(Fault::NotInMemory);
        }
        if self.damaged.contains(&key) {
            return Err(Fault::Damaged(format!("layer-7 is damaged at offset 42: lost is {key}")));
        }
        let newest = self.versions.range((key, Lsn::new(0))..=(key, lsn)).next_back();
        Ok(newest.map(|((_, lsn), value)| (*lsn, value)))
    }
}

impl Versions for ModelVersions {
    fn blob(&self, key: Key, lsn: Lsn, io: Io) -> Result<FoundBlob, Fault> {
        Ok(match self.find(key, lsn, io)? {
            None => FoundBlob::Absent,
            Some((since, Value::Blob(bytes))) => FoundBlob::Value(since, bytes.clone()),
            Some((since, Value::Tombstone)) => FoundBlob::Gone(since),
            Some(_) => return Err(Fault::Damaged("a page where metadata should be".to_owned())),
        })
    }

    fn page(&self, key: Key, lsn: Lsn, since: Option<Lsn>, io: Io) -> Result<Option<Box<Page>>, Fault> {
        let found = self.find(key, lsn, io)?.filter(|(at, _)| since.is_none_or(|since| *at >= since));
        Ok(match found {
            None | Some((_, Value::Tombstone)) => None,
            Some((_, Value::Page(page))) => Some(page.clone()),
            Some((record, Value::Poison(cause))) => return Err(Fault::NotRedone { record, cause: cause.clone() }),
            Some((_, Value::Blob(_))) => return Err(Fault::Damaged("metadata where a page should be".to_owned())),
        })
    }

    fn scan(&self, keys: Range<Key>, lsn: Lsn) -> Result<Vec<(Key, Bytes)>, Fault> {
        let mut all: Vec<Key> = self.versions.keys().map(|(key, _)| *key).filter(|k| keys.contains(k)).collect();
        all.dedup();
        let mut found = Vec::new();
        for key in all {
            if let FoundBlob::Value(_, bytes) = self.blob(key, lsn, Io::Files)? {
                found.push((key, bytes));
            }
        }
        Ok(found)
    }
}

/// A timeline whose pages are a model that a test can change.
pub(crate) struct ModelReads {
    /// What is readable from where on.
    pub(crate) from: Option<Lsn>,
    /// Whether pages have checksums.
    pub(crate) checksums: bool,
    /// The versions.
    pub(crate) model: Mutex<ModelVersions>,
}

impl TimelineReads for ModelReads {
    fn readable_from(&self) -> Option<Lsn> {
        self.from
    }

    fn versions(&self) -> Arc<dyn Versions> {
        Arc::new(self.model.lock().expect("no test panics with it").clone())
    }

    fn has_checksums(&self) -> bool {
        self.checksums
    }

    fn control(&self, _: Lsn) -> Result<ClusterState, Fault> {
        Err(Fault::Damaged("a model has no control state".to_owned()))
    }

    fn last_record(&self, lsn: Lsn, _: SegSize) -> Result<Option<RecordSpan>, Fault> {
        Ok(Some(RecordSpan { start: None, end: lsn }))
    }

    fn first_end(&self, _: Lsn, _: Lsn, _: &mut WantedEnd<'_>) -> Result<Option<XactEntry>, Fault> {
        Ok(None)
    }

    fn layers(&self) -> Vec<LayerRow> {
        let lsns = (Lsn::new(0x10), Lsn::new(0x20));
        let row = LayerRow { name: String::new(), kind: "open".to_owned(), lsns, keys: None, versions: 3, bytes: 100 };
        vec![row]
    }
}
