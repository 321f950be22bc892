//! The embedded broker's files: what was acknowledged is here, whatever happens to the process or the machine.
//!
//! Owns the directory. One file counts: `broker-<generation>.log`, a snapshot of the store followed by every change
//! since. When it has grown, a new file is written beside it, synced, and renamed. Invariants:
//! - a change is acknowledged and shown to watchers only after its frame is synced;
//! - after a failed write or sync nothing is written any more: the server stops, and the next start reads what is
//!   there;
//! - only the last frame can be torn; a bad frame with a good one after it is damage, and the start is refused.

mod format;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use etcd_client::proto::PbEvent;

use self::format::{FRAME_HEADER_LEN, HEADER_LEN, Header, Record};
use super::store::{Change, Identity, Millis, ReplayError, Store};
use crate::runtime::datadir::sync_dir;

/// A file is rewritten when the changes in it outgrow both this and twice its snapshot.
const REWRITE_BYTES_MIN: u64 = 4 << 20;

/// Bytes of records per frame of a snapshot.
const SNAPSHOT_FRAME_BYTES: usize = 1 << 20;

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The operating system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The file is damaged before its end, or not of this program's version. Nothing was changed.
    #[error(
        "{path} is damaged at byte {offset}: {problem}; restore the directory from a copy, or move it away to start \
         with an empty broker: the nodes publish anew, but member sets must be created again",
        path = .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the bad frame or record starts.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
}

/// The log, open for appending.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    generation: u64,
    next_sequence: u64,
    length: u64,
    base_length: u64,
}

/// What was read at the start.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) store: Store,
    /// Events of the changes in the file, by revision: the history of before.
    pub(super) history: Vec<(i64, Vec<PbEvent>)>,
}

impl Log {
    /// Opens the directory's log, or makes an empty one; `cluster` is used only then. Counts the start.
    pub(super) fn open(dir: &Path, cluster: u64, now: Millis) -> Result<Opened, LogError> {
        let opened = match newest_file(dir)? {
            Some((generation, path)) => read(dir, generation, &path, now)?,
            None => {
                let store = Store::new(Identity { cluster, boots: 0 });
                Opened { log: Log::create(dir, 1, &store)?, store, history: Vec::new() }
            }
        };
        let Opened { mut log, mut store, history } = opened;
        remove_others(dir, &log.path)?;
        let boots = store.identity().boots + 1;
        store.set_boots(boots);
        log.append_records(&[Record::Boot { boots }])?;
        Ok(Opened { log, store, history })
    }

    /// Makes changes durable, all in one frame.
    pub(super) fn append(&mut self, changes: &[Change]) -> Result<(), LogError> {
        let record = |change: &Change| Record::Change { revision: change.revision, ops: change.ops.clone() };
        let records: Vec<Record> = changes.iter().map(record).collect();
        self.append_records(&records)
    }

    /// Whether the changes have outgrown the snapshot.
    pub(super) fn wants_rewrite(&self) -> bool {
        self.length - self.base_length > REWRITE_BYTES_MIN.max(2 * self.base_length)
    }

    /// The log as a snapshot of `store`, in a new file; the old one is gone afterwards.
    pub(super) fn rewrite(self, store: &Store) -> Result<Log, LogError> {
        let log = Log::create(&self.dir, self.generation + 1, store)?;
        fs::remove_file(&self.path).map_err(|source| io_error(&self.path, source))?;
        Ok(log)
    }

    /// Makes the next write fail, as a disk would.
    #[cfg(test)]
    pub(super) fn break_file(&mut self) {
        self.file = File::open(&self.path).expect("the file is there");
    }

