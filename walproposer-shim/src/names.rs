//! Names that a timeline has inside PostgreSQL: derived, unique, and short enough for every limit there.
//!
//! Pure. `walfabric timeline create` and the shim derive them with the same functions, so that they cannot disagree.

use proto::id::TimelineId;

/// Hexadecimal digits of the timeline id that go into a name: 64 bits, so that two timelines of one PostgreSQL never
/// collide.
const DIGITS: usize = 16;

/// What `synchronous_standby_names` must name, and the application_name of the streaming connection.
pub fn standby_name(timeline: TimelineId) -> String {
    let mut name = format!("walfabric_{timeline}");
    name.truncate("walfabric_".len() + DIGITS);
    name
}

/// The physical slot that streaming uses; it pins WAL from the quorum's commit position on.
pub fn slot_name(timeline: TimelineId) -> String {
    standby_name(timeline)
}

/// The second slot, which keeps WAL below the commit position for the next attach proof.
pub fn pin_slot_name(slot: &str) -> String {
    format!("{slot}_pin")
}

/// application_name of a connection that is still proving: it must never match `synchronous_standby_names`.
pub fn attach_name(timeline: TimelineId) -> String {
    standby_name(timeline).replacen("walfabric_", "walfabric-attach_", 1)
}

/// application_name of the connection that checks settings.
pub fn guard_name(timeline: TimelineId) -> String {
    standby_name(timeline).replacen("walfabric_", "walfabric-guard_", 1)
}

/// The text that `synchronous_standby_names` should be set to.
pub fn synchronous_standby_names(timeline: TimelineId) -> String {
    format!("FIRST 1 ({})", standby_name(timeline))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_postgres_and_differ() {
        let timeline: TimelineId = "0123456789abcdef0011223344556677".parse().expect("an id");
        assert_eq!(standby_name(timeline), "walfabric_0123456789abcdef");
        assert_eq!(pin_slot_name(&slot_name(timeline)), "walfabric_0123456789abcdef_pin");
        let all = [standby_name(timeline), attach_name(timeline), guard_name(timeline)];
        assert!(all.iter().all(|n| n.len() < 64), "NAMEDATALEN");
        assert!(!all[1..].contains(&all[0]), "the proof's walsender must not match");
        let slot_chars = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(pin_slot_name(&slot_name(timeline)).chars().all(slot_chars));
    }
}
