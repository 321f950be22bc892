//! Pageserver feedback: the key-value blob that travels from a pageserver through the safekeepers to the proposer.
//! Both sides skip unknown keys by their length: this is the protocol's extension point.

use bytes::{BufMut, BytesMut};
use pgformat::Lsn;

use crate::codec::{DecodeError, Reader};

/// What a pageserver reports about one timeline. Every key is optional: an unknown position is left out, not sent as
/// zero.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PageserverFeedback {
    /// `current_timeline_size`: logical size in bytes.
    pub current_timeline_size: Option<u64>,
    /// `ps_writelsn`: last record received, in the pageserver's memory.
    pub last_received_lsn: Option<Lsn>,
    /// `ps_flushlsn`: durable on the pageserver's own disk.
    pub disk_consistent_lsn: Option<Lsn>,
    /// `ps_applylsn`: durable in object storage. Never filled from `disk_consistent_lsn`: WAL removal rests on it.
    pub remote_consistent_lsn: Option<Lsn>,
    /// `ps_replytime`: microseconds since 2000-01-01 00:00 UTC.
    pub reply_time: Option<i64>,
    /// `shard_number`, written only when above zero.
    pub shard_number: u32,
    /// `corruption_detected`, written only when true.
    pub corruption_detected: bool,
}

/// Longest key accepted; the longest known one has 21 bytes.
const KEY_MAX: usize = 64;

impl PageserverFeedback {
    /// Whether it says nothing: then it is not sent at all.
    pub fn is_empty(&self) -> bool {
        *self == PageserverFeedback::default()
    }

    /// Reads the blob; unknown keys are skipped, of a key given twice the last one counts.
    ///
    /// # Errors
    /// When the blob is cut short, or a known key's value has another length than it should.
    pub fn read(r: &mut Reader) -> Result<PageserverFeedback, DecodeError> {
        let mut feedback = PageserverFeedback::default();
        for _ in 0..r.u8("number of feedback keys")? {
            let key = r.cstr(KEY_MAX, "feedback key")?;
            let len = r.i32("feedback value's length")?;
            let len = usize::try_from(len).map_err(|_| r.error(format!("feedback key {key} has length {len}")))?;
            let value = r.take(len, "feedback value")?;
            feedback.set(&key, &value).map_err(|problem| r.error(problem))?;
        }
        Ok(feedback)
    }

    fn set(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        let wrong = || format!("feedback key {key} has a value of {} bytes", value.len());
        let u64_value = || value.try_into().map(u64::from_be_bytes).map_err(|_| wrong());
        let lsn = || u64_value().map(Lsn::from_wire);
        match key {
            "current_timeline_size" => self.current_timeline_size = Some(u64_value()?),
            "ps_writelsn" | "last_received_lsn" => self.last_received_lsn = lsn()?,
            "ps_flushlsn" | "disk_consistent_lsn" => self.disk_consistent_lsn = lsn()?,
            "ps_applylsn" | "remote_consistent_lsn" => self.remote_consistent_lsn = lsn()?,
            "ps_replytime" | "replytime" => self.reply_time = Some(u64_value()?.cast_signed()),
            "shard_number" => self.shard_number = value.try_into().map(u32::from_be_bytes).map_err(|_| wrong())?,
            "corruption_detected" => match value {
                [flag] => self.corruption_detected = *flag != 0,
                _ => return Err(wrong()),
            },
            _ => {}
        }
        Ok(())
    }