    fn create(dir: &Path, generation: u64, store: &Store) -> Result<Log, LogError> {
        let path = dir.join(file_name(generation));
        let tmp = path.with_extension("tmp");
        let header = Header { generation, cluster: store.identity().cluster };
        let (mut bytes, mut next_sequence) = (header.encode().to_vec(), 0);
        for payload in snapshot(store) {
            bytes.extend_from_slice(&format::frame(next_sequence, &payload));
            next_sequence += 1;
        }
        let write = || -> io::Result<File> {
            let mut file = File::create(&tmp)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&tmp, &path)?;
            sync_dir(dir)?;
            Ok(file)
        };
        let file = write().map_err(|source| io_error(&tmp, source))?;
        let length = length_of(&bytes);
        Ok(Log { dir: dir.to_owned(), path, file, generation, next_sequence, length, base_length: length })
    }

    fn append_records(&mut self, records: &[Record]) -> Result<(), LogError> {
        let mut payload = Vec::new();
        records.iter().for_each(|record| record.encode(&mut payload));
        let bytes = format::frame(self.next_sequence, &payload);
        let write = |file: &mut File| file.write_all(&bytes).and_then(|()| file.sync_data());
        write(&mut self.file).map_err(|source| io_error(&self.path, source))?;
        self.next_sequence += 1;
        self.length += length_of(&bytes);
        Ok(())
    }
}

/// The store as records, cut into payloads.
fn snapshot(store: &Store) -> Vec<Vec<u8>> {
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let base = Record::Base {
        revision: store.revision(),
        compacted: store.compacted(),
        boots: store.identity().boots,
        leases: count(store.leases().len()),
        keys: count(store.keys().len()),
    };
    let leases = store.leases().map(|(lease, found)| Record::Lease { lease, ttl_s: found.ttl_s });
    let keys = store.keys().map(|kv| Record::Key(kv.clone()));
    let mut payloads = vec![Vec::new()];
    for record in std::iter::once(base).chain(leases).chain(keys) {
        if payloads.last().is_some_and(|last| last.len() >= SNAPSHOT_FRAME_BYTES) {
            payloads.push(Vec::new());
        }
        if let Some(last) = payloads.last_mut() {
            record.encode(last);
        }
    }
    payloads
}

/// Reads a file, cuts a torn tail off, and leaves it open at its end.
fn read(dir: &Path, generation: u64, path: &Path, now: Millis) -> Result<Opened, LogError> {
    let bytes = fs::read(path).map_err(|source| io_error(path, source))?;
    let damaged =
        |offset: usize, problem: String| LogError::Damaged { path: path.to_owned(), offset: offset as u64, problem };
    let header = Header::decode(&bytes).map_err(|error| damaged(0, error.to_string()))?;
    if header.generation != generation {
        return Err(damaged(0, format!("it says that it is generation {}", header.generation)));
    }
    let mut reader = Reader { identity: Identity { cluster: header.cluster, boots: 0 }, state: None };
    let (mut offset, mut sequence, mut base_length) = (HEADER_LEN, 0, HEADER_LEN);
    let mut history = Vec::new();
    while let Some((found, payload)) = format::frame_at(&bytes[offset..]) {
        if found != sequence {
            return Err(damaged(offset, format!("frame {found} stands where frame {sequence} should")));
        }
        let records = Record::decode_all(payload).map_err(|error| damaged(offset, error.to_string()))?;
        for record in records {
            let event = reader.take(record, now).map_err(|problem| damaged(offset, problem))?;
            history.extend(event);
        }
        offset += FRAME_HEADER_LEN + payload.len();
        sequence += 1;
        if reader.is_filling_or_just_filled() {
            base_length = offset;
        }
    }
    let store = reader.finish().map_err(|problem| damaged(offset, problem))?;
    let tail = &bytes[offset..];
    if !tail.is_empty() {
        if format::later_frame_in(tail, sequence) {
            return Err(damaged(
                offset,
                "the frame's checksum or length is wrong, and whole frames follow it".to_owned(),
            ));
        }
        let bytes = tail.len();
        tracing::warn!(path = %path.display(), offset, bytes, "cutting off a write that was never acknowledged");
    }
    let mut file = OpenOptions::new().write(true).open(path).map_err(|source| io_error(path, source))?;
    let length = length_of(&bytes[..offset]);
    // Synced also when nothing was cut off: the process before this one may have died between write and sync, and what
    // was read here is shown to clients from now on.
    let cut = |file: &mut File| -> io::Result<()> {
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        file.sync_all()
    };
    cut(&mut file).map_err(|source| io_error(path, source))?;
    let base_length = length_of(&bytes[..base_length]);
    let log = Log {
        dir: dir.to_owned(),
        path: path.to_owned(),
        file,
        generation,
        next_sequence: sequence,
        length,
        base_length,
    };
    Ok(Opened { log, store, history })
}

