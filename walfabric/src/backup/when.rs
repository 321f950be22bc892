//! `--at`: an LSN, a time, or a transaction.

use jiff::civil::DateTime;
use jiff::{Span, Timestamp, ZonedDateTime};
use pgformat::Lsn;

/// When something shall be looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum When {
    /// What the log has up to this LSN.
    Lsn(Lsn),
    /// What had committed by this time.
    Time(Timestamp),
    /// What had committed when this transaction had.
    Xid(u32),
}

impl When {
    /// As the startup option of a pageserver: its name and its value.
    pub fn option(&self) -> (String, String) {
        match self {
            When::Lsn(lsn) => ("walfabric.lsn".to_owned(), lsn.to_string()),
            When::Time(time) => ("walfabric.time".to_owned(), time.to_string()),
            When::Xid(xid) => ("walfabric.xid".to_owned(), xid.to_string()),
        }
    }

    /// Reads what somebody typed, now being `now`: a time without a zone is one of the zone of `now`.
    ///
    /// # Errors
    /// With the forms that there are.
    pub fn parse(text: &str, now: &ZonedDateTime) -> Result<When, String> {
        // As PostgreSQL's log and its SELECT now() have it in this zone.
        let zulu = text.trim().strip_suffix(" UTC").or(text.trim().strip_suffix(" GMT")).map(|t| format!("{t}Z"));
        let text = zulu.as_deref().unwrap_or(text.trim());
        if let Some(xid) = text.strip_prefix("xid:") {
            return xid.parse().map(When::Xid).map_err(|e| format!("{xid:?} is no transaction: {e}"));
        }
        if let Ok(lsn) = text.parse() {
            return Ok(When::Lsn(lsn));
        }
        if let Ok(time) = text.parse() {
            return Ok(When::Time(time));
        }
        let forms = "an LSN (0/16B3748), a time (2026-11-29 10:15:00+02; without a zone it is the local one; \
                     '10 minutes ago') or a transaction (xid:734)";
        if let Ok(time) = text.parse::<DateTime>() {
            let local = time.to_zoned_datetime(now.time_zone().clone()).map_err(|e| e.to_string())?;
            return Ok(When::Time(local.timestamp()));
        }
        match text.parse::<Span>() {
            Ok(span) if text.ends_with("ago") => {
                now.checked_add(span).map(|z| When::Time(z.timestamp())).map_err(|e| e.to_string())
            }
            _ => Err(format!("{text:?} is none of these: {forms}")),
        }
    }
}

impl std::str::FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<When, String> {
        When::parse(text, &ZonedDateTime::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what people type is understood, and anything else is refused with the forms there are. Method: each form,
    /// read at a fixed moment in a zone of two hours.
    #[test]
    fn every_form_is_read() {
        let now: ZonedDateTime = "2026-11-29T12:00:00+02:00[+02:00]".parse().expect("a moment");
        let time = |text: &str| When::Time(text.parse().expect("a time"));
        let cases = [
            ("0/16B3748", When::Lsn(Lsn::new(0x16B_3748))),
            ("xid:734", When::Xid(734)),
            ("2026-11-29T10:15:00Z", time("2026-11-29T10:15:00Z")),
            ("2026-11-29 10:15:00+01", time("2026-11-29T09:15:00Z")),
            ("2026-11-29 10:15:00.5", time("2026-11-29T08:15:00.5Z")),
            ("2026-11-29 10:15:00.5 UTC", time("2026-11-29T10:15:00.5Z")),
            ("2026-11-28", time("2026-11-27T22:00:00Z")),
            ("10 minutes ago", time("2026-11-29T09:50:00Z")),
            (" 1 day 2 hours ago", time("2026-11-28T08:00:00Z")),
        ];
        for (text, when) in cases {
            assert_eq!(When::parse(text, &now), Ok(when), "{text}");
        }
        for bad in ["", "yesterday", "10 minutes", "xid:", "xid:-1", "0/", "10"] {
            let error = When::parse(bad, &now).expect_err("refused");
            assert!(bad.starts_with("xid") || error.contains("minutes ago"), "{bad:?}: {error}");
        }
        let (name, value) = time("2026-11-29T10:15:00.25Z").option();
        assert_eq!((name.as_str(), value.as_str()), ("walfabric.time", "2026-11-29T10:15:00.25Z"));
    }
}
