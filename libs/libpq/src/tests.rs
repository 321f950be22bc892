//! Our client against our server over real sockets: queries, errors, streams in both directions, bad input.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use proto::pg::frame::{self, put_cstr, put_frame};
use proto::pg::{SqlError, sqlstate, startup};

use super::*;

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);

async fn listener() -> (TcpListener, ConnectOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let options = ConnectOptions {
        host: "127.0.0.1".into(),
        port,
        user: "tester".into(),
        application_name: "unit test".into(),
        options: vec![("tenant_id".into(), "a b".into())],
        ..ConnectOptions::default()
    };
    (listener, options)
}

async fn accept(listener: &TcpListener, auth: &Auth) -> Result<ServerConnection, NetError> {
    let (socket, _) = listener.accept().await.expect("a connection");
    ServerConnection::accept(socket, auth, LIMIT, |_| vec![("server_version".into(), "15.4".into())]).await
}

/// Answers queries until the client leaves: `rows`, `fail`, `copy` (echoes the stream, then is back), else an error.
fn serve(listener: TcpListener, auth: Auth) -> JoinHandle<Result<(), NetError>> {
    tokio::spawn(async move {
        let mut c = accept(&listener, &auth).await?;
        while let Some(query) = c.next_query().await? {
            match query.as_str() {
                "rows" => {
                    let rows = [vec![Some("7".to_owned()), None], vec![Some("8".to_owned()), Some("é".to_owned())]];
                    c.send_rows(&[("n", ColumnType::Int4), ("t", ColumnType::Text)], &rows, "SELECT 2").await?;
                }
                "who" => {
                    let app = c.startup().application_name().to_owned();
                    let tenant = c.startup().option("tenant_id").map(str::to_owned);
                    c.send_rows(&[("a", ColumnType::Text), ("t", ColumnType::Text)], &[vec![Some(app), tenant]], "WHO")
                        .await?;
                }
                "SET x TO y" => c.send_rows(&[], &[], "SET").await?,
                "START_ECHO" => c = echo(c).await?,
                _ => c.send_error(&SqlError::syntax(format!("{query:?} is not known")).with_hint("Try rows.")).await?,
            }
        }
        Ok(())
    })
}

async fn echo(c: ServerConnection) -> Result<ServerConnection, NetError> {
    let (mut reader, mut writer) = c.copy_both().await?;
    loop {
        match reader.next().await? {
            CopyEvent::Data(data) => writer.queue(b"", data),
            CopyEvent::Done => break,
            other => panic!("{other:?}"),
        }
        writer.flush().await?;
    }
    let row = [vec![Some("2".to_owned()), Some("0/1".to_owned())]];
    let columns = [("next_tli", ColumnType::Int8), ("next_tli_startpos", ColumnType::Text)];
    ServerConnection::after_copy_rows(reader, writer, &columns, &row, "START_STREAMING").await
}

