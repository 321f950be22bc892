//! The page checksum.
//!
//! Source: PostgreSQL 15, `src/include/storage/checksum_impl.h`, `pg_checksum_page`.

use super::{PAGE_SIZE, Page};
use crate::rel::BlockNumber;

const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
const SEEDS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

impl Page {
    /// The checksum that belongs into `pd_checksum` of block `blk`; the field itself counts as zero.
    pub fn checksum(&self, blk: BlockNumber) -> u16 {
        let mut sums = SEEDS;
        let mut row = [0_u32; LANES];
        for (n, bytes) in self.0.chunks_exact(LANES * 4).enumerate() {
            for (word, b) in row.iter_mut().zip(bytes.chunks_exact(4)) {
                *word = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
            if n == 0 {
                // Bytes 8 and 9 are pd_checksum.
                row[2] &= 0xFFFF_0000;
            }
            mix(&mut sums, &row);
        }
        mix(&mut sums, &[0; LANES]);
        mix(&mut sums, &[0; LANES]);
        let folded = sums.iter().fold(0, |a, b| a ^ b) ^ blk;
        // At most 65535, never zero.
        (folded % 65535 + 1) as u16
    }

    /// `pd_checksum` as the page has it, right or wrong; 0 if it was written without.
    pub fn stored_checksum(&self) -> u16 {
        u16::from_le_bytes([self.0[8], self.0[9]])
    }

    /// Sets `pd_checksum` to the given value, without any computation.
    pub fn set_checksum(&mut self, checksum: u16) {
        self.0[8..10].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Makes the page ready for a reader: with its checksum when the cluster has them, else with zero. A page that was
    /// never initialised has none.
    pub fn stamp_checksum(&mut self, blk: BlockNumber, has_checksums: bool) {
        let checksum = if has_checksums && !self.is_new() { self.checksum(blk) } else { 0 };
        self.set_checksum(checksum);
    }
}

fn mix(sums: &mut [u32; LANES], row: &[u32; LANES]) {
    for (sum, word) in sums.iter_mut().zip(row) {
        let mixed = *sum ^ word;
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

const _: () = assert!(PAGE_SIZE.is_multiple_of(LANES * 4));
