//! A timeline's own store as readers see it.

use std::sync::{Arc, OnceLock};

use pgformat::{Lsn, PgMajor, SegSize};

use super::store::StoredVersions;
use super::{Fault, LayerRow, TimelineReads, Versions, WantedEnd};
use crate::cluster::error::LookError;
use crate::cluster::records::{RecordSpan, floor_record};
use crate::cluster::state::{ClusterState, STATE_KEY};
use crate::cluster::xacts::{XactEntry, first_end};
use crate::store::Store;
use crate::store::pages::Pages;
use crate::store::state::StateAt;

/// Reads of one store.
pub(crate) struct LiveReads {
    store: Arc<Store>,
    version: PgMajor,
    pages: Pages,
    /// Once it is known: it does not change while a cluster runs, and an import takes it from the control file.
    has_checksums: OnceLock<bool>,
}

impl LiveReads {
    /// Reads `store`, redoing as `version` does.
    pub(crate) fn new(store: Arc<Store>, version: PgMajor) -> LiveReads {
        let pages = store.pages();
        LiveReads { store, version, pages, has_checksums: OnceLock::new() }
    }
}

fn of_look(e: LookError) -> Fault {
    match e {
        LookError::Away(text) => Fault::Io(text),
        other => Fault::Damaged(other.to_string()),
    }
}

impl TimelineReads for LiveReads {
    fn readable_from(&self) -> Option<Lsn> {
        self.store.readable_from()
    }

    fn versions(&self) -> Arc<dyn Versions> {
        Arc::new(StoredVersions::new(self.store.snapshot(), self.version, self.pages.clone()))
    }

    fn has_checksums(&self) -> bool {
        if let Some(known) = self.has_checksums.get() {
            return *known;
        }
        let state = self.store.snapshot().blob(STATE_KEY, Lsn::MAX).ok().flatten();
        let state = state.and_then(|bytes| ClusterState::decode(&bytes).ok());
        let known = state.map(|(_, state)| state.file.data_checksum_version != 0);
        match known.filter(|_| self.readable_from().is_some()) {
            Some(known) => *self.has_checksums.get_or_init(|| known),
            None => known.unwrap_or(false),
        }
    }

    fn control(&self, lsn: Lsn) -> Result<ClusterState, Fault> {
        let snapshot = self.store.snapshot();
        let at = |lsn| StateAt { snapshot: &snapshot, lsn, version: self.version };
        ClusterState::load(&at(lsn), &at(Lsn::MAX), lsn).map_err(of_look)
    }

    fn last_record(&self, lsn: Lsn, seg: SegSize) -> Result<Option<RecordSpan>, Fault> {
        let snapshot = self.store.snapshot();
        let tip = StateAt { snapshot: &snapshot, lsn: Lsn::MAX, version: self.version };
        floor_record(&tip, lsn, seg).map_err(of_look)
    }

    fn first_end(&self, from: Lsn, to: Lsn, wanted: &mut WantedEnd<'_>) -> Result<Option<XactEntry>, Fault> {
        let snapshot = self.store.snapshot();
        let tip = StateAt { snapshot: &snapshot, lsn: Lsn::MAX, version: self.version };
        first_end(&tip, from, to, wanted).map_err(of_look)
    }

    fn layers(&self) -> Vec<LayerRow> {
        let snapshot = self.store.snapshot();
        let set = snapshot.set();
        let memory = |kind: &str, layer: &crate::store::open::OpenLayer| {
            let size = layer.size();
            size.lsns.map(|lsns| LayerRow {
                name: String::new(),
                kind: kind.to_owned(),
                lsns,
                keys: None,
                versions: size.versions as u64,
                bytes: size.memory as u64,
            })
        };
        let levels: std::collections::HashMap<String, u32> =
            self.store.manifest().layers.iter().map(|l| (l.name.clone(), l.level)).collect();
        let open = memory("open", &set.open).into_iter();
        let frozen = set.frozen.iter().rev().filter_map(|layer| memory("frozen", layer));
        let files = set.layers.iter().map(|layer| {
            let (name, s) = (layer.name().to_owned(), layer.summary());
            let level = levels.iter().find(|(file, _)| name.ends_with(file.as_str())).map_or(0, |(_, level)| *level);
            LayerRow {
                kind: format!("level {level}"),
                name,
                lsns: (s.first_lsn, s.last_lsn),
                keys: Some((s.keys.first, s.keys.last)),
                versions: s.versions,
                bytes: s.file_bytes,
            }
        });
        open.chain(frozen).chain(files).collect()
    }
}
