//! Logins as a user would try them: sources of a password, and that no output ever repeats it.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::Result;
use harness::{Bounded as _, PATIENCE};
use tests::fabric::binary;
use tests::process::{Postgres, free_port};
use walfabric::sql;

const SECRET: &str = "secret1";
/// What the primary says to a role that got in and has no rights: proof that the password was found.
const INSIDE: &str = "role wf may not";

/// Runs a command with this environment and no other of libpq's; both outputs together. The password is in none.
fn said(args: &[&str], environment: &[(&str, &str)]) -> Result<String> {
    let mut command = Command::new(binary()?);
    for variable in ["PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE"] {
        command.env_remove(variable);
    }
    let output =
        command.env("HOME", "/nonexistent").envs(environment.iter().copied()).args(args).output_within(PATIENCE)?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(!text.contains(SECRET), "{args:?}: {text}");
    Ok(text)
}

/// Goal: a password comes from wherever libpq finds one; without one, or with a wrong port, the error says who tried
/// what as whom; a password that is torn, or on the command line, is not repeated.
#[tokio::test(flavor = "multi_thread")]
async fn passwords_come_from_where_libpq_looks_and_are_never_repeated() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pg = Postgres::start(&dir.path().join("pg"), "data").await?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute(&format!("CREATE ROLE wf LOGIN REPLICATION PASSWORD '{SECRET}'")).await?;
    let hba = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(pg.data_dir.join("pg_hba.conf"), hba)?;
    client.batch_execute("SELECT pg_reload_conf()").await?;

    let port = pg.port.to_string();
    let conninfo = format!("host=127.0.0.1 port={port} user=wf dbname=postgres");
    let timeline = "00112233445566770123456789abcdef";
    let protect = |primary: &str, environment: &[(&str, &str)]| {
        said(&["timeline", "protect", "--wait-s", "1", "--timeline-id", timeline, "--primary", primary], environment)
    };
    // The reload is asynchronous: until it is done, everybody is trusted.
    let closed = async || protect(&conninfo, &[]).ok().filter(|text| text.contains("PGPASSWORD"));
    let text = tests::wait::until("a password is asked for", std::time::Duration::from_secs(10), closed).await;
    assert!(text.contains("user wf") && text.contains("pgpass") && text.contains("walfabric cannot connect"), "{text}");

    let passfile = dir.path().join("pass");
    std::fs::write(&passfile, format!("127.0.0.1:{port}:*:wf:{SECRET}\n"))?;
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600))?;
    let services = dir.path().join("services");
    std::fs::write(&services, format!("[wf]\nhost=127.0.0.1\nport={port}\nuser=wf\npassword={SECRET}\n"))?;
    let (passfile, services) = (passfile.display().to_string(), services.display().to_string());
    let all = [("PGHOST", "127.0.0.1"), ("PGPORT", &port), ("PGUSER", "wf"), ("PGPASSWORD", SECRET)];
    let with_file = format!("{conninfo} passfile={passfile}");
    let ways: [(&str, Vec<(&str, &str)>); 5] = [
        (&conninfo, vec![("PGPASSWORD", SECRET)]),
        (&conninfo, vec![("PGPASSFILE", &passfile)]),
        (&with_file, vec![]),
        ("service=wf", vec![("PGSERVICEFILE", &services)]),
        ("", all.to_vec()),
    ];
    for (primary, environment) in ways {
        let text = protect(primary, &environment)?;
        assert!(text.contains(INSIDE), "{primary}: {text}");
    }
    let text = protect(&format!("postgresql://wf:{SECRET}@127.0.0.1:{port}/postgres"), &[])?;
    assert!(text.contains(INSIDE) && text.contains("warning: --primary"), "{text}");
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o644))?;
    let text = protect(&conninfo, &[("PGPASSFILE", &passfile)])?;
    assert!(text.contains("0644"), "{text}");

    let nobody = free_port();
    let text = protect(&format!("host=127.0.0.1 port={nobody} user=wf password={SECRET}"), &[])?;
    assert!(text.contains(&format!("127.0.0.1:{nobody} as user wf")) && text.contains("refused"), "{text}");

    let shim = |primary: &str, environment: &[(&str, &str)]| {
        let ids = ["--tenant-id", timeline, "--timeline-id", timeline];
        let rest = ["--broker", "http://127.0.0.1:1", "--safekeepers", "127.0.0.1:1", "--primary", primary];
        said(&[&["walproposer-shim", "--check-config"][..], &ids, &rest].concat(), environment)
    };
    for torn in [format!("{conninfo} password=my {SECRET}"), format!("{conninfo} password={SECRET} dbnam=x")] {
        for text in [protect(&torn, &[])?, shim(&torn, &[])?] {
            assert!(text.contains("--primary"), "{text}");
        }
    }
    assert!(shim("", &all)?.contains("valid"));
    assert!(shim(&format!("{conninfo} sslmode=require"), &[])?.contains("TLS"));
    Ok(())
}
