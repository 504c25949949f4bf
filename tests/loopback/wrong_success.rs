//! Errors and empty answers with status 200, and in streams, are never returned as a success.

use std::time::Duration;

use crate::hostile::{
    DONE, FINISH, HELLO, ROLE, USAGE, WAYS, Way, adaptive, ask, config, delta, each, events, exact, read,
    stream,
};
use crate::hostile::{streamed, whole};
use crate::support::{Reply, Server, full_message, ok, status};
use holysheep::{Client, Error, Reason};

fn json(body: &str) -> Reply {
    status(200).header("content-type", "application/json").body(body)
}

/// Asserts that the reply is retried after a second, and the next reply is returned.
#[track_caller]
fn assert_retried(way: Way, reply: &Reply, what: &str) {
    let server = Server::script([reply.clone(), ok("hi")]);
    let (client, clock) = exact(server.url());
    let answer = way.1(&client).unwrap_or_else(|error| panic!("{} {what}: {}", way.0, full_message(&error)));
    assert_eq!((answer.text(), answer.meta().attempts), ("hi", 2), "{} {what}", way.0);
    assert_eq!(clock.sleeps(), [Duration::from_secs(1)], "{} {what}", way.0);
}

/// Asserts that the reply is an error without a retry, and returns the error.
#[track_caller]
fn assert_refused(way: Way, reply: &Reply, what: &str) -> Error {
    let server = Server::script([reply.clone(), ok("hi")]);
    let (client, clock) = exact(server.url());
    let Err(error) = way.1(&client) else { panic!("{} {what}: a success", way.0) };
    assert_eq!((server.requests().len(), clock.sleeps().len()), (1, 0), "{} {what}: {error}", way.0);
    error
}

#[test]
fn an_error_line_outside_of_data_is_an_error() {
    let refusal = r#"{"code":400,"message":"no such model"}"#;
    each(
        [
            format!("error: {refusal}\n\ndata: [DONE]\n\n"),
            format!("error:{refusal}\r\n\r\ndata: [DONE]\r\n\r\n"),
            format!(": ping\n\nerror: {refusal}\n\n"),
            format!("error: {refusal}"),
            format!("error: {{\"error\":{refusal}}}\n\n{DONE}"),
            format!("id: 1\nerror: {refusal}\nretry: 5\n\n{DONE}"),
            format!("{ROLE}error: {refusal}\n\n{DONE}"),
            format!("{USAGE}error: {refusal}\n\n{DONE}"),
        ],
        |line| {
            for way in WAYS {
                let error = assert_refused(way, &events(&line), &line);
                assert_eq!(error.status(), Some(400), "{line}");
                assert!(full_message(&error).contains("no such model"), "{line}: {}", full_message(&error));
            }
        },
    );
}

#[test]
fn an_error_line_is_classified_by_its_code_and_as_a_500_without_one() {
    each(
        [
            r#"error: {"code":503,"message":"busy"}"#,
            r#"error: {"code":"429","message":"slow down"}"#,
            r#"error: {"message":"fell over"}"#,
            "error: the model crashed",
            "event: error\nerror: the model crashed",
        ],
        |line| {
            each(WAYS, |way| assert_retried(way, &events(&format!("{line}\n\n{DONE}")), line));
        },
    );
}

