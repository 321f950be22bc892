//! Sources of settings that a connection string lacks: environment variables, service files, password files.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{keywords, parse};

/// A password or service file is not read beyond this, bytes: they hold a line or a few per server.
const FILE_LEN_MAX: u64 = 1 << 20;
/// Where a service file of the whole system lies, as Debian builds libpq.
const SYSCONF_DIR: &str = "/etc/postgresql-common";

/// What `main` read from its environment for connection strings. Without it, files are not looked into either: a string
/// that came over the network must not name files of this machine.
#[derive(Clone, Default)]
pub struct Environment {
    /// None: strings from elsewhere.
    variables: Option<HashMap<String, String>>,
}

impl Environment {
    /// Nothing but the connection string counts, and it must not name files.
    pub fn none() -> Environment {
        Environment::default()
    }

    /// Asks `lookup` for libpq's variables and HOME.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Environment {
        let names = keywords::variables().map(|(variable, _)| variable).chain(["HOME", "PGSYSCONFDIR"]);
        let found = names.filter_map(|name| Some((name.to_owned(), lookup(name).filter(|v| !v.is_empty())?)));
        Environment { variables: Some(found.collect()) }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.as_ref()?.get(name).map(String::as_str)
    }

    fn in_home(&self, name: &str) -> Option<PathBuf> {
        self.variable("HOME").map(|home| Path::new(home).join(name))
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut names: Vec<&String> = self.variables.iter().flat_map(HashMap::keys).collect();
        names.sort();
        f.debug_tuple("Environment").field(&names).finish()
    }
}

/// Settings by keyword: those of the string, then of its service, then of the environment.
pub(super) fn collect(pairs: Vec<parse::Pair>, env: &Environment) -> Result<HashMap<String, String>, String> {
    let mut found: HashMap<String, String> = pairs.into_iter().collect();
    if env.variables.is_none()
        && let Some(key) = ["service", "servicefile", "passfile"].iter().find(|key| found.contains_key(**key))
    {
        return Err(format!("{key} cannot be used here: it would name a file of another machine"));
    }
    let service = found.remove("service").or_else(|| env.variable("PGSERVICE").map(str::to_owned));
    let file = found.remove("servicefile").or_else(|| env.variable("PGSERVICEFILE").map(str::to_owned));
    if let Some(name) = service.filter(|s| !s.is_empty()) {
        for (key, value) in service_settings(&name, file.filter(|f| !f.is_empty()).map(PathBuf::from), env)? {
            found.entry(key).or_insert(value);
        }
    }
    for (variable, key) in keywords::variables() {
        if let Some(value) = env.variable(variable).filter(|_| !key.starts_with("service")) {
            found.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    found.iter().try_for_each(|(key, value)| keywords::check_value(key, value))?;
    Ok(found)
}

/// The section `[name]` of the file named, or else of the user's file, or else of the system's.
fn service_settings(name: &str, file: Option<PathBuf>, env: &Environment) -> Result<Vec<parse::Pair>, String> {
    let named = file.is_some();
    let system = Path::new(env.variable("PGSYSCONFDIR").unwrap_or(SYSCONF_DIR)).join("pg_service.conf");
    let files = match file {
        Some(file) => vec![file],
        None => env.in_home(".pg_service.conf").into_iter().chain([system]).collect(),
    };
    for path in &files {
        match read_file(path) {
            Ok(text) => {
                if let Some(found) = section(&text, name).map_err(|e| format!("{}, {e}", path.display()))? {
                    return Ok(found);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && !named => {}
            Err(e) => return Err(format!("service file {}: {e}", path.display())),
        }
    }
    let looked: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    Err(format!("service {name:?} is not defined in {}", looked.join(" or ")))
}

fn section(text: &str, name: &str) -> Result<Option<Vec<parse::Pair>>, String> {
    let mut found: Option<Vec<parse::Pair>> = None;
    for (at, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), at + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            found = (header.split(']').next() == Some(name)).then(Vec::new);
            continue;
        }
        let Some(pairs) = &mut found else { continue };
        let (key, value) = line.split_once('=').ok_or_else(|| format!("line {number}: it is not key=value"))?;
        if key.starts_with("service") {
            return Err(format!("line {number}: a service must not name another"));
        }
        keywords::check_known(key, None).map_err(|e| format!("line {number}: {e}"))?;
        // As in libpq, the first of two counts.
        if !pairs.iter().any(|(k, _)| k == key) {
            pairs.push((key.to_owned(), value.to_owned()));
        }
    }
    Ok(found)
}

/// Whose password is looked for.
pub(super) struct Login<'a> {
    /// As given; the default socket's directory counts as localhost.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// What a password file gave: the password, or why it was not read.
#[derive(Default)]
pub(super) struct Found {
    pub(super) password: Option<String>,
    pub(super) note: Option<String>,
}

/// Looks the password up in the file named, or else in `~/.pgpass`.
///
/// Source: PostgreSQL 15, `passwordFromFile` in `fe-connect.c`.
pub(super) fn password(named: Option<String>, login: &Login<'_>, env: &Environment) -> Found {
    let path = match named {
        Some(named) => Some(PathBuf::from(named)),
        None => env.in_home(".pgpass"),
    };
    let Some(path) = path.filter(|_| env.variables.is_some()) else { return Found::default() };
    let unread = |why: String| Found { password: None, note: Some(format!("{} {why}", path.display())) };
    match fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return unread("does not exist".to_owned()),
        Err(e) => return unread(format!("cannot be read: {e}")),
        Ok(meta) if !meta.is_file() => return unread("is not a plain file".to_owned()),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            let mode = meta.permissions().mode() & 0o777;
            return unread(format!("was not read: its mode is {mode:04o}, others may read it; chmod 0600 it"));
        }
        Ok(_) => {}
    }
    match read_file(&path) {
        Ok(text) => match text.lines().find_map(|line| matching(line, login)) {
            Some(password) => Found { password: Some(password), note: None },
            None => unread("has no line for this host, port, database and user".to_owned()),
        },
        Err(e) => unread(format!("cannot be read: {e}")),
    }
}

/// The password of a line `host:port:database:user:password` that fits. A physical replication connection is
/// "replication" there, and uses the same login here.
fn matching(line: &str, login: &Login<'_>) -> Option<String> {
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let port = login.port.to_string();
    let rest = field(line, &[login.host])?;
    let rest = field(rest, &[&port])?;
    let rest = field(rest, &[login.database, "replication"])?;
    let mut password = String::new();
    let mut chars = field(rest, &[login.user])?.chars();
    while let Some(c) = chars.next() {
        password.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    Some(password)
}

/// What stands behind a field that is `*` or one of `wanted`; a backslash takes the next character as it is.
fn field<'a>(text: &'a str, wanted: &[&str]) -> Option<&'a str> {
    if let Some(rest) = text.strip_prefix("*:") {
        return Some(rest);
    }
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            ':' => return wanted.contains(&value.as_str()).then(|| &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    None
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_LEN_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > FILE_LEN_MAX {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(text)
}
