//! The golden corpus: of each kind of change one example with the page before and after it, taken while both judges
//! agreed, so that redo can be tested without a server.
//!
//! The file is one zstd frame of entries, numbers little-endian:
//! `major u8 | after an image u8 | fork u8 | block u32 | end of the record u64 | length u32 | change in its stored form |
//! page before, 8192 bytes | page after, 8192 bytes`.

use std::collections::BTreeMap;

use pgformat::PgMajor;
use pgformat::page::Page;

use crate::replay::Step;
use crate::types::RecordType;

/// Bytes that a good example has on its page: enough to be more than an empty page, few enough to be small.
const GOOD_FILL: usize = 1500;
/// How many examples of a kind are looked at.
const LOOKED_AT: u32 = 100;

/// What makes two changes of one kind: type of record, block reference, whether the page is made from nothing, and
/// whether it was an image that was changed.
type Kind = (RecordType, u8, bool, bool);

struct Example {
    seen: u32,
    /// How far its fill is from [`GOOD_FILL`].
    distance: usize,
    bytes: Vec<u8>,
}

/// Collects examples.
#[derive(Default)]
pub struct Golden {
    examples: BTreeMap<Kind, Example>,
}

impl Golden {
    /// Looks at a change that was applied rightly, and the page before and after it.
    pub fn offer(&mut self, version: PgMajor, step: &Step<'_>, before: &Page, after: &Page) {
        // One that leaves the page alone shows nothing.
        if before.0[8..] == after.0[8..] {
            return;
        }
        let change = step.change;
        let fill = after.0.iter().filter(|b| **b != 0).count() + step.stored.len();
        let distance = fill.abs_diff(GOOD_FILL);
        let kind = (step.t, change.block, change.init, step.after_image);
        let example = self.examples.entry(kind).or_insert(Example { seen: 0, distance: usize::MAX, bytes: Vec::new() });
        example.seen += 1;
        if example.seen <= LOOKED_AT && distance < example.distance {
            example.distance = distance;
            example.bytes = encode(version, step, before, after);
        }
    }

    /// The file: examples of all types, or of those that differ between majors.
    ///
    /// # Errors
    /// When they cannot be compressed.
    pub fn compressed(&self, only_versioned: bool) -> std::io::Result<Vec<u8>> {
        const LEVEL: i32 = 19;
        let chosen = self.examples.iter().filter(|((t, ..), _)| !only_versioned || is_versioned(*t));
        let bytes: Vec<u8> = chosen.flat_map(|(_, example)| example.bytes.iter().copied()).collect();
        zstd::bulk::compress(&bytes, LEVEL)
    }
}

fn encode(version: PgMajor, step: &Step<'_>, before: &Page, after: &Page) -> Vec<u8> {
    let mut out = vec![version.get() as u8, u8::from(step.after_image), step.tag.fork.fork as u8];
    out.extend_from_slice(&step.tag.blk.to_le_bytes());
    out.extend_from_slice(&step.ctx.end.get().to_le_bytes());
    out.extend_from_slice(&(step.stored.len() as u32).to_le_bytes());
    out.extend_from_slice(step.stored);
    // What a page that is made from nothing held before does not matter.
    out.extend_from_slice(if step.change.init { &Page::zeroed().0 } else { &before.0 });
    out.extend_from_slice(&after.0);
    out
}

/// Whether the layout or redo of a type differs between majors.
fn is_versioned(t: RecordType) -> bool {
    use pgformat::redo::rmid;
    match (t.rmid, t.info) {
        (rmid::HEAP2, _) | (rmid::HEAP, _) => true,
        (rmid::BTREE, 0x70 | 0xC0) | (rmid::HASH, 0x80 | 0xC0) => true,
        (rmid::GIST, 0x10) | (rmid::SPGIST, 0x80) => true,
        _ => false,
    }
}
