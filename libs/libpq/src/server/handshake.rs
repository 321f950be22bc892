//! Start-up of an accepted session, and its refusal.

use std::sync::Arc;

use super::options::Auth;
use super::statements::put_ready;
use crate::error::NetError;
use crate::link::{Incoming, Outgoing, RecvError};
use crate::socket::linger;
use proto::pg::frame::{FROM_CLIENT, Frame, put_cstr, put_error, put_frame, take_cstr};
use proto::pg::startup::{FirstPacket, StartupParams, packet_len, parse_first};
use proto::pg::{SqlError, sqlstate};

/// Encryption requests answered before a session must start (SSL and GSS, each once).
const NEGOTIATIONS_MAX: usize = 2;

/// Why a session is ended by us, and what the peer is told.
pub(super) struct SessionRefusal {
    /// `None`: nothing can or need be told.
    pub(super) tell: Option<SqlError>,
    pub(super) error: NetError,
}

impl SessionRefusal {
    pub(super) fn new(peer: &str, tell: SqlError) -> SessionRefusal {
        SessionRefusal { error: NetError::protocol(peer, tell.message.clone()), tell: Some(tell) }
    }

    pub(super) fn from_recv(error: RecvError, peer: &str) -> SessionRefusal {
        let tell = match &error {
            RecvError::Frame(e) => Some(SqlError::protocol_violation(e.to_string())),
            RecvError::Io(_) | RecvError::Torn => None,
        };
        SessionRefusal { tell, error: error.at(peer) }
    }

    pub(super) async fn tell(self, incoming: &mut Incoming, mut outgoing: Outgoing) -> NetError {
        if let Some(tell) = self.tell {
            outgoing.put(|out| put_error(out, &tell));
            // The session is over either way; the first error is the one to report.
            let _ = linger(incoming, outgoing).await;
        }
        self.error
    }
}

impl From<NetError> for SessionRefusal {
    fn from(error: NetError) -> SessionRefusal {
        SessionRefusal { tell: None, error }
    }
}

pub(super) async fn first_packets(
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
) -> Result<StartupParams, SessionRefusal> {
    let peer: Arc<str> = Arc::from(incoming.peer());
    let violation = |problem: String| SessionRefusal::new(&peer, SqlError::protocol_violation(problem));
    let read = |e: RecvError| SessionRefusal::from_recv(e, &peer);
    let gone = || SessionRefusal::from(NetError::closed(&peer));
    for _ in 0..=NEGOTIATIONS_MAX {
        let head = incoming.exactly(4).await.map_err(read)?.ok_or_else(gone)?;
        let len = packet_len([head[0], head[1], head[2], head[3]]).map_err(violation)?;
        let packet = incoming.exactly(len - 4).await.map_err(read)?.ok_or_else(gone)?;
        match parse_first(packet).map_err(violation)? {
            FirstPacket::Startup(startup) => return Ok(startup),
            FirstPacket::Ssl | FirstPacket::Gss => {
                outgoing.put(|out| out.extend_from_slice(b"N"));
                outgoing.flush().await?;
            }
            FirstPacket::Cancel => {
                let error = SqlError::unsupported("cancel requests are not served here; end the session instead");
                return Err(SessionRefusal::new(&peer, SqlError { severity: "FATAL", ..error }));
            }
        }
    }
    Err(violation("a session must start after its encryption requests were refused".to_owned()))
}

pub(super) async fn authenticate(
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
    auth: &Auth,
) -> Result<(), SessionRefusal> {
    let Auth::Password(expected) = auth else { return Ok(()) };
    let peer: Arc<str> = Arc::from(incoming.peer());
    outgoing.put(|out| put_frame(out, b'R', |out| out.extend_from_slice(&3u32.to_be_bytes())));
    outgoing.flush().await?;
    let frame = incoming.frame(FROM_CLIENT).await.map_err(|e| SessionRefusal::from_recv(e, &peer))?;
    match frame {
        Some(Frame { tag: b'p', mut body }) => {
            let given = take_cstr(&mut body).unwrap_or_default();
            if same_secret(given.as_bytes(), expected.as_bytes()) {
                return Ok(());
            }
            Err(SessionRefusal::new(&peer, SqlError::fatal(sqlstate::INVALID_PASSWORD, "the password is wrong")))
        }
        Some(_) => Err(SessionRefusal::new(&peer, SqlError::protocol_violation("a password was asked for"))),
        None => Err(NetError::closed(&peer).into()),
    }
}

/// Compares without an early end, so that the time taken tells nothing about the secret's bytes.
fn same_secret(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

/// AuthenticationOk, parameters, ReadyForQuery. What `extra` does not set and clients rely on has a default here.
pub(super) fn welcome(outgoing: &mut Outgoing, extra: Vec<(String, String)>) {
    let defaults = [
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
    ];
    let unset = defaults.iter().filter(|(n, _)| !extra.iter().any(|(e, _)| e == n));
    outgoing.put(|out| {
        put_frame(out, b'R', |out| out.extend_from_slice(&0u32.to_be_bytes()));
        for (name, value) in unset.copied().chain(extra.iter().map(|(n, v)| (n.as_str(), v.as_str()))) {
            put_frame(out, b'S', |out| {
                put_cstr(out, name);
                put_cstr(out, value);
            });
        }
        put_ready(out);
    });
}
