//! `synchronous_standby_names`: PostgreSQL's grammar, and whether a setting protects a timeline.
//!
//! Pure. Source: PostgreSQL 15, `src/backend/replication/syncrep_gram.y` and `syncrep_scanner.l`.

use std::iter::Peekable;
use std::str::Chars;

/// How many standbys a commit waits for, and how they are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// `FIRST n (...)`, `n (...)`, or a bare list: by priority.
    First,
    /// `ANY n (...)`: a quorum.
    Any,
}

/// A parsed setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncNames {
    /// Priority or quorum.
    pub method: Method,
    /// How many are waited for.
    pub count: u32,
    /// The names, `*` included, as written.
    pub names: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum NameToken {
    /// A name or number without quotes.
    Word(String),
    /// A name in double quotes.
    Quoted(String),
    Open,
    Close,
    Comma,
}

/// Parses a setting; `None` when it is empty (nobody is waited for).
///
/// # Errors
/// Says what PostgreSQL would not accept either.
pub fn parse(text: &str) -> Result<Option<SyncNames>, String> {
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Ok(None);
    }
    let number = |t: Option<&NameToken>| match t {
        Some(NameToken::Word(w)) => w.parse::<u32>().ok(),
        _ => None,
    };
    let keyword = |t: Option<&NameToken>, k: &str| matches!(t, Some(NameToken::Word(w)) if w.eq_ignore_ascii_case(k));
    let open = |i: usize| tokens.get(i) == Some(&NameToken::Open);
    let (method, count, list) = if number(tokens.first()).is_some() && open(1) {
        (Method::First, number(tokens.first()), inside(&tokens, 2)?)
    } else if keyword(tokens.first(), "any") && number(tokens.get(1)).is_some() && open(2) {
        (Method::Any, number(tokens.get(1)), inside(&tokens, 3)?)
    } else if keyword(tokens.first(), "first") && number(tokens.get(1)).is_some() && open(2) {
        (Method::First, number(tokens.get(1)), inside(&tokens, 3)?)
    } else {
        (Method::First, Some(1), tokens.as_slice())
    };
    Ok(Some(SyncNames { method, count: count.unwrap_or(1), names: names(list)? }))
}

fn inside(tokens: &[NameToken], from: usize) -> Result<&[NameToken], String> {
    match tokens.split_last() {
        Some((NameToken::Close, _)) => Ok(tokens.get(from..tokens.len() - 1).unwrap_or(&[])),
        _ => Err("the list is not closed".to_owned()),
    }
}

fn names(list: &[NameToken]) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for (i, token) in list.iter().enumerate() {
        match (i % 2, token) {
            (0, NameToken::Word(name) | NameToken::Quoted(name)) => out.push(name.clone()),
            (1, NameToken::Comma) => {}
            (_, other) => return Err(format!("{other:?} does not belong into a list of names")),
        }
    }
    if list.len().is_multiple_of(2) { Err("a name is missing".to_owned()) } else { Ok(out) }
}

fn tokens(text: &str) -> Result<Vec<NameToken>, String> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' | '\x0c' | '\x0b' => {}
            '(' => out.push(NameToken::Open),
            ')' => out.push(NameToken::Close),
            ',' => out.push(NameToken::Comma),
            '*' => out.push(NameToken::Word("*".to_owned())),
            '"' => out.push(NameToken::Quoted(quoted(&mut chars)?)),
            c if is_word(c) => out.push(NameToken::Word(word(c, &mut chars))),
            c => return Err(format!("{c:?} is not allowed outside quotes")),
        }
    }
    Ok(out)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

fn word(first: char, chars: &mut Peekable<Chars<'_>>) -> String {
    let mut out = String::from(first);
    while let Some(c) = chars.next_if(|c| is_word(*c)) {
        out.push(c);
    }
    out
}

