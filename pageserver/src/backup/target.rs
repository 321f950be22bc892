//! Where a client wants the log to end: an LSN, a time, or a transaction, from the startup parameter `options`.
//!
//! A time and a transaction choose what PostgreSQL's recovery would stop at with `recovery_target_time` and
//! `recovery_target_xid`, inclusive unless the client says otherwise.
//!
//! Source: PostgreSQL 15, `recoveryStopsBefore` and `recoveryStopsAfter` in `xlogrecovery.c`.

use std::time::{Duration, Instant, UNIX_EPOCH};

use node::{pg_now, rfc3339};
use pgformat::Lsn;
use proto::pg::{SqlError, StartupParams, sqlstate};

use crate::cluster::xacts::{EndKind, XactEntry};
use crate::read::{PageReader, ReadPoint};
use crate::timeline::Timeline;

/// The options by which a client says it.
const LSN_OPTION: &str = "walfabric.lsn";
const TIME_OPTION: &str = "walfabric.time";
const XID_OPTION: &str = "walfabric.xid";
const INCLUSIVE_OPTION: &str = "walfabric.inclusive";
const POLL: Duration = Duration::from_millis(100);
/// From 1970 to 2000, where PostgreSQL begins to count.
const EPOCH_SHIFT_US: i64 = 946_684_800_000_000;

/// Where the log shall end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BackupTarget {
    /// At the last record that is here.
    Here,
    /// At the last record of all that is committed when the client asks.
    Latest,
    /// At the last record that ends at or below this LSN.
    Lsn(Lsn),
    /// Before the first transaction that ended after this time, in microseconds since 2000; or, exclusively, at it.
    Time(i64, bool),
    /// Behind the commit of this transaction, or, exclusively, before it.
    Xid(u32, bool),
}

impl BackupTarget {
    /// What a client asks for.
    ///
    /// # Errors
    /// SQLSTATE 22023 for a value that is none, and for more than one target.
    pub(crate) fn of(startup: &StartupParams) -> Result<BackupTarget, SqlError> {
        let bad = |name: &str, e: String, hint: &str| {
            SqlError::invalid_value(format!("startup option {name}: {e}")).with_hint(hint)
        };
        let inclusive = match startup.option(INCLUSIVE_OPTION) {
            None | Some("on") => true,
            Some("off") => false,
            Some(other) => return Err(bad(INCLUSIVE_OPTION, format!("{other:?}"), "It is on or off.")),
        };
        let mut targets = Vec::new();
        if let Some(text) = startup.option(LSN_OPTION) {
            let lsn = text.parse().map_err(|e| bad(LSN_OPTION, format!("{e}"), "An LSN looks like 0/16B3748."))?;
            targets.push(BackupTarget::Lsn(lsn));
        }
        if let Some(text) = startup.option(TIME_OPTION) {
            let hint = "A time looks like 2026-11-29T10:15:00Z.";
            let time: jiff::Timestamp = text.parse().map_err(|e| bad(TIME_OPTION, format!("{e}"), hint))?;
            targets.push(BackupTarget::Time(time.as_microsecond().saturating_sub(EPOCH_SHIFT_US), inclusive));
        }
        if let Some(text) = startup.option(XID_OPTION) {
            let hint = "A transaction's number, as txid_current() % 2^32 or pg_current_xact_id()::xid have it.";
            let xid = text.parse().map_err(|e| bad(XID_OPTION, format!("{text:?}: {e}"), hint))?;
            targets.push(BackupTarget::Xid(xid, inclusive));
        }
        match targets[..] {
            [] => Ok(BackupTarget::Latest),
            [target] => Ok(target),
            _ => Err(SqlError::invalid_value("an LSN, a time and a transaction exclude each other")
                .with_hint(format!("Give one of {LSN_OPTION}, {TIME_OPTION}, {XID_OPTION}."))),
        }
    }

