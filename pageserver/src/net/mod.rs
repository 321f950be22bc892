//! The libpq port: safekeepers push, clients read pages, operators ask.

pub(crate) mod listen;
pub(crate) mod pace;
mod pages;
mod session;
