//! Input and output of the batch tool: formats, columns, templates and invalid lines.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod tool;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tool::faulty::Service;
use tool::support::{Reply, Server, ok, status};
use tool::{Folder, TOOL, assert_complete, batch, ends, fails, lines};

#[test]
fn each_form_of_input_becomes_one_line() {
    let folder = Folder::new("forms");
    let (input, output) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    let user = json!([{"role": "user", "content": "b"}]);
    let text = [
        json!({"id": 7, "prompt": "a"}).to_string(),
        String::new(),
        json!({"id": "b", "model": "other", "messages": user, "temperature": 0.5}).to_string(),
        json!({"id": "c", "request": {"messages": user}}).to_string(),
        "{\"prompt\": ".to_owned(),
        json!({"id": "e", "text": "secret"}).to_string(),
        json!({"prompt": "p", "messages": user}).to_string(),
        json!({"prompt": "last, without a newline"}).to_string(),
    ];
    fs::write(&input, ["\u{feff}", &text.join("\r\n")].concat()).unwrap();
    let tool_call = json!({"id": "call", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let message = json!({"role": "assistant", "content": null, "tool_calls": [tool_call]});
    let server = Server::script([
        ok("A"),
        status(200)
            .json(&json!({"model": "m", "choices": [{"message": message, "finish_reason": "tool_calls"}]})),
        status(400).json(&json!({"error": {"message": "no such thing", "code": "nope"}})),
        status(500),
        ok("D"),
    ]);
    let mut command = batch(&server.url(), &input, &output);
    command.args(["--concurrency", "1", "--price", "1,2"]);
    let (_, err) = ends(command, 1);
    let lines = lines(&output);
    assert_eq!(
        lines.iter().map(|line| line["index"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5, 6]
    );
    assert_eq!(
        (&lines[0]["id"], &lines[0]["answer"], &lines[0]["finish_reason"]),
        (&json!(7), &json!("A"), &json!("stop"))
    );
    assert_eq!(
        (&lines[0]["usage"]["total_tokens"], &lines[0]["attempts"], lines[0].get("response")),
        (&json!(12), &json!(1), None)
    );
    assert!(lines[0]["seconds"].as_f64().unwrap() < 60.0);
    let calls = &lines[1]["response"]["choices"][0]["message"]["tool_calls"];
    assert_eq!((&lines[1]["id"], calls), (&json!("b"), &json!([tool_call])));
    assert_eq!(
        (&lines[2]["id"], &lines[2]["error"]["status"], lines[2].get("answer")),
        (&json!("c"), &json!(400), None)
    );
    let refused = format!("m at {}: the service answered 400 (nope): no such thing", server.address());
    assert_eq!(lines[2]["error"]["message"], refused);
    assert_eq!(lines[3]["error"]["message"], "line 5 isn't JSON (column 10)");
    assert_eq!(lines[4]["error"]["message"], "line 6 has neither request nor messages nor prompt");
    assert_eq!(lines[5]["error"]["message"], "line 7 has both a prompt and messages; keep one of them");
    assert_eq!((&lines[6]["attempts"], &lines[6]["answer"]), (&json!(2), &json!("D")));
    let sent: Vec<Value> =
        server.requests().iter().map(|request| serde_json::from_str(&request.body).unwrap()).collect();
    assert_eq!(sent[0], json!({"model": "m", "messages": [{"role": "user", "content": "a"}]}));
    assert_eq!(sent[1], json!({"model": "other", "messages": user, "temperature": 0.5}));
    assert_eq!(sent.len(), 5, "a bad line isn't sent");
    assert!(err.contains("3 answered, 4 failed") && err.contains("5 requests, 1 of them retries"), "{err}");
    assert!(err.contains("18 + 6 tokens, $0.00 (1 answers without usage)"), "{err}");
    assert!(err.contains("3 failed: bad line") && err.contains("1 failed: status 400"), "{err}");
}

#[test]
fn the_keys_of_a_schema_stay_in_their_order() {
    let folder = Folder::new("keys");
    let (input, output) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    let schema =
        r#"{"type":"object","properties":{"reasoning":{"type":"string"},"answer":{"type":"string"}}}"#;
    let line = r#"{"prompt":"hi","response_format":{"type":"json_schema","json_schema":{"name":"s","schema":SCHEMA}},
        "tools":[{"type":"function","function":{"name":"f","parameters":SCHEMA}}]}"#;
    fs::write(&input, line.replace('\n', " ").replace("SCHEMA", schema)).unwrap();
    let server = Server::script([ok("hi")]);
    ends(batch(&server.url(), &input, &output), 0);
    assert_eq!(server.requests()[0].body.matches(schema).count(), 2, "{}", server.requests()[0].body);
}

#[test]
fn standard_input_and_output_can_be_used() {
    let service = Service::new(0.0, Duration::ZERO);
    let mut command = batch(&service.url(), Path::new("-"), Path::new("-"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for item in 0..10 {
        writeln!(stdin, "{}", json!({"id": format!("i{item}"), "prompt": item.to_string()})).unwrap();
    }
    drop(stdin);
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success());
    let text = String::from_utf8(ended.stdout).unwrap();
    assert_complete(&text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>(), 10);
    let folder = Folder::new("pipe");
    let mut command = batch(&service.url(), &folder.prompts(1000), Path::new("-"));
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let err = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(err.contains("can't write standard output"), "{err}");
}

#[test]
fn in_order_writes_the_output_in_input_order() {
    let folder = Folder::new("order");
    let (input, output) = (folder.prompts(200), folder.file("out.jsonl"));
    let service = Service::new(0.0, Duration::from_millis(1));
    let mut command = batch(&service.url(), &input, &output);
    command.args(["--in-order", "--concurrency", "16"]);
    ends(command, 0);
    let lines = lines(&output);
    assert_complete(&lines, 200);
    assert!(lines.iter().enumerate().all(|(place, line)| line["index"] == place));
}

#[test]
fn the_version_is_printed() {
    for option in ["-V", "--version"] {
        let mut command = Command::new(TOOL);
        command.arg(option);
        assert_eq!(ends(command, 0).0, concat!("batch ", env!("CARGO_PKG_VERSION"), "\n"));
    }
}

#[test]
fn a_dry_run_lists_the_first_bad_lines_and_counts_the_others() {
    let folder = Folder::new("dry-many");
    let mut command = Command::new(TOOL);
    command.arg(folder.prompts(13)).arg("--dry-run");
    let (out, _) = ends(command, 1);
    assert_eq!(out.matches("names no model").count(), 10);
    assert!(
        out.contains("line 10 names no model; add --model NAME\n3 more bad lines\n13 items, 13 of them bad"),
        "{out}"
    );
}

#[test]
fn a_dry_run_checks_everything_and_sends_nothing() {
    let folder = Folder::new("dry");
    let input = folder.file("in.jsonl");
    let good = "{\"prompt\": \"four words are enough\"}\n".repeat(99);
    fs::write(&input, format!("{good}[]\n{{\"prompt\": 5}}\n")).unwrap();
    let mut command = Command::new(TOOL);
    command
        .arg(&input)
        .args(["--dry-run", "--model", "m", "--price", "1000,1"])
        .env_remove("HOLYSHEEP_API_KEY");
    let (out, _) = ends(command, 1);
    assert!(out.contains("line 100 isn't a JSON object\nline 101 has a prompt that isn't text\n"), "{out}");
    assert!(
        out.contains(
            "101 items, 2 of them bad, about 693 tokens of text to send for $0.69, without the answers"
        ),
        "{out}"
    );
    let mut command = Command::new(TOOL);
    command.arg(&input).args(["--dry-run", "--limit", "1"]);
    let (out, _) = ends(command, 1);
    assert!(out.contains("line 1 names no model; add --model NAME"), "{out}");
}

const GUIDE: &str = include_str!("../../../docs/batch.md");

/// The bodies of all requests.
fn sent(server: &Server) -> Vec<Value> {
    server.requests().iter().map(|request| serde_json::from_str(&request.body).unwrap()).collect()
}

/// Runs the tool on this input with one request at a time; returns the request bodies and the output lines.
#[track_caller]
fn run(input: &str, replies: Vec<Reply>, arguments: &[&str], ends_with: i32) -> (Vec<Value>, Vec<Value>) {
    let folder = Folder::new(&format!("run-{}", fastrand::u64(..)));
    let output = folder.file("out.jsonl");
    fs::write(folder.file("in.jsonl"), input).unwrap();
    let server = Server::script(replies);
    let mut command = batch(&server.url(), &folder.file("in.jsonl"), &output);
    command.args(["--concurrency", "1", "--in-order"]).args(arguments);
    ends(command, ends_with);
    (sent(&server), lines(&output))
}

#[test]
fn lines_of_openais_batch_format_are_read_and_written() {
    let folder = Folder::new("openai");
    let (input, output) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    let body = |text: &str| {
        let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]);
        json!({"model": "gpt-4.1-mini", "messages": messages, "max_tokens": 1000, "vendor_extra": [1]})
    };
    let line = |id: &str, body: Value| {
        json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body}).to_string()
            + "\n"
    };
    let other = "{\"custom_id\":\"request-4\",\"method\":\"POST\",\"url\":\"/v1/responses\",\"body\":{}}\n";
    let text: String = ["Hello", "no", "silence"]
        .iter()
        .enumerate()
        .map(|(index, text)| line(&format!("request-{}", index + 1), body(text)))
        .collect();
    fs::write(&input, text + other).unwrap();
    let refusal = json!({"error": {"message": "too long", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}});
    let server = Server::script([
        ok("Hi").header("x-request-id", "req-1"),
        status(400).json(&refusal).header("x-request-id", "req-2"),
        status(200).body("<html>"),
    ]);
    let call = |arguments: &[&str], ends_with| {
        let mut command = batch(&server.url(), &input, &output);
        command.args(["--concurrency", "1", "--format", "openai"]).args(arguments);
        ends(command, ends_with)
    };
    call(&[], 1);
    assert_eq!(sent(&server), [body("Hello"), body("no"), body("silence")]);
    let written = lines(&output);
    let ids: Vec<_> = written.iter().map(|line| line["custom_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["request-1", "request-2", "request-3", "request-4"]);
    let keys: Vec<_> = written[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["id", "custom_id", "response", "error"]);
    let response = &written[0]["response"];
    assert_eq!((&response["status_code"], &response["request_id"]), (&json!(200), &json!("req-1")));
    let answer: holysheep::ChatResponse = serde_json::from_value(response["body"].clone()).unwrap();
    assert_eq!((answer.text(), answer.usage.as_ref().unwrap().total_tokens), ("Hi", Some(12)));
    assert_eq!(response["body"]["object"], "chat.completion");
    let response = &written[1]["response"];
    assert_eq!((&response["status_code"], &response["request_id"]), (&json!(400), &json!("req-2")));
    assert_eq!((&response["body"], &written[1]["error"]), (&refusal, &Value::Null));
    assert_eq!(
        (&written[2]["response"], &written[2]["error"]["code"]),
        (&Value::Null, &json!("unreadable_answer"))
    );
    assert_eq!(written[3]["error"]["code"], "bad_line");
    assert_eq!(
        written[3]["error"]["message"],
        "line 4 has another url than /v1/chat/completions and /v1/embeddings, the only ones that are supported"
    );

    call(&["--resume"], 1);
    assert_eq!(server.requests().len(), 3, "all items are done");
    let mut command = batch(&server.url(), &input, &output);
    command.arg("--resume");
    fails(command, "is in the format openai; add --format openai");
    server.add([ok("two"), ok("three")]);
    call(&["--resume", "--retry-failed"], 1);
    let texts: Vec<_> = lines(&output)
        .iter()
        .map(|line| line["response"]["body"]["choices"][0]["message"]["content"].clone())
        .collect();
    assert_eq!(texts, [json!("Hi"), json!("two"), json!("three"), Value::Null]);
}

#[test]
fn ids_of_any_type_become_text_in_openais_format() {
    let input = "{\"id\":7,\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"label\":1.50}\n";
    let (_, written) = run(input, vec![ok("A"), ok("B")], &["--format", "openai"], 0);
    assert_eq!((&written[0]["custom_id"], &written[1]["custom_id"]), (&json!("7"), &json!("1")));
    assert_eq!(written[1]["columns"].to_string(), "{\"label\":1.5}");
}

#[test]
fn anthropics_lines_are_read_where_they_fit_and_otherwise_say_what_to_change() {
    let user = json!([{"role": "user", "content": [{"type": "text", "text": "hi"}]}]);
    let line = |params: Value| json!({"custom_id": "a", "params": params}).to_string() + "\n";
    let image =
        json!([{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": ""}}]}]);
    let tool = json!([{"name": "f", "input_schema": {"type": "object"}}]);
    let input = [
        line(json!({"model": "claude-x", "max_tokens": 9, "messages": user})),
        line(json!({"model": "claude-x", "messages": user, "system": "secret"})),
        line(json!({"model": "claude-x", "messages": user, "stop_sequences": ["x"]})),
        line(json!({"model": "claude-x", "messages": image})),
        line(json!({"model": "claude-x", "messages": user, "tools": tool})),
    ];
    let (sent, written) = run(&input.concat(), vec![ok("hello")], &[], 1);
    assert_eq!(sent, [json!({"model": "claude-x", "max_tokens": 9, "messages": user})]);
    assert_eq!((&written[0]["id"], &written[0]["answer"]), (&json!("a"), &json!("hello")));
    let said: Vec<_> = written[1..].iter().map(|line| line["error"]["message"].as_str().unwrap()).collect();
    assert_eq!(
        said,
        [
            "line 2 has Anthropic's system in its params: make it the first of the messages, with the role system",
            "line 3 has Anthropic's stop_sequences in its params: rename it to stop",
            "line 4 has content in Anthropic's form: write an image as image_url, a tool's result as a message with the role tool",
            "line 5 has Anthropic's input_schema in its params: rename it to parameters",
        ]
    );
}

#[test]
fn columns_come_back_and_are_never_sent() {
    let input = concat!(
        r#"{"prompt":"6*12?","answer":"72","category":"math","temperature":0.5,"model":null,"score":1.10}"#,
        "\n",
        r#"{"messages":[{"role":"user","content":"b"}],"provider":{"order":["x"]},"seed":42.0}"#,
        "\n",
        r#"{"request":{"messages":[{"role":"user","content":"c"}],"provider":"x"},"note":NaN}"#,
        "\n",
    );
    let folder = Folder::new("columns");
    let output = folder.file("out.jsonl");
    fs::write(folder.file("in.jsonl"), input).unwrap();
    let server = Server::script([ok("A"), ok("B"), ok("C")]);
    let mut command = batch(&server.url(), &folder.file("in.jsonl"), &output);
    command.args(["--concurrency", "1"]);
    ends(command, 0);
    let user = |text: &str| json!([{"role": "user", "content": text}]);
    assert_eq!(
        sent(&server),
        [
            json!({"model": "m", "messages": user("6*12?"), "temperature": 0.5}),
            json!({"model": "m", "messages": user("b"), "seed": 42}),
            json!({"model": "m", "messages": user("c"), "provider": "x"}),
        ]
    );
    assert!(server.requests()[1].body.contains("\"seed\":42}"), "{}", server.requests()[1].body);
    let text = fs::read_to_string(&output).unwrap();
    let columns: Vec<_> = text
        .lines()
        .map(|line| line.split_once("\"columns\":").unwrap().1.split_once(",\"attempts\"").unwrap().0)
        .collect();
    assert_eq!(
        columns,
        [
            r#"{"answer":"72","category":"math","score":1.10}"#,
            r#"{"provider":{"order":["x"]}}"#,
            r#"{"note":null}"#
        ]
    );
    assert_eq!(lines(&output)[0]["answer"], "A");
}

#[test]
fn system_set_and_template_complete_the_lines() {
    let input = concat!(
        r#"{"text":"Hund","lang":"English"}"#,
        "\n",
        r#"{"text":"Katze","temperature":1}"#,
        "\n",
        r#"{"messages":[{"role":"system","content":"own"},{"role":"user","content":"c"}]}"#,
        "\n",
    );
    let arguments = [
        "--template",
        "To {lang}: {text}",
        "--system",
        "Translate.",
        "--set",
        "temperature=0",
        "--set",
        "provider={\"order\":[\"x\"]}",
        "--set",
        "user=me",
    ];
    let (sent, written) = run(input, vec![ok("dog"), ok("C")], &arguments, 1);
    let provider = json!({"order": ["x"]});
    let first =
        json!([{"role": "system", "content": "Translate."}, {"role": "user", "content": "To English: Hund"}]);
    let third = json!([{"role": "system", "content": "own"}, {"role": "user", "content": "c"}]);
    assert_eq!(
        sent,
        [
            json!({"model": "m", "messages": first, "temperature": 0.0, "provider": provider, "user": "me"}),
            json!({"model": "m", "messages": third, "temperature": 0.0, "provider": provider, "user": "me"}),
        ]
    );
    assert_eq!(written[0]["columns"], json!({"text": "Hund", "lang": "English"}));
    assert_eq!(written[1]["error"]["message"], "line 2 has no column lang, which --template names");
    let (sent, _) =
        run("{\"prompt\":\"a\",\"temperature\":1}\n", vec![ok("A")], &["--set", "temperature=0"], 0);
    assert_eq!(sent[0]["temperature"], 1.0, "the line's own value wins");
    for (wrong, says) in [
        (["--set", "stream=true"], "--set stream=true: stream can't be set"),
        (["--set", "model=x"], "use --model"),
        (["--set", "temperature"], "give KEY=VALUE"),
        (["--template", "{text"], "write a brace itself as {{ or }}"),
    ] {
        let mut command = batch("http://127.0.0.1:1/v1", Path::new("-"), Path::new("-"));
        command.args(wrong);
        fails(command, says);
    }
}

#[test]
fn ids_come_back_byte_for_byte_and_lone_surrogates_are_read() {
    let ids =
        [r#"12345678901234567890123"#, "1.0", r#"{"b":1e2,"a":[ ]}"#, r#""\ud83d""#, r#""é\u00e9""#, "null"];
    let input: String =
        ids.iter().map(|id| format!("{{\"id\":{id},\"prompt\":\"half \\ud83d\"}}\n")).collect();
    let folder = Folder::new("ids");
    let output = folder.file("out.jsonl");
    fs::write(folder.file("in.jsonl"), input).unwrap();
    let server = Server::always(ok("hi"));
    let mut command = batch(&server.url(), &folder.file("in.jsonl"), &output);
    command.args(["--concurrency", "1"]);
    ends(command, 0);
    let text = fs::read_to_string(&output).unwrap();
    let written: Vec<_> = text
        .lines()
        .map(|line| line.strip_prefix("{\"id\":").unwrap().split_once(",\"index\"").unwrap().0)
        .collect();
    assert_eq!(written, ids);
    assert!(sent(&server).iter().all(|body| body["messages"][0]["content"] == "half \u{fffd}"));
}

#[test]
fn another_format_is_named_and_no_output_is_written() {
    let folder = Folder::new("formats");
    let (input, output) = (folder.file("in"), folder.file("out.jsonl"));
    for (bytes, says) in [
        (&b"\x1F\x8B\x08\0\0"[..], "is compressed with gzip; convert it: gzip -dc"),
        (b"\xFF\xFE{\0\"\0", "is UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
        (
            b"[\n  {\"prompt\": \"a\"}\n]\n",
            "is one JSON array, not one object a line; convert it: jq -c '.[]'",
        ),
        (b"id,prompt\n1,hello\n", "looks like CSV; convert it: python3 -c"),
    ] {
        fs::write(&input, bytes).unwrap();
        fails(batch("http://127.0.0.1:1/v1", &input, &output), says);
        let mut command = batch("http://127.0.0.1:1/v1", &input, &output);
        command.arg("--dry-run");
        fails(command, says);
        assert!(!output.exists(), "{says}");
    }
}

#[test]
fn the_suggested_csv_command_converts_the_file() {
    let folder = Folder::new("csv");
    let input = folder.file("in.csv");
    fs::write(&input, "id,prompt,label\n1,\"say \"\"hi\"\", please\",x\n2,é,y\n").unwrap();
    let (_, err) = ends(batch("http://127.0.0.1:1/v1", &input, Path::new("-")), 2);
    let command = err.split_once("convert it: ").unwrap().1.trim();
    let input = input.to_str().unwrap();
    assert!(
        GUIDE.contains(&command.replace(input, "prompts.csv")),
        "docs/batch.md has another command than {command}"
    );
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return; // Python is not installed
    }
    assert!(Command::new("sh").args(["-c", command]).current_dir(&folder.0).status().unwrap().success());
    let expected = [
        json!({"id": "1", "prompt": "say \"hi\", please", "label": "x"}),
        json!({"id": "2", "prompt": "é", "label": "y"}),
    ];
    assert_eq!(lines(&folder.file("prompts.jsonl")), expected);
}

#[test]
fn a_line_of_70_mib_is_one_failed_item() {
    let folder = Folder::new("long");
    let (input, output) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    let mut file = fs::File::create(&input).unwrap();
    writeln!(file, "{{\"prompt\":\"{}\"}}", "x".repeat(70 << 20)).unwrap();
    writeln!(file, "{{\"prompt\":\"b\"}}\n{{\"prompt\":\"\u{e9}\"}}").unwrap();
    file.write_all(b"{\"prompt\":\"\xE9\"}\n").unwrap();
    let server = Server::always(ok("hi"));
    let call = |arguments: &[&str]| {
        let mut command = batch(&server.url(), &input, &output);
        command.args(arguments);
        ends(command, 1);
    };
    call(&["--in-order"]);
    call(&["--resume"]);
    let written = lines(&output);
    assert_eq!((written.len(), server.requests().len()), (4, 2));
    assert_eq!(written[0]["error"]["message"], "line 1 is longer than 64 MiB; is it JSON Lines?");
    assert_eq!(written[3]["error"]["message"], "line 4 isn't UTF-8; convert the input with iconv -t UTF-8");
}

#[test]
fn line_separators_are_escaped_in_the_output() {
    let separators = "a\u{2028}b\u{2029}c\u{85}d";
    let input = json!({"id": separators, "prompt": "x", "column": separators}).to_string() + "\n";
    for format in ["native", "openai"] {
        let folder = Folder::new(&format!("separators-{format}"));
        let output = folder.file("out.jsonl");
        fs::write(folder.file("in.jsonl"), &input).unwrap();
        let server = Server::script([ok(separators)]);
        let mut command = batch(&server.url(), &folder.file("in.jsonl"), &output);
        command.args(["--format", format]);
        ends(command, 0);
        let text = fs::read_to_string(&output).unwrap();
        assert!(!text.contains(['\u{2028}', '\u{2029}', '\u{85}']), "{text}");
        assert_eq!(text.matches("a\\u2028b\\u2029c\\u0085d").count(), 3, "{text}");
        assert_eq!(lines(&output)[0]["columns"]["column"], separators);
    }
}

#[test]
fn a_dry_run_finds_what_the_run_would_refuse() {
    let folder = Folder::new("dry-refuse");
    let image = json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{}", "A".repeat(100_000))}});
    let input = folder.input(&[
        json!({"id": 1, "messages": []}),
        json!({"id": 2, "request": {"model": "m"}}),
        json!({"id": 1, "messages": ["hi"]}),
        json!({"id": "1", "request": {"model": " ", "messages": [{"role": "user", "content": "x"}]}}),
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}], "label": 1}),
    ]);
    let mut command = Command::new(TOOL);
    command.arg(&input).args(["--dry-run", "--model", "m"]);
    let (out, _) = ends(command, 1);
    assert_eq!(
        out,
        "line 1 has no messages\nline 2 has no list of messages\nline 3 has a message that isn't an object\n\
         line 4 names no model; add --model NAME\n5 items, 4 of them bad, about 8 tokens of text to send\n\
         1 images or files, which aren't in the estimate\n1 items with an id that an earlier item has\n\
         columns, which aren't sent and come back: label\n"
    );
}
