//! Manifests: which layers a timeline has, advanced by creating the next number.
//!
//! Owner of the one writer's view of a timeline's manifests. The highest number is the truth. It advances by creating
//! number n+1, which succeeds for one writer only; a writer that loses is *fenced* and changes nothing any more, for
//! good. There is no lock and no lease: a writer may be paused at any point and for any time.
//!
//! Invariants:
//! 1. a manifest counts (is published, makes what it dropped deletable) only when its creation succeeded *and* a
//!    listing that began afterwards shows no higher number. Old numbers are deleted, so that a writer which slept can
//!    create one of them again: the listing tells it;
//! 2. the highest manifest is never deleted, and older ones stay for the grace period after they were seen to be
//!    replaced. A listing is no snapshot: while it runs, a higher manifest can appear behind it and the one it would
//!    have met can be deleted before it gets there. Nothing that was the highest during a listing is deleted before
//!    it ends, provided that it takes less than the grace period; one that takes longer than half of it does not count;
//! 3. opening for writing claims the timeline by creating a number, so that a former writer is fenced at its next
//!    step, and what was read is durable under names that are. Where storage is full or away, the timeline is open
//!    without that: it can be read, and until the claim counts nothing else is created, nothing is deleted, and
//!    nothing is durable but that the timeline begins;
//! 4. a creation whose outcome is unknown (a lost answer, a crash of the service) is repeated with the same bytes
//!    before anything else is created: it may still take effect, at any later time, and then means the same;
//! 5. [`Durable`] is made here only, from a manifest that counts;
//! 6. a writer that is fenced does not have its [`Manifests`] any more ([`Ownership::Lost`]): it cannot try again.

mod document;
mod file;
#[cfg(test)]
mod model;
mod ownership;
mod sweep;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blobs::{BlobError, BlobErrorKind, Blobs, Creation};
use bytes::Bytes;
use pgformat::Lsn;

pub(crate) use document::{HexKey, Importing, LayerEntry, Manifest, VersionLease};
pub(crate) use file::ManifestFileError;
pub(crate) use ownership::Ownership;
pub(crate) use sweep::Sweep;

/// The folder of manifests.
pub(crate) const FOLDER: &str = "manifest";
/// A listing is repeated so often when it took too long, an opening when another one was faster.
const ATTEMPTS_MAX: u32 = 5;

/// Time since some moment, never backwards.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// The operating system's.
    pub(crate) fn monotonic() -> Clock {
        let start = Instant::now();
        Clock::new(move || start.elapsed())
    }

    /// A clock that `now` tells.
    pub(crate) fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    /// The time that has passed since that moment.
    pub(crate) fn now(&self) -> Duration {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({:?})", self.now())
    }
}

/// A position up to which everything is in storage and listed in a manifest that counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Durable(Lsn);

impl Durable {
    /// The end of the last record that is durable.
    pub(crate) fn lsn(self) -> Lsn {
        self.0
    }
}

/// Another writer has the timeline, for good: this one has nothing left to write with, see [`Ownership`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("another writer has the timeline: manifest {number:016x} is not ours; this one stops")]
pub(crate) struct Fenced {
    /// The manifest that was found in the place of ours, or above it.
    pub(crate) number: u64,
}

/// Why a timeline's manifest cannot be read or advanced.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    /// Storage gave an error for a manifest.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A file cannot be used.
    #[error("manifest {number:016x} {problem}")]
    File {
        /// The number in its name.
        number: u64,
        /// What keeps it from being used.
        problem: ManifestFileError,
    },
    /// There is a timeline already.
    #[error("the timeline exists in storage already (manifest {0:016x})")]
    Exists(u64),
    /// There is none.
    #[error("the timeline does not exist in storage")]
    Missing,
    /// Another writer has taken over.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// Storage is so slow that a listing proves nothing.
    #[error("listing the manifests took {0:?}, longer than half of the grace period")]
    Slow(Duration),
}

impl ManifestError {
    /// What to do about it.
    pub(crate) fn kind(&self) -> BlobErrorKind {
        match self {
            ManifestError::Blob(e) => e.kind,
            ManifestError::Slow(_) => BlobErrorKind::Retryable,
            _ => BlobErrorKind::Terminal,
        }
    }
}

/// The manifests of one timeline, as its one writer has them.
#[derive(Debug)]
pub(crate) struct Manifests {
    blobs: Arc<dyn Blobs>,
    clock: Clock,
    grace: Duration,
    /// Of this opening.
    writer: String,
    changes: u64,
    number: u64,
    current: Manifest,
    /// Creation, or not: see invariant 4.
    unknown: Option<(u64, Manifest, Bytes)>,
    /// Older numbers, and since when they are known to be replaced.
    replaced: BTreeMap<u64, Duration>,
    /// Why the claim of the opening does not count yet.
    unclaimed: Option<ManifestError>,
}

