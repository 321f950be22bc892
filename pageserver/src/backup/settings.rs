//! Configuration files of a backup. They are not in WAL.

use bytes::Bytes;
use pgformat::control::ControlFile;

/// Files that a server does not start without, each with its text.
///
/// The limits are those that the log asks for: a standby with lower ones stops. Only local connections of the
/// operating system's user that runs the server are let in, until somebody says otherwise.
pub(crate) fn files(control: &ControlFile) -> Vec<(&'static str, Bytes)> {
    let p = &control.parameters;
    let on = |value: bool| if value { "on" } else { "off" };
    let conf = format!(
        "# Made by walfabric: the cluster's own configuration is not in its WAL.\n\
         # These limits are those that the WAL was written under.\n\
         max_connections = {}\nmax_worker_processes = {}\nmax_wal_senders = {}\n\
         max_prepared_transactions = {}\nmax_locks_per_transaction = {}\n\
         track_commit_timestamp = {}\nwal_log_hints = {}\n",
        p.max_connections.max(1),
        p.max_worker_processes,
        p.max_wal_senders,
        p.max_prepared_xacts,
        p.max_locks_per_xact.max(10),
        on(p.track_commit_timestamp),
        on(p.wal_log_hints),
    );
    let hba = "# Made by walfabric: the cluster's own file is not in its WAL.\nlocal all all peer\n\
               local replication all peer\n";
    vec![
        ("postgresql.conf", conf.into()),
        ("postgresql.auto.conf", Bytes::from_static(b"")),
        ("pg_hba.conf", Bytes::from_static(hba.as_bytes())),
        ("pg_ident.conf", Bytes::from_static(b"# Made by walfabric.\n")),
    ]
}
