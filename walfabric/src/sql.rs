//! Ordinary SQL to a primary through tokio-postgres.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio_postgres::{Client, NoTls};

/// Connects; the connection's task ends when the client is dropped.
///
/// # Errors
/// When the server does not take the connection within five seconds.
pub async fn connect(conninfo: &str) -> Result<Client> {
    let mut config: tokio_postgres::Config =
        conninfo.parse().with_context(|| format!("{conninfo:?} is not a connection string"))?;
    config.connect_timeout(Duration::from_secs(5));
    let connect = tokio::time::timeout(Duration::from_secs(5), config.connect(NoTls));
    let (client, connection) =
        connect.await.context("PostgreSQL did not answer in time")?.context("cannot connect to PostgreSQL")?;
    tokio::spawn(async move {
        // Whoever uses the client sees the error of its own call.
        let _ = connection.await;
    });
    Ok(client)
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
