//! The order of a store's locks, and the turns of those who ask storage. Debug builds assert the order.
//!
//! A thread takes them in this order only, and each one once:
//!
//! | rank | what | holder may ask storage |
//! |---|---|---|
//! | [`Rank::Flush`] | the turn to write layers out of memory | yes |
//! | [`Rank::Compaction`] | the turn to merge layers | yes |
//! | [`Rank::Manifest`] | the turn to write a manifest | yes |
//! | [`Rank::Memory`] | the lock of what waits for being written | no |
//! | [`Rank::Listing`] | the lock of the manifest that counts, and of its files | no |
//!
//! A *turn* is a thing that one thread at a time has. Who wants it waits until it comes back, maybe as long as storage
//! hangs: only work that asks storage itself takes turns. A *lock* is held for a few steps in memory; readers, intake
//! and status take nothing else. The set of layers and the layer in memory have locks of their own, which take none of
//! these: they come last.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Where in the order something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Rank {
    /// The turn to write layers out of memory.
    Flush,
    /// The turn to merge layers.
    Compaction,
    /// The turn to write a manifest.
    Manifest,
    /// The lock of what waits for being written.
    Memory,
    /// The lock of the manifest that counts, and of its files.
    Listing,
}

impl Rank {
    /// Whether who has it may ask storage.
    const fn is_turn(self) -> bool {
        matches!(self, Rank::Flush | Rank::Compaction | Rank::Manifest)
    }
}

thread_local! {
    /// What this thread has, ascending; in debug builds.
    static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
}

/// Says that the thread has something of this rank.
struct HeldRank {
    rank: Rank,
    /// What one thread took, no other gives back.
    stays_here: PhantomData<*const ()>,
}

impl HeldRank {
    /// Before waiting for it: the wrong order is found in every run, not only in the one that hangs.
    fn take(rank: Rank) -> HeldRank {
        if cfg!(debug_assertions) {
            let highest = HELD.with_borrow(|held| held.last().copied());
            assert!(highest < Some(rank), "{rank:?} is taken by a thread that has {highest:?}");
            HELD.with_borrow_mut(|held| held.push(rank));
        }
        HeldRank { rank, stays_here: PhantomData }
    }
}

impl Drop for HeldRank {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            HELD.with_borrow_mut(|held| held.retain(|rank| *rank != self.rank));
        }
    }
}

/// Asserts that this thread has turns at most: it is about to ask storage.
pub(super) fn assert_unlocked() {
    if cfg!(debug_assertions) {
        let lock = HELD.with_borrow(|held| held.iter().copied().find(|rank| !rank.is_turn()));
        assert_eq!(lock, None, "a lock is held while storage is asked");
    }
}

/// A mutex that knows its rank.
pub(super) struct Lock<T> {
    rank: Rank,
    content: Mutex<T>,
}

impl<T> Lock<T> {
    /// A lock of this rank.
    pub(super) const fn new(rank: Rank, content: T) -> Lock<T> {
        assert!(!rank.is_turn(), "who has a turn may ask storage");
        Lock { rank, content: Mutex::new(content) }
    }

    /// Waits for others, who hold it for a few steps.
    pub(super) fn lock(&self) -> LockGuard<'_, T> {
        let held = HeldRank::take(self.rank);
        LockGuard { content: plain(&self.content), _held: held }
    }

    /// The content, of which nobody else knows any more.
    pub(super) fn get_mut(&mut self) -> &mut T {
        self.content.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The content of a lock, until it is dropped.
pub(super) struct LockGuard<'a, T> {
    content: MutexGuard<'a, T>,
    _held: HeldRank,
}

impl<T> Deref for LockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.content
    }
}

impl<T> DerefMut for LockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.content
    }
}

/// A thing that one thread at a time has, also while storage is asked.
pub(super) struct Turn<T> {
    rank: Rank,
    /// None while somebody has it.
    here: Mutex<Option<T>>,
    back: Condvar,
}

impl<T> Turn<T> {
    /// A turn of this rank.
    pub(super) const fn new(rank: Rank, thing: T) -> Turn<T> {
        assert!(rank.is_turn(), "who has a lock may not ask storage");
        Turn { rank, here: Mutex::new(Some(thing)), back: Condvar::new() }
    }

    /// Waits until nobody has it.
    pub(super) fn take(&self) -> TurnGuard<'_, T> {
        let held = HeldRank::take(self.rank);
        let mut here = plain(&self.here);
        loop {
            if let Some(thing) = here.take() {
                return TurnGuard { turn: self, thing: Some(thing), _held: held };
            }
            here = self.back.wait(here).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The thing whose turn it is; it goes back when this is dropped.
pub(super) struct TurnGuard<'a, T> {
    turn: &'a Turn<T>,
    /// Always there until it goes back.
    thing: Option<T>,
    _held: HeldRank,
}

impl<T> Deref for TurnGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.thing.as_ref().expect("it has not gone back")
    }
}

impl<T> DerefMut for TurnGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().expect("it has not gone back")
    }
}

impl<T> Drop for TurnGuard<'_, T> {
    fn drop(&mut self) {
        *plain(&self.turn.here) = self.thing.take();
        self.turn.back.notify_one();
    }
}

/// What a panic left half done in memory is not written: the manifest is changed by one call.
fn plain<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_written_order_is_allowed() {
        let (flush, manifest) = (Turn::new(Rank::Flush, ()), Turn::new(Rank::Manifest, ()));
        let (memory, listing) = (Lock::new(Rank::Memory, ()), Lock::new(Rank::Listing, ()));
        for _ in 0..2 {
            let turns = (flush.take(), manifest.take());
            assert_unlocked();
            // In whichever order they are given back.
            let locks = (memory.lock(), listing.lock());
            drop(turns);
            drop(locks);
            assert_unlocked();
        }
        drop(listing.lock());
        drop(memory.lock());
    }

    #[test]
    #[should_panic(expected = "Memory is taken by a thread that has Some(Listing)")]
    fn locks_out_of_order_are_found() {
        let (memory, listing) = (Lock::new(Rank::Memory, ()), Lock::new(Rank::Listing, ()));
        let _listing = listing.lock();
        drop(memory.lock());
    }

    #[test]
    #[should_panic(expected = "Manifest is taken by a thread that has Some(Memory)")]
    fn waiting_for_a_turn_with_a_lock_is_found() {
        let (memory, manifest) = (Lock::new(Rank::Memory, ()), Turn::new(Rank::Manifest, ()));
        let _memory = memory.lock();
        drop(manifest.take());
    }

    #[test]
    #[should_panic(expected = "Flush is taken by a thread that has Some(Flush)")]
    fn a_turn_that_the_thread_has_already_is_found() {
        let flush = Turn::new(Rank::Flush, ());
        let _mine = flush.take();
        drop(flush.take());
    }

    #[test]
    #[should_panic(expected = "a lock is held while storage is asked")]
    fn asking_storage_with_a_lock_is_found() {
        let memory = Lock::new(Rank::Memory, ());
        let _memory = memory.lock();
        assert_unlocked();
    }

    #[test]
    fn a_turn_goes_from_thread_to_thread() {
        let turn = Turn::new(Rank::Manifest, 0_u32);
        let (tell, told) = channel();
        let mut mine = turn.take();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (turn, tell) = (&turn, tell.clone());
                scope.spawn(move || {
                    tell.send(()).expect("somebody waits");
                    *turn.take() += 1;
                });
            }
            told.iter().take(8).for_each(drop);
            *mine += 100;
            drop(mine);
        });
        assert_eq!(*turn.take(), 108);
    }
}
