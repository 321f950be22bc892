//! The store against a model: random batches, freezes, flushes, merges; every answer compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use pgformat::Lsn;
use proptest::prelude::*;

use crate::cluster::key::{Key, KeyKind};
use crate::cluster::value::ValueKind;
use crate::store::layer::{Compression, Through};
use crate::store::merge::{LayerIter, merge};
use crate::store::snapshot::Snapshot;
use crate::store::testing::{Model, layer};
use crate::store::{Batch, BlockCache, Layer, LayerMap, Version, WriteOptions};

/// One thing that happens to a store. Numbers pick among what there is.
#[derive(Clone, Debug)]
enum Op {
    /// Records: keys (number, choice of kind, length of value) of each.
    Batch(Vec<Vec<(u8, u8, u16)>>),
    Freeze,
    /// A frozen layer becomes a file.
    Flush(u8),
    /// Files are merged into several; the number says which version goes where. With `keep` the old ones stay too, as
    /// duplicates.
    Merge {
        first: u8,
        count: u8,
        outputs: u8,
        by: u8,
        keep: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let length = prop_oneof![8 => 0..60_u16, 1 => 60..3000_u16];
    let record = prop::collection::vec((0..24_u8, 0..10_u8, length), 1..4);
    prop_oneof![
        6 => prop::collection::vec(record, 1..12).prop_map(Op::Batch),
        2 => Just(Op::Freeze),
        2 => any::<u8>().prop_map(Op::Flush),
        1 => (any::<u8>(), 1..6_u8, 1..4_u8, 0..3_u8, prop::bool::weighted(0.2))
            .prop_map(|(first, count, outputs, by, keep)| Op::Merge { first, count, outputs, by, keep }),
    ]
}

/// 24 keys: blocks of three forks, SLRU pages, metadata.
fn key(number: u8) -> Key {
    let n = u32::from(number);
    match number {
        0..14 => Key { spc: 1663, db: 5, rel: 16384 + n % 3, blk: n / 3 * 70_000, ..Key::first(KeyKind::Block) },
        14..17 => Key::numbered(KeyKind::SlruPage, 1, n),
        17..21 => Key { spc: 1663, db: 5, rel: 16384 + n, ..Key::first(KeyKind::RelSize) },
        _ => Key::at(KeyKind::XactIndex, u64::from(n) << 30),
    }
}

struct Run {
    map: LayerMap,
    cache: Arc<BlockCache>,
    options: WriteOptions,
    model: Model,
    lsn: u64,
    /// Differs from value to value, so that no two are alike.
    stamp: u32,
}

impl Run {
    fn apply(&mut self, op: &Op) {
        let set = self.map.snapshot().set().clone();
        match op {
            Op::Batch(records) => self.batch(records),
            Op::Freeze => {
                self.map.freeze();
            }
            Op::Flush(which) if !set.frozen.is_empty() => {
                let frozen = &set.frozen[usize::from(*which) % set.frozen.len()];
                let file = layer(frozen.clone().iter(..), self.options, &self.cache);
                self.map.flushed(frozen, vec![file]);
            }
            Op::Merge { first, count, outputs, by, keep } if !set.layers.is_empty() => {
                let mut inputs = set.layers.clone();
                inputs.rotate_left(usize::from(*first) % set.layers.len());
                inputs.truncate(usize::from(*count));
                let files = self.merged(&inputs, *outputs, *by);
                self.map.replace(if *keep { &[] } else { &inputs }, files);
            }
            _ => {}
        }
    }

    fn batch(&mut self, records: &[Vec<(u8, u8, u16)>]) {
        let mut batch = Batch::default();
        for record in records {
            self.lsn += 8;
            let lsn = Lsn::new(self.lsn);
            for number in record.iter().map(|(number, ..)| *number).collect::<BTreeSet<u8>>() {
                let (_, choice, len) = *record.iter().find(|r| r.0 == number).expect("it is one of them");
                let kind = kind_of(number, choice);
                self.stamp += 1;
                let mut value = self.stamp.to_le_bytes().to_vec();
                value.resize(usize::from(len).max(4), choice);
                if kind == ValueKind::Tombstone {
                    value.clear();
                }
                batch.put(key(number), lsn, kind, |out| out.extend_from_slice(&value));
                self.model.0.insert((key(number), lsn), (kind, Bytes::from(value)));
            }
        }
        self.map.append(&mut batch).expect("versions in order");
        assert!(batch.len() == 0 && batch.bytes() == 0);
    }

