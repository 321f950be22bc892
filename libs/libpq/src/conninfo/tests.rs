//! Ways to write a connection string, and ways in which one could leak a password.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

/// Nothing of it may appear in any message.
const SECRET: &str = "hunter2";

fn env(pairs: &[(&str, &str)]) -> Environment {
    let pairs: HashMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Environment::read(|name| pairs.get(name).cloned())
}

fn read_with(text: &str, env: &Environment) -> ConnectOptions {
    ConnectOptions::from_conninfo(text, env).unwrap_or_else(|e| panic!("{text:?}: {e}"))
}

fn read(text: &str) -> ConnectOptions {
    read_with(text, &Environment::none())
}

fn refused(text: &str, env: &Environment) -> String {
    ConnectOptions::from_conninfo(text, env).err().unwrap_or_else(|| panic!("{text:?} is taken")).to_string()
}

fn file(dir: &Path, name: &str, text: &str, mode: u32) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn key_value_strings() {
    let o =
        read(r"host=127.0.0.1 port = 5433 user='a b' password='it\'s' dbname=d application_name=x connect_timeout=3");
    assert_eq!((o.host.as_str(), o.port, o.user.as_str()), ("127.0.0.1", 5433, "a b"));
    assert_eq!((o.password.as_deref(), o.database.as_deref()), (Some("it's"), Some("d")));
    assert_eq!((o.application_name.as_str(), o.timeout), ("x", Duration::from_secs(3)));
    let o = read("options='-c tenant_id=a -c timeline_id=b' replication=true");
    assert_eq!((o.host.as_str(), o.port, o.user.as_str()), (SOCKET_DIR, 5432, "postgres"));
    assert_eq!(o.options.len(), 2);
    assert_eq!(o.parameters, [("replication".to_owned(), "true".to_owned())]);
    assert_eq!(o.peer(), "/var/run/postgresql/.s.PGSQL.5432");
    assert_eq!(read("host=db.example hostaddr=10.0.0.1").host, "10.0.0.1");
    assert_eq!(read("").port, 5432);
}

#[test]
fn urls() {
    let o = read("postgresql://u%40x:p%3Aw@[::1]:5433/db?application_name=a%20b&sslmode=disable");
    assert_eq!((o.host.as_str(), o.port, o.user.as_str()), ("::1", 5433, "u@x"));
    assert_eq!((o.password.as_deref(), o.database.as_deref()), (Some("p:w"), Some("db")));
    assert_eq!((o.application_name.as_str(), o.peer().as_str()), ("a b", "[::1]:5433"));
    let o = read("postgres:///db?host=/tmp/pg&port=5434");
    assert_eq!((o.host.as_str(), o.port, o.database.as_deref()), ("/tmp/pg", 5434, Some("db")));
    let o = read("postgresql://u@%2Ftmp%2Fpg:1/d");
    assert_eq!((o.host.as_str(), o.port), ("/tmp/pg", 1));
}

#[test]
fn what_libpq_knows_is_taken_or_refused_by_name() {
    let idle = "keepalives=1 keepalives_idle=5 gssencmode=disable channel_binding=prefer client_encoding=UTF8 \
                sslmode=prefer sslrootcert=/x target_session_attrs=read-write fallback_application_name=y";
    assert_eq!(read(idle).application_name, "y");
    for (bad, said) in [
        ("sslmode=require", "TLS"),
        ("sslmode=verify-full", "TLS"),
        ("postgresql://h/?ssl=true", "TLS"),
        ("channel_binding=require", "channel_binding"),
        ("gssencmode=require", "gssencmode"),
        ("target_session_attrs=standby", "primary"),
        ("require_auth=scram-sha-256", "require_auth"),
        ("requirepeer=postgres", "requirepeer"),
        ("host=a,b", "one"),
        ("host=a dbnam=x", "is dbname meant"),
        ("host=a colour=red", "colour"),
        ("options=-B", "options"),
        ("port=70000", "port"),
        ("port=0", "port"),
        ("connect_timeout=x", "connect_timeout"),
        ("host='x", "quote of host"),
        ("service=x", "another machine"),
        ("passfile=/etc/shadow", "another machine"),
    ] {
        let text = refused(bad, &Environment::none());
        assert!(text.contains(said), "{bad}: {text}");
    }
}

