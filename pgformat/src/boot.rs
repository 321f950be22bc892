//! What a server needs to start at an exact LSN, as if it had been shut down cleanly right there: a control file, one
//! checkpoint record written by hand, and the history of PostgreSQL's timelines.
//!
//! The pages beside it must be those of that LSN. Nothing is replayed: the record is the last one of the log, and the
//! server's first own record follows it. That holds for every major, and at every boundary: the record may begin behind
//! a page header, and straddle pages and segments.
//!
//! Source: PostgreSQL 14-18, `CreateCheckPoint`, `StartupXLOG` and `PerformRecoveryXLogAction` in `xlog.c`,
//! `writeTimeLineHistory` in `timeline.c`.

use crate::checkpoint::CheckPoint;
use crate::control::{ControlFile, DbState};
use crate::wal::record::{RM_XLOG, XLOG_CHECKPOINT_SHUTDOWN};
use crate::wal::{StreamConfig, WalBuilder, WalError, synthetic_prehistory};
use crate::{Lsn, Tli};

/// `FirstNormalUnloggedLSN`: positions of unlogged relations begin here. They are all reset, so none is in use.
const FIRST_UNLOGGED_LSN: Lsn = Lsn::new(1000);

/// Where and how a server shall start.
#[derive(Clone, Debug)]
pub struct BootPoint {
    /// The boundary to start at: the end of the last record that counts.
    pub lsn: Lsn,
    /// Start of that record, which the checkpoint names as its predecessor.
    pub last_record: Option<Lsn>,
    /// Tlis of the log up to `lsn` with the position at which each began, ascending, one at least.
    pub tlis: Vec<(Tli, Lsn)>,
    /// The tli to go on with: the last one of `tlis`, or a new one that begins at `lsn`.
    pub tli: Tli,
    /// Why a new one begins, for its history file; one line.
    pub reason: String,
    /// When, in seconds since 1970.
    pub time: i64,
}

/// A file of `pg_wal`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WalFile {
    /// Its name, 24 hexadecimal digits.
    pub name: String,
    /// Its first bytes; zeros follow up to the segment size.
    pub bytes: Vec<u8>,
}

/// What to put beside the pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootFiles {
    /// `global/pg_control`, 8192 bytes.
    pub control: Vec<u8>,
    /// One segment, or two when the checkpoint record straddles a border.
    pub segments: Vec<WalFile>,
    /// Name and text of the history file; none on tli 1.
    pub history: Option<(String, String)>,
    /// The WAL that is new: from `lsn`, page header included, to the end of the checkpoint record.
    pub record: Vec<u8>,
    /// Start of the checkpoint record.
    pub checkpoint: Lsn,
    /// The boundary behind it, where the server's first own record follows.
    pub end: Lsn,
}

/// Makes the files for a start at `point`, of a cluster with this control file and these counters as of that LSN.
///
/// # Errors
/// [`WalError::BadStart`] when the LSN can be no boundary.
pub fn boot_files(file: &ControlFile, counters: &CheckPoint, point: &BootPoint) -> Result<BootFiles, WalError> {
    let old = point.tlis.last().map_or(point.tli, |(tli, _)| *tli);
    let mut tlis = point.tlis.clone();
    if old != point.tli {
        tlis.push((point.tli, point.lsn));
    }
    let seg = file.seg_size;
    let cfg = StreamConfig { version: file.version, seg_size: seg, system_id: Some(file.system_id), tlis };
    let before = synthetic_prehistory(&cfg, point.lsn)?;

    let mut wal = WalBuilder::new(cfg, point.lsn, point.last_record);
    let checkpoint = crate::wal::next_record_start(point.lsn, seg);
    let body = CheckPoint {
        redo: checkpoint,
        tli: point.tli,
        prev_tli: old,
        time: point.time,
        oldest_active_xid: 0,
        ..*counters
    };
    let end = wal.record(RM_XLOG, XLOG_CHECKPOINT_SHUTDOWN, 0, &body.to_bytes(file.version)).end;
    let control = ControlFile {
        state: DbState::Shutdown,
        time: point.time,
        checkpoint,
        checkpoint_copy: body,
        unlogged_lsn: file.unlogged_lsn.max(FIRST_UNLOGGED_LSN),
        min_recovery_point: Lsn::new(0),
        min_recovery_point_tli: Tli(0),
        backup_start: Lsn::new(0),
        backup_end: Lsn::new(0),
        backup_end_required: false,
        ..file.clone()
    };
    let record = wal.bytes().to_vec();
    let segments = segments(file, point, &before, &record);
    Ok(BootFiles { control: control.to_bytes(), segments, history: history(point), record, checkpoint, end })
}

/// The segment that `point` lies in, and the next when the record reaches into it.
fn segments(file: &ControlFile, point: &BootPoint, before: &[u8], record: &[u8]) -> Vec<WalFile> {
    let seg = file.seg_size;
    let first = point.lsn.segment_no(seg);
    let room = seg.bytes() - point.lsn.segment_offset(seg);
    let here = record.len().min(usize::try_from(room).unwrap_or(usize::MAX));
    let name = |segno| seg.file_name(point.tli, segno);
    let mut files = vec![WalFile { name: name(first), bytes: [before, &record[..here]].concat() }];
    if here < record.len() {
        files.push(WalFile { name: name(first + 1), bytes: record[here..].to_vec() });
    }
    files
}

