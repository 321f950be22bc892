//! The embedded broker's files: everything acknowledged survives a crash of the process or the machine.
//!
//! Owns the directory. The current file is `broker-<generation>.log`, a snapshot of the store followed by every later
//! change. When the file has grown, a new one is written beside it, synced, and renamed. Invariants:
//! - a change is acknowledged and shown to watchers only after its frame is synced;
//! - after a failed write or sync nothing more is written: the server stops, and the next start reads the file;
//! - only the last frame can be torn; a bad frame with a good one after it is damage, and the start is refused.

mod format;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use self::format::{FRAME_HEADER_LEN, FileHeader, HEADER_LEN, LogRecord};
use super::history::EventHistory;
use super::store::{Identity, KeyStore, Millis, ReplayError, StoreChange};
use disk::{Disk, FsDisk};

/// A file is rewritten when the changes in it outgrow both the first of these and twice its snapshot, or the second: so
/// that a full store has not three times its quota on disk.
const REWRITE_BYTES: (u64, u64) = (4 << 20, 256 << 20);

/// Bytes of changes after which a frame is closed; one change is never cut in two.
const FRAME_BYTES: usize = 64 << 20;

/// Bytes looked through at once for frames behind a bad one.
const SCAN_BYTES: u64 = 1 << 20;

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
        /// The log file that has the bad byte.
        path: PathBuf,
        /// Where the bad frame or record starts.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
}

/// The log, open for appending.
#[derive(Debug)]
pub(super) struct StoreLog {
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
    pub(super) log: StoreLog,
    pub(super) store: KeyStore,
    /// Events of the changes in the file, by revision: the history of before.
    pub(super) history: EventHistory,
}

impl StoreLog {
    /// Opens the directory's log, or makes an empty one; `cluster` is used only then. Counts the start.
    pub(super) fn open(dir: &Path, cluster: u64, now: Millis) -> Result<Opened, LogError> {
        let opened = match newest_file(dir)? {
            Some((generation, path)) => read(dir, generation, &path, now)?,
            None => {
                let store = KeyStore::new(Identity { cluster, boots: 0 });
                Opened { log: StoreLog::create(dir, 1, &store)?, history: EventHistory::new(store.revision()), store }
            }
        };
        let Opened { mut log, mut store, history } = opened;
        remove_others(dir, &log.path)?;
        history.compact(store.compacted());
        let boots = store.identity().boots + 1;
        store.set_boots(boots);
        log.append_records(&[LogRecord::Boot { boots }])?;
        Ok(Opened { log, store, history })
    }

    /// Makes changes durable, all in one frame unless they are large.
    pub(super) fn append(&mut self, changes: &[StoreChange]) -> Result<(), LogError> {
        let mut payload = Vec::new();
        for change in changes {
            if payload.len() >= FRAME_BYTES {
                self.append_payload(&std::mem::take(&mut payload))?;
            }
            format::encode_change(change.revision, &change.ops, &mut payload);
        }
        self.append_payload(&payload)
    }

    /// Whether the changes have outgrown the snapshot.
    pub(super) fn wants_rewrite(&self) -> bool {
        let (least, most) = REWRITE_BYTES;
        self.length - self.base_length > least.max((2 * self.base_length).min(most))
    }

    /// The log as a snapshot of `store`, in a new file; the old one is gone afterwards.
    pub(super) fn rewrite(self, store: &KeyStore) -> Result<StoreLog, LogError> {
        let log = StoreLog::create(&self.dir, self.generation + 1, store)?;
        fs::remove_file(&self.path).map_err(|source| io_error(&self.path, source))?;
        Ok(log)
    }

    /// Makes the next write fail, as a disk would.
    #[cfg(test)]
    pub(super) fn break_file(&mut self) {
        self.file = File::open(&self.path).expect("the file is there");
    }

