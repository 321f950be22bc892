//! Bytes of the embedded broker's log; `docs/formats.md`, "Embedded broker", has the tables. Pure.
//!
//! A file is a header followed by frames. A frame is one durable write, and its checksum covers all of it, so only the
//! last frame can be torn. Integers are little-endian. Every length is checked against the available bytes before use.

use etcd_client::proto::PbKeyValue;

use super::super::store::StoreOp;

/// First bytes of every file.
pub(super) const MAGIC: &[u8; 8] = b"WFBROKER";

/// Version of the layout.
pub(super) const VERSION: u32 = 1;

/// Bytes of the file header.
pub(super) const HEADER_LEN: usize = 32;

/// First bytes of every frame.
const FRAME_MARK: &[u8; MARK_LEN] = b"WFbf";

/// Bytes of that.
pub(super) const MARK_LEN: usize = 4;

/// Bytes of a frame before its payload: mark, length, sequence, checksum.
pub(super) const FRAME_HEADER_LEN: usize = 20;

/// Longest payload; more than a batch of requests that deletes every key (see `KEY_BYTES_MAX`).
pub(super) const PAYLOAD_LEN_MAX: usize = 256 << 20;

/// Header of a log file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileHeader {
    /// Counts the files of a directory; the highest one counts.
    pub(super) generation: u64,
    /// Drawn when the directory was made.
    pub(super) cluster: u64,
}

/// One entry of a frame.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum LogRecord {
    /// First record of a file: how the store stood, and how many leases and keys follow.
    Base {
        revision: i64,
        compacted: i64,
        boots: u64,
        leases: u64,
        keys: u64,
    },
    Lease {
        lease: i64,
        ttl_s: i64,
    },
    Key(PbKeyValue),
    Change {
        revision: i64,
        ops: Vec<StoreOp>,
    },
    /// The server started.
    Boot {
        boots: u64,
    },
}

/// What is wrong with some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum FormatError {
    #[error("it is not a file of the embedded broker")]
    NotOurs,
    #[error("its version {0} is not known to this program, which knows version 1")]
    UnknownVersion(u32),
    #[error("its header is damaged")]
    BadHeader,
    #[error("a record ends too early")]
    Short,
    #[error("record kind {0} is unknown")]
    UnknownKind(u8),
    #[error("operation {0} is unknown")]
    UnknownOp(u8),
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.generation.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.cluster.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<FileHeader, FormatError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else { return Err(FormatError::NotOurs) };
        let mut cursor = Cursor { bytes };
        if cursor.take(8)? != MAGIC {
            return Err(FormatError::NotOurs);
        }
        let version = cursor.u32()?;
        if version != VERSION {
            return Err(FormatError::UnknownVersion(version));
        }
        let header = FileHeader { generation: cursor.u64()?, cluster: cursor.u64()? };
        if cursor.u32()? != crc32c::crc32c(&bytes[..28]) {
            return Err(FormatError::BadHeader);
        }
        Ok(header)
    }
}

/// Puts a frame around `payload`.
pub(super) fn frame(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a payload is bounded by PAYLOAD_LEN_MAX");
    let mut bytes = Vec::with_capacity(FRAME_HEADER_LEN + payload.len());
    bytes.extend_from_slice(FRAME_MARK);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), payload);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The frame at the start of `bytes`: its sequence and payload, if it is whole and its checksum is right.
pub(super) fn frame_at(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut cursor = Cursor { bytes };
    if cursor.take(4).ok()? != FRAME_MARK {
        return None;
    }
    let length = usize::try_from(cursor.u32().ok()?).ok().filter(|length| *length <= PAYLOAD_LEN_MAX)?;
    let sequence = cursor.u64().ok()?;
    let crc = cursor.u32().ok()?;
    let payload = cursor.take(length).ok()?;
    let found = crc32c::crc32c_append(crc32c::crc32c(&bytes[..FRAME_HEADER_LEN - 4]), payload);
    (found == crc).then_some((sequence, payload))
}

/// Bytes of a whole frame whose first [`FRAME_HEADER_LEN`] bytes these are, if a frame starts so.
pub(super) fn frame_length(header: &[u8]) -> Option<usize> {
    let mut cursor = Cursor { bytes: header };
    if cursor.take(MARK_LEN).ok()? != FRAME_MARK {
        return None;
    }
    let length = usize::try_from(cursor.u32().ok()?).ok().filter(|length| *length <= PAYLOAD_LEN_MAX)?;
    Some(FRAME_HEADER_LEN + length)
}

/// Where frames may start in `bytes`.
pub(super) fn marks_in(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.windows(MARK_LEN).enumerate().filter(|(_, window)| window == FRAME_MARK).map(|(at, _)| at)
}

