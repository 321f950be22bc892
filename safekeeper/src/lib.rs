//! safekeeper

pub mod core;
