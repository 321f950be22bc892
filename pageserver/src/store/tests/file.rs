//! The layer file: round trip, and every kind of damage.

use std::sync::Arc;

use bytes::Bytes;
use pgformat::Lsn;

use crate::cluster::key::{Key, KeyKind};
use crate::cluster::value::ValueKind;
use crate::store::layer::{Compression, Through};
use crate::store::testing::{MemoryFile, Model, layer_bytes};
use crate::store::{BlockCache, Layer, LayerWriter, StoreError, WriteOptions};

fn block(rel: u32, blk: u32) -> Key {
    Key { spc: 1663, db: 5, rel, blk, ..Key::first(KeyKind::Block) }
}

/// A few keys with chains of different lengths: one longer than a block, one value larger than a block.
fn small_model() -> Model {
    let mut model = Model::default();
    let mut put = |key, lsn: u64, kind, len: usize| {
        let value = (0..len).map(|i| ((i as u64 * lsn) >> 3) as u8).collect::<Vec<u8>>();
        model.0.insert((key, Lsn::new(lsn)), (kind, Bytes::from(value)));
    };
    for n in 0..6 {
        put(block(16384, n), 0x1000 + u64::from(n), ValueKind::Image, 40);
        put(block(16384, n), 0x2000 + u64::from(n) * 8, ValueKind::Change, 3);
    }
    for n in 0..40 {
        put(block(16385, 7), 0x3000 + n * 8, if n % 25 == 0 { ValueKind::Init } else { ValueKind::Change }, 11);
    }
    put(block(16385, 8), 0x4000, ValueKind::Image, 700);
    put(Key::numbered(KeyKind::RelMap, 1664, 0), 0x1_0000_0000, ValueKind::Blob, 0);
    put(Key::numbered(KeyKind::RelMap, 1664, 0), 0x1_0000_0008, ValueKind::Tombstone, 0);
    model
}

fn options(compression: Compression) -> WriteOptions {
    WriteOptions { block_bytes: 150, compression }
}

fn open(bytes: Vec<u8>) -> Result<Arc<Layer>, StoreError> {
    let file = MemoryFile { name: "layer-7".to_owned(), bytes: bytes.into() };
    Layer::open(Arc::new(file), &BlockCache::new(1 << 20))
}

/// Every key and every LSN out of a layer: equal to the model's, or an error; how many errors, and one of them.
fn read_all(layer: Arc<Layer>, model: &Model) -> (usize, Option<StoreError>) {
    let map = crate::store::LayerMap::new(vec![layer.clone()]);
    let snapshot = map.snapshot();
    let (mut errors, mut last) = (0, None);
    for (key, lsn) in model.0.keys() {
        match snapshot.history(*key, *lsn) {
            Ok(history) => assert_eq!(history, model.history(*key, *lsn)),
            Err(e) => (errors, last) = (errors + 1, Some(e)),
        }
    }
    let mut versions = Vec::new();
    for v in layer.iter(.., Through::Bulk) {
        match v {
            Ok(v) => versions.push(v),
            Err(e) => last = Some(e),
        }
    }
    let expected = model.versions();
    assert_eq!(versions, expected[..versions.len()]);
    assert!(last.is_some() || versions.len() == expected.len());
    (errors, last)
}

/// Goal: what is written is read, with every block size. Method: round trip, counts compared.
#[test]
fn a_layer_reads_as_it_was_written() {
    let model = small_model();
    for compression in [Compression::None, Compression::Lz4] {
        for block_bytes in [1, 60, 150, 1000, 100_000] {
            let (summary, bytes) = layer_bytes(model.versions(), WriteOptions { block_bytes, compression });
            assert_eq!(summary.file_bytes, bytes.len() as u64);
            assert_eq!((summary.versions, summary.chains), (55, 9));
            let layer = open(bytes).expect("a whole file");
            assert_eq!(*layer.summary(), summary);
            assert!(read_all(layer, &model).1.is_none());
        }
    }
}

/// Goal: version 1 stays readable, and is what is written. Method: golden files; the bytes of LZ4 are its library's
/// own.
#[test]
fn golden_files_of_version_1() {
    let model = small_model();
    let plain = include_bytes!("../../../testdata/layer-v1.bin");
    let compressed = include_bytes!("../../../testdata/layer-v1-lz4.bin");
    for golden in [&plain[..], &compressed[..]] {
        assert!(read_all(open(golden.to_vec()).expect("a whole file"), &model).1.is_none());
    }
    assert!(compressed.len() < plain.len());
    let written = layer_bytes(model.versions(), options(Compression::None)).1;
    assert!(written == plain, "the format has changed: give it a new version");
}

