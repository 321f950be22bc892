//! Progress of replication origins, as a checkpoint writes it into a file.
//!
//! Source: PostgreSQL 14-18, `ReplicationStateOnDisk` and `CheckPointReplicationOrigin` in
//! `src/backend/replication/logical/origin.c`.

use std::collections::BTreeMap;

use crate::Lsn;
use crate::read::{Short, Take};

/// The file, below the data directory.
pub const ORIGINS_FILE_NAME: &str = "pg_logical/replorigin_checkpoint";
const MAGIC: u32 = 0x1257_DADE;
/// Number of the origin, padding, position.
const ENTRY_LEN: usize = 16;

/// A file that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OriginsError {
    /// It ends too early, or within an entry.
    #[error("a file of replication origins is cut off")]
    Short,
    /// Not such a file.
    #[error("a file of replication origins begins with {0:#x}")]
    Magic(u32),
    /// The bytes do not fit their CRC-32C: the file is damaged.
    #[error("the checksum of a file of replication origins is {found:08X}, expected {expected:08X}")]
    Crc {
        /// In the file.
        found: u32,
        /// Of its content.
        expected: u32,
    },
}

impl From<Short> for OriginsError {
    fn from(_: Short) -> OriginsError {
        OriginsError::Short
    }
}

/// How far each origin in a file has come. A session that only uses an origin gives it an entry at 0/0.
///
/// # Errors
/// See [`OriginsError`].
pub fn parse_origins(file: &[u8]) -> Result<BTreeMap<u16, Lsn>, OriginsError> {
    let (body, crc) = file.split_last_chunk::<4>().ok_or(OriginsError::Short)?;
    let mut take = Take::new(body);
    let magic = take.u32()?;
    if magic != MAGIC {
        return Err(OriginsError::Magic(magic));
    }
    let (found, expected) = (u32::from_le_bytes(*crc), crc32c::crc32c(body));
    if found != expected {
        return Err(OriginsError::Crc { found, expected });
    }
    let mut origins = BTreeMap::new();
    while take.left() > 0 {
        let origin = take.u16()?;
        take.skip(6)?;
        origins.insert(origin, Lsn::new(take.u64()?));
    }
    Ok(origins)
}

/// The file of these.
pub fn file_of_origins(origins: &BTreeMap<u16, Lsn>) -> Vec<u8> {
    let mut file = Vec::with_capacity(8 + origins.len() * ENTRY_LEN);
    file.extend(MAGIC.to_le_bytes());
    for (origin, remote) in origins {
        file.extend(origin.to_le_bytes());
        file.extend([0; 6]);
        file.extend(remote.get().to_le_bytes());
    }
    let crc = crc32c::crc32c(&file);
    file.extend(crc.to_le_bytes());
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_back_and_every_flipped_byte_is_noticed() {
        let origins = BTreeMap::from([(1, Lsn::new(0x77)), (900, Lsn::new(0x5_0000_0001))]);
        let file = file_of_origins(&origins);
        assert_eq!(file.len(), 4 + 2 * ENTRY_LEN + 4);
        assert_eq!(parse_origins(&file), Ok(origins));
        assert_eq!(parse_origins(&file_of_origins(&BTreeMap::new())), Ok(BTreeMap::new()));
        for at in 0..file.len() {
            let mut flipped = file.clone();
            flipped[at] ^= 1;
            assert!(parse_origins(&flipped).is_err(), "byte {at}");
        }
        for cut in 0..file.len() {
            assert!(parse_origins(&file[..cut]).is_err(), "the first {cut} bytes");
        }
        let mut odd = file[..file.len() - 8].to_vec();
        odd.extend(crc32c::crc32c(&odd).to_le_bytes());
        assert_eq!(parse_origins(&odd), Err(OriginsError::Short), "within an entry");
    }
}