/// A line for each tli that ended: its number, where it ended, why. The reasons of earlier ones are not known.
fn history(point: &BootPoint) -> Option<(String, String)> {
    let mut ends: Vec<Lsn> = point.tlis.iter().skip(1).map(|(_, begin)| *begin).collect();
    let mut ended = point.tlis.clone();
    match ended.last() {
        Some((last, _)) if *last == point.tli => drop(ended.pop()),
        _ => ends.push(point.lsn),
    }
    if ended.is_empty() {
        return None;
    }
    let reason = |n: usize| if n + 1 == ended.len() { point.reason.as_str() } else { "earlier switch" };
    let lines = ended.iter().zip(&ends).enumerate();
    let text = lines.map(|(n, ((tli, _), end))| format!("{tli}\t{end}\t{}\n", reason(n))).collect();
    Some((format!("{:08X}.history", point.tli.0), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Parameters;
    use crate::wal::{WalDecoder, next_record_start};
    use crate::{PgMajor, SegSize};

    fn control(version: PgMajor) -> ControlFile {
        ControlFile {
            version,
            system_id: 7,
            state: DbState::Production,
            time: 1,
            checkpoint: Lsn::new(0x0100_0028),
            checkpoint_copy: counters(version),
            unlogged_lsn: Lsn::new(0),
            min_recovery_point: Lsn::new(1),
            min_recovery_point_tli: Tli(2),
            backup_start: Lsn::new(3),
            backup_end: Lsn::new(4),
            backup_end_required: true,
            parameters: Parameters { max_connections: 100, wal_level: 1, ..Default::default() },
            seg_size: SegSize::new(1 << 20).expect("a power of two"),
            float8_by_val: true,
            data_checksum_version: 1,
            char_signed: true,
            mock_nonce: [3; 32],
        }
    }

    fn counters(version: PgMajor) -> CheckPoint {
        CheckPoint { full_page_writes: true, ..CheckPoint::parse(&std::array::from_fn(|i| i as u8), version) }
    }

    fn at(lsn: u64) -> BootPoint {
        BootPoint {
            lsn: Lsn::new(lsn),
            last_record: Some(Lsn::new(lsn - 200)),
            tlis: vec![(Tli(1), Lsn::new(0))],
            tli: Tli(2),
            reason: "branch".to_owned(),
            time: 77,
        }
    }

    /// Reads the segments back as a server would: from the first page on, headers included.
    fn check(version: PgMajor, point: &BootPoint) {
        let file = control(version);
        let made = boot_files(&file, &counters(version), point).expect("a boundary");
        let seg = file.seg_size;
        assert_eq!(made.checkpoint, next_record_start(point.lsn, seg), "{}", point.lsn);

        let mut tlis = point.tlis.clone();
        tlis.push((point.tli, point.lsn));
        let cfg = StreamConfig { version, seg_size: seg, system_id: Some(7), tlis };
        let mut decoder = WalDecoder::new(cfg, point.lsn, point.last_record);
        decoder.feed(point.lsn, &made.record).expect("valid WAL");
        assert_eq!(decoder.boundary(), made.end, "one whole record");

        let mut all = Vec::new();
        for (n, segment) in made.segments.iter().enumerate() {
            assert_eq!(segment.name, seg.file_name(point.tli, point.lsn.segment_no(seg) + n as u64));
            all.resize(n * seg.bytes() as usize, 0);
            all.extend(&segment.bytes);
        }
        let offset = point.lsn.segment_offset(seg) as usize;
        assert_eq!(all[offset..], made.record);
        let control = ControlFile::parse(&made.control).expect("a control file");
        assert_eq!((control.state, control.checkpoint), (DbState::Shutdown, made.checkpoint));
        assert_eq!((control.checkpoint_copy.tli, control.checkpoint_copy.prev_tli), (Tli(2), Tli(1)));
        assert_eq!((control.checkpoint_copy.redo, control.backup_end_required), (made.checkpoint, false));
        assert_eq!(control.checkpoint_copy.next_xid, counters(version).next_xid);
    }

    #[test]
    fn the_record_is_whole_at_every_kind_of_boundary() {
        let segment = 5 << 20;
        let lsns = [
            segment + 8192 + 24 + 512,
            // At a page's start, and at a segment's.
            segment + 8192,
            segment,
            // The record straddles a page: with 40, 8 bytes left.
            segment + 8192 * 3 - 40,
            segment + 8192 * 3 - 8,
            // And a segment.
            segment - 64,
            segment - 8,
        ];
        for version in PgMajor::ALL {
            for lsn in lsns {
                check(version, &at(lsn));
            }
        }
    }

    #[test]
    fn what_is_no_boundary_is_refused() {
        let file = control(PgMajor::ALL[1]);
        for lsn in [(5 << 20) + 8, (5 << 20) + 8192 + 16, (5 << 20) + 101] {
            let made = boot_files(&file, &counters(file.version), &at(lsn));
            assert!(matches!(made, Err(WalError::BadStart { .. })), "{lsn:X}");
        }
    }

    #[test]
    fn histories_name_where_each_tli_ended() {
        let text = |point: &BootPoint| history(point).map(|(name, text)| format!("{name}: {text}"));
        let mut point = at(0x500_0100);
        assert_eq!(text(&point).as_deref(), Some("00000002.history: 1\t0/5000100\tbranch\n"));
        point.tli = Tli(1);
        assert_eq!(text(&point), None, "it goes on with tli 1, which has no history");
        point.tlis = vec![(Tli(1), Lsn::new(0)), (Tli(2), Lsn::new(0x100))];
        point.tli = Tli(2);
        assert_eq!(text(&point).as_deref(), Some("00000002.history: 1\t0/100\tbranch\n"));
        point.tli = Tli(3);
        let expected = "00000003.history: 1\t0/100\tearlier switch\n2\t0/5000100\tbranch\n";
        assert_eq!(text(&point).as_deref(), Some(expected));
    }
}
