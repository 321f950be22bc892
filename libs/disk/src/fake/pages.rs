//! The two contents of a file or directory: that of the page cache and that of the medium.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fastrand::Rng;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// Shared by cache and medium, and by copies of a disk, until one of them writes.
type Page = Arc<[u8; PAGE]>;

#[derive(Clone, Default)]
pub(super) struct FileData {
    pub(super) cache: BTreeMap<u64, Page>,
    pub(super) len: u64,
    pub(super) medium: BTreeMap<u64, Page>,
    medium_len: u64,
    dirty: BTreeSet<u64>,
    /// Shown by the cache, marked clean, but not on the medium: a failed sync.
    phantom: BTreeSet<u64>,
}

#[derive(Clone, Default)]
pub(super) struct DirData {
    pub(super) names: BTreeMap<String, u64>,
    pub(super) medium: BTreeMap<String, u64>,
    /// Names whose change shows, counts as clean, and is not on the medium: a failed sync.
    phantom: BTreeSet<String>,
}

pub(super) fn copy_out(pages: &BTreeMap<u64, Page>, offset: u64, out: &mut [u8]) {
    let mut done = 0;
    while done < out.len() {
        let at = offset + done as u64;
        let (page, from) = (at / PAGE as u64, (at % PAGE as u64) as usize);
        let n = (PAGE - from).min(out.len() - done);
        match pages.get(&page) {
            Some(data) => out[done..done + n].copy_from_slice(&data[from..from + n]),
            None => out[done..done + n].fill(0),
        }
        done += n;
    }
}

impl FileData {
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (page, from) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let n = (PAGE - from).min(data.len() - done);
            let target = self.cache.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(target)[from..from + n].copy_from_slice(&data[done..done + n]);
            self.dirty.insert(page);
            self.phantom.remove(&page);
            done += n;
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    /// Whether the cache has just these bytes there.
    pub(super) fn shows(&self, offset: u64, data: &[u8]) -> bool {
        let mut now = vec![0; data.len()];
        copy_out(&self.cache, offset, &mut now);
        offset + data.len() as u64 <= self.len && now == data
    }

    /// Flips a bit, in cache and on the medium.
    pub(super) fn flip(&mut self, offset: u64) {
        let (page, at) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
        for side in [&mut self.cache, &mut self.medium] {
            if let Some(data) = side.get_mut(&page) {
                Arc::make_mut(data)[at] ^= 0x10;
            }
        }
    }

    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let page = at / PAGE as u64;
            let n = (PAGE as u64 - at % PAGE as u64).min(end - at);
            if let Some(target) = self.cache.get_mut(&page) {
                let from = (at % PAGE as u64) as usize;
                Arc::make_mut(target)[from..from + n as usize].fill(0);
                self.dirty.insert(page);
                self.phantom.remove(&page);
            }
            at += n;
        }
        self.len = self.len.max(end);
    }

    pub(super) fn cut(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len - len);
        }
        self.len = len;
    }

    fn persist(&mut self, page: u64) {
        match self.cache.get(&page) {
            Some(data) => drop(self.medium.insert(page, data.clone())),
            None => drop(self.medium.remove(&page)),
        }
    }

    fn restore(&mut self, page: u64) {
        match self.medium.get(&page) {
            Some(data) => drop(self.cache.insert(page, data.clone())),
            None => drop(self.cache.remove(&page)),
        }
    }

    /// The kernel needs the memory of pages that it believes to be clean.
    pub(super) fn evict_phantoms(&mut self) {
        for page in std::mem::take(&mut self.phantom) {
            self.restore(page);
        }
    }

    pub(super) fn sync(&mut self) {
        for page in std::mem::take(&mut self.dirty) {
            self.persist(page);
        }
        self.medium_len = self.len;
    }

    pub(super) fn failed_sync(&mut self, rng: &mut Rng) {
        for page in std::mem::take(&mut self.dirty) {
            if rng.bool() {
                self.persist(page);
            } else {
                self.phantom.insert(page);
            }
        }
    }

    pub(super) fn power_loss(&mut self, rng: &mut Rng) {
        // One mood per file and loss: everything gone, everything written back just in time, or any mixture.
        let mood = rng.u8(0..4);
        for page in std::mem::take(&mut self.dirty) {
            let fate = if mood < 3 { mood } else { rng.u8(0..3) };
            match fate {
                0 => {}
                1 => self.persist(page),
                _ => self.tear(page, rng),
            }
        }
        self.phantom.clear();
        if self.len != self.medium_len && rng.bool() {
            self.medium_len = self.len;
        }
        let last = self.medium_len.div_ceil(PAGE as u64);
        self.medium.retain(|page, _| *page < last);
        self.len = self.medium_len;
        self.cache = self.medium.clone();
    }

    /// Some sectors of the page reach the medium, others do not.
    fn tear(&mut self, page: u64, rng: &mut Rng) {
        let new = self.cache.get(&page).cloned().unwrap_or_else(|| Arc::new([0; PAGE]));
        let old = Arc::make_mut(self.medium.entry(page).or_insert_with(|| Arc::new([0; PAGE])));
        for sector in 0..PAGE / SECTOR {
            if rng.bool() {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                old[range.clone()].copy_from_slice(&new[range]);
            }
        }
    }
}

impl DirData {
    pub(super) fn put(&mut self, name: String, ino: u64) {
        self.phantom.remove(&name);
        self.names.insert(name, ino);
    }

    /// False when there is no such name.
    pub(super) fn take(&mut self, name: &str) -> bool {
        self.phantom.remove(name);
        self.names.remove(name).is_some()
    }

    fn changed(&self) -> BTreeSet<String> {
        let known = self.names.keys().chain(self.medium.keys());
        known.filter(|name| self.names.get(*name) != self.medium.get(*name)).cloned().collect()
    }

    pub(super) fn sync(&mut self) {
        for name in self.changed().difference(&self.phantom).cloned().collect::<Vec<_>>() {
            match self.names.get(&name) {
                Some(ino) => drop(self.medium.insert(name, *ino)),
                None => drop(self.medium.remove(&name)),
            }
        }
    }

    pub(super) fn failed_sync(&mut self) {
        self.phantom = self.changed();
    }

    pub(super) fn power_loss(&mut self, rng: &mut Rng) {
        let keep_all = rng.u8(0..4) == 0;
        let touched: BTreeSet<&String> = self.names.keys().chain(self.medium.keys()).collect();
        let mut after = BTreeMap::new();
        for name in touched {
            let (now, before) = (self.names.get(name), self.medium.get(name));
            let written = keep_all || rng.u8(0..4) == 0;
            let survives = if now != before && written && !self.phantom.contains(name) { now } else { before };
            if let Some(ino) = survives {
                after.insert(name.clone(), *ino);
            }
        }
        self.phantom.clear();
        self.names = after.clone();
        self.medium = after;
    }
}
