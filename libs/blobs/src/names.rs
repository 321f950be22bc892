//! Valid names of blobs and folders.

use crate::error::BlobError;

/// Checks one part of a name: names come from our own code, and from manifests, which others may have written.
pub(crate) fn is_part(part: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !part.is_empty() && part.len() <= 200 && !part.starts_with('.') && part.bytes().all(good)
}

/// Splits `folder/name` into its two parts.
///
/// # Errors
/// When it has another form: a terminal error.
pub(crate) fn split(name: &str) -> Result<(&str, &str), BlobError> {
    match name.split_once('/') {
        Some((folder, file)) if is_part(folder) && is_part(file) => Ok((folder, file)),
        _ => Err(BlobError::bad_name(name)),
    }
}