/// Builds a store from records.
struct Reader {
    identity: Identity,
    state: Option<Filling>,
}

struct Filling {
    store: Store,
    leases_left: u64,
    keys_left: u64,
    changes: u64,
}

impl Reader {
    /// Takes the next record; gives the events of a change.
    fn take(&mut self, record: Record, now: Millis) -> Result<Option<(i64, Vec<PbEvent>)>, String> {
        let Some(state) = &mut self.state else {
            let Record::Base { revision, compacted, boots, leases, keys } = record else {
                return Err("the file does not start with a snapshot".to_owned());
            };
            let store = Store::with_base(Identity { boots, ..self.identity }, revision, compacted);
            self.state = Some(Filling { store, leases_left: leases, keys_left: keys, changes: 0 });
            return Ok(None);
        };
        let words = |error: ReplayError| error.to_string();
        match record {
            Record::Lease { lease, ttl_s } if state.leases_left > 0 => {
                state.leases_left -= 1;
                state.store.restore_lease(lease, ttl_s, now).map_err(words)?;
            }
            Record::Key(kv) if state.leases_left == 0 && state.keys_left > 0 => {
                state.keys_left -= 1;
                state.store.restore_key(kv).map_err(words)?;
            }
            Record::Change { revision, ops } if state.is_filled() => {
                state.changes += 1;
                let events = state.store.replay(revision, &ops, now).map_err(words)?;
                return Ok((!events.is_empty()).then_some((revision, events)));
            }
            Record::Boot { boots } if state.is_filled() => {
                state.changes += 1;
                state.store.set_boots(boots);
            }
            _ => return Err("a record stands where it does not belong".to_owned()),
        }
        Ok(None)
    }

    /// Whether only the snapshot was read so far.
    fn is_filling_or_just_filled(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.changes == 0)
    }

    fn finish(self) -> Result<Store, String> {
        match self.state {
            Some(state) if state.is_filled() => Ok(state.store),
            _ => Err("its snapshot is not whole".to_owned()),
        }
    }
}

impl Filling {
    fn is_filled(&self) -> bool {
        self.leases_left == 0 && self.keys_left == 0
    }
}

fn file_name(generation: u64) -> String {
    format!("broker-{generation:016x}.log")
}

/// The file with the highest generation. It is whole, since it got its name after it was synced.
fn newest_file(dir: &Path) -> Result<Option<(u64, PathBuf)>, LogError> {
    let mut newest = None;
    for path in paths(dir)? {
        let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        let generation = name.strip_prefix("broker-").and_then(|rest| rest.strip_suffix(".log"));
        if let Some(generation) = generation.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            newest = newest.max(Some((generation, path)));
        }
    }
    Ok(newest)
}

/// Removes what a crash during a rewrite left behind.
fn remove_others(dir: &Path, keep: &Path) -> Result<(), LogError> {
    for path in paths(dir)? {
        let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        let ours = name.starts_with("broker-") && (name.ends_with(".log") || name.ends_with(".tmp"));
        if ours && path != keep {
            fs::remove_file(&path).map_err(|source| io_error(&path, source))?;
        }
    }
    Ok(())
}

fn paths(dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let read = || -> io::Result<Vec<PathBuf>> { fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect() };
    read().map_err(|source| io_error(dir, source))
}

fn io_error(path: &Path, source: io::Error) -> LogError {
    LogError::Io { path: path.to_owned(), source }
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