    fn create(dir: &Path, generation: u64, store: &KeyStore) -> Result<StoreLog, LogError> {
        let path = dir.join(file_name(generation));
        let tmp = path.with_extension("tmp");
        let header = FileHeader { generation, cluster: store.identity().cluster };
        let (mut length, mut next_sequence) = (0, 0);
        let mut write = || -> io::Result<File> {
            let mut out = BufWriter::new(File::create(&tmp)?);
            let mut put = |bytes: &[u8]| {
                length += length_of(bytes);
                out.write_all(bytes)
            };
            put(&header.encode())?;
            write_snapshot(store, &mut |payload| {
                next_sequence += 1;
                put(&format::frame(next_sequence - 1, payload))
            })?;
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            fs::rename(&tmp, &path)?;
            FsDisk.fsync_dir(dir)?;
            Ok(file)
        };
        let file = write().map_err(|source| io_error(&tmp, source))?;
        Ok(StoreLog { dir: dir.to_owned(), path, file, generation, next_sequence, length, base_length: length })
    }

    fn append_records(&mut self, records: &[LogRecord]) -> Result<(), LogError> {
        let mut payload = Vec::new();
        records.iter().for_each(|record| record.encode(&mut payload));
        self.append_payload(&payload)
    }

    fn append_payload(&mut self, payload: &[u8]) -> Result<(), LogError> {
        let bytes = format::frame(self.next_sequence, payload);
        let write = |file: &mut File| file.write_all(&bytes).and_then(|()| file.sync_data());
        write(&mut self.file).map_err(|source| io_error(&self.path, source))?;
        self.next_sequence += 1;
        self.length += length_of(&bytes);
        Ok(())
    }
}

/// Hands the store on as records, cut into payloads.
fn write_snapshot(store: &KeyStore, put: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let base = LogRecord::Base {
        revision: store.revision(),
        compacted: store.compacted(),
        boots: store.identity().boots,
        leases: count(store.leases().len()),
        keys: count(store.keys().len()),
    };
    let leases = store.leases().map(|(lease, found)| LogRecord::Lease { lease, ttl_s: found.ttl_s });
    let keys = store.keys().map(|kv| LogRecord::Key(kv.clone()));
    let mut payload = Vec::new();
    for record in std::iter::once(base).chain(leases).chain(keys) {
        if payload.len() >= SNAPSHOT_FRAME_BYTES {
            put(&payload)?;
            payload.clear();
        }
        record.encode(&mut payload);
    }
    put(&payload)
}

/// The frame at `offset` of a file of `length` bytes: its sequence and payload, if it is whole and its checksum is
/// right. Frames are read one by one: a file may have more than the quota.
fn frame_of(file: &File, offset: u64, length: u64) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut bytes = vec![0; FRAME_HEADER_LEN];
    let there = length.saturating_sub(offset);
    if there < FRAME_HEADER_LEN as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut bytes, offset)?;
    let Some(whole) = format::frame_length(&bytes).filter(|whole| *whole as u64 <= there) else { return Ok(None) };
    bytes.resize(whole, 0);
    file.read_exact_at(&mut bytes[FRAME_HEADER_LEN..], offset + FRAME_HEADER_LEN as u64)?;
    Ok(format::frame_at(&bytes).map(|(sequence, payload)| (sequence, payload.to_vec())))
}

/// Whether a whole frame with a sequence above `sequence` starts anywhere from `offset` on.
fn later_frame_from(file: &File, offset: u64, length: u64, sequence: u64) -> io::Result<bool> {
    let mut at = offset;
    while at < length {
        let mut bytes = vec![0; usize::try_from((length - at).min(SCAN_BYTES)).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, at)?;
        for start in format::marks_in(&bytes) {
            if frame_of(file, at + start as u64, length)?.is_some_and(|(found, _)| found > sequence) {
                return Ok(true);
            }
        }
        // A mark may cross the end of the part searched so far.
        let last = at + length_of(&bytes) == length;
        at += if last { length_of(&bytes) } else { length_of(&bytes) - format::MARK_LEN as u64 + 1 };
    }
    Ok(false)
}

