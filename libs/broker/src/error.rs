//! Types that all calls on the broker share: revisions, leases, errors.

/// A revision of the broker's store.
pub type Revision = i64;

/// A lease of the broker: keys attached to it go when it is not kept alive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LeaseId(pub i64);

/// What went wrong with the broker; all of it may pass, callers retry with back-off.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It did not answer in time, or the connection failed.
    #[error("broker {endpoint} is not reachable: {detail}")]
    Unreachable {
        /// URL of the endpoint that was asked.
        endpoint: String,
        /// What the client said.
        detail: String,
    },
    /// It answered with an error.
    #[error("broker refused {operation}: {detail}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// What it said.
        detail: String,
    },
    /// The lease ended or was lost with the store: ask for another one.
    #[error("broker does not know lease {:x} any more", .0.0)]
    LeaseGone(LeaseId),
    /// The endpoint text is no URL.
    #[error("{0:?} is not a broker URL: expected http://host:port[,host:port...]")]
    BadUrl(String),
}
