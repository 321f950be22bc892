//! Which keys a layer may have: a Bloom filter whose bits for one key lie within 32 bytes.
//!
//! A question costs one cache line, whatever the kind of key, and a wrong "perhaps" costs one block in the cache.
//! Bitmaps per relation would be exact, and larger where few blocks of many relations change.
//!
//! Source: Apache Parquet, `BloomFilter.md` (split block Bloom filter); the hash is our own, see docs/formats.md.

use crate::cluster::key::Key;

/// Bits per key: about 1 % wrong answers.
const BITS_PER_KEY: u64 = 10;
/// Bytes of a bucket.
pub(super) const BUCKET_BYTES: usize = 32;
/// One odd multiplier per word of a bucket.
const SALT: [u32; 8] =
    [0x47B6_137B, 0x4497_4D91, 0x8824_AD5B, 0xA2B7_289D, 0x7054_95C7, 0x2DF1_424B, 0x9EFC_4947, 0x5C6B_FB31];

/// The filter's hash of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KeyHash(u64);

impl KeyHash {
    /// Of a key: its 18 bytes as two u64 and a u16, little-endian, mixed one after the other.
    pub(crate) fn of(key: Key) -> KeyHash {
        let b = key.to_bytes();
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| b[at + i]));
        let tail = u64::from(u16::from_le_bytes([b[16], b[17]]));
        KeyHash(mix(mix(mix(word(0)) ^ word(8)) ^ tail))
    }

    /// Which bucket of `buckets`, and the bits within it.
    fn place(self, buckets: usize) -> (usize, [u32; 8]) {
        let bucket = ((self.0 >> 32) * buckets as u64) >> 32;
        let low = self.0 as u32;
        (bucket as usize, SALT.map(|salt| 1 << (low.wrapping_mul(salt) >> 27)))
    }
}

/// Spreads every bit over all others (the finalizer of SplitMix64).
const fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

/// Tells most keys that a layer does not have from those that it may have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Filter(Vec<[u32; 8]>);

impl Filter {
    /// A filter of these keys.
    pub(super) fn of(keys: &[KeyHash]) -> Filter {
        let bits = keys.len() as u64 * BITS_PER_KEY;
        let mut buckets = vec![[0; 8]; bits.div_ceil(BUCKET_BYTES as u64 * 8).max(1) as usize];
        for key in keys {
            let (bucket, bits) = key.place(buckets.len());
            buckets[bucket].iter_mut().zip(bits).for_each(|(word, bit)| *word |= bit);
        }
        Filter(buckets)
    }

    /// From its stored bytes, whole buckets and at least one.
    pub(super) fn decode(bytes: &[u8]) -> Filter {
        let (buckets, _) = bytes.as_chunks::<BUCKET_BYTES>();
        let word = |b: &[u8; BUCKET_BYTES], i: usize| u32::from_le_bytes(std::array::from_fn(|j| b[i * 4 + j]));
        Filter(buckets.iter().map(|b| std::array::from_fn(|i| word(b, i))).collect())
    }

    /// Appends the stored bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.0.iter().flatten().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }

    /// Number of buckets.
    pub(super) const fn buckets(&self) -> usize {
        self.0.len()
    }

    /// Whether the key may be there. Never wrong when it says no.
    pub(super) fn may_have(&self, key: KeyHash) -> bool {
        let (bucket, bits) = key.place(self.0.len());
        self.0.get(bucket).is_some_and(|words| words.iter().zip(bits).all(|(word, bit)| word & bit != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::key::KeyKind;

    /// Goal: no key of the layer is denied, few others are not. Method: 100,000 neighbouring blocks in, as many out.
    #[test]
    fn a_filter_denies_most_strangers_and_no_key_of_its_own() {
        let block = |rel, blk| KeyHash::of(Key { spc: 1663, db: 5, rel, blk, ..Key::first(KeyKind::Block) });
        let own: Vec<KeyHash> = (0..100_000).map(|i| block(16384 + i % 7, i * 3)).collect();
        let mut bytes = Vec::new();
        Filter::of(&own).encode(&mut bytes);
        let filter = Filter::decode(&bytes);
        assert_eq!(filter, Filter::of(&own));
        assert!(own.iter().all(|k| filter.may_have(*k)));
        let strangers = (0..100_000).filter(|i| filter.may_have(block(16384 + i % 7, i * 3 + 1))).count();
        assert!(strangers < 2000, "{strangers} of 100000");
        assert!(!Filter::of(&[]).may_have(own[0]));
    }

    /// Goal: the hash on disk never changes. Method: a value computed by other means.
    #[test]
    fn the_hash_is_the_one_of_the_format() {
        let key = Key { spc: 1663, db: 5, rel: 16384, blk: 70_000, ..Key::first(KeyKind::Block) };
        assert_eq!(KeyHash::of(key), KeyHash(0x38BF_B034_BDC5_FECC));
    }
}
