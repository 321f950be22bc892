//! Options that the owner of accepted sessions chooses: authentication of clients, types of columns.

/// A column of a result set; everything is sent as text unless a client of the extended protocol binds binary results.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColumnType {
    /// text, oid 25.
    Text,
    /// int4, oid 23.
    Int4,
    /// int8, oid 20.
    Int8,
}

/// How a client must identify itself. Clear-text password is a hook for tokens; trust is for loopback.
#[derive(Clone, Debug)]
pub enum Auth {
    /// No password is asked for.
    Trust,
    /// A clear-text password, compared with this one.
    Password(String),
}
