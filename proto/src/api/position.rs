//! Positions in bodies: null when they are unknown, and `0/0` in schema 1.

use pgformat::Lsn;
use serde::{Deserialize, Deserializer};

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

/// Writes the positions of an object that are null as `0/0`. Their names tell them.
pub(super) fn zero_unknown(object: &mut serde_json::Value) {
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
