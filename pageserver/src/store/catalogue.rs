//! Which manifest of a timeline counts, and which layer files there are. One thread at a time changes it.
//!
//! Owner of the timeline's [`Ownership`], of the list of files, and of the durable position. Who changes the manifest
//! has the turn for that until storage has answered: no two manifests are ever written at a time. Who only asks finds
//! what counted last, and waits for nobody. Deletions take no turn: what may go is for no later manifest to name.
//!
//! Invariants:
//! 1. what is durable ([`Durable`]) comes from a manifest that counts, never from a write that may have failed;
//! 2. the manifest that is shown and the files change in one step, and only when the manifest counts;
//! 3. no layer is written and none is deleted before the timeline is claimed ([`Catalogue::claim`]): it opens for reads
//!    where storage is full or away, and takes versions in once it is claimed;
//! 4. no lock is held while storage is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blobs::{BlobError, BlobErrorKind, Blobs};
use pgformat::Lsn;
use tokio::sync::watch;

use super::LAYERS;
use super::config::StoreShared;
use super::files::{LayerFileError, LayerFiles};
use super::manifest::{Durable, Manifest, ManifestError, Manifests, Ownership};
use super::order::{Lock, Rank, Turn};

/// Why storage does not have what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// A layer is missing.
    #[error(transparent)]
    File(#[from] LayerFileError),
    /// A manifest is missing.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl WriteError {
    /// What to do about it.
    pub(crate) fn kind(&self) -> BlobErrorKind {
        match self {
            WriteError::File(e) => e.kind(),
            WriteError::Manifest(e) => e.kind(),
        }
    }
}

/// What counted last.
struct Listing {
    manifest: Arc<Manifest>,
    files: LayerFiles,
}

/// The manifest and the files of one timeline.
pub(super) struct Catalogue {
    shared: StoreShared,
    blobs: Arc<dyn Blobs>,
    ownership: Turn<Ownership>,
    listing: Lock<Listing>,
    durable: watch::Sender<(Durable, Option<Lsn>)>,
    /// See invariant 3.
    is_claimed: AtomicBool,
}

impl Catalogue {
    /// Creates a timeline in storage.
    ///
    /// # Errors
    /// When it exists, and those of storage.
    pub(super) fn create(shared: StoreShared, blobs: Arc<dyn Blobs>, first: Manifest) -> Result<Catalogue, WriteError> {
        let manifests = Manifests::create(blobs.clone(), shared.clock.clone(), shared.config.grace, first)?;
        let catalogue = Catalogue::new(shared, blobs, manifests, LayerFiles::default());
        catalogue.is_claimed.store(true, Ordering::Release);
        Ok(catalogue)
    }

    /// Opens a timeline at its highest manifest, with every file of it. Says also why the claim could not be written,
    /// if storage was full or away.
    ///
    /// # Errors
    /// When it does not exist or is damaged, and those of storage when it cannot be read.
    pub(super) fn open(
        shared: StoreShared,
        blobs: Arc<dyn Blobs>,
    ) -> Result<(Catalogue, Option<ManifestError>), WriteError> {
        let manifests = Manifests::open(blobs.clone(), shared.clock.clone(), shared.config.grace)?;
        let files = LayerFiles::open(&*blobs, &shared, manifests.current())?;
        let unclaimed = manifests.unclaimed().cloned();
        Ok((Catalogue::new(shared, blobs, manifests, files), unclaimed))
    }

    fn new(shared: StoreShared, blobs: Arc<dyn Blobs>, manifests: Manifests, files: LayerFiles) -> Catalogue {
        let (manifest, durable) = (manifests.current().clone(), manifests.durable());
        let start = manifest.last_record_start;
        Catalogue {
            shared,
            blobs,
            ownership: Turn::new(Rank::Manifest, Ownership::Held(Box::new(manifests))),
            listing: Lock::new(Rank::Listing, Listing { manifest: Arc::new(manifest), files }),
            durable: watch::Sender::new((durable, start)),
            is_claimed: AtomicBool::new(false),
        }
    }

    /// What the manifest that counts says.
    pub(super) fn manifest(&self) -> Arc<Manifest> {
        self.listing.lock().manifest.clone()
    }

