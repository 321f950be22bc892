//! Length of an index tuple: all that redo reads of it.
//!
//! Source: PostgreSQL 15, `src/include/access/itup.h`.

use super::RedoError;
use crate::page::maxalign;
use crate::read::Take;

/// Length of a tuple's header (`IndexTupleData`): a 6-byte tid and `t_info`.
pub(super) const TUPLE_HEADER_LEN: usize = 8;
/// The part of `t_info` that is the tuple's length (`INDEX_SIZE_MASK`).
pub(super) const TUPLE_LEN_MASK: u16 = 0x1FFF;

/// `t_info` of the tuple that `bytes` begin with.
///
/// # Errors
/// [`RedoError::Short`].
pub(super) fn tuple_info(bytes: &[u8]) -> Result<u16, RedoError> {
    let mut take = Take::new(bytes);
    take.skip(6)?;
    Ok(take.u16()?)
}

/// Length of the tuple that `bytes` begin with, as its header says it (`IndexTupleSize`).
///
/// # Errors
/// When it is shorter than a header.
pub(super) fn tuple_len(bytes: &[u8]) -> Result<usize, RedoError> {
    let len = usize::from(tuple_info(bytes)? & TUPLE_LEN_MASK);
    if len < TUPLE_HEADER_LEN {
        return Err(RedoError::Precondition("an index tuple says that it is shorter than its header"));
    }
    Ok(len)
}

/// The tuple that `bytes` begin with, cut to its length.
///
/// # Errors
/// When it is longer than `bytes`, or shorter than a header.
pub(super) fn tuple_of(bytes: &[u8]) -> Result<&[u8], RedoError> {
    bytes.get(..tuple_len(bytes)?).ok_or(RedoError::Short)
}

/// Takes the next tuple of a row of them, each padded to a multiple of eight bytes; the padding is part of it.
///
/// # Errors
/// As [`tuple_of`].
pub(super) fn take_tuple<'a>(take: &mut Take<'a>) -> Result<&'a [u8], RedoError> {
    Ok(take.bytes(maxalign(tuple_len(take.rest())?))?)
}

/// Nothing may be left of data that redo has read.
///
/// # Errors
/// [`RedoError::Precondition`].
pub(super) fn all_read(take: &Take<'_>) -> Result<(), RedoError> {
    if take.left() == 0 {
        Ok(())
    } else {
        Err(RedoError::Precondition("the record's data are longer than its type has"))
    }
}
