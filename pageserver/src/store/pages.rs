//! Pages that took long to build, in memory, bounded in bytes, one cache for all timelines of the process.
//!
//! A page as it was after one of its versions never changes: what is kept stays right, and a later read begins there
//! instead of redoing the same changes again. Only pages with long chains are kept; others are built as quickly as they
//! are copied.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgformat::Lsn;
use pgformat::page::{PAGE_SIZE, Page};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::cluster::key::Key;

/// Changes that make a page worth keeping: to redo so many takes longer than to copy a page.
const LONG_CHAIN: usize = 8;
/// Bytes of a page with its key, pointers, and the cache's own list.
const PAGE_MEMORY: u64 = PAGE_SIZE as u64 + 128;

/// A page as it was after its version `lsn`.
pub(crate) struct KeptPage {
    /// The newest version that is in it.
    pub(crate) lsn: Lsn,
    /// The page, ready to be given out or built on.
    pub(crate) page: Page,
}

/// The newest build of a page: which timeline's, which page.
type PageId = (u64, Key);

#[derive(Clone)]
struct PageWeight;

impl Weighter<PageId, Arc<KeptPage>> for PageWeight {
    fn weight(&self, _: &PageId, _: &Arc<KeptPage>) -> u64 {
        PAGE_MEMORY
    }
}

/// Pages with long chains that were built lately, of all timelines of the process.
pub(crate) struct PageCache {
    pages: Cache<PageId, Arc<KeptPage>, PageWeight>,
    timelines: AtomicU64,
}

impl PageCache {
    /// A cache of at most `capacity` bytes.
    pub(crate) fn new(capacity: u64) -> Arc<PageCache> {
        let pages = (capacity / PAGE_MEMORY).max(16) as usize;
        Arc::new(PageCache { pages: Cache::with_weighter(pages, capacity, PageWeight), timelines: AtomicU64::new(0) })
    }

    /// The pages of a timeline that was just opened. What was kept of the same one before is not found any more.
    pub(crate) fn of_timeline(self: &Arc<PageCache>) -> Pages {
        Pages { cache: self.clone(), timeline: self.timelines.fetch_add(1, Ordering::Relaxed) }
    }
}

/// The pages of one timeline, the one that owns the versions.
#[derive(Clone)]
pub(crate) struct Pages {
    cache: Arc<PageCache>,
    timeline: u64,
}

impl Pages {
    /// A page to begin with when it is read at `lsn`.
    pub(crate) fn at(&self, key: Key, lsn: Lsn) -> Option<Arc<KeptPage>> {
        self.cache.pages.get(&(self.timeline, key)).filter(|built| built.lsn <= lsn)
    }

    /// The page was built from `changes` changes: keeps it when that was long, and nothing newer is kept.
    pub(crate) fn keep(&self, key: Key, lsn: Lsn, changes: usize, page: &Page) {
        let id = (self.timeline, key);
        if changes >= LONG_CHAIN && self.cache.pages.peek(&id).is_none_or(|kept| kept.lsn < lsn) {
            self.cache.pages.insert(id, Arc::new(KeptPage { lsn, page: page.clone() }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::key::KeyKind;

    /// Goal: only the newest build of a long chain is kept, for reads at or behind it, for its own timeline.
    #[test]
    fn a_kept_page_is_found_by_later_reads_of_its_timeline() {
        let cache = PageCache::new(1 << 20);
        let (one, other) = (cache.of_timeline(), cache.of_timeline());
        let key = Key::first(KeyKind::Block);
        let page = |byte| Page([byte; PAGE_SIZE]);
        let kept = |pages: &Pages, lsn| pages.at(key, Lsn::new(lsn)).map(|b| (b.lsn.get(), b.page.0[0]));
        one.keep(key, Lsn::new(50), LONG_CHAIN - 1, &page(1));
        assert_eq!(kept(&one, 100), None);
        one.keep(key, Lsn::new(50), LONG_CHAIN, &page(2));
        one.keep(key, Lsn::new(40), LONG_CHAIN, &page(3));
        assert_eq!((kept(&one, 49), kept(&one, 50), kept(&other, 50)), (None, Some((50, 2)), None));
        one.keep(key, Lsn::new(60), LONG_CHAIN, &page(4));
        assert_eq!((kept(&one, 59), kept(&one, 60)), (None, Some((60, 4))));
    }

    /// Goal: memory is bounded.
    #[test]
    fn no_more_is_kept_than_fits() {
        let cache = PageCache::new(1 << 20);
        let pages = cache.of_timeline();
        for blk in 0..1000 {
            let key = Key { blk, ..Key::first(KeyKind::Block) };
            pages.keep(key, Lsn::new(1), LONG_CHAIN, &Page([0; PAGE_SIZE]));
        }
        assert!(cache.pages.weight() <= 1 << 20);
        assert!(!cache.pages.is_empty());
    }
}