    /// The inputs' versions spread over `outputs` files: by key, by LSN, or one here and one there.
    fn merged(&self, inputs: &[Arc<Layer>], outputs: u8, by: u8) -> Vec<Arc<Layer>> {
        let iters = inputs.iter().map(|l| LayerIter::File(l.iter(.., Through::Bulk))).collect();
        let versions: Vec<(Key, Version)> = merge(iters).map(|v| v.expect("whole files")).collect();
        assert!(versions.is_sorted_by(|a, b| (a.0, a.1.lsn) < (b.0, b.1.lsn)));
        let outputs = u64::from(outputs);
        let output = |i: usize, v: &Version| match by {
            0 => i as u64 * outputs / versions.len() as u64,
            1 => v.lsn.get() * outputs / (self.lsn + 1),
            _ => v.lsn.get() / 8 * 7 % outputs,
        };
        let part = |o| versions.iter().enumerate().filter(move |(i, v)| output(*i, &v.1) == o).map(|(_, v)| v.clone());
        let parts = (0..outputs).filter(|o| part(*o).next().is_some());
        parts.map(|o| layer(part(o), self.options, &self.cache)).collect()
    }

    /// Compares every key at every LSN, and scans and streams at some.
    fn check(&self) -> Result<(), TestCaseError> {
        let snapshot = self.map.snapshot();
        let mut turned = snapshot.set().clone();
        turned.layers.reverse();
        turned.frozen.reverse();
        let turned = Snapshot::new(Arc::new(turned));
        let keys: Vec<Key> = (0..25).map(key).collect();
        for lsn in (0..=self.lsn + 8).step_by(4).map(Lsn::new) {
            let histories: Vec<_> = keys.iter().map(|key| snapshot.history(*key, lsn)).collect();
            for (key, history) in keys.iter().zip(histories) {
                let expected = self.model.history(*key, lsn);
                prop_assert_eq!(history.expect("whole files"), expected.clone(), "{} at {}", key, lsn);
                prop_assert_eq!(turned.history(*key, lsn).expect("whole files"), expected.clone(), "order matters");
                prop_assert_eq!(snapshot.try_history_cached(*key, lsn, None), Some(expected), "all is in the cache");
            }
        }
        for lsn in [0, self.lsn / 3, self.lsn / 2, self.lsn].map(Lsn::new) {
            let all = Key::first(KeyKind::Block)..Key::all_of(KeyKind::RecordIndex).end;
            // The third is the wrong way round: nothing lies in it.
            for range in [all, Key::all_of(KeyKind::RelSize), key(15)..key(19), key(18)..key(16), key(3)..key(12)] {
                let found = snapshot.scan(range.clone(), lsn).expect("whole files");
                prop_assert_eq!(found, self.model.scan(range, lsn));
            }
        }
        let all = Key::first(KeyKind::Block)..Key::all_of(KeyKind::RecordIndex).end;
        let stream: Result<Vec<_>, _> = merge(snapshot.iters(all, Through::Bulk)).collect();
        prop_assert_eq!(stream.expect("whole files"), self.model.versions());
        Ok(())
    }
}

fn kind_of(number: u8, choice: u8) -> ValueKind {
    match (number >= 17, choice) {
        (false, 0) => ValueKind::Image,
        (false, 1) => ValueKind::Init,
        (_, 2) => ValueKind::Tombstone,
        (false, _) => ValueKind::Change,
        (true, _) => ValueKind::Blob,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Goal: whatever the layers are, each answer is the model's. Method: random operations, then every key at every
    /// LSN and between; once more with the layers in the opposite order.
    #[test]
    fn answers_are_the_models(
        ops in prop::collection::vec(op(), 1..40),
        block_bytes in 50..2000_usize,
        compress in any::<bool>(),
    ) {
        let compression = if compress { Compression::Lz4 } else { Compression::None };
        let options = WriteOptions { block_bytes, compression };
        let cache = BlockCache::new(64 << 20);
        let mut run = Run { map: LayerMap::new(Vec::new()), cache, options, model: Model::default(), lsn: 0, stamp: 0 };
        let half = ops.len() / 2;
        for (i, op) in ops.iter().enumerate() {
            run.apply(op);
            if i == half {
                run.check()?;
            }
        }
        run.check()?;
    }
}
