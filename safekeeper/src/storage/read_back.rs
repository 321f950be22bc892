//! Reads WAL that counts back from its files and checks it, when somebody doubts it.
//!
//! Owner of nothing; reads segment files. What is given out is the first byte that PostgreSQL would not read back.

use pgformat::Lsn;
use pgformat::wal::WalDecoder;

use super::error::StorageError;
use super::scan::{LogFiles, READ_SIZE, record_start_before, stream_config};
use super::segment::HeldSegments;
use crate::core::ControlState;

/// WAL that does not read back as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalDamage {
    /// The record, page or byte that is wrong.
    pub at: Lsn,
    /// What is wrong with it.
    pub problem: String,
}

impl std::fmt::Display for WalDamage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {}: {}", self.at, self.problem)
    }
}

/// The first damage that touches `[from, to)`, of a log that is durable up to the record boundary `end`; `None`: all
/// of it reads back. Whole records are read, so also a little before and behind.
///
/// # Errors
/// Whatever the disk says: bytes that cannot be read at all are no damage that this would know of.
pub fn damage_within(
    segments: &HeldSegments,
    state: &ControlState,
    (from, to): (Lsn, Lsn),
    end: Lsn,
) -> Result<Option<WalDamage>, StorageError> {
    let (Some(cfg), Some(floor)) = (stream_config(state), state.local_start_lsn.or(state.timeline_start_lsn)) else {
        return Ok(None);
    };
    let to = to.min(end);
    let mut files = LogFiles::new(segments);
    let (mut before, mut found): (Lsn, Option<WalDamage>) = (from.min(to), None);
    loop {
        let start = record_start_before(&mut files, &cfg, floor, before)?.unwrap_or(floor).max(floor);
        let now = read_from(&mut files, WalDecoder::new(cfg.clone(), start, None), to, end)?;
        // A start just behind an unfinished record that was overwritten is none: what is wrong from there on, and right
        // from further back, is no damage.
        match now {
            None => return Ok(None),
            Some(now) if start <= floor || found.as_ref() == Some(&now) => return Ok(Some(now)),
            Some(now) => (before, found) = (start, Some(now)),
        }
    }
}

/// Decodes up to the first record boundary at or behind `to`.
fn read_from(
    files: &mut LogFiles<'_>,
    mut decoder: WalDecoder,
    to: Lsn,
    end: Lsn,
) -> Result<Option<WalDamage>, StorageError> {
    // In the fill behind a switch record the boundary is its end already.
    let checked = |d: &WalDecoder| if d.fill_end().is_some() { d.position() } else { d.boundary() };
    while checked(&decoder) < to {
        let at = decoder.position();
        if at >= end {
            // A length that was made longer: the log ends with a whole record.
            let problem = format!("the record behind this has no end before {end}, where the log ends");
            return Ok(Some(WalDamage { at: decoder.boundary(), problem }));
        }
        let bytes = files.read(at, READ_SIZE.min(end.bytes_since(at)))?;
        if bytes.is_empty() {
            return Ok(Some(WalDamage { at, problem: "its segment is missing or too short".to_owned() }));
        }
        if let Err(e) = decoder.feed(at, &bytes) {
            let at = decoder.boundary().min(e.lsn());
            // Later bytes of the same read may be wrong, and those before are right.
            return Ok((at < to).then(|| WalDamage { at, problem: e.to_string() }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::storage::TimelineStorage;
    use crate::storage::tests::{Log, START, create, open};

    fn flip(storage: &TimelineStorage, at: Lsn) {
        let segments = storage.wal().segments();
        let file = segments.open_for_writing(at.segment_no(segments.seg_size())).expect("opened").expect("there").file;
        let (offset, mut byte) = (at.segment_offset(segments.seg_size()), [0]);
        file.read_at(offset, &mut byte).expect("read");
        file.write_at(offset, &[Bytes::copy_from_slice(&[byte[0] ^ 4])]).expect("written");
    }

    /// Every flipped bit that a decoder of the whole log meets is found by whoever asks about it, and by nobody else.
    #[test]
    fn what_a_whole_reading_finds_is_found_from_near_by() {
        let mut found = 0;
        for seed in 0..30 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let log = Log::build(&mut rng, true);
            let disk = disk::FakeDisk::new(1);
            create(&disk).expect("created");
            let (mut storage, state, _) = open(&disk).expect("opened");
            let (start, end) = (Lsn::new(START), *log.boundaries.last().expect("some"));
            storage.write(start, &[log.slice(start, end)]).expect("written");
            storage.flush().expect("synced");
            let segments = Arc::clone(storage.wal().segments());
            let look = |from, to| damage_within(&segments, &state, (from, to), end).expect("read");
            for _ in 0..8 {
                let from = start.add(rng.u64(..end.bytes_since(start)));
                assert_eq!(look(from, from.add(rng.u64(..100_000))), None, "seed {seed}: sound from {from}");
            }
            let at = start.add(rng.u64(..end.bytes_since(start)));
            flip(&storage, at);
            let whole = look(start, end);
            found += u32::from(whole.is_some());
            if let Some(whole) = whole {
                // Somewhere in its page, or behind it, where a wrong length leads to.
                let near = look(at, at.add(1)).or_else(|| look(at, at.add(300_000)));
                assert!(near.is_some(), "seed {seed}: flipped at {at}, found {whole}");
                let behind = log.boundary(whole.at);
                assert_eq!(look(start, behind), None, "seed {seed}: up to {behind} nothing is wrong");
            }
        }
        assert!(found > 20, "{found} of 30 flips matter");
    }
}