/// Reads a file, cuts a torn tail off, and leaves it open at its end.
fn read(dir: &Path, generation: u64, path: &Path, now: Millis) -> Result<Opened, LogError> {
    let broken = |source| io_error(path, source);
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(broken)?;
    let length = file.metadata().map_err(broken)?.len();
    let damaged = |offset: u64, problem: String| LogError::Damaged { path: path.to_owned(), offset, problem };
    let mut head = vec![0; HEADER_LEN.min(usize::try_from(length).unwrap_or(HEADER_LEN))];
    file.read_exact_at(&mut head, 0).map_err(broken)?;
    let header = FileHeader::decode(&head).map_err(|error| damaged(0, error.to_string()))?;
    if header.generation != generation {
        return Err(damaged(0, format!("it says that it is generation {}", header.generation)));
    }
    let mut reader = LogReader { identity: Identity { cluster: header.cluster, boots: 0 }, state: None };
    let (mut offset, mut sequence, mut base_length) = (HEADER_LEN as u64, 0, HEADER_LEN as u64);
    while let Some((found, payload)) = frame_of(&file, offset, length).map_err(broken)? {
        if found != sequence {
            return Err(damaged(offset, format!("frame {found} stands where frame {sequence} should")));
        }
        let records = LogRecord::decode_all(&payload).map_err(|error| damaged(offset, error.to_string()))?;
        for record in records {
            reader.take(record, now).map_err(|problem| damaged(offset, problem))?;
        }
        offset += FRAME_HEADER_LEN as u64 + length_of(&payload);
        sequence += 1;
        if reader.is_filling_or_just_filled() {
            base_length = offset;
        }
    }
    let (store, history) = reader.finish().map_err(|problem| damaged(offset, problem))?;
    if offset < length {
        if later_frame_from(&file, offset, length, sequence).map_err(broken)? {
            return Err(damaged(
                offset,
                "the frame's checksum or length is wrong, and whole frames follow it".to_owned(),
            ));
        }
        let bytes = length - offset;
        tracing::warn!(path = %path.display(), offset, bytes, "cutting off a write that was never acknowledged");
    }
    // Synced even when nothing was cut off: the previous process may have died between write and sync, and from now on
    // clients see what was read here.
    let cut = |file: &mut File| -> io::Result<()> {
        file.set_len(offset)?;
        file.seek(SeekFrom::Start(offset))?;
        file.sync_all()
    };
    cut(&mut file).map_err(broken)?;
    let log = StoreLog {
        dir: dir.to_owned(),
        path: path.to_owned(),
        file,
        generation,
        next_sequence: sequence,
        length: offset,
        base_length,
    };
    Ok(Opened { log, store, history })
}

/// Builds a store from records.
struct LogReader {
    identity: Identity,
    state: Option<Filling>,
}

struct Filling {
    store: KeyStore,
    history: EventHistory,
    leases_left: u64,
    keys_left: u64,
    changes: u64,
}

impl LogReader {
    /// Takes the next record.
    fn take(&mut self, record: LogRecord, now: Millis) -> Result<(), String> {
        let Some(state) = &mut self.state else {
            let LogRecord::Base { revision, compacted, boots, leases, keys } = record else {
                return Err("the file does not start with a snapshot".to_owned());
            };
            let store = KeyStore::with_base(Identity { boots, ..self.identity }, revision, compacted);
            let history = EventHistory::new(revision);
            self.state = Some(Filling { store, history, leases_left: leases, keys_left: keys, changes: 0 });
            return Ok(());
        };
        let words = |error: ReplayError| error.to_string();
        match record {
            LogRecord::Lease { lease, ttl_s } if state.leases_left > 0 => {
                state.leases_left -= 1;
                state.store.restore_lease(lease, ttl_s, now).map_err(words)?;
            }
            LogRecord::Key(kv) if state.leases_left == 0 && state.keys_left > 0 => {
                state.keys_left -= 1;
                state.store.restore_key(kv).map_err(words)?;
            }
            LogRecord::Change { revision, ops } if state.is_filled() => {
                state.changes += 1;
                let events = state.store.replay(revision, &ops, now).map_err(words)?;
                if !events.is_empty() {
                    state.history.push(revision, events);
                }
            }
            LogRecord::Boot { boots } if state.is_filled() => {
                state.changes += 1;
                state.store.set_boots(boots);
            }
            _ => return Err("a record stands where it does not belong".to_owned()),
        }
        Ok(())
    }

    /// Whether only the snapshot was read so far.
    fn is_filling_or_just_filled(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.changes == 0)
    }

    fn finish(self) -> Result<(KeyStore, EventHistory), String> {
        match self.state {
            Some(state) if state.is_filled() => Ok((state.store, state.history)),
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
