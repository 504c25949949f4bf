//! Embeddings: the lines that are read and written, their estimate, their budget, and how they are resumed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod tool;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tool::support::{Reply, Server, status};
use tool::{Folder, TOOL, batch, ends, fails, lines};

/// Two numbers for each text of an input: its length, and its position.
fn vectors(input: &Value) -> Vec<Value> {
    let one = |(index, text): (usize, &Value)| {
        let length = text.as_str().map_or(0, str::len);
        json!({"object": "embedding", "index": index, "embedding": [length as f64 + 0.1, index as f64]})
    };
    input.as_array().map_or(std::slice::from_ref(input), Vec::as_slice).iter().enumerate().map(one).collect()
}

/// The answer to a request for embeddings. Each text has three tokens.
fn embedded(input: &Value) -> Reply {
    let (data, id) = (vectors(input), fastrand::u32(..));
    let tokens = 3 * data.len();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    status(200)
        .json(&json!({"object": "list", "data": data, "model": "e-1", "usage": usage}))
        .header("x-request-id", &format!("req-{id}"))
}

fn service() -> Server {
    Server::respond(|request| {
        assert_eq!(request.path, "/v1/embeddings");
        embedded(&request.json()["input"])
    })
}

fn sent(server: &Server) -> Vec<Value> {
    server.requests().iter().map(|request| request.json()).collect()
}

/// The tool, one request at a time.
fn one_by_one(server: &Server, input: &Path, output: &Path, arguments: &[&str]) -> Command {
    let mut command = batch(&server.url(), input, output);
    command.args(["--concurrency", "1"]).args(arguments);
    command
}

/// A line of OpenAI's Batch format.
fn openai(id: &str, body: &Value) -> Value {
    json!({"custom_id": id, "method": "POST", "url": "/v1/embeddings", "body": body})
}

#[test]
fn lines_of_openais_batch_format_are_read_and_written() {
    let folder = Folder::new("embed-openai");
    let output = folder.file("out.jsonl");
    let bodies = [
        json!({"model": "text-embedding-3-small", "input": "hello", "vendor_extra": [1]}),
        json!({"model": "text-embedding-3-small", "input": ["a", "bc"], "dimensions": 2.0, "encoding_format": "float"}),
        json!({"model": "text-embedding-3-small", "input": [[1, 2, 3], [4]]}),
    ];
    let input =
        folder.input(&["a", "b", "c"].map(|id| openai(id, &bodies[usize::from(id.as_bytes()[0] - b'a')])));
    let server = service();
    ends(one_by_one(&server, &input, &output, &["--format", "openai"]), 0);
    let mut expected = bodies.clone();
    expected[1]["dimensions"] = json!(2);
    assert_eq!(sent(&server), expected);
    let written = lines(&output);
    assert_eq!(written.len(), 3);
    for (line, (id, body)) in written.iter().zip(["a", "b", "c"].iter().zip(&bodies)) {
        assert_eq!((&line["custom_id"], &line["error"]), (&json!(id), &Value::Null));
        let response = &line["response"];
        assert_eq!(response["status_code"], 200);
        assert!(response["request_id"].as_str().unwrap().starts_with("req-"));
        let answer = &response["body"];
        assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("e-1")));
        assert_eq!(answer["data"], Value::from(vectors(&body["input"])));
        assert_eq!(answer["usage"]["prompt_tokens"], 3 * vectors(&body["input"]).len());
    }
    ends(one_by_one(&server, &input, &output, &["--format", "openai", "--resume"]), 0);
    assert_eq!(server.requests().len(), 3, "all are done");
}

#[test]
fn an_input_takes_the_place_of_messages_and_columns_come_back() {
    let folder = Folder::new("embed-input");
    let output = folder.file("out.jsonl");
    let input = folder.input(&[
        json!({"id": 7, "input": "hello", "label": "x", "temperature": 1}),
        json!({"input": ["a", "bc"], "model": "other", "dimensions": 5, "user": "me"}),
        json!({"id": "r", "request": {"input": "c", "vendor_extra": true}, "note": null}),
    ]);
    let server = service();
    ends(one_by_one(&server, &input, &output, &["--set", "dimensions=2"]), 0);
    assert_eq!(
        sent(&server),
        [
            json!({"model": "m", "input": "hello", "dimensions": 2}),
            json!({"model": "other", "input": ["a", "bc"], "dimensions": 5, "user": "me"}),
            json!({"model": "m", "input": "c", "dimensions": 2, "vendor_extra": true}),
        ]
    );
    let written = lines(&output);
    let embeddings: Vec<_> = written.iter().map(|line| line["embeddings"].clone()).collect();
    assert_eq!(embeddings, [json!([[5.1, 0.0]]), json!([[1.1, 0.0], [2.1, 1.0]]), json!([[1.1, 0.0]])]);
    assert_eq!((&written[0]["id"], &written[2]["id"]), (&json!(7), &json!("r")));
    assert_eq!(written[0]["columns"], json!({"label": "x", "temperature": 1}));
    assert_eq!((&written[2]["columns"], written[1].get("columns")), (&json!({"note": null}), None));
    assert_eq!((&written[1]["model"], &written[1]["usage"]["total_tokens"]), (&json!("e-1"), &json!(6)));
    for absent in ["answer", "finish_reason", "response", "flags", "error"] {
        assert_eq!(written[0].get(absent), None, "{absent}");
    }
}

