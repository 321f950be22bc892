//! What servers say they do, in words that are the same in code, in bodies and on screens.
//!
//! A reader takes a word that it does not know, of a newer program, for `Unknown`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An enum of words: each variant with the word on the wire.
macro_rules! words {
    ($(#[$of:meta])* $name:ident { $($(#[$doc:meta])* $word:ident = $text:literal,)* }) => {
        $(#[$of])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $text)] $word,)*
            /// Nobody said, or a word of a newer program.
            #[serde(rename = "unknown", other)]
            Unknown,
        }

        impl $name {
            /// Every one that a program can be in, in the order of their numbers.
            pub const ALL: &[$name] = &[$($name::$word,)*];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$word => $text,)*
                    $name::Unknown => "unknown",
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What an import does.
    ImportStage {
        /// Pages come over the connection to the cluster.
        Copying = "copying",
        /// Pages are copied; WAL up to the backup's end is ingested.
        Replaying = "replaying",
        /// Pages can be read.
        Done = "done",
    }
}

words! {
    /// What a pageserver does about a timeline.
    PageserverTimelineState {
        /// No safekeeper is chosen.
        Idle = "idle",
        /// A safekeeper is chosen; its stream has not begun.
        WaitingForDial = "waiting_for_dial",
        /// The chosen safekeeper pushes WAL.
        Pushed = "pushed",
        /// WAL is pulled from the chosen safekeeper.
        Pulling = "pulling",
        /// Pages are being copied; no WAL is wanted yet.
        Importing = "importing",
        /// Nothing is taken in before a restart.
        Stopped = "stopped",
    }
}

words! {
    /// Which side of a choice dials.
    ChoiceMode {
        /// The safekeeper dials the pageserver.
        Push = "push",
        /// The pageserver dials the safekeeper.
        Pull = "pull",
    }
}

words! {
    /// What an outgoing stream of a safekeeper does.
    StreamState {
        /// Dialling, or waiting for the first frame.
        Connecting = "connecting",
        /// WAL flows, or waits for more.
        Streaming = "streaming",
        /// Waiting for the next attempt.
        Backoff = "backoff",
        /// Refused as stale: waiting for the key to change.
        Stale = "stale",
    }
}

words! {
    /// What a shim does. The numbers are those of its metric.
    ShimPhase {
        /// No connection to the primary, or to a quorum.
        Detached = "detached",
        /// The attach proof runs.
        Validating = "validating",
        /// Votes are asked for.
        Campaign = "campaign",
        /// Won; the rest of the proof runs.
        Elected = "elected",
        /// WAL flows, and a quorum follows.
        Streaming = "streaming",
        /// Over: this primary must not extend this log.
        Refused = "refused",
        /// WAL came from PostgreSQL, but no quorum follows: commits wait.
        NoQuorum = "no_quorum",
    }
}

words! {
    /// How far a shim's session with a safekeeper is.
    PeerState {
        /// There is none.
        Offline = "offline",
        /// It is connected; no WAL flows.
        Handshake = "handshake",
        /// WAL flows to it.
        Active = "active",
    }
}
