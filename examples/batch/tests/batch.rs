//! The tool of `examples/batch` as a program: what it reads and writes, and that nothing is lost or done twice, however it
//! ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on shall say so loudly")]

#[path = "../../../tests/support/faulty.rs"]
mod faulty;
#[path = "../../../tests/support/mod.rs"]
mod support;
mod tool;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use faulty::Service;
use serde_json::{Value, json};
use support::{Server, ok, silence, status};
use tool::{Folder, TOOL, assert_complete, batch, lines};

#[track_caller]
fn ends(mut command: Command, status: i32) -> (String, String) {
    let Output { status: ended, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(ended.code(), Some(status), "{out}{err}");
    assert!(!err.contains("sk-test") && !err.contains("panicked"), "{err}");
    (out, err)
}

#[track_caller]
fn fails(command: Command, says: &str) {
    let (_, err) = ends(command, 2);
    assert!(err.contains(says), "{err}");
}

#[test]
fn every_form_of_input_becomes_a_line() {
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
    assert_eq!(lines[2]["error"]["message"], "the service answered 400 (nope): no such thing");
    assert_eq!(lines[3]["error"]["message"], "line 5 isn't JSON (column 10)");
    assert_eq!(lines[4]["error"]["message"], "line 6 has neither request nor messages nor prompt");
    assert_eq!(lines[5]["error"]["message"], "line 7 has both a prompt and messages; keep one of them");
    assert_eq!((&lines[6]["attempts"], &lines[6]["answer"]), (&json!(2), &json!("D")));
    let sent: Vec<Value> =
        server.requests().iter().map(|request| serde_json::from_str(&request.body).unwrap()).collect();
    assert_eq!(sent[0], json!({"model": "m", "messages": [{"role": "user", "content": "a"}]}));
    assert_eq!(sent[1], json!({"model": "other", "messages": user, "temperature": 0.5}));
    assert_eq!(sent.len(), 5, "what is no request isn't sent");
    assert!(err.contains("3 answered, 4 failed") && err.contains("5 attempts, 1 of them again"), "{err}");
    assert!(err.contains("18 + 6 tokens, $0.00 (1 answers didn't tell)"), "{err}");
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
fn it_goes_on_after_a_torn_line_and_after_one_that_lacks_its_newline() {
    let folder = Folder::new("torn");
    let (input, output) = (folder.prompts(5), folder.file("out.jsonl"));
    let service = Service::new(0.0, Duration::ZERO);
    let whole = |item: usize| {
        json!({"id": format!("i{item}"), "index": item, "answer": item.to_string(), "attempts": 1})
            .to_string()
    };
    for (before, asked) in [
        (format!("{}\n{}\n{{\"id\":\"i3\",\"ind", whole(2), whole(0)), 3),
        (format!("{}\n{}", whole(2), whole(0)), 3),
        (format!("{}\n{}\n\0\0\0", whole(2), whole(0)), 3),
        (format!("{}\n{{\"id\":\"i3\",\"ind\0\0\0", whole(2)), 4),
        (format!("{}\n{}\0\0\0", whole(2), whole(0)), 3),
        ("{\"ind".to_owned(), 5),
        (whole(4), 4),
        ((0..5).map(|item| whole(item) + "\n").collect(), 0),
    ] {
        fs::write(&output, &before).unwrap();
        let already = service.books().requests;
        let mut command = batch(&service.url(), &input, &output);
        command.arg("--resume");
        ends(command, 0);
        assert_complete(&lines(&output), 5);
        assert_eq!(service.books().requests - already, asked, "{before}");
    }
}

#[test]
fn killed_at_any_moment_it_loses_only_the_calls_in_flight() {
    const KILLS: usize = 50;
    const ITEMS: usize = 1000;
    const CONCURRENCY: usize = 8;
    let folder = Folder::new("killed");
    let (input, output) = (folder.prompts(ITEMS), folder.file("out.jsonl"));
    let service = Service::new(0.01, Duration::from_millis(2));
    let mut killed = 0;
    for _ in 0..KILLS {
        let mut command = batch(&service.url(), &input, &output);
        command.args(["--resume", "--timeout", "0.3", "--concurrency", &CONCURRENCY.to_string()]);
        command.stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let some = service.books().requests + fastrand::usize(..2 * ITEMS / KILLS);
        service.wait_for(some, || child.try_wait().unwrap().is_some());
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut command = batch(&service.url(), &input, &output);
    command.args(["--resume", "--timeout", "0.3"]);
    ends(command, 0);
    assert_complete(&lines(&output), ITEMS);
    let answers: usize = service.books().answered.values().sum();
    println!("killed {killed} times; {answers} answers for {ITEMS} items");
    assert!(
        killed > 0 && answers <= ITEMS + CONCURRENCY * killed,
        "at most the calls in flight are made again"
    );
}

#[test]
fn what_failed_is_tried_again_if_asked_and_has_one_line() {
    let folder = Folder::new("failed");
    let (input, output) = (folder.prompts(20), folder.file("out.jsonl"));
    let server = Server::script((0..20).map(|call| if call % 2 == 0 { status(400) } else { ok("early") }));
    ends(batch(&server.url(), &input, &output), 1);
    let failed = |lines: &[Value]| lines.iter().filter(|line| line.get("error").is_some()).count();
    assert_eq!((lines(&output).len(), failed(&lines(&output))), (20, 10));
    let mut command = batch(&server.url(), &input, &output);
    command.arg("--resume");
    ends(command, 0);
    assert_eq!(server.requests().len(), 20, "what failed is done");
    let mut command = batch(&server.url(), &input, &output);
    command.args(["--resume", "--retry-failed", "--dry-run"]);
    let (out, _) = ends(command, 0);
    assert!(out.starts_with("10 items, 0 of them bad"), "{out}");
    fs::set_permissions(&output, fs::Permissions::from_mode(0o600)).unwrap();
    server.add((0..10).map(|_| ok("late")));
    let mut command = batch(&server.url(), &input, &output);
    command.args(["--resume", "--retry-failed"]);
    ends(command, 0);
    let lines = lines(&output);
    assert_eq!((lines.len(), failed(&lines)), (20, 0));
    assert_eq!(lines.iter().filter(|line| line["answer"] == "late").count(), 10);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2, "nothing else is left");
    assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600, "it's still as secret");
}

#[test]
fn two_runs_cant_have_one_output() {
    let folder = Folder::new("lock");
    let (input, output) = (folder.prompts(1), folder.file("out.jsonl"));
    let server = Server::always(silence());
    let mut first = batch(&server.url(), &input, &output).spawn().unwrap();
    server.wait_for_requests(1);
    let mut command = batch(&server.url(), &input, &output);
    command.arg("--resume");
    fails(command, "is being written by another run");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn what_cant_go_on_says_why_and_loses_nothing() {
    let folder = Folder::new("cant");
    let (input, output) = (folder.prompts(50), folder.file("out.jsonl"));
    let service = Service::new(0.0, Duration::ZERO);
    let url = service.url();
    let call = |output: &Path, arguments: &[&str]| {
        let mut command = batch(&url, &input, output);
        command.args(arguments);
        command
    };
    fails(call(Path::new("/dev/full"), &[]), "can't write /dev/full: No space left on device");
    fails(call(&folder.file("none/out"), &[]), "can't write");
    let link = folder.file("link");
    std::os::unix::fs::symlink(&input, &link).unwrap();
    for same in [&input, &folder.0.join(".").join("in.jsonl"), &link] {
        fails(call(same, &["--resume"]), "the output is the input");
    }
    fails(call(&output, &["--rpm", "1", "--shard", "1/100"]), "less than one call an hour");
    fails(call(&output, &["--retry-failed"]), "add --resume");
    fails(call(&output, &["--resume", "--retry-failed", "--in-order"]), "leave one out");
    fails(call(&output, &["--shard", "5/4"]), "--shard 5/4: give two numbers such as 1/4");
    fails(call(&output, &["--limit", "0"]), "give a whole number from 1");
    fails(call(&output, &["--rpm", "-1"]), "give a number from 0.001");
    fails(call(&output, &["--price", "1"]), "give two prices");
    fails(batch(&url, &folder.file("missing"), &output), "can't read");
    fails(batch(&url, &folder.0, &output), "is a folder");
    let mut keyless = call(&output, &[]);
    keyless.env_remove("HOLYSHEEP_API_KEY");
    fails(keyless, "HOLYSHEEP_API_KEY: is not set; get a key");
    assert!(!output.exists());

    ends(call(&output, &["--limit", "20"]), 0);
    fails(call(&output, &[]), "holds something; add --resume");
    let text = fs::read_to_string(&input).unwrap();
    fs::write(&input, text.lines().take(5).collect::<Vec<_>>().join("\n")).unwrap();
    fails(call(&output, &["--resume"]), "has item 20, and the input only 5");
    fs::write(&input, text.lines().rev().collect::<Vec<_>>().join("\n")).unwrap();
    fails(call(&output, &["--resume"]), "line 1 of the input has changed since");
    fs::write(&input, &text).unwrap();
    let noted = fs::read_to_string(&output).unwrap();
    for other in [format!("something else\n{noted}{{\"ind"), "{\"prompt\": \"not an output\"}".to_owned()] {
        fs::write(&output, &other).unwrap();
        fails(call(&output, &["--resume"]), "line 1 is no line of an output");
        fails(call(&output, &["--resume", "--retry-failed"]), "line 1 is no line of an output");
        assert_eq!(fs::read_to_string(&output).unwrap(), other, "what isn't an output is left alone");
    }
    fs::write(&output, noted).unwrap();
    ends(call(&output, &["--resume"]), 0);
    assert_complete(&lines(&output), 50);
}

#[test]
fn a_key_that_is_refused_ends_it_and_nothing_is_done() {
    let folder = Folder::new("key");
    let (input, output) = (folder.prompts(1000), folder.file("out.jsonl"));
    let quota = status(429).json(&json!({"error": {"message": "pay", "code": "insufficient_quota"}}));
    for reply in [status(401), quota] {
        let server = Server::always(reply);
        let mut command = batch(&server.url(), &input, &output);
        command.arg("--resume");
        fails(command, "every further call would fail too");
        assert!(server.requests().len() <= 16, "{} requests", server.requests().len());
        assert_eq!(lines(&output).len(), 0);
    }
}

#[test]
fn a_mistake_in_all_items_ends_it() {
    let folder = Folder::new("alike");
    let (input, output) = (folder.prompts(1000), folder.file("out.jsonl"));
    let server = Server::always(status(404));
    fails(batch(&server.url(), &input, &output), "the first 100 failed alike: the service answered 404");
    assert!((100..150).contains(&lines(&output).len()));
    let mut command = Command::new(TOOL);
    command
        .arg(&input)
        .args(["-o", "-"])
        .env("HOLYSHEEP_API_KEY", "sk-test")
        .env("HOLYSHEEP_BASE_URL", server.url());
    fails(command, "failed alike: line");
    let server = Server::script([ok("hi")]);
    server.add((0..999).map(|_| status(404)));
    let mut command = batch(&server.url(), &input, &output);
    command.args(["--resume", "--retry-failed"]);
    ends(command, 1);
    assert_eq!(lines(&output).len(), 1000, "some can be answered, so all are asked");
}

#[test]
fn the_first_failure_is_the_last_if_asked() {
    let folder = Folder::new("fast");
    let (input, output) = (folder.prompts(1000), folder.file("out.jsonl"));
    let server = Server::always(status(404));
    let mut command = batch(&server.url(), &input, &output);
    command.arg("--fail-fast");
    let (_, err) = ends(command, 1);
    assert!(err.contains("stopped at the first failure"), "{err}");
    assert!((1..=24).contains(&lines(&output).len()));
    assert_eq!(lines(&output).len(), server.requests().len());
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn an_interrupt_lets_calls_finish_and_a_second_one_doesnt() {
    let folder = Folder::new("interrupt");
    let (input, output) = (folder.prompts(100), folder.file("out.jsonl"));
    let mut done = 0;
    for name in ["-INT", "-TERM"] {
        let server = Server::always(ok("hi").after(Duration::from_millis(300)));
        let mut command = batch(&server.url(), &input, &output);
        let child = command.args(["--concurrency", "4", "--resume"]).spawn().unwrap();
        server.wait_for_requests(4);
        signal(&child, name);
        let ended = child.wait_with_output().unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(130), "{err}");
        assert!(err.contains("may finish") && err.contains("run it again with --resume"), "{err}");
        done += server.requests().len();
        assert_eq!(lines(&output).len(), done, "{err}");
    }

    let server = Server::always(silence());
    let mut command = batch(&server.url(), &input, &output);
    let mut child = command.args(["--concurrency", "4", "--resume"]).spawn().unwrap();
    server.wait_for_requests(4);
    let done = lines(&output).len();
    // One signal that comes before the first is handled would be lost, so they go on until it has ended.
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        signal(&child, "-INT");
        assert!(started.elapsed() < Duration::from_secs(30), "it doesn't end");
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(lines(&output).len(), done, "what was broken off isn't done");
}

#[test]
fn an_interrupt_doesnt_wait_for_calls_that_wait() {
    let folder = Folder::new("waiting");
    let (input, output) = (folder.prompts(100), folder.file("out.jsonl"));
    let server = Server::always(ok("hi"));
    let mut command = batch(&server.url(), &input, &output);
    let child = command.args(["--rpm", "0.1"]).spawn().unwrap();
    server.wait_for_requests(1);
    while lines(&output).is_empty() {
        std::thread::yield_now();
    }
    signal(&child, "-TERM");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!((lines(&output).len(), server.requests().len()), (1, 1));
}

#[test]
fn an_end_doesnt_wait_for_an_input_that_says_nothing() {
    let server = Server::always(status(401));
    let mut command = batch(&server.url(), Path::new("-"), Path::new("-"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{{\"prompt\": \"hi\"}}").unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    drop(stdin);
}

#[test]
fn a_reader_that_is_gone_is_noticed_and_nobody_who_listens_is_no_fault() {
    let folder = Folder::new("gone");
    let (input, output) = (folder.prompts(2000), folder.file("pipe"));
    assert!(Command::new("mkfifo").arg(&output).status().unwrap().success());
    let service = Service::new(0.0, Duration::ZERO);
    let child = batch(&service.url(), &input, &output).spawn().unwrap();
    drop(fs::File::open(&output).unwrap());
    let err = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(err.contains("can't write"), "{err}");
    let output = folder.file("out.jsonl");
    let mut child = batch(&service.url(), &input, &output).spawn().unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    assert_complete(&lines(&output), 2000);
}

#[test]
fn in_order_the_output_is_in_the_order_of_the_input() {
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
fn standard_input_and_output_will_do() {
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
    assert!(out.contains("101 items, 2 of them bad, some 891 tokens to send for $0.89"), "{out}");
    let mut command = Command::new(TOOL);
    command.arg(&input).args(["--dry-run", "--limit", "1"]);
    let (out, _) = ends(command, 1);
    assert!(out.contains("line 1 names no model; add --model NAME"), "{out}");
}

#[test]
fn calls_and_tokens_a_minute_are_bounded() {
    let folder = Folder::new("bounds");
    let input = folder.prompts(100);
    let server = Server::always(ok("hi")); // 12 tokens each
    for (bound, least) in
        [(["--rpm", "1200", "--limit", "11"], 0.45), (["--tpm", "36000", "--limit", "100"], 0.9)]
    {
        let started = Instant::now();
        let mut command = batch(&server.url(), &input, Path::new("-"));
        command.args(bound);
        ends(command, 0);
        assert!(started.elapsed().as_secs_f64() > least, "{bound:?}: {:?}", started.elapsed());
    }
    // Half a million tokens if it was sent, but it isn't; and a bound on calls is one for all models.
    let bad = format!("{{\"text\": \"{}\"}}\n", "x".repeat(1_000_000));
    let models: String =
        (0..7).map(|model| format!("{{\"prompt\":\"hi\",\"model\":\"{model}\"}}\n")).collect();
    fs::write(&input, bad + &models).unwrap();
    let started = Instant::now();
    let mut command = batch(&server.url(), &input, Path::new("-"));
    command.args(["--tpm", "600000", "--rpm", "1200"]);
    ends(command, 1);
    assert!((0.3..10.0).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
}

#[test]
fn shares_of_an_input_are_all_of_it() {
    let folder = Folder::new("shards");
    let (input, service) = (folder.prompts(50), Service::new(0.0, Duration::ZERO));
    let mut all = Vec::new();
    for shard in ["1/3", "2/3", "3/3"] {
        let output = folder.file(&shard.replace('/', "of"));
        let mut command = batch(&service.url(), &input, &output);
        command.args(["--shard", shard]);
        ends(command, 0);
        assert!((16..=17).contains(&lines(&output).len()));
        all.extend(lines(&output));
    }
    assert_complete(&all, 50);
}

const README: &str = include_str!("../../../README.md");

/// Runs a line of the README in a shell, where `prompts.jsonl` is so many prompts.
#[track_caller]
fn shell(folder: &Folder, items: usize, line: &str, variables: &[(&str, &str)]) {
    let service = Service::new(0.0, Duration::ZERO);
    fs::rename(folder.prompts(items), folder.file("prompts.jsonl")).unwrap();
    let path = [Path::new(TOOL).parent().unwrap().to_str().unwrap(), &env::var("PATH").unwrap()].join(":");
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(&folder.0).stdin(Stdio::null());
    command.env("PATH", path).env("HOLYSHEEP_API_KEY", "sk-test").env("HOLYSHEEP_BASE_URL", service.url());
    command.envs(variables.iter().copied());
    ends(command, 0);
}

#[test]
fn gnu_parallel_spreads_it() {
    let is_gnu = |output: Output| String::from_utf8_lossy(&output.stdout).contains("GNU parallel");
    if !Command::new("parallel").arg("--version").stdin(Stdio::null()).output().is_ok_and(is_gnu) {
        println!("skipped: there is no GNU parallel here");
        return;
    }
    let folder = Folder::new("parallel");
    let line = README.lines().find(|line| line.starts_with("parallel ")).unwrap();
    shell(&folder, 24, line, &[]);
    let shards = (1..=4).map(|shard| lines(&folder.file(&format!("answers.{shard}.jsonl"))));
    let all: Vec<_> = shards.inspect(|lines| assert_eq!(lines.len(), 6)).flatten().collect();
    assert_complete(&all, 24);
}

#[test]
fn slurm_and_kubernetes_spread_it_by_their_variables() {
    for (command, variable, index) in
        [("sbatch --array=1-4 --wrap ", "SLURM_ARRAY_TASK_ID", "3"), ("sh -c ", "JOB_COMPLETION_INDEX", "2")]
    {
        let folder = Folder::new(variable);
        let line = README.lines().find_map(|line| line.strip_prefix(command)).unwrap();
        shell(&folder, 12, line.trim_matches('\''), &[(variable, index)]);
        let done = lines(&folder.file(&format!("answers.{index}.jsonl")));
        let mut indexes: Vec<_> = done.iter().map(|line| line["index"].as_u64().unwrap()).collect();
        indexes.sort_unstable();
        assert_eq!(indexes, [2, 6, 10], "{command}");
    }
}
