//! The creation body of the existing control plane, read as ours.
//!
//! It names fewer things: its walproposers greet with the system identifier and never start in the middle of a record
//! that somebody else wrote, so there is no prehistory, and no epoch. A request with anything that we do not understand
//! is refused.

use pgformat::{Lsn, SegSize, Tli};
use proto::api::{CreateTimelineRequest, PgHistoryEntry, TimelineSource};
use proto::consensus::{Member, MemberConf};
use proto::id::{Generation, PrimaryEpoch, SystemId, TenantId, TimelineId};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Segments have 16 MiB unless the body says otherwise.
const SEG_BYTES: u32 = 16 << 20;

/// Which body it is: ours names `pg_version_num`.
#[derive(Deserialize)]
struct BodyKind {
    pg_version: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForeignRequest {
    tenant_id: TenantId,
    timeline_id: TimelineId,
    mconf: ForeignConf,
    /// PG_VERSION_NUM of the cluster, for example 170002.
    pg_version: u32,
    system_id: Option<SystemId>,
    wal_seg_size: Option<u32>,
    start_lsn: Lsn,
    commit_lsn: Option<Lsn>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForeignConf {
    generation: Generation,
    members: Vec<Member>,
    new_members: Option<Vec<Member>>,
}

/// Reads a creation line, ours or theirs.
///
/// # Errors
/// What is wrong with it.
pub(super) fn creation(line: &[u8]) -> Result<CreateTimelineRequest, String> {
    let bad = |e: serde_json::Error| format!("the first line of the body: {e}");
    let kind: BodyKind = serde_json::from_slice(line).map_err(bad)?;
    if kind.pg_version.is_none() {
        return serde_json::from_slice(line).map_err(bad);
    }
    let r: ForeignRequest = serde_json::from_slice(line).map_err(bad)?;
    if let Some(commit) = r.commit_lsn.filter(|commit| *commit != r.start_lsn) {
        return Err(format!(
            "commit_lsn {commit} is not start_lsn {}: a timeline that already has WAL cannot be created here",
            r.start_lsn
        ));
    }
    let seg_bytes = r.wal_seg_size.unwrap_or(SEG_BYTES);
    let wal_seg_size = SegSize::new(seg_bytes)
        .ok_or_else(|| format!("wal_seg_size {seg_bytes} is no power of two of 1 MiB to 1 GiB"))?;
    let new_members = r.mconf.new_members.unwrap_or_default();
    Ok(CreateTimelineRequest {
        tenant_id: r.tenant_id,
        timeline_id: r.timeline_id,
        mconf: MemberConf { generation: r.mconf.generation, members: r.mconf.members, new_members },
        pg_version_num: r.pg_version,
        system_id: r.system_id.unwrap_or(SystemId(0)),
        wal_seg_size,
        start_lsn: r.start_lsn,
        source: TimelineSource::Walproposer,
        primary_epoch: PrimaryEpoch(0),
        // Its computes never leave PostgreSQL's first tli.
        pg_history: vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0) }],
        prehistory_len: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: &str =
        r#""tenant_id":"0123456789abcdef0123456789abcdef","timeline_id":"fedcba9876543210fedcba9876543210""#;

    fn body(rest: &str) -> String {
        format!(
            r#"{{{IDS},"mconf":{{"generation":1,"members":[{{"id":1,"host":"sk1","pg_port":6500}}],
            "new_members":null}},{rest}}}"#
        )
    }

    #[test]
    fn the_existing_control_planes_body_is_read() {
        let text = body(
            r#""pg_version":160004,"system_id":null,"wal_seg_size":null,"start_lsn":"0/14EE150","commit_lsn":null"#,
        );
        let read = creation(text.as_bytes()).expect("their body");
        assert_eq!((read.pg_version_num, read.system_id, read.wal_seg_size.bytes()), (160_004, SystemId(0), 16 << 20));
        assert_eq!(
            (read.source, read.start_lsn, read.prehistory_len),
            (TimelineSource::Walproposer, Lsn::new(0x14E_E150), 0)
        );
        assert_eq!((read.mconf.members[0].pg_port, read.mconf.new_members.len()), (6500, 0));
        let short = creation(body(r#""pg_version":160004,"start_lsn":"0/14EE150""#).as_bytes());
        assert_eq!(short.expect("fields may be left out"), read);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (rest, problem) in [
            (r#""pg_version":160004,"start_lsn":"0/14EE150","commit_lsn":"0/2000000""#, "already has WAL"),
            (r#""pg_version":160004,"start_lsn":"0/14EE150","ignore_tombstone":true"#, "ignore_tombstone"),
            (r#""pg_version":160004,"start_lsn":"0/14EE150","wal_seg_size":1000"#, "wal_seg_size 1000"),
            (r#""pg_version":160004"#, "start_lsn"),
            (r#""pg_version_num":160004,"start_lsn":"0/14EE150""#, "expected a sequence"),
        ] {
            let refused = creation(body(rest).as_bytes()).expect_err(problem);
            assert!(refused.contains(problem), "{refused}");
        }
    }
}