    /// The LSN that it comes to; waits as long as `limit` for one that is not here yet.
    ///
    /// # Errors
    /// Below what is readable, in the future, or no such transaction: with the range there is.
    pub(crate) async fn resolve(
        self,
        timeline: &Timeline,
        reader: &PageReader,
        limit: Duration,
    ) -> Result<Lsn, SqlError> {
        let point = match self {
            BackupTarget::Here => ReadPoint::latest(),
            BackupTarget::Latest => {
                Waiting::begin(timeline, limit).until_all_is_here("the latest state").await?;
                ReadPoint::latest()
            }
            BackupTarget::Lsn(lsn) => ReadPoint::exactly(lsn),
            BackupTarget::Time(time, inclusive) => return at_time(timeline, reader, (time, inclusive), limit).await,
            BackupTarget::Xid(xid, inclusive) => return at_xid(timeline, reader, (xid, inclusive), limit).await,
        };
        reader.resolve(point, limit).await.map_err(|e| e.to_sql())
    }
}

/// Somebody asks, and waits for what had been committed by then.
struct Waiting<'a> {
    timeline: &'a Timeline,
    asked: Instant,
    limit: Duration,
}

impl<'a> Waiting<'a> {
    fn begin(timeline: &'a Timeline, limit: Duration) -> Waiting<'a> {
        Waiting { timeline, asked: Instant::now(), limit }
    }

    /// Waits until everything is here that was committed when it began. `what` cannot be told before.
    async fn until_all_is_here(&self, what: &str) -> Result<(), SqlError> {
        while !self.timeline.has_all_since(self.asked) {
            if self.asked.elapsed() >= self.limit {
                let behind = match self.timeline.lag() {
                    None => "how far the log goes is not known here".to_owned(),
                    Some(bytes) => format!("the pageserver is {bytes} bytes behind the log"),
                };
                let problem = format!("{what} is not here after {} s: {behind}", self.limit.as_secs());
                return Err(SqlError::new(sqlstate::LSN_NOT_REACHED, problem)
                    .with_hint("walfabric status says why; an LSN that is here can be read all the same."));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

/// What is readable now, both ends, and the first end of a transaction in there.
async fn window(reader: &PageReader) -> Result<((Lsn, Lsn), Option<XactEntry>), SqlError> {
    let readable = reader.readable();
    let from = readable.from.filter(|from| *from <= readable.to).ok_or_else(|| {
        SqlError::new(sqlstate::CANNOT_CONNECT_NOW, "the timeline has no readable pages yet")
            .with_hint(readable.to_string())
    })?;
    let range = (from, readable.to);
    let first = reader.first_end(range, is_end).await.map_err(|e| e.to_sql())?;
    Ok((range, first))
}

/// What recovery can stop at: a commit or an abort, not the preparation of one.
fn is_end(entry: &XactEntry) -> bool {
    entry.kind != EndKind::Prepare
}

fn shown(time: i64) -> String {
    let us = time.saturating_add(EPOCH_SHIFT_US);
    rfc3339(UNIX_EPOCH + Duration::from_micros(u64::try_from(us).unwrap_or(0)))
}

/// Before the first transaction that ended later. Clocks may have stepped back: what counts is the order of the log.
/// Waits as long as something that had ended by then may still be under way.
async fn at_time(
    timeline: &Timeline,
    reader: &PageReader,
    (time, inclusive): (i64, bool),
    limit: Duration,
) -> Result<Lsn, SqlError> {
    let is_later = move |t: i64| if inclusive { t > time } else { t >= time };
    let now = pg_now();
    if time > now {
        let problem = format!("the time {} lies in the future: it is {}", shown(time), shown(now));
        return Err(SqlError::new(sqlstate::LSN_NOT_REACHED, problem));
    }
    let waiting = Waiting::begin(timeline, limit);
    let wanted = move |e: &XactEntry| is_end(e) && is_later(e.time);
    let (mut range, mut first) = window(reader).await?;
    let mut stop = reader.first_end(range, wanted).await.map_err(|e| e.to_sql())?;
    if stop.is_none() {
        // It had ended by then, or is still under way.
        waiting.until_all_is_here(&format!("what had committed by {}", shown(time))).await?;
        (range, first) = window(reader).await?;
        stop = reader.first_end(range, wanted).await.map_err(|e| e.to_sql())?;
    }
    let Some(first) = first else {
        let problem = format!("no transaction has ended since {}, so no time can be told from another", range.0);
        return Err(SqlError::new(sqlstate::LSN_TOO_OLD, problem).with_hint(reader.readable().to_string()));
    };
    if is_later(first.time) {
        let problem = format!(
            "the time {} lies before what is kept: the first transaction that is known ended at {} ({})",
            shown(time),
            shown(first.time),
            first.end
        );
        return Err(SqlError::new(sqlstate::LSN_TOO_OLD, problem));
    }
    Ok(stop.map_or(range.1, |stop| stop.start))
}

/// Where a transaction committed.
async fn at_xid(
    timeline: &Timeline,
    reader: &PageReader,
    (xid, inclusive): (u32, bool),
    limit: Duration,
) -> Result<Lsn, SqlError> {
    let waiting = Waiting::begin(timeline, limit);
    let wanted = move |e: &XactEntry| is_end(e) && (e.xid == xid || e.subxids.contains(&xid));
    let (mut range, _) = window(reader).await?;
    let mut ended = reader.first_end(range, wanted).await.map_err(|e| e.to_sql())?;
    if ended.is_none() {
        waiting.until_all_is_here(&format!("the end of transaction {xid}")).await?;
        (range, _) = window(reader).await?;
        ended = reader.first_end(range, wanted).await.map_err(|e| e.to_sql())?;
    }
    let refused = |problem: String| {
        Err(SqlError::new(sqlstate::UNDEFINED_OBJECT, problem).with_hint(reader.readable().to_string()))
    };
    match ended {
        Some(e) if e.xid != xid => {
            refused(format!("{xid} is a subtransaction, which ended with {} at {}", e.xid, e.end))
        }
        Some(e) if matches!(e.kind, EndKind::Abort | EndKind::AbortPrepared) => {
            refused(format!("transaction {xid} was rolled back at {}", e.end))
        }
        Some(e) => Ok(if inclusive { e.end } else { e.start }),
        None => {
            let prepared = reader.first_end(range, move |e| e.xid == xid).await.map_err(|e| e.to_sql())?;
            match prepared {
                Some(e) => refused(format!("transaction {xid} was prepared at {} and has not ended", e.end)),
                None => {
                    refused(format!("no end of transaction {xid} is known: it runs, or ended before, or never was"))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(options: &[(&str, &str)]) -> Result<BackupTarget, String> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        BackupTarget::of(&StartupParams { options, ..Default::default() }).map_err(|e| format!("{}: {e}", e.code))
    }

    #[test]
    fn a_client_names_one_target() {
        assert_eq!(asked(&[]), Ok(BackupTarget::Latest));
        assert_eq!(asked(&[("walfabric.lsn", "0/10")]), Ok(BackupTarget::Lsn(Lsn::new(16))));
        let second = BackupTarget::Time(1_500_000, true);
        assert_eq!(asked(&[("walfabric.time", "2000-01-01T00:00:01.5Z")]), Ok(second));
        assert_eq!(asked(&[("walfabric.time", "2000-01-01T02:00:01.5+02:00")]), Ok(second));
        let before = [("walfabric.xid", "734"), ("walfabric.inclusive", "off")];
        assert_eq!(asked(&before), Ok(BackupTarget::Xid(734, false)));
        for bad in [
            &[("walfabric.lsn", "x")][..],
            &[("walfabric.time", "yesterday")],
            &[("walfabric.xid", "-1")],
            &[("walfabric.xid", "7"), ("walfabric.inclusive", "perhaps")],
            &[("walfabric.xid", "7"), ("walfabric.lsn", "0/10")],
        ] {
            assert!(asked(bad).is_err_and(|e| e.starts_with("22023")), "{bad:?}");
        }
        assert_eq!(shown(0), "2000-01-01T00:00:00.000Z");
    }
}
