//! For tests of the store and of what is built on it: files in memory, and a model of what the store must answer.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use blobs::ReadAt;
use bytes::Bytes;
use pgformat::Lsn;

use super::{BlockCache, History, Layer, LayerWriter, Version, WriteOptions};
use crate::cluster::key::Key;
use crate::cluster::value::ValueKind;

/// A file in memory.
pub(crate) struct MemoryFile {
    /// What messages call it.
    pub(crate) name: String,
    /// Its content.
    pub(crate) bytes: Bytes,
}

impl ReadAt for MemoryFile {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let from = usize::try_from(offset).ok().filter(|from| *from <= self.bytes.len());
        let from = from.ok_or(io::ErrorKind::UnexpectedEof)?;
        let to = from.checked_add(len).filter(|to| *to <= self.bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(self.bytes.slice(from..to))
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// The bytes of a layer with these versions, which ascend.
pub(crate) fn layer_bytes(
    versions: impl IntoIterator<Item = (Key, Version)>,
    options: WriteOptions,
) -> (super::LayerSummary, Vec<u8>) {
    let mut writer = LayerWriter::new(Vec::new(), options).expect("memory takes everything");
    for (key, v) in versions {
        writer.push(key, v.lsn, v.kind, &v.value).expect("versions ascend");
    }
    writer.finish().expect("there is a version")
}

/// A layer in memory with these versions, which ascend.
pub(crate) fn layer(
    versions: impl IntoIterator<Item = (Key, Version)>,
    options: WriteOptions,
    cache: &Arc<BlockCache>,
) -> Arc<Layer> {
    let (summary, bytes) = layer_bytes(versions, options);
    let file = MemoryFile { name: "memory".to_owned(), bytes: bytes.into() };
    let layer = Layer::open(Arc::new(file), cache).expect("a whole file");
    assert_eq!(*layer.summary(), summary);
    layer
}

/// All versions that were ever put, and the plain way to answer from them.
#[derive(Default, Clone, Debug)]
pub(crate) struct Model(pub(crate) BTreeMap<(Key, Lsn), (ValueKind, Bytes)>);

impl Model {
    /// What the store's history must be.
    pub(crate) fn history(&self, key: Key, lsn: Lsn) -> History {
        let mut versions = Vec::new();
        for ((_, at), (kind, value)) in self.0.range((key, Lsn::new(0))..=(key, lsn)).rev() {
            versions.push(Version { lsn: *at, kind: *kind, value: value.clone() });
            if kind.is_base() {
                break;
            }
        }
        versions.reverse();
        History { key, lsn, versions }
    }

    /// What the store's scan must find.
    pub(crate) fn scan(&self, range: std::ops::Range<Key>, lsn: Lsn) -> Vec<(Key, Version)> {
        let mut keys: Vec<Key> = self.0.keys().map(|(key, _)| *key).filter(|key| range.contains(key)).collect();
        keys.dedup();
        let newest = |key: Key| Some((key, self.history(key, lsn).versions.pop()?));
        keys.into_iter().filter_map(newest).filter(|(_, v)| v.kind != ValueKind::Tombstone).collect()
    }

    /// Everything, by (key, LSN).
    pub(crate) fn versions(&self) -> Vec<(Key, Version)> {
        let version = |kind, lsn, value: &Bytes| Version { lsn, kind, value: value.clone() };
        self.0.iter().map(|((key, lsn), (kind, value))| (*key, version(*kind, *lsn, value))).collect()
    }
}
