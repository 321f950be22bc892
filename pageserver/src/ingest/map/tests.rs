//! The mapping, against records by hand and against clusters that a server wrote.

mod cluster;
mod files;
mod records;

use std::sync::Arc;

use pgformat::checkpoint::CheckPoint;
use pgformat::control::{ControlFile, DbState};
use pgformat::effect::Parameters;
use pgformat::page::Page;
use pgformat::slru::SEGMENT_PAGES;
use pgformat::wal::Record;
use pgformat::{Lsn, PgMajor, SegSize, Tli};

use super::control::ControlState;
use super::look::{At, Look, LookError};
use super::starts::Place;
use super::{MapError, Mapper, Progress};
use crate::cluster::extent::Extent;
use crate::cluster::key::{Key, Kind};
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
    fn new(control: ControlState, last: Place) -> Rig {
        let version = control.file.version;
        let mapper = Mapper::new(control, last);
        Rig { layers: Arc::new(LayerMap::new(Vec::new())), mapper, batch: Batch::default(), version }
    }

    fn snapshot(&self) -> Snapshot {
        self.layers.snapshot()
    }

    /// Asks the store as it is at `lsn`.
    fn at<T>(&self, lsn: Lsn, ask: impl FnOnce(&At<'_>) -> T) -> T {
        ask(&At { snapshot: &self.snapshot(), lsn, version: self.version })
    }

    fn blob(&self, key: Key, lsn: Lsn) -> Option<Vec<u8>> {
        self.at(lsn, |at| at.blob(key)).expect("the store is in memory").map(|b| b.to_vec())
    }

    /// A page as readers get it.
    fn page(&self, key: Key, lsn: Lsn) -> Result<Option<Box<Page>>, LookError> {
        let (file, page) = match key.tag() {
            Some(tag) => (Key::rel_size(tag.fork), tag.blk),
            None => (Key::numbered(Kind::SlruSegment, key.spc, key.blk / SEGMENT_PAGES), key.blk % SEGMENT_PAGES),
        };
        let extent = self.blob(file, lsn).map(|b| Extent::decode(&b).expect("a size"));
        let since = extent.filter(|e| page < e.blocks).and_then(|extent| extent.since(page));
        let found = self.at(lsn, |at| at.page(key, since))?;
        Ok(found.or_else(|| since.map(|_| Page::zeroed())))
    }

    /// What stands in the batch goes into the store.
    fn publish(&mut self) {
        let snapshot = self.layers.snapshot();
        let at = At { snapshot: &snapshot, lsn: TIP, version: self.version };
        self.mapper.finish(&mut self.batch, &at);
        self.layers.append(&mut self.batch).expect("versions are in order");
    }

    fn feed(&mut self, record: &Record) -> Result<(), MapError> {
        let snapshot = self.layers.snapshot();
        let at = At { snapshot: &snapshot, lsn: TIP, version: self.version };
        let mut progress = self.mapper.record(&record.by_ref(), &mut self.batch, &at)?;
        while progress == Progress::More {
            self.layers.append(&mut self.batch).expect("versions are in order");
            let snapshot = self.layers.snapshot();
            let at = At { snapshot: &snapshot, lsn: TIP, version: self.version };
            progress = self.mapper.resume(&mut self.batch, &at)?;
        }
        Ok(())
    }
}

/// A control file of a cluster whose last checkpoint, at shutdown, is at `checkpoint`.
pub(super) fn control_file(version: PgMajor, checkpoint: Lsn) -> ControlFile {
    ControlFile {
        version,
        system_id: 7,
        state: DbState::Shutdown,
        time: 0,
        checkpoint,
        checkpoint_copy: CheckPoint {
            redo: checkpoint,
            tli: Tli(1),
            prev_tli: Tli(1),
            full_page_writes: true,
            wal_level: if version.has_checkpoint_redo() { 1 } else { 0 },
            next_xid: 700,
            next_oid: 16384,
            next_multi: 1,
            next_multi_offset: 0,
            oldest_xid: 3,
            oldest_xid_db: 1,
            oldest_multi: 1,
            oldest_multi_db: 1,
            time: 0,
            oldest_commit_ts_xid: 0,
            newest_commit_ts_xid: 0,
            oldest_active_xid: 0,
        },
        unlogged_lsn: Lsn::new(1000),
        min_recovery_point: Lsn::new(0),
        min_recovery_point_tli: Tli(0),
        backup_start: Lsn::new(0),
        backup_end: Lsn::new(0),
        backup_end_required: false,
        parameters: Parameters { wal_level: 1, ..Parameters::default() },
        seg_size: SegSize::new(1 << 24).expect("a power of two"),
        float8_by_val: true,
        data_checksum_version: 0,
        char_signed: true,
        mock_nonce: [0; 32],
    }
}
