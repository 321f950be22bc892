//! The libpq port: safekeepers push, clients read pages, operators ask.

pub(crate) mod pace;
mod pages;
pub(crate) mod session;
