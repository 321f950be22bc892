//! walfabric
