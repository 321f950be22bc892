//! Opening many timelines at a time, at start. Owner of nothing.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::available_parallelism;

/// Threads per processor: most of them wait for the disk.
const THREADS_PER_PROCESSOR: usize = 4;

/// Opens each of `ids` on a bounded number of threads; gives what was opened in the order of `ids`, or the first error
/// in that order.
pub(super) fn open_all<I, T, E>(ids: &[I], open: impl Fn(I) -> Result<T, E> + Sync) -> Result<Vec<(I, T)>, E>
where
    I: Copy + Sync + Send,
    T: Send,
    E: Send,
{
    let processors = available_parallelism().map_or(1, NonZero::get);
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let mut done = Vec::new();
        // Taken in order: when one fails, all before it were taken and come to their end.
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(id) = ids.get(at) else { break };
            let opened = open(*id);
            failed.fetch_or(opened.is_err(), Ordering::Relaxed);
            done.push((at, opened.map(|opened| (*id, opened))));
        }
        done
    };
    let mut all = Vec::with_capacity(ids.len());
    std::thread::scope(|scope| {
        let threads = ids.len().min(processors * THREADS_PER_PROCESSOR);
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in running {
            all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, opened)| opened).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_opened_in_order_and_the_first_error_counts() {
        let ids: Vec<u32> = (0..1000).collect();
        let all = open_all(&ids, |id| Ok::<_, u32>(id * 2)).expect("no error");
        assert!(all.iter().copied().eq((0..1000).map(|id| (id, id * 2))));
        for _ in 0..50 {
            let failed = open_all(&ids, |id| if id >= 40 && id % 3 == 1 { Err(id) } else { Ok(()) });
            assert_eq!(failed.expect_err("many"), 40);
        }
    }
}
