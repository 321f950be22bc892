//! Ordinary SQL to a primary through tokio-postgres.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use libpq::{ConnectOptions, Environment};
use tokio_postgres::{Client, NoTls};
use walproposer_shim::sql;

/// Limit for connecting, unless the connection string has one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects with a connection string that is complete ([`resolve`] makes it so); the connection's task ends when the
/// client is dropped.
///
/// # Errors
/// When the server does not take the connection within five seconds. Names server, user and who tried, no password.
pub async fn connect(conninfo: &str) -> Result<Client> {
    let mut options = ConnectOptions::from_conninfo(conninfo, &Environment::none())?;
    if options.timeout.is_zero() {
        options.timeout = CONNECT_TIMEOUT;
    }
    let (limit, target) = (options.timeout, options.target());
    let config = sql::config(&options);
    let (client, connection) = match tokio::time::timeout(limit, config.connect(NoTls)).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(e)) => {
            bail!("walfabric cannot connect to PostgreSQL at {target}: {}", sql::explain(&e, &options))
        }
        Err(_) => bail!("walfabric cannot connect to PostgreSQL at {target}: no answer within {limit:?}"),
    };
    tokio::spawn(async move {
        // Whoever uses the client sees the error of its own call.
        let _ = connection.await;
    });
    Ok(client)
}

/// Completes a connection string from `env`, so that it says by itself all that libpq would find. The result may hold a
/// password: [`ConnectOptions::shown`] is for people, [`ConnectOptions::to_conninfo`] for [`connect`].
///
/// # Errors
/// When it cannot be used; without any value of it.
pub fn resolve(flag: &str, conninfo: &str, env: &Environment) -> Result<ConnectOptions> {
    let options = ConnectOptions::from_conninfo(conninfo, env).with_context(|| flag.to_owned())?;
    if libpq::holds_password(conninfo) {
        eprintln!("warning: {flag}: {}", libpq::PASSWORD_IN_ARGV);
    }
    // Nobody would look for a fault in a password file that is there.
    if let Some(note) = options.password_note.as_ref().filter(|n| n.contains("was not read")) {
        eprintln!("warning: {note}");
    }
    Ok(options)
}

/// The primary that `--primary` and the environment name, as for libpq's programs.
///
/// # Errors
/// See [`resolve`].
pub fn primary(conninfo: &str) -> Result<ConnectOptions> {
    resolve("--primary", conninfo, &Environment::read(|name| std::env::var(name).ok()))
}

/// One text value of one row.
///
/// # Errors
/// When the query fails or returns nothing.
pub async fn text(client: &Client, query: &str) -> Result<String> {
    let messages = client.simple_query(query).await.with_context(|| format!("cannot run {query}"))?;
    let row = messages.iter().find_map(|m| match m {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    row.with_context(|| format!("{query} returned no row"))
}
