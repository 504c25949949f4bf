//! Secrets are redacted in errors, events, `Meta`, `Debug` output and logs, in every form in which a server may echo them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

#[path = "support/captured_log.rs"]
mod captured_log;
#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD as STANDARD, BASE64_URL_SAFE as URL_SAFE};
use holysheep::{Client, Clock, ConfigBuilder};
use hostile::{DONE, FINISH, KEY, ask, build, config, delta, each, events, read, stream, streamed, whole};
use support::{Reply, Server, full_message, ok, status};

const OTHER: &str = "another-secret-0123456789";

/// The text with all JSON escapes decoded, so that escaped secrets become visible.
fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("\\u") {
        plain += rest[..at].trim_end_matches('\\');
        let digits = rest.get(at + 2..at + 6).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match digits.and_then(char::from_u32) {
            Some(character) => {
                plain.push(character);
                rest = &rest[at + 6..];
            }
            None => {
                plain += "\\u";
                rest = &rest[at + 2..];
            }
        }
    }
    (plain + rest).replace("\\/", "/")
}

/// Asserts that the text has no recognisable part of a secret.
#[track_caller]
fn assert_clean(text: &str, what: &str) {
    for text in [text.to_owned(), unescaped(text), text.replace('\\', "")] {
        for secret in [&KEY[8..], &KEY[3..15], &OTHER[8..], &OTHER[..16]] {
            assert!(!text.contains(secret), "{what}: {text}");
        }
        for encoded in in_base64() {
            assert!(!text.contains(&encoded[12..24]), "{what}: {text}");
        }
    }
}

/// The text with each character as a JSON escape.
fn escaped(text: &str, upper: bool) -> String {
    let escape =
        |c: char| if upper { format!("\\u{:04X}", c as u32) } else { format!("\\u{:04x}", c as u32) };
    text.chars().map(escape).collect()
}

/// The secrets in Base64, alone and as the value of a header.
fn in_base64() -> [String; 4] {
    let bearer = format!("Bearer {KEY}");
    let encode = |secret: &[u8]| STANDARD.encode(secret);
    [encode(KEY.as_bytes()), encode(bearer.as_bytes()), URL_SAFE.encode(KEY), encode(OTHER.as_bytes())]
}

/// The ways in which a server may write a secret into JSON.
fn spellings() -> Vec<String> {
    let mut spellings = Vec::from(in_base64());
    for secret in [KEY, OTHER] {
        spellings.push(secret.to_owned());
        spellings.push(escaped(secret, false));
        spellings.push(escaped(secret, true));
        spellings.push(escaped(&secret[..2], false) + &secret[2..]);
        spellings.push(secret[..10].to_owned() + &escaped(&secret[10..12], true) + &secret[12..]);
        spellings.push(secret.replace('-', "\\u002d"));
        // JSON inside a JSON string: a gateway's error that quotes its upstream's.
        spellings.push(escaped(secret, false).replace('\\', "\\\\"));
    }
    spellings
}

/// A client, and the `Debug` output of its events.
fn client(server: &Server) -> (Client, Arc<Mutex<Vec<String>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let config: ConfigBuilder =
        config(server.url()).clock(Clock::fake()).header("api-key", OTHER).on_event({
            let events = Arc::clone(&events);
            move |event| events.lock().unwrap().push(format!("{event:?}"))
        });
    (build(config), events)
}

/// Everything that a program can print about a failed call, for `chat` and `chat_stream`.
fn shown(reply: &Reply) -> Vec<String> {
    let mut shown = Vec::new();
    for way in [ask as fn(&Client) -> _, streamed] {
        let server = Server::script([reply.clone(), status(400)]);
        let (client, events) = client(&server);
        let error = way(&client).unwrap_err();
        shown.extend([full_message(&error), format!("{error:?}"), format!("{:?}", error.request_id())]);
        shown.extend(events.lock().unwrap().iter().cloned());
    }
    shown
}

#[test]
fn a_secret_in_a_redirect_is_redacted() {
    for code in [301, 302, 303, 307, 308] {
        for secret in [KEY, OTHER] {
            let reply =
                status(code).header("location", &format!("https://elsewhere.example/v1?key={secret}"));
            for text in shown(&reply) {
                assert_clean(&text, "redirect");
            }
            assert!(shown(&reply)[0].contains("elsewhere.example"), "the rest of the address is kept");
        }
    }
}

