//! The golden corpus: one example of each kind of change, with the page before and after it, recorded while both judges
//! agreed. It tests redo without a server.
//!
//! The file is one zstd frame of entries, numbers little-endian:
//! `major u8 | after an image u8 | fork u8 | block u32 | end of the record u64 | length u32 | change as it is stored |
//! page before, 8192 bytes | page after, 8192 bytes`.

use std::collections::BTreeMap;

use pgformat::PgMajor;
use pgformat::page::Page;

use crate::replay::Step;
use crate::types::RecordType;

/// How full pages shall be, in bytes that are not zero: for each of these one example is kept.
const FILLS: [usize; 3] = [500, 2000, 5000];
/// How many examples of a kind are looked at.
const LOOKED_AT: u32 = 300;

/// What makes two changes of one kind: type of record, block reference, whether the page is made from nothing, whether
/// it was an image that was changed, and how full the page shall be.
type Kind = (RecordType, u8, bool, bool, usize);

struct Example {
    seen: u32,
    /// How far the page is from being as full as it shall be.
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
        for wanted in FILLS {
            let distance = fill.abs_diff(wanted);
            let kind = (step.t, change.block, change.init, step.after_image, wanted);
            let new = || Example { seen: 0, distance: usize::MAX, bytes: Vec::new() };
            let example = self.examples.entry(kind).or_insert_with(new);
            example.seen += 1;
            if example.seen <= LOOKED_AT && distance < example.distance {
                example.distance = distance;
                example.bytes = encode(version, step, before, after);
            }
        }
    }

    /// The file.
    ///
    /// # Errors
    /// When it cannot be compressed.
    pub fn compressed(&self) -> std::io::Result<Vec<u8>> {
        const LEVEL: i32 = 19;
        let mut bytes: Vec<&[u8]> = self.examples.values().map(|example| example.bytes.as_slice()).collect();
        bytes.dedup();
        zstd::bulk::compress(&bytes.concat(), LEVEL)
    }
}

fn encode(version: PgMajor, step: &Step<'_>, before: &Page, after: &Page) -> Vec<u8> {
    let mut out = vec![version.get() as u8, u8::from(step.after_image), step.tag.fork.fork as u8];
    out.extend_from_slice(&step.tag.blk.to_le_bytes());
    out.extend_from_slice(&step.ctx.end.get().to_le_bytes());
    out.extend_from_slice(&(step.stored.len() as u32).to_le_bytes());
    out.extend_from_slice(step.stored);
    // What a page that is made from nothing held before does not matter.
    let nothing = Page::zeroed();
    out.extend_from_slice(if step.change.init { &nothing.0 } else { &before.0 });
    out.extend_from_slice(&after.0);
    out
}