    /// Asks or tells something about the files; a few steps.
    pub(super) fn files<T>(&self, about: impl FnOnce(&mut LayerFiles) -> T) -> T {
        about(&mut self.listing.lock().files)
    }

    /// Up to where everything is durable, and where the record that ends there starts.
    pub(super) fn durable(&self) -> watch::Receiver<(Durable, Option<Lsn>)> {
        self.durable.subscribe()
    }

    /// Up to where everything is durable now.
    pub(super) fn durable_now(&self) -> Durable {
        self.durable.borrow().0
    }

    /// Whether the timeline is ours to write.
    pub(super) fn is_claimed(&self) -> bool {
        self.is_claimed.load(Ordering::Acquire)
    }

    /// Claims the timeline, if that was not possible when it was opened, and finds the files that nothing names.
    ///
    /// # Errors
    /// By [`WriteError::kind`].
    pub(super) fn claim(&self) -> Result<(), WriteError> {
        if self.is_claimed() {
            return Ok(());
        }
        let mut ownership = self.ownership.take();
        if !self.is_claimed() {
            // Nothing to change: the claim itself is what is repeated.
            let claimed = ownership.advance(|_| {});
            self.show(&ownership, |_| {});
            claimed?;
            // Before the first layer is written, and not before others were fenced: neither's are mistaken for garbage.
            self.take_stock()?;
            self.is_claimed.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Removes what interrupted writes left and takes note of the files that the manifest does not list. Other writers
    /// are fenced, and none of our own files is being written.
    fn take_stock(&self) -> Result<(), LayerFileError> {
        self.blobs.clean(LAYERS)?;
        let since = self.shared.clock.now();
        let found = self.blobs.list(LAYERS)?;
        let names = found.iter().filter_map(|blob| blob.name.split_once('/')).map(|(_, name)| name);
        self.files(|files| files.note_strays(names, since));
        Ok(())
    }

    /// Changes the manifest, and then the files; when this returns, the change is durable and counts. See
    /// [`Ownership::advance`].
    ///
    /// # Errors
    /// Those of storage. The manifest may come to count later, then without the change of files: repeated, both are
    /// made.
    pub(super) fn edit(
        &self,
        edit: impl FnOnce(&mut Manifest),
        files: impl FnOnce(&mut LayerFiles),
    ) -> Result<(), ManifestError> {
        let mut ownership = self.ownership.take();
        let result = ownership.advance(edit);
        match &result {
            Ok(()) => self.show(&ownership, files),
            // An earlier change, whose outcome was unknown, may have come to count.
            Err(_) => self.show(&ownership, |_| {}),
        }
        result
    }

    /// Makes public what counts now, before anybody else changes it.
    fn show(&self, ownership: &Ownership, change: impl FnOnce(&mut LayerFiles)) {
        let Some((manifest, durable)) = ownership.counting() else { return };
        let now = (durable, manifest.last_record_start);
        let manifest = Arc::new(manifest.clone());
        let mut listing = self.listing.lock();
        listing.manifest = manifest;
        change(&mut listing.files);
        drop(listing);
        self.durable.send_if_modified(|durable| {
            let moved = durable.0 < now.0;
            *durable = now;
            moved
        });
    }

    /// Deletes manifests and files that nothing needs any more; returns how many.
    ///
    /// # Errors
    /// Those of storage; the rest is tried again.
    pub(super) fn collect(&self) -> Result<usize, ManifestError> {
        let Some(mut sweep) = self.ownership.take().begin_sweep() else { return Ok(0) };
        let manifests = sweep.run();
        self.ownership.take().end_sweep(sweep);
        Ok(manifests? + self.collect_files()?)
    }

    /// What is due belongs to this thread from when it is taken off the list: nobody else deletes it.
    fn collect_files(&self) -> Result<usize, BlobError> {
        let (now, grace) = (self.shared.clock.now(), self.shared.config.grace);
        let mut due = self.files(|files| files.take_due(now, grace));
        let mut deleted = 0;
        while let Some((name, garbage)) = due.pop_first() {
            if let Err(e) = self.blobs.delete(&format!("{LAYERS}/{name}")) {
                due.insert(name, garbage);
                self.files(|files| files.put_back(due));
                return Err(e);
            }
            deleted += 1;
        }
        Ok(deleted)
    }
}
