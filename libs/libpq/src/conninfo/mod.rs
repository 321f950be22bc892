//! Where and how to dial: [`ConnectOptions`]. As in libpq, they come from connection strings (key=value and URL),
//! service files, password files and the environment, an [`Environment`] that `main` passes down.
//!
//! Differences: the default user is `postgres`, and there is one host. TLS is not available, so settings that require
//! it are refused. No error and no Debug form repeats a value that could be a password.
//!
//! | module | what | pure? |
//! |---|---|---|
//! | `parse` | grammar | yes |
//! | `keywords` | libpq's keywords, and how each is treated | yes |
//! | `sources` | environment, service files, password files | no |

mod keywords;
mod parse;
mod sources;
#[cfg(test)]
mod tests;

use std::time::Duration;

use proto::pg::startup;
pub use sources::Environment;
use sources::Login;

/// Used when `ConnectOptions::timeout` is zero.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Directory of the unix socket when no host is named, as distributions build libpq.
const SOCKET_DIR: &str = "/var/run/postgresql";
/// Where a password may come from, for whoever lacks one.
const PASSWORD_SOURCES: &str = "it may come from PGPASSWORD, a password file (PGPASSFILE or ~/.pgpass, mode 0600), a \
     service file (PGSERVICE), or password= in the connection string";

/// Where and how to dial.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ConnectOptions {
    /// Host name or address, or a directory (leading `/`) that holds PostgreSQL's unix socket.
    pub host: String,
    /// TCP port, also of the unix socket's name.
    pub port: u16,
    /// User to log in as.
    pub user: String,
    /// Database; `None`: none sent.
    pub database: Option<String>,
    /// Password for clear text, MD5 and SCRAM-SHA-256.
    pub password: Option<String>,
    /// Why the password file gave none.
    pub password_note: Option<String>,
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

    /// Reads a libpq connection string: `host=... port=...` or `postgresql://...`. What it lacks comes from `env`.
    ///
    /// Defaults: the unix socket in `/var/run/postgresql`, port 5432, user postgres, no database, ten seconds.
    ///
    /// # Errors
    /// When it does not follow the grammar, names a keyword that libpq does not have, more than one host, a service
    /// that is not defined, or demands what is not available, as TLS.
    pub fn from_conninfo(text: &str, env: &Environment) -> Result<ConnectOptions, ConninfoError> {
        Self::resolve(text, env).map_err(ConninfoError)
    }

    fn resolve(text: &str, env: &Environment) -> Result<ConnectOptions, String> {
        let mut found = sources::collect(parse::parse(text)?, env)?;
        let mut take = |name: &str| found.remove(name).filter(|v| !v.is_empty());
        let (name, address) = (take("host"), take("hostaddr"));
        // A password file has the host's name; there, the default socket is localhost.
        let known_as = name.clone().or_else(|| address.clone()).filter(|h| h != SOCKET_DIR);
        let host = address.or(name).unwrap_or_else(|| SOCKET_DIR.to_owned());
        if host.contains(',') {
            return Err("several hosts are given, exactly one is expected: walfabric works with one server".to_owned());
        }
        // Values are not repeated: they may contain part of a password.
        let port = take("port").map(|p| p.parse::<u16>().ok().filter(|p| *p != 0));
        let port = port.unwrap_or(Some(5432)).ok_or("port is not a number from 1 to 65535")?;
        let seconds = take("connect_timeout").map(|t| t.trim().parse::<u32>());
        let seconds = seconds.unwrap_or(Ok(0)).map_err(|_| "connect_timeout is not a number of seconds")?;
        let fallback = take("fallback_application_name");
        let mut options = Vec::new();
        if let Some(text) = take("options") {
            if !startup::are_settings(&text) {
                return Err("options can be -c name=value or --name=value only".to_owned());
            }
            options.extend(startup::parse_options(&text));
            options.sort();
        }
        let user = take("user").unwrap_or_else(|| "postgres".to_owned());
        let (database, passfile) = (take("dbname"), take("passfile"));
        let (mut password, mut password_note) = (take("password"), None);
        if password.is_none() {
            let host = known_as.as_deref().unwrap_or("localhost");
            let login = Login { host, port, database: database.as_deref().unwrap_or("postgres"), user: &user };
            let from_file = sources::password(passfile, &login, env);
            (password, password_note) = (from_file.password, from_file.note);
        }
        Ok(ConnectOptions {
            host,
            port,
            user,
            database,
            password,
            password_note,
            application_name: take("application_name").or(fallback).unwrap_or_default(),
            options,
            parameters: take("replication").map(|v| ("replication".to_owned(), v)).into_iter().collect(),
            timeout: Duration::from_secs(seconds.into()),
        })
    }

    /// The connection string that says the same by itself, **with the password**: for another process, never for a
    /// person or a log.
    pub fn to_conninfo(&self) -> String {
        let secret = self.password.as_deref().map(|p| parse::quoted("password", p));
        [Some(self.shown()), secret].into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// The connection string without the password, for people.
    pub fn shown(&self) -> String {
        let mut words = vec![
            parse::quoted("host", &self.host),
            parse::quoted("port", &self.port.to_string()),
            parse::quoted("user", &self.user),
        ];
        words.extend(self.database.iter().map(|d| parse::quoted("dbname", d)));
        if !self.application_name.is_empty() {
            words.push(parse::quoted("application_name", &self.application_name));
        }
        if !self.options.is_empty() {
            words.push(parse::quoted("options", &startup::format_options(&self.options)));
        }
        if !self.timeout.is_zero() {
            words.push(parse::quoted("connect_timeout", &self.timeout.as_secs().to_string()));
        }
        words.join(" ")
    }

    /// Server, user and database, for messages: never the password.
    pub fn target(&self) -> String {
        let database = self.database.as_ref().map(|d| format!(", database {d}")).unwrap_or_default();
        format!("{} as user {}{database}", self.peer(), self.user)
    }

    /// What to say when the server wants a password and there is none.
    pub fn no_password(&self) -> String {
        let note = self.password_note.as_ref().map(|n| format!("; {n}")).unwrap_or_default();
        format!("the server asks for the password of user {}, and none was given: {PASSWORD_SOURCES}{note}", self.user)
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

impl std::fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("target", &self.target())
            .field("password", &self.password.as_ref().map(|_| "(hidden)"))
            .field("application_name", &self.application_name)
            .field("options", &self.options)
            .field("parameters", &self.parameters)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Said once to whoever gives a password on the command line.
pub const PASSWORD_IN_ARGV: &str = "the password in it can be read by everybody on this machine who lists processes; \
     PGPASSWORD or a password file (~/.pgpass) keep it secret";

/// Whether `text` is a connection string with a password in it, which whoever lists processes can read.
pub fn holds_password(text: &str) -> bool {
    parse::parse(text).is_ok_and(|pairs| pairs.iter().any(|(key, value)| key == "password" && !value.is_empty()))
}