#[test]
fn an_input_is_for_one_endpoint_which_the_first_line_that_says_so_names() {
    let folder = Folder::new("embed-mixed");
    let (input, output) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    let body = json!({"model": "m", "input": "a"});
    let text = [
        "\u{feff}{\"broken".to_owned(),
        json!({"id": "neither"}).to_string(),
        openai("first", &body).to_string(),
        json!({"prompt": "a chat"}).to_string(),
        json!({"request": {"messages": [{"role": "user", "content": "a chat"}]}}).to_string(),
        json!({"custom_id": "c", "url": "/v1/chat/completions", "body": {"messages": []}}).to_string(),
        json!({"input": 5}).to_string(),
        json!({"input": []}).to_string(),
        json!({"custom_id": "no input", "url": "/v1/embeddings", "body": {"model": "m"}}).to_string(),
        json!({"custom_id": "d", "url": "/v1/responses", "body": body}).to_string(),
        json!({"input": "last"}).to_string(),
    ];
    fs::write(&input, text.join("\n")).unwrap();
    let server = service();
    let (_, err) = ends(one_by_one(&server, &input, &output, &[]), 1);
    assert!(err.contains("2 answered, 9 failed"), "{err}");
    let said: Vec<_> = lines(&output).iter().map(|line| line["error"]["message"].clone()).collect();
    let other = "asks for chats, and the lines before it for embeddings; put it into another file";
    assert_eq!(
        said,
        [
            json!("line 1 isn't JSON (column 8)"),
            json!("line 2 has neither request nor input"),
            Value::Null,
            json!(format!("line 4 {other}")),
            json!(format!("line 5 {other}")),
            json!(format!("line 6 {other}")),
            json!("line 7 has an input that is neither text nor a list"),
            json!("line 8 can't be sent: input: is empty; pass at least one text"),
            json!("line 9 has no input"),
            json!(
                "line 10 has another url than /v1/chat/completions and /v1/embeddings, the only ones that are supported"
            ),
            Value::Null,
        ]
    );

    // As a column beside a prompt, or under a template, input is no request for embeddings.
    let server = Server::always(tool::support::ok("hi"));
    for (line, arguments) in [
        (json!({"input": "x", "prompt": "p"}), &[][..]),
        (json!({"input": "x", "instruction": "y"}), &["--template", "{instruction}: {input}"]),
        (json!({"input": "x", "messages": [{"role": "user", "content": "m"}]}), &[]),
    ] {
        ends(one_by_one(&server, &folder.input(&[line]), Path::new("-"), arguments), 0);
    }
    let prompts: Vec<_> = sent(&server).iter().map(|body| body["messages"][0]["content"].clone()).collect();
    assert_eq!(prompts, ["p", "y: x", "m"]);
    let embeddings = json!({"input": "x"});
    ends(
        one_by_one(&server, &folder.input(&[json!({"prompt": "p"}), embeddings]), &folder.file("mixed"), &[]),
        1,
    );
    assert_eq!(
        lines(&folder.file("mixed"))[1]["error"]["message"],
        "line 2 asks for embeddings, and the lines before it for chats; put it into another file"
    );
}

