//! The libpq port: safekeepers push, operators ask.

pub(crate) mod listen;
mod session;