#[test]
fn an_escaped_secret_in_a_body_is_redacted() {
    each(spellings(), |secret| {
        let bodies = [
            format!(r#"{{"error":{{"message":"wrong key {secret}!","code":"c","type":"t"}}}}"#),
            format!(
                r#"{{"error":{{"message":"m","code":"{secret}","type":"{secret}","param":"{secret}"}}}}"#
            ),
            format!(r#"{{"error":"{secret}"}}"#),
            format!(r#"{{"detail":[{{"loc":["body","{secret}"],"msg":"{secret}"}}]}}"#),
            format!(r#"{{"error":{{"message":"{{\"error\":\"{}\"}}"}}}}"#, secret.replace('\\', "\\\\")),
            format!("not JSON {secret}"),
            format!(r#"{{"choices":"{secret}"}}"#),
            format!(r#"{{"error":{{"message":"{}{secret}"}}}}"#, "x".repeat(490)),
            format!(r#"{{"error":{{"message":"{}{secret}"}}}}"#, "x".repeat(65_490)),
        ];
        for body in bodies {
            for code in [200, 400, 401, 503] {
                for text in shown(&status(code).body(body.as_str())) {
                    assert_clean(&text, &format!("{code} {}", &body[..body.len().min(120)]));
                }
            }
        }
    });
}

#[test]
fn an_escaped_secret_in_a_stream_is_redacted() {
    each(spellings(), |secret| {
        for event in [
            format!(r#"data: {{"error":{{"message":"wrong key {secret}","code":"{secret}"}}}}"#),
            format!(r#"error: {{"message":"wrong key {secret}"}}"#),
            format!("event: error\ndata: {secret}"),
            format!("data: {{{secret}"),
        ] {
            let server = Server::always(events(&[&delta("Hel"), &event, "\n\n", DONE].concat()));
            let (client, log) = client(&server);
            let mut pieces = stream(&client).unwrap();
            if let Some(error) = read(&mut pieces).1 {
                assert_clean(&format!("{} {error:?}", full_message(&error)), &event);
            }
            for text in log.lock().unwrap().iter().cloned().chain(shown(&events(&(event.clone() + "\n\n")))) {
                assert_clean(&text, &event);
            }
        }
    });
}

#[test]
fn a_secret_in_an_id_header_is_redacted_in_meta() {
    each(["x-request-id", "request-id", "apim-request-id", "cf-ray"], |name| {
        for secret in [KEY.to_owned(), format!("Bearer {KEY}"), format!("req-{OTHER}-7")] {
            let server = Server::script([
                ok("hi").header(name, &secret),
                events(&whole()).header(name, &secret),
                events(&[&delta("Hel"), FINISH, DONE].concat()).header(name, &secret),
                status(401).header(name, &secret),
            ]);
            let (client, _) = client(&server);
            assert_clean(&format!("{:?}", ask(&client).unwrap().meta()), name);
            assert_clean(&format!("{:?}", stream(&client).unwrap().meta()), name);
            assert_clean(&format!("{:?}", streamed(&client).unwrap().meta()), name);
            let error = ask(&client).unwrap_err();
            assert_clean(&format!("{error:?} {} {:?}", full_message(&error), error.request_id()), name);
        }
    });
}

thread_local! {
    /// What all crates log at every level on this thread, once a test has set it. Only on this thread, because other tests run at
    /// the same time and their servers echo secrets in bodies, which ureq logs.
    static LOGGED: RefCell<Option<String>> = const { RefCell::new(None) };
}

#[test]
fn short_and_non_ascii_header_values_are_not_logged() {
    captured_log::install(|text| {
        LOGGED.with_borrow_mut(|logged| logged.as_mut().map(|logged| logged.push_str(text)));
    });
    LOGGED.set(Some(String::new()));
    let values = [("x-short", "s3cr3t!"), ("x-shorter", "p4s5"), ("x-foreign", "geh31mnis-für-später")];
    let server = Server::script([ok("hi"), status(307).header("location", &format!("/?k={KEY}"))]);
    let config =
        values.iter().fold(config(server.url()), |config, (name, value)| config.header(*name, *value));
    let client = build(config.clock(Clock::fake()));
    ask(&client).unwrap();
    ask(&client).unwrap_err();
    for (name, value) in values {
        assert_eq!(server.requests()[0].header(name), Some(value), "the server receives the header");
    }
    let logged = LOGGED.take().unwrap();
    for seen in ["POST./v1/chat/completions", "x-short:.", "x-foreign:."] {
        assert!(logged.contains(seen), "the test captures the log: {seen}");
    }
    for secret in ["s3cr3t", "p4s5", "geh31mnis", &KEY[3..15]] {
        assert!(!logged.contains(secret), "{secret}");
    }
}

#[test]
fn text_that_matches_a_header_value_is_kept_in_answers() {
    let answer =
        r#"{"choices":[{"message":{"content":"My Application says hello"},"finish_reason":"stop"}]}"#;
    let bodies = [answer.to_owned(), format!("{answer}\n\ndata: [DONE]\n\n"), format!("[{answer}]")];
    each(bodies, |body| {
        for way in [ask as fn(&Client) -> _, streamed] {
            let server = Server::script([status(200).body(body.as_str())]);
            let client = build(config(server.url()).header("x-title", "My Application"));
            assert_eq!(way(&client).unwrap().text(), "My Application says hello", "{body}");
        }
    });
}
