//! The task: compacts what was flushed, and ends when it is told to, also in the middle of a job.

use blobs::{Blobs, MemoryBlobs};
use pgformat::Lsn;

use super::super::manifest::Clock;
use super::super::workload::{Workload, empty, feed, shared, small};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn it_compacts_what_was_flushed_and_stops() {
    let (shared, _) = shared(small());
    let blobs: Arc<dyn Blobs> = Arc::new(MemoryBlobs::default());
    let store = Arc::new(Store::create(shared, blobs, empty()).expect("creates"));
    let work = Workload::new(41, 200, 20);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(run(store.clone(), cancel.clone()));
    let writer = store.clone();
    let end = work.records[199].position.end;
    let records = work.records.clone();
    let written = tokio::task::spawn_blocking(move || {
        for chunk in records.chunks(25) {
            feed(&writer, chunk).expect("takes them");
            writer.flush().expect("writes");
        }
    });
    written.await.expect("no panic");
    let waited = Clock::monotonic();
    while store.manifest().layers.iter().filter(|l| l.level == 0).count() > 1 {
        assert!(waited.now() < Duration::from_secs(60), "layers are still not merged");
        store.compaction.flushed.notify_one();
        tokio::task::yield_now().await;
    }
    assert_eq!(work.difference(&store.snapshot(), Lsn::new(0), end, &[]), None);
    cancel.cancel();
    task.await.expect("ends");
}

#[test]
fn a_job_that_is_told_to_stop_leaves_everything_as_it_was() {
    let (shared, _) = shared(small());
    let store = Store::create(shared, Arc::new(MemoryBlobs::default()), empty()).expect("creates");
    let work = Workload::new(42, 100, 20);
    for chunk in work.records.chunks(50) {
        feed(&store, chunk).expect("takes them");
        store.flush().expect("writes");
    }
    let before = store.manifest();
    store.compaction.stop.store(true, Ordering::Relaxed);
    assert_eq!(store.compact_one().expect_err("stopped").kind(), BlobErrorKind::Retryable);
    assert_eq!(store.manifest(), before);
    store.compaction.stop.store(false, Ordering::Relaxed);
    assert!(store.compact_one().expect("works").is_some());
}
