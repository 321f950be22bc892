//! Where and how to dial: [`ConnectOptions`], read from libpq connection strings (key=value and URL). Environment
//! variables and service files are not read; TLS is not available, so an `sslmode` that demands it is refused.

use std::collections::HashMap;
use std::time::Duration;

use super::startup;

/// Used when `ConnectOptions::timeout` is zero.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Directory of the unix socket when no host is named, as distributions build libpq.
const SOCKET_DIR: &str = "/var/run/postgresql";

/// Where and how to dial.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConnectOptions {
    /// Host name or address, or a directory (leading `/`) that holds PostgreSQL's unix socket.
    pub host: String,
    /// TCP port, also of the unix socket's name.
    pub port: u16,
    /// User name.
    pub user: String,
    /// Database; `None`: none sent.
    pub database: Option<String>,
    /// Password for clear text, MD5 and SCRAM-SHA-256.
    pub password: Option<String>,
    /// application_name; empty: none sent.
    pub application_name: String,
    /// `-c key=value` options, sent in the startup parameter `options`.
    pub options: Vec<(String, String)>,
    /// Further startup parameters, as ("replication", "true").
    pub parameters: Vec<(String, String)>,
    /// Limit for connect, startup and authentication together; zero means ten seconds.
    pub timeout: Duration,
}

/// A connection string that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("connection string: {0}")]
pub struct ConninfoError(String);

impl ConnectOptions {
    /// Dials `address`, a `host:port` with brackets around an IPv6 host, as `user`.
    ///
    /// # Errors
    /// When `address` is not of that form.
    pub fn to_address(address: &str, user: &str) -> Result<ConnectOptions, ConninfoError> {
        let bad = || ConninfoError(format!("{address:?} is not host:port"));
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        if host.is_empty() || (bracketed.is_none() && host.contains(':')) {
            return Err(bad());
        }
        let port = port.parse().map_err(|_| bad())?;
        Ok(ConnectOptions { host: host.to_owned(), port, user: user.to_owned(), ..ConnectOptions::default() })
    }

    /// Reads a libpq connection string: `host=... port=...` or `postgresql://...`.
    ///
    /// Defaults: the unix socket in `/var/run/postgresql`, port 5432, user postgres, no database, ten seconds.
    ///
    /// # Errors
    /// When it does not follow the grammar, names a keyword that libpq does not have, more than one host, or demands
    /// TLS.
    pub fn from_conninfo(text: &str) -> Result<ConnectOptions, ConninfoError> {
        let url = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
        let pairs = match url {
            Some(rest) => parse_url(rest),
            None => parse_pairs(text),
        }
        .map_err(ConninfoError)?;
        Self::from_pairs(pairs).map_err(ConninfoError)
    }

    fn from_pairs(mut pairs: HashMap<String, String>) -> Result<ConnectOptions, String> {
        let mut take = |name: &str| pairs.remove(name).filter(|v| !v.is_empty());
        let host = take("host");
        let host = take("hostaddr").or(host).unwrap_or_else(|| SOCKET_DIR.to_owned());
        if host.contains(',') {
            return Err("several hosts are given, one is needed".to_owned());
        }
        let port = take("port").map_or(Ok(5432), |p| p.parse().map_err(|_| format!("{p:?} is not a port")))?;
        let seconds = take("connect_timeout")
            .map_or(Ok(0), |t| t.parse::<u32>().map_err(|_| format!("connect_timeout {t:?} is not a number")))?;
        if let Some(mode) = take("sslmode").filter(|m| !["disable", "allow", "prefer"].contains(&m.as_str())) {
            return Err(format!("sslmode={mode} demands TLS, which is not available; use sslmode=disable"));
        }
        let fallback = take("fallback_application_name");
        let options = take("options").map(|o| startup::parse_options(&o)).unwrap_or_default();
        let mut options: Vec<(String, String)> = options.into_iter().collect();
        options.sort();
        let connect = ConnectOptions {
            host,
            port,
            user: take("user").unwrap_or_else(|| "postgres".to_owned()),
            database: take("dbname"),
            password: take("password"),
            application_name: take("application_name").or(fallback).unwrap_or_default(),
            options,
            parameters: take("replication").map(|v| ("replication".to_owned(), v)).into_iter().collect(),
            timeout: Duration::from_secs(seconds.into()),
        };
        // What libpq knows and what has no meaning without TLS or for one host.
        const IGNORED: [&str; 14] = [
            "channel_binding",
            "client_encoding",
            "gssencmode",
            "keepalives",
            "keepalives_count",
            "keepalives_idle",
            "keepalives_interval",
            "krbsrvname",
            "load_balance_hosts",
            "passfile",
            "require_auth",
            "sslcompression",
            "target_session_attrs",
            "tcp_user_timeout",
        ];
        match pairs.keys().find(|k| !IGNORED.contains(&k.as_str()) && !k.starts_with("ssl") && !k.starts_with("gss")) {
            Some(key) => Err(format!("keyword {key:?} is not known")),
            None => Ok(connect),
        }
    }

    /// The other end, for logs: never the password.
    pub fn peer(&self) -> String {
        match () {
            () if self.host.starts_with('/') => format!("{}/.s.PGSQL.{}", self.host, self.port),
            () if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            () => format!("{}:{}", self.host, self.port),
        }
    }

