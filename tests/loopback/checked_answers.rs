//! Answers are checked against the request: embeddings must match the texts, and JSON of an incomplete answer is an
//! `Incomplete` error.

use crate::hostile::{DONE, WAYS, ask, each, events, exact, streamed};
use crate::support::{Server, full_message, ok, status};
use holysheep::{ChatResponse, EmbeddingRequest, EmbeddingResponse, Error, Result, RetryConfig};
use serde_json::{Value, json};

/// Requests embeddings of four texts from a server that answers with this `data`.
fn embed_four(data: &Value) -> Result<EmbeddingResponse> {
    let server = Server::always(status(200).json(&json!({"object": "list", "model": "m", "data": data})));
    exact(server.url()).0.embeddings(&EmbeddingRequest::new("m", ["a", "b", "c", "d"]))
}

/// Embedding entries with these indices. The only component of each vector is its index.
fn vectors(indices: &[Value]) -> Value {
    let vector = |index: &Value| json!({"object": "embedding", "index": index, "embedding": [index.as_f64().unwrap_or(0.5)]});
    indices.iter().map(vector).collect()
}

#[test]
fn vectors_that_do_not_match_the_texts_are_an_error() {
    each(
        [
            json!([0, 1, 3]),
            json!([0, 1, 2]),
            json!([0, 1, 1, 3]),
            json!([0, 1, 2, 9]),
            json!([]),
            json!([0, 1, 2, 3, 4]),
            json!([0, 1, 2, 3, 3]),
            json!([1, 2, 3, 4]),
            json!([0, 0, 0, 0]),
            json!([0, 1, 2, -1]),
            json!([0, 1, 2, 2.5]),
            json!([0, 1, 2, 4_294_967_299_u64]),
            json!([0, 1, 2, u64::MAX]),
            json!([3, null, 1, 0]),
            json!([0, 1, "x", 3]),
        ],
        |indices| {
            let answer = embed_four(&vectors(indices.as_array().unwrap()));
            let Err(error) = answer else { panic!("{indices}: a success") };
            assert!(!full_message(&error).is_empty() && error.attempts() >= 1, "{indices}");
        },
    );
    each([json!(null), json!([null]), json!([{"index": 0}]), json!({})], |data| {
        assert!(embed_four(&data).is_err(), "{data}");
    });
}

#[test]
fn no_vectors_are_a_missing_answer_and_wrong_ones_an_unreadable_answer() {
    let none = embed_four(&json!([])).unwrap_err();
    let is_missing = |error: &Error| matches!(error, Error::NoAnswer { .. });
    assert!(matches!(&none, Error::GaveUp { last, .. } if is_missing(last)), "{none:?}");
    let three = embed_four(&vectors(&[json!(0), json!(1), json!(2)])).unwrap_err();
    assert!(matches!(three, Error::Decode { .. }), "{three:?}");
    assert_eq!(three.attempts(), 1);
}

#[test]
fn the_error_names_the_numbers_of_vectors_and_texts() {
    let text = full_message(&embed_four(&vectors(&[json!(0), json!(1), json!(3)])).unwrap_err());
    assert!(text.contains('3') && text.contains('4'), "{text}");
    let text = full_message(&embed_four(&vectors(&[json!(0), json!(1), json!(2), json!(9)])).unwrap_err());
    assert!(text.contains('9'), "{text}");
}

#[test]
fn an_answer_without_vectors_is_retried() {
    let vector = json!({"data": vectors(&[json!(0)])});
    each(
        [json!({"data": []}), json!({"data": null}), json!({}), json!(null), json!({"data": [null]})],
        |body| {
            let server = Server::script([status(200).json(&body), status(200).json(&vector)]);
            let answer = exact(server.url()).0.embeddings(&EmbeddingRequest::new("m", "one text")).unwrap();
            assert_eq!((answer.data.len(), answer.meta().attempts), (1, 2), "{body}");
        },
    );
    let error = embed_four(&json!([])).unwrap_err();
    assert!(full_message(&error).contains("0 vectors for 4 texts"), "{}", full_message(&error));
}

