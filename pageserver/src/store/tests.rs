//! Tests of the store's core.

mod file;
mod memory;
mod model;
mod threads;