    pub(crate) fn effective_timeout(&self) -> Duration {
        if self.timeout.is_zero() { TIMEOUT_DEFAULT } else { self.timeout }
    }

    pub(crate) fn startup_parameters(&self) -> Vec<(String, String)> {
        let mut pairs = vec![("user".to_owned(), self.user.clone())];
        pairs.extend(self.database.iter().map(|d| ("database".to_owned(), d.clone())));
        if !self.application_name.is_empty() {
            pairs.push(("application_name".to_owned(), self.application_name.clone()));
        }
        if !self.options.is_empty() {
            pairs.push(("options".to_owned(), startup::format_options(&self.options)));
        }
        pairs.push(("client_encoding".to_owned(), "UTF8".to_owned()));
        pairs.extend(self.parameters.iter().cloned());
        pairs
    }
}

/// `key = value` pairs; values may stand in single quotes, a backslash takes the next character as it is.
fn parse_pairs(text: &str) -> Result<HashMap<String, String>, String> {
    let mut pairs = HashMap::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err(format!("= is missing after {key:?}"));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                None if quoted => return Err(format!("the quote of {key:?} is not closed")),
                Some('\'') if quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None => break,
            }
        }
        pairs.insert(key, value);
    }
}

/// `[user[:password]@][host][:port][/dbname][?key=value&...]`, percent-encoded.
fn parse_url(rest: &str) -> Result<HashMap<String, String>, String> {
    let mut pairs = HashMap::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (host, port) = if let Some(v6) = address.strip_prefix('[') {
        let (host, after) = v6.split_once(']').ok_or("] is missing after an IPv6 address")?;
        (host, after.strip_prefix(':').unwrap_or(after))
    } else {
        address.split_once(':').unwrap_or((address, ""))
    };
    for (key, value) in [("user", user), ("password", password), ("host", host), ("port", port), ("dbname", dbname)] {
        if !value.is_empty() {
            pairs.insert(key.to_owned(), percent_decode(value)?);
        }
    }
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("= is missing after {pair:?}"))?;
        pairs.insert(percent_decode(key)?, percent_decode(value)?);
    }
    Ok(pairs)
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok()).filter(|d| !d.starts_with('+'));
        let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok());
        bytes.push(byte.ok_or_else(|| format!("{text:?} has a % without two hexadecimal digits"))?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8 after decoding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ConnectOptions {
        ConnectOptions::from_conninfo(text).unwrap_or_else(|e| panic!("{text:?}: {e}"))
    }

    #[test]
    fn key_value_strings() {
        let o = read(
            r"host=127.0.0.1 port = 5433 user='a b' password='it\'s' dbname=d application_name=x connect_timeout=3",
        );
        assert_eq!((o.host.as_str(), o.port, o.user.as_str()), ("127.0.0.1", 5433, "a b"));
        assert_eq!((o.password.as_deref(), o.database.as_deref()), (Some("it's"), Some("d")));
        assert_eq!((o.application_name.as_str(), o.timeout), ("x", Duration::from_secs(3)));
        let o = read("options='-c tenant_id=a -c timeline_id=b' replication=true");
        assert_eq!((o.host.as_str(), o.port, o.user.as_str()), (SOCKET_DIR, 5432, "postgres"));
        assert_eq!(o.options.len(), 2);
        assert_eq!(o.parameters, [("replication".to_owned(), "true".to_owned())]);
        assert_eq!(o.peer(), "/var/run/postgresql/.s.PGSQL.5432");
    }

    #[test]
    fn urls() {
        let o = read("postgresql://u%40x:p%3Aw@[::1]:5433/db?application_name=a%20b&sslmode=disable");
        assert_eq!((o.host.as_str(), o.port, o.user.as_str()), ("::1", 5433, "u@x"));
        assert_eq!((o.password.as_deref(), o.database.as_deref()), (Some("p:w"), Some("db")));
        assert_eq!((o.application_name.as_str(), o.peer().as_str()), ("a b", "[::1]:5433"));
        let o = read("postgres:///db?host=/tmp/pg&port=5434");
        assert_eq!((o.host.as_str(), o.port, o.database.as_deref()), ("/tmp/pg", 5434, Some("db")));
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for bad in [
            "host",
            "host='x",
            "port=70000",
            "colour=red",
            "host=a,b",
            "sslmode=require",
            "postgresql://[::1/db",
            "postgresql://a%zz/db",
            "postgresql://a/db?x",
        ] {
            assert!(ConnectOptions::from_conninfo(bad).is_err(), "{bad}");
        }
        for bad in ["host", ":1", "::1:5", "h:port", "h:70000"] {
            assert!(ConnectOptions::to_address(bad, "u").is_err(), "{bad}");
        }
        let v6 = ConnectOptions::to_address("[::1]:5", "u").expect("an IPv6 address");
        assert_eq!((v6.host.as_str(), v6.port), ("::1", 5));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,80}") {
            let _ = ConnectOptions::from_conninfo(&text);
            let _ = ConnectOptions::from_conninfo(&format!("postgresql://{text}"));
            let _ = ConnectOptions::to_address(&text, "u");
        }
    }
}