#[tokio::test]
async fn queries_errors_and_parameters() {
    let (listener, options) = listener().await;
    let server = serve(listener, Auth::Trust);
    let mut c = ClientConnection::dial(&options).await.expect("it listens");
    assert_eq!(c.parameter("server_version"), Some("15.4"));
    assert_eq!(c.parameter("client_encoding"), Some("UTF8"));
    for _ in 0..2 {
        let r = c.simple_query("rows").await.expect("an answer");
        assert_eq!(
            (r.len(), r[0].tag.as_str(), r[0].columns.as_slice()),
            (1, "SELECT 2", &["n".into(), "t".into()][..])
        );
        assert_eq!(r[0].rows, [vec![Some("7".into()), None], vec![Some("8".into()), Some("é".to_owned())]]);
        let e = c.simple_query("nonsense").await.expect_err("an error");
        let e = e.server_error().expect("from the server");
        assert_eq!((e.code.as_str(), e.hint.as_deref()), (sqlstate::SYNTAX_ERROR, Some("Try rows.")));
    }
    assert_eq!(
        c.simple_query("who").await.expect("an answer")[0].rows[0],
        [Some("unit test".to_owned()), Some("a b".to_owned())]
    );
    assert_eq!(c.simple_query(" ; ").await.expect("an empty query"), [QueryResult::default()]);
    assert_eq!(c.simple_query("SET x TO y").await.expect("an answer")[0].tag, "SET");
    let e = c.copy_both("not a stream").await.err().expect("refused");
    assert_eq!(e.server_error().map(|e| e.code.as_str()), Some(sqlstate::SYNTAX_ERROR));
    server.await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn passwords() {
    for (given, ok) in [(Some("secret"), true), (Some("wrong"), false), (None, false)] {
        let (listener, mut options) = listener().await;
        let server = serve(listener, Auth::Password("secret".into()));
        options.password = given.map(str::to_owned);
        match ClientConnection::dial(&options).await {
            Ok(c) => {
                assert!(ok);
                c.close().await.expect("goodbye");
            }
            Err(e) if given.is_some() => {
                assert!(!ok);
                assert_eq!(e.server_error().map(|e| e.code.as_str()), Some(sqlstate::INVALID_PASSWORD));
            }
            Err(e) => assert!(e.to_string().contains("PGPASSWORD"), "{e}"),
        }
        assert_eq!(server.await.expect("no panic").is_ok(), ok);
    }
}

/// Both directions at full load at once: neither half may wait for the other.
#[tokio::test]
async fn large_payloads_flow_both_ways_at_once() {
    const MESSAGES: usize = 200;
    let (listener, options) = listener().await;
    let pump = |mut reader: CopyReader, mut writer: CopyWriter| async move {
        let sender = tokio::spawn(async move {
            let body = Bytes::from(vec![7u8; 131_072]);
            for i in 0..MESSAGES {
                writer.queue(&(i as u32).to_be_bytes(), body.slice(..131_072 - i));
                writer.flush().await.expect("the peer reads");
            }
            assert_eq!(writer.queued_bytes(), 0);
            writer.queue_done();
            writer.flush().await.expect("the peer reads");
            writer
        });
        let mut seen = 0;
        loop {
            match reader.next().await.expect("a frame") {
                CopyEvent::Data(data) => {
                    assert_eq!(data[..4], (seen as u32).to_be_bytes());
                    assert_eq!(data.len(), 4 + 131_072 - seen);
                    assert!(data[4..].iter().all(|b| *b == 7));
                    seen += 1;
                }
                CopyEvent::Done => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, MESSAGES);
        (reader, sender.await.expect("no panic"))
    };
    let server = tokio::spawn(async move {
        let mut c = accept(&listener, &Auth::Trust).await.expect("a session");
        assert_eq!(c.next_query().await.expect("a query").as_deref(), Some("START_PUMP"));
        let (reader, writer) = c.copy_both().await.expect("a stream");
        let (reader, writer) = pump(reader, writer).await;
        let mut c = ServerConnection::after_copy(reader, writer, "START_STREAMING").await.expect("back to commands");
        assert_eq!(c.next_query().await.expect("a query").as_deref(), Some("last"));
        c.send_rows(&[], &[], "LAST").await.expect("the client reads");
    });
    let c = ClientConnection::dial(&options).await.expect("it listens");
    let (reader, writer) = c.copy_both("START_PUMP").await.expect("a stream");
    let (reader, writer) = timeout(LIMIT, pump(reader, writer)).await.expect("no deadlock");
    let (mut c, results) = ClientConnection::after_copy(reader, writer).await.expect("back to commands");
    assert_eq!(results[0].tag, "START_STREAMING");
    assert_eq!(c.simple_query("last").await.expect("an answer")[0].tag, "LAST");
    server.await.expect("no panic");
}

/// The client's sending direction stalls (its peer does not read); the other direction flows on, and a flush that was
/// given up in the middle loses and repeats nothing.
#[tokio::test]
async fn one_stalled_direction_does_not_stop_the_other() {
    let (listener, options) = listener().await;
    let (resume, resumed) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let mut c = accept(&listener, &Auth::Trust).await.expect("a session");
        c.next_query().await.expect("a query");
        let (mut reader, mut writer) = c.copy_both().await.expect("a stream");
        for i in 0..100u32 {
            writer.queue(&i.to_be_bytes(), Bytes::new());
            writer.flush().await.expect("the client reads");
        }
        resumed.await.expect("the client tells when");
        let mut total = 0;
        while let CopyEvent::Data(data) = reader.next().await.expect("a frame") {
            assert!(data.iter().all(|b| *b == data[0]), "frames are whole and in order");
            assert_eq!(usize::from(data[0]), total % 251);
            total += 1;
        }
        total
    });
    let c = ClientConnection::dial(&options).await.expect("it listens");
    let (mut reader, mut writer) = c.copy_both("START_X").await.expect("a stream");
    let mut sent = 0;
    // More than socket buffers hold.
    while sent < 400 {
        let body = Bytes::from(vec![(sent % 251) as u8; 100_000]);
        writer.queue(&[(sent % 251) as u8], body);
        sent += 1;
        let _ = timeout(Duration::from_millis(1), writer.flush()).await;
    }
    assert!(writer.queued_bytes() > 0, "the direction is stalled");
    for i in 0..100u32 {
        let event = timeout(LIMIT, reader.next()).await.expect("it flows").expect("a frame");
        assert_eq!(event, CopyEvent::Data(Bytes::copy_from_slice(&i.to_be_bytes())));
    }
    assert_eq!(reader.try_next().expect("nothing wrong"), None);
    resume.send(()).expect("the server waits");
    writer.queue_done();
    timeout(LIMIT, writer.flush()).await.expect("it flows again").expect("the peer reads");
    assert_eq!(server.await.expect("no panic"), sent);
}

