//! Numbers in as few bytes as they need: LEB128, and zigzag for those that may be negative.

use pgformat::read::{Short, Take};

/// Appends an unsigned number, seven bits a byte, the low ones first.
pub(super) fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a signed number: the sign in the lowest bit.
pub(super) fn put_signed(out: &mut Vec<u8>, n: i64) {
    put(out, (n << 1 ^ n >> 63) as u64);
}

/// Reads what [`put`] wrote.
pub(super) fn take(from: &mut Take<'_>) -> Result<u64, Short> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let byte = from.u8()?;
        n |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(Short)
}

/// Reads what [`put_signed`] wrote.
pub(super) fn take_signed(from: &mut Take<'_>) -> Result<i64, Short> {
    let n = take(from)?;
    Ok((n >> 1) as i64 ^ -((n & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_they_were_written() {
        let numbers = [0, 1, -1, 63, 64, -64, -65, i64::from(i32::MAX), i64::MIN, i64::MAX];
        let mut bytes = Vec::new();
        for n in numbers {
            put_signed(&mut bytes, n);
            put(&mut bytes, n as u64);
        }
        let mut from = Take::new(&bytes);
        for n in numbers {
            assert_eq!((take_signed(&mut from), take(&mut from)), (Ok(n), Ok(n as u64)));
        }
        assert_eq!(take(&mut from), Err(Short));
        assert_eq!(take(&mut Take::new(&[0xFF; 11])), Err(Short));
    }
}
