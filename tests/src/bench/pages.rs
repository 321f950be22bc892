//! Clients that read one page after the other, in the same way on both sides: blocking sockets, one request in flight.
//!
//! The pageserver answers on a pagestream (version 3), PostgreSQL by a prepared `get_raw_page()` with a binary result.
//! Both replies have 8 KiB; the caller may compare them.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use pgformat::Lsn;
use pgformat::page::PAGE_SIZE;
use pgformat::rel::{BlockTag, RelFork};
use proto::pagestream::{Ask, PagestreamVersion, Reply, Request};

/// An answer takes microseconds; a minute is a hang.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Oid of `bytea`'s sender is not needed: 1 asks for binary.
const BINARY: i16 = 1;

/// A connection in libpq's protocol.
struct Wire {
    stream: BufReader<TcpStream>,
    out: BytesMut,
}

impl Wire {
    fn connect(address: &str, parameters: &[(&str, &str)]) -> Result<Wire> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let mut wire = Wire { stream: BufReader::with_capacity(1 << 16, stream), out: BytesMut::new() };
        let mut startup = BytesMut::new();
        startup.put_i32(196_608);
        for (name, value) in parameters {
            startup.put_slice(format!("{name}\0{value}\0").as_bytes());
        }
        startup.put_u8(0);
        wire.out.put_u32(u32::try_from(startup.len() + 4)?);
        wire.out.put_slice(&startup);
        wire.flush()?;
        wire.until(b'Z')?;
        Ok(wire)
    }

    fn queue(&mut self, tag: u8, body: &[u8]) {
        self.out.put_u8(tag);
        self.out.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
        self.out.put_slice(body);
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.get_mut().write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }

    fn next(&mut self) -> Result<(u8, Bytes)> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; len.checked_sub(4).context("a message has its length")?];
        self.stream.read_exact(&mut body)?;
        if head[0] == b'E' {
            bail!("{}", String::from_utf8_lossy(&body).replace('\0', " "));
        }
        Ok((head[0], body.into()))
    }

    /// Reads up to and with the message of that tag; gives its body.
    fn until(&mut self, tag: u8) -> Result<Bytes> {
        loop {
            let (found, body) = self.next()?;
            if found == tag {
                return Ok(body);
            }
        }
    }
}

/// Whoever is asked for pages.
pub trait Asked: Send {
    /// The page's 8 KiB.
    ///
    /// # Errors
    /// With what the server said.
    fn page(&mut self, blk: u32) -> Result<Bytes>;
}

/// A pagestream.
pub struct Pagestream {
    wire: Wire,
    fork: RelFork,
    since: Lsn,
    id: u64,
}

impl Pagestream {
    /// Pages of `fork`, the latest ones, which did not change after `since`.
    ///
    /// # Errors
    /// When the pageserver at `address` does not serve the timeline.
    pub fn open(address: &str, timeline: &str, fork: RelFork, since: Lsn) -> Result<Pagestream> {
        let mut wire = Wire::connect(address, &[("user", "bench")])?;
        wire.queue(b'Q', format!("pagestream_v3 {timeline}\0").as_bytes());
        wire.flush()?;
        wire.until(b'W')?;
        Ok(Pagestream { wire, fork, since, id: 0 })
    }
}

impl Asked for Pagestream {
    fn page(&mut self, blk: u32) -> Result<Bytes> {
        self.id += 1;
        let ask = Ask::Page(BlockTag { fork: self.fork, blk });
        let request = Request { id: self.id, lsn: Lsn::MAX, not_modified_since: self.since, ask };
        self.wire.queue(b'd', &request.encode(PagestreamVersion::V3));
        self.wire.flush()?;
        match Reply::decode(PagestreamVersion::V3, self.wire.until(b'd')?, &request)? {
            Reply::Page(page) => Ok(page),
            other => bail!("block {blk}: {other:?}"),
        }
    }
}

