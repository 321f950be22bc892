//! What the attach proof compares, and everything it can refuse without reading WAL.
//!
//! Pure. The proof says: this primary's WAL extends the quorum's log. A position is not enough for that, since a
//! restored, rolled back or promoted copy has positions too; bytes are. Every term interval was written by one
//! incarnation of a primary, and a different one differs in it: pages carry the tli, records carry transaction ids,
//! times, prev links and checksums.

use pgformat::wal::StreamConfig;
use pgformat::{Lsn, PgMajor, SegSize, Tli};
use proto::api::PgHistoryEntry;
use proto::id::SystemId;

use crate::stop::AttachRefusal;

/// The most WAL that is compared below the end of the log, and what the pin slot keeps for it: bytes.
pub(crate) const COMPARE_BYTES: u64 = 16 << 20;

/// What a server says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PrimaryView {
    /// System identifier of the cluster.
    pub(crate) system_id: SystemId,
    /// Its present tli.
    pub(crate) tli: Tli,
    /// End of its flushed WAL (P).
    pub(crate) end: Lsn,
    /// Every tli it went through with the position at which it began, ascending; the last one is `tli`.
    pub(crate) history: Vec<(Tli, Lsn)>,
    /// PostgreSQL's PG_VERSION_NUM, as 150004.
    pub(crate) version_num: u32,
    /// Size of its WAL segments.
    pub(crate) seg_size: SegSize,
    /// First byte of WAL that it still holds.
    pub(crate) oldest: Lsn,
}

/// What the quorum's log looks like, learnt without voting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LogView {
    /// System identifier of the cluster.
    pub(crate) system_id: SystemId,
    /// PG_VERSION_NUM at creation.
    pub(crate) version_num: u32,
    /// Size of its WAL segments.
    pub(crate) seg_size: SegSize,
    /// PostgreSQL's history of the log.
    pub(crate) pg_history: Vec<PgHistoryEntry>,
    /// Where the log starts.
    pub(crate) start: Lsn,
    /// Committed, as far as anybody asked knows (C).
    pub(crate) commit: Lsn,
    /// End of the most advanced log (E).
    pub(crate) end: Lsn,
    /// Start of the last whole record below `end`; `None`: the log is empty.
    pub(crate) last_record_start: Option<Lsn>,
    /// First byte that the donor holds.
    pub(crate) oldest: Lsn,
}

/// A stretch of WAL to be asked for under one tli.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WalPart {
    /// The tli whose files hold it.
    pub(crate) tli: Tli,
    /// Position of the first byte.
    pub(crate) from: Lsn,
    /// Position after the last byte.
    pub(crate) to: Lsn,
}

/// What the log's WAL looks like.
pub(super) fn stream_config(log: &LogView) -> Result<StreamConfig, AttachRefusal> {
    let version = PgMajor::from_version_num(log.version_num).ok_or_else(|| AttachRefusal::OtherFormat {
        what: "PostgreSQL version",
        primary: log.version_num.to_string(),
        timeline: "14 to 18".to_owned(),
    })?;
    Ok(StreamConfig {
        version,
        seg_size: log.seg_size,
        system_id: Some(log.system_id.0),
        tlis: log.pg_history.iter().map(|e| (e.tli, e.start_lsn)).collect(),
    })
}

/// Checks identity: cluster, format, tli, end of WAL.
pub(crate) fn check_identity(primary: &PrimaryView, log: &LogView) -> Result<(), AttachRefusal> {
    if primary.system_id != log.system_id {
        return Err(AttachRefusal::ForeignSystem { primary: primary.system_id, timeline: log.system_id });
    }
    let other = |what, primary: String, timeline: String| Err(AttachRefusal::OtherFormat { what, primary, timeline });
    let (ours, theirs) = (primary.version_num / 10_000, log.version_num / 10_000);
    if ours != theirs {
        return other("PostgreSQL major version", ours.to_string(), theirs.to_string());
    }
    if primary.seg_size != log.seg_size {
        return other("wal_segment_size", primary.seg_size.to_u32().to_string(), log.seg_size.to_u32().to_string());
    }
    check_tli(primary, log)?;
    check_end(primary.end, log.end)
}

/// Checks that the primary has all that the log has.
pub(crate) fn check_end(primary: Lsn, log: Lsn) -> Result<(), AttachRefusal> {
    if primary < log { Err(AttachRefusal::Behind { primary, log }) } else { Ok(()) }
}

