//! The first packet of a session and the `options` grammar, pure.
//!
//! `options` is split at white space that no backslash precedes; then backslashes are removed. A bare `-c` is skipped,
//! and `-c` or `--` in front of a token is dropped. Every other token is `key=value`, and the last value of a key wins.
//! Other tokens are ignored.

use std::collections::HashMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame::{put_cstr, take_cstr};

/// Longest first packet, in bytes, its length included.
pub const STARTUP_PACKET_MAX: usize = 10_000;

const PROTOCOL_MAJOR: u32 = 3;
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// The first packet of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FirstPacket {
    /// Asks for TLS.
    Ssl,
    /// Asks for GSS encryption.
    Gss,
    /// Asks to cancel another session's command.
    Cancel,
    /// Starts a session.
    Startup(StartupParams),
}

/// What an accepted session said at start-up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StartupParams {
    /// All startup parameters, `options` included.
    pub parameters: HashMap<String, String>,
    /// The parsed `options`: key to value, later ones win. See `docs/protocol.md` for the grammar.
    pub options: HashMap<String, String>,
}

impl StartupParams {
    /// An option, also by its old name with a `z` in front (`ztenant_id` is written `ztenantid`).
    pub fn option(&self, name: &str) -> Option<&str> {
        let old = match name {
            "tenant_id" => "ztenantid",
            "timeline_id" => "ztimelineid",
            _ => return self.options.get(name).map(String::as_str),
        };
        self.options.get(name).or_else(|| self.options.get(old)).map(String::as_str)
    }

    /// `application_name`, empty when not given.
    pub fn application_name(&self) -> &str {
        self.parameters.get("application_name").map_or("", String::as_str)
    }
}

/// Length of the first packet, from its first four bytes.
///
/// # Errors
/// Text for the peer when the length is impossible.
pub fn packet_len(first: [u8; 4]) -> Result<usize, String> {
    let len = u32::from_be_bytes(first) as usize;
    if (8..=STARTUP_PACKET_MAX).contains(&len) {
        return Ok(len);
    }
    Err(format!("invalid length of the startup packet: {len}, expected 8 to {STARTUP_PACKET_MAX}"))
}

/// Reads the first packet without its length.
///
/// # Errors
/// Text for the peer.
pub fn parse_first(mut packet: Bytes) -> Result<FirstPacket, String> {
    let code = packet.try_get_u32().map_err(|_| "the startup packet is too short".to_owned())?;
    match code {
        SSL => return Ok(FirstPacket::Ssl),
        GSS => return Ok(FirstPacket::Gss),
        CANCEL => return Ok(FirstPacket::Cancel),
        _ if code >> 16 != PROTOCOL_MAJOR => {
            return Err(format!("protocol {}.{} is not spoken here, 3.0 is", code >> 16, code & 0xFFFF));
        }
        _ => {}
    }
    let mut parameters = HashMap::new();
    loop {
        let name = take_cstr(&mut packet).ok_or("the startup packet is not terminated")?;
        if name.is_empty() {
            break;
        }
        let value = take_cstr(&mut packet).ok_or("the startup packet is not terminated")?;
        parameters.insert(name, value);
    }
    let options = parameters.get("options").map_or_else(HashMap::new, |o| parse_options(o));
    Ok(FirstPacket::Startup(StartupParams { parameters, options }))
}

/// Whether `text` holds nothing but settings, so that [`parse_options`] loses nothing of it.
pub fn are_settings(text: &str) -> bool {
    option_words(text).iter().all(|word| word.is_empty() || word == "-c" || word.contains('='))
}

/// Reads the startup parameter `options`.
pub fn parse_options(text: &str) -> HashMap<String, String> {
    let mut options = HashMap::new();
    for token in &option_words(text) {
        let token = token.strip_prefix("--").or_else(|| token.strip_prefix("-c")).unwrap_or(token);
        if let Some((key, value)) = token.split_once('=') {
            options.insert(key.to_owned(), value.to_owned());
        }
    }
    options
}