/// How a manifest is named.
pub(crate) fn name(number: u64) -> String {
    format!("{FOLDER}/{number:016x}")
}

fn number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(FOLDER)?.strip_prefix('/')?;
    let lower = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if digits.len() == 16 && lower { u64::from_str_radix(digits, 16).ok() } else { None }
}

impl Manifests {
    /// Creates a timeline: manifest 1.
    ///
    /// # Errors
    /// [`ManifestError::Exists`], and those of storage.
    pub(crate) fn create(
        blobs: Arc<dyn Blobs>,
        clock: Clock,
        grace: Duration,
        first: Manifest,
    ) -> Result<Manifests, ManifestError> {
        let mut manifests = Manifests::nothing(blobs, clock, grace, first.clone());
        if let Some(number) = manifests.list()?.last() {
            return Err(ManifestError::Exists(*number));
        }
        match manifests.write(first) {
            Err(ManifestError::Fenced(Fenced { number })) => Err(ManifestError::Exists(number)),
            other => other.map(|()| manifests),
        }
    }

    /// Opens a timeline for writing. Every other writer is fenced from here on; when storage has no space for that or
    /// is away, from when a later [`Manifests::advance`] succeeds: see [`Manifests::unclaimed`].
    ///
    /// # Errors
    /// [`ManifestError::Missing`], damage, and those of storage when nothing can be read.
    pub(crate) fn open(blobs: Arc<dyn Blobs>, clock: Clock, grace: Duration) -> Result<Manifests, ManifestError> {
        let mut lost = ManifestError::Missing;
        for _ in 0..ATTEMPTS_MAX {
            let Some((number, manifest)) = read_highest(&blobs, &clock, grace)? else {
                return Err(ManifestError::Missing);
            };
            let mut manifests = Manifests::nothing(blobs.clone(), clock.clone(), grace, manifest.clone());
            manifests.number = number;
            blobs.clean(FOLDER)?;
            match manifests.write(manifest) {
                // Another opening, or the former writer's last step: its manifest is the one to continue.
                Err(e @ ManifestError::Fenced(_)) => lost = e,
                Err(e) if matches!(e.kind(), BlobErrorKind::Full | BlobErrorKind::Retryable) => {
                    // The claim is an unknown creation now: whatever comes next repeats it before anything else.
                    manifests.unclaimed = Some(e);
                    return Ok(manifests);
                }
                other => return other.map(|()| manifests),
            }
        }
        Err(lost)
    }

    fn nothing(blobs: Arc<dyn Blobs>, clock: Clock, grace: Duration, current: Manifest) -> Manifests {
        Manifests {
            blobs,
            clock,
            grace,
            writer: format!("{:016x}", fastrand::u64(..)),
            changes: 0,
            number: 0,
            current,
            unknown: None,
            replaced: BTreeMap::new(),
            unclaimed: None,
        }
    }

    /// What counts; before the claim does, what was the highest.
    pub(crate) fn current(&self) -> &Manifest {
        &self.current
    }

    /// Its number.
    #[cfg(test)]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Up to where everything is durable.
    pub(crate) fn durable(&self) -> Durable {
        let is_claimed = self.unclaimed.is_none();
        // Whoever wrote what was read may have died before its name was durable: only the claim makes it so.
        Durable(if is_claimed { self.current.disk_consistent_lsn } else { self.current.origin.start_lsn })
    }

    /// Why the timeline is not claimed yet; none when it is.
    pub(crate) fn unclaimed(&self) -> Option<&ManifestError> {
        self.unclaimed.as_ref()
    }

    /// Writes the next manifest: the current one with `edit`. When this returns, it counts. Repeated after an error,
    /// `edit` meets a manifest in which it has been made already or not, and must give the same then.
    ///
    /// # Errors
    /// [`ManifestError::Fenced`], after which this is not to be called: see [`Ownership::advance`]. By
    /// [`ManifestError::kind`] otherwise. What was written may come to count later: until a later call succeeds,
    /// everything that either manifest names must stay.
    fn advance(&mut self, edit: impl FnOnce(&mut Manifest)) -> Result<(), ManifestError> {
        if let Some((number, manifest, bytes)) = self.unknown.take() {
            self.create_number(number, manifest, bytes)?;
        }
        let mut next = self.current.clone();
        edit(&mut next);
        if next == self.current { Ok(()) } else { self.write(next) }
    }