#[test]
fn an_error_after_a_delta_ends_the_stream() {
    each(
        [
            (r#"error: {"code":400,"message":"fell over"}"#, 400),
            (r#"error: {"message":"fell over"}"#, 500),
            ("error: fell over", 500),
            (r#"data: {"code":503,"msg":"fell over"}"#, 503),
            (r#"data: {"base_resp":{"status_code":1002,"status_msg":"fell over"},"choices":null}"#, 429),
            (r#"data: {"success":false,"message":"fell over"}"#, 500),
            (r#"data: {"detail":"fell over"}"#, 500),
        ],
        |(line, code)| {
            let server = Server::script([events(&[&delta("Hel"), line, "\n\n", DONE].concat()), ok("hi")]);
            let mut stream = stream(&exact(server.url()).0).unwrap();
            let (text, error) = read(&mut stream);
            let Some(error) = error else { panic!("{line}: a success") };
            assert_eq!((text.as_str(), error.status()), ("Hel", Some(code)), "{line}: {error}");
            assert!(full_message(&error).contains("fell over"), "{line}: {}", full_message(&error));
            assert_eq!((stream.partial(), server.requests().len()), ("Hel", 1), "{line}");
            assert!(stream.into_response().is_err(), "{line}");
        },
    );
}

#[test]
fn plain_text_in_a_stream_is_reported_in_the_error() {
    each(
        [
            "upstream connect error or disconnect\n\n",
            "upstream connect error or disconnect",
            "Internal: upstream connect error or disconnect\n\ndata: [DONE]\n\n",
            "data: upstream connect error or disconnect\n\ndata: [DONE]\n\n",
            "data: upstream connect error or disconnect",
            "event: error\ndata: upstream connect error or disconnect\n\n",
            "message: upstream connect error or disconnect\n\n",
        ],
        |body| {
            let server = Server::always(events(body));
            let Err(error) = streamed(&exact(server.url()).0) else { panic!("{body}: a success") };
            assert!(
                full_message(&error).contains("upstream connect error"),
                "{body}: {}",
                full_message(&error)
            );
        },
    );
}

#[test]
fn done_before_any_choice_is_retried() {
    each(
        [
            DONE.to_owned(),
            [USAGE, DONE].concat(),
            [": ping\n\n", DONE].concat(),
            ["data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n", DONE].concat(),
            ["data: {\"choices\":[{}]}\n\n", DONE].concat(),
            ["data: {\"choices\":[null]}\n\n", DONE].concat(),
            ["data: {}\n\n", DONE].concat(),
            [ROLE, DONE].concat(),
            ["data: null\n\n", DONE].concat(),
        ],
        |body| {
            each(WAYS, |way| assert_retried(way, &events(&body), &body));
        },
    );
}

#[test]
fn an_empty_answer_with_a_finish_reason_is_valid() {
    let none = r#"{"choices":[{"message":{"role":"assistant","content":null},"finish_reason":"stop"}]}"#;
    for (way, reply) in
        [(WAYS[0], json(none)), (WAYS[1], json(none)), (WAYS[1], events(&[FINISH, DONE].concat()))]
    {
        let server = Server::script([reply]);
        let answer = way.1(&exact(server.url()).0).unwrap();
        assert_eq!((answer.text(), answer.finish_reason()), ("", Some("stop")));
    }
}

#[test]
fn an_answer_without_choices_is_retried() {
    each(
        [
            "",
            " \n\n\n",
            "\u{feff}",
            "null",
            "{}",
            r#"{"choices":[]}"#,
            r#"{"choices":null}"#,
            r#"{"choices":[{}]}"#,
            r#"{"choices":[null]}"#,
            r#"{"choices":[{"index":0}]}"#,
            r#"{"choices":[{"index":0,"message":{},"finish_reason":null}]}"#,
            r#"{"choices":[{"message":null}]}"#,
            r#"{"id":"x","object":"chat.completion","usage":{"prompt_tokens":9,"completion_tokens":0}}"#,
            r#"{"base_resp":{"status_code":0,"status_msg":"success"},"choices":null}"#,
            r#"{"code":200,"msg":"ok"}"#,
            r#"{"success":true}"#,
        ],
        |body| {
            each(WAYS, |way| assert_retried(way, &json(body), body));
        },
    );
    assert_retried(WAYS[0], &status(200), "no type, no body");
    assert_retried(WAYS[0], &status(200).until_close(), "no length, no body");
}

#[test]
fn repeated_empty_answers_are_reported_as_empty() {
    each([status(200), json(r#"{"choices":[]}"#), events(DONE), json("{}")], |reply| {
        for way in WAYS {
            let server = Server::always(reply.clone());
            let Err(error) = way.1(&exact(server.url()).0) else { panic!("{}: a success", way.0) };
            let spent = matches!(error, Error::GaveUp { reason: Reason::RetriesSpent, attempts: 6, .. });
            assert!(spent, "{}: {error:?}", way.0);
            let text = full_message(&error).to_lowercase();
            let says_so = ["empty", "no choices", "without choices", "no answer"].iter();
            assert!(says_so.clone().any(|words| text.contains(words)), "{text}");
            assert!(!text.contains("byte 0 of 0"), "{text}");
        }
    });
}

#[test]
fn empty_bodies_are_retried_for_models_and_embeddings() {
    let models = r#"{"data":[{"id":"m"}]}"#;
    let vectors = r#"{"data":[{"index":0,"embedding":[1.0]}]}"#;
    let server = Server::script([json(""), json(models), json("\n\n"), json(vectors)]);
    let (client, _) = exact(server.url());
    assert_eq!(client.models().unwrap().len(), 1);
    let request = holysheep::EmbeddingRequest::new("m", "one text");
    assert_eq!(client.embeddings(&request).unwrap().data.len(), 1);
}

#[test]
fn an_empty_body_is_valid_for_unit_and_option() {
    let get = |reply: Reply| {
        let server = Server::script([reply.clone(), reply.clone(), reply.clone(), json("[1]")]);
        let (client, _) = exact(server.url());
        client.get::<()>("/x").unwrap();
        assert_eq!(client.post::<_, Option<Vec<u8>>>("/x", &()).unwrap(), None);
        assert_eq!(server.requests().len(), 2);
        (client.get::<serde_json::Value>("/x").unwrap(), server.requests().len())
    };
    assert_eq!(get(json("")), (serde_json::json!([1]), 4));
    assert_eq!(get(status(204)), (serde_json::Value::Null, 3));
}

#[test]
fn models_and_key_validation_detect_errors_in_a_200() {
    let refused = r#"{"code":401,"msg":"the words"}"#;
    each([refused, r#"{"success":false,"code":"401","message":"the words"}"#], |body| {
        let server = Server::always(json(body));
        let (client, _) = exact(server.url());
        let errors = [client.models().unwrap_err(), client.validate_api_key().unwrap_err()];
        for error in errors {
            assert!(error.is_auth() && full_message(&error).contains("the words"), "{body}: {error:?}");
        }
    });
    let server = Server::always(json(r#"{"object":"list","data":[{"id":"m"}],"success":true}"#));
    exact(server.url()).0.validate_api_key().unwrap();
}

#[test]
fn error_like_fields_are_plain_data_for_generic_calls() {
    let body = r#"{"success":false,"code":500,"message":"x","detail":"y"}"#;
    let server = Server::always(json(body));
    let answer: serde_json::Value = exact(server.url()).0.get("/jobs/7").unwrap();
    assert_eq!(answer["detail"], "y");
}

#[test]
fn a_bare_json_error_line_ends_the_stream() {
    let error = r#"{"error":{"message":"fell over","code":503}}"#;
    let server = Server::script([events(&[&delta("Hel"), error, "\n\n", DONE].concat())]);
    let (text, error) = read(&mut stream(&exact(server.url()).0).unwrap());
    assert_eq!((text.as_str(), error.unwrap().status()), ("Hel", Some(503)));
}

#[test]
fn an_answer_with_only_an_image_or_audio_is_valid() {
    let audio = r#"{"choices":[{"message":{"audio":{"data":"AA"}}}]}"#;
    let image = r#"{"choices":[{"message":{"content":[{"type":"image_url","image_url":{"url":"u"}}]}}]}"#;
    each([audio, image], |body| {
        for (way, reply) in [
            (WAYS[0], json(body)),
            (WAYS[1], json(body)),
            (WAYS[1], events(&format!("data: {body}\n\n{DONE}"))),
        ] {
            assert_eq!(way.1(&exact(Server::script([reply]).url()).0).unwrap().choices.len(), 1, "{body}");
        }
    });
}

#[test]
fn vendor_specific_errors_in_a_200_are_classified_by_their_code() {
    each(
        [
            r#"{"base_resp":{"status_code":1002,"status_msg":"rate limit"},"choices":null}"#,
            r#"{"base_resp":{"status_code":1039,"status_msg":"token limit"}}"#,
            r#"{"base_resp":{"status_code":"1002","status_msg":"rate limit"},"choices":[]}"#,
            r#"{"code":500,"msg":"fell over"}"#,
            r#"{"code":"503","msg":"busy","data":null}"#,
            r#"{"code":429,"message":"slow down"}"#,
            r#"{"success":false,"message":"fell over"}"#,
            r#"{"success":false,"code":503,"message":"busy","data":null}"#,
            r#"{"detail":"Upstream failed"}"#,
        ],
        |body| {
            each(WAYS, |way| assert_retried(way, &json(body), body));
            let event = format!("data: {body}\n\n");
            assert_retried(WAYS[1], &events(&event), &event);
            each(WAYS, |way| assert_retried(way, &events(&(event.clone() + DONE)), &event));
        },
    );
}

#[test]
fn vendor_specific_errors_in_a_200_show_their_message() {
    each(
        [
            (r#"{"code":400,"msg":"the words"}"#, Some(400)),
            (r#"{"code":"401","msg":"the words","data":null}"#, Some(401)),
            (r#"{"success":false,"code":403,"message":"the words"}"#, Some(403)),
            (r#"{"base_resp":{"status_code":1008,"status_msg":"the words"},"choices":null}"#, None),
        ],
        |(body, code)| {
            for (way, reply) in [
                (WAYS[0], json(body)),
                (WAYS[1], json(body)),
                (WAYS[0], events(&format!("data: {body}\n\n{DONE}"))),
                (WAYS[1], events(&format!("data: {body}\n\n{DONE}"))),
            ] {
                let error = assert_refused(way, &reply, body);
                assert!(code.is_none() || error.status() == code, "{body}: {error:?}");
                assert!(matches!(error, Error::Api { .. }) && !error.is_retryable(), "{body}: {error:?}");
                assert!(full_message(&error).contains("the words"), "{body}: {}", full_message(&error));
            }
        },
    );
    let server = Server::always(json(r#"{"detail":"the words"}"#));
    let error = ask(&exact(server.url()).0).unwrap_err();
    assert_eq!((error.status(), error.attempts()), (Some(500), 6), "{error}");
    assert!(full_message(&error).contains("the words"), "{}", full_message(&error));
}

#[test]
fn vendor_error_fields_beside_an_answer_are_ignored() {
    let beside = |fields: &str| json(&HELLO.replacen('{', &format!("{{{fields},"), 1));
    each(
        [
            r#""base_resp":{"status_code":0,"status_msg":""}"#,
            r#""base_resp":{"status_code":1002,"status_msg":"rate limit"}"#,
            r#""code":200,"msg":"ok""#,
            r#""code":500,"msg":"odd""#,
            r#""success":true"#,
            r#""detail":"priority""#,
        ],
        |fields| {
            for way in WAYS {
                let server = Server::script([beside(fields)]);
                assert_eq!(way.1(&exact(server.url()).0).unwrap().text(), "Hello", "{} {fields}", way.0);
            }
        },
    );
}

#[test]
fn the_handler_records_vendor_specific_rate_limits() {
    let limit = json(r#"{"base_resp":{"status_code":1002,"status_msg":"rate limit"},"choices":null}"#);
    let balance = json(r#"{"base_resp":{"status_code":1008,"status_msg":"pay"},"choices":null}"#);
    let server = Server::script([limit, ok("hi"), balance]);
    let (client, _) = adaptive(server.url());
    assert_eq!(ask(&client).unwrap().text(), "hi");
    assert_eq!(client.handler("gpt-4.1").snapshot().throttles, 1);
    assert!(ask(&client).is_err());
    let snapshot = client.handler("gpt-4.1").snapshot();
    assert_eq!((snapshot.throttles, snapshot.failures), (1, 0), "billing errors aren't recorded");
}

#[test]
fn vendor_specific_errors_are_detected_for_embeddings() {
    let request = holysheep::EmbeddingRequest::new("m", "one text");
    let vectors = r#"{"data":[{"index":0,"embedding":[1.0]}]}"#;
    each(
        [
            r#"{"vectors":null,"base_resp":{"status_code":1002,"status_msg":"rate limit"}}"#,
            r#"{"code":503,"msg":"busy"}"#,
            r#"{"success":false,"message":"fell over"}"#,
            r#"{"detail":"Upstream failed"}"#,
        ],
        |body| {
            let server = Server::script([json(body), json(vectors)]);
            let answer = exact(server.url()).0.embeddings(&request);
            assert_eq!(
                answer.map(|answer| answer.meta().attempts).map_err(|e| full_message(&e)),
                Ok(2),
                "{body}"
            );
        },
    );
}

#[test]
fn a_chat_answered_with_a_truncated_stream_is_retried() {
    let cut = events(&whole()).cut_after(whole().find("lo\"").unwrap());
    assert_retried(WAYS[0], &cut, "cut");
    let unfinished = events(&delta("Hel")).until_close();
    let server = Server::always(unfinished);
    let retry = holysheep::RetryConfig::default().max_retries(0);
    let client = Client::new(config(server.url()).retry(retry).build().unwrap()).unwrap();
    let error = ask(&client).unwrap_err();
    assert!(matches!(error, Error::StreamTruncated { .. }), "{error:?}");
}
