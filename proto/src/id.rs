//! Identities: one newtype per kind of number, so that the compiler keeps them apart.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: expected 32 hexadecimal digits without dashes")]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// From its sixteen bytes.
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its sixteen bytes.
            pub const fn bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(s: &str) -> Result<Self, ParseIdError> {
                let err = || ParseIdError { kind: $kind, text: s.chars().take(40).collect() };
                let digits = s.as_bytes();
                if digits.len() != 32 {
                    return Err(err());
                }
                let mut bytes = [0u8; 16];
                for (out, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    for d in pair {
                        let v = (*d as char).to_digit(16).ok_or_else(err)?;
                        *out = *out << 4 | v as u8;
                    }
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

hex_id!(
    /// Owner of timelines; 16 bytes, text form 32 hexadecimal digits.
    TenantId,
    "tenant id"
);
hex_id!(
    /// One linear WAL history of one cluster; 16 bytes, text form 32 hexadecimal digits. Not PostgreSQL's tli.
    TimelineId,
    "timeline id"
);

hex_id!(
    /// One life of a timeline's directory on a safekeeper: drawn when the directory is made, kept as long as it is
    /// there. 16 bytes, text form 32 hexadecimal digits.
    Incarnation,
    "incarnation"
);

/// A timeline with its tenant: what every command, key and directory names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TenantTimelineId {
    /// The tenant that owns it.
    pub tenant_id: TenantId,
    /// The timeline itself.
    pub timeline_id: TimelineId,
}

impl TenantTimelineId {
    /// Joins the two halves.
    pub const fn new(tenant_id: TenantId, timeline_id: TimelineId) -> Self {
        Self { tenant_id, timeline_id }
    }
}

impl fmt::Display for TenantTimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant_id, self.timeline_id)
    }
}

impl fmt::Debug for TenantTimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// A safekeeper or pageserver, unique per kind; zero is never a valid node.
    NodeId(u64)
);
number!(
    /// The fencing number of a proposer. Zero: nobody was ever elected.
    Term(u64)
);
number!(
    /// Membership configuration number. Zero: none (a timeline of a foreign walproposer); the first valid one is 1.
    Generation(u32)
);
number!(
    /// How often the primary of a timeline was designated anew; 1 at creation, zero means that none is known.
    PrimaryEpoch(u64)
);
number!(
    /// PostgreSQL's system identifier of a cluster; zero means unknown.
    SystemId(u64)
);

impl Term {
    /// Nobody was ever elected.
    pub const ZERO: Term = Term(0);

    /// The most that a term from outside may lie above the one known: more elections than a timeline sees, and so
    /// little that no message can bring it near the end of its range.
    pub const JUMP_MAX: u64 = 1 << 32;

    /// The term `terms` above this one; `None` when there is none.
    pub const fn checked_add(self, terms: u64) -> Option<Term> {
        match self.0.checked_add(terms) {
            Some(term) => Some(Term(term)),
            None => None,
        }
    }

    /// Whether a term from outside may follow on `known`; a lower one may.
    pub const fn may_follow(self, known: Term) -> bool {
        self.0.saturating_sub(known.0) <= Term::JUMP_MAX
    }
}

impl Generation {
    /// No membership configuration.
    pub const NONE: Generation = Generation(0);
    /// The configuration a timeline is created with.
    pub const FIRST: Generation = Generation(1);

    /// The most that a generation from outside may lie above the one known.
    pub const JUMP_MAX: u32 = 1 << 16;

    /// Whether a generation from outside may follow on `known`; a lower one may.
    pub const fn may_follow(self, known: Generation) -> bool {
        self.0.saturating_sub(known.0) <= Generation::JUMP_MAX
    }
}

impl PrimaryEpoch {
    /// The epoch a vanilla timeline is created with.
    pub const FIRST: PrimaryEpoch = PrimaryEpoch(1);

    /// The most that an epoch from outside may lie above the one known: room for one made of seconds since 1970.
    pub const JUMP_MAX: u64 = 1 << 32;

    /// Whether an epoch from outside may follow on `known`; a lower one may.
    pub const fn may_follow(self, known: PrimaryEpoch) -> bool {
        self.0.saturating_sub(known.0) <= PrimaryEpoch::JUMP_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_32_hex_digits_and_nothing_else() {
        let text = "0123456789abcdef0011223344556677";
        let id: TenantId = text.parse().expect("32 digits");
        assert_eq!(id.to_string(), text);
        assert_eq!(text.to_uppercase().parse::<TenantId>().expect("upper case is read too"), id);
        for bad in ["", "0123", "0123456789abcdef001122334455667g", "01234567-89ab-cdef-0011-223344556677"] {
            assert!(bad.parse::<TimelineId>().is_err(), "{bad:?} was accepted");
        }
    }
}
