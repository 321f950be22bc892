//! Client side of authentication, pure: clear text, MD5, SCRAM-SHA-256 (without channel binding, as there is no TLS).

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ChannelBinding, ScramSha256};

use proto::pg::frame::{put_cstr, take_cstr};

/// The problem when the server wants a password and there is none; whoever dials knows where one may come from.
pub(crate) const NO_PASSWORD: &str = "a password is asked for, and there is none";

/// What to do next.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum AuthStep {
    /// The server is content (AuthenticationOk): its parameters and ReadyForQuery follow.
    Done,
    /// Nothing to send; the server goes on.
    Wait,
    /// Send this as body of a password message.
    Answer(Bytes),
}

/// The client's side of one authentication.
pub(crate) struct Exchange<'a> {
    user: &'a str,
    password: Option<&'a str>,
    scram: Option<ScramSha256>,
}

impl<'a> Exchange<'a> {
    pub(crate) fn new(user: &'a str, password: Option<&'a str>) -> Exchange<'a> {
        Exchange { user, password, scram: None }
    }

    /// Takes the body of an authentication request.
    pub(crate) fn step(&mut self, mut body: Bytes) -> Result<AuthStep, String> {
        let kind = body.try_get_u32().map_err(|_| "malformed authentication request".to_owned())?;
        match kind {
            0 => Ok(AuthStep::Done),
            3 => Ok(answer(self.password()?)),
            5 => {
                let salt: [u8; 4] = body[..].try_into().map_err(|_| "malformed MD5 salt".to_owned())?;
                Ok(answer(&md5_hash(self.user.as_bytes(), self.password()?.as_bytes(), salt)))
            }
            10 => self.scram_start(body),
            11 => {
                let scram = self.scram.as_mut().ok_or("SASL goes on without a start")?;
                scram.update(&body).map_err(|e| format!("SCRAM: {e}"))?;
                Ok(AuthStep::Answer(Bytes::copy_from_slice(scram.message())))
            }
            12 => {
                let scram = self.scram.as_mut().ok_or("SASL ends without a start")?;
                scram.finish(&body).map_err(|e| format!("SCRAM: the server does not know the password: {e}"))?;
                Ok(AuthStep::Wait)
            }
            other => Err(format!("authentication method {other} is not spoken here")),
        }
    }

    fn scram_start(&mut self, mut body: Bytes) -> Result<AuthStep, String> {
        let mut offered = Vec::new();
        while let Some(name) = take_cstr(&mut body).filter(|n| !n.is_empty()) {
            offered.push(name);
        }
        if !offered.iter().any(|m| m == sasl::SCRAM_SHA_256) {
            return Err(format!("none of the offered SASL mechanisms {offered:?} is spoken here"));
        }
        let scram = ScramSha256::new(self.password()?.as_bytes(), ChannelBinding::unsupported());
        let mut out = BytesMut::new();
        put_cstr(&mut out, sasl::SCRAM_SHA_256);
        let message = scram.message();
        let len = i32::try_from(message.len()).map_err(|_| "SCRAM message too long".to_owned())?;
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(message);
        self.scram = Some(scram);
        Ok(AuthStep::Answer(out.freeze()))
    }

    fn password(&self) -> Result<&'a str, String> {
        self.password.ok_or_else(|| NO_PASSWORD.to_owned())
    }
}

fn answer(password: &str) -> AuthStep {
    let mut out = BytesMut::new();
    put_cstr(&mut out, password);
    AuthStep::Answer(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: u32, rest: &[u8]) -> Bytes {
        let mut body = kind.to_be_bytes().to_vec();
        body.extend_from_slice(rest);
        Bytes::from(body)
    }

    #[test]
    fn trust_clear_text_and_md5() {
        let mut exchange = Exchange::new("md5_user", Some("password"));
        assert_eq!(exchange.step(request(0, &[])), Ok(AuthStep::Done));
        assert_eq!(exchange.step(request(3, &[])), Ok(AuthStep::Answer(Bytes::from_static(b"password\0"))));
        let hash = b"md562af4dd09bbb41884907a838a3233294\0";
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        assert_eq!(exchange.step(request(5, &salt)), Ok(AuthStep::Answer(Bytes::from_static(hash))));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        assert!(Exchange::new("u", None).step(request(3, &[])).is_err(), "no password");
        let mut exchange = Exchange::new("u", Some("p"));
        for bad in [request(7, &[]), request(5, &[1]), request(11, &[]), request(10, b"OTHER\0\0"), Bytes::new()] {
            assert!(exchange.step(bad).is_err());
        }
        assert!(matches!(exchange.step(request(10, b"SCRAM-SHA-256\0\0")), Ok(AuthStep::Answer(_))));
        assert!(exchange.step(request(12, b"v=AAAA")).is_err(), "a server that did not prove anything");
    }
}
