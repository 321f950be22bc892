//! Posting lists: one tuple that stands for several heap tuples with the same key.
//!
//! A posting tuple is the key part, padded to a multiple of eight bytes, followed by the tids in order. Its own tid
//! field holds the number of tids and their offset.
//!
//! Source: PostgreSQL 15, `src/include/access/nbtree.h`; `_bt_form_posting`, `_bt_update_posting` and
//! `_bt_swap_posting` in `src/backend/access/nbtree/nbtdedup.c`.

use super::page::ALT_TID;
use crate::page::maxalign;
use crate::read::Take;
use crate::redo::RedoError;
use crate::redo::index::{TID_LEN, take_block_id, tid};
use crate::redo::itup::{TUPLE_HEADER_LEN, TUPLE_LEN_MASK, tuple_info, tuple_of};

/// In the offset number of a posting tuple's tid (`BT_IS_POSTING`); without it the tuple is a pivot.
const IS_POSTING: u16 = 0x2000;
/// The rest of it: how many tids (`BT_OFFSET_MASK`).
const COUNT_MASK: u16 = 0x0FFF;

/// A leaf's tuple in its two parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LeafParts<'a> {
    /// Header and key.
    pub(super) key: &'a [u8],
    /// The tids: of a plain tuple its own one.
    pub(super) tids: &'a [u8],
}

/// Takes the tuple that `bytes` begin with apart.
///
/// # Errors
/// When it is a pivot, or contradicts itself.
pub(super) fn parts(bytes: &[u8]) -> Result<LeafParts<'_>, RedoError> {
    let tuple = tuple_of(bytes)?;
    if tuple_info(tuple)? & ALT_TID == 0 {
        return Ok(LeafParts { key: tuple, tids: &tuple[..TID_LEN] });
    }
    let count = u16::from_le_bytes([tuple[4], tuple[5]]);
    if count & IS_POSTING == 0 {
        return Err(RedoError::Precondition("a pivot tuple where a leaf's tuple is expected"));
    }
    let at = take_block_id(&mut Take::new(tuple))? as usize;
    let end = at.saturating_add(usize::from(count & COUNT_MASK) * TID_LEN);
    match tuple.get(at..end) {
        Some(tids) if at >= TUPLE_HEADER_LEN && !tids.is_empty() => Ok(LeafParts { key: &tuple[..at], tids }),
        _ => Err(RedoError::Precondition("a posting list reaches beyond its tuple")),
    }
}

/// As [`parts`], of a posting tuple only.
///
/// # Errors
/// As [`parts`].
pub(super) fn posting_parts(bytes: &[u8]) -> Result<LeafParts<'_>, RedoError> {
    if tuple_info(bytes)? & ALT_TID == 0 {
        return Err(RedoError::Precondition("a plain tuple where a posting list is expected"));
    }
    parts(bytes)
}

/// A tuple with this key and these tids, padded to a multiple of eight bytes; plain if there is only one tid
/// (`_bt_form_posting`).
///
/// # Errors
/// When there are none, or too many for a tuple.
pub(super) fn form(key: &[u8], tids: &[u8]) -> Result<Vec<u8>, RedoError> {
    let count = tids.len() / TID_LEN;
    let len = if count > 1 { maxalign(key.len() + tids.len()) } else { key.len() };
    let info_len = u16::try_from(len).ok().filter(|len| *len <= TUPLE_LEN_MASK);
    let (Some(info_len), true) = (info_len, count > 0 && key.len() >= TUPLE_HEADER_LEN) else {
        return Err(RedoError::Precondition("a posting list would be empty or longer than a tuple"));
    };
    let mut tuple = vec![0; maxalign(len)];
    tuple[..key.len()].copy_from_slice(key);
    let mut info = tuple_info(key)? & !(TUPLE_LEN_MASK | ALT_TID) | info_len;
    if count > 1 {
        info |= ALT_TID;
        // At most 8191 / 6.
        let header = tid(key.len() as u32, count as u16 | IS_POSTING);
        tuple[..TID_LEN].copy_from_slice(&header);
        tuple[key.len()..key.len() + tids.len()].copy_from_slice(tids);
    } else {
        tuple[..TID_LEN].copy_from_slice(tids);
    }
    tuple[6..8].copy_from_slice(&info.to_le_bytes());
    Ok(tuple)
}

/// The posting tuple `bytes` without the tids of these numbers, which ascend from 0 (`_bt_update_posting`).
///
/// # Errors
/// When it is none, has no such tids, or nothing would be left.
pub(super) fn without(bytes: &[u8], gone: impl Iterator<Item = u16>) -> Result<Vec<u8>, RedoError> {
    let posting = posting_parts(bytes)?;
    let mut gone = gone.map(usize::from).peekable();
    let kept = posting.tids.chunks_exact(TID_LEN).enumerate().filter(|(n, _)| gone.next_if_eq(n).is_none());
    let tids: Vec<u8> = kept.flat_map(|(_, tid)| tid).copied().collect();
    if gone.next().is_some() {
        return Err(RedoError::Precondition("a tid to delete is not in the posting list"));
    }
    form(posting.key, &tids)
}

/// Swaps the tid of `new`, a plain tuple, into the posting list at number `at`, and the list's last one into `new`
/// (`_bt_swap_posting`). Lengths stay as they are.
///
/// # Errors
/// When `at` is not within the list, or one of the tuples is of the wrong kind.
pub(super) fn swap(new: &mut [u8], posting: &mut [u8], at: u16) -> Result<(), RedoError> {
    if tuple_info(new)? & ALT_TID != 0 {
        return Err(RedoError::Precondition("a new tuple that is not a plain one"));
    }
    let LeafParts { key, tids } = posting_parts(posting)?;
    let (start, len, at) = (key.len(), tids.len(), usize::from(at) * TID_LEN);
    if at == 0 || at >= len {
        return Err(RedoError::Precondition("a posting list cannot be split there"));
    }
    let tids = &mut posting[start..start + len];
    let mut last = [0; TID_LEN];
    last.copy_from_slice(&tids[len - TID_LEN..]);
    tids.copy_within(at..len - TID_LEN, at + TID_LEN);
    tids[at..at + TID_LEN].copy_from_slice(&new[..TID_LEN]);
    new[..TID_LEN].copy_from_slice(&last);
    Ok(())
}