/// A [`LogRecord::Change`], without a copy of its operations.
pub(super) fn encode_change(revision: i64, ops: &[StoreOp], out: &mut Vec<u8>) {
    out.push(4);
    out.extend_from_slice(&revision.to_le_bytes());
    put_length(out, ops.len());
    ops.iter().for_each(|op| encode_op(op, out));
}

impl LogRecord {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            LogRecord::Base { revision, compacted, boots, leases, keys } => {
                out.push(1);
                out.extend_from_slice(&revision.to_le_bytes());
                out.extend_from_slice(&compacted.to_le_bytes());
                out.extend_from_slice(&boots.to_le_bytes());
                out.extend_from_slice(&leases.to_le_bytes());
                out.extend_from_slice(&keys.to_le_bytes());
            }
            LogRecord::Lease { lease, ttl_s } => {
                out.push(2);
                out.extend_from_slice(&lease.to_le_bytes());
                out.extend_from_slice(&ttl_s.to_le_bytes());
            }
            LogRecord::Key(kv) => {
                out.push(3);
                for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                put_bytes(out, &kv.key);
                put_bytes(out, &kv.value);
            }
            LogRecord::Change { revision, ops } => encode_change(*revision, ops, out),
            LogRecord::Boot { boots } => {
                out.push(5);
                out.extend_from_slice(&boots.to_le_bytes());
            }
        }
    }

    /// All records of a payload.
    pub(super) fn decode_all(payload: &[u8]) -> Result<Vec<LogRecord>, FormatError> {
        let mut cursor = Cursor { bytes: payload };
        let mut records = Vec::new();
        while !cursor.bytes.is_empty() {
            records.push(LogRecord::decode(&mut cursor)?);
        }
        Ok(records)
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<LogRecord, FormatError> {
        match cursor.u8()? {
            1 => Ok(LogRecord::Base {
                revision: cursor.i64()?,
                compacted: cursor.i64()?,
                boots: cursor.u64()?,
                leases: cursor.u64()?,
                keys: cursor.u64()?,
            }),
            2 => Ok(LogRecord::Lease { lease: cursor.i64()?, ttl_s: cursor.i64()? }),
            3 => Ok(LogRecord::Key(PbKeyValue {
                create_revision: cursor.i64()?,
                mod_revision: cursor.i64()?,
                version: cursor.i64()?,
                lease: cursor.i64()?,
                key: cursor.byte_string()?,
                value: cursor.byte_string()?,
            })),
            4 => {
                let revision = cursor.i64()?;
                let count = cursor.u32()?;
                let ops = (0..count).map(|_| decode_op(cursor)).collect::<Result<_, _>>()?;
                Ok(LogRecord::Change { revision, ops })
            }
            5 => Ok(LogRecord::Boot { boots: cursor.u64()? }),
            kind => Err(FormatError::UnknownKind(kind)),
        }
    }
}

fn encode_op(op: &StoreOp, out: &mut Vec<u8>) {
    match op {
        StoreOp::Put { lease, key, value } => {
            out.push(1);
            out.extend_from_slice(&lease.to_le_bytes());
            put_bytes(out, key);
            put_bytes(out, value);
        }
        StoreOp::Delete { key } => {
            out.push(2);
            put_bytes(out, key);
        }
        StoreOp::Grant { lease, ttl_s } => {
            out.push(3);
            out.extend_from_slice(&lease.to_le_bytes());
            out.extend_from_slice(&ttl_s.to_le_bytes());
        }
        StoreOp::Revoke { lease } => {
            out.push(4);
            out.extend_from_slice(&lease.to_le_bytes());
        }
        StoreOp::Compact { revision } => {
            out.push(5);
            out.extend_from_slice(&revision.to_le_bytes());
        }
    }
}

fn decode_op(cursor: &mut Cursor<'_>) -> Result<StoreOp, FormatError> {
    match cursor.u8()? {
        1 => Ok(StoreOp::Put { lease: cursor.i64()?, key: cursor.byte_string()?, value: cursor.byte_string()? }),
        2 => Ok(StoreOp::Delete { key: cursor.byte_string()? }),
        3 => Ok(StoreOp::Grant { lease: cursor.i64()?, ttl_s: cursor.i64()? }),
        4 => Ok(StoreOp::Revoke { lease: cursor.i64()? }),
        5 => Ok(StoreOp::Compact { revision: cursor.i64()? }),
        tag => Err(FormatError::UnknownOp(tag)),
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("requests are bounded far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Reads forward through bytes that are not trusted.
struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(FormatError::Short)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(FormatError::Short)?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, FormatError> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, FormatError> {
        self.array().map(i64::from_le_bytes)
    }

    fn byte_string(&mut self) -> Result<Vec<u8>, FormatError> {
        let length = usize::try_from(self.u32()?).map_err(|_| FormatError::Short)?;
        self.take(length).map(<[u8]>::to_vec)
    }
}
