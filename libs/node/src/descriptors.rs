//! File descriptors: the process claims as many as the configured limits need at the start, so that connections can
//! never use up those that files need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for files, sockets that this process dials, and the runtime itself: a node that holds WAL or layers of
/// some hundred timelines opens that many.
pub const FILES_RESERVE: u64 = 1024;

/// The hard limit is below what the settings need.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{needed} file descriptors are needed ({connections} connections and {FILES_RESERVE} for files), but at most \
     {allowed} are allowed: raise the hard limit of open files (LimitNOFILE=, ulimit -Hn) to {needed}, or lower the \
     limits of connections (--pg-connections-max, --http-connections-max, --connections-max)"
)]
pub struct TooFewDescriptors {
    /// What the settings need in all.
    pub needed: u64,
    /// Connections among them.
    pub connections: u64,
    /// The hard limit.
    pub allowed: u64,
}

/// Raises the soft limit of open files to what `connections` and the reserve need, when it is lower.
///
/// # Errors
/// When the hard limit does not allow it.
pub fn claim_descriptors(connections: usize) -> Result<(), TooFewDescriptors> {
    let limits = getrlimit(Resource::Nofile);
    let Some(wanted) = wanted(connections, limits.current, limits.maximum)? else { return Ok(()) };
    let raised = Rlimit { current: Some(wanted), maximum: limits.maximum };
    if let Err(e) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(wanted, error = %e, "the limit of open files cannot be raised");
        let allowed = limits.current.unwrap_or(u64::MAX);
        return Err(TooFewDescriptors { needed: wanted, connections: connections as u64, allowed });
    }
    Ok(())
}

/// The soft limit to be set, if any; no limit is `None`, as the operating system has it.
fn wanted(connections: usize, soft: Option<u64>, hard: Option<u64>) -> Result<Option<u64>, TooFewDescriptors> {
    let connections = connections as u64;
    let needed = connections.saturating_add(FILES_RESERVE);
    if soft.is_none_or(|soft| soft >= needed) {
        return Ok(None);
    }
    match hard {
        Some(allowed) if allowed < needed => Err(TooFewDescriptors { needed, connections, allowed }),
        _ => Ok(Some(needed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_as_far_as_needed_or_the_number_is_named() {
        assert_eq!(wanted(1000, Some(1024), Some(4096)), Ok(Some(2024)));
        assert_eq!(wanted(1000, Some(2024), Some(4096)), Ok(None), "enough");
        assert_eq!(wanted(1000, None, None), Ok(None), "no limit");
        let refused = wanted(5000, Some(1024), Some(4096)).expect_err("more than the hard limit");
        assert!(refused.to_string().contains("6024") && refused.to_string().contains("4096"), "{refused}");
        claim_descriptors(0).expect("the reserve alone fits everywhere");
    }
}