/// A session of PostgreSQL with a prepared `get_raw_page`.
pub struct RawPages {
    wire: Wire,
}

impl RawPages {
    /// Pages of the main fork of `relation`.
    ///
    /// # Errors
    /// When PostgreSQL does not have it, or not the extension `pageinspect`.
    pub fn open(address: &str, relation: &str) -> Result<RawPages> {
        let mut wire = Wire::connect(address, &[("user", "postgres"), ("database", "postgres")])?;
        let query = format!("p\0SELECT get_raw_page('{relation}', 'main', $1)\0");
        wire.queue(b'P', &[query.as_bytes(), &1i16.to_be_bytes(), &20i32.to_be_bytes()].concat());
        wire.queue(b'S', &[]);
        wire.flush()?;
        wire.until(b'Z')?;
        Ok(RawPages { wire })
    }
}

impl Asked for RawPages {
    fn page(&mut self, blk: u32) -> Result<Bytes> {
        let mut bind = BytesMut::new();
        bind.put_slice(b"\0p\0");
        // One format for all parameters, one parameter: eight bytes; one format for the result.
        [1, BINARY, 1].into_iter().for_each(|n| bind.put_i16(n));
        bind.put_i32(8);
        bind.put_i64(blk.into());
        [1, BINARY].into_iter().for_each(|n| bind.put_i16(n));
        self.wire.queue(b'B', &bind);
        self.wire.queue(b'E', &[0; 5]);
        self.wire.queue(b'S', &[]);
        self.wire.flush()?;
        let mut row = self.wire.until(b'D')?;
        self.wire.until(b'Z')?;
        // Number of columns, then the length of the only one.
        ensure!(row.len() == 6 + PAGE_SIZE, "a page of {} bytes", row.len());
        Ok(row.split_off(6))
    }
}

/// A server that sends a page for every request and does nothing else, with a thread for each client: what sockets and
/// scheduler take alone.
pub struct Bare {
    stream: BufReader<TcpStream>,
}

/// Bytes of a request: about those of a pagestream's.
const BARE_REQUEST: usize = 64;
/// Head of its reply, as libpq has one.
const BARE_HEAD: usize = 5;

impl Bare {
    /// Starts a server; gives its address.
    ///
    /// # Errors
    /// When there is no port.
    pub fn serve() -> Result<String> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?.to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || Bare::answer(stream));
            }
        });
        Ok(address)
    }

    fn answer(mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut request, reply) = ([0; BARE_REQUEST], [7; BARE_HEAD + PAGE_SIZE]);
        loop {
            stream.read_exact(&mut request)?;
            stream.write_all(&reply)?;
        }
    }

    /// Connects to a server of [`Bare::serve`].
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(address: &str) -> Result<Bare> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Bare { stream: BufReader::with_capacity(1 << 16, stream) })
    }
}

impl Asked for Bare {
    fn page(&mut self, _: u32) -> Result<Bytes> {
        self.stream.get_mut().write_all(&[0; BARE_REQUEST])?;
        let mut reply = vec![0; BARE_HEAD + PAGE_SIZE];
        self.stream.read_exact(&mut reply)?;
        Ok(Bytes::from(reply).split_off(BARE_HEAD))
    }
}

/// Asks for `blocks` in turn until `seconds` are over; gives nanoseconds of each request.
///
/// # Errors
/// With what the server said.
pub fn ask(asked: &mut dyn Asked, blocks: &[u32], seconds: f64) -> Result<Vec<u64>> {
    let (began, mut latencies) = (Instant::now(), Vec::new());
    for blk in blocks.iter().cycle() {
        let asked_at = Instant::now();
        std::hint::black_box(asked.page(*blk)?);
        let now = Instant::now();
        latencies.push(u64::try_from((now - asked_at).as_nanos())?);
        if (now - began).as_secs_f64() >= seconds {
            break;
        }
    }
    Ok(latencies)
}
