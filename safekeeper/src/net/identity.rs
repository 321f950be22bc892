//! Which timeline a session means, and what PostgreSQL version its clients are to believe.

use std::fmt::Display;
use std::str::FromStr;

use pgformat::PgMajor;
use proto::id::{NodeId, TenantTimelineId};
use proto::pg::{SqlError, StartupParams};

/// Client that recovers a proposer: `IDENTIFY_SYSTEM` tells it the end of the log instead of the commit position.
const RECOVERY_APPLICATION: &str = "wal_proposer_recovery";
const PEER_APPLICATION: &str = "safekeeper";

/// What libpq clients are told before a timeline with a version is known.
const DEFAULT_VERSION_NUM: u32 = 150_000;

/// The timeline named by the startup options.
///
/// # Errors
/// When an option is missing or is no id.
pub(crate) fn timeline_of(startup: &StartupParams) -> Result<TenantTimelineId, SqlError> {
    Ok(TenantTimelineId::new(option(startup, "tenant_id")?, option(startup, "timeline_id")?))
}

fn option<T: FromStr<Err: Display>>(startup: &StartupParams, name: &str) -> Result<T, SqlError> {
    let text = startup.option(name).ok_or_else(|| {
        SqlError::invalid_value(format!("the startup option {name} is missing"))
            .with_hint("Connect with options='-c tenant_id=<32 hex digits> -c timeline_id=<32 hex digits>'.")
    })?;
    text.parse().map_err(|e| SqlError::invalid_value(format!("startup option {name}: {e}")))
}

/// Refuses a reader that wants anything but the WAL as it is: decoded records, or those of one shard. Raw WAL instead
/// would be taken for what was asked for.
///
/// # Errors
/// SQLSTATE 0A000, with the option.
pub(crate) fn check_raw(startup: &StartupParams) -> Result<(), SqlError> {
    let foreign = startup.options.iter().find(|(name, value)| {
        let vanilla = *name == "protocol" && is_vanilla(value);
        (*name == "protocol" && !vanilla) || name.starts_with("shard_")
    });
    let Some((name, value)) = foreign else { return Ok(()) };
    let shown: String = value.chars().take(80).collect();
    Err(SqlError::unsupported(format!("the startup option {name}={shown} is not supported")).with_hint(
        "Only WAL as PostgreSQL writes it is sent: protocol={\"type\":\"vanilla\"}, without shard_ options.",
    ))
}

/// `{"type":"vanilla"}`, with any white space.
fn is_vanilla(value: &str) -> bool {
    let parsed: Option<serde_json::Value> = serde_json::from_str(value).ok();
    parsed.is_some_and(|v| v.get("type").and_then(serde_json::Value::as_str) == Some("vanilla"))
}

/// The pageserver that `pageserver-<id>` names.
pub(crate) fn pageserver_of(startup: &StartupParams) -> Option<NodeId> {
    startup.application_name().strip_prefix("pageserver-")?.parse().ok().map(NodeId)
}

/// Whether the client recovers a proposer's log.
pub(crate) fn is_recovery(startup: &StartupParams) -> bool {
    let name = startup.application_name();
    name == RECOVERY_APPLICATION || name.starts_with(PEER_APPLICATION)
}

/// `server_version` for PG_VERSION_NUM, in PostgreSQL's form "15.4".
pub(crate) fn server_version(pg_version_num: u32) -> String {
    let num = if PgMajor::from_version_num(pg_version_num).is_some() { pg_version_num } else { DEFAULT_VERSION_NUM };
    format!("{}.{}", num / 10_000, num % 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(options: &[(&str, &str)], application: Option<&str>) -> StartupParams {
        let own = |v: &[(&str, &str)]| v.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let parameters: Vec<(&str, &str)> = application.map(|a| ("application_name", a)).into_iter().collect();
        StartupParams { parameters: own(&parameters), options: own(options) }
    }

    #[test]
    fn both_ids_by_either_name() {
        let (t, l) = ("0123456789abcdef0123456789abcdef", "00000000000000000000000000000001");
        let wanted = timeline_of(&startup(&[("tenant_id", t), ("timeline_id", l)], None)).expect("both");
        assert_eq!(timeline_of(&startup(&[("ztenantid", t), ("ztimelineid", l)], None)), Ok(wanted));
        for (given, named) in [
            (vec![("tenant_id", t)], "timeline_id"),
            (vec![("timeline_id", l)], "tenant_id"),
            (vec![("tenant_id", "xyz"), ("timeline_id", l)], "tenant_id"),
        ] {
            let e = timeline_of(&startup(&given, None)).expect_err("one half is missing or bad");
            assert!(e.message.contains(named), "{e}");
        }
    }

    #[test]
    fn only_raw_wal_is_sent() {
        let ok = |options: &[(&str, &str)]| check_raw(&startup(options, None));
        assert_eq!(ok(&[("tenant_id", "x"), ("protocol", "{\"type\": \"vanilla\"}")]), Ok(()));
        let interpreted = "{\"type\":\"interpreted\",\"args\":{\"format\":\"protobuf\"}}";
        for option in [("protocol", interpreted), ("protocol", "vanilla?"), ("shard_number", "0"), ("shard_count", "2")]
        {
            let e = ok(&[option]).expect_err("not WAL as it is");
            assert!(e.code == "0A000" && e.message.contains(option.0) && e.hint.is_some(), "{e}");
        }
    }

    #[test]
    fn recovery_clients_are_known_by_name() {
        assert!(is_recovery(&startup(&[], Some("wal_proposer_recovery"))));
        assert!(is_recovery(&startup(&[], Some("safekeeper-3"))));
        assert!(!is_recovery(&startup(&[], Some("pg_receivewal"))) && !is_recovery(&startup(&[], None)));
    }

    #[test]
    fn versions_in_postgres_form() {
        assert_eq!(server_version(150_004), "15.4");
        assert_eq!(server_version(180_000), "18.0");
        assert_eq!(server_version(0), "15.0", "not known yet");
    }
}
