//! Grammar of connection strings: `key=value` pairs and URLs.
//!
//! A quoting mistake splits a password into words. So errors here repeat only names of keywords, and only names that
//! cannot be such a word.

use super::keywords;

/// One setting of a connection string, in the order given; a later one wins.
pub(super) type Pair = (String, String);

/// Reads either form.
///
/// # Errors
/// What is wrong, without any value.
pub(super) fn parse(text: &str) -> Result<Vec<Pair>, String> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => parse_url(rest),
        None => parse_pairs(text),
    }
}

/// `key = value` pairs; values may stand in single quotes, a backslash takes the next character as it is.
///
/// Source: PostgreSQL 15, `conninfo_parse` in `fe-connect.c`.
fn parse_pairs(text: &str) -> Result<Vec<Pair>, String> {
    let mut pairs: Vec<Pair> = Vec::new();
    // The previous keyword, when its value had no quotes: part of that value may follow.
    let mut torn: Option<String> = None;
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err(match pairs.last() {
                Some((last, _)) => format!("a word without = stands after {last}: a value with blanks needs quotes"),
                None => "it begins with a word that is neither key=value nor postgresql://".to_owned(),
            });
        }
        keywords::check_known(&key, torn.as_deref())?;
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                None if quoted => return Err(format!("the quote of {key} is not closed")),
                Some('\'') if quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None => break,
            }
        }
        torn = (!quoted).then(|| key.clone());
        pairs.push((key, value));
    }
}

/// Reads what follows the scheme: `[user[:password]@][host][:port][/dbname][?key=value&...]`, percent-encoded.
fn parse_url(rest: &str) -> Result<Vec<Pair>, String> {
    const ADVICE: &str = "@ : / ? # % in a name or password are written %40 %3A %2F %3F %23 %25";
    let mut pairs = Vec::new();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    // A password with an unescaped slash or question mark would end up here.
    if dbname.contains('@') || query.contains('@') && !authority.contains('@') {
        return Err(format!("an @ stands behind the host's part: {ADVICE}"));
    }
    let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (host, port) = if let Some(v6) = address.strip_prefix('[') {
        let (host, after) = v6.split_once(']').ok_or("] is missing after an IPv6 address")?;
        match after.strip_prefix(':') {
            Some(port) => (host, port),
            None if after.is_empty() => (host, ""),
            None => return Err("only :port may stand after ] of an IPv6 address".to_owned()),
        }
    } else {
        address.split_once(':').unwrap_or((address, ""))
    };
    for (key, value) in [("user", user), ("password", password), ("host", host), ("port", port), ("dbname", dbname)] {
        if !value.is_empty() {
            let decoded = percent_decode(value).map_err(|problem| format!("{key} {problem}; {ADVICE}"))?;
            pairs.push((key.to_owned(), decoded));
        }
    }
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let bad = |problem: &str| format!("the part after ? {problem}; {ADVICE}");
        let (key, value) = pair.split_once('=').ok_or_else(|| bad("has a word without ="))?;
        let key = percent_decode(key).map_err(|p| bad(&p))?;
        // Users of the JDBC driver write this.
        if key == "ssl" && value == "true" {
            pairs.push(("sslmode".to_owned(), "require".to_owned()));
            continue;
        }
        keywords::check_known(&key, None)?;
        let value = percent_decode(value).map_err(|problem| format!("{key} {problem}; {ADVICE}"))?;
        pairs.push((key, value));
    }
    Ok(pairs)
}

fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok()).filter(|d| !d.starts_with('+'));
        let byte = digits.and_then(|d| u8::from_str_radix(d, 16).ok()).filter(|b| *b != 0);
        bytes.push(byte.ok_or("has a % without two hexadecimal digits")?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 after decoding".to_owned())
}

/// `key='value'`, so that [`parse`] gives the value back.
pub(super) fn quoted(key: &str, value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return format!("{key}={value}");
    }
    let mut text = format!("{key}='");
    for c in value.chars() {
        if c == '\'' || c == '\\' {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('\'');
    text
}