fn quoted(chars: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut out = String::new();
    loop {
        match chars.next() {
            Some('"') if chars.next_if_eq(&'"').is_some() => out.push('"'),
            Some('"') => return Ok(out),
            Some(c) => out.push(c),
            None => return Err("a quoted name is not closed".to_owned()),
        }
    }
}

/// Why `setting` does not make every synchronous commit wait for the standby `own` and for nobody else; `None`: it
/// does.
///
/// ```
/// use walproposer_shim::sync_names::{parse, problem};
///
/// let own = "walfabric_0123456789abcdef";
/// assert_eq!(problem("FIRST 1 (walfabric_0123456789abcdef)", own), None);
/// assert!(problem("ANY 1 (walfabric_0123456789abcdef, other)", own).is_some_and(|why| why.contains("others")));
///
/// let parsed = parse("FIRST 2 (a, b, c)")?.expect("it names somebody");
/// assert_eq!((parsed.count, parsed.names.len()), (2, 3));
/// # Ok::<(), String>(())
/// ```
pub fn problem(setting: &str, own: &str) -> Option<String> {
    let wanted = format!("set it to 'FIRST 1 ({own})'");
    let parsed = match parse(setting) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return Some(format!("synchronous_standby_names is empty, so commits wait for nobody: {wanted}")),
        Err(e) => return Some(format!("synchronous_standby_names {setting:?} cannot be read ({e}): {wanted}")),
    };
    let matches = |name: &String| name == "*" || name.eq_ignore_ascii_case(own);
    if !parsed.names.iter().any(matches) {
        return Some(format!("synchronous_standby_names {setting:?} does not name {own}: {wanted}"));
    }
    if parsed.names.len() != 1 || parsed.names.iter().any(|n| n == "*") {
        return Some(format!("synchronous_standby_names {setting:?} lets others than {own} release commits: {wanted}"));
    }
    if parsed.method != Method::First || parsed.count != 1 {
        return Some(format!("synchronous_standby_names {setting:?} is not of the form FIRST 1: {wanted}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "walfabric_0123456789abcdef";

    #[test]
    fn the_textual_variants_of_first_1_own_are_accepted() {
        for good in [
            "FIRST 1 (walfabric_0123456789abcdef)",
            "first 1(walfabric_0123456789abcdef)",
            "1 (walfabric_0123456789abcdef)",
            "walfabric_0123456789abcdef",
            " \"walfabric_0123456789abcdef\" ",
            "FIRST 1 (\"walfabric_0123456789abcdef\")",
            "FIRST 1 (WALFABRIC_0123456789ABCDEF)",
        ] {
            assert_eq!(problem(good, OWN), None, "{good}");
        }
    }

    #[test]
    fn everything_else_is_a_reason() {
        for (bad, word) in [
            ("", "empty"),
            ("   ", "empty"),
            ("*", "others"),
            ("other", "does not name"),
            ("FIRST 1 (walfabric_0123456789abcdef, other)", "others"),
            ("ANY 1 (walfabric_0123456789abcdef, other)", "others"),
            ("ANY 1 (walfabric_0123456789abcdef)", "FIRST 1"),
            ("FIRST 2 (walfabric_0123456789abcdef)", "FIRST 1"),
            ("walfabric_0123456789abcdef, *", "others"),
            ("FIRST 1 (walfabric_0123456789abcdef", "read"),
            ("\"walfabric_0123456789abcdef", "read"),
            ("walfabric_0123456789abcdef,", "read"),
            ("a-b", "read"),
        ] {
            let said = problem(bad, OWN).unwrap_or_default();
            assert!(said.contains(word), "{bad:?} gave {said:?}");
        }
    }

    #[test]
    fn words_that_look_like_keywords_are_names_without_a_list() {
        let names = |t| parse(t).expect("legal").expect("not empty").names;
        assert_eq!(names("first"), ["first"]);
        assert_eq!(names("any, first"), ["any", "first"]);
        assert_eq!(names("3 (a, \"b\"\"c\", *)"), ["a", "b\"c", "*"]);
    }
}
