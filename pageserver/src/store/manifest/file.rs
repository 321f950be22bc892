//! The bytes of a manifest file: a fixed head, a JSON document, a checksum. Layout: `docs/formats.md`.
//!
//! | offset | bytes | what (numbers little-endian) |
//! |---|---|---|
//! | 0 | 8 | `WFMANIF\0` |
//! | 8 | 4 | version: 1 |
//! | 12 | 4 | required features, one bit each: a reader that lacks one refuses the file |
//! | 16 | 8 | number, as in the name |
//! | 24 | 8 | length n of the document |
//! | 32 | n | the document, JSON in UTF-8 |
//! | 32+n | 4 | CRC32C of all bytes before |

use bytes::{BufMut, Bytes};

use super::document::Manifest;

const MAGIC: &[u8; 8] = b"WFMANIF\0";
const VERSION: u32 = 1;
/// Required feature: a size in a layer may have steps ([`crate::cluster::extent`]).
const FEATURE_STEPS: u32 = 1;
/// Feature bits that this program knows.
const FEATURES: u32 = FEATURE_STEPS;
const HEAD_LEN: usize = 32;
const CRC_LEN: usize = 4;

/// Why bytes are no manifest.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ManifestFileError {
    /// Not what was written.
    #[error("is damaged at offset {offset}: {problem}")]
    Damaged {
        /// In bytes from the beginning of the file.
        offset: usize,
        /// What was found there, or was not.
        problem: String,
    },
    /// Written by a newer program.
    #[error("has version {0}, this program knows {VERSION}")]
    Version(u32),
    /// Written by a newer program.
    #[error("requires features {0:#x} that this program does not have")]
    Features(u32),
}

/// The file of manifest `number`.
pub(crate) fn encode(manifest: &Manifest, number: u64) -> Bytes {
    let json = serde_json::to_vec(manifest).expect("strings, numbers and lists have a JSON form");
    let mut out = Vec::with_capacity(HEAD_LEN + json.len() + CRC_LEN);
    out.put_slice(MAGIC);
    out.put_u32_le(VERSION);
    out.put_u32_le(if manifest.has_steps { FEATURE_STEPS } else { 0 });
    out.put_u64_le(number);
    out.put_u64_le(json.len() as u64);
    out.put_slice(&json);
    out.put_u32_le(crc32c::crc32c(&out));
    out.into()
}

/// Reads the file of manifest `number`.
///
/// # Errors
/// When the bytes are not a manifest of that number, or a newer program's.
pub(crate) fn decode(bytes: &[u8], number: u64) -> Result<Manifest, ManifestFileError> {
    let damaged = |offset: usize, problem: &str| ManifestFileError::Damaged { offset, problem: problem.to_owned() };
    if bytes.get(..8) != Some(MAGIC) {
        return Err(damaged(0, "no magic number"));
    }
    let Some((body, crc)) = bytes.split_last_chunk::<CRC_LEN>().filter(|(body, _)| body.len() >= HEAD_LEN) else {
        return Err(damaged(bytes.len(), "too short"));
    };
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(damaged(body.len(), "wrong checksum"));
    }
    // After the checksum: a flipped bit is damage, not another version.
    let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes of the head"));
    let long = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes of the head"));
    if word(8) != VERSION {
        return Err(ManifestFileError::Version(word(8)));
    }
    if word(12) & !FEATURES != 0 {
        return Err(ManifestFileError::Features(word(12) & !FEATURES));
    }
    if long(16) != number {
        return Err(damaged(16, &format!("is manifest {:016x} under another name", long(16))));
    }
    let json = &body[HEAD_LEN..];
    if long(24) != json.len() as u64 {
        return Err(damaged(24, "wrong length"));
    }
    let manifest: Result<Manifest, _> = serde_json::from_slice(json);
    let manifest = manifest.map_err(|e| damaged(HEAD_LEN + e.column().saturating_sub(1), &e.to_string()))?;
    Ok(Manifest { has_steps: word(12) & FEATURE_STEPS != 0, ..manifest })
}
