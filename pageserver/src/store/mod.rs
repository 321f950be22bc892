//! The page store: every version of every key, in layers.

pub(crate) mod value;