#[test]
fn a_torn_password_is_never_repeated() {
    let unknown = env(&[("PGSSLMODE", SECRET)]);
    for bad in [
        "password=my hunter2",
        "host=h password=my hunter2 dbname=x",
        "password=my hunter2=x host=h",
        "hunter2",
        "password='my\\' hunter2",
        "port=hunter2",
        "sslmode=hunter2",
        "connect_timeout=hunter2",
        "postgresql://u:my/hunter2@h/db",
        "postgresql://u:my?hunter2@h/db",
        "postgresql://u:my%zhunter2@h/db",
        "postgresql://u:hunter2/db",
        "postgresql://h/db?hunter2",
        "postgresql://[hunter2/db",
        "postgresql://[::1]hunter2/db",
    ] {
        let text = refused(bad, &Environment::none());
        assert!(!text.contains(SECRET), "{bad}: {text}");
    }
    assert!(!refused("host=h", &unknown).contains(SECRET));
    let o = read("host=h password=hunter2");
    for shown in [format!("{o:?}"), o.shown(), o.target(), o.peer(), format!("{:?}", env(&[("PGPASSWORD", SECRET)]))] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    assert!(refused("password=secret1 dbnam=x", &Environment::none()).contains("dbnam"), "a slip is named");
    assert!(holds_password("host=h password=x") && holds_password("postgresql://u:p@h/"));
    assert!(!holds_password("host=h user=password"));
}

#[test]
fn the_environment_fills_what_the_string_lacks() {
    let all = env(&[
        ("PGHOST", "h"),
        ("PGPORT", "1"),
        ("PGUSER", "u"),
        ("PGDATABASE", "d"),
        ("PGPASSWORD", "p"),
        ("PGAPPNAME", "a"),
        ("PGOPTIONS", "-c x=y"),
        ("PGCONNECT_TIMEOUT", "7"),
        ("PGSSLMODE", "prefer"),
    ]);
    let o = read_with("", &all);
    assert_eq!((o.host.as_str(), o.port, o.user.as_str(), o.database.as_deref()), ("h", 1, "u", Some("d")));
    assert_eq!((o.password.as_deref(), o.application_name.as_str(), o.timeout.as_secs()), (Some("p"), "a", 7));
    assert_eq!(o.options, [("x".to_owned(), "y".to_owned())]);
    let o = read_with("postgresql://v:q@i:2/e", &all);
    assert_eq!((o.host.as_str(), o.port, o.user.as_str(), o.password.as_deref()), ("i", 2, "v", Some("q")));
    assert!(refused("host=h", &env(&[("PGSSLMODE", "require")])).contains("TLS"));
    assert_eq!(read("host=h").password, None, "a string from elsewhere sees no environment");
}

#[test]
fn password_files_are_read_as_libpq_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = "# host:port:database:user:password\nother:*:*:*:no\nh:5432:d:u:first\n*:*:*:u:p\\:w\\\\x\n\
                localhost:*:*:s:socket\n\\:\\:1:*:*:*:six\nr:*:replication:*:repl\n";
    let path = file(dir.path(), "pass", text, 0o600);
    let env = env(&[("PGPASSFILE", &path)]);
    let password = |text: &str| read_with(text, &env).password;
    assert_eq!(password("host=h user=u dbname=d").as_deref(), Some("first"));
    assert_eq!(password("host=h user=u dbname=e").as_deref(), Some(r"p:w\x"), "wildcards and escapes");
    assert_eq!(password("user=s").as_deref(), Some("socket"), "the default socket is localhost");
    assert_eq!(password("host=/var/run/postgresql user=s").as_deref(), Some("socket"));
    assert_eq!(password("host=/tmp user=s"), None);
    assert_eq!(password("host=::1 user=z").as_deref(), Some("six"), "colons in the host");
    assert_eq!(password("host=r user=z dbname=d").as_deref(), Some("repl"));
    assert_eq!(password("host=x user=other"), None);
    assert_eq!(password("host=h user=u dbname=d password=own").as_deref(), Some("own"));
    assert!(read_with("host=x user=other", &env).no_password().contains("no line for"));
}

