//! The public test server: the bytes that it sends, how its connections end, what it records, and its limits.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use holysheep::test_server::{
    MAX_BODY, MAX_HEAD, Reply, Request, Server, cut_after, hang_up, ok, raw, reset, silence, status, stream,
    tool_call,
};
use holysheep::{AdaptiveConfig, ChatRequest, Client, Clock, Config, Error, Jitter, RetryConfig};
use serde_json::{Value, json};

/// The read timeout of raw sockets.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

fn client(server: &Server) -> (Client, Clock) {
    let clock = Clock::fake();
    let config = Config::builder().api_key("sk-test").base_url(server.url()).clock(clock.clone()).no_proxy();
    let config = config.retry(RetryConfig::default().jitter(Jitter::None)).adaptive(AdaptiveConfig::off());
    (Client::new(config.build().unwrap()).unwrap(), clock)
}

fn request() -> ChatRequest {
    ChatRequest::new("gpt-4.1").user("hi")
}

fn connect(server: &Server) -> TcpStream {
    let socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    socket
}

/// Sends a request; returns all bytes up to the end of the connection, and whether it was reset.
fn exchange(server: &Server, request: &str) -> (String, bool) {
    let mut socket = connect(server);
    socket.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let end = socket.read_to_end(&mut bytes);
    let reset = end.is_err_and(|error| {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        true
    });
    (String::from_utf8(bytes).unwrap(), reset)
}

const GET: &str = "GET /v1/models HTTP/1.1\r\n\r\n";
const POST: &str = "POST /v1/x HTTP/1.1\r\nContent-Length: 7\r\n\r\n{\"a\":1}";

#[track_caller]
fn sends(reply: &Reply, expected: &str) {
    for request in [GET, POST] {
        let server = Server::script([reply.clone()]);
        assert_eq!(exchange(&server, request), (expected.to_owned(), false), "{request}");
    }
}

#[test]
fn a_reply_is_sent_byte_for_byte() {
    let hello = status(503).header("x-a", "b").retry_after(7).body("hello");
    let head = "HTTP/1.1 503 Scripted\r\nx-a: b\r\nretry-after: 7\r\ncontent-length: 5\r\n\r\n";
    sends(&hello.clone().then_close(), &format!("{head}hello"));
    sends(&hello.clone().cut_after(2), &format!("{head}he"));
    sends(&hello.clone().cut_after(99), &format!("{head}hello"));
    sends(&hello.clone().trickle(Duration::from_micros(1)).then_close(), &format!("{head}hello"));
    sends(&hello.clone().trickle_after(3, Duration::from_micros(1)).then_close(), &format!("{head}hello"));
    sends(&hello.after(Duration::from_micros(1)).then_close(), &format!("{head}hello"));
    sends(&status(200).body("hello").until_close(), "HTTP/1.1 200 Scripted\r\n\r\nhello");
    sends(&raw("SSH-2.0-x\r\n").then_close(), "SSH-2.0-x\r\n");
    sends(&raw("SSH-2.0-x\r\n").cut_after(3), "SSH");
    sends(&hang_up(), "");
}

#[test]
fn a_chunked_body_is_cut_after_its_own_bytes_and_without_its_last_chunk() {
    let hello = status(200).body("hello").chunked(2);
    let head = "HTTP/1.1 200 Scripted\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks = "2\r\nhe\r\n2\r\nll\r\n1\r\no\r\n";
    sends(&hello.clone().then_close(), &format!("{head}{chunks}0\r\n\r\n"));
    sends(&hello.clone().cut_after(5), &format!("{head}{chunks}"));
    sends(&hello.clone().cut_after(3), &format!("{head}2\r\nhe\r\n2\r\nl"));
    sends(&hello.clone().cut_after(0), head);
    assert_eq!(hello.bytes(), format!("{head}{chunks}0\r\n\r\n").as_bytes());
}

#[cfg(target_os = "linux")]
#[test]
fn a_reset_and_an_early_answer_leave_the_end_of_the_request_unread() {
    for request in [GET, POST] {
        assert_eq!(exchange(&Server::script([reset()]), request), (String::new(), true), "{request}");
        let early = Server::script([status(413).early()]);
        let mut socket = connect(&early);
        socket.write_all(request.as_bytes()).unwrap();
        let mut line = [0; 12];
        // The reset may discard the answer before it is read.
        let read = socket.read_exact(&mut line);
        assert!(read.is_err() || &line == b"HTTP/1.1 413", "{read:?}");
        assert_eq!(early.requests().len(), 1, "{request}");
    }
}