    /// Appends the blob; what is unknown is left out.
    pub fn write(&self, out: &mut BytesMut) {
        let at = out.len();
        out.put_u8(0);
        let mut keys = 0;
        let mut put = |key: &str, value: &[u8]| {
            out.put_slice(key.as_bytes());
            out.put_u8(0);
            out.put_i32(i32::try_from(value.len()).expect("values have at most eight bytes"));
            out.put_slice(value);
            keys += 1;
        };
        let lsn = |l: Option<Lsn>| l.map(Lsn::get).filter(|l| *l != 0);
        let numbers = [
            ("current_timeline_size", self.current_timeline_size),
            ("ps_writelsn", lsn(self.last_received_lsn)),
            ("ps_flushlsn", lsn(self.disk_consistent_lsn)),
            ("ps_applylsn", lsn(self.remote_consistent_lsn)),
            ("ps_replytime", self.reply_time.map(i64::cast_unsigned)),
        ];
        for (key, value) in numbers {
            if let Some(value) = value {
                put(key, &value.to_be_bytes());
            }
        }
        if self.shard_number > 0 {
            put("shard_number", &self.shard_number.to_be_bytes());
        }
        if self.corruption_detected {
            put("corruption_detected", &[1]);
        }
        out[at] = keys;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn read(bytes: &[u8]) -> Result<PageserverFeedback, DecodeError> {
        let mut r = Reader::new("feedback", Bytes::copy_from_slice(bytes));
        let feedback = PageserverFeedback::read(&mut r)?;
        r.finish()?;
        Ok(feedback)
    }

    #[test]
    fn golden() {
        let feedback = PageserverFeedback {
            current_timeline_size: Some(5),
            last_received_lsn: Some(Lsn::new(0x30)),
            disk_consistent_lsn: Some(Lsn::new(0x20)),
            remote_consistent_lsn: Some(Lsn::new(0x10)),
            reply_time: Some(-2),
            shard_number: 3,
            corruption_detected: true,
        };
        let mut out = BytesMut::new();
        feedback.write(&mut out);
        let mut want = vec![7];
        want.extend_from_slice(b"current_timeline_size\0\0\0\0\x08\0\0\0\0\0\0\0\x05");
        want.extend_from_slice(b"ps_writelsn\0\0\0\0\x08\0\0\0\0\0\0\0\x30");
        want.extend_from_slice(b"ps_flushlsn\0\0\0\0\x08\0\0\0\0\0\0\0\x20");
        want.extend_from_slice(b"ps_applylsn\0\0\0\0\x08\0\0\0\0\0\0\0\x10");
        want.extend_from_slice(b"ps_replytime\0\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xfe");
        want.extend_from_slice(b"shard_number\0\0\0\0\x04\0\0\0\x03");
        want.extend_from_slice(b"corruption_detected\0\0\0\0\x01\x01");
        assert_eq!(out, want);
        assert_eq!(read(&want), Ok(feedback));
    }

    #[test]
    fn synonyms_are_read_and_unknown_keys_skipped() {
        let mut blob = vec![5];
        blob.extend_from_slice(b"last_received_lsn\0\0\0\0\x08\0\0\0\0\0\0\0\x30");
        blob.extend_from_slice(b"disk_consistent_lsn\0\0\0\0\x08\0\0\0\0\0\0\0\x20");
        blob.extend_from_slice(b"novel\0\0\0\0\x03abc");
        blob.extend_from_slice(b"remote_consistent_lsn\0\0\0\0\x08\0\0\0\0\0\0\0\x10");
        blob.extend_from_slice(b"replytime\0\0\0\0\x08\0\0\0\0\0\0\0\x01");
        let want = PageserverFeedback {
            last_received_lsn: Some(Lsn::new(0x30)),
            disk_consistent_lsn: Some(Lsn::new(0x20)),
            remote_consistent_lsn: Some(Lsn::new(0x10)),
            reply_time: Some(1),
            ..PageserverFeedback::default()
        };
        assert_eq!(read(&blob), Ok(want));
    }

    /// WAL removal rests on remote_consistent_lsn: unknown must stay unknown, and nothing may stand in for it.
    #[test]
    fn an_unknown_position_has_no_key() {
        let feedback =
            PageserverFeedback { disk_consistent_lsn: Some(Lsn::new(0x20)), ..PageserverFeedback::default() };
        let mut out = BytesMut::new();
        feedback.write(&mut out);
        assert_eq!(out[0], 1);
        assert_eq!(read(&out).expect("what was written").remote_consistent_lsn, None);
        assert_eq!(
            read(b"\x01ps_applylsn\0\0\0\0\x08\0\0\0\0\0\0\0\0"),
            Ok(PageserverFeedback::default()),
            "0 is unknown"
        );
    }

    #[test]
    fn cut_and_wrong_blobs_are_refused() {
        for bad in [
            &b""[..],
            b"\x01",
            b"\x01ps_writelsn",
            b"\x01ps_writelsn\0\0\0\0\x08\0",
            b"\x01ps_writelsn\0\0\0\0\x04\0\0\0\0",
            b"\x01x\0\xff\xff\xff\xff",
            b"\x01x\0\x7f\xff\xff\xff",
            b"\x01corruption_detected\0\0\0\0\0",
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
