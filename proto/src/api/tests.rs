//! Bodies as text: words of states, and positions in both schemas.

use super::*;

/// Goal: the words of a state are what they were as text, and an older reader lives with a newer word. Method: each
/// state through JSON.
#[test]
fn states_are_words_and_an_unknown_one_is_read() {
    fn check<S: serde::de::DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(
        all: &[S],
        words: &[&str],
        unknown: &S,
    ) {
        let written: Vec<_> = all.iter().map(|state| serde_json::to_value(state).expect("JSON")).collect();
        assert_eq!(written, words);
        let read = |word: &str| serde_json::from_value::<S>(word.into()).expect("a word");
        assert!(words.iter().zip(all).all(|(word, state)| read(word) == *state), "{all:?}");
        assert_eq!([&read("hibernating"), &read("unknown")], [unknown; 2]);
        assert_eq!(serde_json::to_value(unknown).expect("JSON"), "unknown");
    }
    let of_pageservers = ["idle", "waiting_for_dial", "pushed", "pulling", "importing", "stopped"];
    check(PageserverTimelineState::ALL, &of_pageservers, &PageserverTimelineState::Unknown);
    check(ImportStage::ALL, &["copying", "replaying", "done"], &ImportStage::Unknown);
    check(StreamState::ALL, &["connecting", "streaming", "backoff", "stale"], &StreamState::Unknown);
    let of_shims = ["detached", "validating", "campaign", "elected", "streaming", "refused", "no_quorum"];
    check(ShimPhase::ALL, &of_shims, &ShimPhase::Unknown);
    check(ChoiceMode::ALL, &["push", "pull"], &ChoiceMode::Unknown);
    check(PeerState::ALL, &["offline", "handshake", "active"], &PeerState::Unknown);
    assert_eq!(ShimPhase::NoQuorum.to_string(), "no_quorum");
}

/// Goal: a position is unknown in every form in which a server may say so, and a known one is what it is. Method:
/// bodies as schema 1 wrote them, as schema 2 does, and without the field.
#[test]
fn unknown_positions_are_read_in_both_schemas() {
    let read = |flush: &str| {
        let text = format!(r#"{{"id":1,"address":"sk:1","state":"offline"{flush}}}"#);
        serde_json::from_str::<ShimSafekeeperStatus>(&text).expect("a body").flush_lsn
    };
    assert_eq!([r#","flush_lsn":"0/0""#, r#","flush_lsn":null"#, ""].map(read), [None; 3]);
    assert_eq!(read(r#","flush_lsn":"0/10""#), Some(Lsn::new(16)));
    let old = r#"{"tenant_id":"11111111111111111111111111111111","timeline_id":"22222222222222222222222222222222",
        "state":"detached","term":0,"elected_at_lsn":"0/0","commit_lsn":"0/10","received_lsn":"0/0",
        "reported_lsn":"0/0","reported_apply_lsn":"0/0","protected":false,"reasons":[],"safekeepers":[]}"#;
    let status: ShimStatus = serde_json::from_str(old).expect("a body of schema 1");
    assert_eq!((status.schema, status.elected_at_lsn, status.commit_lsn), (1, None, Some(Lsn::new(16))));
    let new = serde_json::to_value(ShimStatus { schema: SCHEMA, ..status.clone() }).expect("JSON");
    assert_eq!((&new["schema"], &new["elected_at_lsn"]), (&2.into(), &serde_json::Value::Null));
    assert_eq!(new["commit_lsn"], "0/10");
    let again: ShimStatus = serde_json::from_value(new).expect("a body of schema 2");
    assert_eq!(ShimStatus { schema: 1, ..again }, status);
}

/// Goal: a shim of an earlier version reads the status of a newer safekeeper. Method: its own reading, as a type in
/// which no position may be null.
#[test]
fn schema_1_has_no_null_where_a_position_is() {
    #[derive(Deserialize)]
    struct EarlierPush {
        sent_lsn: Lsn,
    }
    #[derive(Deserialize)]
    struct Earlier {
        schema: u32,
        flush_lsn: Lsn,
        remote_consistent_lsn: Lsn,
        stopped: Option<String>,
        pushes: Vec<EarlierPush>,
    }
    let text = r#"{"schema":2,"tenant_id":"11111111111111111111111111111111","safekeeper_id":1,"term":3,
        "timeline_id":"22222222222222222222222222222222","last_log_term":3,"term_history":[],
        "mconf":{"generation":0,"members":[],"new_members":[]},"source":"vanilla","primary_epoch":1,
        "pg_history":[],"pg_version_num":150004,"system_id":7,"wal_seg_size":16777216,"flush_lsn":"0/10",
        "remote_consistent_lsn":null,"wal_bytes":0,"streaming":false,"stopped":null,"pushes":[{"pageserver_id":1,
        "state":"connecting","sent_lsn":null,"last_record_lsn":null,"disk_consistent_lsn":null,"token":0}]}"#;
    let status: SafekeeperTimelineStatus = serde_json::from_str(text).expect("a body of schema 2");
    let earlier: Earlier = serde_json::from_value(status.to_schema_1().expect("JSON")).expect("schema 1");
    assert_eq!((earlier.schema, earlier.flush_lsn), (1, Lsn::new(16)));
    assert_eq!((earlier.remote_consistent_lsn, earlier.pushes[0].sent_lsn), (Lsn::new(0), Lsn::new(0)));
    assert_eq!(earlier.stopped, None, "what is no position stays null");
}
