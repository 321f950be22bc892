//! A cursor over received bytes: bounds are checked before anything is allocated; errors name the place and the field.

use bytes::{Buf, Bytes};

/// Bytes that do not form the expected message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed {message}: {problem} at byte {offset}")]
pub struct DecodeError {
    /// Which message or structure.
    pub message: &'static str,
    /// Offset of the offending field.
    pub offset: usize,
    /// What was wrong, with the field's name.
    pub problem: String,
}

/// Cursor over one whole message.
#[derive(Debug)]
pub struct Reader {
    message: &'static str,
    bytes: Bytes,
    total: usize,
}

macro_rules! integer {
    ($name:ident, $name_le:ident, $ty:ty, $get:ident, $get_le:ident) => {
        /// Reads a big-endian integer.
        ///
        /// # Errors
        /// When the message ends before it.
        pub fn $name(&mut self, field: &'static str) -> Result<$ty, DecodeError> {
            self.need(size_of::<$ty>(), field)?;
            Ok(self.bytes.$get())
        }

        /// Reads a little-endian integer.
        ///
        /// # Errors
        /// When the message ends before it.
        pub fn $name_le(&mut self, field: &'static str) -> Result<$ty, DecodeError> {
            self.need(size_of::<$ty>(), field)?;
            Ok(self.bytes.$get_le())
        }
    };
}

impl Reader {
    /// Starts at the beginning of `bytes`; `message` names it in errors.
    pub fn new(message: &'static str, bytes: Bytes) -> Reader {
        let total = bytes.len();
        Reader { message, bytes, total }
    }

    integer!(u16, u16_le, u16, get_u16, get_u16_le);
    integer!(u32, u32_le, u32, get_u32, get_u32_le);
    integer!(u64, u64_le, u64, get_u64, get_u64_le);
    integer!(i32, i32_le, i32, get_i32, get_i32_le);
    integer!(i64, i64_le, i64, get_i64, get_i64_le);

    /// Reads one byte.
    ///
    /// # Errors
    /// When the message ends before it.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.need(1, field)?;
        Ok(self.bytes.get_u8())
    }

    /// Takes `len` bytes without copying them.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, len: usize, field: &'static str) -> Result<Bytes, DecodeError> {
        self.need(len, field)?;
        Ok(self.bytes.split_to(len))
    }

    /// Takes `N` bytes as an array.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        self.need(N, field)?;
        let mut out = [0; N];
        self.bytes.copy_to_slice(&mut out);
        Ok(out)
    }

    /// Reads a NUL-terminated UTF-8 string of at most `max` bytes.
    ///
    /// # Errors
    /// When no NUL comes within `max` bytes, or the text is not UTF-8.
    pub fn cstr(&mut self, max: usize, field: &'static str) -> Result<String, DecodeError> {
        let end = self.bytes.iter().take(max + 1).position(|b| *b == 0);
        let Some(end) = end else {
            return Err(self.error(format!("{field} is not terminated within {max} bytes")));
        };
        let text = std::str::from_utf8(&self.bytes[..end]).map(str::to_owned);
        let text = text.map_err(|_| self.error(format!("{field} is not UTF-8")))?;
        self.bytes.advance(end + 1);
        Ok(text)
    }

    /// Checks a count from the wire against what the rest of the message could hold, before anything is allocated.
    ///
    /// # Errors
    /// When `count` items of at least `item_size` bytes do not fit.
    pub fn bounded_count(&self, count: u32, item_size: usize, field: &'static str) -> Result<usize, DecodeError> {
        let count = count as usize;
        if count > self.bytes.remaining() / item_size.max(1) {
            return Err(
                self.error(format!("{field} says {count}, more than the {} bytes left can hold", self.bytes.len()))
            );
        }
        Ok(count)
    }

    /// Everything that is left, without copying.
    pub fn rest(&mut self) -> Bytes {
        self.bytes.split_off(0)
    }

    /// How many bytes are not read yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Ends the message.
    ///
    /// # Errors
    /// When bytes are left over.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.error(format!("{} bytes left over", self.bytes.len()))) }
    }

    /// An error at the current position.
    pub fn error(&self, problem: impl Into<String>) -> DecodeError {
        DecodeError { message: self.message, offset: self.total - self.bytes.len(), problem: problem.into() }
    }

    fn need(&self, len: usize, field: &'static str) -> Result<(), DecodeError> {
        if self.bytes.len() < len {
            return Err(self.error(format!("{field} needs {len} bytes, {} are left", self.bytes.len())));
        }
        Ok(())
    }
}