#[tokio::test]
async fn a_stream_ends_with_rows_and_the_session_goes_on() {
    let (listener, options) = listener().await;
    let server = serve(listener, Auth::Trust);
    let c = ClientConnection::dial(&options).await.expect("it listens");
    let (mut reader, mut writer) = c.copy_both("START_ECHO").await.expect("a stream");
    writer.queue(b"head", Bytes::from_static(b"body"));
    writer.flush().await.expect("the server reads");
    assert_eq!(reader.next().await.expect("a frame"), CopyEvent::Data(Bytes::from_static(b"headbody")));
    let (mut c, results) = ClientConnection::after_copy(reader, writer).await.expect("back to commands");
    assert_eq!(results[0].rows, [[Some("2".to_owned()), Some("0/1".to_owned())]]);
    assert_eq!(results.iter().map(|r| r.tag.as_str()).collect::<Vec<_>>(), ["START_STREAMING"; 2]);
    assert_eq!(c.simple_query("rows").await.expect("an answer").len(), 1);
    drop(c);
    server.await.expect("no panic").expect("an orderly end");
}

#[tokio::test]
async fn errors_of_a_stream_reach_the_other_side() {
    let (listener, options) = listener().await;
    let server = tokio::spawn(async move {
        let mut c = accept(&listener, &Auth::Trust).await.expect("a session");
        c.next_query().await.expect("a query");
        let (mut reader, writer) = c.copy_both().await.expect("a stream");
        let CopyEvent::Fail(text) = reader.next().await.expect("a frame") else { panic!("CopyFail was sent") };
        let error = SqlError::from_copy_fail(&text);
        writer.close_with(reader, &SqlError::fatal(sqlstate::PREEMPTED, "taken over")).await.expect("it is read");
        error
    });
    let c = ClientConnection::dial(&options).await.expect("it listens");
    let (mut reader, mut writer) = c.copy_both("START_X").await.expect("a stream");
    writer.queue_error(&SqlError::new(sqlstate::STALE_TERM, "term 5 is known"));
    writer.flush().await.expect("the server reads");
    let CopyEvent::Error(e) = reader.next().await.expect("a frame") else { panic!("an error was sent") };
    assert_eq!((e.code.as_str(), e.severity), (sqlstate::PREEMPTED, "FATAL"));
    assert_eq!(reader.next().await.expect("the end"), CopyEvent::Closed);
    drop((reader, writer));
    assert_eq!(server.await.expect("no panic").code, sqlstate::STALE_TERM);
}