fn option_words(text: &str) -> Vec<String> {
    let mut tokens = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = tokens.last_mut().expect("it starts with one token and only grows");
        match c {
            '\\' => last.extend(chars.next()),
            c if c.is_whitespace() => tokens.push(String::new()),
            c => last.push(c),
        }
    }
    tokens
}

/// Writes `options`, the inverse of [`parse_options`].
pub fn format_options(options: &[(String, String)]) -> String {
    let mut text = String::new();
    for (key, value) in options {
        let space = if text.is_empty() { "" } else { " " };
        text.push_str(space);
        text.push_str("-c ");
        for c in key.chars().chain(['=']).chain(value.chars()) {
            if c.is_whitespace() || c == '\\' {
                text.push('\\');
            }
            text.push(c);
        }
    }
    text
}

/// Appends a StartupMessage of protocol 3.0.
pub fn put_startup<'a>(out: &mut BytesMut, parameters: impl Iterator<Item = (&'a str, &'a str)>) {
    let at = out.len();
    out.put_u32(0);
    out.put_u32(PROTOCOL_MAJOR << 16);
    for (name, value) in parameters {
        put_cstr(out, name);
        put_cstr(out, value);
    }
    out.put_u8(0);
    let len = u32::try_from(out.len() - at).expect("startup packets are short");
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn options_grammar() {
        assert_eq!(parse_options("-c timeline_id=a tenant_id=b"), map(&[("timeline_id", "a"), ("tenant_id", "b")]));
        assert_eq!(parse_options("-c a=b -c c=d -ce=f --g=h"), map(&[("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]));
        assert_eq!(parse_options(r"a=b\ c d=\\ junk a=z  "), map(&[("a", "z"), ("d", "\\")]));
        assert_eq!(parse_options(r#"protocol={"type":"vanilla"}"#), map(&[("protocol", r#"{"type":"vanilla"}"#)]));
        assert_eq!(parse_options("\\"), map(&[]));
    }

    #[test]
    fn old_option_names_are_understood() {
        let params = StartupParams { options: parse_options("ztenantid=1 ztimelineid=2 x=3"), ..Default::default() };
        assert_eq!((params.option("tenant_id"), params.option("timeline_id")), (Some("1"), Some("2")));
        assert_eq!((params.option("x"), params.option("y")), (Some("3"), None));
    }

    #[test]
    fn packets_of_every_kind() {
        let code = |n: u32| parse_first(Bytes::copy_from_slice(&n.to_be_bytes()));
        assert_eq!(code(80_877_103), Ok(FirstPacket::Ssl));
        assert_eq!(code(80_877_104), Ok(FirstPacket::Gss));
        assert_eq!(code(80_877_102), Ok(FirstPacket::Cancel));
        assert!(code(2 << 16).is_err(), "protocol 2");
        assert!(code(3 << 16).is_err(), "not terminated");
        assert!(packet_len(*b"GET ").is_err() && packet_len([0, 0, 0, 7]).is_err());
        let mut out = BytesMut::new();
        put_startup(&mut out, [("user", "u"), ("options", "-c a=b")].into_iter());
        assert_eq!(packet_len([out[0], out[1], out[2], out[3]]), Ok(out.len()));
        let Ok(FirstPacket::Startup(params)) = parse_first(out.freeze().slice(4..)) else { panic!("a startup packet") };
        assert_eq!(params.parameters["user"], "u");
        assert_eq!(params.option("a"), Some("b"));
    }

    proptest::proptest! {
        #[test]
        fn options_survive(pairs in proptest::collection::hash_map("[a-z_]{1,8}", "\\PC{0,12}", 0..5)) {
            let pairs: Vec<(String, String)> = pairs.into_iter().collect();
            let want: HashMap<String, String> = pairs.iter().cloned().collect();
            proptest::prop_assert_eq!(parse_options(&format_options(&pairs)), want);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse_first(Bytes::from(bytes.clone()));
            let mut started = vec![0, 3, 0, 0];
            started.extend(bytes);
            let _ = parse_first(Bytes::from(started));
        }
    }
}