    fn write(&mut self, mut next: Manifest) -> Result<(), ManifestError> {
        self.changes += 1;
        next.writer.clone_from(&self.writer);
        next.change = self.changes;
        let number = self.number + 1;
        let bytes = file::encode(&next, number);
        self.create_number(number, next, bytes)
    }

    /// Creates `number`, finds out whether it counts, and takes it over.
    fn create_number(&mut self, number: u64, manifest: Manifest, bytes: Bytes) -> Result<(), ManifestError> {
        let done = self.try_create(number, &bytes);
        match done {
            Ok(()) => {
                self.replaced.insert(self.number, self.clock.now());
                self.number = number;
                self.current = manifest;
                self.unclaimed = None;
            }
            Err(ManifestError::Fenced(_)) => {}
            Err(_) => self.unknown = Some((number, manifest, bytes)),
        }
        done
    }

    fn try_create(&self, number: u64, bytes: &Bytes) -> Result<(), ManifestError> {
        if self.blobs.create(&name(number), std::slice::from_ref(bytes))? == Creation::AlreadyExists {
            // Ours, when the answer to an earlier request was lost.
            match self.blobs.get(&name(number)) {
                Ok(found) if found == *bytes => {}
                Ok(_) => return Err(Fenced { number }.into()),
                Err(e) if e.kind != BlobErrorKind::NotFound => return Err(e.into()),
                // Deleted since, so that there are higher ones; or a creation that failed made ours fail too.
                Err(e) => match self.list()?.last() {
                    Some(highest) if *highest >= number => return Err(Fenced { number: *highest }.into()),
                    _ => return Err(BlobError { kind: BlobErrorKind::Retryable, ..e }.into()),
                },
            }
        }
        match self.list()?.last() {
            Some(highest) if *highest > number => Err(Fenced { number: *highest }.into()),
            _ => Ok(()),
        }
    }

    /// All numbers, ascending; a listing that proves something.
    fn list(&self) -> Result<Vec<u64>, ManifestError> {
        list(&self.blobs, &self.clock, self.grace)
    }

    /// What it takes to delete old manifests; none while the outcome of the last change is unknown.
    fn begin_sweep(&mut self) -> Option<Sweep> {
        if self.unknown.is_some() {
            return None;
        }
        let Manifests { blobs, clock, grace, number, .. } = self;
        let replaced = std::mem::take(&mut self.replaced);
        Some(Sweep { blobs: blobs.clone(), clock: clock.clone(), grace: *grace, number: *number, replaced })
    }

    /// Takes back what a sweep knows of the numbers that it left.
    fn end_sweep(&mut self, sweep: Sweep) {
        // Of a sweep beside this one the earlier sight counts.
        for (number, since) in sweep.replaced {
            self.replaced.entry(number).and_modify(|s| *s = since.min(*s)).or_insert(since);
        }
    }
}

fn list(blobs: &Arc<dyn Blobs>, clock: &Clock, grace: Duration) -> Result<Vec<u64>, ManifestError> {
    let mut took = Duration::ZERO;
    for _ in 0..ATTEMPTS_MAX {
        let start = clock.now();
        let entries = blobs.list(FOLDER)?;
        took = clock.now().saturating_sub(start);
        if took <= grace / 2 {
            // Sorted: names of one length order as numbers do.
            return Ok(entries.iter().filter_map(|e| number(&e.name)).collect());
        }
    }
    Err(ManifestError::Slow(took))
}

/// The highest manifest and its number, without taking the timeline over; none when there is no timeline.
///
/// # Errors
/// Damage, and those of storage.
pub(crate) fn read_highest(
    blobs: &Arc<dyn Blobs>,
    clock: &Clock,
    grace: Duration,
) -> Result<Option<(u64, Manifest)>, ManifestError> {
    let mut gone = None;
    for _ in 0..ATTEMPTS_MAX {
        let Some(number) = list(blobs, clock, grace)?.last().copied() else {
            return Ok(None);
        };
        match blobs.get(&name(number)) {
            Ok(bytes) => {
                let manifest = file::decode(&bytes, number);
                return Ok(Some((number, manifest.map_err(|problem| ManifestError::File { number, problem })?)));
            }
            // Collected since: there are higher ones by now.
            Err(e) if e.kind == BlobErrorKind::NotFound => gone = Some(e),
            Err(e) => return Err(e.into()),
        }
    }
    Err(gone.expect("every attempt ended so").into())
}
