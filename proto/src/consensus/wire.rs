//! Shared by the codecs of both versions: fields that differ only in byte order. Layouts: `docs/protocol.md`.

use bytes::{BufMut, Bytes, BytesMut};
use pgformat::Lsn;

use super::{AppendResponse, HotStandbyFeedback, MAX_SEND_SIZE, TermHistory, TermLsn};
use crate::codec::{DecodeError, Reader};
use crate::feedback::PageserverFeedback;
use crate::id::Term;

/// Integers of one version: its byte order.
pub(super) struct Order {
    pub(super) u32: fn(&mut Reader, &'static str) -> Result<u32, DecodeError>,
    pub(super) u64: fn(&mut Reader, &'static str) -> Result<u64, DecodeError>,
    pub(super) put_u64: fn(&mut BytesMut, u64),
}

/// Big-endian, as v3 writes them.
pub(super) const BIG: Order = Order { u32: Reader::u32, u64: Reader::u64, put_u64: BytesMut::put_u64 };
/// Little-endian, as v2 writes them.
pub(super) const LITTLE: Order = Order { u32: Reader::u32_le, u64: Reader::u64_le, put_u64: BytesMut::put_u64_le };

/// Count, then `{u64 term, u64 lsn}` each.
pub(super) fn read_history(r: &mut Reader, order: &Order) -> Result<TermHistory, DecodeError> {
    let count = (order.u32)(r, "term history's length")?;
    let count = r.bounded_count(count, 16, "term history's length")?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let term = Term((order.u64)(r, "term history's term")?);
        entries.push(TermLsn { term, lsn: Lsn::new((order.u64)(r, "term history's LSN")?) });
    }
    TermHistory::new(entries).map_err(|e| r.error(e.to_string()))
}

/// The entries without their count.
pub(super) fn write_history(history: &TermHistory, order: &Order, out: &mut BytesMut) {
    for entry in history.entries() {
        (order.put_u64)(out, entry.term.0);
        (order.put_u64)(out, entry.lsn.get());
    }
}

pub(super) fn history_len(history: &TermHistory) -> u32 {
    u32::try_from(history.entries().len()).expect("a history holds far fewer than 2^32 terms")
}

/// A position that may be unknown.
pub(super) fn read_lsn(r: &mut Reader, order: &Order, field: &'static str) -> Result<Option<Lsn>, DecodeError> {
    Ok(Lsn::from_wire((order.u64)(r, field)?))
}

/// The WAL of an append request: exactly `end - begin` bytes, the rest of the message.
pub(super) fn read_wal(r: &mut Reader, begin: Lsn, end: Lsn) -> Result<Bytes, DecodeError> {
    let Some(len) = end.checked_sub(begin) else {
        return Err(r.error(format!("WAL ends at {end}, before its begin {begin}")));
    };
    match usize::try_from(len) {
        Ok(len) if len <= MAX_SEND_SIZE => r.take(len, "WAL"),
        _ => Err(r.error(format!("{len} bytes of WAL, more than {MAX_SEND_SIZE}"))),
    }
}

/// The tail that both versions share: hot-standby feedback in the version's order, pageserver feedback always
/// big-endian.
pub(super) fn read_feedback(
    r: &mut Reader,
    order: &Order,
) -> Result<(HotStandbyFeedback, Option<PageserverFeedback>), DecodeError> {
    let hs_feedback = HotStandbyFeedback {
        ts: (order.u64)(r, "hs_feedback.ts")?.cast_signed(),
        xmin: (order.u64)(r, "hs_feedback.xmin")?,
        catalog_xmin: (order.u64)(r, "hs_feedback.catalog_xmin")?,
    };
    if r.remaining() == 0 {
        return Ok((hs_feedback, None));
    }
    let feedback = PageserverFeedback::read(r)?;
    Ok((hs_feedback, (!feedback.is_empty()).then_some(feedback)))
}

/// The inverse of [`read_feedback`]. A feedback without keys is left out: proposers take a blob only when it says
/// something.
pub(super) fn write_feedback(response: &AppendResponse, order: &Order, out: &mut BytesMut) {
    (order.put_u64)(out, response.hs_feedback.ts.cast_unsigned());
    (order.put_u64)(out, response.hs_feedback.xmin);
    (order.put_u64)(out, response.hs_feedback.catalog_xmin);
    if let Some(feedback) = response.pageserver_feedback.as_ref().filter(|f| !f.is_empty()) {
        feedback.write(out);
    }
}
