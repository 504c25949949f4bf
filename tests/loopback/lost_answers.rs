//! Every answer that arrives is delivered, in whichever format: JSON or events, with blank lines, nulls or split characters.

use std::time::{Duration, Instant};

use crate::hostile::{
    DONE, FINISH, HELLO, ROLE, RawServer, STREAM_HEAD, USAGE, ask, build, chunk, config, delta,
};
use crate::hostile::{WAYS, each, events, exact, hasty, read, stream, streamed, whole};
use crate::support::{Reply, Server, full_message, ok, status};
use holysheep::{Client, Error, Phase, RetryConfig};

const TYPES: [&str; 5] = ["text/event-stream", "application/json", "text/plain", "text/html", ""];

fn typed(kind: &str, body: &str) -> Reply {
    let reply = status(200).body(body);
    if kind.is_empty() { reply } else { reply.header("content-type", kind) }
}

/// Asserts that `chat` and `chat_stream` both read "Hello" from the reply, each with one request.
#[track_caller]
fn assert_hello(reply: &Reply, what: &str) {
    each([("chat", ask as fn(&Client) -> _), ("chat_stream", streamed)], |(name, way)| {
        let server = Server::script([reply.clone()]);
        let (client, _) = exact(server.url());
        let answer = way(&client).unwrap_or_else(|error| panic!("{name} {what}: {}", full_message(&error)));
        assert_eq!((answer.text(), answer.meta().attempts), ("Hello", 1), "{name} {what}");
        assert_eq!(answer.finish_reason(), Some("stop"), "{name} {what}");
    });
}

#[test]
fn the_format_of_a_body_is_detected_by_its_first_bytes_not_its_content_type() {
    each(TYPES, |kind| {
        assert_hello(&typed(kind, &whole()), &format!("events as {kind}"));
    });
    each(TYPES, |kind| {
        assert_hello(&typed(kind, HELLO), &format!("JSON as {kind}"));
    });
    let server = Server::script([typed("application/json", &whole())]);
    let usage = ask(&exact(server.url()).0).unwrap().usage.unwrap();
    assert_eq!(usage.total_tokens, Some(3), "the usage of events is kept");
}

#[test]
fn json_followed_by_done_is_parsed_as_json() {
    let pretty = HELLO.replace(',', ",\n  ");
    let bodies = [
        format!("{HELLO}\n\ndata: [DONE]\n\n"),
        format!("{HELLO}data: [DONE]"),
        format!("{HELLO}\r\n\r\ndata:[DONE]\r\n\r\n"),
        format!("{pretty}\n\ndata: [DONE]\n\n"),
        format!("\n\n{HELLO}\n\ndata: [DONE]\n\n"),
        format!("\u{feff}{HELLO}\n\ndata: [DONE]\n\n"),
        format!("data: {HELLO}\n\ndata: [DONE]\n\n"),
        format!("data: {HELLO}\n\n"),
    ];
    let cases =
        bodies.iter().flat_map(|body| ["application/json", "text/event-stream"].map(|kind| (kind, body)));
    each(cases, |(kind, body)| assert_hello(&typed(kind, body), &format!("{kind} {body:?}")));
}

