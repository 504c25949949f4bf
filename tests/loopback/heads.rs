//! Unusual response headers: large ones, many fields, control bytes, unrequested content encodings; and Google's retry delay
//! in error bodies.

use std::time::Duration;

use crate::hostile::{HELLO, RawServer, WAYS, adaptive, ask, each, exact, kind, streamed};
#[cfg(feature = "gzip")]
use crate::hostile::{build, config};
use crate::support::{Server, full_message, ok, status};
use holysheep::{Error, Reason};

/// A complete response with this status and these additional header fields.
fn head(code: u16, fields: &str) -> Vec<u8> {
    let body = if code == 200 { HELLO } else { r#"{"error":{"message":"the words"}}"# };
    format!("HTTP/1.1 {code} Odd\r\ncontent-length: {}\r\n{fields}\r\n{body}", body.len()).into_bytes()
}

fn many(count: usize) -> String {
    (0..count).map(|number| format!("x-field-{number}: {number}\r\n")).collect()
}

/// A single field, and fields of 4000 bytes each, of about `kib` KiB in total.
fn long(kib: usize) -> [String; 2] {
    let line = |number: usize| format!("x-long-{number}: {}\r\n", "y".repeat(4000));
    [format!("x-long: {}\r\n", "y".repeat(kib * 1024)), (0..kib / 4 + 1).map(line).collect()]
}

/// Answers the first request with these bytes and all others with a success.
fn server(first: Vec<u8>) -> RawServer {
    RawServer::new(move |connection| {
        while let Some(number) = connection.request() {
            let sent = if number == 0 { connection.send(&first) } else { connection.send(ok("hi").bytes()) };
            if !sent {
                return;
            }
        }
    })
}

#[test]
fn a_large_response_header_is_read() {
    let mut fields: Vec<String> = [17, 20, 40, 60].iter().flat_map(|kib| long(*kib)).collect();
    fields.push(many(120));
    each(fields.iter().flat_map(|fields| WAYS.map(|way| (fields, way))), |(fields, (name, way))| {
        let what = format!("{name}, {} bytes, {} fields", fields.len(), fields.lines().count());
        let server = server(head(200, fields));
        let (client, _) = exact(server.url());
        let answer = way(&client).map_err(|error| format!("{what}: {}", full_message(&error))).unwrap();
        assert_eq!((answer.text(), answer.meta().attempts), ("Hello", 1), "{what}");
        assert_eq!(way(&client).unwrap().text(), "hi", "{what}");
        assert_eq!(server.connections(), 1, "{what}: the connection is kept");
    });
}

#[test]
fn a_header_beyond_the_limit_is_an_error_and_not_retried() {
    each(long(70).iter().flat_map(|fields| WAYS.map(|way| (fields, way))), |(fields, (name, way))| {
        let server = server(head(200, fields));
        let error = way(&exact(server.url()).0).unwrap_err();
        assert!(matches!(error, Error::TooLarge { part: "header", limit: 65_536, .. }), "{name}: {error:?}");
        assert_eq!(server.requests().len(), 1, "{name}");
    });
}

#[test]
fn an_endless_header_is_not_read_forever() {
    let server = RawServer::new(|connection| {
        connection.request();
        connection.send("HTTP/1.1 200 OK\r\n");
        while connection.send(many(100)) {}
    });
    let error = ask(&exact(server.url()).0).unwrap_err();
    assert!(matches!(error, Error::TooLarge { part: "header", .. }), "{error:?}");
    assert_eq!(server.requests().len(), 1);
}

/// Header fields that ureq's parser refuses.
fn refused() -> [(&'static str, String); 4] {
    [
        ("129 fields", many(129)),
        ("1000 fields", many(1000)),
        ("a control byte", "x-odd: a\u{1}b\r\n".to_owned()),
        ("a control byte in a name", "x\u{1}odd: a\r\n".to_owned()),
    ]
}

#[test]
fn a_success_with_an_unparsable_header_is_reported_and_not_retried() {
    each(refused().iter().flat_map(|case| WAYS.map(|way| (case, way))), |((what, fields), (name, way))| {
        let server = server(head(200, fields));
        let answer = way(&exact(server.url()).0);
        assert_eq!(server.requests().len(), 1, "{name} {what}: {:?}", answer.as_ref().map_err(full_message));
        if let Err(error) = answer {
            assert!(!matches!(error, Error::Transport { .. }), "{name} {what}: {error:?}");
            assert!(full_message(&error).contains("head"), "{name} {what}: {}", full_message(&error));
        }
    });
}

#[test]
fn an_error_with_an_unparsable_header_keeps_its_status_and_retry_after() {
    each(refused().iter().flat_map(|case| WAYS.map(|way| (case, way))), |((what, fields), (name, way))| {
        for fields in [format!("retry-after: 7\r\n{fields}"), format!("{fields}Retry-After: 7\r\n")] {
            for code in [429, 503] {
                let server = server(head(code, &fields));
                let (client, clock) = exact(server.url());
                let answer = way(&client).map_err(|error| full_message(&error));
                assert_eq!(answer.map(|answer| answer.meta().attempts), Ok(2), "{name} {what} {code}");
                assert_eq!(clock.sleeps(), [Duration::from_secs(7)], "{name} {what} {code}");
            }
            let server = server(head(401, &fields));
            let error = way(&exact(server.url()).0).unwrap_err();
            assert_eq!((error.status(), error.attempts()), (Some(401), 1), "{name} {what}: {error:?}");
        }
    });
    let server = server(head(429, &many(129)));
    let (client, _) = adaptive(server.url());
    ask(&client).unwrap();
    assert_eq!(client.handler("gpt-4.1").snapshot().throttles, 1, "the handler records it");
}

#[test]
fn a_large_response_header_is_read_over_tls() {
    let identity = crate::hostile::Identity::new(|_| {});
    let fields = [long(40)[0].clone(), format!("retry-after: 7\r\n{}", many(129))];
    each([(200, 0), (429, 1)], |(code, index)| {
        let bytes = head(code, &fields[index]);
        let server = RawServer::tls(&identity, move |connection| {
            while let Some(number) = connection.request() {
                connection.send(if number == 0 { bytes.clone() } else { ok("hi").bytes() });
            }
        });
        let file = identity.file(&format!("heads-{code}"));
        let clock = holysheep::Clock::fake();
        let config = crate::hostile::config(server.tls_url()).clock(clock.clone()).ca_file(file);
        let client = crate::hostile::build(config.adaptive(holysheep::AdaptiveConfig::off()));
        let answer = ask(&client).map_err(|error| full_message(&error));
        assert_eq!(
            answer.map(|answer| answer.meta().attempts),
            Ok(if code == 200 { 1 } else { 2 }),
            "{code}"
        );
    });
}

#[test]
fn accept_encoding_is_always_sent() {
    let server = Server::always(ok("hi"));
    let (client, _) = exact(server.url());
    ask(&client).unwrap();
    streamed(&client).unwrap();
    let _ = client.get::<serde_json::Value>("/models");
    let expected = if cfg!(feature = "gzip") { "gzip" } else { "identity" };
    for request in server.requests() {
        assert_eq!(request.header("accept-encoding"), Some(expected), "{}", request.path);
    }
}

/// `HELLO` in gzip format.
fn gzipped() -> Vec<u8> {
    // The gzip header, one final deflate block without compression (RFC 1951 section 3.2.4), checksum and length.
    let text = HELLO.as_bytes();
    let length = (text.len() as u16).to_le_bytes();
    let inverse = (!(text.len() as u16)).to_le_bytes();
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1];
    bytes.extend([length, inverse].concat());
    bytes.extend(text);
    bytes.extend(crc32fast::hash(text).to_le_bytes());
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes
}

/// About `size` bytes of JSON in gzip format, in a hundredth of their length.
#[cfg(feature = "gzip")]
fn gzip_bomb(size: usize) -> Vec<u8> {
    let (mut bytes, mut bits, mut count) = (vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff], 0u32, 0);
    let mut put = |value: u32, length: u32| {
        bits |= value << count;
        count += length;
        while count >= 8 {
            bytes.push(bits as u8);
            (bits, count) = (bits >> 8, count - 8);
        }
    };
    // One final deflate block with fixed codes (RFC 1951 section 3.2.6), whose codes begin with their highest bit.
    put(0b011, 3);
    for byte in br#"{"choices":[],"x":"y"# {
        put((u32::from(*byte) + 0x30).reverse_bits() >> 24, 8);
    }
    for _ in 0..size / 258 {
        put(0b1100_0101u32.reverse_bits() >> 24, 8); // repeats 258 bytes
        put(0, 5); // at a distance of one
    }
    bytes
}

