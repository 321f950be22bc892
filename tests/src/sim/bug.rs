//! Bugs that can be planted around the product's code, to show that a checker catches them. They are in the simulated
//! driver, disk or shim, never in the product.

use std::str::FromStr;

macro_rules! bugs {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $($(#[$doc])* $variant,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$variant,)*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Bug::$variant => $name,)*
                }
            }
        }
    };
}

bugs! {
    /// The driver tells the acceptor that a flush is done without running it.
    AckBeforeSync = "ack-before-sync",
    /// The driver sends vote responses without waiting for the term to be durable.
    VoteBeforePersist = "vote-before-persist",
    /// The driver sends acknowledgements that wait for nothing but the history of their term.
    AckBeforeHistory = "ack-before-history",
    /// Directory syncs do nothing.
    NoDirSync = "no-dir-sync",
    /// What lies behind the end of the log is left there when a timeline is opened.
    NoTruncateAtOpen = "no-truncate-at-open",
    /// After a process kill the page cache is trusted without a sync.
    NoSyncAtOpen = "no-sync-at-open",
    /// The shim counts a refused vote as given (I1).
    CountRefusedVote = "count-refused-vote",
    /// A restarted node misplaces the start of its last term (I2).
    WrongHistory = "wrong-history",
    /// The shim takes over the least advanced voter's log (I3).
    WrongDonor = "wrong-donor",
    /// One acknowledgement counts for every acceptor (I4).
    AckForAll = "ack-for-all",
    /// The driver cuts the log at its start instead of where it is told (I5).
    CutTooLow = "cut-too-low",
    /// The shim reports what it received, committed or not (I6).
    ReportReceived = "report-received",
    /// The attach proof passes without a comparison (I6: a foreign server's WAL is reported).
    NoProof = "no-proof",
    /// The server acknowledges what it has sent (acknowledged commits are lost).
    AckOnSend = "ack-on-send",
    /// A bit rots below the committed end of one node (bytes equal everywhere).
    BitRot = "bit-rot",
    /// A member that forgot is not told so by the others, and votes at once (its guard is skipped).
    AmnesiacVotes = "amnesiac-votes",
    /// The driver publishes positions after it gave the disk its work, a truncation among it (readers).
    CutBeforePositions = "cut-before-positions",
    /// The driver changes the WAL in memory only after it published that the change is durable (readers).
    MemoryAfterPositions = "memory-after-positions",
    /// The shim sends WAL before the messages that the core put in front of it, an announcement among them (progress).
    WalBeforeElected = "wal-before-elected",
    /// The shim's full ring keeps everything that is not committed, also of a record longer than itself (progress).
    KeepUncommitted = "keep-uncommitted",
    /// The driver never says that its queue ran empty (progress).
    NeverFlush = "never-flush",
}

impl Bug {
    /// The checker that is shown to work by it; `None` when any of them may catch it first.
    pub fn caught_by(self) -> Option<&'static str> {
        match self {
            Bug::AckBeforeSync | Bug::NoDirSync | Bug::NoTruncateAtOpen | Bug::NoSyncAtOpen | Bug::NoProof => None,
            Bug::VoteBeforePersist | Bug::AckBeforeHistory => Some("promises"),
            Bug::CountRefusedVote => Some("I1"),
            Bug::WrongHistory => Some("I2"),
            Bug::WrongDonor | Bug::AmnesiacVotes => Some("I3"),
            Bug::AckForAll => Some("I4"),
            Bug::CutTooLow => Some("I5"),
            Bug::ReportReceived => Some("I6"),
            Bug::AckOnSend => Some("acknowledged"),
            Bug::BitRot => Some("equal"),
            Bug::CutBeforePositions | Bug::MemoryAfterPositions => Some("readers"),
            Bug::NeverFlush | Bug::WalBeforeElected | Bug::KeepUncommitted => Some("progress"),
        }
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(name: &str) -> Result<Bug, String> {
        let known = || Bug::ALL.iter().map(|b| b.name()).collect::<Vec<_>>().join(", ");
        Bug::ALL
            .iter()
            .copied()
            .find(|b| b.name() == name)
            .ok_or_else(|| format!("no bug {name:?}; known: {}", known()))
    }
}
