//! Why an attempt to attach, or a session, ended, and what follows from it.
//!
//! Pure data. An [`AttachRefusal`] says what is wrong and what to do: it ends the shim. Everything that may pass by
//! itself is [`StopCause::Retry`]: the shim backs off and begins again.

use libpq::NetError;
use node::exit;
use pgformat::wal::WalError;
use pgformat::{Lsn, Tli};
use proto::id::{SystemId, Term};

use crate::core::Fatal;

/// Why an attempt or a session ended.
#[derive(Debug)]
pub(crate) enum StopCause {
    /// Somebody is away or busy; begin again after a pause.
    Retry(String),
    /// The primary takes no connections yet: it is down or starting. Looked at again very soon.
    PrimaryAway(String),
    /// A higher term exists; begin again after a pause, with a term above it.
    Deposed(Term),
    /// Beginning again would not help.
    Refused(AttachRefusal),
    /// The core found something that should not exist, or a wrong address list.
    Fatal(Fatal),
    /// The shim was asked to end.
    Shutdown,
}

impl StopCause {
    /// Exit code, when this ends the shim.
    pub(crate) fn exit_code(&self) -> Option<u8> {
        match self {
            StopCause::Retry(_) | StopCause::PrimaryAway(_) | StopCause::Deposed(_) => None,
            StopCause::Refused(refusal) => Some(refusal.exit_code()),
            StopCause::Fatal(fatal) => fatal.exit_code(),
            StopCause::Shutdown => Some(exit::OK),
        }
    }
}

impl std::fmt::Display for StopCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StopCause::Retry(why) | StopCause::PrimaryAway(why) => f.write_str(why),
            StopCause::Deposed(term) => write!(f, "deposed: a safekeeper knows term {term}"),
            StopCause::Refused(refusal) => write!(f, "{refusal}. What to do: {}", refusal.advice()),
            StopCause::Fatal(fatal) => match fatal.advice() {
                Some(advice) => write!(f, "{fatal}. What to do: {advice}"),
                None => write!(f, "{fatal}"),
            },
            StopCause::Shutdown => f.write_str("asked to stop"),
        }
    }
}

impl From<NetError> for StopCause {
    fn from(e: NetError) -> StopCause {
        StopCause::Retry(e.to_string())
    }
}

impl From<AttachRefusal> for StopCause {
    fn from(r: AttachRefusal) -> StopCause {
        StopCause::Refused(r)
    }
}

/// Why this primary must not extend this log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum AttachRefusal {
    #[error("the primary belongs to system {primary}, the timeline to system {timeline}")]
    ForeignSystem { primary: SystemId, timeline: SystemId },
    #[error("the primary's {what} is {primary}, the timeline's is {timeline}")]
    OtherFormat { what: &'static str, primary: String, timeline: String },
    #[error("the server is a standby (pg_is_in_recovery)")]
    Standby,
    #[error("the primary runs with {0} off")]
    SettingOff(&'static str),
    #[error("the primary runs with wal_level {0}")]
    WalLevel(String),
    #[error("the primary's WAL ends at {primary}, before the end of the quorum's log at {log}: it lost WAL")]
    Behind { primary: Lsn, log: Lsn },
    #[error("the primary is on tli {primary}, the timeline on tli {timeline}")]
    OtherTli { primary: Tli, timeline: Tli },
    #[error("the primary's history says that tli {tli} began at {primary}, the timeline's says {timeline}")]
    OtherHistory { tli: Tli, primary: String, timeline: Lsn },
    #[error(
        "the primary's WAL differs from the quorum's log at {at}, {} (compared from {from} to {to}): it diverged",
        in_record(*record)
    )]
    Diverged { at: Lsn, record: Option<Lsn>, from: Lsn, to: Lsn },
    #[error("nothing can be proved: the log ends at {end}, but WAL to compare with is held from {oldest} on only")]
    NothingToCompare { oldest: Lsn, end: Lsn },
    #[error("the primary's WAL does not continue the quorum's log: {0}")]
    DoesNotFollow(WalError),
    #[error("the primary has removed WAL that the quorum lacks, from {0} on")]
    WalRemoved(Lsn),
    #[error("{0}")]
    Members(String),
    #[error("the safekeepers know primary epoch {known}, this shim was started with {given}")]
    StaleEpoch { known: u64, given: u64 },
    #[error("{0}")]
    Epoch(String),
    #[error("{0}: the timeline is fed by a built-in walproposer")]
    NotVanilla(String),
    #[error("safekeeper logs contradict each other: {0}")]
    Corrupt(String),
}

const REBUILD: &str = "stop it, and rebuild its data directory from a base backup of the present primary, or with \
                       pg_rewind; do not start it as this timeline's primary again";