/// The connection stays open until the server is dropped.
#[test]
fn a_stalled_connection_is_closed_when_the_server_is_dropped() {
    let stalled = stream(["Hel", "lo"]);
    let bytes = stalled.bytes();
    let events = |count: usize| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        text.match_indices("\n\n").nth(count - 1).unwrap().0 + 2
    };
    let cases = [
        (stalled.clone().stall_after_events(1), events(1)),
        (stalled.clone().stall_after_events(2), events(2)),
        (stalled.clone().stall_after_events(99), bytes.len()),
        (stalled.clone().stall_after(0), bytes.len() - stalled.body_len()),
        (silence(), 0),
        (ok("never").after(Duration::from_secs(3600)), 0),
        (ok("never").trickle(Duration::from_secs(3600)), 0),
    ];
    for (reply, sent) in cases {
        let server = Server::script([reply.clone()]);
        let mut socket = connect(&server);
        socket.write_all(POST.as_bytes()).unwrap();
        let mut part = vec![0; sent];
        socket.read_exact(&mut part).unwrap();
        server.wait_for_requests(1);
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let nothing = socket.read(&mut [0]).unwrap_err();
        assert!(
            matches!(nothing.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "{reply:?}: {nothing}"
        );
        socket.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        drop(server);
        assert_eq!(socket.read(&mut [0]).unwrap(), 0, "{reply:?}");
    }
}

#[test]
fn dropping_the_server_closes_its_port_and_idle_connections() {
    let server = Server::always(ok("hi"));
    let (client, _) = client(&server);
    client.chat(&request()).unwrap();
    let address = server.address();
    drop(server);
    assert!(TcpStream::connect(address).is_err());
    let error = client.with_retry(RetryConfig::default().max_retries(0)).chat(&request()).unwrap_err();
    assert!(!matches!(error, Error::Api { .. }), "{error:?}");
}

#[test]
fn every_kind_of_answer_is_understood_by_the_client() {
    let server = Server::script([
        ok("hi"),
        tool_call("weather", &json!({"city": "Paris"})),
        stream(["Hel", "lo"]),
        stream(["Hel", "lo"]).chunked(7),
    ]);
    let (client, clock) = client(&server);
    assert_eq!(client.chat(&request()).unwrap().text(), "hi");
    let answer = client.chat(&request()).unwrap();
    let call = &answer.tool_calls()[0];
    assert_eq!((&*call.id, call.name(), answer.finish_reason()), ("call_1", "weather", Some("tool_calls")));
    assert_eq!(call.arguments::<Value>().unwrap(), json!({"city": "Paris"}));
    for _ in 0..2 {
        let answer = client.chat_stream(&request()).unwrap().into_response().unwrap();
        assert_eq!((answer.text(), answer.finish_reason()), ("Hello", Some("stop")));
        assert_eq!(answer.usage.unwrap().total_tokens, Some(12));
    }
    assert_eq!((server.requests().len(), server.connections(), clock.sleeps()), (4, 1, vec![]));
}

#[test]
fn faults_are_retried_by_the_client() {
    let faults = [status(429).retry_after(2), cut_after(100), reset(), hang_up(), ok("hi").cut_after(10)];
    for fault in faults {
        let server = Server::script([fault.clone(), ok("hi")]);
        let (client, _) = client(&server);
        let answer = client.chat(&request()).unwrap();
        assert_eq!((answer.text(), answer.meta().attempts), ("hi", 2), "{fault:?}");
    }
    assert!(ok("this answer is cut").body_len() > 200, "cut_after promises that");
    let server = Server::script([stream(["Hel", "lo"]).cut_after_events(1)]);
    let mut pieces = client(&server).0.chat_stream(&request()).unwrap();
    assert_eq!(pieces.next().unwrap().unwrap().text(), "Hel");
    assert!(matches!(pieces.next(), Some(Err(Error::StreamTruncated { .. }))));
}

#[test]
fn a_request_beyond_the_script_is_refused_with_the_reason() {
    let server = Server::script([]);
    let (client, _) = client(&server);
    let error = client.chat(&request()).unwrap_err();
    assert_eq!((error.status(), error.attempts()), (Some(418), 1));
    assert!(error.to_string().contains("no reply for this request"), "{error}");
    server.add([ok("added")]);
    assert_eq!(client.chat(&request()).unwrap().text(), "added");
}

