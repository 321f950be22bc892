//! Keywords that libpq knows: those that are used, those without effect here, and those that are refused because we
//! cannot do what they ask for.
//!
//! Source: PostgreSQL 18, `PQconninfoOptions` in `fe-connect.c`; `servicefile` is of 19.

/// What becomes of a keyword.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// Taken: it becomes part of the options, or says where more of them are.
    Used,
    /// Has no effect without TLS, Kerberos or a second host.
    Idle,
    /// Only these values can be kept.
    Only(&'static [&'static str], &'static str),
    /// Refused, with the reason.
    Never(&'static str),
}

use Rule::{Idle, Never, Only, Used};

const NO_TLS: &str = "walfabric does not speak TLS yet: use sslmode=disable or prefer on a trusted network";

/// Keyword, environment variable, rule.
const KEYWORDS: &[(&str, Option<&str>, Rule)] = &[
    ("service", Some("PGSERVICE"), Used),
    ("servicefile", Some("PGSERVICEFILE"), Used),
    ("host", Some("PGHOST"), Used),
    ("hostaddr", Some("PGHOSTADDR"), Used),
    ("port", Some("PGPORT"), Used),
    ("user", Some("PGUSER"), Used),
    ("dbname", Some("PGDATABASE"), Used),
    ("password", Some("PGPASSWORD"), Used),
    ("passfile", Some("PGPASSFILE"), Used),
    ("application_name", Some("PGAPPNAME"), Used),
    ("fallback_application_name", None, Used),
    ("options", Some("PGOPTIONS"), Used),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT"), Used),
    ("replication", None, Used),
    ("sslmode", Some("PGSSLMODE"), Only(&["disable", "allow", "prefer"], NO_TLS)),
    ("requiressl", Some("PGREQUIRESSL"), Only(&["0"], NO_TLS)),
    ("sslnegotiation", Some("PGSSLNEGOTIATION"), Only(&["postgres"], NO_TLS)),
    ("channel_binding", Some("PGCHANNELBINDING"), Only(&["disable", "prefer"], NO_TLS)),
    ("gssencmode", Some("PGGSSENCMODE"), Only(&["disable", "prefer"], "Kerberos is not supported")),
    ("client_encoding", Some("PGCLIENTENCODING"), Only(&["UTF8", "utf8", "UTF-8", "utf-8", "auto"], "it is UTF8")),
    (
        "target_session_attrs",
        Some("PGTARGETSESSIONATTRS"),
        Only(&["any", "read-write", "primary"], "walfabric works with the primary"),
    ),
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Only(&["disable"], "exactly one host is used")),
    ("min_protocol_version", Some("PGMINPROTOCOLVERSION"), Only(&["3.0"], "walfabric speaks protocol 3.0")),
    ("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), Idle),
    ("require_auth", Some("PGREQUIREAUTH"), Never("walfabric takes what the server asks for")),
    ("requirepeer", Some("PGREQUIREPEER"), Never("walfabric does not check who owns the socket")),
    ("scram_client_key", None, Never("give a password instead")),
    ("scram_server_key", None, Never("give a password instead")),
    ("oauth_issuer", None, Never("OAuth is not supported")),
    ("oauth_client_id", None, Never("OAuth is not supported")),
    ("oauth_client_secret", None, Never("OAuth is not supported")),
    ("oauth_scope", None, Never("OAuth is not supported")),
    ("keepalives", None, Idle),
    ("keepalives_count", None, Idle),
    ("keepalives_idle", None, Idle),
    ("keepalives_interval", None, Idle),
    ("tcp_user_timeout", None, Idle),
    ("krbsrvname", Some("PGKRBSRVNAME"), Idle),
    ("gsslib", Some("PGGSSLIB"), Idle),
    ("gssdelegation", Some("PGGSSDELEGATION"), Idle),
    ("sslcompression", Some("PGSSLCOMPRESSION"), Idle),
    ("sslcert", Some("PGSSLCERT"), Idle),
    ("sslkey", Some("PGSSLKEY"), Idle),
    ("sslpassword", None, Idle),
    ("sslcertmode", Some("PGSSLCERTMODE"), Only(&["disable", "allow"], NO_TLS)),
    ("sslrootcert", Some("PGSSLROOTCERT"), Idle),
    ("sslcrl", Some("PGSSLCRL"), Idle),
    ("sslcrldir", Some("PGSSLCRLDIR"), Idle),
    ("sslsni", Some("PGSSLSNI"), Idle),
    ("sslkeylogfile", None, Idle),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION"), Idle),
    ("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION"), Idle),
];

/// Environment variables that stand in for keywords, with those.
pub(super) fn variables() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYWORDS.iter().filter_map(|(key, variable, _)| Some(((*variable)?, *key)))
}

/// Refuses a keyword that libpq does not have. Right after `torn`, a keyword whose value had no quotes, it may be a
/// piece of a password; it is named only if it looks like a slip of the pen.
pub(super) fn check_known(key: &str, torn: Option<&str>) -> Result<(), String> {
    if KEYWORDS.iter().any(|(known, ..)| *known == key) {
        return Ok(());
    }
    let near = KEYWORDS.iter().map(|(known, ..)| *known).find(|known| is_slip(known, key));
    let secret = torn.is_some_and(|t| ["password", "sslpassword", "oauth_client_secret"].contains(&t));
    match (near, torn) {
        (Some(near), _) => Err(format!("keyword {key:?} is not known: is {near} meant?")),
        (None, Some(torn)) if secret => {
            Err(format!("what stands after {torn} is no keyword: a value with blanks needs quotes"))
        }
        (None, _) => Err(format!("keyword {key:?} is not known")),
    }
}

/// Whether one letter was left out, added, changed, or two were exchanged.
fn is_slip(known: &str, typed: &str) -> bool {
    let (known, typed) = (known.as_bytes(), typed.as_bytes());
    let head = known.iter().zip(typed).take_while(|(a, b)| a == b).count();
    let (k, t) = (&known[head..], &typed[head..]);
    let tail = |a: &[u8], n: usize| a.get(n..).map(<[u8]>::to_vec);
    let same = |n: usize, m: usize| tail(k, n).is_some() && tail(k, n) == tail(t, m);
    known.len() > 3
        && (same(1, 0) || same(0, 1) || same(1, 1) || (same(2, 2) && k.len() > 1 && (k[0], k[1]) == (t[1], t[0])))
}

/// Refuses a setting that would not be kept.
pub(super) fn check_value(key: &str, value: &str) -> Result<(), String> {
    match KEYWORDS.iter().find(|(known, ..)| *known == key).map(|(.., rule)| *rule) {
        Some(Only(values, why)) if !value.is_empty() && !values.contains(&value) => {
            // The text of a value is never repeated, whatever the setting.
            Err(format!("{key} can be {} only: {why}", values.join(", ")))
        }
        Some(Never(why)) if !value.is_empty() => Err(format!("{key} is not supported: {why}")),
        _ => Ok(()),
    }
}
