//! Users of this machine by name, from `/etc/passwd`.

use std::path::PathBuf;

/// The entry of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name to log in with.
    pub name: String,
    /// The number of the user.
    pub uid: u32,
    /// Id of its own group.
    pub gid: u32,
    /// The home directory, `/` when none is given.
    pub home: PathBuf,
}

/// The user of this name, if `/etc/passwd` has it.
pub fn named(name: &str) -> Option<User> {
    find(|user| user.name == name)
}

/// The user of this id, if `/etc/passwd` has it.
pub fn of(uid: u32) -> Option<User> {
    find(|user| user.uid == uid)
}

/// How to call the user of this id in a message: by name where there is one.
pub fn name_of(uid: u32) -> String {
    of(uid).map_or_else(|| format!("user {uid}"), |user| format!("user {} ({uid})", user.name))
}

fn find(wanted: impl Fn(&User) -> bool) -> Option<User> {
    // Without the file, users have no names.
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().filter_map(parse).find(wanted)
}

/// One line of the file, `name:x:uid:gid:comment:home:...`.
fn parse(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let mut fields = fields.skip(1);
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let home = fields.nth(1).filter(|home| !home.is_empty()).unwrap_or("/").into();
    Some(User { name, uid, gid, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_there_and_nonsense_is_not() {
        assert_eq!(named("root"), of(0));
        assert_eq!(name_of(0), "user root (0)");
        assert_eq!(name_of(u32::MAX), format!("user {}", u32::MAX));
        assert_eq!(parse("broken:x:1"), None);
        let user = |home: &str| Some(User { name: "w".to_owned(), uid: 7, gid: 8, home: home.into() });
        assert_eq!((parse("w:x:7:8:::"), parse("w:x:7:8:c:/h:/bin/sh")), (user("/"), user("/h")));
    }
}