/// Goal: no flipped byte gives a wrong answer. Method: every byte of a small file, all bits and one bit: opening or
/// reading fails, what is still answered is right, and a damaged block spoils its own keys only.
#[test]
fn every_flipped_byte_is_detected() {
    let model = small_model();
    for compression in [Compression::None, Compression::Lz4] {
        let (_, bytes) = layer_bytes(model.versions(), options(compression));
        let (mut in_blocks, mut at_open) = (0, 0);
        for at in 0..bytes.len() {
            for flip in [0xFF, 1 << (at % 8)] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                match open(damaged) {
                    Ok(layer) => {
                        let (errors, last) = read_all(layer, &model);
                        let message = last.map(|e| e.to_string()).unwrap_or_default();
                        assert!(message.contains("layer-7 is damaged at offset"), "byte {at}: {message:?}");
                        assert!(message.contains("lost are keys"), "byte {at}: {message:?}");
                        assert!(errors < 41, "byte {at}: {errors} of 55 reads fail");
                        in_blocks += 1;
                    }
                    Err(e) => {
                        assert!(matches!(e, StoreError::Damaged(_)), "byte {at}: {e}");
                        at_open += 1;
                    }
                }
            }
        }
        assert!(in_blocks > 800 && at_open > 500, "{in_blocks} in blocks, {at_open} at opening");
    }
}

/// Goal: a file of the wrong length is refused. Method: every shorter length, and one byte more.
#[test]
fn a_cut_or_lengthened_file_is_refused() {
    let (_, bytes) = layer_bytes(small_model().versions(), options(Compression::Lz4));
    for len in 0..bytes.len() {
        let e = open(bytes[..len].to_vec()).err().expect("a cut file");
        assert!(matches!(&e, StoreError::Damaged(d) if d.file == "layer-7" && d.keys.is_none()), "{len}: {e}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(open(longer).is_err());
}

/// Goal: files of a later version are refused by name, not misread. Method: version and features raised, checksum
/// right.
#[test]
fn unknown_versions_and_features_are_refused() {
    let (_, bytes) = layer_bytes(small_model().versions(), options(Compression::Lz4));
    for (at, value, word) in [(8, 2, "version 2"), (12, 3, "features 0x2"), (15, 0x80, "features 0x80000000")] {
        let mut later = bytes.clone();
        later[at] = value;
        let crc = crc32c::crc32c(&later[..16]);
        later[16..20].copy_from_slice(&crc.to_le_bytes());
        let e = open(later).err().expect("it is not known");
        assert!(matches!(e, StoreError::Unsupported { .. }) && e.to_string().contains(word), "{e}");
    }
}

/// Goal: a layer is in order or is not written. Method: a key, an LSN backwards, the same again; nothing at all.
#[test]
fn the_writer_refuses_what_is_out_of_order() {
    let first = (block(16384, 5), Lsn::new(80));
    for (key, lsn) in [(block(16384, 4), 100), (first.0, 79), (first.0, 80)] {
        let mut writer = LayerWriter::new(Vec::new(), WriteOptions::default()).expect("memory");
        writer.push(first.0, first.1, ValueKind::Image, b"").expect("the first");
        assert!(writer.push(key, Lsn::new(lsn), ValueKind::Image, b"").is_err());
    }
    let empty = LayerWriter::new(Vec::new(), WriteOptions::default()).expect("memory");
    assert!(empty.finish().is_err());
}

/// Goal: nothing is read for a cached answer. Method: the file is emptied behind an open layer.
#[test]
fn a_cached_answer_reads_nothing() {
    /// Fails once it was told to.
    struct Gone(MemoryFile, Arc<std::sync::atomic::AtomicBool>);
    impl blobs::ReadAt for Gone {
        fn read_at(&self, offset: u64, len: usize) -> std::io::Result<Bytes> {
            let gone = self.1.load(std::sync::atomic::Ordering::Relaxed);
            if gone { Err(std::io::ErrorKind::PermissionDenied.into()) } else { self.0.read_at(offset, len) }
        }
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn name(&self) -> &str {
            self.0.name()
        }
    }
    let model = small_model();
    let (_, bytes) = layer_bytes(model.versions(), options(Compression::Lz4));
    let gone = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let file = Gone(MemoryFile { name: "layer-8".to_owned(), bytes: bytes.into() }, gone.clone());
    let cache = BlockCache::new(1 << 20);
    let layer = Layer::open(Arc::new(file), &cache).expect("a whole file");
    let snapshot = crate::store::LayerMap::new(vec![layer]).snapshot();
    let (read, other) = (block(16385, 7), block(16384, 0));
    assert_eq!(snapshot.try_history_cached(read, Lsn::MAX, None), None);
    snapshot.history(read, Lsn::MAX).expect("a whole file");
    gone.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(snapshot.try_history_cached(read, Lsn::MAX, None), Some(model.history(read, Lsn::MAX)));
    assert_eq!(snapshot.try_history_cached(other, Lsn::MAX, None), None);
    let e = snapshot.history(other, Lsn::MAX).expect_err("the file cannot be read");
    assert!(matches!(e, StoreError::Io { .. }) && e.to_string().starts_with("layer-8, offset 20"), "{e}");
    let unknown = block(1, 1);
    assert_eq!(snapshot.try_history_cached(unknown, Lsn::MAX, None), Some(model.history(unknown, Lsn::MAX)));
    assert!(cache.stats().hits > 0 && cache.stats().misses > 0 && cache.stats().bytes > 0);
}