#[test]
fn standard_input_is_recognised_too() {
    let server = service();
    let mut command = one_by_one(&server, Path::new("-"), Path::new("-"), &[]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\n{\"input\":\"a\"}\n{\"input\":\"bc\"}\n").unwrap();
    let ended = child.wait_with_output().unwrap();
    let text = String::from_utf8(ended.stdout).unwrap();
    let written: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let embeddings: Vec<_> = written.iter().map(|line| line["embeddings"].clone()).collect();
    assert_eq!(embeddings, [json!([[1.1, 0.0]]), json!([[2.1, 0.0]])]);
}

#[test]
fn options_for_chats_are_refused() {
    let folder = Folder::new("embed-options");
    let input = folder.input(&[openai("a", &json!({"input": "a"}))]);
    for (options, name) in [
        (&["--system", "Be brief."][..], "--system"),
        (&["--template", "{x}"], "--template"),
        (&["--expect-json"], "--expect-json"),
    ] {
        for mode in [&["-o", "-"][..], &["--dry-run"]] {
            let mut command = Command::new(TOOL);
            command.arg(&input).args(mode).args(options).args(["--model", "m"]);
            command.env("HOLYSHEEP_API_KEY", "sk-test-0123456789abcdef").stdin(Stdio::null());
            fails(command, &format!("{name} is for chats, and the input is for embeddings; leave it out"));
        }
    }
}

#[test]
fn a_dry_run_estimates_tokens_and_cost() {
    let folder = Folder::new("embed-dry");
    let tokens: Vec<u32> = (0..100).collect();
    let input = folder.input(&[
        json!({"input": "x".repeat(400), "label": 1}),
        json!({"input": ["x".repeat(200), "x".repeat(200)]}),
        json!({"input": tokens}),
        json!({"input": [tokens, tokens]}),
        json!({"input": {"text": "no"}}),
    ]);
    let mut command = Command::new(TOOL);
    command.arg(&input).args(["--dry-run", "--model", "m", "--price", "1000,0"]);
    let (out, _) = ends(command, 1);
    assert_eq!(
        out,
        "line 5 has an input that is neither text nor a list\n\
         5 items for embeddings, 1 of them bad, about 500 tokens of text to send for $0.50\n\
         columns, which aren't sent and come back: label\n"
    );
}

#[test]
fn an_output_cut_at_any_byte_is_continued() {
    for format in ["native", "openai"] {
        let folder = Folder::new(&format!("embed-cut-{format}"));
        let output = folder.file("out.jsonl");
        let input = folder.input(&[json!({"input": ["a", "bc"]}), json!({"input": "é"})]);
        let server = service();
        let call = |arguments: &[&str], ends_with| {
            let mut command = one_by_one(&server, &input, &output, &["--format", format, "--resume"]);
            command.args(arguments);
            ends(command, ends_with).0
        };
        call(&[], 0);
        let complete = fs::read(&output).unwrap();
        let first = complete.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in 0..complete.len() {
            fs::write(&output, &complete[..cut]).unwrap();
            let done = usize::from(cut + 1 >= first) + usize::from(cut + 1 == complete.len());
            let out = call(&["--dry-run"], 0);
            assert!(out.starts_with(&format!("{} items", 2 - done)), "{format} {cut}: {out}");
            if cut % 16 == 0 {
                call(&[], 0);
                assert_eq!(lines(&output).len(), 2, "{format} {cut}");
            }
        }
    }
}

#[test]
fn a_budget_counts_earlier_runs_and_answers_without_usage() {
    let folder = Folder::new("embed-budget");
    let output = folder.file("out.jsonl");
    let input = folder.input(&vec![json!({"input": "x".repeat(4000)}); 20]);
    let data = vectors(&json!("x"));
    let usage = json!({"prompt_tokens": 1000, "total_tokens": 1000});
    let told = Server::always(status(200).json(&json!({"data": data, "usage": usage})));
    let silent = Server::always(status(200).json(&json!({"data": data})));
    let price = ["--price", "1000,0", "--resume"];
    let run = |server: &Server, arguments: &[&str], ends_with| {
        let mut command = one_by_one(server, &input, &output, &price);
        command.args(arguments);
        ends(command, ends_with).1
    };
    let err = run(&told, &["--limit", "4"], 0);
    assert!(err.contains("4000 + 0 tokens, $4.00"), "{err}");
    // An answer that doesn't tell counts with the 1,000 tokens of its input, and none of output.
    let err = run(&silent, &["--max-tokens", "7000"], 3);
    assert!(err.contains("3 answered") && err.contains("$7.00 (3 answers without usage)"), "{err}");
    assert_eq!(lines(&output).len(), 7);
}

#[test]
fn vectors_on_the_wrong_texts_and_refusals_are_failures() {
    let folder = Folder::new("embed-wrong");
    let output = folder.file("out.jsonl");
    let input = folder.input(&vec![json!({"input": ["a", "b"]}); 3]);
    let server = Server::script([
        embedded(&json!(["only one"])),
        status(400).json(&json!({"error": {"message": "too long"}})),
        embedded(&json!(["a", "b"])),
    ]);
    let (_, err) = ends(one_by_one(&server, &input, &output, &[]), 1);
    assert!(err.contains("1 failed: unreadable answer") && err.contains("1 failed: status 400"), "{err}");
    let written = lines(&output);
    let mismatch = format!(
        "m at {}: can't read the answer (status 200): 1 vectors for 2 texts: the vectors don't match the texts of the request",
        server.address()
    );
    assert_eq!(written[0]["error"]["message"], mismatch);
    assert_eq!((&written[1]["error"]["status"], written[2].get("error")), (&json!(400), None));
    let server = service();
    ends(one_by_one(&server, &input, &output, &["--resume", "--retry-failed"]), 0);
    assert_eq!((lines(&output).len(), server.requests().len()), (3, 2));
}