/// Sends `bytes` to a server and returns all that it says, until it closes.
async fn say(bytes: &[u8]) -> (Vec<u8>, Result<(), NetError>) {
    let (listener, options) = listener().await;
    let server = serve(listener, Auth::Trust);
    let mut socket = TcpStream::connect(("127.0.0.1", options.port)).await.expect("it listens");
    socket.write_all(bytes).await.expect("it reads");
    let mut answer = Vec::new();
    timeout(LIMIT, socket.read_to_end(&mut answer)).await.expect("it closes").expect("without a reset");
    // The server lingers until we close too.
    drop(socket);
    (answer, server.await.expect("no panic"))
}

fn contains(answer: &[u8], text: &str) -> bool {
    answer.windows(text.len()).any(|w| w == text.as_bytes())
}

fn startup_bytes() -> BytesMut {
    let mut out = BytesMut::new();
    startup::put_startup(&mut out, [("user", "u")].into_iter());
    out
}

#[tokio::test]
async fn garbage_and_oversized_frames_are_refused_with_a_code() {
    let too_long = 10_001u32.to_be_bytes();
    let old = [0, 0, 0, 8, 0, 2, 0, 0];
    let cancel = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2];
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &too_long, &old] {
        let (answer, result) = say(bytes).await;
        assert!(answer[0] == b'E' && contains(&answer, "C08P01\0"), "{answer:?}");
        assert!(matches!(result, Err(NetError::Protocol { .. })));
    }
    let (answer, _) = say(&cancel).await;
    assert!(contains(&answer, "C0A000\0"), "{answer:?}");
    let frames: [&[u8]; 5] = [b"Q\x7f\xff\xff\xff", b"Q\0\0\0\x02", b"~\0\0\0\x04", b"D\0\0\0\x04", b"P\0\0\0\x06a\0"];
    for frame in frames {
        let mut bytes = startup_bytes();
        bytes.extend_from_slice(frame);
        // More than the server reads: its refusal must still arrive.
        bytes.extend_from_slice(&[b'x'; 50_000]);
        let (answer, result) = say(&bytes).await;
        assert!(contains(&answer, "C08P01\0"), "{frame:?}: {answer:?}");
        assert!(matches!(result, Err(NetError::Protocol { .. })), "{result:?}");
    }
}

#[tokio::test]
async fn encryption_requests_are_refused_and_the_session_starts() {
    let mut bytes = BytesMut::from(&[0, 0, 0, 8, 4, 210, 22, 48, 0, 0, 0, 8, 4, 210, 22, 47][..]);
    bytes.extend_from_slice(&startup_bytes());
    put_frame(&mut bytes, b'X', |_| {});
    let (answer, result) = say(&bytes).await;
    assert_eq!(answer[..3], *b"NNR");
    result.expect("an orderly end");
}

