//! walproposer-shim
