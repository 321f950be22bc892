//! Reading PostgreSQL's little-endian structs, with every length checked.

/// There are fewer bytes than asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are fewer bytes than expected")]
pub struct Short;

/// Takes fields from the front of some bytes. Copying it remembers a place.
#[derive(Clone, Copy, Debug)]
pub struct Take<'a> {
    rest: &'a [u8],
}

impl<'a> Take<'a> {
    /// From the first byte.
    pub const fn new(bytes: &'a [u8]) -> Take<'a> {
        Take { rest: bytes }
    }

    /// How many bytes are left.
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// Everything that is left.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Short`], as for all of these.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Leaves out `len` bytes, padding for example.
    ///
    /// # Errors
    /// [`Short`].
    pub fn skip(&mut self, len: usize) -> Result<(), Short> {
        self.bytes(len).map(drop)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A byte.
    ///
    /// # Errors
    /// [`Short`].
    pub fn u8(&mut self) -> Result<u8, Short> {
        Ok(self.array::<1>()?[0])
    }

    /// A C `bool`.
    ///
    /// # Errors
    /// [`Short`].
    pub fn bool(&mut self) -> Result<bool, Short> {
        Ok(self.u8()? != 0)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn u16(&mut self) -> Result<u16, Short> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn u32(&mut self) -> Result<u32, Short> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Four bytes, signed.
    ///
    /// # Errors
    /// [`Short`].
    pub fn i32(&mut self) -> Result<i32, Short> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn u64(&mut self) -> Result<u64, Short> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Eight bytes, signed.
    ///
    /// # Errors
    /// [`Short`].
    pub fn i64(&mut self) -> Result<i64, Short> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// Eight bytes, floating point.
    ///
    /// # Errors
    /// [`Short`].
    pub fn f64(&mut self) -> Result<f64, Short> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// `n` two-byte numbers, lazily.
    ///
    /// # Errors
    /// [`Short`].
    pub fn u16s(&mut self, n: usize) -> Result<impl ExactSizeIterator<Item = u16> + Clone + 'a, Short> {
        let bytes = self.bytes(n.checked_mul(2).ok_or(Short)?)?;
        Ok(bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])))
    }

    /// `n` four-byte numbers, lazily.
    ///
    /// # Errors
    /// [`Short`].
    pub fn u32s(&mut self, n: usize) -> Result<impl ExactSizeIterator<Item = u32> + Clone + 'a, Short> {
        let bytes = self.bytes(n.checked_mul(4).ok_or(Short)?)?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
    }
}