#[test]
fn one_text_has_one_vector() {
    each([json!("one text"), json!([1, 2, 3]), json!([[1, 2, 3]])], |input| {
        let two = json!({"data": vectors(&[json!(0), json!(1)])});
        let server = Server::script([status(200).json(&two)]);
        let request = EmbeddingRequest::new("m", input.clone());
        assert!(exact(server.url()).0.embeddings(&request).is_err(), "{input}");
        let server = Server::script([status(200).json(&json!({"data": vectors(&[json!(0)])}))]);
        assert!(exact(server.url()).0.embeddings(&request).is_ok(), "{input}");
    });
}

#[test]
fn vectors_are_returned_in_the_order_of_the_texts() {
    each([json!([3, 1, 0, 2]), json!([0, 1, 2, 3])], |indices| {
        let answer = embed_four(&vectors(indices.as_array().unwrap())).unwrap();
        let firsts: Vec<f32> = answer.vectors().map(|vector| vector[0]).collect();
        assert_eq!(firsts, [0.0, 1.0, 2.0, 3.0], "{indices}");
    });
    let mixed = json!([{"index": "1", "embedding": [1]}, {"index": "0", "embedding": [0]},
        {"index": 2.0, "embedding": [2]}, null, {"index": 3, "embedding": [3]}]);
    let answer = embed_four(&mixed).unwrap();
    let firsts: Vec<f32> = answer.vectors().map(|vector| vector[0]).collect();
    assert_eq!(firsts, [0.0, 1.0, 2.0, 3.0], "indices as strings and floats, and a null entry");
}

/// An answer with this message, as JSON and as a stream.
fn answers(message: &Value, finish_reason: &str) -> [(&'static str, ChatResponse); 2] {
    let body = json!({"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]});
    let server = Server::script([status(200).json(&body).header("x-request-id", "req-7")]);
    let whole = ask(&exact(server.url()).0).unwrap();
    let mut delta = message.clone();
    for (index, call) in delta["tool_calls"].as_array_mut().into_iter().flatten().enumerate() {
        call["index"] = index.into();
    }
    let piece = json!({"choices": [{"index": 0, "delta": delta}]});
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]});
    let reply = events(&format!("data: {piece}\n\ndata: {end}\n\n{DONE}")).header("x-request-id", "req-7");
    let server = Server::script([reply]);
    let pieces = streamed(&exact(server.url()).0).unwrap();
    [("whole", whole), ("streamed", pieces)]
}

#[track_caller]
fn is_incomplete(error: &Error, cause: &str, what: &str) {
    assert!(matches!(error, Error::Incomplete { .. }), "{what}: {error:?}");
    assert!(full_message(error).contains(cause), "{what}: {}", full_message(error));
    assert_eq!(error.request_id(), Some("req-7"), "{what}");
    assert!(!error.is_retryable(), "{what}");
}

#[test]
fn json_errors_of_a_cut_or_filtered_answer_name_the_finish_reason() {
    each(
        [
            (json!("{\"a\": [1, 2"), "length"),
            (json!("```json\n{\"a\": [1, 2"), "length"),
            (json!(""), "length"),
            (json!(null), "length"),
            (json!(""), "content_filter"),
            (json!(null), "content_filter"),
            (json!("{\"a\": "), "content_filter"),
        ],
        |(content, reason)| {
            for (way, answer) in answers(&json!({"role": "assistant", "content": content}), reason) {
                let what = format!("{way} {content} {reason}");
                is_incomplete(&answer.json::<Value>().unwrap_err(), reason, &what);
            }
        },
    );
}

#[test]
fn json_errors_of_a_refused_answer_name_the_refusal() {
    let message = json!({"role": "assistant", "content": null, "refusal": "I can't help with that"});
    for (way, answer) in answers(&message, "stop") {
        is_incomplete(&answer.json::<Value>().unwrap_err(), "refus", way);
    }
}

#[test]
fn argument_errors_of_a_cut_or_filtered_answer_name_the_finish_reason() {
    each(["length", "content_filter"], |reason| {
        let call = json!({"id": "c1", "type": "function",
            "function": {"name": "weather", "arguments": "{\"city\": \"Par"}});
        let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
        for (way, answer) in answers(&message, reason) {
            let error = answer.tool_calls()[0].arguments::<Value>().unwrap_err();
            is_incomplete(&error, reason, way);
            let error = answer.tool_calls()[0].function.arguments::<Value>().unwrap_err();
            is_incomplete(&error, reason, way);
        }
    });
}