#[test]
fn blank_lines_before_a_body_are_skipped() {
    let blanks = ["\n", "\n\n\n", "\r\n\r\n", " \n \n", &"\n".repeat(40_000)];
    let cases = blanks.iter().flat_map(|blank| TYPES.map(|kind| (kind, blank)));
    each(cases, |(kind, blank)| {
        let what = format!("{kind}, {} blank bytes", blank.len());
        assert_hello(&typed(kind, &format!("{blank}{HELLO}")), &what);
        assert_hello(&typed(kind, &format!("{blank}{}", whole())), &what);
        let refusal = format!(r#"{blank}{{"error":{{"message":"no","code":401}}}}"#);
        let server = Server::always(typed(kind, &refusal));
        let Err(error) = streamed(&exact(server.url()).0) else { panic!("{what}: a success") };
        assert_eq!((error.status(), error.attempts()), (Some(401), 1), "{what}: {}", full_message(&error));
    });
}

#[test]
fn blank_lines_in_packets_of_their_own_are_skipped() {
    each([HELLO.to_owned(), whole()], |body| {
        let server = RawServer::new(move |connection| {
            connection.request();
            let body = body.clone();
            let _ = connection.send([STREAM_HEAD, &chunk("\n")].concat())
                && connection.pause(Duration::from_millis(20))
                && connection.send(chunk("\r\n\n"))
                && connection.pause(Duration::from_millis(20))
                && connection.send([&chunk(&body), "0\r\n\r\n"].concat());
        });
        for way in [ask as fn(&Client) -> _, streamed] {
            assert_eq!(
                way(&exact(server.url()).0).map_err(|error| full_message(&error)).unwrap().text(),
                "Hello"
            );
        }
    });
}

#[test]
fn null_keep_alives_and_null_entries_are_skipped() {
    let good = r#"{"index":0,"delta":{"content":"Hel"}}"#;
    each(
        [
            "data: null\n\n".to_owned() + &delta("Hel"),
            delta("Hel") + "data: null\n\ndata:null\n\n",
            delta("Hel") + "data: : keepalive\n\ndata:\n\n",
            delta("Hel") + "data: {\"choices\":[null]}\n\n",
            "data: {\"choices\":[null]}\n\n".to_owned() + &delta("Hel"),
            delta("Hel") + "data: {\"choices\":null}\n\ndata: {\"choices\":[]}\n\n",
            format!("data: {{\"choices\":[null,{good}]}}\n\n"),
            format!("data: {{\"choices\":[{good},null]}}\n\n"),
            delta("Hel") + "data: {\"choices\":[{\"index\":0,\"delta\":null}]}\n\n",
            delta("Hel") + "data: {\"choices\":[{\"delta\":{\"content\":null,\"tool_calls\":[null]}}]}\n\n",
        ],
        |first| assert_hello(&events(&[&first, &delta("lo"), FINISH, DONE].concat()), &first),
    );
}

#[test]
fn null_entries_of_complete_answers_are_skipped() {
    let choice = r#"{"message":{"content":[null,{"type":"text","text":"Hello"}],"tool_calls":[null]},"finish_reason":"stop"}"#;
    each(
        [format!(r#"{{"choices":[null,{choice}]}}"#), format!("[null,{{\"choices\":[{choice}]}}]")],
        |body| {
            assert_hello(&typed("application/json", &body), &body);
        },
    );
    let server = Server::script([typed("application/json", r#"{"data":[null,{"id":"m"},null]}"#)]);
    assert_eq!(exact(server.url()).0.models().unwrap().len(), 1);
}

/// An event whose delta has this field, for the choice with this index.
fn field(choice: u32, field: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":{choice},\"delta\":{{{field}}}}}]}}\n\n")
}

#[test]
fn a_surrogate_pair_split_over_two_deltas_is_joined() {
    let done = [FINISH, DONE].concat();
    let split = delta("a\\ud83e") + &delta("\\udd80b");
    each(
        [
            (split.clone() + &done, "a🦀b"),
            (delta("\\ud83e") + &delta("") + ": ping\n\n" + &delta("\\udd80") + &done, "🦀"),
            (delta("\\ud83e") + &field(1, r#""content":"x""#) + &delta("\\udd80") + &done, "🦀"),
            (delta("\\ud83e\\udd80\\ud83e") + &delta("\\udd80") + &done, "🦀🦀"),
            (delta("\\ud83e") + &delta("a") + &done, "\u{fffd}a"),
            (delta("\\udd80") + &delta("a") + &done, "\u{fffd}a"),
            (delta("a\\ud83e") + &done, "a\u{fffd}"),
            (delta("\\ud83e") + &delta("\\ud83e\\udd80") + &done, "\u{fffd}🦀"),
        ],
        |(body, text)| {
            let server = Server::script([events(&body), events(&body), events(&body)]);
            let (client, _) = exact(server.url());
            assert_eq!(streamed(&client).unwrap().text(), text, "{body}");
            let mut pieces = stream(&client).unwrap();
            let mut first = String::new();
            for piece in pieces.by_ref() {
                let piece = piece.unwrap();
                let choice = piece.choices.iter().find(|choice| choice.index == 0);
                first += choice.map_or("", |choice| choice.delta.text());
            }
            assert_eq!((first.as_str(), pieces.partial()), (text, text), "the pieces of {body}");
            assert_eq!(
                ask(&client).map_err(|error| full_message(&error)).unwrap().text(),
                text,
                "chat {body}"
            );
        },
    );
}

#[test]
fn partial_text_only_grows_and_belongs_to_the_first_choice() {
    let second = field(1, r#""content":"other""#);
    let server = Server::script([events(&[&second, &delta("Hel"), &delta("lo"), FINISH, DONE].concat())]);
    let mut pieces = stream(&exact(server.url()).0).unwrap();
    let mut seen = vec![pieces.partial().to_owned()];
    while let Some(piece) = pieces.next() {
        piece.unwrap();
        seen.push(pieces.partial().to_owned());
    }
    assert!(seen.windows(2).all(|pair| pair[1].starts_with(&pair[0])), "{seen:?}");
    assert_eq!(seen.last().unwrap(), "Hello");
}

#[test]
fn a_surrogate_pair_split_in_other_fields_is_joined() {
    let call = |arguments: &str, rest: &str| {
        field(0, &format!(r#""tool_calls":[{{"index":0,{rest}"function":{{"arguments":"{arguments}"}}}}]"#))
    };
    let body = [
        field(0, r#""reasoning_content":"\ud83e""#),
        field(0, r#""reasoning_content":"\udd80""#),
        field(0, r#""refusal":"\ud83e""#),
        field(0, r#""refusal":"\udd80""#),
        call(r"{\u0022a\u0022:\u0022\ud83e", r#""id":"c","#),
        call(r"\udd80\u0022}", ""),
        FINISH.to_owned(),
        DONE.to_owned(),
    ];
    let server = Server::script([events(&body.concat())]);
    let answer = streamed(&exact(server.url()).0).unwrap();
    assert_eq!((answer.reasoning(), answer.refusal()), (Some("🦀"), Some("🦀")));
    assert_eq!(answer.tool_calls()[0].function.arguments, r#"{"a":"🦀"}"#);
}

#[test]
fn a_stream_cut_before_any_content_is_retried() {
    let calls = r#"data: {"choices":[{"delta":{"role":"assistant","content":null,"tool_calls":[]}}]}"#
        .to_owned()
        + "\n\n";
    each([ROLE.to_owned(), ROLE.repeat(2), [": ping\n\n", USAGE, ROLE].concat(), calls], |nothing| {
        let cut = events(&[&nothing, DONE].concat()).cut_after(nothing.len());
        for cut in [cut, events(&nothing).until_close()] {
            let server = Server::script([cut.clone(), events(&whole()), cut, events(&whole())]);
            let (client, clock) = exact(server.url());
            let mut pieces = stream(&client).unwrap();
            let (text, error) = read(&mut pieces);
            assert!(error.is_none(), "{nothing}: {error:?}");
            assert_eq!((text.as_str(), pieces.meta().attempts), ("Hello", 2), "{nothing}");
            assert_eq!(streamed(&client).unwrap().meta().attempts, 2, "{nothing}");
            assert_eq!(clock.sleeps().len(), 2, "{nothing}");
        }
    });
}

#[test]
fn a_cut_stream_is_retried_if_no_chunk_was_delivered() {
    let body = [ROLE, &delta("Hel")].concat();
    let cut = events(&body).until_close();
    let server = Server::script([cut.clone(), status(503), events(&whole())]);
    let (client, clock) = exact(server.url());
    let answer = streamed(&client).unwrap();
    assert_eq!((answer.text(), answer.meta().attempts), ("Hello", 3));
    assert_eq!(clock.sleeps().len(), 2);
    let keys: Vec<_> =
        server.requests().iter().map(|r| r.header("idempotency-key").map(str::to_owned)).collect();
    assert!(keys[0].is_some() && keys.iter().all(|key| *key == keys[0]), "one call: {keys:?}");

    let server = Server::script([cut.clone(), events(&whole())]);
    let mut pieces = stream(&exact(server.url()).0).unwrap();
    while pieces.next().unwrap().unwrap().text().is_empty() {}
    let error = pieces.into_response().unwrap_err();
    assert!(matches!(error, Error::StreamTruncated { ref received, .. } if received == "Hel"), "{error:?}");
    assert_eq!(server.requests().len(), 1, "a piece was handed out");

    let server = Server::always(cut);
    let error = streamed(&exact(server.url()).0).unwrap_err();
    assert_eq!((error.attempts(), server.requests().len()), (6, 6), "{error:?}");
    let once = exact(server.url()).0.with_retry(RetryConfig::default().max_retries(0));
    assert!(matches!(streamed(&once), Err(Error::StreamTruncated { .. })));
}

/// A server that sends this part of a stream and then keeps the connection open for 4 s, with or without pings.
fn holding(body: String, pings: bool) -> RawServer {
    RawServer::new(move |connection| {
        connection.request();
        connection.send([STREAM_HEAD, &chunk(&body)].concat());
        let step = Duration::from_millis(if pings { 20 } else { 100 });
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(4) && connection.pause(step) {
            if pings && !connection.send(chunk(": ping\n\n")) {
                return;
            }
        }
    })
}

#[test]
fn a_finished_answer_does_not_wait_for_the_connection_to_close() {
    let finished = [ROLE, &delta("Hello"), FINISH].concat();
    each([(false, ask as fn(&Client) -> _), (false, streamed), (true, streamed)], |(pings, way)| {
        let server = holding(finished.clone(), pings);
        let client = build(config(server.url()));
        let started = Instant::now();
        let answer = way(&client).map_err(|error| full_message(&error)).unwrap();
        assert_eq!((answer.text(), answer.meta().attempts), ("Hello", 1), "pings: {pings}");
        assert!(started.elapsed() < Duration::from_secs(2), "pings: {pings}: {:?}", started.elapsed());
    });
}

#[test]
fn usage_and_other_choices_after_the_first_finish_reason_are_received() {
    let first = [ROLE, &delta("Hello"), FINISH].concat();
    let server = RawServer::new(move |connection| {
        connection.request();
        connection.send([STREAM_HEAD, &chunk(&first)].concat());
        connection.pause(Duration::from_millis(1200));
        connection.send(chunk(&field(1, r#""content":"other""#)));
        connection.pause(Duration::from_millis(100));
        connection.send([&chunk(USAGE), &chunk(DONE), "0\r\n\r\n"].concat());
    });
    for request in [crate::hostile::request().n(2), crate::hostile::request().extra("n", 2)] {
        let answer = build(config(server.url())).chat_stream(&request).unwrap().into_response().unwrap();
        assert_eq!((answer.choices.len(), answer.usage.unwrap().total_tokens), (2, Some(3)));
    }
}

/// LiteLLM and one-api send a finish reason with each chunk.
#[test]
fn content_after_a_finish_reason_delays_the_end_of_the_stream() {
    let word = |text: &str| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":\"stop\"}}]}}\n\n"
        )
    };
    let words = ["One ", "two ", "three"].map(word);
    each(WAYS, |(name, way)| {
        let words = words.clone();
        let server = RawServer::new(move |connection| {
            connection.request();
            connection.send(STREAM_HEAD);
            for word in &words {
                connection.send(chunk(word));
                connection.pause(Duration::from_millis(700));
            }
            connection.send([&chunk(USAGE), &chunk(DONE), "0\r\n\r\n"].concat());
        });
        let answer = way(&build(config(server.url()))).unwrap();
        assert_eq!((answer.text(), answer.usage.is_some()), ("One two three", true), "{name}");
    });
}

#[test]
fn usage_that_arrives_while_the_consumer_is_busy_is_received() {
    let (sender, sent) = std::sync::mpsc::channel();
    let finished = [ROLE, &delta("Hello"), FINISH].concat();
    let server = RawServer::new(move |connection| {
        connection.request();
        connection.send([STREAM_HEAD, &chunk(&finished)].concat());
        connection.pause(Duration::from_millis(1200));
        connection.send([&chunk(USAGE), &chunk(DONE), "0\r\n\r\n"].concat());
        sender.send(()).unwrap();
    });
    let mut stream = build(config(server.url())).chat_stream(&crate::hostile::request()).unwrap();
    let finish = stream.find(|chunk| chunk.as_ref().unwrap().choices[0].finish_reason.is_some());
    assert!(finish.is_some());
    sent.recv().unwrap();
    let usage = stream.find_map(|chunk| chunk.unwrap().usage).unwrap();
    assert_eq!(usage.total_tokens, Some(3));
}

#[test]
fn an_error_body_that_trickles_or_stalls_does_not_delay_the_retry() {
    let timeout = Duration::from_millis(150);
    let slow = |code: u16| status(code).header("retry-after-ms", "1").body("x".repeat(2000));
    let cases = [503, 429].map(|code| {
        let trickle = slow(code).trickle_after(0, Duration::from_millis(10));
        [("trickles", trickle), ("stalls", slow(code).stall_after(5))]
    });
    each(cases.into_iter().flatten(), |(what, reply)| {
        for way in [ask as fn(&Client) -> _, streamed] {
            let server = Server::script([reply.clone(), ok("hi")]);
            let started = Instant::now();
            let answer = way(&hasty(server.url(), timeout)).unwrap();
            assert_eq!((answer.text(), answer.meta().attempts), ("hi", 2), "{what}");
            assert!(started.elapsed() < 4 * timeout, "{what}: {:?}", started.elapsed());
        }
    });
    let server = Server::script([slow(401).trickle_after(0, Duration::from_millis(10))]);
    let error = ask(&hasty(server.url(), timeout)).unwrap_err();
    assert!(error.is_auth() && !matches!(error, Error::Timeout { phase: Phase::Reading, .. }), "{error:?}");
}
