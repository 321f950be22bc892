//! Relation map files: the file numbers of relations for which the catalog cannot store them.
//!
//! Source: PostgreSQL 14-18, `RelMapFile` in `src/backend/utils/cache/relmapper.c`.

use crate::PgMajor;
use crate::read::{Short, Take};

/// Name of a map in its database's directory.
pub const RELMAP_FILE_NAME: &str = "pg_filenode.map";
const MAGIC: u32 = 0x0059_2717;

/// A map that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelMapError {
    /// Another length than this major's.
    #[error("a relation map of {found} bytes, expected {expected}")]
    Length {
        /// Length of the map in bytes.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// Not a map.
    #[error("a relation map begins with {0:#x}")]
    Magic(u32),
    /// More entries than fit.
    #[error("a relation map has {0} entries")]
    Entries(u32),
    /// The bytes do not fit their CRC-32C: the map is damaged.
    #[error("a relation map's checksum is {found:08X}, expected {expected:08X}")]
    Crc {
        /// In the map.
        found: u32,
        /// Of its content.
        expected: u32,
    },
}

/// Length of a map file: before 16 four bytes of padding end it.
pub const fn relmap_len(version: PgMajor) -> usize {
    let padding = if version.get() <= 15 { 4 } else { 0 };
    crc_at(version) + 4 + padding
}

const fn crc_at(version: PgMajor) -> usize {
    8 + version.relmap_entries() * 8
}

/// Checks a map and returns its entries: relation oid and file number.
///
/// # Errors
/// When it is damaged, or of another major.
pub fn parse_relmap(
    map: &[u8],
    version: PgMajor,
) -> Result<impl ExactSizeIterator<Item = (u32, u32)> + Clone + '_, RelMapError> {
    let expected = relmap_len(version);
    let wrong_length = RelMapError::Length { found: map.len(), expected };
    if map.len() != expected {
        return Err(wrong_length);
    }
    let read = || -> Result<_, Short> {
        let mut take = Take::new(map);
        let (magic, n) = (take.u32()?, take.u32()?);
        let crc = Take::new(&map[crc_at(version)..]).u32()?;
        Ok((magic, n, take, crc))
    };
    let (magic, n, mut entries, found) = read().map_err(|Short| wrong_length)?;
    if magic != MAGIC {
        return Err(RelMapError::Magic(magic));
    }
    let expected = crc32c::crc32c(&map[..crc_at(version)]);
    if found != expected {
        return Err(RelMapError::Crc { found, expected });
    }
    if n as usize > version.relmap_entries() {
        return Err(RelMapError::Entries(n));
    }
    let bytes = entries.bytes(n as usize * 8).map_err(|Short| wrong_length)?;
    let word = |b: &[u8], at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    Ok(bytes.chunks_exact(8).map(move |b| (word(b, 0), word(b, 4))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(version: PgMajor) -> Vec<u8> {
        let mut map = vec![0; relmap_len(version)];
        map[..4].copy_from_slice(&MAGIC.to_le_bytes());
        map[4] = 2;
        map[8..12].copy_from_slice(&1262_u32.to_le_bytes());
        map[12..16].copy_from_slice(&16384_u32.to_le_bytes());
        map[16..20].copy_from_slice(&1213_u32.to_le_bytes());
        seal(&mut map, version);
        map
    }

    fn seal(map: &mut [u8], version: PgMajor) {
        let at = crc_at(version);
        let crc = crc32c::crc32c(&map[..at]);
        map[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn each_major_has_its_length() {
        let lengths: Vec<usize> = PgMajor::ALL.into_iter().map(relmap_len).collect();
        assert_eq!(lengths, [512, 512, 524, 524, 524]);
        for version in PgMajor::ALL {
            let map = sample(version);
            let entries: Vec<_> = parse_relmap(&map, version).expect("a map").collect();
            assert_eq!(entries, [(1262, 16384), (1213, 0)]);
        }
    }

    #[test]
    fn damage_is_refused() {
        let [v14, .., v18] = PgMajor::ALL;
        let refused = |map: &[u8], version| parse_relmap(map, version).map(|_| ()).expect_err("refused");
        assert_eq!(refused(&sample(v14), v18), RelMapError::Length { found: 512, expected: 524 });
        let mut map = sample(v18);
        map[20] ^= 1;
        assert!(matches!(refused(&map, v18), RelMapError::Crc { .. }));
        map[4] = 65;
        seal(&mut map, v18);
        assert_eq!(refused(&map, v18), RelMapError::Entries(65));
        map[0] = 0;
        assert!(matches!(refused(&map, v18), RelMapError::Magic(_)));
    }
}