#[test]
fn malformed_json_in_a_finished_answer_is_a_decode_error() {
    for (way, answer) in answers(&json!({"role": "assistant", "content": "I'd rather not"}), "stop") {
        let error = answer.json::<Value>().unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{way}: {error:?}");
        assert_eq!(error.request_id(), Some("req-7"), "{way}");
    }
}

#[test]
fn complete_json_is_parsed_for_any_finish_reason() {
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
    let message = json!({"role": "assistant", "content": "{\"a\": 1}", "tool_calls": [call]});
    each(["length", "content_filter", "stop"], |reason| {
        for (way, answer) in answers(&message, reason) {
            assert_eq!(answer.json::<Value>().unwrap(), json!({"a": 1}), "{way} {reason}");
            assert_eq!(
                answer.tool_calls()[0].arguments::<Value>().unwrap(),
                json!({"a": 1}),
                "{way} {reason}"
            );
        }
    });
}

#[test]
fn only_known_finish_reasons_mean_incomplete() {
    each(["MAX_TOKENS", "SAFETY", "model_length"], |reason| {
        for (way, answer) in answers(&json!({"content": "{\"a\": "}), reason) {
            is_incomplete(&answer.json::<Value>().unwrap_err(), reason, way);
        }
    });
    each(["stop", "tool_calls", "end_turn", "anything"], |reason| {
        for (way, answer) in answers(&json!({"content": "{\"a\": "}), reason) {
            assert!(matches!(answer.json::<Value>(), Err(Error::Decode { .. })), "{way} {reason}");
        }
    });
}

/// OpenRouter and Mistral, vLLM and SGLang, Z.ai, DeepSeek.
#[test]
fn an_answer_that_the_service_could_not_complete_is_an_error_and_is_retried() {
    each(["error", "abort", "network_error", "insufficient_system_resource"], |reason| {
        let choice = |part: &str| json!({"choices": [{part: {"content": "Onc"}, "finish_reason": reason}]});
        let piece = json!({"choices": [{"delta": {"content": "Onc"}}]});
        let end = json!({"choices": [{"delta": {}, "finish_reason": reason}]});
        let replies = [
            status(200).json(&choice("message")),
            events(&format!("data: {}\n\n{DONE}", choice("delta"))),
            events(&format!("data: {piece}\n\ndata: {end}\n\n{DONE}")),
        ];
        for (reply, (name, way)) in replies.iter().flat_map(|reply| WAYS.map(|way| (reply, way))) {
            let server = Server::script([reply.clone(), ok("Once upon a time")]);
            let answer = way(&exact(server.url()).0).unwrap();
            assert_eq!((answer.text(), answer.meta().attempts), ("Once upon a time", 2), "{name} {reason}");
            let once = exact(server.url()).0.with_retry(RetryConfig::default().max_retries(0));
            server.add([reply.clone()]);
            let error = way(&once).unwrap_err();
            let status = if reason.starts_with("insufficient") { 503 } else { 500 };
            assert_eq!(error.status(), Some(status), "{name} {reason}");
            assert!(error.to_string().contains(&format!("its finish reason is {reason}")), "{name}: {error}");
        }
    });
}

#[test]
fn the_finish_reason_is_not_part_of_a_serialized_tool_call() {
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": "}});
    let message = json!({"role": "assistant", "content": null, "tool_calls": [call],
        "function_call": {"name": "g", "arguments": "{\"b\": "}});
    for (way, answer) in answers(&message, "length") {
        let read = serde_json::to_value(&answer.choices[0].message).unwrap();
        let read: holysheep::Message = serde_json::from_value(read).unwrap();
        assert_eq!(read, answer.choices[0].message, "{way}");
        assert!(matches!(read.tool_calls[0].arguments::<Value>(), Err(Error::Decode { .. })), "{way}");
        let deprecated = answer.choices[0].message.function_call.as_ref().unwrap();
        is_incomplete(&deprecated.arguments::<Value>().unwrap_err(), "length", way);
    }
}

#[test]
fn a_cut_answer_is_still_readable_as_text() {
    for (way, answer) in answers(&json!({"role": "assistant", "content": "Once upon"}), "length") {
        assert_eq!((answer.text(), answer.finish_reason()), ("Once upon", Some("length")), "{way}");
    }
}
