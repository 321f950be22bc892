//! Which versions of a key stay, and where its chain gets an image. Pure.
//!
//! Versions of one key come by ascending LSN. Above the horizon all stay. At or below it, only what reads at *points*
//! need: at the leases and at the horizon itself. Between two points everything before the last base is not needed.
//! Where the chain that a read must redo is long, its last change becomes an image.

use pgformat::Lsn;

use crate::cluster::key::Key;
use crate::cluster::value::ValueKind;
use crate::store::{History, Version};

/// How long a chain may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChainLimit {
    /// Changes since the last base.
    pub(crate) versions: usize,
    /// Bytes of base and changes.
    pub(crate) bytes: usize,
}

/// A chain so many times as long as the limit gets an image in its middle too.
const LONG: usize = 8;

/// What the retention of a key needs to know beyond the versions that are merged.
pub(crate) trait Surroundings {
    /// The stored form of the page after the last of these versions, and of those of layers that are not merged. None
    /// when the page cannot be rebuilt: its changes stay.
    fn image(&mut self, history: History) -> Option<Vec<u8>>;
    /// Whether a layer that is not merged may have a version of `key` at or below `lsn`.
    fn has_older(&self, key: Key, lsn: Lsn) -> bool;
}

/// Decides about the versions of keys, one key after the other.
pub(crate) struct Retain<'a> {
    points: &'a [Lsn],
    limit: ChainLimit,
    key: Key,
    /// Index of the first point at or above the last version seen.
    point: usize,
    /// Versions since the last base or point, at or below the point: needed there, unless a base comes.
    bucket: Vec<Version>,
    /// What a read must redo now: since the last base that was given out. It has what was given out only.
    chain: Vec<Version>,
    chain_changes: usize,
    chain_bytes: usize,
    /// The chain cannot be redone.
    broken: bool,
    /// Whether a version of the key was given out.
    any: bool,
}

impl<'a> Retain<'a> {
    /// For the next key. `points` ascend, the last one is the horizon; none: everything stays.
    pub(crate) fn new(key: Key, points: &'a [Lsn], limit: ChainLimit) -> Retain<'a> {
        let (bucket, chain) = (Vec::new(), Vec::new());
        let (chain_changes, chain_bytes, broken) = (0, 0, false);
        Retain { points, limit, key, point: 0, bucket, chain, chain_changes, chain_bytes, broken, any: false }
    }

    /// The next version; appends to `out` what stays. The last one in `out` may still change, what is before may be
    /// taken.
    pub(crate) fn push(&mut self, version: Version, around: &mut dyn Surroundings, out: &mut Vec<Version>) {
        while self.points.get(self.point).is_some_and(|p| version.lsn > *p) {
            self.end_bucket(around, out);
            self.point += 1;
        }
        if self.point < self.points.len() {
            if version.kind.is_base() {
                self.bucket.clear();
            }
            self.bucket.push(version);
        } else {
            self.give(version, out);
            if self.too_long(LONG) {
                self.shorten(around, out);
            }
        }
    }

    /// After the last version of the key.
    pub(crate) fn finish(mut self, around: &mut dyn Surroundings, out: &mut Vec<Version>) {
        self.end_bucket(around, out);
        if self.too_long(1) {
            self.shorten(around, out);
        }
    }

    fn end_bucket(&mut self, around: &mut dyn Surroundings, out: &mut Vec<Version>) {
        let gone = |v: &Version| v.kind == ValueKind::Tombstone && !self.any && !around.has_older(self.key, v.lsn);
        if let [only] = &self.bucket[..]
            && gone(only)
        {
            // Nothing is what a tombstone says, and there is nothing that it must hide.
            self.bucket.clear();
            return;
        }
        let before = out.len();
        for version in std::mem::take(&mut self.bucket) {
            self.give(version, out);
        }
        if out.len() > before && self.too_long(1) && self.shorten(around, out) {
            // The image is all that the point needs of this bucket.
            out.drain(before..out.len() - 1);
        }
    }

    fn give(&mut self, version: Version, out: &mut Vec<Version>) {
        if version.kind.is_base() {
            self.restart_chain();
        } else {
            self.chain_changes += 1;
        }
        self.any = true;
        self.chain_bytes += version.value.len();
        self.chain.push(version.clone());
        out.push(version);
    }

    fn restart_chain(&mut self) {
        self.chain.clear();
        self.chain_changes = 0;
        self.chain_bytes = 0;
        self.broken = false;
    }

    fn too_long(&self, times: usize) -> bool {
        let long = self.chain_changes >= self.limit.versions * times || self.chain_bytes >= self.limit.bytes * times;
        long && self.chain_changes > 0 && !self.broken
    }

    /// Makes the last version an image.
    fn shorten(&mut self, around: &mut dyn Surroundings, out: &mut [Version]) -> bool {
        let Some(last) = self.chain.last() else { return false };
        let lsn = last.lsn;
        let history = History { key: self.key, lsn, versions: self.chain.clone() };
        let image = around.image(history).map(|value| Version { lsn, kind: ValueKind::Image, value: value.into() });
        match (image, out.last_mut()) {
            (Some(image), Some(last)) => {
                // A read from here on redoes nothing.
                self.restart_chain();
                self.chain.push(image.clone());
                *last = image;
                true
            }
            _ => {
                self.broken = true;
                false
            }
        }
    }
}
