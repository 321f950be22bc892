//! Tests of the store's core.

mod file;
mod hanging;
mod memory;
mod model;
mod threads;