fn check_tli(primary: &PrimaryView, log: &LogView) -> Result<(), AttachRefusal> {
    for ours in &log.pg_history {
        let theirs = primary.history.iter().find(|(tli, _)| *tli == ours.tli).map(|(_, begin)| *begin);
        // The first entry of a log says which tli it starts on, not where that tli began.
        let agrees = match theirs {
            Some(begin) => begin == ours.start_lsn || (ours.start_lsn <= log.start && begin <= log.start),
            None => false,
        };
        if !agrees {
            let primary = theirs.map_or("nothing of it".to_owned(), |l| l.to_string());
            return Err(AttachRefusal::OtherHistory { tli: ours.tli, primary, timeline: ours.start_lsn });
        }
    }
    match log.pg_history.last() {
        Some(last) if last.tli != primary.tli => {
            Err(AttachRefusal::OtherTli { primary: primary.tli, timeline: last.tli })
        }
        _ => Ok(()),
    }
}

/// Where the comparison starts: at most [`COMPARE_BYTES`] below the committed position, further down when the last
/// record starts there, never below what both sides hold. With nothing committed: the start of the first segment,
/// whose bytes before the log's start both sides hold.
pub(crate) fn compare_from(primary: &PrimaryView, log: &LogView) -> Result<Lsn, AttachRefusal> {
    let oldest = primary.oldest.max(log.oldest);
    let segment = log.start.segment_start(log.seg_size);
    if log.commit <= log.start {
        let nothing = AttachRefusal::NothingToCompare { oldest, end: log.start };
        return if oldest > segment { Err(nothing) } else { Ok(segment) };
    }
    let back = Lsn::new(log.commit.get().saturating_sub(COMPARE_BYTES));
    let whole_record = log.last_record_start.unwrap_or(log.commit).min(log.commit);
    let from = back.min(whole_record).max(log.start).max(oldest);
    check_whole_record(from, log.end, log.last_record_start).map(|()| from)
}

/// Checks that `[from, end)` holds at least one whole record.
pub(crate) fn check_whole_record(from: Lsn, end: Lsn, last_record_start: Option<Lsn>) -> Result<(), AttachRefusal> {
    match last_record_start {
        Some(start) if from <= start => Ok(()),
        Some(_) => Err(AttachRefusal::NothingToCompare { oldest: from, end }),
        // An empty log: the bytes before its start are compared instead.
        None => Ok(()),
    }
}

/// Cuts `[from, to)` where PostgreSQL's files change from one tli to the next: the segment that holds a switchpoint
/// exists under both, earlier ones only under the older tli.
pub(crate) fn parts(history: &[(Tli, Lsn)], from: Lsn, to: Lsn) -> Vec<WalPart> {
    let mut out = Vec::new();
    for (i, (tli, begin)) in history.iter().enumerate() {
        let end = history.get(i + 1).map_or(to, |(_, next)| (*next).min(to));
        let first = if i == 0 { from } else { from.max(*begin) };
        if first < end {
            out.push(WalPart { tli: *tli, from: first, to: end });
        }
    }
    out
}

