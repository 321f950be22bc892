//! libpq frames, pure: tag, big-endian length including itself, body. Both directions share the shape, not the tags.
//!
//! A frame's tag and length are checked as soon as they arrive, before anything waits for the body or allocates memory
//! for it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::pg::SqlError;

/// Bytes of tag and length.
pub const HEADER: usize = 5;

/// A whole frame; the body is a slice of the receive buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Kind of message.
    pub tag: u8,
    /// What follows the length.
    pub body: Bytes,
}

/// Which frames may come now.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// Tags that mean something here.
    pub tags: &'static [u8],
    /// Longest body accepted, in bytes.
    pub body_max: usize,
}

/// A client outside of a copy stream. Statements are short; nothing else is long.
pub const FROM_CLIENT: Expect = Expect { tags: b"QPBDECSHXpdcfF", body_max: 1 << 20 };
/// A client inside of a copy stream.
pub const FROM_CLIENT_COPY: Expect = Expect { tags: b"dcfHSXQ", body_max: COPY_BODY_MAX };
/// A server, always: notices and parameter changes may come at any time.
pub const FROM_SERVER: Expect = Expect { tags: b"RKSZTDCEINWGHdcnst123AvV", body_max: COPY_BODY_MAX };
/// Longest CopyData payload accepted: far above the largest message (128 KiB of WAL), far below harm.
pub const COPY_BODY_MAX: usize = 16 << 20;

/// Bytes that are no acceptable frame. The connection cannot go on: where the next frame starts is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// A tag that means nothing here.
    #[error("message type {:?} (0x{tag:02x}) is not expected here", char::from(*tag))]
    UnknownTag {
        /// The tag, as it was read.
        tag: u8,
    },
    /// A length below its own four bytes.
    #[error("message {:?} has the impossible length {len}", char::from(*tag))]
    BadLength {
        /// Kind of message.
        tag: u8,
        /// Length as received.
        len: u32,
    },
    /// A length above the limit.
    #[error("message {:?} of {len} bytes is longer than the {max} bytes accepted here", char::from(*tag))]
    Oversized {
        /// Kind of message.
        tag: u8,
        /// Length as received.
        len: u32,
        /// Longest body accepted.
        max: usize,
    },
}

/// Takes the first frame off `buffer`, without copying; `Ok(Err(n))` says that at least `n` more bytes are needed.
///
/// # Errors
/// [`FrameError`] as soon as tag or length are known to be wrong.
pub fn take_frame(buffer: &mut BytesMut, expect: Expect) -> Result<Result<Frame, usize>, FrameError> {
    let Some(&tag) = buffer.first() else { return Ok(Err(HEADER)) };
    if !expect.tags.contains(&tag) {
        return Err(FrameError::UnknownTag { tag });
    }
    let Some(mut len) = buffer.get(1..HEADER) else { return Ok(Err(HEADER - buffer.len())) };
    let len = len.get_u32();
    let body = (len as usize).checked_sub(4).ok_or(FrameError::BadLength { tag, len })?;
    if body > expect.body_max {
        return Err(FrameError::Oversized { tag, len, max: expect.body_max });
    }
    let whole = HEADER + body;
    if buffer.len() < whole {
        return Ok(Err(whole - buffer.len()));
    }
    let mut frame = buffer.split_to(whole);
    frame.advance(HEADER);
    Ok(Ok(Frame { tag, body: frame.freeze() }))
}

/// Appends a frame whose body `fill` writes.
pub fn put_frame(out: &mut BytesMut, tag: u8, fill: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let at = out.len();
    out.put_u32(0);
    fill(out);
    let len = u32::try_from(out.len() - at).expect("frames that we build are far below 4 GiB");
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

/// Appends `text` and a NUL; a NUL inside `text` would end it early and is left out.
pub fn put_cstr(out: &mut BytesMut, text: &str) {
    out.extend(text.bytes().filter(|b| *b != 0));
    out.put_u8(0);
}

/// Takes a NUL-terminated string off the front.
pub fn take_cstr(body: &mut Bytes) -> Option<String> {
    let end = body.iter().position(|b| *b == 0)?;
    let text = String::from_utf8_lossy(&body.split_to(end)).into_owned();
    body.advance(1);
    Some(text)
}

/// Appends an ErrorResponse.
pub fn put_error(out: &mut BytesMut, error: &SqlError) {
    put_frame(out, b'E', |out| {
        let fields = [
            (b'S', Some(error.severity)),
            (b'V', Some(error.severity)),
            (b'C', Some(error.code.as_str())),
            (b'M', Some(error.message.as_str())),
            (b'D', error.detail.as_deref()),
            (b'H', error.hint.as_deref()),
        ];
        for (field, value) in fields {
            if let Some(value) = value {
                out.put_u8(field);
                put_cstr(out, value);
            }
        }
        out.put_u8(0);
    });
}

/// Reads the body of an ErrorResponse or NoticeResponse; fields that are absent stay empty.
pub fn read_error(mut body: Bytes) -> SqlError {
    let mut error = SqlError::new("XX000", "");
    let mut unlocalized = false;
    while body.has_remaining() {
        let field = body.get_u8();
        if field == 0 {
            break;
        }
        let Some(value) = take_cstr(&mut body) else { break };
        match field {
            // V is S without translation; it wins.
            b'S' if !unlocalized => error.severity = severity(&value),
            b'V' => {
                unlocalized = true;
                error.severity = severity(&value);
            }
            b'C' => error.code = value,
            b'M' => error.message = value,
            b'D' => error.detail = Some(value),
            b'H' => error.hint = Some(value),
            _ => {}
        }
    }
    error
}

fn severity(text: &str) -> &'static str {
    match text {
        "FATAL" => "FATAL",
        "PANIC" => "PANIC",
        "WARNING" => "WARNING",
        "NOTICE" => "NOTICE",
        _ => "ERROR",
    }
}

