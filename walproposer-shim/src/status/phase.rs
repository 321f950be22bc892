//! Where the shim stands, in one word.

/// Where the shim stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ShimPhase {
    /// No connection to the primary, or to a quorum.
    Detached,
    /// The attach proof runs.
    Validating,
    /// Votes are asked for.
    Campaign,
    /// Won; the rest of the proof runs.
    Elected,
    /// WAL flows, and a quorum follows.
    Streaming,
    /// WAL came from PostgreSQL, but no quorum follows: commits wait.
    NoQuorum,
    /// Over: this primary must not extend this log.
    Refused,
}

impl ShimPhase {
    pub(crate) const ALL: [ShimPhase; 7] = [
        ShimPhase::Detached,
        ShimPhase::Validating,
        ShimPhase::Campaign,
        ShimPhase::Elected,
        ShimPhase::Streaming,
        ShimPhase::Refused,
        ShimPhase::NoQuorum,
    ];

    /// Word for status pages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            ShimPhase::Detached => "detached",
            ShimPhase::Validating => "validating",
            ShimPhase::Campaign => "campaign",
            ShimPhase::Elected => "elected",
            ShimPhase::Streaming => "streaming",
            ShimPhase::NoQuorum => "no_quorum",
            ShimPhase::Refused => "refused",
        }
    }
}
