//! Ordinary SQL through tokio-postgres, with the settings that our own parser read, and its errors for people.

use std::error::Error as _;

use libpq::ConnectOptions;
use tokio_postgres::config::SslMode;

/// The same settings for tokio-postgres. The database is `postgres` unless one is named: every cluster has it.
pub fn config(options: &ConnectOptions) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(&options.host).port(options.port).user(&options.user).ssl_mode(SslMode::Disable);
    config.dbname(options.database.as_deref().unwrap_or("postgres"));
    if let Some(password) = &options.password {
        config.password(password);
    }
    if !options.application_name.is_empty() {
        config.application_name(&options.application_name);
    }
    if !options.options.is_empty() {
        config.options(proto::pg::startup::format_options(&options.options));
    }
    if !options.timeout.is_zero() {
        config.connect_timeout(options.timeout);
    }
    config
}

/// What went wrong with a connection of `options`, and what to do where that is known.
pub fn explain(error: &tokio_postgres::Error, options: &ConnectOptions) -> String {
    if let Some(e) = error.as_db_error() {
        let detail = e.detail().map(|d| format!(": {d}")).unwrap_or_default();
        let tls = if e.message().contains("no encryption") {
            "; walfabric does not speak TLS yet, so pg_hba.conf needs a host line for it, not hostssl"
        } else {
            ""
        };
        return format!("{}{detail} (SQLSTATE {}){tls}", e.message(), e.code().code());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = inner.source();
    }
    if text.contains("password missing") { options.no_password() } else { text }
}
