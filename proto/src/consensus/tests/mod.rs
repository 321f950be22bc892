//! Tests of the codecs: golden vectors, recorded conversations, properties.

pub(crate) mod arbitrary;
mod captures;
mod golden;
mod merge;
