//! What PostgreSQL is told about the hot standbys behind the safekeepers, and when. Pure.
//!
//! The primary keeps it as the streaming slot's `xmin` and `catalog_xmin`, which outlive the connection. So the first
//! word of a session takes back what an earlier one left when no standby speaks, and the last word before an orderly
//! end takes back everything.

use std::time::Duration;

use bytes::Bytes;
use proto::consensus::HotStandbyFeedback;
use proto::replication::ReceiverMessage;
use tokio::time::Instant;

/// Between two words: a standby speaks every 10 s by default, every second at most.
const PAUSE: Duration = Duration::from_secs(1);

/// The same word is said again after this time, as a standby does it.
const AGAIN: Duration = Duration::from_secs(10);

/// What was said in this session.
#[derive(Debug, Default)]
pub(crate) struct StandbyReport {
    said: Option<(Instant, HotStandbyFeedback)>,
}

impl StandbyReport {
    /// What PostgreSQL should be told now, if anything.
    pub(crate) fn due(&self, wanted: HotStandbyFeedback, now: Instant) -> Option<HotStandbyFeedback> {
        let due = self.said.is_none_or(|(at, said)| {
            let same = (said.xmin, said.catalog_xmin) == (wanted.xmin, wanted.catalog_xmin);
            match (same, wanted.is_none()) {
                (false, _) => now >= at + PAUSE,
                (true, false) => now >= at + AGAIN,
                (true, true) => false, // said once, it holds
            }
        });
        due.then_some(wanted)
    }

    /// It was said.
    pub(crate) fn said(&mut self, feedback: HotStandbyFeedback, now: Instant) {
        self.said = Some((now, feedback));
    }

    /// Whether the slot may hold something for standbys.
    pub(crate) fn may_hold(&self) -> bool {
        self.said.is_none_or(|(_, said)| !said.is_none())
    }
}

/// As a walreceiver says it.
pub(crate) fn encode(feedback: HotStandbyFeedback, ts: i64) -> Bytes {
    let HotStandbyFeedback { xmin, catalog_xmin, .. } = feedback;
    ReceiverMessage::HotStandby { ts, xmin, catalog_xmin }.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_said_soon_and_the_end_once() {
        let none = HotStandbyFeedback::default();
        let of = |xmin| HotStandbyFeedback::of_standby(1, xmin, 0);
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut report = StandbyReport::default();
        assert!(report.may_hold(), "an earlier session may have left something");
        assert_eq!(report.due(none, at(0)), Some(none), "which is taken back when nobody needs it");
        assert_eq!(report.due(of(7), at(0)), Some(of(7)), "the first word at once");
        report.said(of(7), at(0));
        assert_eq!(report.due(of(8), start + Duration::from_millis(999)), None);
        assert_eq!(report.due(of(8), at(1)), Some(of(8)));
        assert_eq!(report.due(of(7), at(9)), None, "the same");
        assert_eq!(report.due(of(7), at(10)), Some(of(7)), "the same, a while ago");
        assert_eq!(report.due(none, at(1)), Some(none), "the last standby has gone");
        report.said(none, at(1));
        assert!(!report.may_hold() && report.due(none, at(1000)).is_none(), "once");
        assert_eq!(report.due(of(9), at(3)), Some(of(9)));
    }

    #[test]
    fn a_walreceivers_bytes() {
        let bytes = encode(HotStandbyFeedback::of_standby(0, (2 << 32) | 7, 5), 1);
        assert_eq!(bytes[..], *b"h\0\0\0\0\0\0\0\x01\0\0\0\x07\0\0\0\x02\0\0\0\x05\0\0\0\0");
        let none = encode(HotStandbyFeedback::default(), 1);
        assert_eq!(none[..], *b"h\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    }
}