/// PostgreSQL's history file: lines of `tli`, switchpoint, reason; gives every tli with its beginning, `last` included.
pub(crate) fn parse_history(text: &str, last: Tli) -> Option<Vec<(Tli, Lsn)>> {
    let mut out = Vec::new();
    let mut begin = Lsn::new(0);
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut words = line.split_whitespace();
        let tli = Tli(words.next()?.parse().ok()?);
        out.push((tli, begin));
        begin = words.next()?.parse().ok()?;
    }
    out.push((last, begin));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn lsn(mib: u64) -> Lsn {
        Lsn::new(mib * MIB)
    }

    fn primary() -> PrimaryView {
        PrimaryView {
            system_id: SystemId(7),
            tli: Tli(1),
            end: lsn(100),
            history: vec![(Tli(1), Lsn::new(0))],
            version_num: 150_010,
            seg_size: SegSize::DEFAULT,
            oldest: lsn(16),
        }
    }

    fn log() -> LogView {
        LogView {
            system_id: SystemId(7),
            version_num: 150_004,
            seg_size: SegSize::DEFAULT,
            pg_history: vec![PgHistoryEntry { tli: Tli(1), start_lsn: lsn(20) }],
            start: lsn(20),
            commit: lsn(90),
            end: lsn(95),
            last_record_start: Some(lsn(94)),
            oldest: lsn(16),
        }
    }

    #[test]
    fn a_sound_primary_passes_and_every_other_is_named() {
        assert_eq!(check_identity(&primary(), &log()), Ok(()));
        let foreign = PrimaryView { system_id: SystemId(8), ..primary() };
        assert!(matches!(check_identity(&foreign, &log()), Err(AttachRefusal::ForeignSystem { .. })));
        let behind = PrimaryView { end: lsn(94), ..primary() };
        assert_eq!(check_identity(&behind, &log()), Err(AttachRefusal::Behind { primary: lsn(94), log: lsn(95) }));
        let major = PrimaryView { version_num: 160_000, ..primary() };
        assert!(matches!(check_identity(&major, &log()), Err(AttachRefusal::OtherFormat { .. })));
        let seg_size = SegSize::new(1 << 20).expect("1 MiB");
        let segments = PrimaryView { seg_size, ..primary() };
        assert!(matches!(check_identity(&segments, &log()), Err(AttachRefusal::OtherFormat { .. })));
    }

    #[test]
    fn a_promoted_server_is_refused_and_a_timeline_born_on_tli_2_is_not() {
        let promoted =
            PrimaryView { tli: Tli(2), history: vec![(Tli(1), Lsn::new(0)), (Tli(2), lsn(96))], ..primary() };
        assert_eq!(
            check_identity(&promoted, &log()),
            Err(AttachRefusal::OtherTli { primary: Tli(2), timeline: Tli(1) })
        );
        let born = |at| LogView { pg_history: vec![PgHistoryEntry { tli: Tli(2), start_lsn: at }], ..log() };
        let earlier = PrimaryView { history: vec![(Tli(1), Lsn::new(0)), (Tli(2), lsn(18))], ..promoted.clone() };
        assert_eq!(check_identity(&earlier, &born(lsn(20))), Ok(()));
        let other = PrimaryView { history: vec![(Tli(1), Lsn::new(0)), (Tli(2), lsn(40))], ..promoted };
        assert!(matches!(check_identity(&other, &born(lsn(20))), Err(AttachRefusal::OtherHistory { .. })));
        let old = primary();
        assert!(matches!(check_identity(&old, &born(lsn(20))), Err(AttachRefusal::OtherHistory { .. })));
    }

    #[test]
    fn the_compared_range_reaches_16_mib_back_and_holds_a_record() {
        assert_eq!(compare_from(&primary(), &log()), Ok(lsn(74)));
        let short = LogView { commit: lsn(25), end: lsn(25), last_record_start: Some(lsn(24)), ..log() };
        assert_eq!(compare_from(&primary(), &short), Ok(lsn(20)), "not below the start of the log");
        let huge = LogView { last_record_start: Some(lsn(60)), ..log() };
        assert_eq!(compare_from(&primary(), &huge), Ok(lsn(60)), "down to the start of a record longer than that");
        let recycled = PrimaryView { oldest: lsn(80), ..primary() };
        assert_eq!(compare_from(&recycled, &log()), Ok(lsn(80)));
        assert!(matches!(compare_from(&recycled, &huge), Err(AttachRefusal::NothingToCompare { .. })));
    }

    #[test]
    fn an_empty_log_compares_what_lies_before_its_start() {
        let empty = LogView { commit: lsn(20), end: lsn(20), last_record_start: None, ..log() };
        assert_eq!(compare_from(&primary(), &empty), Ok(lsn(16)));
        let recycled = PrimaryView { oldest: lsn(32), ..primary() };
        assert!(compare_from(&recycled, &empty).is_err());
        let uncommitted = LogView { commit: lsn(20), ..log() };
        assert_eq!(compare_from(&primary(), &uncommitted), Ok(lsn(16)), "the rest is compared after the election");
    }

    #[test]
    fn ranges_are_cut_at_switchpoints() {
        let history = [(Tli(1), Lsn::new(0)), (Tli(2), lsn(50)), (Tli(3), lsn(60))];
        let part = |tli, from, to| WalPart { tli: Tli(tli), from: lsn(from), to: lsn(to) };
        assert_eq!(parts(&history, lsn(40), lsn(70)), [part(1, 40, 50), part(2, 50, 60), part(3, 60, 70)]);
        assert_eq!(parts(&history, lsn(61), lsn(70)), [part(3, 61, 70)]);
        assert_eq!(parts(&history, lsn(10), lsn(20)), [part(1, 10, 20)]);
        assert_eq!(parts(&history, lsn(10), lsn(10)), []);
    }

    #[test]
    fn history_files() {
        let text = "1\t0/3000148\tno recovery target specified\n\n2\t0/4000000\tat restore point \"x\"\n";
        let parsed = parse_history(text, Tli(3)).expect("a history");
        assert_eq!(parsed[1], (Tli(2), Lsn::new(0x300_0148)));
        assert_eq!(parsed[2], (Tli(3), Lsn::new(0x400_0000)));
        assert_eq!(parse_history("", Tli(1)), Some(vec![(Tli(1), Lsn::new(0))]));
        assert_eq!(parse_history("1 nonsense", Tli(2)), None);
    }
}