#[test]
fn requests_are_recorded_with_everything_that_was_sent() {
    let server = Server::always(ok("hi"));
    server.add([status(404)]);
    let (client, _) = client(&server);
    let not_found = client.chat(&request()).unwrap_err();
    assert_eq!(not_found.status(), Some(404), "scripted replies come first");
    client.chat(&request()).unwrap();
    exchange(
        &server,
        "GET /v1/x?y=%20 HTTP/1.1\r\nX-Name:  A b \r\nconnection: close\r\n\r\nnonsense\r\n\r\n",
    );
    let requests = server.requests();
    let [_, chat, get] = &requests[..] else { unreachable!("{requests:?}") };
    assert_eq!((&*chat.method, &*chat.path, chat.connection), ("POST", "/v1/chat/completions", 1));
    assert_eq!(chat.json(), json!({"model": "gpt-4.1", "messages": [{"role": "user", "content": "hi"}]}));
    assert_eq!(chat.header("Authorization"), Some("Bearer sk-test"));
    assert_eq!((&*get.method, &*get.path, get.connection), ("GET", "/v1/x?y=%20", 2));
    assert_eq!((get.header("x-name"), get.header("x-other")), (Some("A b"), None));
    assert_eq!((&*get.body, get.json()), ("", Value::Null));
}

#[test]
fn a_head_is_parsed_or_refused() {
    let refused = [
        "",
        "\r\n",
        "GET\r\n",
        "GET / HTTP/1.1 x\r\n",
        "GET / SPDY/1\r\n",
        " / HTTP/1.1",
        "GET / HTTP/1.1\r\nx",
    ];
    for head in refused {
        assert_eq!(Request::parse(head), None, "{head:?}");
    }
    let request = Request::parse("GET / HTTP/1.0\r\nA: b: c\r\na: d\r\n\r\nx: y").unwrap();
    assert_eq!(request.header("A"), Some("b: c"));
    assert_eq!(request.headers.len(), 2);
}

#[test]
fn requests_may_arrive_byte_by_byte_or_pipelined() {
    let server = Server::respond(|request| status(200).body(request.body.clone()));
    let mut socket = connect(&server);
    socket.set_nodelay(true).unwrap();
    for byte in POST.as_bytes() {
        socket.write_all(&[*byte]).unwrap();
        thread::yield_now();
    }
    socket.write_all([POST, GET, POST].concat().as_bytes()).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    socket.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("{\"a\":1}").count(), 3, "{answers}");
    let requests = server.requests();
    assert_eq!(
        requests.iter().map(|request| &*request.method).collect::<Vec<_>>(),
        ["POST", "POST", "GET", "POST"]
    );
}

#[test]
fn replies_are_computed_on_the_connections_threads() {
    let (enter, entered) = mpsc::channel();
    let server = Server::respond(move |request| match request.json()["model"].as_str() {
        Some("panics") => panic!("on purpose"),
        Some("blocks") => {
            enter.send(()).unwrap();
            thread::park_timeout(READ_TIMEOUT);
            ok("late")
        }
        model => ok(model.unwrap_or_default()),
    });
    let (client, _) = client(&server);
    thread::scope(|scope| {
        let blocked = scope.spawn(|| client.chat(&ChatRequest::new("blocks").user("hi")));
        entered.recv().unwrap();
        assert_eq!(client.chat(&ChatRequest::new("m").user("hi")).unwrap().text(), "m");
        assert!(!blocked.is_finished());
        client.shutdown();
        assert!(matches!(blocked.join().unwrap(), Err(Error::Shutdown)));
    });
    let panics = r#"{"model":"panics"}"#;
    let request = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{panics}", panics.len());
    assert_eq!(exchange(&server, &request).0, "");
}

#[test]
fn requests_beyond_the_bounds_are_refused_with_the_reason() {
    let server = Server::always(ok("hi"));
    let said = |head: &str| exchange(&server, &format!("POST / HTTP/1.1\r\n{head}\r\n\r\n")).0;
    for (head, code, reason) in [
        (format!("content-length: {}", MAX_BODY + 1), 413, "too large"),
        ("content-length: x".to_owned(), 400, "not a number"),
        ("transfer-encoding: chunked".to_owned(), 411, "content-length only"),
    ] {
        let answer = said(&head);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")) && answer.contains(reason), "{answer}");
    }
    let mut socket = connect(&server);
    let long = [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'y'; MAX_HEAD + 10_000]].concat();
    let _ = socket.write_all(&long); // the server may close the connection before the end
    let end = socket.read(&mut [0]);
    let closed =
        |error: &std::io::Error| [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind());
    assert!(matches!(&end, Ok(0)) || end.as_ref().is_err_and(closed), "{end:?}");
    assert_eq!(server.requests(), []);
}

#[test]
fn latency_and_trickling_take_real_time() {
    let tenth = Duration::from_millis(100);
    let cases = [
        (status(200).after(tenth), tenth),
        (raw("abcd").trickle(tenth / 4), tenth),
        (status(200).body("12345").trickle_after(1, tenth / 4), tenth),
    ];
    for (reply, least) in cases {
        let server = Server::script([reply.clone().then_close()]);
        let started = Instant::now();
        exchange(&server, GET);
        assert!(started.elapsed() >= least, "{reply:?}: {:?}", started.elapsed());
    }
}
