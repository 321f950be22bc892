//! The libpq port: safekeepers push, clients read pages, operators ask.

pub(crate) mod listen;
mod pages;
mod session;
