//! The mapping, against records by hand and against clusters that a server wrote.

mod cluster;
mod files;
mod records;

use std::sync::Arc;

use pgformat::page::Page;
use pgformat::slru::SEGMENT_PAGES;
use pgformat::wal::Record;
use pgformat::{Lsn, PgMajor};

use super::{MapError, MapProgress, Mapper};
use crate::cluster::error::LookError;
use crate::cluster::extent::Extent;
use crate::cluster::key::{Key, KeyKind};
use crate::cluster::look::Look;
use crate::cluster::records::RecordSpan;
use crate::cluster::state::ClusterState;
use crate::store::state::StateAt;
use crate::store::{Batch, LayerMap, Snapshot};

/// Behind every position.
const TIP: Lsn = Lsn::new(u64::MAX / 4);

/// A mapper with a store.
struct Rig {
    layers: Arc<LayerMap>,
    mapper: Mapper,
    batch: Batch,
    version: PgMajor,
}

impl Rig {
    fn new(control: ClusterState, last: RecordSpan) -> Rig {
        let version = control.file.version;
        let mapper = Mapper::new(control, last);
        Rig { layers: Arc::new(LayerMap::new(Vec::new())), mapper, batch: Batch::default(), version }
    }

    fn snapshot(&self) -> Snapshot {
        self.layers.snapshot()
    }

    /// Asks the store as it is at `lsn`.
    fn at<T>(&self, lsn: Lsn, ask: impl FnOnce(&StateAt<'_>) -> T) -> T {
        ask(&StateAt { snapshot: &self.snapshot(), lsn, version: self.version })
    }

    fn blob(&self, key: Key, lsn: Lsn) -> Option<Vec<u8>> {
        self.at(lsn, |at| at.blob(key)).expect("the store is in memory").map(|b| b.to_vec())
    }

    /// A page as readers get it.
    fn page(&self, key: Key, lsn: Lsn) -> Result<Option<Box<Page>>, LookError> {
        let (file, page) = match key.tag() {
            Some(tag) => (Key::rel_size(tag.fork), tag.blk),
            None => (Key::numbered(KeyKind::SlruSegment, key.spc, key.blk / SEGMENT_PAGES), key.blk % SEGMENT_PAGES),
        };
        let extent = self.blob(file, lsn).map(|b| Extent::decode(&b).expect("a size"));
        let since = extent.filter(|e| page < e.blocks).and_then(|extent| extent.since(page));
        let found = self.at(lsn, |at| at.page(key, since))?;
        Ok(found.or_else(|| since.map(|_| Page::zeroed())))
    }

    /// What stands in the batch goes into the store.
    fn publish(&mut self) {
        let snapshot = self.layers.snapshot();
        let at = StateAt { snapshot: &snapshot, lsn: TIP, version: self.version };
        self.mapper.finish(&mut self.batch, &at);
        self.layers.append(&mut self.batch).expect("versions are in order");
    }

    fn feed(&mut self, record: &Record) -> Result<(), MapError> {
        let snapshot = self.layers.snapshot();
        let at = StateAt { snapshot: &snapshot, lsn: TIP, version: self.version };
        let mut progress = self.mapper.record(&record.by_ref(), &mut self.batch, &at)?;
        while progress == MapProgress::More {
            self.layers.append(&mut self.batch).expect("versions are in order");
            let snapshot = self.layers.snapshot();
            let at = StateAt { snapshot: &snapshot, lsn: TIP, version: self.version };
            progress = self.mapper.resume(&mut self.batch, &at)?;
        }
        Ok(())
    }
}