/// Appends a RowDescription of text columns.
pub fn put_row_description<'a>(out: &mut BytesMut, columns: impl ExactSizeIterator<Item = (&'a str, u32, i16)>) {
    put_frame(out, b'T', |out| {
        out.put_u16(u16::try_from(columns.len()).expect("result sets have few columns"));
        for (name, oid, size) in columns {
            put_cstr(out, name);
            out.put_u32(0);
            out.put_u16(0);
            out.put_u32(oid);
            out.put_i16(size);
            out.put_i32(-1);
            out.put_u16(0);
        }
    });
}

/// Appends a DataRow.
pub fn put_data_row(out: &mut BytesMut, row: &[Option<String>]) {
    put_frame(out, b'D', |out| {
        out.put_u16(u16::try_from(row.len()).expect("result sets have few columns"));
        for value in row {
            match value {
                None => out.put_i32(-1),
                Some(text) => {
                    out.put_i32(i32::try_from(text.len()).expect("values that we send are short"));
                    out.put_slice(text.as_bytes());
                }
            }
        }
    });
}

/// Reads the column names of a RowDescription.
pub fn read_row_description(mut body: Bytes) -> Option<Vec<String>> {
    let count = usize::from(body.try_get_u16().ok()?);
    // A column takes at least 19 bytes.
    if count > body.len() / 19 {
        return None;
    }
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        columns.push(take_cstr(&mut body)?);
        if body.len() < 18 {
            return None;
        }
        body.advance(18);
    }
    Some(columns)
}

/// Reads the values of a DataRow; bytes that are not UTF-8 are replaced.
pub fn read_data_row(mut body: Bytes) -> Option<Vec<Option<String>>> {
    let count = usize::from(body.try_get_u16().ok()?);
    if count > body.len() / 4 {
        return None;
    }
    let mut row = Vec::with_capacity(count);
    for _ in 0..count {
        let len = body.try_get_i32().ok()?;
        match usize::try_from(len) {
            Err(_) => row.push(None),
            Ok(len) if len <= body.len() => row.push(Some(String::from_utf8_lossy(&body.split_to(len)).into_owned())),
            Ok(_) => return None,
        }
    }
    Some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_at_every_cut() {
        let mut whole = BytesMut::new();
        put_frame(&mut whole, b'd', |b| b.put_slice(b"payload"));
        put_frame(&mut whole, b'c', |_| {});
        for cut in 0..whole.len() {
            let mut buffer = BytesMut::new();
            let mut frames = Vec::new();
            for part in [&whole[..cut], &whole[cut..]] {
                buffer.extend_from_slice(part);
                while let Ok(frame) = take_frame(&mut buffer, FROM_SERVER).expect("valid frames") {
                    frames.push((frame.tag, frame.body.to_vec()));
                }
            }
            assert_eq!(frames, [(b'd', b"payload".to_vec()), (b'c', Vec::new())], "cut at {cut}");
        }
    }

    #[test]
    fn wrong_frames_are_refused_before_their_body_comes() {
        let take = |bytes: &[u8]| take_frame(&mut BytesMut::from(bytes), FROM_CLIENT);
        assert_eq!(take(b"GET"), Err(FrameError::UnknownTag { tag: b'G' }));
        assert_eq!(take(b"Q\0\0\0\x03"), Err(FrameError::BadLength { tag: b'Q', len: 3 }));
        let max = FROM_CLIENT.body_max;
        assert_eq!(take(b"Q\xff\xff\xff\xff"), Err(FrameError::Oversized { tag: b'Q', len: u32::MAX, max }));
        assert_eq!(take(b"Q\0\0\0\x08ab"), Ok(Err(2)), "two more bytes are needed");
    }

    #[test]
    fn errors_survive_the_wire() {
        let error = SqlError::fatal("57P01", "going down").with_detail("now").with_hint("come back");
        let mut out = BytesMut::new();
        put_error(&mut out, &error);
        assert_eq!(read_error(out.freeze().slice(HEADER..)), error);
        read_error(Bytes::from_static(b"Sabc"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let body = Bytes::from(bytes.clone());
            read_error(body.clone());
            read_row_description(body.clone());
            read_data_row(body);
            for expect in [FROM_CLIENT, FROM_CLIENT_COPY, FROM_SERVER] {
                let mut buffer = BytesMut::from(&bytes[..]);
                while let Ok(Ok(_)) = take_frame(&mut buffer, expect) {}
            }
        }

        #[test]
        fn rows_survive_the_wire(row in proptest::collection::vec(proptest::option::of(".{0,20}"), 0..8)) {
            let mut out = BytesMut::new();
            put_data_row(&mut out, &row);
            proptest::prop_assert_eq!(read_data_row(out.freeze().slice(HEADER..)), Some(row));
        }
    }
}