#[test]
#[cfg(feature = "gzip")]
fn a_gzip_bomb_ends_at_the_maximum_size() {
    let bomb = gzip_bomb(400_000_000);
    assert!(bomb.len() < 4_000_000, "{}", bomb.len());
    let server = Server::always(status(200).header("content-encoding", "gzip").body(bomb));
    let client = build(config(server.url()).max_response_bytes(4_000_000));
    each(WAYS, |(name, way)| {
        let mut ended = None;
        let measured = allocation_counter::measure(|| ended = way(&client).err());
        assert!(matches!(ended, Some(Error::TooLarge { .. })), "{name}: {ended:?}");
        assert!(measured.bytes_max < 20_000_000, "{name}: {} bytes", measured.bytes_max);
    });
}

#[test]
fn an_unrequested_content_encoding_is_an_error_that_names_it() {
    let unrequested: &[&str] = if cfg!(feature = "gzip") {
        &["br", "deflate", "zstd", "gzip, br"]
    } else {
        &["gzip", "x-gzip", "GZIP", "br", "deflate", "zstd", "gzip, br"]
    };
    each(unrequested.iter().flat_map(|coding| WAYS.map(|way| (*coding, way))), |(coding, (name, way))| {
        let what = format!("{name} {coding}");
        for kind in ["application/json", "text/event-stream"] {
            let reply = status(200).header("content-type", kind).header("content-encoding", coding);
            let server = Server::always(reply.body(gzipped()));
            let Err(error) = way(&exact(server.url()).0) else { panic!("{what}: a success") };
            let text = full_message(&error).to_lowercase();
            let named = coding.to_lowercase();
            assert!(text.contains(&named) && text.contains("coding"), "{what}: {text}");
            assert!(!named.ends_with("gzip") || text.contains("feature"), "{what}: {text}");
            assert_eq!(server.requests().len(), 1, "{what}: {text}");
            assert!(!text.contains('\u{fffd}'), "no binary data: {text}");
        }
    });
}