fn in_record(start: Option<Lsn>) -> String {
    start.map_or_else(
        || "in a record that begins in an earlier segment or cannot be read".to_owned(),
        |at| format!("in the record at {at}"),
    )
}

impl AttachRefusal {
    /// What to do next.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            AttachRefusal::ForeignSystem { .. } | AttachRefusal::OtherFormat { .. } => {
                "check --primary, --tenant-id and --timeline-id; for a new cluster create a timeline of its own \
                 with `walfabric timeline create`"
            }
            AttachRefusal::Standby => {
                "point --primary at the primary; a standby is attached after its promotion, never before"
            }
            AttachRefusal::SettingOff("fsync") => {
                "set fsync = on and restart PostgreSQL, or start the shim with --allow-fsync-off and rebuild the \
                 node after any crash of its operating system"
            }
            AttachRefusal::SettingOff(_) => {
                "set full_page_writes = on and reload: page reconstruction needs full-page images"
            }
            AttachRefusal::WalLevel(_) => "set wal_level = replica (or logical) and restart PostgreSQL",
            AttachRefusal::Behind { .. } => REBUILD,
            AttachRefusal::OtherTli { .. } | AttachRefusal::OtherHistory { .. } => {
                "a promoted server does not continue this timeline by itself; create a timeline of its own for \
                 it, or attach the server that was not promoted"
            }
            AttachRefusal::Diverged { .. } | AttachRefusal::DoesNotFollow(_) => REBUILD,
            AttachRefusal::NothingToCompare { .. } => {
                "the primary has removed the WAL below the quorum's end: rebuild it from a base backup, and keep \
                 the slot whose name ends in _pin"
            }
            AttachRefusal::WalRemoved(_) => {
                "this primary cannot be reattached: create a new timeline for it with `walfabric timeline \
                 create`; keep max_slot_wal_keep_size = -1"
            }
            AttachRefusal::Members(_) => "correct --safekeepers: it must lead to the timeline's members, each once",
            AttachRefusal::StaleEpoch { .. } | AttachRefusal::Epoch(_) => {
                "another primary was designated; if this one is right, start the shim with that --primary-epoch \
                 or a higher one"
            }
            AttachRefusal::NotVanilla(_) => "use another timeline: this one takes no WAL from a shim",
            AttachRefusal::Corrupt(_) => "stop everything that writes to the timeline and inspect the safekeepers",
        }
    }

    /// Whether its advice is to throw the primary's data away: given only after a second, fresh look.
    pub(crate) fn is_destructive(&self) -> bool {
        self.advice() == REBUILD
    }

    fn exit_code(&self) -> u8 {
        if matches!(self, AttachRefusal::Corrupt(_)) { exit::CORRUPTION } else { exit::REFUSED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_end_the_shim() {
        assert_eq!(StopCause::Retry(String::new()).exit_code(), None);
        assert_eq!(StopCause::PrimaryAway(String::new()).exit_code(), None);
        assert_eq!(StopCause::Deposed(Term(3)).exit_code(), None);
        assert_eq!(StopCause::Refused(AttachRefusal::Standby).exit_code(), Some(6));
        assert_eq!(StopCause::Refused(AttachRefusal::Corrupt(String::new())).exit_code(), Some(5));
        let said = "primary_epoch 1 is older than 2".to_owned();
        let fenced = StopCause::Fatal(Fatal::Fenced { refused: 2, said });
        assert_eq!(fenced.exit_code(), Some(6));
        let text = fenced.to_string();
        assert!(
            text.contains("2 safekeepers") && text.contains("older than 2") && text.contains("What to do"),
            "{text}"
        );
        assert_eq!(StopCause::Fatal(Fatal::TooFew { given: 1, members: 3 }).exit_code(), Some(6));
    }

    #[test]
    fn only_what_ends_in_a_rebuild_is_looked_at_twice() {
        let at = Lsn::new(0x10);
        assert!(AttachRefusal::Behind { primary: at, log: at }.is_destructive());
        let diverged = AttachRefusal::Diverged { at, record: Some(Lsn::new(8)), from: at, to: at };
        assert!(diverged.is_destructive());
        assert!(diverged.to_string().contains("at 0/10, in the record at 0/8 (compared"), "{diverged}");
        assert!(
            !AttachRefusal::Standby.is_destructive()
                && !AttachRefusal::StaleEpoch { known: 2, given: 1 }.is_destructive()
        );
    }

    #[test]
    fn a_refusal_says_what_is_wrong_and_what_to_do() {
        let said =
            StopCause::Refused(AttachRefusal::Behind { primary: Lsn::new(0x10), log: Lsn::new(0x20) }).to_string();
        assert!(said.contains("0/10") && said.contains("0/20") && said.contains("rebuild"), "{said}");
    }
}
