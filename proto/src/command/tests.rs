//! The value of each command's text, and the texts that are refused.

use super::*;
use crate::pg::sqlstate;

fn parse(text: &str) -> Command {
    Command::parse(text).unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

fn refused(text: &str) -> String {
    match Command::parse(text) {
        Ok(c) => panic!("{text:?} was read as {c:?}"),
        Err(e) => e.code,
    }
}

#[test]
fn start_wal_push() {
    let bare = StartWalPush {
        version: ProtoVersion::V2,
        allow_timeline_creation: true,
        primary_epoch: None,
        lazy_feedback: false,
    };
    assert_eq!(parse("START_WAL_PUSH"), Command::StartWalPush(bare));
    assert_eq!(parse("start_wal_push ();"), Command::StartWalPush(bare));
    let full = StartWalPush {
        version: ProtoVersion::V3,
        allow_timeline_creation: false,
        primary_epoch: Some(PrimaryEpoch(7)),
        lazy_feedback: true,
    };
    let text = "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false', primary_epoch '7', \
                feedback 'lazy', later 'x')";
    assert_eq!(parse(text), Command::StartWalPush(full));
    assert_eq!(parse("START_WAL_PUSH (feedback 'prompt')"), Command::StartWalPush(bare));
    assert_eq!(refused("START_WAL_PUSH (feedback 'never')"), sqlstate::INVALID_PARAMETER_VALUE);
    assert_eq!(refused("START_WAL_PUSH (proto_version '4')"), sqlstate::INVALID_PARAMETER_VALUE);
    assert_eq!(refused("START_WAL_PUSH (primary_epoch '-1')"), sqlstate::INVALID_PARAMETER_VALUE);
    for bad in [
        "START_WAL_PUSH (proto_version 3)",
        "START_WAL_PUSH (proto_version '3'",
        "START_WAL_PUSH (proto_version '3') x",
        "START_WAL_PUSH (proto_version '3' allow_timeline_creation 'true')",
        "START_WAL_PUSH (proto_version '3', proto_version '2')",
        "START_WAL_PUSH (proto_version '3",
        "START_WAL_PUSH x",
    ] {
        assert_eq!(refused(bad), sqlstate::SYNTAX_ERROR, "{bad}");
    }
}

#[test]
fn start_replication() {
    let lsn: Lsn = "0/16B3748".parse().expect("an LSN");
    let plain = StartReplication { slot: None, start_lsn: lsn, tli: None, term: None };
    assert_eq!(parse("START_REPLICATION 0/16B3748"), Command::StartReplication(plain.clone()));
    assert_eq!(parse("START_REPLICATION PHYSICAL 0/16B3748"), Command::StartReplication(plain.clone()));
    let text = "start_replication SLOT \"a b\" physical 0/16B3748 TIMELINE 3 (term='5');";
    let full = StartReplication { slot: Some("a b".into()), start_lsn: lsn, tli: Some(Tli(3)), term: Some(Term(5)) };
    assert_eq!(parse(text), Command::StartReplication(full));
    assert_eq!(parse("START_REPLICATION 0/0"), {
        Command::StartReplication(StartReplication { start_lsn: Lsn::new(0), ..plain })
    });
    assert_eq!(refused("START_REPLICATION"), sqlstate::SYNTAX_ERROR);
    assert_eq!(refused("START_REPLICATION zero"), sqlstate::INVALID_PARAMETER_VALUE);
    assert_eq!(refused("START_REPLICATION 0/123456789"), sqlstate::INVALID_PARAMETER_VALUE);
    assert_eq!(refused("START_REPLICATION 0/16B3748 and more"), sqlstate::SYNTAX_ERROR);
    assert_eq!(refused("START_REPLICATION 0/16B3748 TIMELINE one"), sqlstate::INVALID_PARAMETER_VALUE);
    assert_eq!(refused("START_REPLICATION SLOT s LOGICAL 0/0"), sqlstate::FEATURE_NOT_SUPPORTED);
}

#[test]
fn start_push_replication() {
    let text = "START_PUSH_REPLICATION (proto_version '1', sk_id '7', choice '42', nonce 'ab12', term '12', \
                commit_lsn '0/1000', features 'a,b', novel 'x')";
    let want = StartPush {
        version: 1,
        safekeeper_id: NodeId(7),
        choice: 42,
        nonce: "ab12".into(),
        term: Some(Term(12)),
        commit_lsn: Some(Lsn::new(0x1000)),
        features: vec!["a".into(), "b".into()],
    };
    assert_eq!(parse(text), Command::StartPush(want));
    let least = "START_PUSH_REPLICATION (proto_version '1', sk_id '7', choice '42', nonce '', commit_lsn '0/0')";
    assert!(matches!(parse(least), Command::StartPush(StartPush { commit_lsn: None, term: None, .. })));
    assert_eq!(refused("START_PUSH_REPLICATION (proto_version '1', sk_id '7')"), sqlstate::SYNTAX_ERROR);
    let zero = "START_PUSH_REPLICATION (proto_version '1', sk_id '0', choice '42', nonce '')";
    assert_eq!(refused(zero), sqlstate::INVALID_PARAMETER_VALUE);
}

#[test]
fn pagestream() {
    let (tenant, timeline) = ("000102030405060708090a0b0c0d0e0f", "F0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
    let ttid = TenantTimelineId::new(tenant.parse().expect("an id"), timeline.parse().expect("an id"));
    let want = |version| Command::Pagestream { version, ttid };
    assert_eq!(parse(&format!("pagestream_v3 {tenant} {timeline}")), want(pagestream::PagestreamVersion::V3));
    assert_eq!(parse(&format!("PAGESTREAM_V2 {tenant} {timeline};")), want(pagestream::PagestreamVersion::V2));
    assert!(matches!(parse(&format!("pagestream {tenant} {timeline}")), Command::Unknown(_)));
    assert_eq!(refused("pagestream_v3"), sqlstate::SYNTAX_ERROR);
    assert_eq!(refused(&format!("pagestream_v3 {tenant}")), sqlstate::SYNTAX_ERROR);
    assert_eq!(refused(&format!("pagestream_v3 {tenant} {timeline} x")), sqlstate::SYNTAX_ERROR);
    assert_eq!(refused(&format!("pagestream_v3 {tenant}-0001 {timeline}")), sqlstate::INVALID_PARAMETER_VALUE);
}

#[test]
fn small_commands() {
    assert_eq!(parse(" identify_system ; "), Command::IdentifySystem);
    assert_eq!(parse("TIMELINE_STATUS"), Command::TimelineStatus);
    assert_eq!(parse("check_wal 0/10 1/20;"), Command::CheckWal { from: Lsn::new(16), to: Lsn::new((1 << 32) + 32) });
    assert_eq!(refused("CHECK_WAL 0/10"), sqlstate::SYNTAX_ERROR);
    assert_eq!(parse("member_statement ;"), Command::MemberStatement(None));
    assert_eq!(refused("MEMBER_STATEMENT '{}'"), sqlstate::INVALID_PARAMETER_VALUE);
    assert_eq!(refused("MEMBER_STATEMENT now"), sqlstate::SYNTAX_ERROR);
    assert_eq!(parse("TIMELINE_HISTORY 2"), Command::TimelineHistory(Tli(2)));
    assert_eq!(parse("show Wal_Segment_Size;"), Command::Show("wal_segment_size".into()));
    assert_eq!(parse("SET datestyle TO 'ISO'"), Command::Set { name: "datestyle".into(), value: "'ISO'".into() });
    assert_eq!(parse("set a=b"), Command::Set { name: "a".into(), value: "b".into() });
    assert_eq!(parse("SELECT 1;"), Command::Unknown("SELECT 1".into()));
    assert_eq!(parse("CREATE_REPLICATION_SLOT x"), Command::Unknown("CREATE_REPLICATION_SLOT x".into()));
    for bad in ["IDENTIFY_SYSTEM now", "SHOW", "SHOW a b", "SET", "SET x", "SET x towards y", "TIMELINE_HISTORY"] {
        assert_eq!(refused(bad), sqlstate::SYNTAX_ERROR, "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_answered(
        text in ".{0,200}",
        word in "(START_WAL_PUSH|START_REPLICATION|SET|SHOW|pagestream_v3) [ -~]{0,80}",
    ) {
        let _ = Command::parse(&text);
        let _ = Command::parse(&word);
    }
}

#[test]
fn base_backups_of_every_client() {
    use crate::backup::{BackupForm, ManifestChecksum};

    let new = "BASE_BACKUP ( LABEL 'pg_basebackup base backup',  PROGRESS,  CHECKPOINT 'fast',  WAIT 0,  \
               MANIFEST 'yes',  MANIFEST_CHECKSUMS 'SHA256', TARGET 'client')";
    let old = "BASE_BACKUP LABEL 'pg_basebackup base backup' PROGRESS FAST NOWAIT   MANIFEST 'yes' \
               MANIFEST_CHECKSUMS 'SHA256'";
    let expected = BaseBackup {
        label: "pg_basebackup base backup".to_owned(),
        progress: true,
        manifest: Some(ManifestChecksum::Sha256),
        ..BaseBackup::default()
    };
    assert_eq!(parse(new), Command::BaseBackup(expected.clone()));
    assert_eq!(parse(old), Command::BaseBackup(expected));
    let rest = "BASE_BACKUP (WAL, TABLESPACE_MAP true, MAX_RATE 1000, MANIFEST 'no', BOOT 'fork')";
    let expected = BaseBackup { wal: true, tablespace_map: true, form: BackupForm::BootFork, ..BaseBackup::default() };
    assert_eq!(parse(rest), Command::BaseBackup(expected));
    assert_eq!(parse("BASE_BACKUP"), Command::BaseBackup(BaseBackup::default()));
    for bad in ["BASE_BACKUP (SNAPSHOT)", "BASE_BACKUP (LABEL 'x'", "BASE_BACKUP ('x')", "BASE_BACKUP (WAL) x"] {
        assert_eq!(refused(bad), sqlstate::SYNTAX_ERROR, "{bad}");
    }
    for bad in ["BASE_BACKUP (WAL 'perhaps')", "BASE_BACKUP (BOOT 'now')", "BASE_BACKUP (MANIFEST_CHECKSUMS 'none')"] {
        assert_eq!(refused(bad), sqlstate::INVALID_PARAMETER_VALUE, "{bad}");
    }
    for bad in ["BASE_BACKUP (TARGET 'server')", "BASE_BACKUP (COMPRESSION 'gzip')", "BASE_BACKUP (INCREMENTAL)"] {
        assert_eq!(refused(bad), sqlstate::FEATURE_NOT_SUPPORTED, "{bad}");
    }
}
