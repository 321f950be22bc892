//! What the decoder must expect of a timeline's WAL.

use pgformat::PgMajor;
use pgformat::wal::StreamConfig;
use proto::api::AttachRequest;

/// From what a timeline was attached with; none for a major that this program does not know.
pub(crate) fn stream_config(attach: &AttachRequest) -> Option<StreamConfig> {
    Some(StreamConfig {
        version: PgMajor::from_version_num(attach.pg_version_num)?,
        seg_size: attach.wal_seg_size,
        system_id: (attach.system_id.0 != 0).then_some(attach.system_id.0),
        tlis: attach.pg_history.iter().map(|e| (e.tli, e.start_lsn)).collect(),
    })
}
