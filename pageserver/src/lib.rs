//! The pageserver.
mod choose;
