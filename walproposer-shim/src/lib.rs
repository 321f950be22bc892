//! walproposer-shim

pub mod core;