#[test]
fn an_error_with_an_unrequested_content_encoding_keeps_its_status() {
    let reply = status(429).header("content-encoding", "br").header("retry-after", "7").body(gzipped());
    let server =
        Server::script([reply, ok("hi"), status(401).header("content-encoding", "br").body(gzipped())]);
    let (client, clock) = exact(server.url());
    assert_eq!(ask(&client).unwrap().text(), "hi");
    assert_eq!(clock.sleeps(), [Duration::from_secs(7)]);
    let error = ask(&client).unwrap_err();
    assert_eq!((error.status(), kind(&error).as_str()), (Some(401), "Api"));
    let text = format!("{} {error:?}", full_message(&error));
    assert!(!text.contains('\u{fffd}') && !text.contains('\u{8b}'), "no binary data: {text}");
}

#[test]
fn an_answer_with_content_encoding_identity_is_read() {
    let server = Server::always(ok("hi").header("content-encoding", "identity"));
    assert_eq!(ask(&exact(server.url()).0).unwrap().text(), "hi");
}

fn retry_info(delay: &str) -> String {
    format!(
        r#"{{"error":{{"code":429,"message":"Quota exceeded","status":"RESOURCE_EXHAUSTED","details":[
        {{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{{}}]}},
        {{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":{delay}}}]}}}}"#
    )
}

#[test]
fn googles_retry_delay_in_the_body_is_read() {
    let cases =
        [("\"39s\"", 39_000), ("\"39.5s\"", 39_500), ("\"0.25s\"", 1000), ("\"39.123456789s\"", 39_123)];
    each(cases, |(delay, millis)| {
        for body in [retry_info(delay), format!("[{}]", retry_info(delay))] {
            for (name, way) in WAYS {
                let server = Server::script([status(429).body(body.as_str()), ok("hi")]);
                let (client, clock) = exact(server.url());
                assert_eq!(way(&client).unwrap().meta().attempts, 2, "{name} {body}");
                let waits: Vec<u128> = clock.sleeps().iter().map(Duration::as_millis).collect();
                assert_eq!(waits, [millis], "{name} {body}");
            }
        }
    });
    let server = Server::script([status(503).body(retry_info("\"39s\"")), ok("hi")]);
    let (client, clock) = exact(server.url());
    ask(&client).unwrap();
    assert_eq!(clock.sleeps(), [Duration::from_secs(39)], "of a 503 too");
}

#[test]
fn a_retry_delay_in_the_body_beyond_the_maximum_is_reported() {
    let server = Server::always(status(429).body(retry_info("\"300s\"")));
    let error = ask(&exact(server.url()).0).unwrap_err();
    assert!(matches!(error, Error::GaveUp { reason: Reason::WaitTooLong, attempts: 1, .. }), "{error:?}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(300)));
}

#[test]
fn an_invalid_retry_delay_and_one_in_a_200_are_ignored() {
    each(["\"soon\"", "\"-5s\"", "\"39\"", "null", "{}", "\"NaNs\"", "\"infs\"", "\"1e99s\""], |delay| {
        let server = Server::script([status(429).body(retry_info(delay)), ok("hi")]);
        let (client, clock) = exact(server.url());
        let answer = ask(&client).map_err(|error| full_message(&error));
        assert_eq!(answer.map(|answer| answer.meta().attempts), Ok(2), "{delay}");
        assert_eq!(clock.sleeps(), [Duration::from_secs(1)], "{delay}");
    });
    let server = Server::script([status(200).body(retry_info("\"39s\"")), ok("hi")]);
    let (client, clock) = exact(server.url());
    ask(&client).unwrap();
    assert_eq!(clock.sleeps(), [Duration::from_secs(1)]);
}