#[tokio::test]
async fn extended_protocol_carries_the_same_statements() {
    let mut bytes = startup_bytes();
    put_frame(&mut bytes, b'P', |out| {
        put_cstr(out, "s");
        put_cstr(out, "rows");
        out.extend_from_slice(&[0, 0]);
    });
    put_frame(&mut bytes, b'D', |out| out.extend_from_slice(b"Ss\0"));
    for binary in [0, 1] {
        put_frame(&mut bytes, b'B', |out| {
            out.extend_from_slice(b"\0s\0");
            out.extend_from_slice(&[0, 0, 0, 0, 0, 1, 0, binary]);
        });
        put_frame(&mut bytes, b'E', |out| out.extend_from_slice(b"\0\0\0\0\0"));
        put_frame(&mut bytes, b'S', |_| {});
    }
    // Unknown statement: error, then everything up to Sync is dropped.
    put_frame(&mut bytes, b'B', |out| out.extend_from_slice(b"\0nope\0\0\0\0\0\0\0"));
    put_frame(&mut bytes, b'E', |out| out.extend_from_slice(b"\0\0\0\0\0"));
    put_frame(&mut bytes, b'S', |_| {});
    put_frame(&mut bytes, b'X', |_| {});
    let (answer, result) = say(&bytes).await;
    result.expect("an orderly end");
    let mut rest = BytesMut::from(&answer[..]);
    let mut tags = String::new();
    let mut rows = Vec::new();
    while let Ok(Ok(frame)) = frame::take_frame(&mut rest, frame::FROM_SERVER) {
        tags.push(char::from(frame.tag));
        if frame.tag == b'D' {
            rows.push(frame.body.to_vec());
        }
    }
    assert_eq!(tags.trim_start_matches(['R', 'S']), "Z1tT2DDCZ2DDCZEZ");
    assert_eq!(rows[0], [0, 2, 0, 0, 0, 1, b'7', 255, 255, 255, 255], "text");
    assert_eq!(rows[2], [0, 2, 0, 0, 0, 4, 0, 0, 0, 7, 255, 255, 255, 255], "binary");
}

#[tokio::test]
async fn garbage_inside_a_stream_is_an_error_for_its_owner() {
    for bytes in [&b"d\x01\0\0\x05"[..], b"y\0\0\0\x04", b"d\0\0\0\x01"] {
        let (listener, options) = listener().await;
        let server = tokio::spawn(async move {
            let mut c = accept(&listener, &Auth::Trust).await.expect("a session");
            c.next_query().await.expect("a query");
            let (mut reader, _writer) = c.copy_both().await.expect("a stream");
            reader.next().await
        });
        let mut socket = TcpStream::connect(("127.0.0.1", options.port)).await.expect("it listens");
        let mut all = startup_bytes();
        put_frame(&mut all, b'Q', |out| put_cstr(out, "START_X"));
        all.extend_from_slice(bytes);
        socket.write_all(&all).await.expect("it reads");
        let end = timeout(LIMIT, server).await.expect("at once").expect("no panic");
        assert!(matches!(end, Err(NetError::Protocol { .. })), "{end:?}");
    }
}

#[tokio::test]
async fn silence_and_half_messages() {
    let (listener, options) = listener().await;
    let (socket, accepted) = tokio::join!(TcpStream::connect(("127.0.0.1", options.port)), listener.accept());
    let (mut socket, (accepted, _)) = (socket.expect("it listens"), accepted.expect("a connection"));
    let wait = Duration::from_millis(20);
    let silent = ServerConnection::accept(accepted, &Auth::Trust, wait, |_| Vec::new()).await;
    assert!(matches!(silent, Err(NetError::Timeout { .. })));
    let _ = socket.write_all(b"x").await;
    let (answer, result) = {
        let mut bytes = startup_bytes();
        bytes.extend_from_slice(b"Q\0\0\0\x10abc");
        let (listener, options) = self::listener().await;
        let server = serve(listener, Auth::Trust);
        let mut socket = TcpStream::connect(("127.0.0.1", options.port)).await.expect("it listens");
        socket.write_all(&bytes).await.expect("it reads");
        socket.shutdown().await.expect("half closed");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.expect("the end");
        (answer, server.await.expect("no panic"))
    };
    assert!(!answer.is_empty() && matches!(result, Err(NetError::Io { .. })), "{result:?}");
}
