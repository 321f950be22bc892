//! Why a safekeeper was chosen and how streams end: closed sets with stable texts, since operators and checks read
//! them.

/// Why a safekeeper was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(crate) enum Reason {
    /// There was no stream, and none was lost.
    NoExistingConnection,
    /// The stream before fell silent.
    NoKeepalives,
    /// The sender before was far behind this one.
    LaggingWal,
    /// This one is in our availability zone.
    SwitchAvailabilityZone,
    /// The sender before brought no WAL although others had newer.
    NoWalTimeout,
    /// The choice before was not dialled in time.
    NotDialled,
    /// The stream before broke.
    ConnectionLost,
    /// The sender before sent WAL that does not continue the log.
    BadWal,
    /// WAL was being pulled, and a safekeeper can be asked to push again.
    PushPossible,
    /// An operator asked for it.
    Operator,
}

impl Reason {
    /// Every reason.
    #[cfg(test)]
    pub(crate) const ALL: [Reason; 10] = [
        Reason::NoExistingConnection,
        Reason::NoKeepalives,
        Reason::LaggingWal,
        Reason::SwitchAvailabilityZone,
        Reason::NoWalTimeout,
        Reason::NotDialled,
        Reason::ConnectionLost,
        Reason::BadWal,
        Reason::PushPossible,
        Reason::Operator,
    ];

    /// Stable text: on the broker, over HTTP, in SHOW and as a metric label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Reason::NoExistingConnection => "no_existing_connection",
            Reason::NoKeepalives => "no_keepalives",
            Reason::LaggingWal => "lagging_wal",
            Reason::SwitchAvailabilityZone => "switch_availability_zone",
            Reason::NoWalTimeout => "no_wal_timeout",
            Reason::NotDialled => "not_dialled",
            Reason::ConnectionLost => "connection_lost",
            Reason::BadWal => "bad_wal",
            Reason::PushPossible => "push_possible",
            Reason::Operator => "operator",
        }
    }
}

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// The connection broke, could not be opened, or the sender finished.
    Lost,
    /// Nothing came for the silence limit.
    Silent,
    /// WAL that does not continue the log.
    BadWal,
    /// A newer stream took its place.
    Replaced,
}

impl Ended {
    /// The reason of the choice that follows.
    pub(super) const fn reason(self) -> Reason {
        match self {
            Ended::Lost | Ended::Replaced => Reason::ConnectionLost,
            Ended::Silent => Reason::NoKeepalives,
            Ended::BadWal => Reason::BadWal,
        }
    }
}
