//! Rust text as tokens with their lines, so that the content of comments and strings never counts as code.

/// What a token is, as far as the measures tell tokens apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword or an identifier, without `r#`.
    Word,
    /// One sign; `::` is one.
    Sign,
    /// A number, a character or a string.
    Literal,
    /// A lifetime or a label.
    Lifetime,
    /// One line of `///` or `//!`, from its slashes on.
    Doc,
}

/// A piece of Rust text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    /// What kind of piece it is.
    pub(crate) kind: Kind,
    /// How it is written.
    pub(crate) text: &'a str,
    /// The line of its first character, from 1.
    pub(crate) line: usize,
    /// The line of its last character: a string may span several.
    pub(crate) last_line: usize,
}

impl Token<'_> {
    /// Whether it is this sign or this word.
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Sign) && self.text == text
    }

    /// Whether it is a word.
    pub(crate) fn is_word(&self) -> bool {
        self.kind == Kind::Word
    }
}

/// All tokens of a file. Text that is no Rust gives some tokens, never an endless loop.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let (kind, end) = next(bytes, at);
        let end = end.clamp(at + 1, bytes.len());
        let last_line = line + bytes[at..end].iter().filter(|b| **b == b'\n').count();
        if let Some(kind) = kind {
            // A raw identifier is its name.
            let start = if kind == Kind::Word && bytes[at..end].starts_with(b"r#") { at + 2 } else { at };
            found.push(Token { kind, text: text.get(start..end).unwrap_or_default(), line, last_line });
        }
        (at, line) = (end, last_line);
    }
    found
}

/// The kind of what starts at `at`, none for blanks and plain comments, and where it ends.
fn next(bytes: &[u8], at: usize) -> (Option<Kind>, usize) {
    let rest = &bytes[at..];
    let b = rest[0];
    if rest.starts_with(b"//") {
        let end = at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        let is_doc = rest.starts_with(b"//!") || (rest.starts_with(b"///") && !rest.starts_with(b"////"));
        return (is_doc.then_some(Kind::Doc), end);
    }
    if rest.starts_with(b"/*") {
        return (None, block_comment(bytes, at));
    }
    if let Some(end) = string(bytes, at) {
        return (Some(Kind::Literal), end);
    }
    if b == b'\'' {
        return quote(bytes, at);
    }
    if b.is_ascii_digit() {
        return (Some(Kind::Literal), number(bytes, at));
    }
    if is_word_byte(b) {
        let start = if rest.starts_with(b"r#") && rest.get(2).copied().is_some_and(is_word_byte) { at + 2 } else { at };
        return (Some(Kind::Word), word_end(bytes, start));
    }
    match b {
        _ if b.is_ascii_whitespace() => (None, at + 1),
        b':' if rest.starts_with(b"::") => (Some(Kind::Sign), at + 2),
        _ => (Some(Kind::Sign), at + 1),
    }
}

fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

fn word_end(bytes: &[u8], start: usize) -> usize {
    start + bytes[start..].iter().take_while(|b| is_word_byte(**b)).count()
}

fn block_comment(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The end of a string of any kind that starts at `at`, if one does.
fn string(bytes: &[u8], at: usize) -> Option<usize> {
    let prefix = bytes[at..].iter().take_while(|b| matches!(b, b'b' | b'c' | b'r')).take(2).count();
    let raw = bytes[at..at + prefix].contains(&b'r');
    let after = at + prefix;
    let hashes = if raw { bytes[after..].iter().take_while(|b| **b == b'#').count() } else { 0 };
    let open = after + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let mut i = open + 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if !raw => i += 1,
            b'"' if bytes[i + 1..].iter().take(hashes).filter(|b| **b == b'#').count() == hashes => {
                return Some(i + 1 + hashes);
            }
            _ => {}
        }
        i += 1;
    }
    Some(bytes.len())
}

/// A character (`b'x'` arrives here after its `b`, which harms nobody), a lifetime or a label.
fn quote(bytes: &[u8], at: usize) -> (Option<Kind>, usize) {
    if bytes.get(at + 1) == Some(&b'\\') {
        let end = bytes[at + 3..].iter().position(|b| *b == b'\'').map_or(bytes.len(), |n| at + 3 + n + 1);
        return (Some(Kind::Literal), end);
    }
    let width = match bytes.get(at + 1) {
        Some(b) if *b >= 0xf0 => 4,
        Some(b) if *b >= 0xe0 => 3,
        Some(b) if *b >= 0x80 => 2,
        _ => 1,
    };
    if bytes.get(at + 1 + width) == Some(&b'\'') {
        return (Some(Kind::Literal), at + width + 2);
    }
    (Some(Kind::Lifetime), word_end(bytes, at + 1))
}

fn number(bytes: &[u8], at: usize) -> usize {
    let end = word_end(bytes, at);
    let fraction = bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
    if fraction { word_end(bytes, end + 1) } else { end }
}
