//! Positions in bodies: null when they are unknown, and `0/0` in schema 1.

use pgformat::Lsn;
use serde::{Deserialize, Deserializer};

use super::SafekeeperTimelineStatus;

/// The form of the bodies that say it in `schema`. In 1, which did not say so, an unknown LSN was `0/0`; since 2 it is
/// null.
pub const SCHEMA: u32 = 2;

/// What a body has that does not say its schema.
pub(super) fn first_schema() -> u32 {
    1
}

/// A position of either schema.
pub(super) fn known<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Lsn>, D::Error> {
    Ok(Option::<Lsn>::deserialize(from)?.filter(|lsn| *lsn != shown(None)))
}

impl SafekeeperTimelineStatus {
    /// It in schema 1. `SHOW TIMELINE` says it so: a shim of an earlier version reads that before it connects, cannot
    /// read null, and must go on when the safekeepers are upgraded before it.
    ///
    /// # Errors
    /// None that is known: the value has no map with keys other than text.
    pub fn to_schema_1(&self) -> serde_json::Result<serde_json::Value> {
        let mut status = serde_json::to_value(SafekeeperTimelineStatus { schema: 1, ..self.clone() })?;
        zero_unknown(&mut status);
        status["pushes"].as_array_mut().into_iter().flatten().for_each(zero_unknown);
        Ok(status)
    }
}

/// Writes the positions of an object that are null as `0/0`. Their names tell them.
fn zero_unknown(object: &mut serde_json::Value) {
    for (name, value) in object.as_object_mut().into_iter().flatten() {
        if name.ends_with("_lsn") && value.is_null() {
            *value = serde_json::Value::String(shown(None).to_string());
        }
    }
}

/// A position for tables and schema 1, where unknown is 0/0.
pub fn shown(lsn: Option<Lsn>) -> Lsn {
    lsn.unwrap_or(Lsn::new(0))
}