#[test]
fn a_password_file_that_others_may_read_is_not_used() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = file(dir.path(), ".pgpass", "*:*:*:*:hunter2\n", 0o640);
    let home = dir.path().to_str().expect("UTF-8");
    let o = read_with("host=h", &env(&[("HOME", home)]));
    assert_eq!(o.password, None);
    assert!(o.no_password().contains("0640") && o.no_password().contains("PGPASSWORD"), "{}", o.no_password());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    assert_eq!(read_with("host=h", &env(&[("HOME", home)])).password.as_deref(), Some(SECRET));
    assert_eq!(read_with(&format!("host=h passfile={path}"), &env(&[])).password.as_deref(), Some(SECRET));
}

#[test]
fn services_come_before_the_environment() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = "# mine\n[other]\nhost=no\n[prod]\nhost=h\nport=7\nport=8\nuser=u\npassword=p w\n\n[next]\nhost=no\n";
    let path = file(dir.path(), ".pg_service.conf", text, 0o644);
    let home = dir.path().to_str().expect("UTF-8");
    for (text, env) in [
        ("service=prod", env(&[("HOME", home), ("PGPORT", "9"), ("PGDATABASE", "d")])),
        ("postgresql:///?service=prod", env(&[("PGSERVICEFILE", &path), ("PGDATABASE", "d")])),
        ("", env(&[("PGSERVICEFILE", &path), ("PGSERVICE", "prod"), ("PGDATABASE", "d")])),
    ] {
        let o = read_with(text, &env);
        assert_eq!((o.host.as_str(), o.port, o.user.as_str(), o.database.as_deref()), ("h", 7, "u", Some("d")));
        assert_eq!(o.password.as_deref(), Some("p w"));
    }
    assert_eq!(read_with("service=prod host=own", &env(&[("HOME", home)])).host, "own");
    assert!(refused("service=none", &env(&[("HOME", home)])).contains("none"));
    assert!(refused("service=prod", &env(&[("PGSERVICEFILE", "/nowhere/f")])).contains("/nowhere/f"));
    file(dir.path(), ".pg_service.conf", "[prod]\nhost=h\ncolor=x\n", 0o644);
    assert!(refused("service=prod", &env(&[("HOME", home)])).contains("line 3"));
}

#[test]
fn addresses() {
    for bad in ["host", ":1", "::1:5", "h:port", "h:70000"] {
        assert!(ConnectOptions::to_address(bad, "u").is_err(), "{bad}");
    }
    let v6 = ConnectOptions::to_address("[::1]:5", "u").expect("an IPv6 address");
    assert_eq!((v6.host.as_str(), v6.port), ("::1", 5));
}

proptest::proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,80}") {
        let _ = ConnectOptions::from_conninfo(&text, &Environment::none());
        let _ = ConnectOptions::from_conninfo(&format!("postgresql://{text}"), &Environment::none());
        let _ = ConnectOptions::to_address(&text, "u");
    }

    #[test]
    fn a_written_string_says_the_same(user in "\\PC{1,20}", password in "\\PC{1,20}", name in "\\PC{0,20}") {
        let options = ConnectOptions {
            host: "h".to_owned(),
            port: 1,
            user,
            password: Some(password),
            application_name: name,
            options: vec![("a".to_owned(), "b c".to_owned())],
            ..ConnectOptions::default()
        };
        proptest::prop_assert_eq!(read(&options.to_conninfo()), options);
    }
}
