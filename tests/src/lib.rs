//! Harness, simulator and checkers that the tests share.

pub mod bench;
pub mod check;
pub mod extension;
pub mod fabric;
pub mod guard;
pub mod health;
pub mod process;
pub mod settings;
pub mod sim;
pub mod wait;
